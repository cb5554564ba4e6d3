"""One function assesses an event, and its state is a fold of the log whatever fails."""

from itertools import pairwise
from typing import Annotated

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.datasets import simulate
from chopmark.decisions import Decision, Policy, decision_id
from chopmark.engine import Application, replay
from chopmark.errors import (
    AlreadyTaken,
    ArtifactError,
    InvalidEvent,
    LogUnavailable,
    PolicyError,
    SchemaError,
)
from chopmark.events import Carried, Entity, Event, MemoryLog, Schema, SqliteLog, Usd
from chopmark.features import Aggregate, Catalog, Lookup, training_table
from chopmark.features.eventlists import as_served
from chopmark.pipelines import exchange
from chopmark.testing.stores import check_store

from .shop import (
    APPLICATION,
    DECIDED,
    POLICY,
    SCHEMA,
    Chargeback,
    FlakyLog,
    HandScorer,
    Heartbeat,
    Purchase,
    Signup,
    at,
    engine,
    purchase,
    run,
    timeless,
    traffic,
)

EVENTS = traffic(300)


def test_the_failing_log_of_these_tests_keeps_the_contract():
    check_store(FlakyLog, durable=False)


def test_a_decision_holds_all_that_made_it():
    one = engine(scorer=HandScorer())
    answer = one.assess(purchase("p1", 0, amount=30.0, card="4111-1111"))
    decision = answer.decision
    assert (decision.id, decision.about, decision.about_type) == ("decision:p1", "p1", "purchase")
    assert (decision.user, decision.happened_at, decision.known_at) == ("ann", at(0), at(0))
    assert decision.catalog == APPLICATION.catalog.hash
    assert (decision.model, decision.policy) == ("hand-made", POLICY.hash)
    assert decision.score == HandScorer().score_row([30.0, 0.0])
    assert decision.limit_usd == POLICY.curve.limit_usd(decision.score)
    assert (decision.action, decision.allowed_usd) == ("allow", 30.0)
    known = dict(zip(APPLICATION.catalog.names, decision.values, strict=True))
    assert (known["amount_usd"], known["purchase_count_7d"]) == (30.0, 0.0)
    assert (known["signup_country"], known["purchase_amount_usd_mean_1h"]) == (None, None)
    assert one.log.get_body("decision:p1") == answer.body == SCHEMA.encode(decision)
    assert answer.offset == 2
    assert one.log.sync() == 2
    assert one.latest("ann") == decision
    assert one.latest("bo") is None


def test_the_card_is_sealed_before_anything_sees_it():
    one = engine()
    one.assess(purchase("p1", 0, card="4111-1111"))
    sealed = one.log.find("p1")
    assert sealed.card.startswith("tok_")
    assert b"4111" not in one.log.get_body("p1") + one.log.get_body("decision:p1")


def test_features_are_read_before_the_event_and_know_earlier_decisions():
    one = engine()
    place = {name: i for i, name in enumerate(APPLICATION.catalog.names)}
    first = one.assess(purchase("p1", 0, amount=30.0)).decision
    second = one.assess(purchase("p2", 1, amount=30.0)).decision
    third = one.assess(purchase("p3", 2, amount=30.0)).decision
    counts = [d.values[place["purchase_count_1h"]] for d in (first, second, third)]
    spent = [d.values[place["decision_allowed_usd_sum_7d"]] for d in (first, second, third)]
    assert counts == [0.0, 1.0, 2.0]
    assert spent == [0.0, 30.0, 50.0]
    assert [d.action for d in (first, second, third)] == ["allow", "reduce", "wait"]
    assert [d.allowed_usd for d in (first, second, third)] == [30.0, 20.0, 0.0]


def test_a_repeat_gets_the_recorded_answer_and_changes_nothing():
    one, other = engine(scorer=HandScorer()), engine(scorer=HandScorer())
    for number, event in enumerate(EVENTS):
        if isinstance(event, Purchase):
            first = one.assess(event)
            again = one.assess(msgspec.structs.replace(event, device="another"))
            assert again.repeated
            assert not first.repeated
            assert (again.decision, again.body) == (first.decision, first.body)
            other.assess(event)
        else:
            assert one.observe(event) == one.offset
            assert one.observe(event) is None
            other.observe(event)
        if number % 10 == 0:
            one.log.sync()
    later = [purchase(f"later{n}", 10**8 + n, user=f"u{n}") for n in range(6)]
    assert timeless(run(one, later)) == timeless(run(other, later))


def test_an_id_is_not_given_to_another_user_or_amount():
    one = engine()
    one.assess(purchase("p1", 0, user="ann"))
    one.observe(purchase("p2", 1, user="ann"))
    for strange in (purchase("p1", 2, user="bob"), purchase("p1", 2, user="ann", amount=7.0)):
        with pytest.raises(AlreadyTaken, match="other content"):
            one.assess(strange)
    with pytest.raises(AlreadyTaken, match="other content"):
        one.observe(purchase("p2", 2, user="bob"))
    assert one.assess(purchase("p1", 3, user="ann")).repeated


def test_a_policy_must_bound_whole_cents_of_what_exists():
    for policy in (Policy(gated=("purchases",)), Policy(amount="amount")):
        with pytest.raises(PolicyError, match="which"):
            Application(APPLICATION.catalog, policy)


def test_a_snapshot_of_another_log_is_not_taken(tmp_path):
    others = [purchase(f"other{n}", n) for n in range(40)]
    one, other, same = engine(), engine(), engine()
    run(one, EVENTS[:40])
    run(other, others)
    run(same, others)
    one.snapshot().write(tmp_path / "state.npz")
    rebuilt = engine(log=other.log)
    rebuilt.recover(tmp_path / "state.npz")
    later = [purchase(f"later{n}", 10**8 + n, user=f"u{n}") for n in range(6)]
    assert timeless(run(rebuilt, later)) == timeless(run(same, later))


def test_what_cannot_be_decided_about():
    one = engine()
    decision = one.assess(purchase("p1", 0)).decision
    for act in (one.assess, one.observe, lambda event: one.check(event, decide=True)):
        with pytest.raises(InvalidEvent, match="got a `decision`: these are made here"):
            act(msgspec.structs.replace(decision, id="mine"))
    with pytest.raises(InvalidEvent, match=r"expected a `user`.*`nobody`.*at `\$.user`"):
        one.assess(purchase("nobody", 1, user=None))
    with pytest.raises(InvalidEvent, match="event type `heartbeat`"):
        one.assess(Heartbeat(id="h", happened_at=at(1), known_at=at(1)))
    one.observe(Chargeback(id="c", happened_at=at(2), known_at=at(2), user="ann"))
    with pytest.raises(AlreadyTaken, match="`c` was taken in earlier without a decision"):
        one.assess(Chargeback(id="c", happened_at=at(2), known_at=at(2), user="ann"))
    with pytest.raises(SchemaError, match="got `Foreign`"):
        one.assess(Foreign(id="f", happened_at=at(3), known_at=at(3), user="ann"))
    assert one.log.sync() == 3
    assert one.assess(purchase("p2", 4)).offset == 5, "none of these did any harm"


class Foreign(Event):
    user: str


def test_live_traffic_may_not_say_when_it_was_known():
    one = engine(trust_known_at=False)
    with pytest.raises(InvalidEvent, match="expected no `known_at`"):
        one.assess(purchase("p1", 0))
    with pytest.raises(InvalidEvent, match="expected no `known_at`"):
        one.observe(purchase("p1", 0))
    answer = one.assess(purchase("p1", 0, known=False))
    assert answer.decision.known_at == one.log.find("p1").known_at > at(0)


def test_a_clock_that_goes_backwards_stops_the_time_of_the_log():
    one = engine()
    one.assess(purchase("p1", 1_000))
    late = one.assess(purchase("p2", 0)).decision
    assert late.known_at == at(1_000)
    assert one.log.find("p2").happened_at == at(0)
    assert one.assess(purchase("p3", 1_001)).decision.values[1] == 2.0


def test_check_says_what_assess_would_and_changes_nothing():
    one = engine()
    one.observe(EVENTS[0])
    bad = purchase("nobody", 1, user=None)
    with pytest.raises(InvalidEvent, match="expected a `user`"):
        one.check(bad, decide=True)
    one.check(bad, decide=False)
    one.check(purchase("p", 10**7), decide=True)
    with pytest.raises(AlreadyTaken):
        one.check(EVENTS[0], decide=True)
    one.check(EVENTS[0], decide=False)
    assert one.log.sync() == 1
    assert one.offset == 1


def assert_default(decision, code):
    assert decision.score is None
    assert decision.limit_usd == POLICY.default_limit_usd
    assert code in [reason.code for reason in decision.reasons]


def test_without_a_model_the_default_limit_holds_and_says_so():
    decision = engine().assess(purchase("p", 0)).decision
    assert_default(decision, "no_model")
    assert decision.model is None
    assert decision.action == "allow"


def fail():
    raise ZeroDivisionError("in the model")


def test_a_model_that_fails_leaves_the_default_limit_and_says_so(caplog):
    one = engine(scorer=HandScorer(breaks=fail))
    assert_default(one.assess(purchase("p", 0)).decision, "model_failed")
    assert "the model failed on one event" in caplog.text
    one.use(HandScorer())
    assert one.assess(purchase("p2", 1)).decision.score is not None
    one.use(None)
    assert_default(one.assess(purchase("p3", 2)).decision, "no_model")


@pytest.mark.parametrize("score", [float("nan"), 1.5, -0.1, None, "high"])
def test_a_model_that_gives_no_score_leaves_the_default_limit_and_says_so(score):
    one = engine(scorer=HandScorer(breaks=lambda: (score, np.zeros(2))))
    assert_default(one.assess(purchase("p", 0)).decision, "model_failed")
    one.assess(purchase("p2", 1))


def test_a_model_of_other_features_is_refused():
    one = engine()
    scorer = HandScorer()
    scorer.reads = ("amount_usd", "purchase_count_2h")
    with pytest.raises(ArtifactError, match="which the catalog lacks; did you mean"):
        one.use(scorer)
    scorer = HandScorer()
    scorer.feature_hashes = dict.fromkeys(scorer.reads, "other")
    with pytest.raises(ArtifactError, match="another definition of feature `amount_usd`"):
        one.use(scorer)
    scorer.feature_hashes = {}
    with pytest.raises(ArtifactError, match="another definition"):
        one.use(scorer)
    assert_default(one.assess(purchase("p", 0)).decision, "no_model")


def test_an_application_needs_decisions_and_what_the_policy_reads():
    with pytest.raises(SchemaError, match="needs the event type `Decision`"):
        Application(Catalog(Schema(Signup, Purchase), Aggregate("purchase", "count")))
    with pytest.raises(PolicyError, match="reads feature `decision_allowed_usd_sum_7d`"):
        Application(Catalog(SCHEMA, Aggregate("purchase", "count")))


@pytest.mark.parametrize("place", ["append", "sync"])
@pytest.mark.parametrize("after", [0, 1, 40, 41, 111])
def test_a_failing_log_leaves_nothing_half_applied(place, after):
    log = FlakyLog(SCHEMA)
    one = engine(log=log, scorer=HandScorer())
    run(one, EVENTS[:after])
    staged = EVENTS[after : after + 5]
    for event in staged:
        one.assess(event) if isinstance(event, Purchase) else one.observe(event)
    log.fails = place
    victim = purchase("victim", 10**8)
    with pytest.raises(LogUnavailable):
        run(one, [victim])
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            one.assess(purchase("another", 10**8))
        with pytest.raises(LogUnavailable):
            one.observe(purchase("another", 10**8))
    durable = log.last_offset
    assert one.recover() == durable == log.last_offset
    assert log.find("victim") is None
    # As an engine that never failed: what was lost is sent again.
    never = engine(scorer=HandScorer())
    run(never, EVENTS[:after])
    rest = [*staged, *EVENTS[after + 5 :], victim]
    assert timeless(run(one, rest)) == timeless(run(never, rest))


def test_recover_equals_a_rebuild_from_zero(tmp_path):
    one = engine(scorer=HandScorer())
    run(one, EVENTS[:200])
    one.snapshot().write(tmp_path / "state.npz")
    run(one, EVENTS[200:])
    rebuilt, resumed = engine(log=copy_of(one.log)), engine(log=copy_of(one.log))
    for other in (rebuilt, resumed):
        other.use(HandScorer())
    assert rebuilt.recover() == one.offset
    assert resumed.recover(tmp_path / "state.npz") == one.offset
    later = [purchase(f"later{n}", 10**8 + n, user=f"u{n % 6}", device="d1") for n in range(20)]
    expected = timeless(run(one, later))
    assert timeless(run(rebuilt, later)) == expected
    assert timeless(run(resumed, later)) == expected


def copy_of(log):
    copy = MemoryLog(log.schema)
    for batch in log.read_bodies():
        for _, body in batch:
            copy.append(log.schema.decode(body))
    copy.sync()
    return copy


@pytest.mark.parametrize("content", [None, b"", b"torn", bytes(1000)])
def test_a_bad_snapshot_is_rebuilt_from_the_first_event(tmp_path, content):
    path = tmp_path / "state.npz"
    if content is not None:
        path.write_bytes(content)
    one = engine()
    run(one, EVENTS[:60])
    other = engine(log=copy_of(one.log))
    assert other.recover(path) == one.offset
    assert timeless(run(other, EVENTS[60:90])) == timeless(run(one, EVENTS[60:90]))


def test_a_snapshot_ahead_of_the_log_is_rebuilt(tmp_path):
    one = engine()
    run(one, EVENTS[:60])
    one.snapshot().write(tmp_path / "state.npz")
    behind, fresh = engine(), engine()
    run(behind, EVENTS[:20])
    run(fresh, EVENTS[:20])
    behind.recover(tmp_path / "state.npz")
    assert timeless(run(behind, EVENTS[20:80])) == timeless(run(fresh, EVENTS[20:80]))


@settings(max_examples=15)
@given(st.lists(st.integers(0, 250), max_size=4), st.integers(0, 3))
def test_decisions_do_not_depend_on_restarts(restarts, seed):
    events = traffic(250, seed=seed + 10)
    whole = engine(scorer=HandScorer())
    expected = timeless(run(whole, events))
    found, log = [], MemoryLog(SCHEMA)
    cuts = [0, *sorted(restarts), len(events)]
    for start, end in pairwise(cuts):
        one = engine(log=log, scorer=HandScorer())
        one.recover()
        found += run(one, events[start:end])
    assert timeless(found) == expected


def test_replay_over_another_log_gives_the_same_decisions():
    one, other = engine(scorer=HandScorer()), engine(scorer=HandScorer())
    decisions = run(one, EVENTS)
    facts = [
        event for batch in one.log.read() for _, event in batch if not isinstance(event, Decision)
    ]
    again = replay(other, facts, decide=DECIDED)
    assert timeless(again) == timeless(decisions)
    assert len({decision.id for decision in decisions}) == len(decisions) > 200


def test_a_decision_can_be_made_again_from_its_record():
    one = engine(scorer=HandScorer())
    decisions = run(one, EVENTS)
    recorded = [one.log.find(decision.id) for decision in decisions]
    read = [SCHEMA.decode(SCHEMA.encode(decision)) for decision in decisions]
    assert recorded == decisions == read
    assert all(one.recompute(decision) == [] for decision in read)


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"score": 0.123}, ["score"]),
        ({"limit_usd": 1.0}, ["limit_usd"]),
        ({"allowed_usd": 1.0}, ["allowed_usd"]),
        ({"action": "wait"}, ["action"]),
        ({"reasons": []}, ["reasons"]),
        ({"catalog": "other"}, ["catalog"]),
        ({"policy": "other"}, ["policy"]),
        ({"model": "other"}, ["model"]),
        ({"model": None, "catalog": ""}, ["catalog", "model"]),
    ],
)
def test_a_changed_record_is_found_out(changes, differing):
    one = engine(scorer=HandScorer())
    decision = one.assess(purchase("p", 0, amount=80.0)).decision
    assert one.recompute(decision) == []
    assert one.recompute(msgspec.structs.replace(decision, **changes)) == differing
    values = [99.0, *decision.values[1:]]
    changed = msgspec.structs.replace(decision, values=values)
    assert set(one.recompute(changed)) >= {"score", "limit_usd", "reasons"}


def test_reasons_name_the_features_that_moved_the_score():
    decision = engine(scorer=HandScorer()).assess(purchase("p", 0, amount=400.0)).decision
    assert [reason.code for reason in decision.reasons] == ["limit", "feature"]
    strongest = decision.reasons[1]
    assert (strongest.feature, strongest.value, strongest.log_odds) == ("amount_usd", 400.0, 3.0)
    assert strongest.text == "amount_usd = 400: riskier"


def test_the_longest_id_is_read_back():
    """The id of its decision is longer than an event's may be."""
    one = engine()
    name = "x" * 128
    one.assess(purchase(name, 0))
    one.log.sync()
    other = engine(log=copy_of(one.log))
    assert other.recover() == 2
    assert other.assess(purchase(name, 0)).repeated
    assert other.log.find(decision_id(name)).about == name


def test_an_event_cannot_take_the_id_of_a_decision():
    one = engine()
    with pytest.raises(InvalidEvent):
        one.observe(purchase("decision:p1", 0))
    with pytest.raises(InvalidEvent):
        one.assess(purchase("decision:p1", 0))
    one.assess(purchase("p1", 1))
    one.assess(purchase("p2", 2))


@pytest.mark.parametrize(
    "event",
    [
        lambda: purchase("\ud800", 1),
        lambda: purchase("p", 1, user="\udfff"),
        lambda: Purchase(id="p", happened_at=at(1), known_at=at(1), user="ann", amount_usd="ten"),
        lambda: Purchase(
            id="p", happened_at=at(1).replace(tzinfo=None), known_at=at(1), user="a", amount_usd=1.0
        ),
    ],
)
def test_an_event_that_no_decoder_let_in_does_not_stop_the_next(event):
    one = engine()
    with pytest.raises((InvalidEvent, UnicodeEncodeError, TypeError, ValueError)):
        one.assess(event())
    one.assess(purchase("next", 2))


class Picky(Event):
    user: Annotated[str, Entity("user")]
    country: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$")]
    amount_usd: Usd
    tries: Annotated[int, msgspec.Meta(ge=10)]
    tags: Annotated[list[str], msgspec.Meta(min_length=1), Carried()]


def test_warming_up_minds_no_constraint():
    catalog = Catalog(
        Schema(Picky, Decision), Aggregate("decision", "sum", of="allowed_usd", window="7d")
    )
    engine(application=Application(catalog, Policy(gated=("picky",)))).warm()


def test_warming_up_changes_nothing():
    one, other = engine(scorer=HandScorer()), engine(scorer=HandScorer())
    run(one, EVENTS[:50])
    run(other, EVENTS[:50])
    one.warm()
    assert timeless(run(one, EVENTS[50:90])) == timeless(run(other, EVENTS[50:90]))


def test_lookups_of_decisions_are_learned_live_too():
    catalog = Catalog(SCHEMA, Lookup("decision", "allowed_usd"), Aggregate("purchase", "count"))
    application = Application(catalog, Policy(spent="purchase_count"))
    one = engine(application=application)
    run(one, EVENTS[:50])
    rebuilt = engine(application=application, log=copy_of(one.log))
    rebuilt.recover()
    assert timeless(run(one, EVENTS[50:80])) == timeless(run(rebuilt, EVENTS[50:80]))


def test_served_values_equal_training_rows_on_a_simulated_exchange(tmp_path):
    """About 20,000 events of all 16 types through the whole exchange: not a bit differs."""
    application = exchange.application()
    simulation = simulate(num_users=300, days=60, seed=4, fraud_scale=3.0)
    assert simulation.num_events > 18_000
    with SqliteLog(tmp_path / "log.sqlite", application.catalog.schema) as log:
        one = engine(log=log, application=application)
        decisions = replay(one, simulation.events(), decide=DECIDED)
        batches = ([event for _, event in batch] for batch in log.read())
        table = training_table(application.catalog, batches, rows=("purchase",))
        rebuilt = engine(log=log, application=application)
        assert rebuilt.recover() == one.offset
    assert table["event_id"].to_list() == [decision.about for decision in decisions]
    rows = table.select(application.catalog.names).rows()
    assert len(rows) > 1_000
    differing = sum(
        (as_served(a) if isinstance(a, list) else a) != b
        for row, decision in zip(rows, decisions, strict=True)
        for a, b in zip(row, decision.values, strict=True)
    )
    assert differing == 0
    frozen, again = one.snapshot(), rebuilt.snapshot()
    assert frozen.about["offset"] == again.about["offset"]
