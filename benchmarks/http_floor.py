"""The floor of `http_assess.py`: a bare ASGI route with SQLite group commit, nothing assessed.

It parses the event, stores it and as many bytes as a decision has, and answers with these.
"""

import asyncio
import sqlite3
import sys
import threading
from pathlib import Path

import msgspec
import uvicorn
from application import Purchase
from machine import parser

DECISION_BYTES = 1_500


def main() -> None:
    """Serve the floor."""
    arguments = parser(__doc__)
    arguments.add_argument("--serve", type=Path, required=True)
    arguments.add_argument("--port", type=int, required=True)
    given = arguments.parse_args()
    sys.setswitchinterval(0.0005)
    uvicorn.run(
        Floor(given.serve / "floor.sqlite"),  # type: ignore[arg-type]
        port=given.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        proxy_headers=False,
    )


class Floor:
    """The application."""

    def __init__(self, path: Path) -> None:
        self.writer = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.writer.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
            "CREATE TABLE events (offset INTEGER PRIMARY KEY, id TEXT, body BLOB)"
        )
        self.decode = msgspec.json.Decoder(Purchase).decode
        self.decision = b'{"padding":"' + b"x" * DECISION_BYTES + b'"}'
        self.waiting: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self.wanted = threading.Event()

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        if scope["type"] == "lifespan":
            await receive()
            self.loop = asyncio.get_running_loop()
            threading.Thread(target=self.flush, daemon=True).start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = (await receive())["body"]
        future = self.loop.create_future()
        self.waiting.append((self.decode(body).id, body, future))
        self.wanted.set()
        await future
        length = str(len(self.decision)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.decision})

    def flush(self) -> None:
        """Store what waits, group by group."""
        while self.wanted.wait():
            self.wanted.clear()
            group, self.waiting = self.waiting, []
            rows = [row for name, body, _ in group for row in ((name, body), (name, self.decision))]
            self.writer.execute("BEGIN IMMEDIATE")
            self.writer.executemany("INSERT INTO events (id, body) VALUES (?, ?)", rows)
            self.writer.execute("COMMIT")
            self.loop.call_soon_threadsafe(self.wake, group)

    def wake(self, group: list[tuple[str, bytes, "asyncio.Future[None]"]]) -> None:
        """Let the requests of a group answer."""
        for _, _, future in group:
            if not future.done():
                future.set_result(None)


if __name__ == "__main__":
    main()
