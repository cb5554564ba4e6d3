"""Tables of history from outside: CSV, Parquet, JSON lines and SQL, as rows in known order.

Every source becomes the same thing, a run of `Row`s: where each row stood, when it was and became
known, and its values by column. A row that cannot be read is kept with its reason instead,
so that the caller decides whether one bad row stops all. Messages never show a value, only
its shape (``999-99-9999``), as a wrong mapping may have brought an identifier anywhere; nor a
column's name that may be one, as a file without a header begins with a row. Only what a
database says of a query is shown as it is.
"""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np
import polars as pl
import sqlalchemy

from chopmark.errors import InvalidInput
from chopmark.events.schema import Kind
from chopmark.times import instant, moment

_NAME = re.compile(r"[^\W\d][\w .()/$%-]{0,63}")
_EARLIEST, _LATEST = instant("0001-01-02T00:00:00Z"), instant("9999-12-30T00:00:00Z")


@dataclass(frozen=True, slots=True)
class SqlQuery:
    """The result of a query on a database; made by `read_sql`."""

    url: str = field(repr=False)  # may hold a password
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One table and how to read it, where several with different columns are merged.

    Attributes
    ----------
    data : path, SqlQuery or DataFrame
        A ``.csv``, ``.parquet``, ``.jsonl`` or ``.ndjson`` file, a query, or a Polars frame.
    event_type : str, optional
        Type of all rows; without it, a column ``type`` says it row by row.
    mapping : dict of str to str or None
        From column to field; to None for a column to leave out. ``{"*": None}`` leaves out
        all columns that are no field.
    time_zone : str
        Of times that name none, such as ``"Europe/Berlin"``.
    """

    data: str | os.PathLike[str] | SqlQuery | pl.DataFrame
    event_type: str | None = None
    mapping: Mapping[str, str | None] = field(default_factory=dict)
    time_zone: str = "UTC"

    @property
    def name(self) -> str:
        """What a message calls it: the path, the query, or just a frame."""
        if isinstance(self.data, pl.DataFrame):
            return "the frame"
        return f"query `{self.data.query}`" if isinstance(self.data, SqlQuery) else str(self.data)


class Row(msgspec.Struct, frozen=True):
    """One row of a source.

    Attributes
    ----------
    number : int
        Line of a file (the header of a CSV is line 1), row of a Parquet file or result from 1.
    known_at, happened_at : int
        Microseconds since the epoch; of a bad row before all others.
    values : dict of str to object
        By field name, without None.
    reason : str or None
        Why the row cannot be used.
    """

    number: int
    known_at: int
    happened_at: int
    values: dict[str, Any]
    reason: str | None = None


def read_sql(url: str, query: str) -> SqlQuery:
    """The result of a SQL query as a source of `ingest`.

    Parameters
    ----------
    url : str
        As SQLAlchemy wants it, ``sqlite:///file.db`` or ``postgresql+psycopg://...``; no
        message shows it.
    query : str
        One SELECT.
    """
    return SqlQuery(url, query)


def read_rows(source: Source, kinds: Mapping[str, Kind]) -> Iterator[Row]:
    """The rows of a source, by ``known_at``; bad ones first.

    Memory: the whole source, as columns (Parquet) or as one JSON text per row (others).

    Parameters
    ----------
    kinds : dict of str to {"number", "boolean", "text", "time"}
        What a column may be after the mapping. Whole numbers become the text that a text
        field wants, and times without a zone get the source's.

    Raises
    ------
    InvalidInput
        If the source as a whole cannot be read, or has other columns.
    """
    try:
        zone = ZoneInfo(source.time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InvalidInput(
            f"expected a time zone such as `Europe/Berlin`, got `{source.time_zone}`"
        ) from error
    table = _Table(source, kinds, zone)
    if isinstance(source.data, SqlQuery):
        return _sorted_rows(table, _sql_rows(source.data))
    if isinstance(source.data, pl.DataFrame):
        names = table.names(source.data.columns)
        return _frame_rows(table, source.data.select(list(names)).rename(names))
    path = Path(source.data)
    if not path.is_file():
        raise InvalidInput(f"expected a file at {path}, got none; check the path")
    if path.suffix == ".parquet":
        return _parquet_rows(table, path)
    if path.suffix == ".csv":
        return _sorted_rows(table, _csv_rows(path))
    if path.suffix in (".jsonl", ".ndjson"):
        return _sorted_rows(table, _json_rows(path))
    raise InvalidInput(
        f"expected a file that ends in .csv, .parquet, .jsonl or .ndjson, got {path}; "
        "rename it if it is one of these"
    )


def shape(value: object) -> str:
    """How a value looks, without saying it: digits as 9, letters as a.

    Examples
    --------
    >>> shape("Ann 123-45")
    '`aaa 999-99`'
    """
    text = str(value)[:40]
    return "`" + "".join("9" if c.isdigit() else "a" if c.isalpha() else c for c in text) + "`"


@dataclass(frozen=True, slots=True)
class _Table:
    """A source and what its columns may be."""

    source: Source
    kinds: Mapping[str, Kind]
    zone: ZoneInfo

    def names(self, columns: Sequence[str], *, complete: bool = True) -> dict[str, str]:
        """From column to field, without the columns to leave out.

        ``complete``: these are all columns, so that a mapped one that lacks is a mistake.
        """
        source, fields = self.source, self.kinds
        # Line 1 of a CSV may be a row: it is a header only if some name in it is known.
        is_header = not source.name.endswith(".csv") or any(
            name in fields or name in source.mapping for name in columns
        )
        hint = "" if is_header else "; is line 1 its column names?"
        came = ", ".join(_column(name, is_header=is_header) for name in columns)
        absent = [name for name in source.mapping if name != "*" and name not in columns]
        if absent and complete:
            raise InvalidInput(
                f"expected the mapped column `{absent[0]}` in {source.name}, got columns {came}"
                + hint
            )
        names: dict[str, str] = {}
        strange = []
        for column in columns:
            name = source.mapping.get(column, column)
            if name is None:
                continue
            if name in fields:
                if name in names.values():
                    raise InvalidInput(f"two columns of {source.name} both become field `{name}`")
                names[column] = name
            elif "*" not in source.mapping or column in source.mapping:
                strange.append(_column(column, is_header=is_header))
        if strange:
            raise InvalidInput(
                f"expected columns that are fields in {source.name}, got {', '.join(strange)}; "
                'map each to a field or to None, or leave out all others with mapping={"*": None}'
                f"; fields are {', '.join(f'`{name}`' for name in fields)}{hint}"
            )
        if complete and "happened_at" not in names.values():
            raise InvalidInput(
                f"expected a column `happened_at` in {source.name}, got {came}; "
                'map the time column to it: mapping={"...": "happened_at"}' + hint
            )
        return names

    def fitted(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values with an aware datetime for a time and a text for a text."""
        for name, value in values.items():
            kind = self.kinds[name]
            if kind == "time" and value is not None:
                values[name] = moment(_micros(name, value, self.zone))
            elif kind == "text" and type(value) is int:
                values[name] = str(value)
        return values


def _column(name: str, *, is_header: bool) -> str:
    """How a message calls a column: its shape, where the name may be a value."""
    shown = is_header and _NAME.fullmatch(name) and not re.search(r"\d{3}", name)
    return f"`{name}`" if shown else shape(name)


def _bad(number: int, reason: str) -> Row:
    return Row(number, -(2**63), 0, {}, reason)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        # The csv module and not Polars: it names the line, and Polars fills up short ones.
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            if not header:
                raise InvalidInput(f"expected a line of column names in {path}, got an empty file")
            if len(set(header)) < len(header):
                raise InvalidInput(f"expected different column names in {path}, got one twice")
            yield 1, dict.fromkeys(header)
            for cells in reader:
                if len(cells) == len(header):
                    yield reader.line_num, dict(zip(header, cells, strict=True))
                elif cells:
                    yield reader.line_num, f"expected {len(header)} cells, got {len(cells)}"
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"expected UTF-8 in {path}, got byte {error.object[error.start]:#04x} after line "
                f"{reader.line_num}; convert it: iconv -f WINDOWS-1252 -t UTF-8 {path}"
            ) from None
        except csv.Error as error:
            raise InvalidInput(
                f"expected CSV in {path}, got {error} at line {reader.line_num}"
            ) from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                yield number, decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                came = str(error) if isinstance(error, msgspec.MsgspecError) else "no UTF-8"
                yield number, f"expected one JSON object in UTF-8, got: {came}"


def _sql_rows(source: SqlQuery) -> Iterator[tuple[int, dict[str, Any] | str]]:
    try:
        url = sqlalchemy.make_url(source.url)
        engine = sqlalchemy.create_engine(url, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"expected an installed driver for this database, got none; run: pip install "
            f"{error.name}"
        ) from error
    except sqlalchemy.exc.SQLAlchemyError:
        # From None: the error of SQLAlchemy shows the whole address.
        raise InvalidInput(
            "expected a database address such as `sqlite:///file.db`, got one that "
            "SQLAlchemy cannot read"
        ) from None
    try:
        with engine.connect() as connection:
            result = connection.execution_options(stream_results=True, yield_per=10_000).execute(
                sqlalchemy.text(source.query)
            )
            columns = list(result.keys())
            yield 0, dict.fromkeys(columns)
            for number, values in enumerate(result, start=1):
                yield number, dict(zip(columns, values, strict=True))
    except sqlalchemy.exc.SQLAlchemyError as error:
        came = str(getattr(error, "orig", None) or type(error).__name__)
        for secret in (source.url, url.password):
            if secret:
                came = came.replace(str(secret), "***")
        raise InvalidInput(
            f"expected the result of `{source.query}` from {url.get_backend_name()}, got: {came}"
        ) from None
    finally:
        engine.dispose()


def _sorted_rows(table: _Table, rows: Iterator[tuple[int, dict[str, Any] | str]]) -> Iterator[Row]:
    is_json = table.source.name.endswith((".jsonl", ".ndjson"))
    columns: list[str] = []
    if not is_json:  # JSON lines may have other columns in each line
        columns = list(dict(next(rows)[1]))  # type: ignore[arg-type]
    names = {} if is_json else table.names(columns)
    encode = msgspec.json.Encoder().encode
    texts: list[bytes] = []
    places: list[tuple[int, int, int]] = []
    for number, row in rows:
        if isinstance(row, str):
            yield _bad(number, row)
            continue
        if is_json and not row.keys() <= set(columns):
            columns += [name for name in row if name not in columns]
            names = table.names(columns, complete=False)
        values = {
            names[column]: value
            for column, value in row.items()
            if value is not None and value != "" and column in names
        }
        try:
            happened = _micros("happened_at", values.pop("happened_at", None), table.zone)
            known = values.pop("known_at", None)
            known = happened if known is None else _micros("known_at", known, table.zone)
            text = encode(table.fitted(values))
        except (InvalidInput, TypeError) as error:
            yield _bad(number, str(error))
            continue
        texts.append(text)
        places.append((known, number, happened))
    known_at = np.array([place[0] for place in places], dtype=np.int64)
    for at in np.argsort(known_at, kind="stable").tolist():
        known, number, happened = places[at]
        yield Row(number, known, happened, msgspec.json.decode(texts[at]))


def _micros(name: str, value: object, zone: ZoneInfo) -> int:
    """The instant of whatever a table has for one: a datetime, ISO text or epoch number."""
    if isinstance(value, str):
        value = _time_or_number(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        value = _calendar_time(name, value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        micros = int(instant(value if value.tzinfo else value.replace(tzinfo=zone)))
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        micros = _epoch_micros(value)
    else:
        came = "nothing" if value is None else shape(value)
        raise InvalidInput(
            f"expected an ISO 8601 time or an epoch number, got {came} - at `$.{name}`"
        )
    if not _EARLIEST <= micros <= _LATEST:
        raise InvalidInput(f"expected a time of the years 1 to 9999 - at `$.{name}`")
    return micros


def _time_or_number(text: str) -> datetime | Decimal | str:
    if text.removeprefix("-").replace(".", "", 1).isdecimal():
        return Decimal(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def _calendar_time(name: str, value: int | float | Decimal) -> datetime | int | float | Decimal:
    """The time that the digits are, as 20240131 or 20240131120000; else the number itself.

    A year or a month (2024, 202401) is refused rather than taken for a day of 1970, and so
    are fourteen digits that are no time: as milliseconds they would be beyond 2286.
    """
    try:
        if not abs(float(value)) < 1e14 or value != int(value):
            return value
    except OverflowError:  # a whole number of more than 308 digits
        return float("inf")
    digits = str(abs(int(value)))
    if len(digits) == 8 and value > 0:
        with suppress(ValueError):
            day = datetime.fromisoformat(digits)
            return day if 1900 <= day.year <= 2100 else value
    if len(digits) == 14 and value > 0:
        with suppress(ValueError):
            return datetime.fromisoformat(f"{digits[:8]}T{digits[8:]}")
    if len(digits) in (4, 6, 14):
        raise InvalidInput(
            f"expected an ISO 8601 time or an epoch number, got {len(digits)} digits, which may "
            f"be a part of a date - at `$.{name}`"
        )
    return value


def _epoch_micros(value: int | float | Decimal) -> int:
    """Seconds, milliseconds, microseconds or nanoseconds, told apart by size: 1e11 seconds
    are the year 5138, and 1e11 milliseconds the year 1973."""
    size = abs(float(value))
    if not size < 1e20:  # also NaN
        return _LATEST + 1
    if size < 1e11:
        return round(value * 1_000_000)
    if size < 1e14:
        return round(value * 1000)
    return round(value) if size < 1e17 else round(value) // 1000


def _parquet_rows(table: _Table, path: Path) -> Iterator[Row]:
    try:
        names = table.names(list(pl.read_parquet_schema(path)))
        frame = pl.read_parquet(path, columns=list(names)).rename(names)
    except (pl.exceptions.PolarsError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise InvalidInput(f"expected a Parquet file at {path}, got: {first_line}") from error
    yield from _frame_rows(table, frame)


def _frame_rows(table: _Table, frame: pl.DataFrame) -> Iterator[Row]:
    frame = frame.with_row_index("__row", offset=1)
    times = [name for name in ("known_at", "happened_at") if name in frame.columns]
    for name in times:
        frame, bad = _with_micros(frame, name, table.zone)
        yield from bad
    # Pandas writes a missing number as NaN.
    frame = frame.with_columns(
        pl.coalesce([f"__{name}" for name in times]).alias("__known_at"),
        (pl.col(pl.Decimal).cast(pl.Float64)),
    ).with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
    frame = frame.sort("__known_at", maintain_order=True)
    values = [name for name in frame.columns if not name.startswith("__")]
    numbers_as_text = [
        name for name in values if table.kinds[name] == "text" and frame[name].dtype.is_integer()
    ]
    frame = frame.with_columns(pl.col(numbers_as_text).cast(pl.String))
    has_times = any(table.kinds[name] == "time" for name in values)
    for part in frame.iter_slices(10_000):
        rows = part.select(values).to_dicts() if values else [{} for _ in range(len(part))]
        places = part.select("__row", "__known_at", "__happened_at").iter_rows()
        for (number, known, happened), row in zip(places, rows, strict=True):
            try:
                yield Row(number, known, happened, table.fitted(row) if has_times else row)
            except InvalidInput as error:
                yield _bad(number, str(error))


def _with_micros(frame: pl.DataFrame, name: str, zone: ZoneInfo) -> tuple[pl.DataFrame, list[Row]]:
    """The frame with a time column as microseconds, and the rows where that is no time."""
    column = frame[name]
    reasons: list[str | None]
    if isinstance(column.dtype, pl.Datetime) or column.dtype == pl.Date:
        clean = column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None)))
        if clean.dtype == pl.Datetime("us", None):
            clean = clean.dt.replace_time_zone(zone.key, ambiguous="earliest", non_existent="null")
        clean = clean.dt.epoch("us")
        wanted = (
            column.is_not_null() if name == "known_at" else pl.repeat(True, len(column), eager=True)
        )
        lacking = wanted & ~clean.is_between(_EARLIEST, _LATEST).fill_null(False)
        reason = f"expected a time that exists in {zone.key} - at `$.{name}`"
        reasons = [reason if lacks else None for lacks in lacking.to_list()]
    else:
        found: list[int | None] = []
        reasons = []
        for value in column.to_list():
            micros, came = None, None
            try:
                if value is not None or name == "happened_at":
                    micros = _micros(name, value, zone)
            except InvalidInput as error:
                came = str(error)
            found.append(micros)
            reasons.append(came)
        clean = pl.Series(found, dtype=pl.Int64)
    numbers = frame["__row"].to_list()
    bad = [
        _bad(number, reason)
        for number, reason in zip(numbers, reasons, strict=True)
        if reason is not None
    ]
    good = pl.Series([reason is None for reason in reasons], dtype=pl.Boolean)
    return frame.with_columns(clean.alias(f"__{name}")).drop(name).filter(good), bad
