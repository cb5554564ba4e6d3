"""Walks by supersteps in Spark: each shard takes its walkers as far as they come, then they move.

Walks are those of `walks.walk`, for any number of shards and tasks. A join per step, as
DataFrames would walk, is what `benchmarks/graph/spark.py` compares with. Serves row H10.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from chopmark.errors import InvalidInput, StoreError
from chopmark.graph.shards import Course, ShardedGraph, Walkers
from chopmark.graph.sparktasks import (
    Batches,
    arrays_of,
    done,
    expect_all,
    lane_of,
    lanes_of,
    own_place,
    settled,
    url_of,
    work_off,
    write_whole,
)
from chopmark.histories.storage import whole, write_array

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_STATE = "lane int, walk long, step int, node int, before int"


def walk(
    spark: SparkSession,
    graph: ShardedGraph,
    folder: str | Path,
    starts: ArrayLike | None = None,
    *,
    course: Course | None = None,
    first: int = 0,
    blocks: int | None = None,
) -> list[Path]:
    """One walk from each start, the walks of `walks.walk`: files of int32 (walks, length + 1).

    Parameters
    ----------
    folder
        New; gets the files, walks in order of their number, first + row of `starts`.
    starts : (m,) whole numbers
        None: every node once.
    blocks
        How many files; None: as many as shards.

    Raises
    ------
    InvalidTable
        If a start is not a node.
    StoreError
        If the folder is there already or cannot be written, or a shard is damaged.

    Notes
    -----
    At most length + 1 supersteps; 24 bytes of each walker on its way go over the network in each,
    and 16 bytes of each visit at the end. Set a checkpoint directory on the Spark context and a
    lost machine costs the superstep it was lost in; without one it costs the run.
    """
    from pyspark.sql import functions as F

    course = course or Course()
    nodes = np.arange(graph.num_nodes, dtype=np.int32) if starts is None else graph.checked(starts)
    blocks = blocks or graph.num_shards
    if blocks < 1 or first < 0:
        raise InvalidInput(f"expected blocks >= 1 and first >= 0, got {blocks} and {first}")
    ends = [len(nodes) * block // blocks for block in range(blocks + 1)]
    with whole(folder) as made:
        made = made.absolute()
        write_array(made / "starts.npy", nodes)
        (made / "visits").mkdir()
        lanes = lanes_of(spark, graph.num_shards)
        seeds = spark.range(0, graph.num_shards, 1, graph.num_shards)
        state = seeds.mapInArrow(_step_task(graph, made, course, first, lanes, 0), _STATE)
        for superstep in range(1, course.length + 2):
            state = settled(spark, state)
            if not (made / f"going-{superstep - 1}").exists():
                break
            (made / f"going-{superstep - 1}").unlink()
            task = _step_task(graph, made, course, first, lanes, superstep)
            state = state.repartition(graph.num_shards, "lane").mapInArrow(task, _STATE)
        keys = lanes_of(spark, blocks)
        seen = spark.read.schema("walk long, step int, node int").parquet(url_of(made / "visits"))
        edges = F.array(*(F.lit(first + end) for end in ends[1:]))
        block = F.size(F.filter(edges, lambda end: F.col("walk") >= end))
        none = F.lit(-1)
        # And one row of no walk for each file, so that one of no visits is written too.
        visits = seen.select(block.alias("block"), "walk", "step", "node").unionByName(
            spark.range(blocks).select(
                F.col("id").cast("int").alias("block"), none.cast("long").alias("walk"),
                none.alias("step"), none.alias("node"),
            )
        )  # fmt: skip
        lane = lane_of(F.col("block"), keys)
        task = _gather_task(made, course.length, first, ends)
        work_off(visits.repartition(blocks, lane).mapInArrow(task, "done long"))
        shutil.rmtree(made / "visits")
        (made / "starts.npy").unlink()
        expect_all(_block_path(made, block) for block in range(blocks))
    return [_block_path(Path(folder), block) for block in range(blocks)]


def _step_task(
    graph: ShardedGraph, folder: Path, course: Course, first: int, lanes: list[int], superstep: int
) -> Callable[[Batches], Batches]:
    home, num_shards = str(graph.folder.absolute()), graph.num_shards

    def run(batches: Batches) -> Batches:
        place = own_place()
        shards = _opened(home, os.stat(Path(home) / "about.json").st_mtime_ns)
        if superstep == 0:
            for _ in batches:
                pass
            starts = np.load(folder / "starts.npy", mmap_mode="r", allow_pickle=False)
            walkers = shards.start(starts, place, first=first)
        else:
            columns = arrays_of(batches)
            if not columns:
                return
            walkers = Walkers(*(columns[name] for name in Walkers._fields))
        if not len(walkers.walk):
            return
        if (walkers.node % num_shards != place).any():
            raise StoreError(f"expected the walkers of shard {place} alone in its task")
        left, visits = shards.advance(place, walkers, course)
        table = pa.table({name: getattr(visits, name) for name in visits._fields})
        write_whole(
            folder / "visits" / f"{superstep:06d}-{place:05d}.parquet",
            lambda path: pq.write_table(table, path, compression="none", use_dictionary=False),
        )
        if not len(left.walk):
            return
        # Tells the driver that there is more to do, at no price of a job of its own.
        (folder / f"going-{superstep}").touch()
        keys = np.array(lanes, dtype=np.int32)
        state = [pa.array(keys[left.node % num_shards]), *map(pa.array, left)]
        yield pa.RecordBatch.from_arrays(state, names=["lane", *left._fields])

    return run


@lru_cache(maxsize=4)
def _opened(folder: str, _: int) -> ShardedGraph:
    """A graph is mapped once by a worker, not by each of its tasks; again if it was made anew."""
    return ShardedGraph.open(folder)


def _gather_task(
    folder: Path, length: int, first: int, ends: list[int]
) -> Callable[[Batches], Batches]:
    def run(batches: Batches) -> Batches:
        block = own_place()
        low, high = ends[block], ends[block + 1]
        starts = np.load(folder / "starts.npy", mmap_mode="r", allow_pickle=False)
        paths = np.full((high - low, length + 1), -1, np.int32)
        paths[:, 0] = starts[low:high]
        for batch in batches:
            _, walks, steps, nodes = (column.to_numpy() for column in batch.columns)
            real = walks >= 0
            paths[walks[real] - (first + low), steps[real]] = nodes[real]
        write_whole(_block_path(folder, block), lambda path: np.save(path, paths))
        yield done(len(paths))

    return run


def _block_path(folder: Path, block: int) -> Path:
    return folder / f"walks-{block:05d}.npy"
