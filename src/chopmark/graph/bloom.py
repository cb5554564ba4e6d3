"""A filter that says of most pairs without an edge that they have none, for one read of memory.

A blocked Bloom filter: a pair owns 4 bits of one 64-bit word, 12 bits of filter per edge. About
2 of 100 pairs without an edge pass it, so what passes is looked up in the row: walks stay exact.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.features.hashing import mix

if TYPE_CHECKING:
    from chopmark.graph.adjacency import Graph

BITS_PER_EDGE = 12


def edge_filter(graph: Graph) -> NDArray[np.uint64]:
    """The filter of all edges of a graph: (words,) uint64, 12 bits per edge.

    In an undirected graph an edge counts once. O(slots), one random write for each.
    """
    both = graph.directed == "both"
    num_edges = graph.num_slots // (2 if both else 1)
    words = np.zeros(max(1, -(-num_edges * BITS_PER_EDGE // 64)), dtype=np.uint64)
    _fill(graph.starts, graph.counts, graph.neighbours, both, words)
    return words


@njit(cache=True, error_model="numpy", inline="always")
def hash_of(first, second, both):
    """64 bits of a pair; the same for both ways of it if `both`."""
    if both and first > second:
        first, second = second, first
    return mix((np.uint64(first) << np.uint64(32)) | np.uint64(second))


@njit(cache=True, error_model="numpy", inline="always")
def word_of(bits, num_words):
    """Which word a pair owns bits of; fewer than 2^32 words."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(num_words)) >> np.uint64(32))


@njit(cache=True, error_model="numpy", inline="always")
def mask_of(bits):
    """The 4 bits of a pair in its word."""
    one, six = np.uint64(1), np.uint64(63)
    return (
        (one << (bits & six))
        | (one << ((bits >> np.uint64(6)) & six))
        | (one << ((bits >> np.uint64(12)) & six))
        | (one << ((bits >> np.uint64(18)) & six))
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(starts, counts, neighbours, both, words):
    for row in range(starts.shape[0]):
        for i in range(starts[row], starts[row] + counts[row]):
            if not both or row < neighbours[i]:
                bits = hash_of(row, neighbours[i], both)
                words[word_of(bits, words.shape[0])] |= mask_of(bits)
