"""What another policy would have earned, judged on the log of the one that chose.

With w = target probability / logged propensity of the friction that was chosen, r its reward
and q a model's prediction of it:

    IPS     mean of w r
    SNIPS   sum of w r / sum of w
    DR      mean of  sum over frictions of target * q  +  w (r - q of the chosen)

The first is unbiased, the second steadier, the third unbiased whatever q is and the steadier
the better q is. The first term of DR alone, the direct method, inherits every error of the model
and comes with no honest interval; hence nothing here returns it. Rewards in dollars have long
tails: weights may be clipped and rewards capped, and the estimate says how much of either there
was. Serves row I7 of the requirements.

References
----------
Daniel Horvitz, Donovan Thompson: A generalization of sampling without replacement, 1952.
Adith Swaminathan, Thorsten Joachims: The self-normalized estimator for counterfactual learning,
2015.
Miroslav Dudik, John Langford, Lihong Li: Doubly robust policy evaluation and learning, 2011.
Peter Hall: On the removal of skewness by transformation, 1992.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chopmark.decisions.friction import FrictionPolicy, Value
from chopmark.errors import InvalidInput, did_you_mean

Floats = NDArray[np.float64]
Method = Literal["ips", "snips", "dr"]
_Z = 1.959963984540054
"""Of a normal distribution, 95 % lies within so many standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrictionLog:
    """Decisions whose rewards are known: wait until their labels are mature.

    Parameters
    ----------
    values : sequence of n mappings
        What the policy that chose could read.
    frictions : tuple of k str
    actions : (n,) int64
        Places of the chosen frictions.
    propensities : (n,) float64
        With which they were chosen, in (0, 1].
    rewards_usd : (n,) float64

    Raises
    ------
    InvalidInput
        If lengths differ, or a number is out of its range; the message names the first row.
    """

    values: Sequence[Mapping[str, Value]]
    frictions: tuple[str, ...]
    actions: NDArray[np.int64]
    propensities: Floats
    rewards_usd: Floats

    def __post_init__(self) -> None:
        n = len(self.values)
        for name in ("actions", "propensities", "rewards_usd"):
            shape = np.shape(getattr(self, name))
            if shape != (n,):
                raise InvalidInput(f"expected {name} of shape ({n},), as of values, got {shape}")
        known = (self.actions >= 0) & (self.actions < len(self.frictions))
        _check_all(known, self.actions, f"a place of one of {len(self.frictions)} frictions")
        possible = (self.propensities > 0.0) & (self.propensities <= 1.0)
        _check_all(possible, self.propensities, "a propensity in (0, 1]")
        _check_all(np.isfinite(self.rewards_usd), self.rewards_usd, "a finite reward")

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, places: NDArray[np.int64]) -> "FrictionLog":
        """The rows at these places, in their order."""
        return replace(
            self,
            values=[self.values[place] for place in places.tolist()],
            actions=self.actions[places],
            propensities=self.propensities[places],
            rewards_usd=self.rewards_usd[places],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The mean reward of a policy, per decision, with its 95 % interval.

    Attributes
    ----------
    method : str
    value_usd, low_usd, high_usd : float
    num_rows : int
    effective_rows : float
        Rows of equal weight that would say as much: (sum of w)^2 / sum of w^2.
    clipped_weight : float
        Share of the weight that clipping took away, in [0, 1]. The estimate is biased by at
        most about this times the largest reward.
    capped_rows : float
        Share of the rows whose reward was capped, in [0, 1]. The estimate is one of capped
        rewards then.
    """

    method: Method
    value_usd: float
    low_usd: float
    high_usd: float
    num_rows: int
    effective_rows: float
    clipped_weight: float
    capped_rows: float

    def covers(self, value_usd: float) -> bool:
        """Whether a value lies in the interval."""
        return self.low_usd <= value_usd <= self.high_usd


def target_probabilities(policy: FrictionPolicy, log: FrictionLog) -> Floats:
    """(n, k) probabilities with which a policy would choose each friction of the log.

    Raises
    ------
    InvalidInput
        If it may choose a friction that the log does not know.
    """
    places = {name: place for place, name in enumerate(log.frictions)}
    found = np.zeros((len(log), len(log.frictions)))
    for row, values in enumerate(log.values):
        for name, probability in policy.probabilities(values).items():
            if name not in places:
                raise InvalidInput(
                    f"the policy chooses `{name}`, of which the log says nothing"
                    + did_you_mean(name, places)
                )
            found[row, places[name]] = probability
    return found


def ips(
    log: FrictionLog, target: Floats, *, clip: float | None = None, cap_usd: float | None = None
) -> Estimate:
    """Inverse propensity score: the mean of weighted rewards.

    Parameters
    ----------
    target : (n, k) float64
        Probabilities of the policy to be judged; `target_probabilities` computes them.
    clip : float, optional
        Largest weight, > 0.
    cap_usd : float, optional
        Largest reward, and loss, > 0.

    Raises
    ------
    InvalidInput
        If the log has fewer than two rows or the target is no (n, k) table of probabilities.
    """
    weighed = _weighed(log, target, clip, cap_usd)
    return weighed.estimate("ips", weighed.weights * weighed.rewards)


def snips(
    log: FrictionLog, target: Floats, *, clip: float | None = None, cap_usd: float | None = None
) -> Estimate:
    """Self-normalised IPS: the weighted mean of rewards. Parameters as of `ips`.

    Raises
    ------
    InvalidInput
        As `ips`, and if the policy would have made none of the logged choices.
    """
    weighed = _weighed(log, target, clip, cap_usd)
    mean = weighed.weights.mean()
    if mean == 0.0:
        raise InvalidInput(
            "expected some logged choices that the policy could make, got none; the log says "
            "nothing about it"
        )
    value = float((weighed.weights * weighed.rewards).mean() / mean)
    # What each row moves the ratio by, to first order.
    return weighed.estimate("snips", value + weighed.weights * (weighed.rewards - value) / mean)


def doubly_robust(
    log: FrictionLog,
    target: Floats,
    predicted_usd: Floats,
    *,
    clip: float | None = None,
    cap_usd: float | None = None,
) -> Estimate:
    """A model's predictions, corrected by the weighted errors that it made on the log.

    Parameters
    ----------
    predicted_usd : (n, k) float64
        Rewards as a model predicts them that has not seen these rows: one that has is too
        sure of itself, and so is the interval.

    Other parameters and errors as of `ips`.
    """
    weighed = _weighed(log, target, clip, cap_usd)
    if predicted_usd.shape != target.shape or not np.isfinite(predicted_usd).all():
        raise InvalidInput(
            f"expected finite predictions of shape {target.shape}, got {predicted_usd.shape}"
        )
    of_chosen = predicted_usd[np.arange(len(log)), log.actions]
    errors = weighed.weights * (weighed.rewards - of_chosen)
    return weighed.estimate("dr", (target * predicted_usd).sum(axis=1) + errors)


@dataclass(frozen=True, slots=True, eq=False)
class _Weighed:
    """Rows with their weights after clipping and their rewards after capping."""

    weights: Floats
    rewards: Floats
    clipped_weight: float
    capped_rows: float

    def estimate(self, method: Method, terms: Floats) -> Estimate:
        """The mean of independent terms, one per row, and where its truth lies."""
        n = len(terms)
        value = float(terms.mean())
        low, high = _interval(terms)
        squares = float((self.weights**2).sum())
        return Estimate(
            method=method,
            value_usd=value,
            low_usd=low,
            high_usd=high,
            num_rows=n,
            effective_rows=float(self.weights.sum()) ** 2 / squares if squares else 0.0,
            clipped_weight=self.clipped_weight,
            capped_rows=self.capped_rows,
        )


def _weighed(
    log: FrictionLog, target: Floats, clip: float | None, cap_usd: float | None
) -> _Weighed:
    shape = (len(log), len(log.frictions))
    if target.shape != shape:
        raise InvalidInput(f"expected target probabilities of shape {shape}, got {target.shape}")
    if len(log) < 2:
        raise InvalidInput(f"expected at least 2 logged decisions, got {len(log)}")
    for name, limit in (("clip", clip), ("cap_usd", cap_usd)):
        if limit is not None and not limit > 0.0:
            raise InvalidInput(f"expected {name} above 0, got {limit!r}")
    sums = target.sum(axis=1)
    fair = (target >= 0.0).all(axis=1) & (np.abs(sums - 1.0) < 1e-9)
    _check_all(fair, sums, "probabilities >= 0 that sum to 1")
    whole = target[np.arange(len(log)), log.actions] / log.propensities
    weights = whole if clip is None else np.minimum(whole, clip)
    rewards = log.rewards_usd
    capped = rewards if cap_usd is None else np.clip(rewards, -cap_usd, cap_usd)
    total = float(whole.sum())
    return _Weighed(
        weights=weights,
        rewards=capped,
        clipped_weight=1.0 - float(weights.sum()) / total if total else 0.0,
        capped_rows=float((capped != rewards).mean()),
    )


def _interval(terms: Floats) -> tuple[float, float]:
    """Where the mean of what the terms were drawn from lies, with 95 %.

    Rare large losses make the usual symmetric interval too sure that there are none beyond
    those seen; Hall's transformation of the t statistic moves it by the skewness seen.
    """
    n = len(terms)
    mean, deviation = float(terms.mean()), float(terms.std(ddof=1))
    if deviation == 0.0:
        return mean, mean
    skew = float((((terms - mean) / deviation) ** 3).mean()) / math.sqrt(n)
    step = deviation / math.sqrt(n)
    return mean - step * _untransformed(_Z, skew), mean - step * _untransformed(-_Z, skew)


def _untransformed(normal: float, skew: float) -> float:
    """The t statistic whose transformation is this normal quantile; skew is over sqrt(n)."""
    if abs(skew) < 1e-6:
        return normal
    return 3.0 / skew * (math.cbrt(1.0 + skew * (normal - skew / 6.0)) - 1.0)


def _check_all(fine: NDArray[np.bool_], values: NDArray[np.generic], expected: str) -> None:
    if not fine.all():
        row = int(np.argmin(fine))
        raise InvalidInput(f"expected {expected}, got {values[row]} in row {row} of the log")
