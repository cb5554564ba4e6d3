"""History into the log: tables of other systems, in the order in which they became known.

The log's order is the order of knowledge, so rows are sorted by ``known_at`` and several
sources are merged; a second run over the same table adds nothing, because each row has an
id: its own, or one computed from what it says. That makes every interruption harmless: run
it again.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec.structs import replace

from chopmark.errors import InvalidEvent, InvalidInput, did_you_mean
from chopmark.events.event import Event
from chopmark.events.log import EventLog
from chopmark.events.personal import Vault
from chopmark.events.schema import Kind, Schema
from chopmark.events.sources import Row, Source, SqlQuery, read_rows, read_sql, shape
from chopmark.times import DAY, Instant, moment, now

__all__ = ["IngestReport", "Source", "SqlQuery", "ingest", "read_sql"]

RESERVED_PREFIXES = ("decision:", "lock:")
"""Of ids: those of decisions and of the locks of rules, which are made here and never ingested."""
RESERVED_TYPES = (
    "decision", "list_changed", "list_dropped", "rule_drafted", "rule_reviewed", "rule_staged",
    "rule_snoozed",
)  # fmt: skip
"""Decisions are made here; orders about rules are checked one by one by an engine."""

_VALUELESS = re.compile(
    r"[Ee]xpected [^,]*(?:, got `\w+`)?|Object missing required field `\w+`|Number out of range"
)
"""What a message may say: what was expected and the kind of what came."""

_Data = str | os.PathLike[str] | SqlQuery | Source


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of the rows.

    Attributes
    ----------
    num_read, num_new, num_repeated, num_rejected : int
        Rows in all; made events; already in the log or twice in the source; unusable.
    num_moved : int
        New ones whose ``known_at`` lay before the log's newest and was moved up to it. Above
        zero it usually means that sources came one after the other that belong in one list.
    """

    num_read: int = 0
    num_new: int = 0
    num_repeated: int = 0
    num_rejected: int = 0
    num_moved: int = 0


def ingest(
    log: EventLog,
    schema: Schema,
    vault: Vault,
    source: _Data | Sequence[_Data],
    *,
    event_type: str | None = None,
    mapping: Mapping[str, str | None] | None = None,
    time_zone: str = "UTC",
    batch_size: int = 10_000,
    rejects: str | os.PathLike[str] | None = None,
    on_progress: Callable[[IngestReport], None] | None = None,
) -> IngestReport:
    """Append the rows of tables to the log, durable batch by batch.

    Columns are fields by name. ``happened_at`` is needed: a datetime, ISO 8601 text, digits
    like 20240131 or 20240131120000, or an epoch number in seconds, milli-, micro- or
    nanoseconds (told apart by size). ``known_at`` is ``happened_at`` where it is not given,
    and at most a day from now. Without a column ``id`` the id is the hash of the sealed
    event, so two equal rows are one event. Empty cells and texts are missing, also where an
    event at the service would have to have a text. Decisions are made here and refused.

    Memory: each source is held whole, as columns (Parquet) or a JSON text per row.

    Parameters
    ----------
    log : EventLog
        Nothing else may append to it meanwhile.
    source : path, SqlQuery or Source, or a list of them
        ``.csv``, ``.parquet``, ``.jsonl``, ``.ndjson``, or `read_sql`; a list is merged by
        ``known_at``.
    event_type, mapping, time_zone
        As in `Source`, for what is not one.
    rejects : path, optional
        A file of JSON lines that gets the place and reason of bad rows, never their values,
        while the others go on. Without it the first bad row stops all.
    on_progress : function, optional
        Called with the report so far after each batch.

    Returns
    -------
    IngestReport
        Everything counted in it is durable.

    Raises
    ------
    InvalidInput
        If a source cannot be read, or a row is bad and there is no ``rejects``. The batches
        before are durable; nothing of this one is.
    LogUnavailable
        If the log fails; run it again after ``log.recover()``.
    """
    items = [source] if isinstance(source, str | os.PathLike | SqlQuery | Source) else source
    sources = [
        item
        if isinstance(item, Source)
        else Source(data=item, event_type=event_type, mapping=mapping or {}, time_zone=time_zone)
        for item in items
    ]
    with ExitStack() as stack:
        reject_file = stack.enter_context(Path(rejects).open("wb")) if rejects else None
        # The commit of one batch runs beside the making of the next.
        committer = stack.enter_context(ThreadPoolExecutor(1))
        run = _Run(log, schema, vault, reject_file)
        committed = committer.submit(log.sync)
        for batch in _batches(_in_order(sources, schema), batch_size):
            durable = run.report
            try:
                group = run.events(batch)
            finally:
                committed.result()
            if on_progress is not None and durable.num_read:
                on_progress(durable)
            if group:
                log.append_encoded(group)
            committed = committer.submit(log.sync)
        committed.result()
    if on_progress is not None:
        on_progress(run.report)
    return run.report


class _Run:
    """Turns rows into events and keeps the count."""

    def __init__(
        self, log: EventLog, schema: Schema, vault: Vault, reject_file: IO[bytes] | None
    ) -> None:
        self.report = IngestReport()
        self._log = log
        self._schema = schema
        self._vault = vault
        self._reject_file = reject_file
        self._newest = log.last_known_at
        self._latest = now() + DAY

    def events(self, batch: list[tuple[Source, Row]]) -> list[tuple[Event, bytes]]:
        """The new events of a batch, in order, each with its JSON text."""
        group: dict[str, tuple[Event, bytes]] = {}
        num_repeated = num_rejected = num_moved = 0
        for source, row in batch:
            try:
                event = self._event(source, row)
            except InvalidInput as error:
                self._reject(source, row, error)
                num_rejected += 1
                continue
            if event.id in group or self._log.get_body(event.id) is not None:
                num_repeated += 1
                continue
            if self._newest is not None and row.known_at < self._newest:
                event = replace(event, known_at=moment(self._newest))
                num_moved += 1
            else:
                self._newest = Instant(row.known_at)
            group[event.id] = (event, self._schema.encode(event))
        before = self.report
        self.report = IngestReport(
            num_read=before.num_read + len(batch),
            num_new=before.num_new + len(group),
            num_repeated=before.num_repeated + num_repeated,
            num_rejected=before.num_rejected + num_rejected,
            num_moved=before.num_moved + num_moved,
        )
        return list(group.values())

    def _event(self, source: Source, row: Row) -> Event:
        if row.reason is not None:
            raise InvalidInput(row.reason)
        values = row.values
        kind = source.event_type or values.pop("type", None)
        if kind is None:
            raise InvalidEvent("expected an event type, got none - at `$.type`")
        kind = str(kind)
        if kind in RESERVED_TYPES:
            raise InvalidEvent(
                f"expected a fact, got a `{kind}`: these are made or checked here - at `$.type`"
            )
        if kind not in self._schema.types:
            raise InvalidEvent(
                f"expected a declared event type, got {shape(kind)} - at `$.type`"
                + did_you_mean(kind, self._schema.types)
            )
        if row.known_at > self._latest:
            place = "happened_at" if row.known_at == row.happened_at else "known_at"
            raise InvalidEvent(
                "expected an event known by now, got one known more than a day from now, until "
                f"which the log's time would stand still; correct the time or its unit - at "
                f"`$.{place}`"
            )
        for prefix in RESERVED_PREFIXES:
            if str(values.get("id", "")).startswith(prefix):
                raise InvalidEvent(
                    f"expected an id that does not begin with `{prefix}`: such ids are made here "
                    "- at `$.id`"
                )
        values["happened_at"] = moment(row.happened_at)
        values["known_at"] = (
            values["happened_at"] if row.known_at == row.happened_at else moment(row.known_at)
        )
        if values.get("id") is not None:
            return self._vault.seal(self._made(kind, values), self._schema)
        values["id"] = "-"
        event = self._vault.seal(self._made(kind, values), self._schema)
        # Of the sealed event: a plain hash of the row would give its identifiers away to
        # whoever tries all possible ones.
        said = sha256(self._schema.encode(event)).hexdigest()
        return replace(event, id=f"{kind}:{said[:32]}")

    def _made(self, kind: str, values: dict[str, Any]) -> Event:
        """The event; its error says the place and what was expected, but not what came."""
        try:
            return self._schema.make(kind, values)
        except InvalidEvent as error:
            reason = _without_value(str(error))
        raise InvalidEvent(reason)  # out here, as the first error would be its context

    def _reject(self, source: Source, row: Row, error: InvalidInput) -> None:
        if self._reject_file is None:
            raise InvalidInput(
                f"row {row.number} of {source.name}: {error}; correct it, or collect bad rows "
                "in a file with `rejects`; the batches before are in the log: run it again"
            ) from error
        record: dict[str, Any] = {
            "source": source.name,
            "row": row.number,
            "reason": str(error),
        }
        self._reject_file.write(msgspec.json.encode(record) + b"\n")


def _without_value(message: str) -> str:
    """A message of the schema as far as it shows no value of the row."""
    said, at, place = message.rpartition(" - at ")
    if not at:
        said, place = message, ""
    if not _VALUELESS.fullmatch(said):
        shown = said.partition(", got ")[0]
        # Such as `Invalid enum value 'Ann'`, of a field that names the values it may have.
        said = shown if _VALUELESS.fullmatch(shown) else "expected one of the declared values"
    return said + at + place


def _in_order(sources: Sequence[Source], schema: Schema) -> Iterator[tuple[Source, Row]]:
    streams = [_stream(source, schema) for source in sources]
    return streams[0] if len(streams) == 1 else merge(*streams, key=lambda item: item[1].known_at)


def _stream(source: Source, schema: Schema) -> Iterator[tuple[Source, Row]]:
    """The rows of one source, once its type is known to exist."""
    kinds: dict[str, Kind] = {"id": "text", "happened_at": "time", "known_at": "time"}
    names: Iterable[str] = schema.fields
    if source.event_type is None:
        kinds["type"] = "text"
    elif source.event_type in RESERVED_TYPES:
        raise InvalidInput(
            f"expected facts in {source.name}, got event type `{source.event_type}`: "
            "these are made or checked here"
        )
    elif source.event_type not in schema.types:
        raise InvalidInput(
            f"expected a declared event type for {source.name}, got `{source.event_type}`"
            + did_you_mean(source.event_type, schema.types)
        )
    else:
        names = schema.fields_of[source.event_type]
    kinds |= {name: schema.fields[name].kind for name in names}
    rows = read_rows(source, kinds)
    return ((source, row) for row in rows)


def _batches(rows: Iterator[tuple[Source, Row]], size: int) -> Iterator[list[tuple[Source, Row]]]:
    if size < 1:
        raise ValueError(f"expected batch_size >= 1, got {size}")
    while batch := list(islice(rows, size)):
        yield batch
