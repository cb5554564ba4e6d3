"""Instants and durations: one clock, one unit, parsed once at the edge.

An instant is an ``int`` of microseconds since 1970-01-01 UTC inside (so that it fits an
array and compares exactly) and a time-zone aware ``datetime`` outside. A naive datetime is
refused: nobody knows which instant it names. A duration is text such as ``"7d"`` or a
``timedelta`` outside and an ``int`` of microseconds inside.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import NewType

from chopmark.errors import InvalidInput

Instant = NewType("Instant", int)
"""Microseconds since 1970-01-01 UTC."""

Duration = NewType("Duration", int)
"""Microseconds, > 0."""

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"(\d{1,6})([smhdw])")


def now() -> Instant:
    """The instant of the system's clock."""
    return Instant(time.time_ns() // 1000)


def instant(moment: datetime | str) -> Instant:
    """Microseconds since the epoch of a datetime, or of an ISO 8601 text, with a time zone.

    Raises
    ------
    InvalidInput
        If the text is no ISO 8601 instant, or the time zone is missing.

    Examples
    --------
    >>> instant("1970-01-02T00:00:00Z")
    86400000000
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError as error:
            raise InvalidInput(
                f"expected an instant like `2026-01-31T12:00:00Z`, got `{moment}`"
            ) from error
    if moment.tzinfo is None:
        raise InvalidInput(f"expected an instant with a time zone, got `{moment.isoformat()}`")
    delta = moment - EPOCH
    return Instant(delta.days * DAY + delta.seconds * SECOND + delta.microseconds)


def moment(instant: int) -> datetime:
    """The aware UTC datetime of an instant.

    Examples
    --------
    >>> moment(86_400_000_000).isoformat()
    '1970-01-02T00:00:00+00:00'
    """
    return EPOCH + timedelta(microseconds=int(instant))


def duration(length: str | timedelta) -> Duration:
    """Microseconds of a duration such as ``"10m"``, ``"7d"`` or a timedelta.

    Raises
    ------
    InvalidInput
        If the text is not a whole number with one of the units s, m, h, d, w, or is zero.

    Examples
    --------
    >>> duration("10m") == 10 * MINUTE
    True
    """
    if isinstance(length, timedelta):
        micros = length // timedelta(microseconds=1)
    else:
        match = _DURATION.fullmatch(length)
        if match is None:
            raise InvalidInput(f"expected a duration like `10m`, `24h` or `90d`, got `{length}`")
        micros = int(match[1]) * _UNITS[match[2]]
    if micros <= 0:
        raise InvalidInput(f"expected a duration above zero, got `{length}`")
    return Duration(micros)


def duration_text(length: int) -> str:
    """The shortest text of a duration: the inverse of `duration`.

    Examples
    --------
    >>> duration_text(7 * DAY), duration_text(90 * MINUTE)
    ('7d', '90m')
    """
    for unit in ("d", "h", "m", "s"):
        if length % _UNITS[unit] == 0:
            return f"{length // _UNITS[unit]}{unit}"
    return f"{length}us"
