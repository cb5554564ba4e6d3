"""Kinds are found from values alone; leaks are left out and say why."""

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest

from chopmark.errors import DeclarationError, InvalidTable
from chopmark.models import Column, Combination, Dropped
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
        (list(range(100, 100 + N)), "identifier"),
        (RNG.permutation(N).tolist(), "identifier"),
        (np.sort(RNG.integers(0, 2**40, N)).tolist(), "identifier"),
        (RNG.integers(0, 2**40, N).tolist(), "number"),
        ([f"user-{x:06}" for x in range(N)], "identifier"),
        ([f"Doe, Mr. John {x}" for x in range(N)], "text"),
        ([f"2024-01-{x % 28 + 1:02}" for x in range(N)], "date"),
        ([f"{x % 28 + 1:02}.03.2024 10:00" for x in range(N)], "date"),
        ([f"202401{x % 28 + 1:02}" for x in range(N)], "date"),
        ([date(2024, 1, x % 28 + 1) for x in range(N)], "date"),
        ([datetime(2024, 1, x % 28 + 1) for x in range(N)], "date"),
        ([[1.0, 2.0], [2.0, 3.0]] * (N // 2), "drop"),
    ],
)
def test_kind(values, kind):
    assert deduce(pl.Series("column", values, strict=False)).kind == kind


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
    }
    assert {item.name: item.kind for item in encoder.dropped} == {
        "payment number": "identifier",
        "wallet": "identifier",
        "note": "text",
        "currency": "constant",
    }
    assert all(item.reason for item in encoder.dropped)
    assert [made.name for made in encoder.combinations] == ["paid - created"]


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


def test_the_leaks_of_real_tables_are_found_and_nothing_else(real_table):
    expected = {
        "titanic": {"PassengerId", "Name"},
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
    }
    for name, dropped in expected.items():
        encoder = make_encoder(real_table(name), target="target")
        assert {item.name for item in encoder.dropped} == dropped, name
