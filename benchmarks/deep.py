"""The deep learner beside the linear one and the trees: log loss, time to fit, time of a row.

Run: CHOPMARK_DATA=../shared/data .venv/bin/python benchmarks/deep.py [TABLE ...]

Tables are `tabular/*.parquet` in the folder that CHOPMARK_DATA names, split 70/30 by
scikit-learn with seed 0 and the label in `target`. All learners get the same problem: five
folds below 20,000 rows, else a fifth held out, then a fit on all rows; one thread. The blend is
a non-negative logistic regression over the held-out log-odds of the three. Seconds are of the
processor, so that a shared machine tells nearly the same as a quiet one; the compiler's own
time is spent on a first, tiny fit. Needs the extra `deep`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter_ns, process_time

import numpy as np
import polars as pl
from machine import parser, progress, report, table
from scipy.optimize import minimize
from sklearn.model_selection import train_test_split

from chopmark.models.dense import Dense, dense_moves, dense_raw
from chopmark.models.splits import folds, stratified
from chopmark.tabular.deep import learn_deep
from chopmark.tabular.linear import learn_linear
from chopmark.tabular.problem import Problem
from chopmark.tabular.tables import labels_of
from chopmark.tabular.transforms import make_encoder
from chopmark.tabular.trees import learn_trees

TABLES = ("titanic", "german_credit", "credit_data", "online_shoppers", "adult")
LEARNERS = {"linear": learn_linear, "trees": learn_trees, "deep": learn_deep}
LARGE = 20_000
ROWS_TIMED = 2_000


def main(names: list[str], folder: Path) -> None:
    """Print one table of log losses, one of times."""
    learn_deep(_warm())
    losses, times = [], []
    for name in names:
        problem, x, y = _problem(folder / "tabular" / f"{name}.parquet")
        raw, held_out, seconds = {}, {}, {}
        for learner, learn in LEARNERS.items():
            progress(f"{name}: {learner}")
            began = process_time()
            learned = learn(problem)
            seconds[learner] = process_time() - began
            raw[learner] = learned.part.raw(x)
            held_out[learner] = learned.held_out_raw
        weights = _blend(held_out, problem.y[problem.held_out_rows])
        raw["blend"] = np.column_stack([*raw.values(), np.ones(len(x))]) @ weights
        losses.append(
            [
                name,
                len(problem.y),
                *(f"{_loss(z, y):.4f}" for z in raw.values()),
                " ".join(f"{weight:.2f}" for weight in weights[:-1]),
            ]
        )
        score_us, explain_us = _row_times(learned.part, x)
        times.append(
            [
                name,
                x.shape[1],
                *(f"{spent:.1f}" for spent in seconds.values()),
                f"{score_us:.1f}",
                f"{explain_us:.1f}",
            ]
        )
    table(["log loss", "rows", *LEARNERS, "blend", "its weights"], losses)
    fits = [f"{learner}, CPU s" for learner in LEARNERS]
    table(["time", "columns", *fits, "deep: score, us a row", "explain, us"], times)


def _problem(path: Path) -> tuple[Problem, np.ndarray, np.ndarray]:
    """The problem of the training part, and encoded columns and labels of the other."""
    whole = pl.read_parquet(path)
    rows = np.arange(whole.height)
    train, test = train_test_split(rows, test_size=0.3, random_state=0, stratify=whole["target"])
    encoder = make_encoder(whole[train], target="target", columns={}, extra=())
    y = labels_of(whole[train], "target")
    large = len(y) >= LARGE
    parts = [stratified(y, test_share=0.2)] if large else list(folds(y, count=5))
    problem = Problem(
        x=encoder.table(whole[train]), y=y, encoded=encoder.encoded, parts=parts, refit=True
    )
    return problem, encoder.table(whole[test]), labels_of(whole[test], "target")


def _warm() -> Problem:
    x, y = np.arange(40.0)[:, None], np.arange(40.0) % 2.0
    encoder = make_encoder(
        pl.DataFrame({"a": x[:, 0], "target": y}),
        target="target",
        columns={"a": "number"},
        extra=(),
    )
    return Problem(x=x, y=y, encoded=encoder.encoded, parts=list(folds(y, count=2)), refit=True)


def _blend(held_out: Mapping[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    """Weights of the learners, none below zero, then the constant."""
    z = np.column_stack([*held_out.values(), np.ones(len(y))])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        raw = z @ weights
        return _loss(raw, y), z.T @ (1.0 / (1.0 + np.exp(-raw)) - y) / len(y)

    begin = np.array([1.0 / len(held_out)] * len(held_out) + [0.0])
    bounds = [(0.0, None)] * len(held_out) + [(None, None)]
    return minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds).x


def _loss(raw: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, raw) - y * raw))


def _row_times(part: Dense, x: np.ndarray) -> tuple[float, float]:
    """Median microseconds to score and to explain one encoded row."""
    scoring, explaining = part.scoring, part.explaining
    times = np.empty((ROWS_TIMED, 2))
    for i in range(ROWS_TIMED):
        row, moves = x[i % len(x)], np.zeros(x.shape[1])
        began = perf_counter_ns()
        dense_raw(row, *scoring)
        between = perf_counter_ns()
        dense_moves(row, *explaining, moves)
        times[i] = between - began, perf_counter_ns() - between
    score_us, explain_us = np.median(times[ROWS_TIMED // 10 :], axis=0) / 1e3
    return float(score_us), float(explain_us)


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("names", nargs="*", metavar="TABLE", help="default: five of them")
    chosen = arguments.parse_args().names or list(TABLES)
    root = os.environ.get("CHOPMARK_DATA") or Path(__file__).parents[2] / "shared" / "data"
    with report("Deep learner"):
        main(chosen, Path(root))
