"""The application that the benchmarks run: purchases, 32 window features, a model of 300 trees.

`chopmark serve DATA --app benchmarks/application.py` serves it, and `write_model` makes the
model that belongs to it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl

from chopmark.decisions import Decision
from chopmark.engine import Application
from chopmark.events import Entity, Event, Schema, Usd
from chopmark.features import Aggregate, Catalog, Derived, Label, aggregates, training_table
from chopmark.features.catalog import Feature
from chopmark.models import Artifact, ArtifactScorer, Trees
from chopmark.models.artifact import read
from chopmark.models.scorers import FAMILY
from chopmark.times import DAY, moment

WINDOWS = ("10m", "1h", "1d", "7d")
START = 1_767_225_600_000_000
"""2026-01-01 in microseconds: the first event is not before it."""
NUM_TREES = 300
NUM_LEAVES = 31


class Purchase(Event):
    """A payment that names four entities."""

    user: Annotated[str, Entity("user")]
    device: Annotated[str, Entity("device")]
    ip: Annotated[str, Entity("ip")]
    card: Annotated[str, Entity("card")]
    amount_usd: Usd


class Dispute(Event):
    """A purchase was bad; the label, of which the benchmarks log none."""

    user: Annotated[str, Entity("user")]


SCHEMA = Schema(Purchase, Dispute, Decision)


def window_features() -> list[Feature]:
    """Count and sum over 4 windows of 4 entities: 32 features."""
    return list(
        aggregates(
            "purchase",
            by=("user", "device", "ip", "card"),
            ops=("count", "sum"),
            of="amount_usd",
            windows=WINDOWS,
        )
    )


application = Application(
    Catalog(
        SCHEMA,
        Derived("amount_usd"),
        *window_features(),
        Aggregate("decision", "sum", of="allowed_usd", window="7d"),
    )
)
"""The 32, the amount at hand, and what the policy allowed in the last week."""

label = Label(events=("dispute",))


def purchases(
    count: int, *, seed: int = 0, num_users: int = 50_000, days: float = 30.0
) -> Iterator[Purchase]:
    """Distinct purchases in the order of time, ``known_at`` unset.

    A user is drawn by Zipf's law (exponent 0.8) and keeps two devices, three addresses of the
    network, some of them shared, and two cards.
    """
    rng = np.random.default_rng(seed)
    users = zipf(rng, num_users, count, exponent=0.8)
    times = START + np.sort(rng.integers(0, int(days * DAY), count))
    cents = np.round(np.exp(rng.normal(8.0, 1.2, count))).astype(np.int64)
    devices = users * 2 + rng.integers(0, 2, count)
    ips = (users * 3 + rng.integers(0, 3, count)) % (num_users * 2)
    cards = users * 2 + rng.integers(0, 2, count)
    tails = rng.integers(0, 1 << 62, count)
    columns = (users, times, cents, devices, ips, cards, tails)
    for i, (user, time, cent, device, ip, card, tail) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        yield Purchase(
            id=f"{i:08x}-{tail:016x}",
            happened_at=moment(time),
            user=f"user-{user:08d}",
            device=f"device-{device:08d}",
            ip=f"10.{ip >> 16 & 255}.{ip >> 8 & 255}.{ip & 255}",
            card=f"card-{card:08d}",
            amount_usd=cent / 100,
        )


def zipf(rng: np.random.Generator, num: int, count: int, *, exponent: float) -> np.ndarray:
    """(count,) int64 in [0, num), the k-th commonest with probability ~ k ** -exponent."""
    shares = np.cumsum(np.arange(1, num + 1, dtype=np.float64) ** -exponent)
    ranks = np.searchsorted(shares, rng.random(count) * shares[-1])
    return rng.permutation(num)[np.minimum(ranks, num - 1)]


def write_model(path: Path, *, num_rows: int = 40_000) -> ArtifactScorer:
    """A scorer of exactly 300 trees with 31 leaves over the features of this application."""
    sample = list(purchases(num_rows, seed=1, num_users=5_000))
    table = training_table(application.catalog, [sample], rows=["purchase"])
    # What the policy allowed is no column of a model (see `pipelines.train`).
    return grow(path, table.drop("event_id", "as_of", *application.own), application)


def grow(path: Path, table: pl.DataFrame, application: Application) -> ArtifactScorer:
    """EasyML's own encoder, calibration and artifact, with a fixed number of trees in it.

    EasyML stops where the held-out loss does, so it would choose the number of trees itself.
    Labels are drawn from a made-up risk with enough structure for all leaves of all trees.
    """
    # Here, as a service that imports this file for its application must not pay for learners.
    import lightgbm as lgb

    from chopmark.tabular import EasyML

    rng = np.random.default_rng(2)
    target = pl.Series("target", _labels(rng, table))
    hashes = {name: application.catalog.hashes[name] for name in table.columns}
    model = EasyML(threads=1).fit(table.with_columns(target), feature_hashes=hashes)
    encoder = model.encoder
    settings = {
        "objective": "binary",
        "num_leaves": NUM_LEAVES,
        "learning_rate": 0.05,
        "min_data_in_leaf": 20,
        "num_threads": 1,
        "seed": 0,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lgb.Dataset(
        encoder.table(table),
        target.to_numpy(),
        categorical_feature=[j for j, column in enumerate(encoder.encoded) if column.num_codes],
    )
    text = lgb.train(settings, data, num_boost_round=NUM_TREES).model_to_string()
    trees = Trees.from_lightgbm(text)
    artifact = model.scorer.artifact
    Artifact(
        family=FAMILY,
        header={
            name: artifact.header[name]
            for name in ("encoder", "feature_hashes", "link", "training")
        },
        arrays={
            "calibration": artifact.arrays["calibration"],
            **{f"trees.{name}": array for name, array in trees.to_arrays().items()},
        },
    ).save(path)
    num_leaves = (len(trees.nodes) + len(trees.roots)) / 2  # a binary tree has n - 1 inner nodes
    assert len(trees.roots) == NUM_TREES, f"expected {NUM_TREES} trees, got {len(trees.roots)}"
    assert num_leaves >= 0.95 * NUM_TREES * NUM_LEAVES, f"only {num_leaves / NUM_TREES} leaves"
    return ArtifactScorer(read(path))


def _labels(rng: np.random.Generator, table: pl.DataFrame) -> np.ndarray:
    """(n,) 0 or 1: a random quadratic function of the numbers, ranked, plus noise."""
    numbers = table.select(pl.selectors.numeric().fill_null(-1.0).rank()).to_numpy()
    x = numbers / len(numbers) - 0.5
    pairs = rng.integers(0, x.shape[1], size=(40, 2))
    z = (x[:, pairs[:, 0]] * x[:, pairs[:, 1]]) @ rng.normal(size=40) * 10.0
    z += x @ rng.normal(size=x.shape[1]) * 3.0
    return (rng.random(len(z)) < 1.0 / (1.0 + np.exp(1.5 - z))).astype(np.int8)
