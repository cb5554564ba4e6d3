"""Limits: monotone in the score and in all that is known, in whole cents, never below the floor."""

import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.datasets.exchange import Rail
from chopmark.decisions import DEFAULT_CURVE, FLOOR_USD, LimitCurve
from chopmark.decisions.limits import (
    PURCHASE_LIMITS,
    SEVEN_STEPS,
    WITHDRAWAL_LIMITS,
    Limits,
    Verification,
    step_curve,
)
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


places = st.none() | st.floats(0.0, 1e6) | st.just(math.nan)
proofs = st.sets(st.sampled_from(["phone", "id"]))
rails = st.sampled_from([None, "card", "bank", "cheque"])
every_limits = st.sampled_from(
    [
        PURCHASE_LIMITS,
        WITHDRAWAL_LIMITS,
        Limits(curve=SEVEN_STEPS, trust_until=1.0, rails=(("card", 300.0),), cap_usd=6_000.0),
    ]
)


def told_slowly(limits, score, *, volume_usd, clean_days, verified, rail):
    """The formula of the module's head, in exact fractions after the curve."""
    trust = Fraction(0)
    limit = Fraction(limits.unscored_usd)
    if score is not None:
        limit = Fraction(limits.curve.limit_usd(score))
        trust = max(1 - Fraction(score) / Fraction(limits.trust_until), Fraction(0))
    factors = [one.factor for one in limits.verifications if one.name in verified]
    for points, at in ((limits.volume, volume_usd), (limits.clean_days, clean_days)):
        if at is not None and not math.isnan(at) and at >= points[0][0]:
            factors.append(float(np.interp(at, *zip(*points, strict=True))))
    for factor in factors:
        limit *= 1 + (Fraction(factor) - 1) * trust
    caps = [one.cap_usd for one in limits.verifications if one.name not in verified]
    if rail is not None and limits.rails:
        declared = dict(limits.rails)
        caps.append(declared.get(rail, min(declared.values())))
    return max(min(limit, *map(Fraction, caps), Fraction(limits.cap_usd)), Fraction(5))


@given(every_limits, st.none() | scores, places, places, proofs, rails)
def test_a_limit_is_the_curve_with_its_raises_and_caps(limits, score, volume, days, proven, rail):
    facts = {"volume_usd": volume, "clean_days": days, "verified": proven, "rail": rail}
    limit = limits.limit_usd(score, **facts)
    assert limit == pytest.approx(float(told_slowly(limits, score, **facts)), abs=0.0101)
    assert limit == round(limit, 2)
    assert limits.explain(score, **facts).limit_usd == limit


@given(every_limits, scores, scores, places, places, proofs, rails)
def test_a_riskier_user_with_the_same_facts_never_has_more(
    limits, one, other, volume, days, proven, rail
):
    facts = {"volume_usd": volume, "clean_days": days, "verified": proven, "rail": rail}
    low, high = sorted((one, other))
    assert limits.limit_usd(low, **facts) >= limits.limit_usd(high, **facts)


@given(every_limits, st.none() | scores, st.data())
def test_more_record_and_more_proof_never_lower_a_limit(limits, score, data):
    number = st.floats(0.0, 1e6)
    less_volume, volume = sorted((data.draw(number), data.draw(number)))
    less_days, days = sorted((data.draw(number), data.draw(number)))
    proven = data.draw(proofs)
    rail = data.draw(rails)
    before = limits.limit_usd(
        score, volume_usd=less_volume, clean_days=less_days, verified=proven, rail=rail
    )
    after = limits.limit_usd(
        score,
        volume_usd=volume,
        clean_days=days,
        verified=proven | data.draw(proofs),
        rail=rail,
    )
    assert FLOOR_USD <= before <= after
    assert limits.limit_usd(score, verified=proven, rail=rail) <= before


def test_six_to_twelve_months_without_a_chargeback_raise_the_limit():
    facts = {"verified": ("phone", "id"), "rail": "bank"}
    by_days = [
        PURCHASE_LIMITS.limit_usd(0.02, clean_days=days, **facts)
        for days in (0, 179, 180, 272.5, 365, 3_000)
    ]
    assert by_days[0] == by_days[1] == by_days[2] < by_days[3] < by_days[4] == by_days[5]
    assert by_days[4] / by_days[0] == pytest.approx(1.0 + 1.0 * (1 - 0.02 / 0.3), rel=1e-4)


def test_a_long_record_does_not_speak_for_a_bad_score():
    facts = {"volume_usd": 1e6, "clean_days": 1e4, "verified": ("phone", "id")}
    assert PURCHASE_LIMITS.limit_usd(1.0, **facts) == FLOOR_USD
    assert PURCHASE_LIMITS.limit_usd(0.3, **facts) == DEFAULT_CURVE.limit_usd(0.3)
    assert PURCHASE_LIMITS.limit_usd(0.01, **facts) > DEFAULT_CURVE.limit_usd(0.01)


def test_without_a_phone_nobody_has_more_than_a_little():
    assert PURCHASE_LIMITS.limit_usd(0.0) == 100.0
    assert PURCHASE_LIMITS.limit_usd(0.0, verified=("id",)) == 100.0
    assert PURCHASE_LIMITS.limit_usd(0.0, verified=("phone",)) == 2_000.0


def test_an_unknown_way_of_payment_is_not_a_safe_one():
    everything = {"volume_usd": 1e6, "clean_days": 400.0, "verified": ("phone", "id")}
    assert [
        PURCHASE_LIMITS.limit_usd(0.0, rail=rail, **everything)
        for rail in ("bank", "card", "cheque", "", None)
    ] == [25_000.0, 10_000.0, 10_000.0, 10_000.0, 50_000.0]


def test_the_rails_are_those_of_the_exchange():
    assert {rail for rail, _ in PURCHASE_LIMITS.rails} == set(get_args(Rail))


def test_a_breakdown_tells_what_moved_the_limit_and_nothing_else():
    told = PURCHASE_LIMITS.explain(
        0.1, volume_usd=0.0, clean_days=365.0, verified=("phone", "id"), rail="card"
    )
    assert [(step.kind, step.name, step.limit_usd) for step in told.steps] == [
        ("curve", "score", 1_000.0),
        ("raise", "clean days", pytest.approx(1_000.0 * 5 / 3)),
        ("raise", "id", pytest.approx(1_000.0 * 5 / 3 * 4 / 3)),
    ]
    assert told.limit_usd == 2_222.22
    capped = PURCHASE_LIMITS.explain(0.1, rail="card")
    assert [step.text for step in capped.steps] == [
        "score: 1000.00 USD a week",
        "without phone: at most 100.00 USD a week",
    ]
    unscored = PURCHASE_LIMITS.explain(None, clean_days=400.0, verified=("phone",))
    assert [step.text for step in unscored.steps] == ["no score: 50.00 USD a week"]


def test_steps_hold_up_to_the_next():
    for score, limit in ((0.0, 10_000.0), (0.0099999, 10_000.0), (0.01, 5_000.0), (0.3, 200.0)):
        assert SEVEN_STEPS.limit_usd(score) == limit
    assert SEVEN_STEPS.limit_usd(1.0) == FLOOR_USD
    assert len({SEVEN_STEPS.limit_usd(n / 1000) for n in range(1001)}) == 7
    for wrong in ((), ((0.0, 9.0), (1.0, 5.0)), ((0.5, 9.0), (0.2, 5.0)), ((0.1, 9.0),)):
        with pytest.raises(PolicyError, match="expected"):
            step_curve(*wrong)


def test_what_is_declared_is_what_is_shown():
    other = [
        Limits(curve=SEVEN_STEPS),
        Limits(unscored_usd=51.0),
        Limits(volume=((0.0, 1.0),)),
        Limits(clean_days=((0.0, 1.0),)),
        Limits(verifications=()),
        Limits(verifications=(Verification(name="phone", factor=1.1),)),
        Limits(rails=()),
        Limits(trust_until=0.31),
        Limits(cap_usd=50_001.0),
    ]
    assert len({repr(limits) for limits in (Limits(), *other)}) == 10
    assert repr(Limits()) == repr(PURCHASE_LIMITS)
    assert len({Limits(), PURCHASE_LIMITS, *other}) == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unscored_usd": 4.0}, "at least 5.0 USD a week for a user without a score"),
        ({"unscored_usd": math.inf}, "for a user without a score"),
        ({"cap_usd": math.nan}, "at least 5.0 USD a week for any user"),
        ({"rails": (("card", 1.0),)}, "for rail `card`"),
        ({"rails": (("card", 10.0), ("card", 20.0))}, "rail `card` is declared twice"),
        ({"verifications": (Verification(name="id"),) * 2}, "verification `id` is declared twice"),
        ({"trust_until": 0.0}, "for `trust_until`"),
        ({"trust_until": 1.1}, "for `trust_until`"),
        ({"volume": ()}, "expected `volume` as"),
        ({"volume": ((0.0, 0.9),)}, "never fall below 1"),
        ({"volume": ((0.0, 1.5), (10.0, 1.2))}, "never fall below 1"),
        ({"volume": ((0.0, 1.0), (0.0, 1.2))}, "places that rise"),
        ({"clean_days": ((-1.0, 1.0), (10.0, 1.2))}, "places that rise"),
        ({"clean_days": ((0.0, 1.0), (10.0, math.inf))}, "finite factors"),
        ({"clean_days": ((0.0, math.nan),)}, "never fall below 1"),
    ],
)
def test_limits_that_cannot_be_are_refused(fields, message):
    with pytest.raises(PolicyError, match=message):
        Limits(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"factor": 0.5}, "proving more never lowers a limit"),
        ({"factor": math.inf}, "factor of at least 1"),
        ({"cap_usd": 0.0}, "for verification `id`"),
    ],
)
def test_a_verification_that_cannot_be_is_refused(fields, message):
    with pytest.raises(PolicyError, match=message):
        Verification(name="id", **fields)


def test_a_verification_that_nobody_declared_is_not_passed_over():
    with pytest.raises(PolicyError, match="did you mean `phone`"):
        PURCHASE_LIMITS.limit_usd(0.1, verified=("phome",))
