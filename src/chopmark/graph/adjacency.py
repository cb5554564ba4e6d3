"""The graph as flat arrays: rows of neighbours in one pool, each slot 4, 12 or 16 bytes.

    row i = pool[starts[i] : starts[i] + counts[i]], sorted by neighbour, each neighbour once

All transfers of a pair are one slot: amounts are summed, the newest time is kept. With
``order="time"`` every transfer is a slot and rows are sorted by time, for walks that follow money
forward. An update lays the rows of the touched nodes anew at the end of the pool and lets their
starts point there: kernels see no difference, and other rows are not read.

A graph is made by two counting sorts, by column and then by row, and no comparison sort: the rows
come out sorted, with the transfers of a pair side by side in the order they came in. Sums of
amounts are in float32, in that order: a graph that was updated equals one built at once.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput, InvalidTable, StoreError, did_you_mean
from chopmark.graph import laying
from chopmark.graph.alias import row_weights
from chopmark.graph.rowfiles import Kept, kept_of, open_rows, write_rows
from chopmark.histories.description import read_description
from chopmark.histories.storage import whole

FORMAT = "chopmark-graph"
VERSION = 2

Directed = Literal["both", "out", "in"]
Weight = Literal["log", "amount", "count"]
Order = Literal["neighbour", "time"]

ERA = 946_684_800
"""2000-01-01 in seconds since 1970: times of slots count from here, in int32 until 2068."""

MOST_NODES = 2**31 - 1
"""Ids are int32."""

_ARRAYS: dict[str, Any] = {
    "starts": np.int64, "counts": np.int32, "neighbours": np.int32, "threshold": np.float32,
    "alias": np.int32, "times": np.int32, "amounts": np.float32,
}  # fmt: skip
_POOL = tuple(_ARRAYS)[2:]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Rows of neighbours in one pool: node i has pool[starts[i] : starts[i] + counts[i]].

    Made by `of_edges`; the arrays may be memory-mapped files.
    """

    starts: NDArray[np.int64]
    """(n,) where a row begins in the pool."""
    counts: NDArray[np.int32]
    """(n,) how many slots a row has."""
    neighbours: NDArray[np.int32]
    """(pool,) sorted in each row and unique in it; by time and not unique if order is "time"."""
    threshold: NDArray[np.float32] | None
    """(pool,) alias table of the weights, None: unweighted. By time: running shares up to 1."""
    alias: NDArray[np.int32] | None
    """(pool,) place within the row; None without weights and if order is "time"."""
    times: NDArray[np.int32] | None
    """(pool,) seconds since 2000-01-01 of the newest transfer of the pair."""
    amounts: NDArray[np.float32] | None
    """(pool,) what a weighted graph needs for updates: sums of amounts, or counts if by count."""
    directed: Directed = "both"
    """"both": a slot at either end; "out": rows are receivers; "in": rows are senders."""
    weight: Weight | None = None
    """What a weight is: log(1 + amount), the amount, the number of transfers; None: all equal."""
    half_life_days: float | None = None
    """Weights halve with this age of the pair's newest transfer; None: age does not count."""
    order: Order = "neighbour"
    """What rows are sorted by."""
    room: _Room | None = None
    """Where the pool has space left; nothing for a reader."""

    @classmethod
    def of_edges(
        cls,
        src: ArrayLike,
        dst: ArrayLike,
        amount: ArrayLike | None = None,
        time: ArrayLike | None = None,
        *,
        num_nodes: int | None = None,
        directed: Directed = "both",
        weight: Weight | None = None,
        half_life_days: float | None = None,
        keep_times: bool = False,
        keep_amounts: bool = False,
        order: Order = "neighbour",
    ) -> Graph:
        """The graph of transfers in any order; those to oneself are left out.

        Parameters
        ----------
        src, dst : (m,) whole numbers, 0 to 2^31 - 2
            Ids of senders and receivers.
        amount : (m,) >= 0
            Of use for the weights "log" and "amount" only. A row whose weights are all 0 is
            walked as if they were equal.
        time : (m,) int64
            Microseconds since 1970-01-01 UTC, from 1932 to 2068; kept in whole seconds.
        num_nodes
            At least the largest id + 1; None: that.
        weight
            None, "log", "amount" or "count", of all transfers of a pair together.
        half_life_days : > 0
            Weights are halved for each so many days that a pair's newest transfer is older than
            the newest one of its row.
        keep_times
            Whether slots carry the time; always so with a half-life and if order is "time".
        keep_amounts
            Whether slots carry what weights are made of: 4 bytes more, needed by `with_edges`.

        Raises
        ------
        InvalidTable
            If lengths differ, ids are out of range, amounts are negative, NaN or infinite, or
            times are out of range. The message names the first such row.
        InvalidInput
            If an option is none of those above, or asks for a column that is not given.

        Notes
        -----
        O(n + m) time; a comparison sort is needed for order "time" only.

        Examples
        --------
        >>> graph = Graph.of_edges([0, 0, 2], [1, 1, 0], [5.0, 1.0, 2.0], weight="amount")
        >>> graph.row(0).tolist(), graph.weights(0).round(2).tolist(), graph.num_slots
        ([1, 2], [0.75, 0.25], 4)
        """
        empty = cls._empty(
            num_nodes, directed, weight, half_life_days, keep_times, keep_amounts, order
        )
        edges = empty._edges(src, dst, amount, time)
        num_nodes = _num_nodes(edges, num_nodes or 0, fixed=num_nodes is not None)
        edges = edges.apart()
        if order == "time":
            edges = edges.at(np.argsort(edges.time, kind="stable"))
        rows, columns = edges.dst, edges.src
        if directed != "in":
            rows, columns = columns, rows
        counts = laying.degrees(rows, columns, num_nodes, directed == "both")
        starts = np.cumsum(counts) - counts
        if order == "time":
            parts = laying.laid_by_time(
                rows, columns, edges.amount, edges.time, starts, directed == "both"
            )
            parts = (counts, *parts)
            laying.sort_ties(starts, counts, *parts[1:])
        else:
            parts = _laid(rows, columns, edges.amount, edges.time, counts, directed == "both")
            starts = _firsts(parts[0])
        return empty._finished(starts, *parts)

    @classmethod
    def _empty(
        cls,
        num_nodes: int | None,
        directed: Directed,
        weight: Weight | None,
        half_life_days: float | None,
        keep_times: bool,
        keep_amounts: bool,
        order: Order,
    ) -> Graph:
        """A graph without edges that carries checked options."""
        for name, value, kind in (
            ("directed", directed, Directed), ("order", order, Order),
        ):  # fmt: skip
            if value not in get_args(kind):
                raise _unknown(name, value, get_args(kind))
        if weight is not None and weight not in get_args(Weight):
            raise _unknown("weight", weight, get_args(Weight))
        if half_life_days is not None:
            if not 0 < half_life_days < np.inf:
                raise InvalidInput(f"expected half_life_days above 0, got {half_life_days}")
            if weight is None:
                raise InvalidInput(
                    'a half-life is one of weights, and weight is None; name one, as weight="count"'
                )
        if num_nodes is not None and not 0 <= num_nodes <= MOST_NODES:
            raise InvalidInput(f"expected num_nodes of 0 to {MOST_NODES:,}, got {num_nodes:,}")
        timed = keep_times or half_life_days is not None or order == "time"
        weighted = weight is not None
        nothing: Any = {name: np.empty(0, dtype=kind) for name, kind in _ARRAYS.items()}
        return cls(
            nothing["starts"], nothing["counts"], nothing["neighbours"],
            nothing["threshold"] if weighted else None,
            nothing["alias"] if weighted and order == "neighbour" else None,
            nothing["times"] if timed else None,
            nothing["amounts"] if weighted and keep_amounts else None,
            directed, weight, half_life_days, order,
        )  # fmt: skip

    @property
    def num_nodes(self) -> int:
        """Number of nodes, those without neighbours too."""
        return len(self.counts)

    @property
    def num_slots(self) -> int:
        """Number of slots in use: an undirected pair has two."""
        return int(self.counts.sum())

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays, with what earlier updates left behind in the pool."""
        return sum(array.nbytes for array in self._arrays().values())

    def row(self, node: int) -> NDArray[np.int32]:
        """Neighbours of a node: a view."""
        return self.neighbours[self._span(node)]

    def row_times(self, node: int) -> NDArray[np.int32]:
        """Seconds since 2000-01-01 beside `row`: a view.

        Raises
        ------
        InvalidInput
            If times are not kept.
        """
        if self.times is None:
            raise InvalidInput("this graph keeps no times; build it with keep_times=True")
        return self.times[self._span(node)]

    def weights(self, node: int) -> NDArray[np.float32]:
        """Shares that a walk gives to the neighbours of a node: they sum to 1."""
        span = self._span(node)
        count = int(self.counts[node])
        if self.threshold is None:
            return np.full(count, 1 / max(count, 1), dtype=np.float32)
        if self.alias is None:
            return np.diff(self.threshold[span], prepend=np.float32(0))
        found: NDArray[np.float64] = row_weights(self.threshold[span], self.alias[span])
        return found.astype(np.float32)

    def _span(self, node: int) -> slice:
        if not 0 <= node < self.num_nodes:
            raise InvalidInput(f"expected a node of 0 to {self.num_nodes - 1:,}, got {node:,}")
        return slice(int(self.starts[node]), int(self.starts[node]) + int(self.counts[node]))

    def with_edges(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        amount: ArrayLike | None = None,
        time: ArrayLike | None = None,
    ) -> tuple[Graph, NDArray[np.int64]]:
        """The graph with more transfers, and the ids of the nodes that have a part in them.

        This graph stays as it is. Columns are as in `of_edges`; larger ids make more nodes.

        Raises
        ------
        InvalidTable, InvalidInput
            As `of_edges`, and if this graph is weighted and was built without keep_amounts.

        Notes
        -----
        O(slots of the touched nodes) and 12 bytes copied per node. When the pool is full it is
        copied to one half as large again, without rows that are no more: rare, and the first
        update of a graph is such a one.
        """
        self._check_can_change()
        edges = self._edges(src, dst, amount, time)
        num_nodes = _num_nodes(edges, self.num_nodes, fixed=False)
        edges = edges.apart()
        return self._changed(edges, np.zeros(len(edges.src), dtype=np.bool_), num_nodes)

    def without_edges(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        time: ArrayLike | None = None,
        *,
        left: tuple[ArrayLike, ...] | None = None,
    ) -> tuple[Graph, NDArray[np.int64]]:
        """The graph without pairs (blocks were re-organised), and the ids of touched nodes.

        Parameters
        ----------
        src, dst : (m,)
            The pairs; they may be named more than once. With order "time" each names one
            transfer, along with its time.
        time : (m,) int64
            Microseconds, with order "time" only.
        left
            ``(src, dst, amount, time)`` or a part of it: what is left of these pairs; rows of
            other pairs are ignored, so that the columns of a ledger after its rewind may be
            given. None: nothing is left of them. Not with order "time".

        Raises
        ------
        InvalidTable, InvalidInput
            As `with_edges`, and if a pair or a transfer is not in the graph.
        """
        self._check_can_change()
        by_time = self.order == "time"
        if by_time and (left is not None or time is None):
            raise InvalidInput(
                'expected the times of transfers and no `left` with order "time": each row names '
                "one transfer"
            )
        src, dst = _ids("src", src), _ids("dst", dst)
        nought = np.zeros(len(src), dtype=np.int64)
        gone = self._edges(src, dst, nought, time if by_time else nought).apart()
        if len(gone.src) and int(max(gone.src.max(), gone.dst.max())) >= self.num_nodes:
            raise InvalidTable(
                f"expected pairs of this graph, whose ids are below {self.num_nodes:,}, got "
                f"{max(gone.src.max(), gone.dst.max()):,}"
            )
        if not by_time:
            place = np.unique(self._pairs(gone), return_index=True)[1]
            gone = gone.at(place)
        kept = gone
        if left is not None:
            kept = self._edges(*left).apart()
            kept = kept.at(np.isin(self._pairs(kept), self._pairs(gone)))
            gone = _Edges(*(np.concatenate(columns) for columns in zip(gone, kept, strict=True)))
        drops = np.ones(len(gone.src), dtype=np.bool_)
        if left is not None:
            drops[len(drops) - len(kept.src) :] = False
        return self._changed(gone, drops, self.num_nodes)

    def compact(self) -> Graph:
        """The same graph with rows in order and nothing else in the pool."""
        starts = _firsts(self.counts)
        total = self.num_slots
        parts = {
            name: laying.gathered(
                array, self.starts, self.counts, starts, np.empty(total, array.dtype)
            )
            for name, array in self._pool().items()
        }
        return self._of(starts, self.counts.copy(), parts)

    def save(self, folder: str | Path) -> None:
        """Write the graph to a new folder of .npy files: it is there whole or not at all.

        Of a graph that was opened and updated only the new rows are written; the others are the
        file that they were read from, under a second name. A pool of which a third is rows that
        are no more is written anew.

        Raises
        ------
        StoreError
            If something of that name is there already, or the disk takes no more.
        """
        used = len(self.neighbours)
        kept = {} if self.room is None or self.room.used != used else self.room.kept
        graph = self
        if not kept or 2 * used > 3 * self.num_slots:
            in_order = used == self.num_slots and bool((self.starts == _firsts(self.counts)).all())
            graph, kept = self if in_order else self.compact(), {}
        try:
            with whole(folder) as made:
                about = {
                    "format": FORMAT, "version": VERSION, "slots": graph.num_slots,
                    "directed": graph.directed, "weight": graph.weight,
                    "half_life_days": graph.half_life_days, "order": graph.order,
                    "files": {
                        name: write_rows(made, name, array, kept.get(name), appended=name in _POOL)
                        for name, array in graph._arrays().items()
                    },
                }  # fmt: skip
                with (made / "about.json").open("w", encoding="utf-8") as file:
                    json.dump(about, file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"expected to write a graph to `{folder}`, but {error}; nothing is there"
            ) from error

    def settle(self, folder: str | Path) -> None:
        """Take the folder of the last `save` for the one that the pool was read from.

        For who removes that one: a `save` from now on looks for unchanged rows here.
        """
        if self.room is not None and self.room.kept:
            files = _about(Path(folder))["files"]
            self.room.kept = {
                name: kept_of(Path(folder), name, files[name], kept)
                for name, kept in self.room.kept.items()
                if files[name]["patch"] is not None
            }

    @classmethod
    def open(cls, folder: str | Path, *, thorough: bool = False) -> Graph:
        """The graph of a folder, mapped into memory: nothing is read before it is needed.

        Parameters
        ----------
        thorough
            Also read all and compare it with the checksums.

        Raises
        ------
        StoreError
            If it is no such folder, is of another version, or is damaged.
        """
        folder = Path(folder)
        about = _about(folder)
        files = about["files"]
        arrays: dict[str, Any] = {}
        kept: dict[str, Kept] = {}
        try:
            for name, kind in _ARRAYS.items():
                if name in files:
                    arrays[name], kept[name] = open_rows(
                        folder, name, files[name], kind, thorough=thorough
                    )
        except StoreError as error:
            raise _damaged(folder, str(error)) from error
        graph = cls._empty(
            None, about["directed"], about["weight"], about["half_life_days"],
            "times" in arrays, "amounts" in arrays, about["order"],
        )  # fmt: skip
        if set(arrays) != set(graph._arrays()):
            raise _damaged(folder, "its files are not those of its weight and order")
        starts, counts = arrays["starts"], arrays["counts"]
        pool = {name: arrays[name] for name in _POOL if name in arrays}
        sizes = {len(array) for array in pool.values()}
        if len(sizes) != 1 or len(starts) != len(counts) or len(starts) > MOST_NODES:
            raise _damaged(folder, "its files are of different lengths")
        used = sizes.pop()
        if len(starts) and (
            starts.min() < 0 or counts.min() < 0 or int((starts + counts).max()) > used
        ):
            raise _damaged(folder, "`starts.npy` and `counts.npy` lead out of the pool")
        if int(counts.sum()) != about["slots"]:
            raise _damaged(folder, "`counts.npy` does not add up to the number of slots")
        if thorough and laying.num_wild(
            starts, counts, arrays["neighbours"], _or_none(arrays.get("alias"), np.int32)
        ):
            raise _damaged(folder, "a slot points out of the graph")
        owners = {name: array.base for name, array in pool.items()}
        room = _Room(owners, used, min(len(owner) for owner in owners.values()), {
            name: kept[name] for name in pool
        })  # fmt: skip
        return graph._of(starts, counts, pool, room)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"starts": self.starts, "counts": self.counts, **self._pool()}

    def _pool(self) -> dict[str, NDArray[Any]]:
        found = {name: getattr(self, name) for name in _POOL}
        return {name: array for name, array in found.items() if array is not None}

    def _of(
        self, starts: Any, counts: Any, parts: dict[str, Any], room: _Room | None = None
    ) -> Graph:
        """A graph of the same options on other arrays."""
        pool: dict[str, Any] = {name: parts.get(name) for name in _POOL}
        return replace(self, starts=starts, counts=counts, room=room, **pool)

    def _finished(
        self, starts: Any, counts: Any, neighbours: Any, amounts: Any, times: Any
    ) -> Graph:
        """A graph of my options on rows as they were laid."""
        made = {"neighbours": neighbours, "amounts": amounts, "times": times}
        if self.threshold is not None:
            made["threshold"] = np.empty(len(neighbours), dtype=np.float32)
            made["alias"] = np.empty(len(neighbours) * (self.alias is not None), dtype=np.int32)
            half_life = (self.half_life_days or 0.0) * 86_400
            # Whole columns at once: many logarithms in one instruction.
            values = np.log1p(amounts) if self.weight == "log" else amounts
            laying.weigh(
                starts, counts, values, times, half_life,
                made["threshold"], made["alias"],
            )  # fmt: skip
        return self._of(starts, counts, {name: made[name] for name in self._pool()})

    def _edges(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        amount: ArrayLike | None = None,
        time: ArrayLike | None = None,
    ) -> _Edges:
        """Checked columns; empty where they are not asked for."""
        from_ids, to_ids = _ids("src", src), _ids("dst", dst)
        size = len(from_ids)
        sums = np.empty(0, dtype=np.float32)
        seconds = np.empty(0, dtype=np.int32)
        if self.weight == "count":
            sums = np.ones(size, dtype=np.float32)
        elif self.weight is not None:
            if amount is None:
                raise InvalidInput(f'weight "{self.weight}" is made of amounts; give `amount`')
            sums = _amounts(amount)
        if self.times is not None:
            if time is None:
                raise InvalidInput("this graph keeps times or has a half-life; give `time`")
            seconds = _seconds(time)
        for name, column in (("dst", to_ids), ("amount", sums), ("time", seconds)):
            if len(column) != size and (name == "dst" or len(column)):
                raise InvalidTable(
                    f"expected columns of one length, got {size:,} of src and {len(column):,} of "
                    f"{name}"
                )
        return _Edges(from_ids, to_ids, sums, seconds)

    def _pairs(self, edges: _Edges) -> NDArray[np.int64]:
        """(m,) one number for each pair, the same for both ways of it in an undirected graph."""
        first, second = edges.src.astype(np.int64), edges.dst.astype(np.int64)
        if self.directed == "both":
            first, second = np.minimum(first, second), np.maximum(first, second)
        return (first << 32) | second

    def _check_can_change(self) -> None:
        if self.threshold is not None and self.amounts is None:
            raise InvalidInput(
                "a weighted graph is updated by the sums of its pairs; build it with "
                "keep_amounts=True"
            )

    def _changed(
        self, edges: _Edges, drops: NDArray[np.bool_], num_nodes: int
    ) -> tuple[Graph, NDArray[np.int64]]:
        """The graph after edges that come, and others (`drops`) that go before those come."""
        touched = np.unique(np.concatenate([edges.src, edges.dst])).astype(np.int64)
        if not len(touched) and num_nodes == self.num_nodes:
            return self, touched
        rows, columns = (edges.src, edges.dst) if self.directed != "in" else (edges.dst, edges.src)
        amount, time = edges.amount, edges.time
        if self.directed == "both":
            rows, columns = (
                np.stack([rows, columns], 1).ravel(),
                np.stack([columns, rows], 1).ravel(),
            )
            amount, time = np.repeat(amount, 2), np.repeat(time, 2)
            drops = np.repeat(drops, 2)
        by_time = self.order == "time"
        keys = (~drops, columns, time, rows) if by_time else (~drops, columns, rows)
        place = np.lexsort(keys)
        rows, columns, amount, time = _Edges(rows, columns, amount, time).at(place)
        drops = drops[place]
        changed, firsts = np.unique(rows, return_index=True)
        firsts = np.append(firsts, len(rows)).astype(np.int64)

        counts = np.zeros(num_nodes, dtype=np.int32)
        counts[: self.num_nodes] = self.counts
        starts = np.zeros(num_nodes, dtype=np.int64)
        starts[: self.num_nodes] = self.starts
        new_counts, missing, *laid = laying.merged(
            changed, starts, counts, self.neighbours, _or_none(self.amounts, np.float32),
            _or_none(self.times, np.int32), firsts, columns, amount, time, drops, by_time,
        )  # fmt: skip
        if missing >= 0:
            raise InvalidTable(
                f"expected pairs of this graph to take out, but {rows[missing]:,} and "
                f"{columns[missing]:,} have no such transfer here"
            )
        block = self._finished(_firsts(new_counts), new_counts, *laid)
        room, first = self._room_for(len(block.neighbours))
        if first == 0:  # a new pool: all rows that stay come first
            stay = counts.copy()
            stay[changed] = 0
            moved = _firsts(stay)
            for name, array in self._pool().items():
                laying.gathered(array, starts, stay, moved, room.arrays[name])
            starts, first = moved, int(stay.sum())
        for name, array in block._pool().items():
            room.arrays[name][first : first + len(array)] = array
        room.used = first + len(block.neighbours)
        starts[changed] = first + block.starts
        counts[changed] = new_counts
        parts = {name: array[: room.used] for name, array in room.arrays.items()}
        return self._of(starts, counts, parts, room), touched

    def _room_for(self, more: int) -> tuple[_Room, int]:
        """A pool with space for more slots and where they begin; 0 if it is a new, empty one."""
        used = len(self.neighbours)
        room = self.room
        # Of two updates of one graph, the second must not write where the first one did.
        if room is not None and 0 < used == room.used and used + more <= room.size:
            return room, used
        size = (self.num_slots + more) * 3 // 2 + 1024
        arrays = {name: np.empty(size, array.dtype) for name, array in self._pool().items()}
        return _Room(arrays, 0, size), 0


@dataclass(slots=True, eq=False)
class _Room:
    """A pool that is longer than what is used of it, shared by a graph and those made of it."""

    arrays: dict[str, NDArray[Any]]
    used: int
    size: int
    kept: dict[str, Kept] = field(default_factory=dict)
    """What a folder has of the pool, if it was opened from one: all that was used then."""


class _Edges(NamedTuple):
    """Checked columns; amount and time are empty where the graph has no use for them."""

    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    amount: NDArray[np.float32]
    time: NDArray[np.int32]

    def apart(self) -> _Edges:
        """The rows between two nodes, without transfers to oneself."""
        between = self.src != self.dst
        return self if between.all() else self.at(between)

    def at(self, places: NDArray[Any]) -> _Edges:
        """Some of the rows."""
        columns: list[Any] = [column[places] if len(column) else column for column in self]
        return _Edges(*columns)


def _unknown(name: str, value: object, known: tuple[str, ...]) -> InvalidInput:
    return InvalidInput(
        f"expected {name} of {', '.join(known)}, got {value!r}{did_you_mean(str(value), known)}"
    )


def _or_none(array: NDArray[Any] | None, kind: Any) -> NDArray[Any]:
    return np.empty(0, dtype=kind) if array is None else array


def _ids(name: str, given: ArrayLike) -> NDArray[np.int32]:
    ids = np.asarray(given)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        raise InvalidTable(
            f"expected {name} as (m,) whole numbers, got {ids.ndim}-dimensional {ids.dtype}; "
            "turn names into ids with `AddressBook.add`"
        )
    if len(ids) and (ids.min() < 0 or ids.max() >= MOST_NODES):
        row = int(np.argmax((ids < 0) | (ids >= MOST_NODES)))
        raise InvalidTable(
            f"expected ids of 0 to {MOST_NODES - 1:,} in {name}, got {ids[row]:,} in row {row:,}"
        )
    return ids.astype(np.int32, copy=False)


def _amounts(given: ArrayLike) -> NDArray[np.float32]:
    amounts = np.asarray(given)
    if amounts.ndim != 1 or (amounts.dtype.kind not in "iuf" and len(amounts)):
        raise InvalidTable(f"expected amount as (m,) numbers, got {amounts.dtype}")
    with np.errstate(over="ignore"):
        narrow = amounts.astype(np.float32)
    good = (narrow >= 0) & (narrow < np.inf)
    if not good.all():
        row = int(np.argmin(good))
        raise InvalidTable(
            f"expected amounts of 0 to 3e38, got {amounts[row]} in row {row:,}; leave such rows out"
        )
    return narrow


def _seconds(given: ArrayLike) -> NDArray[np.int32]:
    times = np.asarray(given)
    if times.dtype.kind == "M":
        times = times.astype("datetime64[us]").astype(np.int64)
    if times.ndim != 1 or (times.dtype.kind not in "iu" and len(times)):
        raise InvalidTable(
            f"expected time as (m,) whole microseconds since 1970, got {times.dtype}"
        )
    seconds = times.astype(np.int64) // 1_000_000 - ERA
    wild = (seconds < -(2**31)) | (seconds >= 2**31)
    if wild.any():
        row = int(np.argmax(wild))
        raise InvalidTable(
            f"expected times of 1932 to 2068 in microseconds since 1970, got {times[row]} in row "
            f"{row:,}"
        )
    return seconds.astype(np.int32)


def _num_nodes(edges: _Edges, least: int, *, fixed: bool) -> int:
    found = int(max(edges.src.max(initial=-1), edges.dst.max(initial=-1))) + 1
    if fixed and found > least:
        raise InvalidTable(
            f"expected ids below num_nodes = {least:,}, got {found - 1:,}; give a larger num_nodes"
        )
    return max(found, least)


def _firsts(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Where rows begin that lie one behind the other."""
    ends: NDArray[np.int64] = np.cumsum(counts, dtype=np.int64)
    firsts: NDArray[np.int64] = ends - counts
    return firsts


def _laid(
    rows: NDArray[np.int32], columns: NDArray[np.int32], amount: NDArray[np.float32],
    time: NDArray[np.int32], counts: NDArray[np.int32], both: bool,
) -> tuple[NDArray[Any], ...]:  # fmt: skip
    """Counts, neighbours, amounts and times of rows that are sorted, with one slot per pair."""
    starts = _firsts(counts)
    ends = starts if both else _firsts(laying.degrees(columns, rows, len(counts), False))
    has_amounts, has_times = len(amount) > 0, len(time) > 0
    shape = (int(counts.sum()), 1 + has_amounts + has_times)
    by_column, by_row = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.int32)
    laying.grouped(rows, columns, amount.view(np.int32), time, ends, both, by_column)
    laying.turned(by_column, ends, starts, by_row)
    del by_column
    laid: tuple[NDArray[Any], ...] = laying.joined(
        by_row, by_row.view(np.float32), counts, has_amounts, has_times
    )
    return laid


# --- folders


def _about(folder: Path) -> dict[str, Any]:
    about = read_description(
        folder / "about.json", format=FORMAT, version=VERSION, what="a graph",
        make="make one with `Graph.save`", again="update chopmark, or build it again",
        damaged=_damaged,
    )  # fmt: skip
    half_life, files = about.get("half_life_days"), about.get("files")
    if not (
        type(about.get("slots")) is int
        and about.get("directed") in get_args(Directed)
        and about.get("weight") in (None, *get_args(Weight))
        and about.get("order") in get_args(Order)
        and (half_life is None or (isinstance(half_life, float | int) and 0 < half_life < 1e9))
        and not (about["weight"] is None and half_life is not None)
        and isinstance(files, dict)
        and {"starts", "counts", "neighbours"} <= set(files)
    ):
        raise _damaged(folder, "`about.json` lacks sizes or options, or has odd ones")
    return about


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(
        f"the graph in `{folder}` is damaged: {what}; build it again, or restore a copy"
    )
