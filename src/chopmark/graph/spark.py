"""The chain at the scale of many machines: Spark sorts and hands over, the native kernels work.

    number   Parquet of transfers -> edges with ids, and the book of addresses
    build    edges -> shards of a graph (`shards`), one task each
    walk     supersteps: each shard takes its walkers as far as they come, Spark hands them over
    train    rounds: each part of the walks trains skip-gram from the same arrays, then they merge

Ids are those of one `Ledger.append` of the same rows, shards have the rows of `Graph.of_edges`
bit for bit, walks are those of `walks.walk`: none depends on the number of shards, tasks or
machines, and a task that is run twice writes the same bytes. Vectors alone do depend on the
number of parts: with one part they equal `SkipGram.train`, with more each row is the mean of the
rows of those parts that moved it. The order of learning is not that of one machine then.

All folders are on storage that the driver and all workers see under one path, and chopmark is
installed on all. ``local[2]`` on a laptop and a cluster run the same code. A join per step, as
DataFrames would walk, is what `benchmarks/graph/spark.py` compares with.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput, InvalidTable, MissingExtra, StoreError, did_you_mean
from chopmark.graph.addresses import AddressBook
from chopmark.graph.adjacency import Directed, Weight
from chopmark.graph.shards import Course, Shard, ShardedGraph, Walkers
from chopmark.graph.skipgram import SkipGram
from chopmark.histories.storage import whole, write_array

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_Batches = Iterator[pa.RecordBatch]
_HEX = "^0[xX][0-9a-fA-F]{40}$"
_ORDER = ("block", "time", "tx", "place", "file", "line")
_STATE = "lane int, walk long, step int, node int, before int"
_DONE = pa.schema([("done", pa.int64())])


@dataclass(frozen=True, slots=True, eq=False)
class Numbered:
    """Transfers with ids in place of names."""

    edges: DataFrame
    """row long, src int, dst int, amount double, time long (microseconds since 1970), asset."""
    num_nodes: int
    """How many addresses there are."""
    num_duplicates: int
    """Rows that came twice and were left out."""


def session(threads: int = 2, **settings: str) -> SparkSession:
    """A Spark session on this machine; on a cluster, make yours as the cluster asks.

    Parameters
    ----------
    threads : >= 1
        Tasks at once, each a Python process.
    settings
        Of Spark, with "_" for "." in names: ``spark_driver_memory="8g"``.

    Raises
    ------
    MissingExtra
        If pyspark is not installed.
    InvalidInput
        If there is no Java to run it.
    """
    try:
        import pandas  # noqa: F401  (pyspark asks for it, to send Arrow)
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtra("Spark", "spark") from error
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        raise InvalidInput(
            "Spark runs on Java 17 or later, and there is no `java` on the path; install one, or "
            "set JAVA_HOME"
        )
    if type(threads) is not int or threads < 1:
        raise InvalidInput(f"expected threads of 1 or more, got {threads!r}")
    wanted = {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": str(2 * threads),
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "100000",
    } | {name.replace("_", "."): value for name, value in settings.items()}
    # Spark looks here alone: else the workers are those of another Python.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master(f"local[{threads}]").appName("chopmark")
    for name, value in wanted.items():
        builder = builder.config(name, value)
    spark: SparkSession = builder.getOrCreate()
    return spark


def number(spark: SparkSession, source: str | Path, folder: str | Path) -> Numbered:
    """Ids for the addresses of transfers in Parquet, written to a new folder.

    Parameters
    ----------
    source
        A file or folder with `sender`, `receiver`, `amount`, `happened_at` (a timestamp, or whole
        microseconds since 1970) and, if there are, `block`, `tx`, `place` and `asset`.
    folder
        Gets `addresses`, the `AddressBook`, and `edges`, Parquet of what this returns.

    Raises
    ------
    InvalidTable
        If a column is missing or of another kind, or rows are not sound; nothing is there then.
    StoreError
        If the folder is there already or cannot be written.

    Notes
    -----
    Rows with a `tx` are one if block, time, tx, asset and place are; rows without are kept all.
    Ids are in the order of first occurrence, sender before receiver, of rows in the order of
    block, time, tx, place, file and row of it. Two sorts and three joins over the network; the
    book is written by the driver, name after name.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    with whole(folder) as made:
        rows, num_rows = _checked(_columns(spark, source))
        same = Window.partitionBy(
            "block", "time", "tx", "asset", "place",
            # A row without a tx is like no other one.
            F.when(F.col("tx") == "", F.struct("file", "line")),
        ).orderBy("file", "line")  # fmt: skip
        copies = rows.withColumn("copy", F.row_number().over(same))
        kept = copies.where("copy = 1").drop("copy")
        numbered, count = _indexed(kept, _ORDER, "row")
        ends = [
            numbered.select(F.col(end).alias("name"), (2 * F.col("row") + late).alias("seen"))
            for late, end in enumerate(("sender", "receiver"))
        ]
        firsts = ends[0].unionByName(ends[1]).groupBy("name").agg(F.min("seen").alias("seen"))
        names, num_nodes = _indexed(firsts, ("seen",), "id")
        names.select("id", "name").write.parquet(_url(made / "names"))
        names = spark.read.parquet(_url(made / "names"))
        edges = numbered
        for ours, theirs in (("src", "sender"), ("dst", "receiver")):
            ids = names.select(F.col("id").cast("int").alias(ours), F.col("name").alias(theirs))
            edges = edges.join(ids, theirs)
        edges = edges.select("row", "src", "dst", "amount", "time", "asset")
        edges.write.parquet(_url(made / "edges"))
        _write_book(made / "names", made / "addresses")
        shutil.rmtree(made / "names")
    return Numbered(spark.read.parquet(_url(Path(folder) / "edges")), num_nodes, num_rows - count)


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
    lane = _lane(F.col("node") % num_shards, _lanes(spark, num_shards))
    try:
        _run(every.repartition(num_shards, lane).mapInArrow(_build_task(graph), "done long"))
    except BaseException:
        shutil.rmtree(graph.folder, ignore_errors=True)
        raise
    graph.finish()
    return ShardedGraph.open(folder)


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
        lanes = _lanes(spark, graph.num_shards)
        seeds = spark.range(0, graph.num_shards, 1, graph.num_shards)
        state = seeds.mapInArrow(_step_task(graph, made, course, first, lanes, 0), _STATE)
        for superstep in range(1, course.length + 2):
            state = _settled(spark, state)
            if not (made / f"going-{superstep - 1}").exists():
                break
            (made / f"going-{superstep - 1}").unlink()
            task = _step_task(graph, made, course, first, lanes, superstep)
            state = state.repartition(graph.num_shards, "lane").mapInArrow(task, _STATE)
        keys = _lanes(spark, blocks)
        seen = spark.read.schema("walk long, step int, node int").parquet(_url(made / "visits"))
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
        lane = _lane(F.col("block"), keys)
        task = _gather_task(made, course.length, first, ends)
        _run(visits.repartition(blocks, lane).mapInArrow(task, "done long"))
        shutil.rmtree(made / "visits")
        (made / "starts.npy").unlink()
        _expect(_block_path(made, block) for block in range(blocks))
    return [_block_path(Path(folder), block) for block in range(blocks)]


def train(
    spark: SparkSession,
    blocks: Sequence[Path],
    model: SkipGram,
    folder: str | Path,
    *,
    num_nodes: int,
    parts: int = 1,
    rounds: int = 1,
) -> SkipGram:
    """Train skip-gram on walks in files, `parts` at a time; the model, with arrays mapped.

    Parameters
    ----------
    blocks
        What `walk` gave.
    model
        New, or resumed.
    folder
        New; gets `vectors.npy` and `contexts.npy`, (num_nodes, dim) float32.
    num_nodes
        Of the graph.
    parts
        Tasks that learn side by side. 1: the vectors of `SkipGram.train`, bit for bit, if rounds
        is 1 too.
    rounds
        How often they are merged on the way; the learning rate falls along all rounds.

    Raises
    ------
    InvalidInput
        If there are fewer than 1 of either, or no walks.
    StoreError
        If the folder is there already or cannot be written.

    Notes
    -----
    Exact for any number of parts: the walks, the visits and the noise they make, first vectors,
    and the random numbers of each walk. Not exact: within a round a part does not see what the
    others learn. A task maps the arrays copy on write: it holds what its walks and noise move,
    and reads all rows once to see which did. Visits of all nodes are counted by the driver.
    """
    if parts < 1 or rounds < 1:
        raise InvalidInput(f"expected parts and rounds of 1 or more, got {parts} and {rounds}")
    walks = [np.load(path, mmap_mode="r", allow_pickle=False) for path in blocks]
    total = sum(map(len, walks))
    if not total:
        raise InvalidInput("expected walks to train on, got none")
    last = max(int(block.max(initial=-1)) for block in walks)
    if last >= num_nodes:
        raise InvalidInput(f"expected walks of nodes below {num_nodes:,}, got {last:,}")
    visits = np.zeros(num_nodes, np.int64)
    for block in walks:
        visits += np.bincount(block[block >= 0], minlength=num_nodes)
    model.grow(visits)
    options = {
        name: getattr(model, name)
        for name in (
            "dim", "window", "negatives", "rate", "last_rate", "sharing", "noise_power", "sample",
            "seed",
        )
    }  # fmt: skip
    begun = model.num_walks
    with whole(folder) as made:
        made = made.absolute()
        write_array(made / "visits.npy", visits)
        home = made / "round-0"
        home.mkdir()
        np.save(home / "vectors.npy", model.vectors)
        np.save(home / "contexts.npy", model.contexts)
        tasks = spark.range(0, parts, 1, parts)
        paths = [str(path) for path in blocks]
        for turn in range(rounds):
            ends = [total * (turn * parts + part) // (rounds * parts) for part in range(parts + 1)]
            learn = _train_task(made, turn, rounds, ends, paths, options, begun)
            _run(tasks.mapInArrow(learn, "done long"))
            _expect(made / f"round-{turn}" / f"part-{part}" for part in range(parts))
            home = made / f"round-{turn + 1}"
            home.mkdir()
            for name in ("vectors.npy", "contexts.npy"):
                np.lib.format.open_memmap(
                    home / name, mode="w+", dtype=np.float32, shape=(num_nodes, model.dim)
                ).flush()
            _run(tasks.mapInArrow(_merge_task(made, turn, parts, num_nodes), "done long"))
            shutil.rmtree(made / f"round-{turn}")
        for name in ("vectors.npy", "contexts.npy"):
            os.replace(home / name, made / name)
        home.rmdir()
        (made / "visits.npy").unlink()
    model.vectors, model.contexts = (
        np.asarray(np.load(Path(folder) / name, mmap_mode="c", allow_pickle=False))
        for name in ("vectors.npy", "contexts.npy")
    )
    model.num_walks = begun + total
    return model


# --- what is read


def _url(path: Path) -> str:
    return path.absolute().as_uri()


def _columns(spark: SparkSession, source: str | Path) -> DataFrame:
    """Columns of transfers by our names and kinds, with the file and the row they came from."""
    from pyspark.sql import functions as F

    if not Path(source).exists():
        raise InvalidInput(f"expected Parquet of transfers at `{source}`, but nothing is there")
    frame = spark.read.parquet(_url(Path(source)))
    kinds = dict(frame.dtypes)
    for name in ("sender", "receiver", "amount", "happened_at"):
        if name not in kinds:
            raise InvalidTable(
                f"expected a column `{name}` in `{source}`, which lacks it"
                + did_you_mean(name, list(kinds))
            )
    if kinds["happened_at"] not in ("timestamp", "bigint"):
        raise InvalidTable(
            f"expected `happened_at` in `{source}` as a timestamp in UTC or as whole microseconds "
            f"since 1970, got {kinds['happened_at']}"
        )

    def name_of(end: str) -> Column:
        # As `AddressBook` keeps it.
        text = F.trim(F.col(end).cast("string"))
        return F.when(text.rlike(_HEX), F.lower(text)).otherwise(text).alias(end)

    def optional(name: str, kind: str, nothing: Any) -> Column:
        given = F.col(name).cast(kind) if name in kinds else F.lit(None).cast(kind)
        return F.coalesce(given, F.lit(nothing).cast(kind)).alias(name)

    at = F.col("happened_at")
    return frame.select(
        name_of("sender"), name_of("receiver"), F.col("amount").cast("double"),
        (at if kinds["happened_at"] == "bigint" else F.unix_micros(at)).alias("time"),
        optional("block", "long", 0), optional("tx", "string", ""), optional("place", "long", 0),
        optional("asset", "string", ""),
        F.col("_metadata.file_path").alias("file"), F.col("_metadata.row_index").alias("line"),
    )  # fmt: skip


def _checked(rows: DataFrame) -> tuple[DataFrame, int]:
    """The rows and how many there are, if all are sound."""
    from pyspark.sql import functions as F

    wrong = {
        "no sender": "coalesce(sender, '') = ''",
        "no receiver": "coalesce(receiver, '') = ''",
        "an amount that is not within 0 to 2^256": (
            "not coalesce(amount >= 0 and amount <= power(2D, 256), false)"
        ),
        "no time": "time is null",
        "a block below 0": "block < 0",
        "a place below 0": "place < 0",
    }
    num_rows, *counts = rows.select(
        F.count("*"), *(F.count_if(F.expr(condition)) for condition in wrong.values())
    ).collect()[0]
    for (what, condition), count in zip(wrong.items(), counts, strict=True):
        if count:
            row = rows.where(condition).orderBy("file", "line").first()
            place = f"row {row['line'] + 1:,} of `{row['file']}`" if row else "a row"
            raise InvalidTable(
                f"expected sound transfers, but {count:,} have {what}, the first of them {place}; "
                "leave such rows out; nothing was taken in"
            )
    return rows, num_rows


def _indexed(frame: DataFrame, by: Sequence[str], name: str) -> tuple[DataFrame, int]:
    """The rows in order, numbered 0, 1, 2, ... over all partitions, and how many there are."""
    from pyspark.sql import functions as F

    # Held, so that it is counted and numbered as cut into the same partitions.
    held = (
        frame.orderBy(*by)
        .localCheckpoint()
        .withColumn("_part", F.spark_partition_id())
        # The upper 31 bits are the partition, the lower 33 the row in it.
        .withColumn("_place", F.monotonically_increasing_id().bitwiseAND((1 << 33) - 1))
    )
    counts = {row["_part"]: row["count"] for row in held.groupBy("_part").count().collect()}
    firsts, so_far = [], 0
    for part in range(max(counts, default=0) + 1):
        firsts.append(F.lit(so_far).cast("long"))
        so_far += counts.get(part, 0)
    first = F.element_at(F.array(*firsts), F.col("_part") + 1)
    return held.withColumn(name, first + F.col("_place")).drop("_part", "_place"), so_far


def _write_book(names: Path, folder: Path) -> None:
    """The book of names in the files of a folder, which are in the order of ids."""
    book = AddressBook.create(folder)
    for path in sorted(names.glob("part-*.parquet")):
        frame = pl.read_parquet(path)
        ids = book.add(frame["name"])
        if not np.array_equal(ids, frame["id"].to_numpy()):
            raise StoreError(
                f"expected names in the order of their ids in `{path.name}`; another program "
                "writes to that folder, or names differ that the book holds for one"
            )
    book.flush()


# --- who works on what


@lru_cache(maxsize=64)
def _lanes(spark: SparkSession, size: int) -> list[int]:
    """For each partition a number that Spark's hash sends there: one shard each, none shared."""
    from pyspark.sql import functions as F

    tries = 64 + int(size * (8 + 4 * math.log(size)))
    lane = F.pmod(F.hash(F.col("id").cast("int")), F.lit(size))
    found = spark.range(tries).groupBy(lane.alias("lane")).agg(F.min("id").alias("key")).collect()
    keys = {row["lane"]: row["key"] for row in found}
    if len(keys) < size:
        raise InvalidInput(f"expected Spark to spread numbers over {size:,} partitions")
    return [int(keys[lane]) for lane in range(size)]


def _lane(place: Any, lanes: Sequence[int]) -> Any:
    from pyspark.sql import functions as F

    keys = F.array(*(F.lit(key).cast("int") for key in lanes))
    return F.element_at(keys, place.cast("int") + 1)


def _run(frame: DataFrame) -> None:
    """Do the work of a frame that is nothing else."""
    frame.write.format("noop").mode("overwrite").save()


def _settled(spark: SparkSession, frame: DataFrame) -> DataFrame:
    """The rows, computed; where they came from is forgotten, or plans would grow by the step."""
    if spark.sparkContext.getCheckpointDir() is not None:
        return frame.checkpoint()
    return frame.localCheckpoint()


def _place() -> int:
    from pyspark import TaskContext

    context = TaskContext.get()
    return 0 if context is None else int(context.partitionId())


def _arrays(batches: _Batches) -> dict[str, NDArray[Any]]:
    """Columns of all batches of a task; nothing if there is none."""
    held = [batch for batch in batches if batch.num_rows]
    if not held:
        return {}
    table = pa.Table.from_batches(held)
    return {name: table[name].to_numpy() for name in table.column_names}


def _done(count: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([count], pa.int64())], schema=_DONE)


@lru_cache(maxsize=4)
def _opened(folder: str, _: int) -> ShardedGraph:
    """A graph is mapped once by a worker, not by each of its tasks; again if it was made anew."""
    return ShardedGraph.open(folder)


def _written(path: Path, write: Callable[[Path], object]) -> None:
    """A file that is there whole or not at all; a task that is run twice replaces its twin."""
    made = Path(mkdtemp(prefix=".", dir=path.parent))
    write(made / path.name)
    os.replace(made / path.name, path)
    made.rmdir()


def _block_path(folder: Path, block: int) -> Path:
    return folder / f"walks-{block:05d}.npy"


def _expect(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise StoreError(
                f"expected `{path}` from a task, but it is not there; is the folder on storage "
                "that all workers share?"
            )


# --- tasks: each is a closure of plain values, sent to the workers


def _build_task(graph: ShardedGraph) -> Callable[[_Batches], _Batches]:
    folder, num_nodes, num_shards = graph.folder, graph.num_nodes, graph.num_shards
    directed, weight, half_life_days = graph.directed, graph.weight, graph.half_life_days

    def run(batches: _Batches) -> _Batches:
        place = _place()
        columns = _arrays(batches)
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
        yield _done(len(order))

    return run


def _step_task(
    graph: ShardedGraph, folder: Path, course: Course, first: int, lanes: list[int], superstep: int
) -> Callable[[_Batches], _Batches]:
    home, num_shards = str(graph.folder.absolute()), graph.num_shards

    def run(batches: _Batches) -> _Batches:
        place = _place()
        shards = _opened(home, os.stat(Path(home) / "about.json").st_mtime_ns)
        if superstep == 0:
            for _ in batches:
                pass
            starts = np.load(folder / "starts.npy", mmap_mode="r", allow_pickle=False)
            walkers = shards.start(starts, place, first=first)
        else:
            columns = _arrays(batches)
            if not columns:
                return
            walkers = Walkers(*(columns[name] for name in Walkers._fields))
        if not len(walkers.walk):
            return
        if (walkers.node % num_shards != place).any():
            raise StoreError(f"expected the walkers of shard {place} alone in its task")
        left, visits = shards.advance(place, walkers, course)
        table = pa.table({name: getattr(visits, name) for name in visits._fields})
        _written(
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


def _gather_task(
    folder: Path, length: int, first: int, ends: list[int]
) -> Callable[[_Batches], _Batches]:
    def run(batches: _Batches) -> _Batches:
        block = _place()
        low, high = ends[block], ends[block + 1]
        starts = np.load(folder / "starts.npy", mmap_mode="r", allow_pickle=False)
        paths = np.full((high - low, length + 1), -1, np.int32)
        paths[:, 0] = starts[low:high]
        for batch in batches:
            _, walks, steps, nodes = (column.to_numpy() for column in batch.columns)
            real = walks >= 0
            paths[walks[real] - (first + low), steps[real]] = nodes[real]
        _written(_block_path(folder, block), lambda path: np.save(path, paths))
        yield _done(len(paths))

    return run


def _train_task(
    folder: Path, turn: int, rounds: int, ends: list[int], blocks: list[str],
    options: dict[str, Any], begun: int,
) -> Callable[[_Batches], _Batches]:  # fmt: skip
    def run(batches: _Batches) -> _Batches:
        for batch in batches:
            for part in batch.column(0).to_pylist():
                low, high = ends[part], ends[part + 1]
                home = folder / f"round-{turn}"
                model = SkipGram(**options)
                # Mapped copy on write: memory is for the rows that move.
                model.vectors, model.contexts = (
                    np.asarray(np.load(home / f"{name}.npy", mmap_mode="c", allow_pickle=False))
                    for name in ("vectors", "contexts")
                )
                model.grow(np.load(folder / "visits.npy", allow_pickle=False))
                model.num_walks = begun + low
                progress = (turn / rounds, (turn + 1) / rounds)
                model.train(_cut(blocks, low, high), progress)
                made = Path(mkdtemp(prefix=".", dir=home))
                for name in ("vectors", "contexts"):
                    _write_moved(made, name, home, getattr(model, name))
                target = home / f"part-{part}"
                shutil.rmtree(target, ignore_errors=True)  # of a task that was run before
                os.replace(made, target)
                yield _done(high - low)

    return run


def _cut(blocks: list[str], low: int, high: int) -> NDArray[np.int32]:
    """Walks low .. high - 1 of files that follow each other."""
    found, first = [], 0
    for path in blocks:
        block = np.load(path, mmap_mode="r", allow_pickle=False)
        found.append(block[max(low - first, 0) : max(high - first, 0)])
        first += len(block)
    return np.concatenate(found)


def _write_moved(made: Path, name: str, home: Path, after: NDArray[np.float32]) -> None:
    """The rows that a part has moved, and their ids."""
    before = np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    moved = np.concatenate(
        [np.empty(0, np.int64)]
        + [
            first + np.flatnonzero((after[first : first + 65536] != before[first : first + 65536])
                                   .any(1))
            for first in range(0, len(after), 65536)
        ]
    )  # fmt: skip
    np.save(made / f"{name}-ids.npy", moved)
    np.save(made / f"{name}.npy", after[moved])


def _merge_task(
    folder: Path, turn: int, parts: int, num_nodes: int
) -> Callable[[_Batches], _Batches]:
    def run(batches: _Batches) -> _Batches:
        for batch in batches:
            for part in batch.column(0).to_pylist():
                low, high = num_nodes * part // parts, num_nodes * (part + 1) // parts
                for name in ("vectors", "contexts"):
                    _merge(folder, turn, parts, name, low, high)
                yield _done(high - low)

    return run


def _merge(folder: Path, turn: int, parts: int, name: str, low: int, high: int) -> None:
    """Rows low .. high - 1 of the next round: the mean of those that parts have moved."""
    home = folder / f"round-{turn}"
    rows = np.array(np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False)[low:high])
    sums = np.zeros(rows.shape, np.float64)
    movers = np.zeros(len(rows), np.int64)
    for part in range(parts):
        ids = np.load(home / f"part-{part}" / f"{name}-ids.npy", allow_pickle=False)
        moved = np.load(home / f"part-{part}" / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        first, last = np.searchsorted(ids, (low, high))
        places = ids[first:last] - low
        sums[places] += moved[first:last]
        movers[places] += 1
    some = movers > 0
    rows[some] = sums[some] / movers[some, None]
    target = np.lib.format.open_memmap(folder / f"round-{turn + 1}" / f"{name}.npy", mode="r+")
    target[low:high] = rows
    target.flush()
