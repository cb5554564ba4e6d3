"""From a table to its encoder: each column by its kind, dates also by their differences.

    number, boolean   itself
    category          its code
    high cardinality  its code, rare and unseen values hashed
    date              days since 1970, hour, weekday, month and day; differences of all pairs
                      of dates, and of each date to the row's own time
    text              length, number of words, share of digits

None of this looks at the label; `chopmark.tabular.target_means` adds what does.
Serves A3, A5 and A6 of the requirements.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import polars as pl

from chopmark.errors import DeclarationError, InvalidTable, did_you_mean
from chopmark.models import Column, Combination, Dropped, Encoder, Kind
from chopmark.models.column import PARTS
from chopmark.tabular.kinds import category_column, deduce

MOST_DATES = 20
"""Differences are made between all pairs of up to this many date columns: 190 of them."""

_TEXT_PARTS = ("length", "words", "digits")


def make_encoder(
    frame: pl.DataFrame,
    *,
    target: str,
    columns: Mapping[str, Kind] | None = None,
    extra: Sequence[Column | Combination] = (),
    time: str | None = None,
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
    time
        Column of the row's own time, a date: each other date is also read as its distance to
        it. Its own "epoch_days" are not read, as they always lie beyond those learned from.

    Raises
    ------
    DeclarationError
        If `columns`, `extra` or `time` name a column that the table lacks.
    InvalidTable
        If no column is left to learn from.
    """
    hints = dict(columns or {})
    for name in hints:
        _check_known(name, frame, "`columns`")
    if time is not None:
        _check_known(time, frame, "`time`")
        hints.setdefault(time, "date")
    found = [
        deduce(frame.get_column(name), hint=hints.get(name))
        for name in frame.columns
        if name != target
    ]
    read = [_of_time(item, time) for item in found if isinstance(item, Column)]
    made = _differences([item.name for item in read if item.kind == "date"], time)
    read = [reading for item in read for reading in _readings(item)]
    if any(isinstance(item, Column) and item.name == target for item in extra):
        raise DeclarationError(f"`extra` reads the label `{target}`; leave it out")
    read += [_learned(item, frame) for item in extra if isinstance(item, Column)]
    made += [item for item in extra if isinstance(item, Combination)]
    dropped = [item for item in found if isinstance(item, Dropped)]
    if not read:
        reasons = "; ".join(f"`{item.name}`: {item.reason}" for item in dropped)
        raise InvalidTable(f"no column is left to learn from ({reasons or 'the table has none'})")
    return Encoder(columns=read, combinations=made, dropped=dropped)


def _of_time(column: Column, time: str | None) -> Column:
    if column.name != time or column.kind != "date":
        return column
    return replace(column, parts=tuple(part for part in column.parts if part != PARTS[0]))


def _differences(dates: Sequence[str], time: str | None) -> list[Combination]:
    """Of all pairs of the first dates, the later column minus the earlier; time minus each."""
    others = [name for name in dates if name != time]
    pairs = [(right, left) for left, right in combinations(others[:MOST_DATES], 2)]
    if time is not None and time in dates:
        pairs += [(time, name) for name in others]
    return [Combination(operation="days_between", left=left, right=right) for left, right in pairs]


def _readings(column: Column) -> Iterator[Column]:
    if column.kind == "text":
        for part in _TEXT_PARTS:
            yield replace(column, parts=(part,))
    else:
        yield column


def _learned(column: Column, frame: pl.DataFrame) -> Column:
    _check_known(column.name, frame, "`extra`")
    if column.num_codes == 0 or column.categories:
        return column
    series = frame.get_column(column.name)
    learned = category_column(series, kind=column.kind, pattern=column.pattern)
    return replace(learned, buckets=column.buckets or learned.buckets)


def _check_known(name: str, frame: pl.DataFrame, where: str) -> None:
    if name not in frame.columns:
        raise DeclarationError(
            f"{where} names column `{name}`, which the table lacks"
            + did_you_mean(name, frame.columns)
        )
