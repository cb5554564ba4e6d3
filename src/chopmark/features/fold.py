"""The one execution of features: a fold over the log, live and in history.

`Fold.step` takes one event and gives its features, `Fold.replay` takes columns of any
number; both call the same machine code over the same state, so that a training row equals
the row that was served, bit for bit, however the history is cut (rows D10, D11, A12, I5).

`Fold.freeze` gives a snapshot that carries the offset of the log; a restart loads it and
folds the tail.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import mkstemp

import numpy as np
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.errors import SnapshotError
from chopmark.events.event import Event
from chopmark.events.schema import type_name
from chopmark.expressions import run
from chopmark.features import kernel
from chopmark.features.catalog import TIMES, Catalog
from chopmark.features.chains import Chains
from chopmark.features.columns import Columns, from_events, known_instant
from chopmark.features.eventlists import EventLists
from chopmark.features.plan import BUMP
from chopmark.features.sequence import EventList
from chopmark.features.state import State
from chopmark.times import instant

Value = float | str | EventList | None
"""One value of a feature: None is missing, booleans are 0.0 and 1.0, a sequence is a list."""

CHUNK = 8_192
"""Events per call of the kernel in a replay: large enough to hide the call, and small
enough for the columns to stay in the cache."""

SNAPSHOT_FORMAT = 3
_DIGEST_BYTES = 32


@dataclass(slots=True)
class Replayed:
    """Features of a chunk of history.

    Attributes
    ----------
    rows : (n,) int64
        Positions in the replayed columns of the events whose features were wanted.
    values : (num_outputs, n) float64
        In the order of the catalog's outputs; texts as codes.
    texts : dict of str to list
        Values of the outputs of kind text.
    lists : dict of str to EventLists
        Values of the outputs of kind sequence; `EventLists.to_series` makes a column of them.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    texts: dict[str, list[str | None]]
    lists: dict[str, EventLists]


class Fold:
    """The running state of all features of a catalog.

    Parameters
    ----------
    catalog : Catalog
    key : bytes
        Secret of at most 64 bytes that keeps outsiders from crafting colliding entities.

    Notes
    -----
    One thread at a time. Memory is about 8 bytes for each word of state: an entity costs
    the words of its kind's cell, an event the words of its records (3, and 1 to 6 for each
    aggregated field) for as long as the longest window of its stream. What a sequence costs
    stands at `chopmark.features.chains.Chains`. Of text fields that lookups and sequences keep,
    every text that ever came is kept once.
    """

    def __init__(self, catalog: Catalog, *, key: bytes = b"chopmark") -> None:
        self.catalog = catalog
        self.codes = Codes(key)
        self.texts: dict[float, str] = {}
        # Events that somebody beside the features needs whole, as texts; a snapshot has them.
        self.kept: list[str] = []
        self._state = State(catalog.plan)
        self._conditions, self._derived = catalog.programs(self.codes)
        temporaries = max(self._conditions.num_temporaries, self._derived.num_temporaries, 1)
        self._one = _Scratch(catalog, 1, temporaries)
        self._many: _Scratch | None = None
        self._num_temporaries = temporaries
        self._text_fields = catalog.kept_texts
        self._chains = {name: Chains(layout) for name, layout in catalog.sequences.items()}
        self._positions = {name: place for place, name in enumerate(catalog.schema.types)}
        self._loaders = {name: _loader(catalog, name) for name in catalog.schema.types}
        self._output_rows = np.array([output.row for output in catalog.outputs], dtype=np.intp)
        self._output_list = self._output_rows.tolist()
        self._text_outputs = [
            (place, output) for place, output in enumerate(catalog.outputs) if output.kind == "text"
        ]
        # Per event type: the sequences that it reads or feeds, and their places.
        self._listing = {
            name: [
                (place, self._chains[output.name])
                for place, output in enumerate(catalog.outputs)
                if output.kind == "sequence" and self._chains[output.name].used[position]
            ]
            for name, position in self._positions.items()
        }

    @property
    def text_fields(self) -> frozenset[str]:
        """Text fields that columns must keep as texts for `replay`."""
        shown = {output.text_field for _, output in self._text_outputs if output.text_field}
        compared = {
            name
            for similarity, _ in self.catalog.similarities
            for name in (similarity.left, similarity.right)
            if name in self.catalog.schema.fields
        }
        return self._text_fields | shown | compared

    def columns_of(self, events: Sequence[Event], *, also: frozenset[str] = frozenset()) -> Columns:
        """Events as columns for `replay`, with the fields that the features read.

        Parameters
        ----------
        also : set of str
            More fields to fill in.
        """
        fields = self.catalog.read_fields | also
        return from_events(
            events, self.catalog.schema, self.codes, fields=fields, texts=self.text_fields
        )

    def step(self, event: Event, *, read: bool = True) -> list[Value]:
        """The features of an event before it, with the event then added to the state.

        Parameters
        ----------
        event : Event
            With ``known_at`` set, not before that of any earlier event.
        read : bool
            False only adds the event and gives an empty list.
        """
        scratch = self._one
        name = type_name(event)
        scratch.columns.fill(np.nan)
        scratch.entities.fill(0)
        values, entities = scratch.values_view, scratch.entities_view
        known_at = known_instant(event)
        happened_at = instant(event.happened_at)
        scratch.types[0] = self._positions[name]
        scratch.known_at[0] = known_at
        scratch.happened_at[0] = happened_at
        values[0] = known_at
        values[1] = happened_at
        scratch.wanted[0] = read
        codes = self.codes
        for field_name, row, kind, entity_row, kept in self._loaders[name]:
            value = getattr(event, field_name)
            if value is None:
                continue
            if kind == "text":
                code = codes.code(value)
                values[row] = code >> 12
                if entity_row >= 0:
                    entities[entity_row] = code
                if kept:
                    self.texts[float(code >> 12)] = value
            elif kind == "time":
                values[row] = instant(value)
            else:
                values[row] = value
        self._state.reserve(1)
        self._run(scratch, 1)
        listing = self._listing[name]
        for _, chains in listing:
            self._advance(chains, scratch, 1)
        if not read:
            return []
        if self.catalog.similarities:
            self._compare(scratch, [0], lambda name, _: getattr(event, name, None))
        self._derive(scratch, 1)
        column = values.tolist()
        row_values: list[Value] = [column[row] for row in self._output_list]
        if self._text_outputs:
            for place, output in self._text_outputs:
                if output.text_field is not None:
                    row_values[place] = getattr(event, output.text_field, None)
                else:
                    row_values[place] = self.texts.get(row_values[place])  # type: ignore[arg-type]
        known: list[Value] = [None if value != value else value for value in row_values]
        for place, chains in listing:
            known[place] = chains.one(self.texts)
        return known

    def replay(
        self, columns: Columns, *, wanted: NDArray[np.bool_] | None = None
    ) -> Iterator[Replayed]:
        """Features of many events, chunk by chunk, as `step` would give them one by one.

        Parameters
        ----------
        columns : Columns
            Made with this fold's `codes` and `text_fields`.
        wanted : (n,) bool, optional
            Events whose features to give; all by default.
        """
        if self._many is None:
            self._many = _Scratch(self.catalog, CHUNK, self._num_temporaries)
        scratch = self._many
        start = 0
        for chunk in columns.chunks(CHUNK):
            size = len(chunk)
            self._load(scratch, chunk)
            scratch.wanted[:size] = 1 if wanted is None else wanted[start : start + size]
            self._state.reserve(size)
            self._run(scratch, size)
            rows = np.flatnonzero(scratch.wanted[:size])
            if self.catalog.similarities:
                self._compare(scratch, rows.tolist(), lambda name, i, c=chunk: c.texts[name][i])
            self._derive(scratch, size)
            values = scratch.columns[self._output_rows][:, rows]
            texts: dict[str, list[str | None]] = {}
            for place, output in self._text_outputs:
                if output.text_field is not None:
                    given = chunk.texts[output.text_field]
                    texts[output.name] = [given[i] for i in rows.tolist()]
                else:
                    texts[output.name] = [self.texts.get(code) for code in values[place].tolist()]
            lists = {}
            for name, chains in self._chains.items():
                self._advance(chains, scratch, size)
                lists[name] = chains.lists(rows, self.texts)
            yield Replayed(rows + start, values, texts, lists)
            start += size

    def freeze(self, *, offset: int, last_id: str = "") -> "Snapshot":
        """A copy of the state after the event at an offset of the log; folding may go on.

        Parameters
        ----------
        last_id : str
            Id of that event, by which `load` tells one log from another.
        """
        state = self._state
        about = {
            "format": SNAPSHOT_FORMAT,
            "catalog": self.catalog.hash,
            "key": sha256(b"snapshot" + self.codes.key).hexdigest(),
            "offset": offset,
            "last_id": last_id,
            "probe": self.codes.code("probe"),
            "texts": list(self.texts.items()),
            "kept": list(self.kept),
        }
        arrays: dict[str, NDArray[np.generic]] = {
            "pool": state.pool[: int(state.header[BUMP])].copy(),
            "directory": state.directory.copy(),
            "marks": state.marks.copy(),
            "header": state.header.copy(),
            "free": state.free.copy(),
        }
        for place, chains in enumerate(self._chains.values()):
            arrays |= {f"sequence_{place}_{name}": part for name, part in chains.freeze().items()}
        return Snapshot(about, arrays)

    def load(self, path: Path) -> tuple[int, str]:
        """Take over a snapshot; gives offset and id of the last event that it holds.

        Raises
        ------
        SnapshotError
            If it is damaged, or was made by another catalog, key or version; the state is
            then as before, and a replay from offset 0 rebuilds it.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SnapshotError(f"snapshot {path.name} cannot be read: {error}") from error
        if sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            raise SnapshotError(
                f"snapshot {path.name} is damaged (its digest does not match); delete it to "
                "rebuild the state from the log"
            )
        with np.load(BytesIO(content[_DIGEST_BYTES:]), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays.pop("about").tobytes())
        expected = {
            "format": SNAPSHOT_FORMAT,
            "catalog": self.catalog.hash,
            "key": sha256(b"snapshot" + self.codes.key).hexdigest(),
            "probe": self.codes.code("probe"),
        }
        for name, value in expected.items():
            if header.get(name) != value:
                raise SnapshotError(
                    f"snapshot {path.name} was made with another {name}; delete it to rebuild "
                    "the state from the log"
                )
        self._state.take(arrays)
        for place, chains in enumerate(self._chains.values()):
            prefix = f"sequence_{place}_"
            chains.take(
                {
                    name.removeprefix(prefix): part
                    for name, part in arrays.items()
                    if name.startswith(prefix)
                }
            )
        self.texts = {float(code): text for code, text in header["texts"]}
        self.kept = [str(body) for body in header["kept"]]
        return int(header["offset"]), str(header["last_id"])

    def _load(self, scratch: "_Scratch", chunk: Columns) -> None:
        size = len(chunk)
        given = len(TIMES) + self.catalog.num_fields
        scratch.columns[:given, :size] = chunk.values
        scratch.columns[given:, :size] = np.nan
        scratch.entities[:, :size] = chunk.entities
        scratch.types[:size] = chunk.types
        scratch.happened_at[:size] = chunk.happened_at
        scratch.known_at[:size] = chunk.known_at
        for name in self._text_fields:
            codes = chunk.values[self.catalog.row_of[name]].tolist()
            texts = chunk.texts[name]
            self.texts.update(
                (code, text) for code, text in zip(codes, texts, strict=True) if text is not None
            )

    def _run(self, scratch: "_Scratch", size: int) -> None:
        if len(self._conditions.code):
            run(
                self._conditions.code,
                self._conditions.constants,
                scratch.columns,
                scratch.temporaries,
                size,
            )
        state = self._state
        kernel.advance(
            *self.catalog.plan.tables,
            state.pool,
            state.directory,
            state.marks,
            state.header,
            state.free,
            state.cells,
            scratch.types,
            scratch.happened_at,
            scratch.known_at,
            scratch.entities,
            scratch.columns,
            scratch.wanted,
            0,
            size,
        )

    def _advance(self, chains: Chains, scratch: "_Scratch", size: int) -> None:
        chains.advance(
            scratch.types,
            scratch.happened_at,
            scratch.known_at,
            scratch.entities,
            scratch.columns,
            scratch.wanted,
            size,
        )

    def _derive(self, scratch: "_Scratch", size: int) -> None:
        if len(self._derived.code):
            run(
                self._derived.code,
                self._derived.constants,
                scratch.columns,
                scratch.temporaries,
                size,
            )

    def _compare(self, scratch: "_Scratch", rows: list[int], text_of) -> None:  # type: ignore[no-untyped-def]
        """Fill the similarities of some rows; texts come from the event or from a lookup."""
        catalog = self.catalog
        for similarity, target in catalog.similarities:
            for i in rows:
                sides = []
                for name in (similarity.left, similarity.right):
                    if name in catalog.schema.fields:
                        sides.append(text_of(name, i))
                    else:
                        code = float(scratch.columns[catalog.row_of[name], i])
                        sides.append(None if math.isnan(code) else self.texts.get(code))
                left, right = sides
                if left is not None and right is not None:
                    scratch.columns[target, i] = similarity(left, right)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen state: `write` it from any thread."""

    about: dict[str, object]
    arrays: dict[str, NDArray[np.generic]]

    def write(self, path: Path) -> None:
        """Write the file: all of it or nothing, also if the machine stops meanwhile."""
        path.parent.mkdir(parents=True, exist_ok=True)
        about = np.frombuffer(json.dumps(self.about).encode(), dtype=np.uint8)
        parts: dict[str, NDArray[np.generic]] = {"about": about, **self.arrays}
        packed = BytesIO()
        np.savez(packed, **parts)  # type: ignore[arg-type]  # numpy types the keys of its own
        # Readable by its owner only: the texts of lookups are names and addresses.
        handle, temporary = mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "wb") as file:
                file.write(sha256(packed.getbuffer()).digest())
                file.write(packed.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _Scratch:
    """Arrays for one call of the kernel, used again and again."""

    def __init__(self, catalog: Catalog, size: int, num_temporaries: int) -> None:
        self.columns = np.full((catalog.num_columns, size), np.nan)
        self.entities = np.zeros((max(len(catalog.entity_rows), 1), size), dtype=np.int64)
        self.types = np.zeros(size, dtype=np.int64)
        self.happened_at = np.zeros(size, dtype=np.int64)
        self.known_at = np.zeros(size, dtype=np.int64)
        self.wanted = np.zeros(size, dtype=np.uint8)
        self.temporaries = np.zeros((num_temporaries, size))
        # Writing through a memoryview costs a third of writing through an array.
        self.values_view = self.columns.data.cast("B").cast("d")
        self.entities_view = self.entities.data.cast("B").cast("q")


def _loader(catalog: Catalog, name: str) -> list[tuple[str, int, str, int, bool]]:
    """How to put the fields of an event type into a column: name, rows, kind, kept as text."""
    kept = catalog.kept_texts
    return [
        (
            field_name,
            catalog.row_of[field_name],
            catalog.schema.fields[field_name].kind,
            catalog.entity_rows.get(field_name, -1),
            field_name in kept,
        )
        for field_name in catalog.schema.fields_of[name]
        if field_name in catalog.read_fields
    ]
