"""The process: what a client meets on the wire, and how it starts and ends."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from chopmark.service.bodies import MAX_BODY_BYTES
from chopmark.service.protocol import _ShortWay

from .conftest import JSON, ROOT, Server, purchase, text

HEAD = b"POST /v1/assess HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def request(event_id: str, *, more: bytes = b"") -> bytes:
    body = text(purchase(event_id))
    return HEAD + more + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A shop whose key nobody has."""
    running = Server(tmp_path_factory.mktemp("locked"), "--keys")
    yield running
    assert running.stop() == 0, running.told()


def answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of so many answers."""
    found: list[tuple[int, bytes]] = []
    buffer = b""
    while len(found) < count:
        head, end, rest = buffer.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            if len(rest) >= length:
                found.append((int(head[9:12]), rest[:length]))
                buffer = rest[length:]
                continue
        received = connection.recv(65536)
        assert received, f"the connection ended after {buffer!r}"
        buffer += received
    return found


def good(server: Server, event_id: str) -> bytes:
    """The service still works."""
    with server.client() as client:
        found = client.post("/v1/assess", content=text(purchase(event_id)), headers=JSON)
        assert found.status_code == 200
        return found.content


def test_one_event_from_twenty_clients_at_once(server: Server) -> None:
    def ask(_: int) -> httpx.Response:
        with server.client() as client:
            return client.post("/v1/assess", content=text(purchase("same")), headers=JSON)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(20)))
    assert {one.status_code for one in found} == {200}
    assert len({one.content for one in found}) == 1
    assert sum("idempotent-replay" not in one.headers for one in found) == 1


def test_the_short_way_answers_as_the_route_does(server: Server) -> None:
    """`Expect` sends a request around the short way of `service.protocol`."""
    large = b"content-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)
    bad = [text(purchase("x", amount_usd=-1)), b"", b"[" * 40, b"\xff", text(purchase("same-way"))]
    good(server, "same-way")
    for body in bad:
        both = []
        for more in (b"", b"expect: 100-continue\r\n"):
            with server.socket() as connection:
                length = b"content-length: %d\r\n\r\n" % len(body)
                connection.sendall(HEAD + more + length + body)
                told = _all(connection, until=b"}")
                both.append(told.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
        assert _undated(both[0]) == _undated(both[1])
    for head in (HEAD + large, HEAD.replace(b"json", b"xml") + b"content-length: 2\r\n\r\n{}"):
        both = []
        for more in (b"", b"expect: 100-continue\r\n"):
            with server.socket() as connection:
                connection.sendall(head.replace(b"host: x\r\n", b"host: x\r\n" + more))
                told = _all(connection, until=b"}}")
                both.append(told.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
        assert _undated(both[0]) == _undated(both[1])
        assert both[0].startswith(b"HTTP/1.1 4")


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with server.socket() as connection:
        connection.sendall(b"".join(request(f"pipe{number}") for number in range(20)))
        found = answers(connection, 20)
    assert all(status == 200 for status, _ in found)
    assert all(b'"about":"pipe%d"' % number in body for number, (_, body) in enumerate(found))


def test_bodies_in_pieces_and_in_chunks(server: Server) -> None:
    body = text(purchase("pieces"))
    with server.socket() as connection:
        for part in (HEAD[:10], HEAD[10:], b"content-length: %d\r\n\r\n" % len(body), body[:5]):
            connection.sendall(part)
            time.sleep(0.02)
        connection.sendall(body[5:])
        assert answers(connection, 1)[0][0] == 200
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 10):
            part = body[start : start + 10]
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")
        assert answers(connection, 1)[0] == (200, good(server, "pieces"))


@pytest.mark.parametrize("path", [b"/v1/assess", b"/v1/events"])
def test_endless_chunks_are_cut_off(server: Server, path: bytes) -> None:
    head = HEAD.replace(b"/v1/assess", path) + b"transfer-encoding: chunked\r\n\r\n"
    with server.socket() as connection:
        connection.sendall(head)
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        sent = 0
        try:
            while sent < 50 * MAX_BODY_BYTES:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        assert sent < 20 * MAX_BODY_BYTES  # what the sockets buffer, and not all of it
    good(server, f"after-chunks-{path.decode()}")


@pytest.mark.parametrize("path", [b"/v1/assess", b"/v1/events"])
@pytest.mark.parametrize(
    "trailer", [b"a: b\r\n" * 10, b"b" * 99], ids=["many headers", "one name without end"]
)
def test_endless_trailers_are_refused(server: Server, path: bytes, trailer: bytes) -> None:
    """httptools holds a header until its end, and then hands it on as one of the head."""
    head = HEAD.replace(b"/v1/assess", path) + b"transfer-encoding: chunked\r\n\r\n"
    with server.socket() as connection:
        connection.sendall(head + b"2\r\n{}\r\n0\r\n")
        sent = 0
        with suppress(OSError):
            while sent < 50 * MAX_BODY_BYTES:
                connection.sendall(trailer * 600)
                sent += len(trailer) * 600
        assert sent < 20 * MAX_BODY_BYTES  # what the sockets buffer, and not all of it
    with server.socket() as connection:
        connection.sendall(head + b"2\r\n{}\r\n0\r\na: b\r\n\r\n" + request("smuggled"))
        told = _all(connection)
        assert told.startswith(b"HTTP/1.1 400")
        assert told.count(b"HTTP/1.1") == 1
        assert b'"code":"trailers"' in told
        assert b"connection: close" in told
    with server.client() as client:
        assert client.get("/v1/decisions/smuggled").status_code == 404
    good(server, f"after-trailers-{path.decode()}")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"POST /v1/assess", b"401"),
        (b"POST /v1/events", b"401"),
        (b"GET /v1/schema", b"401"),
        (b"GET /health", b"200"),
    ],
)
def test_an_answer_before_the_end_of_the_body_ends_the_connection(
    locked: Server, line: bytes, status: bytes
) -> None:
    """It kept the connection for ever: one more byte stopped the only clock."""
    head = line + b" HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with locked.socket() as connection:
        connection.settimeout(5)
        connection.sendall(head + b"content-length: 100\r\n\r\n{")
        told = _all(connection)  # to the end of the connection
        assert told.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close" in told.lower()
    with locked.socket() as connection:
        connection.settimeout(5)
        for _ in range(2):  # one that has come whole keeps it
            connection.sendall(head + b"content-length: 2\r\n\r\n{}")
            assert answers(connection, 1)[0][0] == int(status)


def test_a_body_of_small_chunks_is_cheap() -> None:
    """Joined one by one, they were copied again for each."""
    way = object.__new__(_ShortWay)
    way.body, way.refusal = b"", None
    for _ in range(1000):
        assert way.add(b"xy")
    buffer = way.body
    for _ in range(MAX_BODY_BYTES // 2 - 1000):
        assert way.add(b"xy")
    assert way.body is buffer  # grown where it lies
    assert len(buffer) == MAX_BODY_BYTES


def test_large_and_broken_heads(server: Server) -> None:
    for junk, status in (
        (HEAD + b"x: " + b"y" * 40_000, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
    ):
        with server.socket() as connection:
            connection.sendall(junk)
            told = _all(connection)
            assert told[9:12] == status, told
            assert b'{"error":' in told
    good(server, "after-heads")


def test_clients_that_hang_up(server: Server) -> None:
    """A closed connection must not kill the flusher."""
    for number in range(100):
        with server.socket() as connection:
            whole = request(f"gone{number}")
            connection.sendall(whole[: len(whole) - (number % 3) * 20])
            if number % 2:  # a reset instead of a quiet end
                linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    good(server, "after-gone")
    with server.client() as client:
        assert client.get("/ready").json()["ready"] is True


def test_nothing_private_in_the_log_lines(server: Server) -> None:
    with server.client() as client:
        for card in ("4111111111111111", 4111111111111111, " "):
            body = text(purchase("private", card=card, user="Jane Doe"))
            told = client.post("/v1/assess", content=body, headers=JSON)
            assert "4111111" not in told.text
        client.get("/v1/users/Jane%20Doe")
    # Five digits would be found in the number of a port now and then.
    for word in ("4111111", "Jane", "Traceback"):
        assert word not in server.told()


def test_sigterm_leaves_a_snapshot_that_the_restart_uses(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    first = start()
    with first.client() as client:
        for number in range(30):
            body = text(purchase(f"s{number}"))
            assert client.post("/v1/assess", content=body, headers=JSON).status_code == 200
    assert first.stop() == 0
    assert (tmp_path / "state.npz").exists()
    second = start()
    decision = httpx.Response(200, content=good(second, "s30")).json()
    assert decision["values"][0] == 30.0
    assert "rebuilding" not in second.told()
    assert second.stop() == 0
    (tmp_path / "state.npz").write_bytes(b"damaged")
    third = start()
    assert "rebuilding" in third.told()
    assert httpx.Response(200, content=good(third, "s31")).json()["values"][0] == 31.0


def test_the_first_key_is_shown_once(start: Callable[..., Server], tmp_path: Path) -> None:
    first = start("--keys")
    line = next(line for line in first.told().splitlines() if "API key" in line)
    key = line.split()[-1]
    assert key not in (tmp_path / "keys.json").read_text()
    with first.client(headers={**JSON, "authorization": f"Bearer {key}"}) as client:
        assert client.post("/v1/assess", content=text(purchase("k"))).status_code == 200
        wrong = {"authorization": "Bearer wrong"}
        refused = client.post("/v1/assess", content=text(purchase("l")), headers=wrong)
        assert refused.status_code == 401
    assert first.stop() == 0
    assert "API key" not in start("--keys").told()


def test_a_taken_port(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.service.shop", str(tmp_path), "--port"]
    found = subprocess.run(
        [*command, str(server.port)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode != 0
    assert f"expected port {server.port} of 127.0.0.1 to be free" in found.stderr


def _all(connection: socket.socket, *, until: bytes | None = None) -> bytes:
    told = b""
    while until is None or not told.endswith(until):
        part = connection.recv(65536)
        if not part:
            break
        told += part
    return told


def _undated(told: bytes) -> bytes:
    return b"\r\n".join(line for line in told.split(b"\r\n") if not line.startswith(b"date:"))
