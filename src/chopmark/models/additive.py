"""A linear model as lookup tables: one term per encoded column, added up.

    z = bias + sum_j [ slope_j * (clip(x_j) - center_j) + weight_j[bucket(x_j)] ]

A number has a scaled slope and a weight per bucket, a category a weight per code, a missing
number a weight of its own. A value outside the training range counts as the range's end.
This is any linear model over scaled, bucketed and one-hot columns; its terms are the exact
explanation. Serves A4, A8 and A11 of the requirements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError
from chopmark.models import kernels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Term:
    """What one encoded column adds to the log-odds.

    Attributes
    ----------
    weights
        (b,) float64: per bucket (one more than edges), or per category code.
    edges
        (b - 1,) float64, rising; a value on an edge belongs to the bucket above. None marks a
        category.
    slope, center, low, high
        Number only: `slope * (clip(x, low, high) - center)` is added to the bucket's weight.
    missing
        Number only: what a missing value adds.
    """

    weights: NDArray[np.float64]
    edges: NDArray[np.float64] | None = None
    slope: float = 0.0
    center: float = 0.0
    low: float = 0.0
    high: float = 0.0
    missing: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Additive:
    """Terms of all encoded columns in flat arrays.

    Attributes
    ----------
    terms
        (m,) structured as `kernels.TERM`.
    edges, weights
        Float64 arrays in which each term has its slice.
    bias
        Log-odds of a row whose terms are all zero.
    """

    name: ClassVar[str] = "linear"

    terms: NDArray[np.void]
    edges: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float

    @classmethod
    def of(cls, terms: Sequence[Term], *, bias: float) -> Self:
        """The model with these terms, one per encoded column."""
        rows = []
        num_edges = num_weights = 0
        for term in terms:
            count = -1 if term.edges is None else len(term.edges)
            rows.append(
                (
                    term.slope,
                    term.center,
                    term.low,
                    term.high,
                    term.missing,
                    num_edges,
                    count,
                    num_weights,
                    len(term.weights),
                )
            )
            num_edges += max(count, 0)
            num_weights += len(term.weights)
        edges = [term.edges for term in terms if term.edges is not None]
        return cls(
            terms=np.array(rows, dtype=kernels.TERM),
            edges=np.concatenate([np.empty(0), *edges]),
            weights=np.concatenate([np.empty(0), *(term.weights for term in terms)]),
            bias=float(bias),
        )

    def raw(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) log-odds of encoded columns (n, m)."""
        zs: NDArray[np.float64] = kernels.additive_table(x, *self._arrays)[0]
        return self.bias + zs

    def moves(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, m) terms of encoded columns (n, m): their exact Shapley values."""
        moves: NDArray[np.float64] = kernels.additive_table(x, *self._arrays)[1]
        return moves

    def scaled(self, weight: float) -> Self:
        """The model whose log-odds are `weight` times this one's, weight >= 0."""
        terms = self.terms.copy()
        for name in ("slope", "missing"):
            terms[name] *= weight
        return replace(self, terms=terms, weights=self.weights * weight, bias=self.bias * weight)

    @property
    def _arrays(self) -> tuple[NDArray[np.void], NDArray[np.float64], NDArray[np.float64]]:
        return self.terms, self.edges, self.weights

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays, as an artifact stores them."""
        fields = {name: self.terms[name].copy() for name in self.terms.dtype.names or ()}
        return {
            **fields,
            "edges": self.edges,
            "weights": self.weights,
            "bias": np.array([self.bias]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], *, num_encoded: int) -> Self:
        """The model of stored arrays, checked so that no kernel can leave them.

        Raises
        ------
        ArtifactError
            If an array is missing or points outside the others.
        """
        try:
            terms = np.empty(len(arrays["slope"]), dtype=kernels.TERM)
            for name in terms.dtype.names or ():
                terms[name] = arrays[name]
            model = cls(
                terms=terms,
                edges=np.ascontiguousarray(arrays["edges"], dtype=np.float64),
                weights=np.ascontiguousarray(arrays["weights"], dtype=np.float64),
                bias=float(np.asarray(arrays["bias"], dtype=np.float64)[0]),
            )
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise ArtifactError(f"the artifact's terms cannot be read: {error!r}") from error
        model._check(num_encoded)
        return model

    def _check(self, num_encoded: int) -> None:
        terms = self.terms
        if any(array.ndim != 1 for array in (terms, self.edges, self.weights)):
            raise ArtifactError("the artifact's terms are broken: expected flat arrays")
        num_edges = np.maximum(terms["num_edges"], 0).astype(np.int64)
        # A category needs the codes 0 and 1; a number one weight more than edges.
        enough = np.where(terms["num_edges"] < 0, 2, num_edges + 1)
        floats = [terms[name] for name in ("slope", "center", "low", "high", "missing")]
        checks = {
            f"{num_encoded} terms": len(terms) == num_encoded,
            "edges within the array": bool(
                np.all((terms["edge"] >= 0) & (terms["edge"] + num_edges <= len(self.edges)))
            ),
            "weights within the array": bool(
                np.all(
                    (terms["weight"] >= 0)
                    & (terms["num_weights"] >= enough)
                    & (terms["weight"].astype(np.int64) + terms["num_weights"] <= len(self.weights))
                )
            ),
            "finite numbers": all(
                bool(np.all(np.isfinite(array)))
                for array in (*floats, self.edges, self.weights, np.array([self.bias]))
            ),
        }
        for expectation, holds in checks.items():
            if not holds:
                raise ArtifactError(f"the artifact's terms are broken: expected {expectation}")
