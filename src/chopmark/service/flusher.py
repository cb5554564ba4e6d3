"""Group commit: one thread makes staged events durable, and wakes all whom that concerns.

The event loop assesses (microseconds, nothing else may touch the engine meanwhile) and then
waits for durability. One thread calls ``log.sync``; the fsync of one group runs while the
loop fills the next. The loop is woken once per sync, not once per request.

    ready -> recovering -> ready        a sync failed, or a step was left half done
    any   -> dead                       the thread died: nothing is taken any more
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Literal

from chopmark.engine import Engine
from chopmark.errors import LogUnavailable
from chopmark.service.metrics import Metrics

logger = logging.getLogger(__name__)

State = Literal["new", "ready", "recovering", "stopped", "dead"]

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 5.0
HEALTHY_S = 10.0
"""A failure this long after a recovery counts as a new one, and is retried at once."""

_Order = Literal["sync", "recover", "stop"]
Waiter = Callable[[LogUnavailable | None], None]
"""Is called once: with None when its events are durable, else with why they are not."""


class Flusher:
    """Waits for durability, recovers after failures, writes snapshots.

    All public methods belong to the event loop that `start` was called on.

    Parameters
    ----------
    engine : Engine
        Recovered already.
    snapshot_path : path, optional
        Where snapshots go; none are written without it.
    snapshot_every_s : float
        Seconds between two of them, > 0; none when nothing came meanwhile.
    max_waiting : int
        Requests that may wait for durability at once.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        metrics: Metrics,
        snapshot_path: Path | None = None,
        snapshot_every_s: float = 60.0,
        max_waiting: int = 10_000,
    ) -> None:
        self.engine = engine
        self.metrics = metrics
        self.snapshot_path = snapshot_path
        self.snapshot_every_s = snapshot_every_s
        self.max_waiting = max_waiting
        self.state: State = "new"
        self.durable_offset = engine.log.last_offset
        self._waiting: deque[tuple[int, Waiter]] = deque()
        self._orders: SimpleQueue[_Order] = SimpleQueue()
        self._ordered = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)
        self._snapshots: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._snapshot_offset = 0
        self._retry_s = FIRST_RETRY_S
        self._recovered_at = 0.0

    @property
    def alive(self) -> bool:
        """Whether the thread runs and events are taken."""
        return self.state == "ready" and self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        """Requests that wait for durability."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread, and the snapshots; events are taken from now on."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self.state = "ready"
        if self.snapshot_path is not None:
            self._snapshots = self._loop.create_task(self._keep_snapshots())

    def check(self) -> None:
        """Raise `LogUnavailable` unless an event can be taken now."""
        if self.state != "ready":
            raise LogUnavailable(f"the service takes no events now: it is {self.state}")

    @property
    def full(self) -> bool:
        """Whether as many requests wait as may."""
        return len(self._waiting) >= self.max_waiting

    def when_durable(self, offset: int, waiter: Waiter) -> None:
        """Call the waiter once the log is durable up to an offset: now, if it is already.

        Offsets may not descend from call to call, as they come from one engine.
        """
        if offset <= self.durable_offset:
            waiter(None)
            return
        self._waiting.append((offset, waiter))
        if not self._ordered:
            self._ordered = True
            # At the end of this turn of the loop: the requests that wait for their turn
            # already join the group, and the thread does not fight them for the lock.
            self._loop.call_soon(self._orders.put, "sync")

    async def durable(self, offset: int) -> None:
        """Wait until the log is durable up to an offset; `LogUnavailable` if it fails."""
        if offset <= self.durable_offset:
            return
        future: asyncio.Future[None] = self._loop.create_future()

        def settle(error: LogUnavailable | None) -> None:
            if future.done():  # a client that hung up may have cancelled it
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.when_durable(offset, settle)
        await future

    def mend(self, error: Exception) -> None:
        """Recover: the engine refused an event because of its log or a half-done step."""
        if self.state == "ready":
            logger.error("the engine is to be recovered: %s", _told(error))
            self.state = "recovering"
            self._orders.put("recover")

    async def stop(self) -> None:
        """Make all durable, write a last snapshot and end the thread."""
        self._ending.set()
        if self._snapshots is not None:
            # Not cancelled: its thread would write on, into the file of the last snapshot.
            await self._snapshots
        if self.alive:
            with suppress(LogUnavailable):
                if self.snapshot_path is not None:
                    await self.write_snapshot()
                await self.durable(self.engine.offset)
        self.state = "stopped" if self.state != "dead" else "dead"
        self._stop.set()
        self._orders.put("stop")
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        self._drop(LogUnavailable("the service stops"))

    async def write_snapshot(self) -> bool:
        """Write the state of now, once it is durable; False if nothing is new or it failed."""
        path, offset = self.snapshot_path, self.engine.offset
        if path is None or offset <= self._snapshot_offset:
            return False
        snapshot = self.engine.snapshot()
        await self.durable(offset)
        try:
            await asyncio.to_thread(snapshot.write, path)
        except OSError as error:
            self.metrics.snapshot_failures += 1
            logger.warning("no snapshot was written: %s; a restart replays more", error.strerror)
            return False
        self._snapshot_offset = offset
        return True

    async def _keep_snapshots(self) -> None:
        while not self._ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.snapshot_every_s):
                    await self._ending.wait()
            if self.state == "ready" and not self._ending.is_set():
                with suppress(LogUnavailable):
                    await self.write_snapshot()

    # What follows runs on the loop, called by the thread.

    def _wake(self, durable: int, seconds: float) -> None:
        if durable > self.durable_offset:
            self.metrics.group_events.observe(durable - self.durable_offset)
            self.metrics.sync_seconds.observe(seconds)
            self.durable_offset = durable
        waiting = self._waiting
        while waiting and waiting[0][0] <= durable:
            _call(waiting.popleft()[1], None)

    def _fail(self, error: Exception, acknowledged: threading.Event) -> None:
        logger.error("the log is to be recovered: %s", _told(error))
        self.metrics.sync_failures += 1
        if self.state != "stopped":
            self.state = "recovering"
        self._drop(LogUnavailable("the log failed; nothing was acknowledged"))
        acknowledged.set()

    def _recovered(self, durable: int) -> None:
        logger.warning("the log works again, durable up to offset %d", durable)
        self.metrics.recoveries += 1
        self.durable_offset = durable
        self._snapshot_offset = min(self._snapshot_offset, durable)
        if self.state == "recovering":
            self.state = "ready"

    def _look(self, verdict: "SimpleQueue[bool]") -> None:
        # On the loop, between two steps: in the midst of one, every step looks half done.
        half_done = self.engine.needs_recovery
        if not half_done and self.state == "recovering":
            self.state = "ready"
        verdict.put(half_done)

    def _die(self) -> None:
        self.state = "dead"
        self._drop(LogUnavailable("the flusher died"))

    def _drop(self, error: LogUnavailable) -> None:
        waiting, self._waiting = self._waiting, deque()
        for _, waiter in waiting:
            _call(waiter, error)

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            while (order := self._orders.get()) != "stop":
                # Before the sync: what is staged after this line gets an order of its own.
                self._ordered = False
                try:
                    began = perf_counter()
                    durable = self.engine.log.sync()
                    self._tell(self._wake, durable, perf_counter() - began)
                    # The log is well; who ordered this may have seen a failure of before.
                    if order == "recover" and self._is_half_done():
                        raise LogUnavailable("a step of the engine was left half done")
                except Exception as error:
                    self._recover(error)
        except BaseException:
            logger.critical("the flusher died; nothing is taken any more", exc_info=True)
            self._tell(self._die)

    def _is_half_done(self) -> bool:
        verdict: SimpleQueue[bool] = SimpleQueue()
        self._tell(self._look, verdict)
        while not self._stop.is_set():
            with suppress(Empty):
                return verdict.get(timeout=1.0)
        return False

    def _recover(self, error: Exception) -> None:
        acknowledged = threading.Event()
        self._tell(self._fail, error, acknowledged)
        # Only once the loop has stopped assessing, the engine is this thread's.
        while not acknowledged.wait(1.0):
            if self._stop.is_set():
                return
        if monotonic() - self._recovered_at > HEALTHY_S:
            self._retry_s = FIRST_RETRY_S
        while not self._stop.wait(self._retry_s):
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
            try:
                self.engine.recover(self.snapshot_path)
                durable = self.engine.log.last_offset
            except Exception as again:
                logger.error("not recovered yet: %s", _told(again))
                continue
            self._recovered_at = monotonic()
            self._tell(self._recovered, durable)
            return

    def _tell(self, call: object, *values: object) -> None:
        # A loop that is closed has nobody left to wake.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *values)  # type: ignore[arg-type]


def _call(waiter: Waiter, error: LogUnavailable | None) -> None:
    # One client's trouble must not reach the others that wait.
    try:
        waiter(error)
    except Exception as trouble:
        logger.error("an answer could not be given: %s", type(trouble).__name__)


def _told(error: Exception) -> str:
    """What may stand in a log line: our own messages, else only the kind of error.

    Other libraries put values into their messages, and values may be personal.
    """
    return str(error) if isinstance(error, LogUnavailable) else type(error).__name__
