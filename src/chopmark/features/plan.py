"""The plan: feature declarations laid out as the tables that drive the kernel.

Aggregates over the same events of the same entity share one stream; all streams of one
kind of entity share one cell. Every table is a two-dimensional int64 array, one row per
thing; the constants below name its columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import FeatureError, did_you_mean
from chopmark.events.schema import Schema
from chopmark.features.aggregate import Aggregate, LabelRate
from chopmark.features.feature import EVERYONE
from chopmark.features.lookup import Lookup
from chopmark.features.sequence import Sequence as EventSequence
from chopmark.times import duration

Table = NDArray[np.int64]

# A visit: an event type touches an entity, reads some of its streams and feeds others.
V_ENTITY, V_KIND, V_WIDTH, V_READ0, V_READ1, V_FEED0, V_FEED1 = range(7)
# A stream: where its block is in the cell, the width of its records, and its parts.
(
    S_CELL, S_RECORD, S_WINDOW0, S_WINDOW1, S_FIELD0, S_FIELD1, S_LIFE0, S_LIFE1, S_OUT0, S_OUT1,
) = range(10)  # fmt: skip
# A window of a stream: length in microseconds, its oldest record, its accumulators.
W_LENGTH, W_TAIL, W_ACC0, W_ACC1 = range(4)
# An accumulator: what it does, with which field (-1: none), where in the block.
A_KIND, A_FIELD, A_CELL = range(3)
# A field of a stream: its column, and the words that it has in a record and in the block.
(F_ROW, F_VALUE, F_SUPERSEDED, F_MAX, F_MAX_HEAD, F_MIN, F_MIN_HEAD) = range(7)
# An output: how a feature's value is made from words of the block, and its column.
O_OP, O_ROW, O_A, O_B, O_C, O_FIELD = range(6)
# A label rate: blocks of the attribute and of the holder, delay, and its column.
P_ATTRIBUTE_CELL, P_HOLDER_CELL, P_DELAY, P_ROW = range(4)

(
    ACC_COUNT, ACC_SUM, ACC_SQUARES, ACC_DISTINCT, ACC_MAX, ACC_MIN,
    LIFE_MAX, LIFE_MIN, LIFE_LAST, LIFE_LAST_TIME, LIFE_FIRST,
) = range(11)  # fmt: skip
_ACC_WORDS = {ACC_SQUARES: 4, LIFE_MAX: 2, LIFE_MIN: 2, LIFE_LAST: 3, LIFE_LAST_TIME: 2}
_ACC_WORDS[LIFE_FIRST] = 2
(
    OUT_COUNT, OUT_SUM, OUT_MEAN, OUT_STD, OUT_EXTREME, OUT_LAST,
    OUT_LIFE_EXTREME, OUT_LIFE_LAST, OUT_SECONDS_SINCE,
) = range(9)  # fmt: skip

# Words of the state's header.
BUMP, NUM_CELLS, NUM_MARKS, CLOCK = 0, 1, 2, 3
HEADER_WORDS = 8

RECORD_HEAD = 3
BLOCK_HEAD = 2
PAIR_WIDTH = 6
ATTRIBUTE_WORDS, HOLDER_WORDS = 4, 2


@dataclass(frozen=True, slots=True)
class Plan:
    """The tables that `chopmark.features.kernel.advance` is driven by.

    Attributes
    ----------
    ranges : (num_event_types, 4)
        Visits, and uses of label rates, of each event type.
    tables : tuple of arrays
        All tables in the order in which the kernel takes them, `ranges` first.
    max_words, max_cells, max_marks : int
        What one event can add to the state at most.
    """

    ranges: Table
    tables: tuple[NDArray[np.int64] | NDArray[np.float64], ...]
    num_streams: int
    max_visits: int
    max_words: int
    max_cells: int
    max_marks: int


@dataclass(slots=True)
class _Field:
    row: int
    scale: float
    value: int = 0
    superseded: int = 0
    extremes: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Stream:
    """One stream while its layout grows."""

    events: tuple[str, ...]
    by: str
    kind: str
    condition: int
    windows: tuple[int, ...] = ()
    fields: dict[str, _Field] = field(default_factory=dict)
    accs: dict[tuple[int, int, str], int] = field(default_factory=dict)
    tails: dict[int, int] = field(default_factory=dict)
    outs: list[tuple[int, int, int, int, int, str]] = field(default_factory=list)
    words: int = BLOCK_HEAD
    record: int = RECORD_HEAD
    cell: int = 0

    def acc(self, kind: int, window: int, of: str | None) -> int:
        """The place in the block of an accumulator, made if it is new (window 0: life)."""
        wanted = (kind, window, of or "")
        if wanted not in self.accs:
            self.accs[wanted] = self.words
            self.words += _ACC_WORDS.get(kind, 1)
        return self.accs[wanted]

    def extreme(self, kind: int, of: str) -> int:
        """The word of a record that links the maxima (minima) of a field."""
        known = self.fields[of].extremes
        if kind not in known:
            known[kind] = (self.record, self.words)
            self.record += 2
            self.words += 1
        return known[kind][0]


class PlanBuilder:
    """Lays out declarations one after the other; `build` gives the plan.

    Parameters
    ----------
    field_rows : mapping of str to int
        Column of each field of the schema.
    entity_rows : mapping of str to int
        Row of each entity field in the matrix of entity codes.
    """

    def __init__(
        self, schema: Schema, field_rows: Mapping[str, int], entity_rows: Mapping[str, int]
    ) -> None:
        self.schema = schema
        self.field_rows = field_rows
        self.entity_rows = entity_rows
        self.streams: dict[tuple[tuple[str, ...], str, int], _Stream] = {}
        self.rates: list[tuple[LabelRate, int, int]] = []

    def add_aggregate(self, feature: Aggregate, row: int, condition: int) -> None:
        """Lay out an aggregate whose value goes to a column; condition -1 is none."""
        stream = self._stream(feature.events, feature.by, condition)
        window = duration(feature.window) if feature.window else 0
        if window and window not in stream.windows:
            stream.windows = tuple(sorted((*stream.windows, window)))
            stream.tails[window] = stream.words
            stream.words += 1
        of = feature.of or ""
        if of:
            self._field(stream, of, windowed=window > 0)
        op = feature.op
        if op == "count":
            stream.outs.append((OUT_COUNT, row, stream.acc(ACC_COUNT, window, None), 0, 0, ""))
        elif op == "sum":
            stream.outs.append((OUT_SUM, row, stream.acc(ACC_SUM, window, of), 0, 0, of))
        elif op in ("mean", "std"):
            total = stream.acc(ACC_SUM, window, of)
            count = stream.acc(ACC_COUNT, window, of)
            squares = stream.acc(ACC_SQUARES, window, of) if op == "std" else 0
            kind = OUT_STD if op == "std" else OUT_MEAN
            stream.outs.append((kind, row, total, count, squares, of))
        elif op == "distinct":
            if window and not stream.fields[of].superseded:
                stream.fields[of].superseded = stream.record
                stream.record += 1
            # The value is a count, not a number of the field's steps: no field, no scale.
            stream.outs.append((OUT_COUNT, row, stream.acc(ACC_DISTINCT, window, of), 0, 0, ""))
        elif op in ("max", "min") and window:
            kind = ACC_MAX if op == "max" else ACC_MIN
            link = stream.extreme(kind, of)
            stream.outs.append((OUT_EXTREME, row, stream.acc(kind, window, of), link, 0, of))
        elif op in ("max", "min"):
            kind = LIFE_MAX if op == "max" else LIFE_MIN
            stream.outs.append((OUT_LIFE_EXTREME, row, stream.acc(kind, 0, of), 0, 0, of))
        elif op == "last" and window:
            stream.outs.append((OUT_LAST, row, stream.tails[window], 0, 0, of))
        elif op == "last":
            stream.outs.append((OUT_LIFE_LAST, row, stream.acc(LIFE_LAST, 0, of), 0, 0, of))
        else:
            kind = LIFE_FIRST if op == "seconds_since_first" else LIFE_LAST_TIME
            stream.outs.append((OUT_SECONDS_SINCE, row, stream.acc(kind, 0, None), 0, 0, ""))

    def add_lookup(self, feature: Lookup, row: int) -> None:
        """Lay out a lookup whose value goes to a column."""
        self.add_aggregate(Aggregate(feature.event, "last", by=feature.by, of=feature.of), row, -1)

    def add_rate(self, feature: LabelRate, row: int, condition: int) -> None:
        """Lay out a label rate; the condition is one on the label event."""
        self.rates.append((feature, row, condition))

    def build(self) -> Plan:
        """The plan of all that was added."""
        kinds = sorted(
            {stream.kind for stream in self.streams.values()}
            | {self._kind(name) for rate, _, _ in self.rates for name in (rate.of, rate.holder)}
        )
        widths = dict.fromkeys(kinds, 0)
        streams = list(self.streams.values())
        for stream in streams:
            stream.cell = widths[stream.kind]
            widths[stream.kind] += stream.words
        rates = []
        for rate, row, _ in self.rates:
            attribute, holder = self._kind(rate.of), self._kind(rate.holder)
            place = widths[attribute]
            widths[attribute] += ATTRIBUTE_WORDS
            rates.append((place, widths[holder], duration(rate.delay), row))
            widths[holder] += HOLDER_WORDS
        tables, scales = _stream_tables(streams)
        visits, reads, feeds, uses, ranges = self._visits(streams, kinds, widths)
        feeding = [
            [streams[s] for s, _ in feeds[visit[V_FEED0] : visit[V_FEED1]]] for visit in visits
        ]
        words = [
            visit[V_WIDTH] + sum(stream.record for stream in fed)
            for visit, fed in zip(visits, feeding, strict=True)
        ]
        marks = [
            sum(kind == ACC_DISTINCT for stream in fed for kind, _, _ in stream.accs)
            for fed in feeding
        ]
        most_marks = max((sum(marks[first:last]) for first, last, _, _ in ranges), default=0)
        max_visits = max((last - first for first, last, _, _ in ranges), default=0)
        pairs = len(self.rates)
        columns = _table(ranges, 4)
        return Plan(
            ranges=columns,
            tables=(
                columns, _table(visits, 7), np.array(reads or [0], dtype=np.int64),
                _table(feeds, 2), *tables[:4], scales, tables[4], _table(rates, 4),
                _table(uses, 5),
            ),
            num_streams=max(len(streams), 1),
            max_visits=max(max_visits, 1),
            max_words=pairs * PAIR_WIDTH
            + max((sum(words[first:last]) for first, last, _, _ in ranges), default=0),
            max_cells=max_visits,
            max_marks=pairs + most_marks,
        )  # fmt: skip

    def _stream(self, events: tuple[str, ...], by: str, condition: int) -> _Stream:
        key = (events, by, condition)
        if key not in self.streams:
            self.streams[key] = _Stream(events, by, self._kind(by), condition)
        return self.streams[key]

    def _field(self, stream: _Stream, name: str, *, windowed: bool) -> None:
        if name not in stream.fields:
            declared = self.schema.fields[name]
            scale = 10.0**declared.decimals if declared.kind == "number" else 1.0
            stream.fields[name] = _Field(self.field_rows[name], scale)
        if windowed and not stream.fields[name].value:
            stream.fields[name].value = stream.record
            stream.record += 1

    def _kind(self, by: str) -> str:
        return EVERYONE if by == EVERYONE else self.schema.fields[by].entity or ""

    def _source(self, event: str, by: str) -> str | None:
        return source_of(self.schema, event, by)

    def _visits(
        self, streams: Sequence[_Stream], kinds: list[str], widths: Mapping[str, int]
    ) -> tuple[list[list[int]], list[int], list[tuple[int, int]], list[list[int]], list[list[int]]]:
        visits: list[list[int]] = []
        reads: list[int] = []
        feeds: list[tuple[int, int]] = []
        uses: list[list[int]] = []
        ranges: list[list[int]] = []
        for event in self.schema.types:
            first_visit, first_use = len(visits), len(uses)
            reading: dict[str, list[int]] = {}
            feeding: dict[str, list[tuple[int, int]]] = {}
            for position, stream in enumerate(streams):
                source = self._source(event, stream.by)
                if source is not None:
                    reading.setdefault(source, []).append(position)
                if event in stream.events:
                    feeding.setdefault(stream.by, []).append((position, stream.condition))
            for rate, _, _ in self.rates:
                for name in (rate.of, rate.holder):
                    source = self._source(event, name)
                    if source is not None:
                        reading.setdefault(source, [])
            sources = list(dict.fromkeys([*reading, *feeding]))
            for source in sources:
                kind = self._kind(source)
                row = -1 if source == EVERYONE else self.entity_rows[source]
                read0, feed0 = len(reads), len(feeds)
                reads += reading.get(source, [])
                feeds += feeding.get(source, [])
                visits.append(
                    [row, kinds.index(kind), widths[kind], read0, len(reads), feed0, len(feeds)]
                )
            uses += self._rate_uses(event, sources)
            ranges.append([first_visit, len(visits), first_use, len(uses)])
        return visits, reads, feeds, uses, ranges

    def _rate_uses(self, event: str, sources: list[str]) -> list[list[int]]:
        """Reads of label rates come before joins, and joins before labels."""
        uses = []
        for position, (rate, _, condition) in enumerate(self.rates):
            attribute, holder = self._source(event, rate.of), self._source(event, rate.holder)
            if attribute is not None:
                uses.append([0, position, sources.index(attribute), -1, -1])
            if event in rate.events and attribute is not None and holder is not None:
                places = [sources.index(attribute), sources.index(holder)]
                uses.append([1, position, *places, -1])
            if event in rate.labels and holder is not None:
                uses.append([2, position, -1, sources.index(holder), condition])
        return sorted(uses)


def _stream_tables(streams: Sequence[_Stream]) -> tuple[list[Table], NDArray[np.float64]]:
    """Tables of streams, windows, accumulators, fields and outputs; scales of the fields."""
    rows: list[list[int]] = []
    windows: list[list[int]] = []
    accs: list[list[int]] = []
    fields: list[list[int]] = []
    outs: list[list[int]] = []
    scales: list[float] = []
    for stream in streams:
        place_of = {name: len(fields) + place for place, name in enumerate(stream.fields)}
        place_of[""] = -1
        first_window, first_field = len(windows), len(fields)
        for known in stream.fields.values():
            maxima, minima = (
                known.extremes.get(ACC_MAX, (0, 0)),
                known.extremes.get(ACC_MIN, (0, 0)),
            )
            fields.append([known.row, known.value, known.superseded, *maxima, *minima])
            scales.append(known.scale)
        for length in stream.windows:
            first_acc = len(accs)
            accs += [
                [kind, place_of[of], place]
                for (kind, window, of), place in stream.accs.items()
                if window == length
            ]
            windows.append([length, stream.tails[length], first_acc, len(accs)])
        first_life = len(accs)
        accs += [
            [kind, place_of[of], place]
            for (kind, window, of), place in stream.accs.items()
            if window == 0
        ]
        first_out = len(outs)
        outs += [[*out[:5], place_of[out[5]]] for out in stream.outs]
        rows.append(
            [
                stream.cell, stream.record if stream.windows else 0,
                first_window, len(windows), first_field, len(fields),
                first_life, len(accs), first_out, len(outs),
            ]
        )  # fmt: skip
    tables = [_table(rows, 10), _table(windows, 4), _table(accs, 3), _table(fields, 7)]
    return [*tables, _table(outs, 6)], np.array(scales or [1.0], dtype=np.float64)


def _table(rows: Sequence[Sequence[int]], width: int) -> Table:
    table = np.array(rows, dtype=np.int64).reshape(-1, width)
    if len(table) == 0:  # numba wants a first row to take the type from
        return np.zeros((1, width), dtype=np.int64)
    return np.ascontiguousarray(table)


def source_of(schema: Schema, event: str, by: str) -> str | None:
    """The field by which an event names the entity that a feature is read for."""
    names = schema.fields_of[event]
    if by in names or by == EVERYONE:
        return by
    kind = schema.fields[by].entity
    return next((name for name in names if schema.fields[name].entity == kind), None)


def check_fields(schema: Schema, feature: Aggregate | Lookup | LabelRate | EventSequence) -> None:
    """Raise `FeatureError` if a declaration reads event types or fields that do not exist."""
    events = feature.events if not isinstance(feature, Lookup) else (feature.event,)
    labels = feature.labels if isinstance(feature, LabelRate) else ()
    for event in (*events, *labels):
        if event not in schema.types:
            raise FeatureError(
                f"feature `{feature.name}` reads event `{event}`, which the schema lacks"
                + did_you_mean(event, schema.types)
            )
    by = feature.holder if isinstance(feature, LabelRate) else feature.by
    needed = [(event, by) for event in (*events, *labels)]
    if not isinstance(feature, EventSequence) and feature.of is not None:
        needed += [(event, feature.of) for event in events]
    for event, name in needed:
        if name != EVERYONE and name not in schema.fields_of[event]:
            raise FeatureError(
                f"feature `{feature.name}` reads field `{name}` of event `{event}`, which has "
                "none of this name" + did_you_mean(name, schema.fields_of[event])
            )
    entities = (by, feature.of) if isinstance(feature, LabelRate) else (by,)
    for name in entities:
        if name != EVERYONE and schema.fields[name or ""].entity is None:
            raise FeatureError(
                f"feature `{feature.name}` is by field `{name}`, which names no entity; mark it "
                'with `Annotated[str, Entity("...")]`'
            )
    if isinstance(feature, EventSequence):
        _check_listed(schema, feature)
    if isinstance(feature, Aggregate) and feature.of is not None:
        kind = schema.fields[feature.of].kind
        if feature.op in ("sum", "mean", "min", "max", "std") and kind not in ("number", "boolean"):
            raise FeatureError(
                f"operation `{feature.op}` of `{feature.name}` wants a number, but field "
                f"`{feature.of}` is a {kind}"
            )


def _check_listed(schema: Schema, feature: EventSequence) -> None:
    """Raise `FeatureError` for a field that the events of a list may not have."""
    known = {name for event in feature.events for name in schema.fields_of[event]}
    for name in feature.fields:
        if name not in known:
            raise FeatureError(
                f"sequence `{feature.name}` reads field `{name}`, which none of its events has"
                + did_you_mean(name, known)
            )
        field = schema.fields[name]
        if field.entity is not None:
            raise FeatureError(
                f"sequence `{feature.name}` reads field `{name}`, which names a {field.entity}; "
                "expected fields that say what happened and not to whom, as a model would learn "
                "these names by heart: leave it out"
            )
        if field.personal:
            raise FeatureError(
                f"sequence `{feature.name}` reads field `{name}`, which is personal; expected "
                "fields that tell nobody's identity, as a list goes into records and models: "
                "leave it out"
            )
        if field.kind == "time":
            raise FeatureError(
                f"sequence `{feature.name}` reads field `{name}`, which is a time; expected "
                "numbers, truth values and texts: an event of a list tells its time by its `age`"
            )
