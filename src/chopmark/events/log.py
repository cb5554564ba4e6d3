"""The event log: append-only, exactly-once, durable before anything is answered.

The log is the only truth; feature state, tables, limits and reports are folds of it. Each
event has an offset (1, 2, 3, ... without holes), and knowledge order is log order: the
``known_at`` of an event is never before that of its predecessor, whatever the clock does.

A request *appends* its event and its decision as one group, which only stages them in
memory; one flusher calls *sync*, which makes all staged groups durable with one commit and
one fsync, and only then the answers go out. A group is never cut in two. What was staged
and not yet synced is seen by `find` and `latest`, so that a repeat that arrives in between
is still a repeat.

What becomes durable carries a hash of itself and of all before it (`chopmark.events.chain`).
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from chopmark.events.chain import Record
from chopmark.events.event import Event
from chopmark.events.schema import Schema
from chopmark.events.sqlitelog import SqliteLog
from chopmark.times import Instant

__all__ = ["EventLog", "SqliteLog"]


class EventLog(Protocol):
    """What every implementation of the log does; `chopmark.testing.check_store` proves it."""

    schema: Schema

    def known_at(self, proposed: Instant | None = None) -> Instant:
        """The instant at which the next event counts as known.

        The latest of ``proposed`` (the clock, if None) and the newest event's ``known_at``:
        a clock that goes backwards stops the log's time and does not turn it.
        """
        ...

    def append(self, *events: Event) -> int:
        """Stage a group, which becomes durable as a whole or not at all; its first offset.

        Raises
        ------
        StoreError
            If an id is in the log already, or a ``known_at`` is missing or goes backwards;
            nothing of the group is staged then.
        LogUnavailable
            If the log failed and was not recovered, or is closed.
        """
        ...

    def append_encoded(self, group: Sequence[tuple[Event, bytes]]) -> int:
        """`append` for who has encoded the events already (``schema.encode``)."""
        ...

    def find(self, event_id: str) -> Event | None:
        """The event of this id, staged or durable."""
        ...

    def get_body(self, event_id: str) -> bytes | None:
        """The JSON text of the event of this id, staged or durable."""
        ...

    def latest(self, type_name: str, subject: str) -> Event | None:
        """The newest event of a type whose first entity field is ``subject``."""
        ...

    def sync(self) -> int:
        """Make all staged groups durable; the last durable offset.

        Raises
        ------
        LogUnavailable
            If that failed. All staged groups are dropped, as none was acknowledged, and the
            log takes nothing until `recover`.
        """
        ...

    def recover(self) -> int:
        """Open the store anew after a failure, check it, and give the last durable offset.

        A group whose sync failed may turn out to be durable: who keeps state must read on
        from the offset of that state. A healthy log syncs what is staged, so that whoever
        rebuilds state from `read` misses nothing that the next sync would make durable.

        Raises
        ------
        LogUnavailable
            If the store still fails; nothing is taken until a later call succeeds.
        """
        ...

    def read(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[tuple[int, Event]]]:
        """Batches of (offset, event) in log order; the durable ones beyond ``after``."""
        ...

    def read_bodies(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[tuple[int, bytes]]]:
        """`read` without decoding."""
        ...

    def read_records(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[Record]]:
        """Batches of durable records with their hashes, unchecked, for `chain.verify`."""
        ...

    @property
    def head(self) -> bytes:
        """Hash of the last durable record (`chopmark.events.chain`); it stands for them all."""
        ...

    @property
    def last_offset(self) -> int:
        """Offset of the last durable event, 0 if there is none; the length of the log."""
        ...

    @property
    def last_known_at(self) -> Instant | None:
        """``known_at`` of the newest event, staged or durable."""
        ...

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Sync what is staged and let the store go; further appends are refused."""
        ...
