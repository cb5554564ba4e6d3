"""Webhooks: events of the log, posted to endpoints; signed, at least once, in order.

The log is the outbox. What is in it was committed together with all that it says, so nothing
is announced that did not happen, and nothing that happened is forgotten: an endpoint is a
cursor over the log, kept in a file, which moves behind what was acknowledged. After a crash
the last few events are sent again; receivers know them by ``webhook-id``.

Each endpoint has a thread of its own, so that one that is down holds up no other. A failure
is tried again with growing pauses; what is refused for good, or fails for too long, becomes a
dead letter (offset, id and reason; the event itself is in the log), and the cursor goes on.

Messages are signed as the Standard Webhooks say (https://www.standardwebhooks.com). They tell
what was decided and not why: no feature values, scores, reasons or personal fields, unless the
endpoint was added with ``full``. Serves row F10 of the requirements, and I7.
"""

import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import msgspec
from msgspec import Struct

from chopmark.decisions.decision import Decision
from chopmark.errors import ChopmarkError, InvalidInput, StoreError
from chopmark.events.event import Event
from chopmark.events.log import EventLog
from chopmark.events.schema import Schema, type_name
from chopmark.service.endpoints import Endpoint, EndpointBook, locked, replace_file
from chopmark.service.safehttp import Astray, Connection, NoAnswer, Resolver, resolve
from chopmark.times import SECOND, duration, now

logger = logging.getLogger(__name__)

BATCH = 100
"""Messages acknowledged between two writings of a cursor: so many come twice after a crash."""

SAVE_S = 1.0
SAVE_IDLE_S = 5.0
POLL_S = 0.25
FOLLOW_S = 1.0
RESTART_S = 5.0
TEST_TYPE = "webhook.test"

DECISION_FIELDS = (
    "about", "about_type", "user", "action", "friction", "limit_usd", "allowed_usd", "delay_s",
    "queue", "tags",
)  # fmt: skip
"""What a message tells of a decision, beside its id and ``known_at``."""

INSIDE = frozenset({"author", "approver", "score"})
"""Fields of other events that stay inside: who said so, and scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Pauses between attempts.

    Attributes
    ----------
    first_s, most_s : float
        The first pause, and the longest; each is twice the one before.
    longest_s : float
        What a ``Retry-After`` may ask for at most.

    Examples
    --------
    >>> 300 / 2 <= Pace().pause_s(20) <= 300
    True
    """

    first_s: float = 1.0
    most_s: float = 300.0
    longest_s: float = 3600.0

    def pause_s(self, num_failures: int, retry_after_s: float = 0.0) -> float:
        """Seconds to wait, between half of it and all, so that many do not come at once."""
        whole = min(self.first_s * 2.0 ** min(num_failures - 1, 60), self.most_s)
        return max(whole * random.uniform(0.5, 1.0), min(retry_after_s, self.longest_s))


class Letter(Struct, frozen=True, kw_only=True):
    """A dead letter: which event was not delivered, and why."""

    offset: int
    id: str
    type: str
    reason: str
    died_at: str


class Progress(Struct, frozen=True, kw_only=True):
    """Where a cursor stands: the last offset done with, and since when all attempts failed."""

    offset: int
    failing_since: int | None = None


@dataclass(slots=True)
class Tally:
    """What became of the messages of one endpoint; ``failure`` is why it stands still."""

    num_sent: int = 0
    num_dead: int = 0
    failure: str | None = None


def wants(endpoint: Endpoint, event: Event) -> bool:
    """Whether an event is sent to an endpoint."""
    if type_name(event) not in endpoint.types:
        return False
    if not isinstance(event, Decision):
        return True
    return (
        (not endpoint.with_friction or event.friction not in ("", "none"))
        and (not endpoint.actions or event.action in endpoint.actions)
        and (not endpoint.queues or event.queue in endpoint.queues)
    )


def message(event: Event, schema: Schema, *, full: bool = False) -> bytes:
    """The body about an event: JSON with ``type``, ``timestamp`` (its known_at) and ``data``.

    Parameters
    ----------
    full : bool
        All fields. Else of a decision `DECISION_FIELDS`, and of others what is neither
        personal, nor carried along (free text, lists), nor `INSIDE`.
    """
    kind = type_name(event)
    if full:
        data = msgspec.to_builtins(event)
        del data["type"]
    else:
        names = DECISION_FIELDS if isinstance(event, Decision) else _outside(kind, schema)
        values = {name: getattr(event, name) for name in ("id", "happened_at", "known_at", *names)}
        data = {name: value for name, value in values.items() if value is not None}
    return msgspec.json.encode({"type": kind, "timestamp": event.known_at, "data": data})


def message_id(event_id: str) -> str:
    """The event's id as a header: letters that a header or a signature trips over as %XX.

    Examples
    --------
    >>> message_id("decision:p-17"), message_id("a.b c")
    ('decision:p-17', 'a%2Eb%20c')
    """
    quoted = quote(event_id.encode("utf-8", "surrogatepass"), safe=":")
    return quoted.replace(".", "%2E")  # a full stop parts the fields that are signed


class Outbox:
    """The files of one endpoint: its cursor and its dead letters.

    Parameters
    ----------
    folder : Path
        Of all endpoints' files; made if missing.
    """

    def __init__(self, folder: Path, endpoint: Endpoint) -> None:
        stem = f"{endpoint.name}-{endpoint.key}"
        self._start = endpoint.starts_after
        self.cursor = folder / f"{stem}.cursor.json"
        self.dead = folder / f"{stem}.dead.jsonl"
        self._taken = folder / f"{stem}.taken.jsonl"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def progress(self) -> Progress:
        """Where the cursor stands; `StoreError` if its file is damaged."""
        try:
            return msgspec.json.decode(self.cursor.read_bytes(), type=Progress)
        except FileNotFoundError:
            return Progress(offset=self._start)
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(
                f"expected a cursor in {self.cursor}, got: {error}; write "
                '{"offset": N} with the last offset that was delivered'
            ) from error

    def save(self, progress: Progress) -> None:
        """Move the cursor; it is on the disk on return."""
        replace_file(self.cursor, msgspec.json.encode(progress) + b"\n")

    def bury(self, *letters: Letter) -> None:
        """Add dead letters; they are on the disk on return."""
        lines = b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters)
        with locked(self.dead), _opened(self.dead) as file:
            # A crash may have torn the last line; its letter comes again.
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            if file.read(1) not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def letters(self) -> list[Letter]:
        """All dead letters, each once, by offset; those that are being tried again too."""
        found: dict[int, Letter] = {}
        for path in (self._taken, self.dead):
            with suppress(FileNotFoundError):
                text = path.read_bytes()
                for line in text[: text.rfind(b"\n") + 1].splitlines():
                    try:
                        letter = msgspec.json.decode(line, type=Letter)
                    except msgspec.MsgspecError as error:
                        raise StoreError(
                            f"expected dead letters in {path}, got a damaged line: {error}"
                        ) from error
                    found[letter.offset] = letter
        return [found[offset] for offset in sorted(found)]

    def retry(self, deliver: Callable[[Letter], str | None]) -> tuple[int, int]:
        """Try each dead letter once more; (delivered, left).

        A sender may go on burying meanwhile. After a crash all are tried again.

        Parameters
        ----------
        deliver : callable
            Gives None, or the reason of its failure.
        """
        with locked(self._taken, wait=False):
            with locked(self.dead):
                letters = self.letters()
                lines = b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters)
                replace_file(self._taken, lines)
                self.dead.unlink(missing_ok=True)
            left = []
            for letter in letters:
                reason = deliver(letter)
                if reason is not None:
                    left.append(msgspec.structs.replace(letter, reason=reason, died_at=_today()))
            if left:
                self.bury(*left)
            self._taken.unlink()
        return len(letters) - len(left), len(left)

    def remove(self) -> None:
        """Delete the files of an endpoint that is gone."""
        for path in (self.cursor, self.dead, self._taken):
            for file in (path, path.with_name(path.name + ".lock")):
                file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How messages travel: pauses, a deadline for each, and what tests put in place of the net."""

    pace: Pace = field(default_factory=Pace)
    timeout_s: float = 10.0
    resolver: Resolver = resolve
    context: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message was not taken, whether for good, and how long the receiver wants to rest."""

    reason: str
    final: bool = False
    retry_after_s: float = 0.0


class Courier:
    """Posts to one endpoint; of one thread."""

    def __init__(
        self, endpoint: Endpoint, log: EventLog, outbox: Outbox, wire: Wire | None = None
    ) -> None:
        self.endpoint = endpoint
        self.tally = Tally()
        self._log = log
        self._outbox = outbox
        self._wire = wire or Wire()
        self._connection = Connection(
            endpoint.url,
            reach=endpoint.reach,
            timeout_s=self._wire.timeout_s,
            resolver=self._wire.resolver,
            context=self._wire.context,
        )
        self._give_up = duration(endpoint.give_up_after)
        self._progress = self._saved = Progress(offset=0)
        self._num_unsaved = 0
        self._saved_at = 0.0
        self._num_failures = 0
        self._not_before = 0.0

    def run(self, stop: threading.Event, *, once: bool = False) -> None:
        """Deliver what is in the log and what comes, until told to stop.

        Parameters
        ----------
        once : bool
            Until the log's end, or the first failure that wants another attempt.

        Raises
        ------
        StoreError
            If the log or the outbox fails, or the cursor stands behind the log's end.
        """
        self._progress = self._saved = self._outbox.progress()
        if self._progress.offset > (end := self._log.last_offset):
            raise StoreError(
                f"expected the cursor of `{self.endpoint.name}` within the log of {end} events, "
                f"got offset {self._progress.offset}: was the log restored from a backup? "
                f"Write the offset to go on from into {self._outbox.cursor}"
            )
        try:
            while self._go_through(stop, once) and not once:
                if stop.wait(POLL_S):
                    break
        finally:
            self._connection.close()

    def send(self, identity: str, body: bytes) -> Failure | None:
        """Post one signed body; None if it was acknowledged."""
        at = now()
        timestamp = at // SECOND
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "chopmark-webhooks/1",
            "webhook-id": identity,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": self.endpoint.sign(identity, timestamp, body, at=at),
        }
        try:
            answer = self._connection.post(headers, body)
        except (Astray, NoAnswer) as error:
            return Failure(str(error))
        if 200 <= answer.status < 300:
            return None
        # Redirects are not followed, and may be gone tomorrow: try again.
        final = 400 <= answer.status < 500 and answer.status not in (408, 429)
        return Failure(f"status {answer.status}", final, _retry_after_s(answer.retry_after))

    def send_event(self, event: Event) -> Failure | None:
        """Post the message about an event; None if it was acknowledged."""
        body = message(event, self._log.schema, full=self.endpoint.full)
        return self.send(message_id(event.id), body)

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def _go_through(self, stop: threading.Event, once: bool) -> bool:
        """Deliver up to the log's end; whether it was reached."""
        try:
            for batch in self._log.read(after=self._progress.offset, batch_size=500):
                for offset, event in batch:
                    if stop.is_set():
                        return False
                    if wants(self.endpoint, event):
                        if not self._deliver(offset, event, stop, once):
                            return False
                        self._num_unsaved += 1
                    self._progress = msgspec.structs.replace(self._progress, offset=offset)
                    if self._num_unsaved >= BATCH or (self._num_unsaved and self._is_old(SAVE_S)):
                        self._save()
            return True
        finally:
            if self._num_unsaved or once or stop.is_set() or self._is_old(SAVE_IDLE_S):
                self._save()

    def _deliver(self, offset: int, event: Event, stop: threading.Event, once: bool) -> bool:
        """Send an event until it is acknowledged or buried; False if it is neither yet."""
        while True:
            if once and self._num_failures:
                return False
            wait_s = self._not_before - time.monotonic()
            if wait_s > 0 and stop.wait(wait_s):
                return False
            failure = self.send_event(event)
            if failure is None or failure.final:
                self._num_failures, self._not_before, self.tally.failure = 0, 0.0, None
                self._progress = Progress(offset=self._progress.offset)
                if failure is None:
                    self.tally.num_sent += 1
                else:
                    self._bury(offset, event, failure)
                return True
            if self._failed(offset, failure):
                self._bury(offset, event, failure)
                return True

    def _failed(self, offset: int, failure: Failure) -> bool:
        """Note a failure and when to try again; whether it has been going on for too long."""
        self._num_failures += 1
        pause_s = self._wire.pace.pause_s(self._num_failures, failure.retry_after_s)
        self._not_before = time.monotonic() + pause_s
        self.tally.failure = failure.reason
        at = now()
        since = self._progress.failing_since
        if since is None:
            # On the disk, so that a restart does not begin to count anew.
            since = at
            self._progress = msgspec.structs.replace(self._progress, failing_since=at)
            self._save()
        logger.warning(
            "webhook `%s` failed at offset %d: %s; next attempt in %.1f s",
            self.endpoint.name, offset, failure.reason, pause_s,
        )  # fmt: skip
        return at - since >= self._give_up

    def _bury(self, offset: int, event: Event, failure: Failure) -> None:
        letter = Letter(
            offset=offset,
            id=event.id,
            type=type_name(event),
            reason=failure.reason,
            died_at=_today(),
        )
        self._outbox.bury(letter)
        self.tally.num_dead += 1
        logger.error(
            "webhook `%s`: the event at offset %d is a dead letter: %s",
            self.endpoint.name, offset, failure.reason,
        )  # fmt: skip

    def _is_old(self, age_s: float) -> bool:
        return time.monotonic() - self._saved_at >= age_s

    def _save(self) -> None:
        if self._progress != self._saved:
            self._outbox.save(self._progress)
            self._saved = self._progress
        self._num_unsaved, self._saved_at = 0, time.monotonic()


class Sender:
    """Keeps a courier for every endpoint, and follows the file of endpoints as it changes.

    Parameters
    ----------
    folder : Path
        The data folder: endpoints in ``webhooks.json``, cursors and dead letters in
        ``webhooks``.
    log : EventLog
        May be open for reading only, beside a service that writes to it.
    """

    def __init__(self, folder: Path, log: EventLog, wire: Wire | None = None) -> None:
        self.book = book_of(folder)
        self._folder = outboxes_of(folder)
        self._log = log
        self._wire = wire or Wire()

    def run(self, stop: threading.Event, *, once: bool = False) -> dict[str, Tally]:
        """Send until told to stop, or until all that is in the log was tried; by endpoint.

        Raises
        ------
        StoreError
            If another process sends for this folder, or the endpoints cannot be read.
        """
        with locked(self._folder / "sender", wait=False):
            trips = [self._started(endpoint, once=once) for endpoint in self.book.read()]
            try:
                while not stop.wait(0.01 if once else FOLLOW_S):
                    if not once:
                        trips = self._followed(trips)
                    elif not any(trip.thread.is_alive() for trip in trips):
                        break
            finally:
                for trip in trips:
                    trip.stop.set()
                for trip in trips:
                    trip.thread.join()
        return {trip.courier.endpoint.name: trip.courier.tally for trip in trips}

    def _followed(self, trips: "list[_Trip]") -> "list[_Trip]":
        """The trips that the file of endpoints wants now; what did not change goes on."""
        try:
            wanted = self.book.read()
        except StoreError as error:
            logger.warning("the endpoints of webhooks stay as they were: %s", error)
            return trips
        going = {}
        for trip in trips:
            if trip.courier.endpoint not in wanted:
                trip.stop.set()
                trip.thread.join()
            elif trip.thread.is_alive() or time.monotonic() < trip.started_at + RESTART_S:
                going[trip.courier.endpoint.name] = trip
        return [
            going.get(endpoint.name) or self._started(endpoint, once=False) for endpoint in wanted
        ]

    def _started(self, endpoint: Endpoint, *, once: bool) -> "_Trip":
        courier = Courier(endpoint, self._log, Outbox(self._folder, endpoint), self._wire)
        stop = threading.Event()  # of its own, as it may be removed before the others
        thread = threading.Thread(
            target=_guarded, args=(courier, stop, once), name=f"webhook-{endpoint.name}"
        )
        thread.start()
        return _Trip(courier, thread, stop, time.monotonic())


@dataclass(frozen=True, slots=True)
class _Trip:
    """A courier on its way."""

    courier: Courier
    thread: threading.Thread
    stop: threading.Event
    started_at: float


def book_of(folder: Path) -> EndpointBook:
    """The endpoints of a data folder."""
    return EndpointBook(folder / "webhooks.json")


def outboxes_of(folder: Path) -> Path:
    """Where the cursors and dead letters of a data folder are."""
    return folder / "webhooks"


def send_test(endpoint: Endpoint, log: EventLog, folder: Path, wire: Wire | None = None) -> None:
    """Post a signed message of type `TEST_TYPE`, which is about nothing.

    Raises
    ------
    InvalidInput
        If it was not acknowledged, with the reason.
    """
    at = now()
    body = msgspec.json.encode({"type": TEST_TYPE, "timestamp": _today(), "data": {}})
    courier = Courier(endpoint, log, Outbox(outboxes_of(folder), endpoint), wire)
    failure = courier.send(f"test:{at}", body)
    courier.close()
    if failure is not None:
        raise InvalidInput(
            f"expected `{endpoint.name}` to acknowledge a test, got: {failure.reason}"
        )


def retry_dead(
    endpoint: Endpoint, log: EventLog, folder: Path, wire: Wire | None = None
) -> tuple[int, int]:
    """Send each dead letter of an endpoint once more; (delivered, left).

    After a failure that could pass, the rest are left as they are: the endpoint is down.
    """
    outbox = Outbox(outboxes_of(folder), endpoint)
    courier = Courier(endpoint, log, outbox, wire)
    down: Failure | None = None

    def deliver(letter: Letter) -> str | None:
        nonlocal down
        if down is not None:
            return letter.reason
        for batch in log.read(after=letter.offset - 1, limit=1):
            for _, event in batch:
                if event.id == letter.id:
                    failure = courier.send_event(event)
                    if failure is not None and not failure.final:
                        down = failure
                    return None if failure is None else failure.reason
        return f"the log has no event `{letter.id}` at offset {letter.offset}"

    try:
        return outbox.retry(deliver)
    finally:
        courier.close()


def _guarded(courier: Courier, stop: threading.Event, once: bool) -> None:
    """Run a courier; what fails is told, and the sender starts it again."""
    try:
        courier.run(stop, once=once)
    except Exception as error:
        courier.tally.failure = str(error)
        known = isinstance(error, ChopmarkError | OSError)
        logger.error(
            "webhook `%s` stands still: %s", courier.endpoint.name, error, exc_info=not known
        )


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


def _outside(kind: str, schema: Schema) -> list[str]:
    return [
        name
        for name in schema.fields_of[kind]
        if not schema.fields[name].personal and name not in INSIDE
    ]


def _retry_after_s(text: str | None) -> float:
    """Seconds of a ``Retry-After``, which is a number or a date; 0 if it is neither."""
    if text is None:
        return 0.0
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
