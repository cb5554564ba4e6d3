"""How good scores are: ranking, calibration and money, in plain numpy.

Labels are 0 (good) or 1 (bad); scores are probabilities of bad. What needs both classes
(ROC-AUC, PR-AUC) is NaN where only one came: a month without fraud is no error, and no number
either. No rows at all is an error. Serves A16, A17 and A20 of the requirements.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput

_SMALLEST = np.finfo(np.float64).eps


def log_loss(target: ArrayLike, scores: ArrayLike) -> float:
    """Mean of -log(probability given to what happened); lower is better, 0 is perfect.

    Scores of exactly 0 or 1 count as 2e-16 from it. One class is fine.

    Examples
    --------
    >>> round(log_loss([0, 1], [0.1, 0.8]), 4)
    0.1643
    """
    y, p = _pair(target, scores)
    p = np.clip(p, _SMALLEST, 1.0 - _SMALLEST)
    return float(-np.mean(y * np.log(p) + (1.0 - y) * np.log1p(-p)))


def brier(target: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared difference of score and label; lower is better. One class is fine."""
    y, p = _pair(target, scores)
    return float(np.mean((p - y) ** 2))


def roc_auc(target: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a bad row scores above a good one, ties counting half.

    NaN if there is only one class. O(n log n).

    Examples
    --------
    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    y, p = _pair(target, scores)
    num_bad = float(y.sum())
    num_good = len(y) - num_bad
    if num_bad == 0 or num_good == 0:
        return float("nan")
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    # Mean rank of each group of equal scores, from 1.
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(ranks[inverse][y == 1].sum())
    return (rank_sum - num_bad * (num_bad + 1) / 2.0) / (num_bad * num_good)


def pr_auc(target: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: mean over the bad rows of the precision at each one's score.

    NaN if there is only one class. O(n log n).
    """
    y, p = _pair(target, scores)
    if y.min() == y.max():
        return float("nan")
    order = np.argsort(-p, kind="stable")
    y, p = y[order], p[order]
    # Rows of equal score come in together: only the last of them is a threshold.
    last = np.append(np.nonzero(np.diff(p))[0], len(p) - 1)
    found = np.cumsum(y)[last]
    precision = found / (last + 1.0)
    recall = found / found[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """Scores against what happened, in buckets of about equal size.

    Attributes
    ----------
    rows
        (b,) int64 rows in each bucket.
    mean_score
        (b,) float64 mean score of the bucket: what was said.
    bad_rate
        (b,) float64 share of bad rows in it: what happened.
    """

    rows: NDArray[np.int64]
    mean_score: NDArray[np.float64]
    bad_rate: NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between said and happened, weighted by rows."""
        distance = np.abs(self.mean_score - self.bad_rate)
        return float(np.sum(self.rows * distance) / self.rows.sum())


def reliability(target: ArrayLike, scores: ArrayLike, *, buckets: int = 10) -> Reliability:
    """What the scores said against what happened, in up to `buckets` quantile buckets.

    Equal scores stay in one bucket, so there may be fewer. One class is fine.
    """
    y, p = _pair(target, scores)
    if buckets < 1:
        raise InvalidInput(f"expected at least one bucket, got {buckets}")
    edges = np.unique(np.quantile(p, np.linspace(0.0, 1.0, buckets + 1)[1:-1]))
    bucket = np.searchsorted(edges, p, side="left")
    rows = np.bincount(bucket, minlength=len(edges) + 1)
    full = rows > 0
    sums = np.bincount(bucket, weights=p, minlength=len(edges) + 1)
    bads = np.bincount(bucket, weights=y, minlength=len(edges) + 1)
    return Reliability(
        rows=rows[full].astype(np.int64),
        mean_score=sums[full] / rows[full],
        bad_rate=bads[full] / rows[full],
    )


def calibration_error(target: ArrayLike, scores: ArrayLike, *, buckets: int = 10) -> float:
    """Expected calibration error over quantile buckets: 0.02 is off by two points on average."""
    return reliability(target, scores, buckets=buckets).expected_calibration_error


def ndcg(target: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, k: int | None = None) -> float:
    """Normalized discounted cumulative gain of rankings, the mean over groups; 1 is perfect.

    Each group, such as a visit, is ranked by score. A relevant row at place i (from 1) gains
    1 / log2(i + 1); the sum is divided by that of the best order. Rows of equal score share
    the mean gain of their places. Groups without a relevant row say nothing and are left out;
    NaN if all are such. O(n log n).

    Parameters
    ----------
    target
        (n,) 1 for what was wanted, else 0.
    scores
        (n,) the higher, the earlier in the ranking; any finite numbers.
    groups
        (n,) whose ranking a row belongs to; rows may be in any order.
    k
        Places that count, >= 1; None is all.

    Examples
    --------
    >>> round(ndcg([0, 1, 0, 1], [0.9, 0.8, 0.1, 0.7], ["a", "a", "a", "b"]), 4)
    0.8155

    References
    ----------
    Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 20,
    2002. McSherry and Najork, "Computing Information Retrieval Performance Measures
    Efficiently in the Presence of Tied Scores", ECIR 2008.
    """
    y, p, codes = _rankings(target, scores, groups, k)
    order = np.lexsort((-p, codes))
    y, p, codes = y[order], p[order], codes[order]
    sizes = np.bincount(codes)
    place = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    limit = int(sizes.max()) if k is None else k
    gains = np.where(place < limit, 1.0 / np.log2(place + 2.0), 0.0)
    new = np.append(True, (np.diff(codes) != 0) | (np.diff(p) != 0))
    tie = np.cumsum(new) - 1
    shared = (np.bincount(tie, weights=gains) / np.bincount(tie))[tie]
    found = np.bincount(codes, weights=y * shared)
    best = np.bincount(codes, weights=gains * (place < np.bincount(codes, weights=y)[codes]))
    some = best > 0
    return float(np.mean(found[some] / best[some])) if some.any() else float("nan")


def hit_rate(target: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, k: int) -> float:
    """Share of groups with something relevant among their first `k` rows by score.

    Of equal scores the irrelevant row is taken to stand first, so that a constant score earns
    nothing by the order of its rows. Groups without a relevant row are left out; NaN if all
    are such. The parameters are those of `ndcg`.

    Examples
    --------
    >>> hit_rate([0, 1, 0, 1], [0.9, 0.8, 0.1, 0.7], ["a", "a", "a", "b"], k=1)
    0.5
    """
    y, p, codes = _rankings(target, scores, groups, k)
    best = np.full(int(codes.max()) + 1, -np.inf)
    np.maximum.at(best, codes[y == 1], p[y == 1])
    ahead = np.bincount(codes, weights=(y == 0) & (p >= best[codes]))
    some = np.isfinite(best)
    return float(np.mean(ahead[some] < k)) if some.any() else float("nan")


def fraud_rate(losses: ArrayLike, volume: ArrayLike) -> float:
    """Money lost per money moved: sum of losses over sum of volume, in the same currency.

    Multiply by 10,000 for basis points. NaN if nothing moved.

    Parameters
    ----------
    losses
        (n,) lost amount of each payment, >= 0.
    volume
        (n,) amount of each payment, >= 0.

    Examples
    --------
    >>> fraud_rate([0, 50, 0], [400, 50, 550])
    0.05
    """
    lost, moved = np.asarray(losses, dtype=np.float64), np.asarray(volume, dtype=np.float64)
    if lost.shape != moved.shape:
        raise InvalidInput(
            f"expected a loss for each payment, got {lost.size} losses and {moved.size} payments"
        )
    if np.any(lost < 0) or np.any(moved < 0):
        raise InvalidInput("expected losses and volume of at least zero, got one below")
    total = float(moved.sum())
    return float(lost.sum()) / total if total > 0 else float("nan")


def summary(target: ArrayLike, scores: ArrayLike) -> dict[str, float | None]:
    """All metrics of scores by name, as JSON takes them: None where a metric is not defined."""
    found = {
        "log_loss": log_loss(target, scores),
        "roc_auc": roc_auc(target, scores),
        "pr_auc": pr_auc(target, scores),
        "brier": brier(target, scores),
        "calibration_error": calibration_error(target, scores),
    }
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def number_summary(target: ArrayLike, predictions: ArrayLike) -> dict[str, float | None]:
    """Errors of predicted numbers by name: root mean square, mean absolute, share explained.

    `r2` is None where all numbers are equal.

    Examples
    --------
    >>> number_summary([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])["mean_absolute_error"]
    0.3333333333333333
    """
    y, p = np.asarray(target, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape or len(y) == 0:
        raise InvalidInput(
            f"expected one prediction for each number, at least one; got shapes {p.shape} and "
            f"{y.shape}"
        )
    squares = float(np.mean((p - y) ** 2))
    variance = float(y.var())
    return {
        "root_mean_squared_error": squares**0.5,
        "mean_absolute_error": float(np.mean(np.abs(p - y))),
        "r2": 1.0 - squares / variance if variance > 0 else None,
    }


def class_summary(target: ArrayLike, chances: ArrayLike) -> dict[str, float | None]:
    """Metrics of probabilities (n, k) of k classes against codes (n,), by name.

    `roc_auc` is the mean over classes of that of each against all others.
    """
    y, p = np.asarray(target), np.asarray(chances, dtype=np.float64)
    if p.ndim != 2 or y.shape != p.shape[:1] or len(y) == 0:
        raise InvalidInput(
            "expected a probability for each class and row, at least one row; got shapes "
            f"{p.shape} and {y.shape}"
        )
    codes = y.astype(np.int64)
    given = np.clip(p[np.arange(len(codes)), codes], _SMALLEST, 1.0)
    areas = [roc_auc(codes == code, p[:, code]) for code in range(p.shape[1])]
    known = [area for area in areas if not np.isnan(area)]
    return {
        "log_loss": float(-np.mean(np.log(given))),
        "accuracy": float(np.mean(p.argmax(axis=1) == codes)),
        "roc_auc": float(np.mean(known)) if known else None,
    }


def _pair(target: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, p = np.asarray(target, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape or len(y) == 0:
        raise InvalidInput(
            f"expected one score for each label, at least one; got shapes {p.shape} and {y.shape}"
        )
    if not np.all((y == 0) | (y == 1)):
        raise InvalidInput("expected labels 0 or 1, got others")
    if not np.all((p >= 0) & (p <= 1)):
        raise InvalidInput("expected scores in [0, 1], got others or NaN")
    return y, p


def _rankings(
    target: ArrayLike, scores: ArrayLike, groups: ArrayLike, k: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    y, p = np.asarray(target, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    whose = np.asarray(groups)
    if y.ndim != 1 or not y.shape == p.shape == whose.shape or len(y) == 0:
        raise InvalidInput(
            "expected one score and one group for each label, at least one; got shapes "
            f"{p.shape}, {whose.shape} and {y.shape}"
        )
    if not np.all((y == 0) | (y == 1)):
        raise InvalidInput("expected labels 0 or 1, got others")
    if not np.all(np.isfinite(p)):
        raise InvalidInput("expected finite scores, got infinite ones or NaN")
    if k is not None and k < 1:
        raise InvalidInput(f"expected k of at least 1, got {k}")
    return y, p, np.unique(whose, return_inverse=True)[1].astype(np.int64)
