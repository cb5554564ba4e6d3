"""Orders in the log: locks that hold, rules that come and go, and decisions made again exactly."""

from datetime import timedelta

import pytest

from chopmark.decisions import ORDERS, Damping, Decision, LimitCurve, Policy, standing_features
from chopmark.decisions.orders import (
    BanLifted,
    Banned,
    FrictionCompleted,
    LockReleased,
    LockSet,
    OverrideSet,
    VipMarked,
)
from chopmark.engine import Application, replay, replayed
from chopmark.errors import InvalidEvent, RuleError
from chopmark.events import MemoryLog, Schema, SqliteLog
from chopmark.features import Catalog
from chopmark.rules import Effects
from chopmark.rules.book import effects_text
from chopmark.rules.orders import ListChanged, RuleDrafted, RuleReviewed, RuleStaged
from chopmark.times import EPOCH
from tests.engine import shop
from tests.engine.shop import Chargeback, HandScorer, Heartbeat, Purchase, Signup

SCHEMA = Schema(Signup, Purchase, Chargeback, Heartbeat, Decision, *ORDERS)
CURVE = LimitCurve(((0.0, 500.0), (0.5, 50.0), (1.0, 5.0)))
APPLICATION = Application(
    Catalog(SCHEMA, *shop.FEATURES, *standing_features()),
    Policy(curve=CURVE, standing=True, damping=Damping(), rescored=("signup",)),
)


def at(days):
    return EPOCH + timedelta(days=days)


def opened(log=None):
    log = log if log is not None else MemoryLog(SCHEMA)
    return shop.engine(application=APPLICATION, log=log, scorer=HandScorer(APPLICATION.catalog))


class People:
    """Gives orders to an engine and buys things, one id after the other."""

    def __init__(self, engine):
        self.engine = engine
        self.count = 0

    def order(self, kind, day, *, author="ann", **fields):
        self.count += 1
        self.engine.observe(
            kind(
                id=f"o-{self.count}", happened_at=at(day), known_at=at(day), author=author, **fields
            )
        )

    def buy(self, day, *, amount=30.0, user="bo", **fields):
        self.count += 1
        event = Purchase(
            id=f"p-{self.count}", happened_at=at(day), known_at=at(day), user=user,
            amount_usd=amount, **fields,
        )  # fmt: skip
        return self.engine.assess(event).decision

    def activate(self, day, *, name="big", version=1, when="amount_usd > 100", then=None, **more):
        effects = effects_text(then or Effects(limit_at_most_usd=20.0, tags=("big",)))
        self.order(RuleDrafted, day, rule=name, version=version, when=when, effects=effects,
                   because="big ones are rare")  # fmt: skip
        self.order(RuleReviewed, day, rule=name, version=version, approved=True, author="cy")
        self.order(RuleStaged, day, rule=name, version=version, stage="active", moves=0.0, **more)


@pytest.fixture
def people():
    return People(opened())


def test_a_lock_holds_until_it_is_released_or_over(people):
    people.order(LockSet, 1, user="bo", score=0.9, expires_at=at(10), reason="a friend")
    locked = people.buy(2)
    assert (locked.authority, locked.score_in_force) == ("lock", 0.9)
    assert locked.limit_usd == CURVE.limit_usd(0.9)
    assert locked.score == HandScorer(APPLICATION.catalog).score_row([30.0, 0.0])
    assert locked.held_logit is not None, "the score goes on beside the lock"
    assert people.buy(3, user="ed").authority == "damped"
    people.order(LockReleased, 4, user="bo", reason="it was him")
    assert people.buy(5).authority == "damped"
    people.order(LockSet, 6, user="bo", score=0.2, expires_at=at(8), reason="again")
    assert people.buy(7).score_in_force == 0.2
    assert people.buy(9).authority == "damped"


def test_a_lock_survives_another_model(people):
    people.order(LockSet, 1, user="bo", score=0.9, expires_at=at(100), reason="a friend")
    promoted = HandScorer(APPLICATION.catalog)
    promoted.bias, promoted.hash = -3.0, "promoted"
    before = people.buy(2)
    people.engine.use(promoted)
    after = people.buy(3)
    assert (before.model, after.model) == ("hand-made", "promoted")
    assert before.score != after.score
    assert (before.limit_usd, after.limit_usd) == (CURVE.limit_usd(0.9),) * 2


def test_bans_overrides_and_marks(people):
    people.order(OverrideSet, 1, user="bo", limit_usd=1234.0, expires_at=at(9), reason="a firm")
    assert (people.buy(2).limit_usd, people.buy(3).authority) == (1234.0, "override")
    people.order(Banned, 4, user="bo", reason="stolen cards")
    banned = people.buy(5)
    assert (banned.action, banned.limit_usd, banned.allowed_usd) == ("deny", 0.0, 0.0)
    people.order(BanLifted, 6, user="bo", reason="his brother did it")
    people.order(VipMarked, 6, user="bo", vip=True)
    assert people.buy(7, amount=1e6).queue == "vip"
    assert people.buy(10).authority == "damped"


def test_a_rule_acts_from_its_activation_on_and_the_record_says_so(people):
    assert people.buy(1, amount=200.0).rules == []
    people.activate(2)
    hit = people.buy(3, amount=200.0)
    assert (hit.limit_usd, hit.authority, hit.tags) == (20.0, "rule", ["big"])
    assert [(one.rule, one.version, one.standing) for one in hit.rules] == [("big", 1, "acts")]
    assert hit.leaves == "1"
    assert people.buy(4, amount=20.0).leaves == "0"
    people.order(RuleStaged, 5, rule="big", version=1, stage="off")
    assert people.buy(6, amount=200.0).rules == []


def test_a_rule_locks_a_score_and_the_lock_outlives_the_rule(people):
    people.activate(1, then=Effects(lock_score=0.8, lock_days=30))
    first = people.buy(2, amount=200.0)
    assert (first.authority, first.score_in_force) == ("lock", 0.8)
    people.order(RuleStaged, 3, rule="big", version=1, stage="off")
    assert people.buy(4, amount=1.0).score_in_force == 0.8
    assert people.buy(40, amount=1.0).authority == "damped"
    lock = people.engine.log.find(f"lock:{first.about}")
    assert (lock.author, lock.expires_at) == ("rule:big", at(32))


def test_a_completed_friction_is_not_asked_for_again(people):
    people.activate(1, then=Effects(friction="id_selfie"))
    asked = people.buy(2, amount=200.0)
    assert (asked.action, asked.friction, asked.allowed_usd) == ("ask", "id_selfie", 0.0)
    done = {"user": "bo", "friction": "id_selfie", "outcome": "passed"}
    people.engine.observe(FrictionCompleted(id="f", happened_at=at(3), known_at=at(3), **done))
    assert people.buy(4, amount=200.0).action != "ask"
    assert people.buy(40, amount=200.0).friction == "id_selfie", "a month later it is"


def test_rules_read_lists_fields_texts_and_the_score(people):
    people.order(ListChanged, 1, list_name="bad_devices", added=("d-9",))
    people.activate(1, name="device", when='device in list("bad_devices") and score >= 0')
    people.activate(1, name="holder", when='matches(holder, "^Mr")')
    people.activate(1, name="of_type", when='event_type == "purchase" and hour(as_of) == 0')
    found = people.buy(2, device="d-9", holder="Mr Smith").rules
    assert [hit.rule for hit in found] == ["device", "holder", "of_type"]
    assert [hit.rule for hit in people.buy(3, device="d-8").rules] == ["of_type"]


def test_a_friction_ends_as_it_can(people):
    fields = {"happened_at": at(1), "known_at": at(1), "user": "bo"}
    for friction, outcome, said in (
        ("delay", "failed", "cannot be failed"),
        ("quizz", "passed", "did you mean `quiz`"),
    ):
        with pytest.raises(InvalidEvent, match=said):
            people.engine.observe(
                FrictionCompleted(id="f", friction=friction, outcome=outcome, **fields)
            )
    assert people.engine.log.sync() == 0


def test_a_bad_order_never_enters_the_log(people):
    before = len(people.engine.log)
    with pytest.raises(RuleError, match="unknown name `amont`"):
        people.activate(1, when="amont > 1")
    with pytest.raises(InvalidEvent, match="does not begin with `lock:`"):
        people.engine.observe(Heartbeat(id="lock:p-1", happened_at=at(1)))
    assert len(people.engine.log) == before
    assert people.buy(2).rules == []


def lived(people):
    """A little of everything; the decisions."""
    people.activate(1)
    decisions = [people.buy(1 + k / 10, amount=50.0 + 10 * k, user=f"u-{k % 3}") for k in range(20)]
    people.order(LockSet, 4, user="u-1", score=0.7, expires_at=at(9), reason="x")
    people.activate(4, name="many", when="purchase_count_1h >= 1",
                    then=Effects(lock_score=0.6))  # fmt: skip
    decisions += [people.buy(5 + k / 100, amount=90.0, user=f"u-{k % 3}") for k in range(20)]
    people.activate(6, version=2, when="amount_usd > 80", share=0.5)
    return decisions + [people.buy(7 + k, amount=85.0, user=f"u-{k % 3}") for k in range(6)]


def timeless(decisions):
    return [
        {name: getattr(one, name) for name in one.__struct_fields__ if name != "latency_us"}
        for one in decisions
    ]


def test_every_decision_can_be_made_again_with_the_rules_of_its_time(people):
    decisions = lived(people)
    people.engine.log.sync()
    again = list(replayed(people.engine, people.engine.log))
    assert [decision for decision, _ in again] == decisions
    assert [differing for _, differing in again] == [[]] * len(decisions)
    # With the rules of now, the old ones would come out otherwise.
    assert people.engine.recompute(decisions[0]) == ["book"]


def test_the_facts_replayed_over_another_log_give_the_same_decisions(people):
    decisions = lived(people)
    people.engine.log.sync()
    facts = [event for batch in people.engine.log.read() for _, event in batch]
    other = opened()
    assert timeless(replay(other, facts, decide={"purchase"})) == timeless(decisions)
    assert other.book.hash == people.engine.book.hash
    assert len(other.log) == len(people.engine.log)


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_a_restart_forgets_no_rule_and_no_lock(tmp_path, with_snapshot):
    def run(restart_after):
        path = tmp_path / f"{restart_after}.sqlite"
        people = People(opened(SqliteLog(path, SCHEMA)))
        decisions = []
        people.activate(1)
        people.order(LockSet, 1, user="u-1", score=0.7, expires_at=at(99), reason="x")
        for k in range(12):
            if k == restart_after:
                people.engine.log.sync()
                snapshot = tmp_path / f"{restart_after}.npz"
                if with_snapshot:
                    people.engine.snapshot().write(snapshot)
                people.engine.log.close()
                people.engine = opened(SqliteLog(path, SCHEMA))
                people.engine.recover(snapshot)
            decisions.append(people.buy(2 + k, amount=150.0, user=f"u-{k % 2}"))
        people.engine.log.close()
        return timeless(decisions)

    assert run(restart_after=5) == run(restart_after=-1)


def test_what_is_rescored_is_decided_about_as_it_comes(people):
    signup = Signup(id="s", happened_at=at(1), known_at=at(1), user="bo", country="US")
    assert people.engine.take(signup)
    assert people.engine.latest("bo").about_type == "signup"
    assert not people.engine.take(signup)
    beat = Heartbeat(id="h", happened_at=at(1), known_at=at(1))
    assert people.engine.take(beat)
    assert people.engine.log.sync() == 3
