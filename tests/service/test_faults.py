"""A disk that fails, a thread that dies, a process that is killed."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from chopmark.engine import Engine
from chopmark.errors import LogUnavailable
from chopmark.features.fold import Snapshot
from chopmark.times import moment

from . import shop
from .conftest import JSON, Server, purchase, serving, text
from .test_app import post, run


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_under_load(start: Callable[..., Server], tmp_path: Path, seed: int) -> None:
    """What was answered is in the log, once and as answered; the state is that of the log."""
    rng = random.Random(seed)
    server = start("--snapshot-every", "0.2")
    answered: dict[str, bytes] = {}
    asked: set[str] = set()

    def load(number: int) -> None:
        own = random.Random(seed * 100 + number)
        with server.client() as client:
            for count in range(100_000):
                # A fifth are repeats of what others may be asking right now.
                name = f"k{own.randrange(16) if own.random() < 0.2 else number}-{count // 5}"
                asked.add(name)
                body = text(purchase(name, user=f"u{len(name) % 7}", device=f"d{count % 5}"))
                try:
                    found = client.post("/v1/assess", content=body, headers=JSON)
                except httpx.HTTPError:
                    return
                assert found.status_code == 200
                assert answered.setdefault(name, found.content) == found.content

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    # At a seeded number of answers and not at a time, which a busy machine may not use.
    enough, deadline = rng.randint(30, 600), time.monotonic() + 60
    while len(answered) < enough and time.monotonic() < deadline:
        time.sleep(0.002)
    server.kill()
    for thread in threads:
        thread.join()
    assert len(answered) > 20

    engine = shop.engine(tmp_path)
    rebuilt = shop.engine_over(engine.log)
    try:
        counts: dict[str, int] = {}
        for batch in engine.log.read():
            for _, event in batch:
                counts[event.id] = counts.get(event.id, 0) + 1
        assert set(counts.values()) == {1}
        for name, body in answered.items():
            assert engine.log.get_body(f"decision:{name}") == body
        for name in asked:  # an event and its decision came together or not at all
            assert (name in counts) == (f"decision:{name}" in counts)
        assert engine.offset == rebuilt.offset == engine.log.last_offset
        as_of = moment(engine.log.known_at()).isoformat()
        values = _probe(engine, as_of)
        assert values == _probe(rebuilt, as_of)
        assert any(row[0] > 0 for row in values)
    finally:
        engine.log.close()


def _probe(engine: Engine, as_of: str) -> list[list[object]]:
    """The features of events that were never sent."""
    values = []
    for number in range(20):
        body = purchase(f"probe{number}", user=f"u{number % 7}", device=f"d{number % 5}")
        event = engine.schema.decode(text({**body, "known_at": as_of}))
        values.append(engine.fold.step(event))
    return values


def test_sigterm_under_load_loses_nothing(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    answered: dict[str, bytes] = {}

    def load(number: int) -> None:
        with server.client() as client:
            for count in range(100_000):
                name = f"t{number}-{count}"
                try:
                    found = client.post("/v1/assess", content=text(purchase(name)), headers=JSON)
                except httpx.HTTPError:
                    return
                assert found.status_code == 200
                answered[name] = found.content

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert server.stop() == 0
    for thread in threads:
        thread.join()
    engine = shop.engine(tmp_path)
    try:
        assert len(answered) > 20
        for name, body in answered.items():
            assert engine.log.get_body(f"decision:{name}") == body
        assert engine.fold.load(tmp_path / "state.npz")[0] == engine.log.last_offset
    finally:
        engine.log.close()


def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, faulty=True) as (app, client):
            before = await post(client, "/v1/assess", purchase("before"))
            (tmp_path / "fault").touch()
            for path in ("/v1/assess", "/v1/assess/batch", "/v1/events"):
                body: object = purchase("lost")
                refused = await post(client, path, [body] if "batch" in path else body)
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.json()["error"]["code"] == "log_unavailable"
                unready = await client.get("/ready")
                assert unready.status_code == 503
                assert unready.json()["state"] == "recovering"
                assert (await client.get("/health")).status_code == 200
                assert (await client.get("/v1/users/u1")).status_code == 503
                await _ready(client)
            (tmp_path / "fault").unlink()
            after = await post(client, "/v1/assess", purchase("lost"))
            assert after.status_code == 200
            assert after.json()["values"][0] == 1.0  # nothing of the refused ones stayed
            again = await post(client, "/v1/assess", purchase("before"))
            assert again.content == before.content
            assert app.metrics.sync_failures == app.metrics.recoveries == 3
            assert app.engine.log.last_offset == 4

    run(check())


def test_a_step_left_half_done_is_recovered(tmp_path: Path, monkeypatch) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            first = await post(client, "/v1/assess", purchase("p1"))

            def broken(*_: object, **__: object) -> None:
                raise RuntimeError("a secret of the user")

            object.__setattr__(app.engine, "policy", _With(broken))
            failed = await post(client, "/v1/assess", purchase("p2"))
            assert failed.status_code == 500
            assert "secret" not in failed.text
            object.__setattr__(app.engine, "policy", app.engine.application.policy)
            await _ready(client)
            second = await post(client, "/v1/assess", purchase("p2"))
            assert second.json()["values"][0] == 1.0
            assert (await post(client, "/v1/assess", purchase("p1"))).content == first.content

    run(check())


def test_a_dead_flusher_fails_the_health(tmp_path: Path, capfd) -> None:
    async def check() -> None:
        async with serving(tmp_path, faulty=True) as (_, client):
            (tmp_path / "death").touch()
            assert (await post(client, "/v1/assess", purchase("p"))).status_code == 503
            unready = await client.get("/ready")
            assert (unready.status_code, unready.json()["state"]) == (503, "dead")
            assert (await post(client, "/v1/assess", purchase("q"))).status_code == 503
            (tmp_path / "death").unlink()

    run(check())


def test_too_many_that_wait_are_shed(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, max_waiting=3) as (app, client):
            bodies = [purchase(f"w{number}") for number in range(50)]
            found = await asyncio.gather(*(post(client, "/v1/assess", body) for body in bodies))
            codes = {one.status_code for one in found}
            assert codes == {200, 503}
            shed = next(one for one in found if one.status_code == 503)
            assert shed.json()["error"]["code"] == "overloaded"
            assert shed.headers["retry-after"]
            good = sum(one.status_code == 200 for one in found)
            assert app.engine.log.last_offset == 2 * good

    run(check())


def test_snapshots_are_written_while_it_runs(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "state.npz"
        async with serving(tmp_path, snapshot_path=path, snapshot_every_s=0.05) as (app, client):
            await post(client, "/v1/assess", purchase("p"))
            for _ in range(100):
                await asyncio.sleep(0.05)
                if path.exists():
                    break
            written = path.stat().st_mtime_ns
            await asyncio.sleep(0.2)
            assert path.stat().st_mtime_ns == written  # nothing came, so nothing was written
            assert app.engine.fold.load(path)[0] == 2

    run(check())


def test_a_recovery_that_nobody_needs_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second order to recover, given because of the same failure, threw staged events away."""

    async def check() -> None:
        async with serving(tmp_path) as (app, client):
            recoveries = []
            monkeypatch.setattr(app.engine, "recover", lambda *_: recoveries.append(1))
            app.engine.observe(app.engine.schema.decode(text(purchase("staged"))))
            app.flusher._orders.put("recover")
            assert (await post(client, "/v1/assess", purchase("p1"))).json()["values"][0] == 1.0
            app.flusher.mend(LogUnavailable("a failure that is over"))
            assert app.flusher.state == "recovering"
            await _ready(client)
            assert (await post(client, "/v1/assess", purchase("p2"))).json()["values"][0] == 2.0
            assert not recoveries
            assert app.metrics.sync_failures == app.metrics.recoveries == 0
            assert app.engine.log.last_offset == app.engine.offset == 5

    run(check())


def test_the_last_snapshot_awaits_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, at_once = 0, []
    begun = threading.Event()
    write = Snapshot.write

    def slow_write(snapshot: Snapshot, path: Path) -> None:
        nonlocal under_way
        under_way += 1
        at_once.append(under_way)
        begun.set()
        time.sleep(0.3)
        write(snapshot, path)
        under_way -= 1

    monkeypatch.setattr(Snapshot, "write", slow_write)

    async def check() -> None:
        path = tmp_path / "state.npz"
        async with serving(tmp_path, snapshot_path=path, snapshot_every_s=0.05) as (app, client):
            await post(client, "/v1/assess", purchase("p1"))
            assert await asyncio.to_thread(begun.wait, 20)
            await post(client, "/v1/assess", purchase("p2"))
        assert at_once == [1, 1]
        assert app.engine.fold.load(path)[0] == 4

    run(check())


class _With:
    hash = "broken"
    amount = "amount_usd"

    def __init__(self, decide: Callable[..., None]) -> None:
        self.decide = decide


async def _ready(client: httpx.AsyncClient) -> None:
    for _ in range(400):
        if (await client.get("/ready")).status_code == 200:
            return
        await asyncio.sleep(0.025)
    raise AssertionError("it does not recover")
