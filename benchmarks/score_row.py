"""Time of one row: chopmark's scorers against LightGBM's own prediction, same model, same row.

Run: .venv/bin/python benchmarks/score_row.py
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightgbm as lgb
import numpy as np
from machine import parser

from chopmark.models import Additive, Artifact, Column, Encoder, Term, Trees, load_scorer

NUM_COLUMNS = 40
NUM_CATEGORIES = 8
CODES = 12
CALLS = 20_000


def main() -> None:
    """Print the medians in microseconds."""
    rng = np.random.default_rng(0)
    booster, x = _booster(rng)
    texts = tuple(f"value {code}" for code in range(2, CODES))
    columns = [
        Column(name=f"c{j}", kind="category", categories=texts)
        if j < NUM_CATEGORIES
        else Column(name=f"c{j}", kind="number")
        for j in range(NUM_COLUMNS)
    ]
    encoder = Encoder(columns=columns)
    trees = Trees.from_lightgbm(booster.model_to_string())
    terms = [
        Term(weights=rng.normal(size=CODES))
        if j < NUM_CATEGORIES
        else Term(
            weights=rng.normal(size=20),
            edges=np.sort(rng.normal(size=19)),
            slope=0.1,
            low=-3.0,
            high=3.0,
        )
        for j in range(NUM_COLUMNS)
    ]
    linear = Additive.of(terms, bias=-2.0)
    rows = [_values(row) for row in x[:500]]
    print(f"{len(trees.roots)} trees x 31 leaves, {NUM_COLUMNS} columns, {CALLS} calls")
    for family, arrays in (("trees", trees.to_arrays()), ("linear", linear.to_arrays())):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.chopmark"
            Artifact(
                family=family,
                header={"encoder": encoder.to_json(), "feature_hashes": {}, "training": {}},
                arrays={
                    "calibration": np.empty((0, 2)),
                    **{f"{family}.{name}": array for name, array in arrays.items()},
                },
            ).save(path)
            size = path.stat().st_size
            began = time.perf_counter()
            scorer = load_scorer(path)
            loaded = time.perf_counter() - began
        _print(f"chopmark {family}: score_row", rows, scorer.score_row)
        _print(f"chopmark {family}: explain_row", rows, scorer.explain_row)
        _print(f"  of which reading the values ({family})", rows, scorer.encoder.base_row)
        print(f"  file {size / 1024:.0f} KiB, load and warm {loaded * 1e3:.0f} ms")
    arrays_x = [np.ascontiguousarray(row[None, :]) for row in x[:500]]
    _print("LightGBM Booster.predict, encoded row", arrays_x, booster.predict, calls=4_000)
    _print(
        "LightGBM Booster.predict, TreeSHAP",
        arrays_x,
        lambda row: booster.predict(row, pred_contrib=True),
        calls=1_000,
    )
    difference = np.abs(trees.raw(x[:500]) - booster.predict(x[:500], raw_score=True)).max()
    print(f"largest difference from Booster.predict(raw_score=True): {difference:.1e}")


def _booster(rng: np.random.Generator) -> tuple[lgb.Booster, np.ndarray]:
    x = rng.normal(size=(20_000, NUM_COLUMNS))
    x[:, :NUM_CATEGORIES] = rng.integers(0, CODES, size=(len(x), NUM_CATEGORIES))
    x[:, NUM_CATEGORIES:][rng.random((len(x), NUM_COLUMNS - NUM_CATEGORIES)) < 0.05] = np.nan
    z = np.nansum(x[:, 8:16] * x[:, 16:24], axis=1) + np.sin(x[:, 0]) + (x[:, 1] % 3)
    y = rng.random(len(x)) < 1.0 / (1.0 + np.exp(2.0 - z))
    parameters = {"objective": "binary", "num_leaves": 31, "num_threads": 1, "verbose": -1}
    data = lgb.Dataset(x, y, categorical_feature=list(range(NUM_CATEGORIES)))
    return lgb.train(parameters, data, num_boost_round=300), x


def _values(row: np.ndarray) -> list[float | str | None]:
    codes = [None if code == 0 else f"value {int(code)}" for code in row[:NUM_CATEGORIES]]
    return [*codes, *(None if np.isnan(value) else value for value in row[8:].tolist())]


def _print(name: str, rows: list, call: Callable[..., object], *, calls: int = CALLS) -> None:
    for row in rows[:200]:
        call(row)
    times = np.empty(calls)
    for i in range(calls):
        row = rows[i % len(rows)]
        began = time.perf_counter_ns()
        call(row)
        times[i] = time.perf_counter_ns() - began
    p50, p99 = np.percentile(times, [50, 99]) / 1e3
    print(f"{name:<44} p50 {p50:8.1f} us   p99 {p99:8.1f} us   min {times.min() / 1e3:8.1f} us")


if __name__ == "__main__":
    parser(__doc__).parse_args()
    main()
