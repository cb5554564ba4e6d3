"""Start of the service: seconds until /ready answers, resident memory, restart of a long log.

ready     `chopmark serve` with the application of the benchmarks, from the start of the
          process to the first good answer: compiled code to be made (cold, once) and on
          disk (warm); then 1,000 assessments over one connection, and the memory after
restart   a log of a million events: the engine opened from a snapshot and the last
          10,000 events, and from the first event on
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from time import perf_counter

from machine import (
    BUILD,
    goal,
    number,
    one_core,
    parser,
    peak_mb,
    progress,
    report,
    resident_mb,
    runs,
    table,
)

HERE = Path(__file__).resolve().parent
PARTS = ("ready", "restart")
LATE = 10_000
"""Events after the snapshot."""


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help="ready or restart")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--assessments", type=int, default=1_000)
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.open is not None:
        print(json.dumps(opened(given.open)))
        return
    parts = given.parts or PARTS
    if set(parts) - set(PARTS):
        arguments.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(parts)}")
    with (
        report("Start of the service"),
        tempfile.TemporaryDirectory(dir=BUILD) as folder,
    ):
        if "ready" in parts:
            measure_ready(Path(folder), given.repeats, given.assessments)
        if "restart" in parts:
            measure_restart(Path(folder), given.events)


def measure_ready(folder: Path, repeats: int, assessments: int) -> None:
    """Print the seconds to /ready and the memory after some assessments."""
    from application import purchases, write_model

    data, cache = folder / "data", folder / "numba"
    data.mkdir()
    progress("growing the model")
    write_model(data / "model.chopmark")
    bodies = [
        json.dumps(
            {
                "type": "purchase",
                "id": event.id,
                "happened_at": event.happened_at.isoformat(),
                "user": event.user,
                "device": event.device,
                "ip": event.ip,
                "card": event.card,
                "amount_usd": event.amount_usd,
            }
        )
        for event in purchases(assessments * (repeats + 1), seed=3)
    ]
    seconds, before, after, peak = [], [], [], []
    for turn in range(repeats + 1):
        progress(f"starting the service, {'warm' if turn else 'cold'}, {turn} of {repeats}")
        with served(data, cache) as (process, port, ready):
            seconds.append(ready)
            before.append(resident_mb(process.pid))
            assess(port, bodies[turn * assessments : (turn + 1) * assessments])
            after.append(resident_mb(process.pid))
            peak.append(peak_mb(process.pid))
    warm, memory = runs(seconds[1:]), runs(after[1:])
    print(f"**ready**: `chopmark serve` over HTTP, {repeats} warm starts.\n")
    table(
        ["what", "measured", "goal"],
        [
            ["start to /ready, compiled code on disk", warm.text(unit=" s"), _within(warm.median)],
            ["start to /ready, nothing compiled", f"{seconds[0]:.1f} s (one run)", ""],
            ["resident at /ready", runs(before[1:]).text(unit=" MB"), ""],
            [
                f"resident after {assessments:,} assessments",
                memory.text(unit=" MB"),
                f"< 250 MB: {goal(memory.median, 250)}",
            ],
            ["largest ever resident, warm", runs(peak[1:]).text(unit=" MB"), ""],
            ["largest ever resident, cold", f"{peak[0]:.0f} MB (one run)", ""],
        ],
    )


def measure_restart(folder: Path, num_events: int) -> None:
    """Print the seconds to open an engine over a long log."""
    data = folder / "long"
    data.mkdir()
    progress(f"writing a log of {num_events:,} events")
    writing = write_log(data, num_events)
    snapshot_mb = (data / "state.npz").stat().st_size / 1e6
    log_mb = sum(path.stat().st_size for path in data.glob("log.sqlite*") if path.is_file()) / 1e6
    rows = []
    for name, times in (("snapshot", 5), ("first event", 1)):
        taken = []
        if name == "first event":
            (data / "state.npz").unlink()
        for turn in range(times):
            progress(f"opening from the {name}, {turn + 1} of {times}")
            taken.append(open_apart(data))
        tail = min(LATE, num_events) if name == "snapshot" else num_events
        assert all(answer["offset"] == num_events for answer in taken), "events are missing"
        opening = runs([answer["seconds"] for answer in taken])
        peak = runs([answer["peak"] for answer in taken])
        rows.append(
            [f"from the {name}, {tail:,} events folded", opening.text(), peak.text(),
             number(tail / opening.median)]
        )  # fmt: skip
    print(
        f"**restart**: {num_events:,} events in the log ({log_mb:,.0f} MB), snapshot of "
        f"{snapshot_mb:,.0f} MB; written with {number(num_events / writing)} events/s; imports "
        "and compiled code not counted.\n"
    )
    table(["opened", "s", "peak MB", "events/s"], rows)


@contextmanager
def served(data: Path, cache: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int, float]]:
    """The service as a process of its own, its port, and the seconds until it was ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    chopmark = Path(sys.executable).with_name("chopmark")
    command = [str(chopmark), "serve", str(data), "--app", str(HERE / "application.py")]
    command += ["--port", str(port), "--no-keys"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    with open(data / "service.log", "wb") as log:
        began = perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            while not _is_ready(port):
                if process.poll() is not None or perf_counter() - began > 300:
                    told = (data / "service.log").read_text()[-2000:]
                    raise SystemExit(f"the service did not start:\n{told}")
                time.sleep(0.01)
            yield process, port, perf_counter() - began
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def assess(port: int, bodies: list[str]) -> None:
    """Ask for decisions one after the other over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for body in bodies:
        connection.request("POST", "/v1/assess", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        told = answer.read()
        assert answer.status == 200, f"expected 200, got {answer.status}: {told[:300]!r}"
        assert b'"model"' in told, f"decided without the model: {told[:300]!r}"
    connection.close()


def write_log(data: Path, num_events: int) -> float:
    """Fill a data folder with events and a snapshot before the last; seconds of writing."""
    from application import SCHEMA, application, purchases
    from msgspec.structs import replace

    from chopmark.engine import Engine
    from chopmark.events import SqliteLog, Vault

    events = purchases(num_events, seed=4)
    seconds = 0.0
    with SqliteLog(data / "log.sqlite", SCHEMA) as log:
        vault = Vault.open(data / "vault.key")
        early = max(num_events - LATE, 0)
        for many in (early, num_events - early):
            rest = islice(events, many)
            while group := [
                replace(event, known_at=event.happened_at) for event in islice(rest, 5_000)
            ]:
                began = perf_counter()
                log.append(*group)
                log.sync()
                seconds += perf_counter() - began
            if not (data / "state.npz").exists():
                engine = Engine(application, log=log, vault=vault)
                engine.recover()
                engine.snapshot().write(data / "state.npz")
    return seconds


def open_apart(data: Path) -> dict[str, float]:
    """Open the folder's engine in a process of its own."""
    command = [sys.executable, __file__, "--open", str(data)]
    told = subprocess.run(command, capture_output=True, text=True, env=one_core(threads=2))
    if told.returncode:
        raise SystemExit(f"opening {data} failed:\n{told.stderr[-2000:]}")
    return json.loads(told.stdout)


def opened(data: Path) -> dict[str, float]:
    """Seconds to open a folder's engine, the offset reached and the memory needed."""
    from application import application

    from chopmark.features import Fold
    from chopmark.pipelines.folder import DataFolder

    Fold(application.catalog)
    with tempfile.TemporaryDirectory() as empty:
        DataFolder(Path(empty)).open_engine(application).warm()
    began = perf_counter()
    engine = DataFolder(data).open_engine(application)
    answer = {"seconds": perf_counter() - began, "offset": engine.offset, "peak": peak_mb()}
    engine.log.close()
    return answer


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _within(seconds: float) -> str:
    return f"< 5 s: {goal(seconds, 5)}"


if __name__ == "__main__":
    main()
