"""A made-up table, and a model of another house: one column, a rate for each of its buckets."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from chopmark.models import Artifact, Contributions, families
from chopmark.models import artifact as artifacts


class BucketScorer:
    """Scorer of the foreign family."""

    def __init__(self, artifact):
        self.artifact, self.hash = artifact, artifact.hash
        self.reads = (artifact.header["column"],)
        self.feature_hashes = artifact.header["feature_hashes"]
        self.training = artifact.header["training"]
        self.edges, self.moves = artifact.arrays["edges"], artifact.arrays["moves"]
        self.bias = float(artifact.arrays["bias"][0])

    def score_row(self, values):
        return self.explain_row(values)[0]

    def explain_row(self, values):
        (value,) = values
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        # The last move is that of a missing number.
        known = not math.isnan(number)
        place = np.searchsorted(self.edges, number) if known else len(self.moves) - 1
        move = float(self.moves[place])
        return 1 / (1 + math.exp(-self.bias - move)), np.array([move])

    def reasons_row(self, values):
        return self.explain_row(values)

    def score(self, table):
        return np.array([self.score_row(row) for row in table.select(self.reads).iter_rows()])

    def explain(self, table):
        rows = [self.explain_row(row)[1] for row in table.select(self.reads).iter_rows()]
        values = np.array(rows).reshape(table.height, 1)
        return Contributions(reads=self.reads, values=values, bias=self.bias)

    def warm(self):
        pass


class BucketRates:
    """A model that knows nothing of EasyML, and keeps the contract."""

    family = "bucket rates"

    def __init__(self, column="amount", num_buckets=4, feature_hashes=None):
        self.column, self.num_buckets = column, num_buckets
        self.feature_hashes = feature_hashes or {}
        self.scorer = None

    def get_params(self, deep=True):
        return {
            "column": self.column,
            "num_buckets": self.num_buckets,
            "feature_hashes": self.feature_hashes,
        }

    def fit(self, table, *, target):
        y = table[target].to_numpy().astype(float)
        x = table[self.column].cast(pl.Float64).fill_null(math.nan).to_numpy()
        quantiles = np.linspace(0, 1, self.num_buckets + 1)[1:-1]
        edges = np.unique(np.nanquantile(x, quantiles))
        bucket = np.where(np.isnan(x), len(edges) + 1, np.searchsorted(edges, x))
        rows = np.bincount(bucket, minlength=len(edges) + 2)
        bads = np.bincount(bucket, weights=y, minlength=len(edges) + 2)
        bias = np.log(y.mean() / (1 - y.mean()))
        moves = np.log((bads + y.mean()) / (rows - bads + 1 - y.mean())) - bias
        packed = Artifact(
            family=self.family,
            header={
                "column": self.column,
                "feature_hashes": self.feature_hashes,
                "training": {"importance": {self.column: 1.0}},
            },
            arrays={"edges": edges, "moves": moves, "bias": np.array([bias])},
        ).pack()
        self.scorer = BucketScorer(artifacts.unpack(packed))
        return self

    @property
    def reads(self):
        return self.scorer.reads

    def score(self, table):
        return self.scorer.score(table)

    def predict_proba(self, table):
        return np.column_stack([1 - self.score(table), self.score(table)])

    def explain(self, table):
        return self.scorer.explain(table)

    def importance(self):
        return {self.column: 1.0}

    def save(self, path):
        artifacts.write_whole(Path(path), self.scorer.artifact.pack())

    @classmethod
    def load(cls, path):
        loaded = cls()
        loaded.scorer = BucketScorer(artifacts.read(path))
        return loaded


families.register(BucketRates.family, BucketScorer)


@pytest.fixture(scope="session")
def bucket_rates():
    """The class of the foreign model."""
    return BucketRates


@pytest.fixture(scope="session")
def purchases():
    """A table with a known truth, in the order of time."""
    rng = np.random.default_rng(0)
    n = 600
    amount, age = rng.lognormal(4, 1, n), rng.exponential(60, n)
    country = rng.choice(["de", "fr", "ng", "us"], n)
    z = np.log(amount) - 4.5 + 1.5 * (country == "ng") - 0.01 * age
    amount[rng.random(n) < 0.05] = np.nan
    return pl.DataFrame(
        {
            "amount": pl.Series(amount, nan_to_null=True),
            "age_days": age,
            "country": country.tolist(),
            "day": np.arange(n) // 4,
            "user": rng.integers(0, 150, n),
            "target": (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int),
        }
    )
