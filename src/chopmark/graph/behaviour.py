"""Behaviour: what an address did so far, in numbers, kept up to date row by row.

In come transfers as columns (who, to whom, how much, when), in the order of time; out come
amounts, counts, counterparties, rhythm, life span and balance flow of every address, paid out
and received, and the means of these over those it paid and those who paid it, one and two hops
away, weighted by log(1 + amount of the pair).

There is one execution: a kernel that takes one row after the other, whether all of history comes
at once (`Behaviour.of`) or a block at a time (`Behaviour.update`), so the two agree bit for bit
wherever the stream is cut. A row costs O(1); reading an address costs the pairs around it, at
most `MOST` of the newest ones on each side and hop: a hot wallet has millions.

Nothing here is a date: all times are differences within an address's own life. The times since
its first and last transfer are left out unless asked for (``ages=True``), since in a table with
one ``now`` for all rows they are dates in disguise.

`transferevents` declares the plain ones among them for the catalog of an application. Serves row
H6.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import json
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput, StoreError
from chopmark.features.hashing import mix
from chopmark.graph.rowfiles import Kept, kept_of, open_rows, write_rows
from chopmark.histories.storage import whole

MOST = 64
"""Pairs of an address that a hop reads on each side, the newest; a guard against hubs."""

_SIDES = ("out", "in")
_PER_SIDE = (
    "count", "sum", "mean", "min", "max", "std", "last", "log_std", "distinct", "repeat_share",
    "life_s", "gap_mean_s", "gap_std_s", "short_gap_share", "burst_max", "hour_spread",
)  # fmt: skip
_BOTH = (
    "flow_balance", "count_balance", "pair_balance", "mutual_share", "forwarded_share_1h",
    "forwarded_share_1d", "delay_mean_s", "first_out_after_first_in_s",
    "last_out_after_last_in_s", "life_s",
)  # fmt: skip
_AGES = ("seconds_since_first", "seconds_since_last")
_HOPS = ("paid", "payers")

# Words of state of one side of an address, and of the address as a whole behind its two sides.
_COUNT, _SUM, _MIN, _MAX, _LAST, _MEAN, _M2, _LOG, _LOG2 = range(9)
_DISTINCT, _REPEAT, _FIRST_AT, _LAST_AT, _GAP2, _SHORT, _RUN, _BURST, _COS, _SIN = range(9, 19)
_SIDE = 19
_FRESH_1H, _FRESH_1D, _GONE_1H, _GONE_1D, _DELAY, _DELAYS, _MUTUAL = range(38, 45)
_WORDS = 45
_FORMAT = 2
_PIECE = 1 << 18
_HOUR = 3600.0
_DAY = 86400.0


class Behaviour:
    """Running behaviour of addresses 0 to n - 1.

    Attributes
    ----------
    num_nodes : int
    num_pairs : int
        Different (sender, receiver) so far.
    num_rows : int
        Transfers taken in.
    latest : float
        Seconds since 1970 of the newest transfer; -inf before the first.

    Notes
    -----
    Nothing is taken back: where a chain re-organised its blocks, `open` a state that was saved
    before them and update it, or build anew. One thread at a time. Memory: 384 bytes for an
    address, and 56 to 100 for a pair.

    Examples
    --------
    >>> behaviour = Behaviour()
    >>> behaviour.update([0, 1], [1, 2], [5.0, 4.0], [0.0, 600.0]).tolist()
    [0, 1, 2]
    >>> names, values = behaviour.features([1], hops=0)
    >>> float(values[0, names.index("forwarded_share_1h")])
    0.800000011920929
    """

    def __init__(self, num_nodes: int = 0) -> None:
        self.num_nodes = 0
        self.num_pairs = 0
        self.num_rows = 0
        self.latest = -np.inf
        self._state = np.zeros((0, _WORDS))
        self._heads = np.zeros((0, 2), dtype=np.int64)
        self._place = np.zeros(0, dtype=np.int64)
        # Of a pair: its two ends, and the next older pair of its sender and of its receiver.
        self._ends = np.zeros((64, 2), dtype=np.int32)
        self._older = np.zeros((64, 2), dtype=np.int64)
        self._paid = np.zeros(64)
        self._table = np.zeros((128, 2), dtype=np.int64)
        self._kept: dict[str, Kept] = {}
        self._indexed = 0  # pairs that are in the table of the file
        self._grow_nodes(num_nodes)

    @classmethod
    def of(
        cls,
        src: ArrayLike,
        dst: ArrayLike,
        amount: ArrayLike,
        time: ArrayLike,
        *,
        now: float | None = None,
        num_nodes: int = 0,
    ) -> "Behaviour":
        """The behaviour of a whole history, in O(rows).

        Parameters
        ----------
        src, dst : (m,) int
            Ids of senders and receivers, >= 0.
        amount : (m,) float, finite, >= 0
            Whole coins.
        time : (m,) float
            Seconds since 1970, in any order; rows of the same time keep their order.
        now : float, optional
            Rows after this instant are left out: what was known then.
        num_nodes : int
            At least as many addresses, also if they never moved anything.

        Raises
        ------
        InvalidInput
            If the columns differ in length, or hold an id or an amount that cannot be.
        """
        src, dst, amount, time = _columns(src, dst, amount, time)
        order = np.argsort(time, kind="stable")
        if now is not None:
            order = order[time[order] <= now]
        behaviour = cls(num_nodes)
        behaviour.update(src[order], dst[order], amount[order], time[order])
        return behaviour

    def update(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        amount: ArrayLike,
        time: ArrayLike,
        *,
        num_nodes: int = 0,
    ) -> NDArray[np.int64]:
        """Take in new rows; the ids that they touched, sorted. All rows or, on an error, none.

        Parameters
        ----------
        src, dst, amount, time : (m,)
            As for `of`, but in the order of time, and none older than `latest`.
        num_nodes : int
            As for `of`.

        Raises
        ------
        InvalidInput
            Also if a row is older than one already taken in: the past cannot be changed, build
            anew from the ledger with `of`.
        """
        src, dst, amount, time = _columns(src, dst, amount, time)
        if len(src) == 0:
            self._grow_nodes(num_nodes)
            return np.zeros(0, dtype=np.int64)
        back = np.flatnonzero(np.diff(time, prepend=self.latest) < 0)
        if len(back):
            row = int(back[0])
            raise InvalidInput(
                f"expected rows in the order of time, none before {self.latest}; row {row} is at "
                f"{time[row]}; sort them, or build anew with `Behaviour.of`"
            )
        self._grow_nodes(max(int(src.max()) + 1, int(dst.max()) + 1, num_nodes))
        # In pieces, as most rows are of known pairs and need no room of their own.
        for begin in range(0, len(src), _PIECE):
            piece = slice(begin, begin + _PIECE)
            self._grow_pairs(self.num_pairs + len(src[piece]))
            self.num_pairs = _advance(
                self._state, self._heads, self._ends, self._older, self._paid, self._table,
                self.num_pairs, src[piece], dst[piece], amount[piece], time[piece],
            )  # fmt: skip
        self.num_rows += len(src)
        self.latest = float(time[-1])
        touched = np.unique(np.concatenate([src, dst])).astype(np.int64)
        if self._kept:
            pairs = _pairs_of(self._table, src, dst)
            for name, rows in (("state", touched), ("heads", touched), ("paid", pairs)):
                self._kept[name] = self._kept[name].changed(rows)
        return touched

    def features(
        self,
        nodes: ArrayLike | None = None,
        *,
        hops: int = 2,
        ages: bool = False,
        now: float | None = None,
        most: int = MOST,
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Names, and the features of some addresses.

        Parameters
        ----------
        nodes : (k,) int, optional
            Ids; all addresses if not given. One that never moved anything has counts and sums
            of 0; what does not exist is nan.
        hops : {0, 1, 2}
            How far to look: 42 features alone, three times as many with the means over those
            paid and over payers, five times with those paid by the paid and payers of payers.
            The means are of sign(x) log(1 + abs(x)).
        ages : bool
            Also seconds from the first and the last transfer until `now`, paid and received.
        now : float, optional
            Seconds since 1970, not before `latest`, which it is if not given.
        most : int, > 0
            Newest pairs of an address that a hop reads on each side.

        Returns
        -------
        names : list of str, length d
        values : (k, d) float32

        Raises
        ------
        InvalidInput
            If an id is unknown, or `now` lies before the newest row: this state has no memory
            of earlier ones, build one with `of`.
        """
        if hops not in (0, 1, 2):
            raise InvalidInput(f"expected hops of 0, 1 or 2, got {hops}")
        if most < 1:
            raise InvalidInput(f"expected most >= 1, got {most}")
        moment = self.latest if now is None else float(now)
        if moment < self.latest:
            raise InvalidInput(
                f"expected now >= {self.latest}, the newest transfer, got {now}; for an earlier "
                "instant build one with `Behaviour.of(..., now=...)`"
            )
        wanted = self._checked(nodes)
        own = _base(self._state, wanted, moment, ages)
        names = feature_names(hops=hops, ages=ages)
        values = np.empty((len(wanted), len(names)), dtype=np.float32)
        values[:, : own.shape[1]] = own
        if hops == 0:
            return names, values
        lists = (self._heads, self._ends, self._older)
        place = self._place
        reach, num_inner = _reach(*lists, wanted, hops, most, place)
        try:
            # Ages stay with the address itself.
            near = _base(self._state, reach, moment, False)
            near = np.sign(near) * np.log1p(np.abs(near))
            rows, width = place[wanted], near.shape[1]
            column = own.shape[1]
            means = []
            for side in (0, 1):
                mean = np.empty((num_inner, width))
                _means(*lists, self._paid, reach[:num_inner], place, near, side, most, mean)
                values[:, column : column + width] = mean[rows]
                column += width
                means.append(mean)
            for side in (0, 1) if hops == 2 else ():
                mean = np.empty((num_inner, width))
                own_places = reach[: int(rows.max(initial=-1)) + 1]
                _means(*lists, self._paid, own_places, place, means[side], side, most, mean)
                values[:, column : column + width] = mean[rows]
                column += width
        finally:
            place[reach] = -1
        return names, values

    def save(self, folder: str | Path) -> None:
        """Write the whole state to a new folder: it is there complete, or not at all.

        Of a state that was opened and updated only what changed is written; the rest is the file
        that it was read from, under a second name.

        Raises
        ------
        StoreError
            If something of that name is there already, or the disk fails.
        """
        appended = ("ends", "older")
        try:
            with whole(folder) as made:
                files = {
                    name: write_rows(
                        made, name, array, self._kept.get(name), appended=name in appended
                    )
                    for name, array in self._arrays().items()
                }
                # What came since is entered when it is opened: not a row of it is written.
                is_new = files["table"]["patch"] is None
                indexed = self.num_pairs if is_new else self._indexed
                about = {
                    "format": _FORMAT,
                    "num_rows": self.num_rows,
                    "latest": self.latest if self.num_rows else None,
                    "indexed": indexed,
                    "files": files,
                }
                (made / "about.json").write_text(json.dumps(about, indent=1))
        except OSError as error:
            raise StoreError(f"the behaviour cannot be written to `{folder}`: {error}") from error
        self._indexed = indexed
        self._kept = {
            name: kept_of(Path(folder), name, facts, self._kept.get(name))
            for name, facts in files.items()
        }

    @classmethod
    def open(cls, folder: str | Path, *, thorough: bool = False) -> "Behaviour":
        """The state that was saved in a folder, ready to go on; mapped, not read.

        Parameters
        ----------
        thorough
            Also read all and compare it with the checksums.

        Raises
        ------
        StoreError
            If it is not there, damaged, or of another version.
        """
        place = Path(folder)
        try:
            about = json.loads((place / "about.json").read_text())
            files, num_rows, latest = about["files"], int(about["num_rows"]), about["latest"]
            if about["format"] != _FORMAT:
                raise StoreError(
                    f"expected behaviour of format {_FORMAT} in `{place}`, got "
                    f"{about['format']}; build it anew with `Behaviour.of`"
                )
            indexed = int(about["indexed"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"expected a folder that `Behaviour.save` wrote, got `{place}`: {error}"
            ) from error
        behaviour = cls()
        arrays: dict[str, Any] = {}
        try:
            for name, array in behaviour._arrays().items():
                arrays[name], behaviour._kept[name] = open_rows(
                    place, name, files.get(name), array.dtype, *array.shape[1:], thorough=thorough
                )
        except StoreError as error:
            raise _damaged(place, str(error)) from error
        num_nodes, num_pairs = len(arrays["state"]), len(arrays["ends"])
        size = len(arrays["table"])
        if (
            len(arrays["heads"]) != num_nodes
            or not len(arrays["older"]) == len(arrays["paid"]) == num_pairs
            or size & (size - 1)
            or not 0 <= indexed <= num_pairs <= size
        ):
            raise _damaged(place, "its files are of different lengths")
        # With the room behind them.
        behaviour._state, behaviour._heads = arrays["state"].base, arrays["heads"].base
        behaviour._ends, behaviour._older = arrays["ends"].base, arrays["older"].base
        behaviour._paid, behaviour._table = arrays["paid"].base, arrays["table"]
        behaviour.num_nodes, behaviour.num_pairs = num_nodes, num_pairs
        behaviour._place = np.full(len(behaviour._state), -1, dtype=np.int64)
        _index(behaviour._table, behaviour._ends, indexed, num_pairs)
        behaviour._indexed, behaviour.num_rows = indexed, num_rows
        behaviour.latest = -np.inf if latest is None else float(latest)
        return behaviour

    def _arrays(self) -> dict[str, NDArray[Any]]:
        nodes, pairs = slice(0, self.num_nodes), slice(0, self.num_pairs)
        return {
            "state": self._state[nodes], "heads": self._heads[nodes], "ends": self._ends[pairs],
            "older": self._older[pairs], "paid": self._paid[pairs], "table": self._table,
        }  # fmt: skip

    def _checked(self, nodes: ArrayLike | None) -> NDArray[np.int64]:
        if nodes is None:
            return np.arange(self.num_nodes, dtype=np.int64)
        wanted = np.asarray(nodes)
        if wanted.size == 0:
            return np.zeros(0, dtype=np.int64)
        if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
            raise InvalidInput(f"expected a list of ids, got {wanted.dtype} of {wanted.shape}")
        if wanted.min() < 0 or wanted.max() >= self.num_nodes:
            bad = int(wanted[(wanted < 0) | (wanted >= self.num_nodes)][0])
            raise InvalidInput(
                f"expected ids from 0 to {self.num_nodes - 1}, got {bad}; an address of which "
                "nothing is known yet has no row here"
            )
        return wanted.astype(np.int64)

    def _grow_nodes(self, count: int) -> None:
        if count <= self.num_nodes:
            return
        old = self.num_nodes
        if count > min(len(self._state), len(self._heads)):
            room = max(count, len(self._state) * 3 // 2)
            self._state = _enlarged(self._state, old, room)
            self._heads = _enlarged(self._heads, old, room)
        if len(self._place) < count:
            # Scratch of the hops: all -1 between calls, so that none costs the whole graph.
            self._place = np.full(len(self._state), -1, dtype=np.int64)
        self._state[old:count] = 0.0
        self._heads[old:count] = -1
        self.num_nodes = count

    def _grow_pairs(self, count: int) -> None:
        if count > min(len(self._ends), len(self._older), len(self._paid)):
            room = max(count, len(self._paid) * 3 // 2)
            self._ends = _enlarged(self._ends, self.num_pairs, room)
            self._older = _enlarged(self._older, self.num_pairs, room)
            self._paid = _enlarged(self._paid, self.num_pairs, room)
        size = len(self._table)
        while 3 * count > 2 * size:
            size *= 2
        if size > len(self._table):
            self._table = np.zeros((size, 2), dtype=np.int64)
            self._kept.pop("table", None)
            _index(self._table, self._ends, 0, self.num_pairs)


def _enlarged(array: NDArray[Any], used: int, room: int) -> NDArray[Any]:
    larger = np.zeros((room, *array.shape[1:]), dtype=array.dtype)
    larger[:used] = array[:used]
    return larger


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(
        f"the behaviour in `{folder}` is damaged: {what}; restore it, or build it anew with "
        "`Behaviour.of`"
    )


def feature_names(*, hops: int = 2, ages: bool = False) -> list[str]:
    """Names of the columns of `Behaviour.features`, in its order.

    Examples
    --------
    >>> len(feature_names(hops=0)), len(feature_names(hops=2))
    (42, 210)
    """
    own = [f"{side}_{name}" for side in _SIDES for name in _PER_SIDE]
    own += _BOTH
    aged = [f"{side}_{name}" for side in _SIDES for name in _AGES] if ages else []
    names = [*own, *aged]
    if hops >= 1:
        names += [f"{hop}_{name}" for hop in _HOPS for name in own]
    if hops >= 2:
        names += [f"{hop}_of_{hop}_{name}" for hop in _HOPS for name in own]
    return names


def _columns(
    src: ArrayLike, dst: ArrayLike, amount: ArrayLike, time: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Checked columns of one length."""
    ids = []
    for name, column in (("src", src), ("dst", dst)):
        array = np.asarray(column)
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise InvalidInput(f"expected whole numbers in `{name}`, got {array.dtype}")
        ids.append(array.astype(np.int64))
    coins = np.asarray(amount, dtype=np.float64)
    seconds = np.asarray(time, dtype=np.float64)
    lengths = {len(column) for column in (*ids, coins, seconds)}
    if len(lengths) > 1:
        raise InvalidInput(f"expected columns of one length, got {sorted(lengths)}")
    top = np.iinfo(np.int32).max
    for name, array in zip(("src", "dst"), ids, strict=True):
        bad = np.flatnonzero((array < 0) | (array >= top))
        if len(bad):
            raise InvalidInput(
                f"expected ids from 0 to {top - 1} in `{name}`, got {array[bad[0]]} in row {bad[0]}"
            )
    bad = np.flatnonzero(~(coins >= 0) | ~np.isfinite(coins))
    if len(bad):
        raise InvalidInput(
            f"expected finite amounts >= 0, got {coins[bad[0]]} in row {bad[0]}; leave it out"
        )
    bad = np.flatnonzero(~np.isfinite(seconds))
    if len(bad):
        raise InvalidInput(f"expected finite times, got {seconds[bad[0]]} in row {bad[0]}")
    return ids[0], ids[1], coins, seconds


@njit(cache=True, error_model="numpy", inline="always")
def _slot(table, key):
    """Where the key of a pair is, or would be; `mix` is a bijection, so two never share one."""
    mask = table.shape[0] - 1
    slot = np.int64(mix(key)) & mask
    while table[slot, 0] != 0 and table[slot, 0] != key:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, error_model="numpy")
def _index(table, ends, first, last):
    """Enter pairs that a table has not yet: key (never 0) and number."""
    for pair in range(first, last):
        key = (np.int64(ends[pair, 0]) << 32) + np.int64(ends[pair, 1]) + 1
        slot = _slot(table, key)
        table[slot, 0] = key
        table[slot, 1] = pair


@njit(cache=True, error_model="numpy")
def _pairs_of(table, src, dst):
    """Numbers of known pairs."""
    pairs = np.empty(src.shape[0], dtype=np.int64)
    for row in range(src.shape[0]):
        pairs[row] = table[_slot(table, (src[row] << 32) + dst[row] + 1), 1]
    return pairs


@njit(cache=True, error_model="numpy")
def _advance(state, heads, ends, older, paid, table, num_pairs, src, dst, amount, time):
    """Take one row after the other; the number of pairs afterwards."""
    for row in range(src.shape[0]):
        sender, receiver, coins, at = src[row], dst[row], amount[row], time[row]
        key = (sender << 32) + receiver + 1
        slot = _slot(table, key)
        is_new = table[slot, 0] == 0
        if is_new:
            table[slot, 0] = key
            table[slot, 1] = num_pairs
            ends[num_pairs, 0] = sender
            ends[num_pairs, 1] = receiver
            older[num_pairs, 0] = heads[sender, 0]
            older[num_pairs, 1] = heads[receiver, 1]
            heads[sender, 0] = num_pairs
            heads[receiver, 1] = num_pairs
            paid[num_pairs] = 0.0
            num_pairs += 1
            other = _slot(table, (receiver << 32) + sender + 1)
            if table[other, 0] != 0:
                state[sender, _MUTUAL] += 1.0
                if sender != receiver:
                    state[receiver, _MUTUAL] += 1.0
        paid[table[slot, 1]] += coins

        # What the sender passes on of what it got not long ago, before this row counts.
        mine = state[sender]
        if mine[_SIDE + _COUNT] > 0.0:
            wait = at - mine[_SIDE + _LAST_AT]
            mine[_DELAY] += wait
            mine[_DELAYS] += 1.0
            if wait <= _HOUR:
                part = min(coins, mine[_FRESH_1H])
                mine[_FRESH_1H] -= part
                mine[_GONE_1H] += part
            if wait <= _DAY:
                part = min(coins, mine[_FRESH_1D])
                mine[_FRESH_1D] -= part
                mine[_GONE_1D] += part
        theirs = state[receiver]
        if theirs[_SIDE + _COUNT] > 0.0:
            wait = at - theirs[_SIDE + _LAST_AT]
            if wait > _HOUR:
                theirs[_FRESH_1H] = 0.0
            if wait > _DAY:
                theirs[_FRESH_1D] = 0.0
        theirs[_FRESH_1H] += coins
        theirs[_FRESH_1D] += coins

        angle = 2.0 * np.pi * (at % _DAY) / _DAY
        cosine, sine = np.cos(angle), np.sin(angle)
        logarithm = np.log1p(coins)
        for side in range(2):
            words = state[sender if side == 0 else receiver][side * _SIDE : (side + 1) * _SIDE]
            if words[_COUNT] == 0.0:
                words[_MIN] = coins
                words[_MAX] = coins
                words[_FIRST_AT] = at
                words[_RUN] = 1.0
            else:
                gap = at - words[_LAST_AT]
                words[_GAP2] += gap * gap
                if gap <= _HOUR:
                    words[_SHORT] += 1.0
                    words[_RUN] += 1.0
                else:
                    words[_RUN] = 1.0
                if coins == words[_LAST]:
                    words[_REPEAT] += 1.0
                words[_MIN] = min(words[_MIN], coins)
                words[_MAX] = max(words[_MAX], coins)
            words[_COUNT] += 1.0
            words[_SUM] += coins
            words[_LAST] = coins
            # Welford: a sum of squares would lose small spreads of large amounts.
            off = coins - words[_MEAN]
            words[_MEAN] += off / words[_COUNT]
            words[_M2] += off * (coins - words[_MEAN])
            off = logarithm - words[_LOG]
            words[_LOG] += off / words[_COUNT]
            words[_LOG2] += off * (logarithm - words[_LOG])
            words[_DISTINCT] += 1.0 if is_new else 0.0
            words[_LAST_AT] = at
            words[_BURST] = max(words[_BURST], words[_RUN])
            words[_COS] += cosine
            words[_SIN] += sine
    return num_pairs


@njit(cache=True, error_model="numpy")
def _base(state, nodes, now, ages):
    """Features of addresses alone, (k, 42) or with ages (k, 46) float64."""
    num_ages = 4 if ages else 0
    values = np.full((nodes.shape[0], 42 + num_ages), np.nan)
    for i in range(nodes.shape[0]):
        mine = state[nodes[i]]
        row = values[i]
        for side in range(2):
            words = mine[side * _SIDE : (side + 1) * _SIDE]
            put = row[side * 16 : side * 16 + 16]
            count = words[_COUNT]
            put[0] = count
            put[1] = words[_SUM]
            put[8] = words[_DISTINCT]
            put[14] = words[_BURST]
            if count == 0.0:
                continue
            put[2] = words[_SUM] / count
            put[3] = words[_MIN]
            put[4] = words[_MAX]
            put[5] = np.sqrt(max(words[_M2], 0.0) / count)
            put[6] = words[_LAST]
            put[7] = np.sqrt(max(words[_LOG2], 0.0) / count)
            life = words[_LAST_AT] - words[_FIRST_AT]
            put[10] = life
            if count > 1.0:
                gaps = count - 1.0
                mean = life / gaps
                put[9] = words[_REPEAT] / gaps
                put[11] = mean
                put[12] = np.sqrt(max(words[_GAP2] / gaps - mean * mean, 0.0))
                put[13] = words[_SHORT] / gaps
            put[15] = 1.0 - np.sqrt(words[_COS] ** 2 + words[_SIN] ** 2) / count
            if ages:
                row[42 + 2 * side] = now - words[_FIRST_AT]
                row[43 + 2 * side] = now - words[_LAST_AT]
        sent, got = mine[:_SIDE], mine[_SIDE : 2 * _SIDE]
        total = sent[_SUM] + got[_SUM]
        if total > 0.0:
            row[32] = (got[_SUM] - sent[_SUM]) / total
        total = sent[_COUNT] + got[_COUNT]
        if total > 0.0:
            row[33] = (got[_COUNT] - sent[_COUNT]) / total
            pairs = sent[_DISTINCT] + got[_DISTINCT]
            row[34] = (got[_DISTINCT] - sent[_DISTINCT]) / pairs
            row[35] = 2.0 * mine[_MUTUAL] / pairs
        if got[_SUM] > 0.0:
            row[36] = mine[_GONE_1H] / got[_SUM]
            row[37] = mine[_GONE_1D] / got[_SUM]
        if mine[_DELAYS] > 0.0:
            row[38] = mine[_DELAY] / mine[_DELAYS]
        if sent[_COUNT] > 0.0 and got[_COUNT] > 0.0:
            row[39] = sent[_FIRST_AT] - got[_FIRST_AT]
            row[40] = sent[_LAST_AT] - got[_LAST_AT]
            first = min(sent[_FIRST_AT], got[_FIRST_AT])
            row[41] = max(sent[_LAST_AT], got[_LAST_AT]) - first
        elif sent[_COUNT] > 0.0:
            row[41] = sent[_LAST_AT] - sent[_FIRST_AT]
        elif got[_COUNT] > 0.0:
            row[41] = got[_LAST_AT] - got[_FIRST_AT]
    return values


@njit(cache=True, error_model="numpy")
def _reach(heads, ends, older, nodes, hops, most, place):
    """All ids within the hops, each once, nearest first; and how many of them are not outermost.

    ``place``, all -1 before, then holds where in the answer each of them is.
    """
    found = np.empty(max(64, 4 * nodes.shape[0]), dtype=np.int64)
    size = 0
    for i in range(nodes.shape[0]):
        if place[nodes[i]] < 0:
            place[nodes[i]] = size
            found[size] = nodes[i]
            size += 1
    begin, inner = 0, size
    for _ in range(hops):
        inner = size
        for i in range(begin, inner):
            for side in range(2):
                pair = heads[found[i], side]
                taken = 0
                while pair >= 0 and taken < most:
                    other = ends[pair, 1 - side]
                    if place[other] < 0:
                        if size == found.shape[0]:
                            larger = np.empty(2 * size, dtype=np.int64)
                            larger[:size] = found
                            found = larger
                        place[other] = size
                        found[size] = other
                        size += 1
                    taken += 1
                    pair = older[pair, side]
        begin = inner
    return found[:size], inner


@njit(cache=True, error_model="numpy")
def _means(heads, ends, older, paid, nodes, place, values, side, most, means):
    """Means of values over the pairs of one side, into the rows of the nodes; nan are skipped."""
    width = values.shape[1]
    weights = np.empty(width)
    for i in range(nodes.shape[0]):
        node = nodes[i]
        into = means[place[node]]
        weights[:] = 0.0
        into[:] = 0.0
        pair = heads[node, side]
        taken = 0
        while pair >= 0 and taken < most:
            other = ends[pair, 1 - side]
            if other != node:
                # Next to nothing still counts a little, or dust would leave a hole.
                weight = np.log1p(paid[pair]) + 1e-6
                near = values[place[other]]
                for column in range(width):
                    value = near[column]
                    if value == value:
                        into[column] += weight * value
                        weights[column] += weight
            taken += 1
            pair = older[pair, side]
        for column in range(width):
            into[column] = into[column] / weights[column] if weights[column] > 0.0 else np.nan
