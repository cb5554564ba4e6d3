"""Hand-made aggregates of pieces of histories: the strong plain baseline, for any schema.

Counts, recencies, gaps, sums, moments, slopes and decays, overall, over windows to now, by value
of each category, and of each number by type. What a careful analyst would write for any event
source, chosen automatically; it is what a network's embedding has to beat, and a good companion
to it. One compiled pass over the events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import InvalidTable
from chopmark.histories.histories import Histories
from chopmark.histories.slices import Slices
from chopmark.times import DAY, HOUR, MINUTE, SECOND, duration, duration_text

MOST_VALUES = 60
"""So many values of a category have columns of their own, at most."""
MOST_PAIRS = 400
"""So many pairs of a number and a type have columns of their own, at most."""

# Windows are drawn from lengths that people name; fractions of the span of the data pick them.
_LENGTHS = (
    SECOND, 10 * SECOND, MINUTE, 5 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY,
    3 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 90 * DAY, 180 * DAY, 365 * DAY, 730 * DAY, 1825 * DAY,
)  # fmt: skip
_FRACTIONS = (1 / 20, 1 / 6, 1 / 2)
_CHUNK = 1 << 20
"""Events that are gathered at a time."""
_HOURS = 4  # an hour's share is of a sixth of the day
_STATS = ("mean", "std", "min", "max", "first", "last", "slope")
_OVERALL = ("count", "sum", "last_minus_mean", "zero_share", "per_visit", *_STATS)
_CELLS = 10  # of a number: see _add


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was fitted: all that decides the columns."""

    windows: tuple[int, ...]
    values: dict[str, list[str]]  # category -> its values with columns
    numbers: tuple[str, ...]
    num_pairs: int  # types that have columns for each number


class Aggregates:
    """Hand-made columns of pieces of histories.

    Parameters
    ----------
    windows
        Durations to now such as ``("1d", "30d")``; None: three of them that fit the span of the
        pieces that `fit` sees (hours for a stay in hospital, months for a shop).
    most_values : int, >= 0
        So many values of each category have columns of their own.

    Examples
    --------
    >>> frame = pl.DataFrame({"user": ["a", "a"], "happened_at": [0, 60_000_000],
    ...                       "type": ["view", "buy"], "usd": [None, 20.0]})
    >>> pieces = Histories.from_frame(frame).every()
    >>> table = Aggregates(windows=("30s",)).fit(pieces).table(pieces)
    >>> table.select("count", "count_30s", "usd_sum", "seconds_since_type_view").row(0)
    (2.0, 1.0, 20.0, 60.0)
    """

    def __init__(
        self,
        *,
        windows: Sequence[str | timedelta] | None = None,
        most_values: int = MOST_VALUES,
    ) -> None:
        self._windows = None if windows is None else tuple(sorted(map(duration, windows)))
        self._most_values = most_values
        self._choice: _Choice | None = None

    def fit(self, slices: Slices) -> Self:
        """Choose the columns by pieces of training: windows, and the values seen most."""
        histories = slices.histories
        values = {}
        for name, codes in histories.categories.items():
            num_words = len(histories.words[name])
            seen, events = _spread(codes, slices.starts, slices.ends, num_words)
            # A value that hardly any piece has tells a model of nobody else.
            common = np.flatnonzero(seen >= max(1, len(slices) // 500))
            order = common[np.lexsort((common, -events[common]))][: self._most_values]
            values[name] = [histories.words[name][code] for code in order]
        numbers = tuple(histories.numbers)
        pairs = MOST_PAIRS // max(len(numbers), 1)
        self._choice = _Choice(
            windows=_fitting(slices) if self._windows is None else self._windows,
            values=values,
            numbers=numbers,
            num_pairs=min(pairs, len(values["type"])) if numbers else 0,
        )
        return self

    @property
    def columns(self) -> list[str]:
        """Names of the columns of `table`."""
        return _names(self._fitted())

    def table(self, slices: Slices) -> pl.DataFrame:
        """The aggregates of pieces, one row per piece, Float32; null where there is none.

        Parameters
        ----------
        slices
            Of the histories that `fit` saw, or of others: values are found by their text, and a
            field that is not there counts as missing.

        Notes
        -----
        Times enter as differences to now, save for active days and the shares of hours and
        weekdays, which are of the calendar in UTC. Infinite numbers count as missing. Slopes
        are per day. O(events + pieces * columns).
        """
        choice = self._fitted()
        names = _names(choice)
        out = np.empty((len(names), len(slices)), dtype=np.float32)
        codes, words, slots = _slots(slices.histories, choice)
        totals = np.concatenate([[0], np.cumsum(slices.lengths)])
        begin = 0
        while begin < len(slices):
            # As many pieces as fit, and one at least.
            end = int(np.searchsorted(totals, totals[begin] + _CHUNK, side="right")) - 1
            end = min(max(end, begin + 1), begin + 16_384, len(slices))
            out[:, begin:end] = self._chunk(slices[begin:end], choice, codes, words, slots).T
            begin = end
        return pl.DataFrame(dict(zip(names, out, strict=True))).fill_nan(None)

    def to_dict(self) -> dict[str, Any]:
        """What was fitted, as plain JSON."""
        choice = self._fitted()
        return {
            "windows": [duration_text(window) for window in choice.windows],
            "values": choice.values,
            "numbers": list(choice.numbers),
            "num_pairs": choice.num_pairs,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises
        ------
        InvalidTable
            If it is not what `to_dict` writes.
        """
        try:
            windows = tuple(duration(str(window)) for window in given["windows"])
            values = {
                str(name): [str(text) for text in texts] for name, texts in given["values"].items()
            }
            numbers = tuple(str(name) for name in given["numbers"])
            num_pairs = int(given["num_pairs"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidTable(
                f"expected aggregates as `to_dict` writes them, got {error!r}"
            ) from error
        if next(iter(values), "") != "type" or not 0 <= num_pairs <= len(values["type"]):
            raise InvalidTable(
                "expected aggregates with values of `type` first and no more pairs than these"
            )
        found = cls()
        found._choice = _Choice(windows, values, numbers, num_pairs)
        return found

    def _fitted(self) -> _Choice:
        if self._choice is None:
            raise InvalidTable("expected fitted aggregates; call `fit` with pieces of training")
        return self._choice

    def _chunk(
        self,
        slices: Slices,
        choice: _Choice,
        codes: list[NDArray[np.integer]],
        words: NDArray[np.int64],
        slots: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        rows = slices.rows()
        fields = np.empty((len(codes), len(rows)), dtype=np.int32)
        for place, column in enumerate(codes):
            fields[place] = column[rows]
        numbers = np.full((len(choice.numbers), len(rows)), np.nan, dtype=np.float32)
        for place, name in enumerate(choice.numbers):
            if name in slices.histories.numbers:
                numbers[place] = slices.histories.numbers[name][rows]
        offsets = np.zeros(len(slices) + 1, dtype=np.int64)
        np.cumsum(slices.lengths, out=offsets[1:])
        found = np.full((len(slices), len(_names(choice))), np.nan, dtype=np.float32)
        _aggregate(
            slices.histories.times[rows],
            offsets,
            slices.now,
            fields,
            words,
            slots,
            np.cumsum([0, *map(len, choice.values.values())]).astype(np.int64),
            numbers,
            np.array(choice.windows, dtype=np.int64),
            choice.num_pairs,
            found,
        )
        return found


def _fitting(slices: Slices) -> tuple[int, ...]:
    """Windows that cut the usual span from first event to now in parts of use."""
    some = slices.lengths > 0
    if not some.any():
        return (DAY, 7 * DAY, 30 * DAY, 90 * DAY)
    spans = slices.now[some] - slices.histories.times[slices.starts[some]]
    span = max(float(np.quantile(spans, 0.9)), 100.0 * SECOND)
    logs = np.log(np.array(_LENGTHS, dtype=np.float64))
    nearest = {_LENGTHS[int(np.abs(logs - np.log(span * part)).argmin())] for part in _FRACTIONS}
    return tuple(sorted(nearest))


def _slots(
    histories: Histories, choice: _Choice
) -> tuple[list[NDArray[np.integer]], NDArray[np.int64], NDArray[np.int32]]:
    """Codes by field, where each field's words begin, and each word's slot, -1 for none."""
    codes: list[NDArray[np.integer]] = []
    starts = [0]
    slots = []
    begin = 0
    for name, texts in choice.values.items():
        known = histories.words.get(name, [])
        column = histories.categories.get(name)
        codes.append(np.full(histories.num_events, -1, np.int16) if column is None else column)
        of_text = {text: begin + place for place, text in enumerate(texts)}
        slots.append(np.array([of_text.get(word, -1) for word in known], dtype=np.int32))
        starts.append(starts[-1] + len(known))
        begin += len(texts)
    return codes, np.array(starts, dtype=np.int64), np.concatenate(slots)


def _names(choice: _Choice) -> list[str]:
    """Names in the order in which `_aggregate` writes."""
    windows = [duration_text(window) for window in choice.windows]
    names = ["count", "visits", "active_days", "count_per_active_day", "count_per_visit"]
    names += ["seconds_since_last", "seconds_since_first", "seconds_first_to_last"]
    names += [f"gap_{stat}" for stat in ("mean", "std", "min", "max", "last")]
    names += [f"hour_{hour:02}_to_{hour + _HOURS - 1:02}_share" for hour in range(0, 24, _HOURS)]
    names += [f"{day}_share" for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")]
    names += [
        f"{what}_{window}"
        for window in windows
        for what in ("count", "visits", "decayed_count", "count_share")
    ]
    for name in choice.values:
        names += [f"{name}_distinct", f"{name}_entropy"]
    for name in choice.numbers:
        names += [f"{name}_{stat}" for stat in _OVERALL]
        names += [
            f"{name}_{what}_{window}" for window in windows for what in ("sum", "mean", "decayed")
        ]
    for name, texts in choice.values.items():
        for text in texts:
            value = f"{name}_{_slug(text)}"
            names += [f"count_of_{value}", f"share_of_{value}", f"seconds_since_{value}"]
            names += [f"count_of_{value}_{window}" for window in windows]
    for number in choice.numbers:
        for text in choice.values["type"][: choice.num_pairs]:
            names += [f"{number}_{stat}_of_type_{_slug(text)}" for stat in _STATS]
            names += [f"{number}_mean_of_type_{_slug(text)}_{window}" for window in windows[-2:]]
    return _unique(names)


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "_"


def _unique(names: list[str]) -> list[str]:
    """The names, with a number after those that came before."""
    taken: dict[str, None] = {}
    for name in names:
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken[unique] = None
    return list(taken)


# The kernels are typed by numba from their arguments; `Aggregates` is the typed door.


@njit(cache=True)  # type: ignore[untyped-decorator]
def _spread(codes, starts, ends, num_words):  # type: ignore[no-untyped-def]
    """Per code: pieces that have it, and events of these."""
    pieces = np.zeros(num_words, dtype=np.int64)
    events = np.zeros(num_words, dtype=np.int64)
    latest = np.full(num_words, -1, dtype=np.int64)
    for piece in range(len(starts)):
        for row in range(starts[piece], ends[piece]):
            code = codes[row]
            if 0 <= code < num_words:
                events[code] += 1
                if latest[code] != piece:
                    latest[code] = piece
                    pieces[code] += 1
    return pieces, events


@njit(cache=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator]
def _add(cell, value, days):  # type: ignore[no-untyped-def]
    """One value at a time in days into a cell: Welford's means and moments.

    n, mean, sum of squares, mean time, squares of time, products, min, max, first, last.
    """
    cell[0] += 1
    if cell[0] == 1:
        cell[6] = value
        cell[7] = value
        cell[8] = value
    off, off_days = value - cell[1], days - cell[3]
    cell[1] += off / cell[0]
    cell[3] += off_days / cell[0]
    cell[2] += off * (value - cell[1])
    cell[4] += off_days * (days - cell[3])
    cell[5] += off_days * (value - cell[1])
    cell[6] = min(cell[6], value)
    cell[7] = max(cell[7], value)
    cell[9] = value


@njit(cache=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator]
def _write(cell, out, at):  # type: ignore[no-untyped-def]
    """Mean, std, min, max, first, last and slope of a cell that has a value."""
    n = cell[0]
    out[at] = cell[1]
    out[at + 1] = np.sqrt(max(cell[2], 0.0) / n)
    out[at + 2] = cell[6]
    out[at + 3] = cell[7]
    out[at + 4] = cell[8]
    out[at + 5] = cell[9]
    # Times closer than a millisecond are one time: no line goes through them.
    if cell[4] > n * 1e-16:
        out[at + 6] = cell[5] / cell[4]


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _aggregate(  # type: ignore[no-untyped-def]
    times, offsets, now, fields, words, slots, begins, numbers, windows, num_pairs, out
):
    num_fields, num_numbers, num_windows = len(fields), len(numbers), len(windows)
    num_slots = begins[-1]
    seen = np.zeros(words[-1], dtype=np.int64)  # events of the piece by word
    of_slot = np.zeros((num_slots, num_windows + 1), dtype=np.int64)
    latest = np.zeros(num_slots, dtype=np.int64)
    cells = np.zeros((num_numbers, _CELLS))
    zeros = np.zeros(num_numbers)
    sums = np.zeros((num_numbers, num_windows, 3))  # sum, count, decayed
    pairs = np.zeros((num_numbers * num_pairs, _CELLS))
    recent = np.zeros((num_numbers * num_pairs, 2, 2))  # the two longest windows: sum, count
    hours = np.zeros(24 // _HOURS)
    weekdays = np.zeros(7)
    gaps = np.zeros(_CELLS)
    counts = np.zeros((num_windows, 3))  # events, visits, decayed
    two = min(num_windows, 2)
    for piece in range(len(now)):
        start, end, instant = offsets[piece], offsets[piece + 1], now[piece]
        row_out = out[piece]
        of_slot[:] = 0
        cells[:] = 0.0
        zeros[:] = 0.0
        sums[:] = 0.0
        pairs[:] = 0.0
        recent[:] = 0.0
        hours[:] = 0.0
        weekdays[:] = 0.0
        gaps[:] = 0.0
        counts[:] = 0.0
        visits = 0
        active = 0
        day_before = 0
        visit_before = 0
        for row in range(start, end):
            time = times[row]
            age = instant - time
            days = -age / 86.4e9
            hour = time // 3_600_000_000
            day = hour // 24
            hours[(hour % 24) // _HOURS] += 1
            weekdays[(day + 3) % 7] += 1
            if row == start or day != day_before:
                active += 1
                day_before = day
            fresh = row == start or time != visit_before
            if fresh:
                visits += 1
                if row > start:
                    _add(gaps, (time - visit_before) / 1e6, days)
                visit_before = time
            # The windows that hold the event are the last ones: they only grow.
            inside = num_windows
            while inside > 0 and age < windows[inside - 1]:
                inside -= 1
            for window in range(num_windows):
                weight = np.exp2(-age / windows[window])
                counts[window, 2] += weight
                if window >= inside:
                    counts[window, 0] += 1
                    counts[window, 1] += fresh
                for place in range(num_numbers):
                    value = numbers[place, row]
                    if np.isfinite(value):
                        sums[place, window, 2] += weight * value
                        if window >= inside:
                            sums[place, window, 0] += value
                            sums[place, window, 1] += 1
            kind = -1
            for field in range(num_fields):
                code = fields[field, row]
                if 0 <= code < words[field + 1] - words[field]:
                    seen[words[field] + code] += 1
                    slot = slots[words[field] + code]
                    if slot >= 0:
                        of_slot[slot, inside] += 1
                        latest[slot] = time
                        if field == 0 and slot < num_pairs:
                            kind = slot
            for place in range(num_numbers):
                value = np.float64(numbers[place, row])
                if np.isfinite(value):
                    _add(cells[place], value, days)
                    zeros[place] += value == 0.0
                    if kind >= 0:
                        pair = place * num_pairs + kind
                        _add(pairs[pair], value, days)
                        for last in range(two):
                            if inside <= num_windows - two + last:
                                recent[pair, last, 0] += value
                                recent[pair, last, 1] += 1
        n = end - start
        row_out[0] = n
        row_out[1] = visits
        row_out[2] = active
        if n > 0:
            row_out[3] = n / active
            row_out[4] = n / visits
            row_out[5] = (instant - times[end - 1]) / 1e6
            row_out[6] = (instant - times[start]) / 1e6
            row_out[7] = (times[end - 1] - times[start]) / 1e6
        if gaps[0] > 0:
            row_out[8] = gaps[1]
            row_out[9] = np.sqrt(max(gaps[2], 0.0) / gaps[0])
            row_out[10] = gaps[6]
            row_out[11] = gaps[7]
            row_out[12] = gaps[9]
        at = 13
        for part in range(24 // _HOURS):
            if n > 0:
                row_out[at + part] = hours[part] / n
        at += 24 // _HOURS
        for part in range(7):
            if n > 0:
                row_out[at + part] = weekdays[part] / n
        at += 7
        for window in range(num_windows):
            row_out[at] = counts[window, 0]
            row_out[at + 1] = counts[window, 1]
            row_out[at + 2] = counts[window, 2]
            if n > 0:
                row_out[at + 3] = counts[window, 0] / n
            at += 4
        for field in range(num_fields):
            base, size = words[field], words[field + 1] - words[field]
            distinct = 0
            total = 0
            logs = 0.0
            for row in range(start, end):
                code = fields[field, row]
                if 0 <= code < size:
                    count = seen[base + code]
                    if count > 0:
                        distinct += 1
                        total += count
                        logs += count * np.log(count)
                        seen[base + code] = 0
            row_out[at] = distinct
            if total > 0:
                row_out[at + 1] = np.log(total) - logs / total
            at += 2
        for place in range(num_numbers):
            cell = cells[place]
            row_out[at] = cell[0]
            row_out[at + 1] = cell[1] * cell[0]
            if cell[0] > 0:
                row_out[at + 2] = cell[9] - cell[1]
                row_out[at + 3] = zeros[place] / cell[0]
                row_out[at + 4] = cell[1] * cell[0] / visits
                _write(cell, row_out, at + 5)
            at += 12
            for window in range(num_windows):
                row_out[at] = sums[place, window, 0]
                if sums[place, window, 1] > 0:
                    row_out[at + 1] = sums[place, window, 0] / sums[place, window, 1]
                row_out[at + 2] = sums[place, window, 2]
                at += 3
        for slot in range(num_slots):
            count = 0
            for window in range(num_windows):
                count += of_slot[slot, window]
                row_out[at + 3 + window] = count
            count += of_slot[slot, num_windows]
            row_out[at] = count
            if n > 0:
                row_out[at + 1] = count / n
            if count > 0:
                row_out[at + 2] = (instant - latest[slot]) / 1e6
            at += 3 + num_windows
        for pair in range(num_numbers * num_pairs):
            if pairs[pair, 0] > 0:
                _write(pairs[pair], row_out, at)
                for last in range(two):
                    if recent[pair, last, 1] > 0:
                        row_out[at + 7 + last] = recent[pair, last, 0] / recent[pair, last, 1]
            at += 7 + two
