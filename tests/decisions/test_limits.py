"""Limit curves: monotone, in whole cents, never below the floor."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.decisions import DEFAULT_CURVE, FLOOR_USD, LimitCurve
from chopmark.errors import PolicyError

scores = st.floats(0.0, 1.0)


@st.composite
def curves(draw):
    inner = draw(st.sets(st.floats(0.001, 0.999), max_size=4))
    places = [0.0, *sorted(inner), 1.0]
    limits = draw(
        st.lists(
            st.floats(FLOOR_USD, 1e6) | st.sampled_from([5.0, 5.01, 99.99, 1e4, 1e6]),
            min_size=len(places),
            max_size=len(places),
        )
    )
    return LimitCurve(tuple(zip(places, sorted(limits, reverse=True), strict=True)))


@given(curves(), scores, scores)
def test_a_riskier_score_never_has_a_higher_limit(curve, one, other):
    low, high = sorted((one, other))
    assert curve.limit_usd(low) >= curve.limit_usd(high)


@given(curves(), scores)
def test_limits_are_whole_cents_within_the_curve(curve, score):
    limit = curve.limit_usd(score)
    assert limit == round(limit, 2)
    assert limit >= max(FLOOR_USD, curve.points[-1][1] - 0.0101)
    assert limit <= curve.points[0][1]


@given(curves())
def test_a_point_has_its_limit_down_to_whole_cents(curve):
    for score, limit in curve.points:
        assert curve.limit_usd(score) == pytest.approx(limit, abs=0.0101)


@given(scores)
def test_the_default_curve_keeps_at_least_five_dollars(score):
    assert FLOOR_USD <= DEFAULT_CURVE.limit_usd(score) <= 25_000.0


def test_the_ends_of_the_default_curve():
    assert DEFAULT_CURVE.limit_usd(0.0) == 25_000.0
    assert DEFAULT_CURVE.limit_usd(1.0) == FLOOR_USD
    assert DEFAULT_CURVE.limit_usd(math.nextafter(1.0, 0.0)) == FLOOR_USD


@given(st.floats(FLOOR_USD, 1e6), scores)
def test_a_flat_curve_is_flat(limit, score):
    curve = LimitCurve(((0.0, limit), (0.5, limit), (1.0, limit)))
    assert curve.limit_usd(score) == curve.limit_usd(0.0)


def test_a_flat_curve_of_a_billion_is_flat():
    curve = LimitCurve(((0.0, 999_999_999.0), (1.0, 999_999_999.0)))
    assert curve.limit_usd(0.1536866526875871) == curve.limit_usd(0.0)


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((0.0, 10.0),),
        ((0.0, 10.0), (0.5, 5.0)),
        ((0.1, 10.0), (1.0, 5.0)),
        ((0.0, 10.0), (0.0, 9.0), (1.0, 5.0)),
        ((0.0, 10.0), (0.7, 9.0), (0.3, 8.0), (1.0, 5.0)),
        ((0.0, 10.0), (float("nan"), 9.0), (1.0, 5.0)),
        ((0.0, 10.0), (1.0, 11.0)),
        ((0.0, 10.0), (1.0, 4.99)),
        ((0.0, 10.0), (1.0, 0.0)),
        ((0.0, math.inf), (1.0, 5.0)),
        ((0.0, math.nan), (1.0, 5.0)),
    ],
)
def test_a_curve_that_cannot_be_is_refused(points):
    with pytest.raises(PolicyError, match="expected"):
        LimitCurve(points)


@pytest.mark.parametrize("score", [-0.001, 1.001, math.nan, math.inf, -math.inf])
def test_a_score_outside_its_range_is_refused(score):
    with pytest.raises(PolicyError, match="expected a score from 0 to 1"):
        DEFAULT_CURVE.limit_usd(score)
