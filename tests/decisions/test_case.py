"""Who has the last word: ban > lock > override > rule > damped score > default."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.decisions import (
    FLOOR_USD,
    Account,
    Asked,
    Band,
    Damping,
    Exploration,
    LimitCurve,
    Limits,
    Policy,
    State,
    Verification,
    Withdrawals,
)
from chopmark.decisions.damping import logit, probability
from chopmark.decisions.frictiontable import FrictionRow, FrictionTable
from chopmark.errors import PolicyError
from chopmark.pipelines.exchange import POLICY as EXCHANGE_POLICY
from chopmark.rules import Effects, RuleHit
from chopmark.rules.book import NOTHING, Ruling
from chopmark.times import DAY

CURVE = LimitCurve(((0.0, 10_000.0), (1.0, 10.0)))
POLICY = Policy(curve=CURVE, standing=True)
EFFECTS = {
    "ban": {"is_banned": 1.0},
    "lock": {"locked": 1.0, "lock_set_score": 0.5},
    "override": {"overridden": 1.0, "override_set_limit_usd": 77.0},
}


def decide(policy=POLICY, *, score=0.1, amount=50.0, event_type="purchase", rail=None,
           rules=(), **read):  # fmt: skip
    acting = tuple(
        (RuleHit(rule=f"r{k}", version=1, because="so"), then) for k, then in enumerate(rules)
    )
    ruling = Ruling(tuple(hit for hit, _ in acting), acting) if rules else NOTHING
    asked = Asked(
        event_type=event_type, user="ann", score=score, amount_usd=amount,
        rail=rail,
    )  # fmt: skip
    return policy.decide(asked, read, ruling)


@given(
    st.sampled_from([0.1, None]),
    st.booleans(),
    st.sets(st.sampled_from(sorted(EFFECTS))),
)
def test_the_strongest_has_the_last_word(score, has_rule, orders):
    read = {name: value for order in orders for name, value in EFFECTS[order].items()}
    bound = Effects(limit_at_most_usd=33.0, limit_at_least_usd=20.0, score_at_least=0.99)
    verdict = decide(score=score, rules=(bound,) if has_rule else (), **read)
    expected = {
        "ban": 0.0,
        "lock": CURVE.limit_usd(0.5),
        "override": 77.0,
        "rule": 20.0,
        "model": CURVE.limit_usd(0.1),
        "default": 50.0,
    }
    strength = [*(o for o in ("ban", "lock", "override") if o in orders)]
    strength += ["rule"] if has_rule else []
    strength += ["model"] if score is not None else ["default"]
    assert verdict.authority == strength[0]
    assert verdict.limit_usd == expected[strength[0]]


def test_no_rule_raises_what_a_lock_holds_down():
    rule = Effects(limit_at_least_usd=5_000.0, score_at_most=0.01)
    assert decide(rules=[rule]).limit_usd >= 5_000.0
    locked = decide(rules=[rule], locked=1.0, lock_set_score=0.8)
    assert (locked.authority, locked.limit_usd) == ("lock", CURVE.limit_usd(0.8))


def test_of_two_rules_the_more_careful_is_the_stronger():
    rules = [Effects(limit_at_most_usd=50.0), Effects(limit_at_least_usd=500.0)]
    for order in (rules, rules[::-1]):
        assert decide(rules=order).limit_usd == 50.0
    rules = [Effects(score_at_least=0.9), Effects(score_at_most=0.1)]
    for order in (rules, rules[::-1]):
        assert decide(rules=order).score_in_force == 0.9


def test_a_ban_denies_and_nothing_else_does_but_a_rule():
    assert decide(is_banned=1.0).action == "deny"
    denied = decide(rules=[Effects(deny=True)], **EFFECTS["override"])
    assert (denied.action, denied.authority) == ("deny", "rule")
    assert decide(score=1.0, amount=1e9).action == "reduce"
    assert decide(is_banned=1.0, event_type="login").action == "record"


def test_bounds_of_a_score_hold_where_a_model_is_silent_too():
    assert decide(score=0.1, rules=[Effects(score_at_least=0.8)]).score_in_force == 0.8
    assert decide(score=0.9, rules=[Effects(score_at_least=0.8)]).score_in_force == 0.9
    assert decide(score=0.9, rules=[Effects(score_at_most=0.2)]).score_in_force == 0.2
    assert decide(score=None, rules=[Effects(score_at_least=0.8)]).score_in_force == 0.8
    assert decide(score=None, rules=[Effects(score_at_most=0.8)]).score_in_force is None


def test_a_rule_locks_from_now_on_and_leaves_a_lock_of_a_person_alone():
    rule = Effects(lock_score=0.8, lock_days=30)
    verdict = decide(rules=[rule])
    assert (verdict.lock, verdict.score_in_force) == ((0.8, 30, "r0"), 0.8)
    verdict = decide(rules=[rule], locked=1.0, lock_set_score=0.1)
    assert (verdict.lock, verdict.score_in_force) == (None, 0.1)


def test_an_issuer_and_a_carrier_locked_at_80_gives_about_100_a_week():
    verified = {"phone_verified_count": 1.0, "id_verified_count": 1.0}
    verdict = decide(EXCHANGE_POLICY, rules=[Effects(lock_score=0.8)], rail="card", **verified)
    assert (verdict.score_in_force, verdict.limit_usd) == (0.8, 100.0)


def test_no_rule_takes_the_last_five_dollars():
    assert decide(rules=[Effects(limit_at_most_usd=0.0)]).limit_usd == FLOOR_USD
    assert "learning" in decide(rules=[Effects(limit_at_most_usd=0.0)]).tags


def test_a_lock_never_stops_the_damped_score_beside_it():
    policy = Policy(curve=CURVE, standing=True, damping=Damping())
    verdict = decide(policy, score=0.9, locked=1.0, lock_set_score=0.1, decision_held_logit=-3.0)
    assert verdict.score_in_force == 0.1
    assert verdict.held_logit == round(logit(0.9), 4)


def test_damping_goes_on_from_what_was_held():
    policy = Policy(curve=CURVE, standing=True, damping=Damping())
    held = -2.0
    verdict = decide(policy, score=probability(-2.1), decision_held_logit=held)
    assert (verdict.held_logit, verdict.authority) == (held, "damped")
    assert verdict.score_in_force == probability(held)
    dwell = 0
    for count in range(5):
        verdict = decide(
            policy, score=probability(-4.0), decision_held_logit=held, decision_dwell=float(dwell)
        )
        held, dwell = verdict.held_logit, verdict.dwell
        assert (held < -2.0) == (count == 4)
    with pytest.raises(PolicyError, match="expected `standing=True`"):
        Policy(damping=Damping())


def test_exploration_is_of_those_that_nobody_decided_about():
    policy = Policy(curve=CURVE, standing=True, exploration=Exploration(share=0.5))

    def drawn(**more):
        asked = [
            Asked(
                event_type="purchase",
                user=f"u-{k}",
                score=0.5,
                amount_usd=1.0,
                at=k,
            )
            for k in range(200)
        ]
        return [policy.decide(one, more) for one in asked]

    explored = [one for one in drawn() if one.multiplier > 1.0]
    assert 70 < len(explored) < 130
    assert {one.propensity for one in explored} == {0.5 / 3}
    again = Asked(event_type="purchase", user="u-7", score=0.5, amount_usd=1.0, at=DAY)
    assert policy.decide(again, {}).multiplier == drawn()[7].multiplier, "one draw a week"
    for order in EFFECTS.values():
        assert {one.multiplier for one in drawn(**order)} == {1.0}


ACCOUNT = Account(State("new"), State("phone", ("phone",), ("purchase",)))


def test_what_is_missing_is_asked_for_before_anything_else():
    policy = Policy(
        account=ACCOUNT,
        verified=(("phone", "phone_count"),),
        member="signed_up",
        standing=True,
        guests=("purchase",),
    )
    verdict = decide(policy, signed_up=1.0, phone_count=0.0)
    assert (verdict.action, verdict.friction) == ("ask", "verify_phone")
    assert (verdict.allowed_usd, verdict.state) == (0.0, "new")
    assert "phone must be verified before a purchase" in verdict.reasons[0].text
    verdict = decide(policy, signed_up=1.0, phone_count=1.0)
    assert (verdict.action, verdict.state) == ("allow", "phone")
    assert decide(policy).action == "allow", "a guest has no account"
    with pytest.raises(PolicyError, match="a feature in `verified` for phone"):
        Policy(account=ACCOUNT)


def test_verifications_volume_and_age_raise_a_limit_and_a_rail_caps_it():
    policy = Policy(
        limits=Limits(curve=CURVE, verifications=(Verification(name="id", factor=2.0),)),
        verified=(("id", "ids"),), volume="bought", clean_since=("first", "reversed"),
    )  # fmt: skip
    base = decide(policy, score=0.0, rail="bank").limit_usd
    assert decide(policy, score=0.0, rail="bank", ids=1.0).limit_usd == 2 * base
    year = 365.0 * 86_400
    assert decide(policy, score=0.0, rail="bank", first=year).limit_usd == 2 * base
    assert decide(policy, score=0.0, rail="bank", first=year, reversed=86_400.0).limit_usd == base
    assert decide(policy, score=0.0, rail="bank", bought=50_000.0).limit_usd == 1.5 * base
    assert decide(policy, score=0.0, rail="card", first=year).limit_usd == 10_000.0


def test_a_risky_withdrawal_is_warned_of_and_then_held_for_review():
    policy = Policy(
        standing=True,
        withdrawals=Withdrawals(
            limits=Limits(verifications=()),
            bands=(Band(score=0.3, warn=True), Band(score=0.6, warn=True, delay_hours=24)),
        ),
    )

    def withdraw(score):
        return decide(policy, score=score, amount=1.0, event_type="withdrawal")

    assert (withdraw(0.1).action, withdraw(0.1).tags) == ("allow", [])
    assert (withdraw(0.4).action, withdraw(0.4).tags) == ("allow", ["warn"])
    held = withdraw(0.7)
    assert (held.action, held.delay_s, held.queue) == ("delay", 86_400, "withdrawals")
    assert held.allowed_usd == 0.0
    used_up = decide(policy, score=0.7, event_type="withdrawal", withdrawn_7d=1e6)
    assert (used_up.action, used_up.queue, used_up.tags) == ("wait", "withdrawals", ["warn"])
    unscored = decide(policy, score=None, amount=1.0, event_type="withdrawal")
    assert [reason.code for reason in unscored.reasons] == ["no_score"]
    with pytest.raises(PolicyError, match="bands of rising scores"):
        Withdrawals(bands=(Band(score=0.6), Band(score=0.3)))


TABLE = FrictionTable(
    rows=(FrictionRow(frictions=("id_selfie",), scores=(("stolen_payment", 0.5, 1.0),)),)
)


def test_a_friction_is_asked_for_until_it_is_passed():
    policy = Policy(curve=CURVE, standing=True, friction=TABLE)
    asked = decide(policy, score=0.6)
    assert (asked.action, asked.friction, asked.allowed_usd) == ("ask", "id_selfie", 0.0)
    assert decide(policy, score=0.4).action == "allow"
    assert decide(policy, score=0.6, passed_id_selfie=1.0).action == "allow"
    failed = decide(policy, score=0.6, failed_id_selfie=1.0)
    assert (failed.action, failed.queue) == ("ask", "failed_friction")
    assert {f"passed_{name}" for name in policy.askable} <= set(policy.reads)


def test_a_rule_asks_for_more_than_the_table_does():
    policy = Policy(curve=CURVE, standing=True, friction=TABLE)
    verdict = decide(policy, score=0.6, rules=[Effects(friction="quiz")])
    assert verdict.friction == "quiz"
    verdict = decide(policy, score=0.6, rules=[Effects(friction="quiz")], passed_quiz=1.0)
    assert verdict.friction == "id_selfie"


def test_whoever_is_marked_is_looked_at_before_it_hurts():
    assert decide(vip_marked_vip=1.0, amount=1e6).queue == "vip"
    assert decide(vip_marked_vip=1.0).queue == ""


def test_a_rule_that_delays_queues_and_tags():
    verdict = decide(rules=[Effects(delay_hours=2, queue="rings", tags=("ring",))])
    assert (verdict.action, verdict.delay_s, verdict.queue) == ("delay", 7200, "rings")
    assert verdict.tags == ["ring"]
    assert verdict.reasons[0].text.startswith("rule r0: so (wait 2 hours")


def test_a_stranger_buys_as_a_guest_and_withdraws_nothing():
    account = Account(
        State("new"), State("full", ("phone",), ("purchase", "withdrawal")),
    )  # fmt: skip
    policy = Policy(
        account=account, verified=(("phone", "phones"),), member="signed_up", guests=("purchase",),
        withdrawals=Withdrawals(limits=Limits(verifications=())), standing=True,
    )  # fmt: skip
    assert decide(policy).action == "allow"
    assert decide(policy, event_type="withdrawal").friction == "verify_phone"
    banned = decide(policy, amount=None, is_banned=1.0)
    assert banned.action == "deny", "also where no amount is named"


def test_a_careful_rule_never_lifts_who_has_no_score():
    assert decide(score=None).limit_usd == 50.0
    assert decide(score=None, rules=[Effects(score_at_least=0.01)]).limit_usd == 50.0
    strict = decide(score=None, rules=[Effects(score_at_least=1.0)])
    assert strict.limit_usd == CURVE.limit_usd(1.0)


def test_a_rule_s_lock_gives_way_to_an_override():
    verdict = decide(rules=[Effects(lock_score=0.0)], **EFFECTS["override"])
    assert (verdict.authority, verdict.limit_usd, verdict.lock) == ("override", 77.0, None)


def test_what_has_waited_goes_on():
    rule = Effects(delay_hours=24)
    assert decide(rules=[rule]).action == "delay"
    assert decide(rules=[rule], passed_delay=1.0).action == "allow"


def test_a_probability_is_of_the_friction_that_the_policy_chose():
    policy = Policy(curve=CURVE, standing=True, friction=TABLE)
    both = decide(policy, score=0.6, rules=[Effects(friction="quiz")])
    assert (both.friction, both.friction_propensity) == ("quiz", 1.0)
