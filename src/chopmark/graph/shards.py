"""A graph in shards, for one that no machine holds: the same walks, whoever takes the steps.

    folder/about.json       nodes, number of shards, how the graph was made
           00003/           rows of the nodes with node % shards = 3, row = node // shards
                 starts     (rows + 1,) int64: where a row begins and the one before ends
                 neighbours (slots,) int32: ids of the whole graph, sorted in each row
                 threshold, alias   (slots,) of the weights
                 edges      the filter of the shard's own edges, 12 bits a slot

Ids are given in order of arrival, so `node % shards` spreads the early and busy ones evenly and
needs no table. A walker that comes to a node of another shard is handed over: number, step, node
and the node before, 20 bytes. Its random numbers are functions of its number and step
(`counter`), so a walk is the one of `walks.walk` for any number of shards.

Second order asks whether a candidate x is a neighbour of t, the node before. That is known here if
t is of this shard, or x is and edges have no direction. Else the shard of t is asked: one word of
its filter, and its row only where the filter says maybe. Both are mapped from the storage that
all share, so a question costs a page or two of it and no round of exchange.

References: Yang et al., "KnightKing", SOSP 2019 (walkers that move between partitions).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph import laying
from chopmark.graph.addresses import replace_json
from chopmark.graph.adjacency import MOST_NODES, Directed, Graph, Weight
from chopmark.graph.bloom import BITS_PER_EDGE, hash_of, mask_of, word_of
from chopmark.graph.counter import drawn, fraction_of, place_of, stream_of
from chopmark.graph.steps import BACK, SEARCH, TAKEN, height_of, heights_of, judged, place_in
from chopmark.histories.description import read_description
from chopmark.histories.storage import BROKEN, crc_of, whole, write_array

FORMAT = "chopmark-shards"
VERSION = 1

_KINDS: Mapping[str, Any] = {
    "starts": np.int64, "neighbours": np.int32, "threshold": np.float32, "alias": np.int32,
    "edges": np.uint64,
}  # fmt: skip
_GOING, _LEFT, _ENDED, _ASKING = 0, 1, 2, 3


class Walkers(NamedTuple):
    """Walkers on their way, 20 bytes each."""

    walk: NDArray[np.int64]
    """(m,) number of the walk."""
    step: NDArray[np.int32]
    """(m,) steps taken."""
    node: NDArray[np.int32]
    """(m,) where it is."""
    before: NDArray[np.int32]
    """(m,) where it was, -1 at the start."""

    def at(self, places: NDArray[Any]) -> Walkers:
        """Some of them."""
        return Walkers(*(column[places] for column in self))


class Visits(NamedTuple):
    """What walkers saw: number of the walk, step (>= 1), node; (m,) each."""

    walk: NDArray[np.int64]
    step: NDArray[np.int32]
    node: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Course:
    """How to walk: the options of `walks.walk`, which has their meaning.

    Raises
    ------
    InvalidInput
        If one is out of range.
    """

    length: int = 40
    p: float = 1.0
    q: float = 1.0
    seed: int = 0
    max_degree: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("p", self.p), ("q", self.q)):
            if not 0 < value < np.inf:
                raise InvalidInput(f"expected {name} above 0, got {value}")
        for name, number, least, most in (
            ("length", self.length, 1, 2**31 - 2), ("seed", self.seed, 0, 2**63 - 1),
            ("max_degree", self.max_degree, 1, 2**31 - 1),
        ):  # fmt: skip
            if number is not None and not least <= number <= most:
                raise InvalidInput(f"expected {name} of {least} to {most:,}, got {number}")


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Rows of the nodes of one shard; arrays as in the head of this file."""

    starts: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    threshold: NDArray[np.float32]
    alias: NDArray[np.int32]
    edges: NDArray[np.uint64]

    @classmethod
    def of_rows(
        cls, counts: NDArray[np.int32], neighbours: NDArray[np.int32],
        threshold: NDArray[np.float32] | None, alias: NDArray[np.int32] | None,
        place: int, num_shards: int,
    ) -> Shard:  # fmt: skip
        """The shard of rows that lie one behind the other."""
        starts = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=starts[1:])
        words = np.zeros(max(1, -(-len(neighbours) * BITS_PER_EDGE // 64)), dtype=np.uint64)
        _fill(starts, neighbours, place, num_shards, words)
        return cls(
            starts, neighbours,
            np.empty(0, np.float32) if threshold is None else threshold,
            np.empty(0, np.int32) if alias is None else alias, words,
        )  # fmt: skip

    @classmethod
    def of_edges(
        cls, rows: NDArray[Any], columns: NDArray[Any], amount: NDArray[Any] | None,
        time: NDArray[Any] | None, *, place: int, num_shards: int, num_nodes: int,
        weight: Weight | None = None, half_life_days: float | None = None,
    ) -> Shard:  # fmt: skip
        """The shard of edges whose rows are its own, in the order that amounts are summed in.

        Ids are put in the order of those that occur, so that memory is of the edges' size, and
        rows stay sorted as they are in the whole graph.
        """
        there, local = np.unique(np.concatenate([rows, columns]), return_inverse=True)
        graph = Graph.of_edges(
            local[: len(rows)], local[len(rows) :], amount, time, num_nodes=len(there),
            directed="out", weight=weight, half_life_days=half_life_days,
        )  # fmt: skip
        counts = np.zeros(_num_rows(num_nodes, place, num_shards), dtype=np.int32)
        own = there % num_shards == place
        counts[there[own] // num_shards] = graph.counts[own]
        # Other nodes have empty rows: the pool is that of the own rows.
        neighbours = there[graph.neighbours].astype(np.int32)
        return cls.of_rows(counts, neighbours, graph.threshold, graph.alias, place, num_shards)

    def save(self, folder: str | Path) -> None:
        """Write it to a new folder, whole or not at all; what stands there is replaced by a twin.

        A task that is run twice finds the folder there: that is no error.
        """
        folder = Path(folder)
        if (folder / "about.json").exists():
            return
        try:
            with whole(folder) as made:
                files = {}
                for name in _KINDS:
                    array = getattr(self, name)
                    write_array(made / f"{name}.npy", array)
                    path = made / f"{name}.npy"
                    files[name] = {"length": len(array), "crc32": crc_of(path)}
                with (made / "about.json").open("w", encoding="utf-8") as file:
                    json.dump({"format": FORMAT, "version": VERSION, "files": files}, file)
                    file.flush()
                    os.fsync(file.fileno())
        except StoreError:
            if not (folder / "about.json").exists():  # else its twin was quicker
                raise
        except OSError as error:
            if (folder / "about.json").exists():
                return
            raise StoreError(
                f"expected to write a shard to `{folder}`, but {error}; nothing is there"
            ) from error

    @classmethod
    def open(cls, folder: Path, *, thorough: bool = False) -> Shard:
        """The shard of a folder, mapped.

        Raises
        ------
        StoreError
            If it is not there, or damaged.
        """
        about = _about(folder)
        arrays: dict[str, Any] = {}
        files: Any = about.get("files")
        for name, kind in _KINDS.items():
            path = folder / f"{name}.npy"
            try:
                facts = files[name]
                empty = facts["length"] == 0
                mode: Any = None if empty else "c"  # kernels are compiled for writable arrays
                array = np.asarray(np.load(path, mmap_mode=mode, allow_pickle=False))
                wrong = array.dtype != kind or array.shape != (facts["length"],)
                wrong = wrong or (thorough and crc_of(path) != facts["crc32"])
            except BROKEN as error:
                raise _damaged(folder, f"`{path.name}` cannot be read ({error})") from error
            if wrong:
                raise _damaged(folder, f"`{path.name}` is not what was written")
            arrays[name] = array
        shard = cls(**arrays)
        starts, slots = shard.starts, len(shard.neighbours)
        weighted = len(shard.threshold), len(shard.alias)
        if (
            not len(starts) or starts[0] != 0 or starts[-1] != slots
            or (np.diff(starts) < 0).any() or weighted not in ((0, 0), (slots, slots))
            or not len(shard.edges)
        ):  # fmt: skip
            raise _damaged(folder, "its rows do not lead one to the next")
        return shard


@dataclass(frozen=True, slots=True, eq=False)
class ShardedGraph:
    """A graph as a folder of shards on storage that all workers share."""

    folder: Path
    num_nodes: int
    num_shards: int
    directed: Directed = "both"
    weight: Weight | None = None
    half_life_days: float | None = None
    _opened: dict[int, Shard] = field(default_factory=dict, repr=False)

    @classmethod
    def of_graph(cls, graph: Graph, folder: str | Path, num_shards: int) -> ShardedGraph:
        """A graph of one machine, cut into shards in a new folder.

        Raises
        ------
        InvalidInput
            If there is no such number of shards, or its order is "time".
        StoreError
            If the folder is there already or cannot be written.
        """
        if graph.order == "time":
            raise InvalidInput(
                'expected a graph of order "neighbour" to cut into shards, got order "time"'
            )
        made = cls(
            Path(folder), graph.num_nodes, num_shards, graph.directed, graph.weight,
            graph.half_life_days,
        )  # fmt: skip
        made.begin()
        for place in range(num_shards):
            starts, counts = graph.starts[place::num_shards], graph.counts[place::num_shards]
            firsts = np.cumsum(counts, dtype=np.int64) - counts
            size = int(counts.sum())
            pool = [
                None
                if array is None
                else laying.gathered(array, starts, counts, firsts, np.empty(size, array.dtype))
                for array in (graph.neighbours, graph.threshold, graph.alias)
            ]
            neighbours, threshold, alias = pool
            shard = Shard.of_rows(counts, neighbours, threshold, alias, place, num_shards)  # type: ignore[arg-type]
            shard.save(made.path_of(place))
        made.finish()
        return made

    def begin(self) -> None:
        """Make the folder; shards may be saved to `path_of` in any order by anyone."""
        if not (type(self.num_shards) is int and 1 <= self.num_shards < 100_000):
            raise InvalidInput(f"expected 1 to 99,999 shards, got {self.num_shards}")
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise StoreError(
                f"expected a new folder for shards, but `{self.folder}` is there; choose another "
                "name or remove it"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"shards cannot be written to `{self.folder}`: {error}") from error

    def finish(self) -> None:
        """Say that all shards are there: from now on the folder can be opened."""
        lacking = [
            place
            for place in range(self.num_shards)
            if not (self.path_of(place) / "about.json").exists()
        ]
        if lacking:
            raise StoreError(
                f"expected {self.num_shards:,} shards in `{self.folder}`, but shard {lacking[0]} "
                "is not there; is the folder shared by all workers?"
            )
        about = {
            "format": FORMAT, "version": VERSION, "nodes": self.num_nodes,
            "shards": self.num_shards, "directed": self.directed, "weight": self.weight,
            "half_life_days": self.half_life_days,
        }  # fmt: skip
        about["crc32"] = zlib.crc32(json.dumps(about, sort_keys=True).encode())
        try:
            replace_json(self.folder / "about.json", about)
        except OSError as error:
            raise StoreError(f"shards cannot be written to `{self.folder}`: {error}") from error

    @classmethod
    def open(cls, folder: str | Path, *, thorough: bool = False) -> ShardedGraph:
        """The shards of a folder; each is mapped when it is first asked for.

        Parameters
        ----------
        thorough
            Also read all shards and compare them with their checksums.

        Raises
        ------
        StoreError
            If it is no such folder, is of another version, or is damaged.
        """
        folder = Path(folder)
        about = _about(folder)
        crc = about.pop("crc32", None)
        if crc != zlib.crc32(json.dumps(about, sort_keys=True).encode()):
            raise _damaged(folder, "`about.json` is not what was written")
        sound = (
            0 <= about["nodes"] <= MOST_NODES
            and about["shards"] > 0
            and about["directed"] in get_args(Directed)
        )
        if not sound:
            raise _damaged(folder, "`about.json` has odd sizes")
        made = cls(
            folder, about["nodes"], about["shards"], about["directed"], about["weight"],
            about["half_life_days"],
        )  # fmt: skip
        if thorough:
            for place in range(made.num_shards):
                shard = Shard.open(made.path_of(place), thorough=True)
                ids = shard.neighbours
                if len(ids) and (ids.min() < 0 or ids.max() >= made.num_nodes):
                    raise _damaged(folder, f"a slot of shard {place} points out of the graph")
                made.shard(place)
        return made

    def path_of(self, place: int) -> Path:
        """The folder of a shard."""
        return self.folder / f"{place:05d}"

    def shard(self, place: int) -> Shard:
        """One shard, mapped once.

        Raises
        ------
        StoreError
            If it is damaged.
        """
        if place not in self._opened:
            shard = Shard.open(self.path_of(place))
            if len(shard.starts) - 1 != _num_rows(self.num_nodes, place, self.num_shards):
                raise _damaged(self.path_of(place), "it has rows for another number of nodes")
            self._opened[place] = shard
        return self._opened[place]

    def row(self, node: int) -> NDArray[np.int32]:
        """Neighbours of a node: a view."""
        if not 0 <= node < self.num_nodes:
            raise InvalidInput(f"expected a node of 0 to {self.num_nodes - 1:,}, got {node:,}")
        shard, row = self.shard(node % self.num_shards), node // self.num_shards
        return shard.neighbours[shard.starts[row] : shard.starts[row + 1]]

    def start(self, starts: NDArray[np.int32], place: int, *, first: int = 0) -> Walkers:
        """Walkers that set out in one shard: `starts` are those of all shards, in order."""
        rows = np.flatnonzero(starts % self.num_shards == place)
        size = len(rows)
        return Walkers(
            rows + first, np.zeros(size, np.int32), starts[rows], np.full(size, -1, np.int32)
        )

    def advance(self, place: int, walkers: Walkers, course: Course) -> tuple[Walkers, Visits]:
        """Take walkers as far as they come within a shard.

        Returns those that go on in another shard (`node % num_shards`), and all visits; walks
        that came to their end are in the visits alone.

        Complexity: O(steps) and one search for each question to another shard.
        """
        shard, both = self.shard(place), self.directed == "both"
        size = len(walkers.walk)
        step, node, before = (np.array(column, dtype=np.int32) for column in walkers[1:])
        tried, asked = np.zeros(size, np.int32), np.full(size, -1, np.int32)
        state = np.zeros(size, np.int8)
        limit = 2**31 - 1 if course.max_degree is None else course.max_degree
        # Few steps each if there are many shards; no more at once than fits a cache.
        room = max(2 * size + 1024, min(size * course.length, 1 << 20))
        seen: list[Visits] = []
        going = np.arange(size)
        while len(going):
            visits = Visits(
                np.empty(room, np.int64), np.empty(room, np.int32), np.empty(room, np.int32)
            )
            used = _advance(
                place, self.num_shards, shard.starts, shard.neighbours, shard.threshold,
                shard.alias, going, walkers.walk, step, node, before, tried, asked, state,
                course.length, course.seed, limit, both, course.p == course.q == 1.0,
                1.0 / course.p, 1.0 / course.q, *visits,
            )  # fmt: skip
            cut: list[Any] = [column[:used] for column in visits]
            seen.append(Visits(*cut))
            asking = going[state[going] == _ASKING]
            if len(asking):
                asked[asking] = np.where(self._near(before[asking], asked[asking]), -2, -3)
                state[asking] = _GOING
            going = going[state[going] == _GOING]
        left = np.flatnonzero(state == _LEFT)
        nothing = Visits(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32))
        joined: list[Any] = [np.concatenate(one) for one in zip(nothing, *seen, strict=True)]
        return Walkers(walkers.walk, step, node, before).at(left), Visits(*joined)

    def _near(self, first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether the row of each first node has the second."""
        near = np.zeros(len(first), np.bool_)
        homes = first % self.num_shards
        for place in np.unique(homes):
            mine = np.flatnonzero(homes == place)
            shard = self.shard(int(place))
            near[mine] = _found(
                shard.starts, shard.neighbours, shard.edges, self.num_shards, first[mine],
                second[mine],
            )  # fmt: skip
        return near

    def walk(self, starts: ArrayLike, course: Course, *, first: int = 0) -> NDArray[np.int32]:
        """One walk from each start, shard after shard in this process: (m, length + 1).

        The walks of `walks.walk` on the whole graph; one shard is in use at a time.

        Raises
        ------
        InvalidTable
            If a start is not a node.

        Examples
        --------
        >>> from tempfile import mkdtemp
        >>> path = Graph.of_edges([0, 1], [1, 2], directed="out")
        >>> shards = ShardedGraph.of_graph(path, Path(mkdtemp()) / "shards", 2)
        >>> shards.walk([0, 1], Course(length=3)).tolist()
        [[0, 1, 2, -1], [1, 2, -1, -1]]
        """
        nodes = self.checked(starts)
        paths = np.full((len(nodes), course.length + 1), -1, np.int32)
        paths[:, 0] = nodes
        waiting = [[self.start(nodes, place, first=first)] for place in range(self.num_shards)]
        while any(waiting):
            for place in range(self.num_shards):
                here, waiting[place] = waiting[place], []
                if not here:
                    continue
                walkers = Walkers(*map(np.concatenate, zip(*here, strict=True)))
                left, visits = self.advance(place, walkers, course)
                paths[visits.walk - first, visits.step] = visits.node
                homes = left.node % self.num_shards
                for home in np.unique(homes):
                    waiting[int(home)].append(left.at(homes == home))
        return paths

    def checked(self, starts: ArrayLike) -> NDArray[np.int32]:
        """Starts as int32, if all are nodes."""
        nodes = np.asarray(starts)
        if nodes.ndim != 1 or (nodes.dtype.kind not in "iu" and len(nodes)):
            raise InvalidTable(f"expected starts as (m,) whole numbers, got {nodes.dtype}")
        wild = (nodes < 0) | (nodes >= self.num_nodes)
        if wild.any():
            row = int(np.argmax(wild))
            raise InvalidTable(
                f"expected starts of 0 to {self.num_nodes - 1:,}, got {nodes[row]:,} in row {row:,}"
            )
        return nodes.astype(np.int32)


def _num_rows(num_nodes: int, place: int, num_shards: int) -> int:
    return max(0, -(-(num_nodes - place) // num_shards))


def _about(folder: Path) -> dict[str, Any]:
    return read_description(
        folder / "about.json", format=FORMAT, version=VERSION, what="shards of a graph",
        make="make them with `ShardedGraph.of_graph` or `sparkshards.build`",
        again="update chopmark, or build them again", damaged=_damaged,
    )  # fmt: skip


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(f"the shards in `{folder}` are damaged: {what}; build them again")


@njit(cache=True, error_model="numpy")
def _fill(starts, neighbours, place, num_shards, words):
    for row in range(starts.shape[0] - 1):
        for i in range(starts[row], starts[row + 1]):
            bits = hash_of(row * num_shards + place, neighbours[i], False)
            words[word_of(bits, words.shape[0])] |= mask_of(bits)


@njit(cache=True, error_model="numpy", inline="always")
def _in_row(starts, neighbours, row, wanted):
    return place_in(neighbours, starts[row], starts[row + 1] - starts[row], wanted) >= 0


@njit(cache=True, nogil=True, error_model="numpy")
def _found(starts, neighbours, edges, num_shards, first, second):
    near = np.zeros(first.shape[0], np.bool_)
    for i in range(first.shape[0]):
        bits = hash_of(np.int64(first[i]), np.int64(second[i]), False)
        mask = mask_of(bits)
        if edges[word_of(bits, edges.shape[0])] & mask == mask:
            row = first[i] // num_shards
            near[i] = _in_row(starts, neighbours, row, second[i])
    return near


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(
    place, num_shards, starts, neighbours, threshold, alias, going, walk, step, node, before,
    tried, asked, state, length, seed, limit, both, plain, back, away, seen_walk, seen_step,
    seen_node,
):  # fmt: skip
    """Walkers as far as they come; how many visits. The draws are those of `walks`.

    One walker after the other: with many shards one takes a step or two here, and the processor
    looks ahead to the next. Who finds no room for a visit goes on at the next call.
    """
    weighted = threshold.shape[0] > 0
    apart, most, usual, least, near_or_far = heights_of(weighted, back, away)
    used, room = 0, seen_walk.shape[0]
    for i in going:
        stream = stream_of(seed, walk[i])
        here, last, at, turn = np.int64(node[i]), np.int64(before[i]), step[i], tried[i]
        while used < room:
            if at == length:
                state[i] = _ENDED
                break
            if here % num_shards != place:
                state[i] = _LEFT
                break
            start = starts[here // num_shards]
            count = starts[here // num_shards + 1] - start
            if count == 0 or (at > 0 and count > limit):
                state[i] = _ENDED
                break
            bits = drawn(stream, at, 0 if plain else 2 * turn)
            slot = start + place_of(bits, count)
            if weighted and fraction_of(bits) >= threshold[slot]:
                slot = start + alias[slot]
            found = np.int64(neighbours[slot])
            if not plain and last >= 0:
                extra = (back - usual) / count if apart else 0.0
                u = fraction_of(drawn(stream, at, 2 * turn + 1))
                height = height_of(u, most, extra)
                verdict = judged(height, found == last, back, usual, least, near_or_far)
                taken = verdict == TAKEN
                if verdict == BACK:
                    found = last
                    taken = both or _in_row(starts, neighbours, here // num_shards, last)
                elif verdict == SEARCH:
                    if asked[i] < -1:
                        near = asked[i] == -2
                        asked[i] = -1
                    elif last % num_shards == place:
                        near = _in_row(starts, neighbours, last // num_shards, found)
                    elif both and found % num_shards == place:
                        near = _in_row(starts, neighbours, found // num_shards, last)
                    else:
                        asked[i] = found
                        state[i] = _ASKING
                        break
                    taken = height < (1.0 if near else away)
                if not taken:
                    turn += 1
                    continue
            at += 1
            turn = 0
            last = here
            here = found
            seen_walk[used], seen_step[used], seen_node[used] = walk[i], at, here
            used += 1
        node[i], before[i], step[i], tried[i] = here, last, at, turn
    return used
