"""The chain of the log: each record carries a hash of itself and of all before it.

    h_0 = sha256("chopmark log 1")
    h_i = sha256(h_{i-1} || head_i || id || type || subject || body)

``head_i`` is 36 bytes, big-endian and signed: offset (8), ``known_at`` in microseconds (8),
and how many bytes follow of id (4), type (4), subject (4; -1 if the event has none) and body
(8). Texts are UTF-8, the body is the JSON text as it stands in the log. As all lengths come
before what they measure, no two records have the same bytes.

Whoever changes, removes, inserts or moves a record breaks the chain there, and `verify` names
the place. Whoever may write to the file can also hash all later records anew: against that
stand signed checkpoints, kept elsewhere (`chopmark.events.checkpoints`). Serves row I7.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from struct import Struct
from struct import error as StructError
from typing import Literal, NamedTuple, Protocol

import msgspec

HASH_BYTES = 32
GENESIS = sha256(b"chopmark log 1").digest()
"""What the first record is chained to."""

NEAR = 1_000
"""Records before a break, and missing ones after it, among which its cause is looked for."""

_pack_head = Struct(">qqiiiq").pack

FaultKind = Literal["changed", "missing", "inserted", "reordered", "truncated", "rewritten"]


class Record(NamedTuple):
    """One record of the log as it is stored, and its hash; texts in UTF-8."""

    offset: int
    id: bytes
    type: bytes
    subject: bytes | None
    known_at: int
    body: bytes
    hash: bytes


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What someone vouched for: the chain's hash at an offset.

    Attributes
    ----------
    offset, count : int
        Of the last record, and how many there were; equal, as offsets have no holes.
    hash : str
        Of that record, in hexadecimal digits.
    made_at : str
        Instant, in ISO 8601.
    key : str
        Id of the key that signed it.
    signature : str
        In hexadecimal digits (`chopmark.events.checkpoints`).
    """

    offset: int
    hash: str
    count: int
    made_at: str
    key: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first place where a log is not what was written.

    Attributes
    ----------
    kind : str
        ``changed``: the record does not fit its hash. ``missing``: it is gone, and others
        follow. ``inserted``: it was not written there. ``reordered``: it stands elsewhere.
        ``truncated``: a checkpoint vouches for it, and the log ends before.
        ``rewritten``: the chain is whole, but is not the one that a checkpoint vouches for.
    offset : int
    id : str or None
        Of the record at that offset; None if there is none.
    text : str
        One sentence.
    """

    kind: FaultKind
    offset: int
    id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What `verify` found.

    Attributes
    ----------
    num_records : int
        Whole ones, from the first one on.
    head : bytes
        Hash of the last of them.
    fault : Fault or None
    """

    num_records: int
    head: bytes
    fault: Fault | None = None


class ReadRecords(Protocol):
    """`EventLog.read_records`: batches of records in the order of offsets."""

    def __call__(
        self, *, after: int = 0, limit: int | None = None, batch_size: int = 10_000
    ) -> Iterator[list[Record]]: ...


def link(
    previous: bytes,
    offset: int,
    event_id: bytes,
    type_name: bytes,
    subject: bytes | None,
    known_at: int,
    body: bytes,
) -> bytes:
    """The 32 bytes of the hash of a record that follows the one of hash ``previous``."""
    size = -1 if subject is None else len(subject)
    head = _pack_head(offset, known_at, len(event_id), len(type_name), size, len(body))
    # One string first: a call of sha256's update for each part costs more than to join them.
    return sha256(
        b"".join((previous, head, event_id, type_name, subject or b"", body))
    ).digest()  # fmt: skip


def link_text(
    previous: bytes,
    offset: int,
    event_id: str,
    type_name: str,
    subject: str | None,
    known_at: int,
    body: bytes,
) -> bytes:
    """`link` for who has the texts as text."""
    return link(
        previous,
        offset,
        event_id.encode(),
        type_name.encode(),
        None if subject is None else subject.encode(),
        known_at,
        body,
    )


def verify(
    read: ReadRecords,
    *,
    checkpoints: Sequence[Checkpoint] = (),
    since: Checkpoint | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Audit:
    """Compute the chain anew and name the first record that is not what was written.

    Parameters
    ----------
    read : function
        ``log.read_records``, or `chopmark.events.sqlitelog.read_records` of a file.
    checkpoints : sequence of Checkpoint
        Whose signatures were checked.
    since : Checkpoint, optional
        Takes all up to it for granted, save the hash that it names.
    on_progress : function, optional
        Called with the number of records done, after each batch.

    Notes
    -----
    O(n) time, one batch of memory. A record that was changed together with its own stored
    hash is named one place late, at the first record that was chained to the old one.
    """
    vouched: dict[int, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        vouched.setdefault(checkpoint.offset, []).append(checkpoint)
    head, last = GENESIS, 0
    if since is not None:
        last, head = since.offset, bytes.fromhex(since.hash)
        fault = _at_start(read, since)
        if fault is not None:
            return Audit(0, GENESIS, fault)
    confirmed = last
    for point in vouched.get(0, ()) if last == 0 else ():
        if not _agrees(point, 0, GENESIS):
            return Audit(0, GENESIS, _rewritten(point, None, confirmed))
    for batch in read(after=last):
        for record in batch:
            found = _linked(record, head) if record.offset == last + 1 else None
            if found is None or found != record.hash:
                return Audit(last, head, _diagnose(read, record, last + 1, head))
            head = found
            last += 1
            if last in vouched:
                for point in vouched[last]:
                    if not _agrees(point, last, head):
                        return Audit(last, head, _rewritten(point, record, confirmed))
                confirmed = last
        if on_progress is not None:
            on_progress(last)
    beyond = [point for point in checkpoints if point.offset > last]
    if beyond:
        return Audit(last, head, _truncated(min(beyond, key=lambda point: point.offset), last))
    return Audit(last, head)


def _linked(record: Record, previous: bytes, *, offset: int | None = None) -> bytes | None:
    """What the hash of a record would be behind another; None if its values have no bytes."""
    at = record.offset if offset is None else offset
    try:
        return link(previous, at, *record[1:6])
    except (TypeError, StructError):  # a number where a text should be, say
        return None


def _fits(record: Record, previous: bytes, offset: int) -> bool:
    return _linked(record, previous, offset=offset) == record.hash


def _agrees(point: Checkpoint, offset: int, head: bytes) -> bool:
    return point.hash == head.hex() and point.count == offset


def _at_start(read: ReadRecords, since: Checkpoint) -> Fault | None:
    if since.offset == 0:
        return None if since.hash == GENESIS.hex() else _rewritten(since, None, 0)
    first = next(_records(read, since.offset - 1), None)
    if first is None or first.offset != since.offset:
        return _truncated(since, since.offset - 1)
    return None if first.hash.hex() == since.hash else _rewritten(since, first, 0)


def _rewritten(point: Checkpoint, record: Record | None, confirmed: int) -> Fault:
    first, name = confirmed + 1, None if record is None else _name(record)
    where = f"record {first}" if first >= point.offset else f"records {first} to {point.offset}"
    return Fault(
        "rewritten",
        point.offset,
        name,
        f"expected hash {point.hash[:16]} at offset {point.offset} (`{name}`), as signed at "
        f"{point.made_at}, got another: {where} or what stood there was written anew",
    )


def _truncated(point: Checkpoint, last: int) -> Fault:
    return Fault(
        "truncated",
        last + 1,
        None,
        f"expected record {last + 1}, got the end of the log: a checkpoint of {point.made_at} "
        f"vouches for {point.count} records, {point.offset - last} of which were cut off",
    )


def _diagnose(read: ReadRecords, record: Record, expected: int, previous: bytes) -> Fault:
    """Say what happened where the chain breaks, from how the pieces fit together."""
    if record.offset < expected:
        return _fault("inserted", record, "stands before the first one and was never written")
    moved = _moved(read, record, expected, previous)
    if moved is not None:
        return moved
    if record.offset > expected:
        count = record.offset - expected
        return _missing(expected, count, f"offset {record.offset} (`{_name(record)}`) follows")
    follower = next(_records(read, expected), None)
    if follower is not None and follower.offset == expected + 1:
        if _fits(follower, record.hash, expected + 1):
            return _fault("changed", record, "does not fit its hash, which the next one confirms")
        found = _linked(record, previous)
        if found is not None and _fits(follower, found, expected + 1):
            return _fault("changed", record, "is whole, but the hash stored with it is not")
        for count in range(1, NEAR + 1):
            if _fits(follower, record.hash, expected + 1 + count):
                return _missing(expected, count, "the later ones were numbered anew")
    inserted = _inserted_before(read, record)
    if inserted is not None:
        return inserted
    return _fault("changed", record, "does not fit its hash")


def _moved(read: ReadRecords, record: Record, expected: int, previous: bytes) -> Fault | None:
    """Whether what belongs at the break stands further behind: it was moved, or pushed."""
    before = record
    later = _records(read, record.offset)
    for other in later:
        found = _linked(other, previous, offset=expected)
        if found is not None and found == record.hash and record.offset == expected:
            return _reordered(expected, other)
        if found is not None and found == other.hash:
            if record.offset != expected:  # its place is empty
                return _reordered(expected, other)
            behind = other.hash if other.offset == expected + 1 else before.hash
            if _fits(record, behind, other.offset):
                return _reordered(expected, other)
            after = next(later, None)
            if after is None or _fits(after, other.hash, expected + 1):
                count = other.offset - expected
                text = f"was never written; {count} such, and the later ones are numbered anew"
                return _fault("inserted", record, text)
            return _reordered(expected, other)
        before = other
    return None


def _inserted_before(read: ReadRecords, record: Record) -> Fault | None:
    """Whether records right before the break, properly chained, stand between two real ones."""
    start = max(record.offset - 1 - NEAR, 0)
    near = list(islice(_records(read, start), record.offset - 1 - start))
    for count in range(1, len(near) + 1):
        first = len(near) - count
        if first == 0 and start > 0:
            return None
        behind = GENESIS if first == 0 else near[first - 1].hash
        if _fits(record, behind, record.offset - count):
            return _fault(
                "inserted", near[first], f"was never written; {count} such, chained anew"
            )  # fmt: skip
    return None


def _records(read: ReadRecords, after: int) -> Iterator[Record]:
    return chain.from_iterable(read(after=after))


def _missing(offset: int, count: int, why: str) -> Fault:
    text = f"record {offset} is missing ({count} of them are): {why}"
    return Fault("missing", offset, None, text)


def _reordered(offset: int, other: Record) -> Fault:
    text = f"record {offset}, `{_name(other)}`, stands at offset {other.offset}"
    return Fault("reordered", offset, _name(other), text)


def _fault(kind: FaultKind, record: Record, what: str) -> Fault:
    name = _name(record)
    return Fault(kind, record.offset, name, f"record {record.offset}, `{name}`, {what}")


def _name(record: Record) -> str:
    return record.id.decode(errors="replace") if isinstance(record.id, bytes) else "?"
