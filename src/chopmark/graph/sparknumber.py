"""Transfers in Parquet, read and numbered in Spark: edges with ids, and the book of addresses.

    transfers -> checked, twins left out, in order -> edges with ids, and the names of the ids

Ids are those of one `Ledger.append` of the same rows, for any number of tasks. Serves row H10.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from chopmark.errors import InvalidInput, InvalidTable, StoreError, did_you_mean
from chopmark.graph.addresses import AddressBook
from chopmark.graph.sparktasks import url_of
from chopmark.histories.storage import whole

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_HEX = "^0[xX][0-9a-fA-F]{40}$"
_ORDER = ("block", "time", "tx", "place", "file", "line")


@dataclass(frozen=True, slots=True, eq=False)
class Numbered:
    """Transfers with ids in place of names."""

    edges: DataFrame
    """row long, src int, dst int, amount double, time long (microseconds since 1970), asset."""
    num_nodes: int
    """How many addresses there are."""
    num_duplicates: int
    """Rows that came twice and were left out."""


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
        names.select("id", "name").write.parquet(url_of(made / "names"))
        names = spark.read.parquet(url_of(made / "names"))
        edges = numbered
        for ours, theirs in (("src", "sender"), ("dst", "receiver")):
            ids = names.select(F.col("id").cast("int").alias(ours), F.col("name").alias(theirs))
            edges = edges.join(ids, theirs)
        edges = edges.select("row", "src", "dst", "amount", "time", "asset")
        edges.write.parquet(url_of(made / "edges"))
        _write_book(made / "names", made / "addresses")
        shutil.rmtree(made / "names")
    return Numbered(spark.read.parquet(url_of(Path(folder) / "edges")), num_nodes, num_rows - count)


def _columns(spark: SparkSession, source: str | Path) -> DataFrame:
    """Columns of transfers by our names and kinds, with the file and the row they came from."""
    from pyspark.sql import functions as F

    if not Path(source).exists():
        raise InvalidInput(f"expected Parquet of transfers at `{source}`, but nothing is there")
    frame = spark.read.parquet(url_of(Path(source)))
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
