"""The contract of a model, as a test that any model can be put to.

    def test_my_model():
        check_model(lambda: MyModel(), table, "target")

Needs no test framework: a broken promise raises `AssertionError` with the promise in words.
Serves A12 and A14 of the requirements.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from chopmark.errors import ArtifactError
from chopmark.models import Model, Scorer, load_scorer

_UNSEEN = "a value that no training row had"
_ROWS = 200


def check_model(model_factory: Callable[[], Model], table: pl.DataFrame, target: str) -> None:
    """Fit a model and hold it to every promise of `chopmark.models.Model` and `Scorer`.

    Parameters
    ----------
    model_factory
        Makes an unfitted model, the same one each time.
    table
        Rows with a label; small, as it is fitted twice.
    target
        Column of the label.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says which.
    """
    model = model_factory().fit(table, target=target)
    rows = table.drop(target).head(_ROWS)
    _check_scores(model, rows)
    _check_same_seed(model, model_factory, table, target, rows)
    _check_batches(model, rows)
    _check_explanations(model, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.chopmark"
        model.save(path)
        _check_loaded(model, path, rows)
        scorer = load_scorer(path)
        _check_rows(model, scorer, rows)
        _check_strange_values(scorer, rows)
        _check_refusals(path)


def _check_scores(model: Model, rows: pl.DataFrame) -> None:
    scores = model.score(rows)
    _promise(scores.shape == (rows.height,), "score gives one number per row")
    _promise(bool(np.all((scores >= 0) & (scores <= 1))), "scores are in [0, 1]")
    both = model.predict_proba(rows)
    _promise(both.shape == (rows.height, 2), "predict_proba gives two columns")
    _promise(np.array_equal(both[:, 1], scores), "predict_proba's second column is the score")
    _promise(bool(np.allclose(both.sum(axis=1), 1.0)), "predict_proba's rows sum to 1")
    _promise(set(model.reads) <= set(rows.columns), "reads names columns of the table")
    empty = rows.head(0)
    _promise(model.score(empty).shape == (0,), "an empty table has no scores")
    _promise(
        model.explain(empty).values.shape == (0, len(model.reads)),
        "an empty table has no explanations",
    )
    shares = list(model.importance().values())
    _promise(set(model.importance()) == set(model.reads), "importance covers reads")
    _promise(abs(sum(shares) - 1.0) < 1e-9, "importance sums to 1")
    _promise(shares == sorted(shares, reverse=True), "importance comes largest first")


def _check_same_seed(
    model: Model,
    model_factory: Callable[[], Model],
    table: pl.DataFrame,
    target: str,
    rows: pl.DataFrame,
) -> None:
    again = model_factory().fit(table, target=target)
    _promise(
        np.array_equal(again.score(rows), model.score(rows)),
        "the same seed and table give the same scores, bit for bit",
    )


def _check_batches(model: Model, rows: pl.DataFrame) -> None:
    scores = model.score(rows)
    _promise(
        np.array_equal(model.score(rows.reverse())[::-1], scores), "the order of rows is no matter"
    )
    halves = [model.score(rows[: rows.height // 2]), model.score(rows[rows.height // 2 :])]
    _promise(np.array_equal(np.concatenate(halves), scores), "the size of a batch is no matter")
    shuffled = rows.select(reversed(rows.columns))
    _promise(np.array_equal(model.score(shuffled), scores), "the order of columns is no matter")


def _check_explanations(model: Model, rows: pl.DataFrame) -> None:
    scores = model.score(rows)
    found = model.explain(rows)
    _promise(found.reads == tuple(model.reads), "an explanation names the columns of reads")
    gap = np.abs(found.log_odds() - np.log(scores / (1.0 - scores)))
    _promise(
        bool(np.all(gap < 1e-9)), "bias and contributions sum to the score's log-odds within 1e-9"
    )


def _check_loaded(model: Model, path: Path, rows: pl.DataFrame) -> None:
    loaded = type(model).load(path)
    _promise(
        np.array_equal(loaded.score(rows), model.score(rows)), "a loaded model scores the same"
    )
    _promise(
        np.array_equal(loaded.explain(rows).values, model.explain(rows).values),
        "a loaded model explains the same",
    )
    _promise(loaded.importance() == model.importance(), "a loaded model has the same importance")
    again = path.with_name("again.chopmark")
    loaded.save(again)
    _promise(again.read_bytes() == path.read_bytes(), "a loaded model saves the same file")


def _check_rows(model: Model, scorer: Scorer, rows: pl.DataFrame) -> None:
    scores = model.score(rows)
    explained = model.explain(rows)
    _promise(tuple(scorer.reads) == tuple(model.reads), "the scorer reads what the model reads")
    for i, values in enumerate(rows.select(scorer.reads).iter_rows()):
        score, contributions = scorer.explain_row(values)
        _promise(scorer.score_row(values) == scores[i], "a row scores as in its batch, bit for bit")
        _promise(score == scores[i], "an explained row has the same score")
        _promise(
            np.array_equal(contributions, explained.values[i]),
            "a row is explained as in its batch, bit for bit",
        )


def _check_strange_values(scorer: Scorer, rows: pl.DataFrame) -> None:
    """Whatever a request carries, there is a score, and it is explained."""
    first: list[Any] = list(rows.select(scorer.reads).row(0))
    strange: list[Any] = [
        None, float("nan"), float("inf"), 10**400, -1, 0, True, "", " ", _UNSEEN, "1e999", "é",
    ]  # fmt: skip
    nothing: list[Any] = [None] * len(first)
    for base in (first, nothing):
        for j in range(len(first)):
            for value in strange:
                values = [*base[:j], value, *base[j + 1 :]]
                score, contributions = scorer.explain_row(values)
                where = f"{value!r:.40} in column `{scorer.reads[j]}`"
                _promise(0.0 <= score <= 1.0, f"there is a score for {where}")
                _promise(scorer.score_row(values) == score, f"there is one score for {where}")
                log_odds = scorer.bias + contributions.sum()
                gap = abs(log_odds - np.log(score / (1.0 - score)))
                _promise(bool(gap < 1e-9), f"contributions sum for {where}")
    missing = scorer.score_row(nothing)
    nans = scorer.score_row([float("nan")] * len(first))
    _promise(missing == nans, "None and NaN are both missing")


def _check_refusals(path: Path) -> None:
    data = path.read_bytes()
    damaged = path.with_name("damaged.chopmark")
    places = range(0, len(data), max(1, len(data) // 50))
    versions = [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in (*places, len(data) - 1)]
    versions += [b"", data[: len(data) // 2], data[:-1], data + b"0"]
    for version in versions:
        damaged.write_bytes(version)
        try:
            load_scorer(damaged)
        except ArtifactError:
            continue
        _promise(False, "a damaged artifact is refused")


def _promise(kept: bool, promise: str) -> None:
    if not kept:
        raise AssertionError(f"broken promise of a model: {promise}")
