"""One raw value to one float: the only reading of numbers, categories and dates there is.

Training calls these functions for the distinct values of a column, serving for each value of
a request, so both read `" 1,200 "` or `2024-02-30` alike. None of them ever raises: what
cannot be read is missing (NaN). Serves A6 and A12 of the requirements.
"""

import math
import re
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from chopmark.times import DAY, EPOCH

Parser: TypeAlias = Callable[[Any], float]

MISSING = math.nan
MISSING_CODE = 0.0
OTHER_CODE = 1.0
"""Codes of a category column: 0 missing, 1 unseen or rare, 2 and on the known ones."""
FIRST_CODE = 2
"""Code of the first known category. Hashing buckets follow the last one."""

DATE_FORMATS = (
    "iso",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d-%b-%Y",
    "%d %b %Y",
    "%b %d, %Y",
    "%b-%Y",
    "%Y%m%d",
)
"""Formats that deduction tries, in this order. All but ``iso`` may be followed by a time of
day, ``HH:MM`` or ``HH:MM:SS``. Month names are English whatever the locale."""
EPOCH_FORMATS: Mapping[str, float] = {"epoch seconds": 1e6, "epoch milliseconds": 1e3}
"""Formats of instants that are kept as numbers, and the microseconds of their unit."""
LATEST_MICROS = 9e15
"""Instants of `EPOCH_FORMATS` are missing beyond this: float64 is exact up to here."""

_TRUE = frozenset(("true", "t", "yes", "y", "1", "on"))
_FALSE = frozenset(("false", "f", "no", "n", "0", "off"))
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FIELDS = {
    "%Y": r"(?P<year>\d{4})",
    "%m": r"(?P<month>\d{1,2})",
    "%d": r"(?P<day>\d{1,2})",
    "%b": r"(?P<name>[A-Za-z]{3})[a-z]*",
}
_TIME_OF_DAY = r"(?:[ T](?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.\d+)?)?)?"
_TEXT_LIMIT = 64
_TOKEN = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"[0-9]")
TOKENS_LIMIT = 2_000
"""A text's tokens are looked for in this many of its first characters."""
PATTERN_LIMIT = 128
"""A pattern is looked for in this many of a text's first characters."""


def number(value: Any) -> float:
    """A float of a number or of its text; NaN for all else.

    Blanks around, a currency sign in front, a percent sign behind and commas between
    thousands are understood.

    Examples
    --------
    >>> number(" $1,200.50 "), number(True), number("n/a")
    (1200.5, 1.0, nan)
    """
    if type(value) is float:
        return value
    if isinstance(value, str):
        return _number_of_text(value)
    if value is None or isinstance(value, bytes | bytearray | date | time):
        return MISSING
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return MISSING


def boolean(value: Any) -> float:
    """1 for true, 0 for false, NaN for all else; texts such as "yes" and "N" are understood.

    Examples
    --------
    >>> boolean("Yes"), boolean(0), boolean("maybe")
    (1.0, 0.0, nan)
    """
    if value is True:
        return 1.0
    if value is False:
        return 0.0
    if isinstance(value, str):
        if len(value) > _TEXT_LIMIT:
            return MISSING
        text = value.strip().lower()
        return 1.0 if text in _TRUE else 0.0 if text in _FALSE else MISSING
    as_number = number(value)
    return as_number if as_number in (0.0, 1.0) else MISSING


def category_text(value: Any) -> str | None:
    """The text that names a category, None if missing.

    A whole number and its float name the same category: a CSV that gained a missing value
    turns ``7`` into ``7.0``. A blank text is a category of its own: somebody filled in nothing,
    which says more than that nobody asked.

    Examples
    --------
    >>> category_text("web "), category_text(7), category_text(7.0), category_text(" ")
    ('web', '7', '7', '')
    """
    if isinstance(value, str):
        return value.strip()
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(float(value))
    try:
        return str(value)
    except ValueError:  # an int of more than 4,300 digits
        return None


def category(
    codes: Mapping[str, float], *, missing: float = MISSING_CODE, other: float = OTHER_CODE
) -> Parser:
    """A parser of categories: what `codes` holds for the value's text, `other` if nothing.

    The codes may as well be any other numbers, such as the mean label of each category.
    """
    find = dict(codes).get

    def code_of(value: Any) -> float:
        if type(value) is str:
            code = find(value)
            if code is not None:
                return code
        text = category_text(value)
        if text is None:
            return missing
        # A blank that training never saw is no new category.
        return find(text, other if text else missing)

    return code_of


def hashed_category(codes: Mapping[str, float], *, buckets: int) -> Parser:
    """A parser of categories that spreads unknown ones over `buckets` codes after the known.

    The bucket is the CRC-32 of the UTF-8 text, modulo `buckets`: the same in any process.

    Examples
    --------
    >>> code_of = hashed_category({"a": 2.0}, buckets=4)
    >>> code_of("a"), code_of("b"), code_of("c"), code_of(None)
    (2.0, 4.0, 6.0, 0.0)
    """
    known = category(codes, other=-1.0)
    first = FIRST_CODE + len(codes)

    def code_of(value: Any) -> float:
        code = known(value)
        if code >= 0.0:
            return code
        text = category_text(value) or ""
        return float(first + zlib.crc32(text.encode("utf-8", "surrogatepass")) % buckets)

    return code_of


def pattern(expression: str, read: Parser) -> Parser:
    """A parser that hands `read` what the expression's first group finds in the value's text."""
    search = re.compile(expression).search

    def read_match(value: Any) -> float:
        return read(matched(search, value))

    return read_match


def matched(search: Callable[[str], re.Match[str] | None], value: Any) -> str | None:
    """What the first group finds in the value's text; None if it finds nothing."""
    text = category_text(value)
    found = None if text is None else search(text[:PATTERN_LIMIT])
    return None if found is None else found.group(1)


def text_of(value: Any) -> str | None:
    """The text of a value that is read as free text, None if missing."""
    return value if isinstance(value, str) else category_text(value)


def tokens(text: str) -> list[str]:
    """The words and numbers of a text in lower case, in their order.

    Examples
    --------
    >>> tokens("Braund, Mr. Owen 2nd")
    ['braund', 'mr', 'owen', '2nd']
    """
    return _TOKEN.findall(text[:TOKENS_LIMIT].lower())


def text_length(value: Any) -> float:
    """Number of characters."""
    text = text_of(value)
    return MISSING if text is None else float(len(text))


def text_words(value: Any) -> float:
    """Number of tokens."""
    text = text_of(value)
    return MISSING if text is None else float(len(tokens(text)))


def text_digits(value: Any) -> float:
    """Share of characters from 0 to 9, 0 of an empty text."""
    text = text_of(value)
    return MISSING if text is None else len(_DIGITS.findall(text)) / max(len(text), 1)


def token_score(weights: Mapping[str, float]) -> Parser:
    """A parser of free text: the mean weight of its known tokens, 0 if it has none.

    Examples
    --------
    >>> token_score({"mr": -1.0, "owen": 0.5})("Braund, Mr. Owen")
    -0.25
    """
    find = dict(weights).get

    def score(value: Any) -> float:
        text = text_of(value)
        if text is None:
            return MISSING
        total, count = 0.0, 0
        for token in tokens(text):
            weight = find(token)
            if weight is not None:
                total += weight
                count += 1
        return total / count if count else 0.0

    return score


def date_parser(date_format: str) -> Parser:
    """A parser of dates: microseconds since 1970, exact in a float64 until the year 2255.

    A date with an offset is taken to UTC; a date without is taken as it is written. Texts must
    be in the remembered format. Numbers are missing unless the format says what they count
    (`EPOCH_FORMATS`) or is made of digits alone: 20240131.
    """
    unit = EPOCH_FORMATS.get(date_format)
    digits = date_format == "%Y%m%d"

    def micros_of(value: Any) -> float:
        if unit is not None and not isinstance(value, date):
            return epoch_micros(number(value), unit)
        if digits and not isinstance(value, str | date):
            value = category_text(value)
        if isinstance(value, str):
            if len(value) > _TEXT_LIMIT:
                return MISSING
            found = parse_date(value, date_format)
        elif isinstance(value, datetime):
            found = value
        elif isinstance(value, date):
            found = datetime(value.year, value.month, value.day)
        else:
            return MISSING
        return MISSING if found is None else _micros(found)

    return micros_of


def epoch_micros(count: float, unit: float) -> float:
    """Microseconds of a count of `unit` microseconds, NaN beyond the year 2255 and before 1684."""
    micros = count * unit
    return micros if -LATEST_MICROS < micros < LATEST_MICROS else MISSING


def parse_date(text: str, date_format: str) -> datetime | None:
    """The datetime of a text in one of `DATE_FORMATS`, None if it is not in that format.

    Examples
    --------
    >>> parse_date("31/12/2024 23:59", "%d/%m/%Y")
    datetime.datetime(2024, 12, 31, 23, 59)
    """
    text = text.strip()
    try:
        if date_format == "iso":
            # fromisoformat also takes 20240131, 2024-W01 and the like: leave those to others.
            return datetime.fromisoformat(text) if text[4:5] == "-" and len(text) > 9 else None
        match = _expression(date_format).fullmatch(text)
        if match is None:
            return None
        parts = match.groupdict()
        name = parts.get("name")
        month = int(parts["month"]) if name is None else _MONTHS.index(name.lower()) + 1
        hour, minute, second = (int(parts[unit] or 0) for unit in ("hour", "minute", "second"))
        day = int(parts.get("day") or 1)
        return datetime(int(parts["year"]), month, day, hour, minute, second)
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=64)
def _expression(date_format: str) -> re.Pattern[str]:
    expression = re.escape(date_format)
    for field, group in _FIELDS.items():
        expression = expression.replace(re.escape(field), group)
    return re.compile(expression + _TIME_OF_DAY, re.ASCII)


def _micros(found: datetime) -> float:
    try:
        delta = (found if found.tzinfo else found.replace(tzinfo=UTC)) - EPOCH
    except OverflowError:
        return MISSING
    return float(delta.days * DAY + delta.seconds * 1_000_000 + delta.microseconds)


def _number_of_text(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    if len(text) > _TEXT_LIMIT:
        return MISSING
    text = text.strip().lstrip("$€£").rstrip("%").strip()
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        return MISSING
