"""Shards against the walks of the whole graph, and their rows against a plain dictionary."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.adjacency import Graph
from chopmark.graph.shards import Course, Shard, ShardedGraph
from chopmark.graph.walks import walk

NODES = 40


def edges(seed, num_edges=220):
    """Busy nodes come first, so that there are many triangles."""
    rng = np.random.default_rng(seed)
    src = rng.integers(0, NODES, num_edges) ** 2 // NODES
    return src, rng.integers(0, NODES, num_edges), rng.lognormal(0, 2, num_edges)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    num_shards=st.integers(1, 5),
    directed=st.sampled_from(["both", "out", "in"]),
    weight=st.sampled_from([None, "log"]),
    bias=st.sampled_from([(1.0, 1.0), (0.5, 2.0), (0.25, 0.5), (4.0, 0.25), (4.0, 4.0)]),
    max_degree=st.sampled_from([None, 12]),
)
def test_walks_are_those_of_the_whole_graph_for_any_number_of_shards(
    seed, num_shards, directed, weight, bias, max_degree
):
    src, dst, amount = edges(seed)
    graph = Graph.of_edges(src, dst, amount, num_nodes=NODES, directed=directed, weight=weight)
    starts = np.tile(np.arange(NODES), 2)
    whole = walk(
        graph, starts, length=9, p=bias[0], q=bias[1], seed=seed, first=17, max_degree=max_degree
    )
    with TemporaryDirectory() as folder:
        shards = ShardedGraph.of_graph(graph, Path(folder) / "shards", num_shards)
        shards = ShardedGraph.open(shards.folder, thorough=True)
        cut = shards.walk(starts, Course(9, *bias, seed, max_degree), first=17)
    assert cut.tolist() == whole.tolist()


def test_questions_cross_shards_and_their_answers_change_walks(tmp_path):
    # Were all neighbours taken for far ones, walks with q far from 1 would not be these.
    src, dst, _ = edges(1)
    graph = Graph.of_edges(src, dst, num_nodes=NODES)
    shards = ShardedGraph.of_graph(graph, tmp_path / "shards", 7)
    asked = []
    near = ShardedGraph._near

    class Watched(ShardedGraph):
        def _near(self, first, second):
            found = near(self, first, second)
            asked.extend(zip(first.tolist(), second.tolist(), found.tolist(), strict=True))
            return found

    watched = Watched(shards.folder, NODES, 7)
    watched.walk(np.arange(NODES), Course(20, 0.5, 4.0))
    rows = [set(graph.row(node).tolist()) for node in range(NODES)]
    assert {answer for *_, answer in asked} == {True, False}
    assert all((second in rows[first]) == answer for first, second, answer in asked)
    # What is known in a shard is not asked of another.
    assert len(asked) > 50


@pytest.mark.parametrize("directed", ["both", "out", "in"])
def test_a_shard_of_edges_has_the_rows_and_tables_of_the_whole_graph(tmp_path, directed):
    src, dst, amount = edges(2)
    time = np.random.default_rng(3).integers(0, 10**15, len(src))
    options = {"weight": "log", "half_life_days": 900.0}
    graph = Graph.of_edges(src, dst, amount, time, num_nodes=NODES, directed=directed, **options)
    cut = ShardedGraph.of_graph(graph, tmp_path / "shards", 3)
    for place in range(3):
        ways = {"out": [(src, dst)], "in": [(dst, src)], "both": [(src, dst), (dst, src)]}
        rows, columns, order = (
            np.concatenate(parts)
            for parts in zip(*((a, b, np.arange(len(a))) for a, b in ways[directed]), strict=True)
        )
        mine = np.argsort(order, kind="stable")
        mine = mine[rows[mine] % 3 == place]
        shard = Shard.of_edges(
            rows[mine], columns[mine], amount[order[mine]], time[order[mine]], place=place,
            num_shards=3, num_nodes=NODES, **options,
        )  # fmt: skip
        for name in Shard.__slots__:
            assert getattr(shard, name).tolist() == getattr(cut.shard(place), name).tolist(), name
    pairs = {(a, b) for a, b in zip(src.tolist(), dst.tolist(), strict=True) if a != b}
    if directed != "out":
        turned = {(b, a) for a, b in pairs}
        pairs = turned if directed == "in" else pairs | turned
    for node in range(NODES):
        assert cut.row(node).tolist() == sorted(b for a, b in pairs if a == node)


def test_more_shards_than_nodes_and_a_graph_without_edges_are_graphs_too(tmp_path):
    graph = Graph.of_edges([], [], num_nodes=2)
    shards = ShardedGraph.of_graph(graph, tmp_path / "shards", 5)
    assert shards.walk([1, 0], Course(3)).tolist() == [[1, -1, -1, -1], [0, -1, -1, -1]]
    assert shards.walk([], Course(3)).shape == (0, 4)


def test_a_shard_that_is_written_twice_is_there_once(tmp_path):
    src, dst, _ = edges(4)
    graph = Graph.of_edges(src, dst, num_nodes=NODES)
    shards = ShardedGraph.of_graph(graph, tmp_path / "shards", 2)
    shards.shard(1).save(shards.path_of(1))
    assert ShardedGraph.open(shards.folder, thorough=True).row(1).tolist() == graph.row(1).tolist()
    with pytest.raises(StoreError, match="expected a new folder for shards"):
        ShardedGraph.of_graph(graph, tmp_path / "shards", 2)


def test_shards_that_lack_one_are_not_a_graph(tmp_path):
    made = ShardedGraph(tmp_path / "shards", 4, 2)
    made.begin()
    Shard.of_edges(
        np.array([0]), np.array([1]), None, None, place=0, num_shards=2, num_nodes=4
    ).save(made.path_of(0))
    with pytest.raises(StoreError, match="shard 1 is not there"):
        made.finish()
    with pytest.raises(StoreError, match=r"no `about\.json`"):
        ShardedGraph.open(made.folder)


@pytest.mark.parametrize("name", ["starts", "neighbours", "edges"])
def test_a_byte_that_has_changed_is_found(tmp_path, name):
    src, dst, _ = edges(5)
    shards = ShardedGraph.of_graph(Graph.of_edges(src, dst), tmp_path / "shards", 2)
    path = shards.path_of(1) / f"{name}.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        ShardedGraph.open(shards.folder, thorough=True)
    path.write_bytes(data[:-8])
    with pytest.raises(StoreError, match="damaged"):
        ShardedGraph.open(shards.folder).shard(1)


def test_bad_input_is_named(tmp_path):
    graph = Graph.of_edges([0], [1])
    shards = ShardedGraph.of_graph(graph, tmp_path / "shards", 2)
    with pytest.raises(InvalidTable, match=r"starts of 0 to 1, got 2 in row 1"):
        shards.walk([0, 2], Course())
    with pytest.raises(InvalidTable, match="whole numbers"):
        shards.walk([0.5], Course())
    with pytest.raises(InvalidInput, match="expected p above 0"):
        Course(p=0.0)
    with pytest.raises(InvalidInput, match="expected length of 1"):
        Course(length=0)
    with pytest.raises(InvalidInput, match="shards, got 0"):
        ShardedGraph.of_graph(graph, tmp_path / "none", 0)
    timed = Graph.of_edges([0], [1], time=[10**15], order="time")
    with pytest.raises(InvalidInput, match='order "time"'):
        ShardedGraph.of_graph(timed, tmp_path / "timed", 2)
    with pytest.raises(InvalidInput, match="expected a node of 0 to 1"):
        shards.row(2)
