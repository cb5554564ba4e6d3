"""The shop as a process, and the shop in this process."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from chopmark.service import KeyRing, Service, create_app

from . import shop

ROOT = Path(__file__).parents[2]
JSON = {"content-type": "application/json"}


def purchase(event_id: str, **fields: object) -> dict[str, Any]:
    """The body of a purchase; what happens in the future counts as happening on arrival."""
    return {
        "type": "purchase",
        "id": event_id,
        "happened_at": "2099-01-02T03:04:05Z",
        "user": "u1",
        "amount_usd": 12.5,
        **fields,
    }


class Server:
    """A shop that runs in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        # A file, not a pipe: nobody reads while it runs.
        self._told = folder / "told"
        with self._told.open("w") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.service.shop", str(folder), *options],
                cwd=ROOT,
                stdout=told,
                stderr=subprocess.STDOUT,
            )
        self.url = self._await_address()
        self.port = int(self.url.rsplit(":", 1)[1])

    def told(self) -> str:
        return self._told.read_text()

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, **options)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def _await_address(self) -> str:
        for _ in range(1200):
            found = re.search(r"serves on (\S+)\n", self.told())
            if found is not None:
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"the server did not start: {self.told()}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts shops over one folder, and stops those that still run."""
    running: list[Server] = []

    def begin(*options: str) -> Server:
        running.append(Server(tmp_path, *options))
        return running[-1]

    yield begin
    for server in running:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One shop for all tests that leave it as they found it."""
    running = Server(tmp_path_factory.mktemp("shop"))
    yield running
    assert running.stop() == 0, running.told()


@asynccontextmanager
async def running(app: Service) -> AsyncIterator[Service]:
    """The application with its life begun, as a server does it."""
    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan", "state": {}}, inbox.get, told.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await told.get())["type"] == "lifespan.startup.complete"
    try:
        yield app
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        assert (await told.get())["type"] == "lifespan.shutdown.complete"
        await life


@asynccontextmanager
async def serving(
    folder: Path, *, keys: KeyRing | None = None, faulty: bool = False, **options: Any
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A shop in this process, and a client for it."""
    engine = shop.engine(folder, faulty=faulty)
    try:
        async with running(create_app(engine, keys=keys, **options)) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                yield app, client
    finally:
        engine.log.close()


def text(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value).encode()
