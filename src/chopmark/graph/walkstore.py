"""Stored walks, and which of them come through a node: what an update repairs.

    walks    (m, length + 1) int32; rows are repaired in place, walks of new nodes come behind
    index    node -> walks, as rows of one array, made once, and small sorted pieces for what was
             repaired since

Nothing is taken out of the index: a walk that no longer comes through a node is met there, read
and left alone. When the pieces have grown to half of the base it is made anew. So an update
costs what the touched nodes' walks cost, and so does saving it (`rowfiles`). 4 bytes a position
for walks, 4 for the index.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import StoreError
from chopmark.graph.rowfiles import Facts, Kept, extended, kept_of, open_rows, write_rows

Walks = NDArray[np.int32]  # (m, length + 1), -1 after a dead end

_MOST_PIECES = 8


class WalkStore:
    """Walks by number, and the numbers of those that come through some nodes.

    Examples
    --------
    >>> store = WalkStore(np.array([[0, 1, 2], [2, 1, -1]], dtype=np.int32), num_nodes=3)
    >>> store.through(np.array([0])).tolist(), store.through(np.array([1])).tolist()
    ([0], [0, 1])
    """

    def __init__(
        self,
        walks: Walks,
        num_nodes: int,
        *,
        index: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
    ) -> None:
        self.walks = walks
        self.index = _indexed(walks, num_nodes) if index is None else index
        self._pieces: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
        self._kept: dict[str, Kept] = {}

    def __len__(self) -> int:
        return len(self.walks)

    @property
    def num_bytes(self) -> int:
        """Bytes of walks and index."""
        pieces = sum(nodes.nbytes + walks.nbytes for nodes, walks in self._pieces)
        return self.walks.nbytes + sum(part.nbytes for part in self.index) + pieces

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

    def append(self, walks: Walks, num_nodes: int) -> None:
        """More walks, numbered on from the last."""
        first = len(self)
        self.walks = extended(self.walks, first + len(walks))
        self.walks[first:] = walks
        self._point(walks, np.arange(first, len(self)), num_nodes)

    def changed(self, stretches: Walks, numbers: NDArray[np.int64], num_nodes: int) -> None:
        """Take note of what repaired walks come through now; -1 in a stretch is a gap."""
        if "walks" in self._kept:
            self._kept["walks"] = self._kept["walks"].changed(numbers)
        self._point(stretches, numbers, num_nodes)

    def _point(self, paths: Walks, numbers: NDArray[np.int64], num_nodes: int) -> None:
        there = paths >= 0
        nodes = paths[there]
        walks = np.repeat(numbers.astype(np.int32), there.sum(axis=1))
        place = np.argsort(nodes, kind="stable")
        self._pieces.append((nodes[place], walks[place]))
        if sum(len(nodes) for nodes, _ in self._pieces) * 2 > len(self.index[1]):
            self.index = _indexed(self.walks, num_nodes)
            self._pieces = []
            self._kept = {name: kept for name, kept in self._kept.items() if name == "walks"}
        elif len(self._pieces) > _MOST_PIECES:
            self._join()

    def _join(self) -> None:
        nodes = np.concatenate([np.empty(0, np.int32), *(nodes for nodes, _ in self._pieces)])
        walks = np.concatenate([np.empty(0, np.int32), *(walks for _, walks in self._pieces)])
        place = np.argsort(nodes, kind="stable")
        self._pieces = [(nodes[place], walks[place])]

    def write(self, folder: Path) -> dict[str, Facts]:
        """Write all to files of a folder, and what to give `open` of them."""
        self._join()
        starts, index = self.index
        nodes, walks = self._pieces[0]
        arrays: dict[str, NDArray[Any]] = {
            "walks": self.walks,
            "index_starts": starts,
            "index": index,
        }
        told = {
            name: write_rows(folder, name, array, self._kept.get(name))
            for name, array in arrays.items()
        }
        return told | {
            "piece_nodes": write_rows(folder, "piece_nodes", nodes),
            "piece_walks": write_rows(folder, "piece_walks", walks),
        }

    def settle(self, folder: Path, told: dict[str, Facts]) -> None:
        """What `write` wrote is in this folder now: the next one writes what changes from here."""
        for name in ("walks", "index_starts", "index"):
            self._kept[name] = kept_of(folder, name, told[name], self._kept.get(name))

    @classmethod
    def open(
        cls, folder: Path, told: dict[str, Any], length: int, num_nodes: int, *, thorough: bool
    ) -> WalkStore:
        """The walks of a folder, mapped.

        Raises
        ------
        StoreError
            If a file is not what was written, or leads where nothing is.
        """
        found = {}
        kept = {}
        for name, kind, width in (
            ("walks", np.int32, (length + 1,)), ("index_starts", np.int64, ()),
            ("index", np.int32, ()), ("piece_nodes", np.int32, ()), ("piece_walks", np.int32, ()),
        ):  # fmt: skip
            found[name], kept[name] = open_rows(
                folder, name, told.get(name), kind, *width, thorough=thorough
            )
        walks, starts, index = found["walks"], found["index_starts"], found["index"]
        if not 0 < len(starts) <= num_nodes + 1 or starts[0] != 0 or (np.diff(starts) < 0).any():
            raise StoreError("`index_starts.npy` does not lead from node to node")
        if starts[-1] != len(index):
            raise StoreError("`index_starts.npy` does not end where `index.npy` does")
        nodes, numbers = found["piece_nodes"], found["piece_walks"]
        if len(nodes) != len(numbers) or (np.diff(nodes) < 0).any():
            raise StoreError("`piece_nodes.npy` is not in order")
        if thorough and (
            walks.max(initial=-1) >= num_nodes
            or walks.min(initial=0) < -1
            or not _within(index, len(walks))
            or not _within(numbers, len(walks))
        ):
            raise StoreError("a walk or its index leads out of the graph")
        store = cls(walks, num_nodes, index=(starts, index))
        store._pieces = [(nodes, numbers)]
        store._kept = {name: kept[name] for name in ("walks", "index_starts", "index")}
        return store


def _within(numbers: NDArray[np.int32], size: int) -> bool:
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < size)


def _indexed(walks: Walks, num_nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    ends = np.zeros(num_nodes + 1, dtype=np.int64)
    _count(walks, ends)
    np.cumsum(ends, out=ends)
    index = np.empty(int(ends[-1]), dtype=np.int32)
    # Filled from the back: the ends of rows become their beginnings.
    _fill(walks, ends, index)
    return ends, index


@njit(cache=True, error_model="numpy")
def _count(walks, counts):
    for i in range(walks.shape[0]):
        for j in range(walks.shape[1]):
            node = walks[i, j]
            # A step there and back is one entry: the cheap part of what is double.
            if node >= 0 and not (j >= 2 and walks[i, j - 2] == node):
                counts[node] += 1


@njit(cache=True, error_model="numpy")
def _fill(walks, ends, out):
    for i in range(walks.shape[0] - 1, -1, -1):
        for j in range(walks.shape[1]):
            node = walks[i, j]
            if node >= 0 and not (j >= 2 and walks[i, j - 2] == node):
                ends[node] -= 1
                out[ends[node]] = i


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
