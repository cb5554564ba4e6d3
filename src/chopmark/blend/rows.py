"""Rows for the two layers of a blend: who learns, who weighs, who judges. Never one row twice.

Serves B11 to B13 of the requirements.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.models import Table
from chopmark.models.splits import (
    Rows,
    Split,
    by_group,
    folds,
    forward,
    group_folds,
    out_of_time,
    stratified,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What ties rows together, beside chance.

    Attributes
    ----------
    time
        Column of the instant or number by which the second layer's rows come after the first's.
    groups
        Column of the entity whose rows stay on one side.
    """

    time: str | None = None
    groups: str | None = None

    def parted(self, frame: pl.DataFrame, y: NDArray[np.float64], share: float, seed: int) -> Split:
        """Rows to learn from and, about `share` of all, rows to go on with."""
        if self.time is not None:
            return out_of_time(times_of(frame, self.time), test_share=share)
        if self.groups is not None:
            return by_group(_names(frame, self.groups), test_share=share, seed=seed)
        return stratified(y, test_share=share, seed=seed)

    def folded(
        self, frame: pl.DataFrame, y: NDArray[np.float64], count: int, seed: int
    ) -> list[Split]:
        """Up to `count` splits whose test rows are disjoint."""
        if self.time is not None:
            return list(forward(times_of(frame, self.time), count=count))
        if self.groups is not None:
            entities = _names(frame, self.groups)
            return list(group_folds(entities, count=count, seed=seed))
        return list(folds(y, count=int(min(count, y.sum(), len(y) - y.sum())), seed=seed))


def frame_of(table: Table) -> pl.DataFrame:
    """The polars DataFrame of a polars, pandas or pyarrow table.

    Raises
    ------
    InvalidTable
        If it is none of these.
    """
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    library = type(table).__module__.partition(".")[0]
    if library in ("pandas", "pyarrow"):
        table = pl.from_pandas(table) if library == "pandas" else pl.from_arrow(table)
    if isinstance(table, pl.DataFrame):
        return table
    raise InvalidTable(
        "expected a polars or pandas DataFrame or a pyarrow Table to blend on, got "
        f"{type(table).__module__}.{type(table).__qualname__}"
    )


def labels_of(frame: pl.DataFrame, target: str) -> NDArray[np.float64]:
    """(n,) labels 0.0 or 1.0, at least two rows of each.

    Raises
    ------
    InvalidTable
        If the column or a label is missing, is neither 0 nor 1, or of one class.
    """
    column = _column(frame, target)
    if column.null_count() or not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise InvalidTable(
            f"expected 0 (good) or 1 (bad) in each row of `{target}`, got {column.null_count()} "
            f"missing labels and values of type {column.dtype}"
        )
    labels: NDArray[np.float64] = column.cast(pl.Float64).to_numpy()
    strange = labels[(labels != 0.0) & (labels != 1.0)]
    if len(strange):
        raise InvalidTable(f"expected 0 (good) or 1 (bad) in `{target}`, got {strange[0]:g}")
    if min(labels.sum(), len(labels) - labels.sum()) < 2:
        raise InvalidTable(
            f"expected at least two good and two bad rows, got {int((labels == 0).sum())} good "
            f"and {int((labels == 1).sum())} bad in `{target}`"
        )
    return labels


def times_of(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """(n,) numbers that rise with the times of a column.

    Raises
    ------
    InvalidTable
        If the column is missing, holds no times or numbers, or misses one.
    """
    column = _column(frame, name)
    if not (column.dtype.is_numeric() or column.dtype.is_temporal()) or column.null_count():
        raise InvalidTable(
            f"expected a time or a number in each row of `{name}`, got {column.null_count()} "
            f"missing and values of type {column.dtype}; parse texts to dates first"
        )
    times: NDArray[np.float64] = column.to_physical().cast(pl.Float64).to_numpy()
    return times


def check_disjoint(*parts: Rows) -> None:
    """Hold row numbers to being in one part each; a broken split must never train a model."""
    rows = np.concatenate(parts)
    if len(np.unique(rows)) != len(rows):
        raise InvalidTable("expected each row in one part of the split alone, got one in two")


def check_apart(frame: pl.DataFrame, valid: pl.DataFrame) -> None:
    """Refuse validation rows that are rows of the training table.

    Some tables have equal rows by nature. As many as the training table has among its own are
    let pass, and three standard deviations more.

    Raises
    ------
    InvalidTable
        If more rows are in both, or the tables have no columns in common.
    """
    missing = [name for name in frame.columns if name not in valid.columns]
    if missing:
        raise InvalidTable(
            f"the validation table lacks column `{missing[0]}`"
            + did_you_mean(missing[0], valid.columns)
        )
    own = frame.hash_rows(seed=0).to_numpy()
    later = valid.select(frame.columns).cast(frame.schema, strict=False).hash_rows(seed=0)
    num_shared = int(np.isin(later.to_numpy(), own).sum())
    _, counts = np.unique(own, return_counts=True)
    expected = valid.height * float(counts[counts > 1].sum()) / max(len(own), 1)
    if num_shared > expected + 3.0 * np.sqrt(expected):
        raise InvalidTable(
            f"{num_shared} of {valid.height} validation rows are rows of the training table too, "
            "so that they cannot judge it; leave them out of one of the two"
        )


def _names(frame: pl.DataFrame, name: str) -> NDArray[np.object_]:
    """(n,) names of entities; the missing are one entity."""
    names: NDArray[np.object_] = _column(frame, name).cast(pl.String).fill_null("").to_numpy()
    return names


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    if name not in frame.columns:
        raise InvalidTable(
            f"expected a column `{name}`, which the table lacks" + did_you_mean(name, frame.columns)
        )
    return frame.get_column(name)
