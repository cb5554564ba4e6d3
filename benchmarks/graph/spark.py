"""Walks through Spark: what the cluster's way costs beside one machine, and a join per step.

    spark.py                          1e5 edges, local[2]
    spark.py --edges 1e6 --shards 4

One R-MAT graph, `--walks` walks of 40 steps from each node that has neighbours: by the native
kernel in one thread; in shards, in one process; through Spark; and, as the peer, first order as
DataFrames do it, with one join of walkers and rows per step, for `--peer-steps` steps of
`--peer-walkers` walkers. Wall seconds, after a small run in which workers start and kernels are
compiled. The walks of the first three are compared and must be equal. A superstep costs Spark
about the same for few walkers as for many, so more walks mean more steps per second. Needs the
extra `spark`, and Java.
"""

import argparse
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import polars as pl
from walks import rmat

from chopmark.graph import spark as sparks
from chopmark.graph.adjacency import Graph
from chopmark.graph.shards import Course, ShardedGraph
from chopmark.graph.walks import walk

ORDERS = {"first order": (1.0, 1.0), "second order p .5 q 2": (0.5, 2.0)}


def joined(session, path: Path, walkers: int, steps: int, repeats: int = 1) -> float:
    """Steps per second of walks that join walkers with lists of neighbours at each step."""
    from pyspark.sql import functions as F

    edges = session.read.parquet(str(path))
    both = edges.select("src", "dst").unionByName(
        edges.select(F.col("dst").alias("src"), F.col("src").alias("dst"))
    )
    rows = both.distinct().groupBy("src").agg(F.collect_list("dst").alias("row")).cache()
    rows.count()
    state = rows.select(F.col("src").alias("node")).limit(walkers).localCheckpoint()
    number = state.count()
    begun = perf_counter()
    for step in range(steps):
        place = (F.rand(step) * F.size("row")).cast("int") + 1
        state = state.join(rows, state["node"] == rows["src"]).select(
            F.element_at("row", place).alias("node")
        )
        state = state.localCheckpoint()
    return number * steps / (perf_counter() - begun)


def measured(session, edges, shards, folder, walks, length, peer) -> None:
    """Print one line for each way to do it."""
    size = int(max(edges["src"].max(), edges["dst"].max())) + 1
    count = len(edges["src"])
    path = folder / "edges.parquet"
    pl.DataFrame(
        {"row": np.arange(count), **edges, "time": np.zeros(count, np.int64)}
    ).write_parquet(path)
    begun = perf_counter()
    graph = Graph.of_edges(**edges, num_nodes=size)
    print(f"{count:>10,} edges  build  native {perf_counter() - begun:8.2f} s", end="")
    begun = perf_counter()
    frame = session.read.parquet(str(path))
    cut = sparks.build(frame, folder / "shards", num_nodes=size, num_shards=shards)
    print(f"   Spark, {shards} shards {perf_counter() - begun:8.2f} s")
    starts = np.tile(np.flatnonzero(graph.counts), walks)
    for name, (p, q) in ORDERS.items():
        begun = perf_counter()
        alone = walk(graph, starts, length=length, p=p, q=q)
        native = perf_counter() - begun
        steps = int((alone[:, 1:] >= 0).sum())
        begun = perf_counter()
        one = ShardedGraph.open(cut.folder).walk(starts, Course(length, p, q))
        sharded = perf_counter() - begun
        begun = perf_counter()
        blocks = sparks.walk(
            session, cut, folder / f"walks-{p}", starts, course=Course(length, p, q)
        )
        spark = perf_counter() - begun
        found = np.concatenate([np.load(block) for block in blocks])
        if not (np.array_equal(alone, one) and np.array_equal(alone, found)):
            raise SystemExit("the walks are not equal")
        print(
            f"{name}: {steps:,} steps, equal; native {native:.2f} s ({steps / native:,.0f}/s), "
            f"shards in one process {sharded:.2f} s ({steps / sharded:,.0f}/s), Spark "
            f"{spark:.2f} s ({steps / spark:,.0f}/s), {spark / native:.0f} times native, "
            f"{spark / (length + 2):.2f} s a superstep"
        )
        if peer and p == 1.0:
            rate = joined(session, path, *peer)
            print(
                f"    a join per step: {rate:,.0f} steps/s; native {steps / native / rate:,.0f} "
                f"times that, Spark with shards {steps / spark / rate:,.1f} times"
            )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--edges", type=float, default=1e5)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--walks", type=int, default=1)
    parser.add_argument("--peer-walkers", type=int, default=10_000)
    parser.add_argument("--peer-steps", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    session = sparks.session(given.threads, spark_driver_memory="4g")
    session.sparkContext.setLogLevel("ERROR")
    count = int(given.edges)
    peer = (given.peer_walkers, given.peer_steps)
    for number, walks, length, against in (
        (2_000, 1, 2, None),
        (count, given.walks, 40, peer),
    ):
        with TemporaryDirectory() as folder:
            edges = rmat(number // 10, number, 0)
            measured(session, edges, given.shards, Path(folder), walks, length, against)
    session.stop()


if __name__ == "__main__":
    main()
