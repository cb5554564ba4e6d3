"""The process: warm before the port opens, graceful when it ends."""

import errno
import gc
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from chopmark.engine import Engine
from chopmark.errors import ServiceError
from chopmark.service.addresses import Addresses
from chopmark.service.app import create_app
from chopmark.service.keys import KeyRing, open_keys
from chopmark.service.protocol import ServiceProtocol

BACKLOG = 1_024
KEEP_ALIVE_S = 30
GRACE_S = 10
"""Seconds that running requests have to end after SIGTERM."""
SWITCH_INTERVAL_S = 0.0005
"""How long a busy thread may keep another one from Python's lock: with the usual 5 ms, the
flusher would wait ten times as long for the lock as for the disk."""


def serve(
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    keys_path: Path | None = None,
    snapshot_path: Path | None = None,
    snapshot_every_s: float = 60.0,
    max_waiting: int = 10_000,
    announce: Callable[[str], None] | None = None,
    addresses: Addresses | None = None,
) -> None:
    """Serve an engine over HTTP until SIGTERM or SIGINT, then close its log.

    Parameters
    ----------
    engine : Engine
        Brought up to its log here if it is not yet; a missing model is served as degraded.
    port : int
        0 takes a free one; the announcement says which.
    keys_path : path or None
        File of the API keys; where it holds none, one is made and shown. None asks for no keys.
    snapshot_path : path, optional
        Where to keep a snapshot of the state.
    snapshot_every_s, max_waiting
        See `create_app`.
    announce : function of str, optional
        Gets the lines for the operator; prints them by default.
    addresses : Addresses, optional
        See `create_app`.

    Raises
    ------
    ServiceError
        If the port is taken, or the address is not of this machine, or the application cannot
        be told of addresses.
    """
    say = announce or _print
    with _bound(host, port) as listener:
        keys: KeyRing | None = None
        if keys_path is not None:
            keys, first = open_keys(keys_path)
            if first is not None:
                say(f"API key, shown this once: {first}")
        if engine.offset < engine.log.last_offset:
            engine.recover(snapshot_path)
        engine.warm()
        app = create_app(
            engine,
            keys=keys,
            snapshot_path=snapshot_path,
            snapshot_every_s=snapshot_every_s,
            max_waiting=max_waiting,
            addresses=addresses,
        )
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            http=ServiceProtocol,
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        address = _address(listener)
        server = _Server(config, lambda: say(f"chopmark serves on {address}"))
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        # What was made up to here stays: no collection need look at it again.
        gc.collect()
        gc.freeze()
        restore = _ignored_afterwards(signal.SIGTERM, signal.SIGINT)
        try:
            server.run(sockets=[listener])
        finally:
            restore()
            gc.unfreeze()
            sys.setswitchinterval(interval)
            engine.log.close()


class _Server(uvicorn.Server):
    """Tells when the port is open."""

    def __init__(self, config: uvicorn.Config, opened: Callable[[], None]) -> None:
        super().__init__(config)
        self._opened = opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._opened()


def _bound(host: str, port: int) -> socket.socket:
    """A socket that holds the port and does not listen yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ServiceError(
                f"expected port {port} of {host} to be free, got one that another process "
                "listens at; stop it, or choose another port"
            ) from error
        raise ServiceError(
            f"expected to listen at {host} port {port}, got: {error.strerror or error}"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _ignored_afterwards(*signals: signal.Signals) -> Callable[[], None]:
    """Uvicorn raises again the signals that ended it: here they end nothing more."""
    old = {}
    with suppress(ValueError):  # not the main thread, which alone has handlers
        for number in signals:
            old[number] = signal.signal(number, lambda *_: None)

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    return restore


def _print(line: str) -> None:
    print(line, flush=True)
