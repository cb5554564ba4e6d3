"""Reading one raw value: what is understood, and that nothing ever raises."""

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.models import parsing

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=st.one_of(st.none(), st.timezones())),
    st.decimals(),
    st.lists(st.integers(), max_size=2),
    st.just(10**5000),
    st.just(np.float32(1.5)),
    st.just(np.int64(3)),
)
PARSERS = [
    parsing.number,
    parsing.boolean,
    parsing.category({"a": 2.0}),
    parsing.pattern(r"(\d+)", parsing.category({"7": 2.0})),
    parsing.hashed_category({"a": 2.0}, buckets=7),
    parsing.text_length,
    parsing.text_words,
    parsing.text_digits,
    parsing.token_score({"a": 1.5}),
    *map(parsing.date_parser, (*parsing.DATE_FORMATS, *parsing.EPOCH_FORMATS)),
]


@given(value=ANYTHING, parser=st.sampled_from(PARSERS))
def test_no_value_raises(value, parser):
    assert isinstance(parser(value), float)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12", 12.0),
        (" 1,234.5 ", 1234.5),
        ("1,23", math.nan),
        ("€9", 9.0),
        ("45%", 45.0),
        ("", math.nan),
        (Decimal("0.1"), 0.1),
        (2**70, float(2**70)),
        (10**400, math.nan),
        (False, 0.0),
        (b"1", math.nan),
        (date(2024, 1, 1), math.nan),
    ],
)
def test_number(value, expected):
    assert parsing.number(value) == pytest.approx(expected, abs=0, rel=0, nan_ok=True)


def test_a_category_is_named_alike_as_text_whole_number_and_float():
    code_of = parsing.category({"7": 2.0, "true": 3.0})
    assert [code_of(value) for value in ("7", " 7 ", 7, 7.0, np.float32(7))] == [2.0] * 5
    assert code_of(True) == 3.0
    assert code_of("8") == parsing.OTHER_CODE
    assert code_of(None) == code_of(math.nan) == code_of("  ") == parsing.MISSING_CODE


@given(
    moment=st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2199, 12, 31)),
    form=st.sampled_from([form for form in parsing.DATE_FORMATS if form not in ("iso", "%b-%Y")]),
)
def test_dates_agree_with_strptime(moment, form):
    moment = moment.replace(microsecond=0)
    text = moment.strftime(form + " %H:%M:%S")
    assert parsing.parse_date(text, form) == datetime.strptime(text, form + " %H:%M:%S")
    assert parsing.parse_date(moment.strftime(form), form) == moment.replace(
        hour=0, minute=0, second=0
    )


def test_a_date_with_an_offset_is_taken_to_utc():
    micros_of = parsing.date_parser("iso")
    east = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=3)))
    assert micros_of(east) == micros_of("2024-05-01T12:00:00+03:00")
    assert micros_of(east) == micros_of(datetime(2024, 5, 1, 9, tzinfo=UTC))
    assert micros_of("2024-05-01 09:00") == micros_of("2024-05-01T09:00:00Z")
    assert micros_of(date(1970, 1, 2)) == 86_400_000_000.0
    assert math.isnan(micros_of("2024-02-30"))
    assert math.isnan(micros_of(1714521600))
