"""How many decisions a second reach one endpoint on this machine.

    python benchmarks/webhooks.py [--messages 10000] [--repeats 5]

Plain http to a receiver in a process of its own that answers at once: measured is reading the
log, making and signing the messages, and one request after another. Over a real network the
rate is bounded by one round trip a message. Beside it stand bare round trips to the same
receiver, over a plain socket.
"""

import socket
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

from machine import BUILD, parser, report, runs, table

from chopmark.decisions.decision import Decision
from chopmark.events import Schema, SqliteLog
from chopmark.service.webhooks import Sender, book_of
from chopmark.times import EPOCH

SCHEMA = Schema(Decision)

RECEIVER = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waiting = b""
    while got := peer.recv(1 << 20):
        waiting += got
        while (end := waiting.find(b"\\r\\n\\r\\n")) >= 0:
            length = int(waiting[:end].split(b"Content-Length: ")[1].split(b"\\r\\n")[0])
            if len(waiting) < end + 4 + length:
                break
            waiting = waiting[end + 4 + length:]
            peer.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
"""


def decision(place: int) -> Decision:
    """One with a hundred feature values, as the exchange's are."""
    at = EPOCH + timedelta(days=20_000, milliseconds=place)
    return Decision(
        id=f"decision:p-{place}", happened_at=at, known_at=at, about=f"p-{place}",
        about_type="purchase", user=f"u-{place % 999}", limit_usd=500.0, allowed_usd=20.0,
        action="ask", friction="quiz", reasons=[], catalog="c" * 64, policy="d" * 64,
        values=[float(place % 97)] * 100,
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--messages", type=int, default=10_000)
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args()
    with report(f"Webhooks, {given.messages:,} messages"):
        receiver = subprocess.Popen(
            [sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True
        )
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        try:
            measured(port, given.messages, given.repeats)
        finally:
            receiver.kill()
            receiver.wait()


def measured(port: int, num_messages: int, repeats: int) -> None:
    """Both rates, in turn."""
    ours, bare = [], []
    with (
        tempfile.TemporaryDirectory(dir=BUILD) as name,
        SqliteLog(Path(name) / "log.sqlite", SCHEMA) as log,
    ):
        for place in range(num_messages):
            log.append(decision(place))
        log.sync()
        for repeat in range(repeats):
            ours.append(rate(Path(name), log, port, f"run{repeat}"))
            bare.append(probe(port, num_messages))
    rows = (("signed messages from the log", ours), ("bare round trips", bare))
    table(
        ("what", "a second"),
        [(what, runs(each).text()) for what, each in rows],
    )


def rate(folder: Path, log: SqliteLog, port: int, name: str) -> float:
    """Messages a second of one pass over the log."""
    book = book_of(folder)
    book.add(
        name, f"http://127.0.0.1:{port}/", ["decision"], known=["decision"], allow_private=True,
        insecure_http=True,
    )  # fmt: skip
    started = time.perf_counter()
    tally = Sender(folder, log).run(threading.Event(), once=True)[name]
    seconds = time.perf_counter() - started
    assert tally.num_sent == len(log), tally
    book.remove(name)
    return len(log) / seconds


def probe(port: int, count: int) -> float:
    """Bare round trips a second: the same bytes over a plain socket."""
    body = b"a" * 400
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 400\r\n\r\n" + body
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        for _ in range(count):
            peer.sendall(request)
            peer.recv(4096)
        return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
