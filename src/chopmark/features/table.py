"""Training tables: the log replayed, one row per event to learn from, with its label.

A row holds the features of its event before it, exactly as serving gave or would have given
them, and a label that was learned later. Labels are point-in-time too: a table made "as of"
an instant knows nothing that was learned after it, and a row too young for its label to
have come is not called good (rows C7, C8).
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import FeatureError, InvalidTable
from chopmark.events.event import Event
from chopmark.expressions import compile_program, parse, run
from chopmark.features.catalog import TIMES, Catalog
from chopmark.features.columns import Columns
from chopmark.features.eventlists import EventLists
from chopmark.features.fold import Fold
from chopmark.features.label import Label
from chopmark.times import Instant, duration, moment


def training_table(
    catalog: Catalog,
    batches: Iterable[Sequence[Event] | Columns],
    *,
    rows: Sequence[str],
    label: Label | None = None,
    fold: Fold | None = None,
    until: Instant | None = None,
    immature: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """The features, and the label, of all events of some types.

    Parameters
    ----------
    batches : iterable of events or Columns
        The log, in order (`EventLog.read`); columns must come from the given fold's codes.
    rows : sequence of str
        Event types that become rows.
    label : Label, optional
        Adds columns ``label`` (1 bad, 0 good, null unknown) and ``label_known_at``.
    fold : Fold, optional
        The state to go on from; a new one by default.
    until : Instant, optional
        The instant as of which the labels are known: by default the end of the log.
    immature : bool
        Whether to keep the rows that are too young. They are left out otherwise, the bad ones
        too: a young row is in the table only if it is known to be bad, and a model would learn
        that youth is bad.
    on_progress : callable, optional
        Called with the number of events folded so far.

    Returns
    -------
    DataFrame
        ``event_id``, ``as_of`` (datetime, UTC), one column per feature, and the label. That of
        a `Sequence` has dtype ``List(Struct{"type": String, "age": Int64, <fields>: Float64 or
        String})``.
    """
    fold = fold or Fold(catalog)
    schema = catalog.schema
    for name in (*rows, *(label.events if label else ())):
        if name not in schema.types:
            raise FeatureError(f"the table reads event `{name}`, which the schema lacks")
    places = [list(schema.types).index(name) for name in rows]
    parts: list[pl.DataFrame] = []
    lists: dict[str, list[EventLists]] = {}
    labels = _Labels(label, fold) if label is not None else None
    num_events, clock = 0, 0
    for batch in batches:
        columns = (
            batch
            if isinstance(batch, Columns)
            else fold.columns_of(batch, also=labels.fields if labels else frozenset())
        )
        if len(columns) == 0:
            continue
        if until is not None:
            columns = _before(columns, until)
        wanted = np.isin(columns.types, places)
        for replayed in fold.replay(columns, wanted=wanted):
            if len(replayed.rows):
                parts.append(_frame(catalog, columns, replayed.rows, replayed.values, num_events)
                             .with_columns(pl.Series(name, texts, dtype=pl.String)
                                           for name, texts in replayed.texts.items()))  # fmt: skip
                for name, part in replayed.lists.items():
                    lists.setdefault(name, []).append(part)
                if labels is not None:
                    labels.add_rows(columns, replayed.rows)
        if labels is not None:
            labels.add_labels(columns)
        num_events += len(columns)
        if len(columns):
            clock = int(columns.known_at[-1])
        if on_progress is not None:
            on_progress(num_events)
    if not parts:
        raise InvalidTable(
            f"expected events of type {', '.join(f'`{name}`' for name in rows)} in the log, got "
            f"none among {num_events} events"
        )
    table = pl.concat(parts).with_columns(
        EventLists.joined(several).to_series(name) for name, several in lists.items()
    )
    if labels is None:
        return table
    table = table.hstack(labels.columns(until if until is not None else Instant(clock)))
    if immature:
        return table
    assert label is not None
    return _as_known(table, label, until if until is not None else Instant(clock))


def _as_known(table: pl.DataFrame, label: Label, until: Instant) -> pl.DataFrame:
    """The rows that had matured by an instant, with their labels as they were known then.

    Left out too are the rows that came after their own label was known: features such as a
    count of chargebacks already hold it, and nobody needs a score for them.

    """
    late = (pl.col("label_known_at") <= pl.col("as_of")).fill_null(False)
    at = pl.lit(moment(until))
    ripe = pl.col("as_of") <= pl.lit(moment(until - duration(label.matures)))
    known = (pl.col("label_known_at") <= at).fill_null(False)
    return table.filter(ripe & ~late).with_columns(
        known.cast(pl.Int8).alias("label"),
        pl.when(known).then(pl.col("label_known_at")).alias("label_known_at"),
    )


class _Labels:
    """Joins rows to what was learned about them later."""

    def __init__(self, label: Label, fold: Fold) -> None:
        schema = fold.catalog.schema
        self.label = label
        self.codes = fold.codes
        self.types = [list(schema.types).index(name) for name in label.events]
        names = list(schema.fields)
        if label.by not in names:
            raise FeatureError(f"the label joins by field `{label.by}`, which the schema lacks")
        self.row = len(TIMES) + names.index(label.by)
        self.fields = frozenset({label.by})
        self.program = None
        if label.where is not None:
            kinds = {name: field.kind for name, field in schema.fields.items()}
            places = {name: len(TIMES) + place for place, name in enumerate(names)}
            expression = parse(label.where, kinds)
            if expression.kind != "boolean":
                raise FeatureError(
                    f"the label's condition `{label.where}` is a {expression.kind}; expected a "
                    "boolean"
                )
            self.fields |= set(expression.reads)
            # The result goes behind the fields, into a row of its own.
            target = len(TIMES) + len(names)
            self.program = compile_program([(expression, target)], places, fold.codes)
        self.keys: list[NDArray[np.float64]] = []
        self.times: list[NDArray[np.int64]] = []
        self.known: dict[float, int] = {}

    def add_rows(self, columns: Columns, rows: NDArray[np.int64]) -> None:
        if self.label.refers:
            if not columns.ids:
                raise InvalidTable("a label that refers to events needs their ids: column `id`")
            ids = [self.codes.value(columns.ids[row]) for row in rows.tolist()]
            self.keys.append(np.array(ids, dtype=np.float64))
        else:
            self.keys.append(columns.values[self.row, rows])
        self.times.append(columns.known_at[rows])

    def add_labels(self, columns: Columns) -> None:
        places = np.flatnonzero(np.isin(columns.types, self.types))
        if len(places) == 0:
            return
        values = columns.values[:, places]
        if self.program is not None:
            matrix = np.vstack([values, np.full((1, len(places)), np.nan)])
            scratch = np.zeros((max(self.program.num_temporaries, 1), len(places)))
            run(self.program.code, self.program.constants, matrix, scratch, len(places))
            held = matrix[-1] == 1.0
            places, values = places[held], values[:, held]
        for key, known_at in zip(
            values[self.row].tolist(), columns.known_at[places].tolist(), strict=True
        ):
            self.known.setdefault(key, known_at)

    def columns(self, until: Instant) -> list[pl.Series]:
        keys, times = np.concatenate(self.keys), np.concatenate(self.times)
        known_at = np.array([self.known.get(key, -1) for key in keys.tolist()], dtype=np.int64)
        ripe = times <= until - duration(self.label.matures)
        label = pl.Series("label", np.where(known_at >= 0, 1, 0).astype(np.int8))
        unknown = pl.Series(~ripe & (known_at < 0))
        when = pl.Series("label_known_at", known_at).cast(pl.Datetime("us", "UTC"))
        return [
            pl.select(pl.when(unknown).then(None).otherwise(label).alias("label")).to_series(),
            pl.select(pl.when(pl.Series(known_at >= 0)).then(when).alias("label_known_at"))
            .to_series(),
        ]  # fmt: skip


def _frame(
    catalog: Catalog,
    columns: Columns,
    rows: NDArray[np.int64],
    values: NDArray[np.float64],
    first: int,
) -> pl.DataFrame:
    data: dict[str, pl.Series] = {
        "event_id": pl.Series([columns.ids[row] for row in rows.tolist()], dtype=pl.String)
        if len(columns.ids)
        else pl.Series((rows + first).astype(str)),  # without ids: the place in the log
        "as_of": pl.Series(columns.known_at[rows]).cast(pl.Datetime("us", "UTC")),
    }
    for output, column in zip(catalog.outputs, values, strict=True):
        data[output.name] = pl.Series(column, nan_to_null=True)
    return pl.DataFrame(data)


def _before(columns: Columns, until: Instant) -> Columns:
    """The events known by an instant."""
    count = int(np.searchsorted(columns.known_at, until, side="right"))
    return columns.first(count)
