"""The second layer: how much each model's opinion counts.

    logistic   z = bias + sum_j weight_j * z_j         z_j: log-odds by part j
    linear     score = bias + sum_j weight_j * score_j    the original's other choice
    number     y = bias + sum_j weight_j * y_j

Weights are at least zero and are fitted to held-out rows, by maximum likelihood with a pull:
`penalty / 2 * |weight - 1/p|^2` is taken off the log likelihood, so that a few hundred rows
leave p parts near their plain mean, and many thousand rows decide for themselves. Each Newton
step is one small non-negative least squares problem, so zeros are exact. A part that hardly
moves the blend is left out. The blend is never worse on its rows than the best part alone.
Serves B13 and B14 of the requirements.

References
----------
Leo Breiman, "Stacked Regressions", 1996: why the weights of stacking are kept from below zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from chopmark.errors import InvalidInput

Kind = Literal["logistic", "linear"]
"""Second layer of a binary blend: over log-odds by log loss, or over scores by squared error."""

PENALTY = 5.0
"""Default pull towards equal weights, in units of the log likelihood."""

_LEAST_SHARE = 0.015
_EASINGS = 15
_STEPS = 100
_HALVINGS = 40
_TOLERANCE = 1e-10
_NOISE = 1e-13

_Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """What the second layer learned.

    Attributes
    ----------
    bias
        Of the weighted sum: log-odds, a score or a number, as the parts' values are.
    weights
        (p,) float64, at least zero; exactly zero for a part that is left out.
    """

    bias: float
    weights: NDArray[np.float64]

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) weighted sums of the parts' values (n, p)."""
        total: NDArray[np.float64] = self.bias + values @ self.weights
        return total


def fit_weights(
    raw: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    kind: Kind = "logistic",
    objective: Literal["binary", "number"] = "binary",
    penalty: float = PENALTY,
) -> Weights:
    """Weights of p parts, from what each of them gave rows that it had not seen.

    Parameters
    ----------
    raw
        (n, p) held-out log-odds, or standardised numbers; finite.
    y
        (n,) labels in {0, 1}, or standardised numbers.
    kind
        Of a binary blend. "linear" weighs scores: the result is applied to `sigmoid(raw)`.
    objective
        What y is; numbers are weighed by squared error.
    penalty
        Pull towards equal weights, > 0. It is eased while the best part alone is better.

    Returns
    -------
    Weights
        Equal weights and no bias if all y are the same: there is nothing to learn from.

    Raises
    ------
    InvalidInput
        If the shapes do not fit, there is no row or no part, or a value is not finite.

    Notes
    -----
    O(n p^2) for each of about ten Newton steps.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth, noise = 2.0 * rng.normal(size=(2, 5000))
    >>> y = np.where(rng.random(5000) < 1.0 / (1.0 + np.exp(-truth)), 1.0, 0.0)
    >>> fit_weights(np.column_stack([truth, noise]), y).weights.round(1)
    array([1., 0.])
    """
    _check(raw, y, penalty)
    num_parts = raw.shape[1]
    if y.min() == y.max():
        return Weights(bias=0.0, weights=np.full(num_parts, 1.0 / num_parts))
    logistic = objective == "binary" and kind == "logistic"
    values = _sigmoid(raw) if objective == "binary" and kind == "linear" else raw
    loss = _log_loss if logistic else _squared_error
    alone = [float(loss(values[:, j], y)) for j in range(num_parts)]
    best = int(np.argmin(alone))
    # Squared error as a log likelihood: divided by the variance of what stays unexplained.
    unit = 1.0 if logistic else max(2.0 * alone[best] / len(y), 1e-12)
    for _ in range(_EASINGS):
        found = _without_idle(values, y, logistic=logistic, penalty=penalty * unit)
        if loss(found.apply(values), y) <= alone[best]:
            return found
        penalty /= 4.0
    return Weights(bias=0.0, weights=np.eye(num_parts)[best])


def _check(raw: _Array, y: _Array, penalty: float) -> None:
    if raw.ndim != 2 or min(raw.shape) == 0 or y.shape != raw.shape[:1]:
        raise InvalidInput(
            "expected the values of at least one part for at least one row, and a label for "
            f"each row; got shapes {raw.shape} and {y.shape}"
        )
    if not (np.isfinite(raw).all() and np.isfinite(y).all()):
        raise InvalidInput("expected finite values and labels to weigh parts by, got NaN or inf")
    if not penalty > 0.0:
        raise InvalidInput(f"expected a penalty above zero, got {penalty}")


def _without_idle(values: _Array, y: _Array, *, logistic: bool, penalty: float) -> Weights:
    """The fit over the parts that move it by at least `_LEAST_SHARE` of all movement."""
    fit = _fit_logistic if logistic else _fit_squares
    spread = values.std(axis=0)
    used = spread > _TOLERANCE * (1.0 + np.abs(values).max(axis=0))
    while used.any():
        weights = np.zeros(len(used))
        bias, weights[used] = fit(values[:, used], y, penalty)
        movement = weights * spread
        idle = used & (movement < _LEAST_SHARE * movement.sum())
        if not idle.any():
            return Weights(bias=bias, weights=weights)
        used &= ~idle
    # All parts are constant: the rate of bad, or the mean, is all there is to say.
    rate = float(y.mean())
    bias = float(np.log(rate / (1.0 - rate))) if logistic else rate
    return Weights(bias=bias, weights=np.zeros(len(used)))


def _fit_squares(values: _Array, y: _Array, penalty: float) -> tuple[float, _Array]:
    weights = _bounded(values, np.ones(len(y)), y - y.mean(), penalty)
    return float(y.mean() - values.mean(axis=0) @ weights), weights


def _fit_logistic(values: _Array, y: _Array, penalty: float) -> tuple[float, _Array]:
    """Newton's method; each step solves the weighted squares around the last solution."""
    prior = 1.0 / values.shape[1]

    def cost(bias: float, weights: _Array) -> float:
        pull = 0.5 * penalty * float(np.sum((weights - prior) ** 2))
        return float(_log_loss(bias + values @ weights, y)) + pull

    bias, weights = 0.0, np.full(values.shape[1], prior)
    for _ in range(_STEPS):
        z = bias + values @ weights
        p = _sigmoid(z)
        # Where the sigmoid is flat the curvature would vanish, and with it the step's bound.
        curvature = np.maximum(p * (1.0 - p), 1e-9)
        response = z + (y - p) / curvature
        goal = _bounded(values, curvature, response - _mean(response, curvature), penalty)
        goal_bias = float(_mean(response - values @ goal, curvature))
        step = _descent(cost, (bias, weights), (goal_bias, goal))
        moved = step * max(abs(goal_bias - bias), float(np.abs(goal - weights).max()))
        bias, weights = bias + step * (goal_bias - bias), weights + step * (goal - weights)
        if moved <= _TOLERANCE:
            break
    return bias, weights


def _bounded(values: _Array, curvature: _Array, centered: _Array, penalty: float) -> _Array:
    """(p,) weights >= 0 of weighted least squares with a free bias and the pull."""
    num_parts = values.shape[1]
    root = np.sqrt(curvature)[:, None]
    design = root * (values - _mean(values, curvature))
    gram = design.T @ design
    # Parts that say the same leave the equations singular but for the pull.
    penalty = max(penalty, _NOISE * 10.0 * float(np.trace(gram)))
    gram += penalty * np.eye(num_parts)
    aim = design.T @ (root[:, 0] * centered) + penalty / num_parts
    # |upper @ weights - upper^-T aim|^2 is the same problem in p rows instead of n.
    upper = np.linalg.cholesky(gram).T
    weights: _Array = nnls(upper, np.linalg.solve(upper.T, aim))[0]
    return weights


def _descent(
    cost: Callable[[float, _Array], float],
    begin: tuple[float, _Array],
    goal: tuple[float, _Array],
) -> float:
    """How far to go from `begin` towards `goal`: the first halving that does not cost more."""
    # The cost is a sum over rows: its last digits are noise.
    enough = cost(*begin) * (1.0 + _NOISE)
    step = 1.0
    for _ in range(_HALVINGS):
        bias = begin[0] + step * (goal[0] - begin[0])
        if cost(bias, begin[1] + step * (goal[1] - begin[1])) <= enough:
            return step
        step /= 2.0
    return 0.0


def _mean(values: _Array, curvature: _Array) -> _Array:
    return np.asarray(curvature @ values / curvature.sum())


def _log_loss(z: _Array, y: _Array) -> float:
    return float(np.sum(np.logaddexp(0.0, z) - y * z))


def _squared_error(values: _Array, y: _Array) -> float:
    return 0.5 * float(np.sum((values - y) ** 2))


def _sigmoid(z: _Array) -> _Array:
    half: _Array = 0.5 * (1.0 + np.tanh(0.5 * z))
    return half
