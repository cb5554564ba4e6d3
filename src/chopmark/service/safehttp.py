"""A connection that cannot be led astray: POST to a URL that somebody else chose.

Who may name a URL to a server can make it knock at doors that only it can reach: the metadata
address of a cloud, a database on loopback, a router. Here a name is resolved once, all of its
addresses are judged, and the connection goes to just those addresses: no second resolution
in which a name could mean something else (DNS rebinding). The name still stands in ``Host``
and in the TLS handshake, and the certificate is checked against it.

Redirects are not followed, proxies of the environment are not asked, the answer's body is
thrown away, and all of it together ends at one deadline, however slowly the other side drips.
"""

import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from chopmark.errors import ChopmarkError, InvalidInput

PORTS = frozenset({443, 8443})
MAX_ANSWER_BYTES = 64 << 10
MAX_URL = 2_000
MAX_CONNECTION_S = 60.0
"""A connection is kept no longer: after that the name is resolved and judged anew."""

Resolver = Callable[[str, int], Sequence[str]]
"""Addresses of a host, as text; OSError if it has none."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)
_PRINTABLE = re.compile(r"[!-~]+")

# The registries of special-purpose addresses, written out: `is_global` changes its mind from
# one version of Python to the next (192.0.0.8 and 2002::/16 count as global in some).
_SPECIAL = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # global by number, and the host agent of every Azure machine
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")
_PRIVATE = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
)
_METADATA = ip_network("fd00:ec2::/32")
"""Unique local by number, and the metadata service of Amazon's machines."""


class Astray(InvalidInput):
    """A URL or an address to which nothing is sent."""


class NoAnswer(ChopmarkError):
    """The other side could not be reached, or did not answer in time or in HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a connection may go.

    Attributes
    ----------
    allow_private : bool
        Private addresses and loopback too; never link-local, metadata or multicast ones.
    insecure_http : bool
        ``http`` too, if `allow_private`: to any port, of loopback alone.
    ports : frozenset of int
        Of ``https``.
    """

    allow_private: bool = False
    insecure_http: bool = False
    ports: frozenset[int] = PORTS

    def check_address(self, text: str, *, loopback: bool = False) -> None:
        """Raise `Astray` if nothing may be sent to an address.

        Parameters
        ----------
        text : str
            An IPv4 or IPv6 address.
        loopback : bool
            Whether it must be of this machine.

        Examples
        --------
        >>> Reach().check_address("93.184.215.14")
        >>> Reach().check_address("169.254.169.254")
        Traceback (most recent call last):
        chopmark.service.safehttp.Astray: expected a public address, got 169.254.169.254
        """
        try:
            address = ip_address(text)
        except ValueError as error:
            raise Astray(f"expected an IP address, got {text!r}") from error
        if loopback:
            if not address.is_loopback:
                raise Astray(f"expected an address of this machine for plain http, got {text}")
        elif not _is_public(address) and not (self.allow_private and _is_private(address)):
            wanted = "a public or private" if self.allow_private else "a public"
            raise Astray(f"expected {wanted} address, got {text}")


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a URL that was found harmless to the letter.

    Attributes
    ----------
    host : str
        In lower case; an IPv6 address without its brackets.
    authority : str
        What stands in ``Host``.
    path : str
        With the query.
    """

    host: str
    port: int
    tls: bool
    authority: str
    path: str


def parse_url(url: str, reach: Reach) -> Target:
    """The target of a URL.

    What two parsers could read in two ways is refused: blanks and control characters,
    backslashes, letters beyond ASCII, user info, numbers that only some take for an address.

    Raises
    ------
    Astray
        Saying what is wrong with it. A name is judged by its letters only; what it resolves
        to is judged by `Connection`.
    """
    if len(url) > MAX_URL or not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise Astray(
            f"expected a URL of up to {MAX_URL} printable ASCII characters without blanks and "
            f"backslashes, got {url[:200]!r}; write a name with other letters as xn--..."
        )
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise Astray(f"expected a URL, got {url!r}: {error}") from error
    secure = parts.scheme == "https"
    plain = reach.insecure_http and reach.allow_private and parts.scheme == "http"
    if not (secure or plain) or not url.lower().startswith(f"{parts.scheme}://"):
        raise Astray(f"expected a URL that starts with https://, got {parts.scheme or url!r}")
    if "@" in parts.netloc:
        raise Astray("expected a URL without user name and password")
    if "#" in url:
        raise Astray(f"expected a URL without fragment, got {url!r}")
    address = _literal(host, bracketed="[" in parts.netloc)
    if address is not None:
        reach.check_address(str(address), loopback=plain)
    number = (443 if secure else 80) if port is None else port
    if secure and number not in reach.ports:
        raise Astray(f"expected port {' or '.join(map(str, sorted(reach.ports)))}, got {number}")
    shown = f"[{host}]" if isinstance(address, IPv6Address) else host
    authority = shown if port is None else f"{shown}:{port}"
    if parts.netloc.lower() != authority or number == 0:
        raise Astray(f"expected a host, or host:port, got {parts.netloc!r}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host, number, secure, authority, path)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host by the system's resolver, without repeats."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and the text of ``Retry-After``."""

    status: int
    retry_after: str | None = None


class Connection:
    """Posts to one URL, and keeps the connection open in between; of one thread.

    Parameters
    ----------
    url : str
    reach : Reach
    timeout_s : float
        For everything from the name to the end of the answer.
    resolver : callable
    context : ssl.SSLContext, optional
        The system's roots by default, with the name checked.

    Raises
    ------
    Astray
        If the URL itself is refused.
    """

    def __init__(
        self,
        url: str,
        *,
        reach: Reach = Reach(),
        timeout_s: float = 10.0,
        resolver: Resolver = resolve,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.target = parse_url(url, reach)
        self._reach = reach
        self._timeout_s = timeout_s
        self._resolver = resolver
        self._context = context
        self._line: _Line | None = None
        self._old_at = 0.0

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one request and read its answer.

        Raises
        ------
        Astray
            If an address of the name is out of reach: nothing was sent.
        NoAnswer
            If there was none in time; the other side may have seen the request or not.
        """
        deadline = time.monotonic() + self._timeout_s
        request = _request(self.target, headers, body)
        if self._line is not None and time.monotonic() < self._old_at:
            with suppress(OSError, HTTPException, NoAnswer):
                # The other side may have closed what it held open: once more, on a new one.
                return self._exchange(self._line, request, deadline)
        self.close()
        try:
            line = self._connected(deadline)
            return self._exchange(line, request, deadline)
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            raise NoAnswer(
                f"no answer from {self.target.authority}: {type(error).__name__}: {error}"
            ) from error
        except ChopmarkError:
            self.close()
            raise

    def close(self) -> None:
        """Let the connection go; the next `post` makes another."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _connected(self, deadline: float) -> "_Line":
        target = self.target
        addresses = _in_time(lambda: self._resolver(target.host, target.port), deadline)
        if not addresses:
            raise NoAnswer(f"no answer from {target.authority}: the name has no address")
        for address in addresses:
            self._reach.check_address(address, loopback=not target.tls)
        raw = _opened(addresses, target.port, deadline)
        try:
            if target.tls:
                context = self._context or ssl.create_default_context()
                self._context = context
                raw.settimeout(_left(deadline))  # of the handshake as a whole
                raw = context.wrap_socket(raw, server_hostname=target.host)
        except BaseException:
            raw.close()
            raise
        self._line = _Line(raw)
        self._old_at = time.monotonic() + MAX_CONNECTION_S
        return self._line

    def _exchange(self, line: "_Line", request: bytes, deadline: float) -> Answer:
        line.deadline = deadline
        line.send(request)
        response = HTTPResponse(line, method="POST")  # type: ignore[arg-type]
        try:
            response.begin()
            answer = Answer(response.status, response.getheader("Retry-After"))
            # The status is the answer; what else comes, or fails to, changes nothing.
            with suppress(OSError, HTTPException):
                response.read(MAX_ANSWER_BYTES)
                if response.isclosed() and not response.will_close:
                    return answer
        finally:
            response.close()
        self.close()
        return answer


class _Line:
    """A socket whose every step ends at one deadline; `HTTPResponse` reads from it."""

    def __init__(self, raw: socket.socket) -> None:
        self.deadline = 0.0
        self._raw = raw

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._raw.settimeout(_left(self.deadline))
            view = view[self._raw.send(view) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def receive(self, buffer: memoryview) -> int:
        self._raw.settimeout(_left(self.deadline))
        return self._raw.recv_into(buffer)

    def close(self) -> None:
        self._raw.close()


class _Reader(io.RawIOBase):
    """One answer's view of a line: closing it leaves the line open."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._line.receive(buffer)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _UNICAST:
            return False
    listed = any(address in network for network in _SPECIAL)
    return address.is_global and not listed and not address.is_multicast


def _is_private(address: IPv4Address | IPv6Address) -> bool:
    return address not in _METADATA and any(address in network for network in _PRIVATE)


def _literal(host: str, *, bracketed: bool) -> IPv4Address | IPv6Address | None:
    """The address that a host is, None if it is a name; `Astray` if it is neither."""
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if address is not None and isinstance(address, IPv6Address) == bracketed and "%" not in host:
        return address
    labels = host.split(".")
    if (
        address is not None
        or bracketed
        or len(host) > 253
        or not all(_LABEL.fullmatch(label) for label in labels)
        or _NUMBER.fullmatch(labels[-1])
    ):
        raise Astray(f"expected the name of a host, or an IP address in full, got {host!r}")
    return None


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"POST {target.path} HTTP/1.1", f"Host: {target.authority}"]
    for name, value in headers.items():
        if not _PRINTABLE.fullmatch(name) or not re.fullmatch(r"[ -~]*", value):
            raise InvalidInput(f"expected a header of printable ASCII, got {name!r}: {value!r}")
        lines.append(f"{name}: {value}")
    lines += [f"Content-Length: {len(body)}", "Connection: keep-alive", "", ""]
    return "\r\n".join(lines).encode("ascii") + body


def _opened(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first of the addresses that takes one; each has been judged."""
    failure: OSError | None = None
    for num_after, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        raw = socket.socket(family, socket.SOCK_STREAM)
        try:
            # One silent address leaves time for those after it.
            raw.settimeout(_left(deadline) / (1 + min(num_after, 2)))
            raw.connect((address, port))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raw.close()
            failure = error
        else:
            return raw
    assert failure is not None
    raise failure


def _in_time(call: Callable[[], Sequence[str]], deadline: float) -> Sequence[str]:
    """What a call gives, or TimeoutError: the system's resolver knows no deadline."""
    results: list[Sequence[str] | BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work, name="resolve", daemon=True)
    thread.start()
    thread.join(_left(deadline))
    if not results:
        raise TimeoutError("the name was not resolved in time")
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for the whole request is over")
    return left
