"""One raw value to one float: the only reading of numbers, categories and dates there is.

Training calls these functions for the distinct values of a column, serving for each value of
a request, so both read `" 1,200 "` or `2024-02-30` alike. None of them ever raises: what
cannot be read is missing (NaN). Serves A6 and A12 of the requirements.
"""

import math
import re
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
    turns ``7`` into ``7.0``.

    Examples
    --------
    >>> category_text("web "), category_text(7), category_text(7.0), category_text(" ")
    ('web', '7', '7', None)
    """
    if isinstance(value, str):
        return value.strip() or None
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


def category(codes: Mapping[str, float]) -> Parser:
    """A parser of categories: the code of the value's text, `OTHER_CODE` if it is unknown."""
    exact = dict(codes)
    find = exact.get

    def code_of(value: Any) -> float:
        if type(value) is str:
            code = find(value)
            if code is not None:
                return code
        text = category_text(value)
        return MISSING_CODE if text is None else find(text, OTHER_CODE)

    return code_of


def pattern(expression: str, codes: Mapping[str, float]) -> Parser:
    """A parser of what the expression's first group finds in the value's text, as a category."""
    search = re.compile(expression).search
    code_of = category(codes)

    def code_of_match(value: Any) -> float:
        return code_of(matched(search, value))

    return code_of_match


def matched(search: Callable[[str], re.Match[str] | None], value: Any) -> str | None:
    """What the first group finds in the value's text; None if it finds nothing."""
    text = category_text(value)
    found = None if text is None else search(text)
    return None if found is None else found.group(1)


def date_parser(date_format: str) -> Parser:
    """A parser of dates: microseconds since 1970, exact in a float64 until the year 2255.

    A date with an offset is taken to UTC; a date without is taken as it is written. Numbers
    are missing: they do not say their unit. Texts must be in the remembered format.
    """

    def micros_of(value: Any) -> float:
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
