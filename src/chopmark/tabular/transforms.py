"""From a table to its encoder: each column by its kind, dates also by their differences.

Serves A3, A5 and A6 of the requirements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import polars as pl

from chopmark.errors import DeclarationError, InvalidTable, did_you_mean
from chopmark.models import Column, Combination, Dropped, Encoder, Kind
from chopmark.tabular.kinds import category_column, deduce

MOST_DATES = 8
"""Differences are made between all pairs of up to this many date columns."""


def make_encoder(
    frame: pl.DataFrame,
    *,
    target: str,
    columns: Mapping[str, Kind] | None = None,
    extra: Sequence[Column | Combination] = (),
) -> Encoder:
    """The encoder of a training table; the label only says which column is not read.

    Parameters
    ----------
    frame
        Training rows.
    target
        Column of the label.
    columns
        Kinds that are known better than deduction would find them, by column.
    extra
        Further readings: a `Column` (say with a pattern) or a `Combination` of two columns.
        A category column without categories learns them here.

    Raises
    ------
    DeclarationError
        If `columns` or `extra` name a column that the table lacks.
    InvalidTable
        If no column is left to learn from.
    """
    hints = dict(columns or {})
    for name in hints:
        _check_known(name, frame, "`columns`")
    found = [
        deduce(frame.get_column(name), hint=hints.get(name))
        for name in frame.columns
        if name != target
    ]
    read = [item for item in found if isinstance(item, Column)]
    read += [_learned(item, frame) for item in extra if isinstance(item, Column)]
    dates = [item.name for item in read if item.kind == "date"][:MOST_DATES]
    made = [
        Combination(operation="days_between", left=later, right=earlier)
        for earlier, later in combinations(dates, 2)
    ]
    made += [item for item in extra if isinstance(item, Combination)]
    dropped = [item for item in found if isinstance(item, Dropped)]
    if not read:
        reasons = "; ".join(f"`{item.name}`: {item.reason}" for item in dropped)
        raise InvalidTable(f"no column is left to learn from ({reasons or 'the table has none'})")
    return Encoder(columns=read, combinations=made, dropped=dropped)


def _learned(column: Column, frame: pl.DataFrame) -> Column:
    _check_known(column.name, frame, "`extra`")
    if column.kind != "category" or column.categories:
        return column
    learned = category_column(frame.get_column(column.name), pattern=column.pattern)
    return replace(column, categories=learned.categories)


def _check_known(name: str, frame: pl.DataFrame, where: str) -> None:
    if name not in frame.columns:
        raise DeclarationError(
            f"{where} names column `{name}`, which the table lacks"
            + did_you_mean(name, frame.columns)
        )
