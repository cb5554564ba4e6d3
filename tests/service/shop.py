"""A small shop to serve in tests: three event types, seven features, a scorer of one line.

Run: python -m tests.service.shop FOLDER [--port 0] [--keys] [--faulty] ...
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from chopmark.decisions.decision import Decision
from chopmark.engine import Application, Engine
from chopmark.errors import LogUnavailable
from chopmark.events import Entity, Event, Identifier, Schema, SqliteLog, Usd, Vault
from chopmark.features import Aggregate, Catalog
from chopmark.service import serve


class Purchase(Event):
    """Someone buys."""

    user: Annotated[str, Entity("user")]
    device: Annotated[str, Entity("device")] | None = None
    card: Annotated[str, Entity("card"), Identifier()] | None = None
    amount_usd: Usd
    rail: Literal["card", "bank"] = "card"


class Login(Event):
    """Someone comes in."""

    user: Annotated[str, Entity("user")]
    device: Annotated[str, Entity("device")] | None = None


class Outage(Event):
    """Concerns no user."""

    region: str | None = None


class Spender:
    """The more was bought, the riskier."""

    reads = ("purchase_amount_usd_sum_7d",)
    hash = "0" * 64
    bias = 0.0

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self.feature_hashes = hashes

    def score_row(self, values: Sequence[float]) -> float:
        return min(values[0] / 10_000, 1.0)

    def explain_row(self, values: Sequence[float]) -> tuple[float, np.ndarray]:
        return self.score_row(values), np.array([values[0] / 100])

    def warm(self) -> None:
        pass


class FaultyLog(SqliteLog):
    """Cannot sync while a file named ``fault`` lies beside it, dies of one named ``death``."""

    def sync(self) -> int:
        if (self.path.parent / "death").exists():
            raise SystemExit("the thread is to die")
        if (self.path.parent / "fault").exists() and self._staged.rows:
            self._fail(OSError("no space left on device"))
            raise LogUnavailable("no space left on device")
        return super().sync()


def application() -> Application:
    """The shop."""
    catalog = Catalog(
        Schema(Purchase, Login, Outage, Decision),
        Aggregate("purchase", "count", window="1d"),
        Aggregate("purchase", "sum", of="amount_usd", window="7d"),
        Aggregate("purchase", "mean", of="amount_usd"),
        Aggregate("purchase", "count", by="card", window="1h"),
        Aggregate(("purchase", "login"), "distinct", by="device", of="user", window="1d"),
        Aggregate("login", "seconds_since_last"),
        Aggregate("decision", "sum", of="allowed_usd", window="7d"),
    )
    return Application(catalog)


def engine(folder: Path, *, faulty: bool = False, scored: bool = True) -> Engine:
    """The shop's engine over a folder, recovered."""
    shop = application()
    log = (FaultyLog if faulty else SqliteLog)(folder / "log.sqlite", shop.catalog.schema)
    return engine_over(log, scored=scored, snapshot=folder / "state.npz")


def engine_over(log: SqliteLog, *, scored: bool = True, snapshot: Path | None = None) -> Engine:
    """The shop's engine over a log, recovered from a snapshot or from the first event."""
    shop = application()
    made = Engine(shop, log=log, vault=Vault(bytes(32)))
    if scored:
        made.use(Spender(shop.catalog.hashes))
    made.recover(snapshot)
    return made


def main() -> None:
    """Serve the shop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--faulty", action="store_true")
    parser.add_argument("--snapshot-every", type=float, default=60.0)
    parser.add_argument("--max-waiting", type=int, default=10_000)
    given = parser.parse_args()
    serve(
        engine(given.folder, faulty=given.faulty),
        port=given.port,
        keys_path=given.folder / "keys.json" if given.keys else None,
        snapshot_path=given.folder / "state.npz",
        snapshot_every_s=given.snapshot_every,
        max_waiting=given.max_waiting,
    )


if __name__ == "__main__":
    main()
