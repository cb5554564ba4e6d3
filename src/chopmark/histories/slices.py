"""Pieces of histories, each seen from an instant: what tokens and aggregates are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import InvalidTable
from chopmark.histories.damage import check_codes

if TYPE_CHECKING:
    from chopmark.histories.histories import Histories


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """m pieces of histories, each seen from an instant.

    Pieces may overlap, repeat, or have no event. They are rows of `histories`, not copies.
    """

    histories: Histories
    starts: NDArray[np.int64]
    """(m,) first row of the piece."""
    ends: NDArray[np.int64]
    """(m,) row after the last of the piece."""
    now: NDArray[np.int64]
    """(m,) microseconds since 1970, not before the last event of the piece."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, which: slice | NDArray[Any] | list[int]) -> Slices:
        """Some of the pieces: by a slice, by indices or by a mask of booleans."""
        return Slices(self.histories, self.starts[which], self.ends[which], self.now[which])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(m,) number of events of each piece."""
        return self.ends - self.starts

    def rows(self) -> NDArray[np.int64]:
        """(n,) rows of `histories` of all pieces, piece after piece."""
        return _rows(self.starts, self.ends, int(self.lengths.sum()))  # type: ignore[no-any-return]

    def to_lists(self) -> pl.Series:
        """The pieces as a list column, one row per piece, oldest event first.

        Returns
        -------
        (m,) ``List(Struct{"type": String, "age": Int64, <fields>: Float64 | String})``; ``age``
        is now minus the time of the event in microseconds; a field without a value is null.

        Raises
        ------
        InvalidTable
            If a field is called ``age``: the word is taken.
        """
        histories = self.histories
        if "age" in histories.categories or "age" in histories.numbers:
            raise InvalidTable(
                "expected fields with names other than `age`, which is the age of an event in a "
                "list column; rename the field before the histories are made"
            )
        rows, lengths = self.rows(), self.lengths
        fields = [_texts(histories.categories["type"][rows], histories.words["type"], "type")]
        fields.append(pl.Series("age", np.repeat(self.now, lengths) - histories.times[rows]))
        for name, codes in histories.categories.items():
            if name != "type":
                fields.append(_texts(codes[rows], histories.words[name], name))
        for name, numbers in histories.numbers.items():
            fields.append(pl.Series(name, numbers[rows].astype(np.float64)).fill_nan(None))
        events = pl.DataFrame(fields).to_struct("events")
        # One list per piece: each piece's first rows are where the lengths add up to.
        pieces = pl.Series("piece", np.repeat(np.arange(len(self)), lengths))
        grouped = (
            pl.DataFrame([pieces, events]).group_by("piece", maintain_order=True).agg("events")
        )
        every = pl.DataFrame({"piece": np.arange(len(self))})
        joined = every.join(grouped, on="piece", how="left", maintain_order="left")["events"]
        empty = pl.Series([[]], dtype=pl.List(events.dtype))
        return joined.fill_null(empty) if joined.null_count() else joined


def _texts(codes: NDArray[np.integer], words: list[str], name: str) -> pl.Series:
    check_codes(name, codes, len(words))
    known = pl.Series(name, words, dtype=pl.String)
    places = pl.Series(codes.astype(np.int64))
    return known.gather(places.set(places < 0, None)).alias(name)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _rows(starts, ends, n):  # type: ignore[no-untyped-def]
    rows = np.empty(n, dtype=np.int64)
    at = 0
    for piece in range(len(starts)):
        for row in range(starts[piece], ends[piece]):
            rows[at] = row
            at += 1
    return rows
