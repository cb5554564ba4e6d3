"""The way from an address to the nearest labelled one, and whose money it got, by haircut.

    share of a sender u in what x held until t  =  sum of u -> x until t / sum of all -> x until t
    exposure of x to a label                    =  sum over ways from x to it of the shares' product

Money is followed against its time: from x at t to its senders, from a sender at the newest of
its transfers to x to the senders before that, and so on. It stops at labelled addresses (what a
service pays out says nothing of who paid in) and at hubs (whose payers have nothing to do with
each other). Transfers below a minimum amount are dust, which anybody can send to anybody, and
are as if they had never been. Haircut: what an address holds is an even mix of all it got.

Where several ways meet at one address after the same number of hops, their money is followed
further from the newest of their instants on. `Flows` of direction "out" follow money forward,
to where it went, by the same arithmetic. Serves the reasons of row H1.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput, did_you_mean
from chopmark.features.hashing import mix, rehash, slot_of

MAX_DEPTH = 6
_LATEST = np.iinfo(np.int32).max
_MOST_NODES = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """Every transfer of one asset as flat rows: of node i they are at starts[i] + 0 .. counts[i].

    Unlike a `Graph`, transfers of one pair are not merged: only then a way can respect time.

    Attributes
    ----------
    starts : (n,) int64
    counts : (n,) int32
    neighbours : (m,) int32
        Who paid the node (direction "in"), or whom it paid ("out").
    amounts : (m,) float32
    times : (m,) int32
        Seconds since 2000-01-01.
    direction : "in" or "out"
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    amounts: NDArray[np.float32]
    times: NDArray[np.int32]
    direction: Literal["in", "out"]

    @classmethod
    def of_edges(
        cls,
        src: ArrayLike,
        dst: ArrayLike,
        amount: ArrayLike,
        time: ArrayLike,
        *,
        num_nodes: int | None = None,
        direction: Literal["in", "out"] = "in",
    ) -> Self:
        """The flows of some transfers: 12 bytes a transfer and 12 a node, in O(n + m).

        Parameters
        ----------
        src, dst : (m,) whole numbers >= 0
            Who paid and who was paid. A transfer to oneself is left out.
        amount : (m,) numbers >= 0
            All of one asset, as amounts of different ones cannot be added.
        time : (m,) whole numbers
            Seconds since 2000-01-01.
        num_nodes : int, optional
            All that there are; without it, up to the greatest id.

        Raises
        ------
        InvalidInput
            If lengths differ, an id or a time is out of range, or an amount is negative or NaN.
        """
        if direction not in ("in", "out"):
            raise InvalidInput(f'expected direction "in" or "out", got {direction!r}')
        src, dst, time = (_whole(name, x) for name, x in
                          (("src", src), ("dst", dst), ("time", time)))  # fmt: skip
        amount = np.asarray(amount, dtype=np.float64)
        lengths = {"src": src.shape, "dst": dst.shape, "amount": amount.shape, "time": time.shape}
        if len(set(lengths.values())) > 1 or src.ndim != 1:
            raise InvalidInput(f"expected flat arrays of one length, got shapes {lengths}")
        top = int(max(src.max(initial=-1), dst.max(initial=-1)))
        num_nodes = top + 1 if num_nodes is None else num_nodes
        if min(src.min(initial=0), dst.min(initial=0)) < 0 or not top < num_nodes <= _MOST_NODES:
            raise InvalidInput(
                f"expected ids from 0 to below num_nodes = {num_nodes:,} (at most "
                f"{_MOST_NODES:,}), got {min(src.min(initial=0), dst.min(initial=0))} to {top:,}"
            )
        if len(time) and (np.abs(time) >= _LATEST).any():
            raise InvalidInput(
                "expected times in seconds since 2000-01-01 that fit 32 bits, got up to "
                f"{np.abs(time).max():,}; are they microseconds?"
            )
        wrong = ~(np.isfinite(amount) & (amount >= 0))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InvalidInput(f"expected amounts >= 0, got {amount[row]} in row {row:,}")
        at, other = (dst, src) if direction == "in" else (src, dst)
        keep = src != dst
        counts = np.bincount(at[keep], minlength=num_nodes)
        starts = np.cumsum(counts) - counts
        num_kept = int(keep.sum())
        neighbours = np.empty(num_kept, dtype=np.int32)
        amounts = np.empty(num_kept, dtype=np.float32)
        times = np.empty(num_kept, dtype=np.int32)
        _place(at, other, amount, time, starts.copy(), neighbours, amounts, times)
        return cls(starts, counts.astype(np.int32), neighbours, amounts, times, direction)

    @property
    def num_nodes(self) -> int:
        """How many nodes there are, those without a transfer too."""
        return len(self.starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A way from an address to a labelled one.

    Attributes
    ----------
    nodes : tuple of int
        The address asked for first, the labelled one last.
    kind : str
        The label of the last.
    amounts, times, shares : tuple, one value a hop
        What the hop's pair moved in time, its newest transfer (seconds since 2000-01-01), and
        which share of all that moved at the nearer end this is.
    """

    nodes: tuple[int, ...]
    kind: str
    amounts: tuple[float, ...]
    times: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def hops(self) -> int:
        """How many transfers lie between the two ends; 0 if the address itself is labelled."""
        return len(self.shares)

    @property
    def share(self) -> float:
        """Which share of the address's money took this way: the product over the hops."""
        return float(np.prod(self.shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What was found from one address.

    Attributes
    ----------
    path : Path or None
        To the nearest address of a sought label: fewest hops, then most money.
    exposure : dict of str to float
        By label, the share of the address's money that came from (or went to) it.
    at_hubs : float
        The share that was lost sight of at hubs.
    given_up : float
        The share that was followed no further, for it was too little or the search too long.
        The true exposure lies between the one given and that plus this.
    """

    path: Path | None
    exposure: dict[str, float]
    at_hubs: float
    given_up: float


class Tracer:
    """Finds ways and exposures in some flows.

    Parameters
    ----------
    flows : Flows
    marked : (k,) whole numbers
        The labelled nodes.
    kinds : k texts
        Their labels, such as "mixer" or "exchange".
    depth : int from 1 to 6
        Hops at most.
    hub : int
        A node of more transfers than that is not followed further (the one asked for is).
    dust : float
        Transfers below that are ignored.
    min_share : float in [0, 1)
        A way is given up where less than that of the money is on it.
    max_reads : int
        Transfers read at most; rows that would go beyond are left out.

    Raises
    ------
    InvalidInput
        If a node is marked twice or unknown, or a number is out of range.

    Examples
    --------
    >>> flows = Flows.of_edges([0, 3, 1], [1, 1, 2], [3.0, 1.0, 2.0], [10, 20, 30])
    >>> trace = Tracer(flows, marked=[0], kinds=["mixer"]).trace(2)
    >>> trace.path.nodes, trace.exposure
    ((2, 1, 0), {'mixer': 0.75})
    """

    def __init__(
        self,
        flows: Flows,
        *,
        marked: ArrayLike,
        kinds: Collection[str],
        depth: int = MAX_DEPTH,
        hub: int = 1_000,
        dust: float = 0.0,
        min_share: float = 1e-3,
        max_reads: int = 200_000,
    ) -> None:
        nodes = _whole("marked", marked)
        if len(nodes) != len(kinds):
            raise InvalidInput(f"expected a kind per marked node, got {len(kinds)}, {len(nodes)}")
        if len(nodes) and not 0 <= nodes.min() <= nodes.max() < flows.num_nodes:
            raise InvalidInput(
                f"expected marked nodes from 0 to {flows.num_nodes - 1:,}, got {nodes.min():,} to "
                f"{nodes.max():,}; leave out addresses that have no id"
            )
        if len(np.unique(nodes)) != len(nodes):
            raise InvalidInput("expected each node to be marked once; give its strongest label")
        if not 1 <= depth <= MAX_DEPTH:
            raise InvalidInput(f"expected a depth from 1 to {MAX_DEPTH}, got {depth}")
        if not (hub >= 1 and dust >= 0 and 0 <= min_share < 1 and max_reads >= 1):
            raise InvalidInput(
                "expected hub >= 1, dust >= 0, 0 <= min_share < 1 and max_reads >= 1, got "
                f"{hub}, {dust}, {min_share} and {max_reads}"
            )
        self.flows, self.depth, self.hub, self.dust = flows, depth, hub, dust
        self.min_share, self.max_reads = min_share, max_reads
        self.kinds = tuple(sorted(set(kinds)))
        place = {kind: i for i, kind in enumerate(self.kinds)}
        self._marks = np.zeros((1 << max(3, (2 * len(nodes)).bit_length()), 2), dtype=np.int64)
        _mark(self._marks, nodes, np.array([place[kind] for kind in kinds], dtype=np.int64))

    def trace(
        self, node: int, *, until: int | None = None, sought: Collection[str] | None = None
    ) -> Trace:
        """What leads from a node to labels; by the defaults in well under 1 ms.

        Parameters
        ----------
        node : int
        until : int, optional
            Only transfers up to this second since 2000-01-01 (direction "out": from it on).
        sought : texts, optional
            Labels to which a path is asked for, without it all; the others end ways all the same.

        Raises
        ------
        InvalidInput
            If the node or a sought label is unknown.
        """
        flows = self.flows
        if not 0 <= node < flows.num_nodes:
            raise InvalidInput(f"expected a node from 0 to {flows.num_nodes - 1:,}, got {node:,}")
        for kind in sought or ():
            if kind not in self.kinds:
                raise InvalidInput(
                    f"expected labels that are marked, got `{kind}`{did_you_mean(kind, self.kinds)}"
                )
        wanted = np.array([sought is None or kind in sought for kind in self.kinds], dtype=np.bool_)
        # Forward in time is backward in time with the signs turned.
        sign = 1 if flows.direction == "in" else -1
        bound = _LATEST if until is None else sign * int(np.clip(until, -_LATEST, _LATEST))
        found, exposure, at_hubs, given_up = _search(
            flows.starts, flows.counts, flows.neighbours, flows.amounts, flows.times, sign,
            self._marks, wanted, node, bound, self.depth, self.hub, np.float32(self.dust),
            self.min_share, self.max_reads,
        )  # fmt: skip
        return Trace(
            path=self._path(found, bound, sign) if len(found) else None,
            exposure={
                kind: float(share)
                for kind, share in zip(self.kinds, exposure, strict=True)
                if share > 0
            },
            at_hubs=float(at_hubs),
            given_up=float(given_up),
        )

    def _path(self, nodes: NDArray[np.int64], bound: int, sign: int) -> Path:
        """The figures of a way, read again from its rows."""
        flows = self.flows
        amounts, times, shares = [], [], []
        for near, far in zip(nodes[:-1].tolist(), nodes[1:].tolist(), strict=True):
            row = slice(flows.starts[near], flows.starts[near] + flows.counts[near])
            moved = flows.amounts[row]
            when = sign * flows.times[row].astype(np.int64)
            in_time = (when <= bound) & (moved >= np.float32(self.dust)) & (moved > 0)
            of_pair = in_time & (flows.neighbours[row] == far)
            amounts.append(float(moved[of_pair].sum(dtype=np.float64)))
            shares.append(amounts[-1] / float(moved[in_time].sum(dtype=np.float64)))
            bound = int(when[of_pair].max())
            times.append(sign * bound)
        kind = self.kinds[int(_kind_of(self._marks, nodes[-1]))]
        return Path(
            nodes=tuple(nodes.tolist()), kind=kind, amounts=tuple(amounts), times=tuple(times),
            shares=tuple(shares),
        )  # fmt: skip


def _whole(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise InvalidInput(f"expected whole numbers in `{name}`, got {array.dtype}")
    return array.astype(np.int64, copy=False)


@njit(cache=True, error_model="numpy")
def _place(at, other, amount, time, ends, neighbours, amounts, times):
    """Counting sort: the transfers of a node stay in the order in which they came."""
    for i in range(at.shape[0]):
        if at[i] != other[i]:
            slot = ends[at[i]]
            ends[at[i]] += 1
            neighbours[slot] = other[i]
            amounts[slot] = amount[i]
            times[slot] = time[i]


@njit(cache=True, error_model="numpy", inline="always")
def _key(level, node):
    """Of a node at a level: a bijection of the two, never 0."""
    return np.int64(mix((np.uint64(level + 1) << np.uint64(40)) + np.uint64(node)))


@njit(cache=True, error_model="numpy")
def _mark(table, nodes, kinds):
    for i in range(nodes.shape[0]):
        slot = slot_of(table, _key(0, nodes[i]))
        table[slot, 0] = _key(0, nodes[i])
        table[slot, 1] = kinds[i]


@njit(cache=True, error_model="numpy")
def _kind_of(table, node):
    """The number of a node's label, -1 without."""
    slot = slot_of(table, _key(0, node))
    return table[slot, 1] if table[slot, 0] != 0 else np.int64(-1)


@njit(cache=True, error_model="numpy")
def _search(
    starts, counts, neighbours, amounts, times, sign, marks, wanted, node, bound, depth, hub, dust,
    min_share, max_reads,
):  # fmt: skip
    """Level by level: each node of a level with the newest bound and the sum of the shares.

    The newest bound dominates: all that an older one reaches, it reaches too. So the first
    level that has a sought label is the exact distance.
    """
    nodes = np.empty(64, dtype=np.int64)
    bounds = np.empty(64, dtype=np.int64)
    parents = np.empty(64, dtype=np.int64)
    shares = np.empty(64, dtype=np.float64)
    table = np.zeros((256, 2), dtype=np.int64)
    exposure = np.zeros(wanted.shape[0])
    at_hubs, given_up, reads, best = 0.0, 0.0, 0, -1
    nodes[0], bounds[0], parents[0], shares[0] = node, bound, -1, 1.0
    begin, end, size = 0, 1, 1
    for level in range(depth + 1):
        nearest = best < 0
        for i in range(begin, end):
            kind = _kind_of(marks, nodes[i])
            if kind >= 0:
                exposure[kind] += shares[i]
                if nearest and wanted[kind] and (best < 0 or shares[i] > shares[best]):
                    best = i
                continue
            if level == depth:
                continue
            row, count = starts[nodes[i]], counts[nodes[i]]
            if level > 0 and count > hub:
                at_hubs += shares[i]
                continue
            if shares[i] < min_share or (level > 0 and reads + count > max_reads):
                given_up += shares[i]
                continue
            reads += count
            total = 0.0
            for s in range(row, row + count):
                if sign * times[s] <= bounds[i] and amounts[s] >= dust:
                    total += amounts[s]
            for s in range(row, row + count):
                when = sign * np.int64(times[s])
                # Nothing moved is no way either, whatever counts as dust.
                if when > bounds[i] or amounts[s] < dust or amounts[s] <= 0.0:
                    continue
                key = _key(level + 1, neighbours[s])
                slot = slot_of(table, key)
                share = shares[i] * (amounts[s] / total)
                if table[slot, 0] != 0:
                    j = table[slot, 1]
                    shares[j] += share
                    if when > bounds[j]:
                        bounds[j], parents[j] = when, i
                    continue
                if size == nodes.shape[0]:
                    nodes, bounds = _doubled(nodes), _doubled(bounds)
                    parents, shares = _doubled(parents), _doubled(shares)
                nodes[size], bounds[size], parents[size], shares[size] = (
                    neighbours[s],
                    when,
                    i,
                    share,
                )
                table[slot, 0], table[slot, 1] = key, size
                size += 1
                if 2 * size > table.shape[0]:
                    larger = np.zeros((4 * table.shape[0], 2), dtype=np.int64)
                    rehash(table, larger)
                    table = larger
        begin, end = end, size
    way = np.empty(depth + 1, dtype=np.int64)
    hops = 0
    while best >= 0:
        way[hops] = nodes[best]
        hops += 1
        best = parents[best]
    return way[:hops][::-1].copy(), exposure, at_hubs, given_up


@njit(cache=True, error_model="numpy", inline="always")
def _doubled(values):
    larger = np.empty(2 * values.shape[0], dtype=values.dtype)
    larger[: values.shape[0]] = values
    return larger
