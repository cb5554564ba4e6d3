"""The event log in memory: for backtests, what-if replays and tests, and gone with the process.

It keeps the contract of `chopmark.events.log.EventLog` save for durability: `sync` moves a
mark, and a closed log leaves nothing behind.
"""

import threading
from collections.abc import Iterator, Sequence

from chopmark.errors import LogUnavailable, StoreError
from chopmark.events.chain import GENESIS, Record, link
from chopmark.events.event import Event
from chopmark.events.schema import Schema, type_name
from chopmark.times import Instant, instant, now


class MemoryLog:
    """The log in lists and dicts; safe in any number of threads.

    Parameters
    ----------
    schema : Schema
        Of all events.

    Notes
    -----
    Memory: each event is held as an object and as its JSON text.

    Examples
    --------
    >>> from chopmark.events import Event, Schema
    >>> from chopmark.times import moment
    >>> class Tick(Event): ...
    >>> log = MemoryLog(Schema(Tick))
    >>> log.append(Tick(id="one", happened_at=moment(0), known_at=moment(0)))
    1
    >>> log.last_offset, log.sync()
    (0, 1)
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._events: list[Event] = []
        self._bodies: list[bytes] = []
        self._records: list[Record] = []  # the durable ones
        self._place_of: dict[str, int] = {}
        self._newest: dict[tuple[str, str], Event] = {}
        # What append has to know of an event type: its name and its subject's field.
        self._kinds = {
            event_type: (
                name,
                next(
                    (field for field in schema.fields_of[name] if schema.fields[field].entity), None
                ),
            )
            for name, event_type in schema.types.items()
        }
        self._last_known_at: Instant | None = None
        self._durable = 0
        self._closed = False
        self._lock = threading.Lock()

    def known_at(self, proposed: Instant | None = None) -> Instant:
        """See `EventLog.known_at`."""
        wanted = now() if proposed is None else proposed
        last = self._last_known_at
        return wanted if last is None or wanted > last else last

    def append(self, *events: Event) -> int:
        """See `EventLog.append`."""
        encode = self.schema.encode
        return self.append_encoded([(event, encode(event)) for event in events])

    def append_encoded(self, group: Sequence[tuple[Event, bytes]]) -> int:
        """See `EventLog.append_encoded`."""
        with self._lock:
            if self._closed:
                raise LogUnavailable("expected an open log in memory, got a closed one")
            last = self._last_known_at
            new: set[str] = set()
            for event, _ in group:
                last = self._checked_instant(event, last)
                if type(event) not in self._kinds:
                    raise StoreError(
                        f"expected an event type of the log's schema, got `{type_name(event)}`"
                    )
                if event.id in self._place_of or event.id in new:
                    raise StoreError(
                        f"expected a new event id, got `{event.id}`, which is in the log "
                        "already; find() it first and give the recorded answer"
                    )
                new.add(event.id)
            first = len(self._events) + 1
            for event, body in group:
                # In this order, as `find` looks without the lock.
                self._events.append(event)
                self._bodies.append(body)
                self._place_of[event.id] = len(self._events) - 1
                name, field = self._kinds[type(event)]
                subject = None if field is None else getattr(event, field)
                if subject is not None:
                    self._newest[name, subject] = event
            self._last_known_at = last
        return first

    def find(self, event_id: str) -> Event | None:
        """See `EventLog.find`."""
        place = self._place_of.get(event_id)
        return None if place is None else self._events[place]

    def get_body(self, event_id: str) -> bytes | None:
        """See `EventLog.get_body`."""
        place = self._place_of.get(event_id)
        return None if place is None else self._bodies[place]

    def latest(self, type_name: str, subject: str) -> Event | None:
        """See `EventLog.latest`."""
        return self._newest.get((type_name, subject))

    def sync(self) -> int:
        """Let all staged groups count as durable; see `EventLog.sync`."""
        with self._lock:
            if self._closed:
                raise LogUnavailable("expected an open log in memory, got a closed one")
            return self._link()

    def recover(self) -> int:
        """Sync what is staged: this log fails only by being closed."""
        if self._closed:
            raise LogUnavailable("cannot recover a log in memory that is closed: make a new one")
        return self.sync()

    def read(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[tuple[int, Event]]]:
        """See `EventLog.read`."""
        for start, end in self._ranges(after, limit, batch_size):
            yield list(enumerate(self._events[start:end], start=start + 1))

    def read_bodies(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[tuple[int, bytes]]]:
        """See `EventLog.read_bodies`."""
        for start, end in self._ranges(after, limit, batch_size):
            yield list(enumerate(self._bodies[start:end], start=start + 1))

    def read_records(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[Record]]:
        """See `EventLog.read_records`."""
        for start, end in self._ranges(after, limit, batch_size):
            yield self._records[start:end]

    @property
    def head(self) -> bytes:
        """See `EventLog.head`."""
        return self._records[-1].hash if self._records else GENESIS

    @property
    def last_offset(self) -> int:
        """See `EventLog.last_offset`."""
        return self._durable

    @property
    def last_known_at(self) -> Instant | None:
        """See `EventLog.last_known_at`."""
        return self._last_known_at

    def __len__(self) -> int:
        return self._durable

    def close(self) -> None:
        """Sync what is staged and refuse further appends; what is in it can still be read."""
        with self._lock:
            self._link()
            self._closed = True

    def __enter__(self) -> "MemoryLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MemoryLog of {self._durable} events>"

    def _link(self) -> int:
        """Chain what is staged and let it count as durable, for who holds the lock."""
        head = self.head
        for place in range(len(self._records), len(self._events)):
            event, body = self._events[place], self._bodies[place]
            name, field = self._kinds[type(event)]
            subject = None if field is None else getattr(event, field)
            assert event.known_at is not None  # append asks for it
            fields = (
                place + 1,
                event.id.encode(),
                name.encode(),
                None if subject is None else subject.encode(),
                instant(event.known_at),
                body,
            )
            head = link(head, *fields)
            self._records.append(Record(*fields, head))
        self._durable = len(self._records)
        return self._durable

    def _ranges(self, after: int, limit: int | None, batch_size: int) -> Iterator[tuple[int, int]]:
        """Where batches begin and end; what became durable meanwhile is read too."""
        if batch_size < 1:
            raise ValueError(f"expected batch_size >= 1, got {batch_size}")
        last = None if limit is None else after + limit
        while True:
            end = min(after + batch_size, self._durable)
            end = end if last is None else min(end, last)
            if end <= after:
                return
            yield after, end
            after = end

    def _checked_instant(self, event: Event, last: Instant | None) -> Instant:
        if event.known_at is None:
            raise StoreError(
                f"expected event `{event.id}` with known_at set, got none; "
                "ask the log's known_at() for the next instant"
            )
        known_at = instant(event.known_at)
        if last is not None and known_at < last:
            raise StoreError(
                f"expected known_at of event `{event.id}` at or after the newest event's, got "
                f"{event.known_at.isoformat()}, which is {last - known_at} us before it; "
                "ask the log's known_at(), or sort the source"
            )
        return known_at
