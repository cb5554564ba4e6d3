"""The desk from the command line: a rule's life, locks, and decisions told and made again."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from chopmark.engine import Engine
from chopmark.events import type_name
from chopmark.pipelines.exchange import application
from chopmark.pipelines.folder import DataFolder

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")

DRAFT = ("many", "--when", "purchase_count_1h >= 1 and amount_usd > 50", "--limit-at-most-usd", 100,
         "--because", "several in an hour", "--author", "ann")  # fmt: skip


@pytest.fixture
def data(ingested, tmp_path):
    """A copy to give orders to."""
    return shutil.copytree(ingested, tmp_path / "data")


def logged(data, kind):
    """Bodies of the events of a type in the log."""
    with closing(sqlite3.connect(data / "log.sqlite")) as connection:
        rows = connection.execute("SELECT body FROM events WHERE type = ?", (kind,)).fetchall()
    return [json.loads(body) for (body,) in rows]


def assert_refused(ended, *words):
    code, _, err = ended
    assert code == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_the_life_of_a_rule(chopmark, data):
    code, out, err = chopmark("rules", "draft", data, *DRAFT)
    assert (code, err) == (0, "")
    assert "rule many, version 1: limit at most 100 USD a week" in out
    code, out, _ = chopmark("rules", "backtest", data, "many")
    assert code == 0
    assert "Good, and hit" in out
    assert "precision" in out
    assert_refused(
        chopmark("rules", "stage", data, "many", "active", "--author", "ann"), "has no review"
    )
    assert_refused(chopmark("rules", "review", data, "many", 1, "--author", "ann"), "somebody else")
    assert chopmark("rules", "stage", data, "many", "shadow", "--author", "ann")[0] == 0
    assert chopmark("rules", "review", data, "many", 1, "--author", "bob")[0] == 0
    code, out, _ = chopmark(
        "rules", "stage", data, "many", "active", "--author", "ann", "--approver", "bob"
    )
    assert code == 0
    assert "it would have moved" in out
    assert 0 < logged(data, "rule_staged")[-1]["moves"] < 1
    code, out, _ = chopmark("rules", "list", data)
    assert code == 0
    assert "active" in out
    assert "by bob" in out
    snooze = ("--reason", "known", "--author", "ann", "--user", "u-1")
    assert chopmark("rules", "snooze", data, "many", *snooze)[0] == 0
    assert chopmark("rules", "stage", data, "many", "off", "--author", "ann")[0] == 0
    assert [order["stage"] for order in logged(data, "rule_staged")] == ["shadow", "active", "off"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--when", "amont_usd > 1", "--deny"), ("did you mean `amount_usd`?", "^")),
        (("--when", "amount_usd > 1"), ("at least one effect",)),
        (("--when", "amount_usd > 1", "--lock-score", 80), ("write 0.8 for 80 of 100",)),
        (("--when", "amount_usd > 1", "--friction", "selfy"), ("no friction `selfy`",)),
    ],
)
def test_a_rule_that_cannot_be_is_not_written(arguments, words, chopmark, data):
    ended = chopmark("rules", "draft", data, "x", *arguments, "--because", "b", "--author", "ann")
    assert_refused(ended, *words)
    assert logged(data, "rule_drafted") == []


def test_a_condition_is_tried_before_it_is_written(chopmark, data):
    code, out, _ = chopmark("rules", "backtest", data, "--when", "amount_usd > 100")
    assert code == 0
    assert "tried" in out
    assert_refused(chopmark("rules", "backtest", data), "expected a rule to judge")
    assert_refused(chopmark("rules", "backtest", data, "few"), "there is no rule `few`")


def test_a_list_is_made_shown_and_dropped(chopmark, data):
    chopmark("rules", "members", data, "bad", "--add", "First", "--add", "Second", "--author", "a")
    code, out, _ = chopmark("rules", "members", data, "bad")
    assert (code, out.split()) == (0, ["First", "Second"])
    assert_refused(chopmark("rules", "members", data, "bat"), "did you mean `bad`?")
    assert chopmark("rules", "members", data, "bad", "--drop", "--author", "a")[0] == 0
    assert_refused(chopmark("rules", "members", data, "bad"), "there is no list")


def test_suggestions_come_with_their_reasons_or_not_at_all(chopmark, data):
    code, out, _ = chopmark("rules", "suggest", data)
    assert code == 0
    assert "were bad" in out or "nothing that users" in out


def test_functions_are_listed(chopmark):
    code, out, _ = chopmark("rules", "functions")
    assert code == 0
    for name in ("matches(x", "name_similarity(x, y)", 'x in list("name")', "missing(x)"):
        assert name in out


def test_orders_about_users_are_in_the_log_or_printed(chopmark, data):
    who = ("u-1", "--reason", "a call", "--author", "bob")
    assert chopmark("user", "lock", data, *who, "--score", 0.8, "--approver", "cy")[0] == 0
    assert chopmark("user", "override", data, *who, "--limit-usd", 500)[0] == 0
    assert chopmark("user", "ban", data, *who)[0] == 0
    assert chopmark("user", "ban", data, *who, "--lift")[0] == 0
    assert chopmark("user", "release", data, *who)[0] == 0
    assert chopmark("user", "vip", data, "u-1", "--author", "bob")[0] == 0
    kinds = ("lock_set", "override_set", "banned", "ban_lifted", "lock_released",
             "override_released", "vip_marked")  # fmt: skip
    assert [len(logged(data, kind)) for kind in kinds] == [1] * len(kinds)
    assert_refused(chopmark("user", "lock", data, *who, "--score", 80), "write 0.8 for 80 of 100")
    code, out, _ = chopmark("user", "lock", data, *who, "--score", 0.8, "--as-json")
    order = application().catalog.schema.decode(out)
    assert (code, type_name(order), order.score) == (0, "lock_set", 0.8)
    assert len(logged(data, "lock_set")) == 1


def test_a_decision_is_told_and_made_again(chopmark, data):
    folder, app = DataFolder(data), application()
    engine = folder.open_engine(app)
    pattern = next(
        event for batch in engine.log.read() for _, event in batch if type_name(event) == "purchase"
    )
    bought = {
        name: getattr(pattern, name)
        for name in app.catalog.schema.fields_of["purchase"]
        if getattr(pattern, name) is not None
    }
    event = app.catalog.schema.make(
        "purchase", {**bought, "id": "p-now", "happened_at": pattern.happened_at, "amount_usd": 1e6}
    )
    assert isinstance(engine, Engine)
    decision = engine.assess(event).decision
    engine.log.sync()
    engine.log.close()
    code, out, _ = chopmark("decision", "explain", data, "p-now")
    assert code == 0
    assert "For the user" in out
    assert "No model could say, so the default limit held." in out
    assert decision.action in out
    code, out, _ = chopmark("decision", "replay", data)
    assert (code, "1 decisions made again, 0 differ" in out) == (0, True)
    assert_refused(chopmark("decision", "explain", data, "p-none"), "decided about, got `p-none`")
    assert_refused(chopmark("decision", "replay", data, "p-none"), "got none about `p-none`")
    with closing(sqlite3.connect(data / "log.sqlite")) as connection:
        connection.execute(
            "UPDATE events SET body = CAST(replace(CAST(body AS TEXT), '\"allowed_usd\":', "
            "'\"allowed_usd\":9') AS BLOB) WHERE type = 'decision'"
        )
        connection.commit()
    code, out, _ = chopmark("decision", "replay", data)
    assert code == 1
    assert "allowed_usd" in out


def test_a_folder_without_a_log_and_a_log_in_use(chopmark, data, tmp_path):
    assert_refused(chopmark("rules", "list", tmp_path), "expected a log in")
    engine = DataFolder(data).open_engine(application())
    try:
        ended = chopmark("user", "ban", data, "u", "--reason", "x", "--author", "a")
        assert_refused(ended, "--as-json", "/v1/events")
    finally:
        engine.log.close()
