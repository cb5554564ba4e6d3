"""Exploration: a known share, a known chance, repeatable, never above a cap, never by a client."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.decisions.exploration import Exploration
from chopmark.errors import PolicyError

KEY = b"of the tests"
HALF = Exploration(share=0.3, multipliers=(1.5, 2.0, 3.0))
limits = st.integers(500, 10**7).map(lambda cents: cents / 100)


def draw(event_id, limit=100.0, *, cap=1e9, key=KEY, exploration=HALF, allowed=True):
    return exploration.draw(event_id, limit, cap_usd=cap, key=key, allowed=allowed)


def test_the_multipliers_come_as_often_as_their_propensities_say():
    drawn = [draw(f"p-{n}") for n in range(20_000)]
    for multiplier, expected in ((1.0, 0.7), (1.5, 0.1), (2.0, 0.1), (3.0, 0.1)):
        of_it = [one for one in drawn if one.multiplier == multiplier]
        assert all(one.propensity == pytest.approx(expected) for one in of_it)
        # Four standard deviations of a share of 20,000.
        assert abs(len(of_it) / 20_000 - expected) < 4 * math.sqrt(expected / 20_000)


@given(st.text(), limits, st.floats(0.0, 1e7), st.binary(min_size=1, max_size=64))
def test_a_draw_is_repeated_and_stays_between_the_limit_and_the_cap(event_id, limit, cap, key):
    one = draw(event_id, limit, cap=cap, key=key)
    assert one == draw(event_id, limit, cap=cap, key=key)
    assert limit <= one.limit_usd <= max(limit, cap)
    assert one.limit_usd == pytest.approx(limit * one.multiplier, abs=0.0101)
    assert one.limit_usd == round(one.limit_usd, 2) or one.limit_usd == cap
    assert 0.0 < one.propensity <= 1.0


@given(st.text(), limits, st.floats(0.0, 1e7))
def test_the_propensities_of_what_could_be_drawn_sum_to_one(event_id, limit, cap):
    open_to = [m for m in HALF.multipliers if limit * m <= cap]
    one = draw(event_id, limit, cap=cap)
    if not open_to:
        assert one == (limit, 1.0, 1.0)
    elif one.multiplier == 1.0:
        assert one.propensity == 1.0 - HALF.share
    else:
        assert one.multiplier in open_to
        assert one.propensity == HALF.share / len(open_to)


@given(st.text(), limits)
def test_nobody_plays_with_the_banned_and_the_locked(event_id, limit):
    assert draw(event_id, limit, allowed=False) == (limit, 1.0, 1.0)
    assert draw(event_id, limit, exploration=Exploration(share=0.0)) == (limit, 1.0, 1.0)


def test_keys_names_and_ids_draw_independently():
    def chosen(key=KEY, name="limits", start=0):
        exploration = Exploration(share=0.3, name=name)
        ids = range(start, start + 5_000)
        return np.array(
            [draw(f"p-{n}", exploration=exploration, key=key).multiplier > 1.0 for n in ids]
        )

    base = chosen()
    for other in (chosen(key=b"another"), chosen(name="friction"), chosen(start=5_000)):
        assert abs(np.mean(base & other) - 0.09) < 4 * math.sqrt(0.09 * 0.91 / 5_000)


def test_weighting_by_propensity_tells_the_demand_that_the_curve_hides():
    rng = np.random.default_rng(5)
    demand = rng.lognormal(4.5, 1.0, 60_000)
    drawn = [draw(f"d-{n}", 100.0) for n in range(len(demand))]
    seen = np.minimum(demand, [one.limit_usd for one in drawn])
    for multiplier in (1.0, 1.5, 2.0, 3.0):
        weight = np.array([(one.multiplier == multiplier) / one.propensity for one in drawn])
        parts = weight * seen
        truth = np.minimum(demand, 100.0 * multiplier).mean()
        assert abs(parts.mean() - truth) < 4 * parts.std() / math.sqrt(len(parts))
    assert seen.mean() < np.minimum(demand, 300.0).mean() - 10.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": -0.1}, "share of decisions"),
        ({"share": 0.51}, "share of decisions"),
        ({"share": math.nan}, "share of decisions"),
        ({"multipliers": ()}, "multipliers that rise above 1"),
        ({"multipliers": (1.0, 2.0)}, "multipliers that rise above 1"),
        ({"multipliers": (2.0, 1.5)}, "multipliers that rise above 1"),
        ({"multipliers": (2.0, math.inf)}, "multipliers that rise above 1"),
        ({"multipliers": (math.nan,)}, "multipliers that rise above 1"),
    ],
)
def test_an_exploration_that_cannot_be_is_refused(fields, message):
    with pytest.raises(PolicyError, match=message):
        Exploration(**fields)


def test_without_a_secret_nothing_is_drawn():
    with pytest.raises(PolicyError, match="expected a secret key"):
        draw("p-1", key=b"")
