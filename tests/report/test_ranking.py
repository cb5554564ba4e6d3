"""Thresholds count right, curves are scikit-learn's, and money adds up row by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from chopmark.errors import DeclarationError
from chopmark.report.ranking import Business, Costs, Ranking

scored = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]), st.integers(0, 500)),
    min_size=2,
).filter(lambda rows: len({bad for bad, _, _ in rows}) == 2)


def columns(rows):
    return (np.array(column, dtype=float) for column in zip(*rows, strict=True))


@given(rows=scored)
def test_counts_and_money_are_those_of_the_rows(rows):
    y, p, amounts = columns(rows)
    ranking = Ranking.of(y, p, amounts)
    costs = Costs(fee_share=0.02, loss_share=0.9, stop_usd=3.0)
    business = Business.of(ranking, costs)
    for at, threshold in enumerate(ranking.thresholds):
        stopped = p >= threshold
        passed = ~stopped
        assert ranking.stopped[at] == stopped.sum()
        assert ranking.bad[at] == y[stopped].sum()
        assert ranking.friction[at] == pytest.approx(stopped[y == 0].mean())
        losses = 0.9 * amounts[passed & (y == 1)].sum()
        revenue = 0.02 * amounts[passed & (y == 0)].sum() - losses - 3.0 * stopped.sum()
        assert business.net_revenue_usd[at] == pytest.approx(revenue)
        volume = amounts[passed].sum()
        assert business.fraud_rate_bp[at] == pytest.approx(1e4 * losses / volume if volume else 0)


@given(rows=scored)
def test_curves_are_those_of_sklearn(rows):
    y, p, _ = columns(rows)
    ranking = Ranking.of(y, p)
    false_rate, true_rate, _ = oracle.roc_curve(y, p, drop_intermediate=False)
    assert ranking.friction == pytest.approx(false_rate)
    assert ranking.recall == pytest.approx(true_rate)
    precision, _, _ = oracle.precision_recall_curve(y, p)
    assert ranking.precision[1:] == pytest.approx(precision[:-1][::-1])


def test_thinning_keeps_the_ends_and_the_top():
    rng = np.random.default_rng(0)
    y, p = (rng.random(50_000) < 0.1).astype(float), rng.random(50_000)
    full, thin = Ranking.of(y, p), Ranking.of(y, p).thinned(400)
    assert len(thin.thresholds) <= 400
    assert (thin.stopped[0], thin.stopped[-1], thin.num_bad) == (0.0, 50_000.0, full.num_bad)
    assert set(thin.thresholds) <= set(full.thresholds)
    assert (thin.stopped < 5_000).sum() >= 190


def test_recall_in_top():
    y = np.array([1.0] * 10 + [0.0] * 90)
    assert Ranking.of(y, np.linspace(1, 0, 100)).recall_in_top(0.1) == pytest.approx(1.0)
    assert Ranking.of(y, np.full(100, 0.5)).recall_in_top(0.1) == pytest.approx(0.1)


def test_costs_that_cannot_be():
    for costs in ({"fee_share": 1.1}, {"loss_share": -0.1}, {"stop_usd": float("nan")}):
        with pytest.raises(DeclarationError, match="shares from 0 to 1"):
            Costs(**costs)
