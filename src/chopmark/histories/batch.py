"""A batch: pieces of histories as numbers for a network, and the reader that makes it.

    ids       word -> id, number -> bin: one small integer per event and field
    numbers   clip((sign(x) log1p(|x|) - center) / scale): one float32 per event and number;
              center and scale may be those of the event's type
    times     what `chopmark.histories.moments` says of gaps, ages and the calendar

All is flat: the events of piece i are the rows ``offsets[i]:offsets[i + 1]``, and nothing is
padded. A `Reader` binds a tokenizer to one store of histories: words are looked up once, and
then a batch is a gathering of rows by numba, which sees no text. `rows_of` reads lists of
dicts, as requests bring them, and ends in the same kernels: both ways give the same bits.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# The kernels are typed by numba from their arguments; Reader and rows_of are the typed doors.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.histories.damage import damaged
from chopmark.histories.moments import moments

if TYPE_CHECKING:
    from chopmark.histories.histories import Histories
    from chopmark.histories.slices import Slices
    from chopmark.histories.tokenizer import Tokenizer

CLIP = 10.0
"""A standardised number stays within this: one wild amount may not drown a batch."""

_LARGEST = float(np.finfo(np.float32).max)
_MOST_MICROS = 2**62
_ONLY_DICTS = {dict}
_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pieces as numbers for a network: flat, no padding. b pieces, n events in all.

    Attributes
    ----------
    offsets : (b + 1,) int64
        Piece i has the rows ``offsets[i]:offsets[i + 1]``, oldest first.
    ids : (n, F) int32
        Id of each categorical field ("type" first), then the bin of each number.
    numbers : (n, K) float32
        Signed log of each number, standardised, within +-10; 0 where missing.
    log_gap, log_same_gap : (n,) float32
        log1p of the seconds since the previous event of the piece, and since the last one of
        the same type; -1 where there is none. Unknown types in one hash bucket count as one
        type, events without a type have none.
    log_age : (n,) float32
        log1p of the seconds to now.
    gap : (n,) float32
        Seconds since the previous event of the piece; 0 for its first.
    since_last : (b,) float32
        Seconds from the last event to now; 0 for an empty piece.
    hour, weekday : (n,) int8
        In UTC, Monday is 0; zeros where the piece was made from ages alone.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    numbers: NDArray[np.float32]
    log_gap: NDArray[np.float32]
    log_same_gap: NDArray[np.float32]
    log_age: NDArray[np.float32]
    gap: NDArray[np.float32]
    since_last: NDArray[np.float32]
    hour: NDArray[np.int8]
    weekday: NDArray[np.int8]

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(b,) number of events of each piece."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        """Number of events of all pieces."""
        return int(self.offsets[-1])


class Reader:
    """A tokenizer bound to one store of histories; made by `Tokenizer.reader`.

    Raises
    ------
    InvalidTable
        If a field is text in one and number in the other. A field that the histories lack
        is missing in every event.
    """

    def __init__(self, tokenizer: "Tokenizer", histories: "Histories") -> None:
        self.tokenizer = tokenizer
        self.histories = histories
        for name in tokenizer.fields:
            if name in histories.numbers:
                raise InvalidTable(_other_kind(name, "text", "a number"))
        for name in tokenizer.sources:
            if name in histories.categories:
                raise InvalidTable(_other_kind(name, "a number", "text"))
        self._columns = [
            (j, histories.categories[name], tokenizer.lookup(name, histories.words[name]))
            for j, name in enumerate(tokenizer.fields)
            if name in histories.categories
        ]
        self._numbers = [
            (k, histories.numbers[name])
            for k, name in enumerate(tokenizer.sources)
            if name in histories.numbers
        ]

    def batch(self, slices: "Slices") -> Batch:
        """The pieces as a batch, in their order. O(events), no copy of the histories.

        Raises
        ------
        InvalidInput
            If the slices are of other histories than those that the reader is bound to.
        InvalidTable
            If the histories are damaged: a code without a word, times that go backwards.
        """
        if slices.histories is not self.histories:
            raise InvalidInput(
                "the slices are of other histories than this reader; "
                "make one for them with tokenizer.reader(slices.histories)"
            )
        starts, ends = slices.starts, slices.ends
        offsets = np.zeros(len(starts) + 1, dtype=np.int64)
        np.cumsum(ends - starts, out=offsets[1:])
        n = int(offsets[-1])
        tokenizer = self.tokenizer
        ids = np.zeros((n, len(tokenizer.sizes)), dtype=np.int32)
        numbers = np.zeros((n, len(tokenizer.numbers)), dtype=np.float32)
        for j, codes, lookup in self._columns:
            if not _gather_ids(codes, lookup, starts, offsets, ids, j):
                raise damaged(f"category `{tokenizer.fields[j]}` has codes without words")
        for k, values in self._numbers:
            column = len(tokenizer.fields) + k
            _gather_numbers(values, *tokenizer.bins(k), starts, offsets, ids, column, numbers, k)
        times = np.empty(n, dtype=np.int64)
        _gather_times(self.histories.times, starts, offsets, times)
        if _falls(times, offsets):
            raise damaged("times of a user go backwards")
        calendar = self.histories.calendar
        return _finished(tokenizer, offsets, ids, numbers, times, slices.now, calendar=calendar)


def rows_of(tokenizer: "Tokenizer", values: Sequence[object]) -> Batch:
    """Lists of dicts as a batch: see `Tokenizer.batch_of_rows`."""
    pieces = [_piece(value) for value in values]
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    rows: list[dict[str, Any]] = pieces[0] if len(pieces) == 1 else _joined(pieces)
    n = len(rows)
    ids = np.zeros((n, len(tokenizer.sizes)), dtype=np.int32)
    numbers = np.zeros((n, len(tokenizer.numbers)), dtype=np.float32)
    times = _times([row.get("age") for row in rows])
    order = _order(times, offsets)
    if order is not None:
        rows = [rows[place] for place in order.tolist()]
        times = times[order]
    for j, name in enumerate(tokenizer.fields):
        ids[:, j] = tokenizer.ids_of(j, [row.get(name) for row in rows])
    starts = offsets[:-1]
    for k, name in enumerate(tokenizer.sources):
        column = len(tokenizer.fields) + k
        floats = _floats([row.get(name) for row in rows])
        _gather_numbers(floats, *tokenizer.bins(k), starts, offsets, ids, column, numbers, k)
    now = np.zeros(len(pieces), dtype=np.int64)
    return _finished(tokenizer, offsets, ids, numbers, times, now, calendar=False)


def _piece(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    if set(map(type, value)) <= _ONLY_DICTS or all(isinstance(row, dict) for row in value):
        return value
    # What is no event counts as one that says nothing, and leaves the others as they are.
    return [row if isinstance(row, dict) else {} for row in value]


def _joined(pieces: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for piece in pieces for row in piece]


_PLAIN = {float, int, bool, type(None)}


def _finished(
    tokenizer: "Tokenizer",
    offsets: NDArray[np.int64],
    ids: NDArray[np.int32],
    numbers: NDArray[np.float32],
    times: NDArray[np.int64],
    now: NDArray[np.int64],
    *,
    calendar: bool,
) -> Batch:
    # The type's id stands for the type, so that rows and columns agree without shared words.
    types = ids[:, 0] - np.int32(1)
    told = moments(
        times,
        types,
        offsets[:-1],
        offsets[1:],
        now,
        num_types=tokenizer.sizes[0] - 1,
        calendar=calendar,
    )
    return Batch(
        offsets=offsets,
        ids=ids,
        numbers=numbers,
        log_gap=told.log_gap,
        log_same_gap=told.log_same_gap,
        log_age=told.log_age,
        gap=told.gap,
        since_last=told.since_last,
        hour=told.hour,
        weekday=told.weekday,
    )


def _times(ages: list[Any]) -> NDArray[np.int64]:
    """(n,) int64 minus the age in microseconds; an age that is none counts as 0."""
    if not set(map(type, ages)) <= {int}:
        ages = [_age(age) for age in ages]
    try:
        micros = np.array(ages, dtype=np.int64)
    except OverflowError:
        micros = np.array([_age(age) for age in ages], dtype=np.int64)
    return -np.clip(micros, 0, _MOST_MICROS)


def _age(age: object) -> int:
    if not isinstance(age, _NUMBERS) or age != age:
        return 0
    return int(max(0, min(age, _MOST_MICROS)))  # type: ignore[call-overload, unused-ignore]


def _order(times: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The rows by piece and time, or None where they are so already. Equal times stay put."""
    if len(times) < 2 or not _falls(times, offsets):
        return None
    piece = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.lexsort((times, piece))


def _floats(values: list[Any]) -> NDArray[np.float32]:
    """(n,) float32 as a column holds them: NaN where the value is no number."""
    try:
        if set(map(type, values)) <= _PLAIN:
            floats = np.array(values, dtype=np.float64)
        else:
            floats = np.array([_float(value) for value in values], dtype=np.float64)
    except OverflowError:
        floats = np.array([_float(value) for value in values], dtype=np.float64)
    narrow: NDArray[np.float32] = _narrowed(floats)
    return narrow


def _float(value: object) -> float:
    if not isinstance(value, (*_NUMBERS, Decimal)):
        return math.nan
    try:
        return float(value)
    except ValueError:  # a Decimal that signals that it is none
        return math.nan
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _other_kind(name: str, expected: str, came: str) -> str:
    return (
        f"field `{name}` was {expected} where the tokenizer was fitted and is {came} in these "
        "histories; give it the same kind in both (categories= or numbers= of from_frame)"
    )


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _narrowed(values):
    """float64 to float32, beyond whose range lies infinity (numpy would warn of it)."""
    out = np.empty(values.size, np.float32)
    for i in range(values.size):
        out[i] = np.float32(values[i])
    return out


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _falls(times, offsets):
    for i in range(offsets.size - 1):
        for row in range(offsets[i] + 1, offsets[i + 1]):
            if times[row] < times[row - 1]:
                return True
    return False


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _gather_ids(codes, lookup, starts, offsets, ids, column):
    """``lookup[code + 1]`` of every event of every piece: entry 0 is that of the missing.

    False if a code has no entry.
    """
    for i in range(starts.size):
        shift = starts[i] - offsets[i]
        for row in range(offsets[i], offsets[i + 1]):
            code = np.int64(codes[row + shift]) + 1
            if code < 0 or code >= lookup.size:
                return False
            ids[row, column] = lookup[code]
    return True


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _gather_times(times, starts, offsets, out):
    for i in range(starts.size):
        shift = starts[i] - offsets[i]
        for row in range(offsets[i], offsets[i + 1]):
            out[row] = times[row + shift]


@njit(cache=True, error_model="numpy")  # type: ignore[misc]
def _gather_numbers(
    values, edges, centers, scales, starts, offsets, ids, column, numbers, k
):  # fmt: skip
    """Bin and standardised signed log: id 0 is missing, 1 is zero, 2 + i lies past i edges.

    With one centre the edges are among the values; with one per id of the type, among the
    standardised logs.
    """
    by_type = centers.size > 1
    for i in range(starts.size):
        shift = starts[i] - offsets[i]
        for row in range(offsets[i], offsets[i + 1]):
            value = np.float64(values[row + shift])
            if math.isnan(value):
                continue
            kind = np.int64(ids[row, 0]) if by_type else np.int64(0)
            signed = math.copysign(math.log1p(min(abs(value), _LARGEST)), value)
            scaled = min(max((signed - centers[kind]) / scales[kind], -CLIP), CLIP)
            numbers[row, k] = np.float32(scaled)
            if value == 0.0:
                ids[row, column] = 1
                continue
            asked = scaled if by_type else value
            low, high = 0, edges.size
            while low < high:
                middle = (low + high) >> 1
                if asked < edges[middle]:
                    high = middle
                else:
                    low = middle + 1
            ids[row, column] = 2 + low
