"""Frames of events as parts: users, times, codes and numbers, checked, in the order given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable, did_you_mean
from chopmark.times import instant

Frame = Any
"""A Polars, pandas or pyarrow table, or the path of a Parquet file."""

NEVER = -(2**63)
"""The instant before all instants: what an empty history covers."""


INSTANTS = ("happened_at", "known_at")
"""Columns that are times and never fields: as a number, an instant names the event."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Which columns of a frame are what; None where the frame decides."""

    user: str
    time: str
    type: str
    categories: Sequence[str] | None
    numbers: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one frame, in the order they came in."""

    users: pl.Series
    """(n,) Int64 or String, none missing."""
    times: NDArray[np.int64]
    categories: dict[str, pl.Series]
    """name -> (n,) String; ``type`` is first."""
    numbers: dict[str, NDArray[np.float32]]

    def up_to(self, until: int) -> Part:
        """The rows that are not later than an instant."""
        if not len(self.times) or self.times.max() <= until:
            return self
        kept = self.times <= until
        mask = pl.Series(kept)
        return Part(
            users=self.users.filter(mask),
            times=self.times[kept],
            categories={name: texts.filter(mask) for name, texts in self.categories.items()},
            numbers={name: column[kept] for name, column in self.numbers.items()},
        )


def read_part(frame: Frame, fields: Fields, place: str = "") -> Part:
    """The rows of a frame.

    Parameters
    ----------
    place
        Put before messages: "part 3: ", say.

    Raises
    ------
    InvalidTable
        If a column is missing or of a wrong kind, or a user or a time is missing.
    """
    columns = _frame(frame, fields.time, place)
    for name in (fields.user, fields.time, fields.type):
        if name not in columns.columns:
            raise InvalidTable(
                f"{place}expected a column `{name}` in the frame of events"
                + did_you_mean(name, columns.columns)
            )
    if fields.type != "type" and "type" in columns.columns and fields.user != "type":
        raise InvalidTable(
            f"{place}column `{fields.type}` holds the types of the events, so a column `type` "
            "beside it would be taken for it; drop or rename one of the two"
        )
    users = _users(columns[fields.user], place)
    times = micros(columns[fields.time], place)
    taken = {fields.user, fields.time, fields.type, *INSTANTS}
    rest = [name for name in columns.columns if name not in taken]
    texts = (
        [name for name in rest if is_text(columns.schema[name])]
        if fields.categories is None
        else [name for name in fields.categories if name != fields.type]
    )
    numbers = (
        [name for name in rest if is_number(columns.schema[name]) and name not in texts]
        if fields.numbers is None
        else list(fields.numbers)
    )
    for name in (*texts, *numbers):
        if name in INSTANTS:
            raise InvalidTable(
                f"{place}expected fields of the events, got `{name}`, which is a time; name it as "
                "`time`, or leave it out"
            )
        if name not in columns.columns:
            raise InvalidTable(
                f"{place}expected a column `{name}` in the frame of events"
                + did_you_mean(name, columns.columns)
            )
    categories = {"type": _text(columns[fields.type], place)}
    categories |= {name: _text(columns[name], place) for name in texts}
    return Part(
        users=users,
        times=times,
        categories=categories,
        numbers={name: _number(columns[name], place) for name in numbers},
    )


def is_text(dtype: pl.DataType) -> bool:
    """Whether a column of this kind is a category when nobody says what it is."""
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def is_number(dtype: pl.DataType) -> bool:
    """Whether a column of this kind is a number when nobody says what it is."""
    return dtype.is_numeric() or dtype == pl.Boolean


def micros(series: pl.Series, place: str = "") -> NDArray[np.int64]:
    """(n,) microseconds since 1970 of datetimes, dates, ISO texts or whole numbers.

    A time without a zone is UTC.
    """
    kind, name = series.dtype, series.name
    if kind == pl.String:
        series = _parsed(series, place)
    elif kind == pl.Date:
        series = series.cast(pl.Datetime("us")).dt.epoch("us")
    elif isinstance(kind, pl.Datetime):
        series = series.dt.epoch("us")
    elif kind == pl.Object:
        series = pl.Series(name, [_micros(value, row, name, place) for row, value in
                                  enumerate(series.to_list())], dtype=pl.Int64)  # fmt: skip
    elif not kind.is_integer():
        raise InvalidTable(
            f"{place}expected datetimes, ISO texts or whole microseconds in column `{name}`, "
            f"got {kind}; parse the column first"
        )
    _none_missing(series, "a time", place)
    return _own(series.cast(pl.Int64).to_numpy())


def _parsed(series: pl.Series, place: str) -> pl.Series:
    """Microseconds of ISO texts, with or without zones, mixed as they like."""
    given = series.unique(maintain_order=True)
    rows = {}
    for value in given.to_list():
        rows[value] = None if value is None else _micros(value, None, series.name, place, series)
    return series.replace_strict(rows, return_dtype=pl.Int64)


def _micros(
    value: Any, row: int | None, name: str, place: str, series: pl.Series | None = None
) -> int | None:
    if value is None or value != value:  # NaN, pandas' NaT
        return None
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            if value.tzinfo is None:
                value = value.replace(tzinfo=UTC)
            return instant(value)
        if isinstance(value, date):
            return instant(datetime(value.year, value.month, value.day, tzinfo=UTC))
    except (ValueError, InvalidInput):
        pass
    if row is None and series is not None:
        row = int((series == value).arg_max() or 0)
    raise InvalidTable(
        f"{place}expected an ISO 8601 time like `2026-01-31T12:00:00Z` in column `{name}`, got "
        f"`{value}` in row {row} (counting from 0)"
    )


def _users(series: pl.Series, place: str) -> pl.Series:
    _none_missing(series, "a user", place)
    if is_text(series.dtype):
        return series.cast(pl.String)
    if series.dtype.is_integer():
        users = series.cast(pl.Int64, strict=False)
        if users.null_count():
            raise InvalidTable(
                f"{place}expected users within 64 signed bits in column `{series.name}`, got "
                f"`{series.filter(users.is_null())[0]}`; cast the column to text"
            )
        return users
    if series.dtype.is_float():
        _none_missing(series.fill_nan(None), "a user", place)
    raise InvalidTable(
        f"{place}expected texts or whole numbers in the column `{series.name}` of users, got "
        f"{series.dtype}; cast the column first"
    )


def _none_missing(series: pl.Series, what: str, place: str) -> None:
    if series.null_count():
        row = int(series.is_null().arg_max() or 0)
        raise InvalidTable(
            f"{place}expected {what} in every row of column `{series.name}`, got none in row "
            f"{row} (counting from 0); drop the {series.null_count():,} rows without, or fill them"
        )


def _text(series: pl.Series, place: str) -> pl.Series:
    if series.dtype == pl.Null or is_text(series.dtype):
        return series.cast(pl.String)
    if series.dtype.is_integer() or series.dtype in (pl.Boolean, pl.Date):
        return series.cast(pl.String)
    if series.dtype.is_float():
        # 3.0 and 3 are one word: whole numbers turn to floats where pandas met a gap.
        whole = series.fill_nan(None)
        if ((whole % 1 == 0) & (whole.abs() < 2**53)).fill_null(True).all():
            return whole.cast(pl.Int64).cast(pl.String)
        return whole.cast(pl.String)
    raise InvalidTable(
        f"{place}expected texts or whole numbers in the category `{series.name}`, got "
        f"{series.dtype}; cast the column first"
    )


def _number(series: pl.Series, place: str) -> NDArray[np.float32]:
    if series.dtype == pl.Null:
        return np.full(len(series), np.nan, dtype=np.float32)
    if not is_number(series.dtype):
        raise InvalidTable(
            f"{place}expected numbers in field `{series.name}`, got {series.dtype}; cast the "
            "column, or name it among the categories"
        )
    with np.errstate(over="ignore"):
        return _own(series.cast(pl.Float32).fill_null(np.nan).to_numpy())


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy that may be written: one kind of array, one compiled kernel."""
    return array if array.flags.writeable else array.copy()


def _frame(frame: Frame, time: str, place: str) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, (str, Path)):
        try:
            return pl.read_parquet(frame)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InvalidTable(
                f"{place}expected a Parquet file at `{frame}`, but it cannot be read: {error}"
            ) from error
    module = type(frame).__module__.partition(".")[0]
    if module == "pyarrow":
        return pl.DataFrame(pl.from_arrow(frame))
    if module == "pandas":
        # Datetimes of several zones are objects, which Arrow cannot hold.
        objects = [name for name in frame.columns if name == time and frame[name].dtype == object]
        columns = pl.from_pandas(frame.drop(columns=objects))
        for name in objects:
            values = [_micros(at, row, name, place) for row, at in enumerate(frame[name].tolist())]
            columns = columns.with_columns(pl.Series(name, values, dtype=pl.Int64))
        return columns
    raise InvalidTable(
        f"{place}expected a Polars, pandas or pyarrow table, or the path of a Parquet file, got "
        f"`{type(frame).__name__}`"
    )
