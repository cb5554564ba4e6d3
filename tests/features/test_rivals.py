"""DuckDB and Polars as independent oracles: windows in SQL and in a data frame."""

from datetime import timedelta

import duckdb
import numpy as np
import polars as pl
import pytest

from chopmark.features import Catalog, Fold, aggregates, from_frame

from .exchange import SCHEMA

NUM_EVENTS = 20_000
WINDOWS = {"10m": 600, "1h": 3_600, "1d": 86_400, "90d": 7_776_000}


@pytest.fixture(scope="module")
def log():
    """Purchases at different instants; many exactly a window apart."""
    random = np.random.default_rng(5)
    steps = random.choice([1, 17, 299, 300, 600, 3_000], NUM_EVENTS) * 1_000_000
    steps += random.choice([0, 0, 0, 1, -1], NUM_EVENTS)
    known = np.cumsum(steps.clip(1))
    return pl.DataFrame(
        {
            "type": ["purchase"] * NUM_EVENTS,
            "known_at": known,
            "happened_at": known,
            "user": [f"u{number}" for number in random.integers(0, 300, NUM_EVENTS)],
            "amount_usd": np.round(random.lognormal(4, 2, NUM_EVENTS), 2),
        }
    )


@pytest.fixture(scope="module")
def features(log):
    catalog = Catalog(
        SCHEMA,
        *aggregates("purchase", ops=("count", "sum"), of="amount_usd", windows=(*WINDOWS, None)),
    )
    fold = Fold(catalog)
    parts = [part.values for part in fold.replay(from_frame(log, SCHEMA, fold.codes))]
    return dict(zip(catalog.names, np.hstack(parts), strict=True))


def test_windows_equal_those_of_duckdb(log, features):
    cents = log.with_columns(cents=(pl.col("amount_usd") * 100).round().cast(pl.Int64))
    parts = []
    for name, seconds in WINDOWS.items():
        over = (
            f"(PARTITION BY user ORDER BY known_at RANGE BETWEEN {seconds * 1_000_000 - 1} "
            "PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW)"
        )
        parts.append(f"count(*) OVER {over} AS count_{name}")
        parts.append(f"coalesce(sum(cents) OVER {over}, 0)::BIGINT AS sum_{name}")
    before = (
        "(PARTITION BY user ORDER BY known_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    )
    parts.append(f"count(*) OVER {before} AS count")
    parts.append(f"coalesce(sum(cents) OVER {before}, 0)::BIGINT AS sum")
    with duckdb.connect() as connection:
        connection.register("cents", cents)
        found = connection.sql(f"SELECT {', '.join(parts)} FROM cents ORDER BY known_at").pl()
    for suffix in (*(f"_{name}" for name in WINDOWS), ""):
        assert np.array_equal(features[f"purchase_count{suffix}"], found[f"count{suffix}"])
        sums = found[f"sum{suffix}"].to_numpy() / 100
        assert np.array_equal(features[f"purchase_amount_usd_sum{suffix}"], sums)
    assert features["purchase_count_1d"].max() > 1


def test_windows_equal_those_of_polars(log, features):
    frame = log.with_columns(
        at=pl.from_epoch("known_at", time_unit="us"),
        cents=(pl.col("amount_usd") * 100).round().cast(pl.Int64),
    )
    for name, seconds in WINDOWS.items():
        found = frame.with_columns(
            pl.col("cents")
            .rolling_sum_by("at", timedelta(seconds=seconds))
            .over("user")
            .alias("sum"),
            pl.lit(1).cum_sum().over("user").alias("order"),
        ).with_columns(past=pl.col("sum") - pl.col("cents"))
        sums = found["past"].to_numpy() / 100
        assert np.array_equal(features[f"purchase_amount_usd_sum_{name}"], sums)
        ones = frame.with_columns(one=pl.lit(1, dtype=pl.Int64)).select(
            pl.col("one").rolling_sum_by("at", timedelta(seconds=seconds)).over("user") - 1
        )
        assert np.array_equal(features[f"purchase_count_{name}"], ones["one"].to_numpy())
