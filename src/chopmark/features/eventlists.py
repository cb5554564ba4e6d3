"""Values of a sequence as arrays: flat columns with a count per row, no dict per event.

They become a list of dicts for one row (a record, an answer), and a Polars column for many (a
training table).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chopmark.features.sequence import EventList

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True, eq=False)
class EventLists:
    """The lists of n rows, with m events in all.

    Attributes
    ----------
    counts : (n,) int64
        Events of each row; -1 where the list is missing.
    types : (m,) int16
        Positions in ``type_names``.
    ages : (m,) int64
        Microseconds, >= 0.
    values : (m, num_fields) float64
        NaN where missing, codes for texts.
    type_names : tuple of str
    fields : tuple of (str, bool)
        Names, and whether it is a text.
    texts : dict of float to str
        Of each code.
    """

    counts: NDArray[np.int64]
    types: NDArray[np.int16]
    ages: NDArray[np.int64]
    values: NDArray[np.float64]
    type_names: tuple[str, ...]
    fields: tuple[tuple[str, bool], ...]
    texts: dict[float, str]

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def joined(cls, parts: Iterable["EventLists"]) -> "EventLists":
        """The rows of several, one after the other; all of one sequence of one fold."""
        parts = list(parts)
        first = parts[0]
        return cls(
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.types for part in parts]),
            np.concatenate([part.ages for part in parts]),
            np.concatenate([part.values for part in parts]),
            first.type_names,
            first.fields,
            first.texts,
        )

    def to_list(self) -> list[EventList | None]:
        """One list of dicts per row, None where it is missing; absent fields are left out."""
        events = dicts(self.types, self.ages, self.values, self.type_names, self.fields, self.texts)
        rows: list[EventList | None] = []
        first = 0
        for count in self.counts.tolist():
            rows.append(None if count < 0 else events[first : first + count])
            first += max(count, 0)
        return rows

    def to_series(self, name: str) -> "pl.Series":
        """A Polars column of dtype ``List(Struct{"type", "age", ...})``, null where missing."""
        import polars as pl
        import pyarrow as pa

        columns = {
            "type": pl.Series(self.type_names, dtype=pl.String).gather(self.types),
            "age": pl.Series(self.ages),
        }
        for place, (field, is_text) in enumerate(self.fields):
            column = pl.Series(np.ascontiguousarray(self.values[:, place]), nan_to_null=True)
            if is_text:
                codes = column.drop_nulls().unique()
                known = pl.Series([self.texts[code] for code in codes.to_list()], dtype=pl.String)
                column = column.replace_strict(codes, known, default=None, return_dtype=pl.String)
            columns[field] = column
        structs = pl.DataFrame(columns).to_struct("events")
        offsets = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(np.maximum(self.counts, 0), out=offsets[1:])
        flat = structs.to_arrow(compat_level=pl.CompatLevel.newest())
        lists = pa.LargeListArray.from_arrays(offsets, flat, mask=pa.array(self.counts < 0))
        return pl.Series(name, pl.from_arrow(lists)).cast(pl.List(structs.dtype))


def as_served(value: list[dict[str, Any]] | None) -> EventList | None:
    """A list of a table's column as `Fold.step` gives it: absent fields left out.

    Examples
    --------
    >>> as_served([{"type": "login", "age": 5, "country": None}])
    [{'type': 'login', 'age': 5}]
    """
    if value is None:
        return None
    return [{name: part for name, part in one.items() if part is not None} for one in value]


def dicts(
    types: NDArray[np.int16],
    ages: NDArray[np.int64],
    values: NDArray[np.float64],
    type_names: tuple[str, ...],
    fields: tuple[tuple[str, bool], ...],
    texts: dict[float, str],
) -> EventList:
    """The events of flat columns as dicts."""
    events: EventList = [
        {"type": type_names[kind], "age": age}
        for kind, age in zip(types.tolist(), ages.tolist(), strict=True)
    ]
    for place, (field, is_text) in enumerate(fields):
        column = values[:, place].tolist()
        if is_text:
            for event, value in zip(events, column, strict=True):
                if value == value:
                    event[field] = texts[value]
        else:
            for event, value in zip(events, column, strict=True):
                if value == value:
                    event[field] = value
    return events
