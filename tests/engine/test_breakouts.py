"""Ways around the desk that were tried: each ends in a refusal or changes nothing."""

import pytest

from chopmark.decisions import Policy
from chopmark.decisions.limits import Limits, Verification
from chopmark.decisions.orders import BanLifted, Banned, LockSet
from chopmark.engine import replayed
from chopmark.errors import AlreadyTaken, InvalidEvent, RuleError
from chopmark.events import SqliteLog, type_name
from chopmark.events.ingest import RESERVED_TYPES
from chopmark.pipelines.exchange import application as exchange_application
from chopmark.rules import Effects
from chopmark.rules.book import effects_text
from chopmark.rules.orders import ABOUT_RULES, RuleDrafted, RuleReviewed, RuleSnoozed, RuleStaged
from tests.engine.shop import Purchase
from tests.engine.test_orders import APPLICATION, SCHEMA, People, at, opened


@pytest.fixture
def people():
    return People(opened())


def test_the_longest_id_leaves_a_log_that_can_be_read(tmp_path):
    people = People(opened(SqliteLog(tmp_path / "log.sqlite", SCHEMA)))
    people.activate(1, then=Effects(lock_score=0.8))
    event = Purchase(id="x" * 128, happened_at=at(2), known_at=at(2), user="bo", amount_usd=200.0)
    assert people.engine.assess(event).decision.authority == "lock"
    people.engine.log.sync()
    people.engine.log.close()
    again = opened(SqliteLog(tmp_path / "log.sqlite", SCHEMA))
    assert again.recover() > 0
    assert again.log.find("lock:" + "x" * 128).score == 0.8
    again.log.close()


def test_an_order_is_never_decided_about(people):
    order = RuleSnoozed(
        id="s", happened_at=at(1), known_at=at(1), rule="big", user="bo", reason="x", author="eve",
        until=at(9),
    )  # fmt: skip
    for do in (people.engine.assess, lambda event: people.engine.check(event, decide=True)):
        with pytest.raises(InvalidEvent, match="got the order `rule_snoozed`"):
            do(order)


def test_ingest_takes_no_order_that_an_engine_must_check():
    checked = {type_name(order) for order in ABOUT_RULES}
    assert set(RESERVED_TYPES) == {"decision", *checked}


def test_a_hand_made_log_that_stages_what_is_not_there_stops_nothing(people):
    for kind, fields in (
        (RuleStaged, {"rule": "ghost", "version": 7, "stage": "active"}),
        (RuleReviewed, {"rule": "ghost", "version": 7, "approved": False}),
    ):
        people.engine.book.apply(kind(id="g", happened_at=at(1), author="x", **fields))
    assert people.buy(2).rules == []


@pytest.mark.parametrize("alias", ["Ann", " ann ", "ANN", "a\uff4en"])
def test_one_person_under_two_spellings_is_one_person(people, alias):
    draft = {"rule": "r", "version": 1, "because": "x", "when": "amount_usd > 1",
             "effects": effects_text(Effects(deny=True))}  # fmt: skip
    people.order(RuleDrafted, 1, **draft)
    with pytest.raises(RuleError, match="somebody else must review it"):
        people.order(RuleReviewed, 1, rule="r", version=1, approved=True, author=alias)
    people.order(RuleReviewed, 1, rule="r", version=1, approved=True, author="bob")
    with pytest.raises(RuleError, match="an approver other than ann is needed"):
        people.order(RuleStaged, 1, rule="r", version=1, stage="active", moves=0.9, approver=alias)


def test_a_version_that_is_turned_down_stops_and_stays_so(people):
    people.activate(1)
    assert people.buy(2, amount=200.0).authority == "rule"
    people.order(RuleReviewed, 3, rule="big", version=1, approved=False, author="dora")
    assert people.buy(4, amount=200.0).rules == []
    with pytest.raises(RuleError, match="turned down by dora; write another one"):
        people.order(RuleReviewed, 5, rule="big", version=1, approved=True, author="fay")


def test_what_was_said_last_is_in_force_whatever_its_date(people):
    def order(kind, day, said, number):
        people.engine.observe(
            kind(id=f"b-{number}", happened_at=at(said), known_at=at(day), user="bo", reason="x",
                 author="ann")
        )  # fmt: skip

    order(Banned, 1, 1, 1)
    order(BanLifted, 10, 10, 2)
    order(Banned, 20, 5, 3)
    assert people.buy(21).action == "deny"


def test_another_lock_under_the_same_id_is_no_repeat(people):
    fields = {"id": "l", "happened_at": at(1), "known_at": at(1), "user": "bo", "reason": "x",
              "author": "ann", "expires_at": at(9)}  # fmt: skip
    people.engine.observe(LockSet(score=0.1, **fields))
    assert people.engine.observe(LockSet(score=0.1, **fields)) is None
    with pytest.raises(AlreadyTaken):
        people.engine.observe(LockSet(score=0.99, **fields))


def test_nobody_approves_a_lock_of_their_own(people):
    with pytest.raises(InvalidEvent, match="an approver other than ann"):
        people.order(LockSet, 1, user="bo", score=0.1, expires_at=at(9), reason="x", approver="Ann")


def test_a_rule_asks_for_frictions_that_there_are(people):
    for friction, hint in (("slefie", "no friction `slefie`"), ("none", "no friction `none`")):
        with pytest.raises(RuleError, match=hint):
            people.activate(1, then=Effects(friction=friction))


def test_a_policy_that_fails_holds_the_event_back_and_the_engine_goes_on(people, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("a risk of 2.0")

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "decide", fail)
        held = people.buy(1)
    assert (held.action, held.allowed_usd, held.queue) == ("wait", 0.0, "failed")
    assert people.buy(2).action == "allow"
    people.engine.log.sync()
    differing = [fields for _, fields in replayed(people.engine, people.engine.log)]
    assert differing[1] == []


def test_chance_never_goes_beyond_a_cap():
    limits = Limits(
        verifications=(Verification(name="phone", cap_usd=100.0),), rails=(("card", 200.0),)
    )
    assert limits.most_usd(rail="card") == 100.0
    assert limits.most_usd(verified=["phone"], rail="card") == 200.0
    assert limits.most_usd(verified=["phone"]) == 50_000.0


def test_training_reads_nothing_that_decisions_or_orders_made():
    own = set(APPLICATION.own)
    assert {"decision_allowed_usd_sum_7d", "decision_count_1h", "locked", "is_banned"} <= own
    assert {f"passed_{name}" for name in APPLICATION.policy.askable} <= own
    assert "bought" in exchange_application().own, "what raises a limit"
    assert not {"amount_usd", "purchase_count_1h", "signup_country"} & own
