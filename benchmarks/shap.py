"""Time of explanations: our Shapley values against LightGBM's own, same model, same rows.

Both sides answer in one process and on one thread, in turn, so that whatever else the machine
does strikes both; each ratio is of two answers that lie next to each other. One row is timed by
the clock, a batch by the processor, which others may use as well meanwhile.

Run: .venv/bin/python benchmarks/shap.py
"""

from argparse import Namespace
from collections.abc import Callable
from time import perf_counter, process_time

import lightgbm as lgb
import numpy as np
from machine import number, parser, progress, ratio, report, runs, table, timed

from chopmark.models import Trees, kernels
from chopmark.models.shap import ShapPaths, shap_moves

NUM_ROWS = 20_000
NUM_COLUMNS = 40
NUM_CATEGORIES = 8
CODES = 12
GOAL_US = 300.0


def main(options: Namespace) -> None:
    """Print one table: one row and many rows, ours, theirs and the ratio."""
    booster, x = _booster(options.trees, options.leaves)
    trees = Trees.from_lightgbm(booster.model_to_string())
    paths = trees.paths.arrays
    arrays = (trees.nodes, trees.covers, trees.roots, trees.bitsets)
    laid_out = timed(lambda: ShapPaths.of(*arrays))[0]
    moves = np.zeros(NUM_COLUMNS)

    def ours(i: int) -> None:
        shap_moves(x[i], *paths, moves)

    def theirs(i: int) -> None:
        booster.predict(x[i : i + 1], pred_contrib=True, num_threads=1)

    def score(i: int) -> None:
        kernels.trees_raw(x[i], trees.nodes, trees.roots, trees.bitsets)

    with report(f"Shapley values, {options.trees} trees x {options.leaves} leaves"):
        progress("one row")
        row = _in_turn(ours, theirs, repeats=options.repeats)
        many = options.rows
        progress(f"{many} rows")
        batch = _in_turn(
            lambda _: trees.moves(x[:many]),
            lambda _: booster.predict(x[:many], pred_contrib=True, num_threads=1),
            repeats=options.batches,
            clock=process_time,
        )
        scored = _in_turn(score, score, repeats=options.repeats)[0]
        _print("one row, us", row, 1e6)
        _print(f"{many} rows, ms", batch, 1e3)
        print(f"score alone, one row: {number(np.median(scored) * 1e6)} us")
        print(f"laying out the paths, once per model: {number(laid_out * 1e3)} ms")
        print(f"goal of {GOAL_US:.0f} us: {number(np.median(row[0]) * 1e6)} us")
        print(f"largest difference: {_difference(trees, booster, x[:200]):.1e}")


def _booster(num_trees: int, num_leaves: int) -> tuple[lgb.Booster, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, NUM_COLUMNS))
    x[:, :NUM_CATEGORIES] = rng.integers(0, CODES, size=(NUM_ROWS, NUM_CATEGORIES))
    x[:, NUM_CATEGORIES:][rng.random((NUM_ROWS, NUM_COLUMNS - NUM_CATEGORIES)) < 0.05] = np.nan
    z = np.nansum(x[:, 8:16] * x[:, 16:24], axis=1) + np.sin(x[:, 0]) + (x[:, 1] % 3)
    y = rng.random(NUM_ROWS) < 1.0 / (1.0 + np.exp(2.0 - z))
    parameters = {
        "objective": "binary",
        "num_leaves": num_leaves,
        "num_threads": 1,
        "verbose": -1,
    }
    data = lgb.Dataset(x, y, categorical_feature=list(range(NUM_CATEGORIES)))
    return lgb.train(parameters, data, num_boost_round=num_trees), x


def _in_turn(
    first: Callable[[int], object],
    second: Callable[[int], object],
    *,
    repeats: int,
    clock: Callable[[], float] = perf_counter,
) -> np.ndarray:
    """(2, repeats) seconds of two calls, one after the other, over changing rows."""
    first(0), second(0)
    times = np.empty((2, repeats))
    for i in range(repeats):
        for side, call in enumerate((first, second)):
            began = clock()
            call(i % 1_000)
            times[side, i] = clock() - began
    return times


def _print(what: str, times: np.ndarray, unit: float) -> None:
    ours, theirs = runs(times[0] * unit), runs(times[1] * unit)
    cells = [what, ours.text(), theirs.text(), ratio(ours, theirs).text(unit="x")]
    fastest = [number(side.min() * unit) for side in times]
    table(
        ["", "chopmark", "LightGBM pred_contrib", "ratio", "fastest of each"],
        [[*cells, " / ".join(fastest)]],
    )


def _difference(trees: Trees, booster: lgb.Booster, x: np.ndarray) -> float:
    theirs = booster.predict(x, pred_contrib=True, num_threads=1)
    return float(np.abs(np.column_stack([trees.moves(x), [trees.bias] * len(x)]) - theirs).max())


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--trees", type=int, default=300)
    arguments.add_argument("--leaves", type=int, default=31)
    arguments.add_argument("--rows", type=int, default=1_000, help="of the batch, up to 20,000")
    arguments.add_argument("--repeats", type=int, default=1_000, help="of one row")
    arguments.add_argument("--batches", type=int, default=7, help="repeats of the batch")
    main(arguments.parse_args())
