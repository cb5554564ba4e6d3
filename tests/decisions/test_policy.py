"""The policy: graded, never more than the limit, never nothing for ever, always with a reason."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.decisions import (
    FLOOR_USD,
    Asked,
    Decision,
    LimitCurve,
    Policy,
    Reason,
    decision_id,
    score_reasons,
)
from chopmark.errors import PolicyError
from chopmark.events import Schema
from chopmark.models import Additive, Term
from chopmark.times import moment

cents = st.integers(0, 10**9).map(lambda n: n / 100)
scores = st.none() | st.floats(0.0, 1.0)
POLICY = Policy()


def decide(policy=POLICY, *, score, amount=None, spent=0.0, event_type="purchase"):
    asked = Asked(event_type=event_type, user="ann", score=score, amount_usd=amount)
    return policy.decide(asked, {policy.spent: spent})


@given(scores, cents, cents)
def test_what_is_allowed_is_within_what_is_asked_and_what_is_left(score, amount, spent):
    verdict = decide(score=score, amount=amount, spent=spent)
    assert 0.0 <= verdict.allowed_usd <= amount
    assert verdict.allowed_usd == round(verdict.allowed_usd, 2)
    assert verdict.allowed_usd + spent <= max(verdict.limit_usd, spent) + 1e-6
    assert verdict.limit_usd >= FLOOR_USD
    left = round(verdict.limit_usd - spent, 2)
    if amount <= left or amount == 0:
        assert (verdict.action, verdict.allowed_usd) == ("allow", amount)
        assert verdict.reasons == []
    elif left > 0:
        assert (verdict.action, verdict.allowed_usd) == ("reduce", left)
    else:
        assert (verdict.action, verdict.allowed_usd) == ("wait", 0.0)
    assert [reason.code for reason in verdict.reasons] == (
        [] if verdict.action == "allow" else ["limit"]
    )


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), cents, cents)
def test_a_riskier_score_never_gets_more(one, other, amount, spent):
    low, high = sorted((one, other))
    safer, riskier = (decide(score=score, amount=amount, spent=spent) for score in (low, high))
    assert safer.allowed_usd >= riskier.allowed_usd


def test_the_riskiest_keep_a_little():
    verdict = decide(score=1.0, amount=100.0)
    assert (verdict.action, verdict.allowed_usd) == ("reduce", 5.0)
    assert verdict.reasons[0].text == "100.00 USD asked for, 5.00 left of a weekly limit of 5.00"
    assert decide(score=1.0, amount=5.0).action == "allow"


@given(scores, st.none() | cents, st.sampled_from(["signup", "login", ""]))
def test_events_that_are_not_gated_are_only_recorded(score, amount, event_type):
    verdict = decide(score=score, amount=amount, event_type=event_type)
    assert (verdict.action, verdict.allowed_usd, verdict.reasons) == ("record", 0.0, [])
    assert decide(score=score, amount=None).action == "record"


def test_an_amount_below_zero_gives_nothing_back_to_the_limit():
    verdict = decide(score=0.5, amount=-10.0)
    assert (verdict.action, verdict.allowed_usd) == ("allow", 0.0)


def test_without_a_score_the_default_limit_holds():
    policy = Policy(default_limit_usd=70.0)
    assert decide(policy, score=None, amount=100.0).allowed_usd == 70.0


@pytest.mark.parametrize("limit", [4.99, 0.0, -1.0, math.nan, math.inf])
def test_a_default_limit_that_cannot_be_is_refused(limit):
    with pytest.raises(PolicyError, match="finite default limit of at least"):
        Policy(default_limit_usd=limit)


def test_the_hash_covers_every_parameter():
    curve = LimitCurve(((0.0, 10.0), (1.0, 5.0)))
    others = [
        Policy(curve=curve),
        Policy(default_limit_usd=51.0),
        Policy(amount="other"),
        Policy(gated=()),
        Policy(spent="other"),
    ]
    assert len({policy.hash for policy in (POLICY, *others)}) == 6
    assert Policy().hash == POLICY.hash


def test_reasons_are_the_strongest_first_and_leave_out_the_weak():
    reads = ("a", "b", "c", "d", "e")
    moves = np.array([0.1, -0.7, 0.04, 0.2, 0.0])
    reasons = score_reasons(reads, [1.0, None, "x", "DE", 5], moves)
    assert reasons == [
        Reason(code="feature", text="b is missing: safer", feature="b", log_odds=-0.7),
        Reason(code="feature", text="d = DE: riskier", feature="d", value="DE", log_odds=0.2),
        Reason(code="feature", text="a = 1: riskier", feature="a", value=1.0, log_odds=0.1),
    ]
    assert score_reasons(reads, [1.0] * 5, np.zeros(5)) == []
    assert [r.feature for r in score_reasons(reads, [1.0] * 5, np.ones(5), most=2)] == ["a", "b"]


def test_bank_plus_a_half_and_city_minus_a_half():
    """The linear scoring example of row E2: two parts of one size that cancel out."""
    model = Additive.of(
        [
            Term(weights=np.array([0.0, 0.0, 0.5])),  # payment: 2 is a bank account
            Term(weights=np.array([0.0, 0.0, -0.5])),  # city: 2 is the user's own
        ],
        bias=-2.0,
    )
    rows = {"neither": (1, 1), "bank": (2, 1), "city": (1, 2), "both": (2, 2)}
    raw = dict(zip(rows, model.raw(np.array(list(rows.values()), dtype=float)), strict=True))
    assert raw == {"neither": -2.0, "bank": -1.5, "city": -2.5, "both": -2.0}
    limits = {
        name: POLICY.curve.limit_usd(1.0 / (1.0 + math.exp(-odds))) for name, odds in raw.items()
    }
    assert limits["city"] > limits["neither"] == limits["both"] > limits["bank"]
    reasons = score_reasons(("payment", "city"), ["bank", "Bonn"], np.array([0.5, -0.5]))
    assert [reason.text for reason in reasons] == ["payment = bank: riskier", "city = Bonn: safer"]


def test_a_record_is_read_back_bit_for_bit():
    schema = Schema(Decision)
    decision = Decision(
        id=decision_id("p"), happened_at=moment(1), known_at=moment(2), about="p",
        about_type="purchase", user="ann", score=0.1 + 0.2, limit_usd=1e9 / 3, allowed_usd=0.07,
        action="reduce", reasons=[Reason(code="limit", text="é", value="x")], catalog="c",
        policy="p", values=[None, 0.1, 5e-324, 1.7976931348623157e308, -0.0, "text", 3.0],
    )  # fmt: skip
    again = schema.decode(schema.encode(decision))
    assert again == decision
    assert repr(again.values) == repr(decision.values)
    assert schema.encode(again) == schema.encode(decision)


@pytest.mark.parametrize("length", [1, 119, 120, 128])
def test_the_decision_about_any_valid_event_is_a_valid_event(length):
    schema = Schema(Decision)
    decision = Decision(
        id=decision_id("x" * length), happened_at=moment(1), known_at=moment(2), about="x" * length,
        about_type="purchase", user="ann", limit_usd=5.0, reasons=[], catalog="", policy="",
        values=[],
    )  # fmt: skip
    assert schema.decode(schema.encode(decision)) == decision
    assert msgspec.json.decode(schema.encode(decision))["id"] == "decision:" + "x" * length
