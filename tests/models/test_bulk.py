"""Columns read at once equal the parser's reading of each value, bit for bit."""

import math
import zlib
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chopmark.models import Column, Combination, Encoder, parsing
from chopmark.models.bulk import Reader
from chopmark.models.column import PARTS, TEXT_PARTS

KNOWN = ("de", "7", "true", "a b", "Ünder")
TOKENS = ("mr", "7", "ünder", "x1")
WEIGHTS = (0.1, -0.7, 1e-3, 3.3)
COLUMNS = [
    Column(name="a", kind="number"),
    Column(name="a", kind="boolean"),
    Column(name="a", kind="category", categories=KNOWN),
    Column(name="a", kind="category", categories=KNOWN[:4], values=WEIGHTS, fallback=0.25),
    Column(name="a", kind="category", categories=("d",), pattern="^(.)"),
    Column(name="a", kind="category", categories=("d",), values=(2.5,), pattern="^(.)"),
    Column(name="a", kind="high_cardinality", categories=KNOWN, buckets=32),
    Column(name="a", kind="high_cardinality", categories=(), buckets=1),
    Column(name="a", kind="high_cardinality", categories=("d",), buckets=5, pattern="(..?)$"),
    *(Column(name="a", kind="text", parts=(part,)) for part in TEXT_PARTS[:3]),
    Column(name="a", kind="text", parts=("score",), categories=TOKENS, values=WEIGHTS),
    *(
        Column(name="a", kind="date", format=form, parts=PARTS)
        for form in (*parsing.DATE_FORMATS, *parsing.EPOCH_FORMATS)
    ),
]
NUMBER_TEXTS = st.text("0123456789+-.,eE _infatyNAI%$x", max_size=12)
DATE_TEXTS = st.one_of(
    st.text("0123456789-/.: TZ", min_size=8, max_size=20),
    st.tuples(
        st.datetimes(),
        st.sampled_from(["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y%m%d", "%d-%b-%Y"]),
        st.sampled_from(["", " %H:%M", "T%H:%M:%S", " %H:%M:%S.%f", "T%H:%M:%SZ", " %H", " "]),
    ).map(lambda made: made[0].strftime(made[1] + made[2])),
    st.sampled_from(["2023-02-29", "2024-02-29", "1900-02-29 10:00", "0000-01-01", "2024-13-01"]),
    st.sampled_from(["2024-01-01 24:00", "2024-01-01 23:60", "31/04/2024", "2024-01-01\n"]),
)
WORDS = st.lists(
    st.sampled_from(["Mr", "mr.", "7", "ÜNDER", "x1,", "ΣΑΣ", "İx1", "  ", "\x1f", "d\u00a0e"]),
    max_size=5,
).map(" ".join)
VALUES = {
    pl.String: st.one_of(
        NUMBER_TEXTS,
        DATE_TEXTS,
        WORDS,
        st.text(max_size=6),
        st.sampled_from([*KNOWN, " de", "de ", "", " ", "\x1fde", "\u2003de", "yes", "N"]),
    ),
    pl.Float64: st.floats(),
    pl.Float32: st.floats(width=32),
    pl.Int64: st.one_of(
        st.integers(-(2**63), 2**63 - 1), st.integers(0, 10), st.just(20240131), st.just(10**9)
    ),
    pl.UInt64: st.integers(0, 2**64 - 1),
    pl.Int8: st.integers(-128, 127),
    pl.Boolean: st.booleans(),
    pl.Date: st.dates(),
    pl.Datetime("us"): st.datetimes(),
    pl.Datetime("ms"): st.datetimes(),
    pl.Datetime("us", "UTC"): st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC)),
    pl.Decimal(20, 3): st.decimals(-(10**9), 10**9, places=3),
    pl.Null: st.none(),
}


@st.composite
def columns_of_any_type(draw):
    dtype = draw(st.sampled_from(list(VALUES)))
    values = st.one_of(VALUES[dtype], VALUES[dtype], VALUES[dtype], st.none())
    return pl.Series("a", draw(st.lists(values, max_size=8)), dtype=dtype)


@settings(max_examples=500, deadline=None)
@given(series=columns_of_any_type())
@example(series=pl.Series("a", ["1_000", "٣", "1e400", "-0", "0x1p3", "1e-400", "nan"]))
@example(series=pl.Series("a", ["x" * 300 + " mr", "mr " * 1_500, "é mr " * 900, None]))
@example(series=pl.Series("a", ["de", "mr"], dtype=pl.Categorical))
@example(series=pl.Series("a", ["padding", "de", None, "nl", "x"]).slice(1, 3))
def test_a_column_equals_its_values(series):
    for column in COLUMNS:
        parse = column.parser()
        bulk = Reader(column, parse).read(series)
        single = np.array([parse(value) for value in series.to_list()], dtype=np.float64)
        # The plan makes one NaN of all that is not finite, and 0.0 of -0.0.
        known = np.isfinite(single)
        assert np.array_equal(known, np.isfinite(bulk)), column
        assert (bulk[known] + 0.0).tobytes() == (single[known] + 0.0).tobytes(), column


ENCODER = Encoder(
    columns=COLUMNS, combinations=[Combination(operation="days_between", left="a", right="a")]
)


@settings(max_examples=60, deadline=None)
@given(series=columns_of_any_type())
def test_a_table_equals_its_rows(series):
    table = series.to_frame()
    x = ENCODER.table(table)
    rows = [ENCODER.row([value]) for value in series.to_list()]
    assert x.tobytes() == b"".join(row.tobytes() for row in rows)
    assert not np.isinf(x).any()


def test_threads_change_nothing():
    rng = np.random.default_rng(0)
    values = rng.choice(["de", "fr", "7", "1,200", "2024-01-31", "mr x1", "Ünder mr"], 5_000)
    table = pl.DataFrame({"a": values})
    one = ENCODER.table(table, threads=1)
    assert one.tobytes() == ENCODER.table(table, threads=3).tobytes()
    bases = [ENCODER.base_table(table, threads=threads) for threads in (1, 3)]
    assert np.array_equal(bases[0], bases[1], equal_nan=True)
    again = np.vstack([ENCODER.table(table[i : i + 700]) for i in range(0, 5_000, 700)])
    assert one.tobytes() == again.tobytes()


@given(texts=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=5))
def test_hash_buckets_are_those_of_crc_32(texts):
    encoder = Encoder(columns=[Column(name="a", kind="high_cardinality", buckets=10)])
    x = encoder.table(pl.DataFrame({"a": texts}))[:, 0]
    for code, text in zip(x, texts, strict=True):
        stripped = text.strip()
        assert code == (2 + zlib.crc32(stripped.encode()) % 10 if stripped else 0.0)


def test_a_token_score_is_the_mean_weight_of_known_tokens():
    encoder = Encoder(columns=[COLUMNS[12]])
    texts = ["Mr. 7 and x1", "MR mr ünder", "nobody", "", None]
    x = encoder.table(pl.DataFrame({"a": texts}))[:, 0]
    assert x[:4].tolist() == pytest.approx([(0.1 - 0.7 + 3.3) / 3, (0.2 + 1e-3) / 3, 0, 0])
    assert math.isnan(x[4])


def test_instants_kept_as_numbers():
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    seconds, milliseconds = (
        Encoder(columns=[Column(name="at", kind="date", format=form, parts=PARTS)])
        for form in parsing.EPOCH_FORMATS
    )
    stamp = int(moment.timestamp())
    assert seconds.row([stamp]).tolist() == milliseconds.row([stamp * 1000.0]).tolist()
    assert seconds.row([stamp]).tolist() == seconds.row([moment]).tolist()
    digits = Encoder(columns=[Column(name="at", kind="date", format="%Y%m%d", parts=PARTS)])
    assert digits.row([20240501]).tolist() == digits.row([date(2024, 5, 1)]).tolist()
