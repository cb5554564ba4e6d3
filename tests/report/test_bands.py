"""Bands hold the truth as often as they say, and metrics equal scikit-learn's."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from chopmark.report import bands


def drawn(n, seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(-1.0, 1.2, n)
    p = 1 / (1 + np.exp(-z))
    return (rng.random(n) < p).astype(float), p


@pytest.mark.parametrize(
    ("band", "known"),
    [
        (bands.roc_auc, oracle.roc_auc_score),
        (bands.pr_auc, oracle.average_precision_score),
        (bands.log_loss, oracle.log_loss),
        (bands.brier, oracle.brier_score_loss),
    ],
)
def test_bands_hold_what_many_rows_say(band, known):
    truth = known(*drawn(200_000, 0))
    found = [(band(y, p), known(y, p)) for y, p in (drawn(300, seed) for seed in range(1, 61))]
    for estimate, expected in found:
        assert estimate.value == pytest.approx(expected, abs=1e-12)
        assert estimate.low <= estimate.value <= estimate.high
    held = np.mean([estimate.low <= truth <= estimate.high for estimate, _ in found])
    assert held >= 0.89


def test_a_gain_is_paired():
    y, p = drawn(2_000, 0)
    worse = np.clip(p + np.random.default_rng(1).normal(scale=0.02, size=2_000), 0, 1)
    gain = bands.roc_auc_gain(y, p, worse)
    exact = oracle.roc_auc_score(y, p) - oracle.roc_auc_score(y, worse)
    assert gain.value == pytest.approx(exact, abs=1e-12)
    alone = bands.roc_auc(y, p)
    assert gain.high - gain.low < 0.2 * (alone.high - alone.low)


def test_calibration_error():
    y, p = drawn(3_000, 0)
    good, off = bands.calibration_error(y, p), bands.calibration_error(y, p**2)
    chance = bands.calibration_error_by_chance(p)
    assert chance == pytest.approx(good.value, abs=0.01)
    assert off.low > 3 * chance


def test_wilson_equals_scipy():
    low, high = bands.wilson(np.array([0.0, 3.0, 20.0]), np.array([10.0, 10.0, 20.0]))
    for place, (hits, rows) in enumerate([(0, 10), (3, 10), (20, 20)]):
        expected = stats.binomtest(hits, rows).proportion_ci(method="wilson")
        assert (low[place], high[place]) == pytest.approx((expected.low, expected.high))


def test_one_class_has_no_ranking_and_no_warning():
    y, p = np.ones(30), np.linspace(0.1, 0.9, 30)
    for band in (bands.roc_auc, bands.pr_auc):
        estimate = band(y, p)
        assert np.isnan([estimate.value, estimate.low, estimate.high]).all()
    assert bands.log_loss(y, p).value > 0
    assert np.isnan(bands.brier(y[:1], p[:1]).low)
