"""A decision in words: the user hears what to do, and nothing that would help a thief."""

from typing import get_args

import pytest

from chopmark.decisions import Action, Authority, Decision, Reason
from chopmark.decisions.words import tell
from chopmark.rules import RuleHit
from chopmark.times import EPOCH


def decision(**changes):
    fields = {
        "id": "decision:p", "happened_at": EPOCH, "about": "p", "about_type": "purchase",
        "user": "ann", "limit_usd": 200.0, "allowed_usd": 50.0, "action": "reduce", "score": 0.61,
        "score_in_force": 0.8, "authority": "lock", "catalog": "", "policy": "", "values": [],
        "reasons": [Reason(code="rule", text="rule ring: shares a device with five others")],
        "rules": [
            RuleHit(rule="ring", version=2), RuleHit(rule="old", version=1, standing="shadow"),
        ],
        "queue": "rings",
    }  # fmt: skip
    return Decision(**{**fields, **changes})


@pytest.mark.parametrize("action", get_args(Action))
@pytest.mark.parametrize("authority", get_args(Authority))
def test_a_user_never_hears_of_rules_scores_or_queues(action, authority):
    told = tell(decision(action=action, authority=authority, friction="quiz", delay_s=7200))
    heard = " ".join(told.to_user)
    assert heard.endswith(".")
    for word in ("ring", "score", "device", "61", "80 of", "queue", "model"):
        assert word not in heard
    inside = " ".join(told.inside)
    assert "shares a device" in inside
    assert "old (version 1) was true and did not act: shadow" in inside
    assert "In force was 80 of 100." in inside


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"action": "allow"}, "The purchase was allowed."),
        ({}, "We could go on with 50.00 USD of the purchase now."),
        ({"action": "wait"}, "this week's limit is used up"),
        ({"action": "ask", "friction": "verify_phone"}, "please verify your phone"),
        ({"action": "ask", "friction": "id_selfie"}, "a selfie holding the ID"),
        ({"action": "ask", "friction": "our_own"}, "our own"),
        ({"action": "delay", "delay_s": 7200}, "held for 2 hours"),
        ({"action": "delay", "delay_s": 3600}, "held for an hour"),
        ({"action": "deny"}, "We cannot carry out the purchase."),
        (
            {"action": "record", "about_type": "payment_method_added"},
            "this event (payment method added)",
        ),
    ],
)
def test_what_a_user_hears(changes, sentence):
    assert sentence in " ".join(tell(decision(**changes)).to_user)


def test_a_limit_is_told_unless_nothing_moves():
    assert "Your weekly limit is 200.00 USD." in tell(decision()).to_user
    assert len(tell(decision(action="deny")).to_user) == 1


def test_exploration_is_told_inside():
    inside = " ".join(tell(decision(multiplier=2.0, propensity=0.01)).inside)
    assert "multiplied by 2 to learn from it, as happens in one of 100 such cases" in inside


def test_the_name_of_a_feature_is_told_as_it_is_written():
    moved = Reason(code="feature", text="issuer = a bank: riskier", feature="issuer")
    lines = tell(
        decision(reasons=[moved, Reason(code="no_score", text="no model is in use")])
    ).inside
    assert "issuer = a bank: riskier." in lines
    assert "No model is in use." in lines
