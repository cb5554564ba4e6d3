"""Rules judged on history: what each would have stopped, whom it would have hurt.

`judge` takes a matrix of hits, one column per rule, and a `History` of labelled rows. Only
rows whose label is known and mature are right or wrong: a young row that nothing was learned
about is no good row, and a young row already known to be bad is in no count of bad ones
either, since its young good neighbours are in none. Both are counted apart.

`difference` compares two versions of a rule or of a whole set, `counterexamples` shows the
dearest mistakes. Serves row F12 of the requirements.

References
----------
Edwin B. Wilson: Probable inference, the law of succession, and statistical inference, 1927.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput, InvalidTable, did_you_mean
from chopmark.times import DAY

if TYPE_CHECKING:
    import polars as pl

_Money = NDArray[np.float64]
_Bits = NDArray[np.uint64]

GOOD, BAD, UNKNOWN, YOUNG_BAD = range(4)
"""What is known of a row: judged good, judged bad, not known or too young, bad but too young."""

_WEEK = 7 * DAY
_MONDAY = 4 * DAY  # the first one after the epoch, which was a Thursday
_MAX_WEEKS = 10_000
_PARTED = 65_536  # rows from which on the work is shared out
_NUM_PARTS = 8
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACES = np.zeros(64, dtype=np.int64)  # of the one bit of a word, by the product's upper bits
for _place in range(64):
    _PLACES[((1 << _place) * int(_DE_BRUIJN) % 2**64) >> 58] = _place
_BLOCK = 8_192  # words of 64 rows, so that the overlap of all rules works within the cache


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, with its Wilson interval of 95 %.

    Attributes
    ----------
    value, low, high : float in [0, 1]
        NaN, 0 and 1 of an empty whole. The interval takes rows as independent; rows of one
        user are not quite, so that it is somewhat too narrow where users have many.
    """

    value: float
    low: float
    high: float


def wilson(part: float, whole: float, *, z: float = 1.959964) -> Share:
    """The share of a part in a whole, with its interval.

    Examples
    --------
    >>> share = wilson(8, 10)
    >>> share.value, round(share.low, 3), round(share.high, 3)
    (0.8, 0.49, 0.943)
    """
    if whole <= 0:
        return Share(math.nan, 0.0, 1.0)
    value = part / whole
    shrink = 1.0 + z * z / whole
    middle = (value + z * z / (2.0 * whole)) / shrink
    half = z / shrink * math.sqrt(value * (1.0 - value) / whole + z * z / (4.0 * whole * whole))
    return Share(value, max(middle - half, 0.0), min(middle + half, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """Rows of the past with what was learned about them.

    Build one with `history` or `history_of_table`; it is sorted once and judged by often.

    Attributes
    ----------
    status : (n,) int8
        `GOOD`, `BAD`, `UNKNOWN` or `YOUNG_BAD`.
    amounts_usd : (n,) float64
        Missing and negative amounts are 0.
    users : (n,) int64
        Numbers from 0 on.
    times : (n,) int64
        Instants.
    event_ids : sequence of str or None
    order : (n,) int64
        Row numbers, user by user.
    first_week : int
        Instant of the Monday, UTC, with which the week of the earliest row begins.
    weeks : (n,) int32
        Weeks since then.
    """

    status: NDArray[np.int8]
    amounts_usd: NDArray[np.float64]
    users: NDArray[np.int64]
    times: NDArray[np.int64]
    event_ids: Sequence[str] | None
    order: NDArray[np.int64]
    first_week: int
    weeks: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.status)

    def take(self, rows: ArrayLike) -> "History":
        """The history of some rows: row numbers, or a mask of all."""
        chosen = np.asarray(rows)
        if chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        ids = self.event_ids
        return _history(
            self.status[chosen],
            self.amounts_usd[chosen],
            self.users[chosen],
            self.times[chosen],
            None if ids is None else [ids[row] for row in chosen.tolist()],
        )


def history(
    labels: ArrayLike,
    matured: ArrayLike,
    amounts_usd: ArrayLike,
    users: ArrayLike,
    times: ArrayLike,
    *,
    event_ids: Sequence[str] | None = None,
) -> History:
    """The history of columns of equal length.

    Parameters
    ----------
    labels : (n,)
        1 bad, 0 good; NaN or below 0 not known.
    matured : (n,) bool
        Whether a row is old enough for its label to have come.
    amounts_usd : (n,) float
    users : (n,) int or str
        None missing.
    times : (n,) int64 or datetime64
        Instants (microseconds since 1970).
    event_ids : sequence of str, optional
        What `counterexamples` names.

    Raises
    ------
    InvalidInput
        If lengths differ, a label is another number, or a time is out of range.
    """
    known = np.asarray(labels, dtype=np.float64)
    ripe = np.asarray(matured, dtype=np.bool_)
    amounts = np.asarray(amounts_usd, dtype=np.float64)
    owners = np.asarray(users)
    moments = np.asarray(times)
    if moments.dtype.kind == "M":
        moments = moments.astype("datetime64[us]")
    instants = moments.astype(np.int64)
    lengths = {len(known), len(ripe), len(amounts), len(owners), len(instants)}
    if event_ids is not None:
        lengths.add(len(event_ids))
    if len(lengths) != 1:
        raise InvalidInput(f"expected columns of equal length, got {sorted(lengths)}")
    unknown = np.isnan(known) | (known < 0)
    bad = known == 1
    if not (unknown | bad | (known == 0)).all():
        raise InvalidInput("expected labels of 0 and 1, NaN or -1 where nothing is known")
    status = np.where(ripe, np.where(bad, BAD, GOOD), np.where(bad, YOUNG_BAD, UNKNOWN))
    status = np.where(unknown, UNKNOWN, status).astype(np.int8)
    amounts = np.maximum(np.nan_to_num(amounts, nan=0.0), 0.0)
    if not np.isfinite(amounts).all():
        raise InvalidInput("expected finite amounts, got one that is infinite")
    numbers = np.unique(owners, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return _history(status, amounts, numbers, instants, event_ids)


def history_of_table(
    table: "pl.DataFrame",
    *,
    users: str = "user",
    amount: str = "amount_usd",
    matured: ArrayLike | None = None,
) -> History:
    """The history of a training table (`chopmark.features.training_table`).

    Parameters
    ----------
    table : DataFrame
        With ``label`` (null where not known), ``as_of``, and the columns named below.
    users, amount : str
        Columns with the user and the amount in USD. A row without a user is a user of its own.
    matured : (n,) bool, optional
        All rows by default, as the table holds no others unless made with ``immature=True``.

    Raises
    ------
    InvalidTable
        If a column is missing.
    """
    for name in ("label", "as_of", users, amount):
        if name not in table.columns:
            raise InvalidTable(
                f"expected a column `{name}` in the table to judge rules on"
                + did_you_mean(name, table.columns)
            )
    ranks = table[users].rank("dense").to_numpy().astype(np.float64)
    nobody = np.flatnonzero(np.isnan(ranks))
    ranks[nobody] = table.height + 1.0 + np.arange(len(nobody))
    ids = table["event_id"].to_list() if "event_id" in table.columns else None
    return history(
        table["label"].cast(float).to_numpy(),
        np.ones(table.height, dtype=np.bool_) if matured is None else matured,
        table[amount].cast(float).to_numpy(),
        ranks,
        table["as_of"].dt.epoch("us").to_numpy(),
        event_ids=ids,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one rule did, or all of a set together.

    Attributes
    ----------
    num_hits, hit_rate
        Among all rows.
    true_positives, false_positives
        Hits that were bad and good, among judged rows.
    unjudged, young_bad
        Hits among rows that are not known or too young, and among the too young ones that are
        already known to be bad. In neither of the two above.
    precision : Share
        Of the judged hits that were bad.
    recall : Share
        Of the judged bad rows that were hit.
    bad_usd, good_usd
        Money stopped, and honest money stopped with it.
    bad_users, good_users
        Different users with a bad row that was hit, and with a good row that was hit.
    shared
        Part of the hits that another rule hit too; NaN without a hit.
    unique_true_positives, unique_false_positives, unique_bad_usd
        Of rows that no other rule hit: what would be lost without this one.
    """

    name: str
    num_hits: int
    hit_rate: float
    true_positives: int
    false_positives: int
    unjudged: int
    young_bad: int
    precision: Share
    recall: Share
    bad_usd: float
    good_usd: float
    bad_users: int
    good_users: int
    shared: float
    unique_true_positives: int
    unique_false_positives: int
    unique_bad_usd: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """Rules judged on a history.

    Attributes
    ----------
    rules : tuple of Figures
        One per rule, in the order of the columns.
    together : Figures
        Of rows that any rule hit.
    num_rows, num_good, num_bad, num_unjudged, num_young_bad : int
        Of the history; the first is the sum of the others.
    bad_usd : float
        Of all judged bad rows.
    overlap : (r, r) int64
        Rows that both rules hit.
    jaccard : (r, r) float64
        Rows that both hit over rows that either hit; 0 where neither hit any.
    weeks : (w,) int64
        Instants of the Mondays, UTC, with which the weeks begin.
    rows_by_week, bad_by_week : (w,) int64
        Rows, and judged bad ones, of each week.
    hits_by_week, true_positives_by_week, false_positives_by_week : (w, r + 1) int64
        By rule; the last column is of all together.
    """

    rules: tuple[Figures, ...]
    together: Figures
    num_rows: int
    num_good: int
    num_bad: int
    num_unjudged: int
    num_young_bad: int
    bad_usd: float
    overlap: NDArray[np.int64]
    jaccard: NDArray[np.float64]
    weeks: NDArray[np.int64]
    rows_by_week: NDArray[np.int64]
    bad_by_week: NDArray[np.int64]
    hits_by_week: NDArray[np.int64]
    true_positives_by_week: NDArray[np.int64]
    false_positives_by_week: NDArray[np.int64]

    def of(self, name: str) -> Figures:
        """The figures of one rule."""
        for figures in self.rules:
            if figures.name == name:
                return figures
        names = [figures.name for figures in self.rules]
        raise InvalidInput(f"no rule `{name}` was judged" + did_you_mean(name, names))


def judge(hits: ArrayLike, past: History, *, names: Sequence[str] | None = None) -> Judgement:
    """Every rule of a matrix of hits judged on a history, alone and beside the others.

    One pass over the matrix, O(n r), and O(n r^2 / 64) for the overlaps.

    Parameters
    ----------
    hits : (n, r) bool or uint8
        Whether each rule hit each row; a missing truth value is no hit.
    names : sequence of str, optional
        Of the rules; ``rule 1`` and so on by default.

    Raises
    ------
    InvalidInput
        If the matrix has another shape than the history and the names.

    Examples
    --------
    >>> past = history([1, 0, 0, -1], [True] * 4, [50, 20, 10, 5], ["a", "b", "b", "c"], [0] * 4)
    >>> figures = judge([[1], [1], [0], [1]], past).rules[0]
    >>> figures.true_positives, figures.false_positives, figures.unjudged, figures.bad_usd
    (1, 1, 1, 50.0)
    """
    matrix = _matrix(hits, len(past))
    size, num_rules = matrix.shape
    names = [f"rule {place + 1}" for place in range(num_rules)] if names is None else list(names)
    if len(names) != num_rules:
        raise InvalidInput(f"expected {num_rules} names of rules, got {len(names)}")
    num_weeks = int(past.weeks.max(initial=-1)) + 1
    counts, usd, alone, alone_usd, distinct, packed = _tallies(matrix, past, num_weeks)
    rows = np.bincount(past.status, minlength=4)
    totals = counts.sum(axis=0)
    figures = [
        _figures(name, totals[place], usd[place], alone[place], alone_usd[place],
                 distinct[place], size, int(rows[BAD]))
        for place, name in enumerate([*names, "together"])
    ]  # fmt: skip
    overlap = _overlap(packed)
    either = np.diag(overlap)[:, None] + np.diag(overlap)[None, :] - overlap
    by_week = np.bincount(past.weeks * 4 + past.status, minlength=4 * num_weeks).reshape(-1, 4)
    return Judgement(
        rules=tuple(figures[:-1]),
        together=figures[-1],
        num_rows=size,
        num_good=int(rows[GOOD]),
        num_bad=int(rows[BAD]),
        num_unjudged=int(rows[UNKNOWN]),
        num_young_bad=int(rows[YOUNG_BAD]),
        bad_usd=float(past.amounts_usd[past.status == BAD].sum()),
        overlap=overlap,
        jaccard=overlap / np.maximum(either, 1),
        weeks=past.first_week + np.arange(num_weeks, dtype=np.int64) * _WEEK,
        rows_by_week=by_week.sum(axis=1),
        bad_by_week=by_week[:, BAD],
        hits_by_week=counts.sum(axis=2),
        true_positives_by_week=counts[:, :, BAD],
        false_positives_by_week=counts[:, :, GOOD],
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Difference:
    """Two versions of a rule, or of a set of rules, on one history.

    Attributes
    ----------
    before, after : Figures
    newly, no_longer : Figures
        Of the rows that only the second hits, and only the first. ``unique_`` and ``shared``
        of these four say nothing.
    newly_hit, no_longer_hit : int64 arrays
        Row numbers of both.
    """

    before: Figures
    after: Figures
    newly: Figures
    no_longer: Figures
    newly_hit: NDArray[np.int64]
    no_longer_hit: NDArray[np.int64]

    @property
    def true_positives(self) -> int:
        """How many more bad rows are hit."""
        return self.after.true_positives - self.before.true_positives

    @property
    def false_positives(self) -> int:
        """How many more good rows are hit."""
        return self.after.false_positives - self.before.false_positives

    @property
    def bad_usd(self) -> float:
        """How much more money is stopped."""
        return self.after.bad_usd - self.before.bad_usd

    @property
    def good_usd(self) -> float:
        """How much more honest money is stopped."""
        return self.after.good_usd - self.before.good_usd

    @property
    def good_users(self) -> int:
        """How many more good users are hurt."""
        return self.after.good_users - self.before.good_users


def difference(before: ArrayLike, after: ArrayLike, past: History) -> Difference:
    """What changes from one version to another.

    Parameters
    ----------
    before, after : (n,) or (n, r) bool or uint8
        Hits of a rule, or of each rule of a set; a set hits where any of its rules does. The
        two may have different numbers of rules.
    """
    first = _matrix(before, len(past)).any(axis=1)
    second = _matrix(after, len(past)).any(axis=1)
    newly, no_longer = second & ~first, first & ~second
    names = ("before", "after", "newly hit", "no longer hit")
    judged = judge(np.column_stack((first, second, newly, no_longer)), past, names=names)
    return Difference(
        before=judged.rules[0],
        after=judged.rules[1],
        newly=judged.rules[2],
        no_longer=judged.rules[3],
        newly_hit=np.flatnonzero(newly),
        no_longer_hit=np.flatnonzero(no_longer),
    )


@dataclass(frozen=True, slots=True)
class Example:
    """One row: its number, its event's id where known, its amount and its instant."""

    row: int
    event_id: str | None
    amount_usd: float
    at: int


@dataclass(frozen=True, slots=True)
class Counterexamples:
    """The dearest mistakes of a rule, largest amount first."""

    good_hit: tuple[Example, ...]
    bad_missed: tuple[Example, ...]


def counterexamples(hits: ArrayLike, past: History, *, most: int = 10) -> Counterexamples:
    """The judged good rows of the highest amounts that were hit, and the bad ones missed.

    Parameters
    ----------
    hits : (n,) or (n, r) bool or uint8
        Of one rule, or of a set.
    most : int, >= 0
        Of each kind. Equal amounts come in the order of the rows.
    """
    if most < 0:
        raise InvalidInput(f"expected at least 0 examples, got {most}")
    hit = _matrix(hits, len(past)).any(axis=1)
    return Counterexamples(
        good_hit=_dearest(past, np.flatnonzero(hit & (past.status == GOOD)), most),
        bad_missed=_dearest(past, np.flatnonzero(~hit & (past.status == BAD)), most),
    )


def _history(
    status: NDArray[np.int8],
    amounts_usd: NDArray[np.float64],
    users: NDArray[np.int64],
    times: NDArray[np.int64],
    event_ids: Sequence[str] | None,
) -> History:
    weeks = (times - _MONDAY) // _WEEK
    first = int(weeks.min()) if len(weeks) else 0
    if len(weeks) and int(weeks.max()) - first >= _MAX_WEEKS:
        raise InvalidInput(
            f"expected instants in microseconds within {_MAX_WEEKS:,} weeks, got a span of "
            f"{int(weeks.max()) - first:,} weeks"
        )
    return History(
        status=status,
        amounts_usd=amounts_usd,
        users=users,
        times=times,
        event_ids=event_ids,
        order=np.argsort(users, kind="stable"),
        first_week=_MONDAY + first * _WEEK,
        weeks=(weeks - first).astype(np.int32),
    )


def _matrix(hits: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Hits as rows of bytes, one byte per rule."""
    matrix = np.asarray(hits)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or len(matrix) != size:
        raise InvalidInput(
            f"expected hits of {size} rows, as long as the history, got an array of shape "
            f"{np.shape(hits)}"
        )
    if matrix.dtype == np.bool_:
        matrix = matrix.view(np.uint8) if matrix.flags.c_contiguous else matrix.astype(np.uint8)
    elif matrix.dtype != np.uint8:
        if not np.isin(matrix, (0, 1)).all():
            raise InvalidInput("expected hits that are true or false, 1 or 0")
        matrix = matrix.astype(np.uint8)
    return np.ascontiguousarray(matrix)


def _tallies(
    matrix: NDArray[np.uint8], past: History, num_weeks: int
) -> tuple[NDArray[np.int64], _Money, NDArray[np.int64], _Money, NDArray[np.int64], _Bits]:
    """The sums of `_tally`, of parts with whole users, added up.

    The parts are the same on any number of cores, and so is every bit of the sums.
    """
    size, num_rules = matrix.shape
    order = past.order
    users = past.users[order]
    bits = _bits_of(matrix)
    cuts = [size]
    if size >= _PARTED:
        wished = np.linspace(0, size, _NUM_PARTS + 1)[1:].astype(np.int64)
        cuts = np.unique(np.searchsorted(users, users[wished - 1], side="right")).tolist()
    given = (past.status[order], past.weeks[order], past.amounts_usd[order], users)

    def tally(start: int, stop: int) -> list[NDArray[Any]]:
        sums: list[NDArray[Any]] = [
            np.zeros((num_weeks, num_rules + 1, 4), dtype=np.int64),
            np.zeros((num_rules + 1, 4)),
            np.zeros((num_rules + 1, 4), dtype=np.int64),
            np.zeros((num_rules + 1, 4)),
            np.zeros((num_rules + 1, 4), dtype=np.int64),
            np.zeros((num_rules, (stop - start + 63) // 64), dtype=np.uint64),
        ]
        _tally(bits, order[start:stop], *(column[start:stop] for column in given), *sums)
        return sums

    parts = list(pairwise([0, *cuts]))
    if len(parts) == 1:
        done = [tally(*parts[0])]
    else:
        with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
            done = list(pool.map(tally, *zip(*parts, strict=True)))
    columns = list(zip(*done, strict=True))
    counts, usd, alone, alone_usd, distinct = (sum(sums[1:], sums[0]) for sums in columns[:5])
    return counts, usd, alone, alone_usd, distinct, np.concatenate(columns[5], axis=1)


def _figures(
    name: str,
    counts: NDArray[np.int64],
    usd: NDArray[np.float64],
    alone: NDArray[np.int64],
    alone_usd: NDArray[np.float64],
    distinct: NDArray[np.int64],
    num_rows: int,
    num_bad: int,
) -> Figures:
    num_hits, bad, good = int(counts.sum()), int(counts[BAD]), int(counts[GOOD])
    return Figures(
        name=name,
        num_hits=num_hits,
        hit_rate=num_hits / num_rows if num_rows else math.nan,
        true_positives=bad,
        false_positives=good,
        unjudged=int(counts[UNKNOWN] + counts[YOUNG_BAD]),
        young_bad=int(counts[YOUNG_BAD]),
        precision=wilson(bad, bad + good),
        recall=wilson(bad, num_bad),
        bad_usd=float(usd[BAD]),
        good_usd=float(usd[GOOD]),
        bad_users=int(distinct[BAD]),
        good_users=int(distinct[GOOD]),
        shared=1.0 - int(alone.sum()) / num_hits if num_hits else math.nan,
        unique_true_positives=int(alone[BAD]),
        unique_false_positives=int(alone[GOOD]),
        unique_bad_usd=float(alone_usd[BAD]),
    )


def _bits_of(matrix: NDArray[np.uint8]) -> _Bits:
    """Each row of a matrix as words of 64 bits, the first rule lowest."""
    rows = np.packbits(matrix, axis=1, bitorder="little")
    words = np.zeros((len(matrix), (matrix.shape[1] + 63) // 64), dtype="<u8")
    words.view(np.uint8)[:, : rows.shape[1]] = rows
    return words.astype(np.uint64, copy=False)


def _overlap(packed: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Rows that each pair of rules hits, from bits."""
    num_rules, words = packed.shape
    both = np.zeros((num_rules, num_rules), dtype=np.int64)
    for start in range(0, words, _BLOCK):
        block = np.ascontiguousarray(packed[:, start : start + _BLOCK])
        for place in range(num_rules):
            shared = np.bitwise_count(block[place:] & block[place])
            both[place, place:] += shared.sum(axis=1, dtype=np.int64)
    return both + np.triu(both, 1).T


def _dearest(past: History, rows: NDArray[np.int64], most: int) -> tuple[Example, ...]:
    order = np.argsort(-past.amounts_usd[rows], kind="stable")[:most]
    ids = past.event_ids
    return tuple(
        Example(
            row,
            None if ids is None else ids[row],
            float(past.amounts_usd[row]),
            int(past.times[row]),
        )
        for row in rows[order].tolist()
    )


@njit(cache=True, nogil=True)
def _tally(  # type: ignore[no-untyped-def]
    bits, order, status, weeks, amounts, users, counts, usd, alone, alone_usd, distinct, packed
):
    """Add up all rows, user by user, so that a user is counted without remembering others.

    ``status``, ``weeks``, ``amounts`` and ``users`` are in that order already. The last row of
    each sum is of all rules together.
    """
    num_rules, words = len(packed), bits.shape[1]
    places = _PLACES
    last = np.full((num_rules + 1, 4), -1, dtype=np.int64)
    hit = np.empty(num_rules + 1, dtype=np.int64)
    for place in range(order.size):
        row = order[place]
        size = 0
        for word in range(words):
            rest = bits[row, word]
            while rest != np.uint64(0):
                lowest = rest & (~rest + np.uint64(1))
                hit[size] = 64 * word + places[(lowest * _DE_BRUIJN) >> np.uint64(58)]
                size += 1
                rest ^= lowest
        if size == 0:
            continue
        kind, week, amount, user = status[place], weeks[place], amounts[place], users[place]
        if size == 1:
            alone[hit[0], kind] += 1
            alone_usd[hit[0], kind] += amount
        column, bit = place >> 6, np.uint64(1) << np.uint64(place & 63)
        for k in range(size):
            packed[hit[k], column] |= bit
        hit[size] = num_rules
        for k in range(size + 1):
            rule = hit[k]
            counts[week, rule, kind] += 1
            usd[rule, kind] += amount
            if last[rule, kind] != user:
                last[rule, kind] = user
                distinct[rule, kind] += 1
