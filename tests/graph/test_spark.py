"""Spark against one machine: ids of the ledger, rows of the graph, walks, and trained vectors.

Skipped where pyspark or Java are absent. One session and one small chain serve all tests.
"""

import shutil
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from chopmark.errors import InvalidInput, InvalidTable, MissingExtra
from chopmark.graph import spark as sparks
from chopmark.graph.addresses import AddressBook
from chopmark.graph.adjacency import Graph
from chopmark.graph.ledger import Ledger
from chopmark.graph.shards import Course, Shard, ShardedGraph
from chopmark.graph.skipgram import SkipGram
from chopmark.graph.transfers import TRANSFERS, Read, read_transfers
from chopmark.graph.walks import walk

# pyspark warns of pandas 3, of which it asks for the version alone here.
pytestmark = pytest.mark.filterwarnings("ignore")

SHARDS = 3


@pytest.fixture(scope="module")
def spark():
    pytest.importorskip("pyspark")
    pytest.importorskip("pandas")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    # Little is run often enough here to be worth compiling well.
    session = sparks.session(
        2, spark_sql_shuffle_partitions="2", spark_driver_memory="1g",
        spark_sql_adaptive_enabled="false", spark_sql_codegen_wholeStage="false",
        spark_driver_extraJavaOptions="-XX:TieredStopAtLevel=1",
    )  # fmt: skip
    yield session
    session.stop()


def transfers(num_rows=240):
    """Rows out of order with copies, names in two cases, and some without a tx."""
    rng = np.random.default_rng(0)
    block = rng.integers(0, 30, num_rows)
    names = ["0x" + f"{place:040x}" for place in range(35)] + ["bc1q", "a much longer name of one"]
    ends = rng.integers(0, len(names), (2, num_rows)) ** 2 // len(names)
    begun = datetime(2020, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "sender": [names[place].upper().replace("0X", "0x") for place in ends[0]],
            "receiver": [names[place] for place in ends[1]],
            "amount": rng.lognormal(0, 2, num_rows),
            "happened_at": [begun + timedelta(minutes=int(number)) for number in block],
            "block": block,
            "tx": ["" if number % 5 == 0 else f"tx{number // 2}" for number in range(num_rows)],
            "place": np.arange(num_rows) % 2,
            "asset": "",
        },
        schema_overrides=dict(TRANSFERS),
    ).select(list(TRANSFERS))
    named = frame.filter(pl.col("tx") != "")
    return pl.concat([frame, named[::7]])


@pytest.fixture(scope="module")
def chain(spark, tmp_path_factory):
    """The same rows in the ledger and in Spark, and the graph of both."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "rows").mkdir()
    rows = transfers()
    rows[:100].write_parquet(folder / "rows" / "a.parquet")
    rows[100:].write_parquet(folder / "rows" / "b.parquet")
    ledger = Ledger.create(folder / "ledger")
    ledger.append(Read.of(read_transfers(folder / "rows")).transfers)
    numbered = sparks.number(spark, folder / "rows", folder / "numbered")
    shards = sparks.build(
        numbered.edges, folder / "shards", num_nodes=numbered.num_nodes, num_shards=SHARDS,
        weight="log", half_life_days=0.01,
    )  # fmt: skip
    columns = ledger.columns()
    graph = Graph.of_edges(
        columns["src"], columns["dst"], columns["amount"], columns["time"],
        num_nodes=len(ledger.addresses), weight="log", half_life_days=0.01,
    )  # fmt: skip
    return folder, ledger, numbered, shards, graph


def test_ids_and_rows_are_those_of_the_ledger(chain):
    folder, ledger, numbered, _, _ = chain
    book = AddressBook.open(folder / "numbered" / "addresses", thorough=True)
    assert numbered.num_nodes == len(book) == len(ledger.addresses) > 20
    every = np.arange(len(book))
    assert book.names(every).to_list() == ledger.addresses.names(every).to_list()
    edges = pl.read_parquet(folder / "numbered" / "edges" / "*.parquet").sort("row")
    assert edges["row"].to_list() == list(range(len(ledger)))
    for name in ("src", "dst", "amount", "time"):
        assert edges[name].to_list() == ledger.columns()[name].tolist(), name
    assert numbered.num_duplicates == len(transfers()) - len(ledger) == 28


def test_shards_have_the_rows_of_the_graph_bit_for_bit(chain, tmp_path):
    *_, shards, graph = chain
    cut = ShardedGraph.of_graph(graph, tmp_path / "cut", SHARDS)
    shards = ShardedGraph.open(shards.folder, thorough=True)
    assert shards.half_life_days == 0.01
    assert shards.weight == "log"
    for place in range(SHARDS):
        for name in Shard.__slots__:
            ours, theirs = getattr(shards.shard(place), name), getattr(cut.shard(place), name)
            assert ours.tobytes() == theirs.tobytes(), name


@pytest.mark.parametrize(("p", "q"), [(1.0, 1.0), (0.5, 2.0)])
def test_walks_are_those_of_one_machine(spark, chain, tmp_path, p, q):
    *_, shards, graph = chain
    starts = np.random.default_rng(1).integers(0, graph.num_nodes, 90)
    blocks = sparks.walk(
        spark, shards, tmp_path / "walks", starts, course=Course(5, p, q, seed=3), first=7, blocks=2
    )
    found = np.concatenate([np.load(path) for path in blocks])
    expected = walk(graph, starts, length=5, p=p, q=q, seed=3, first=7)
    assert found.tolist() == expected.tolist()
    assert sorted(path.name for path in (tmp_path / "walks").iterdir()) == [
        "walks-00000.npy", "walks-00001.npy",
    ]  # fmt: skip


def test_shards_without_edges_and_files_without_walks_are_written_too(spark, chain, tmp_path):
    edges = chain[2].edges
    shards = sparks.build(edges.where("false"), tmp_path / "s", num_nodes=2, num_shards=3)
    blocks = sparks.walk(spark, shards, tmp_path / "w", [1], course=Course(2), blocks=2)
    assert [np.load(path).tolist() for path in blocks] == [[], [[1, -1, -1]]]


def model():
    return SkipGram(8, negatives=3, rate=0.1, seed=5)


def paths_in(folder, graph):
    """Walks of one machine, as files."""
    found = walk(graph, np.tile(np.arange(graph.num_nodes), 3), length=8)
    for place, part in enumerate((found[:40], found[40:])):
        np.save(folder / f"{place}.npy", part)
    return found, [folder / "0.npy", folder / "1.npy"]


def test_one_part_learns_what_one_machine_does(spark, chain, tmp_path):
    graph = chain[-1]
    found, blocks = paths_in(tmp_path, graph)
    alone = model().grow(np.bincount(found[found >= 0])).train(found)
    trained = sparks.train(spark, blocks, model(), tmp_path / "trained", num_nodes=graph.num_nodes)
    assert trained.vectors.tobytes() == alone.vectors.tobytes()
    assert trained.contexts.tobytes() == alone.contexts.tobytes()
    assert trained.num_walks == alone.num_walks == len(found)


def test_parts_are_merged_into_the_mean_of_those_that_moved_a_row(spark, chain, tmp_path):
    graph = chain[-1]
    found, blocks = paths_in(tmp_path, graph)
    visits = np.bincount(found[found >= 0])
    first = model().grow(visits)
    half = len(found) // 2
    parts = []
    for low, high in ((0, half), (half, len(found))):
        part = model().grow(visits)
        part.num_walks = low
        parts.append(part.train(found[low:high]))
    trained = sparks.train(
        spark, blocks, model(), tmp_path / "trained", num_nodes=graph.num_nodes, parts=2
    )
    for name in ("vectors", "contexts"):
        for node in range(graph.num_nodes):
            before = getattr(first, name)[node]
            rows = [getattr(part, name)[node] for part in parts]
            moved = [row for row in rows if (row != before).any()]
            expected = np.mean(moved, axis=0) if moved else before
            assert np.allclose(getattr(trained, name)[node], expected, rtol=1e-6, atol=1e-9)


def test_rows_that_are_not_sound_are_named_and_nothing_is_there(spark, tmp_path):
    rows = transfers(20).with_columns(
        amount=pl.when(pl.int_range(pl.len()) == 13).then(-1.0).otherwise("amount")
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InvalidTable, match=r"1 have an amount .* row 14 of"):
        sparks.number(spark, tmp_path / "rows.parquet", tmp_path / "numbered")
    rows.drop("receiver").write_parquet(tmp_path / "fewer.parquet")
    with pytest.raises(InvalidTable, match="column `receiver`"):
        sparks.number(spark, tmp_path / "fewer.parquet", tmp_path / "numbered")
    with pytest.raises(InvalidInput, match="nothing is there"):
        sparks.number(spark, tmp_path / "none.parquet", tmp_path / "numbered")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fewer.parquet", "rows.parquet"]


def test_ids_out_of_range_and_lacking_columns_are_named(chain, tmp_path):
    edges = chain[2].edges
    with pytest.raises(InvalidTable, match="ids of 0 to 9 in src and dst, got 0 to"):
        sparks.build(edges, tmp_path / "shards", num_nodes=10, num_shards=2)
    with pytest.raises(InvalidTable, match="column `amount`"):
        sparks.build(
            edges.drop("amount"), tmp_path / "shards", num_nodes=37, num_shards=2, weight="log"
        )
    with pytest.raises(InvalidInput, match="weight"):
        sparks.build(edges, tmp_path / "shards", num_nodes=37, num_shards=2, weight="logs")
    assert not (tmp_path / "shards").exists()


def test_without_pyspark_the_install_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(MissingExtra, match=r"chopmark\[spark\]"):
        sparks.session()
