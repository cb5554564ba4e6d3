"""A chain of a size from Parquet to scores, updated, and asked: seconds of each step.

    scale.py --edges 1e5 1e6              one thread
    scale.py --edges 1e7 --threads 2      "1e7 edges to embeddings on two cores"

Transfers of skewed degrees in communities (those of `dynamic.py`, ten an address), with amounts,
times and 0x names, are written to Parquet and read, taken into a ledger, laid out, embedded (64
numbers, 10 walks of 40), learned from (0.2 % of addresses are illicit: half of the members of a
few communities) and scored. Then the newest transfers come, as many as touch `--touched` addresses,
and the chain is updated: with a number of touched addresses that is the same for all sizes, what
grows is what the chain's size costs. At last one address, 10,000 and all of them are asked for.
Wall seconds, with CPU seconds behind them; peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl
from dynamic import transfers

from chopmark.graph.transfers import Read, read_transfers
from chopmark.pipelines.chain import ChainFolder, Learned
from chopmark.pipelines.chainrun import Recipe

BEGIN = 1_700_000_000_000_000  # microseconds


def write(folder: Path, num_edges: int, num_touched: int) -> tuple[int, pl.DataFrame]:
    """`first.parquet` and `later.parquet`; the rows of the latter, and labels."""
    src, dst = transfers(num_edges, seed=1)
    rng = np.random.default_rng(3)
    most = max(int(src.max()), int(dst.max())) + 1
    names = pl.Series([f"0x{place:040x}" for place in rng.permutation(most).tolist()])
    times = BEGIN + np.sort(rng.integers(0, 90 * 86_400_000_000, len(src)))
    frame = pl.DataFrame(
        {
            "sender": names[src],
            "receiver": names[dst],
            "amount": rng.lognormal(0, 2, len(src)),
            "happened_at": times,
            "tx": np.arange(len(src)),
            "block": (times - BEGIN) // 12_000_000,
        }
    ).with_columns(
        pl.col("happened_at").cast(pl.Datetime("us", "UTC")),
        pl.format("t{}", pl.col("tx")).alias("tx"),
    )
    ends = np.stack([src, dst])[:, ::-1].T.ravel()
    seen = np.sort(np.unique(ends, return_index=True)[1])
    last = int(seen[min(num_touched, len(seen) - 1)] // 2 + 1)
    frame[:-last].write_parquet(folder / "first.parquet")
    frame[-last:].write_parquet(folder / "later.parquet")
    # Communities are runs of 100 in the order before `transfers` shuffled the names.
    size = num_edges // 10
    shuffled = np.random.default_rng(1).permutation(size)
    bad = rng.choice(size // 100, max(2, size // 25_000), replace=False)
    members = (bad[:, None] * 100 + np.arange(0, 100, 2)).ravel()
    illicit = shuffled[members]
    licit = rng.choice(np.setdiff1d(np.arange(size), illicit), len(illicit), replace=False)
    both = np.concatenate([illicit, licit])
    both = both[both < most]
    labels = pl.DataFrame({"address": names[both], "is_illicit": np.isin(both, illicit)})
    return last, labels


class Clock:
    """Prints what a step took."""

    def __call__(self, name: str, act: Callable[[], Any], unit: int = 0) -> Any:
        wall, cpu = perf_counter(), process_time()
        found = act()
        wall, cpu = perf_counter() - wall, process_time() - cpu
        rate = f"   {unit / wall:,.0f} a second" if unit else ""
        print(f"  {name:28s} {wall:9.2f} s   ({cpu:.2f} CPU){rate}", flush=True)
        return found


def steps(learned: Learned) -> None:
    for name, seconds in learned.seconds.items():
        print(f"      {name:24s} {seconds:9.2f} s", flush=True)


def warm(folder: Path) -> None:
    """Compile all that is timed."""
    _, labels = write(folder, 30_000, 100)
    chain = ChainFolder.create(folder / "chain")
    chain.take(Read.of(read_transfers(folder / "first.parquet")).transfers)
    chain.learn(labels, Recipe(num_walks=1, length=5, sampled=500, model="linear"))
    chain.take(Read.of(read_transfers(folder / "later.parquet")).transfers)
    chain.update()


def run(num_edges: int, num_touched: int, threads: int, folder: Path) -> None:
    last, labels = write(folder, num_edges, num_touched)
    print(f"\n{num_edges:,} transfers, the last {last:,} of them later; {threads} thread(s)")
    clock = Clock()
    chain = ChainFolder.create(folder / "chain")

    def take(name: str) -> None:
        for read in read_transfers(folder / name):
            chain.take(read.transfers)

    clock("Parquet into the ledger", lambda: take("first.parquet"), num_edges - last)
    learned = clock("learn", lambda: chain.learn(labels, Recipe(threads=threads)))
    steps(learned)
    print(
        f"      held out: ROC-AUC {learned.held_out['roc_auc']:.4f}, PR-AUC "
        f"{learned.held_out['pr_auc']:.4f}"
    )
    fitted = sum(learned.seconds.values())
    clock("newer rows into the ledger", lambda: take("later.parquet"), last)
    again = ChainFolder.open(folder / "chain")  # as a second command would
    updated = clock("update", again.update)
    steps(updated)
    spent = sum(updated.seconds.values())
    print(
        f"      {updated.num_touched:,} addresses scored anew; {spent / fitted:.1%} of `learn`",
        flush=True,
    )
    asked = chain.ledger.addresses.names(
        np.random.default_rng(0).integers(0, learned.num_addresses, 10_000)
    )
    chain = ChainFolder.open(folder / "chain")
    chain.risks(asked[:1])
    chain.score_of(asked[0])
    for name, act in (("asked", lambda one: chain.risks([one])), ("scored", chain.score_of)):
        each = []
        for address in asked[:1_000]:
            began = perf_counter()
            act(address)
            each.append(1e3 * (perf_counter() - began))
        low, high = np.quantile(each, [0.5, 0.99])
        print(f"  one address {name}: {low:.3f} ms (of 1,000; 99 %: {high:.3f})", flush=True)
    clock("10,000 addresses asked", lambda: chain.risks(asked), len(asked))
    clock("all addresses asked", lambda: list(chain.all_risks()), updated.num_addresses)
    steps(clock("all scored anew", lambda: chain.update(every=True), updated.num_addresses))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    disk = sum(path.stat().st_size for path in (folder / "chain").rglob("*") if path.is_file())
    print(f"  peak memory {peak:.1f} GB; the folder has {disk / 1024**3:.2f} GB", flush=True)


def main() -> None:
    """Read the command line and run."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--edges", type=float, nargs="+", default=[1e5, 1e6])
    reader.add_argument("--touched", type=int, default=1_000)
    reader.add_argument("--threads", type=int, default=1)
    given = reader.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chopmark-scale-"))
    try:
        for place, num_edges in enumerate((0, *map(int, given.edges))):
            made = folder / str(place)
            made.mkdir()
            if place == 0:
                warm(made)
            else:
                run(num_edges, given.touched, given.threads, made)
            shutil.rmtree(made)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
