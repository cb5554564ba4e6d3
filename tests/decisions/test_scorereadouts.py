"""Scores read as a business sees them: against sklearn, and against purchases one by one."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from chopmark.decisions.limits import DEFAULT_CURVE, LimitCurve
from chopmark.decisions.scorereadouts import compare_scores, score_readout
from chopmark.errors import InvalidInput


def scored(noise: float, *, seed: int = 0, n: int = 4_000):
    """Purchases whose scores know the risk up to noise on the log-odds."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(-4.0, 2.0, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-risk))).astype(float)
    seen = (risk + rng.normal(0.0, max(noise, 1e-9), n) - (-4.0)) / (1 + noise**2 / 4.0) - 4.0
    return y, 1 / (1 + np.exp(-seen)), np.round(rng.gamma(1.5, 200.0, n), 2) + 0.01


def test_a_score_readout_is_that_of_sklearn_and_of_the_curve_purchase_by_purchase():
    y, p, asked = scored(0.5)
    read = score_readout(y, p, asked, DEFAULT_CURVE)
    allowed = [min(a, DEFAULT_CURVE.limit_usd(s)) for a, s in zip(asked, p, strict=True)]
    assert read.log_loss == pytest.approx(log_loss(y, p))
    assert read.roc_auc == pytest.approx(roc_auc_score(y, p))
    assert read.fraud_rate == pytest.approx(np.dot(allowed, y) / np.sum(allowed), rel=1e-12)
    assert read.volume_share == pytest.approx(np.sum(allowed) / asked.sum(), rel=1e-12)
    assert read.equal_volume_fraud_rate == pytest.approx(read.fraud_rate)
    one_class = score_readout(np.zeros(len(y)), p, asked, DEFAULT_CURVE)
    assert np.isnan(one_class.roc_auc)
    assert one_class.fraud_rate == 0


def test_better_log_loss_is_less_fraud_at_the_same_volume():
    y, _, asked = scored(0.0)
    models = {f"noise {noise}": scored(noise)[1] for noise in (4.0, 0.0, 1.0, 2.0)}
    read = compare_scores(y, models, asked, DEFAULT_CURVE, volume_share=0.5)
    assert read["model"].to_list() == ["noise 0.0", "noise 1.0", "noise 2.0", "noise 4.0"]
    assert all(a < b for a, b in pairwise(read["equal_volume_fraud_rate"]))
    assert all(a > b for a, b in pairwise(read["roc_auc"]))
    at_the_smallest = compare_scores(y, models, asked, DEFAULT_CURVE)
    shares, rates = at_the_smallest["volume_share"], at_the_smallest["equal_volume_fraud_rate"]
    smallest = int(shares.arg_min() or 0)
    assert rates[smallest] == pytest.approx(at_the_smallest["fraud_rate"][smallest])


def test_a_curve_that_lets_all_through_has_the_fraud_rate_of_the_purchases():
    y, p, asked = scored(1.0)
    wide = LimitCurve(((0.0, 1e6), (1.0, 1e6)))
    read = score_readout(y, p, asked, wide)
    assert read.volume_share == 1
    assert read.fraud_rate == pytest.approx(asked @ y / asked.sum())


def test_scores_out_of_range_are_refused():
    y, p, asked = scored(1.0)
    for bad in ((y, p[:-1], asked), (y, p + 1, asked), (y * 2, p, asked), ([], [], [])):
        with pytest.raises(InvalidInput):
            score_readout(*bad, DEFAULT_CURVE)
    with pytest.raises(InvalidInput, match="volume share"):
        score_readout(y, p, asked, DEFAULT_CURVE, volume_share=1.5)
