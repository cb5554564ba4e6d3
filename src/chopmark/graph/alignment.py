"""Alignment: one space of vectors turned onto another, and how far they are apart after that.

    R = U V^T,  U S V^T = SVD of X^T Y        (orthogonal Procrustes, Schönemann 1966)

The rows of X are vectors of now, those of Y the same nodes' vectors of before. A rotation changes
no distance and no inner product among vectors of now, so nothing that was learned is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import InvalidInput

_MOST_ROWS = 4_000
"""Rows that a rotation is found from: far more than it has numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far vectors of nodes that should not have moved are from where they were."""

    num_nodes: int
    """Nodes that were compared."""
    cosine: float
    """Mean cosine of old and new vector as they are."""
    aligned_cosine: float
    """The same after the best rotation: what of the drift is no mere turn of the space."""


def rotation(vectors: NDArray[np.float32], onto: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rotation or reflection R with vectors @ R nearest to `onto`: (dim, dim) float32.

    Raises
    ------
    InvalidInput
        If the shapes differ, or a number is not finite.

    Examples
    --------
    >>> turned = np.array([[0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)
    >>> rotation(np.eye(2, dtype=np.float32), turned).round(6).tolist()
    [[0.0, 1.0], [-1.0, 0.0]]
    """
    if vectors.ndim != 2 or vectors.shape != onto.shape:
        raise InvalidInput(
            f"expected vectors of one shape (n, dim) to align, got {vectors.shape} and {onto.shape}"
        )
    product = vectors.astype(np.float64).T @ onto.astype(np.float64)
    if not np.isfinite(product).all():
        raise InvalidInput("expected finite vectors to align, got NaN or infinity")
    left, _, right = np.linalg.svd(product)
    found: NDArray[np.float64] = left @ right
    return found.astype(np.float32)


def aligned(
    vectors: NDArray[np.float32], reference: NDArray[np.float32], nodes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], Drift]:
    """The rotation that turns vectors onto a reference, by some nodes, and what then is left.

    Parameters
    ----------
    vectors, reference : (n, dim), (m, dim)
    nodes : (k,)
        Nodes of both that should not have moved; of many, 4,000 are taken evenly.
    """
    nodes = sample_of(nodes)
    found = rotation(vectors[nodes], reference[nodes])
    return found, drift_of(vectors[nodes], reference[nodes], found)


def drift_of(
    now: NDArray[np.float32], before: NDArray[np.float32], turned: NDArray[np.float32] | None = None
) -> Drift:
    """Drift between rows of the same nodes; (k, dim) both."""
    if turned is None:
        turned = rotation(now, before)
    return Drift(
        num_nodes=len(now),
        cosine=_mean_cosine(now, before),
        aligned_cosine=_mean_cosine(now @ turned, before),
    )


def sample_of(nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most 4,000 of the nodes, evenly along their order."""
    if len(nodes) <= _MOST_ROWS:
        return nodes
    return nodes[np.linspace(0, len(nodes) - 1, _MOST_ROWS).astype(np.int64)]


def _mean_cosine(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    some = lengths > 0
    if not some.any():
        return float("nan")
    products = (one * two).sum(axis=1)
    return float((products[some] / lengths[some]).mean())
