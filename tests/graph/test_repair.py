"""Repaired walks against the odds of every walk, enumerated in plain Python from lists of edges."""

from collections import Counter
from itertools import pairwise
from math import log1p

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from chopmark.errors import InvalidInput
from chopmark.graph.adjacency import ERA, Graph
from chopmark.graph.repair import new_edge_ratio, repair, stretches_of
from chopmark.graph.walks import walk
from chopmark.graph.walkstore import WalkStore

DAY = 86_400
MANY = 25_000


def graph_of(edges, *, weight=None, directed="both", half_life_days=None, num_nodes=None):
    """Edges are (src, dst, amount, day)."""
    src, dst, amount, day = (np.array(column) for column in zip(*edges, strict=True))
    return Graph.of_edges(
        src, dst, amount.astype(float), (day.astype(np.int64) * DAY + ERA) * 1_000_000,
        weight=weight, directed=directed, half_life_days=half_life_days, num_nodes=num_nodes,
        keep_amounts=weight is not None,
    )  # fmt: skip


def rows_of(edges, weight, directed, half_life_days):
    """{node: {neighbour: weight}} by dictionaries."""
    pairs = {}
    for src, dst, amount, day in edges:
        for a, b in {"both": [(src, dst), (dst, src)], "out": [(src, dst)]}[directed]:
            total, newest = pairs.setdefault(a, {}).get(b, (0.0, -1))
            pairs[a][b] = total + amount, max(newest, day)
    found = {}
    for a, row in pairs.items():
        latest = max(day for _, day in row.values())
        weights = {
            b: {None: 1.0, "amount": total, "log": log1p(total)}[weight]
            * (0.5 ** ((latest - day) / half_life_days) if half_life_days else 1.0)
            for b, (total, day) in row.items()
        }
        found[a] = weights if any(weights.values()) else dict.fromkeys(weights, 1.0)
    return found


def odds_of_walks(rows, start, length, p, q, limit=None):
    """{walk: its odds}, each walk that there can be."""
    done, open_walks = {}, {(start,): 1.0}
    for _ in range(length):
        longer = {}
        for path, odds in open_walks.items():
            row = rows.get(path[-1], {})
            if not row or (limit and len(path) > 1 and len(row) > limit):
                padded = path + (-1,) * (length + 1 - len(path))
                done[padded] = done.get(padded, 0) + odds
                continue
            weights = {}
            for x, weight in row.items():
                if len(path) > 1:
                    t = path[-2]
                    near = x in rows.get(t, {})
                    weight *= 1 / p if x == t else 1.0 if near else 1 / q
                weights[x] = weight
            for x, weight in weights.items():
                longer[(*path, x)] = odds * weight / sum(weights.values())
        open_walks = longer
    return done | open_walks


def agrees(walks, odds):
    """p-value of walks against their odds, all from one start; 0 if one cannot be."""
    seen = Counter(map(tuple, walks.tolist()))
    if any(odds.get(path, 0) <= 0 for path in seen):
        return 0.0
    expected = {path: value * len(walks) for path, value in odds.items() if value > 0}
    rare = [path for path, value in expected.items() if value < 8]
    pairs = [(seen[path], value) for path, value in expected.items() if value >= 8]
    if rare:
        pairs.append((sum(seen[path] for path in rare), sum(expected[path] for path in rare)))
        if pairs[-1][1] < 8:
            pairs = [(pairs[0][0] + pairs[-1][0], pairs[0][1] + pairs[-1][1]), *pairs[1:-1]]
    got, want = np.array(pairs).T
    return float(chisquare(got, want * got.sum() / want.sum()).pvalue) if len(got) > 1 else 1.0


BASE = [
    (0, 1, 2.0, 5), (0, 2, 1.0, 9), (1, 2, 5.0, 1), (2, 3, 1.0, 3), (3, 4, 0.5, 8), (4, 0, 3.0, 2),
]  # fmt: skip
MORE = [(1, 3, 4.0, 12), (0, 2, 6.0, 11), (2, 5, 1.0, 14)]
GONE = [(1, 2, 0.0, 0), (3, 4, 0.0, 0)]

CHANGES = {
    "edges that come": (MORE, []),
    "edges that go": ([], GONE),
    "edges that come and go": (MORE, GONE),
    "a start that had none": ([(6, 3, 1.0, 3)], []),
}
KINDS = {
    "even": {},
    "amounts": {"weight": "amount"},
    "logs, one way": {"weight": "log", "directed": "out"},
    "ages": {"weight": "amount", "half_life_days": 4.0},
}


def changed_graph(before, more, gone):
    after, touched = before, np.empty(0, dtype=np.int64)
    if gone:
        src, dst, *_ = zip(*gone, strict=True)
        after, touched = after.without_edges(src, dst)
    if more:
        src, dst, amount, day = zip(*more, strict=True)
        times = (np.array(day) * DAY + ERA) * 1_000_000
        after, some = after.with_edges(src, dst, amount, times)
        touched = np.union1d(touched, some)
    return after, touched


@pytest.mark.parametrize("mode", ["coupled", "resume"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("p", "q"), [(1.0, 1.0), (0.4, 3.0), (3.0, 0.5)])
def test_repaired_walks_have_the_odds_of_walks_on_the_changed_graph(mode, kind, change, p, q):
    more, gone = CHANGES[change]
    options = {"weight": None, "directed": "both", "half_life_days": None, **KINDS[kind]}
    before = graph_of(BASE, num_nodes=7, **options)
    after, touched = changed_graph(before, more, gone)
    start = 6 if change.startswith("a start") else 0
    walks = walk(before, np.full(MANY, start), length=4, p=p, q=q, seed=1)
    repair(walks, np.arange(MANY), before, after, touched, p=p, q=q, seed=2, mode=mode)
    left = [edge for edge in BASE if edge[:2] not in {pair[:2] for pair in gone}]
    rows = rows_of(left + more, **options)
    assert agrees(walks, odds_of_walks(rows, start, 4, p, q)) > 1e-5


def test_the_check_of_odds_sees_walks_that_were_not_repaired():
    rows = rows_of(BASE + MORE, None, "both", None)
    stale = walk(graph_of(BASE, num_nodes=7), np.full(MANY, 0), length=4, seed=1)
    assert agrees(stale, odds_of_walks(rows, 0, 4, 1, 1)) < 1e-30


def test_rows_without_weight_are_repaired_both_ways():
    light = [(0, 1, 0.0, 0), (0, 2, 0.0, 0), (1, 3, 1.0, 0), (2, 3, 1.0, 0)]
    heavy = [(0, 1, 2.0, 0), (0, 3, 1.0, 0)]
    before = graph_of(light, weight="amount")
    after, touched = changed_graph(before, heavy, [])
    for one, two, edges in ((before, after, light + heavy), (after, before, light)):
        walks = walk(one, np.full(MANY, 0), length=3, seed=4)
        repair(walks, np.arange(MANY), one, two, touched, seed=5)
        odds = odds_of_walks(rows_of(edges, "amount", "both", None), 0, 3, 1, 1)
        assert agrees(walks, odds) > 1e-5


def test_walks_end_where_a_node_has_too_many_neighbours_now():
    before = graph_of(BASE, num_nodes=7)
    after, touched = changed_graph(before, MORE, [])
    for one, two, edges in ((before, after, BASE + MORE), (after, before, BASE)):
        walks = walk(one, np.full(MANY, 4), length=5, q=2.0, max_degree=3, seed=1)
        repair(walks, np.arange(MANY), one, two, touched, q=2.0, max_degree=3, seed=2)
        rows = rows_of(edges, None, "both", None)
        assert agrees(walks, odds_of_walks(rows, 4, 5, 1, 2, limit=3)) > 1e-5


def test_walks_repaired_twice_have_the_odds_of_the_last_graph():
    first = graph_of(BASE, num_nodes=7)
    second, touched = changed_graph(first, MORE, [])
    third, touched_then = changed_graph(second, [], GONE)
    walks = walk(first, np.full(MANY, 0), length=4, p=0.5, q=2.0, seed=1)
    repair(walks, np.arange(MANY), first, second, touched, p=0.5, q=2.0, seed=2)
    repair(walks, np.arange(MANY), second, third, touched_then, p=0.5, q=2.0, seed=3)
    left = [edge for edge in BASE if edge[:2] not in {pair[:2] for pair in GONE}]
    odds = odds_of_walks(rows_of(left + MORE, None, "both", None), 0, 4, 0.5, 2.0)
    assert agrees(walks, odds) > 1e-5


def test_no_more_steps_change_than_the_odds_ask_for():
    before = graph_of([(0, node, 1.0, 0) for node in range(1, 10)], directed="out", num_nodes=12)
    after, touched = before.with_edges([0], [10])
    walks = walk(before, np.zeros(MANY, dtype=int), length=1)
    changed = repair(walks, np.arange(MANY), before, after, touched, seed=9) >= 0
    # Nine of ten keep their step: the distance between the two laws is 1 / 10.
    assert abs(changed.mean() - 0.1) < 4 * np.sqrt(0.09 / MANY)
    assert (walks[changed, 1] == 10).all()


def random_graph(seed, size=2000, edges=8000):
    rng = np.random.default_rng(seed)
    src = rng.integers(0, size, edges)
    dst = (size * rng.random(edges) ** 2).astype(np.int64)
    return src, dst, rng.exponential(size=edges)


def more_edges():
    """A graph, 120 edges that come, and the graph with them."""
    src, dst, amount = random_graph(0)
    before = Graph.of_edges(src, dst, amount, weight="log", keep_amounts=True, num_nodes=2000)
    more = np.random.default_rng(1).integers(0, 2000, (2, 120))
    return before, more, *before.with_edges(*more, np.full(120, 2.0))


EVERY = np.tile(np.arange(2000), 25)
BIASED = {"p": 0.5, "q": 2.0}


@pytest.mark.parametrize("mode", ["coupled", "resume"])
def test_new_edges_are_walked_as_often_as_by_walks_made_anew(mode):
    before, more, after, touched = more_edges()
    walks = walk(before, EVERY, length=30, seed=1, **BIASED)
    assert new_edge_ratio(walks, after, *more, seed=3, **BIASED) < 0.1
    which = np.arange(len(walks))
    repair(walks, which, before, after, touched, seed=2, mode=mode, **BIASED)
    assert 0.95 <= new_edge_ratio(walks, after, *more, seed=3, **BIASED) <= 1.05


def test_walks_from_touched_nodes_alone_are_biased():
    before, more, after, touched = more_edges()
    walks = walk(before, EVERY, length=30, seed=1, **BIASED)
    again = np.isin(EVERY, touched)
    walks[again] = walk(after, EVERY[again], length=30, seed=2, **BIASED)
    # With all others kept as they were, new edges are seen too seldom;
    assert 0 < new_edge_ratio(walks, after, *more, seed=3, **BIASED) < 0.5
    # in what the cheap mode learns from, too often.
    fresh = walk(after, EVERY, length=30, seed=3, **BIASED)
    keys = {frozenset(pair) for pair in more.T.tolist()}
    share = over(walks[again], keys) / again.sum()
    assert share > 1.5 * over(fresh, keys) / len(fresh)


def over(walks, keys):
    """Steps over some pairs, one way or the other."""
    low, high = np.sort(np.stack([walks[:, :-1], walks[:, 1:]]), axis=0).reshape(2, -1)
    one, two = np.array([sorted(key) for key in keys if len(key) == 2]).T
    return int(np.isin((low.astype(np.int64) << 32) | high, (one << 32) | two).sum())


@pytest.mark.parametrize("mode", ["coupled", "resume"])
def test_after_edges_went_none_is_walked_and_what_is_left_as_often_as_anew(mode):
    src, dst, amount = random_graph(2)
    before = Graph.of_edges(src, dst, amount, weight="log", keep_amounts=True, num_nodes=2000)
    apart = np.flatnonzero(src != dst)[:120]
    after, touched = before.without_edges(src[apart], dst[apart])
    walks = walk(before, EVERY, length=30, seed=1, **BIASED)
    which = np.arange(len(walks))
    repair(walks, which, before, after, touched, seed=2, mode=mode, **BIASED)
    gone = {frozenset(pair) for pair in zip(src[apart], dst[apart], strict=True)}
    assert over(walks, gone) == 0
    ends = np.repeat(touched, after.counts[touched])
    left = np.concatenate([after.row(int(node)) for node in touched])
    assert 0.95 <= new_edge_ratio(walks, after, ends, left, seed=3, **BIASED) <= 1.05


def test_threads_and_parts_change_nothing():
    src, dst, amount = random_graph(3, 300, 900)
    before = Graph.of_edges(src, dst, amount, weight="amount", keep_amounts=True, num_nodes=300)
    after, touched = before.with_edges([1, 2, 3], [9, 8, 7], [1.0, 2.0, 3.0])
    walks = walk(before, np.tile(np.arange(300), 3), length=12, q=0.5, seed=1)
    whole, threaded, parts = walks.copy(), walks.copy(), walks.copy()
    every = np.arange(len(walks))
    options = {"q": 0.5, "seed": 2}
    changed = repair(whole, every, before, after, touched, **options)
    again = repair(threaded, every, before, after, touched, threads=4, **options)
    for low in (0, 500):
        part = parts[low : low + 500]
        repair(part, np.arange(len(part)), before, after, touched, first=low, **options)
    assert (whole == threaded).all()
    assert (whole == parts).all()
    assert (changed == again).all()
    # Where they changed first, and nowhere before.
    differs = whole != walks
    assert (np.where(differs.any(axis=1), differs.argmax(axis=1), -1) == changed).all()
    assert (changed >= 0).any()
    assert (changed < 0).any()


edges_of_nine = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda pair: pair[0] != pair[1]),
    min_size=1, max_size=25, unique_by=frozenset,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    edges=edges_of_nine, cut=st.integers(0, 25), begin=st.integers(0, 25), seed=st.integers(0, 9)
)
def test_every_step_of_a_repaired_walk_is_an_edge_and_ends_are_dead_ends(edges, cut, begin, seed):
    old, new = edges[: max(cut, 1)], edges[min(begin, len(edges) - 1) :]
    before = graph_of([(*pair, 1.0, 0) for pair in old], num_nodes=9)
    gone = [pair for pair in old if pair not in new]
    more = [(*pair, 1.0, 0) for pair in new if pair not in old]
    after, touched = changed_graph(before, more, [(*pair, 0, 0) for pair in gone])
    walks = walk(before, np.tile(np.arange(9), 5), length=6, p=0.5, q=2, seed=seed)
    store = WalkStore(walks, 9)
    which = store.through(touched)
    repair(walks, which, before, after, touched, p=0.5, q=2, seed=seed + 10)
    ways = {pair[::way] for pair in new for way in (1, -1)}
    for path in walks.tolist():
        for one, two in pairwise(path):
            if two >= 0:
                assert (one, two) in ways
            elif one >= 0:
                assert not any(one == way[0] for way in ways)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-1, 11), min_size=5, max_size=5), min_size=1, max_size=30),
    st.data(),
)
def test_the_index_finds_every_walk_through_a_node(tmp_path_factory, rows, data):
    walks = np.array(rows, dtype=np.int32)
    first = data.draw(st.integers(1, len(walks)))
    store = WalkStore(walks[:first].copy(), 12)
    if first < len(walks):
        store.append(walks[first:].copy(), 12)
    folder = tmp_path_factory.mktemp("walks")
    for round_ in range(data.draw(st.integers(0, 12))):
        number = data.draw(st.integers(0, len(walks) - 1))
        walks[number, 2:] = data.draw(st.lists(st.integers(0, 11), min_size=3, max_size=3))
        store.walks[number] = walks[number]
        fresh = stretches_of(walks, np.array([number]), np.array([2], dtype=np.int32), 0)
        store.changed(fresh, np.array([number]), 12)
        if data.draw(st.booleans()):
            made = folder / str(round_)
            made.mkdir()
            told = store.write(made)
            store.settle(made, told)
            store = WalkStore.open(made, told, 4, 12, thorough=True)
    nodes = np.array(sorted(data.draw(st.sets(st.integers(0, 11)))), dtype=np.int64)
    expected = {i for i, path in enumerate(walks.tolist()) if set(path) & set(nodes.tolist())}
    found = store.through(nodes)
    assert expected <= set(found.tolist())
    assert (np.diff(found) > 0).all()
    assert (store.walks == walks).all()


def test_a_stretch_is_what_changed_and_some_steps_before():
    walks = np.array([[5, 6, 7, 8], [1, 2, 3, -1]], dtype=np.int32)
    found = stretches_of(walks, np.array([0, 1]), np.array([3, 1], dtype=np.int32), 1)
    assert found.tolist() == [[7, 8, -1, -1], [1, 2, 3, -1]]


def test_graphs_that_cannot_be_compared_are_refused():
    bare = Graph.of_edges([0], [1], [1.0], weight="amount")
    with pytest.raises(InvalidInput, match="keep_amounts=True"):
        repair(walk(bare, [0]), np.array([0]), bare, bare, np.array([0]))
    timed = Graph.of_edges([0], [1], time=[ERA * 1_000_000], order="time")
    with pytest.raises(InvalidInput, match='order "neighbour"'):
        repair(walk(timed, [0]), np.array([0]), timed, timed, np.array([0]))
