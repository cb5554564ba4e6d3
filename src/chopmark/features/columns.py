"""Events as columns of numbers: the form in which the fold reads them.

Row r of `Columns.values` is a field of the schema (after the two times) as float64: numbers
as they are, booleans 0 and 1, times in microseconds, texts as codes, NaN where missing.
Row e of `Columns.entities` holds the 64-bit codes of an entity field, 0 where missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.events.event import Event
from chopmark.events.schema import Schema, type_name
from chopmark.expressions import Codes
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
    events: Sequence[Event], schema: Schema, codes: Codes, *, texts: frozenset[str] = frozenset()
) -> Columns:
    """Columns of event objects whose ``known_at`` is set.

    Parameters
    ----------
    texts : set of str
        Text fields to keep as texts.
    """
    n = len(events)
    columns = _empty(schema, n)
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
            given = [getattr(event, field_name) for event in chosen]
            if spec.kind == "text":
                columns.values[row, where] = [
                    np.nan if value is None else codes.value(value) for value in given
                ]
                if spec.entity:
                    columns.entities[entity_row[field_name], where] = [
                        0 if value is None else codes.code(value) for value in given
                    ]
                if field_name in texts:
                    for i, value in zip(where.tolist(), given, strict=True):
                        kept[field_name][i] = value
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


def from_frame(
    frame: pl.DataFrame, schema: Schema, codes: Codes, *, texts: frozenset[str] = frozenset()
) -> Columns:
    """Columns of a frame with a row per event, without making event objects.

    The frame has ``type``, ``happened_at`` and ``known_at`` (datetimes, or int64
    microseconds), and a column for each field that any row has; its rows are in the order
    of the log.

    Raises
    ------
    InvalidTable
        If a column is missing or unknown, or ``known_at`` decreases.
    """
    for name in ("type", "happened_at", "known_at"):
        if name not in frame.columns:
            raise InvalidTable(
                f"expected a column `{name}` in the frame of events"
                + did_you_mean(name, frame.columns)
            )
    _check_columns(frame, schema)
    columns = _empty(schema, frame.height)
    unknown = set(frame["type"].unique().to_list()) - set(schema.types)
    if unknown:
        name = sorted(map(str, unknown))[0]
        raise InvalidTable(
            f"event type `{name}` in column `type` is not declared"
            + did_you_mean(name, schema.types)
        )
    kinds = pl.Enum(list(schema.types))
    columns.types[:] = frame["type"].cast(kinds).to_physical().to_numpy()
    columns.happened_at[:] = _micros(frame["happened_at"])
    columns.known_at[:] = _micros(frame["known_at"])
    if (np.diff(columns.known_at) < 0).any():
        raise InvalidTable("expected rows in the order of `known_at`; sort the frame by it")
    columns.values[0] = columns.known_at
    columns.values[1] = columns.happened_at
    if "id" in frame.columns:
        columns.ids = frame["id"].to_list()
    entity = 0
    for row, (name, spec) in enumerate(schema.fields.items(), start=len(TIMES)):
        entity_row = entity
        entity += spec.entity is not None
        if name not in frame.columns:
            continue
        series = frame[name]
        if spec.kind == "text":
            places, known = _encode(series, codes)
            columns.values[row] = (known >> 12).astype(np.float64)[places]
            columns.values[row][places == len(known) - 1] = np.nan
            if spec.entity is not None:
                columns.entities[entity_row] = known[places]
            if name in texts:
                columns.texts[name] = series.to_list()
        elif spec.kind == "time":
            values = _micros(series).astype(np.float64)
            columns.values[row] = np.where(series.is_null().to_numpy(), np.nan, values)
        else:
            columns.values[row] = series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return columns


def known_instant(event: Event) -> Instant:
    """When an event was known; one without ``known_at`` counts as known when it happened."""
    return instant(event.known_at or event.happened_at)


def _empty(schema: Schema, n: int) -> Columns:
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


def _encode(series: pl.Series, codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places into the codes of the unique texts; the last place is for missing, code 0."""
    encoded = series.cast(pl.String).to_arrow().cast("large_string").dictionary_encode()
    unique = encoded.dictionary.to_pylist()
    places = encoded.indices.fill_null(len(unique)).to_numpy(zero_copy_only=False)
    known = np.zeros(len(unique) + 1, dtype=np.int64)
    known[:-1] = [codes.code(text) for text in unique]
    return places.astype(np.int64), known


def _check_columns(frame: pl.DataFrame, schema: Schema) -> None:
    """Raise `InvalidTable` for a column that no event type has, or a time that is missing."""
    known = {"type", *(part for kind in schema.types.values() for part in kind.__struct_fields__)}
    for name in frame.columns:
        if name not in known:
            raise InvalidTable(
                f"expected columns that are fields of the event types, got `{name}`"
                + did_you_mean(name, known)
            )
    for name in ("happened_at", "known_at"):
        if frame[name].null_count():
            raise InvalidTable(f"expected a time in every row of column `{name}`, got none in some")


def _micros(series: pl.Series) -> NDArray[np.int64]:
    if series.dtype.is_integer():
        return series.cast(pl.Int64).fill_null(0).to_numpy()
    if not series.dtype.is_temporal():
        raise InvalidTable(
            f"expected datetimes or int64 microseconds in column `{series.name}`, got "
            f"{series.dtype}"
        )
    return series.dt.epoch("us").fill_null(0).to_numpy()
