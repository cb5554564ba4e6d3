"""What the benchmarks share: facts of the machine, medians with their spread, markdown.

`python benchmarks/machine.py` prints the facts alone.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import perf_counter, process_time

import numpy as np

BUILD = Path(__file__).resolve().parent.parent / "build" / "benchmarks"
"""Data and results of the benchmarks; git ignores it, `make clean` removes it."""

UNSURE = 0.2
"""A median whose middle half of runs spreads wider than this share of it is unsure."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        low, high = np.percentile(self.values, [25, 75])
        return float((high - low) / self.median) if self.median else 0.0

    @property
    def is_unsure(self) -> bool:
        return len(self.values) > 1 and self.spread > UNSURE

    def text(self, digits: int = 3, unit: str = "") -> str:
        """The median, marked if it is unsure or a single run."""
        mark = " (unsure)" if self.is_unsure else " (one run)" if len(self.values) == 1 else ""
        return f"{number(self.median, digits)}{unit}{mark}"

    def scaled(self, factor: float) -> "Runs":
        return Runs(tuple(value * factor for value in self.values))


def runs(values: Sequence[float]) -> Runs:
    """Measurements of any sequence of numbers."""
    return Runs(tuple(float(value) for value in values))


def ratio(ours: Runs, theirs: Runs) -> Runs:
    """How many times ours fits into theirs, run by run: the runs were made in pairs."""
    return runs([other / own for own, other in zip(ours.values, theirs.values, strict=False)])


def goal(value: float, limit: float, *, least: bool = False) -> str:
    """Whether a value is at most (or with ``least`` at least) a limit."""
    return "met" if (value >= limit if least else value <= limit) else "missed"


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a call takes."""
    wall, cpu = perf_counter(), process_time()
    call()
    return perf_counter() - wall, process_time() - cpu


@contextmanager
def report(title: str) -> Iterator[None]:
    """A headline, the machine before, whatever is printed meanwhile, the load after."""
    BUILD.mkdir(parents=True, exist_ok=True)
    started = perf_counter()
    print(f"## {title}\n\n{facts()}\n", flush=True)
    yield
    print(
        f"\n{perf_counter() - started:.0f} s in all; load average after: {_load()}.\n", flush=True
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a markdown table; numbers and texts as they are."""
    lines = [list(head), ["---"] * len(head), *[[str(cell) for cell in row] for row in rows]]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n", flush=True)


def progress(text: str) -> None:
    """Tell a waiting person what goes on, beside the results."""
    print(f"  ... {text}", file=sys.stderr, flush=True)


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, and thousands apart."""
    if value == 0 or not np.isfinite(value):
        return f"{value:.0f}"
    places = digits - 1 - int(np.floor(np.log10(abs(value))))
    return f"{round(value, places):,.{max(places, 0)}f}"


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser of the command line whose help is the module's docstring."""
    return argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def facts() -> str:
    """One line: processor, cores, memory, Python, load and the disk's fsync."""
    return (
        f"{_cpu()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB, Python "
        f"{platform.python_version()}; load average before: {_load()}; fsync of "
        f"4 KiB in `{BUILD.name}`: median {fsync_ms():.2f} ms."
    )


def fsync_ms(folder: Path = BUILD, *, count: int = 64) -> float:
    """Median milliseconds to append 4 KiB to a file and bring them to the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    times = []
    with NamedTemporaryFile(dir=folder) as file:
        for _ in range(count):
            file.write(os.urandom(4096))
            file.flush()
            began = perf_counter()
            os.fsync(file.fileno())
            times.append(perf_counter() - began)
    return float(np.median(times)) * 1e3


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process now, in MB (Linux)."""
    return _status(pid, "VmRSS") / 1000


def peak_mb(pid: int | str = "self") -> float:
    """Largest resident memory of a process since it began its program, in MB (Linux).

    Not `resource.getrusage`, whose maximum a child inherits from the process that started it.
    """
    return _status(pid, "VmHWM") / 1000


def one_core(env: dict[str, str] | None = None, *, threads: int = 1) -> dict[str, str]:
    """An environment in which every library that the benchmarks use has so many threads."""
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS", "ARROW_NUM_THREADS")
    return {**(env or os.environ), **dict.fromkeys(names, str(threads))}


def _status(pid: int | str, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1]) * 1.024
    raise OSError(f"expected {name} in /proc/{pid}/status")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


if __name__ == "__main__":
    parser(__doc__).parse_args()
    print(facts())
