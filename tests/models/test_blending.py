"""The second layer: the optimum that scipy finds too, and sense where there is little to learn."""

import numpy as np
import pytest
from scipy.optimize import minimize

from chopmark.errors import InvalidInput
from chopmark.models.blending import PENALTY, fit_weights

KINDS = (("logistic", "binary"), ("linear", "binary"), ("linear", "number"))


def a_blend(num_rows, num_parts, seed=0):
    """Held-out log-odds of parts of different worth and scale, and labels."""
    rng = np.random.default_rng(seed)
    truth = 2.0 * rng.normal(size=num_rows)
    y = (rng.random(num_rows) < 1 / (1 + np.exp(-truth))).astype(float)
    noise = rng.normal(size=(num_rows, num_parts)) * rng.uniform(0.3, 3.0, num_parts)
    return truth[:, None] * rng.uniform(0.4, 1.5, num_parts) + noise, y


def values_of(raw, kind, objective):
    return 1 / (1 + np.exp(-raw)) if (kind, objective) == ("linear", "binary") else raw


def loss_of(values, y, kind):
    if kind == "logistic":
        return np.sum(np.logaddexp(0.0, values) - y * values)
    return 0.5 * np.sum((values - y) ** 2)


def cost_and_gradient(solution, values, y, kind):
    """The penalised cost in its own words, and its slope."""
    bias, weights = solution[0], solution[1:]
    alone = min(loss_of(values[:, j], y, kind) for j in range(values.shape[1]))
    pull = PENALTY * (1.0 if kind == "logistic" else 2.0 * alone / len(y))
    z = bias + values @ weights
    off = (1 / (1 + np.exp(-z)) if kind == "logistic" else z) - y
    away = weights - 1.0 / len(weights)
    cost = loss_of(z, y, kind) + 0.5 * pull * np.sum(away**2)
    return cost, np.concatenate([[off.sum()], values.T @ off + pull * away])


@pytest.mark.parametrize("num_parts", [1, 2, 5])
@pytest.mark.parametrize("num_rows", [60, 500, 6_000])
@pytest.mark.parametrize(("kind", "objective"), KINDS)
def test_the_optimum_that_scipy_finds(kind, objective, num_rows, num_parts, monkeypatch):
    monkeypatch.setattr("chopmark.models.blending._LEAST_SHARE", 0.0)
    raw, y = a_blend(num_rows, num_parts)
    values = values_of(raw, kind, objective)
    found = fit_weights(raw, y, kind=kind, objective=objective)
    cost, slope = cost_and_gradient(np.append(found.bias, found.weights), values, y, kind)
    oracle = minimize(
        cost_and_gradient,
        np.zeros(num_parts + 1),
        args=(values, y, kind),
        jac=True,
        bounds=[(None, None)] + [(0.0, None)] * num_parts,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5_000},
    )
    assert cost <= oracle.fun * (1 + 1e-10)
    # Karush-Kuhn-Tucker: no slope where a weight is free, none downhill where it is zero.
    assert abs(slope[0]) < 1e-7 * num_rows
    free = found.weights > 0
    assert np.abs(slope[1:][free]).max(initial=0.0) < 1e-7 * num_rows
    assert slope[1:][~free].min(initial=0.0) > -1e-7 * num_rows


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("kind", "objective"), KINDS)
def test_never_worse_on_its_rows_than_the_best_part(kind, objective, seed):
    rng = np.random.default_rng(seed)
    raw, y = a_blend(int(rng.integers(10, 300)), int(rng.integers(1, 7)), seed)
    raw *= rng.uniform(0.0, 4.0, raw.shape[1])
    values = values_of(raw, kind, objective)
    found = fit_weights(raw, y, kind=kind, objective=objective)
    best = min(loss_of(values[:, j], y, kind) for j in range(raw.shape[1]))
    assert loss_of(found.apply(values), y, kind) <= best
    assert np.all(found.weights >= 0)


def test_few_rows_leave_parts_near_their_mean_and_many_decide():
    rng = np.random.default_rng(0)
    for num_rows, low, high in ((100, 0.2, 0.6), (200_000, 0.0, 0.05)):
        truth, noise = 2.0 * rng.normal(size=num_rows), 0.25 * rng.normal(size=num_rows)
        y = (rng.random(num_rows) < 1 / (1 + np.exp(-truth))).astype(float)
        raw = np.column_stack([truth, truth + noise])
        assert low <= fit_weights(raw, y).weights[1] <= high


@pytest.mark.parametrize(("kind", "objective"), KINDS)
def test_a_part_that_hardly_moves_the_blend_is_left_out(kind, objective):
    raw, y = a_blend(4_000, 2)
    rng = np.random.default_rng(1)
    faint, wrong = 1e-3 * rng.normal(size=len(y)), 1.0 - 2.0 * y + rng.normal(size=len(y))
    found = fit_weights(np.column_stack([raw, faint, wrong]), y, kind=kind)
    alone = fit_weights(raw, y, kind=kind)
    assert found.weights[2:].tolist() == [0.0, 0.0]
    assert found.weights[:2] == pytest.approx(alone.weights, abs=0.01)


def test_identical_parts_share_alike_and_a_constant_part_has_no_weight():
    raw, y = a_blend(300, 1)
    twins = fit_weights(np.column_stack([raw, raw, np.full(300, 3.0)]), y)
    assert twins.weights[0] == pytest.approx(twins.weights[1], abs=1e-9)
    assert twins.weights[2] == 0.0
    constant = fit_weights(np.zeros((300, 2)), y)
    assert constant.weights.tolist() == [0.0, 0.0]
    assert constant.bias == pytest.approx(np.log(y.mean() / (1 - y.mean())))


@pytest.mark.parametrize(("kind", "objective"), KINDS)
def test_one_class_teaches_nothing(kind, objective):
    found = fit_weights(np.ones((5, 2)), np.zeros(5), kind=kind, objective=objective)
    assert found.bias == 0.0
    assert found.weights.tolist() == [0.5, 0.5]


def test_separable_rows_have_finite_weights():
    y = np.repeat([0.0, 1.0], 100)
    raw = np.column_stack([8.0 * y - 4.0, 400.0 * y - 200.0])
    for kind in ("logistic", "linear"):
        found = fit_weights(raw, y, kind=kind)
        assert np.isfinite(found.bias)
        assert np.all(np.isfinite(found.weights))
    assert np.array_equal(found.apply(values_of(raw, kind, "binary")).round(), y)


def test_the_same_rows_give_the_same_bits():
    raw, y = a_blend(1_000, 4)
    one, other = fit_weights(raw, y), fit_weights(raw.copy(), y.copy())
    assert one.bias == other.bias
    assert np.array_equal(one.weights, other.weights)


@pytest.mark.parametrize(
    ("raw", "y", "penalty", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0), 1.0, "at least one row"),
        (np.zeros((2, 0)), np.zeros(2), 1.0, "at least one part"),
        (np.zeros(2), np.zeros(2), 1.0, r"shapes \(2,\)"),
        (np.zeros((2, 2)), np.zeros(3), 1.0, "a label for each row"),
        (np.array([[np.nan], [0.0]]), np.array([0.0, 1.0]), 1.0, "got NaN"),
        (np.zeros((2, 1)), np.array([0.0, 1.0]), 0.0, "penalty above zero"),
    ],
)
def test_what_cannot_be_weighed(raw, y, penalty, message):
    with pytest.raises(InvalidInput, match=message):
        fit_weights(raw, y, penalty=penalty)
