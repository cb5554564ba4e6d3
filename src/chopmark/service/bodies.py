"""What comes into the service: bodies of JSON, bounded before anything parses them.

At most 1 MiB, whether the client says the length or sends chunks, and at most 32 levels
deep; what is beyond is refused while it is still bytes.
"""

import asyncio
import re

import numpy as np

from chopmark.service.answers import CLOSE, Receive, Refusal

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_BATCH = 1_000
SLOWEST_BODY_S = 10.0
"""A body must come whole within this time, from the end of the head on."""

# A string that never ends counts as one up to the end: so the search is linear.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


async def read_body(receive: Receive, *, length: bytes | None) -> bytes | None:
    """The whole body, or None if the client hung up before its end.

    Parameters
    ----------
    length : bytes, optional
        Value of the header Content-Length.

    Raises
    ------
    Refusal
        413 if it is too long, said or found; 408 if it comes too slowly; 400 if it is
        nested too deeply or empty.
    """
    if length is not None and not fits(length):
        raise too_large()
    try:
        async with asyncio.timeout(SLOWEST_BODY_S):
            body = await _read(receive)
    except TimeoutError:
        raise too_slow() from None
    if body is not None:
        check_depth(body)
    return body


def fits(length: bytes) -> bool:
    """Whether a Content-Length is one of a body that is read."""
    return len(length) <= 7 and length.isdigit() and int(length) <= MAX_BODY_BYTES


def check_depth(body: bytes) -> None:
    """Raise the `Refusal` of JSON that is nested too deeply."""
    # Few brackets cannot be deep: the usual case costs two counts.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and depth(body) > MAX_DEPTH:
        raise Refusal(
            400, "too_deep", f"expected JSON of at most {MAX_DEPTH} levels, got more", place="$"
        )


def depth(body: bytes) -> int:
    """Levels of brackets in a JSON text, outside its strings.

    Examples
    --------
    >>> depth(b'{"a": [1, "]]["]}')
    2
    """
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    if not brackets:
        return 0
    steps = _STEPS[np.frombuffer(brackets, dtype=np.uint8)]
    return int(np.cumsum(steps, dtype=np.int32).max())


async def _read(receive: Receive) -> bytes | None:
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts += message.get("body", b"")
        if len(parts) > MAX_BODY_BYTES:
            raise too_large()
        if not message.get("more_body", False):
            return bytes(parts)


def too_large() -> Refusal:
    """The refusal of a body that is too long."""
    # The rest is not read, so the connection cannot be used again.
    return Refusal(
        413,
        "too_large",
        f"expected a body of at most {MAX_BODY_BYTES} bytes, got more; send it in parts",
        headers=(CLOSE,),
    )


def too_slow() -> Refusal:
    """The refusal of a body that does not come whole in time."""
    return Refusal(
        408,
        "timeout",
        f"expected the whole body within {SLOWEST_BODY_S:.0f} s, got a part of it",
        headers=(CLOSE,),
    )
