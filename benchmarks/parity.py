"""Training rows against served rows: how many bits differ over a million events.

Served: `Fold.step`, one event after the other. Training: the same events as columns through
`Fold.replay`, cut into batches of other, odd sizes, in a fold of its own. All features of the
exchange, after every event of the simulation and after a made-up decision behind each
purchase; float64 compared as bit patterns (a missing value is None there and NaN here), texts
as texts. Then the whole path for fewer events: `Engine.assess` writes decisions to a log on
disk, `training_table` reads the log, and the values of the decisions must be the table's.
"""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl
from machine import BUILD, goal, number, parser, progress, report, table

from chopmark.datasets import simulate
from chopmark.decisions import Decision
from chopmark.decisions.decision import decision_id
from chopmark.engine import Engine
from chopmark.engine import replay as live_through
from chopmark.events import Event, SqliteLog, Vault, type_name
from chopmark.features import Fold, from_events, training_table
from chopmark.pipelines import exchange

EVENTS_PER_USER = 90
BATCHES = (8_191, 1, 9_973, 3, 20_011)
"""Sizes of the training batches in turn; none of them fits the kernel's chunks."""


def main() -> None:
    """Print the tables; the exit status is 1 if any bit differs."""
    arguments = parser(__doc__)
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--engine-events", type=int, default=50_000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    with report(f"Training rows against served rows, {given.events:,} events"):
        differing = by_fold(given.events, given.seed)
        differing += by_engine(given.engine_events, given.seed + 1)
        print(f"Goal, 0 differing bits: {goal(differing, 0)}.")
    raise SystemExit(1 if differing else 0)


def by_fold(num_events: int, seed: int) -> int:
    """Differing bits between `Fold.step` and `Fold.replay`."""
    app = exchange.application()
    serving, training = Fold(app.catalog), Fold(app.catalog)
    outputs = app.catalog.outputs
    numbers = [place for place, output in enumerate(outputs) if output.kind != "text"]
    texts = {output.name: place for place, output in enumerate(outputs) if output.kind == "text"}
    stream = islice(with_decisions(simulated(num_events, seed)), num_events)
    seconds = {"step": 0.0, "columns": 0.0, "replay": 0.0}
    differing = num_values = done = turn = 0
    kinds: dict[str, int] = {}
    while events := list(islice(stream, BATCHES[turn % len(BATCHES)])):
        began = perf_counter()
        served = [serving.step(event) for event in events]
        seconds["step"] += perf_counter() - began
        began = perf_counter()
        columns = from_events(
            events, app.catalog.schema, training.codes, texts=training.text_fields
        )
        seconds["columns"] += perf_counter() - began
        began = perf_counter()
        parts = list(training.replay(columns))
        seconds["replay"] += perf_counter() - began
        trained = np.hstack([part.values for part in parts])
        by_place = list(zip(*served, strict=True))
        given = np.array([by_place[place] for place in numbers], dtype=np.float64)
        differing += num_differing_bits(given, trained[numbers])
        for name, place in texts.items():
            told = [text for part in parts for text in part.texts[name]]
            differing += sum(a != b for a, b in zip(by_place[place], told, strict=True))
        num_values += len(events) * len(outputs)
        done += len(events)
        turn += 1
        for event in events:
            kinds[type_name(event)] = kinds.get(type_name(event), 0) + 1
        if turn % len(BATCHES) == 0:
            progress(f"{done:,} of {num_events:,} events, {differing} bits differ")
    assert done == num_events, f"the simulation gave only {done} events"
    print(
        f"**Fold.step against Fold.replay**: {done:,} events of {len(kinds)} types, "
        f"{len(outputs)} features, {num_values:,} values: **{differing} bits differ**.\n"
    )
    rows = [[name, number(spent), number(done / spent)] for name, spent in seconds.items()]
    rows[0][0], rows[1][0], rows[2][0] = "Fold.step", "columns.from_events", "Fold.replay"
    table(["one run, all rows read", "s", "events/s"], rows)
    return differing


def by_engine(num_events: int, seed: int) -> int:
    """Values that differ between the decisions of an engine and the table of its log."""
    app = exchange.application()
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        path = Path(folder) / "log.sqlite"
        progress(f"{num_events:,} events through the engine")
        vault = Vault(bytes(32))
        with SqliteLog(path, app.catalog.schema) as log:
            engine = Engine(app, log=log, vault=vault, trust_known_at=True)
            events = islice(simulated(num_events, seed), num_events)
            decisions = live_through(engine, events, decide=frozenset({"purchase"}))
            batches = ([event for _, event in batch] for batch in log.read(batch_size=7_001))
            trained = training_table(app.catalog, batches, rows=["purchase"])
    about = pl.DataFrame({"event_id": [decision.about for decision in decisions]})
    trained = about.join(trained, on="event_id", how="left", maintain_order="left")
    differing = 0
    for place, output in enumerate(app.catalog.outputs):
        served = [decision.values[place] for decision in decisions]
        told = trained[output.name]
        if output.kind == "text":
            differing += sum(a != b for a, b in zip(served, told.to_list(), strict=True))
        else:
            numbers = told.cast(pl.Float64).fill_null(np.nan).to_numpy()
            differing += num_differing_bits(np.array(served, dtype=np.float64), numbers)
    print(
        f"**Engine.assess against training_table over its log**: {num_events:,} events, "
        f"{len(decisions):,} decisions, {len(decisions) * len(app.catalog.outputs):,} values: "
        f"**{differing} bits differ**.\n"
    )
    return differing


def num_differing_bits(one: np.ndarray, other: np.ndarray) -> int:
    """Bits in which two arrays of float64 differ; any NaN is equal to any other."""
    a, b = (np.ascontiguousarray(x, dtype=np.float64).view(np.int64) for x in (one, other))
    different = (a != b) & ~(np.isnan(one) & np.isnan(other))
    return int(np.bitwise_count(a[different] ^ b[different]).sum())


def simulated(num_events: int, seed: int) -> Iterator[Event]:
    """At least so many events of an exchange, as they became known."""
    progress("simulating")
    num_users = num_events // EVENTS_PER_USER + 100
    yield from simulate(num_users=num_users, days=120, seed=seed).events()


def with_decisions(events: Iterable[Event]) -> Iterator[Event]:
    """The events, and behind each purchase a decision that allows a third of it."""
    for event in events:
        yield event
        if type_name(event) == "purchase":
            yield Decision(
                id=decision_id(event.id),
                happened_at=event.known_at or event.happened_at,
                known_at=event.known_at,
                about=event.id,
                about_type="purchase",
                user=event.user,  # type: ignore[attr-defined]
                limit_usd=50.0,
                allowed_usd=round(event.amount_usd / 3, 2),  # type: ignore[attr-defined]
                reasons=[],
                catalog="",
                policy="",
                values=[],
            )


if __name__ == "__main__":
    main()
