"""The ground floor: errors and times."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark import errors, times
from chopmark.errors import InvalidInput, did_you_mean


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    leaves = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert errors.__doc__ is not None
    for error in leaves:
        assert issubclass(error, errors.ChopmarkError)
        assert error.__name__ in errors.__doc__
        assert error.__doc__


def test_hints() -> None:
    assert did_you_mean("purchse", ["purchase", "tick"]) == "; did you mean `purchase`?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: `a`, `b`"
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", [f"name-{n}" for n in range(13)]) == ""


@given(
    st.datetimes(
        min_value=datetime(1, 1, 2),
        max_value=datetime(9999, 12, 30),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
    )
)
def test_instants_and_moments_are_inverse(when: datetime) -> None:
    instant = times.instant(when)
    assert times.moment(instant) == when
    assert times.instant(times.moment(instant)) == instant
    assert times.instant(when.isoformat()) == instant


@pytest.mark.parametrize("wrong", ["", "yesterday", "2024-13-01", "2024-01-01T00:00:00"])
def test_what_names_no_instant_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidInput, match="expected an instant"):
        times.instant(wrong)
    with pytest.raises(InvalidInput, match="time zone"):
        times.instant(datetime(2024, 1, 1))


@pytest.mark.parametrize(
    ("text", "micros"),
    [("10s", 10**7), ("10m", 6 * 10**8), ("24h", 24 * times.HOUR), ("2w", 14 * times.DAY)],
)
def test_durations(text: str, micros: int) -> None:
    assert times.duration(text) == micros
    assert times.duration(timedelta(microseconds=micros)) == micros
    assert times.duration(times.duration_text(micros)) == micros


@pytest.mark.parametrize("wrong", ["", "7", "d", "-7d", "0d", "1.5h", "7 d", "1y", timedelta(0)])
def test_wrong_durations_are_refused(wrong: str | timedelta) -> None:
    with pytest.raises(InvalidInput, match="expected a duration"):
        times.duration(wrong)


def test_now_is_now() -> None:
    assert abs(times.moment(times.now()) - datetime.now(UTC)) < timedelta(seconds=5)
