"""Flat trees equal LightGBM's own prediction, and no array that breaks them is taken."""

from functools import cache

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import ArtifactError
from chopmark.models import Trees, kernels
from chopmark.models.tree import Tree, last_within_float32, leaf, words_of

NUM_COLUMNS = 6


@cache
def train(*, seed=0, rounds=40, num_rows=3_000, nan=True, **parameters):
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
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1, **parameters}
    return lgb.train(parameters, data, num_boost_round=rounds)


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
    "parameters",
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
def test_equal_to_lightgbm(parameters):
    booster = train(**parameters)
    trees = come_back(Trees.from_lightgbm(booster.model_to_string()))
    x = strange_rows()
    expected = booster.predict(x, raw_score=True)
    # -0.5 is category 0 to LightGBM (it cuts towards zero) and a negative, hence unseen, code here.
    x_known = x[:, 0] != -0.5
    assert np.abs(trees.raw(x) - expected)[x_known].max() <= 1e-12


def test_a_row_alone_has_the_bits_that_it_has_in_a_table_of_several_blocks():
    trees = Trees.from_lightgbm(train().model_to_string())
    x = strange_rows()
    assert kernels.BLOCK < len(x) < 2 * kernels.BLOCK  # one that is full, one that is not
    alone = [trees.raw(x[[place]])[0] for place in range(len(x))]
    assert trees.raw(x).tolist() == alone


def come_back(trees):
    return Trees.from_arrays(trees.to_arrays(), num_encoded=NUM_COLUMNS)


def test_arrays_come_back():
    trees = Trees.from_lightgbm(train(rounds=5).model_to_string())
    again = come_back(trees)
    x = strange_rows()
    for name in ("nodes", "values", "covers", "roots", "bitsets"):
        assert np.array_equal(getattr(again, name), getattr(trees, name))
    assert np.array_equal(again.raw(x), trees.raw(x))
    assert np.array_equal(again.moves(x), trees.moves(x))


def test_covers_are_training_rows_and_values_their_means():
    trees = Trees.from_lightgbm(train(num_rows=3_000, boost_from_average=False).model_to_string())
    assert np.all(trees.covers[trees.roots] == 3_000)
    for place in np.nonzero(trees.nodes["feature"] >= 0)[0]:
        below = slice(trees.nodes["child"][place], trees.nodes["child"][place] + 2)
        assert trees.covers[place] == trees.covers[below].sum()
        mean = np.average(trees.values[below], weights=trees.covers[below])
        assert trees.values[place] == pytest.approx(mean, abs=1e-15)


def test_a_weight_scales_and_parts_join():
    one = Trees.from_lightgbm(train(rounds=4).model_to_string())
    two = Trees.from_lightgbm(train(seed=1, rounds=3).model_to_string())
    x = strange_rows()
    blend = come_back(Trees.joined([one.scaled(0.3), two.scaled(0.0), two.scaled(2.0)]))
    assert len(blend.roots) == 10
    assert blend.bias == pytest.approx(0.3 * one.bias + 2.0 * two.bias, abs=1e-12)
    for ask in ("raw", "moves"):
        expected = 0.3 * getattr(one, ask)(x) + 2.0 * getattr(two, ask)(x)
        assert getattr(blend, ask)(x) == pytest.approx(expected, abs=1e-12)


def test_no_tree_and_one_leaf():
    x = strange_rows()
    assert np.all(come_back(Trees.of([])).raw(x) == 0.0)
    assert not come_back(Trees.of([])).moves(x).any()
    constant = come_back(Trees.of([leaf(0.25), leaf(0.5)]))
    assert np.all(constant.raw(x) == 0.75)
    assert constant.bias == 0.75
    assert not constant.moves(x).any()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("child", lambda a: np.zeros_like(a), "children after"),
        ("child", lambda a: a + 10_000, "children after"),
        ("child", lambda a: np.where(a > 0, a + 1, a), "children"),
        ("feature", lambda a: np.where(a >= 0, 99, a), "features below"),
        ("feature", lambda a: np.full_like(a, -1), "one parent each"),
        ("roots", lambda a: a - 1, "roots"),
        ("roots", lambda a: a[::-1], "roots"),
        ("roots", lambda a: a[:0], "roots"),
        ("roots", lambda a: a[:-1], "one parent each"),
        ("roots", lambda a: a * 0, "roots"),
        ("bitsets", lambda a: a[:-1], "bitsets"),
        ("covers", lambda a: a[:-1], "a cover for every node"),
        ("covers", lambda a: np.full_like(a, np.nan), "covers from"),
        ("covers", lambda a: -a, "covers from"),
        ("covers", lambda a: a * 0.0, "covers from"),
        ("covers", lambda a: a * 1e300, "covers from"),
        ("covers", lambda a: np.ones_like(a), "add up"),
        ("threshold", lambda a: np.full_like(a, np.nan), "bitsets"),
        ("threshold", lambda a: np.full_like(a, np.inf), "bitsets"),
        ("threshold", lambda a: a[:3], "cannot be read"),
    ],
)
def test_arrays_that_point_outside_are_refused(name, change, message):
    arrays = Trees.from_lightgbm(train(rounds=5).model_to_string()).to_arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(ArtifactError, match=message):
        Trees.from_arrays(arrays, num_encoded=NUM_COLUMNS)


def test_children_of_two_parents_are_refused():
    arrays = {
        "threshold": np.zeros(7),
        "child": np.array([1, 3, 3, 0, 0, 0, 0]),
        "feature": np.array([0, 0, 0, -1, -1, -1, -1]),
        "flags": np.zeros(7, dtype=np.uint16),
        "covers": np.array([4.0, 2, 2, 1, 1, 1, 1]),
        "roots": np.zeros(1, dtype=np.int32),
        "bitsets": np.zeros(0, dtype=np.uint32),
    }
    with pytest.raises(ArtifactError, match="one parent each"):
        Trees.from_arrays(arrays, num_encoded=1)
    arrays["child"][2] = 5
    assert len(Trees.from_arrays(arrays, num_encoded=1).nodes) == 7


def test_leaves_that_are_no_numbers_are_refused():
    arrays = Trees.of([leaf(1.0)]).to_arrays()
    with pytest.raises(ArtifactError, match="finite leaves"):
        Trees.from_arrays({**arrays, "threshold": np.array([np.inf])}, num_encoded=1)


@settings(max_examples=150)
@given(data=st.data())
def test_whatever_is_taken_can_be_walked(data):
    """A forger changes any entry: it is refused, or raw and moves end and stay in the arrays."""
    arrays = Trees.from_lightgbm(train(rounds=2, num_leaves=5).model_to_string()).to_arrays()
    name = data.draw(st.sampled_from(sorted(arrays)))
    place = data.draw(st.integers(0, len(arrays[name]) - 1))
    value = data.draw(st.integers(-3, 40))
    arrays[name] = arrays[name].copy()
    arrays[name][place] = max(value, 0) if arrays[name].dtype.kind == "u" else value
    try:
        trees = Trees.from_arrays(arrays, num_encoded=NUM_COLUMNS)
    except ArtifactError:
        return
    x = strange_rows()[:20]
    assert trees.bias + trees.moves(x).sum(axis=1) == pytest.approx(trees.raw(x), abs=1e-9)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature": [40_000, -1, -1]}, "more than 32767 columns"),
        ({"left": [0, 0, 0]}, "every node once"),
        ({"words": {0: words_of([300_000])}}, "categories beyond"),
    ],
)
def test_trees_that_no_node_can_hold_are_refused(changes, message):
    fields = {
        "feature": [0, -1, -1],
        "threshold": [0.5, -1.0, 1.0],
        "left": [1, 0, 0],
        "right": [2, 0, 0],
        "cover": [0.0, 1.0, 1.0],
        "flags": [0, 0, 0],
    }
    with pytest.raises(ArtifactError, match=message):
        Trees.of([Tree(**{**fields, **changes})])


@settings(max_examples=300)
@given(bound=st.floats(width=32, allow_infinity=False, allow_nan=False), step=st.integers(-2, 2))
def test_the_last_float64_within_a_float32(bound, step):
    last = last_within_float32(bound)
    with np.errstate(over="ignore"):
        assert np.float32(last) <= np.float32(bound)
        assert np.float32(np.nextafter(last, np.inf)) > np.float32(bound)
        # Whatever lies around the neighbouring float32 numbers is decided alike.
        near = float(np.float32(bound)) * (1.0 + step * 2.0**-24)
        assert (np.float32(near) <= np.float32(bound)) == (near <= last)
