"""Flat trees equal LightGBM's own prediction, and explanations equal a plain walk."""

import lightgbm as lgb
import numpy as np
import pytest

from chopmark.errors import ArtifactError
from chopmark.models import Trees, kernels

NUM_COLUMNS = 6


def train(*, seed=0, rounds=40, num_rows=3_000, nan=True, **settings):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, NUM_COLUMNS))
    x[:, 0] = rng.integers(0, 70, num_rows)
    x[:, 1] = rng.integers(0, 5, num_rows)
    x[:, 2] = np.where(rng.random(num_rows) < 0.4, 0.0, x[:, 2])
    if nan:
        x[rng.random(x.shape) < 0.1] = np.nan
    z = np.nan_to_num(x[:, 2] * x[:, 3]) + np.nan_to_num(np.sin(x[:, 0])) + np.isnan(x[:, 4])
    y = (rng.random(num_rows) < 1 / (1 + np.exp(-z))).astype(float)
    data = lgb.Dataset(x, y, categorical_feature=[0, 1])
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, **settings}
    return lgb.train(settings, data, num_boost_round=rounds)


def strange_rows():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, NUM_COLUMNS)) * 3
    x[:, :2] = rng.integers(-3, 200, size=(400, 2))
    x[rng.random(x.shape) < 0.15] = np.nan
    x[rng.random(x.shape) < 0.1] = 0.0
    x[rng.random(x.shape) < 0.02] = 1e-36
    x[rng.random(x.shape) < 0.02] = -1e300
    x[:5, 0] = [1e10, -1e10, 2147483647.0, 3.7, -0.5]
    return x


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nan": False},
        {"zero_as_missing": True},
        {"use_missing": False},
        {"extra_trees": True, "feature_fraction": 0.5},
        {"boost_from_average": False, "num_leaves": 4},
        {"max_depth": 1},
        {"min_data_in_leaf": 10_000},
    ],
    ids=str,
)
def test_equal_to_lightgbm(settings):
    booster = train(**settings)
    trees = Trees.from_lightgbm(booster.model_to_string())
    trees._check(NUM_COLUMNS)
    x = strange_rows()
    expected = booster.predict(x, raw_score=True)
    # -0.5 is category 0 to LightGBM (it cuts towards zero) and a negative, hence unseen, code here.
    x_known = x[:, 0] != -0.5
    assert np.abs(trees.raw(x) - expected)[x_known].max() <= 1e-12


def plain_walk(trees, row):
    """The reference: z and moves of one row, node by node."""
    z, moves = 0.0, np.zeros(NUM_COLUMNS)
    for root in trees.roots:
        i = root
        while (node := trees.nodes[i])["feature"] >= 0:
            value, right = row[node["feature"]], True
            if node["flags"] & kernels.CATEGORICAL:
                begin = int(node["threshold"])
                words = trees.bitsets[begin : begin + (node["flags"] >> kernels.WORDS_SHIFT)]
                left = {
                    32 * w + b for w, word in enumerate(words) for b in range(32) if word >> b & 1
                }
                right = not (value >= 0 and int(value) in left)
            elif np.isnan(value):
                right = not node["flags"] & kernels.NAN_LEFT
            else:
                right = value > node["threshold"]
            child = node["child"] + right
            moves[node["feature"]] += trees.values[child] - trees.values[i]
            i = child
        z += node["threshold"]
    return z, moves


def test_kernel_equals_the_plain_walk():
    trees = Trees.from_lightgbm(train(rounds=10).model_to_string())
    for row in strange_rows()[:100]:
        moves = np.zeros(NUM_COLUMNS)
        z = kernels.trees_moves(row, trees.nodes, trees.values, trees.roots, trees.bitsets, moves)
        expected_z, expected_moves = plain_walk(trees, row)
        assert z == expected_z
        assert moves == pytest.approx(expected_moves, abs=1e-12)
        assert trees.bias + moves.sum() == pytest.approx(z, abs=1e-9)


def test_the_bias_is_that_of_treeshap():
    booster = train()
    contributions = booster.predict(np.zeros((1, NUM_COLUMNS)), pred_contrib=True)
    trees = Trees.from_lightgbm(booster.model_to_string())
    assert trees.bias == pytest.approx(contributions[0, -1], abs=1e-9)


def test_arrays_come_back():
    trees = Trees.from_lightgbm(train(rounds=5).model_to_string())
    again = Trees.from_arrays(trees.to_arrays(), num_encoded=NUM_COLUMNS)
    x = strange_rows()
    assert np.array_equal(again.raw(x), trees.raw(x))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("child", lambda a: np.zeros_like(a), "children after"),
        ("child", lambda a: a + 10_000, "children after"),
        ("feature", lambda a: np.where(a >= 0, 99, a), "features below"),
        ("roots", lambda a: a - 1, "roots"),
        ("bitsets", lambda a: a[:-1], "bitsets"),
        ("values", lambda a: a[:-1], "a value for every node"),
        ("values", lambda a: np.full_like(a, np.nan), "finite"),
        ("threshold", lambda a: a[:3], "cannot be read"),
    ],
)
def test_arrays_that_point_outside_are_refused(name, change, message):
    arrays = Trees.from_lightgbm(train(rounds=5).model_to_string()).to_arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(ArtifactError, match=message):
        Trees.from_arrays(arrays, num_encoded=NUM_COLUMNS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "begins with `tree`"),
        ("tree\nfeature_names=a\naverage_output\n\nTree=0\n", "random forests"),
        ("tree\nfeature_names=a\n\nTree=0\nis_linear=1\n", "linear trees"),
        ("tree\nfeature_names=a\n\nTree=0\nleaf_value=x y\n", "leaf_value"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ArtifactError, match=message):
        Trees.from_lightgbm(text)
