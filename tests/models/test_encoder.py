"""The encoder: a batch equals its rows bit for bit, and date parts equal the calendar's."""

import json
import math
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import ArtifactError, DeclarationError, InvalidInput, InvalidTable
from chopmark.models import Column, Combination, Dropped, Encoder
from chopmark.models.encoder import PARTS

ENCODER = Encoder(
    columns=[
        Column(name="amount", kind="number"),
        Column(name="text amount", kind="number"),
        Column(name="flag", kind="boolean"),
        Column(name="country", kind="category", categories=("de", "7", "true")),
        Column(name="country", kind="category", categories=("d",), pattern="^(.)"),
        Column(name="begin", kind="date", format="iso", parts=PARTS),
        Column(name="end", kind="date", format="%d/%m/%Y", parts=PARTS[:1]),
    ],
    combinations=[
        Combination(operation="days_between", left="end", right="begin"),
        *(
            Combination(operation=operation, left="amount", right="text amount")
            for operation in ("sum", "difference", "product", "ratio")
        ),
    ],
    dropped=[Dropped(name="id", kind="identifier", reason="a running number")],
)

TEXTS = st.one_of(
    st.sampled_from(["de", " de", "7", "7.0", "yes", "No", "", "1,200", "-3.5e2", "nan", "inf"]),
    st.datetimes().map(lambda moment: moment.isoformat(sep=" ")),
    st.dates().map(lambda day: f"{day.day:02}/{day.month:02}/{day.year:04}"),
    st.text(max_size=5),
)
NUMBERS = st.one_of(st.none(), st.floats(), st.integers(-(2**63), 2**63 - 1))


@st.composite
def frames(draw):
    """A table whose columns are of any type, whatever the encoder expects."""
    height = draw(st.integers(0, 5))
    data = {}
    for name in ENCODER.reads:
        values, dtype = draw(
            st.sampled_from(
                [
                    (st.one_of(st.none(), TEXTS), pl.String),
                    (st.one_of(st.none(), st.floats()), pl.Float64),
                    (st.one_of(st.none(), st.floats(width=32)), pl.Float32),
                    (st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), pl.Int64),
                    (st.one_of(st.none(), st.integers(0, 2**64 - 1)), pl.UInt64),
                    (st.one_of(st.none(), st.booleans()), pl.Boolean),
                    (st.one_of(st.none(), st.dates()), pl.Date),
                    (st.one_of(st.none(), st.datetimes()), pl.Datetime("us")),
                    (st.none(), pl.Null),
                ]
            )
        )
        column = draw(st.lists(values, min_size=height, max_size=height))
        data[name] = pl.Series(name, column, dtype=dtype)
    return pl.DataFrame(data)


@settings(max_examples=150, deadline=None)
@given(frame=frames())
def test_a_batch_equals_its_rows_bit_for_bit(frame):
    batch = ENCODER.table(frame)
    assert batch.shape == (frame.height, len(ENCODER.encoded))
    for i, values in enumerate(frame.select(ENCODER.reads).iter_rows()):
        assert ENCODER.row(values).tobytes() == batch[i].tobytes()
    assert not np.isinf(batch).any()


@settings(max_examples=200, deadline=None)
@given(moment=st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 30)))
def test_date_parts_equal_the_calendar(moment):
    encoder = Encoder(columns=[Column(name="at", kind="date", format="iso", parts=PARTS)])
    epoch_days, hour, weekday, month, day = encoder.row([moment])
    assert math.floor(epoch_days) == moment.toordinal() - datetime(1970, 1, 1).toordinal()
    assert (hour, weekday, month, day) == (moment.hour, moment.weekday(), moment.month, moment.day)


def test_a_date_difference_is_in_days():
    names = [column.name for column in ENCODER.encoded]
    values = dict.fromkeys(ENCODER.reads) | {"begin": "2024-01-01T12:00", "end": "03/01/2024"}
    x = ENCODER.row([values[name] for name in ENCODER.reads])
    assert x[names.index("end - begin")] == 1.5


def test_the_json_describes_all_of_it():
    again = Encoder.from_json(json.loads(json.dumps(ENCODER.to_json())))
    assert again.columns == ENCODER.columns
    assert again.combinations == ENCODER.combinations
    assert again.dropped == ENCODER.dropped
    assert again.encoded == ENCODER.encoded
    assert np.array_equal(again.plan, ENCODER.plan)


@pytest.mark.parametrize("broken", [{}, {"columns": [{}]}, {"columns": 3}, {"columns": [None]}])
def test_broken_json_is_refused(broken):
    with pytest.raises(ArtifactError, match="encoder cannot be read"):
        Encoder.from_json(broken)


@pytest.mark.parametrize(
    ("columns", "combinations", "message"),
    [
        ([Column(name="a", kind="identifier")], [], "no encoding"),
        ([Column(name="a", kind="date", format="%d/%m/%y")], [], "did you mean `%d/%m/%Y`"),
        ([Column(name="a", kind="date", format="iso", parts=("years",))], [], "no date part"),
        ([Column(name="a", kind="category", pattern="(")], [], "pattern"),
        ([Column(name="a", kind="category", pattern="x")], [], "no group"),
        (
            [Column(name="amount", kind="number")],
            [Combination(operation="sum", left="amount", right="amont")],
            "did you mean `amount`",
        ),
    ],
)
def test_declarations_that_cannot_be(columns, combinations, message):
    with pytest.raises(DeclarationError, match=message):
        Encoder(columns=columns, combinations=combinations)


def test_wrong_count_of_values_and_missing_column():
    with pytest.raises(InvalidInput, match="expected 6 values, one for each"):
        ENCODER.row([1.0])
    with pytest.raises(InvalidTable, match="did you mean `amounts`"):
        ENCODER.table(pl.DataFrame({"amounts": [1.0]}))
