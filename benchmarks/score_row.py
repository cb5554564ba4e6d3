"""One row, from a dict to a score: trees, trees + linear, a blend of both; beside LightGBM.

The model has 300 trees x 31 leaves over 14 columns, 6 numbers and 8 categories of 12 values, as
the well-known table of incomes; 5 % of the numbers are missing. All are timed by the clock, in
one process and on one thread, in rounds: where others use the machine too, the best round says
more than the median of rounds.

Run: .venv/bin/python benchmarks/score_row.py
"""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import lightgbm as lgb
import numpy as np
from machine import goal, number, parser, progress, report, runs, table

from chopmark.models import (
    Additive,
    Artifact,
    ArtifactScorer,
    Column,
    Encoder,
    Part,
    Term,
    Trees,
    Value,
    load_scorer,
)
from chopmark.models.blended import TableScorer
from chopmark.models.families import BLEND
from chopmark.models.scorers import FAMILY

NUM_NUMBERS = 6
NUM_CATEGORIES = 8
NUM_COLUMNS = NUM_CATEGORIES + NUM_NUMBERS
CODES = 12
WARM = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is timed, on which arguments, and what it may take (p50 and p99 in us)."""

    name: str
    call: Callable[[Any], object]
    given: Sequence[object]
    share: float = 1.0
    p50: float | None = None
    p99: float | None = None


def main(options: Namespace) -> None:
    """Print one table of calls, in microseconds."""
    rng = np.random.default_rng(0)
    title = f"One row, {options.trees} trees x {options.leaves} leaves, {NUM_COLUMNS} columns"
    with report(title), tempfile.TemporaryDirectory() as folder:
        progress("growing the trees")
        booster, x = _booster(rng, options.trees, options.leaves)
        trees = Trees.from_lightgbm(booster.model_to_string())
        scorers = _scorers(Path(folder), trees, _linear(rng))
        rows = [dict(zip(_names(), _values(row), strict=True)) for row in x[:500]]
        lines = []
        for call in [*_calls(scorers, rows), *_rivals(booster, x[:500])]:
            progress(call.name)
            lines.append(_line(call, options))
        table(["call", "p50 us", "p99 us", "best p50", "best p99", "goal"], lines)
        difference = np.abs(trees.raw(x[:500]) - booster.predict(x[:500], raw_score=True)).max()
        print(f"Largest difference from Booster.predict(raw_score=True): {difference:.1e}.")


def _calls(scorers: Mapping[str, TableScorer], rows: list[dict[str, Value]]) -> list[Call]:
    """Ours: each scorer from dicts, then what one row of trees + linear is made of."""
    both = scorers["trees + linear"]
    assert isinstance(both, ArtifactScorer)
    values = [[row.get(name) for name in both.reads] for row in rows]
    blend = scorers["blend of two artifacts"]
    return [
        Call(name="trees: dict to score", call=_from_dict(scorers["trees"]), given=rows,
             p50=15, p99=100),
        Call(name="trees + linear: dict to score", call=_from_dict(both), given=rows, p50=25),
        Call(name="blend of two artifacts: dict to score", call=_from_dict(blend), given=rows),
        Call(name="trees + linear: `score_row`", call=both.score_row, given=values),
        Call(name="of which dict to values", call=partial(_picked, both.reads), given=rows),
        Call(name="of which reading the values", call=both.encoder.base_row, given=values),
        Call(name="trees + linear: `reasons_row`", call=both.reasons_row, given=values),
        Call(name="trees + linear: `explain_row`", call=both.explain_row, given=values,
             share=0.1, p50=2_000),
        Call(name="blend of two artifacts: `reasons_row`", call=blend.reasons_row, given=values),
        Call(name="blend of two artifacts: `explain_row`", call=blend.explain_row, given=values,
             share=0.1, p50=2_000),
    ]  # fmt: skip


def _rivals(booster: lgb.Booster, x: np.ndarray) -> list[Call]:
    encoded = [np.ascontiguousarray(row[None, :]) for row in x]
    predict = partial(booster.predict, num_threads=1)
    shap = partial(predict, pred_contrib=True)
    return [
        Call(name="LightGBM: `predict`, encoded row", call=predict, given=encoded, share=0.2),
        Call(name="LightGBM: TreeSHAP, encoded row", call=shap, given=encoded, share=0.05),
    ]


def _from_dict(scorer: TableScorer) -> Callable[[Mapping[str, Value]], float]:
    reads, score_row = scorer.reads, scorer.score_row
    return lambda row: score_row([row.get(name) for name in reads])


def _picked(reads: Sequence[str], row: Mapping[str, Value]) -> list[Value]:
    return [row.get(name) for name in reads]


def _line(call: Call, options: Namespace) -> list[object]:
    count = max(100, int(options.calls * call.share))
    rounds = np.array([_round(call, count) for _ in range(options.rounds)])
    p50, p99 = (runs(values) for values in rounds.T)
    best = rounds.min(axis=0)
    goals = [
        f"p{share} <= {limit:,g}: {goal(value, limit)}"
        for share, limit, value in ((50, call.p50, p50.median), (99, call.p99, p99.median))
        if limit is not None
    ]
    return [call.name, p50.text(), p99.text(), *map(number, best), ", ".join(goals)]


def _round(call: Call, count: int) -> tuple[float, float]:
    """Median and 99th percentile of so many calls, in microseconds."""
    for given in islice(cycle(call.given), WARM):
        call.call(given)
    times = np.empty(count)
    for i, given in enumerate(islice(cycle(call.given), count)):
        began = perf_counter_ns()
        call.call(given)
        times[i] = perf_counter_ns() - began
    p50, p99 = np.percentile(times, [50, 99]) / 1e3
    return float(p50), float(p99)


def _scorers(folder: Path, trees: Trees, linear: Additive) -> dict[str, TableScorer]:
    """Scorers of artifacts on disk, by name; their sizes and loading times are printed."""
    halves = [_artifact(trees.scaled(0.5)), _artifact(linear.scaled(0.5))]
    blend = Artifact(
        family=BLEND,
        header={
            "second": "logistic",
            "names": ["trees", "linear"],
            "feature_hashes": {},
            "training": {},
        },
        arrays={"weights": np.array([1.0, 1.0]), "layer": np.array([0.0, 15.0])},
        parts=dict(zip(("trees", "linear"), halves, strict=True)),
    )
    found: dict[str, TableScorer] = {}
    for name, artifact in (
        ("trees", _artifact(trees)),
        ("trees + linear", _artifact(trees.scaled(0.5), linear.scaled(0.5))),
        ("blend of two artifacts", blend),
    ):
        path = folder / "model.chopmark"
        artifact.save(path)
        began = perf_counter()
        found[name] = load_scorer(path)
        took, size = perf_counter() - began, path.stat().st_size
        print(f"{name}: file of {size / 1e3:,.0f} kB, loaded and warm in {took * 1e3:.0f} ms\n")
    return found


def _artifact(*parts: Part) -> Artifact:
    texts = tuple(f"value {code}" for code in range(2, CODES))
    columns = [
        Column(name=name, kind="category", categories=texts)
        if j < NUM_CATEGORIES
        else Column(name=name, kind="number")
        for j, name in enumerate(_names())
    ]
    arrays = {f"{part.name}.{name}": a for part in parts for name, a in part.to_arrays().items()}
    header = {
        "encoder": Encoder(columns=columns).to_json(),
        "link": "logit",
        "feature_hashes": {},
        "training": {},
    }
    calibration = np.empty((0, 2))
    return Artifact(family=FAMILY, header=header, arrays={"calibration": calibration, **arrays})


def _linear(rng: np.random.Generator) -> Additive:
    categories = [Term(weights=rng.normal(size=CODES)) for _ in range(NUM_CATEGORIES)]
    numbers = [
        Term(
            weights=rng.normal(size=20),
            edges=np.sort(rng.normal(size=19)),
            slope=0.1,
            low=-3.0,
            high=3.0,
        )
        for _ in range(NUM_NUMBERS)
    ]
    return Additive.of([*categories, *numbers], bias=-2.0)


def _booster(rng: np.random.Generator, trees: int, leaves: int) -> tuple[lgb.Booster, np.ndarray]:
    x = rng.normal(size=(20_000, NUM_COLUMNS))
    x[:, :NUM_CATEGORIES] = rng.integers(0, CODES, size=(len(x), NUM_CATEGORIES))
    x[:, NUM_CATEGORIES:][rng.random((len(x), NUM_NUMBERS)) < 0.05] = np.nan
    z = np.nansum(x[:, 8:11] * x[:, 11:14], axis=1) + np.sin(x[:, 0]) + (x[:, 1] % 3)
    y = rng.random(len(x)) < 1.0 / (1.0 + np.exp(2.0 - z))
    settings = {"objective": "binary", "num_leaves": leaves, "num_threads": 1, "verbose": -1}
    data = lgb.Dataset(x, y, categorical_feature=list(range(NUM_CATEGORIES)))
    return lgb.train(settings, data, num_boost_round=trees), x


def _names() -> list[str]:
    return [f"c{j}" for j in range(NUM_COLUMNS)]


def _values(row: np.ndarray) -> list[Value]:
    codes = [None if code == 0 else f"value {int(code)}" for code in row[:NUM_CATEGORIES]]
    return [*codes, *(None if np.isnan(v) else v for v in row[NUM_CATEGORIES:].tolist())]


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--trees", type=int, default=300)
    arguments.add_argument("--leaves", type=int, default=31)
    arguments.add_argument("--calls", type=int, default=20_000, help="per round")
    arguments.add_argument("--rounds", type=int, default=5)
    main(arguments.parse_args())
