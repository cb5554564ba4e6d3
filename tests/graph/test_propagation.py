"""Means over neighbours beside dense matrices, and vectors for those that have none."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput
from chopmark.graph.adjacency import ERA, Graph
from chopmark.graph.propagation import fill, propagate, slot_weights

NUM = 25
NOW = datetime(2024, 5, 1, tzinfo=UTC)


def random_graph(seed, edges=80, **options):
    draws = np.random.default_rng(seed)
    src, dst = draws.integers(0, NUM - 2, (2, edges))
    days = draws.integers(0, 60, edges) - 50
    times = [int((NOW + timedelta(days=int(day))).timestamp()) * 10**6 for day in days]
    return Graph.of_edges(
        src, dst, draws.lognormal(size=edges), times, num_nodes=NUM, keep_times=True, **options
    )


def dense_of(graph, *, as_of=None, half_life_days=None):
    """(n, n) weights of rows, each entry with its age."""
    matrix = np.zeros((graph.num_nodes, graph.num_nodes))
    for i in range(graph.num_nodes):
        weights = graph.weights(i).astype(float)
        if as_of is not None:
            age = as_of.timestamp() - ERA - graph.row_times(i)
            weights[age < 0] = 0
            if half_life_days:
                weights *= 0.5 ** (np.maximum(age, 0) / 86_400 / half_life_days)
        np.add.at(matrix[i], graph.row(i), weights)
    return matrix


def dense_means(matrix, values):
    """Means of what is known, column by column."""
    known = ~np.isnan(values)
    total = matrix @ np.where(known, values, 0)
    mass = matrix @ known
    return np.where(mass > 0, total / np.where(mass > 0, mass, 1), np.nan)


def random_values(seed, rows, columns, share):
    draws = np.random.default_rng(seed)
    values = draws.normal(3, 5, (rows, columns))
    values[draws.uniform(size=values.shape) < share] = np.nan
    return values


graphs = st.builds(
    random_graph,
    st.integers(0, 999),
    edges=st.integers(0, 120),
    weight=st.sampled_from([None, "log", "amount", "count"]),
    directed=st.sampled_from(["both", "out", "in"]),
    order=st.sampled_from(["neighbour", "time"]),
)
ages = st.sampled_from([{}, {"as_of": NOW}, {"as_of": NOW, "half_life_days": 7.0}])


@settings(max_examples=80, deadline=None)
@given(
    graph=graphs,
    age=ages,
    rows=st.integers(0, NUM),
    columns=st.integers(0, 5),
    share=st.sampled_from([0.0, 0.3, 0.9]),
    hops=st.integers(1, 3),
    block=st.integers(1, 6),
    threads=st.integers(1, 3),
)
def test_means_are_what_dense_matrices_say(
    graph, age, rows, columns, share, hops, block, threads
):  # fmt: skip
    values = random_values(rows, rows, columns, share)
    found = propagate(graph, values, hops=hops, block=block, threads=threads, **age)
    assert found.shape == (NUM, hops, columns)
    matrix = dense_of(graph, **age)
    now = np.full((NUM, columns), np.nan)
    now[:rows] = values
    for hop in range(hops):
        now = dense_means(matrix, now)
        np.testing.assert_allclose(found[:, hop], now, rtol=1e-4, atol=1e-4)


@settings(max_examples=80, deadline=None)
@given(
    graph=graphs,
    age=ages,
    rows=st.integers(0, NUM),
    columns=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.3, 0.9]),
    hops=st.integers(1, 4),
    block=st.integers(1, 6),
)
def test_what_is_missing_is_filled_hop_by_hop(graph, age, rows, columns, share, hops, block):
    values = random_values(rows, rows, columns, share)
    filled, distance = fill(graph, values, hops=hops, block=block, **age)
    matrix = dense_of(graph, **age)
    now = np.full((NUM, columns), np.nan)
    now[:rows] = values
    given_then = now.copy()
    expected = np.where(np.isnan(now).any(1), -1, 0)
    for hop in range(1, hops + 1):
        now = np.where(np.isnan(now), dense_means(matrix, now), now)
        expected = np.where((expected < 0) & ~np.isnan(now).any(1), hop, expected)
    np.testing.assert_allclose(filled, now, rtol=1e-4, atol=1e-4)
    known = ~np.isnan(given_then)
    assert (filled[known] == given_then[known].astype(np.float32)).all()
    assert distance.tolist() == expected.tolist()


def test_blocks_and_threads_change_no_bit():
    graph = random_graph(3, 120, weight="log")
    values = random_values(3, NUM, 7, 0.3)
    results = [
        propagate(graph, values, block=block, threads=threads).tobytes()
        for block in (1, 3, 16)
        for threads in (1, 2, 5)
    ]
    assert len(set(results)) == 1


def test_a_new_address_gets_the_amount_weighted_mean_of_those_it_paid():
    graph = Graph.of_edges([2, 2, 3], [0, 1, 2], [3.0, 1.0, 9.0], directed="out", weight="amount")
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    filled, distance = fill(graph, vectors)
    assert filled.tolist() == [[1, 0], [0, 1], [0.75, 0.25], [0.75, 0.25]]
    assert distance.tolist() == [0, 0, 1, 2]
    _, near = fill(graph, vectors, hops=1)
    assert near.tolist() == [0, 0, 1, -1]


def test_direction_is_that_of_the_graph():
    edges = ([0, 1], [2, 2], [1.0, 3.0])
    amounts = np.array([[8.0], [4.0], [100.0]])
    senders = propagate(Graph.of_edges(*edges, directed="in", weight="amount"), amounts, hops=1)
    receivers = propagate(Graph.of_edges(*edges, directed="out", weight="amount"), amounts, hops=1)
    np.testing.assert_array_equal(senders[:, 0, 0], [np.nan, np.nan, 5])
    np.testing.assert_array_equal(receivers[:, 0, 0], [100, 100, np.nan])


def test_a_row_of_old_pairs_alone_still_has_its_mean():
    old = int(datetime(2001, 1, 1, tzinfo=UTC).timestamp()) * 10**6
    day = 86_400 * 10**6
    graph = Graph.of_edges([0, 0], [1, 2], [1.0, 1.0], [old, old + day], keep_times=True)
    values = np.array([[0.0], [0.0], [3.0]])
    found = propagate(graph, values, hops=1, as_of=NOW, half_life_days=1.0)
    assert found[0, 0, 0] == pytest.approx(2.0)


def test_an_updated_graph_spreads_as_one_made_at_once():
    draws = np.random.default_rng(5)
    src, dst = draws.integers(0, NUM, (2, 90))
    amounts = draws.lognormal(size=90).astype(np.float32)
    options = {"num_nodes": NUM, "weight": "amount", "keep_amounts": True}
    whole = Graph.of_edges(src, dst, amounts, **options)
    first = Graph.of_edges(src[:60], dst[:60], amounts[:60], **options)
    grown, _ = first.with_edges(src[60:], dst[60:], amounts[60:])
    values = random_values(5, NUM, 4, 0.2)
    np.testing.assert_array_equal(propagate(grown, values), propagate(whole, values))


def test_weights_of_slots_are_those_of_rows():
    for options in ({"weight": "amount"}, {"weight": "log", "order": "time"}, {}):
        graph = random_graph(1, **options)
        weights = slot_weights(graph)
        assert bool(len(weights)) == ("weight" in options)
        for i in range(NUM if len(weights) else 0):
            span = slice(graph.starts[i], graph.starts[i] + graph.counts[i])
            np.testing.assert_allclose(weights[span], graph.weights(i), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        (np.zeros(NUM), {}, r"at most 25 nodes, columns\); got float64 of shape \(25,\)"),
        (np.zeros((NUM + 1, 2)), {}, r"shape \(26, 2\)"),
        (np.array([["a"]]), {}, r"expected numbers"),
        (np.array([[0.0, 1.0], [2.0, np.inf]]), {}, r"got inf in row 1, column 1"),
        (np.zeros((NUM, 2)), {"hops": 0}, r"hops <= 127.*hops=0"),
        (np.zeros((NUM, 2)), {"hops": 128}, r"hops=128"),
        (np.zeros((NUM, 2)), {"block": 0}, r"block=0"),
        (np.zeros((NUM, 2)), {"threads": 0}, r"threads=0"),
        (np.zeros((NUM, 2)), {"half_life_days": 3.0}, r"together with as_of"),
        (np.zeros((NUM, 2)), {"as_of": NOW, "half_life_days": 0.0}, r"half_life_days > 0"),
        (np.zeros((NUM, 2)), {"as_of": datetime(2024, 1, 1)}, r"with a time zone"),
    ],
)
@pytest.mark.parametrize("spread", [propagate, fill])
def test_what_cannot_be_is_refused(spread, values, options, says):
    with pytest.raises(InvalidInput, match=says):
        spread(random_graph(0), values, **options)


def test_ages_need_times_and_are_not_counted_twice():
    plain = Graph.of_edges([0], [1])
    with pytest.raises(InvalidInput, match="keep_times=True"):
        propagate(plain, np.zeros((2, 1)), as_of=NOW)
    faded = Graph.of_edges([0], [1], [1.0], [0], weight="amount", half_life_days=9.0)
    with pytest.raises(InvalidInput, match="halve every 9 days already"):
        propagate(faded, np.zeros((2, 1)), as_of=NOW, half_life_days=3.0)
