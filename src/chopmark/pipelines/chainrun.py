"""One run of a chain in a folder: how it was learned, and what it left.

    runs/000001/about.json       recipe, figures, bounds, the mark of the ledger
                columns.npy      (n, d) what addresses did, with what changed since (`rowfiles`)
                scores.npy       (n,) chances to be illicit; NaN of an address without transfers
                labels.parquet   what was learned from
                model.chopmark   the model
                node2vec/        the embedding, with the graph and the walks that it is of
                behaviour/       what addresses did, to count on from

Serves rows H1 and H11 of the requirements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, StoreError
from chopmark.graph.addresses import replace_json
from chopmark.graph.behaviour import Behaviour
from chopmark.graph.node2vec import Node2Vec
from chopmark.graph.rowfiles import Kept, extended, open_rows, write_rows
from chopmark.histories.storage import BROKEN, write_array
from chopmark.models import load_scorer
from chopmark.models.blended import TableScorer
from chopmark.pipelines.chainlabels import TARGET

EMBEDDED = "embedding_"
"""What columns of the embedding are called, with their number behind."""
MODEL = "model.chopmark"


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
    known_share
        Of the illicit addresses of the chain, the share that labels name, as far as one can
        tell: (0, 1]. A score is the chance that an address is illicit, not that a list has it.
    model
        Of `EasyML`: a family, several, or "auto".
    prices
        Worth of one unit of each asset by its address, "" for the chain's own coin. An asset
        without a price counts as a transfer of nothing: who and when, not how much.
    threads
        Of walks and skip-gram. Vectors, and so scores, are repeatable with 1 only.
    seed
    """

    dim: int = 64
    num_walks: int = 10
    length: int = 40
    p: float = 0.5
    q: float = 2.0
    hops: int = 2
    sampled: int = 20_000
    known_share: float = 1.0
    model: str = "trees"
    prices: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampled < 1:
            raise InvalidInput(f"expected `sampled` of 1 or more, got {self.sampled}")
        if not 0 < self.known_share <= 1:
            raise InvalidInput(f"expected `known_share` in (0, 1], got {self.known_share}")
        for asset, price in self.prices.items():
            if not isinstance(asset, str):
                raise InvalidInput(f"expected assets of `prices` as text, got {asset!r}")
            if not isinstance(price, int | float) or not 0 <= price < math.inf:
                raise InvalidInput(
                    f"expected the price of `{asset or 'the coin'}` as a number of 0 or more, "
                    f"got {price!r}"
                )

    def node2vec(self) -> Node2Vec:
        """An embedding to fit."""
        return Node2Vec(
            dim=self.dim, num_walks=self.num_walks, length=self.length, p=self.p, q=self.q,
            threads=self.threads, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a bound on the score does: row H15.

    Attributes
    ----------
    false_positive_share
        Of addresses that are not illicit, at most so many are flagged by mistake.
    bound
        Scores from here on are flagged.
    recall
        Of illicit addresses so many are flagged.
    precision
        Of flagged addresses so many are illicit, as far as labels tell; None if none is flagged.
    """

    false_positive_share: float
    bound: float
    recall: float
    precision: float | None


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left, mapped from its folder."""

    folder: Path
    about: dict[str, Any]
    columns: NDArray[np.float32]
    scores: NDArray[np.float32]
    kept: Kept

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
            names, files = list(about["columns"]), about["files"]
            columns, kept = open_rows(folder, "columns", files, np.float32, len(names))
            scores = np.load(folder / "scores.npy", mmap_mode="r", allow_pickle=False)
            sound = len(columns) == len(scores)
            int(about["mark"]), float(about["shift"]), dict(about["held_out"])
            [Point(**point) for point in about["points"]]
            Recipe(**about["recipe"])
        except (*BROKEN, AttributeError, InvalidInput, StoreError) as error:
            raise StoreError(f"the run in `{folder}` is damaged: {error}") from error
        if not sound:
            raise StoreError(f"the run in `{folder}` is damaged: its columns and scores differ")
        return cls(folder, about, columns, scores, kept)

    @property
    def name(self) -> str:
        """Its number as text."""
        return self.folder.name

    @property
    def num_addresses(self) -> int:
        """Addresses that it knows."""
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
    def points(self) -> tuple[Point, ...]:
        """What bounds on its scores do."""
        return tuple(Point(**point) for point in self.about["points"])

    @property
    def high(self) -> float:
        """From here on a score flags an address."""
        return float(self.about["bands"]["high"])

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

    @cached_property
    def scorer(self) -> TableScorer:
        """Its model."""
        return load_scorer(self.folder / MODEL)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """(n, dim) its embedding."""
        return self.embedding().vectors

    def embedding(self) -> Node2Vec:
        """Its embedding, with the graph and the walks that it is of, to go on from."""
        return Node2Vec.open(self.folder / "node2vec")

    def behaviour(self) -> Behaviour:
        """What addresses did, to count on from."""
        return Behaviour.open(self.folder / "behaviour")

    def row(self, place: int) -> dict[str, float | None]:
        """What the model reads of an address, by its id: stored, not computed."""
        names = self.about["columns"]
        values = self.columns[place].tolist()
        vector = self.vectors[place].tolist()
        row = dict(zip(names, (None if x != x else x for x in values), strict=True))
        return row | {f"{EMBEDDED}{j}": x for j, x in enumerate(vector)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """What a new run writes of its own, beside embedding, behaviour and model."""

    recipe: Recipe
    mark: int
    names: list[str]
    shift: float
    held_out: dict[str, float | None]
    points: tuple[Point, ...]
    columns: NDArray[np.float32]
    scores: NDArray[np.float32]
    kept: Kept | None = None

    def write(self, folder: Path) -> None:
        """Into the folder of the run."""
        bounds = {point.false_positive_share: point.bound for point in self.points}
        about = {
            "mark": self.mark,
            "recipe": asdict(self.recipe) | {"prices": dict(self.recipe.prices)},
            "columns": self.names,
            "shift": self.shift,
            "held_out": self.held_out,
            "points": [asdict(point) for point in self.points],
            "bands": {"raised": bounds[0.01], "high": bounds[0.001]},
            "created": datetime.now(UTC).isoformat(),
            "files": write_rows(folder, "columns", self.columns, self.kept),
        }
        write_array(folder / "scores.npy", self.scores)
        replace_json(folder / "about.json", about)


def with_rows(
    array: NDArray[np.float32], length: int, rows: NDArray[np.int64], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """An array that has so many rows, and of some these values; in its place if it has room."""
    if length > len(array):
        array = extended(array, length)
    array[rows] = values
    return array


def table_of(
    names: list[str], columns: NDArray[np.float32], vectors: NDArray[np.float32]
) -> pl.DataFrame:
    """Behaviour and embedding side by side, as the model reads them."""
    embedded = {f"{EMBEDDED}{place}": vectors[:, place] for place in range(vectors.shape[1])}
    return pl.DataFrame(
        {name: columns[:, place] for place, name in enumerate(names)} | embedded
    ).fill_nan(None)
