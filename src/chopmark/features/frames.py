"""Frames of events as columns, without making event objects: history by the million.

The only part of the fold's way that needs Polars; a service never imports it.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.errors import InvalidTable, did_you_mean
from chopmark.events.schema import Schema
from chopmark.features.catalog import TIMES
from chopmark.features.columns import Columns, empty_columns


def from_frame(
    frame: pl.DataFrame,
    schema: Schema,
    codes: Codes,
    *,
    fields: frozenset[str] | None = None,
    texts: frozenset[str] = frozenset(),
) -> Columns:
    """Columns of a frame with a row per event, without making event objects.

    The frame has ``type``, ``happened_at`` and ``known_at`` (datetimes, or int64
    microseconds), and a column for each field that any row has; its rows are in the order
    of the log.

    Parameters
    ----------
    fields, texts
        As for `chopmark.features.columns.from_events`.

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
    columns = empty_columns(schema, frame.height)
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
        if name in texts:
            columns.texts[name] = series.to_list()
        if fields is not None and name not in fields:
            continue
        if spec.kind == "text":
            known = codes.column(series.cast(pl.String).to_arrow().cast("large_string"))
            columns.values[row] = np.where(known == 0, np.nan, known >> 12)
            if spec.entity is not None:
                columns.entities[entity_row] = known
        elif spec.kind == "time":
            values = _micros(series).astype(np.float64)
            columns.values[row] = np.where(series.is_null().to_numpy(), np.nan, values)
        else:
            columns.values[row] = series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return columns


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
