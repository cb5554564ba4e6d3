"""The chain at the scale of many machines: Spark sorts and hands over, the native kernels work.

    number   Parquet of transfers -> edges with ids, and the book of addresses
    build    edges -> shards of a graph (`shards`), one task each
    walk     supersteps: each shard takes its walkers as far as they come, Spark hands them over
    train    rounds: each part of the walks trains skip-gram from the same arrays, then they merge

`sparknumber`, `sparkshards`, `sparkwalks` and `sparktraining` hold one of these each, `sparktasks`
what they share; here is the session, and all that is called from outside.

Ids are those of one `Ledger.append` of the same rows, shards have the rows of `Graph.of_edges`
bit for bit, walks are those of `walks.walk`: none depends on the number of shards, tasks or
machines, and a task that is run twice writes the same bytes. Vectors alone do depend on the
number of parts.

All folders are on storage that the driver and all workers see under one path, and chopmark is
installed on all. ``local[2]`` on a laptop and a cluster run the same code. Serves row H10.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from chopmark.errors import InvalidInput, MissingExtra
from chopmark.graph.sparknumber import Numbered as Numbered
from chopmark.graph.sparknumber import number as number
from chopmark.graph.sparkshards import build as build
from chopmark.graph.sparktraining import train as train
from chopmark.graph.sparkwalks import walk as walk

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


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
