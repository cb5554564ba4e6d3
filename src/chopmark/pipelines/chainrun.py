"""One run of a chain in a folder: how it was learned, and what it left.

Serves rows H1 and H11 of the requirements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, StoreError
from chopmark.graph.node2vec import Node2Vec
from chopmark.histories.storage import BROKEN
from chopmark.pipelines.chainlabels import TARGET


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a chain is learned.

    Parameters
    ----------
    dim, num_walks, length, p, q
        Of Node2Vec; walks follow transfers in both directions, by log(1 + amount).
    hops
        How far behaviour looks: 0, 1 or 2.
    sampled
        Addresses without a label that stand for all the others when the model is fitted.
    model
        Of `EasyML`: a family, several, or "auto".
    prices
        Worth of one unit of each asset by its address, "" for the chain's own coin. An asset
        without a price counts as a transfer of nothing: who and when, not how much.
    seed
    """

    dim: int = 64
    num_walks: int = 10
    length: int = 40
    p: float = 0.5
    q: float = 2.0
    hops: int = 2
    sampled: int = 20_000
    model: str = "trees"
    prices: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampled < 1:
            raise InvalidInput(f"expected `sampled` of 1 or more, got {self.sampled}")
        for asset, price in self.prices.items():
            if not isinstance(asset, str):
                raise InvalidInput(f"expected assets of `prices` as text, got {asset!r}")
            if not isinstance(price, int | float) or not 0 <= price < math.inf:
                raise InvalidInput(
                    f"expected the price of `{asset or 'the coin'}` as a number of 0 or more, "
                    f"got {price!r}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a run left, mapped from its folder."""

    folder: Path
    about: dict[str, Any]
    columns: NDArray[np.float32]
    scores: NDArray[np.float32]

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in a folder.

        Raises
        ------
        StoreError
            If a part of it is missing or damaged.
        """
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            columns = np.load(folder / "columns.npy", mmap_mode="r")
            scores = np.load(folder / "scores.npy", mmap_mode="r")
            sound = columns.shape == (len(scores), len(about["columns"]))
            int(about["mark"]), float(about["shift"]), dict(about["held_out"])
            Recipe(**about["recipe"])
        except (*BROKEN, AttributeError, InvalidInput) as error:
            raise StoreError(f"the run in `{folder}` is damaged: {error}") from error
        if not sound:
            raise StoreError(f"the run in `{folder}` is damaged: its columns and scores differ")
        return cls(folder, about, columns, scores)

    @property
    def name(self) -> str:
        """Its number as text."""
        return self.folder.name

    @property
    def num_addresses(self) -> int:
        """Addresses that it scored."""
        return len(self.scores)

    @property
    def mark(self) -> int:
        """How far in the ledger it has worked."""
        return int(self.about["mark"])

    @property
    def shift(self) -> float:
        """What is added to the model's log-odds: the model was fitted to a sample."""
        return float(self.about["shift"])

    @property
    def held_out(self) -> dict[str, float | None]:
        """Figures of its model."""
        return dict(self.about["held_out"])

    @property
    def labels(self) -> pl.DataFrame:
        """Id and label of the addresses that it learned from."""
        path = self.folder / "labels.parquet"
        try:
            return pl.read_parquet(path).select("id", TARGET)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StoreError(f"`{path}` is damaged: {str(error).splitlines()[0]}") from error

    @property
    def recipe(self) -> Recipe:
        """How it was learned."""
        return Recipe(**self.about["recipe"])

    def embedding(self) -> Node2Vec:
        """Its embedding, with the graph and the walks that it is of, to go on from."""
        return Node2Vec.open(self.folder / "node2vec")
