"""Random walks, 64 at a time in each thread, the same for any number of threads.

A step is a chain of reads that miss the cache, so 64 walkers take it together, pass by pass: all
read where their row is, all draw, all read the slot. The processor then waits for many reads at
once instead of one after the other (Sun et al., ThunderRW, VLDB 2021).

Second order (Grover and Leskovec, node2vec, KDD 2016): from node v, come from t, a neighbour x
has its weight times 1/p if x is t, 1 if x is a neighbour of t, 1/q otherwise. Drawn by rejection,
exactly, in the order of KnightKing (Yang et al., SOSP 2019): u is drawn first, below the least
factor it is accepted without a look at x, and the row of t is searched only where that decides.
If 1/p is the largest factor of an unweighted graph, what the way back has above the others is an
area of its own, and all else is accepted as if p were 1. With weights its share of the row would
have to be read out of the alias table: measured, that costs more than the rejections.

Numbers come from `counter`: seed, number of the walk, step, try. No batch, thread or order of
work is part of them.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.graph.adjacency import Graph
from chopmark.graph.bloom import edge_filter, hash_of, mask_of, word_of
from chopmark.graph.counter import drawn, fraction_of, place_of, stream_of
from chopmark.graph.steps import (
    BACK,
    REFUSED,
    SEARCH,
    TAKEN,
    height_of,
    heights_of,
    judged,
    place_in,
)

_FLIGHT = 64
"""Walkers in flight in each thread."""


def walk(
    graph: Graph,
    starts: ArrayLike,
    *,
    length: int = 40,
    p: float = 1.0,
    q: float = 1.0,
    seed: int = 0,
    first: int = 0,
    threads: int = 1,
    stop: NDArray[np.bool_] | None = None,
    max_degree: int | None = None,
    edges: NDArray[np.uint64] | None = None,
) -> NDArray[np.int32]:
    """One walk from each start: (m, length + 1) ids, the start first, -1 after a dead end.

    Weighted graphs are walked by weight. The direction is the graph's. With order "time" no step
    is older than the one before (of rows of senders: none is newer, back to where money is from).

    Parameters
    ----------
    starts : (m,) whole numbers
        A node as often as it shall be walked from.
    length : steps, > 0
    p, q : > 0
        A step back has 1/p times its weight, a step to no neighbour of the node before 1/q times.
    seed, first
        A walk is a function of the graph, its start, the seed and its number, which is first +
        its row: a batch of rows 100 to 199 is the same with first=100.
    threads
        Of no influence on what comes out.
    stop : (n,) bool
        Nodes where a walk ends when it comes there, an exchange's hot wallet say. It may start
        from one.
    max_degree : > 0
        Walks also end on nodes with more slots than that.
    edges
        `bloom.edge_filter(graph)`, for many batches on one graph; None: made when p and q need
        it and the batch is large. Of no influence on what comes out.

    Raises
    ------
    InvalidTable
        If a start is not a node of the graph.
    InvalidInput
        If an option is out of range, or p or q are not 1 with order "time".

    Notes
    -----
    O(m length) first order; second order O(m length max(1/p, 1, 1/q) log degree) at most.

    Examples
    --------
    >>> path = Graph.of_edges([0, 1], [1, 2], directed="out")
    >>> walk(path, [0, 1, 2], length=3).tolist()
    [[0, 1, 2, -1], [1, 2, -1, -1], [2, -1, -1, -1]]
    """
    nodes = _checked(graph, starts, length, p, q, seed, first, threads, stop, max_degree)
    paths = np.empty((len(nodes), length + 1), dtype=np.int32)
    ends = np.empty(0, dtype=np.bool_) if stop is None else np.asarray(stop, dtype=np.bool_)
    limit = 2**31 - 1 if max_degree is None else max_degree
    threshold = np.empty(0, np.float32) if graph.threshold is None else graph.threshold
    alias = np.empty(0, np.int32) if graph.alias is None else graph.alias
    common: tuple[Any, ...]
    if graph.order == "time":
        kernel = _by_time
        common = (threshold, graph.times, graph.directed == "in")
    elif p == 1.0 and q == 1.0:
        kernel = _first_order
        common = (threshold, alias)
    else:
        kernel = _second_order
        if edges is None:
            # The filter costs about as much as so many steps.
            large = len(nodes) * length > graph.num_slots // 4
            edges = edge_filter(graph) if large else np.empty(0, dtype=np.uint64)
        common = (threshold, alias, edges, graph.directed == "both", 1.0 / p, 1.0 / q)

    def part(low: int, high: int) -> None:
        kernel(
            graph.starts, graph.counts, graph.neighbours, nodes[low:high], seed, first + low,
            ends, limit, *common, paths[low:high],
        )  # fmt: skip

    if threads == 1 or len(nodes) < 2:
        part(0, len(nodes))
        return paths
    size = max(_FLIGHT, -(-len(nodes) // (threads * 4)))
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(part, low, min(low + size, len(nodes)))
            for low in range(0, len(nodes), size)
        ]
        for job in jobs:
            job.result()
    return paths


def _checked(
    graph: Graph, starts: ArrayLike, length: int, p: float, q: float, seed: int, first: int,
    threads: int, stop: NDArray[np.bool_] | None, max_degree: int | None,
) -> NDArray[np.int32]:  # fmt: skip
    for name, value in (("p", p), ("q", q)):
        if not 0 < value < np.inf:
            raise InvalidInput(f"expected {name} above 0, got {value}")
    if graph.order == "time" and (p != 1.0 or q != 1.0):
        raise InvalidInput(
            f'p and q are for graphs of order "neighbour"; expected p = q = 1, got {p} and {q}'
        )
    for name, number, least in (
        ("length", length, 1), ("threads", threads, 1), ("max_degree", max_degree, 1),
        ("seed", seed, 0), ("first", first, 0),
    ):  # fmt: skip
        if number is not None and not least <= number < 2**63:
            raise InvalidInput(f"expected {name} of at least {least}, got {number}")
    if stop is not None and (np.shape(stop) != (graph.num_nodes,) or stop.dtype != np.bool_):
        raise InvalidInput(
            f"expected stop as ({graph.num_nodes:,},) bool, one of each node, got "
            f"{np.shape(stop)} {stop.dtype}"
        )
    nodes = np.asarray(starts)
    if nodes.ndim != 1 or (nodes.dtype.kind not in "iu" and len(nodes)):
        raise InvalidTable(f"expected starts as (m,) whole numbers, got {nodes.dtype}")
    wild = (nodes < 0) | (nodes >= graph.num_nodes)
    if wild.any():
        row = int(np.argmax(wild))
        raise InvalidTable(
            f"expected starts of 0 to {graph.num_nodes - 1:,}, got {nodes[row]:,} in row {row:,}"
        )
    return np.ascontiguousarray(nodes, dtype=np.int32)


@njit(cache=True, nogil=True, error_model="numpy")
def _first_order(
    starts, counts, neighbours, nodes, seed, first, stop, limit, threshold, alias, paths
):
    num_walks, length = paths.shape[0], paths.shape[1] - 1
    weighted, stops = threshold.shape[0] > 0, stop.shape[0] > 0
    node = np.empty(_FLIGHT, dtype=np.int64)
    walker = np.empty(_FLIGHT, dtype=np.int64)
    step = np.empty(_FLIGHT, dtype=np.int64)
    stream = np.empty(_FLIGHT, dtype=np.uint64)
    slot = np.empty(_FLIGHT, dtype=np.int64)
    start = np.empty(_FLIGHT, dtype=np.int64)
    bits = np.empty(_FLIGHT, dtype=np.uint64)
    coming, flying = 0, 0
    while True:
        while flying < _FLIGHT and coming < num_walks:
            node[flying] = nodes[coming]
            walker[flying] = coming
            step[flying] = 0
            stream[flying] = stream_of(seed, first + coming)
            paths[coming, 0] = nodes[coming]
            coming += 1
            flying += 1
        if flying == 0:
            return
        for i in range(flying):
            bits[i] = drawn(stream[i], step[i], 0)
        for i in range(flying):
            count = counts[node[i]]
            start[i] = starts[node[i]]
            ended = count == 0
            if step[i] > 0:
                ended = ended or count > limit or (stops and stop[node[i]])
            slot[i] = -1 if ended else start[i] + place_of(bits[i], count)
        if weighted:
            for i in range(flying):
                if slot[i] >= 0 and fraction_of(bits[i]) >= threshold[slot[i]]:
                    slot[i] = start[i] + alias[slot[i]]
        for i in range(flying):
            if slot[i] >= 0:
                node[i] = neighbours[slot[i]]
        i = 0
        while i < flying:
            if slot[i] >= 0:
                step[i] += 1
                paths[walker[i], step[i]] = node[i]
            else:
                for k in range(step[i] + 1, length + 1):
                    paths[walker[i], k] = -1
                step[i] = length
            if step[i] == length:
                flying -= 1
                node[i], walker[i], step[i] = node[flying], walker[flying], step[flying]
                stream[i], slot[i] = stream[flying], slot[flying]
            else:
                i += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _second_order(
    starts, counts, neighbours, nodes, seed, first, stop, limit, threshold, alias, edges, both,
    back, away, paths,
):  # fmt: skip
    num_walks, length = paths.shape[0], paths.shape[1] - 1
    weighted, stops = threshold.shape[0] > 0, stop.shape[0] > 0
    filtered = edges.shape[0] > 0
    apart, most, usual, least, near_or_far = heights_of(weighted, back, away)
    node = np.empty(_FLIGHT, dtype=np.int64)
    before = np.empty(_FLIGHT, dtype=np.int64)
    walker = np.empty(_FLIGHT, dtype=np.int64)
    step = np.empty(_FLIGHT, dtype=np.int64)
    tried = np.empty(_FLIGHT, dtype=np.int64)
    stream = np.empty(_FLIGHT, dtype=np.uint64)
    start = np.empty(_FLIGHT, dtype=np.int64)
    count = np.empty(_FLIGHT, dtype=np.int64)
    slot = np.empty(_FLIGHT, dtype=np.int64)
    bits = np.empty(_FLIGHT, dtype=np.uint64)
    height = np.empty(_FLIGHT)
    extra = np.zeros(_FLIGHT)
    found = np.empty(_FLIGHT, dtype=np.int64)
    pair = np.empty(_FLIGHT, dtype=np.uint64)
    verdict = np.empty(_FLIGHT, dtype=np.int64)
    coming, flying = 0, 0
    while True:
        while flying < _FLIGHT and coming < num_walks:
            node[flying] = nodes[coming]
            before[flying] = -1
            walker[flying] = coming
            step[flying] = 0
            tried[flying] = 0
            stream[flying] = stream_of(seed, first + coming)
            paths[coming, 0] = nodes[coming]
            coming += 1
            flying += 1
        if flying == 0:
            return
        for i in range(flying):
            bits[i] = drawn(stream[i], step[i], 2 * tried[i])
        for i in range(flying):
            if tried[i] == 0:
                start[i] = starts[node[i]]
                count[i] = counts[node[i]]
                if step[i] > 0 and (count[i] > limit or (stops and stop[node[i]])):
                    count[i] = 0
            slot[i] = start[i] + place_of(bits[i], count[i]) if count[i] > 0 else -1
        if apart:
            # What the way back weighs above the usual is an area of its own, below 0.
            for i in range(flying):
                if tried[i] == 0 and before[i] >= 0 and slot[i] >= 0:
                    extra[i] = (back - usual) / count[i]
        for i in range(flying):
            u = fraction_of(drawn(stream[i], step[i], 2 * tried[i] + 1))
            height[i] = height_of(u, most, extra[i])
        if weighted:
            for i in range(flying):
                if slot[i] >= 0 and fraction_of(bits[i]) >= threshold[slot[i]]:
                    slot[i] = start[i] + alias[slot[i]]
        for i in range(flying):
            found[i] = neighbours[slot[i]] if slot[i] >= 0 else -1
        for i in range(flying):
            if slot[i] < 0 or before[i] < 0:
                verdict[i] = TAKEN
                continue
            returns = found[i] == before[i]
            verdict[i] = judged(height[i], returns, back, usual, least, near_or_far)
            if verdict[i] == SEARCH:
                pair[i] = hash_of(before[i], found[i], both)
            elif verdict[i] == BACK:
                found[i] = before[i]
                there = both or place_in(neighbours, start[i], count[i], before[i]) >= 0
                verdict[i] = TAKEN if there else REFUSED
        if filtered:
            for i in range(flying):
                if verdict[i] == SEARCH:
                    mask = mask_of(pair[i])
                    if edges[word_of(pair[i], edges.shape[0])] & mask != mask:
                        verdict[i] = TAKEN if height[i] < away else REFUSED
        for i in range(flying):
            if verdict[i] == SEARCH:
                t = before[i]
                near = place_in(neighbours, starts[t], counts[t], found[i]) >= 0
                verdict[i] = TAKEN if height[i] < (1.0 if near else away) else REFUSED
        i = 0
        while i < flying:
            if verdict[i] == REFUSED:
                tried[i] += 1
                i += 1
                continue
            if slot[i] >= 0:
                step[i] += 1
                tried[i] = 0
                before[i] = node[i]
                node[i] = found[i]
                paths[walker[i], step[i]] = found[i]
            else:
                for k in range(step[i] + 1, length + 1):
                    paths[walker[i], k] = -1
                step[i] = length
            if step[i] < length:
                i += 1
                continue
            flying -= 1
            node[i], before[i], walker[i] = node[flying], before[flying], walker[flying]
            step[i], tried[i], stream[i] = step[flying], tried[flying], stream[flying]
            start[i], count[i], slot[i] = start[flying], count[flying], slot[flying]
            found[i], verdict[i] = found[flying], verdict[flying]
            extra[i] = extra[flying]


@njit(cache=True, nogil=True, error_model="numpy")
def _by_time(
    starts, counts, neighbours, nodes, seed, first, stop, limit, shares, times, backward, paths
):
    """One walk after the other: a binary search is most of a step, and walks are short."""
    length = paths.shape[1] - 1
    weighted, stops = shares.shape[0] > 0, stop.shape[0] > 0
    for walker in range(paths.shape[0]):
        stream = stream_of(seed, first + walker)
        node = np.int64(nodes[walker])
        paths[walker, 0] = node
        now = np.int64(2**31) if backward else np.int64(-(2**31))
        for step in range(length):
            start, count = starts[node], np.int64(counts[node])
            if step > 0 and (count > limit or (stops and stop[node])):
                count = np.int64(0)
            # Slots of low .. high - 1 are not older (backward: not newer) than the step before.
            edge, last = np.int64(0), count
            while edge < last:
                middle = (edge + last) >> 1
                moment = np.int64(times[start + middle])
                if (moment <= now) if backward else (moment < now):
                    edge = middle + 1
                else:
                    last = middle
            low, high = (np.int64(0), edge) if backward else (edge, count)
            if low == high:
                for k in range(step + 1, length + 1):
                    paths[walker, k] = -1
                break
            bits = drawn(stream, step, 0)
            place = low + place_of(bits, high - low)
            if weighted:
                below = np.float64(shares[start + low - 1]) if low > 0 else 0.0
                whole = np.float64(shares[start + high - 1]) - below
                if whole > 0.0:
                    wanted = below + fraction_of(bits) * whole
                    place, last = low, high - 1
                    while place < last:
                        middle = (place + last) >> 1
                        if np.float64(shares[start + middle]) > wanted:
                            last = middle
                        else:
                            place = middle + 1
            now = np.int64(times[start + place])
            node = np.int64(neighbours[start + place])
            paths[walker, step + 1] = node
