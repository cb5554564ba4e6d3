"""The curve that earns most: against brute force and closed forms, its cap held on new users."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.decisions import DEFAULT_CURVE, FLOOR_USD, LimitCurve
from chopmark.decisions.limits import SEVEN_STEPS
from chopmark.decisions.profit import (
    History,
    compare,
    fit_curve,
    limits_of,
    return_of_fraud,
    simulate,
)
from chopmark.errors import PolicyError

MARGIN = 0.02


def drawn(n, *, seed, demand=None, take=None, shift=0.0):
    """Users whose scores are what they say, if not shifted."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-7.0, 2.0, n)
    is_fraud = rng.random(n) < 1 / (1 + np.exp(-log_odds))
    demands = rng.lognormal(4.0, 1.5, n) if demand is None else rng.exponential(demand, n)
    takes = rng.lognormal(7.0, 1.0, n) if take is None else rng.exponential(take, n)
    return History(
        score=1 / (1 + np.exp(-(log_odds + shift))),
        demand_usd=np.where(is_fraud, np.nan, demands),
        take_usd=np.where(is_fraud, takes, np.nan),
        is_fraud=is_fraud,
    )


PAST, FUTURE = drawn(150_000, seed=1), drawn(300_000, seed=2)


def of_groups(*groups, demand=300.0, take=900.0):
    """Groups of (score, rows); one row in two is a thief, whose score alone says how risky."""
    score = np.repeat([score for score, _ in groups], [rows for _, rows in groups])
    is_fraud = np.arange(len(score)) % 2 == 1
    return History(
        score=score.astype(float),
        demand_usd=np.where(is_fraud, np.nan, demand),
        take_usd=np.where(is_fraud, take, np.nan),
        is_fraud=is_fraud,
    )


def grid_of(most, steps):
    count = math.ceil(math.log10(most / 5.0) * steps)
    return [round(5.0 * (most / 5.0) ** (n / count), 2) for n in range(count + 1)]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0.0005, 0.5), min_size=2, max_size=4, unique=True),
    st.floats(0.01, 0.2),
    st.sampled_from([0.0, 0.5, 2.0]),
)
def test_no_falling_curve_on_the_grid_earns_more(scores, margin, fixed):
    groups = [(score, 100) for score in sorted(scores)]
    fitted = fit_curve(
        of_groups(*groups), margin=margin, fixed_cost_usd=fixed, most_usd=2_000.0,
        steps_per_decade=3,
    )  # fmt: skip

    def profit(limits):
        return sum(
            100 * ((1 - p) * margin * min(300.0, limit) - p * min(900.0, limit))
            - (100 * fixed if limit > 5.0 else 0.0)
            for (p, _), limit in zip(groups, limits, strict=True)
        )

    ways = itertools.combinations_with_replacement(reversed(grid_of(2_000.0, 3)), len(groups))
    most = max(profit(limits) for limits in ways)
    ours = [fitted.curve.limit_usd(p) for p, _ in groups]
    # The curve rounds down to cents between its points.
    assert profit(ours) == pytest.approx(most, abs=0.1 + 2e-3 * abs(most))
    assert fitted.expected.profit_usd == pytest.approx(profit(ours), abs=0.1)


def test_the_best_limit_is_where_the_next_dollar_earns_nothing():
    """For exponential demand and take: (1 - p) margin exp(-L / d) = p exp(-L / t)."""
    demand, take = 300.0, 1_500.0
    past = drawn(400_000, seed=4, demand=demand, take=take)
    curve = fit_curve(past, margin=MARGIN, num_bins=60).curve
    for p in (0.0003, 0.001, 0.003):
        best = math.log((1 - p) * MARGIN / p) / (1 / demand - 1 / take)
        assert curve.limit_usd(p) == pytest.approx(best, rel=0.25)
    assert curve.limit_usd(0.03) == FLOOR_USD


def test_without_a_cap_it_earns_more_than_hand_made_curves_on_new_users():
    fitted = fit_curve(PAST, margin=MARGIN)
    ours = simulate(fitted.curve, FUTURE, margin=MARGIN).profit_usd
    for curve in (SEVEN_STEPS, DEFAULT_CURVE):
        assert ours > simulate(curve, FUTURE, margin=MARGIN).profit_usd
    assert fitted.multiplier == 0.0


@pytest.mark.parametrize("cap_bp", [20.0, 60.0, 150.0])
def test_the_goal_volume_spends_the_cap_and_holds_it_on_new_users(cap_bp):
    fitted = fit_curve(PAST, margin=MARGIN, cap_bp=cap_bp, goal="volume")
    assert fitted.expected.fraud_bp == pytest.approx(cap_bp, rel=0.01)
    later = simulate(fitted.curve, FUTURE, margin=MARGIN)
    assert abs(later.fraud_bp - cap_bp) < 0.2 * cap_bp
    assert later.fraud_bp_error < 0.12 * cap_bp


def test_a_tighter_cap_costs_profit_and_a_wide_one_nothing():
    free = fit_curve(PAST, margin=MARGIN)
    wide = fit_curve(PAST, margin=MARGIN, cap_bp=2 * free.expected.fraud_bp)
    tight = [fit_curve(PAST, margin=MARGIN, cap_bp=cap) for cap in (12.0, 20.0)]
    assert wide.curve == free.curve
    profits = [one.expected.profit_usd for one in (*tight, free)]
    assert profits == sorted(profits)
    assert tight[0].multiplier > tight[1].multiplier > 0.0
    assert [one.expected.fraud_bp for one in tight] == pytest.approx([12.0, 20.0], rel=0.01)


def test_a_cap_is_spent_where_a_whole_group_would_go_from_little_to_all():
    history = of_groups((0.001, 1_000), (0.05, 1_000))
    ends = [expected_bp(0.001, 0.05, 300.0, limit, groups=1_000) for limit in (FLOOR_USD, 300.0)]
    cap = 0.6 * ends[0] + 0.4 * ends[1]
    fitted = fit_curve(history, margin=MARGIN, cap_bp=cap, goal="volume", steps_per_decade=60)
    assert FLOOR_USD < fitted.curve.limit_usd(0.05) < 300.0
    assert 0.95 * cap < fitted.expected.fraud_bp <= cap * 1.001


def expected_bp(safe, risky, safe_limit, risky_limit, *, groups):
    """Fraud rate of two groups of equal size, demand 300 and take 900, in basis points."""
    pairs = ((safe, safe_limit), (risky, risky_limit))
    loss = sum(groups * p * min(900.0, limit) for p, limit in pairs)
    good = sum(groups * (1 - p) * min(300.0, limit) for p, limit in pairs)
    return 1e4 * loss / (good + loss)


def test_a_wrong_score_costs_profit():
    """The reason why calibration is a gate of a release."""
    good = simulate(fit_curve(PAST, margin=MARGIN).curve, FUTURE, margin=MARGIN)
    past, future = (drawn(len(h), seed=s, shift=2.0) for h, s in ((PAST, 1), (FUTURE, 2)))
    wrong = simulate(fit_curve(past, margin=MARGIN).curve, future, margin=MARGIN)
    assert wrong.profit_usd < 0.9 * good.profit_usd


def test_the_riskiest_keep_the_floor_and_its_cost_is_booked():
    history = of_groups((0.001, 100), (0.9, 40))
    fitted = fit_curve(history, margin=0.05)
    assert fitted.curve.limit_usd(0.9) == FLOOR_USD
    assert fitted.expected.learning_usd == pytest.approx(40 * 0.9 * 5.0)
    assert fitted.expected.floor_share == 40 / 140
    realised = simulate(fitted.curve, history, margin=0.05)
    assert realised.learning_usd == 20 * 5.0
    assert realised.loss_usd == pytest.approx(20 * 5.0 + 50 * fitted.curve.limit_usd(0.001), 1e-6)


def test_a_cap_that_the_floor_alone_exceeds_is_refused():
    history = of_groups((0.001, 100), (0.9, 100))
    # The safe have the most that they can use, 300 of them 0.1 % thieves; the others the floor.
    good = 100 * (0.999 * 300.0 + 0.1 * 5.0)
    loss = 100 * (0.001 * 300.0 + 0.9 * 5.0)
    least = 1e4 * loss / (good + loss)
    with pytest.raises(PolicyError, match=r"no curve holds 9 .*floor of 5 USD") as refused:
        fit_curve(history, margin=MARGIN, cap_bp=9.0)
    told = float(str(refused.value).split("riskiest, ")[1].split()[0])
    assert told == pytest.approx(least, rel=0.01)
    held = fit_curve(history, margin=MARGIN, cap_bp=1.05 * least)
    assert held.expected.fraud_bp <= 1.05 * least


limit_arrays = st.lists(st.floats(5.0, 1e4), min_size=8, max_size=8)


@given(limit_arrays, st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 1.5]))
def test_a_simulation_is_the_sum_over_the_rows(limits, seed, weighted, fixed):
    history = drawn(8, seed=seed)
    is_fraud = np.arange(8) % 3 == 0
    weight = np.arange(1.0, 9.0) if weighted else None
    history = replace(
        history, is_fraud=is_fraud, demand_usd=np.where(is_fraud, np.nan, 40.0 * np.arange(8)),
        take_usd=np.where(is_fraud, 700.0, np.nan), weight=weight,
    )  # fmt: skip
    good = loss = learning = costs = wanted = 0.0
    for row, limit in enumerate(limits):
        times = row + 1.0 if weighted else 1.0
        costs += fixed * times * (limit > 5.0)
        if is_fraud[row]:
            loss += times * min(700.0, limit)
            learning += times * 5.0 * (limit == 5.0)
        else:
            good += times * min(40.0 * row, limit)
            wanted += times * 40.0 * row
    told = simulate(np.array(limits), history, margin=0.1, fixed_cost_usd=fixed)
    assert told.good_usd == pytest.approx(good)
    assert told.loss_usd == pytest.approx(loss)
    assert told.profit_usd == pytest.approx(0.1 * good - loss - costs)
    assert told.learning_usd == pytest.approx(learning)
    assert told.kept_share == pytest.approx(good / wanted)
    assert told.fraud_bp == pytest.approx(1e4 * loss / (good + loss))


def test_the_error_of_the_fraud_rate_is_that_of_drawing_the_rows_anew():
    rates = [
        simulate(SEVEN_STEPS, drawn(20_000, seed=seed), margin=MARGIN) for seed in range(40)
    ]  # fmt: skip
    spread = np.std([one.fraud_bp for one in rates], ddof=1)
    assert np.mean([one.fraud_bp_error for one in rates]) == pytest.approx(spread, rel=0.35)


def test_a_comparison_tells_whose_limits_move():
    history = of_groups((0.001, 4), (0.05, 4), (0.9, 4))
    old = LimitCurve(((0.0, 100.0), (0.2, 100.0), (1.0, 5.0)))
    new = np.repeat([200.0, 100.0, 5.0], 4)
    change = compare(new, old, history, margin=0.1)
    assert (change.rises.tolist(), change.falls.tolist()) == ([0, 1, 2, 3], [8, 9, 10, 11])
    assert change.moved_share == pytest.approx(8 / 12)
    assert (change.good_rises, change.good_falls) == (2, 2)
    assert (change.bad_rises, change.bad_falls) == (2, 2)
    lost = 2 * (old.limit_usd(0.9) - 5.0)
    assert change.good_usd == pytest.approx(2 * 100.0 - lost)
    assert change.loss_usd == pytest.approx(2 * 100.0 - lost)
    assert change.profit_usd == pytest.approx(0.1 * change.good_usd - change.loss_usd)
    back = compare(old, new, history, margin=0.1)
    assert back.falls.tolist() == change.rises.tolist()
    assert back.profit_usd == pytest.approx(-change.profit_usd)


def test_the_largest_moves_come_first():
    history = of_groups((0.5, 3))
    change = compare(
        np.array([20.0, 100.0, 5.0]), np.array([10.0, 10.0, 10.0]), history, margin=0.1
    )
    assert (change.rises.tolist(), change.falls.tolist()) == ([1, 0], [2])


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=50))
def test_limits_of_a_column_are_those_of_each_score(scores):
    for curve in (DEFAULT_CURVE, SEVEN_STEPS):
        column = limits_of(curve, np.array(scores))
        # To the cent: exp of a column may differ in the last bit.
        assert column == pytest.approx([curve.limit_usd(score) for score in scores], abs=0.0101)


def test_the_same_history_gives_the_same_curve_in_any_order():
    rows = np.random.default_rng(0).permutation(len(PAST))
    mixed = History(
        score=PAST.score[rows], demand_usd=PAST.demand_usd[rows], take_usd=PAST.take_usd[rows],
        is_fraud=PAST.is_fraud[rows],
    )  # fmt: skip
    ours, theirs = (fit_curve(one, margin=MARGIN, cap_bp=20.0).curve for one in (PAST, mixed))
    scores = np.geomspace(1e-5, 1.0, 300)
    assert limits_of(ours, scores) == pytest.approx(limits_of(theirs, scores), rel=0.13)


def test_a_weight_counts_like_as_many_rows():
    once = of_groups((0.002, 60), (0.05, 40))
    weighted = replace(once, weight=np.full(100, 3.0))
    thrice = of_groups((0.002, 180), (0.05, 120))
    ours, theirs = (fit_curve(one, margin=MARGIN) for one in (weighted, thrice))
    assert ours.curve == theirs.curve
    assert ours.expected.profit_usd == pytest.approx(theirs.expected.profit_usd)


def test_limits_and_friction_lower_what_fraud_returns():
    history = of_groups((0.001, 2), (0.9, 6), take=900.0)  # one thief safe, three risky
    free = np.full(8, 1e6)
    curve = LimitCurve(((0.0, 500.0), (0.5, 5.0), (1.0, 5.0)))
    assert return_of_fraud(free, history, cost_usd=90.0) == pytest.approx(900 / 90 - 1)
    taken = (curve.limit_usd(0.001) + 3 * 5.0) / 4
    assert return_of_fraud(curve, history, cost_usd=90.0) == pytest.approx(taken / 90 - 1)
    half = return_of_fraud(curve, history, cost_usd=90.0, passes=0.5, friction_usd=10.0)
    assert half == pytest.approx(taken / 2 / 100 - 1)
    only_risky = np.where(history.score > 0.5, 0.0, 1.0)
    kept = return_of_fraud(curve, history, cost_usd=90.0, passes=only_risky)
    assert kept == pytest.approx(curve.limit_usd(0.001) / 4 / 90 - 1)
    for wrong in ({"cost_usd": 0.0}, {"cost_usd": 1.0, "passes": 1.1}):
        with pytest.raises(PolicyError, match="expected"):
            return_of_fraud(curve, history, **wrong)


GOOD = of_groups((0.01, 4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": np.array([0.1, 0.2])}, "`demand_usd` has 4"),
        ({"score": np.array([0.1, 0.2, 0.3, 1.1])}, "scores from 0 to 1"),
        ({"score": np.array([0.1, 0.2, 0.3, np.nan])}, "scores from 0 to 1"),
        ({"demand_usd": np.full(4, np.nan)}, "finite `demand_usd` of at least 0 for each good"),
        ({"demand_usd": np.full(4, -1.0)}, "finite `demand_usd`"),
        ({"take_usd": np.full(4, np.inf)}, "finite `take_usd` of at least 0 for each thief"),
        ({"weight": np.zeros(4)}, "weights above 0"),
        ({"weight": np.ones(3)}, "`weight` has 3"),
    ],
)
def test_a_history_that_cannot_be_is_refused(fields, message):
    with pytest.raises(PolicyError, match=message):
        replace(GOOD, **fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "margin between 0 and 1"),
        ({"margin": math.nan}, "margin between 0 and 1"),
        ({"fixed_cost_usd": -1.0}, "fixed cost of at least 0"),
        ({"cap_bp": 0.0}, "cap between 0 and 10,000"),
        ({"goal": "volume"}, "`volume` together with `cap_bp`"),
        ({"goal": "glory"}, "expected the goal"),
        ({"most_usd": 5.0}, "highest limit above 5.0"),
        ({"num_bins": 0}, "at least one bin"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(options, message):
    with pytest.raises(PolicyError, match=message):
        fit_curve(GOOD, **{"margin": 0.1, **options})


def test_a_history_without_thieves_says_so():
    nobody = replace(GOOD, is_fraud=np.zeros(4, dtype=bool), demand_usd=np.full(4, 10.0))
    with pytest.raises(PolicyError, match="nobody's `take_usd` is known"):
        fit_curve(nobody, margin=0.1)


@pytest.mark.parametrize("limits", [np.full(3, 10.0), np.full(4, 4.0), np.full(4, np.nan)])
def test_limits_that_do_not_fit_the_rows_are_refused(limits):
    with pytest.raises(PolicyError, match="for each of the 4 rows"):
        simulate(limits, GOOD, margin=0.1)
