"""Shapley values equal their definition, a mean over all coalitions.

That they equal the libraries' own on real tables is tested with `tabular`.
"""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import ArtifactError
from chopmark.models import Trees, kernels, shap
from chopmark.models.tree import Tree, words_of

NUM_COLUMNS = 4


@st.composite
def small_trees(draw):
    """A tree of up to 6 splits over 4 columns, column 3 a category; columns may recur."""
    feature, threshold, left, right, cover, flags = [-1], [0.0], [0], [0], [0.0], [0]
    words = {}
    for _ in range(draw(st.integers(1, 6))):
        leaves = [node for node, column in enumerate(feature) if column < 0]
        node = draw(st.sampled_from(leaves))
        feature[node] = draw(st.integers(0, NUM_COLUMNS - 1))
        threshold[node] = draw(st.sampled_from([-1.0, 0.0, 0.5]))
        if feature[node] == 3:
            words[node] = words_of(draw(st.sets(st.integers(0, 40), min_size=1)))
        else:
            flags[node] = draw(st.sampled_from([0, kernels.NAN_LEFT, kernels.ZERO_IS_MISSING, 6]))
        left[node], right[node] = len(feature), len(feature) + 1
        for _ in range(2):
            feature.append(-1)
            threshold.append(draw(st.floats(-9.0, 9.0)))
            left.append(0)
            right.append(0)
            cover.append(draw(st.sampled_from([0.0, 1.0, 3.0, 1000.0])))
            flags.append(0)
    return Tree(
        feature=feature,
        threshold=threshold,
        left=left,
        right=right,
        cover=cover,
        flags=flags,
        words=words,
    )


ROWS = st.tuples(
    *[st.sampled_from([-2.0, -1.0, 0.0, 0.3, 0.5, 7.0, float("nan")])] * 3,
    st.sampled_from([-1.0, 0.0, 5.0, 31.0, 32.0, 40.0, 41.0, 1e12, float("nan")]),
)


def goes_left(trees, node, value):
    """The plain twin of what the kernels ask."""
    flags, threshold = int(node["flags"]), float(node["threshold"])
    if flags & kernels.CATEGORICAL:
        begin, count = int(threshold), flags >> kernels.WORDS_SHIFT
        words = trees.bitsets[begin : begin + count].tolist()
        return any(
            32 * w + bit == value
            for w, word in enumerate(words)
            for bit in range(32)
            if word >> bit & 1
        )
    missing = np.isnan(value) or (bool(flags & kernels.ZERO_IS_MISSING) and value == 0.0)
    return bool(flags & kernels.NAN_LEFT) if missing else value <= threshold


def expected_value(trees, place, row, known):
    """What the coalition `known` expects of a tree, from a node on."""
    node = trees.nodes[place]
    if node["feature"] < 0:
        return float(node["threshold"])
    child = int(node["child"])
    below = [expected_value(trees, child + side, row, known) for side in (0, 1)]
    if node["feature"] in known:
        return below[0 if goes_left(trees, node, row[node["feature"]]) else 1]
    left, right = trees.covers[child : child + 2].tolist()
    return (left * below[0] + right * below[1]) / (left + right)


def shapley_values(trees, row):
    """The definition: mean gain of a column over all coalitions of the others."""
    columns = range(NUM_COLUMNS)

    def worth(known):
        return sum(expected_value(trees, int(root), row, known) for root in trees.roots)

    moves = np.zeros(NUM_COLUMNS)
    for column in columns:
        others = [other for other in columns if other != column]
        for size in range(NUM_COLUMNS):
            for known in combinations(others, size):
                gain = worth({*known, column}) - worth(set(known))
                moves[column] += gain / (NUM_COLUMNS * comb(NUM_COLUMNS - 1, size))
    return moves


@settings(max_examples=80)
@given(forest=st.lists(small_trees(), min_size=1, max_size=2), row=ROWS)
def test_equal_to_the_definition(forest, row):
    trees = Trees.of(forest)
    x = np.array([row])
    moves = trees.moves(x)[0]
    assert moves == pytest.approx(shapley_values(trees, row), abs=1e-9)
    assert trees.bias + moves.sum() == pytest.approx(trees.raw(x)[0], abs=1e-9)
    everything = sum(
        expected_value(trees, int(root), row, set(range(NUM_COLUMNS))) for root in trees.roots
    )
    assert trees.raw(x)[0] == pytest.approx(everything, abs=1e-9)


def chain(num_columns):
    """A tree that asks one column after the other, each twice."""
    num_splits = 2 * num_columns
    rng = np.random.default_rng(0)
    return Tree(
        feature=[*np.repeat(np.arange(num_columns), 2).tolist(), *[-1] * (num_splits + 1)],
        threshold=[*[0.5, 1.5] * num_columns, *rng.normal(size=num_splits + 1).tolist()],
        left=[*range(num_splits, 2 * num_splits), *[0] * (num_splits + 1)],
        right=[*range(1, num_splits), 2 * num_splits, *[0] * (num_splits + 1)],
        cover=[*[0.0] * num_splits, *rng.integers(1, 9, num_splits + 1).tolist()],
        flags=[0] * (2 * num_splits + 1),
    )


@pytest.mark.parametrize("num_columns", [1, 2, 17, 100, shap.LIMIT_COLUMNS])
def test_long_paths_sum_to_the_raw_value(num_columns):
    trees = Trees.of([chain(num_columns)])
    x = np.random.default_rng(1).integers(0, 3, size=(20, num_columns)).astype(float)
    assert trees.bias + trees.moves(x).sum(axis=1) == pytest.approx(trees.raw(x), abs=1e-9)


def test_a_path_over_too_many_columns_is_refused():
    trees = Trees.of([chain(shap.LIMIT_COLUMNS + 1)])
    with pytest.raises(ArtifactError, match="257 different columns"):
        trees.moves(np.zeros((1, shap.LIMIT_COLUMNS + 1)))


def test_a_batch_equals_its_rows_bit_for_bit_and_moves_add_up():
    trees = Trees.of([chain(9), chain(3)])
    x = np.random.default_rng(2).integers(0, 3, size=(30, 9)).astype(float)
    batch = trees.moves(x)
    for row, expected in zip(x, batch, strict=True):
        moves = np.zeros(9)
        shap.shap_moves(row, *trees.paths.arrays, moves)
        assert np.array_equal(moves, expected)
        shap.shap_moves(row, *trees.paths.arrays, moves)
        assert moves == pytest.approx(2.0 * expected, abs=1e-12)


def test_a_column_that_no_tree_asks_moves_nothing():
    x = np.ones((3, 12))
    assert not Trees.of([chain(9)]).moves(x)[:, 9:].any()
