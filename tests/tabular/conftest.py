"""Real tables: their licences forbid shipping them, so they lie beside the repository."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.model_selection import train_test_split

DATA = Path(os.environ.get("CHOPMARK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_table():
    """A function from a table's name to the table; skips where it is absent."""

    def read(name):
        path = DATA / "tabular" / f"{name}.parquet"
        if not path.exists():
            pytest.skip(f"no real table at {path}; set CHOPMARK_DATA to the folder of data sets")
        return pl.read_parquet(path)

    return read


@pytest.fixture(scope="session")
def real_parts(real_table):
    """A function from a table's name to its training and its test part.

    The split of the figures that the tests compare with: scikit-learn's, not ours.
    """

    def parts(name):
        table = real_table(name)
        rows = np.arange(table.height)
        train, test = train_test_split(
            rows, test_size=0.3, random_state=0, stratify=table["target"]
        )
        return table[train], table[test]

    return parts


@pytest.fixture(scope="session")
def payments():
    """A made-up table with every kind of column and a known truth."""
    rng = np.random.default_rng(0)
    n = 900
    amount = np.round(rng.lognormal(4, 1, n), 2)
    country = rng.choice(["de", "fr", "ng", "us"], n)
    begin = np.datetime64("2024-01-01", "us")
    begin = begin + rng.integers(0, 200 * 86_400, n).astype("timedelta64[s]")
    wait_hours = rng.exponential(60, n)
    z = np.log(amount) - 5 + (country == "ng") + (wait_hours < 24) * 1.5
    bad = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)
    end = begin + (wait_hours * 3600).astype("timedelta64[s]")
    missing = rng.random((3, n)) < 0.05
    return pl.DataFrame(
        {
            "payment number": np.arange(n) + 1000,
            "amount_usd": pl.Series(np.where(missing[0], np.nan, amount), nan_to_null=True),
            "fee": [f"{fee:,.2f}" for fee in amount * 30],
            "country": pl.Series(np.where(missing[1], None, country).tolist()),
            "created": pl.Series(begin).dt.strftime("%d/%m/%Y %H:%M"),
            "paid": pl.Series(end),
            "is_new": pl.Series(np.where(missing[2], None, rng.random(n) < 0.3).tolist()),
            "wallet": [f"0x{number:016x}" for number in rng.integers(0, 2**62, n)],
            "note": [f"payment {i} for order {i * 7} thanks" for i in range(n)],
            "currency": ["usd"] * n,
            "target": bad,
        }
    )
