"""The Vowpal Wabbit backend against Vowpal Wabbit itself, scikit-learn and our linear learner."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from chopmark.errors import MissingExtra
from chopmark.models import Additive
from chopmark.models.metrics import log_loss
from chopmark.models.splits import folds
from chopmark.tabular.linear import Design, learn_linear
from chopmark.tabular.problem import Problem
from chopmark.tabular.transforms import make_encoder
from chopmark.tabular.vw import Wabbit, learn_vw

TABLES = ("german_credit", "credit_data", "titanic")


def problem_of(table, *, objective="binary"):
    encoder = make_encoder(table, target="target", columns={}, extra=())
    bad = table["target"].to_numpy().astype(np.float64)
    parts = list(folds(bad, count=3, seed=0))
    y = (bad - bad.mean()) / bad.std() if objective == "number" else bad
    x = encoder.table(table)
    problem = Problem(
        x=x, y=y, encoded=encoder.encoded, parts=parts, refit=True, objective=objective
    )
    return problem, encoder


def wabbit(problem, matrix, folder, *, row_weights=None):
    return Wabbit(
        matrix,
        problem.y,
        objective=problem.objective,
        row_weights=np.ones(len(problem.y)) if row_weights is None else row_weights,
        path=folder / "rows",
    )


def own_predictions(problem, learned, folder):
    """What Vowpal Wabbit predicts for its rows, given as named columns that it hashes itself."""
    from vowpalwabbit import Workspace

    matrix = Design.of(problem.x, problem.encoded).matrix(problem.x)
    labels = 2 * problem.y - 1 if problem.objective == "binary" else problem.y
    lines = [
        f"{label} |columns "
        + " ".join(f"c{j}:{v}" for j, v in zip(row.indices, row.data, strict=True))
        for label, row in zip(labels, matrix, strict=True)
    ]
    path = folder / "rows"
    path.write_text("\n".join(lines) + "\n")
    workspace = Workspace(
        f"--quiet {learned.settings['options']} --l2 {learned.settings['l2']} --bit_precision 18 "
        f"--data {path} --cache_file {path}.cache"
    )
    predictions = np.array([workspace.predict(line) for line in lines])
    workspace.finish()
    return predictions


@pytest.mark.parametrize(
    ("name", "objective"), [*((name, "binary") for name in TABLES), ("credit_data", "number")]
)
def test_the_lookup_tables_predict_what_vowpal_wabbit_predicts(
    name, objective, real_table, tmp_path
):
    problem, _ = problem_of(real_table(name), objective=objective)
    learned = learn_vw(problem)
    own = own_predictions(problem, learned, tmp_path)
    assert np.ptp(own) > 1.0
    # Vowpal Wabbit computes in float32.
    np.testing.assert_allclose(learned.part.raw(problem.x), own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TABLES)
def test_quality_is_that_of_the_linear_learner(name, real_parts):
    train, test = real_parts(name)
    problem, encoder = problem_of(train)
    bad, x = test["target"].to_numpy(), encoder.table(test)
    loss, theirs = (
        log_loss(bad, _sigmoid(learn(problem).part.raw(x))) for learn in (learn_vw, learn_linear)
    )
    assert loss <= 1.02 * theirs


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_it_finds_the_minimum_that_scikit_learn_finds(weight, real_table, tmp_path):
    problem, _ = problem_of(real_table("german_credit"))
    matrix = Design.of(problem.x, problem.encoded).matrix(problem.x)
    row_weights = np.where(problem.y == 1, weight, 1.0)
    weights, intercept = wabbit(problem, matrix, tmp_path, row_weights=row_weights).fit(30.0)
    theirs = LogisticRegression(C=1 / 30.0, max_iter=1000, tol=1e-8)
    theirs.fit(matrix, problem.y, sample_weight=row_weights)

    def objective(w, b):
        z = (matrix @ w + b) * (2 * problem.y - 1)
        return row_weights @ np.logaddexp(0, -z) + 15.0 * w @ w

    least = objective(theirs.coef_[0], theirs.intercept_[0])
    assert least <= objective(weights, intercept) <= 1.001 * least


def test_numbers_are_learned_by_squared_error(real_table, tmp_path):
    problem, _ = problem_of(real_table("credit_data"), objective="number")
    matrix = Design.of(problem.x, problem.encoded).matrix(problem.x)
    weights, intercept = wabbit(problem, matrix, tmp_path).fit(10.0)
    # Vowpal Wabbit halves its penalty and not its squares.
    theirs = Ridge(alpha=5.0, solver="sparse_cg", tol=1e-10).fit(matrix, problem.y)
    error = np.mean((matrix @ weights + intercept - problem.y) ** 2)
    assert error == pytest.approx(np.mean((theirs.predict(matrix) - problem.y) ** 2), rel=0.002)


def test_the_same_problem_gives_the_same_bits_and_no_noise(real_table, capfd):
    problem, _ = problem_of(real_table("titanic"))
    first, second = learn_vw(problem), learn_vw(problem)
    assert isinstance(first.part, Additive)
    for name, array in first.part.to_arrays().items():
        np.testing.assert_array_equal(array, second.part.to_arrays()[name])
    np.testing.assert_array_equal(first.held_out_raw, second.held_out_raw)
    assert first.settings == second.settings
    assert capfd.readouterr() == ("", "")


def test_no_file_is_left_behind(real_table, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    learn_vw(problem_of(real_table("titanic"))[0])
    assert list(Path(tmp_path).iterdir()) == []


def test_held_out_values_come_from_fits_that_did_not_see_the_rows(real_table):
    problem, _ = problem_of(real_table("german_credit"))
    learned = learn_vw(problem)
    rows = problem.held_out_rows
    assert learned.held_out_raw.shape == rows.shape
    fitted = log_loss(problem.y[rows], _sigmoid(learned.part.raw(problem.x[rows])))
    held_out = log_loss(problem.y[rows], _sigmoid(learned.held_out_raw))
    assert fitted + 0.02 < held_out < 0.56


def test_without_the_package_the_message_is_its_install_line(real_table, monkeypatch):
    problem, _ = problem_of(real_table("titanic"))
    monkeypatch.setitem(sys.modules, "vowpalwabbit", None)
    with pytest.raises(MissingExtra, match=r"pip install 'chopmark\[vw\]'"):
        learn_vw(problem)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))
