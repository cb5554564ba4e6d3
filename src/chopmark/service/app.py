"""The application: three raw ASGI routes that take events, and pages that read.

A framework costs more time per request than the assessment itself, so what takes events is
written against ASGI and the rest is Litestar's (`chopmark.service.pages`). In front of both
stand the key, the error form and the counting.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from litestar import Litestar

from chopmark.decisions import ORDERS
from chopmark.engine import Assessment, Engine
from chopmark.errors import AlreadyTaken, InvalidInput, LogUnavailable
from chopmark.events.event import Event
from chopmark.events.schema import type_name
from chopmark.rules.orders import ABOUT_RULES
from chopmark.service.addresses import Addresses, Ahead, refuse_told
from chopmark.service.answers import (
    REPLAY,
    Header,
    Receive,
    Refusal,
    Scope,
    Send,
    answer,
    refusal_of,
    unavailable,
)
from chopmark.service.bodies import MAX_BATCH, read_body
from chopmark.service.flusher import Flusher
from chopmark.service.keys import KeyRing
from chopmark.service.metrics import Metrics
from chopmark.service.pages import create_pages, no_chain, route_of

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready"})

_Take = Callable[[bytes, str | None], Awaitable[tuple[bytes, bool]]]


class Service:
    """The ASGI application of one engine.

    Made by `create_app`; the attributes are for who embeds it.

    Attributes
    ----------
    engine : Engine
    flusher : Flusher
    metrics : Metrics
    pages : Litestar
        All routes that take no events.
    addresses : Addresses or None
        The chains that are served.
    """

    def __init__(
        self,
        engine: Engine,
        flusher: Flusher,
        pages: Litestar,
        keys: KeyRing | None,
        addresses: Addresses | None = None,
    ) -> None:
        self.engine = engine
        self.flusher = flusher
        self.metrics: Metrics = flusher.metrics
        self.pages = pages
        self.addresses = addresses
        self._keys = keys
        self._takes: dict[str, _Take] = {
            "/v1/assess": self._assess,
            "/v1/assess/batch": self._assess_batch,
            "/v1/events": self._ingest,
            "/v1/addresses": self._risks,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.pages(scope, receive, send)  # type: ignore[arg-type]
            return
        began = perf_counter()
        path = scope["path"]
        take = self._takes.get(path)
        try:
            if take is not None:
                holder = self.admit(scope["headers"])
                length = check_head(scope["method"], scope["headers"])
                body = await read_body(receive, length=length)
                if body is None:
                    return
                text, repeated = await take(body, holder)
                # Counted before it is sent: who has the answer finds it counted.
                self.metrics.count(path, 200, perf_counter() - began)
                await answer(send, text, headers=(REPLAY,) if repeated else ())
            else:
                if path not in OPEN_PATHS:
                    self.admit(scope["headers"])
                await self._turn(scope, receive, send, began)
        except Refusal as refusal:
            route = path if take is not None else route_of(path)
            self.metrics.count(route, refusal.status, perf_counter() - began)
            await answer(send, refusal.body(), status=refusal.status, headers=refusal.headers)

    async def _turn(self, scope: Scope, receive: Receive, send: Send, began: float) -> None:
        """Let a page answer, and count it."""
        status = 500

        async def noting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.pages(scope, receive, noting)  # type: ignore[arg-type]
        finally:
            self.metrics.count(route_of(scope["path"]), status, perf_counter() - began)

    def admit(self, headers: Iterable[Header]) -> str | None:
        """The name of a request's key; None where no keys are asked for.

        Raises
        ------
        Refusal
            If a key is asked for and there is none.
        """
        return None if self._keys is None else self._keys.admit(headers)

    def _check_right(self, event: Event, holder: str | None, *, item: int | None) -> None:
        """Raise the `Refusal` of an order that the holder of a key may not give."""
        if self._keys is None or holder is None or not isinstance(event, ORDERS):
            return
        author = getattr(event, "author", None)
        if not self._keys.may_order(holder, author):
            place = "$" if item is None else f"$[{item}]"
            raise Refusal(
                403,
                "forbidden",
                f"expected a key that may give orders, with its own name as their author; got the "
                f"key `{holder}` and the author {author!r}",
                place=f"{place}.author",
            )

    def _tell(self, event: Event, ahead: Ahead | None = None) -> None:
        """Before a decision: tell the log what chains say of the event's address."""
        if self.addresses is not None:
            self.metrics.told += self.addresses.tell(self.engine, event, ahead or {})

    def _ahead(self, events: list[Event]) -> Ahead:
        """Of a batch: what chains say of all addresses, asked at once."""
        return {} if self.addresses is None else self.addresses.ahead(self.engine, events)

    def assess(self, body: bytes) -> Assessment:
        """The answer to one event; it may go out once its offset is durable.

        Raises
        ------
        Refusal
            If the event is none, or cannot be taken now.
        """
        if self.flusher.state != "ready" or self.flusher.full:
            raise self._busy()
        try:
            event = self.engine.schema.decode(body)
            self._tell(event)
            return self.engine.assess(event)
        except Exception as error:
            raise self._refused(error) from error

    async def _assess(self, body: bytes, _: str | None) -> tuple[bytes, bool]:
        assessment = self.assess(body)
        await self._durable()
        self.note(assessment)
        return assessment.body, assessment.repeated

    async def _assess_batch(self, body: bytes, holder: str | None) -> tuple[bytes, bool]:
        events = self._checked(body, holder, decide=True)
        engine = self.engine
        try:
            # Each is a group of its own: after a 503 some may be in the log, and whoever
            # repeats the batch gets their recorded answers.
            assessments, ahead = [], self._ahead(events)
            for event in events:
                self._tell(event, ahead)
                assessments.append(engine.assess(event))
        except Exception as error:
            raise self._refused(error) from error
        await self._durable()
        for assessment in assessments:
            self.note(assessment)
        text = b"[%b]" % b",".join([assessment.body for assessment in assessments])
        return text, bool(assessments) and all(one.repeated for one in assessments)

    async def _ingest(self, body: bytes, holder: str | None) -> tuple[bytes, bool]:
        events = self._checked(body, holder, decide=False)
        engine = self.engine
        try:
            rescored = [one for one in events if type_name(one) in engine.policy.rescored]
            taken, ahead = 0, self._ahead(rescored)
            for event in events:
                if type_name(event) in engine.policy.rescored:
                    self._tell(event, ahead)
                taken += engine.take(event)
        except Exception as error:
            raise self._refused(error) from error
        await self._durable()
        self.metrics.ingested += taken
        return b'{"taken":%d,"repeated":%d}' % (taken, len(events) - taken), False

    async def _risks(self, body: bytes, _: str | None) -> tuple[bytes, bool]:
        if self.addresses is None:
            raise no_chain()
        return await self.addresses.answer(body), False

    def _checked(self, body: bytes, holder: str | None, *, decide: bool) -> list[Event]:
        """The events of a body, validated as a whole: only the log can now refuse one."""
        if self.flusher.state != "ready" or self.flusher.full:
            raise self._busy()
        engine = self.engine
        array = body.lstrip(b" \t\r\n")[:1] == b"["
        try:
            if array or decide:
                events = engine.schema.decode_many(body)
            else:
                events = [engine.schema.decode(body)]
        except Exception as error:
            raise self._refused(error) from error
        if len(events) > MAX_BATCH:
            raise Refusal(
                400,
                "too_many_events",
                f"expected at most {MAX_BATCH} events, got {len(events)}; send them in parts",
                place="$",
            )
        if len(events) > 1 and any(isinstance(event, ABOUT_RULES) for event in events):
            raise Refusal(
                400,
                "order_not_alone",
                "expected an order about rules or lists in a request of its own, as each is "
                "checked against what the one before it did",
                place="$",
            )
        first_of: dict[str, Event] = {}
        for position, event in enumerate(events):
            try:
                self._check_right(event, holder, item=position if array else None)
                if self.addresses is not None:
                    refuse_told(event)
                engine.check(event, decide=decide)
                if not engine.is_repeat(event, first_of.setdefault(event.id, event)):
                    raise AlreadyTaken(
                        f"event `{event.id}` stands in this request with other content too; "
                        "expected a new id for another event - at `$.id`"
                    )
            except Exception as error:
                raise self._refused(error, item=position if array else None) from error
        return events

    async def _durable(self) -> None:
        # All that is staged is waited for: an answer given again may not be durable either.
        try:
            await self.flusher.durable(self.engine.offset)
        except LogUnavailable as error:
            raise refusal_of(error) from error

    def note(self, assessment: Assessment) -> None:
        """Count what was answered."""
        if assessment.repeated:
            self.metrics.repeated += 1
            return
        self.metrics.decisions += 1
        if assessment.decision.score is None:
            self.metrics.degraded += 1

    def _busy(self) -> Refusal:
        if self.flusher.state != "ready":
            return unavailable(
                f"expected a service that is ready, got one that is {self.flusher.state}; "
                "nothing was done, come again"
            )
        return unavailable(
            f"expected fewer than {self.flusher.max_waiting} requests to wait, got as many; "
            "nothing was done, come again",
            code="overloaded",
        )

    def _refused(self, error: Exception, *, item: int | None = None) -> Refusal:
        """The refusal of an error; one that is ours also has the engine mended."""
        if isinstance(error, Refusal):
            return error
        if not isinstance(error, InvalidInput | LogUnavailable):
            # Without the message: the libraries' own put values into theirs.
            logger.error("an assessment failed with %s", type(error).__name__)
        if isinstance(error, LogUnavailable) or self.engine.needs_recovery:
            self.flusher.mend(error)
        return refusal_of(error, item=item)


def check_head(method: str, headers: Iterable[Header]) -> bytes | None:
    """The Content-Length of a request that brings events.

    Raises
    ------
    Refusal
        405 if it is no POST, 415 if it brings no JSON.
    """
    if method != "POST":
        raise Refusal(
            405,
            "method_not_allowed",
            f"expected POST, got {method}",
            headers=((b"allow", b"POST"),),
        )
    length = content_type = None
    for name, value in headers:
        if name == b"content-length":
            length = value
        elif name == b"content-type":
            content_type = value
    # A browser sends this type across sites only after asking, which is never granted.
    if content_type is None or content_type[:16].lower() != b"application/json":
        raise Refusal(415, "unsupported_media_type", "expected `Content-Type: application/json`")
    return length


def create_app(
    engine: Engine,
    *,
    keys: KeyRing | None,
    snapshot_path: Path | None = None,
    snapshot_every_s: float = 60.0,
    max_waiting: int = 10_000,
    route_handlers: Sequence[Any] = (),
    addresses: Addresses | None = None,
) -> Service:
    """The ASGI application that serves an engine.

    Parameters
    ----------
    engine : Engine
        Recovered and warm; from the start of the application on it belongs to it.
    keys : KeyRing or None
        Keys that open all routes but ``/health`` and ``/ready``; None opens them to everyone.
    snapshot_path : path, optional
        Where to keep a snapshot of the state.
    snapshot_every_s : float
        Seconds between snapshots, > 0; another one is written when the service ends.
    max_waiting : int
        Requests that may wait for the disk; those beyond get 503 at once.
    route_handlers : sequence
        Further Litestar handlers, such as the pages of a console.
    addresses : Addresses, optional
        Chains that are asked before a decision about an event with an address, and over HTTP.

    Raises
    ------
    ServiceError
        If chains are given that the application's log cannot be told of.
    """
    if addresses is not None:
        addresses.check(engine.schema)
    flusher = Flusher(
        engine,
        metrics=Metrics(),
        snapshot_path=snapshot_path,
        snapshot_every_s=snapshot_every_s,
        max_waiting=max_waiting,
    )
    pages = create_pages(
        engine,
        flusher,
        open_to_all=keys is None,
        route_handlers=route_handlers,
        addresses=addresses,
    )
    return Service(engine, flusher, pages, keys, addresses)
