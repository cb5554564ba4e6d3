"""Uvicorn's HTTP protocol with bounds on the head of a request, and a short way to assess.

httptools collects headers without end and without a clock. Here a head that is longer than
32 KiB gets 431, one that does not come whole in time ends its connection, and what is no
HTTP gets an error of the service's own form. Trailers, which httptools takes for headers, are
refused. An answer that goes out before the request has come whole ends its connection.

``POST /v1/assess`` of a plain HTTP/1.1 client goes a short way: no scope, no task, no future,
one write. It costs a fifth of the processor time of the ASGI route, which stays the reference
and answers all that is unusual (pipelined or slow-reading clients, Expect, Upgrade).
"""

import asyncio
from time import perf_counter

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chopmark.engine import Assessment
from chopmark.errors import LogUnavailable
from chopmark.service import bodies
from chopmark.service.answers import CLOSE, JSON, REPLAY, Header, Refusal, refusal_of
from chopmark.service.app import Service, check_head

MAX_HEAD_BYTES = 32 * 1024
SLOWEST_HEAD_S = 10.0

_ASSESS = "/v1/assess"
_URL = _ASSESS.encode()


class ServiceProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _loose_bytes = 0  # since a head or a part of a body ended: httptools may hold all of them
    _keep_alive = False  # of the request that comes in, once it has come whole
    _deadline: asyncio.TimerHandle | None = None
    _short: "_ShortWay | None" = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; one that stays silent is closed."""
        super().connection_made(transport)
        self._service = self.app if isinstance(self.app, Service) else None
        self._deadline = self.loop.call_later(SLOWEST_HEAD_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the connection go."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        self._loose_bytes += len(data)
        super().data_received(data)
        # Usually a request came whole and both are false.
        if self._loose_bytes or self._short is not None:
            self._bound()

    def shutdown(self) -> None:
        """Answer what has begun, and nothing after it."""
        self._keep_alive = False
        super().shutdown()

    def on_message_begin(self) -> None:
        """Await a head, unless the connection has been ended by an answer."""
        if self.transport.is_closing():
            raise ConnectionAbortedError("nothing is taken after the last answer")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, and no trailer."""
        if not self._in_head:
            self._refuse(_trailers())
            raise ConnectionAbortedError("a trailer")  # ends the parsing
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_head = False
        self._loose_bytes = 0
        if self._deadline is not None:
            self._cancel_deadline()
        if self.url == _URL and self._is_plain():
            self._keep_alive = self.parser.should_keep_alive()
            self._short = short = _ShortWay(self)
            self.cycle = short  # type: ignore[assignment]
            short.begin()
        else:
            super().on_headers_complete()
            # What is answered before the rest has come leaves nobody who awaits the rest.
            self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._loose_bytes = 0
        if self._short is None:
            super().on_body(body)
        elif not self._short.add(body):
            self._short = None

    def on_message_complete(self) -> None:
        """Assess, and await the head of the next request."""
        self._in_head = True
        self._loose_bytes = 0
        self.cycle.keep_alive = self._keep_alive
        short, self._short = self._short, None
        if short is None:
            super().on_message_complete()
            return
        if self._deadline is not None:
            self._cancel_deadline()
        short.assess()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(Refusal(400, "invalid_http", "expected an HTTP/1.1 request, got none"))

    def _is_plain(self) -> bool:
        parser, cycle = self.parser, self.cycle
        return (
            self._service is not None
            and (cycle is None or cycle.response_complete)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        )

    def _bound(self) -> None:
        """Bound what has come in part: in bytes and in time."""
        short = self._short
        if self.transport.is_closing():
            return
        if short is not None and short.refusal is not None:
            self._refuse(short.refusal)
        elif self._loose_bytes > MAX_HEAD_BYTES:
            message = f"expected headers of at most {MAX_HEAD_BYTES} bytes, got more"
            too_large = Refusal(431, "head_too_large", message)
            self._refuse(too_large if self._in_head else _trailers())
        elif self._deadline is None and (self._in_head or short is not None):
            slowest = SLOWEST_HEAD_S if self._in_head else bodies.SLOWEST_BODY_S
            self._deadline = self.loop.call_later(slowest, self._give_up)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer the request that comes in with an error, and end the connection."""
        if self.transport.is_closing():
            return
        if self._short is not None:
            short, self._short = self._short, None
            short.refuse(refusal)
            return
        cycle = self.cycle
        runs = cycle is not None and not cycle.response_complete
        # An answer to an earlier request is under way: an error would be taken for it.
        if not (runs and (self._in_head or cycle.response_started)):
            body = refusal.body()
            self.transport.write(_head(refusal.status, len(body), (CLOSE,), b"") + body)
        if runs:
            cycle.disconnected = True
        self.transport.close()

    def _give_up(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._short is not None:
            self._refuse(bodies.too_slow())
        else:
            self.transport.close()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Nothing:
    """Stands for the event of an ASGI request that nobody awaits."""

    def set(self) -> None:
        pass


class _ShortWay:
    """One request to assess; to uvicorn it is the connection's running request."""

    __slots__ = (
        "assessment",
        "began",
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "protocol",
        "refusal",
        "response_complete",
        "service",
    )

    def __init__(self, protocol: ServiceProtocol) -> None:
        assert protocol._service is not None
        self.began = perf_counter()
        self.protocol = protocol
        self.service: Service = protocol._service
        self.keep_alive = False  # until the request has come whole
        self.message_event = _NOTHING
        self.disconnected = False
        self.response_complete = False
        self.body: bytes | bytearray = b""
        self.refusal: Refusal | None = None
        self.assessment: Assessment | None = None

    def begin(self) -> None:
        """Look at the headers: a refusal goes out when all has been read that came along."""
        headers = self.protocol.headers
        try:
            self.service.admit(headers)
            length = check_head("POST", headers)
            if length is not None and not bodies.fits(length):
                raise bodies.too_large()
        except Refusal as refusal:
            self.refusal = refusal

    def add(self, part: bytes) -> bool:
        """Take a part of the body; False if it became too long."""
        if self.refusal is not None:
            return True
        if not self.body:
            self.body = part
        elif isinstance(self.body, bytearray):
            self.body += part
        else:
            self.body = bytearray(self.body + part)
        if len(self.body) > bodies.MAX_BODY_BYTES:
            self.refuse(bodies.too_large())
            return False
        return True

    def assess(self) -> None:
        """Assess the event; the answer goes out when it is durable."""
        if self.refusal is not None:
            self.refuse(self.refusal)
            return
        service = self.service
        try:
            body = bytes(self.body)  # usually the one part itself
            bodies.check_depth(body)
            self.assessment = assessment = service.assess(body)
        except Refusal as refusal:
            self.refuse(refusal)
            return
        self.body = b""
        # For a repeat this is the newest offset: its first answer may not be durable yet.
        service.flusher.when_durable(assessment.offset, self.finish)

    def finish(self, error: LogUnavailable | None) -> None:
        """Answer: the waiter of the flusher."""
        assessment = self.assessment
        if error is not None or assessment is None:
            self.refuse(refusal_of(error or LogUnavailable("no assessment")))
            return
        self.service.note(assessment)
        headers = (REPLAY,) if assessment.repeated else ()
        self._answer(200, assessment.body, headers)

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error."""
        self._answer(refusal.status, refusal.body(), refusal.headers)

    def _answer(self, status: int, body: bytes, headers: tuple[Header, ...]) -> None:
        self.response_complete = True
        self.service.metrics.count(_ASSESS, status, perf_counter() - self.began)
        protocol = self.protocol
        transport = protocol.transport
        if self.disconnected or transport.is_closing():
            return
        if CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers = (*headers, CLOSE)
        transport.write(_head(status, len(body), headers, _date(protocol)) + body)
        if not self.keep_alive:
            transport.close()
        protocol.on_response_complete()


def _trailers() -> Refusal:
    """The refusal of what stands between or behind the chunks of a body."""
    message = "expected a body without trailers, got some; send all headers before the body"
    return Refusal(400, "trailers", message, headers=(CLOSE,))


_NOTHING = _Nothing()
_dates: tuple[list[Header], bytes] = ([], b"")


def _date(protocol: ServiceProtocol) -> bytes:
    """Uvicorn's own headers, which change every second."""
    global _dates
    headers = protocol.server_state.default_headers
    if headers is not _dates[0]:
        _dates = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
    return _dates[1]


def _head(status: int, length: int, headers: tuple[Header, ...], date: bytes) -> bytes:
    more = b"".join([b"%b: %b\r\n" % header for header in headers]) if headers else b""
    return b"%b%b%b: %b\r\ncontent-length: %d\r\n%b\r\n" % (
        STATUS_LINE[status],
        date,
        *JSON,
        length,
        more,
    )
