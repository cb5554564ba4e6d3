"""Trees of other libraries equal the libraries' own predictions and contributions."""

import sys

import lightgbm as lgb
import numpy as np
import pytest

from chopmark.errors import ArtifactError, MissingExtra
from chopmark.models import Encoded, Trees
from chopmark.models.metrics import roc_auc
from chopmark.models.splits import Split, folds, stratified
from chopmark.tabular import make_encoder
from chopmark.tabular.boosters import _CatBoost, _XGBoost, learn_catboost, learn_xgboost
from chopmark.tabular.problem import Problem

LEARNERS = [learn_xgboost, learn_catboost]
LIBRARIES = [_XGBoost, _CatBoost]


def problem_of(table, **changes):
    encoder = make_encoder(table, target="target")
    y = table["target"].to_numpy().astype(float)
    fields = {
        "x": encoder.table(table),
        "y": y,
        "encoded": encoder.encoded,
        "parts": list(folds(y, count=3)),
        "refit": True,
    }
    return Problem(**{**fields, **changes})


@pytest.fixture(scope="module", params=["titanic", "adult", "lending_club"])
def real_problem(request, real_table):
    """Real rows with missing numbers: a few are emptied where the table has none."""
    problem = problem_of(real_table(request.param)[:4_000])
    numbers = [j for j, column in enumerate(problem.encoded) if not column.num_codes]
    hidden = np.random.default_rng(0).random((len(problem.y), len(numbers))) < 0.05
    problem.x[:, numbers] = np.where(hidden, np.nan, problem.x[:, numbers])
    return problem


def near_thresholds(problem, trees):
    """Rows with values right at and around the trees' thresholds, for every column."""
    x = problem.x[:400].copy()
    rng = np.random.default_rng(0)
    for j, column in enumerate(problem.encoded):
        asked = (trees.nodes["feature"] == j) & (trees.nodes["flags"] & 1 == 0)
        thresholds = trees.nodes["threshold"][asked]
        thresholds = thresholds[np.abs(thresholds) < 1e30]
        if column.num_codes == 0 and len(thresholds):
            value = rng.choice(thresholds, len(x))
            x[:, j] = np.nextafter(value, rng.choice([-np.inf, np.inf], len(x)))
            x[::3, j] = value[::3]
    return x


def added_in_float32(trees, x):
    """The sum as XGBoost makes it: in float32, one tree after the other."""
    total = np.zeros(len(x), dtype=np.float32)
    for t in range(len(trees.roots)):
        alone = Trees.from_arrays(one_tree(trees, t), num_encoded=x.shape[1])
        total += alone.raw(x).astype(np.float32)
    return total


def one_tree(trees, t):
    ends = np.append(trees.roots, len(trees.nodes))
    span = slice(ends[t], ends[t + 1])
    nodes = trees.nodes[span]
    return {
        "threshold": nodes["threshold"],
        "child": np.where(nodes["feature"] >= 0, nodes["child"] - ends[t], 0),
        "feature": nodes["feature"],
        "flags": nodes["flags"],
        "covers": trees.covers[span],
        "roots": np.zeros(1, dtype=np.int32),
        "bitsets": trees.bitsets,
    }


@pytest.mark.parametrize("objective", ["binary", "number"])
def test_xgboost_is_read_exactly(real_problem, objective):
    problem = changed(real_problem, objective=objective)
    library = _XGBoost(problem)
    model = library.grown(np.arange(len(problem.y)), 60)
    trees = library.trees(model, 50)
    for x in (problem.x, near_thresholds(problem, trees)):
        asked = _XGBoost(changed(problem, x=x, y=np.zeros(len(x))))
        raw = asked.raw(model, np.arange(len(x)), 50)
        assert np.abs(trees.raw(x) - raw).max() <= 1e-5
        # Bit for bit if summed in float32: every row falls into the same leaves.
        assert np.array_equal(added_in_float32(trees, x), raw)
    rows = np.arange(0, len(problem.y), 10)
    theirs = model.predict(library._data(rows), pred_contribs=True, iteration_range=(0, 50))
    assert np.abs(trees.moves(problem.x[rows]) - theirs[:, :-1]).max() <= 1e-5
    assert np.abs(trees.bias - theirs[:, -1]).max() <= 1e-5


@pytest.mark.parametrize("objective", ["binary", "number"])
def test_catboost_is_read_exactly(real_problem, objective):
    problem = changed(real_problem, objective=objective)
    library = _CatBoost(problem)
    model = library.grown(np.arange(len(problem.y)), 60)
    trees = library.trees(model, 50)
    for x in (problem.x, near_thresholds(problem, trees)):
        asked = _CatBoost(changed(problem, x=x, y=np.zeros(len(x))))
        raw = asked.raw(model, np.arange(len(x)), 50)
        assert np.abs(trees.raw(x) - raw).max() <= 1e-11
    rows = np.arange(0, len(problem.y), 50)
    theirs = model.get_feature_importance(library._pool(rows), type="ShapValues")
    order = [*library._numbers, *library._categories]
    # An empty leaf counts as a millionth of a row here, and as none there.
    assert np.abs(trees.moves(problem.x[rows])[:, order] - theirs[:, :-1]).max() <= 1e-6
    assert np.abs(trees.bias - theirs[:, -1]).max() <= 1e-6


def test_lightgbm_contributions_are_equal(real_problem):
    data = lgb.Dataset(real_problem.x, real_problem.y, categorical_feature=real_problem.categorical)
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1, "seed": 0}
    booster = lgb.train(parameters, data, num_boost_round=100)
    trees = Trees.from_lightgbm(booster.model_to_string())
    x = real_problem.x[::15]
    theirs = booster.predict(x, pred_contrib=True, num_threads=1)
    moves = trees.moves(x)
    assert np.abs(moves - theirs[:, :-1]).max() <= 1e-10
    assert np.abs(trees.bias - theirs[:, -1]).max() <= 1e-10
    assert np.abs(trees.bias + moves.sum(axis=1) - trees.raw(x)).max() <= 1e-10


@pytest.mark.parametrize("learn", LEARNERS)
def test_learns_what_the_payments_hold(payments, learn):
    problem = problem_of(payments)
    learned = learn(problem)
    y, raw = problem.y[problem.held_out_rows], learned.held_out_raw
    assert roc_auc(y, 1.0 / (1.0 + np.exp(-raw))) > 0.7
    refitted = learned.part.raw(problem.x[problem.held_out_rows])
    assert np.corrcoef(refitted, raw)[0, 1] > 0.8
    assert len(learned.part.roots) == learned.settings["rounds"] + 1


@pytest.mark.parametrize("learn", LEARNERS)
def test_learns_numbers_that_stand_for_themselves(learn):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    y = x[:, 0] - 0.5 * np.abs(x[:, 1]) + 0.1 * rng.normal(size=600)
    y = (y - y.mean()) / y.std()
    from_encoder = problem_of_numbers(x, y)
    learned = learn(from_encoder)
    rest = y[from_encoder.held_out_rows] - learned.held_out_raw
    assert rest.var() < 0.15
    assert abs(learned.part.bias) < 0.1


def problem_of_numbers(x, y):
    thirds = np.arange(len(y)) % 3
    return Problem(
        x=x,
        y=y,
        encoded=[Encoded(name=f"c{j}") for j in range(x.shape[1])],
        parts=[
            Split(train=np.nonzero(thirds != t)[0], test=np.nonzero(thirds == t)[0])
            for t in range(3)
        ],
        refit=True,
        objective="number",
    )


@pytest.mark.parametrize("learn", LEARNERS)
def test_without_refit_the_one_part_is_kept(payments, learn):
    y = payments["target"].to_numpy().astype(float)
    problem = problem_of(payments, parts=[stratified(y, test_share=0.3)], refit=False)
    learned = learn(problem)
    raw = learned.part.raw(problem.x[problem.held_out_rows])
    assert np.abs(raw - learned.held_out_raw).max() <= 1e-5


@pytest.mark.parametrize("learn", LEARNERS)
def test_the_same_trees_again_and_with_more_threads(payments, learn):
    problem = problem_of(payments[:300])
    first, again = learn(problem), learn(changed(problem, threads=2))
    assert np.array_equal(first.held_out_raw, again.held_out_raw)
    for name, array in first.part.to_arrays().items():
        assert np.array_equal(array, again.part.to_arrays()[name]), name


def changed(problem, **changes):
    fields = {name: getattr(problem, name) for name in Problem.__dataclass_fields__}
    return Problem(**{**fields, **changes})


@pytest.mark.parametrize(
    ("learn", "package"), [(learn_xgboost, "xgboost"), (learn_catboost, "catboost")]
)
def test_a_missing_package_is_answered_with_its_install_line(payments, learn, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"pip install 'chopmark\[boost\]'"):
        learn(problem_of(payments))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: Trees.from_xgboost("{}"), "JSON of an XGBoost model"),
        (lambda: Trees.from_xgboost("hello"), "JSON of an XGBoost model"),
        (
            lambda: Trees.from_xgboost(
                '{"learner": {"gradient_booster": {"name": "dart"}, "objective": {"name": "x"}}}'
            ),
            "got dart and x",
        ),
        (lambda: Trees.from_catboost("[]", columns=[0]), "JSON of a CatBoost model"),
        (lambda: Trees.from_catboost(CTR, columns=[0]), "asks `OnlineCtr`"),
    ],
)
def test_other_models_are_refused(read, message):
    with pytest.raises(ArtifactError, match=message):
        read()


CTR = """{"features_info": {}, "scale_and_bias": [1, [0]], "oblivious_trees":
 [{"splits": [{"split_type": "OnlineCtr"}], "leaf_values": [0, 1], "leaf_weights": [1, 1]}]}"""
