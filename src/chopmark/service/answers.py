"""What leaves the service: JSON answers, and refusals that say what to do.

Every error has one form, ``{"error": {"code", "message", "place"}}``, where the place is the
path in the body as msgspec writes it. Here the errors of `chopmark.errors` meet HTTP codes;
nothing below knows of them.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from chopmark.errors import AlreadyTaken, InvalidEvent, InvalidInput, StoreError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")
CLOSE: Header = (b"connection", b"close")
REPLAY: Header = (b"idempotent-replay", b"true")
RETRY_AFTER_S = 1

_PLACE = re.compile(r" - at `(\$[^`]*)`")
_LONG_NUMBER = re.compile(r"\d(?:[ -]?\d){7,}")
_encode = msgspec.json.Encoder().encode


class Refusal(Exception):
    """A request that gets an error for an answer.

    Parameters
    ----------
    status : int
        HTTP code, 400 or more.
    code : str
        For programs; the message is for people.
    place : str, optional
        Path in the body, such as ``$[3].amount_usd``.
    headers : tuple of pairs
        Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        place: str | None = None,
        headers: tuple[Header, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.place = place
        self.headers = headers

    def body(self) -> bytes:
        """The JSON text of the error."""
        error = {"code": self.code, "message": self.message}
        if self.place is not None:
            error["place"] = self.place
        return _encode({"error": error})


def unavailable(message: str, *, code: str = "log_unavailable") -> Refusal:
    """A 503 that asks to come again; nothing of the request was acknowledged."""
    return Refusal(503, code, message, headers=((b"retry-after", b"%d" % RETRY_AFTER_S),))


def refusal_of(error: Exception, *, item: int | None = None) -> Refusal:
    """The refusal that an error of the engine, the schema or the log becomes.

    Parameters
    ----------
    item : int, optional
        Position in a batch, if the error does not name it itself.
    """
    if isinstance(error, InvalidInput):
        message = str(error)
        place = None
        found = _PLACE.search(message)
        if found is not None:
            message = message[: found.start()] + message[found.end() :]
            place = found[1]
        if item is not None:
            place = f"$[{item}]" + ("" if place is None else place[1:])
        if isinstance(error, AlreadyTaken):
            return Refusal(409, "conflict", without_numbers(message), place=place)
        code = "invalid_event" if isinstance(error, InvalidEvent) else "invalid_request"
        return Refusal(400, code, without_numbers(message), place=place)
    if isinstance(error, StoreError):
        # Its own words name files of ours: they go to the log, not to a client.
        return unavailable(
            "expected the event log to answer, got a failure; nothing was acknowledged, repeat "
            "the whole request"
        )
    return Refusal(
        500, "internal", "the service failed on this request, which was not taken; see its log"
    )


def without_numbers(message: str) -> str:
    """A message in which no card, account or social security number can be read.

    Examples
    --------
    >>> without_numbers("Invalid enum value '4111 1111 1111 1111' - at `$.rail`")
    "Invalid enum value '(hidden)' - at `$.rail`"
    """
    return _LONG_NUMBER.sub("(hidden)", message)


async def answer(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    headers: tuple[Header, ...] = (),
    content_type: Header = JSON,
) -> None:
    """Send one whole answer."""
    length = (b"content-length", b"%d" % len(body))
    all_headers = [content_type, length, *headers] if headers else [content_type, length]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
