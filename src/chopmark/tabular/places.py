"""Where each value of an encoded column lies: at a code, or between two quantiles.

This is the piecewise linear encoding in the form of two numbers: the place below the value,
and the share of the way to the next one. Serves A4 and A7 of the requirements.

References
----------
Yury Gorishniy et al., "On embeddings for numerical features in tabular deep learning", 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chopmark.models import Encoded
from chopmark.models.dense import COLUMN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Places of the encoded columns: one per code, or per edge and one for missing.

    Attributes
    ----------
    columns
        (m,) structured as `chopmark.models.dense.COLUMN`.
    edges
        Float64, the numbers' edges one after the other.
    owner
        (p,) int64 column of each place.
    is_edge
        (p,) bool: a place at an edge of a number.
    fan
        (p,) float64 places whose levels build on one another: edges of the number, or 1.
    """

    columns: NDArray[np.void]
    edges: NDArray[np.float64]
    owner: NDArray[np.int64]
    is_edge: NDArray[np.bool_]
    fan: NDArray[np.float64]

    @classmethod
    def of(cls, x: NDArray[np.float64], encoded: Sequence[Encoded], *, most_edges: int) -> Self:
        """Places for columns (n, m): edges at quantiles, at every value if there are few."""
        rows: list[tuple[int, int, int, int]] = []
        edges: list[NDArray[np.float64]] = []
        num_edges = num_places = 0
        for values, column in zip(x.T, encoded, strict=True):
            if column.num_codes:
                rows.append((num_edges, -1, num_places, column.num_codes))
                num_places += column.num_codes
                continue
            own = _edges(values[~np.isnan(values)], most_edges)
            edges.append(own)
            rows.append((num_edges, len(own), num_places, len(own) + 1))
            num_edges += len(own)
            num_places += len(own) + 1
        columns = np.array(rows, dtype=COLUMN)
        owner = np.repeat(np.arange(len(columns)), columns["num_places"])
        rank = np.arange(num_places) - columns["place"][owner]
        is_edge = rank < columns["num_edges"][owner]
        return cls(
            columns=columns,
            edges=np.concatenate([np.empty(0), *edges]),
            owner=owner.astype(np.int64),
            is_edge=is_edge,
            fan=np.where(is_edge, columns["num_edges"][owner], 1).astype(np.float64),
        )

    def locate(self, x: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(n, m) place of each value, and (n, m) share of the way to the next, in [0, 1]."""
        places = np.empty(x.shape, dtype=np.int64)
        shares = np.zeros(x.shape, dtype=np.float32)
        for j, (edge, num_edges, place, _) in enumerate(self.columns.tolist()):
            if num_edges < 0:
                places[:, j] = place + x[:, j].astype(np.int64)
                continue
            own = self.edges[edge : edge + num_edges]
            missing = np.isnan(x[:, j])
            value = np.clip(np.where(missing, own[0], x[:, j]), own[0], own[-1])
            below = np.where(value == own[0], 0, np.searchsorted(own, value, side="right") - 1)
            inside = np.minimum(below, num_edges - 2)
            # Halves, as the difference of two large numbers may overflow.
            width = 0.5 * own[inside + 1] - 0.5 * own[inside]
            way = np.where(below == inside, 0.5 * value - 0.5 * own[inside], 0.0)
            shares[:, j] = np.divide(way, width, out=np.zeros_like(way), where=width > 0)
            places[:, j] = place + np.where(missing, num_edges, below)
        return places, shares

    def average(
        self, places: NDArray[np.int64], shares: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(p,) how much of the average of located rows lies at each place."""
        count = len(self.owner)
        low = np.bincount(places.ravel(), 1.0 - shares.ravel(), minlength=count)
        # A share is zero at the last place, so the one after it stays empty.
        high = np.bincount(places.ravel() + 1, shares.ravel(), minlength=count)
        weights: NDArray[np.float32] = ((low + high[:count]) / len(places)).astype(np.float32)
        return weights


def _edges(known: NDArray[np.float64], most_edges: int) -> NDArray[np.float64]:
    """Rising edges; a value with more rows than an interval should have is one by itself.

    Else a column that is mostly zero would have nearly all quantiles there, and a single
    interval for all that is told apart by the rest.
    """
    distinct, counts = np.unique(known, return_counts=True)
    if len(distinct) == 0:
        return np.zeros(2)
    if len(distinct) == 1:
        return np.repeat(distinct, 2)
    if len(distinct) <= most_edges:
        return distinct
    heavy = distinct[counts * (most_edges - 1) > len(known)]
    rest = known[~np.isin(known, heavy)]
    shares = np.linspace(0.0, 1.0, most_edges - len(heavy))
    return np.unique(np.concatenate([heavy, np.quantile(rest, shares, method="higher")]))
