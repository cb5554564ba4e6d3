"""Which rows are held out: the ones given, later ones, whole groups, or any in turn.

Serves A16 of the requirements.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.models import Column, Encoder
from chopmark.models.splits import Split, folds, forward, group_folds, out_of_time, stratified
from chopmark.tabular.kinds import deduce

SMALL_TABLE = 20_000
"""Rows below which folds are affordable; larger tables hold out one fifth."""

FEW_OF_A_LABEL = 1_000
"""Rows of the rarer label below which a larger table takes folds as well: a fifth of so few
says little about when to stop and whom to believe."""

_MOST_FOLDS = 5
_FEWEST_FOLDS = 3
_ENOUGH_FOR_THREE = 8_000
"""Rows from which on three folds choose as well as five, in half of the time."""

_HELD_OUT_SHARE = 0.2


def is_large(y: NDArray[np.float64], *, numbers: bool) -> bool:
    """Whether one fifth of the labels (n,) says enough: many rows, and not few of a label."""
    rarest = len(y) if numbers else int(np.unique(y, return_counts=True)[1].min())
    return len(y) >= SMALL_TABLE and rarest >= FEW_OF_A_LABEL


def held_out_parts(
    frame: pl.DataFrame,
    y: NDArray[np.float64],
    *,
    numbers: bool,
    time: str,
    groups: str,
    num_train: int | None,
    seed: int,
) -> list[Split]:
    """The splits by which learners stop, are weighed and calibrated.

    Parameters
    ----------
    frame, y
        (n,) rows and the codes of their labels, or numbers.
    numbers
        Whether y are numbers.
    time, groups
        Column by which later rows, or whole groups, are held out; "" is none.
    num_train
        The rows from this one on are held out, whatever the columns say.

    Raises
    ------
    InvalidTable
        If the table lacks the column, a time is missing, or no part can be learned from.
    """
    if num_train is not None:
        rows = np.arange(len(y))
        return [Split(train=rows[:num_train], test=rows[num_train:])]
    # Numbers are spread evenly over the folds by their tenth.
    labels = _tenths(y) if numbers else y
    rarest = int(np.unique(labels, return_counts=True)[1].min())
    large = is_large(y, numbers=numbers)
    most = _MOST_FOLDS if len(y) < _ENOUGH_FOR_THREE else _FEWEST_FOLDS
    if time:
        times = times_of(frame, time)
        if large:
            return _learnable(
                [out_of_time(times, test_share=_HELD_OUT_SHARE)], y, time, numbers=numbers
            )
        return _learnable(list(forward(times)), y, time, numbers=numbers)
    if groups:
        names = _column(frame, groups, "groups").cast(pl.String).fill_null("").to_numpy()
        count = min(most, len(np.unique(names)))
        found = list(group_folds(names, count=count, seed=seed))
        return _learnable(found[:1] if large else found, y, groups, numbers=numbers)
    if large:
        return [stratified(labels, test_share=_HELD_OUT_SHARE, seed=seed)]
    count = most if numbers else min(most, max(rarest, 2))
    return list(folds(labels, count=count, seed=seed))


def times_of(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """(n,) when each row was, as a number that rises with time.

    Raises
    ------
    InvalidTable
        If the column is neither dates nor numbers, or a value is missing.
    """
    series = _column(frame, name, "time")
    numeric = series.dtype.is_numeric()
    column = deduce(series, hint="number" if numeric else "date")
    if not isinstance(column, Column):
        raise InvalidTable(f"expected dates or numbers in the time column `{name}`")
    times = Encoder(columns=[column]).base_table(frame)[:, 0]
    missing = int(np.isnan(times).sum())
    if missing:
        raise InvalidTable(
            f"expected a date or a number in every row of the time column `{name}`, got "
            f"{missing} rows without one"
        )
    return times


def _column(frame: pl.DataFrame, name: str, what: str) -> pl.Series:
    if name not in frame.columns:
        raise InvalidTable(
            f"`{what}` names column `{name}`, which the table lacks"
            + did_you_mean(name, frame.columns)
        )
    return frame.get_column(name)


def _tenths(y: NDArray[np.float64]) -> NDArray[np.int64]:
    edges = np.unique(np.quantile(y, np.linspace(0.1, 0.9, 9)))
    tenths: NDArray[np.int64] = np.searchsorted(edges, y)
    return tenths


def _learnable(
    parts: list[Split], y: NDArray[np.float64], by: str, *, numbers: bool
) -> list[Split]:
    """The parts whose training rows hold every label, or numbers that differ."""
    needed = 2 if numbers else len(np.unique(y))
    good = [part for part in parts if len(np.unique(y[part.train])) >= needed and len(part.test)]
    judged = np.concatenate([y[part.test] for part in good]) if good else np.empty(0)
    if len(judged) == 0 or np.ptp(judged) == 0:
        raise InvalidTable(
            f"held out by `{by}`, no part has rows of all labels to learn from, and of two to "
            "judge by; give more rows, or another column"
        )
    return good
