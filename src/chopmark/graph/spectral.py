"""Embeddings without walks: ProNE and FastRP, a few sparse products each.

ProNE factorises F = log(P) - log(Q) on the edges, where P is the chance of a step from a node to
its neighbour and Q the share of noise of that neighbour (its incoming chances to the power 0.75),
by a randomised SVD; then it smooths the vectors along the graph with a band-pass of its
Laplacian, L = I - D^-1 (I + A): exp(-((L - mu)^2 - 1) theta / 2), as a sum of Chebyshev
polynomials with Bessel weights.
FastRP sends very sparse random vectors some steps along the graph and adds what arrives.

It differs from ProNE's published code in this: an edge weighs its chance times the number of
neighbours, so that a row of equal weights is the row of ones there; the SVD of the smoothed
vectors goes through their small Gram matrix; and a singular vector's largest entry is positive,
so that the same graph and seed give the same vectors.

References: Zhang et al., "ProNE: Fast and Scalable Network Representation Learning", 2019.
Halko, Martinsson and Tropp, "Finding Structure with Randomness", 2011.
Chen et al., "Fast and Accurate Network Embeddings via Very Sparse Random Projection", 2019.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh
from scipy.special import iv

from chopmark.errors import DeclarationError, InvalidInput
from chopmark.graph.adjacency import Graph
from chopmark.graph.counter import drawn, place_of, stream_of
from chopmark.graph.propagation import slot_weights

Vectors = NDArray[np.float32]  # (n, dim)


def csr_of(graph: Graph) -> sparse.csr_array:
    """The graph as a sparse matrix of (n, n) float32; rows that are not empty sum to their counts.

    So all entries are 1 where neighbours weigh the same. Several slots of a pair (order "time")
    are one entry.
    """
    counts = np.asarray(graph.counts)
    ends = np.zeros(graph.num_nodes + 1, dtype=np.int64)
    np.cumsum(counts, out=ends[1:])
    if len(graph.neighbours) != ends[-1] or not np.array_equal(graph.starts, ends[:-1]):
        graph = graph.compact()
    weights = slot_weights(graph)
    if len(weights):
        weights *= np.repeat(counts, counts).astype(np.float32)
    else:
        weights = np.ones(ends[-1], dtype=np.float32)
    if ends[-1] < 2**31:
        ends = ends.astype(np.int32)
    shape = (graph.num_nodes, graph.num_nodes)
    # Copied, as joining entries of a pair works in place.
    matrix = sparse.csr_array((weights, np.array(graph.neighbours), ends), shape=shape)
    matrix.sum_duplicates()
    return matrix


def prone(
    graph: Graph,
    dim: int = 64,
    *,
    order: int = 10,
    mu: float = 0.5,
    theta: float = 0.2,
    rounds: int = 5,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Vectors:
    """Vectors of all nodes by ProNE, of unit length (0 where a node has no neighbours).

    Parameters
    ----------
    graph : Graph
        Best of both directions.
    dim : int, 1 <= dim <= n
    order : int, >= 2
        Chebyshev terms; each takes two sparse products.
    mu, theta : float
        Centre and width of the band that passes.
    rounds : int, >= 0
        Power iterations of the randomised SVD; each takes two sparse products.
    seed : int
        Of the SVD's random directions.
    progress : function of the share that is done, optional

    Returns
    -------
    (n, dim) float32

    Raises
    ------
    DeclarationError
        If a parameter is out of its range.

    Complexity: O((rounds + order) slots dim + n dim^2); memory about 6 n dim floats.

    Examples
    --------
    >>> prone(Graph.of_edges([0, 0, 1, 3], [1, 2, 2, 4]), 2).shape
    (5, 2)
    """
    num = _checked(graph, dim)
    if order < 2 or rounds < 0:
        raise DeclarationError(f"prone: expected order >= 2, rounds >= 0; got {order}, {rounds}")
    if not np.isfinite([mu, theta]).all():
        raise DeclarationError(f"prone: expected finite mu and theta; got {mu!r}, {theta!r}")
    told = progress or _silent
    total = rounds + 1 + order
    adjacency = csr_of(graph)
    factors = _factors(adjacency)
    begun = _svd(factors, dim, rounds, seed, lambda done: told(done / total))
    smoothed = _band_pass(adjacency, begun, order, mu, theta, lambda i: told((rounds + i) / total))
    vectors = _dense_svd(smoothed)
    vectors[np.diff(adjacency.indptr) == 0] = 0
    assert vectors.shape == (num, dim)
    told(1.0)
    return _unit_rows(vectors)


def fastrp(
    graph: Graph,
    dim: int = 64,
    *,
    weights: Sequence[float] = (0.0, 1.0, 1.0, 1.0),
    damping: float = -0.5,
    seed: int = 0,
) -> Vectors:
    """Vectors of all nodes by FastRP: what random vectors bring after 1, 2, ... steps.

    A node's random vector is a function of the seed and its id, so vectors of two graphs that
    share ids are in one space.

    Parameters
    ----------
    graph : Graph
    dim : int, >= 1
    weights : one float for each step, one at least
        How much the unit vectors that arrive after so many steps count.
    damping : float
        Random vectors are multiplied by (share of all slots at the node) to this power:
        below 0, those of hubs count less.
    seed : int

    Returns
    -------
    (n, dim) float32

    Complexity: O(len(weights) slots dim).

    Examples
    --------
    >>> vectors = fastrp(Graph.of_edges([0, 0, 1, 3], [1, 2, 2, 4]), 32)
    >>> like = vectors @ vectors.T
    >>> bool(like[0, 1] > like[0, 3])
    True
    """
    num = _checked(graph, dim, most=False)
    if not len(weights) or not np.isfinite([*weights, damping]).all():
        raise DeclarationError(
            "fastrp: expected one finite weight or more, and a finite damping; got "
            f"{list(weights)!r}, {damping!r}"
        )
    adjacency = csr_of(graph)
    counts = np.asarray(adjacency.sum(axis=1), dtype=np.float64)
    steps = _scaled(adjacency, counts)
    now = np.empty((num, dim), dtype=np.float32)
    _sparse_signs(now, np.uint64(seed & (2**64 - 1)))
    share = np.maximum(counts, 1) / max(counts.sum(), 1)
    now *= (share**damping / (share**damping).max())[:, None].astype(np.float32)
    total = np.zeros_like(now)
    for weight in weights:
        now = _unit_rows(steps @ now)
        total += np.float32(weight) * now
    return total


# --- the parts of ProNE


def _factors(adjacency: sparse.csr_array) -> sparse.csr_array:
    """log(P) - log(Q) on the edges."""
    chances = _scaled(adjacency, np.asarray(adjacency.sum(axis=1), dtype=np.float64))
    incoming = np.bincount(chances.indices, weights=chances.data, minlength=chances.shape[0])
    noise = incoming**0.75
    noise /= max(noise.sum(), 1e-300)
    with np.errstate(divide="ignore"):
        log_noise = np.log(noise)
        # A neighbour of weight 0 would give -inf: it is as good as no neighbour.
        data = np.where(chances.data > 0, np.log(chances.data) - log_noise[chances.indices], 0)
    return sparse.csr_array(
        (data.astype(np.float32), chances.indices, chances.indptr), shape=chances.shape
    )


def _svd(
    matrix: sparse.csr_array, dim: int, rounds: int, seed: int, told: Callable[[int], None]
) -> Vectors:
    """U sqrt(S) of a randomised SVD, rows of unit length."""
    num = matrix.shape[0]
    width = min(dim + 10, num)
    back = matrix.T.tocsr()
    generator = np.random.default_rng(seed)
    basis = matrix @ generator.standard_normal((num, width), dtype=np.float32)
    for turn in range(rounds):
        basis = _orthogonal(basis)
        basis = matrix @ _orthogonal(back @ basis)
        told(turn + 1)
    basis = _orthogonal(basis)
    small = (back @ basis).astype(np.float64)
    values, turned = eigh(small.T @ small)
    values, turned = values[::-1][:dim], turned[:, ::-1][:, :dim]
    vectors = basis.astype(np.float64) @ turned
    return _unit_rows(_signed(vectors * np.maximum(values, 0) ** 0.25))


def _band_pass(
    adjacency: sparse.csr_array,
    vectors: Vectors,
    order: int,
    mu: float,
    theta: float,
    told: Callable[[int], None],
) -> Vectors:
    """Vectors smoothed along the graph: the Chebyshev sum, then one step over I + A."""
    looped = (adjacency + sparse.eye_array(len(vectors), dtype=np.float32, format="csr")).tocsr()
    steps = _scaled(looped, np.asarray(looped.sum(axis=1), dtype=np.float64))

    def shifted(x: Vectors) -> Vectors:  # (L - mu) x = (1 - mu) x - D^-1 (I + A) x
        out: Vectors = steps @ x
        np.subtract(np.float32(1 - mu) * x, out, out=out)
        return out

    before = vectors
    now = np.float32(0.5) * shifted(shifted(vectors)) - vectors
    total = np.float32(iv(0, theta)) * before - np.float32(2 * iv(1, theta)) * now
    told(1)
    for term in range(2, order):
        after = shifted(shifted(now)) - 2 * now - before
        total += np.float32((-1) ** term * 2 * iv(term, theta)) * after
        before, now = now, after
        told(term)
    smoothed: Vectors = looped @ (vectors - total)
    return smoothed


def _dense_svd(vectors: Vectors) -> NDArray[np.float64]:
    """U sqrt(S) of a tall matrix through its Gram matrix."""
    tall = vectors.astype(np.float64)
    values, turned = eigh(tall.T @ tall)
    values, turned = np.maximum(values[::-1], 0), turned[:, ::-1]
    # U sqrt(S) = X V S^-1/2, and a direction of no length has nothing to give.
    scale = np.where(values > 1e-12 * max(values[0], 1e-300), values, np.inf) ** -0.25
    return _signed(tall @ turned * scale)


# --- small parts


def _checked(graph: Graph, dim: int, *, most: bool = True) -> int:
    num = graph.num_nodes
    if num == 0:
        raise InvalidInput("expected a graph of one node at least; got an empty one")
    if not isinstance(dim, int) or dim < 1 or (most and dim > num):
        upper = f" <= {num:,}, the number of nodes" if most else ""
        raise DeclarationError(f"expected 1 <= dim{upper}; got {dim!r}")
    return num


def _silent(done: float) -> None:
    """Tell nobody."""


def _scaled(matrix: sparse.csr_array, sums: NDArray[np.float64]) -> sparse.csr_array:
    """Rows divided by their sums; empty rows stay empty."""
    each = np.repeat(1 / np.maximum(sums, 1e-300), np.diff(matrix.indptr))
    data = (matrix.data * each).astype(np.float32)
    return sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _orthogonal(tall: NDArray[Any]) -> Vectors:
    basis: Vectors = np.linalg.qr(tall)[0].astype(np.float32)
    return basis


def _signed(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns turned so that the entry furthest from 0 is positive."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    signed: NDArray[np.float64] = vectors * np.where(largest < 0, -1.0, 1.0)
    return signed


def _unit_rows(vectors: NDArray[Any]) -> Vectors:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    lengths[lengths == 0] = 1
    unit: Vectors = (vectors / lengths[:, None]).astype(np.float32)
    return unit


@njit(cache=True, error_model="numpy")
def _sparse_signs(out, seed):
    """+1 and -1 in a sixth of the places each, a function of (seed, node, column)."""
    for i in range(out.shape[0]):
        stream = stream_of(seed, np.uint64(i))
        for d in range(out.shape[1]):
            place = place_of(drawn(stream, 0, d), 6)
            out[i, d] = np.float32(1.0) if place == 0 else np.float32(0.0)
            if place == 1:
                out[i, d] = np.float32(-1.0)
