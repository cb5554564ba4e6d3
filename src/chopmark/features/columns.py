"""Events as columns of numbers: the form in which the fold reads them.

Row r of `Columns.values` is a field of the schema (after the two times) as float64: numbers
as they are, booleans 0 and 1, times in microseconds, texts as codes, NaN where missing.
Row e of `Columns.entities` holds the 64-bit codes of an entity field, 0 where missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.events.event import Event
from chopmark.events.schema import Schema, type_name
from chopmark.features.catalog import TIMES
from chopmark.times import Instant, instant


@dataclass(slots=True)
class Columns:
    """Events as arrays, in the order of the log.

    Attributes
    ----------
    types : (n,) int64
        Position of the event type in the schema.
    happened_at, known_at : (n,) int64
        Microseconds since 1970.
    values : (2 + num_fields, n) float64
    entities : (num_entity_fields, n) int64
    ids : list of str
    texts : dict of str to list of (str or None)
        The text fields as they were, where asked for.
    """

    types: NDArray[np.int64]
    happened_at: NDArray[np.int64]
    known_at: NDArray[np.int64]
    values: NDArray[np.float64]
    entities: NDArray[np.int64]
    ids: Sequence[str] = ()
    texts: dict[str, Sequence[str | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.types)

    def chunks(self, size: int) -> Iterator["Columns"]:
        """Consecutive parts of at most ``size`` events."""
        for start in range(0, len(self), size):
            yield self._part(slice(start, start + size))

    def first(self, count: int) -> "Columns":
        """The first ``count`` events."""
        return self._part(slice(0, count))

    def _part(self, part: slice) -> "Columns":
        return Columns(
            self.types[part],
            self.happened_at[part],
            self.known_at[part],
            self.values[:, part],
            self.entities[:, part],
            self.ids[part],
            {name: texts[part] for name, texts in self.texts.items()},
        )


def from_events(
    events: Sequence[Event],
    schema: Schema,
    codes: Codes,
    *,
    fields: frozenset[str] | None = None,
    texts: frozenset[str] = frozenset(),
) -> Columns:
    """Columns of event objects whose ``known_at`` is set.

    Parameters
    ----------
    fields : set of str, optional
        Fields to fill in; all by default.
    texts : set of str
        Text fields to keep as texts.
    """
    n = len(events)
    columns = empty_columns(schema, n)
    positions = {name: position for position, name in enumerate(schema.types)}
    types = np.fromiter((positions[type_name(event)] for event in events), np.int64, n)
    columns.types[:] = types
    columns.happened_at[:] = [instant(event.happened_at) for event in events]
    columns.known_at[:] = [known_instant(event) for event in events]
    columns.values[0] = columns.known_at
    columns.values[1] = columns.happened_at
    columns.ids = [event.id for event in events]
    kept: dict[str, list[str | None]] = {name: [None] * n for name in texts}
    entity_row = {
        name: row
        for row, name in enumerate(name for name, spec in schema.fields.items() if spec.entity)
    }
    for position, name in enumerate(schema.types):
        where = np.flatnonzero(types == position)
        if len(where) == 0:
            continue
        chosen = [events[i] for i in where.tolist()]
        for field_name in schema.fields_of[name]:
            spec = schema.fields[field_name]
            row = len(TIMES) + _row_of(schema, field_name)
            if fields is not None and field_name not in fields | texts:
                continue
            given = [getattr(event, field_name) for event in chosen]
            if field_name in texts:
                for i, value in zip(where.tolist(), given, strict=True):
                    kept[field_name][i] = value
            if fields is not None and field_name not in fields:
                continue
            if spec.kind == "text":
                columns.values[row, where] = [
                    np.nan if value is None else codes.value(value) for value in given
                ]
                if spec.entity:
                    columns.entities[entity_row[field_name], where] = [
                        0 if value is None else codes.code(value) for value in given
                    ]
            elif spec.kind == "time":
                columns.values[row, where] = [
                    np.nan if value is None else float(instant(value)) for value in given
                ]
            else:
                columns.values[row, where] = [
                    np.nan if value is None else float(value) for value in given
                ]
    columns.texts.update(kept)
    return columns


def known_instant(event: Event) -> Instant:
    """When an event was known; one without ``known_at`` counts as known when it happened."""
    return instant(event.known_at or event.happened_at)


def empty_columns(schema: Schema, n: int) -> Columns:
    """Columns of n events without any values yet."""
    num_entities = sum(spec.entity is not None for spec in schema.fields.values())
    return Columns(
        np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.full((len(TIMES) + len(schema.fields), n), np.nan),
        np.zeros((num_entities, n), dtype=np.int64),
    )


def _row_of(schema: Schema, name: str) -> int:
    return list(schema.fields).index(name)
