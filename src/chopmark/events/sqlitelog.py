"""The embedded event log: one bare SQLite table, and an index of runs beside it.

The write path is made for one fsync per group of requests: a commit appends to the table
and touches no other page (`chopmark.events.offsets` says why there is no database index),
and moving the write-ahead log into the file happens in a thread of its own. The contract is
`chopmark.events.log.EventLog`.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from chopmark.errors import InvalidEvent, LogUnavailable, StoreError
from chopmark.events import sqlitefile
from chopmark.events.chain import GENESIS, Record, link_text
from chopmark.events.event import Event
from chopmark.events.offsets import RUN_EVENTS, OffsetIndex
from chopmark.events.schema import Schema, type_name
from chopmark.times import Instant, instant, now

APPLICATION_ID = 0x63686F70  # "chop"
LAYOUT_VERSION = 2
"""Since 2 each record carries a hash; a file of version 1 gets them when it is opened."""
CHECKPOINT_BYTES = 8 << 20
"""Bytes appended between two checkpoints in the background."""
MAX_WAL_PAGES = 32_768
"""A write-ahead log of this length (128 MiB) makes the flusher wait, so that it starts over."""
MAX_ABSENT = 20_000

_TABLE = f"""
BEGIN;
CREATE TABLE events (
    offset INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT,
    known_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    hash BLOB NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT_VERSION};
COMMIT;
"""
_UPGRADE = f"""
BEGIN;
ALTER TABLE events ADD COLUMN hash BLOB NOT NULL DEFAULT x'';
UPDATE events SET hash = linked(offset, id, type, subject, known_at, body);
PRAGMA user_version = {LAYOUT_VERSION};
COMMIT;
"""
# Another storage class than the declared one comes out as NULL or 0, and breaks the chain.
_RECORDS = """
SELECT offset,
    CASE typeof(id) WHEN 'text' THEN CAST(id AS BLOB) END,
    CASE typeof(type) WHEN 'text' THEN CAST(type AS BLOB) END,
    CASE typeof(subject) WHEN 'text' THEN CAST(subject AS BLOB) WHEN 'null' THEN NULL ELSE 0 END,
    known_at, body, hash
FROM events WHERE offset > ? ORDER BY offset LIMIT ?
"""
_SIZES = (1, 4, 16, 64, 256)
_PLACES = "(?, ?, ?, ?, ?, ?, ?)"
_INSERTS = {
    size: f"INSERT INTO events SELECT * FROM (VALUES {', '.join([_PLACES] * size)}) "
    "WHERE column1 IS NOT NULL"
    for size in _SIZES
}
"""Statements for up to so many rows, the rest of which is NULL."""
_Row = tuple[int, str, str, str | None, int, bytes]
_Linked = tuple[int, str, str, str | None, int, bytes, bytes]


class SqliteLog:
    """The log in one SQLite file: one writing process, any number of readers.

    Parameters
    ----------
    path : path
        The file, made if missing. Beside it are SQLite's ``-wal`` and ``-shm`` and a
        ``.lock`` file; back up with ``sqlite3 FILE ".backup COPY"``.
    schema : Schema
        Of all events in the file.
    read_only : bool
        Reads along while another process writes.

    Raises
    ------
    StoreError
        If the file is damaged, is no event log, or comes from a newer version.
    LogUnavailable
        If another process writes to it, or the disk refuses.
    """

    def __init__(
        self, path: str | os.PathLike[str], schema: Schema, *, read_only: bool = False
    ) -> None:
        self.path = Path(path)
        self.schema = schema
        self._read_only = read_only
        # What append has to know of an event type: its name and its subject's field.
        self._kinds = {
            event_type: (name, _subject_field(schema, name))
            for name, event_type in schema.types.items()
        }
        self._index = OffsetIndex(
            self.path.with_name(self.path.name + ".index"), read_only=read_only
        )
        # Ids that were looked up in vain, with the state of the index: append asks again.
        self._absent: dict[str, int] = {}
        self._upkeep = ThreadPoolExecutor(1, thread_name_prefix="log-upkeep")
        self._compacting: Future[None] | None = None
        self._checkpointing: Future[int] | None = None
        self._unmoved_bytes = 0  # since the last checkpoint
        self._staged = _Group()
        self._flushing = _Group()  # between the start of a commit and its end
        self._lock = threading.Lock()  # staging; held for microseconds
        self._sync_lock = threading.Lock()  # committing; held for fsyncs
        self._read_lock = threading.Lock()
        self._last_known_at: int | None = None
        self._next_offset = 1
        self._durable = 0
        self._head = GENESIS  # hash of the last durable event
        self._writer_lock: sqlitefile.WriterLock | None = None
        self._refusal: str | None = "it is not open yet"
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        try:
            if read_only:
                self._refusal = "it is opened for reading only"
                self._open_reader()
                self._index.load(self._id_at)
            else:
                sqlitefile.create(self.path)
                self._writer_lock = sqlitefile.WriterLock(self.path)
                self._open(check=not self._writer_lock.was_clean)
        except OSError as error:
            self._let_go(clean=False)
            raise LogUnavailable(f"expected to open {self.path}, got: {error}") from error
        except BaseException:
            self._let_go(clean=False)
            raise

    def known_at(self, proposed: Instant | None = None) -> Instant:
        """See `EventLog.known_at`."""
        wanted = now() if proposed is None else proposed
        last = self.last_known_at
        return wanted if last is None or wanted > last else last

    def append(self, *events: Event) -> int:
        """See `EventLog.append`."""
        encode = self.schema.encode
        return self.append_encoded([(event, encode(event)) for event in events])

    def append_encoded(self, group: Sequence[tuple[Event, bytes]]) -> int:
        """See `EventLog.append_encoded`."""
        with self._lock:
            if self._refusal is not None:
                raise LogUnavailable(f"expected an open log, got {self.path}: {self._refusal}")
            last = self._last_known_at
            offset = first = self._next_offset
            rows: list[_Row] = []
            known_at: datetime | None = None
            for event, body in group:
                if event.known_at is not known_at or known_at is None:  # a group shares it
                    known_at = event.known_at
                    last = self._checked_instant(event, last)
                assert last is not None
                kind = self._kinds.get(type(event))
                if kind is None:
                    raise StoreError(
                        f"expected an event type of the log's schema, got `{type_name(event)}`"
                    )
                if self._is_repeat(event.id):
                    raise StoreError(
                        f"expected a new event id, got `{event.id}`, which is in the log "
                        "already; find() it first and give the recorded answer"
                    )
                subject = None if kind[1] is None else getattr(event, kind[1])
                rows.append((offset, event.id, kind[0], subject, last, body))
                offset += 1
            if len(rows) > 1 and len({row[1] for row in rows}) < len(rows):
                raise StoreError("expected a group of different event ids, got one twice")
            self._staged.add(rows, group)
            self._next_offset = offset
            self._last_known_at = last
        return first

    def find(self, event_id: str) -> Event | None:
        """See `EventLog.find`."""
        for group in (self._staged, self._flushing):
            if event_id in group.by_id:
                return group.by_id[event_id][1]
        body = self._durable_body(event_id)
        return None if body is None else self._decode(body)

    def get_body(self, event_id: str) -> bytes | None:
        """See `EventLog.get_body`."""
        for group in (self._staged, self._flushing):
            if event_id in group.by_id:
                return group.by_id[event_id][0]
        return self._durable_body(event_id)

    def latest(self, type_name: str, subject: str) -> Event | None:
        """See `EventLog.latest`."""
        for group in (self._staged, self._flushing):
            if (type_name, subject) in group.newest:
                return group.newest[type_name, subject]
        if self._read_only:
            self._catch_up()
        for offset in self._index.of_subject(type_name, subject):
            query = "SELECT type, subject, body FROM events WHERE offset = ?"
            found = self._look_up(query, offset)
            if found is not None and found[:2] == (type_name, subject):
                return self._decode(found[2])
        return None

    def sync(self) -> int:
        """See `EventLog.sync`."""
        with self._sync_lock:
            return self._flush()

    def recover(self) -> int:
        """See `EventLog.recover`."""
        with self._sync_lock:
            if self._refusal is None:
                return self._flush()
            if self._read_only or self._writer_lock is None:
                raise LogUnavailable(f"cannot recover {self.path}: {self._refusal}")
            # Appends are refused meanwhile and never wait for the check.
            tasks: list[Future[Any] | None] = [self._compacting, self._checkpointing]
            wait([task for task in tasks if task is not None])
            self._open(check=True)
            return self._durable

    def read(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[tuple[int, Event]]]:
        """See `EventLog.read`."""
        for batch in self.read_bodies(after=after, limit=limit, batch_size=batch_size):
            try:
                events = self.schema.decode_many(b"[%b]" % b",".join(body for _, body in batch))
            except InvalidEvent:
                events = [self._decode(body, offset) for offset, body in batch]
            yield [(offset, event) for (offset, _), event in zip(batch, events, strict=True)]

    def read_bodies(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[tuple[int, bytes]]]:
        """See `EventLog.read_bodies`."""
        if batch_size < 1:
            raise ValueError(f"expected batch_size >= 1, got {batch_size}")
        end = None if limit is None else after + limit
        connection = self._connected()
        try:
            while end is None or after < end:
                size = batch_size if end is None else min(batch_size, end - after)
                # Each batch is a short transaction of its own: a long one would keep the
                # writer from ever starting its write-ahead log over.
                try:
                    batch = connection.execute(
                        "SELECT offset, body FROM events WHERE offset > ? ORDER BY offset LIMIT ?",
                        (after, size),
                    ).fetchall()
                except sqlite3.Error as error:
                    raise sqlitefile.store_error(error, self.path) from error
                if not batch:
                    return
                if batch[-1][0] != after + len(batch):
                    raise StoreError(_missing(self.path, after, batch))
                after = batch[-1][0]
                yield batch
        finally:
            connection.close()

    def read_records(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[Record]]:
        """See `EventLog.read_records`."""
        return read_records(self.path, after=after, limit=limit, batch_size=batch_size)

    @property
    def head(self) -> bytes:
        """See `EventLog.head`."""
        if self._read_only:
            found = self._look_up("SELECT hash FROM events ORDER BY offset DESC LIMIT 1")
            return GENESIS if found is None else bytes(found[0])
        return self._head

    @property
    def last_offset(self) -> int:
        """See `EventLog.last_offset`."""
        if self._read_only:
            found = self._look_up("SELECT max(offset) FROM events")
            return 0 if found is None or found[0] is None else int(found[0])
        return self._durable

    @property
    def last_known_at(self) -> Instant | None:
        """See `EventLog.last_known_at`."""
        if self._read_only:
            found = self._look_up("SELECT known_at FROM events ORDER BY offset DESC LIMIT 1")
            return None if found is None else Instant(found[0])
        return None if self._last_known_at is None else Instant(self._last_known_at)

    def __len__(self) -> int:
        return self.last_offset

    def close(self) -> None:
        """See `EventLog.close`."""
        clean = False
        try:
            if self._refusal is None:
                self.sync()
                clean = True
        finally:
            self._let_go(clean=clean)

    def __enter__(self) -> "SqliteLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SqliteLog({str(self.path)!r}, read_only={self._read_only})"

    def _flush(self) -> int:
        """`sync`, for who holds its lock."""
        with self._lock:
            if self._refusal is not None:
                raise LogUnavailable(f"expected an open log, got {self.path}: {self._refusal}")
            group = self._staged
            if not group.rows:
                return self._durable
            # In this order, as `find` looks at both without the lock.
            self._flushing = group
            self._staged = _Group()
        try:
            # Here and not in append: what the hashes cost is no request's time.
            rows = _linked(self._head, group.rows)
            self._commit(rows)
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, sqlite3.Error | OSError):
                raise
            raise LogUnavailable(
                f"expected {self.path} to take {len(group.rows)} events, got: {error}; "
                "none was acknowledged; free or repair the disk, then recover() the log"
            ) from error
        for row in group.rows:
            self._index.add(*row[:4])
        with self._lock:
            self._durable = rows[-1][0]
            self._head = rows[-1][6]
            self._flushing = _Group()
        self._unmoved_bytes += sum(len(row[5]) for row in group.rows)
        self._keep_up()
        return self._durable

    def _commit(self, rows: list[_Linked]) -> None:
        """One transaction, and one statement where that is possible.

        Each statement gives up Python's lock, and to get it back from a busy thread can take
        ten times as long as the fsync: so there is one padded statement for a whole group.
        """
        assert self._writer is not None
        execute = self._writer.execute
        if len(rows) <= _SIZES[-1]:
            execute(*_insert(rows))
            return
        execute("BEGIN IMMEDIATE")
        for start in range(0, len(rows), _SIZES[-1]):
            execute(*_insert(rows[start : start + _SIZES[-1]]))
        execute("COMMIT")

    def _fail(self, error: BaseException) -> None:
        """Stop taking events; what is on the disk is known only after opening it anew."""
        with self._lock:
            self._refusal = f"it failed ({error}) and waits for recover()"
            self._staged = _Group()
            self._flushing = _Group()
            writer, self._writer = self._writer, None
        if writer is not None:
            _close_quietly(writer)

    def _checked_instant(self, event: Event, last: int | None) -> int:
        if event.known_at is None:
            raise StoreError(
                f"expected event `{event.id}` with known_at set, got none; "
                "ask the log's known_at() for the next instant"
            )
        micros = instant(event.known_at)
        if last is not None and micros < last:
            raise StoreError(
                f"expected known_at of event `{event.id}` at or after the newest event's, got "
                f"{event.known_at.isoformat()}, which is {last - micros} us before it; "
                "ask the log's known_at(), or sort the source"
            )
        return micros

    def _is_repeat(self, event_id: str) -> bool:
        if event_id in self._staged.by_id or event_id in self._flushing.by_id:
            return True
        if self._absent.pop(event_id, None) == self._index.num_compactions:
            # Just looked up: since then it can only have come to the recent ones.
            return self._index.is_recent(event_id)
        return self._durable_body(event_id) is not None

    def _durable_body(self, event_id: str) -> bytes | None:
        if self._read_only:
            self._catch_up()
        num_compactions = self._index.num_compactions
        for offset in self._index.of_id(event_id):
            found = self._look_up("SELECT id, body FROM events WHERE offset = ?", offset)
            if found is not None and found[0] == event_id:
                return bytes(found[1])
        if len(self._absent) > MAX_ABSENT:
            self._absent.clear()
        self._absent[event_id] = num_compactions
        return None

    def _id_at(self, offset: int) -> str | None:
        found = self._look_up("SELECT id FROM events WHERE offset = ?", offset)
        return None if found is None else str(found[0])

    def _catch_up(self) -> None:
        """Bring the index up to the table, in steps that become runs."""
        if self._reader is None:
            raise LogUnavailable(f"expected an open log, got {self.path}: it is closed")
        query = (
            "SELECT offset, id, type, subject FROM events WHERE offset > ? ORDER BY offset LIMIT ?"
        )
        index = self._index
        with self._read_lock:
            try:
                while rows := self._reader.execute(query, (index.covered, RUN_EVENTS)).fetchall():
                    if rows[-1][0] != index.covered + len(rows):
                        raise StoreError(_missing(self.path, index.covered, rows))
                    for row in rows:
                        index.add(*row)
                    if index.num_waiting >= RUN_EVENTS:
                        index.compact()
            except sqlite3.Error as error:
                raise sqlitefile.store_error(error, self.path) from error

    def _keep_up(self) -> None:
        """Leave to the background what need not be done before the answer."""
        waiting = self._index.num_waiting
        if waiting >= RUN_EVENTS and (self._compacting is None or self._compacting.done()):
            self._compacting = self._upkeep.submit(self._index.compact)
        elif waiting >= 8 * RUN_EVENTS and self._compacting is not None:
            wait([self._compacting])  # a bulk load is faster than the index: wait for it
        if self._checkpointing is not None and self._checkpointing.done():
            # The write-ahead log starts over only when a checkpoint reaches its end, which
            # under steady load needs the writer to stand still for once.
            if self._checkpointing.result() > MAX_WAL_PAGES and self._writer is not None:
                _checkpoint(self._writer)
            self._checkpointing = None
        if self._unmoved_bytes >= CHECKPOINT_BYTES and self._checkpointing is None:
            self._unmoved_bytes = 0
            self._checkpointing = self._upkeep.submit(self._checkpoint_aside)

    def _checkpoint_aside(self) -> int:
        """Checkpoint by a connection of its own, so that commits go on meanwhile."""
        try:
            connection = sqlitefile.connect(self.path, writes=True)
        except (sqlite3.Error, OSError):
            return 0
        try:
            return _checkpoint(connection)
        finally:
            _close_quietly(connection)

    def _look_up(self, query: str, *values: str | int) -> tuple[Any, ...] | None:
        with self._read_lock:
            if self._reader is None:
                raise LogUnavailable(f"expected an open log, got {self.path}: it is closed")
            try:
                found: tuple[Any, ...] | None = self._reader.execute(query, values).fetchone()
            except sqlite3.Error as error:
                raise sqlitefile.store_error(error, self.path) from error
            return found

    def _decode(self, body: bytes, offset: int | None = None) -> Event:
        try:
            return self.schema.decode(body)
        except InvalidEvent as error:
            place = "an event" if offset is None else f"the event at offset {offset}"
            raise StoreError(
                f"expected {place} of {self.path} to fit the schema, got: {error}; open the log "
                "with the schema that wrote it (a new field of an old type must have a default)"
            ) from error

    def _open(self, *, check: bool) -> None:
        """Open both connections and take up where the file ends."""
        self._let_go_connections()
        try:
            sqlitefile.check_header(self.path)
            writer = self._writer = sqlitefile.connect(self.path, writes=True)
            layout = _layout(writer, self.path)
            if layout == 0:
                writer.executescript(_TABLE)
            if check:
                sqlitefile.move_into_file(writer, self.path)
                sqlitefile.check_soundness(writer, self.path)
            if layout == 1:
                _add_chain(writer, self.path)
            self._open_reader()
            durable, last_known_at, head = writer.execute(
                "SELECT offset, known_at, hash FROM events ORDER BY offset DESC LIMIT 1"
            ).fetchone() or (0, None, GENESIS)
        except sqlite3.Error as error:
            raise sqlitefile.store_error(error, self.path) from error
        except OSError as error:
            raise LogUnavailable(f"expected to open {self.path}, got: {error}") from error
        self._index.load(self._id_at)
        self._catch_up()
        with self._lock:
            self._durable = durable
            self._next_offset = durable + 1
            self._last_known_at = last_known_at
            self._head = head
            self._refusal = None

    def _open_reader(self) -> None:
        self._reader = self._connected()
        try:
            _check_readable(self._reader, self.path)
        except sqlite3.Error as error:
            raise sqlitefile.store_error(error, self.path) from error

    def _connected(self) -> sqlite3.Connection:
        try:
            return sqlitefile.connect(self.path, writes=False)
        except sqlite3.Error as error:
            raise sqlitefile.store_error(error, self.path) from error

    def _let_go(self, *, clean: bool) -> None:
        self._refusal = self._refusal or "it is closed"
        self._upkeep.shutdown()
        self._let_go_connections()
        if self._writer_lock is not None:
            self._writer_lock.release(clean=clean)
            self._writer_lock = None

    def _let_go_connections(self) -> None:
        with self._read_lock:
            reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        # The writer last: the last one to go moves the write-ahead log into the file.
        for connection in (reader, writer):
            if connection is not None:
                _close_quietly(connection)


def read_records(
    path: Path, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
) -> Iterator[list[Record]]:
    """Records of a file as they stand there, with their hashes, whether the chain holds or not.

    Raises
    ------
    StoreError
        If the file is no event log, is damaged, or was written before there was a chain.
    """
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}")
    left = -1 if limit is None else limit
    # No event has such an offset; what was put there from outside is to be found.
    after = after or -(1 << 62)
    try:
        connection = sqlitefile.connect(path, writes=False)
    except sqlite3.Error as error:
        raise sqlitefile.store_error(error, path) from error
    try:
        # No column of a sound row comes as text; and damaged text has no characters.
        connection.text_factory = lambda text: None
        _check_readable(connection, path)
        while left:
            size = batch_size if left < 0 else min(batch_size, left)
            rows = connection.execute(_RECORDS, (after, size)).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            left -= len(rows) if left > 0 else 0
            yield [Record(*row) for row in rows]
    except sqlite3.Error as error:
        raise sqlitefile.store_error(error, path) from error
    finally:
        connection.close()


def last_offset(path: Path) -> int:
    """The largest offset in a file, whether the chain holds or not; 0 if there is none."""
    try:
        connection = sqlitefile.connect(path, writes=False)
    except sqlite3.Error as error:
        raise sqlitefile.store_error(error, path) from error
    try:
        _check_readable(connection, path)
        found = connection.execute("SELECT max(offset) FROM events").fetchone()[0]
    except sqlite3.Error as error:
        raise sqlitefile.store_error(error, path) from error
    finally:
        connection.close()
    return int(found or 0)


class _Group:
    """Staged events, findable by id and by subject."""

    __slots__ = ("by_id", "newest", "rows")

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self.by_id: dict[str, tuple[bytes, Event]] = {}
        self.newest: dict[tuple[str, str], Event] = {}

    def add(self, rows: list[_Row], group: Sequence[tuple[Event, bytes]]) -> None:
        self.rows += rows
        for (_, event_id, kind, subject, _, body), (event, _) in zip(rows, group, strict=True):
            self.by_id[event_id] = (body, event)
            if subject is not None:
                self.newest[kind, subject] = event


def _layout(connection: sqlite3.Connection, path: Path) -> int:
    return sqlitefile.check_identity(
        connection, path, application_id=APPLICATION_ID, layout_version=LAYOUT_VERSION
    )


def _check_readable(connection: sqlite3.Connection, path: Path) -> None:
    layout = _layout(connection, path)
    if layout == 0:
        raise StoreError(f"expected an event log in {path}, got an empty file")
    if layout < LAYOUT_VERSION:
        raise StoreError(
            f"expected layout version {LAYOUT_VERSION} in {path}, got {layout}, whose records "
            "have no hashes yet; open it once for writing, which adds them"
        )


def _add_chain(writer: sqlite3.Connection, path: Path) -> None:
    """Give the records of a file of version 1 their hashes, all in one transaction."""
    last = 0
    head = GENESIS

    def linked(offset: int, *record: Any) -> bytes:
        nonlocal last, head
        if offset != last + 1:
            raise ValueError(f"offset {offset} after {last}")
        last, head = offset, link_text(head, offset, *record)
        return head

    count, newest = writer.execute("SELECT count(*), max(offset) FROM events").fetchone()
    if count != (newest or 0):
        raise StoreError(
            f"expected {newest} events in {path}, got {count}: acknowledged events are missing; "
            "restore the file from a backup"
        )
    writer.create_function("linked", 6, linked)
    writer.executescript(_UPGRADE)
    writer.create_function("linked", 6, None)
    _checkpoint(writer)


def _linked(head: bytes, rows: Sequence[_Row]) -> list[_Linked]:
    """Rows with their hashes, behind a record of hash ``head``."""
    linked = []
    for row in rows:
        head = link_text(head, *row)
        linked.append((*row, head))
    return linked


def _insert(rows: Sequence[_Linked]) -> tuple[str, list[Any]]:
    size = next(size for size in _SIZES if size >= len(rows))
    return _INSERTS[size], [*chain.from_iterable(rows), *[None] * (7 * (size - len(rows)))]


def _subject_field(schema: Schema, type_name: str) -> str | None:
    entities = (name for name in schema.fields_of[type_name] if schema.fields[name].entity)
    return next(entities, None)


def _close_quietly(connection: sqlite3.Connection) -> None:
    """Close after a failure that is reported already; a second report would hide it."""
    with suppress(sqlite3.Error):
        connection.close()


def _checkpoint(connection: sqlite3.Connection) -> int:
    """Move what is committed into the file; pages in the write-ahead log.

    A failure here loses nothing: the write-ahead log keeps what could not be moved, and the
    next commit meets the same disk and reports it.
    """
    with suppress(sqlite3.Error):
        return int(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
    return 0


def _missing(path: Path, after: int, rows: Sequence[tuple[Any, ...]]) -> str:
    return (
        f"expected offsets {after + 1} to {after + len(rows)} in {path}, got {rows[0][0]} to "
        f"{rows[-1][0]}: acknowledged events are missing; restore the file from a backup"
    )
