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


rankings = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.7, 12.0])),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(rows=rankings, k=st.sampled_from([1, 2, 3, 5, None]))
def test_ndcg_is_the_mean_of_sklearns_over_groups(rows, k):
    groups, y, p = (np.array(column) for column in zip(*rows, strict=True))
    found = []
    for group in set(groups[y]):
        mine = groups == group
        # One row alone is refused there and perfect here.
        alone = mine.sum() == 1
        found.append(1.0 if alone else oracle.ndcg_score([y[mine]], [p[mine]], k=k))
    assert metrics.ndcg(y, p, groups, k=k) == pytest.approx(
        np.mean(found) if found else np.nan, abs=1e-12, nan_ok=True
    )


def test_hit_rate_is_sklearns_where_one_row_is_relevant():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(500, 7))
    wanted = rng.integers(7, size=500)
    relevant = np.eye(7)[wanted].ravel()
    groups = np.repeat(np.arange(500), 7)
    shuffled = rng.permutation(len(groups))
    for k in (1, 3, 6):
        expected = oracle.top_k_accuracy_score(wanted, scores, k=k)
        rows = relevant[shuffled], scores.ravel()[shuffled], groups[shuffled]
        assert metrics.hit_rate(*rows, k=k) == pytest.approx(expected)


def test_a_constant_score_hits_nothing_until_all_irrelevant_rows_fit():
    y, p, groups = [1, 0, 0, 1, 1], [0.5] * 5, list("aaabb")
    assert metrics.hit_rate(y, p, groups, k=1) == 0.5
    assert metrics.hit_rate(y, p, groups, k=3) == 1.0


def test_a_ranking_with_nothing_relevant_is_no_number_and_bad_ones_are_refused():
    assert np.isnan(metrics.ndcg([0, 0], [0.1, 0.2], ["a", "b"]))
    assert np.isnan(metrics.hit_rate([0, 0], [0.1, 0.2], ["a", "b"], k=1))
    with pytest.raises(InvalidInput, match="one group for each label"):
        metrics.ndcg([0, 1], [0.1, 0.2], ["a"])
    with pytest.raises(InvalidInput, match="k of at least 1, got 0"):
        metrics.hit_rate([0, 1], [0.1, 0.2], ["a", "a"], k=0)
    with pytest.raises(InvalidInput, match="finite"):
        metrics.ndcg([0, 1], [0.1, np.nan], ["a", "a"])
