"""A sequence on the way of a decision: read, scored, recorded, made again, served."""

from dataclasses import replace

import msgspec
import numpy as np
import polars as pl
import pytest

from chopmark.decisions import score_reasons
from chopmark.engine import Application, replayed
from chopmark.errors import PolicyError
from chopmark.events import MemoryLog, SqliteLog
from chopmark.features import Catalog, Sequence, training_table
from chopmark.features.eventlists import as_served
from chopmark.models.families import readings_of
from chopmark.tabular import EasyML

from .shop import DECIDED, FEATURES, POLICY, SCHEMA, HandScorer, engine, run, timeless, traffic

HISTORY = Sequence(
    ("signup", "purchase", "chargeback"), fields=("amount_usd", "country"), name="history", last=40
)
DECISIONS = Sequence(("decision",), fields=("allowed_usd", "action"), name="decisions", last=10)
CATALOG = Catalog(SCHEMA, *FEATURES[:5], HISTORY, *FEATURES[5:], DECISIONS)
APPLICATION = Application(CATALOG, POLICY)
EVENTS = traffic(200)
PLACE = CATALOG.names.index("history")


class Listening(HandScorer):
    """Risk of how many events a user has, and of the amounts among them."""

    def __init__(self):
        super().__init__(CATALOG)
        self.reads = ("amount_usd", "history")
        self.feature_hashes = {name: CATALOG.hashes[name] for name in self.reads}

    def explain_row(self, values):
        amount, history = values
        parts = np.array([amount / 100.0, sum(one.get("amount_usd", 0.1) for one in history)])
        return 1.0 / (1.0 + np.exp(-(self.bias + parts.sum()))).item(), parts


def assessed(log):
    one = engine(log=log, scorer=Listening(), application=APPLICATION)
    return one, run(one, EVENTS)


def test_a_decision_with_sequences_is_made_again_from_the_log_of_another_day(tmp_path):
    log = SqliteLog(tmp_path / "log.sqlite", SCHEMA)
    one, decisions = assessed(log)
    one.snapshot().write(tmp_path / "state.npz")
    log.close()
    again = engine(
        log=SqliteLog(tmp_path / "log.sqlite", SCHEMA), scorer=Listening(), application=APPLICATION
    )
    assert again.recover(tmp_path / "state.npz") == one.offset
    found = list(replayed(again, again.log))
    assert [fields for _, fields in found] == [[]] * len(decisions)
    assert timeless([decision for decision, _ in found]) == timeless(decisions)
    assert max(len(decision.values[PLACE]) for decision in decisions) > 10
    again.log.close()


def test_a_changed_list_in_a_record_is_noticed():
    one, decisions = assessed(MemoryLog(SCHEMA))
    decision = next(each for each in decisions if len(each.values[PLACE]) > 2)
    values = [*decision.values]
    values[PLACE] = values[PLACE][1:]
    assert "inputs" in one.recompute(msgspec.structs.replace(decision, values=values))


def test_the_lists_that_were_served_are_those_of_a_training_table():
    one, decisions = assessed(MemoryLog(SCHEMA))
    batches = ([event for _, event in batch] for batch in one.log.read())
    table = training_table(CATALOG, batches, rows=sorted(DECIDED))
    assert table["event_id"].to_list() == [decision.about for decision in decisions]
    for name in ("history", "decisions"):
        place = CATALOG.names.index(name)
        assert [as_served(row) for row in table[name].to_list()] == [
            decision.values[place] for decision in decisions
        ]


def test_a_restart_from_a_snapshot_goes_on_as_if_there_had_been_none(tmp_path):
    _, expected = assessed(MemoryLog(SCHEMA))
    log = SqliteLog(tmp_path / "log.sqlite", SCHEMA)
    first = engine(log=log, scorer=Listening(), application=APPLICATION)
    run(first, EVENTS[:80])
    first.snapshot().write(tmp_path / "state.npz")
    done = run(first, EVENTS[80:120])
    second = engine(log=log, scorer=Listening(), application=APPLICATION)
    second.recover(tmp_path / "state.npz")
    tail = run(second, EVENTS[120:])
    assert timeless(tail) == timeless(expected[-len(tail) :])
    assert timeless(done) == timeless(expected[-len(tail) - len(done) : -len(tail)])
    log.close()


def test_a_reason_tells_how_many_events_and_not_which():
    _, decisions = assessed(MemoryLog(SCHEMA))
    told = [reason for decision in decisions for reason in decision.reasons]
    told = [reason for reason in told if reason.feature == "history"]
    assert {reason.value for reason in told} >= {"2 events", "3 events"}
    assert all(reason.text == f"history has {reason.value}: riskier" for reason in told)
    (one,) = score_reasons(["history"], [[{"type": "login", "age": 3}]], np.array([-1.0]))
    assert one.text == "history has 1 event: safer"


def test_an_engine_with_sequences_warms_up():
    engine(scorer=HandScorer(CATALOG), application=APPLICATION).warm()


def test_a_policy_that_reads_a_sequence_is_refused():
    with pytest.raises(PolicyError, match="`history`, a sequence; expected one that is a single"):
        Application(CATALOG, replace(POLICY, spent="history"))


def test_a_sequence_of_decisions_is_our_own_doing():
    assert "decisions" in APPLICATION.own
    assert "history" not in APPLICATION.own


def test_easyml_leaves_a_sequence_out_and_says_why():
    table = training_table(CATALOG, [EVENTS], rows=sorted(DECIDED)).select("history", "amount_usd")
    table = table.with_columns(label=(pl.col("amount_usd") > 20).cast(pl.Int8))
    model = EasyML().fit(table, target="label")
    assert model.reads == ("amount_usd",)
    (dropped,) = readings_of(model.scorer)[1]
    assert dropped.reason == "a sequence of events is not tabular; a model of sequences reads it"
    assert model.score(table).shape == (table.height,)
