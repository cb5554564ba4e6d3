"""Assessments per second over HTTP, durable before the answer, and what they wait for.

Side by side in one run: the disk's own fsync; a bare ASGI route with SQLite group commit and
no assessment (`http_floor.py`); chopmark's service; a FastAPI + pydantic twin over the same
engine and flusher (`http_twin.py`). Each event is another one. The load comes from wrk on the
same machine, so it takes its share of the processor from the service.

Needs wrk (apt-get install wrk); the twin needs .venv-peers, which `make bench` makes.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from application import NUM_LEAVES, NUM_TREES, application, write_model
from machine import (
    BUILD,
    fsync_ms,
    goal,
    number,
    parser,
    progress,
    report,
    resident_mb,
    runs,
    table,
)

from chopmark.engine import Engine
from chopmark.events import SqliteLog, Vault
from chopmark.models import load_scorer

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
CONNECTIONS = (1, 16, 64, 256)
STACKS = ("floor", "service", "twin")
MODEL = "model.chopmark"

LUA = """
local threads = 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
local count = 0
function init(args) math.randomseed(%(seed)d + number) end
function request()
  count = count + 1
  local user = math.random(20000)
  local body = string.format('{"type":"purchase","id":"%(seed)d-%%d-%%d",' ..
    '"happened_at":"2026-11-22T10:00:00.123456Z","user":"user-%%08d","device":"device-%%08d",' ..
    '"ip":"10.0.%%d.%%d","card":"card-%%08d","amount_usd":%%d.25}', number, count, user,
    user * 2 + math.random(0, 1), user %% 250, math.random(250), user, math.random(500))
  return wrk.format("POST", "/v1/assess", {["content-type"] = "application/json"}, body)
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def main() -> None:
    """Measure and print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=int, default=5, help="of each measurement")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--only", default=",".join(STACKS))
    arguments.add_argument("--connections", default=",".join(map(str, CONNECTIONS)))
    arguments.add_argument("--serve", type=Path, help=f"a folder with a {MODEL}, to serve alone")
    arguments.add_argument("--port", type=int, default=0)
    given = arguments.parse_args()
    if given.serve is not None:
        serve_alone(given.serve, given.port)
        return
    if shutil.which("wrk") is None:
        sys.exit("this needs wrk, which is not here: apt-get install wrk, or brew install wrk")
    connections = [int(text) for text in given.connections.split(",")]
    title = f"POST /v1/assess: 32 window features, {NUM_TREES} trees of {NUM_LEAVES} leaves"
    with report(title), tempfile.TemporaryDirectory(dir=BUILD) as folder:
        write_model(Path(folder) / MODEL)
        found: dict[tuple[str, int], list[Measured]] = {}
        for _ in range(given.repeats):
            for name in given.only.split(","):
                for num, measured in measure(name, Path(folder), connections, given.seconds):
                    found.setdefault((name, num), []).append(measured)
        show(found)


def make_engine(folder: Path) -> Engine:
    """The engine of the benchmark over a new log; the model lies beside the folder."""
    return Engine(
        application,
        log=SqliteLog(folder / "log.sqlite", application.catalog.schema),
        vault=Vault(bytes(32)),
        scorer=load_scorer(folder.parent / MODEL),
    )


def serve_alone(folder: Path, port: int) -> None:
    """chopmark's service, as `chopmark serve` runs it, without keys."""
    from chopmark.service import serve

    serve(make_engine(folder), port=port, snapshot_path=folder / "state.npz")


class Measured:
    """One measurement of one stack.

    Attributes
    ----------
    rate, p50_ms, p99_ms, cpu_us, fsync_ms, errors
        Requests a second; processor time of the server per request; the disk just before.
    """

    def __init__(self, *values: float) -> None:
        self.rate, self.p50_ms, self.p99_ms, self.cpu_us, self.fsync_ms, self.errors = values


def measure(
    name: str, folder: Path, connections: list[int], seconds: int
) -> list[tuple[int, Measured]]:
    """One stack with each number of connections, in a new process over a new log."""
    here = Path(tempfile.mkdtemp(dir=folder))
    port = _free_port()
    python = ROOT / (".venv-peers" if name == "twin" else ".venv") / "bin" / "python"
    if not python.exists():
        progress(f"{name} is left out: {python} is missing (make bench makes it)")
        return []
    script = "http_assess.py" if name == "service" else f"http_{name}.py"
    command = [str(python), str(HERE / script), "--serve", str(here), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _await_port(server, port)
        progress(f"{name}: ready with {resident_mb(server.pid):.0f} MB resident")
        _wrk(here, port, 16, 2)
        found = []
        for num in connections:
            fsync, busy = fsync_ms(here), _cpu_seconds(server.pid)
            requests, duration, p50, p99, errors = _wrk(here, port, num, seconds)
            cpu = (_cpu_seconds(server.pid) - busy) / requests * 1e6
            fsync = (fsync + fsync_ms(here)) / 2
            one = Measured(requests / duration, p50, p99, cpu, fsync, errors)
            progress(f"{name} {num}: {one.rate:,.0f}/s, p99 {p99:.1f} ms, fsync {fsync:.2f} ms")
            found.append((num, one))
        return found
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(here, ignore_errors=True)


def show(found: dict[tuple[str, int], list[Measured]]) -> None:
    """Print the table of all stacks, the ratios and the goals."""
    rows = []
    for (name, num), all_of in found.items():
        fsync = runs([one.fsync_ms for one in all_of])
        p99 = runs([one.p99_ms for one in all_of])
        rows.append(
            (
                name,
                num,
                runs([one.rate for one in all_of]).text(),
                runs([one.p50_ms for one in all_of]).text(),
                p99.text(),
                number(runs([one.cpu_us for one in all_of]).median),
                fsync.text(),
                number(p99.median / fsync.median, 2),
                int(sum(one.errors for one in all_of)),
            )
        )
    head = ("stack", "connections", "requests/s", "p50 ms", "p99 ms", "CPU us/request")
    table((*head, "fsync ms", "p99 in fsyncs", "errors"), rows)
    for num in sorted({num for _, num in found}):
        ours, twin = found.get(("service", num)), found.get(("twin", num))
        if ours and twin:
            rates = [one.rate / other.rate for one, other in zip(ours, twin, strict=False)]
            cpus = [other.cpu_us / one.cpu_us for one, other in zip(ours, twin, strict=False)]
            print(
                f"- {num} connections: {runs(rates).text()} times the requests of the FastAPI "
                f"twin, {runs(cpus).text()} times as many per second of processor time"
            )
    for num, text in ((256, "10,000 requests/s at 256 connections"), (16, "p99 at 16 connections")):
        if ours := found.get(("service", num)):
            fsync = runs([one.fsync_ms for one in ours]).median
            rate, p99 = (runs([getattr(one, key) for one in ours]) for key in ("rate", "p99_ms"))
            if num == 256:
                told = f"{rate.text()}: {goal(rate.median, 10_000, least=True)}"
            else:
                limit = 5.0 if fsync < 0.5 else 4 * fsync
                told = f"{p99.text()} ms, goal {limit:.1f} ms: {goal(p99.median, limit)}"
            print(f"- {text}: {told} (fsync {fsync:.2f} ms; the goal is for one under 0.5 ms)")


def _wrk(folder: Path, port: int, connections: int, seconds: int) -> tuple[float, ...]:
    """Requests, seconds, p50 and p99 in ms, errors."""
    script = folder / "post.lua"
    script.write_text(LUA % {"seed": time.time_ns() // 1000 % 10**9})
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s"]
    command += [str(script), f"http://127.0.0.1:{port}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", told)
    if found is None:
        raise RuntimeError(f"wrk told nothing: {told}")
    requests, micros, p50, p99, errors = (int(text) for text in found.groups())
    return requests, micros / 1e6, p50 / 1e3, p99 / 1e3, errors


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process so far; steadier than rates on a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(server: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the server did not open its port within a minute")


if __name__ == "__main__":
    main()
