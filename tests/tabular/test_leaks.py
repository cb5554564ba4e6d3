"""Leaks are found where they were planted, and nowhere else."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from chopmark.models import Column, Encoder
from chopmark.tabular import make_encoder
from chopmark.tabular.leaks import _auc, find_leaks

N = 4_000
TABLES = (
    "adult",
    "bank_marketing",
    "compas_recid",
    "credit_data",
    "email_spam",
    "eth_fraud",
    "german_credit",
    "lending_club",
    "online_shoppers",
    "taiwan_default",
    "telco_churn",
    "titanic",
)


def leaks(frame, target="target", columns=None):
    y = frame[target].cast(pl.Float64).to_numpy()
    return find_leaks(frame, y, make_encoder(frame, target=target, columns=columns))


def honest(rng, n=N):
    """Label, and columns that tell it smoothly; one row after the other."""
    amount = np.round(rng.lognormal(4, 1, n), 2)
    country = rng.choice(["de", "fr", "ng", "us"], n)
    z = np.log(amount) - 5.5 + 1.5 * (country == "ng")
    return {
        "target": (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int),
        "amount": amount,
        "country": country,
        "cents": (amount * 1000).astype(int) + rng.integers(0, 1000, n),
        "at": np.datetime64("2024-01-01", "ms") + np.sort(rng.integers(0, 10**10, n)),
    }


def test_the_policy_number_of_the_vehicle_claims(real_table):
    found = leaks(real_table("vehicle_claims_fraud"))
    assert [(leak.column, leak.drop) for leak in found] == [("PolicyNumber", True)]
    assert found[0].evidence > 0.9
    assert "Month" in found[0].reason


@pytest.mark.parametrize("name", TABLES)
def test_no_false_alarm_on_real_tables(name, real_table):
    assert leaks(real_table(name)) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([60, 300, 2_000]))
def test_no_false_alarm_on_honest_data(seed, n):
    rng = np.random.default_rng(seed)
    data = honest(rng, n) | {
        "id": np.arange(n),
        "account": rng.permutation(n) + 10_000,
        "noise": rng.integers(0, 2**40, n),
        "note": [f"order {i} of today" for i in range(n)],
    }
    assert leaks(pl.DataFrame(data)) == []


def test_a_running_number_that_stands_for_slow_drift_is_no_leak():
    rng = np.random.default_rng(1)
    data = honest(rng)
    rate = 0.1 + 0.5 * np.arange(N) / N
    data["target"] = (rng.random(N) < rate).astype(int)
    assert leaks(pl.DataFrame(data | {"id": np.arange(N)})) == []


def test_a_file_sorted_by_label():
    data = pl.DataFrame(honest(np.random.default_rng(2))).sort("target", maintain_order=True)
    found = leaks(data.with_row_index("id").drop("at"))
    assert [(leak.column, leak.drop) for leak in found] == [("id", True)]
    assert found[0].evidence > 0.99


def test_numbers_given_in_blocks_of_one_label():
    rng = np.random.default_rng(3)
    blocks = np.repeat(rng.random(N // 20) < 0.3, 20).astype(int)
    order = rng.permutation(N)
    base = {"target": blocks, "noise": rng.normal(size=N)}
    dense = pl.DataFrame(base | {"id": np.arange(N)})[order]
    assert [(leak.column, leak.drop) for leak in leaks(dense)] == [("id", True)]
    sparse = pl.DataFrame(base | {"number": np.cumsum(rng.integers(1, 10**6, N))})[order]
    assert [(leak.column, leak.drop) for leak in leaks(sparse)] == [("number", False)]
    time = np.datetime64("2024-01-01", "ms") + np.cumsum(rng.integers(1, 10**7, N))
    dated = pl.DataFrame(base | {"at": time})[order]
    assert [(leak.column, leak.drop) for leak in leaks(dated)] == [("at", False)]


def test_columns_that_know_the_label():
    rng = np.random.default_rng(4)
    data = honest(rng)
    y = data["target"]
    data["chargeback"] = np.where(y == 1, rng.gamma(3, 10, N), 0.0)
    data["outcome"] = np.where(y == 1, rng.choice(["banned", "lost"], N), "paid")
    data["good"] = y + rng.normal(scale=0.5, size=N)  # ROC-AUC 0.92: merely good
    found = leaks(pl.DataFrame(data))
    assert {leak.column for leak in found} == {"chargeback", "outcome"}
    assert not any(leak.drop for leak in found)
    assert all(leak.evidence > 0.995 for leak in found)


def test_a_target_mean_is_looked_at_without_its_means():
    rng = np.random.default_rng(4)
    bad = np.array(honest(rng)["target"])
    shops = rng.integers(0, N // 2, N).astype(str)
    branches = np.char.add(rng.integers(0, 30, N).astype(str), np.where(bad == 1, "x", ""))
    columns = [means("shop", shops, bad), means("branch", branches, bad)]
    frame = pl.DataFrame({"shop": shops.tolist(), "branch": branches.tolist()})
    in_sample = Encoder(columns=columns).table(frame)[:, 0]
    assert roc_auc_score(bad, in_sample) > 0.8
    missing = pl.Series(rng.random(N) < 0.001)
    frame = frame.select(pl.when(~missing).then(pl.all()))
    found = find_leaks(frame, bad.astype(float), Encoder(columns=columns))
    assert [leak.column for leak in found] == ["branch"]


def means(name, texts, bad):
    """A column read as half of each text's share of bad rows."""
    known = np.unique(texts)
    shares = tuple(float(bad[texts == text].mean()) / 2 for text in known)
    return Column(
        name=name, kind="high_cardinality", categories=tuple(known.tolist()), values=shares
    )


def test_too_few_rows_to_tell():
    data = pl.DataFrame(honest(np.random.default_rng(5), 40))
    assert leaks(data.with_columns(copy=pl.col("target") * 2.5)) == []


@given(
    data=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: len({label for _, label in rows}) == 2
    )
)
def test_the_area_is_that_of_scikit_learn(data):
    scores, labels = (np.array(column, dtype=float) for column in zip(*data, strict=True))
    assert _auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
