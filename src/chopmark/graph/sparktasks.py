"""What all steps in Spark share: which task works on what, and files that are whole or not there.

A task is a closure of plain values that takes Arrow batches and gives them. It does its work on
files of a folder that all workers see; a task that is run twice writes the same bytes.
Serves row H10.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, StoreError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Batches = Iterator[pa.RecordBatch]
"""What a task takes and gives."""

_DONE = pa.schema([("done", pa.int64())])


@lru_cache(maxsize=64)
def lanes_of(spark: SparkSession, size: int) -> list[int]:
    """For each partition a number that Spark's hash sends there: one shard each, none shared.

    Raises
    ------
    InvalidInput
        If none is found for a partition.
    """
    from pyspark.sql import functions as F

    tries = 64 + int(size * (8 + 4 * math.log(size)))
    lane = F.pmod(F.hash(F.col("id").cast("int")), F.lit(size))
    found = spark.range(tries).groupBy(lane.alias("lane")).agg(F.min("id").alias("key")).collect()
    keys = {row["lane"]: row["key"] for row in found}
    if len(keys) < size:
        raise InvalidInput(f"expected Spark to spread numbers over {size:,} partitions")
    return [int(keys[lane]) for lane in range(size)]


def lane_of(place: Any, lanes: Sequence[int]) -> Any:
    """The column to partition by, of a column of places and what `lanes_of` gave."""
    from pyspark.sql import functions as F

    keys = F.array(*(F.lit(key).cast("int") for key in lanes))
    return F.element_at(keys, place.cast("int") + 1)


def work_off(frame: DataFrame) -> None:
    """Do the work of a frame that is nothing else."""
    frame.write.format("noop").mode("overwrite").save()


def settled(spark: SparkSession, frame: DataFrame) -> DataFrame:
    """The rows, computed; where they came from is forgotten, or plans would grow by the step."""
    if spark.sparkContext.getCheckpointDir() is not None:
        return frame.checkpoint()
    return frame.localCheckpoint()


def own_place() -> int:
    """Which partition the task that asks works on."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return 0 if context is None else int(context.partitionId())


def arrays_of(batches: Batches) -> dict[str, NDArray[Any]]:
    """Columns of all batches of a task; nothing if there is none."""
    held = [batch for batch in batches if batch.num_rows]
    if not held:
        return {}
    table = pa.Table.from_batches(held)
    return {name: table[name].to_numpy() for name in table.column_names}


def done(count: int) -> pa.RecordBatch:
    """What a task gives that has nothing to give: how much it has done."""
    return pa.RecordBatch.from_arrays([pa.array([count], pa.int64())], schema=_DONE)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """A file that is there whole or not at all; a task that is run twice replaces its twin."""
    made = Path(mkdtemp(prefix=".", dir=path.parent))
    write(made / path.name)
    os.replace(made / path.name, path)
    made.rmdir()


def expect_all(paths: Iterable[Path]) -> None:
    """See that tasks have written their files where the driver finds them.

    Raises
    ------
    StoreError
        If one is not there.
    """
    for path in paths:
        if not path.exists():
            raise StoreError(
                f"expected `{path}` from a task, but it is not there; is the folder on storage "
                "that all workers share?"
            )


def url_of(path: Path) -> str:
    """A path as Spark takes it."""
    return path.absolute().as_uri()
