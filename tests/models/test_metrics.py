"""Metrics equal scikit-learn's, and say clearly what one class or no row means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from chopmark.errors import InvalidInput
from chopmark.models import metrics

pairs = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.95, 1.0])), min_size=2
).filter(lambda rows: len({label for label, _ in rows}) == 2)


@settings(deadline=None)
@given(rows=pairs)
def test_equal_to_sklearn(rows):
    y = np.array([label for label, _ in rows], dtype=float)
    p = np.array([score for _, score in rows])
    assert metrics.log_loss(y, p) == pytest.approx(oracle.log_loss(y, p), rel=1e-9)
    assert metrics.roc_auc(y, p) == pytest.approx(oracle.roc_auc_score(y, p), abs=1e-12)
    assert metrics.pr_auc(y, p) == pytest.approx(oracle.average_precision_score(y, p), abs=1e-12)
    assert metrics.brier(y, p) == pytest.approx(oracle.brier_score_loss(y, p), abs=1e-12)


def test_reliability_sees_what_is_off():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(float)
    assert metrics.calibration_error(y, p) < 0.02
    assert metrics.calibration_error(y, p**2) > 0.1
    table = metrics.reliability(y, p)
    assert table.rows.tolist() == [2_000] * 10
    assert table.mean_score == pytest.approx(table.bad_rate, abs=0.05)


def test_equal_scores_share_a_bucket():
    table = metrics.reliability([0, 1, 1, 0], [0.5, 0.5, 0.5, 0.5])
    assert table.rows.tolist() == [4]
    assert table.expected_calibration_error == 0.0


def test_one_class_has_no_ranking():
    assert np.isnan(metrics.roc_auc([1, 1], [0.2, 0.3]))
    assert np.isnan(metrics.pr_auc([0, 0], [0.2, 0.3]))
    assert metrics.log_loss([1, 1], [1.0, 1.0]) == pytest.approx(0.0, abs=1e-12)
    assert metrics.summary([1, 1], [0.2, 0.3])["roc_auc"] is None


def test_fraud_rate_is_lost_per_moved():
    assert metrics.fraud_rate([0.0, 30.0], [970.0, 30.0]) == 0.03
    assert np.isnan(metrics.fraud_rate([], []))
    with pytest.raises(InvalidInput, match="at least zero"):
        metrics.fraud_rate([-1.0], [1.0])
    with pytest.raises(InvalidInput, match="a loss for each payment"):
        metrics.fraud_rate([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([], [], "at least one"),
        ([1], [0.1, 0.2], "one score for each label"),
        ([2], [0.1], "labels 0 or 1"),
        ([1], [1.1], r"scores in \[0, 1\]"),
        ([1], [np.nan], r"scores in \[0, 1\]"),
    ],
)
def test_what_is_no_pair(y, p, message):
    with pytest.raises(InvalidInput, match=message):
        metrics.log_loss(y, p)
