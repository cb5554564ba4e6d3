"""A sketch: what a tokenizer must know of histories, in parts that add up.

Sketches of shards and of days add: ``Sketch.of(monday) + Sketch.of(tuesday)``. The sum does not
depend on the order or the grouping, bit for bit, and equals the sketch of the union.

    category   counts by value; up to 100,000 values exactly. Beyond, the smallest counts are
               taken off all (Misra-Gries), and a count is too low by at most `error`
               <= events / 100,000: only there may the order of adding show, within that error
    number     counts on a grid of the signed log, steps of 2 %: quantiles are right to 1 %; and
               for each type of event the sums of the signed log and of its square, in
               integers of 1/4096 (up to 10,000 types, beyond none)
    distinct   values whose hash falls below a threshold, which halves when there are more than
               2,048 of them: number of values = kept / share, right to about 2 %
    people     up to 512 users, chosen by the hash of their names in the same way; of each and
               for each field the events, and 32 sums of a random sign that belongs to the
               value. E[sum^2] is the number of pairs of events that share a value
               (the tug of war of Alon, Matias and Szegedy): so constancy within a user, and
               coincidence between users, come from integers that add (`chopmark.histories.
               identity`)

Values enter through their hash (SipHash-2-4 with a public key), never through Python's own.
Serves row G6 of the requirements.

References
----------
Noga Alon, Yossi Matias, Mario Szegedy: The Space Complexity of Approximating the Frequency
Moments, 1996.
Pankaj Agarwal et al.: Mergeable Summaries, 2012.
Charles Masson, Jee Rim, Homin Lee: DDSketch, 2019.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# The kernels are typed by numba from their arguments; `Sketch` is the typed door.

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.errors import ArtifactError, InvalidTable
from chopmark.features.hashing import mix
from chopmark.histories.damage import check_codes
from chopmark.histories.tokenizer import PARTS

if TYPE_CHECKING:
    from chopmark.histories.histories import Histories

MOST_VALUES = 100_000
"""Values of a categorical field whose counts are kept, exactly up to this number."""

MOST_USERS = 512
"""Users of whom the statistics of identity are kept."""

MOST_HASHES = 2_048
"""Hashes kept to count distinct values."""

SIGNS = 32
GRID = math.log(1.02)
"""Step of the grid of numbers, in natural log of the absolute value."""

MOST_TYPES = 10_000
"""Types of events of which a number's mean is kept; beyond, of none."""

FORMAT = 1

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

HALF_GRID = 5_300
"""Steps of the grid on either side of 1: beyond the largest and the smallest float32."""

CODES = Codes(b"chopmark.histories")
"""Hashes of texts: the key is public, it only has to stay the same."""

LARGEST = float(np.finfo(np.float32).max)
_ROWS = 2**25


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """A sample of hashes that says how many there are.

    Attributes
    ----------
    level : int
        Those hashes are kept whose upper `level` bits are 0.
    hashes : (k,) uint64, rising
    """

    level: int
    hashes: Hashes

    @property
    def number(self) -> int:
        """About how many distinct hashes there were; exactly while `level` is 0."""
        return len(self.hashes) << self.level

    @classmethod
    def of(cls, hashes: Hashes, most: int, level: int = 0) -> Self:
        """The sample of some hashes, at the lowest level at or above `level` that holds them."""
        hashes = np.unique(hashes)
        bound = len(hashes) if level == 0 else int(np.searchsorted(hashes, _limit(level)))
        while bound > most:
            level += 1
            bound = int(np.searchsorted(hashes, _limit(level)))
        return cls(level, hashes[:bound])

    def plus(self, other: "Distinct", most: int) -> "Distinct":
        """The sample of both."""
        hashes = np.concatenate([self.hashes, other.hashes])
        return Distinct.of(hashes, most, max(self.level, other.level))


@dataclass(frozen=True, slots=True, eq=False)
class Pulls:
    """One field in the eyes of the sampled users (s of them).

    Attributes
    ----------
    counts : (s,) int64
        Events with a value.
    sums : (s, 32) int64
        Sum of the signs of the values.
    """

    counts: Ints
    sums: Ints


@dataclass(frozen=True, slots=True, eq=False)
class CategorySketch:
    """Counts by value of one field.

    Attributes
    ----------
    counts : dict of str to int
        Too low by at most `error`, never too high.
    error : int
    present : int
        Events with a value.
    distinct : Distinct
    """

    counts: dict[str, int]
    error: int
    present: int
    distinct: Distinct

    def plus(self, other: "CategorySketch") -> "CategorySketch":
        """The sketch of both."""
        counts = dict(self.counts)
        for text, count in other.counts.items():
            counts[text] = counts.get(text, 0) + count
        error = self.error + other.error
        if len(counts) > MOST_VALUES:
            cut = sorted(counts.values(), reverse=True)[MOST_VALUES]
            counts = {text: count - cut for text, count in counts.items() if count > cut}
            error += cut
        return CategorySketch(
            counts,
            error,
            self.present + other.present,
            self.distinct.plus(other.distinct, MOST_HASHES),
        )


@dataclass(frozen=True, slots=True, eq=False)
class NumberSketch:
    """Counts of one number on the grid of its signed log.

    Attributes
    ----------
    negative, positive : dict of int to int
        Events whose absolute value is within 1 % of ``1.02 ** step``, by step.
    zeros, present : int
        Events with zero; events with any value.
    fractions : int
        Events whose value is no whole number.
    distinct : Distinct
    by_type : dict of str to (int, int, int), or None
        Of each type the events with a value, the sum of the signed log in steps of 1/4096,
        and the sum of its square; None where there are more than 10,000 types.
    """

    negative: dict[int, int]
    positive: dict[int, int]
    zeros: int
    present: int
    fractions: int
    distinct: Distinct
    by_type: dict[str, tuple[int, int, int]] | None

    def plus(self, other: "NumberSketch") -> "NumberSketch":
        """The sketch of both."""
        return NumberSketch(
            _added(self.negative, other.negative),
            _added(self.positive, other.positive),
            self.zeros + other.zeros,
            self.present + other.present,
            self.fractions + other.fractions,
            self.distinct.plus(other.distinct, MOST_HASHES),
            _added_sums(self.by_type, other.by_type),
        )

    def steps(self) -> tuple[NDArray[np.float64], Ints]:
        """Middle of each step of the grid that has events, rising, and their counts."""
        left = [(-math.exp(step * GRID), n) for step, n in sorted(self.negative.items())[::-1]]
        right = [(math.exp(step * GRID), n) for step, n in sorted(self.positive.items())]
        both = left + right
        return (
            np.array([middle for middle, _ in both], dtype=np.float64),
            np.array([n for _, n in both], dtype=np.int64),
        )


class Sketch:
    """What a tokenizer must know of histories; adds up over shards and days.

    Attributes
    ----------
    num_events : int
    categories : dict of str to CategorySketch
    numbers : dict of str to NumberSketch
    users : Distinct
        The sampled users, by the hash of their names.
    pulls : dict of str to Pulls
        Each field in the eyes of the sampled users.

    Examples
    --------
    >>> import polars as pl
    >>> from chopmark.histories import Histories
    >>> frame = pl.DataFrame(
    ...     {"user": ["ann", "bo"], "happened_at": [0, 0], "type": ["visit", "buy"]}
    ... ).with_columns(pl.col("happened_at").cast(pl.Datetime("us")))
    >>> day = Sketch.of(Histories.from_frame(frame))
    >>> sorted((day + day).categories["type"].counts.items())
    [('buy', 2), ('visit', 2)]
    """

    def __init__(
        self,
        num_events: int,
        categories: Mapping[str, CategorySketch],
        numbers: Mapping[str, NumberSketch],
        users: Distinct,
        pulls: Mapping[str, Pulls],
    ) -> None:
        self.num_events = num_events
        self.categories = dict(categories)
        self.numbers = dict(numbers)
        self.users = users
        self.pulls = dict(pulls)

    @property
    def num_users(self) -> int:
        """Number of users with an event: exact up to 512, beyond right to about 5 %."""
        return self.users.number

    @classmethod
    def empty(cls) -> Self:
        """The sketch of no events: adding it changes nothing."""
        return cls(0, {}, {}, Distinct.of(np.zeros(0, dtype=np.uint64), MOST_USERS), {})

    @classmethod
    def sum(cls, sketches: Iterable["Sketch"]) -> "Sketch":
        """The sketch of all; the empty one of none."""
        return reduce(lambda one, other: one + other, sketches, cls.empty())

    @classmethod
    def of(cls, histories: "Histories") -> Self:
        """The sketch of histories. O(events) a field."""
        offsets = histories.offsets
        active = np.flatnonzero(np.diff(offsets))
        names = hashes_of(pl.Series(histories.users))[active]
        users = Distinct.of(names, MOST_USERS)
        order = np.argsort(names, kind="stable")
        chosen = active[order[np.searchsorted(names[order], users.hashes)]]
        starts, ends = offsets[chosen], offsets[chosen + 1]
        categories, numbers, pulls = {}, {}, {}
        for name, codes in histories.categories.items():
            texts = histories.words[name]
            check_codes(name, codes, len(texts))
            hashes = hashes_of(pl.Series(texts, dtype=pl.String))
            counts = _count_codes(codes, len(texts))
            seen = np.flatnonzero(counts)
            kept, cut = _heaviest(counts, seen)
            categories[name] = CategorySketch(
                {texts[code]: int(counts[code]) - cut for code in kept.tolist()},
                cut,
                int(counts.sum()),
                Distinct.of(hashes[seen], MOST_HASHES),
            )
            pulls[name] = Pulls(*_pull_codes(codes, hashes, starts, ends))
        for name, values in histories.numbers.items():
            values = np.ascontiguousarray(values, dtype=np.float32)
            grid = np.zeros((2, 2 * HALF_GRID), dtype=np.int64)
            zeros, present, fractions = _count_numbers(values, grid)
            level, kept = _distinct_numbers(values, values.view(np.uint32), MOST_HASHES)
            numbers[name] = NumberSketch(
                _steps(grid[0]),
                _steps(grid[1]),
                int(zeros),
                int(present),
                int(fractions),
                Distinct.of(kept, MOST_HASHES, int(level)),
                _sums_by_type(values, histories),
            )
            pulls[name] = Pulls(*_pull_numbers(values, values.view(np.uint32), starts, ends))
        return cls(len(histories.times), categories, numbers, users, pulls)

    def __add__(self, other: "Sketch") -> "Sketch":
        """The sketch of both.

        Raises
        ------
        InvalidTable
            If a field is text in one and number in the other.
        """
        for one, two in ((self, other), (other, self)):
            for name in one.numbers.keys() & two.categories.keys():
                raise InvalidTable(
                    f"field `{name}` is a number in one of the parts and text in another; give "
                    "it one kind in all (categories= or numbers= of Histories.from_frame)"
                )
        users = self.users.plus(other.users, MOST_USERS)
        names = sorted(self.pulls.keys() | other.pulls.keys())
        return Sketch(
            self.num_events + other.num_events,
            _union(self.categories, other.categories),
            _union(self.numbers, other.numbers),
            users,
            {name: _pulled(name, users, (self, other)) for name in names},
        )

    def __eq__(self, other: object) -> bool:
        """Whether the two say the same, count by count."""
        return isinstance(other, Sketch) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON; the same for equal sketches, whatever their making."""
        return {
            "format": FORMAT,
            "num_events": self.num_events,
            "users": _plain(self.users),
            "categories": {
                name: {
                    "counts": dict(sorted(one.counts.items())),
                    "error": one.error,
                    "present": one.present,
                    "distinct": _plain(one.distinct),
                    "pulls": _plain_pulls(self.pulls[name]),
                }
                for name, one in sorted(self.categories.items())
            },
            "numbers": {
                name: {
                    "negative": [list(pair) for pair in sorted(one.negative.items())],
                    "positive": [list(pair) for pair in sorted(one.positive.items())],
                    "zeros": one.zeros,
                    "present": one.present,
                    "fractions": one.fractions,
                    "distinct": _plain(one.distinct),
                    "by_type": None
                    if one.by_type is None
                    else {text: list(sums) for text, sums in sorted(one.by_type.items())},
                    "pulls": _plain_pulls(self.pulls[name]),
                }
                for name, one in sorted(self.numbers.items())
            },
        }

    @classmethod
    def from_dict(cls, told: object) -> Self:
        """The sketch that `to_dict` told.

        Raises
        ------
        ArtifactError
            If it is none: of another format, cut, or with numbers that cannot be.
        """
        try:
            if not isinstance(told, dict) or told["format"] != FORMAT:
                raise ValueError(f"format {FORMAT}")
            users = _told_distinct(told["users"], MOST_USERS)
            size = len(users.hashes)
            categories, numbers, pulls = {}, {}, {}
            for name, one in _table(told["categories"]).items():
                counts = {str(text): _whole(n) for text, n in _table(one["counts"]).items()}
                distinct = _told_distinct(one["distinct"], MOST_HASHES)
                present = _whole(one["present"])
                if len(counts) > MOST_VALUES or sum(counts.values()) > present:
                    raise ValueError(f"no more counts than events of `{name}`")
                categories[name] = CategorySketch(counts, _whole(one["error"]), present, distinct)
                pulls[name] = _told_pulls(one["pulls"], size)
            for name, one in _table(told["numbers"]).items():
                numbers[name] = NumberSketch(
                    _told_steps(one["negative"]),
                    _told_steps(one["positive"]),
                    _whole(one["zeros"]),
                    _whole(one["present"]),
                    _whole(one["fractions"]),
                    _told_distinct(one["distinct"], MOST_HASHES),
                    _told_sums(one["by_type"]),
                )
                pulls[name] = _told_pulls(one["pulls"], size)
            if categories.keys() & numbers.keys():
                raise ValueError("a field is text or number, not both")
            return cls(_whole(told["num_events"]), categories, numbers, users, pulls)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ArtifactError(
                f"expected a sketch of histories as Sketch.to_dict writes it; it fails at {error}"
            ) from error


def hashes_of(texts: pl.Series) -> Hashes:
    """(n,) uint64: the stable hash of each value as text."""
    column = texts.cast(pl.String).to_arrow()
    return CODES.column(column.cast("large_string")).view(np.uint64)


def _limit(level: int) -> np.uint64:
    """Hashes below it have their upper `level` bits 0; `level` is 1 to 63."""
    return np.uint64(1 << (64 - level))


def _heaviest(counts: Ints, seen: Ints) -> tuple[Ints, int]:
    """The values to keep, and what comes off the count of each (Misra-Gries)."""
    if len(seen) <= MOST_VALUES:
        return seen, 0
    cut = int(np.partition(counts[seen], -MOST_VALUES - 1)[-MOST_VALUES - 1])
    return seen[counts[seen] > cut], cut


def _union(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    return {
        name: one[name].plus(two[name])
        if name in one and name in two
        else one.get(name, two.get(name))
        for name in sorted(one.keys() | two.keys())
    }


def _pulled(name: str, users: Distinct, sketches: tuple[Sketch, ...]) -> Pulls:
    """A field in the eyes of the users whom the sum has kept."""
    counts = np.zeros(len(users.hashes), dtype=np.int64)
    sums = np.zeros((len(users.hashes), SIGNS), dtype=np.int64)
    for sketch in sketches:
        if name in sketch.pulls and len(users.hashes):
            places = np.searchsorted(users.hashes, sketch.users.hashes)
            places = np.minimum(places, len(users.hashes) - 1)
            here = users.hashes[places] == sketch.users.hashes
            counts[places[here]] += sketch.pulls[name].counts[here]
            sums[places[here]] += sketch.pulls[name].sums[here]
    return Pulls(counts, sums)


def _added(one: dict[int, int], two: dict[int, int]) -> dict[int, int]:
    both = dict(one)
    for step, count in two.items():
        both[step] = both.get(step, 0) + count
    return both


def _added_sums(
    one: dict[str, tuple[int, int, int]] | None, two: dict[str, tuple[int, int, int]] | None
) -> dict[str, tuple[int, int, int]] | None:
    if one is None or two is None:
        return None
    both = dict(one)
    for text, (n, total, squares) in two.items():
        so_far = both.get(text, (0, 0, 0))
        both[text] = (so_far[0] + n, so_far[1] + total, so_far[2] + squares)
    return both if len(both) <= MOST_TYPES else None


def _sums_by_type(
    values: NDArray[np.float32], histories: "Histories"
) -> dict[str, tuple[int, int, int]] | None:
    texts, types = histories.words["type"], histories.categories["type"]
    found: dict[str, tuple[int, int, int]] | None = {}
    # So many rows at a time that the squares fit into 64 bits, whatever the values.
    for start in range(0, len(values), _ROWS):
        part = slice(start, start + _ROWS)
        sums = _sum_by_code(values[part], types[part], len(texts))
        seen = np.flatnonzero(sums[:, 0]).tolist()
        if len(seen) > MOST_TYPES:
            return None
        here = {texts[code]: tuple(sums[code].tolist()) for code in seen}
        found = _added_sums(found, here)  # type: ignore[arg-type]
    return found


def _steps(grid: Ints) -> dict[int, int]:
    seen = np.flatnonzero(grid)
    return dict(zip((seen - HALF_GRID).tolist(), grid[seen].tolist(), strict=True))


def _plain(sample: Distinct) -> list[Any]:
    return [sample.level, sample.hashes.tolist()]


def _plain_pulls(pulls: Pulls) -> list[Any]:
    return [pulls.counts.tolist(), pulls.sums.ravel().tolist()]


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{value!r:.60}, which is no count")
    return value


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{value!r:.60}, which is no table by name")
    return value


def _told_distinct(told: Any, most: int) -> Distinct:
    level, hashes = told
    kept = np.array([_hash(value) for value in hashes], dtype=np.uint64)
    if _whole(level) > 63 or len(kept) > most or np.any(kept[1:] <= kept[:-1]):
        raise ValueError("a sample of hashes that do not rise or are too many")
    if level and np.any(kept >= _limit(level)):
        raise ValueError("a sample of hashes above its level")
    return Distinct(level, kept)


def _hash(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError(f"{value!r:.60}, which is no hash")
    return value


def _told_pulls(told: Any, size: int) -> Pulls:
    for part in told:
        if not isinstance(part, list) or not all(type(value) is int for value in part):
            raise ValueError("the statistics of users, which are whole numbers")
    counts, flat = (np.array(part, dtype=np.int64) for part in told)
    if counts.shape != (size,) or flat.shape != (size * SIGNS,):
        raise ValueError(f"the statistics of {size} users, which are cut")
    sums = flat.reshape(size, SIGNS)
    if np.any(counts < 0) or np.any(np.abs(sums) > counts[:, None]):
        raise ValueError("statistics of users that cannot be")
    return Pulls(counts, sums)


def _told_sums(told: object) -> dict[str, tuple[int, int, int]] | None:
    if told is None:
        return None
    sums = {}
    for text, one in _table(told).items():
        n, total, squares = one
        if _whole(n) == 0 or type(total) is not int or type(squares) is not int:
            raise ValueError(f"the sums of `{text}`, which cannot be")
        if total * total > n * squares:
            raise ValueError(f"the squares of `{text}`, which cannot be")
        sums[text] = (n, total, squares)
    if len(sums) > MOST_TYPES:
        raise ValueError(f"sums of more than {MOST_TYPES:,} types")
    return sums


def _told_steps(told: Any) -> dict[int, int]:
    steps = {}
    for step, count in told:
        if type(step) is not int or abs(step) > HALF_GRID:
            raise ValueError(f"{step!r:.60}, which is no step of the grid")
        steps[step] = _whole(count)
    return steps


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _count_codes(codes, size):
    counts = np.zeros(size, np.int64)
    for i in range(codes.size):
        if codes[i] >= 0:
            counts[codes[i]] += 1
    return counts


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _count_numbers(values, grid):
    """Adds to the grid (negative, positive); zeros, present, values that are not whole."""
    zeros, present, fractions = 0, 0, 0
    for i in range(values.size):
        value = np.float64(values[i])
        if math.isnan(value):
            continue
        present += 1
        if value == 0.0:
            zeros += 1
            continue
        size = min(abs(value), LARGEST)
        fractions += size != math.floor(size)
        step = math.floor(math.log(size) / GRID + 0.5)
        grid[1 if value > 0.0 else 0, np.int64(step) + HALF_GRID] += 1
    return zeros, present, fractions


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _sum_by_code(values, codes, size):
    """(size, 3): count, sum of the signed log in integer steps, sum of its square."""
    sums = np.zeros((size, 3), np.int64)
    for i in range(values.size):
        value = np.float64(values[i])
        if math.isnan(value) or codes[i] < 0:
            continue
        signed = math.copysign(math.log1p(min(abs(value), LARGEST)), value)
        step = np.int64(math.floor(signed * PARTS + 0.5))
        sums[codes[i], 0] += 1
        sums[codes[i], 1] += step
        sums[codes[i], 2] += step * step
    return sums


@njit(cache=True, error_model="numpy", inline="always")  # type: ignore[misc]
def _hash_of(bits):
    """A stable hash of a number by its bits as float32; the two zeros are one."""
    plain = np.uint64(bits) if bits != np.uint32(0x80000000) else np.uint64(0)
    return mix(plain + np.uint64(0x9E3779B97F4A7C15))


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _pull(digest, sums):
    """Add the signs of one value: bit by bit of the lower half of its hash."""
    for bit in range(sums.size):
        if (digest >> np.uint64(bit)) & np.uint64(1):
            sums[bit] += 1
        else:
            sums[bit] -= 1


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _pull_codes(codes, hashes, starts, ends):
    counts = np.zeros(starts.size, np.int64)
    sums = np.zeros((starts.size, SIGNS), np.int64)
    for i in range(starts.size):
        for row in range(starts[i], ends[i]):
            if codes[row] >= 0:
                counts[i] += 1
                _pull(hashes[codes[row]], sums[i])
    return counts, sums


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _pull_numbers(values, bits, starts, ends):
    counts = np.zeros(starts.size, np.int64)
    sums = np.zeros((starts.size, SIGNS), np.int64)
    for i in range(starts.size):
        for row in range(starts[i], ends[i]):
            if not math.isnan(values[row]):
                counts[i] += 1
                _pull(_hash_of(bits[row]), sums[i])
    return counts, sums


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _distinct_numbers(values, bits, most):
    """The distinct hashes below a threshold that halves when there are more than `most`."""
    level = 0
    table = np.zeros(most * 4, np.uint64)
    mask = np.uint64(table.size - 1)
    held = 0
    limit = np.uint64(0xFFFFFFFFFFFFFFFF)
    for i in range(values.size):
        if math.isnan(values[i]):
            continue
        digest = _hash_of(bits[i])
        if digest > limit or digest == 0:
            continue
        slot = digest & mask
        while table[slot] != 0 and table[slot] != digest:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] == digest:
            continue
        table[slot] = digest
        held += 1
        while held > most:
            level += 1
            limit = limit >> np.uint64(1)
            kept = table[(table != 0) & (table <= limit)]
            table[:] = 0
            held = kept.size
            for one in kept:
                slot = one & mask
                while table[slot] != 0:
                    slot = (slot + np.uint64(1)) & mask
                table[slot] = one
    return level, table[table != 0]
