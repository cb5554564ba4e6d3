"""Time of `Engine.assess` in process: features, score, reasons, policy, record, log.

First the application of the benchmarks (32 window features over 4 entities, 300 trees of 31
leaves), then the whole catalog of the exchange with as large a model. Distinct events, a log
on disk, a group commit every 64 events outside of the time measured; the log's own threads
run beside it. The stages are timed in a run of their own, as watching them takes time too.
"""

import gc
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter_ns
from types import MappingProxyType
from typing import Any

import numpy as np
from application import NUM_LEAVES, NUM_TREES, application, grow, purchases, write_model
from machine import BUILD, goal, number, parser, progress, report, runs, table

import chopmark.engine
from chopmark.datasets import simulate
from chopmark.engine import Application, Engine
from chopmark.events import Event, SqliteLog, Vault, type_name
from chopmark.features import training_table
from chopmark.models import ArtifactScorer
from chopmark.pipelines import exchange

GROUP = 64
WARM_UP = 5_000


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--events", type=int, default=50_000)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--skip-exchange", action="store_true")
    given = arguments.parse_args()
    with (
        report(f"Engine.assess in process, {given.events:,} events"),
        tempfile.TemporaryDirectory(dir=BUILD) as folder,
    ):
        progress(f"growing {NUM_TREES} trees")
        scorer = write_model(Path(folder) / "model.chopmark")
        events = list(purchases(given.events + WARM_UP))
        title = f"32 window features over 4 entities, {NUM_TREES} trees of {NUM_LEAVES} leaves"
        measure(
            title,
            application,
            scorer,
            events,
            folder=folder,
            repeats=given.repeats,
            limits={"p50": 100.0, "p99": 2_000.0},
        )
        if not given.skip_exchange:
            measure_exchange(folder, repeats=given.repeats)


def measure_exchange(folder: str, *, repeats: int) -> None:
    """The same for the catalog of the exchange, over simulated events of all kinds."""
    progress("simulating the exchange")
    app = exchange.application()
    simulation = simulate(num_users=1_000, days=120, seed=0)
    events = list(simulation.events())
    features = training_table(app.catalog, [events], rows=["purchase"])
    progress(f"growing {NUM_TREES} trees for the exchange")
    features = features.drop("event_id", "as_of", *app.own)
    scorer = grow(Path(folder) / "exchange.chopmark", features, app)
    title = f"The exchange: {len(app.catalog.names)} features, {NUM_TREES} trees; purchases"
    measure(title, app, scorer, events[:50_000], folder=folder, repeats=repeats)


def measure(
    title: str,
    app: Application,
    scorer: ArtifactScorer,
    events: Sequence[Event],
    *,
    folder: str,
    repeats: int,
    limits: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Print latencies and stages of assessing the purchases among some events."""
    figures: dict[str, list[float]] = {"p50": [], "p99": [], "p99.9": [], "mean": []}
    observed, synced = [], []
    for turn in range(repeats):
        progress(f"assessing, {turn + 1} of {repeats}")
        with Stage(app, scorer, folder) as engine:
            assess_us, observe_us, sync_us = live(engine, events)
        for name, share in (("p50", 50), ("p99", 99), ("p99.9", 99.9)):
            figures[name].append(float(np.percentile(assess_us, share)))
        figures["mean"].append(float(np.mean(assess_us)))
        synced.append(float(np.median(sync_us)))
        if observe_us:
            observed.append(float(np.median(observe_us)))
    print(f"**{title}**: {len(assess_us):,} assessments a run, {repeats} runs.\n")
    table(
        ["assess", "us", "goal"],
        [
            [
                name,
                runs(values).text(),
                f"<= {limits[name]:,.0f} us: {goal(runs(values).median, limits[name])}"
                if name in limits
                else "",
            ]
            for name, values in figures.items()
        ],
    )
    rate = 1e6 / runs(figures["mean"]).median
    print(f"{number(rate)} assessments/s on one core without commits.")
    print(f"A commit of {GROUP} events and their decisions: {runs(synced).text()} us (median).")
    if observed:
        print(f"`observe` of the other events: {runs(observed).text()} us (median).")
    print()
    progress("watching the stages")
    with Stage(app, scorer, folder) as engine:
        stages = Watch(engine)
        assess_us, _, _ = live(engine, events, watch=stages)
    whole = float(np.mean(assess_us))
    parts = stages.result()
    rest = whole - sum(mean for mean, _ in parts.values())
    rows = [
        [name, number(median), number(mean), f"{mean / whole:.0%}"]
        for name, (mean, median) in parts.items()
    ]
    rows.append(
        ["the rest: the record, dispatch, watching", "", number(rest), f"{rest / whole:.0%}"]
    )
    median = float(np.median(assess_us))
    rows.append(["whole, while watched", number(median), number(whole), "100%"])
    table(["stage of one assessment", "median us", "mean us", "share"], rows)


class Stage:
    """A fresh engine over a fresh log, warm."""

    def __init__(self, app: Application, scorer: ArtifactScorer, folder: str) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=folder)
        self._log = SqliteLog(Path(self._folder.name) / "log.sqlite", app.catalog.schema)
        vault = Vault(bytes(32))
        self._engine = Engine(app, log=self._log, vault=vault, scorer=scorer, trust_known_at=True)
        self._engine.warm()
        gc.collect()

    def __enter__(self) -> Engine:
        return self._engine

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._folder.cleanup()


def live(
    engine: Engine, events: Iterable[Event], *, watch: "Watch | None" = None
) -> tuple[list[float], list[float], list[float]]:
    """Microseconds of each assessment, each observation and each commit after the warm-up."""
    taken: tuple[list[float], list[float], list[float]] = ([], [], [])
    rest = iter(events)
    for kind, many in (("warm", WARM_UP), ("measured", None)):
        if watch is not None and kind == "measured":
            watch.clear()
        for place, event in enumerate(islice(rest, many)):
            decides = type_name(event) == "purchase"
            call: Callable[[Any], object] = engine.assess if decides else engine.observe
            began = perf_counter_ns()
            call(event)
            spent = perf_counter_ns() - began
            if kind == "measured":
                taken[0 if decides else 1].append(spent / 1e3)
                if watch is not None:
                    watch.end(keep=decides)
            if place % GROUP == GROUP - 1:
                began = perf_counter_ns()
                engine.log.sync()
                if kind == "measured":
                    taken[2].append((perf_counter_ns() - began) / 1e3)
    engine.log.sync()
    return taken


class Watch:
    """Stands around the parts that an engine calls, and adds up their times."""

    def __init__(self, engine: Engine) -> None:
        self._sums: dict[str, int] = {}
        self._kept: dict[str, list[int]] = {}
        engine.log.find = self._around("log.find: is it a repeat?", engine.log.find)
        engine._admit = self._around("admit: tokens, known_at", engine._admit)
        step = engine.fold.step
        read = self._around("fold.step: features", step)
        add = self._around("fold.step: the decision added", step)
        engine.fold.step = lambda event, *, read_=read, add_=add, **options: (
            add_(event, **options) if options else read_(event)
        )
        engine.scorer.explain_row = self._around(  # type: ignore[union-attr]
            "scorer.explain_row: score, contributions", engine.scorer.explain_row
        )
        engine.policy = _Policy(
            engine.policy, self._around("policy.decide", engine.policy.decide)
        )  # fmt: skip
        engine.schema.encode = self._around("schema.encode, twice", engine.schema.encode)
        engine.log.append_encoded = self._around("log.append_encoded", engine.log.append_encoded)
        self._undo = chopmark.engine.score_reasons
        chopmark.engine.score_reasons = self._around("score_reasons", self._undo)

    def clear(self) -> None:
        self._sums.clear()

    def end(self, *, keep: bool) -> None:
        """One event is done."""
        if keep:
            for name, spent in self._sums.items():
                self._kept.setdefault(name, []).append(spent)
        self._sums.clear()

    def result(self) -> dict[str, tuple[float, float]]:
        """Mean and median microseconds of each stage; the watch is taken off."""
        chopmark.engine.score_reasons = self._undo
        return {
            name: (float(np.mean(values)) / 1e3, float(np.median(values)) / 1e3)
            for name, values in self._kept.items()
        }

    def _around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        sums = self._sums

        def watched(*values: Any, **options: Any) -> Any:
            began = perf_counter_ns()
            try:
                return call(*values, **options)
            finally:
                sums[name] = sums.get(name, 0) + perf_counter_ns() - began

        return watched


class _Policy:
    """A policy whose `decide` is watched (the policy itself is frozen)."""

    def __init__(self, policy: Any, decide: Callable[..., Any]) -> None:
        self._policy = policy
        self.decide = decide

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


if __name__ == "__main__":
    main()
