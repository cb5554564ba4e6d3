"""Time of typed processing: a mixed table to encoded columns, on one core and on two.

Each run is a process of its own, pinned to core 0 or to cores 0 and 1, with as many threads in
polars; runs on one core and on two take turns.

Run: .venv/bin/python benchmarks/encode.py [--rows 1000000] [--repeats 5]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl
from machine import BUILD, goal, ratio, report, runs

GOAL = 1.6
CORES = ("0", "0,1")


def main() -> None:
    """Print the medians in seconds and their ratio, or measure once if called as a worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(seconds(options.measure))
        return
    with report("Typed processing"):
        path = BUILD / f"encode-{options.rows}.parquet"
        table = mixed_table(options.rows)
        table.write_parquet(path)
        seconds(path)  # compiles, and fills the cache of the file system
        pairs = [[measured(path, cores) for cores in CORES] for _ in range(options.repeats)]
        one, two = (runs(values) for values in zip(*pairs, strict=True))
        speedup = ratio(two, one)
        print(f"{table.height} rows, {table.width} columns, {options.repeats} runs in turns\n")
        print("| cores | s | rows/s |\n|---|---|---|")
        for cores, found in zip(CORES, (one, two), strict=True):
            print(f"| {cores} | {found.text()} | {table.height / found.median:,.0f} |")
        verdict = goal(speedup.median, GOAL, least=True)
        print(f"\nspeed-up {speedup.text()}, goal at least {GOAL}: {verdict}")


def mixed_table(num_rows: int) -> pl.DataFrame:
    """(n, 40) a made-up table of numbers, texts of numbers, categories, dates and notes."""
    rng = np.random.default_rng(0)
    words = np.array(["paid", "order", "late", "gift", "thanks", "refund", "for", "the", "shop"])

    def texts(prefix: str, count: int) -> np.ndarray:
        return np.char.add(prefix, rng.integers(0, count, num_rows).astype(str))

    def moments() -> pl.Series:
        begin = np.datetime64("2024-01-01", "ms")
        return pl.Series(begin + rng.integers(0, 3 * 10**10, num_rows))

    def note() -> pl.Expr:
        drawn = [words[rng.integers(0, len(words), num_rows)] for _ in range(7)]
        return pl.concat_str([pl.lit(pl.Series(column)) for column in drawn], separator=" ")

    columns: dict[str, object] = {}
    columns |= {f"number {k}": rng.normal(size=num_rows) for k in range(14)}
    columns |= {f"count {k}": rng.integers(0, 1_000, num_rows) for k in range(4)}
    columns |= {
        f"price {k}": pl.Series(rng.lognormal(size=num_rows)).round(2).cast(pl.String)
        for k in range(5)
    }
    columns |= {f"category {k}": texts("value ", 12) for k in range(8)}
    columns |= {f"merchant {k}": texts("merchant ", 20_000) for k in range(3)}
    columns |= {f"moment {k}": moments().dt.strftime("%d/%m/%Y %H:%M") for k in range(2)}
    columns |= {f"instant {k}": moments() for k in range(2)}
    columns |= {f"note {k}": pl.select(note()).to_series() for k in range(2)}
    return pl.DataFrame(columns)


def measured(path: Path, cores: str) -> float:
    """Seconds that a process pinned to these cores needs."""
    num_cores = len(cores.split(","))
    command = ["taskset", "-c", cores, sys.executable, __file__, "--measure", str(path)]
    environment = os.environ | {"POLARS_MAX_THREADS": str(num_cores)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def seconds(path: Path) -> float:
    """Seconds to encode the table, with an encoder made from its first rows."""
    from chopmark.tabular import make_encoder

    table = pl.read_parquet(path)
    head = table.head(20_000).with_columns(target=pl.int_range(pl.len()) % 2)
    encoder = make_encoder(head, target="target")
    encoder.table(table.head(2_000))
    begin = perf_counter()
    encoder.table(table)
    return perf_counter() - begin


if __name__ == "__main__":
    main()
