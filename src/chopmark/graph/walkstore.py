"""Stored walks, and which of them come through a node: what an update repairs.

    walks    (m, length + 1) int32 in blocks: the first may be a mapped file, later ones
             are of nodes that came later
    index    node -> walks, as rows of one array, made once, and small sorted pieces for what was
             repaired since

Nothing is taken out of the index: a walk that no longer comes through a node is met there, read
and left alone. When the pieces have grown to half of the base it is made anew. So an update
costs what the touched nodes' walks cost. 4 bytes a position for walks, 4 for the index.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray

Walks = NDArray[np.int32]  # (m, length + 1), -1 after a dead end

_MOST_PIECES = 8


class WalkStore:
    """Walks by number, and the numbers of those that come through some nodes.

    Examples
    --------
    >>> store = WalkStore([np.array([[0, 1, 2], [2, 1, -1]], dtype=np.int32)], num_nodes=3)
    >>> store.through(np.array([0])).tolist(), store.through(np.array([1])).tolist()
    ([0], [0, 1])
    """

    def __init__(
        self,
        blocks: list[Walks],
        num_nodes: int,
        *,
        index: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
    ) -> None:
        self.blocks = blocks
        self.index = self._indexed(num_nodes) if index is None else index
        self._pieces: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks)

    @property
    def num_bytes(self) -> int:
        """Bytes of walks and index."""
        pieces = sum(nodes.nbytes + walks.nbytes for nodes, walks in self._pieces)
        blocks = sum(block.nbytes for block in self.blocks)
        return blocks + sum(part.nbytes for part in self.index) + pieces

    def through(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of walks that come through one of the nodes, or once did: sorted, unique.

        O(walks found), and 1 bit of work for each walk there is if they are many.
        """
        starts, walks = self.index
        known = nodes[nodes < len(starts) - 1]
        found = [_rows(starts, walks, known)]
        wanted = nodes.astype(np.int32)
        for at, numbers in self._pieces:
            low = np.searchsorted(at, wanted, side="left")
            high = np.searchsorted(at, wanted, side="right")
            found.append(_spans(numbers, low, high))
        every = np.concatenate(found)
        if len(every) * 16 < len(self):
            return np.unique(every).astype(np.int64)
        mask = np.zeros(len(self), dtype=np.bool_)
        mask[every] = True
        return np.flatnonzero(mask)

    def parts(self, numbers: NDArray[np.int64]) -> Iterator[tuple[Walks, NDArray[np.int64], int]]:
        """For each block: it, the places in it of sorted walk numbers, and its first number."""
        first = 0
        for block in self.blocks:
            low, high = np.searchsorted(numbers, [first, first + len(block)])
            if low < high:
                yield block, numbers[low:high] - first, first
            first += len(block)

    def append(self, walks: Walks, num_nodes: int) -> None:
        """More walks, numbered on from the last."""
        first = len(self)
        self.blocks.append(walks)
        if len(self.blocks) > _MOST_PIECES:
            self.blocks = [self.blocks[0], np.concatenate(self.blocks[1:])]
        self._point(walks, np.arange(first, first + len(walks)), num_nodes)

    def changed(self, stretches: Walks, numbers: NDArray[np.int64], num_nodes: int) -> None:
        """Take note of what repaired walks come through now; -1 in a stretch is a gap."""
        self._point(stretches, numbers, num_nodes)

    def _point(self, paths: Walks, numbers: NDArray[np.int64], num_nodes: int) -> None:
        there = paths >= 0
        nodes = paths[there]
        walks = np.repeat(numbers.astype(np.int32), there.sum(axis=1))
        place = np.argsort(nodes, kind="stable")
        self._pieces.append((nodes[place], walks[place]))
        if sum(len(nodes) for nodes, _ in self._pieces) * 2 > len(self.index[1]):
            self.index = self._indexed(num_nodes)
            self._pieces = []
        elif len(self._pieces) > _MOST_PIECES:
            nodes = np.concatenate([nodes for nodes, _ in self._pieces])
            walks = np.concatenate([walks for _, walks in self._pieces])
            place = np.argsort(nodes, kind="stable")
            self._pieces = [(nodes[place], walks[place])]

    def whole(self, num_nodes: int) -> tuple[Walks, NDArray[np.int64], NDArray[np.int32]]:
        """All walks in one block and one index, which take the place of the parts."""
        if len(self.blocks) > 1:
            self.blocks = [np.concatenate(self.blocks)]
        if self._pieces or len(self.index[0]) != num_nodes + 1:
            self.index = self._indexed(num_nodes)
            self._pieces = []
        return self.blocks[0], *self.index

    def _indexed(self, num_nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        ends = np.zeros(num_nodes + 1, dtype=np.int64)
        for block in self.blocks:
            _count(block, ends)
        np.cumsum(ends, out=ends)
        walks = np.empty(int(ends[-1]), dtype=np.int32)
        # Filled from the back: the ends of rows become their beginnings.
        first = len(self)
        for block in reversed(self.blocks):
            first -= len(block)
            _fill(block, first, ends, walks)
        return ends, walks


@njit(cache=True, error_model="numpy")
def _count(walks, counts):
    for i in range(walks.shape[0]):
        for j in range(walks.shape[1]):
            node = walks[i, j]
            # A step there and back is one entry: the cheap part of what is double.
            if node >= 0 and not (j >= 2 and walks[i, j - 2] == node):
                counts[node] += 1


@njit(cache=True, error_model="numpy")
def _fill(walks, first, ends, out):
    for i in range(walks.shape[0] - 1, -1, -1):
        for j in range(walks.shape[1]):
            node = walks[i, j]
            if node >= 0 and not (j >= 2 and walks[i, j - 2] == node):
                ends[node] -= 1
                out[ends[node]] = first + i


def _rows(
    starts: NDArray[np.int64], walks: NDArray[np.int32], nodes: NDArray[np.int64]
) -> NDArray[np.int32]:
    return _spans(walks, starts[nodes], starts[nodes + 1])


def _spans(
    values: NDArray[np.int32], low: NDArray[np.int64], high: NDArray[np.int64]
) -> NDArray[np.int32]:
    """values[low : high] of all spans, one behind the other."""
    sizes = high - low
    places = np.repeat(low - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
    return values[places]
