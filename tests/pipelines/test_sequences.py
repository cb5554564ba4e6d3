"""A blend that reads histories: from a log to a file, and from the file to decisions."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import msgspec
import numpy as np
import polars as pl
import pytest

from chopmark.cli import model as commands
from chopmark.decisions import Decision
from chopmark.engine import Application, Engine, replay, replayed
from chopmark.errors import DeclarationError, FeatureError, InvalidTable, MissingExtra
from chopmark.events import MemoryLog, Vault, type_name
from chopmark.features import Catalog, Sequence, training_table
from chopmark.features.columns import known_instant
from chopmark.models import load_scorer
from chopmark.models.families import lists_of, readings_of
from chopmark.models.sequences import SequenceScorer
from chopmark.pipelines import demo, sequences, train
from chopmark.pipelines.exchange import EXCHANGE, HISTORY, LABEL, POLICY, application
from chopmark.pipelines.folder import DataFolder
from chopmark.pipelines.sequences import (
    Diary,
    SequenceBlend,
    histories_in,
    histories_of,
    needed_sequence,
    sequence_of,
)
from chopmark.pipelines.why import riskiest, why
from chopmark.tabular import EasyML

TINY = demo.Scale(num_users=150, days=190, live_days=30, fraud_scale=8.0)
SMALL = SequenceBlend(width=8, epochs=1.0, steps=4)


@pytest.fixture(scope="module")
def app():
    return application()


@pytest.fixture(scope="module")
def past():
    return demo.simulated(TINY, seed=1, end=datetime(2026, 6, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def folder(app, past, tmp_path_factory):
    """A data folder with the past; not to be written to but by `lived`."""
    folder = DataFolder(tmp_path_factory.mktemp("blend"))
    with folder.open_log(app) as log:
        demo.fill(log, folder.vault(), past.events, count=past.num_past,
                  on_progress=lambda done: None)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def watched(app, folder):
    """A trained blend, the last event each user model was given, and the last row of its fit."""
    seen, tables = [], []
    plain, plain_fit = sequences.histories_of, sequences.Pretrained.fit

    def noted(events):
        seen.append(events["known_at"].max())
        return plain(events)

    def fit(self, table, **options):
        tables.append(table["as_of"].max())
        return plain_fit(self, table, **options)

    with pytest.MonkeyPatch.context() as patch, folder.open_log(app, read_only=True) as log:
        patch.setattr(sequences, "histories_of", noted)
        patch.setattr(sequences.Pretrained, "fit", fit)
        trained = train(app, log, label=LABEL, model=SMALL)
        last = int(log.last_known_at)
    trained.model.save(folder.model)
    return trained, seen, tables, last


@pytest.fixture(scope="module")
def trained(watched):
    return watched[0]


@pytest.fixture(scope="module")
def lived(app, past, folder, trained):
    """The engine after the rest of the simulation, and its decisions."""
    one = folder.open_engine(app, trust_known_at=True)
    decisions = replay(one, past.events, decide=app.policy.assessed)
    yield one, decisions
    one.log.close()


def place_of(app):
    return app.catalog.names.index(HISTORY.name)


def test_the_history_names_nobody_and_holds_nothing_that_was_learned_later(app):
    fields = {name: EXCHANGE.fields[name] for name in HISTORY.fields}
    assert not any(field.personal or field.entity for field in fields.values())
    assert set(HISTORY.events).isdisjoint({"chargeback", "verdict", "decision", *app.own})
    assert sequence_of(app) is HISTORY
    assert HISTORY.name not in app.own


def test_a_blend_tells_what_each_part_is_worth(trained, app):
    assert set(trained.parts) == {"easyml", "seq2win", "embedding"}
    for found in (trained.metrics, *trained.parts.values()):
        assert 0.0 < found["log_loss"] < 1.0
    assert trained.parts["easyml"]["roc_auc"] > 0.75
    assert set(trained.model.weights) == set(trained.parts)
    reads = set(trained.model.reads)
    assert reads <= set(app.catalog.names)
    assert not reads & {*app.own, "as_of", "event_id", "label"}


def test_the_artifact_knows_its_list_and_the_features_it_was_made_of(trained, folder, app):
    scorer = load_scorer(folder.model)
    assert scorer.hash == trained.model.scorer.hash
    assert {name: scorer.feature_hashes[name] for name in scorer.reads} == {
        name: app.catalog.hashes[name] for name in scorer.reads
    }
    assert lists_of(scorer) == {HISTORY.name}
    kinds, dropped = readings_of(scorer)
    assert HISTORY.name not in kinds
    assert HISTORY.name not in {column.name for column in dropped}


def test_live_traffic_is_scored_by_the_blend_and_made_again_bit_for_bit(lived, app):
    one, decisions = lived
    assert len(decisions) > 50
    assert {decision.model for decision in decisions} == {one.scorer.hash}
    assert all(decision.score is not None for decision in decisions)
    one.log.sync()
    again = list(replayed(one, one.log))
    assert len(again) == len(decisions)
    assert [fields for _, fields in again if fields] == []
    at = place_of(app)
    listening = next(each for each in decisions if len(each.values[at] or ()) > 10)
    values = [*listening.values]
    values[at] = values[at][:-5]
    assert "inputs" in one.recompute(msgspec.structs.replace(listening, values=values))


def test_served_lists_and_scores_are_those_of_a_training_table(lived, past, trained, app):
    one, decisions = lived
    bought = [decision for decision in decisions if decision.about_type in demo.DECIDED]
    outcome = demo.judge(app, one.log, past.simulation, bought)
    assert outcome.differing_values == 0
    assert outcome.num_values == len(bought) * len(app.catalog.names)
    batches = ([event for _, event in batch] for batch in one.log.read())
    table = training_table(app.catalog, batches, rows=["purchase"], label=LABEL, immature=True)
    promised = dict(zip(table["event_id"], trained.model.score(table).tolist(), strict=True))
    assert [decision.score for decision in bought] == [promised[one.about] for one in bought]


def test_a_list_that_is_longer_or_emptier_moves_the_score(lived, app):
    one, decisions = lived
    at, scorer = place_of(app), one.scorer
    if HISTORY.name not in scorer.reads:
        pytest.fail("no part with a weight reads the history")
    decision = next(each for each in decisions if len(each.values[at] or ()) > 10)
    known = dict(zip(app.catalog.names, decision.values, strict=True))
    assert scorer.score_row([known[name] for name in scorer.reads]) == decision.score
    known[HISTORY.name] = []
    assert scorer.score_row([known[name] for name in scorer.reads]) != decision.score


def test_why_names_parts_columns_and_events(lived, app):
    one, decisions = lived
    risky = riskiest(app, decisions)
    assert risky is not None
    assert risky.score == max(each.score for each in decisions if each.values[place_of(app)])
    found = why(app, one.scorer, risky, count=3)
    assert {name for name, _ in found.parts} == set(one.scorer.names)
    assert len(found.columns) == 3
    sizes = [abs(move) for _, _, move in found.columns]
    assert sizes == sorted(sizes, reverse=True)
    listening = [part for part in one.scorer.parts if isinstance(part, SequenceScorer)]
    for part in listening:  # the oracle: the score with each event less the score without it
        history = risky.values[place_of(app)]
        event, move = found.events[0]
        assert abs(move) == max(abs(part.explain_events(history)))
        rest = [each for each in history if each is not event]
        assert len(rest) == len(history) - 1
        z = [np.log(s) - np.log1p(-s) for s in map(part.score_row, ([history], [rest]))]
        assert z[0] - z[1] == pytest.approx(move, abs=1e-6)
    assert len(found.events) == (min(3, len(risky.values[place_of(app)])) if listening else 0)


SERVED = """
import json, sys
from pathlib import Path
from chopmark.pipelines.exchange import EXCHANGE, application
from chopmark.engine import Engine
from chopmark.events import MemoryLog, Vault
from chopmark.models import load_scorer
engine = Engine(application(), log=MemoryLog(EXCHANGE), vault=Vault(bytes(32)),
                scorer=load_scorer(sys.argv[1]), trust_known_at=True)
engine.warm()
for line in sys.stdin:
    engine.take(EXCHANGE.decode(line.encode()))
engine.log.sync()
decision = engine.latest(json.loads(line)["user"])
heavy = {"torch", "polars", "sklearn", "lightgbm", "pandas", "pyarrow"}
print(json.dumps([decision.score, decision.model, sorted(heavy & set(sys.modules))]))
"""


def test_a_process_without_torch_polars_or_sklearn_gives_the_same_score(lived, folder, app):
    """One user's events go in, the last of them a sale, which is decided about."""
    one, decisions = lived
    decision = next(each for each in reversed(decisions) if each.about_type == "sale")
    events = []
    for batch in one.log.read():
        for _, event in batch:
            ours = not isinstance(event, Decision) and getattr(event, "user", "") == decision.user
            if ours and (not events or events[-1].id != decision.about):
                events.append(event)
    text = b"\n".join(EXCHANGE.encode(event) for event in events).decode()
    ended = subprocess.run(
        [sys.executable, "-c", SERVED, str(folder.model)], input=text, text=True,
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    score, made_by, heavy = json.loads(ended.stdout)
    assert (made_by, heavy) == (one.scorer.hash, [])
    fresh = Engine(app, log=MemoryLog(EXCHANGE), vault=Vault(bytes(32)), scorer=one.scorer,
                   trust_known_at=True)  # fmt: skip
    for event in events:
        fresh.take(event)
    fresh.log.sync()
    assert score == fresh.latest(decision.user).score


def test_the_diary_of_a_log_holds_what_the_lists_of_a_table_hold(app, folder):
    """Two ways to the same events: as they are read, and as the fold lists them for a row."""
    diary = Diary(HISTORY, EXCHANGE)
    with folder.open_log(app, read_only=True) as log:
        batches = ([event for _, event in batch] for batch in log.read())
        table = training_table(Catalog(EXCHANGE, HISTORY), diary.along(batches), rows=["sale"])
        known = {event.id: event for batch in log.read() for _, event in batch}
    events = diary.events()
    assert events.height == sum(type_name(one) in HISTORY.events for one in known.values())
    checked = 0
    for about, listed in table.select("event_id", HISTORY.name).tail(20).iter_rows():
        now = known_instant(known[about])
        seen = events.filter(pl.col("user") == known[about].user, pl.col("known_at") <= now)
        seen = seen.sort("happened_at", maintain_order=True)
        ages = [now - when for when in seen["happened_at"].to_list()]
        # The row's own event is in the log, and not in its own past.
        both = list(zip(seen["type"], ages, seen["page"], seen["amount_usd"], strict=True))
        told = [(one["type"], one["age"], one["page"], one["amount_usd"]) for one in listed]
        start = len(both) - 1 - len(told)
        if both[-1][0] == "sale":
            assert both[start : len(both) - 1] == told
            checked += 1
    assert checked > 10
    assert histories_of(events).num_events == events.height


def test_no_user_model_sees_what_was_known_after_the_first_row_held_out(watched):
    """The last event that each fit was given, against the rows that judge it."""
    trained, seen, tables, last = watched
    assert trained.model.training["num_rows"] == trained.num_rows
    first, second, everything = (int(at.timestamp() * 1e6) for at in tables)
    assert first < second < everything
    assert seen[0] < second
    assert seen[1] < everything
    assert last - 86_400_000_000 < seen[2] <= last


def test_without_torch_a_blend_says_what_it_needs(app, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with (
        folder.open_log(app, read_only=True) as log,
        pytest.raises(MissingExtra, match=r"pip install 'chopmark\[deep\]'"),
    ):
        train(app, log, label=LABEL, model=SMALL)
    assert "pip install 'chopmark[deep]'" in commands.LEFT_OUT


def test_a_blend_needs_a_sequence(app):
    features = [one for one in app.catalog.features if not isinstance(one, Sequence)]
    deaf = Application(Catalog(EXCHANGE, *features), POLICY)
    with pytest.raises(FeatureError, match="expected a `Sequence` of users"):
        needed_sequence(deaf)
    with pytest.raises(FeatureError, match="declare one, or train EasyML alone"):
        train(deaf, MemoryLog(EXCHANGE), label=LABEL, model=SMALL)
    own = Sequence(("decision",), fields=("allowed_usd",), name="decided")
    assert sequence_of(Application(Catalog(EXCHANGE, own, *features), POLICY)) is None


HOUR = 3_600_000_000


def stays(num_users=60, rows_each=2):
    """Rows of users whose list tells half of the label and a number the other half."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(num_users):
        for visit in range(rows_each):
            count = int(rng.integers(2, 12))
            kinds = rng.choice(["calm", "alarm"], count, p=[0.7, 0.3])
            ages = np.sort(rng.integers(0, 48 * HOUR, count))[::-1].tolist()
            age = float(rng.normal(60.0, 10.0))
            risk = float((kinds == "alarm").sum()) / 3.0 + (age - 60.0) / 10.0 - 1.0
            events = [{"type": str(kind), "age": at} for kind, at in zip(kinds, ages, strict=True)]
            bad = int(rng.random() < 1.0 / (1.0 + np.exp(-2.0 * risk)))
            rows.append({"name": f"user-{user}", "visit": visit, "age_years": age,
                         "seen": events, "bad": bad})  # fmt: skip
    return pl.DataFrame(rows)


BY_USERS = SequenceBlend(width=8, epochs=1.0, steps=2, split="users", easyml=EasyML(model="linear"))


def test_a_table_that_is_no_stream_is_split_by_users_none_on_both_sides(monkeypatch, tmp_path):
    table, fits, learned = stays(), [], []
    plain_fit, plain_lists = sequences.Pretrained.fit, sequences.histories_in

    def fit(self, rows, **options):
        fits.append(rows)
        return plain_fit(self, rows, **options)

    def lists(rows, column, user):
        learned.append(plain_lists(rows, column, user))
        return learned[-1]

    monkeypatch.setattr(sequences.Pretrained, "fit", fit)
    monkeypatch.setattr(sequences, "histories_in", lists)
    model = BY_USERS.fit(table, target="bad", user="name")
    assert [rows.height for rows in fits] == [60, 60, 120]
    sides = [set(rows["name"]) for rows in fits]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == sides[2]
    # The user model of a fold reads the lists of its own rows, one of each user.
    assert [len(histories) for histories in learned] == [30, 30, 60]
    assert set(model.held_out) == {"easyml", "seq2win", "embedding", "blend"}
    assert "name" not in model.reads
    model.save(tmp_path / "stays.chopmark")
    asked = table.drop("bad", "name")
    assert np.array_equal(load_scorer(tmp_path / "stays.chopmark").score(asked), model.score(asked))


def test_of_a_user_with_several_lists_the_longest_is_learned_from():
    def events(count):
        return [{"type": "view", "age": age} for age in range(count, 0, -1)]

    table = pl.DataFrame(
        {"name": ["a", "b", "a", "c"], "seen": [events(2), events(1), events(5), None]},
        schema_overrides={"seen": pl.List(pl.Struct({"type": pl.String, "age": pl.Int64}))},
    )
    of_users = histories_in(table, "seen", "name")
    assert sorted(np.diff(of_users.offsets).tolist()) == [0, 1, 5]
    assert np.diff(histories_in(table, "seen", None).offsets).tolist() == [2, 1, 5, 0]


def test_a_split_that_cannot_be_is_refused():
    with pytest.raises(DeclarationError, match="expected time or users as the split"):
        SequenceBlend(split="user")
    table = stays(num_users=4)
    with pytest.raises(InvalidTable, match=r'`as_of` to split by time.*split="users"'):
        SMALL.fit(table, target="bad")
    with pytest.raises(InvalidTable, match=r"`nam` to split by users.*did you mean `name`"):
        BY_USERS.fit(table, target="bad", user="nam")
    for user, words in (("seen", "got List"), ("bad", "got the label")):
        with pytest.raises(InvalidTable, match=rf"names or numbers in .*{user}.*{words}"):
            BY_USERS.fit(table, target="bad", user=user)
    nameless = table.with_columns(name=pl.when(pl.int_range(pl.len()) > 0).then(pl.lit("ann")))
    with pytest.raises(InvalidTable, match="got nothing in 1 of 8 rows"):
        BY_USERS.fit(nameless, target="bad", user="name")
    with pytest.raises(DeclarationError, match="the order of time"):
        BY_USERS.unfitted(HISTORY, pl.DataFrame(), pl.Series())
