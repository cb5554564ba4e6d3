"""Graphs against dictionaries of pairs in plain Python; updates against graphs built at once."""

from math import log1p

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.adjacency import ERA, Graph

SECOND = 1_000_000
DAY = 86_400


def instants(seconds):
    """Microseconds since 1970 of seconds since 2000."""
    return (np.asarray(seconds, dtype=np.int64) + ERA) * SECOND


@st.composite
def transfers(draw, most=40, nodes=9):
    """Rows of (src, dst, amount, seconds): small ids, so that pairs meet often."""
    row = st.tuples(
        st.integers(0, nodes - 1), st.integers(0, nodes - 1),
        st.sampled_from([0.0, 0.5, 1.0, 3.0, 1000.0]), st.integers(-5, 300 * DAY),
    )  # fmt: skip
    return draw(st.lists(row, max_size=most))


def columns(rows):
    src, dst, amount, seconds = zip(*rows, strict=True) if rows else ((), (), (), ())
    return (
        np.array(src, np.int64), np.array(dst, np.int64), np.array(amount, float),
        instants(np.array(seconds, np.int64)),
    )  # fmt: skip


def expected_rows(rows, directed, weight, half_life_days):
    """{node: {neighbour: (share, newest)}} by dictionaries."""
    pairs = {}
    for src, dst, amount, second in rows:
        if src == dst:
            continue
        ways = {"out": [(src, dst)], "in": [(dst, src)], "both": [(src, dst), (dst, src)]}
        for a, b in ways[directed]:
            total, number, newest = pairs.setdefault(a, {}).get(b, (0.0, 0, -(10**18)))
            pairs[a][b] = (total + amount, number + 1, max(newest, second))
    found = {}
    for a, row in pairs.items():
        latest = max(newest for _, _, newest in row.values())
        weights = {}
        for b, (total, number, newest) in row.items():
            value = {None: 1.0, "log": log1p(total), "amount": total, "count": number}[weight]
            if half_life_days:
                value *= 0.5 ** ((latest - newest) / (half_life_days * DAY))
            weights[b] = value
        whole = sum(weights.values())
        found[a] = {
            b: (weights[b] / whole if whole else 1 / len(row), row[b][2]) for b in sorted(row)
        }
    return found


OPTIONS = [
    {"directed": directed, "weight": weight, "half_life_days": half_life}
    for directed in ("both", "out", "in")
    for weight, half_life in ((None, None), ("log", None), ("count", None), ("amount", 30.0))
]


@settings(max_examples=60, deadline=None)
@given(transfers(), st.sampled_from(OPTIONS))
def test_rows_weights_and_times_are_those_of_dictionaries(rows, options):
    graph = Graph.of_edges(*columns(rows), num_nodes=9, keep_times=True, **options)
    wanted = expected_rows(rows, **options)
    for node in range(9):
        row = wanted.get(node, {})
        assert graph.row(node).tolist() == list(row)
        assert graph.row_times(node).tolist() == [newest for _, newest in row.values()]
        np.testing.assert_allclose(
            graph.weights(node), [share for share, _ in row.values()], atol=2e-6
        )


def same(one, other):
    """Whether two graphs have the same rows, slot by slot and bit by bit."""
    assert one.num_nodes == other.num_nodes
    assert one.num_slots == other.num_slots
    one, other = one.compact(), other.compact()
    assert list(one._arrays()) == list(other._arrays())
    for name, array in one._arrays().items():
        np.testing.assert_array_equal(array, other._arrays()[name], err_msg=name)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(transfers(most=12), min_size=2, max_size=5),
    st.sampled_from([*OPTIONS, *({**one, "order": "time"} for one in OPTIONS[:6])]),
)
def test_a_graph_that_grew_is_the_one_built_at_once(parts, options):
    options = {**options, "keep_amounts": True, "keep_times": True}
    graph = Graph.of_edges(*columns(parts[0]), num_nodes=9, **options)
    before = graph.compact()
    grown = graph
    for part in parts[1:]:
        grown, touched = grown.with_edges(*columns(part))
        ends = {node for src, dst, *_ in part if src != dst for node in (src, dst)}
        assert touched.tolist() == sorted(ends)
    # In order of time, equal transfers may stand in another order than they came in.
    rows = [row for part in parts for row in part]
    same(grown, Graph.of_edges(*columns(rows), num_nodes=9, **options))
    same(graph, before)  # the graph it was made of has not changed


@settings(max_examples=60, deadline=None)
@given(transfers(most=30), st.data(), st.sampled_from(OPTIONS))
def test_pairs_taken_out_leave_the_graph_of_what_is_left(rows, data, options):
    rows = [row for row in rows if row[0] != row[1]]
    going = data.draw(st.sets(st.sampled_from(range(len(rows))))) if rows else set()
    left = [row for place, row in enumerate(rows) if place not in going]
    gone = [row for place, row in enumerate(rows) if place in going]
    options = {**options, "keep_amounts": True, "keep_times": True}
    graph = Graph.of_edges(*columns(rows), num_nodes=9, **options)
    src, dst, _, _ = columns(gone)
    after, touched = graph.without_edges(src, dst, left=columns(left))
    assert touched.tolist() == sorted({node for row in gone for node in row[:2]})
    same(after, Graph.of_edges(*columns(left), num_nodes=9, **options))


def test_without_what_is_left_the_pairs_are_gone():
    graph = Graph.of_edges([0, 0, 1, 0], [1, 2, 0, 1])
    after, touched = graph.without_edges([1, 0], [0, 1])
    assert touched.tolist() == [0, 1]
    assert [after.row(node).tolist() for node in range(3)] == [[2], [], [0]]


@settings(max_examples=60, deadline=None)
@given(transfers(most=30), st.data(), st.sampled_from(["both", "out", "in"]))
def test_single_transfers_leave_a_graph_in_order_of_time(rows, data, directed):
    rows = [row for row in rows if row[0] != row[1]]
    going = data.draw(st.sets(st.sampled_from(range(len(rows))))) if rows else set()
    left = [row for place, row in enumerate(rows) if place not in going]
    src, dst, _, time = columns([row for place, row in enumerate(rows) if place in going])
    options = {"order": "time", "directed": directed, "num_nodes": 9}
    after, _ = Graph.of_edges(*columns(rows), **options).without_edges(src, dst, time)
    same(after, Graph.of_edges(*columns(left), **options))


def test_rows_in_order_of_time_hold_every_transfer():
    graph = Graph.of_edges(
        [0, 0, 0, 1], [2, 1, 2, 0], [1, 1, 2, 5], instants([30, 10, 20, 5]),
        order="time", directed="out", weight="amount",
    )  # fmt: skip
    assert graph.row(0).tolist() == [1, 2, 2]
    assert graph.row_times(0).tolist() == [10, 20, 30]
    np.testing.assert_allclose(graph.weights(0), [0.25, 0.5, 0.25], atol=1e-6)


def test_two_updates_of_one_graph_do_not_meet():
    graph = Graph.of_edges([0, 1], [1, 2], num_nodes=6)
    graph, _ = graph.with_edges([2], [3])  # now there is room behind its rows
    one, _ = graph.with_edges([0], [4])
    other, _ = graph.with_edges([0], [5])
    assert one.row(0).tolist() == [1, 4]
    assert other.row(0).tolist() == [1, 5]
    assert graph.row(0).tolist() == [1]


def test_an_update_copies_the_rows_of_touched_nodes_only():
    graph = Graph.of_edges(np.arange(5000), np.arange(1, 5001))
    graph, _ = graph.with_edges([0], [2])
    used = len(graph.neighbours)
    after, _ = graph.with_edges([10], [4000])
    assert np.shares_memory(after.neighbours, graph.neighbours)
    assert len(after.neighbours) - used == 6  # two rows of three
    assert (after.starts != graph.starts).sum() == 2


def test_the_pool_is_bounded_whatever_the_number_of_updates():
    rng = np.random.default_rng(3)
    graph = Graph.of_edges(rng.integers(0, 50, 200), rng.integers(0, 50, 200), num_nodes=50)
    for _ in range(300):
        graph, _ = graph.with_edges(rng.integers(0, 50, 3), rng.integers(0, 50, 3))
    assert len(graph.neighbours) <= 1.5 * (50 * 49 + 300) + 1024


def test_larger_ids_make_more_nodes():
    graph, touched = Graph.of_edges([0], [1]).with_edges([1, 8], [7, 8])
    assert graph.num_nodes == 9
    assert touched.tolist() == [1, 7]
    assert graph.row(7).tolist() == [1]
    assert graph.row(5).tolist() == []


def test_a_weighted_slot_has_12_bytes_and_16_with_its_time():
    src, dst = np.arange(1000), np.arange(1000) + 1
    amount, time = np.ones(1000), instants(np.arange(1000))
    nodes = 1001 * 12
    sizes = [
        (Graph.of_edges(src, dst, amount, time, **options).num_bytes - nodes) / 2000
        for options in ({}, {"weight": "log"}, {"weight": "log", "keep_times": True})
    ]
    assert sizes == [4, 12, 16]


def test_a_hub_with_very_unlike_weights_gives_them_back():
    amount = np.exp(np.random.default_rng(0).normal(0, 4, 3000))
    amount[7] = 0.0
    graph = Graph.of_edges(np.zeros(3000, int), np.arange(1, 3001), amount, weight="amount")
    found = graph.weights(0)
    np.testing.assert_allclose(found, amount / amount.sum(), atol=1e-7)
    assert found[7] == 0.0


@pytest.mark.parametrize("order", ["neighbour", "time"])
def test_a_saved_graph_opens_as_it_was(tmp_path, order):
    rng = np.random.default_rng(1)
    edges = (rng.integers(0, 40, 300), rng.integers(0, 40, 300), rng.random(300))
    graph = Graph.of_edges(
        *edges, instants(rng.integers(0, 10**8, 300)), num_nodes=45, weight="log",
        half_life_days=20, keep_amounts=True, order=order, directed="out",
    )  # fmt: skip
    graph, _ = graph.with_edges([3], [44], [1.0], instants([5]))
    graph.save(tmp_path / "graph")
    opened = Graph.open(tmp_path / "graph", thorough=True)
    same(opened, graph)
    assert (opened.directed, opened.weight, opened.half_life_days, opened.order) == (
        "out", "log", 20, order,
    )  # fmt: skip
    more = ([44], [3], [2.0], instants([9]))
    same(opened.with_edges(*more)[0], graph.with_edges(*more)[0])
    same(Graph.open(tmp_path / "graph", thorough=True), graph)  # the files are as they were


def test_an_empty_graph_is_built_saved_and_grown(tmp_path):
    graph = Graph.of_edges([], [])
    assert (graph.num_nodes, graph.num_slots) == (0, 0)
    graph.save(tmp_path / "graph")
    grown, _ = Graph.open(tmp_path / "graph").with_edges([1], [0])
    assert grown.row(0).tolist() == [1]
    assert Graph.of_edges([2], [2]).row(2).tolist() == []


def test_damage_is_found(tmp_path):
    Graph.of_edges([0, 1], [1, 2], [1, 1], weight="log").save(tmp_path / "graph")
    path = tmp_path / "graph" / "neighbours.npy"
    good = path.read_bytes()
    path.write_bytes(good[:128] + b"\x09\0\0\0" + good[132:])
    with pytest.raises(StoreError, match=r"`neighbours\.npy` has other bytes"):
        Graph.open(tmp_path / "graph", thorough=True)
    path.write_bytes(good[:-4])
    with pytest.raises(StoreError, match=r"`neighbours\.npy` has [0-9,]+ bytes instead of"):
        Graph.open(tmp_path / "graph")
    path.unlink()
    with pytest.raises(StoreError, match=r"`neighbours\.npy` is missing"):
        Graph.open(tmp_path / "graph")
    about = tmp_path / "graph" / "about.json"
    about.write_text(about.read_text().replace('"log"', '"lag"'))
    with pytest.raises(StoreError, match="odd ones"):
        Graph.open(tmp_path / "graph")
    with pytest.raises(StoreError, match=r"no `about\.json`"):
        Graph.open(tmp_path)
    with pytest.raises(StoreError, match="expected a new folder"):
        Graph.of_edges([0], [1]).save(tmp_path / "graph")


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        (([0], [-1]), {}, r"ids of 0 to 2,147,483,646 in dst, got -1 in row 0"),
        (([0, 2**31 - 1], [1, 1]), {}, "got 2,147,483,647 in row 1"),
        (([0.5], [1]), {}, "whole numbers"),
        (([0], [1, 2]), {}, "one length, got 1 of src and 2 of dst"),
        (([0], [5]), {"num_nodes": 3}, "below num_nodes = 3, got 5"),
        (([0, 1], [1, 0], [1, -2]), {"weight": "log"}, r"got -2.* in row 1"),
        (([0], [1], [np.nan]), {"weight": "log"}, "got nan in row 0"),
        (([0], [1], [1e300]), {"weight": "amount"}, r"got 1e\+300"),
        (([0], [1], [1.0, 2.0]), {"weight": "log"}, "2 of amount"),
        (([0], [1], None, [2**62]), {"keep_times": True}, "times of 1932 to 2068"),
    ],
)
def test_columns_that_cannot_be_are_named(edges, options, message):
    with pytest.raises(InvalidTable, match=message):
        Graph.of_edges(*edges, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directed": "bothe"}, "did you mean `both`"),
        ({"weight": "logs"}, "did you mean `log`"),
        ({"order": "age"}, "expected order of"),
        ({"weight": "log"}, "give `amount`"),
        ({"keep_times": True}, "give `time`"),
        ({"weight": "count", "half_life_days": 0}, "half_life_days above 0"),
        ({"half_life_days": 3.0}, "a half-life is one of weights"),
        ({"num_nodes": 2**31}, "num_nodes of 0 to"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(InvalidInput, match=message):
        Graph.of_edges([0], [1], **options)


def test_an_update_that_cannot_be_changes_nothing():
    graph = Graph.of_edges([0, 1], [1, 2], [1, 1], weight="log", keep_amounts=True)
    graph, _ = graph.with_edges([3], [4], [1.0])
    before = graph.compact()
    with pytest.raises(InvalidTable, match=r"0 and 2 have no such transfer|2 and 0 have no such"):
        graph.without_edges([0, 0], [1, 2])
    with pytest.raises(InvalidTable, match="pairs of this graph"):
        graph.without_edges([0], [9])
    with pytest.raises(InvalidTable, match="got nan"):
        graph.with_edges([0], [9], [np.nan])
    same(graph, before)
    with pytest.raises(InvalidInput, match="keep_amounts=True"):
        Graph.of_edges([0], [1], [1.0], weight="log").with_edges([1], [2], [1.0])
    with pytest.raises(InvalidInput, match="node of 0 to 4"):
        graph.row(5)
    with pytest.raises(InvalidInput, match="keeps no times"):
        graph.row_times(0)
