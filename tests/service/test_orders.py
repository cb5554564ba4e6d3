"""Orders over HTTP: from whom, in whose name, one about rules at a time."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from chopmark.engine import Engine
from chopmark.events import SqliteLog
from chopmark.rules import Effects
from chopmark.rules.book import effects_text
from chopmark.service import KeyRing, create_app
from tests.engine.shop import VAULT, HandScorer
from tests.engine.test_orders import APPLICATION, SCHEMA

from .conftest import JSON, running, text

AT = {"happened_at": "2026-01-02T03:04:05Z"}
LOCK = {
    "type": "lock_set", "id": "o-1", "user": "bo", "score": 0.9, "reason": "a friend asked",
    "expires_at": "2099-01-01T00:00:00Z", "author": "ann", **AT,
}  # fmt: skip
DRAFT = {
    "type": "rule_drafted", "id": "o-2", "rule": "big", "version": 1, "when": "amount_usd > 100",
    "effects": effects_text(Effects(limit_at_most_usd=20)), "because": "rare", "author": "ann",
    **AT,
}  # fmt: skip
BUY = {"type": "purchase", "id": "p-1", "user": "bo", "amount_usd": 30.0, **AT}


def asked(tmp_path: Path, requests: list[tuple[str, str, Any]]) -> list[httpx.Response]:
    """The answers to requests (name of the key, path, body), one after the other."""
    ring = KeyRing(tmp_path / "keys.json")
    keys = {"app": ring.make("app"), "ann": ring.make("ann", orders=True)}

    async def all_of_them() -> list[httpx.Response]:
        log = SqliteLog(tmp_path / "log.sqlite", SCHEMA)
        scorer = HandScorer(APPLICATION.catalog)
        engine = Engine(APPLICATION, log=log, vault=VAULT, scorer=scorer)
        async with running(create_app(engine, keys=ring)) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                return [
                    await client.post(
                        path,
                        content=text(body),
                        headers={**JSON, "authorization": f"Bearer {keys[name]}"},
                    )
                    for name, path, body in requests
                ]

    return asyncio.run(all_of_them())


def test_a_key_for_events_gives_no_orders(tmp_path: Path) -> None:
    refused, taken, decided = asked(
        tmp_path,
        [("app", "/v1/events", LOCK), ("ann", "/v1/events", LOCK), ("app", "/v1/assess", BUY)],
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert taken.status_code == 200
    assert (decided.status_code, decided.json()["authority"]) == (200, "lock")


def test_nobody_speaks_for_somebody_else(tmp_path: Path) -> None:
    (refused,) = asked(tmp_path, [("ann", "/v1/events", {**LOCK, "author": "bob"})])
    assert refused.status_code == 403
    assert "the author 'bob'" in refused.json()["error"]["message"]


def test_a_bad_rule_is_refused_with_its_place_and_others_come_alone(tmp_path: Path) -> None:
    wrong = {**DRAFT, "when": "amont_usd > 100"}
    second = {**DRAFT, "id": "o-3"}
    refused, both, decided, taken = asked(
        tmp_path,
        [
            ("ann", "/v1/events", wrong),
            ("ann", "/v1/events", [DRAFT, second]),
            ("ann", "/v1/assess", DRAFT),
            ("ann", "/v1/events", DRAFT),
        ],
    )
    assert refused.status_code == 400
    assert "did you mean `amount_usd`?" in refused.json()["error"]["message"]
    assert both.json()["error"]["code"] == "order_not_alone"
    assert decided.status_code == 400
    assert taken.status_code == 200


def test_rules_change_under_traffic_and_no_request_fails(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.json")
    header = {**JSON, "authorization": f"Bearer {ring.make('first')}"}

    def orders() -> list[dict[str, Any]]:
        made = []
        for number in range(1, 6):
            base = {"rule": "big", "version": number, **AT}
            draft = {**DRAFT, **base, "id": f"d-{number}", "when": f"amount_usd > {number}"}
            review = {"type": "rule_reviewed", "id": f"r-{number}", "approved": True, **base}
            stage = {"type": "rule_staged", "id": f"s-{number}", "stage": "active", **base}
            made += [draft, {**review, "author": "bob"},
                     {**stage, "author": "ann", "approver": "bob"}]  # fmt: skip
        return made

    async def mixed() -> tuple[list[int], list[httpx.Response]]:
        log = SqliteLog(tmp_path / "log.sqlite", SCHEMA)
        scorer = HandScorer(APPLICATION.catalog)
        engine = Engine(APPLICATION, log=log, vault=VAULT, scorer=scorer)
        engine.warm()
        async with running(create_app(engine, keys=ring)) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:

                async def post(path: str, body: object) -> httpx.Response:
                    return await client.post(path, content=text(body), headers=header)

                async def traffic(worker: int) -> list[httpx.Response]:
                    return [
                        await post("/v1/assess", {**BUY, "id": f"p-{worker}-{n}", "user": f"u{n}"})
                        for n in range(25)
                    ]

                async def change() -> list[int]:
                    return [(await post("/v1/events", order)).status_code for order in orders()]

                changed, *answered = await asyncio.gather(change(), *map(traffic, range(8)))
                return changed, [answer for answers in answered for answer in answers]

    changed, answers = asyncio.run(mixed())
    assert set(changed) == {200}
    assert {answer.status_code for answer in answers} == {200}
    versions = {hit["version"] for answer in answers for hit in answer.json().get("rules", [])}
    assert len(versions) > 1, "several versions were in force while they were asked"
