"""Replay of features for training: events a second and memory, against DuckDB and Polars.

    classic   count and sum over 4 windows by user: 8 columns
    wide      8 operations over 4 windows by user: 32 columns
    hundred   100 features over 6 entities
    ten       classic over ten times the events, Parquet to Parquet, chunk by chunk
    ten-peers the same by DuckDB and Polars (only when named: it takes minutes)

Each engine runs in a process of its own, which reads Parquet with user ids as text and leaves
the columns in memory; the processes take turns, so that one disturbance meets all. Window
(as_of - w, as_of], the event itself not in it. An event at the same millisecond of the same
user counts here if it came earlier in the log; the rivals know no log, so such rows are left
out of the comparison of values, and counted.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any, Self

import numpy as np
import polars as pl
from machine import (
    BUILD,
    goal,
    number,
    one_core,
    parser,
    peak_mb,
    progress,
    ratio,
    report,
    runs,
    table,
)

WINDOWS = {"10m": 600, "1h": 3_600, "1d": 86_400, "7d": 604_800}
ENTITIES = ("user", "device", "ip", "card", "merchant", "city")
NUM_USERS = 226_000
START_MS = 1_767_225_600_000
DAYS = 30
PARTS = ("classic", "wide", "hundred", "ten", "ten-peers")
COLUMNS = {
    "classic": ("user", "happened_at", "amount_usd"),
    "wide": ("user", "happened_at", "amount_usd", "device"),
    "hundred": (*ENTITIES, "happened_at", "amount_usd"),
}
WIDE = ("count", "sum", "mean", "min", "max", "std", "last", "distinct")


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        work(**json.loads(given.worker))
        return
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        arguments.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    parts = given.parts or PARTS[:-1]
    with report(f"Feature replay, {given.events:,} events of {NUM_USERS:,} users in {DAYS} days"):
        if "classic" in parts:
            compare("classic", given.events, repeats=given.repeats, peer_repeats=given.repeats)
        if "wide" in parts:
            compare("wide", given.events, repeats=given.repeats, peer_repeats=1)
        if "hundred" in parts:
            compare("hundred", given.events, repeats=given.repeats, peer_repeats=0)
        if "ten" in parts or "ten-peers" in parts:
            engines = ("chopmark", "duckdb", "polars") if "ten-peers" in parts else ("chopmark",)
            ten(given.events * 10, engines)


def compare(part: str, num_events: int, *, repeats: int, peer_repeats: int) -> None:
    """Time one set of features with every engine, and compare the values."""
    path = events_file(num_events, COLUMNS[part])
    engines = [("chopmark", 1)]
    if peer_repeats:
        engines += [("duckdb", 1), ("polars", 1)]
    if peer_repeats > 1:
        engines += [("duckdb", 2), ("polars", 2)]
    workers = {(name, n): Worker(name, n, part, path) for name, n in engines}
    seconds: dict[tuple[str, int], list[dict[str, float]]] = {key: [] for key in workers}
    for worker in workers.values():
        worker.ask("warm")
    for turn in range(repeats):
        for key, worker in workers.items():
            if key[0] == "chopmark" or turn < peer_repeats:
                progress(f"{part}: {key[0]} with {key[1]} thread(s), {turn + 1} of {repeats}")
                seconds[key].append(worker.ask("run"))
    if peer_repeats:
        matches = agreement(workers, part)
    peaks = {key: worker.ask("peak")["mb"] for key, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    own = seconds["chopmark", 1]
    total = runs([run["wall"] for run in own])
    rows = []
    for key, taken in seconds.items():
        wall, cpu = (runs([run[name] for run in taken]) for name in ("wall", "cpu"))
        rate = runs([num_events / run["wall"] for run in taken])
        against = "" if key[0] == "chopmark" else ratio(total, wall).text(2, "x")
        name = f"{key[0]}, {key[1]} core{'s' if key[1] > 1 else ''}"
        rows.append(
            [name, wall.text(), cpu.text(), rate.text(), f"{peaks[key]:,.0f}", against]
        )  # fmt: skip
    print(f"**{part}**: {own[0]['columns']:.0f} columns, from Parquet to columns in memory.\n")
    table(["engine", "s", "CPU s", "events/s", "peak MB", "time against ours"], rows)
    shares = {name: runs([run[name] for run in own]) for name in ("read", "columns_of", "fold")}
    fold_rate = runs([num_events / run["fold"] for run in own])
    cpu_rate = runs([num_events / run["fold_cpu"] for run in own])
    print(
        f"Ours: reading {shares['read'].text(2)} s, text ids to columns "
        f"{shares['columns_of'].text(2)} s, fold {shares['fold'].text(2)} s = "
        f"{fold_rate.text()} events/s ({cpu_rate.text()} per CPU second)."
    )
    if part != "hundred":
        print(f"Goal, fold >= 1.5 M events/s: {goal(fold_rate.median, 1.5e6, least=True)}.")
    if peer_repeats:
        print(matches)
    print()


def ten(num_events: int, engines: tuple[str, ...]) -> None:
    """Time and memory of a table that is ten times as long, once for each engine."""
    path = events_file(num_events, COLUMNS["classic"])
    rows = []
    for name in engines:
        progress(f"{num_events:,} events with {name}, Parquet to Parquet")
        worker = Worker(name, 1 if name == "chopmark" else 2, "classic", path)
        worker.ask("warm")
        taken = worker.ask("stream")
        peak = worker.ask("peak")["mb"]
        worker.close()
        reached = ""
        if name == "chopmark":
            reached = f"{goal(taken['wall'], 20)}, {goal(peak, 3000)}"
        rate = number(num_events / taken["wall"])
        seconds = [number(taken[kind]) for kind in ("wall", "cpu")]
        threads = "1 core" if name == "chopmark" else "2 cores"
        rows.append([f"{name}, {threads}", *seconds, rate, f"{peak:,.0f}", reached])
    print(f"**ten**: {num_events:,} events, 8 columns, Parquet to Parquet (one run each).\n")
    table(["engine", "s", "CPU s", "events/s", "peak MB", "goal < 20 s, < 3 GB"], rows)


class Worker:
    """One engine in a process of its own, which waits between its turns."""

    def __init__(self, engine: str, threads: int, part: str, path: Path) -> None:
        job = {"engine": engine, "threads": threads, "part": part, "path": str(path)}
        self.name = f"{engine}, {threads} core(s)"
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=one_core(threads=threads),
        )

    def ask(self, order: str) -> dict[str, float]:
        """What the process answers to an order: warm, run, stream, save PATH or peak."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended with status {self._process.wait()} at `{order}`")
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def work(*, engine: str, threads: int, part: str, path: str) -> None:
    """Obey the orders on standard input; one line of JSON for each."""
    prepared = {"chopmark": Ours, "duckdb": DuckDB, "polars": Polars}[engine](part, path, threads)
    for line in sys.stdin:
        order, _, target = line.strip().partition(" ")
        answer: dict[str, float] = {}
        if order in ("run", "stream"):
            wall, cpu = perf_counter(), process_time()
            answer = getattr(prepared, order)()
            answer |= {"wall": perf_counter() - wall, "cpu": process_time() - cpu}
        elif order == "warm" and isinstance(prepared, Ours):
            prepared.warm()
        elif order == "save":
            prepared.frame().write_parquet(target)
        elif order == "peak":
            answer = {"mb": peak_mb()}
        print(json.dumps(answer), flush=True)


class Ours:
    """chopmark's fold."""

    def __init__(self, part: str, path: str, threads: int) -> None:
        self.part, self.path = part, path
        self.catalog = catalog(part)
        self.values: list[np.ndarray] = []

    def warm(self) -> None:
        """Import all, and load compiled code, which is not measured."""
        from chopmark.features import Fold, from_frame

        frame = _named(pl.read_parquet(self.path, columns=list(COLUMNS[self.part]), n_rows=9_000))
        fold = Fold(self.catalog)
        list(fold.replay(from_frame(frame, self.catalog.schema, fold.codes)))

    def run(self) -> dict[str, float]:
        from chopmark.features import Fold, from_frame

        self.values = []
        times = [perf_counter()]
        frame = _named(pl.read_parquet(self.path, columns=list(COLUMNS[self.part])))
        times.append(perf_counter())
        fold = Fold(self.catalog)
        columns = from_frame(frame, self.catalog.schema, fold.codes)
        del frame
        times.append(perf_counter())
        cpu = process_time()
        self.values = [part.values for part in fold.replay(columns)]
        fold_cpu = process_time() - cpu
        times.append(perf_counter())
        read, columns_of, fold_wall = np.diff(times).tolist()
        return {
            "read": read,
            "columns_of": columns_of,
            "fold": fold_wall,
            "fold_cpu": fold_cpu,
            "columns": len(self.catalog.outputs),
        }

    def stream(self) -> dict[str, float]:
        """Parquet to Parquet with bounded memory."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from chopmark.features import Fold, from_frame

        fold = Fold(self.catalog)
        names = ["event", *self.catalog.names]
        types = [pa.int64(), *[pa.float64()] * len(self.catalog.names)]
        schema = pa.schema(list(zip(names, types, strict=True)))
        target = str(BUILD / "replayed-chopmark.parquet")
        start = 0
        with pq.ParquetFile(self.path) as source, pq.ParquetWriter(
            target, schema, compression="lz4", use_dictionary=False
        ) as writer:  # fmt: skip
            for batch in source.iter_batches(262_144, columns=list(COLUMNS[self.part])):
                frame = _named(pl.DataFrame(pl.from_arrow(batch)))
                columns = from_frame(frame, self.catalog.schema, fold.codes)
                values = np.hstack([part.values for part in fold.replay(columns)])
                places = pa.array(np.arange(start, start + frame.height))
                writer.write_batch(
                    pa.record_batch([places, *map(pa.array, values)], schema=schema)
                )  # fmt: skip
                start += frame.height
        return {}

    def frame(self) -> pl.DataFrame:
        names = [_plain_name(name) for name in self.catalog.names]
        values = np.hstack(self.values)
        keys = pl.read_parquet(self.path, columns=["user", "happened_at"])
        return keys.hstack(
            [pl.Series(name, column) for name, column in zip(names, values, strict=True)]
        )


class DuckDB:
    """Window functions over RANGE frames of whole microseconds: exact."""

    def __init__(self, part: str, path: str, threads: int) -> None:
        import duckdb

        self.connection = duckdb.connect(config={"threads": threads})
        operations = {
            "count": "count(*)",
            "sum": "sum(amount_usd)",
            "mean": "avg(amount_usd)",
            "min": "min(amount_usd)",
            "max": "max(amount_usd)",
            "std": "stddev_pop(amount_usd)",
            "last": "last(amount_usd)",
            "distinct": "count(DISTINCT device)",
        }
        wanted = operations if part == "wide" else {name: operations[name] for name in WIDE[:2]}
        columns = ", ".join(
            f"{call} OVER w{window} AS {operation}_{window}"
            for operation, call in wanted.items()
            for window in WINDOWS
        )
        frames = ", ".join(
            f"w{window} AS (PARTITION BY user ORDER BY t "
            f"RANGE BETWEEN {seconds * 1_000_000 - 1} PRECEDING AND 1 PRECEDING)"
            for window, seconds in WINDOWS.items()
        )
        # Integer microseconds: a quarter faster here than intervals over timestamps.
        source = f"(SELECT *, epoch_us(happened_at) AS t FROM '{path}')"
        self.query = f"SELECT user, happened_at, {columns} FROM {source} WINDOW {frames}"
        self.result: Any = None

    def run(self) -> dict[str, float]:
        self.result = None
        self.result = self.connection.sql(self.query).to_arrow_table()
        return {}

    def stream(self) -> dict[str, float]:
        target = BUILD / "replayed-duckdb.parquet"
        self.connection.execute(f"COPY ({self.query}) TO '{target}' (FORMAT parquet)")
        return {}

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(pl.from_arrow(self.result))


class Polars:
    """`DataFrame.rolling` by user, one pass for each window."""

    def __init__(self, part: str, path: str, threads: int) -> None:
        self.part, self.path = part, path
        amount = pl.col("amount_usd")
        operations = {
            "count": pl.len().cast(pl.Int64),
            "sum": amount.sum(),
            "mean": amount.mean(),
            "min": amount.min(),
            "max": amount.max(),
            "std": amount.std(ddof=0),
            "last": amount.last(),
            "distinct": pl.col("device").n_unique() if part == "wide" else pl.len(),
        }
        self.operations = operations if part == "wide" else dict(list(operations.items())[:2])
        self.result = pl.DataFrame()

    def run(self) -> dict[str, float]:
        self.result = pl.DataFrame()
        frame = pl.read_parquet(self.path, columns=list(COLUMNS[self.part]))
        parts = []
        for window in WINDOWS:
            rolled = frame.rolling(
                "happened_at", period=window, closed="none", group_by="user"
            ).agg(call.alias(f"{name}_{window}") for name, call in self.operations.items())
            parts.append(rolled if not parts else rolled.drop("user", "happened_at"))
        self.result = pl.concat(parts, how="horizontal")
        return {}

    def stream(self) -> dict[str, float]:
        self.run()
        self.result.write_parquet(BUILD / "replayed-polars.parquet")
        return {}

    def frame(self) -> pl.DataFrame:
        return self.result


def agreement(workers: dict[tuple[str, int], Worker], part: str) -> str:
    """Compare the values of the engines on one core; a difference ends the benchmark."""
    frames = {}
    for name in ("chopmark", "duckdb", "polars"):
        path = BUILD / f"values-{name}.parquet"
        progress(f"{part}: comparing the values of {name}")
        workers[name, 1].ask(f"save {path}")
        frame = pl.read_parquet(path).with_columns(pl.col("happened_at").dt.epoch("us"))
        path.unlink()
        frames[name] = frame.filter(pl.struct("user", "happened_at").is_unique()).sort(
            "user", "happened_at"
        )
    ours = frames.pop("chopmark")
    left_out = frame.height - ours.height
    names = [name for name in ours.columns if name not in ("user", "happened_at")]
    worst: dict[str, float] = {}
    for rival, theirs in frames.items():
        assert theirs.select("user", "happened_at").equals(ours.select("user", "happened_at"))
        for name in names:
            operation, _, window = name.partition("_")
            a = ours[name].to_numpy()
            b = theirs[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
            if operation in ("count", "distinct"):
                np.testing.assert_array_equal(a, b, err_msg=f"{name} of {rival}")
                continue
            if operation == "sum":  # exact cents here, sums of floats there
                b = np.round(np.nan_to_num(b) * 100) / 100
                np.testing.assert_array_equal(a, b, err_msg=f"{name} of {rival}")
                continue
            if operation == "std":
                # Sums of floats cancel where all amounts are nearly equal.
                scale = np.maximum(np.abs(ours[f"mean_{window}"].to_numpy()), 1.0)
            else:
                scale = np.maximum(np.abs(a), 1.0)
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=name)
            apart = float(np.nanmax(np.abs(a - b) / scale, initial=0.0))
            assert apart <= (1e-6 if operation == "std" else 1e-9), (rival, name, apart)
            worst[operation] = max(worst.get(operation, 0.0), apart)
    rest = "".join(f", {name} within {apart:.0e}" for name, apart in worst.items())
    return (
        f"Same values in all engines: counts and sums (to the cent) equal{rest}; {left_out:,} "
        f"of {frame.height:,} rows share user and millisecond with another and are left out."
    )


def catalog(part: str) -> Any:
    """The features of a part."""
    from chopmark.events import Entity, Event, Schema, Usd
    from chopmark.features import Catalog, aggregates

    def entity(kind: str) -> Any:
        return Annotated[str, Entity(kind)]

    fields = {name: entity(name) for name in COLUMNS[part] if name in ENTITIES}
    names = {"__annotations__": {**fields, "amount_usd": Usd}, "__module__": __name__}
    schema = Schema(type("Purchase", (Event,), names))

    def over(operations: tuple[str, ...], of: str, **options: Any) -> Any:
        return aggregates("purchase", ops=operations, of=of, windows=WINDOWS, **options)

    if part == "classic":
        return Catalog(schema, *over(("count", "sum"), "amount_usd"))
    if part == "wide":
        return Catalog(
            schema, *over(WIDE[:-1], "amount_usd"), *over(("distinct",), "device")
        )  # fmt: skip
    return Catalog(
        schema,
        *over(("count", "sum", "mean", "max"), "amount_usd", by=ENTITIES),
        *over(("distinct",), "user", by=("device",)),
    )


def events_file(num_events: int, columns: tuple[str, ...]) -> Path:
    """A Parquet file of events, made once: ids as text, times in whole milliseconds."""
    path = BUILD / f"events-{num_events}-{len(columns)}.parquet"
    if path.exists():
        return path
    from application import zipf

    progress(f"writing {path.name}")
    rng = np.random.default_rng(0)
    users = zipf(rng, NUM_USERS, num_events, exponent=0.8)
    times = START_MS + np.sort(rng.integers(0, DAYS * 86_400_000, num_events))
    cents = np.round(np.exp(rng.normal(8.0, 1.2, num_events)))
    made: dict[str, Callable[[], np.ndarray]] = {
        "user": lambda: users,
        "device": lambda: users * 2 + rng.integers(0, 2, num_events),
        "ip": lambda: (users * 3 + rng.integers(0, 3, num_events)) % NUM_USERS,
        "card": lambda: users * 2 + rng.integers(0, 2, num_events),
        "merchant": lambda: zipf(rng, 5_000, num_events, exponent=1.0),
        "city": lambda: zipf(rng, 500, num_events, exponent=1.0),
    }
    frame = pl.DataFrame(
        {
            "happened_at": pl.Series(times * 1000).cast(pl.Datetime("us", "UTC")),
            "amount_usd": cents / 100,
        }
    )
    for name, make in made.items():
        if name in columns:
            digits = pl.Series(make()).cast(pl.String).str.zfill(8)
            frame = frame.with_columns((pl.lit(f"{name}-") + digits).alias(name))
    partial = path.with_suffix(f".{os.getpid()}")
    frame.select(columns).write_parquet(partial, row_group_size=262_144)
    partial.rename(path)
    return path


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(type=pl.lit("purchase"), known_at=pl.col("happened_at"))


def _plain_name(name: str) -> str:
    """``sum_7d`` of ``purchase_amount_usd_sum_7d``."""
    return "_".join(name.split("_")[-2:])


if __name__ == "__main__":
    main()
