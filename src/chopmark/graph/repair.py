"""Stored walks repaired, so that they are walks of a graph that has changed: exactly, cheaply.

A walk's next step changes its odds where the row of its node changed, and with q other than 1 also
where the row of the node before did. "resume" walks anew from the first such step on. "coupled"
keeps the stored step x as often as it can. With u(x) what a step weighs before it is normed
(weight times 1/p, 1 or 1/q), in the old and the new graph:

    1.  x is given up with probability 1 - min(1, u_new(x) / u_old(x))
    2.  else y is drawn from the new graph, and x gives way to it with probability
        1 - min(1, u_old(y) / u_new(y))
    3.  when x is given up, y is drawn from the new graph; behind a new step all is drawn anew

A stored x that is not given up has odds in proportion to m = min(u_old, u_new). With Z the sums,
step 2 keeps it with Z_m / Z_new and else lands on y with (u_new - m)(y) / Z_new: together that is
u_new / Z_new, as it should be. If edges only came, or only went, no way of repair changes fewer
steps. No sum is ever taken: a visit costs a draw and two looks into the list of what changed in a
row, also at a hub, while the odds themselves would cost the whole row, each time.

Numbers come from `counter`, so threads and the order of walks are of no influence.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput
from chopmark.graph.adjacency import Graph
from chopmark.graph.counter import drawn, fraction_of, place_of, stream_of
from chopmark.graph.steps import place_in
from chopmark.graph.walks import walk

_FEW = 16
"""Differences of a row that are looked up one by one."""


def repair(
    walks: NDArray[np.int32],
    which: NDArray[np.int64],
    before: Graph,
    after: Graph,
    touched: NDArray[np.int64],
    *,
    p: float = 1.0,
    q: float = 1.0,
    seed: int = 0,
    first: int = 0,
    mode: Literal["coupled", "resume"] = "coupled",
    max_degree: int | None = None,
    threads: int = 1,
) -> NDArray[np.int32]:
    """Make walks of `before`, in place, walks of `after`; where each one changed.

    Parameters
    ----------
    walks : (m, length + 1) int32
        As `walk` gives them, on `before` with the same p, q and max_degree.
    which : (k,)
        Rows that come through a touched node, each once; others need no repair.
    touched : (t,)
        Both ends of all edges that came, went or have another weight.
    seed, first
        Numbers are a function of the seed and of the row + first. No seed of the walks or of an
        earlier repair.

    Returns
    -------
    (k,) int32
        The first place that is not as it was, -1 for walks that stayed.

    Raises
    ------
    InvalidInput
        If the graphs cannot be compared.

    Notes
    -----
    O(slots of touched nodes + walks + steps redone).

    Examples
    --------
    >>> before = Graph.of_edges([0], [1], directed="out", num_nodes=3)
    >>> after, touched = before.with_edges([1], [2])
    >>> walks = walk(before, [0, 2], length=3)
    >>> repair(walks, np.array([0, 1]), before, after, touched).tolist(), walks.tolist()
    ([2, -1], [[0, 1, 2, -1], [2, -1, -1, -1]])
    """
    check_repairable(before, after)
    limit = 2**31 - 1 if max_degree is None else max_degree
    kind = {None: 0, "count": 1, "amount": 1, "log": 2}[after.weight]
    marks = np.zeros(after.num_nodes, dtype=np.int32)
    marks[touched] = np.arange(1, len(touched) + 1)
    known = touched[touched < before.num_nodes]
    most = int(after.counts[touched].sum()) + int(before.counts[known].sum())
    firsts = np.empty(len(touched) + 1, dtype=np.int64)
    differences = np.empty(most, np.int32), np.empty(most), np.empty(most, np.int8)
    _differences(
        _arrays(before), _arrays(after), touched, kind, (after.half_life_days or 0.0) * 86_400,
        firsts, *differences,
    )  # fmt: skip
    changed = np.empty(len(which), dtype=np.int32)

    def part(low: int, high: int) -> None:
        _repaired(
            walks, which[low:high], _arrays(after)[:5], marks, firsts, *differences, 1.0 / p,
            1.0 / q, limit, mode == "resume", seed, first, changed[low:high],
        )  # fmt: skip

    if threads == 1:
        part(0, len(which))
        return changed
    size = max(64, -(-len(which) // (threads * 4)))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda low: part(low, low + size), range(0, len(which), size)))
    return changed


def stretches_of(
    walks: NDArray[np.int32], which: NDArray[np.int64], firsts: NDArray[np.int32], lead: int
) -> NDArray[np.int32]:
    """What changed of walks, and `lead` steps before it: (k, length + 1), -1 behind.

    firsts : (k,) where each walk of `which` changed.
    """
    rows = walks[which]
    width = rows.shape[1]
    place = np.arange(width) + np.maximum(firsts - lead, 0)[:, np.newaxis]
    found = np.take_along_axis(rows, np.minimum(place, width - 1), axis=1)
    found[place >= width] = -1
    return found


def new_edge_ratio(
    walks: NDArray[np.int32],
    graph: Graph,
    src: ArrayLike,
    dst: ArrayLike,
    *,
    p: float = 1.0,
    q: float = 1.0,
    seed: int = 1,
    max_degree: int | None = None,
) -> float:
    """Steps of walks over some edges, over those of as many walks made anew: 1 is right.

    Below 1 an update shows the new edges too seldom, above 1 too often. Walks made anew have the
    same starts; take a seed that is not that of the walks.

    Parameters
    ----------
    src, dst : (m,)
        The edges that are counted: those that came. In an undirected graph both ways.
    """
    fresh = walk(
        graph, walks[:, 0], length=walks.shape[1] - 1, p=p, q=q, seed=seed, max_degree=max_degree
    )
    one, two = np.asarray(src, dtype=np.int64), np.asarray(dst, dtype=np.int64)
    if graph.directed == "in":
        one, two = two, one
    if graph.directed == "both":
        one, two = np.concatenate([one, two]), np.concatenate([two, one])
    keys = np.unique((one << 32) | two)
    expected = _steps_over(fresh, keys)
    return _steps_over(walks, keys) / expected if expected else float("nan")


def check_repairable(before: Graph, after: Graph) -> None:
    """Raise `InvalidInput` if what steps weigh in two graphs cannot be compared."""
    for graph in (before, after):
        if graph.order != "neighbour":
            raise InvalidInput(
                'walks along time are not repaired; expected graphs of order "neighbour", or use '
                'mode="cheap"'
            )
        if graph.threshold is not None and graph.amounts is None:
            raise InvalidInput(
                "walks on a weighted graph are repaired by the sums of its pairs; build it with "
                "keep_amounts=True"
            )


def _steps_over(walks: NDArray[np.int32], keys: NDArray[np.int64]) -> int:
    found = 0
    for low in range(0, len(walks) * bool(len(keys)), 1 << 16):
        part = walks[low : low + (1 << 16)].astype(np.int64)
        one, two = part[:, :-1], part[:, 1:]
        steps = ((one << 32) | two)[two >= 0]
        place = np.minimum(np.searchsorted(keys, steps), len(keys) - 1)
        found += int((keys[place] == steps).sum())
    return found


def _arrays(graph: Graph) -> tuple[Any, ...]:
    none, no_places = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int32)
    half_lives = graph.half_life_days is not None
    return (
        graph.starts, graph.counts, graph.neighbours,
        none if graph.threshold is None else graph.threshold,
        no_places if graph.alias is None else graph.alias,
        none if graph.amounts is None else graph.amounts,
        no_places if graph.times is None or not half_lives else graph.times,
    )  # fmt: skip


@njit(cache=True, error_model="numpy", inline="always")
def _factor(starts, counts, neighbours, before, node, back, away):
    """1/p, 1 or 1/q of a step to a node from a neighbour of `before`."""
    factor = 1.0
    if before >= 0 and away != 1.0:
        near = place_in(neighbours, starts[before], counts[before], node) >= 0
        factor = 1.0 if near else away
    return back if before >= 0 and node == before else factor


@njit(cache=True, error_model="numpy", inline="always")
def _step(
    starts, counts, neighbours, threshold, alias, node, before, back, away, stream, step
):  # fmt: skip
    """A step of the second order, by rejection; the node has neighbours."""
    most = max(back, 1.0, away) if before >= 0 else 1.0
    least = min(back, 1.0, away) if before >= 0 else 1.0
    start, count = starts[node], counts[node]
    tried = 1
    while True:
        bits = drawn(stream, step, 2 * tried)
        slot = start + place_of(bits, count)
        if threshold.shape[0] > 0 and fraction_of(bits) >= threshold[slot]:
            slot = start + alias[slot]
        found = np.int64(neighbours[slot])
        if least == most:
            return found
        height = most * fraction_of(drawn(stream, step, 2 * tried + 1))
        if height < least:
            return found
        if height < _factor(starts, counts, neighbours, before, found, back, away):
            return found
        tried += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _differences(old, new, touched, kind, half_life, firsts, nodes, gains, edges):
    """What is not the same in the rows of touched nodes: to which node, by what factor.

    A slot whose weight was 0 and is not gains infinitely, and one that is 0 now loses all: rows
    that weigh nothing are walked as if even, and that makes their steps be drawn anew.
    edges : 1 if the slot came, -1 if it went, 0 if its weight alone changed.
    """
    size = 0
    for i in range(touched.shape[0]):
        firsts[i] = size
        row = touched[i]
        known = row < old[0].shape[0]
        a = old[0][row] if known else np.int64(0)
        a_end = a + old[1][row] if known else np.int64(0)
        b, b_end = new[0][row], new[0][row] + new[1][row]
        while a < a_end or b < b_end:
            gain, edge, node = 1.0, 0, np.int32(0)
            if b == b_end or (a < a_end and old[2][a] < new[2][b]):
                gain, edge, node = 0.0, -1, old[2][a]
                a += 1
            elif a == a_end or new[2][b] < old[2][a]:
                gain, edge, node = np.inf, 1, new[2][b]
                b += 1
            else:
                node = new[2][b]
                if kind > 0:
                    was, now = np.float64(old[5][a]), np.float64(new[5][b])
                    if was != now:
                        if kind == 2:
                            was, now = np.log1p(was), np.log1p(now)
                        gain = now / was if was > 0.0 else np.inf
                    if half_life > 0.0:
                        # What ages are counted from is the same for a whole row: it falls out.
                        gain *= 2.0 ** ((np.int64(new[6][b]) - np.int64(old[6][a])) / half_life)
                a += 1
                b += 1
            if gain != 1.0:
                nodes[size], gains[size], edges[size] = node, gain, edge
                size += 1
    firsts[touched.shape[0]] = size


@njit(cache=True, nogil=True, error_model="numpy")
def _repaired(
    walks, which, graph, marks, firsts, nodes, gains, edges, back, away, limit, resume, seed,
    first, changed,
):  # fmt: skip
    length = walks.shape[1] - 1
    starts, counts, neighbours, threshold, alias = graph
    looks = away != 1.0
    ratio = np.empty(2)
    for i in range(which.shape[0]):
        row = which[i]
        stream = stream_of(seed, first + row)
        changed[i] = -1
        anew = False
        v, t = np.int64(-1), np.int64(-1)
        x = np.int64(walks[row, 0])
        for j in range(length):
            t, v, x = v, x, np.int64(walks[row, j + 1])
            here = np.int64(marks[v] - 1)
            # What came to and went from the neighbours of t is in the differences of its row.
            there = np.int64(marks[t] - 1) if looks and t >= 0 else np.int64(-1)
            few = there >= 0 and firsts[there + 1] - firsts[there] <= _FEW
            if not anew and here < 0 and few:
                # They matter if they are neighbours of v; mostly none is.
                place, last = firsts[there], firsts[there + 1]
                while place < last and (
                    edges[place] == 0
                    or place_in(neighbours, starts[v], counts[v], nodes[place]) < 0
                ):
                    place += 1
                if place == last:
                    there = np.int64(-1)
            if not anew and here < 0 and there < 0:
                if x < 0:
                    break
                continue
            if counts[v] == 0 or (j > 0 and counts[v] > limit):
                if x >= 0:
                    if changed[i] < 0:
                        changed[i] = j + 1
                    for k in range(j + 1, length + 1):
                        walks[row, k] = -1
                break
            y = _step(starts, counts, neighbours, threshold, alias, v, t, back, away, stream, j)
            if not anew:
                anew = bool(resume or x < 0)
            if not anew and y != x:
                for k in range(2):
                    node = x if k == 0 else y
                    ratio[k] = 1.0
                    if here >= 0:
                        place = firsts[here] + place_in(
                            nodes, firsts[here], firsts[here + 1] - firsts[here], node
                        )
                        if place >= firsts[here]:
                            ratio[k] = gains[place]
                    if there >= 0 and node != t:
                        place = firsts[there] + place_in(
                            nodes, firsts[there], firsts[there + 1] - firsts[there], node
                        )
                        if place >= firsts[there] and edges[place] != 0:
                            ratio[k] *= 1.0 / away if edges[place] > 0 else away
                bits = drawn(stream, j, 0)
                # The upper bits of the same draw are apart from its lower ones.
                if fraction_of(bits) < ratio[0] and (
                    fraction_of(bits >> np.uint64(32)) * ratio[1] <= 1.0
                ):
                    y = x
            if y != x:
                anew = True
                if changed[i] < 0:
                    changed[i] = j + 1
                walks[row, j + 1] = y
                x = y
