"""Off-policy estimates against a world whose truth is known to the last digit."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from chopmark.decisions import offpolicy
from chopmark.decisions.frictiontable import FrictionRow, FrictionTable
from chopmark.decisions.offpolicy import (
    FrictionLog,
    doubly_robust,
    ips,
    snips,
    target_probabilities,
)
from chopmark.errors import InvalidInput

FRICTIONS = ("none", "quiz", "human_review")
SCORES = np.array([0.05, 0.2, 0.5, 0.9])
SHARES = np.array([0.6, 0.25, 0.1, 0.05])
LOSS_USD = 300.0
# Mean reward of each friction at each score: what is earned, less what fraud goes through.
CHANCES = SCORES[:, None] * np.array([0.2, 0.12, 0.05])
GAINS = np.array([6.0, 5.0, -2.0])
TRUTH = GAINS - CHANCES * LOSS_USD
LOGGING = np.array([[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.1, 0.3, 0.6]])
TABLE = FrictionTable(
    rows=(
        FrictionRow(frictions=("human_review",), scores=(("scam_victim", 0.6, 1.0),)),
        FrictionRow(frictions=("quiz",), scores=(("scam_victim", 0.1, 0.6),)),
    )
)
TARGET = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
VALUE = float((SHARES[:, None] * TARGET * TRUTH).sum())
WRONG = TRUTH * 0.5 + np.array([30.0, -10.0, 4.0])


@dataclass(frozen=True)
class Sample:
    log: FrictionLog
    target: np.ndarray
    predicted: np.ndarray

    def dr(self, **options):
        return doubly_robust(self.log, self.target, self.predicted, **options)


def sample(n, seed, *, predicted=TRUTH):
    rng = np.random.default_rng(seed)
    places = rng.choice(len(SCORES), n, p=SHARES)
    actions = (rng.random(n)[:, None] >= np.cumsum(LOGGING[places], axis=1)).sum(axis=1)
    lost = rng.random(n) < CHANCES[places, actions]
    log = FrictionLog(
        values=[{"scam_victim": score} for score in SCORES[places].tolist()],
        frictions=FRICTIONS,
        actions=actions,
        propensities=LOGGING[places, actions],
        rewards_usd=GAINS[actions] - lost * LOSS_USD,
    )
    return Sample(log, TARGET[places], predicted[places])


def test_probabilities_of_a_policy_are_those_it_tells():
    one = sample(200, 0)
    np.testing.assert_array_equal(target_probabilities(TABLE, one.log), one.target)
    with pytest.raises(InvalidInput, match="`quiz`, of which the log says nothing"):
        target_probabilities(TABLE, replace(one.log, frictions=("none", "delay", "human_review")))


def test_estimates_are_those_of_the_textbook():
    one = sample(300, 1)
    log = one.log
    weights = [one.target[i, a] / log.propensities[i] for i, a in enumerate(log.actions)]
    gained = [w * r for w, r in zip(weights, log.rewards_usd, strict=True)]
    assert ips(log, one.target).value_usd == pytest.approx(math.fsum(gained) / 300)
    assert snips(log, one.target).value_usd == pytest.approx(math.fsum(gained) / math.fsum(weights))
    robust = 0.0
    for i, action in enumerate(log.actions):
        direct = sum(one.target[i, a] * one.predicted[i, a] for a in range(3))
        robust += direct + weights[i] * (log.rewards_usd[i] - one.predicted[i, action])
    assert one.dr().value_usd == pytest.approx(robust / 300)
    squares = math.fsum(w * w for w in weights)
    assert ips(log, one.target).effective_rows == pytest.approx(math.fsum(weights) ** 2 / squares)


def test_all_three_find_the_truth():
    one = sample(400_000, 2)
    for estimate in (ips(one.log, one.target), snips(one.log, one.target), one.dr()):
        assert estimate.value_usd == pytest.approx(VALUE, abs=0.6)
        assert estimate.covers(VALUE)
        assert not estimate.covers(VALUE + 3.0)


def test_doubly_robust_forgives_a_wrong_model_and_thanks_for_a_right_one():
    wrong, right = sample(400_000, 3, predicted=WRONG), sample(400_000, 3)
    direct = float((wrong.target * wrong.predicted).sum(axis=1).mean())
    assert abs(direct - VALUE) > 5.0
    assert wrong.dr().value_usd == pytest.approx(VALUE, abs=0.6)
    widths = [one.dr().high_usd - one.dr().low_usd for one in (right, wrong)]
    assert widths[0] < widths[1]


def test_no_method_is_the_direct_one():
    one = sample(50, 0)
    methods = {e.method for e in (ips(one.log, one.target), snips(one.log, one.target), one.dr())}
    assert methods == {"ips", "snips", "dr"}
    assert not [name for name in vars(offpolicy) if "direct" in name]


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Losses are rare and large here, which an interval of plain t statistics misses."""
    runs = [sample(3_000, 100 + seed) for seed in range(200)]
    for estimates in (
        [snips(one.log, one.target) for one in runs],
        [one.dr() for one in runs],
        [ips(one.log, one.target) for one in runs],
    ):
        covered = np.mean([estimate.covers(VALUE) for estimate in estimates])
        assert 0.93 <= covered <= 0.985


def test_skewed_terms_move_the_interval_towards_the_long_tail():
    """One decision in a hundred loses 100 USD and more: the mean is 1 USD."""
    rng = np.random.default_rng(0)
    truth, n, runs = 2.0 - 100.0 * 0.01, 1_000, 600
    held = {"plain": 0, "ours": 0}
    for _ in range(runs):
        terms = 2.0 - 100.0 * (rng.random(n) < 0.01) * rng.exponential(size=n)
        half = 1.96 * terms.std(ddof=1) / math.sqrt(n)
        low, high = offpolicy._interval(terms)
        held["plain"] += abs(terms.mean() - truth) <= half
        held["ours"] += low <= truth <= high
        assert low < terms.mean() - half, "the tail is on the left"
    assert held["plain"] / runs < 0.91 < 0.94 < held["ours"] / runs


def test_without_skewness_the_interval_is_the_usual_one():
    terms = np.array([-3.0, -1.0, 0.0, 1.0, 3.0] * 50)
    half = 1.959964 * terms.std(ddof=1) / math.sqrt(len(terms))
    assert offpolicy._interval(terms) == pytest.approx((-half, half))
    assert offpolicy._interval(np.full(9, 2.0)) == (2.0, 2.0)


def test_clipping_is_counted():
    one = sample(20_000, 4)
    weights = (one.target / one.log.propensities[:, None])[np.arange(20_000), one.log.actions]
    whole, clipped = ips(one.log, one.target), ips(one.log, one.target, clip=2.0)
    assert whole.clipped_weight == 0.0
    assert clipped.clipped_weight == pytest.approx(
        np.maximum(weights - 2.0, 0).sum() / weights.sum()
    )
    assert clipped.effective_rows > whole.effective_rows
    assert clipped.value_usd == pytest.approx(
        float((np.minimum(weights, 2.0) * one.log.rewards_usd).mean())
    )
    assert one.dr(clip=1e9) == one.dr()


def test_capping_is_counted_and_estimates_capped_rewards():
    one = sample(200_000, 5)
    gains = GAINS - CHANCES * (50.0 + GAINS)
    truth = float((SHARES[:, None] * TARGET * gains).sum())
    for estimate in (snips(one.log, one.target, cap_usd=50.0), one.dr(cap_usd=50.0)):
        assert estimate.covers(truth)
        assert estimate.capped_rows == np.mean(one.log.rewards_usd < -50.0)
    assert snips(one.log, one.target).capped_rows == 0.0


def test_a_policy_that_the_log_never_followed_has_no_snips():
    one = sample(40, 6)
    log = replace(one.log, actions=np.zeros(40, dtype=np.int64))
    target = np.tile([0.0, 0.0, 1.0], (40, 1))
    with pytest.raises(InvalidInput, match="says nothing about it"):
        snips(log, target)
    assert ips(log, target).effective_rows == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.array([0, 3])}, "one of 3 frictions, got 3 in row 1"),
        ({"actions": np.array([-1, 0])}, "got -1 in row 0"),
        ({"propensities": np.array([0.5, 0.0])}, r"\(0, 1\], got 0.0 in row 1"),
        ({"propensities": np.array([np.nan, 0.5])}, "got nan in row 0"),
        ({"propensities": np.array([1.5, 0.5])}, "got 1.5 in row 0"),
        ({"rewards_usd": np.array([0.0, np.inf])}, "finite reward, got inf in row 1"),
        ({"rewards_usd": np.array([0.0])}, r"rewards_usd of shape \(2,\)"),
    ],
)
def test_a_log_that_cannot_be_is_refused(changes, message):
    log = sample(2, 0).log
    with pytest.raises(InvalidInput, match=message):
        replace(log, **changes)


def test_a_target_that_is_no_probability_is_refused():
    one = sample(20, 0)
    for target in (one.target * 0.9, one.target[:, :2], one.target - 1e-3):
        with pytest.raises(InvalidInput, match="probabilities"):
            ips(one.log, target)
    with pytest.raises(InvalidInput, match="finite predictions"):
        doubly_robust(one.log, one.target, np.full((20, 3), np.nan))
    with pytest.raises(InvalidInput, match="clip above 0"):
        ips(one.log, one.target, clip=0.0)
    with pytest.raises(InvalidInput, match="cap_usd above 0"):
        ips(one.log, one.target, cap_usd=math.nan)
    with pytest.raises(InvalidInput, match="at least 2"):
        ips(one.log.rows(np.array([3])), one.target[:1])
