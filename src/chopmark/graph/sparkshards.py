"""Edges in Spark to the shards of a graph (`shards`), one task for each.

Shards have the rows of `Graph.of_edges` bit for bit, for any number of them. Serves row H10.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chopmark.errors import InvalidTable, StoreError, did_you_mean
from chopmark.graph.adjacency import Directed, Weight
from chopmark.graph.shards import Shard, ShardedGraph
from chopmark.graph.sparktasks import (
    Batches,
    arrays_of,
    done,
    lane_of,
    lanes_of,
    own_place,
    work_off,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def build(
    edges: DataFrame,
    folder: str | Path,
    *,
    num_nodes: int,
    num_shards: int,
    directed: Directed = "both",
    weight: Weight | None = None,
    half_life_days: float | None = None,
) -> ShardedGraph:
    """The graph of edges in shards, one task for each, written to a new folder.

    Parameters
    ----------
    edges
        `Numbered.edges`, or a part of it: one asset, some months. Columns of a ledger will do:
        `src`, `dst`, and `amount` and `time` where weights or half-lives ask for them. Amounts of
        a pair are summed by `row`; without it, by time and amount.
    num_nodes
        At least the largest id + 1.
    num_shards
        The edges of one shard fit the memory of a task, 60 bytes each.
    directed, weight, half_life_days
        As of `Graph.of_edges`.

    Raises
    ------
    InvalidTable
        If a column is missing, or an id is out of range.
    InvalidInput
        If an option is out of range.
    StoreError
        If the folder is there already or cannot be written.
    """
    from pyspark.sql import functions as F

    needed = ["src", "dst"]
    needed += ["amount"] * (weight in ("log", "amount")) + ["time"] * (half_life_days is not None)
    for name in needed:
        if name not in edges.columns:
            raise InvalidTable(
                f"expected edges with a column `{name}`, which is missing"
                + did_you_mean(name, edges.columns)
            )
    nought = np.zeros(1, np.int64)
    Shard.of_edges(  # the options are checked before work is done
        nought, nought, nought, nought, place=0, num_shards=1, num_nodes=1, weight=weight,
        half_life_days=half_life_days,
    )  # fmt: skip
    low, high = edges.select(F.min(F.least("src", "dst")), F.max(F.greatest("src", "dst"))).first()
    if low is not None and not 0 <= low <= high < num_nodes:
        raise InvalidTable(
            f"expected ids of 0 to {num_nodes - 1:,} in src and dst, got {low:,} to {high:,}; give "
            "a larger num_nodes"
        )
    spark = edges.sparkSession
    graph = ShardedGraph(
        Path(folder).absolute(), num_nodes, num_shards, directed, weight, half_life_days
    )
    graph.begin()
    order = "row" if "row" in edges.columns else "time" if "time" in edges.columns else "src"
    amount = F.col("amount") if "amount" in edges.columns else F.lit(0.0)
    time = F.col("time") if "time" in edges.columns else F.lit(0)
    ways = {"out": [("src", "dst")], "in": [("dst", "src")]}
    slots = [
        edges.where("src <> dst").select(
            F.col(node).cast("int").alias("node"), F.col(other).cast("int").alias("other"),
            amount.cast("double").alias("amount"), time.cast("long").alias("time"),
            F.col(order).cast("long").alias("row"),
        )
        for node, other in ways.get(directed, [("src", "dst"), ("dst", "src")])
    ]  # fmt: skip
    # A loop for each shard, so that one without edges is written too.
    nobody = F.lit(0).cast("long")
    loops = spark.range(num_shards).select(
        F.col("id").cast("int").alias("node"), F.col("id").cast("int").alias("other"),
        F.lit(0.0).alias("amount"), nobody.alias("time"), nobody.alias("row"),
    )  # fmt: skip
    every = reduce(lambda left, right: left.unionByName(right), slots, loops)
    lane = lane_of(F.col("node") % num_shards, lanes_of(spark, num_shards))
    try:
        work_off(every.repartition(num_shards, lane).mapInArrow(_build_task(graph), "done long"))
    except BaseException:
        shutil.rmtree(graph.folder, ignore_errors=True)
        raise
    graph.finish()
    return ShardedGraph.open(folder)


def _build_task(graph: ShardedGraph) -> Callable[[Batches], Batches]:
    folder, num_nodes, num_shards = graph.folder, graph.num_nodes, graph.num_shards
    directed, weight, half_life_days = graph.directed, graph.weight, graph.half_life_days

    def run(batches: Batches) -> Batches:
        place = own_place()
        columns = arrays_of(batches)
        apart = columns["node"] != columns["other"]
        columns = {name: column[apart] for name, column in columns.items()}
        if (columns["node"] % num_shards != place).any():
            raise StoreError(f"expected the edges of shard {place} alone in its task")
        order = np.lexsort((columns["amount"], columns["time"], columns["row"]))
        shard = Shard.of_edges(
            columns["node"][order], columns["other"][order], columns["amount"][order],
            columns["time"][order], place=place, num_shards=num_shards, num_nodes=num_nodes,
            weight=weight, half_life_days=half_life_days,
        )  # fmt: skip
        made = ShardedGraph(folder, num_nodes, num_shards, directed, weight, half_life_days)
        shard.save(made.path_of(place))
        yield done(len(order))

    return run
