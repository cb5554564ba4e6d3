"""Kinds are found from values alone; leaks are left out and say why."""

import math
from datetime import date, datetime, timedelta
from time import perf_counter

import numpy as np
import polars as pl
import pytest

from chopmark.errors import DeclarationError, InvalidTable
from chopmark.models import Column, Combination, Dropped, Encoder
from chopmark.tabular import deduce, make_encoder

N = 200
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5] * N, "constant"),
        ([None] * N, "constant"),
        (["x"] * N, "constant"),
        (["x", None] * (N // 2), "category"),
        ([True, False] * (N // 2), "boolean"),
        (["Yes", "no"] * (N // 2), "boolean"),
        (["male", "female"] * (N // 2), "category"),
        (RNG.normal(size=N).tolist(), "number"),
        (RNG.integers(0, 9, N).tolist(), "number"),
        ([f"{x:,.2f}" for x in RNG.normal(size=N) * 5000], "number"),
        ([str(x) for x in RNG.integers(1, 5, N)], "category"),
        ([0, 1] * (N // 2), "boolean"),
        ([0.0, 1.0, None, 1.0] * (N // 4), "boolean"),
        ([0, 1, 2, 1] * (N // 4), "number"),
        ([math.inf, 1.5, 2.5, math.nan] * (N // 4), "number"),
        ([math.inf, math.nan] * (N // 2), "constant"),
        ([math.inf, 1.5] * (N // 2), "number"),
        ([""] * N, "constant"),
        ([f"{x:05}" for x in RNG.integers(0, 99_999, N)], "identifier"),
        ([f"{x:05}" for x in RNG.integers(0, 40, N)], "high_cardinality"),
        ([f"merchant {x}" for x in RNG.integers(0, 40, N)], "high_cardinality"),
        ([f"merchant {x}" for x in RNG.integers(0, 300, 9_000)], "high_cardinality"),
        ([f"merchant {x}" for x in RNG.integers(0, 40, 9_000)], "category"),
        ([*map(str, RNG.normal(size=N)), "?"], "number"),
        ([*map(str, RNG.integers(0, 40, N)), *["n/a", "?"] * 5], "high_cardinality"),
        (list(range(100, 100 + N)), "identifier"),
        (RNG.permutation(N).tolist(), "identifier"),
        (np.sort(RNG.integers(0, 2**40, N)).tolist(), "identifier"),
        (RNG.integers(0, 2**40, N).tolist(), "number"),
        ([f"user-{x:06}" for x in range(N)], "identifier"),
        ([float(x) for x in range(N)], "identifier"),
        ([f"Doe, Mr. John {x}" for x in range(N)], "text"),
        ([f"2024-01-{x % 28 + 1:02}" for x in range(N)], "date"),
        ([f"{x % 28 + 1:02}.03.2024 10:00" for x in range(N)], "date"),
        ([f"202401{x % 28 + 1:02}" for x in range(N)], "date"),
        ([20240101 + x % 28 for x in range(N)], "date"),
        ([20240101 + x % 99 for x in range(N)], "number"),
        ([date(2024, 1, x % 28 + 1) for x in range(N)], "date"),
        ([datetime(2024, 1, x % 28 + 1) for x in range(N)], "date"),
        ([[1.0, 2.0], [2.0, 3.0]] * (N // 2), "drop"),
    ],
)
def test_kind(values, kind):
    assert deduce(pl.Series("column", values, strict=False)).kind == kind


def test_columns_of_other_types():
    for dtype in (pl.Categorical, pl.Enum(["a", "b"])):
        assert deduce(pl.Series("x", ["a", "b"] * 50, dtype=dtype)).kind == "category"
    mixed = pl.Series("x", [1, "a", None, 1.0] * 50, dtype=pl.Object)
    assert deduce(mixed).categories == ("1", "a")
    assert deduce(pl.Series("x", [None] * 5, dtype=pl.Float64)).reason == "all values are missing"
    assert deduce(pl.Series("x", ["1.5", "2.5"] * 50).cast(pl.Decimal(9, 2))).kind == "number"
    assert deduce(pl.Series("x", [timedelta(days=d) for d in range(60)])).kind == "drop"


@pytest.mark.parametrize(
    ("name", "factor", "kind", "form"),
    [
        ("created_at", 1, "date", "epoch seconds"),
        ("eventTime", 1_000, "date", "epoch milliseconds"),
        ("amount", 1, "number", ""),
        ("amount", 1_000, "number", ""),
        ("time_spent", 1 / 1_000, "number", ""),
    ],
)
def test_instants_that_are_kept_as_numbers(name, factor, kind, form):
    stamps = RNG.integers(1_600_000_000, 1_700_000_000, N)
    series = pl.Series(name, (stamps * factor).astype(np.int64))
    column = deduce(series)
    assert (column.kind, column.format) == (kind, form)
    if kind == "date":
        x = Encoder(columns=[column]).table(series.to_frame())
        assert x[:, 0] == pytest.approx(stamps / 86_400)


def test_dates_in_two_formats_are_refused_and_named():
    iso = [f"2024-01-{day:02}" for day in range(1, 29)]
    german = [f"{day:02}.02.2024" for day in range(1, 20)]
    mixed = pl.Series("at", iso + german)
    dropped = deduce(mixed)
    assert (type(dropped), dropped.kind) == (Dropped, "date")
    assert "`iso` (60%) and `%d.%m.%Y` (40%)" in dropped.reason
    assert deduce(mixed, hint="date").format == "iso"
    # A stray one in more than 200 is missing, as any other value that does not fit.
    days = [f"{2000 + k // 336}-{k // 28 % 12 + 1:02}-{k % 28 + 1:02}" for k in range(600)]
    assert deduce(pl.Series("at", [*days, "31.12.2024"])).format == "iso"


def test_ten_thousand_columns_take_seconds():
    rows = range(50)
    numbers = {f"n{k}": RNG.normal(size=50) for k in range(9_500)}
    texts = {f"t{k}": [f"value {(k + i) % 7}" for i in rows] for k in range(500)}
    frame = pl.DataFrame(numbers | texts | {"target": [0, 1] * 25})
    begin = perf_counter()
    encoder = make_encoder(frame, target="target")
    x = encoder.table(frame)
    assert x.shape == (50, 10_000)
    assert perf_counter() - begin < 60  # some 5 s on a quiet core


def test_a_name_makes_sparse_numbers_an_identifier():
    values = RNG.integers(0, 2**40, N)
    for name in ("user_id", "id", "User ID", "CustomerId"):
        assert deduce(pl.Series(name, values)).kind == "identifier"
    assert deduce(pl.Series("paid", values)).kind == "number"


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["2024-01-31", "2024-02-01T10:00:00Z"], "iso"),
        (["31/01/2024", "01/02/2024"], "%d/%m/%Y"),
        (["01/31/2024", "02/01/2024"], "%m/%d/%Y"),
        (["01/02/2024", "02/01/2024"], "%d/%m/%Y"),
        (["31-Jan-2024", "1-feb-2024 09:15"], "%d-%b-%Y"),
        (["Jan-2024", "Feb-2024"], "%b-%Y"),
        (["January 3, 2024", "May 3, 2024"], "%b %d, %Y"),
    ],
)
def test_the_format_of_dates_is_remembered(texts, form):
    assert deduce(pl.Series("at", texts)).format == form


def test_parts_that_never_vary_are_left_out():
    column = deduce(pl.Series("at", [f"2024-01-{day:02}" for day in range(1, 29)]))
    assert column.parts == ("epoch_days", "weekday", "day")


def test_rare_categories_share_a_bucket():
    column = deduce(pl.Series("country", ["de"] * 500 + ["fr"] * 300 + ["li"] + ["mc"]))
    assert column.categories == ("de", "fr")


def test_a_hint_wins():
    series = pl.Series("merchant code", RNG.integers(0, 9, N))
    assert deduce(series, hint="category").categories == tuple(
        series.value_counts(sort=True)
        .sort(["count", "merchant code"], descending=[True, False])["merchant code"]
        .cast(pl.String)
    )
    assert deduce(series, hint="drop") == Dropped(
        name="merchant code", kind="drop", reason="declared so"
    )
    with pytest.raises(DeclarationError, match="did you mean `category`"):
        deduce(series, hint="categry")


def test_an_encoder_of_every_kind(payments):
    encoder = make_encoder(payments, target="target")
    kinds = {column.name: column.kind for column in encoder.columns}
    assert kinds == {
        "amount_usd": "number",
        "fee": "number",
        "country": "category",
        "created": "date",
        "paid": "date",
        "is_new": "boolean",
        "note": "text",
    }
    assert {item.name: item.kind for item in encoder.dropped} == {
        "payment number": "identifier",
        "wallet": "identifier",
        "currency": "constant",
    }
    assert all(item.reason for item in encoder.dropped)
    assert [made.name for made in encoder.combinations] == ["paid - created"]
    assert set(encoder.groups) == {"raw", "date parts", "date differences", "text"}


def test_dates_are_also_read_as_their_distance_to_the_time_of_the_row():
    rng = np.random.default_rng(0)
    start = np.datetime64("2024-01-01", "ms")
    dates = {f"d{k}": start + rng.integers(0, 10**10, 60) for k in range(22)}
    frame = pl.DataFrame(dates | {"as_of": np.full(60, start + 10**11), "target": [0, 1] * 30})
    pairs = {made.name for made in make_encoder(frame, target="target").combinations}
    assert len(pairs) == 20 * 19 / 2
    encoder = make_encoder(frame, target="target", time="as_of")
    made = {made.name for made in encoder.combinations}
    assert made == pairs | {f"as_of - d{k}" for k in range(22)}
    names = [column.name for column in encoder.encoded]
    assert "as_of epoch_days" not in names
    assert "d0 epoch_days" in names
    # Seconds since 1970 under a name that does not tell: the caller does.
    counted = frame.with_columns(as_of=pl.col("as_of").dt.epoch("s") + pl.int_range(60))
    encoder = make_encoder(counted.rename({"as_of": "x"}), target="target", time="x")
    x = encoder.table(counted.rename({"as_of": "x"}))
    j = [column.name for column in encoder.encoded].index("x - d9")
    expected = counted["as_of"].to_numpy() / 86_400 - frame["d9"].dt.epoch("ms").to_numpy() / 864e5
    assert x[:, j] == pytest.approx(expected)
    with pytest.raises(DeclarationError, match="`time` names column `as_off`"):
        make_encoder(frame, target="target", time="as_off")


def test_extra_readings(payments):
    encoder = make_encoder(
        payments,
        target="target",
        columns={"wallet": "drop"},
        extra=[
            Column(name="wallet", kind="category", pattern=r"^0x(.)"),
            Combination(operation="ratio", left="fee", right="amount_usd"),
        ],
    )
    assert encoder.columns[-1].categories
    assert encoder.encoded[-1].name == "fee / amount_usd"
    with pytest.raises(DeclarationError, match="did you mean `wallet`"):
        make_encoder(payments, target="target", columns={"walet": "drop"})
    with pytest.raises(InvalidTable, match="no column is left"):
        make_encoder(payments.select("currency", "target"), target="target")


def test_identifiers_of_real_tables_are_left_out_and_nothing_else(real_table):
    expected = {
        "titanic": {"PassengerId"},
        "adult": set(),
        "bank_marketing": set(),
        "german_credit": set(),
        "taiwan_default": {"ID"},
        "vehicle_claims_fraud": {"PolicyNumber"},
        "compas_recid": set(),
        "online_shoppers": set(),
        "credit_data": set(),
        "lending_club": set(),
        "email_spam": set(),
        "telco_churn": {"customerID"},
        "eth_fraud": {"Address"},
    }
    for name, dropped in expected.items():
        encoder = make_encoder(real_table(name), target="target")
        assert {item.name for item in encoder.dropped} == dropped, name
