"""The risk of addresses over HTTP, and in the log before each decision that rests on it."""

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest

from chopmark.decisions import Decision, Policy
from chopmark.engine import Application, Engine, replay, replayed
from chopmark.errors import InvalidInput, ServiceError, StoreError
from chopmark.events import Entity, Event, MemoryLog, Schema, SqliteLog, Vault
from chopmark.features import Aggregate, Catalog, Lookup
from chopmark.graph.risks import AddressRisks
from chopmark.graph.scored import AddressRisk, AddressScored
from chopmark.pipelines import exchange
from chopmark.rules import Effects
from chopmark.rules.book import effects_text
from chopmark.service import Service, create_app
from chopmark.service.addresses import MAX_ADDRESSES, Addresses
from chopmark.service.openapi import describe
from tests.graph.chains import (
    LISTED,
    RISKY,
    SAFE,
    START,
    STRANGER,
    add_labels,
    add_run,
    make_chain,
)

from . import shop
from .conftest import JSON, running, text

AT = {"happened_at": "2026-01-02T03:04:05Z"}
VAULT = Vault(bytes(32))
EXCHANGE = exchange.application()


class Sent(Event):
    """Money goes to an address; of some chain, perhaps."""

    user: Annotated[str, Entity("user")]
    address: Annotated[str, Entity("address")] | None = None
    chain: str | None = None


class Linked(Event):
    """A wallet is named as one's own: the user is scored anew, where it is known."""

    user: Annotated[str, Entity("user")] | None = None
    address: Annotated[str, Entity("address")]


SMALL = Application(
    Catalog(
        Schema(Sent, Linked, Decision, AddressScored),
        Lookup("address_scored", "score", by="address"),
        Lookup("address_scored", "label", by="address"),
        Lookup("address_scored", "band", by="address"),
        Aggregate("decision", "sum", of="allowed_usd", window="7d"),
    ),
    Policy(gated=(), rescored=("linked",)),
)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A chain with a list: one address is on it, one is risky, one is neither."""
    folder = make_chain(tmp_path / "ethereum", {SAFE: 0.01, LISTED: 0.3, RISKY: 0.75})
    add_labels(folder, {LISTED: "illicit"}).close()
    return folder


@asynccontextmanager
async def serving(
    home: Path, *chains: str | Path, application: Application = SMALL
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """An application over a log in a folder, and a client for it."""
    log = SqliteLog(home / "log.sqlite", application.catalog.schema)
    engine = Engine(application, log=log, vault=VAULT)
    engine.recover()
    addresses = Addresses.open([str(one) for one in chains]) if chains else None
    try:
        async with running(create_app(engine, keys=None, addresses=addresses)) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                yield app, client
    finally:
        log.close()


def sent(event_id: str, address: str | None, **fields: object) -> dict[str, Any]:
    return {"type": "sent", "id": event_id, "user": "bo", "address": address, **AT, **fields}


async def post(client: httpx.AsyncClient, path: str, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else text(body)
    return await client.post(path, content=content, headers=JSON)


async def assess(client: httpx.AsyncClient, body: object) -> list[Any]:
    """The values that a decision rests on: score, label and band."""
    found = await post(client, "/v1/assess", body)
    assert found.status_code == 200, found.text
    return list(found.json()["values"][:3])


def told(app: Service) -> list[AddressScored]:
    """What the log was told of addresses."""
    app.engine.log.sync()
    return [
        event
        for batch in app.engine.log.read()
        for _, event in batch
        if isinstance(event, AddressScored)
    ]


def checked(check: Callable[[], Any]) -> None:
    asyncio.run(check())


# --- questions


def test_one_address_is_answered_with_all_that_is_known(tmp_path: Path, chain: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            risky = (await client.get(f"/v1/addresses/{RISKY}")).json()
            assert risky.pop("warning").startswith("This address behaves like")
            assert risky == {
                "address": RISKY, "chain": "ethereum", "run": "000001", "score": 0.75,
                "band": "high", "label": None, "category": None, "source": None,
            }  # fmt: skip
            listed = (await client.get(f"/v1/addresses/{LISTED}?chain=ethereum")).json()
            assert (listed["label"], listed["category"], listed["source"]) == (
                "illicit", "mixer", "court",
            )  # fmt: skip
            stranger = await client.get(f"/v1/addresses/{STRANGER}")
            assert stranger.status_code == 200
            assert (stranger.json()["score"], stranger.json()["warning"]) == (None, None)
            many = await post(client, "/v1/addresses", {"addresses": [STRANGER, RISKY, RISKY]})
            assert [one["score"] for one in many.json()["risks"]] == [None, 0.75, 0.75]
            assert (await post(client, "/v1/addresses", {"addresses": []})).json() == {"risks": []}
            metrics = (await client.get("/metrics")).text
            assert 'chopmark_chain_run{chain="ethereum"} 1.0' in metrics
            assert 'chopmark_chain_addresses{chain="ethereum"} 3.0' in metrics
            assert 'chopmark_chain_trouble{chain="ethereum"} 0.0' in metrics
            assert 'route="/v1/addresses/{id}",status="200"} 3.0' in metrics
            assert 'route="/v1/addresses",status="200"} 2.0' in metrics
            assert RISKY not in metrics
            assert app.engine.log.last_offset == 0, "a question leaves nothing in the log"

    checked(check)


def test_where_no_chain_is_served_there_are_no_addresses(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (_, client):
            one = await client.get(f"/v1/addresses/{SAFE}")
            many = await post(client, "/v1/addresses", {"addresses": [SAFE]})
            for found in (one, many):
                assert found.status_code == 404
                assert "--chain" in found.json()["error"]["message"]
            assert await assess(client, sent("s1", SAFE)) == [None, None, None]
            assert "/v1/addresses" not in (await client.get("/schema")).json()["paths"]
            assert "chopmark_chain" not in (await client.get("/metrics")).text

    checked(check)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        (f"/v1/addresses/{SAFE}?chain=etherium", 404, "did you mean `ethereum`?"),
        (f"/v1/addresses/{SAFE}?chain=", 404, "name of a chain"),
        (f"/v1/addresses/{SAFE}?chain=ethereum&chain=ethereum", 400, "at most one"),
        (f"/v1/addresses/{SAFE}?chian=ethereum", 400, "nothing else"),
        ("/v1/addresses/" + "x" * 513, 400, "1 to 512"),
        ("/v1/addresses/", 404, "a route"),
        ("/v1/addresses/..%2F..%2Fcurrent.json", 200, ""),
        ("/v1/addresses/%2Fetc%2Fpasswd", 200, ""),
        ("/v1/addresses/%00", 200, ""),
        ("/v1/addresses/%FF%FE", 200, ""),
        ("/v1/addresses/%ED%A0%80", 200, ""),
        ("/v1/addresses/%F0%9F%92%B0", 200, ""),
        ("/v1/addresses/a%3Fb%23c%2Fd", 200, ""),
    ],
)
def test_odd_addresses_and_chains_in_a_url(
    tmp_path: Path, chain: Path, path: str, status: int, says: str
) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (_, client):
            found = await client.get(path)
            assert found.status_code == status, found.text
            if status == 200:
                assert found.json()["score"] is None
            else:
                assert says in found.json()["error"]["message"]
            assert (await client.get(f"/v1/addresses/{SAFE}")).status_code == 200

    checked(check)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"addresses": [SAFE], "chain": "bitcoin"}, 404, "known: `ethereum`"),
        ({"addresses": [SAFE, ""]}, 400, "1 to 512"),
        ({"addresses": ["x" * 900_000]}, 400, "got 900,000"),
        ({"addresses": ["x" * (1 << 20)]}, 413, "at most"),
        ({"addresses": ["a"] * (MAX_ADDRESSES + 1)}, 400, "at most 10,000"),
        ({"addresses": [7]}, 400, "got `int` - at `$.addresses[0]`"),
        ({"addresses": SAFE}, 400, "array"),
        ({"address": [SAFE]}, 400, "unknown field"),
        ({"addresses": [SAFE], "chain": 7}, 400, "chain"),
        ([SAFE], 400, "object"),
        (b'{"addresses": ["\xff"]}', 400, "addresses"),
        (b'{"addresses": ["\\ud800"]}', 400, "addresses"),
        (b"[" * 1000, 400, "levels"),
        (b"", 400, "addresses"),
    ],
)
def test_a_body_that_is_no_question_is_refused(
    tmp_path: Path, chain: Path, body: object, status: int, says: str
) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (_, client):
            found = await post(client, "/v1/addresses", body)
            assert found.status_code == status, found.text
            assert says in found.json()["error"]["message"]

    checked(check)


def test_only_a_question_in_json_by_post_is_one(tmp_path: Path, chain: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (_, client):
            assert (await client.get("/v1/addresses")).status_code == 405
            assert (await client.post(f"/v1/addresses/{SAFE}")).status_code == 405
            assert (await client.post("/v1/addresses", content=b"{}")).status_code == 415

    checked(check)


def test_many_ask_at_once_and_a_short_question_passes_a_long_one(
    tmp_path: Path, chain: Path
) -> None:
    order: list[str] = []

    async def check() -> None:
        async with serving(tmp_path, chain) as (_, client):

            async def long() -> None:
                found = await post(client, "/v1/addresses", {"addresses": [RISKY, SAFE] * 5_000})
                order.append("long")
                assert [one["score"] for one in found.json()["risks"]][:2] == [0.75, found_safe]

            async def short(number: int) -> None:
                found = await client.get(f"/v1/addresses/{RISKY if number % 2 else LISTED}")
                order.append("short")
                assert found.json()["label"] == (None if number % 2 else "illicit")

            found_safe = (await client.get(f"/v1/addresses/{SAFE}")).json()["score"]
            await asyncio.gather(long(), *(short(number) for number in range(100)))
            assert order[-1] == "long"
            assert len(order) == 101

    checked(check)


def test_the_document_describes_the_questions(tmp_path: Path, chain: Path) -> None:
    document = describe(SMALL.catalog.schema, open_to_all=True, chains=["a", "b"])
    one = document["paths"]["/v1/addresses/{address}"]["get"]
    assert one["parameters"][1]["schema"]["enum"] == ["a", "b"]
    risk = document["components"]["schemas"]["AddressRisk"]["properties"]
    assert {"score", "band", "label", "warning"} <= risk.keys()

    async def check() -> None:
        async with serving(tmp_path, chain) as (_, client):
            served = (await client.get("/schema")).json()
            many = served["paths"]["/v1/addresses"]["post"]
            assert many["responses"].keys() >= {"200", "400", "404", "413", "503"}

    checked(check)


# --- decisions


def test_a_decision_rests_on_what_the_chain_says_and_the_log_is_told_once(
    tmp_path: Path, chain: Path
) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            assert await assess(client, sent("s1", RISKY)) == [0.75, "", "high"]
            assert await assess(client, sent("s2", RISKY)) == [0.75, "", "high"]
            assert await assess(client, sent("s1", RISKY)) == [0.75, "", "high"]
            assert await assess(client, sent("s3", LISTED)) == [0.3, "illicit", "raised"]
            assert await assess(client, sent("s4", STRANGER)) == [None, None, None]
            assert await assess(client, sent("s5", None)) == [None, None, None]
            assert [one.address for one in told(app)] == [RISKY, LISTED]
            assert app.engine.log.last_offset == 2 * 5 + 2
            assert "chopmark_addresses_told_total 2.0" in (await client.get("/metrics")).text
            first = app.engine.log.find(told(app)[0].id)
            event = app.engine.log.find("s1")
            assert first is not None
            assert event is not None
            assert first.known_at <= event.known_at  # type: ignore[operator]

    checked(check)


def test_a_wallet_in_capitals_is_the_same_wallet(tmp_path: Path, chain: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (_, client):
            for number, spelled in enumerate((LISTED, LISTED.upper(), f" {LISTED} ", LISTED[2:])):
                values = await assess(client, sent(f"s{number}", spelled))
                assert values == [0.3, "illicit", "raised"], spelled

    checked(check)


def test_what_changes_is_told_again_also_back_to_what_it_was(tmp_path: Path, chain: Path) -> None:
    labels = add_labels(chain, {})

    def at(day: int) -> datetime:
        return START + timedelta(days=day)

    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            seen = [await assess(client, sent("s0", LISTED))]
            labels.retract(LISTED, source="court", by="ann", reason="error", at=at(1))
            seen.append(await assess(client, sent("s1", LISTED)))
            add_labels(chain, {LISTED: "illicit"}, at=at(2)).close()
            seen.append(await assess(client, sent("s2", LISTED)))
            add_run(chain, {SAFE: 0.01, LISTED: 0.6, RISKY: 0.75})
            app.addresses.chains["ethereum"].follow(at_once=True)  # type: ignore[union-attr]
            # A repeat is answered as it was then, and tells nothing.
            assert await assess(client, sent("s0", LISTED)) == seen[0]
            assert len(told(app)) == 3
            seen.append(await assess(client, sent("s3", LISTED)))
            assert seen == [
                [0.3, "illicit", "raised"], [0.3, "", "raised"], [0.3, "illicit", "raised"],
                [0.6, "illicit", "high"],
            ]  # fmt: skip
            every = told(app)
            assert [one.run for one in every] == ["000001"] * 3 + ["000002"]
            assert len({one.id for one in every}) == 4

    checked(check)
    labels.close()


def test_a_listed_address_that_the_chain_never_saw_is_told_of(tmp_path: Path, chain: Path) -> None:
    labels = add_labels(chain, {STRANGER: "illicit"})

    async def check() -> None:
        async with serving(tmp_path, chain) as (_, client):
            assert await assess(client, sent("s1", STRANGER)) == [None, "illicit", ""]
            labels.retract(STRANGER, source="court", by="ann", reason="no", at=START)
            assert await assess(client, sent("s2", STRANGER)) == [None, "", ""]

    checked(check)
    labels.close()


def test_a_batch_is_told_of_event_by_event(tmp_path: Path, chain: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            batch = [sent("s1", RISKY), sent("s2", LISTED), sent("s3", RISKY), sent("s1", RISKY)]
            found = await post(client, "/v1/assess/batch", batch)
            assert [one["values"][0] for one in found.json()] == [0.75, 0.3, 0.75, 0.75]
            again = await post(client, "/v1/assess/batch", batch)
            assert again.content == found.content
            assert [one.address for one in told(app)] == [RISKY, LISTED]
            refused = await post(client, "/v1/assess/batch", [sent("s9", SAFE), {"type": "no"}])
            assert refused.status_code == 400
            assert len(told(app)) == 2

    checked(check)


def test_the_addresses_of_a_batch_are_asked_at_once(
    tmp_path: Path, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def of(self: AddressRisks, addresses: list[str]) -> list[AddressRisk]:
        asked.append(list(addresses))
        return plainly(self, addresses)

    plainly = AddressRisks.of

    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            monkeypatch.setattr(AddressRisks, "of", of)
            places = (RISKY, SAFE, None, RISKY)
            batch = [sent(f"s{place}", address) for place, address in enumerate(places)]
            answer = await post(client, "/v1/assess/batch", batch)
            bands = [one["values"][2] for one in answer.json()]
            assert bands == ["high", "usual", None, "high"]
            assert (asked, len(told(app))) == ([[RISKY, SAFE]], 2)
            assert (await post(client, "/v1/assess/batch", batch)).json() == answer.json()
            assert len(asked) == 1

    checked(check)


def test_events_that_nobody_decides_about_and_those_refused_tell_nothing(
    tmp_path: Path, chain: Path
) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            assert (await post(client, "/v1/events", sent("s1", RISKY))).status_code == 200
            conflict = await post(client, "/v1/assess", sent("s1", RISKY))
            assert conflict.status_code == 409
            early = sent("s2", RISKY, known_at="2026-01-01T00:00:00Z")
            assert (await post(client, "/v1/assess", early)).status_code == 400
            assert (await post(client, "/v1/assess", sent("decision:1", RISKY))).status_code == 400
            assert told(app) == []

    checked(check)


def test_an_event_that_has_a_user_scored_anew_is_told_of_too(tmp_path: Path, chain: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            link = {"type": "linked", "id": "l1", "user": "bo", "address": LISTED, **AT}
            for _ in range(2):
                assert (await post(client, "/v1/events", link)).status_code == 200
            decision = (await client.get("/v1/decisions/l1")).json()
            assert decision["values"][:3] == [0.3, "illicit", "raised"]
            assert len(told(app)) == 1

    checked(check)


def test_an_event_of_nobody_is_taken_as_without_chains(tmp_path: Path, chain: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            links = [
                {"type": "linked", "id": f"l{place}", "address": LISTED, **user, **AT}
                for place, user in enumerate(({}, {"user": "bo"}))
            ]
            answer = await post(client, "/v1/events", links)
            assert (answer.status_code, answer.json()["taken"]) == (200, 2), answer.text
            assert len(told(app)) == 1

    checked(check)


def test_a_client_cannot_say_what_the_chain_says(tmp_path: Path, chain: Path) -> None:
    forged = {"type": "address_scored", "id": "f", "address": LISTED, "run": "9", "label": "licit",
              "score": 0.0, **AT}  # fmt: skip

    async def check() -> None:
        async with serving(tmp_path) as (_, client):
            assert (await post(client, "/v1/events", forged)).status_code == 200
        async with serving(tmp_path, chain) as (_, client):
            for body in ({**forged, "id": "g"}, [{**forged, "id": "g"}]):
                refused = await post(client, "/v1/events", body)
                assert refused.status_code == 400
                assert "made here" in refused.json()["error"]["message"]
            # What was said before is put right at the next decision.
            assert await assess(client, sent("s1", LISTED)) == [0.3, "illicit", "raised"]

    checked(check)


def test_a_kill_between_the_two_events_leaves_nothing_told_twice(
    tmp_path: Path, chain: Path
) -> None:
    body = text(sent("s1", RISKY))
    log = SqliteLog(tmp_path / "log.sqlite", SMALL.catalog.schema)
    engine = Engine(SMALL, log=log, vault=VAULT)
    addresses = Addresses.open([str(chain)])
    addresses.tell(engine, engine.schema.decode(body))
    assert log.sync() == 1, "what was told is durable, and its event has not come"
    addresses.close()
    log.close()

    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            assert await assess(client, sent("s1", RISKY)) == [0.75, "", "high"]
            assert len(told(app)) == 1
            assert app.engine.log.last_offset == 3

    checked(check)


def test_a_log_that_fails_forgets_what_was_told_with_the_event(tmp_path: Path, chain: Path) -> None:
    async def check() -> None:
        schema = SMALL.catalog.schema
        engine = Engine(SMALL, log=shop.FaultyLog(tmp_path / "log.sqlite", schema), vault=VAULT)
        addresses = Addresses.open([str(chain)])
        async with running(create_app(engine, keys=None, addresses=addresses)) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                (tmp_path / "fault").touch()
                failed = await post(client, "/v1/assess", sent("s1", RISKY))
                assert failed.status_code == 503
                (tmp_path / "fault").unlink()
                for _ in range(200):
                    found = await post(client, "/v1/assess", sent("s1", RISKY))
                    if found.status_code == 200:
                        break
                    await asyncio.sleep(0.02)
                assert found.json()["values"][:3] == [0.75, "", "high"]
                assert len(told(app)) == 1
        engine.log.close()

    checked(check)


def test_labels_that_cannot_be_read_stop_what_needs_them_and_nothing_else(
    tmp_path: Path, chain: Path
) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            breaker = sqlite3.connect(chain / "labels.db", isolation_level=None)
            breaker.execute("ALTER TABLE records RENAME TO lost")
            for found in (
                await post(client, "/v1/assess", sent("s1", LISTED)),
                await client.get(f"/v1/addresses/{LISTED}"),
                await post(client, "/v1/addresses", {"addresses": [LISTED]}),
            ):
                assert (found.status_code, found.headers["retry-after"]) == (503, "1")
                assert found.json()["error"]["code"] == "labels_unavailable"
                assert str(chain) not in found.text
            assert await assess(client, sent("s2", None)) == [None, None, None]
            breaker.execute("ALTER TABLE lost RENAME TO records")
            breaker.close()
            assert await assess(client, sent("s1", LISTED)) == [0.3, "illicit", "raised"]
            assert app.engine.log.last_offset == 5

    checked(check)


def test_a_folder_that_breaks_while_it_is_served_goes_on_and_says_so(
    tmp_path: Path, chain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with serving(tmp_path, chain) as (app, client):
            shutil.rmtree(chain)
            app.addresses.chains["ethereum"].follow(at_once=True)  # type: ignore[union-attr]
            assert await assess(client, sent("s1", LISTED)) == [0.3, "illicit", "raised"]
            metrics = (await client.get("/metrics")).text
            assert 'chopmark_chain_trouble{chain="ethereum"} 1.0' in metrics
            await assess(client, sent("s2", RISKY))

    checked(check)
    assert caplog.text.count("goes on with run 000001") == 1


# --- several chains


def test_of_several_chains_the_first_that_knows_the_address_answers(tmp_path: Path) -> None:
    make_chain(tmp_path / "e", {SAFE: 0.1, RISKY: 0.2, LISTED: 0.125})
    make_chain(tmp_path / "p", {RISKY: 0.9, STRANGER: 0.5, LISTED: 0.0}, chain="polygon")
    add_labels(tmp_path / "p", {LISTED: "illicit"}).close()
    served = (f"main={tmp_path / 'e'}", tmp_path / "p")

    async def check() -> None:
        async with serving(tmp_path, *served) as (app, client):
            body = {"addresses": [SAFE, RISKY, STRANGER, LISTED, "nobody"]}
            many = (await post(client, "/v1/addresses", body)).json()["risks"]
            # A list of any chain counts before scores of the first.
            assert [one["chain"] for one in many] == ["main", "main", "polygon", "polygon", "main"]
            of_one = (await post(client, "/v1/addresses", {**body, "chain": "polygon"})).json()
            assert [one["score"] for one in of_one["risks"]] == [
                None, pytest.approx(0.9), 0.5, 0.0, None,
            ]  # fmt: skip
            assert (await assess(client, sent("s1", RISKY)))[0] == 0.2
            assert (await assess(client, sent("s2", RISKY, chain="polygon")))[0] == 0.9
            assert (await assess(client, sent("s3", RISKY, chain="tron")))[0] == 0.2
            assert (await assess(client, sent("s4", LISTED)))[1] == "illicit"
            assert len(told(app)) == 4

    checked(check)


def test_chains_are_named_once_and_by_a_plain_name(tmp_path: Path, chain: Path) -> None:
    with pytest.raises(InvalidInput, match="different names"):
        Addresses.open([str(chain), f"ethereum={chain}"])
    with pytest.raises(InvalidInput, match="different names, got none"):
        Addresses.open([])
    odd = make_chain(tmp_path / "odd", {SAFE: 0.1}, chain="a/b c")
    with pytest.raises(InvalidInput, match="name of a chain"):
        Addresses.open([str(odd)])
    assert list(Addresses.open([f"x={odd}", str(chain)]).chains) == ["x", "ethereum"]
    with pytest.raises(StoreError, match="expected a chain"):
        Addresses.open([f"x={tmp_path / 'nothing'}"])
    os.rename(chain, tmp_path / "a=b")
    assert list(Addresses.open([str(tmp_path / "a=b")]).chains) == ["ethereum"]


def test_an_application_that_cannot_be_told_is_not_served(chain: Path) -> None:
    application = shop.application()
    engine = Engine(application, log=MemoryLog(application.catalog.schema), vault=VAULT)
    with pytest.raises(ServiceError, match="AddressScored"):
        create_app(engine, keys=None, addresses=Addresses.open([str(chain)]))


# --- withdrawals of the exchange

PERSON: list[dict[str, Any]] = [
    {"type": "signup", "id": "e1", "device": "d", "ip": "i", "screen_resolution": "1x1",
     "carrier": "c", "email_domain": "m.example", "country": "US", "name": "Bo"},
    {"type": "phone_verified", "id": "e2", "carrier": "c", "registrant_name": "Bo"},
    {"type": "id_verified", "id": "e3", "ssn": "078-05-1120", "name": "Bo", "home_address": "1 A",
     "country": "US"},
]  # fmt: skip


def orders(rule: str, when: str, effects: Effects) -> list[dict[str, Any]]:
    """A rule is written, read by a second person, and put to use."""
    base = {"rule": rule, "version": 1, **AT}
    return [
        {"type": "rule_drafted", "id": f"{rule}-1", "when": when, "because": "of the chain",
         "effects": effects_text(effects), "author": "ann", **base},
        {"type": "rule_reviewed", "id": f"{rule}-2", "approved": True, "author": "bob", **base},
        {"type": "rule_staged", "id": f"{rule}-3", "stage": "active", "author": "ann",
         "approver": "bob", **base},
    ]  # fmt: skip


RULES = [
    *orders(
        "listed_address",
        f"event_type == 'withdrawal' and {exchange.ADDRESS_LABEL.name} == 'illicit'",
        Effects(deny=True, queue="withdrawals"),
    ),
    *orders(
        "risky_address",
        f"event_type == 'withdrawal' and {exchange.ADDRESS_BAND.name} == 'high'",
        Effects(delay_hours=24.0, queue="withdrawals"),
    ),
]


def test_a_listed_address_stops_a_withdrawal_a_risky_one_lets_it_wait_and_replays_agree(
    tmp_path: Path, chain: Path
) -> None:
    def withdrawal(event_id: str, address: str) -> dict[str, Any]:
        return {"type": "withdrawal", "id": event_id, "user": "bo", "device": "d", "ip": "i",
                "screen_resolution": "1x1", "address": address, "asset": "BTC",
                "amount_usd": 5.0, "on_call": False, **AT}  # fmt: skip

    decided: dict[str, dict[str, Any]] = {}

    async def check() -> None:
        async with serving(tmp_path, chain, application=EXCHANGE) as (_, client):
            for body in [*({**one, "user": "bo", **AT} for one in PERSON), *RULES]:
                taken = await post(client, "/v1/events", body)
                assert taken.status_code == 200, taken.text
            for number, address in enumerate((LISTED, RISKY, SAFE, STRANGER, LISTED.upper())):
                found = await post(client, "/v1/assess", withdrawal(f"w{number}", address))
                assert found.status_code == 200, found.text
                decided[address] = found.json()

    checked(check)
    assert {one: found["action"] for one, found in decided.items()} == {
        LISTED: "deny", LISTED.upper(): "deny", RISKY: "delay", SAFE: "allow", STRANGER: "allow",
    }  # fmt: skip
    assert decided[LISTED]["rules"][0]["rule"] == "listed_address"
    assert decided[RISKY]["delay_s"] == 24 * 3600

    shutil.rmtree(chain)  # a replay needs no chain
    log = SqliteLog(tmp_path / "log.sqlite", EXCHANGE.catalog.schema)
    engine = Engine(EXCHANGE, log=log, vault=VAULT)
    again = list(replayed(engine, log))
    assert [differs for _, differs in again] == [[]] * len(again)
    fresh = Engine(EXCHANGE, log=MemoryLog(EXCHANGE.catalog.schema), vault=VAULT,
                   trust_known_at=True)  # fmt: skip
    events = [event for batch in log.read() for _, event in batch]
    wanted = {one["about"]: (one["action"], one["values"]) for one in decided.values()}
    decide = EXCHANGE.policy.assessed
    made = {one.about: (one.action, one.values) for one in replay(fresh, events, decide=decide)}
    assert {about: json.loads(json.dumps(made[about])) for about in wanted} == {
        about: list(one) for about, one in wanted.items()
    }
    log.close()
