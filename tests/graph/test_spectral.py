"""ProNE and FastRP beside dense matrices, and on a real graph."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import iv

from chopmark.errors import DeclarationError, InvalidInput
from chopmark.graph.adjacency import Graph
from chopmark.graph.spectral import csr_of, fastrp, prone

DATA = Path(os.environ.get("CHOPMARK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def dense_of(graph):
    """(n, n) weights row by row, times the length of the row."""
    matrix = np.zeros((graph.num_nodes, graph.num_nodes))
    for i in range(graph.num_nodes):
        np.add.at(matrix[i], graph.row(i), graph.weights(i) * float(graph.counts[i]))
    return matrix


def random_graph(num=40, edges=150, seed=0, **options):
    draws = np.random.default_rng(seed)
    src, dst = draws.integers(0, num, (2, edges))
    return Graph.of_edges(
        src, dst, draws.lognormal(size=edges), num_nodes=num + 2, **{"weight": "amount"} | options
    )


def blocks(num, size, inside, across, seed=0):
    """A graph of groups with edges inside and between them."""
    draws = np.random.default_rng(seed)
    group = np.repeat(np.arange(num), size)
    src, dst = np.triu_indices(num * size, 1)
    near = group[src] == group[dst]
    drawn = draws.uniform(size=len(src)) < np.where(near, inside, across)
    return Graph.of_edges(src[drawn], dst[drawn], num_nodes=num * size), group


def nearest_of_same_group(vectors, group):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    like = unit @ unit.T
    np.fill_diagonal(like, -2)
    return (group[like.argmax(1)] == group).mean()


def unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1e-9, rows / np.maximum(lengths, 1e-9), 0)


def dense_prone(matrix, dim, order=10, mu=0.5, theta=0.2):
    """ProNE with dense matrices and exact decompositions, as its paper has it."""
    num = len(matrix)
    sums = matrix.sum(1, keepdims=True)
    chances = np.divide(matrix, sums, where=sums > 0, out=np.zeros_like(matrix))
    noise = chances.sum(0) ** 0.75
    noise /= noise.sum()
    factors = np.zeros_like(matrix)
    at = chances > 0
    factors[at] = np.log(chances[at]) - np.log(np.broadcast_to(noise, matrix.shape)[at])
    u, s, _ = np.linalg.svd(factors)
    begun = unit(u[:, :dim] * np.sqrt(s[:dim]))
    looped = matrix + np.eye(num)
    shifted = (1 - mu) * np.eye(num) - looped / looped.sum(1, keepdims=True)
    # Chebyshev polynomials of the first kind of (M^2 / 2 - 1): T_k from the recurrence.
    base = shifted @ shifted
    terms = [np.eye(num), 0.5 * base - np.eye(num)]
    for _ in range(2, order):
        terms.append(base @ terms[-1] - 2 * terms[-1] - terms[-2])
    total = iv(0, theta) * terms[0]
    for k in range(1, order):
        total = total + 2 * (-1) ** k * iv(k, theta) * terms[k]
    smoothed = looped @ (begun - total @ begun)
    u, s, _ = np.linalg.svd(smoothed, full_matrices=False)
    return unit(np.where(sums > 0, u * np.sqrt(s), 0))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    edges=st.integers(0, 90),
    weight=st.sampled_from([None, "log", "amount", "count"]),
    directed=st.sampled_from(["both", "in", "out"]),
)
def test_the_matrix_of_a_graph_is_its_rows(seed, edges, weight, directed):
    graph = random_graph(20, edges, seed, weight=weight, directed=directed, keep_amounts=True)
    matrix = csr_of(graph).toarray()
    np.testing.assert_allclose(matrix, dense_of(graph), atol=1e-5)
    if weight is None:
        assert set(np.unique(matrix)) <= {0, 1}
    more, _ = graph.with_edges([1, 2, 0], [2, 3, 21], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(csr_of(more).toarray(), dense_of(more), atol=1e-5)


def test_several_transfers_of_a_pair_by_time_are_one_entry():
    graph = Graph.of_edges(
        [0, 0, 0, 1], [1, 2, 1, 2], [3.0, 1.0, 2.0, 5.0], np.arange(4) * 10**6,
        weight="amount", order="time", directed="out",
    )  # fmt: skip
    found = csr_of(graph)
    assert found.nnz == 3
    np.testing.assert_allclose(found.toarray(), [[0, 2.5, 0.5], [0, 0, 1], [0, 0, 0]], atol=1e-5)
    assert graph.row(0).tolist() == [1, 2, 1]


@pytest.mark.parametrize("weight", [None, "amount"])
@pytest.mark.parametrize("dim", [3, 40])
def test_prone_is_what_dense_matrices_say(weight, dim):
    graph = random_graph(weight=weight)
    found = prone(graph, dim, rounds=30)
    expected = dense_prone(dense_of(graph), dim)
    # Vectors are given up to the sign of each column; their products are not.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-3)


def test_prone_repeats_by_its_seed_and_hardly_depends_on_it():
    graph, _ = blocks(6, 20, 0.4, 0.01)
    one, two, three = (prone(graph, 6, seed=seed) for seed in (1, 1, 2))
    assert (one == two).all()
    assert (one != three).any()
    np.testing.assert_allclose(one @ one.T, three @ three.T, atol=0.02)


def test_both_find_groups():
    graph, group = blocks(8, 25, 0.3, 0.01)
    assert nearest_of_same_group(prone(graph, 16), group) > 0.95
    assert nearest_of_same_group(fastrp(graph, 64), group) > 0.95


def test_prone_gives_unit_vectors_and_nothing_to_the_lonely():
    vectors = prone(random_graph(), 8)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths[:40], 1, atol=1e-5)
    assert not vectors[40:].any()
    assert vectors.dtype == np.float32


def test_a_graph_without_edges_has_vectors_of_0():
    graph = Graph.of_edges([], [], num_nodes=5)
    for vectors in (prone(graph, 3), fastrp(graph, 3)):
        assert vectors.shape == (5, 3)
        assert not vectors.any()


def test_prone_tells_how_far_it_is():
    told = []
    prone(random_graph(), 8, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) > 10


def test_fastrp_is_powers_of_the_chances_applied_to_its_random_vectors():
    graph = random_graph(weight="log")
    matrix = dense_of(graph)
    sums = matrix.sum(1, keepdims=True)
    chances = np.divide(matrix, sums, where=sums > 0, out=np.zeros_like(matrix))
    # One step with all weight on it over a graph of self-like pairs shows the random vectors.
    pairs = Graph.of_edges(np.arange(0, 42, 2), np.arange(1, 42, 2))
    swapped = fastrp(pairs, 24, weights=[1.0], damping=0.0, seed=3)
    random = swapped.reshape(-1, 2, 24)[:, ::-1].reshape(-1, 24)
    count = (random != 0).sum(1, keepdims=True)
    signs = random * np.sqrt(count)
    np.testing.assert_allclose(np.abs(signs[random != 0]), 1, atol=1e-5)
    assert 0.25 < (random != 0).mean() < 0.42
    share = np.maximum(sums, 1) / sums.sum()
    one = unit(chances @ (signs * share**-0.5))
    two = unit(chances @ one)
    found = fastrp(graph, 24, weights=[0.5, 2.0], damping=-0.5, seed=3)
    np.testing.assert_allclose(found, 0.5 * one + 2 * two, atol=1e-4)


def test_random_vectors_of_fastrp_depend_on_seed_and_id_alone():
    src, dst = np.array([[0, 1, 2], [1, 2, 0]])
    small = fastrp(Graph.of_edges(src, dst), 16, damping=0.0)
    large = fastrp(Graph.of_edges(src, dst, num_nodes=50), 16, damping=0.0)
    assert (large[:3] == small).all()
    assert (fastrp(Graph.of_edges(src, dst), 16, damping=0.0, seed=1) != small).any()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda graph: prone(graph, 0), r"1 <= dim <= 42.*got 0"),
        (lambda graph: prone(graph, 43), r"number of nodes; got 43"),
        (lambda graph: prone(graph, 4, order=1), r"order >= 2"),
        (lambda graph: prone(graph, 4, rounds=-1), r"rounds >= 0"),
        (lambda graph: prone(graph, 4, mu=float("nan")), r"finite mu and theta; got nan"),
        (lambda graph: fastrp(graph, 2.5), r"1 <= dim; got 2\.5"),
        (lambda graph: fastrp(graph, 4, weights=[]), r"one finite weight or more"),
        (lambda graph: fastrp(graph, 4, weights=[float("inf")]), r"got \[inf\]"),
        (lambda graph: fastrp(graph, 4, damping=float("nan")), r"nan"),
    ],
)
def test_parameters_that_cannot_be_are_refused(call, says):
    with pytest.raises(DeclarationError, match=says):
        call(random_graph())


def test_a_graph_of_no_nodes_is_refused():
    with pytest.raises(InvalidInput, match="one node at least"):
        prone(Graph.of_edges([], []), 3)


def test_prone_tells_true_links_of_proteins_from_pairs_of_the_same_degrees():
    path = DATA / "graph" / "ppi_edges.parquet"
    if not path.exists():
        pytest.skip(f"no real graph at {path}; set CHOPMARK_DATA to the folder of data sets")
    edges = np.unique(np.sort(pl.read_parquet(path).to_numpy(), axis=1), axis=0)
    draws = np.random.default_rng(0)
    draws.shuffle(edges)
    test, train = edges[:3000], edges[3000:]
    vectors = prone(Graph.of_edges(train[:, 0], train[:, 1], num_nodes=edges.max() + 1), 64)
    # Ends shuffled: the same degrees on both sides, and hardly ever an edge.
    other = np.column_stack([test[:, 0], draws.permutation(test[:, 1])])
    true, false = ((vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1) for pairs in (test, other))
    assert (true[:, None] > false[None, :]).mean() > 0.70
