"""Every route and every refusal, in this process."""

import asyncio
import json
import random
from pathlib import Path

import httpx
import pytest

from chopmark.errors import LogUnavailable
from chopmark.service import KeyRing, Service, bodies
from chopmark.service.bodies import MAX_BATCH, MAX_BODY_BYTES

from .conftest import JSON, purchase, serving, text


def run(coroutine) -> None:
    asyncio.run(coroutine)


async def post(client: httpx.AsyncClient, path: str, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else text(body)
    return await client.post(path, content=content, headers=JSON)


def test_an_event_in_a_decision_out(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            first = await post(client, "/v1/assess", purchase("p1"))
            assert first.status_code == 200
            assert "idempotent-replay" not in first.headers
            decision = first.json()
            assert decision["about"] == "p1"
            assert decision["action"] == "allow"
            assert decision["values"][0] == 0.0
            assert app.engine.log.last_offset == 2
            assert app.engine.log.get_body("decision:p1") == first.content
            again = await post(client, "/v1/assess", purchase("p1", device="d9"))
            assert again.content == first.content
            assert again.headers["idempotent-replay"] == "true"
            assert app.engine.log.last_offset == 2
            found = await client.get("/v1/decisions/p1")
            assert found.content == first.content
            user = (await client.get("/v1/users/u1")).json()
            assert user["limit_usd"] == decision["limit_usd"]
            assert user["reasons"] == decision["reasons"]

    run(check())


def test_ids_may_hold_any_letter(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (_, client):
            for strange in ("a/b", "../x", "a b?c#d", "é%2F", ".", "x" * 128):
                await post(client, "/v1/assess", purchase(strange, user=strange))
                quoted = "".join(f"%{byte:02X}" for byte in strange.encode())
                found = await client.get(f"/v1/decisions/{quoted}")
                assert found.status_code == 200, strange
                assert found.json()["about"] == strange
                assert (await client.get(f"/v1/users/{quoted}")).json()["user"] == strange

    run(check())


def test_a_batch_is_validated_as_a_whole(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            good = [purchase(f"b{number}") for number in range(5)]
            found = await post(client, "/v1/assess/batch", good)
            assert [one["about"] for one in found.json()] == [one["id"] for one in good]
            again = await post(client, "/v1/assess/batch", [*good, good[0]])
            assert again.json()[:5] == found.json()
            assert again.headers["idempotent-replay"] == "true"
            size = app.engine.log.last_offset
            for bad, place in (
                (purchase("c1", amount_usd=-1), "$[1].amount_usd"),
                (purchase("c1", amount_usd=1.234), "$[1].amount_usd"),
                (purchase("c1", card=" - "), "$[1].card"),
                (purchase("c1", known_at="2026-01-01T00:00:00Z"), "$[1].known_at"),
                ({"type": "outage", "id": "o", "happened_at": "2026-01-01T00:00:00Z"}, "$[1].user"),
                ({"type": "nothing"}, "$[1].type"),
            ):
                refused = await post(client, "/v1/assess/batch", [purchase("c0"), bad])
                assert refused.status_code == 400, bad
                assert refused.json()["error"]["place"] == place
            twice = [purchase("c0"), purchase("c0", amount_usd=13)]
            for path in ("/v1/assess/batch", "/v1/events"):
                refused = await post(client, path, twice)
                assert refused.status_code == 409
                assert refused.json()["error"]["place"] == "$[1].id"
            again = await post(client, "/v1/events", [good[0], {**good[0], "device": "d9"}])
            assert again.json() == {"taken": 0, "repeated": 2}
            many = [purchase(f"m{number}") for number in range(MAX_BATCH + 1)]
            refused = await post(client, "/v1/assess/batch", many)
            assert refused.json()["error"]["code"] == "too_many_events"
            assert app.engine.log.last_offset == size
            assert (await post(client, "/v1/assess/batch", many[:-1])).status_code == 200
            assert (await post(client, "/v1/assess/batch", [])).json() == []

    run(check())


def test_events_without_a_decision(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            one = {"type": "login", "id": "l1", "happened_at": "2026-01-01T00:00:00Z", "user": "u"}
            outage = {"type": "outage", "id": "o1", "happened_at": "2026-01-01T00:00:00Z"}
            taken = await post(client, "/v1/events", one)
            assert taken.json() == {"taken": 1, "repeated": 0}
            taken = await post(client, "/v1/events", [one, outage, outage])
            assert taken.json() == {"taken": 1, "repeated": 2}
            assert app.engine.log.last_offset == 2
            conflict = await post(client, "/v1/assess", one)
            assert conflict.status_code == 409
            assert conflict.json()["error"]["place"] == "$.id"
            refused = await post(client, "/v1/events", [purchase("x"), {"type": "login"}])
            assert refused.status_code == 400
            assert refused.json()["error"]["place"].startswith("$[1]")
            assert app.engine.log.last_offset == 2
            # It is a repeat, though no decision is asked for: one is made once.
            await post(client, "/v1/assess", purchase("p"))
            taken = await post(client, "/v1/events", purchase("p"))
            assert taken.json() == {"taken": 0, "repeated": 1}

    run(check())


def test_another_event_of_the_same_id_is_a_conflict(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            first = await post(client, "/v1/assess", purchase("p"))
            size = app.engine.log.last_offset
            login = {
                "type": "login",
                "id": "p",
                "happened_at": "2026-01-01T00:00:00Z",
                "user": "u1",
            }
            for other in (purchase("p", amount_usd=13), purchase("p", user="u2"), login):
                for path, body, place in (
                    ("/v1/assess", other, "$.id"),
                    ("/v1/assess/batch", [purchase("q"), other], "$[1].id"),
                    ("/v1/events", other, "$.id"),
                    ("/v1/events", [purchase("q"), other], "$[1].id"),
                ):
                    refused = await post(client, path, body)
                    assert refused.status_code == 409, (path, other)
                    error = refused.json()["error"]
                    assert (error["code"], error["place"]) == ("conflict", place)
                    assert "other content; expected a new id" in error["message"]
            assert app.engine.log.last_offset == size
            assert (await post(client, "/v1/assess", purchase("p"))).content == first.content

    run(check())


def test_a_batch_is_repeated_after_a_failure(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            batch = [purchase(f"r{number}") for number in range(4)]
            assess = app.engine.assess

            def failing(event):
                if event.id == "r2":
                    raise LogUnavailable("no space left on device")
                return assess(event)

            app.engine.assess = failing
            refused = await post(client, "/v1/assess/batch", batch)
            assert refused.status_code == 503
            assert "repeat the whole request" in refused.json()["error"]["message"]
            app.engine.assess = assess
            for _ in range(400):
                if (await client.get("/ready")).status_code == 200:
                    break
                await asyncio.sleep(0.025)
            again = await post(client, "/v1/assess/batch", batch)
            assert [one["values"][0] for one in again.json()] == [0.0, 1.0, 2.0, 3.0]
            assert app.engine.log.last_offset == 8

    run(check())


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        (b"", "invalid_event", None),
        (b"{", "invalid_event", None),
        (b"[]", "invalid_event", None),
        (b"null", "invalid_event", None),
        (b"\xff\xfe", "invalid_event", None),
        (b'{"type":"purchase"}', "invalid_event", None),
        (b"[" * 33, "too_deep", "$"),
        (b"[" * 500_000, "too_deep", "$"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "too_deep", "$"),
        (text(purchase("x", amount_usd="1")), "invalid_event", "$.amount_usd"),
        (text(purchase("x", amount_usd=1e300)), "invalid_event", "$.amount_usd"),
        (text(purchase("x", happened_at="2026-01-01T00:00:00")), "invalid_event", "$.happened_at"),
        (text(purchase("x", rail="4111 1111 1111 1111")), "invalid_event", "$.rail"),
        (text(purchase("x", surprise=1)), "invalid_event", None),
        (text(purchase("")), "invalid_event", "$.id"),
        (text(purchase("x", known_at="2026-01-01T00:00:00Z")), "invalid_event", "$.known_at"),
        (
            text(
                {
                    "type": "decision",
                    "id": "d",
                    "happened_at": "2026-01-01T00:00:00Z",
                    "about": "p",
                    "about_type": "purchase",
                    "user": "u",
                    "limit_usd": 1e6,
                    "reasons": [],
                    "catalog": "",
                    "policy": "",
                    "values": [],
                }
            ),
            "invalid_event",
            None,
        ),
    ],
)
def test_refused_bodies(tmp_path: Path, body: bytes, code: str, place: str | None) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            found = await post(client, "/v1/assess", body)
            error = found.json()["error"]
            assert (found.status_code, error["code"]) == (400, code)
            assert error.get("place") == place
            assert "4111" not in found.text
            assert (await post(client, "/v1/assess", purchase("next"))).status_code == 200
            assert app.engine.log.last_offset == 2

    run(check())


def test_brackets_in_strings_are_not_deep(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (_, client):
            found = await post(client, "/v1/assess", purchase("p", device='[{"\\' * 30))
            assert found.status_code == 200

    run(check())


def test_refused_requests(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (_, client):
            body = text(purchase("x"))
            for method, path, status in (
                ("GET", "/v1/assess", 405),
                ("DELETE", "/v1/users/u", 405),
                ("POST", "/metrics", 405),
                ("GET", "/nowhere", 404),
                ("GET", "/v1/users/u", 404),
                ("GET", "/v1/decisions/p", 404),
                ("GET", "/", 404),
            ):
                found = await client.request(method, path)
                assert found.status_code == status, path
                assert set(found.json()["error"]) == {"code", "message"}
                assert status != 405 or found.headers["allow"]
            plain = {"content-type": "text/plain"}
            assert (await client.post("/v1/assess", content=body, headers=plain)).status_code == 415
            assert (await client.post("/v1/assess", content=body)).status_code == 415
            large = await post(client, "/v1/assess", b" " * (MAX_BODY_BYTES + 1))
            assert large.status_code == 413
            whole = body + b" " * (MAX_BODY_BYTES - len(body))
            assert (await post(client, "/v1/assess", whole)).status_code == 200

    run(check())


def test_keys_open_all_but_health(tmp_path: Path) -> None:
    async def check() -> None:
        ring = KeyRing(tmp_path / "keys.json")
        key = ring.make("test")
        async with serving(tmp_path, keys=ring) as (_, client):
            paths = [*_document((await _get(client, "/schema", key)).json())]
            for path in paths:
                found = await client.get(path)
                assert found.status_code == (200 if path in ("/health", "/ready") else 401), path
                wrong = await _get(client, path, key[:-1])
                assert wrong.status_code == found.status_code
                assert key[:-1] not in wrong.text
                assert (await _get(client, path, key)).status_code != 401
            refused = await client.post("/v1/assess", content=b"{}")
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"

    run(check())


def test_metrics_count(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            app.engine.use(None)
            await post(client, "/v1/assess", purchase("p"))
            await post(client, "/v1/assess", purchase("p"))
            await post(client, "/v1/assess", b"{}")
            await client.get("/v1/users/secret-user")
            told = (await client.get("/metrics")).text
            for line in (
                'chopmark_requests_total{route="/v1/assess",status="200"} 2.0',
                'chopmark_requests_total{route="/v1/assess",status="400"} 1.0',
                'chopmark_requests_total{route="/v1/users/{id}",status="404"} 1.0',
                "chopmark_degraded_decisions_total 1.0",
                "chopmark_repeated_total 1.0",
                "chopmark_durable_offset 2.0",
                "chopmark_sync_seconds_count 1.0",
                "chopmark_group_events_sum 2.0",
                'model="none"',
            ):
                assert line in told
            assert "secret-user" not in told
            assert (await client.get("/ready")).json()["degraded"] is True
            assert (await client.get("/v1/model")).json()["degraded"] is True

    run(check())


def test_ten_thousand_malformed_bodies(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            rng = random.Random(5)
            whole = text(purchase("fuzz", device="d", card="4111111111111111"))
            seen = set()
            for number in range(10_000):
                body = _malformed(rng, whole)
                path = ("/v1/assess", "/v1/assess/batch", "/v1/events")[number % 3]
                status = await _raw(app, path, body)
                seen.add(status)
                assert status in (200, 400, 409, 413), (path, body[:300])
            assert {200, 400} <= seen
            assert app.flusher.state == "ready"
            assert app.metrics.sync_failures == 0
            assert (await post(client, "/v1/assess", purchase("next"))).status_code == 200

    run(check())


def test_a_client_that_hangs_up_in_its_body(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            messages = [{"type": "http.request", "body": b"{", "more_body": True}]

            async def receive() -> dict:
                return messages.pop() if messages else {"type": "http.disconnect"}

            async def send(message: dict) -> None:
                raise AssertionError("nobody is there")

            await app(_scope("/v1/assess"), receive, send)
            assert (await post(client, "/v1/assess", purchase("next"))).status_code == 200

    run(check())


def test_a_body_that_comes_too_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SLOWEST_BODY_S", 0.05)

    async def check() -> None:
        async with serving(tmp_path) as (app, _):
            sent = []

            async def receive() -> dict:
                await asyncio.sleep(0.02)
                return {"type": "http.request", "body": b"{", "more_body": True}

            async def send(message: dict) -> None:
                sent.append(message)

            await app(_scope("/v1/assess"), receive, send)
            assert sent[0]["status"] == 408

    run(check())


def test_a_body_that_never_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SLOWEST_BODY_S", 0.05)

    async def check() -> None:
        async with serving(tmp_path) as (app, _):
            sent = []

            async def receive() -> dict:
                await asyncio.Event().wait()
                raise AssertionError("it never comes")

            async def send(message: dict) -> None:
                sent.append(message)

            await app(_scope("/v1/events"), receive, send)
            assert sent[0]["status"] == 408
            assert (b"connection", b"close") in sent[0]["headers"]

    run(check())


def _malformed(rng: random.Random, whole: bytes) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return whole[: rng.randrange(len(whole))]
    if kind == 2:
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    strange: list[object] = [
        None, True, -1, 1e999, -0.0, 2**63, "", "\0", "é" * 500, [], {}, [[]], "NaN", "\ud800",
        "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+14:00", "2026-01-01T24:00:00Z",
    ]  # fmt: skip
    fields = purchase(f"f{rng.randrange(1000)}", device="d", card="4111111111111111", rail="card")
    for _ in range(rng.randrange(1, 3)):
        fields[rng.choice([*fields, "known_at", "surprise"])] = rng.choice(strange)
    if kind == 3:
        return text([fields] * rng.randrange(3))
    if kind == 4:
        return text(fields) + rng.choice([b"", b",", b"{}", b"\0", b" null"])
    return text(fields)


def _scope(path: str) -> dict:
    headers = [(b"content-type", b"application/json")]
    return {"type": "http", "method": "POST", "path": path, "headers": headers}


async def _raw(app: Service, path: str, body: bytes) -> int:
    """The status of a request, without the cost of a client."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    await app(_scope(path), receive, send)
    assert json.loads(sent[1]["body"]) is not None
    return sent[0]["status"]


async def _get(client: httpx.AsyncClient, path: str, key: str) -> httpx.Response:
    return await client.get(path, headers={"authorization": f"Bearer {key}"})


def _document(document: dict) -> list[str]:
    return [path.replace("{user}", "u").replace("{event_id}", "e") for path in document["paths"]]
