"""Small histories whose label is known, and towers over them."""

import numpy as np
import polars as pl
import torch

from chopmark.histories import Histories, Sketch, Tokenizer
from chopmark.models.towers import Tower as NumpyTower
from chopmark.sequence.network import Tower
from chopmark.sequence.shape import Shape

SHAPES = {
    "recurrent": Shape(width=16, depth=2),
    "transformer": Shape(kind="transformer", width=32, heads=2, depth=2, length=64),
    "seed": Shape(kind="seed", width=16, heads=4, depth=2, length=64),
}
WEEK = 7 * 86_400_000_000


def events(*, num_users: int = 60, seed: int = 0) -> pl.DataFrame:
    """Up to 40 events of each user over a week, and a label: whether they ever `cash_out`."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, num_users)
    n = int(lengths.sum())
    words = np.array(["visit", "buy", "sell", "cash_out"], dtype=object)
    bad = np.repeat(rng.random(num_users) < 0.4, lengths)
    kinds = np.where(bad & (rng.random(n) < 0.3), 3, rng.integers(0, 3, n))
    return pl.DataFrame(
        {
            "user": np.repeat(np.arange(num_users), lengths),
            "happened_at": pl.Series(WEEK + (rng.random(n) * WEEK).astype(np.int64)).cast(
                pl.Datetime("us", "UTC")
            ),
            "type": words[kinds].tolist(),
            "asset": rng.choice(["BTC", "ETH", "SOL"], n).tolist(),
            "amount": np.where(rng.random(n) < 0.2, np.nan, rng.lognormal(3, 2, n)),
        }
    ).sort("user", "happened_at")


def histories(**options: int) -> Histories:
    return Histories.from_frame(events(**options).with_columns(pl.col("amount").fill_nan(None)))


def table(**options: int) -> pl.DataFrame:
    """One row per user: the history as a list column, and the label."""
    frame = events(**options)
    past = histories(**options)
    label = frame.group_by("user", maintain_order=True).agg(
        (pl.col("type") == "cash_out").any().cast(pl.Int8).alias("label")
    )
    lists = past.every(3 * WEEK).to_lists().alias("history")
    return label.select(lists, "label")


def tokenizer_of(past: Histories) -> Tokenizer:
    return Tokenizer.fit(Sketch.of(past), least_count=1, hash_buckets=4)


def tower_of(shape: Shape, tokenizer: Tokenizer, *, seed: int = 0) -> Tower:
    """A tower with weights that nothing has trained, and none of them zero."""
    tower = Tower(shape, tokenizer, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        tower.center_R += 0.1
        tower.spread_R *= 1.5
    return tower.eval()


def served(tower: Tower) -> NumpyTower:
    """The same tower without torch."""
    arrays = {name: tensor.numpy() for name, tensor in tower.state_dict().items()}
    return NumpyTower(tower.shape.kind, tower.layout, arrays, heads=tower.shape.heads)
