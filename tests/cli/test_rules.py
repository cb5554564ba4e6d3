"""The desk from the command line: a rule's life, locks, and decisions told and made again."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from chopmark.cli import decision, rules, user
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
    assert (code, "1 decision made again, 0 differ" in out) == (0, True)
    assert_refused(
        chopmark("decision", "explain", data, "p-none"), "got `p-none`, which is not there"
    )
    assert_refused(chopmark("decision", "replay", data, "p-none"), "which is not there")
    with closing(sqlite3.connect(data / "log.sqlite")) as connection:
        connection.execute(
            "UPDATE events SET body = CAST(replace(CAST(body AS TEXT), '\"allowed_usd\":', "
            "'\"allowed_usd\":9') AS BLOB) WHERE type = 'decision'"
        )
        connection.commit()
    code, out, _ = chopmark("decision", "replay", data)
    assert code == 1
    assert "allowed_usd" in out


def test_an_event_without_a_decision_is_told_from_an_unknown_one(chopmark, data):
    history, signup = logged(data, "purchase")[0]["id"], logged(data, "signup")[0]["id"]
    assert_refused(chopmark("decision", "explain", data, history), "as history does")
    assert_refused(chopmark("decision", "explain", data, signup), "the policy decides about")
    assert_refused(chopmark("decision", "explain", data, "p-x"), "which is not there")


def test_a_folder_without_a_log_is_refused_and_not_made(chopmark, tmp_path):
    for command in (("rules", "list"), ("user", "vip"), ("fraud-rate",)):
        rest = ("u-1", "--author", "a") if command[0] == "user" else ()
        assert_refused(chopmark(*command, tmp_path / "none", *rest), "expected a log in")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def served(data):
    """A data folder that another process writes to, as a service does: with a user who bought."""
    line = (
        "import sys; from pathlib import Path; from chopmark.pipelines.exchange import application;"
        "from chopmark.pipelines.folder import DataFolder;"
        "engine = DataFolder(Path(sys.argv[1])).open_engine(application());"
        "print('open', flush=True); sys.stdin.read(); engine.log.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", line, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as service:  # fmt: skip
        try:
            assert service.stdout.readline() == "open\n"
            yield data, service.pid
        finally:
            service.communicate()


def test_beside_a_service_all_that_looks_works_and_orders_are_printed(chopmark, data, request):
    assert chopmark("rules", "draft", data, *DRAFT)[0] == 0
    assert chopmark("rules", "review", data, "many", 1, "--author", "bob")[0] == 0
    assert chopmark("rules", "stage", data, "many", "shadow", "--author", "ann")[0] == 0
    members = ("rules", "members", data, "bad")
    assert chopmark(*members, "--add", "First", "--author", "ann")[0] == 0
    user = logged(data, "purchase")[0]["user"]
    lock = ("--score", 0.8, "--reason", "a call", "--author", "bob", "--approver", "cy")
    assert chopmark("user", "lock", data, user, *lock)[0] == 0
    _, pid = request.getfixturevalue("served")
    code, out, _ = chopmark("rules", "list", data)
    assert (code, "shadow" in out, "when purchase_count_1h >= 1" in out) == (0, True, True)
    assert chopmark("rules", "backtest", data, "many")[0] == 0
    assert chopmark(*members)[:2] == (0, "First\n")
    code, out, _ = chopmark("user", "show", data, user)
    assert (code, "score locked at 80 of 100 until" in out, "by cy: a call" in out) == (0, 1, 1)
    schema = application().catalog.schema
    for command, kind in (
        (("rules", "draft", data, *DRAFT), "rule_drafted"),
        (("rules", "stage", data, "many", "active", "--author", "ann", "--approver", "bob"),
         "rule_staged"),
        (("user", "ban", data, user, "--reason", "x", "--author", "a"), "banned"),
    ):  # fmt: skip
        ended = chopmark(*command)
        assert_refused(ended, f"process {pid} writes to it", "--as-json", "/v1/events")
        code, out, _ = chopmark(*command, "--as-json")
        assert (code, type_name(schema.decode(out))) == (0, kind), "nothing but the order"
    assert_refused(
        chopmark("rules", "review", data, "many", 1, "--author", "ann", "--as-json"), "somebody"
    )


def test_a_user_is_shown_with_what_holds(chopmark, data):
    user = logged(data, "purchase")[0]["user"]
    who = (data, user, "--reason", "a call", "--author", "bob")
    code, out, _ = chopmark("user", "show", data, user)
    assert (code, "no lock, override, ban or VIP mark" in out) == (0, True)
    for order, says in (
        (("ban", *who), "banned since"),
        (("override", *who, "--limit-usd", 500), "weekly limit set to 500.00 USD until"),
        (("vip", data, user, "--author", "bob"), "VIP since"),
    ):
        assert chopmark("user", *order)[2] == "", "no warning: the user is known"
        assert says in chopmark("user", "show", data, user)[1]
    assert chopmark("user", "ban", *who, "--lift")[0] == 0
    assert chopmark("user", "release", *who)[0] == 0
    assert chopmark("user", "vip", data, user, "--author", "bob", "--no-longer")[0] == 0
    out = chopmark("user", "show", data, user)[1]
    assert "no lock, override, ban or VIP mark" in out
    assert_refused(chopmark("user", "show", data, "u-none"), "got `u-none`")


def test_orders_are_checked_before_anything_is_replayed(chopmark, data):
    say = ("--reason", "x", "--author", "bob")
    for command, words in (
        (("rules", "stage", data, "many", "active", "--author", "a", "--share", 3), "0.03 for 3 %"),
        (("rules", "backtest", data, "many"), "there are none yet"),
        (("rules", "backtest", data, "--when", "amount_usd >"), "^"),
        (("rules", "backtest", data, "--when", 'signup_name == "x"'), "declare a `Similarity`"),
        (("user", "ban", data, "u-1", "--reason", " ", "--author", "a"), "words for --reason"),
        (("user", "lock", data, "u", "--score", 0.5, *say, "--approver", "Bob"), "other than"),
        (("fraud-rate", data, "--target", 3), "write 0.03 for 3 %"),
        (("fraud-rate", data, "--as-of", "2026-05-01"), "add a time: 2026-05-01T00:00:00Z"),
    ):
        ended = chopmark(*command)
        assert_refused(ended, words)
        assert ended[1] == "", "no bar went by first"
    code, _, err = chopmark("user", "ban", data, "u-unknown", *say)
    assert (code, err) == (0, "warning: no event of user `u-unknown` yet\n")


def test_at_80_columns_no_figure_and_no_name_is_cut(chopmark, data):
    assert chopmark("rules", "draft", data, *DRAFT)[0] == 0
    for command in (
        ("fraud-rate", data), ("fraud-rate", data, "--wide"), ("rules", "list", data),
        ("rules", "backtest", data, "many"), ("rules", "functions"),
    ):  # fmt: skip
        code, out, _ = chopmark(*command, columns=80)
        assert (code, "…" in out) == (0, False)
        rows = [line for line in out.splitlines() if line.startswith("│")]
        assert "--wide" in command or all(len(line) <= 80 for line in rows)
    weeks = [line for line in chopmark("fraud-rate", data)[1].splitlines() if line[2:5].isdigit()]
    assert len(weeks) <= 12


@pytest.mark.parametrize("group", [rules, user, decision], ids=lambda group: group.name[0])
def test_every_command_of_the_desk_tells_all_its_options(chopmark, group):
    for name in [name for name in group if not name.startswith("-")]:
        code, out, _ = chopmark(group.name[0], name, "--help")
        assert code == 0
        assert "Example: chopmark" in out
        # Those in a frame: the example above it may be folded, and then begins with an option too.
        lines = [line.strip("│ *") for line in out.splitlines() if line.startswith("│")]
        options = [line for line in lines if "--" in line.split("  ")[0]]
        assert all(len(line.split("  ")) > 1 for line in options if line.startswith("--")), options
        assert "--no-" not in out or "--no-longer" in out
