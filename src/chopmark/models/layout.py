"""Events as weighted rows of one table: what a sequence network reads, in training and serving.

The vector of an event is a weighted sum of rows of one learned table: a row for each token, one
for each number of a type (weighted by its value: a heart rate is not a temperature), two
neighbouring knots for each time (weighted so that the vector moves evenly between them), one
for the place in the sequence. So the input layer of any encoder is one sum, and what may be
read is one list of rows and weights, computed here for torch and for the request path alike.

Serves B3, B4 and G32 of the requirements.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import ArtifactError
from chopmark.histories.batch import Batch

TIMES = ("gap", "same_gap", "age", "hour", "weekday")
"""What a network may know of the time of an event: seconds since the event before it, since the
last one of its type, and up to now; hour and weekday in UTC."""

NUM_KNOTS = 48
_LONGEST = 18.0  # log1p of two years in seconds
_SCALE = (NUM_KNOTS - 1) / _LONGEST
_WIDTHS = {"gap": NUM_KNOTS + 1, "same_gap": NUM_KNOTS + 1, "age": NUM_KNOTS + 1,
           "hour": 24, "weekday": 7}  # fmt: skip
_CODES = {name: code for code, name in enumerate(TIMES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which rows of the table an event is a sum of.

    Parameters
    ----------
    sizes
        Number of ids of each column of `Batch.ids` that is read, from the first on.
    num_numbers
        Columns of `Batch.numbers` that are read, from the first on.
    times
        Some of `TIMES`.
    buckets
        Whether times are cut into buckets, as the seed does, instead of moving between knots.
    positions
        Places in the sequence that have a row of their own, 0 for none.
    """

    sizes: tuple[int, ...]
    num_numbers: int = 0
    times: tuple[str, ...] = ()
    buckets: bool = False
    positions: int = 0
    _bases: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = (*self.sizes, self.num_numbers, self.positions)
        whole = all(isinstance(n, int) and 0 <= n < 1 << 31 for n in numbers)
        if not whole or not self.sizes or not set(self.times) <= set(TIMES):
            raise ArtifactError(f"expected sizes above 0 and times among {TIMES}, got {self!r}")
        # A type has a row of its own for each number.
        widths = (*self.sizes, *(self.sizes[0] for _ in range(self.num_numbers)),
                  *(_WIDTHS[name] for name in self.times), self.positions)  # fmt: skip
        bases = tuple(int(base) for base in np.cumsum((0, *widths)))
        object.__setattr__(self, "_bases", bases)

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return self._bases[-1]

    @property
    def num_terms(self) -> int:
        """Rows in the sum of one event."""
        knots = sum(1 if name in ("hour", "weekday") else 2 for name in self.times)
        return len(self.sizes) + self.num_numbers + knots + bool(self.positions)

    def terms(self, batch: Batch) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(n, num_terms) rows and their weights, of each event of a batch."""
        shape = (len(batch.log_gap), self.num_terms)
        rows, weights = np.empty(shape, np.int32), np.empty(shape, np.float32)
        _fill(
            np.array(self._bases, np.int64),
            len(self.sizes),
            self.num_numbers,
            np.array([_CODES[name] for name in self.times], np.int64),
            self.buckets,
            self.positions,
            batch.offsets,
            batch.ids,
            batch.numbers,
            batch.log_gap,
            batch.log_same_gap,
            batch.log_age,
            batch.hour,
            batch.weekday,
            rows,
            weights,
        )
        return rows, weights

    def rows_in(self, larger: "Layout") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the rows of this layout's table are in that of one with more ids.

        Returns
        -------
        (num_rows,) the row there of each row here; and (k, 2) the rows that are new there, each
        with the row here of its field's first bucket of unknown words.
        """
        rows, fresh = [], []
        for place, base in enumerate(self._bases[:-1]):
            size = self._bases[place + 1] - base
            there, beyond = larger._bases[place], larger._bases[place + 1]
            rows.append(there + np.arange(size))
            new = np.arange(there + size, beyond)
            fresh.append(np.column_stack([new, np.full(len(new), base + min(1, size - 1))]))
        return np.concatenate(rows), np.concatenate(fresh).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {name: value for name, value in asdict(self).items() if name != "_bases"}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """The layout that `to_dict` told.

        Raises
        ------
        ArtifactError
            If it is none.
        """
        try:
            return cls(
                sizes=tuple(found["sizes"]),
                num_numbers=found["num_numbers"],
                times=tuple(found["times"]),
                buckets=bool(found["buckets"]),
                positions=found["positions"],
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"expected the layout of a sequence network: {error}") from error


@njit(cache=True)
def _fill(  # type: ignore[no-untyped-def]
    bases, num_ids, num_numbers, times, buckets, positions, offsets, ids, numbers,
    log_gap, log_same_gap, log_age, hour, weekday, rows, weights,
):  # fmt: skip
    for piece in range(offsets.size - 1):
        first, last = offsets[piece], offsets[piece + 1]
        for i in range(first, last):
            at = 0
            for j in range(num_ids):
                rows[i, at] = bases[j] + ids[i, j]
                weights[i, at] = 1.0
                at += 1
            for j in range(num_numbers):
                rows[i, at] = bases[num_ids + j] + ids[i, 0]
                weights[i, at] = numbers[i, j]
                at += 1
            for j in range(times.size):
                base = bases[num_ids + num_numbers + j]
                kind = times[j]
                if kind == 3 or kind == 4:
                    rows[i, at] = base + (hour[i] if kind == 3 else weekday[i])
                    weights[i, at] = 1.0
                    at += 1
                    continue
                value = log_gap[i]
                if kind == 1:
                    value = log_same_gap[i]
                elif kind == 2:
                    value = log_age[i]
                low = np.int64(NUM_KNOTS)
                share = np.float32(0.0)  # the last row: there is no such time
                if value >= 0.0:
                    place = min(value * _SCALE, NUM_KNOTS - 1.0)
                    low = np.int64(min(place, NUM_KNOTS - 2.0))
                    share = np.float32(place - low)
                    if buckets:
                        low += np.int64(share >= 0.5)
                        share = np.float32(0.0)
                rows[i, at] = base + low
                weights[i, at] = np.float32(1.0) - share
                rows[i, at + 1] = base + min(low + 1, np.int64(NUM_KNOTS))
                weights[i, at + 1] = share
                at += 2
            if positions > 0:
                # The newest event has the last place that there is.
                newest = max(positions - (last - i), 0)
                rows[i, at] = bases[num_ids + num_numbers + times.size] + newest
                weights[i, at] = 1.0
