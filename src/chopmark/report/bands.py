"""Metrics with the band in which they would lie on other rows of the same kind.

ROC-AUC by DeLong's placements, log loss and Brier score by the spread of their mean, PR-AUC
and calibration error by a bootstrap of the rows that takes its own bias off. All bands are of
95 % and depend on the rows alone. Serves A16 and A19 of the requirements.

References
----------
Elizabeth DeLong, David DeLong and Daniel Clarke-Pearson, "Comparing the Areas under Two or
More Correlated Receiver Operating Characteristic Curves", 1988.
Edwin Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chopmark.models import metrics

Z95 = 1.959963984540054
"""Half width of a 95 % band, in standard errors."""

_SEED = 0
_MOST_REPLICATES = 200
_FEWEST_REPLICATES = 40
_DRAWS = 8_000_000
_SMALLEST = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and its 95 % band. NaN where it is not defined, as without both classes."""

    value: float
    low: float
    high: float


def roc_auc(y: NDArray[np.float64], scores: NDArray[np.float64]) -> Estimate:
    """ROC-AUC of scores (n,) for labels (n,) in {0, 1}. O(n log n)."""
    value = metrics.roc_auc(y, scores)
    return _within(value, _delong_error(*placements(y, scores)))


def roc_auc_gain(
    y: NDArray[np.float64], scores: NDArray[np.float64], baseline: NDArray[np.float64]
) -> Estimate:
    """ROC-AUC of `scores` minus that of `baseline`, on the same rows and therefore paired."""
    value = metrics.roc_auc(y, scores) - metrics.roc_auc(y, baseline)
    bad, good = placements(y, scores)
    base_bad, base_good = placements(y, baseline)
    return _within(value, _delong_error(bad - base_bad, good - base_good), lowest=-1.0)


def pr_auc(y: NDArray[np.float64], scores: NDArray[np.float64]) -> Estimate:
    """Average precision of scores (n,) for labels (n,)."""
    order = np.argsort(-scores, kind="stable")
    labels, ordered = y[order], scores[order]
    last = np.append(np.nonzero(np.diff(ordered))[0], len(ordered) - 1)

    def average_precision(weights: NDArray[np.float64]) -> float:
        found = np.cumsum(weights * labels)[last]
        alarms = np.cumsum(weights)[last]
        if found[-1] == 0.0 or found[-1] == alarms[-1]:
            return float("nan")
        precision = found / np.maximum(alarms, 1.0)
        return float(np.sum(np.diff(found, prepend=0.0) * precision) / found[-1])

    return _bootstrap(metrics.pr_auc(y, scores), average_precision, len(y))


def log_loss(y: NDArray[np.float64], scores: NDArray[np.float64]) -> Estimate:
    """Log loss of scores (n,) for labels (n,)."""
    p = np.clip(np.where(y == 1.0, scores, 1.0 - scores), np.finfo(np.float64).eps, 1.0)
    return mean(-np.log(p))


def brier(y: NDArray[np.float64], scores: NDArray[np.float64]) -> Estimate:
    """Brier score of scores (n,) for labels (n,)."""
    return mean((scores - y) ** 2)


def calibration_error(y: NDArray[np.float64], scores: NDArray[np.float64]) -> Estimate:
    """Expected calibration error in ten quantile buckets."""
    edges = np.unique(np.quantile(scores, np.linspace(0.0, 1.0, 11)[1:-1]))
    bucket = np.searchsorted(edges, scores, side="left")
    off = scores - y

    def error(weights: NDArray[np.float64]) -> float:
        return float(np.abs(np.bincount(bucket, weights=weights * off)).sum() / weights.sum())

    return _bootstrap(metrics.calibration_error(y, scores), error, len(y))


def calibration_error_by_chance(scores: NDArray[np.float64]) -> float:
    """Mean calibration error that scores would show on as many rows if they were all true."""
    rng = np.random.default_rng(_SEED)
    drawn = (
        metrics.calibration_error((rng.random(len(scores)) < scores).astype(np.float64), scores)
        for _ in range(20)
    )
    return float(np.mean(list(drawn)))


def mean(values: NDArray[np.float64]) -> Estimate:
    """Mean of values (n,) that are at least zero."""
    error = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return _within(float(values.mean()), error, highest=float("inf"))


def wilson(
    hits: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high end of the share of hits among rows, each (b,); rows above zero."""
    share, z2 = hits / rows, Z95**2
    center = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 * np.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return np.maximum(0.0, center - half), np.minimum(1.0, center + half)


def placements(
    y: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of good rows below each bad row, and of bad rows above each good one; ties half."""
    bad, good = scores[y == 1.0], scores[y == 0.0]
    of_bad = _share_below(good, bad)
    of_good = 1.0 - _share_below(bad, good)
    return of_bad, of_good


def _share_below(others: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, side="left")
    up_to = np.searchsorted(ordered, scores, side="right")
    return (below + up_to) / (2.0 * max(1, len(others)))


def _delong_error(of_bad: NDArray[np.float64], of_good: NDArray[np.float64]) -> float:
    if min(len(of_bad), len(of_good)) < 2:
        return float("nan")
    variance = of_bad.var(ddof=1) / len(of_bad) + of_good.var(ddof=1) / len(of_good)
    return float(np.sqrt(variance))


def _within(value: float, error: float, *, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    half = Z95 * error
    # numpy's maximum and minimum keep NaN.
    low, high = np.maximum(lowest, value - half), np.minimum(highest, value + half)
    return Estimate(value=value, low=float(low), high=float(high))


def _bootstrap(
    value: float, statistic: Callable[[NDArray[np.float64]], float], rows: int
) -> Estimate:
    """Normal on the log-odds, its spread and its bias drawn; the plain quantiles cover less."""
    rng = np.random.default_rng(_SEED)
    replicates = int(np.clip(_DRAWS // rows, _FEWEST_REPLICATES, _MOST_REPLICATES))
    drawn = np.array(
        [
            statistic(np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64))
            for _ in range(replicates)
        ]
    )
    known = _log_odds(drawn[~np.isnan(drawn)])
    if np.isnan(value) or len(known) < replicates / 2:
        return Estimate(value=value, low=float("nan"), high=float("nan"))
    center = 2.0 * float(_log_odds(np.array(value))) - float(known.mean())
    low, high = 1.0 / (1.0 + np.exp(-(center + Z95 * float(known.std()) * np.array([-1.0, 1.0]))))
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def _log_odds(share: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(share, _SMALLEST, 1.0 - _SMALLEST)
    odds: NDArray[np.float64] = np.log(inside / (1.0 - inside))
    return odds
