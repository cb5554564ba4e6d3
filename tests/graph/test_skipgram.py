"""Skip-gram: pair by pair as plain Python does it, and what it must find in real graphs."""

from itertools import pairwise
from math import exp, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import DeclarationError, InvalidInput
from chopmark.graph.skipgram import SkipGram

WORD = 2**64 - 1
TRAINING = 1 << 31
DIM, NEGATIVES = 8, 3
"""One width for most tests: each is a kernel of its own to compile."""


def mixed(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


class Draws:
    """The random numbers of one walk, in plain integers."""

    def __init__(self, seed, walk):
        golden = 0x9E3779B97F4A7C15
        self.stream = mixed(seed ^ mixed((walk + golden) & WORD))
        self.golden, self.count = golden, 0

    def __call__(self):
        counter = (TRAINING << 32) + self.count + 1
        self.count += 1
        return mixed((self.stream + counter * self.golden) & WORD)


def place(bits, count):
    return ((bits >> 32) * count) >> 32


def fraction(bits):
    return (bits & 0xFFFFFFFF) / 2**32


def oracle(model, walks, rates, *, frozen=(), keep=None):
    """Vectors and contexts after the walks: one pair after the other, in float64."""
    vectors, contexts = model.vectors.astype(float), model.contexts.astype(float)
    for number, walk in enumerate(walks):
        draw = Draws(model.seed, model.num_walks + number)
        path = [n for n in walk if n < 0 or keep is None or fraction(draw()) < keep[n]]
        for j, node in enumerate(path):
            if node < 0:
                continue
            reach = 1 + place(draw(), model.window)
            left, right = path[max(j - reach, 0) : j], path[j + 1 : j + 1 + reach]
            left = left[max([k + 1 for k, n in enumerate(left) if n < 0], default=0) :]
            right = right[: min([k for k, n in enumerate(right) if n < 0], default=len(right))]
            around = left + right
            pairs = []  # target, label, times
            for k in range(0, len(around), model.sharing):
                group = around[k : k + model.sharing]
                pairs += [(context, 1, 1) for context in group]
                for _ in range(model.negatives):
                    bits = draw()
                    noise = place(bits, len(vectors))
                    if fraction(bits) >= model._threshold[noise]:
                        noise = int(model._alias[noise])
                    pairs.append((noise, 0, sum(context != noise for context in group)))
            steps = [
                times * rates[number] * (label - 1 / (1 + exp(-vectors[node] @ contexts[target])))
                for target, label, times in pairs
            ]
            moved = np.zeros(model.dim)
            for step, (target, _, _) in zip(steps, pairs, strict=True):
                moved += step * contexts[target]
                if target not in frozen:
                    contexts[target] += step * vectors[node]
            vectors[node] += moved
    return vectors, contexts


def begun(num, *, scale=1.0, **options):
    """A model whose contexts are no longer 0, so that all terms count."""
    model = SkipGram(DIM, negatives=NEGATIVES, **options)
    draws = np.random.default_rng(num)
    model.resume(*(draws.normal(0, scale, (num, DIM)) for _ in range(2)), num_walks=5)
    return model.grow(draws.uniform(0.1, 9, num))


def test_one_pair_moves_as_the_gradient_says():
    model = SkipGram(DIM, negatives=NEGATIVES, window=1, rate=0.1)
    model.resume(np.full((2, DIM), 0.5), np.full((2, DIM), 0.25)).grow([1, 0])
    # Noise can only be node 0, which is the context of node 1: it is never its own noise.
    own, context = model.vectors.copy(), model.contexts.copy()
    pulled = 0.1 * (1 - 1 / (1 + exp(-own[1] @ context[0])))
    model.train(np.array([[1, 0]]))
    first = own[1] + pulled * context[0]
    np.testing.assert_allclose(model.vectors[1], first, atol=1e-5)
    # Then node 0 is pulled to the context of node 1, and pushed from its own three times.
    moved = context[0] + pulled * own[1]
    pull = 0.1 * (1 - 1 / (1 + exp(-own[0] @ context[1])))
    push = 0.1 * -1 / (1 + exp(-own[0] @ moved))
    kept = sum(push * (moved + k * push * own[0]) for k in range(NEGATIVES))
    np.testing.assert_allclose(model.vectors[0], own[0] + pull * context[1] + kept, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    walks=st.integers(1, 12).flatmap(
        lambda length: st.lists(
            st.lists(st.integers(-1, 8), min_size=length, max_size=length), min_size=1, max_size=5
        )
    ),
    window=st.integers(1, 4),
    sharing=st.integers(1, 5),
    seed=st.integers(0, 2**63),
    sample=st.sampled_from([0.0, 0.05]),
    frozen=st.sets(st.integers(0, 8)),
)
def test_walks_train_as_plain_python_does(walks, window, sharing, seed, sample, frozen):
    model = begun(9, window=window, sharing=sharing, seed=seed, sample=sample, rate=0.05)
    keep = None
    if sample:
        share = np.random.default_rng(9)
        share.normal(size=(2, 9, DIM))
        visits = share.uniform(0.1, 9, 9)
        often = visits / visits.sum() / sample
        keep = [min(1, 1 / sqrt(x) + 1 / x) for x in often]
    rates = [0.05 + (0.0001 - 0.05) * (0.5 + 0.25 * i / len(walks)) for i in range(len(walks))]
    expected = oracle(model, walks, rates, frozen=frozen, keep=keep)
    held = np.isin(np.arange(9), list(frozen))
    model.train(np.array(walks), (0.5, 0.75), frozen=held)
    np.testing.assert_allclose(model.vectors, expected[0], atol=1e-5)
    np.testing.assert_allclose(model.contexts, expected[1], atol=1e-5)


def test_scores_far_from_0_saturate_as_the_logistic_function_does():
    for scale in (2.0, 8.0):
        model = begun(6, scale=scale, rate=0.001, last_rate=0.001)
        walks = [[0, 1, 2, 3, 4, 5]]
        expected = oracle(model, walks, [0.001])
        model.train(np.array(walks))
        np.testing.assert_allclose(model.vectors, expected[0], atol=1e-5)


def test_noise_is_drawn_in_proportion_to_visits_to_the_power():
    visits = np.array([0, 1, 16, 81, 0, 256, 3])
    model = SkipGram(DIM, negatives=NEGATIVES).grow(visits)
    weights = model._threshold.astype(float)
    np.add.at(weights, model._alias, 1 - model._threshold.astype(float))
    np.testing.assert_allclose(weights / 7, visits**0.75 / (visits**0.75).sum(), atol=1e-6)


def circles(num, size, rounds, seed=0):
    """Walks in `num` groups of nodes that never meet."""
    draws = np.random.default_rng(seed)
    group = draws.integers(0, num, rounds)
    return group[:, None] * size + draws.integers(0, size, (rounds, 20)), num * size


def groups_found(vectors, size):
    """Share of nodes whose nearest other node is of their group."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    like = unit @ unit.T
    np.fill_diagonal(like, -2)
    return (like.argmax(1) // size == np.arange(len(vectors)) // size).mean()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sharing", [1, 4])
def test_nodes_that_meet_become_alike(threads, sharing):
    walks, num = circles(12, 10, 1500)
    model = SkipGram(DIM, negatives=NEGATIVES, sharing=sharing, threads=threads, rate=0.05)
    model.grow(np.ones(num))
    assert groups_found(model.vectors, 10) < 0.4
    model.train(walks)
    assert groups_found(model.vectors, 10) == 1


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    walks, num = circles(4, 5, 100)
    one, two, three = (
        SkipGram(DIM, negatives=NEGATIVES, seed=seed).grow(np.ones(num)).train(walks).vectors
        for seed in (7, 7, 8)
    )
    assert (one == two).all()
    assert (one != three).all(axis=1).all()


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, 99), max_size=5))
def test_how_walks_are_cut_into_blocks_does_not_matter(cuts):
    walks, num = circles(4, 5, 100)
    whole = SkipGram(DIM, negatives=NEGATIVES).grow(np.ones(num)).train(walks)
    parts = SkipGram(DIM, negatives=NEGATIVES).grow(np.ones(num))
    ends = [0, *sorted(cuts), 100]
    for begin, end in pairwise(ends):
        parts.train(walks[begin:end], (begin / 100, end / 100))
    assert parts.num_walks == 100
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)


def test_growing_keeps_what_is_known_and_begins_new_nodes_by_their_id():
    walks, num = circles(4, 5, 100)
    model = SkipGram(DIM, negatives=NEGATIVES).grow(np.ones(num)).train(walks)
    vectors, contexts = model.vectors.copy(), model.contexts.copy()
    model.grow(np.ones(num + 30))
    assert (model.vectors[:num] == vectors).all()
    assert (model.contexts[:num] == contexts).all()
    fresh = SkipGram(DIM, negatives=NEGATIVES).grow(np.ones(num + 30))
    assert (model.vectors[num:] == fresh.vectors[num:]).all()
    assert not model.contexts[num:].any()
    assert 0.9 / DIM < np.abs(fresh.vectors).max() <= 1 / DIM
    assert abs(fresh.vectors.mean()) < 0.1 / DIM
    assert len(np.unique(fresh.vectors)) > 0.99 * fresh.vectors.size


def test_a_warm_model_learns_new_nodes_and_leaves_frozen_contexts_in_their_place():
    walks, num = circles(12, 10, 1500)
    old = (walks % 10 < 9).all(axis=1, keepdims=True) | (walks % 10 < 9)
    model = SkipGram(DIM, negatives=NEGATIVES, rate=0.05).grow(np.ones(num))
    model.train(np.where(old, walks, -1))
    contexts = model.contexts.copy()
    frozen = np.arange(num) % 10 < 9
    model.train(walks[:600], frozen=frozen)
    assert (model.contexts[frozen] == contexts[frozen]).all()
    assert (model.contexts[~frozen] != contexts[~frozen]).any(axis=1).all()
    assert groups_found(model.vectors, 10) == 1


def test_a_model_goes_on_from_saved_arrays_as_if_it_had_not_stopped():
    walks, num = circles(4, 5, 100)
    one = SkipGram(DIM, negatives=NEGATIVES).grow(np.ones(num)).train(walks[:50], (0, 0.5))
    two = SkipGram(DIM, negatives=NEGATIVES)
    two.resume(one.vectors, one.contexts, num_walks=one.num_walks).grow(np.ones(num))
    for model in (one, two):
        model.train(walks[50:], (0.5, 1))
    assert (one.vectors == two.vectors).all()


def test_nothing_to_learn_from_changes_nothing():
    beyond = np.array([[0, -(2**32) + 1]])
    for num, walks in [
        (3, beyond),
        (3, np.empty((0, 5), int)),
        (3, np.full((4, 5), -1)),
        (3, [[0], [1]]),
    ]:
        model = begun(num)
        before = model.vectors.copy()
        model.train(np.asarray(walks))
        assert (model.vectors == before).all()
    assert SkipGram(DIM, negatives=NEGATIVES).grow([]).train(np.full((1, 2), -1)).num_nodes == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dim": 0}, r"`dim`.*expected 1, 2"),
        ({"window": 0}, r"`window`"),
        ({"negatives": 2.5}, r"`negatives`.*2\.5"),
        ({"sharing": -1}, r"`sharing`.*-1"),
        ({"threads": 0}, r"`threads`"),
        ({"seed": 1.5}, r"`seed`.*1\.5"),
        ({"rate": 0.01, "last_rate": 0.02}, r"0 < last_rate <= rate; got 0\.02, 0\.01"),
        ({"rate": float("nan")}, r"got 0\.0001, nan"),
        ({"sample": -1.0}, r"sample >= 0"),
        ({"noise_power": float("inf")}, r"finite noise_power"),
    ],
)
def test_parameters_that_cannot_be_are_refused(options, says):
    with pytest.raises(DeclarationError, match=says):
        SkipGram(**options)


@pytest.mark.parametrize(
    ("visits", "says"),
    [
        ([1, 1], r"for each of 4 nodes or more; got shape \(2,\)"),
        ([[1, 1, 1, 1]], r"got shape \(1, 4\)"),
        ([1, 1, -2, 1], r"got -2\.0 at node 2"),
        ([1, float("nan"), 1, 1], r"got nan at node 1"),
        ([0, 0, 0, 0], r"one above 0"),
    ],
)
def test_visits_that_cannot_be_are_refused(visits, says):
    model = begun(4)
    before = model._threshold.copy()
    with pytest.raises(InvalidInput, match=says):
        model.grow(visits)
    assert (model._threshold == before).all()


@pytest.mark.parametrize(
    ("walks", "options", "says"),
    [
        ([[0, 4]], {}, r"ids below 4.*got 4; call `grow`"),
        ([0, 1], {}, r"got int64 of shape \(2,\)"),
        ([[0.0, 1.0]], {}, r"got float64"),
        ([[0, 1]], {"progress": (0.5, 0.2)}, r"begin <= end <= 1; got 0\.5, 0\.2"),
        ([[0, 1]], {"progress": (0.5, float("nan"))}, r"nan"),
        ([[0, 1]], {"frozen": np.zeros(3, bool)}, r"bool of shape \(4,\); got bool of shape \(3,"),
        ([[0, 1]], {"frozen": np.zeros(4)}, r"got float64"),
    ],
)
def test_walks_that_cannot_be_are_refused_before_anything_is_learned(walks, options, says):
    model = begun(4)
    before = model.vectors.copy()
    with pytest.raises(InvalidInput, match=says):
        model.train(np.array(walks), **options)
    assert (model.vectors == before).all()
    assert model.num_walks == 5


@pytest.mark.parametrize(
    ("vectors", "contexts", "says"),
    [
        (np.zeros((3, 5)), np.zeros((3, 5)), r"shape \(n, 8\)"),
        (np.zeros((3, 8)), np.zeros((2, 8)), r"got \(3, 8\), \(2, 8\)"),
        (np.full((3, 8), np.nan), np.zeros((3, 8)), r"NaN or infinity"),
    ],
)
def test_arrays_that_cannot_be_resumed_are_refused(vectors, contexts, says):
    with pytest.raises(InvalidInput, match=says):
        SkipGram(DIM).resume(vectors, contexts)


def test_resuming_needs_the_visits_again():
    model = begun(4)
    model.resume(model.vectors, model.contexts)
    with pytest.raises(InvalidInput, match=r"`grow` with the visits"):
        model.train(np.array([[0, 1]]))
