"""Walks against exact transition probabilities, worked out edge by edge in plain Python."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.graph.adjacency import ERA, Graph
from chopmark.graph.bloom import edge_filter
from chopmark.graph.counter import draw
from chopmark.graph.walks import walk

# Two triangles that share an edge, a tail, and a node that is only reached.
SRC = np.array([0, 1, 2, 1, 2, 3, 4, 0, 3])
DST = np.array([1, 2, 0, 3, 3, 4, 5, 4, 1])
AMOUNT = np.array([1.0, 4.0, 2.0, 0.5, 3.0, 1.0, 2.0, 6.0, 2.5])


def pair_weights(directed, weighted):
    """{node: {neighbour: weight}}."""
    found = {node: {} for node in range(6)}
    for src, dst, amount in zip(SRC.tolist(), DST.tolist(), AMOUNT.tolist(), strict=True):
        ways = {"out": [(src, dst)], "in": [(dst, src)], "both": [(src, dst), (dst, src)]}
        for a, b in ways[directed]:
            found[a][b] = found[a].get(b, 0.0) + (amount if weighted else 1.0)
    if not weighted:
        found = {a: dict.fromkeys(row, 1.0) for a, row in found.items()}
    return found


def exact(rows, before, node, p, q):
    """{neighbour: probability} of a step from `node` after `before`."""
    scores = {}
    for x, weight in rows[node].items():
        if before is None:
            factor = 1.0
        elif x == before:
            factor = 1 / p
        else:
            factor = 1.0 if x in rows[before] else 1 / q
        scores[x] = weight * factor
    whole = sum(scores.values())
    return {x: score / whole for x, score in scores.items()}


def steps_of(paths):
    """{(before, node): {next: number}}; before is None at the first step, next -1 at an end."""
    found = {}
    for path in paths.tolist():
        for place, node in enumerate(path[:-1]):
            if node < 0:
                break
            row = found.setdefault((path[place - 1] if place else None, node), {})
            row[path[place + 1]] = row.get(path[place + 1], 0) + 1
    return found


@pytest.mark.parametrize("directed", ["both", "out", "in"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (0.5, 2), (4, 0.25), (0.2, 3), (0.3, 0.7), (3, 3)])
@pytest.mark.parametrize("filtered", [True, False])
def test_steps_have_the_exact_probabilities(directed, weighted, p, q, filtered):
    graph = Graph.of_edges(
        SRC, DST, AMOUNT, directed=directed, weight="amount" if weighted else None
    )
    edges = edge_filter(graph) if filtered else np.empty(0, dtype=np.uint64)
    starts = np.arange(8000) % 6
    paths = walk(graph, starts, length=13, p=p, q=q, seed=11, edges=edges)
    rows = pair_weights(directed, weighted)
    statistic, freedom, num_steps = 0.0, 0, 0
    for (before, node), seen in steps_of(paths).items():
        if not rows[node]:
            assert set(seen) == {-1}
            continue
        wanted = exact(rows, before, node, p, q)
        assert set(seen) <= set(wanted)
        number = sum(seen.values())
        num_steps += number
        if number * min(wanted.values()) < 5:
            continue
        for x, probability in wanted.items():
            statistic += (seen.get(x, 0) - number * probability) ** 2 / (number * probability)
        freedom += len(wanted) - 1
    assert num_steps > (1e5 if directed == "both" else 2e4)
    assert chi2.sf(statistic, freedom) > 1e-3


def random_graph(num_nodes=300, num_edges=2000, **options):
    rng = np.random.default_rng(5)
    src = (rng.random(num_edges) ** 3 * num_nodes).astype(int)
    dst = rng.integers(0, num_nodes, num_edges)
    time = (rng.integers(0, 10**7, num_edges) + ERA) * 1_000_000
    return Graph.of_edges(
        src, dst, rng.lognormal(0, 2, num_edges), time, num_nodes=num_nodes, **options
    )


KINDS = [
    ({}, 1, 1),
    ({"weight": "log"}, 1, 1),
    ({"weight": "log"}, 0.5, 2),
    ({"directed": "out"}, 0.25, 4),
    ({"directed": "out", "order": "time", "weight": "amount"}, 1, 1),
]


@pytest.mark.parametrize(("options", "p", "q"), KINDS)
def test_walks_are_the_same_for_any_threads_batches_and_filter(options, p, q):
    graph = random_graph(**options)
    starts = np.random.default_rng(1).integers(0, 300, 700)
    whole = walk(graph, starts, length=20, p=p, q=q, seed=3)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(
            walk(graph, starts, length=20, p=p, q=q, seed=3, threads=threads), whole
        )
    cuts = [0, 1, 64, 65, 333, 700]
    for low, high in itertools.pairwise(cuts):
        part = walk(graph, starts[low:high], length=20, p=p, q=q, seed=3, first=low)
        np.testing.assert_array_equal(part, whole[low:high])
    turned = [walk(graph, starts[[i]], length=20, p=p, q=q, seed=3, first=i)[0] for i in (699, 5)]
    np.testing.assert_array_equal(turned, whole[[699, 5]])
    filtered = walk(graph, starts, length=20, p=p, q=q, seed=3, edges=edge_filter(graph))
    np.testing.assert_array_equal(filtered, whole)
    shorter = walk(graph, starts, length=7, p=p, q=q, seed=3)
    np.testing.assert_array_equal(shorter, whole[:, :8])
    assert (walk(graph, starts, length=20, p=p, q=q, seed=4) != whole).any()


@pytest.mark.parametrize(("options", "p", "q"), KINDS)
def test_a_graph_that_grew_is_walked_as_one_built_at_once(options, p, q):
    graph = random_graph(keep_amounts=True, **options)
    rng = np.random.default_rng(8)
    more = (
        rng.integers(0, 300, 50), rng.integers(0, 300, 50), rng.random(50),
        (rng.integers(0, 10**7, 50) + ERA) * 1_000_000,
    )  # fmt: skip
    grown, touched = graph.with_edges(*more)
    starts = np.repeat(touched, 3)
    np.testing.assert_array_equal(
        walk(grown, starts, p=p, q=q), walk(grown.compact(), starts, p=p, q=q)
    )


def test_every_step_is_an_edge_and_ends_are_filled_up():
    graph = random_graph(directed="out")
    paths = walk(graph, np.arange(300), length=30)
    assert paths.dtype == np.int32
    assert paths.shape == (300, 31)
    for path in paths.tolist():
        for here, there in itertools.pairwise(path):
            if here < 0 or there < 0:
                assert there == -1
                assert here < 0 or graph.counts[here] == 0
            else:
                assert there in graph.row(here)


def test_a_start_without_neighbours_is_a_walk_of_its_own():
    graph = Graph.of_edges([0], [1], num_nodes=3)
    assert walk(graph, [2, 0], length=2, p=2).tolist() == [[2, -1, -1], [0, 1, 0]]
    assert walk(Graph.of_edges([], [], num_nodes=1), [0], length=1).tolist() == [[0, -1]]
    assert walk(graph, [], length=2).shape == (0, 3)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("order", ["neighbour", "time"])
def test_walks_end_where_they_are_told_to_and_may_start_there(q, order):
    if order == "time" and q == 2:
        with pytest.raises(InvalidInput, match="p and q are for graphs of order"):
            walk(random_graph(order=order), [0], q=q)
        return
    graph = random_graph(order=order)
    stop = np.zeros(300, dtype=bool)
    stop[:20] = True
    paths = walk(graph, np.arange(300), length=20, q=q, stop=stop, max_degree=25)
    ends = stop | (graph.counts > 25)
    inner = paths[:, 1:-1]
    assert (paths[:, 2:][(inner >= 0) & ends[inner]] == -1).all()
    assert (ends[inner] & (inner >= 0)).sum() > 50
    starts = np.flatnonzero(ends & (graph.counts > 0))
    assert (paths[starts, 1] >= 0).all()
    free = ~(ends[paths] & (paths >= 0))[:, 1:].any(axis=1)
    if order == "neighbour":
        np.testing.assert_array_equal(
            paths[free], walk(graph, np.arange(300), length=20, q=q)[free]
        )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 5)] * 2, st.integers(0, 4)), min_size=1, max_size=25),
    st.sampled_from(["out", "in", "both"]),
)
def test_walks_in_time_are_chains_of_transfers_that_follow_each_other(rows, directed):
    src, dst, second = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    graph = Graph.of_edges(
        src, dst, time=(second + ERA) * 1_000_000, order="time", directed=directed, num_nodes=6
    )
    sign = -1 if directed == "in" else 1
    hops = [(a, b, sign * t) for a, b, t in rows if a != b]
    if directed == "both":
        hops += [(b, a, t) for a, b, t in hops]
    if directed == "in":
        hops = [(b, a, t) for a, b, t in hops]

    def ends(path):
        """Times at which one can be at the end of a path, by all chains there are."""
        times = [-9]
        for here, there in itertools.pairwise(path):
            times = [t for a, b, t in hops for now in times if (a, b) == (here, there) and t >= now]
        return times

    for path in walk(graph, np.repeat(np.arange(6), 3), length=5).tolist():
        length = path.index(-1) if -1 in path else len(path)
        assert ends(path[:length])
        if length < len(path):  # an end: some time of arrival is later than all that leaves
            last = [t for a, _, t in hops if a == path[length - 1]]
            assert max(ends(path[:length])) > max(last, default=-10)


def test_a_walk_in_time_draws_from_later_transfers_by_amount():
    graph = Graph.of_edges(
        [0, 1, 1, 1, 1], [1, 2, 3, 4, 5], [1.0, 9.0, 1.0, 2.0, 5.0],
        (np.array([10, 5, 10, 20, 30]) + ERA) * 1_000_000,
        order="time", directed="out", weight="amount",
    )  # fmt: skip
    paths = walk(graph, np.zeros(20_000, int), length=2)
    seen = np.bincount(paths[:, 2], minlength=6) / 20_000
    assert seen[:3].tolist() == [0, 0, 0]  # 2 was paid before the money came
    np.testing.assert_allclose(seen[3:], [1 / 8, 2 / 8, 5 / 8], atol=0.015)


def test_draws_of_other_counters_have_nothing_in_common():
    # 4,000 draws along each counter: means of bits are near a half, and no two draws are equal.
    along = [
        [draw(i, 1, 1, 1) for i in range(4000)], [draw(1, i, 1, 1) for i in range(4000)],
        [draw(1, 1, i, 1) for i in range(4000)], [draw(1, 1, 1, i) for i in range(4000)],
    ]  # fmt: skip
    for numbers in along:
        assert len(set(numbers)) == 4000
        bits = np.unpackbits(np.array(numbers, dtype=np.uint64).view(np.uint8)).reshape(4000, 64)
        assert abs(bits.mean(axis=0) - 0.5).max() < 0.04
        assert abs(np.corrcoef(bits[:-1, 0], bits[1:, 0])[0, 1]) < 0.06


def test_draws_are_those_of_splitmix_in_whole_numbers():
    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    for seed, number, step, k in [
        (0, 0, 0, 0),
        (7, 12_000_000_000, 39, 2),
        (2**62, 5, 80, 2**32 - 2),
    ]:
        stream = mix(seed ^ mix((number + golden) % 2**64))
        wanted = mix((stream + ((step << 32) + k + 1) * golden) % 2**64)
        assert int(draw(seed, number, step, k)) == wanted


def test_the_filter_passes_every_edge_and_few_others():
    graph = random_graph(num_nodes=2000, num_edges=20_000)
    words = edge_filter(graph)
    assert words.nbytes * 8 <= 12 * graph.num_slots / 2 + 64

    def passes(a, b):
        x = (min(a, b) << 32) | max(a, b)
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        x ^= x >> 31
        word = int(words[(x >> 32) * len(words) >> 32])
        return all(word >> (x >> shift & 63) & 1 for shift in (0, 6, 12, 18))

    near = [(a, b) for a in range(0, 2000, 40) for b in graph.row(a).tolist()]
    assert all(passes(a, b) for a, b in near)
    rng = np.random.default_rng(0)
    far = [(a, b) for a, b in rng.integers(0, 2000, (4000, 2)).tolist() if b not in graph.row(a)]
    assert sum(passes(a, b) for a, b in far) < 0.05 * len(far)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0}, "expected p above 0, got 0"),
        ({"q": -1}, "expected q above 0, got -1"),
        ({"q": float("nan")}, "expected q above 0, got nan"),
        ({"length": 0}, "expected length of at least 1"),
        ({"threads": 0}, "expected threads of at least 1"),
        ({"max_degree": 0}, "expected max_degree of at least 1"),
        ({"seed": -1}, "expected seed of at least 0"),
        ({"stop": np.zeros(2, dtype=bool)}, r"stop as \(3,\) bool"),
        ({"stop": np.zeros(3)}, r"stop as \(3,\) bool"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(InvalidInput, match=message):
        walk(Graph.of_edges([0, 1], [1, 2]), [0], **options)


def test_starts_that_are_no_nodes_are_named():
    graph = Graph.of_edges([0, 1], [1, 2])
    with pytest.raises(InvalidTable, match="starts of 0 to 2, got 3 in row 1"):
        walk(graph, [0, 3])
    with pytest.raises(InvalidTable, match="got -1 in row 0"):
        walk(graph, [-1])
    with pytest.raises(InvalidTable, match="whole numbers"):
        walk(graph, [0.5])
