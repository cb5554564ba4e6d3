"""What scores are worth: log loss beside the fraud rate that a limit curve would have with them.

Training minimises log loss; a business sees how much of what it lets through is fraud. A score
that lets less through always has less fraud, so scores are compared at the same volume: all
limits of the curve are scaled by one factor until the share asked for is let through.

Polars: not imported by the request path. Serves row E8.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from chopmark.decisions.limits import LimitCurve
from chopmark.decisions.profit import limits_of
from chopmark.errors import InvalidInput

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoreReadout:
    """What scores are worth, as a learner and as a business sees it (row E8).

    Attributes
    ----------
    log_loss, roc_auc : float
        The second is NaN if there is one class only.
    fraud_rate : float
        Of the volume that the curve lets through at these scores; NaN if that is none.
    volume_share : float
        Of what was asked for, in USD.
    equal_volume_fraud_rate : float
        With all limits scaled by one factor so that the volume is the share asked for: scores
        are compared at the same volume.
    """

    log_loss: float
    roc_auc: float
    fraud_rate: float
    volume_share: float
    equal_volume_fraud_rate: float


def score_readout(
    target: ArrayLike,
    scores: ArrayLike,
    amounts_usd: ArrayLike,
    curve: LimitCurve,
    *,
    volume_share: float | None = None,
) -> ScoreReadout:
    """Log loss, ROC-AUC, and the fraud rate that a limit curve would have at these scores.

    Parameters
    ----------
    target : (n,) 0 or 1
        1 for purchases that were charged back.
    scores : (n,) in [0, 1]
    amounts_usd : (n,)
        Asked for; of each, at most the limit is let through, as if nothing else was bought in
        that week.
    volume_share : float, optional
        In (0, 1): the volume at which `equal_volume_fraud_rate` is read; by default the share
        that the curve gives.

    Raises
    ------
    InvalidInput
        If the three differ in length or are empty, or scores or targets are out of range.
    """
    y, p, asked = (np.asarray(part, dtype=np.float64) for part in (target, scores, amounts_usd))
    if not 0 < len(y) == len(p) == len(asked):
        raise InvalidInput(
            f"expected as many targets as scores and amounts, got {len(y)}, {len(p)}, {len(asked)}"
        )
    if not (np.isin(y, (0.0, 1.0)).all() and ((p >= 0.0) & (p <= 1.0)).all() and asked.sum() > 0):
        raise InvalidInput("expected targets of 0 or 1, scores in [0, 1], and amounts above zero")
    limits = limits_of(curve, p)
    allowed = np.minimum(asked, limits)
    share = float(allowed.sum() / asked.sum())
    wanted = share if volume_share is None else volume_share
    if not 0.0 < wanted < 1.0 and wanted != share:
        raise InvalidInput(f"expected a volume share above 0 and below 1, got {wanted}")
    scaled = np.minimum(asked, limits * _factor(asked, limits, wanted * asked.sum()))
    return ScoreReadout(
        log_loss=_log_loss(y, p),
        roc_auc=_roc_auc(y, p),
        fraud_rate=float(allowed @ y / allowed.sum()),
        volume_share=share,
        equal_volume_fraud_rate=float(scaled @ y / scaled.sum()),
    )


def compare_scores(
    target: ArrayLike,
    scores: Mapping[str, ArrayLike],
    amounts_usd: ArrayLike,
    curve: LimitCurve,
    *,
    volume_share: float | None = None,
) -> pl.DataFrame:
    """`score_readout` of several models, best log loss first: how that turns into fraud.

    All are read at the same volume: ``volume_share``, or the smallest that the curve gives to
    one of them. Columns: model, and those of `ScoreReadout`.
    """
    if volume_share is None:
        shares = [
            score_readout(target, p, amounts_usd, curve).volume_share for p in scores.values()
        ]
        volume_share = min(shares)
    rows = []
    for name, p in scores.items():
        read = score_readout(target, p, amounts_usd, curve, volume_share=volume_share)
        rows.append(
            {
                "model": name,
                "log_loss": read.log_loss,
                "roc_auc": read.roc_auc,
                "fraud_rate": read.fraud_rate,
                "volume_share": read.volume_share,
                "equal_volume_fraud_rate": read.equal_volume_fraud_rate,
            }
        )
    return pl.DataFrame(rows).sort("log_loss")


def _factor(asked: Floats, limits: Floats, wanted_usd: float) -> float:
    """By what to scale limits so that so much is let through, to 12 digits."""
    low, high = 0.0, 1.0
    while np.minimum(asked, limits * high).sum() < wanted_usd and high < 1e12:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if np.minimum(asked, limits * middle).sum() < wanted_usd:
            low = middle
        else:
            high = middle
    return high


def _log_loss(y: Floats, p: Floats) -> float:
    p = np.clip(p, np.finfo(np.float64).eps, 1.0 - np.finfo(np.float64).eps)
    return float(-np.mean(y * np.log(p) + (1.0 - y) * np.log1p(-p)))


def _roc_auc(y: Floats, p: Floats) -> float:
    num_bad, num_good = float(y.sum()), float(len(y) - y.sum())
    if num_bad == 0 or num_good == 0:
        return float("nan")
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0  # mean rank of equal scores, from 1
    return (float(ranks[inverse][y == 1].sum()) - num_bad * (num_bad + 1) / 2.0) / (
        num_bad * num_good
    )
