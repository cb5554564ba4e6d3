"""Whole columns of raw values to base values: the fast twin of `chopmark.models.parsing`.

Most values of a column are of its usual form: numbers as a CSV has them, known categories,
dates with two-digit fields, texts of ASCII characters. These are read in polars or in compiled
loops, which run on several cores at once. Whatever is not surely read alike goes to the parser,
once per distinct value. The tests hold both to the same bits. Serves A7 and A12 of the
requirements.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.models import parsing
from chopmark.models.column import Column

Values = NDArray[np.float64]  # (n,)
Flags = NDArray[np.bool_]  # (n,)

_DAY_MICROS = 86_400_000_000
# Order of the fields and what separates them, of formats whose fields are digits.
_DIGIT_LAYOUTS = {
    "iso": ("ymd", "-"),
    "%Y/%m/%d": ("ymd", "/"),
    "%d.%m.%Y": ("dmy", "."),
    "%d/%m/%Y": ("dmy", "/"),
    "%m/%d/%Y": ("mdy", "/"),
    "%d-%m-%Y": ("dmy", "-"),
    "%m-%d-%Y": ("mdy", "-"),
}
_ORDERS = {"ymd": (0, 5, 8), "dmy": (6, 3, 0), "mdy": (6, 0, 3)}
"""Where year, month and day begin if all have their full width."""


class Reader:
    """Base values of whole columns, equal to the parser's bit for bit.

    Parameters
    ----------
    column
        How the raw column is read.
    parse
        Its parser.
    """

    def __init__(self, column: Column, parse: parsing.Parser) -> None:
        self._column = column
        self._parse = parse
        self._enum: Any = None
        if column.kind in ("category", "high_cardinality", "text"):
            missing = parsing.MISSING if column.values else parsing.MISSING_CODE
            self._numbers = np.array([*column.numbers(), missing], dtype=np.float64)

    def read(self, series: Any) -> Values:
        """(n,) base values of a polars Series of any type."""
        import polars as pl

        if series.dtype in (pl.Categorical, pl.Enum):
            series = series.cast(pl.String)
        kind = self._column.kind
        if kind == "number":
            return self._read_numbers(series)
        if kind == "date":
            return self._read_dates(series)
        if kind == "text":
            return self._read_texts(series)
        if kind == "boolean" and series.dtype == pl.Boolean:
            return _floats(series)
        if kind != "boolean" and not self._column.pattern:
            return self._read_categories(series)
        return distinct_values(series, self._parse)

    def _read_numbers(self, series: Any) -> Values:
        import polars as pl

        dtype = series.dtype
        if dtype.is_integer() or dtype.is_float() or dtype == pl.Boolean:
            # Casts round to nearest as Python's float() does: the parser would say the same.
            return _floats(series)
        if dtype != pl.String:
            return distinct_values(series, self._parse)
        floats = series.cast(pl.Float64, strict=False)
        values = _floats(floats)
        if floats.null_count() == series.null_count():
            return values
        return _mended(series, values, _nulls(floats) & ~_nulls(series), self._parse)

    def _read_categories(self, series: Any) -> Values:
        import polars as pl

        if series.dtype.is_integer():
            series = series.cast(pl.String)
        if series.dtype != pl.String:
            return distinct_values(series, self._parse)
        if self._enum is None:
            self._enum = pl.Enum(self._column.categories)
        codes = series.cast(self._enum, strict=False).to_physical()
        if codes.null_count() == 0:
            known: Values = self._numbers[codes.to_numpy()]
            return known
        missing = len(self._column.categories)
        values: Values = self._numbers[codes.fill_null(missing).to_numpy()]
        if codes.null_count() > series.null_count():
            self._read_unknown(series, values, _nulls(codes) & ~_nulls(series))
        return values

    def _read_unknown(self, series: Any, values: Values, unknown: Flags) -> None:
        """Put into `values` those of texts that are not spelled like any category."""
        hashes, is_plain = _hashes(*_bytes(series))
        column = self._column
        plain = unknown & is_plain
        if column.values:
            values[plain] = column.fallback
        elif column.buckets:
            values[plain] = column.first_bucket + hashes[plain] % np.uint32(column.buckets)
        else:
            values[plain] = parsing.OTHER_CODE
        _mended(series, values, unknown & ~is_plain, self._parse)

    def _read_dates(self, series: Any) -> Values:
        import polars as pl

        dtype, form = series.dtype, self._column.format
        if dtype == pl.Date:
            return _floats(series.to_physical().cast(pl.Int64) * _DAY_MICROS)
        if dtype == pl.Datetime and dtype.time_unit != "ns":
            per_unit = 1 if dtype.time_unit == "us" else 1_000
            return _floats(series.to_physical() * per_unit)
        if form in parsing.EPOCH_FORMATS and (dtype.is_integer() or dtype.is_float()):
            return _epoch_micros(_floats(series), parsing.EPOCH_FORMATS[form])
        if dtype != pl.String or form not in _DIGIT_LAYOUTS:
            return distinct_values(series, self._parse)
        order, separator = _DIGIT_LAYOUTS[form]
        micros: Values = _dates(*_bytes(series), *_ORDERS[order], ord(separator))
        nulls = _nulls(series)
        micros[nulls] = np.nan
        return _mended(series, micros, np.isnan(micros) & ~nulls, self._parse)

    def _read_texts(self, series: Any) -> Values:
        import polars as pl

        if series.dtype != pl.String:
            return distinct_values(series, self._parse)
        lengths, words, digits, is_ascii = _text_counts(*_bytes(series), parsing.TOKENS_LIMIT)
        part = self._column.parts[0]
        if part == "length":
            values = lengths
        elif part == "words":
            values = words
        elif part == "digits":
            values = digits / np.maximum(lengths, 1.0)
        else:
            values = self._token_scores(series)
        nulls = _nulls(series)
        values[nulls] = np.nan
        return _mended(series, values, ~is_ascii & ~nulls, self._parse)

    def _token_scores(self, series: Any) -> Values:
        import polars as pl

        if self._enum is None:
            self._enum = pl.Enum(self._column.categories)
        found = ascii_tokens(series)
        known = found.get_column("token").cast(self._enum, strict=False).to_physical()
        held = ~_nulls(known)
        rows = found.get_column("row").to_numpy()[held]
        codes = known.fill_null(0).to_numpy()[held]
        scores: Values = _mean_by_row(rows.astype(np.int64), self._numbers[codes], len(series))
        return scores


def ascii_tokens(series: Any) -> Any:
    """A polars DataFrame with `row` and `token`, in the order of the ASCII texts of a Series."""
    import polars as pl

    lists = (
        series.str.slice(0, parsing.TOKENS_LIMIT).str.to_lowercase().str.extract_all("[a-z0-9]+")
    )
    rows = pl.int_range(len(series), eager=True, dtype=pl.UInt32)
    return (
        pl.DataFrame([rows.alias("row"), lists.alias("token")]).explode("token").drop_nulls("token")
    )


def distinct_values(series: Any, parse: parsing.Parser) -> Values:
    """(n,) what `parse` says of each value of a polars Series, asked once per distinct value."""
    import polars as pl

    dtype = series.dtype
    if dtype.is_nested() or dtype == pl.Object:
        return np.array([parse(value) for value in series.to_list()], dtype=np.float64)
    distinct = series.unique().alias("value")
    bases = pl.Series("base", [parse(value) for value in distinct.to_list()], dtype=pl.Float64)
    joined = (
        series.alias("value")
        .to_frame()
        .join(
            pl.DataFrame([distinct, bases]),
            on="value",
            how="left",
            nulls_equal=True,
            maintain_order="left",
        )
    )
    values: Values = joined.get_column("base").to_numpy()
    return values


def _mended(series: Any, values: Values, odd: Flags, parse: parsing.Parser) -> Values:
    """`values` with those of the odd rows as the parser reads them."""
    rows = np.nonzero(odd)[0]
    if len(rows) == 0:
        return values
    values = values if values.flags.writeable else values.copy()
    values[rows] = distinct_values(series.gather(rows), parse)
    return values


def _floats(series: Any) -> Values:
    import polars as pl

    # Nulls become NaN.
    floats: Values = series.cast(pl.Float64).to_numpy()
    return floats


def _nulls(series: Any) -> Flags:
    if series.null_count() == 0:
        return np.zeros(len(series), dtype=bool)
    nulls: Flags = series.is_null().to_numpy()
    return nulls


def _epoch_micros(counts: Values, unit: float) -> Values:
    with np.errstate(over="ignore", invalid="ignore"):
        micros = counts * unit
    return np.where(np.abs(micros) < parsing.LATEST_MICROS, micros, np.nan)


def _bytes(series: Any) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each text begins (and the last one ends), and the UTF-8 bytes of all texts."""
    array = series.to_arrow()
    _, ends, data = array.buffers()
    begin = array.offset
    offsets = np.frombuffer(ends, dtype=np.int64)[begin : begin + len(array) + 1]
    empty = data is None or len(data) == 0
    return offsets, np.zeros(1, np.uint8) if empty else np.frombuffer(data, dtype=np.uint8)


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, np.uint32(0xEDB88320) ^ (table >> 1), table >> 1)
    return table.astype(np.uint32)


_CRC = _crc_table()


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _hashes(
    offsets: NDArray[np.int64], data: NDArray[np.uint8]
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """CRC-32 of each text, and whether it has no blank around it that the parser would strip."""
    num = offsets.shape[0] - 1
    hashes = np.zeros(num, np.uint32)
    is_plain = np.zeros(num, np.bool_)
    for i in range(num):
        begin, end = offsets[i], offsets[i + 1]
        if begin == end:
            continue
        first, last = data[begin], data[end - 1]
        is_plain[i] = 0x21 <= first <= 0x7E and 0x21 <= last <= 0x7E
        crc = np.uint32(0xFFFFFFFF)
        for place in range(begin, end):
            crc = _CRC[(crc ^ data[place]) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        hashes[i] = crc ^ np.uint32(0xFFFFFFFF)
    return hashes, is_plain


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _text_counts(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], tokens_limit: int
) -> tuple[Values, Values, Values, Flags]:
    """Characters, tokens and digits of each text, and whether it is ASCII, as they must be."""
    num = offsets.shape[0] - 1
    lengths = np.empty(num)
    words = np.zeros(num)
    digits = np.zeros(num)
    is_ascii = np.ones(num, np.bool_)
    for i in range(num):
        begin, end = offsets[i], offsets[i + 1]
        lengths[i] = end - begin
        inside = False
        for place in range(begin, end):
            byte = data[place]
            if byte > 127:
                is_ascii[i] = False
                break
            is_digit = 48 <= byte <= 57
            digits[i] += is_digit
            is_letter = 65 <= byte <= 90 or 97 <= byte <= 122
            if (is_digit or is_letter) and not inside and place < begin + tokens_limit:
                words[i] += 1
            inside = is_digit or is_letter
    return lengths, words, digits, is_ascii


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _dates(
    offsets: NDArray[np.int64],
    data: NDArray[np.uint8],
    year_at: int,
    month_at: int,
    day_at: int,
    separator: int,
) -> Values:
    """Microseconds of dates of ten characters, alone or with HH:MM or HH:MM:SS; else NaN."""
    num = offsets.shape[0] - 1
    micros = np.full(num, np.nan)
    first_separator = 4 if year_at == 0 else 2
    second_separator = 7 if year_at == 0 else 5
    for i in range(num):
        begin = offsets[i]
        length = offsets[i + 1] - begin
        if length != 10 and length != 16 and length != 19:
            continue
        if data[begin + first_separator] != separator:
            continue
        if data[begin + second_separator] != separator:
            continue
        year = _digits(data, begin + year_at, 4)
        month = _digits(data, begin + month_at, 2)
        day = _digits(data, begin + day_at, 2)
        seconds = _time_of_day(data, begin + 10, length - 10)
        if year < 1 or month < 1 or month > 12 or day < 1 or seconds < 0:
            continue
        if day > _days_in_month(year, month):
            continue
        micros[i] = float((_civil_days(year, month, day) * 86_400 + seconds) * 1_000_000)
    return micros


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _digits(data: NDArray[np.uint8], begin: int, width: int) -> int:
    """The number of some digits, a negative one if not all are digits."""
    number = 0
    for place in range(begin, begin + width):
        if data[place] < 48 or data[place] > 57:
            return -1
        number = number * 10 + int(data[place]) - 48
    return number


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _time_of_day(data: NDArray[np.uint8], begin: int, length: int) -> int:
    """Seconds since midnight of ``HH:MM`` or ``HH:MM:SS`` behind a blank or T; else negative."""
    if length == 0:
        return 0
    if (data[begin] != 32 and data[begin] != 84) or data[begin + 3] != 58:
        return -1
    hour = _digits(data, begin + 1, 2)
    minute = _digits(data, begin + 4, 2)
    second = 0
    if length == 9:
        if data[begin + 6] != 58:
            return -1
        second = _digits(data, begin + 7, 2)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return -1
    seconds: int = hour * 3_600 + minute * 60 + second
    return seconds


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _days_in_month(year: int, month: int) -> int:
    if month == 2:
        leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
        return 29 if leap else 28
    return 30 if month in (4, 6, 9, 11) else 31


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _civil_days(year: int, month: int, day: int) -> int:
    """Days since 1970 of a civil date: Howard Hinnant, "chrono-compatible date algorithms"."""
    shifted = year - 1 if month <= 2 else year
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _mean_by_row(rows: NDArray[np.int64], values: Values, num_rows: int) -> Values:
    """Mean of the values of each row, 0 of a row with none; rows rise. One sum after the other."""
    means = np.zeros(num_rows)
    counts = np.zeros(num_rows, np.int64)
    for i in range(rows.shape[0]):
        means[rows[i]] += values[i]
        counts[rows[i]] += 1
    for row in range(num_rows):
        if counts[row] > 0:
            means[row] /= counts[row]
    return means
