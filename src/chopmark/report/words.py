"""Numbers, dates and raw values as a reader wants them. Serves A16 of the requirements."""

from datetime import date, datetime, timedelta
from math import isfinite
from typing import Any

from chopmark.times import EPOCH

NONE = "\N{EN DASH}"
"""What is shown where there is no number."""

_LONGEST = 48


def number(value: float) -> str:
    """Four digits that matter.

    Examples
    --------
    >>> number(0.123456), number(1234567.8), number(-3.0), number(float("nan"))
    ('0.1235', '1,234,568', '-3', '–')
    """
    if not isfinite(value):
        return NONE
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.3g}"


def fixed(value: float, digits: int = 3) -> str:
    """A number with so many digits behind the point."""
    return f"{value:,.{digits}f}" if isfinite(value) else NONE


def percent(share: float) -> str:
    """A share in [0, 1] in percent.

    Examples
    --------
    >>> percent(0.384), percent(0.0012), percent(1.0)
    ('38.4 %', '0.12 %', '100 %')
    """
    if not isfinite(share):
        return NONE
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    return f"{share * 100:.2f} %" if abs(share) < 0.01 else f"{share * 100:.1f} %"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a true minus among them.

    Examples
    --------
    >>> signed(0.5), signed(-1.25)
    ('+0.50', '−1.25')
    """
    return f"{value:+,.{digits}f}".replace("-", "\N{MINUS SIGN}") if isfinite(value) else NONE


def moment(micros: float) -> str:
    """The day of an instant, microseconds since 1970.

    Examples
    --------
    >>> moment(1_704_067_200_000_000.0)
    '2024-01-01'
    """
    return (EPOCH + timedelta(microseconds=micros)).date().isoformat()


def value(raw: Any) -> str:
    """One raw value of a table, shortened; a missing one is named so.

    Examples
    --------
    >>> value(None), value(7.25), value("x" * 60)[-3:]
    ('missing', '7.25', 'xx…')
    """
    if raw is None or (isinstance(raw, float) and raw != raw):
        return "missing"
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, float):
        return number(raw)
    if isinstance(raw, date | datetime):
        return raw.isoformat()
    text = str(raw).strip()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
