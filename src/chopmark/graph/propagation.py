"""What neighbours say: columns and vectors that spread along the edges, with no training.

    propagate    x_k(i) = sum over j of w(i, j) x_(k-1)(j) / sum over j of w(i, j),   x_0 = values
    fill         a value that is missing is the mean of the neighbours' values, hop by hop

w is the weight that the graph was made with (amount, log-amount, count, or 1), times
2^(-age / half-life) where a half-life is asked for. NaN is "not known": it counts in no mean, and
where nothing is known the answer is NaN. Direction is the graph's: one of outgoing edges gives
means of receivers, one of incoming edges means of senders.

Columns go by in blocks, so memory is bounded by what is given, what comes out, 4 bytes a slot, and
two blocks of columns. A row depends on its own neighbours alone: threads and blocks change no bit.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import InvalidInput
from chopmark.graph.adjacency import ERA, Graph


def propagate(
    graph: Graph,
    values: NDArray[Any],
    *,
    hops: int = 2,
    as_of: datetime | None = None,
    half_life_days: float | None = None,
    block: int = 16,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Weighted means of the neighbours' values, of the neighbours' means, and so on.

    Parameters
    ----------
    graph : Graph
        Of one direction or of both.
    values : (m, c) floats, m <= n
        Row i is node i's; nodes m .. n - 1 are not known, nor are values that are NaN.
    hops : int, 1 <= hops <= 127
    as_of : datetime with a time zone, optional
        Pairs whose newest transfer is later are left out. The graph must have times.
    half_life_days : float, > 0, optional
        A pair counts half for each so many days before `as_of`, which must be given. Not for a
        graph that was made with a half-life.
    block : int, >= 1
        Columns that are worked on at once.
    threads : int, >= 1

    Returns
    -------
    (n, hops, c) float32
        [i, k - 1] is what comes to node i from k hops away; NaN where nothing does.

    Raises
    ------
    InvalidInput
        If a shape, an argument or a time cannot be.

    Complexity: O(hops slots c).

    Examples
    --------
    >>> paid = Graph.of_edges([0, 0], [1, 2], [3.0, 1.0], directed="out", weight="amount")
    >>> propagate(paid, np.array([[0.0], [8.0], [4.0]]), hops=1)[0].tolist()
    [[7.0]]
    """
    given = _checked_values(graph, values, hops, block, threads)
    weights = slot_weights(graph, as_of=as_of, half_life_days=half_life_days)
    num, width = graph.num_nodes, given.shape[1]
    out = np.empty((num, hops, width), dtype=np.float32)
    for begin in range(0, width, block):
        columns = slice(begin, min(begin + block, width))
        now = _taken(given, columns, num)
        for hop in range(hops):
            now = _one_hop(graph, weights, now, threads, keep=False)
            out[:, hop, columns] = now
    return out


def fill(
    graph: Graph,
    values: NDArray[Any],
    *,
    hops: int = 2,
    as_of: datetime | None = None,
    half_life_days: float | None = None,
    block: int = 16,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Give each value that is NaN the weighted mean of its neighbours' values, hop by hop.

    So addresses that were not trained get a vector from those that were: rows that are known stay
    as they are, and each hop fills what has a neighbour that was known after the hop before.

    Parameters
    ----------
    graph, values, hops, as_of, half_life_days, block, threads
        As in `propagate`.

    Returns
    -------
    filled : (n, c) float32
        NaN where nothing known is within `hops`.
    distance : (n,) int8
        The hop after which the row held no NaN, 0 for what was known; -1 if it still holds one.

    Raises
    ------
    InvalidInput
        If a shape, an argument or a time cannot be.

    Examples
    --------
    >>> filled, distance = fill(Graph.of_edges([0, 1, 2], [1, 2, 3]), np.array([[1.0, 5.0]]))
    >>> filled[:, 1].tolist(), distance.tolist()
    ([5.0, 5.0, 5.0, nan], [0, 1, 2, -1])
    """
    given = _checked_values(graph, values, hops, block, threads)
    weights = slot_weights(graph, as_of=as_of, half_life_days=half_life_days)
    num, width = graph.num_nodes, given.shape[1]
    out = np.empty((num, width), dtype=np.float32)
    missing = np.zeros((num, hops + 1), dtype=np.bool_)
    for begin in range(0, width, block):
        columns = slice(begin, min(begin + block, width))
        now = _taken(given, columns, num)
        missing[:, 0] |= np.isnan(now).any(axis=1)
        for hop in range(1, hops + 1):
            now = _one_hop(graph, weights, now, threads, keep=True)
            missing[:, hop] |= np.isnan(now).any(axis=1)
        out[:, columns] = now
    distance = np.where(missing[:, -1], -1, missing.argmin(axis=1)).astype(np.int8)
    return out, distance


def _checked_values(
    graph: Graph, values: NDArray[Any], hops: int, block: int, threads: int
) -> NDArray[Any]:
    given = np.asarray(values)
    num = graph.num_nodes
    if given.ndim != 2 or given.dtype.kind not in "fiu" or len(given) > num:
        raise InvalidInput(
            f"values to spread: expected numbers of shape (at most {num:,} nodes, columns); got "
            f"{given.dtype} of shape {given.shape}"
        )
    if np.isinf(given).any():
        row, column = np.argwhere(np.isinf(given))[0]
        raise InvalidInput(
            f"values to spread: expected finite numbers or NaN; got {given[row, column]} in row "
            f"{row}, column {column}"
        )
    if not 1 <= hops <= 127 or block < 1 or threads < 1:
        raise InvalidInput(
            "expected 1 <= hops <= 127, block >= 1, threads >= 1; got "
            f"hops={hops!r}, block={block!r}, threads={threads!r}"
        )
    return given


def slot_weights(
    graph: Graph, *, as_of: datetime | None = None, half_life_days: float | None = None
) -> NDArray[np.float32]:
    """(pool,) the weight of each slot, up to a factor of its row; () where all weigh the same.

    Parameters
    ----------
    graph, as_of, half_life_days
        As in `propagate`. Without `as_of`, rows sum to 1.

    Raises
    ------
    InvalidInput
        If an argument cannot be, or the graph does not hold the times that are needed.
    """
    times = np.empty(0, dtype=np.int32)
    now, rate = 0.0, 0.0
    if half_life_days is not None:
        if as_of is None or not 0 < half_life_days < np.inf:
            raise InvalidInput(
                "expected half_life_days > 0, together with as_of, from which ages are counted; "
                f"got half_life_days={half_life_days!r}, as_of={as_of!r}"
            )
        if graph.half_life_days is not None:
            raise InvalidInput(
                f"this graph's weights halve every {graph.half_life_days:g} days already; leave "
                "half_life_days out, or make the graph without one"
            )
        rate = 1 / (half_life_days * 86_400)
    if as_of is not None:
        if as_of.tzinfo is None:
            raise InvalidInput(f"as_of: expected an instant with a time zone; got {as_of!r}")
        if graph.times is None:
            raise InvalidInput(
                "as_of needs the times of pairs, which this graph does not hold; make it with "
                "keep_times=True"
            )
        times, now = np.asarray(graph.times), as_of.timestamp() - ERA
    if graph.threshold is None and as_of is None:
        return np.empty(0, dtype=np.float32)
    weights = np.zeros(len(graph.neighbours), dtype=np.float32)
    _weigh(
        np.asarray(graph.starts), np.asarray(graph.counts),
        np.empty(0, dtype=np.float32) if graph.threshold is None else np.asarray(graph.threshold),
        np.empty(0, dtype=np.int32) if graph.alias is None else np.asarray(graph.alias),
        times, now, rate, weights,
    )  # fmt: skip
    return weights


def _taken(given: NDArray[Any], columns: slice, num: int) -> NDArray[np.float32]:
    """Some columns of all nodes; NaN where none are given."""
    now = np.full((num, columns.stop - columns.start), np.nan, dtype=np.float32)
    now[: len(given)] = given[:, columns]
    return now


def _one_hop(
    graph: Graph,
    weights: NDArray[np.float32],
    now: NDArray[np.float32],
    threads: int,
    *,
    keep: bool,
) -> NDArray[np.float32]:
    out = np.empty_like(now)
    starts, counts = np.asarray(graph.starts), np.asarray(graph.counts)
    neighbours = np.asarray(graph.neighbours)
    ends = [len(now) * part // threads for part in range(threads + 1)]

    def run(part: int) -> None:
        begin, end = ends[part], ends[part + 1]
        _means(starts, counts, neighbours, weights, now, out, begin, end, keep)

    if threads == 1:
        run(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(threads)))
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _means(starts, counts, neighbours, weights, values, out, begin, end, keep):
    """Weighted means over the neighbours of rows begin .. end - 1; own values first if `keep`."""
    width = values.shape[1]
    total = np.empty(width, np.float64)
    mass = np.empty(width, np.float64)
    for i in range(begin, end):
        known = keep
        for c in range(width):
            total[c] = 0.0
            mass[c] = 0.0
            known = known and not np.isnan(values[i, c])
        if not known:
            for slot in range(starts[i], starts[i] + counts[i]):
                weight = np.float64(weights[slot]) if weights.shape[0] > 0 else 1.0
                row = values[neighbours[slot]]
                for c in range(width):
                    there = not np.isnan(row[c])
                    total[c] += weight * row[c] if there else 0.0
                    mass[c] += weight if there else 0.0
        for c in range(width):
            if keep and not np.isnan(values[i, c]):
                out[i, c] = values[i, c]
            else:
                out[i, c] = total[c] / mass[c] if mass[c] > 0.0 else np.nan


@njit(cache=True, error_model="numpy")
def _weigh(starts, counts, threshold, alias, times, now, rate, weights):
    """Weights of slots from the tables of rows and from ages; what no row reaches stays 0."""
    for i in range(starts.shape[0]):
        begin, end = starts[i], starts[i] + counts[i]
        share = 1.0 / max(end - begin, 1)
        for slot in range(begin, end):
            if threshold.shape[0] == 0:
                weights[slot] = share
            elif alias.shape[0] == 0:  # running shares
                before = threshold[slot - 1] if slot > begin else np.float32(0.0)
                weights[slot] = threshold[slot] - before
            else:
                weights[slot] += threshold[slot] * share
                weights[begin + alias[slot]] += (1.0 - threshold[slot]) * share
        if times.shape[0] == 0:
            continue
        # Ages count from the row's newest pair: means need no common factor, and a row of old
        # pairs alone must not vanish in float32.
        newest = -np.inf
        for slot in range(begin, end):
            if times[slot] <= now and times[slot] > newest:
                newest = np.float64(times[slot])
        for slot in range(begin, end):
            if times[slot] > now:
                weights[slot] = 0.0
            else:
                weights[slot] *= 2.0 ** ((times[slot] - newest) * rate)
