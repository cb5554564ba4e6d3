"""The commands as a user types them: what they print, and one line where something is wrong."""

import subprocess
import sys

import pytest

from chopmark.cli import app
from chopmark.models import load_scorer
from chopmark.pipelines import DataFolder
from chopmark.pipelines.exchange import application

# `main` takes the arguments of the process, as a user's does.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """A file of simulated events."""
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    arguments = ["simulate", str(path), "--num-users=60", "--days=130", "--fraud-scale=4"]
    ended = subprocess.run(
        [sys.executable, "-c", "from chopmark.cli import main; main()", *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "events in" in ended.stdout
    assert ended.stderr == ""
    return path


def assert_one_line(result, *words, code=1):
    """What is wrong is said in one line on the error stream, without a traceback."""
    ended, _, errors = result
    assert ended == code
    assert errors.startswith("chopmark: ")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    for word in words:
        assert word in errors


def test_simulate_gives_the_same_bytes_for_the_same_seed(chopmark, events, tmp_path):
    again, other = tmp_path / "again.jsonl", tmp_path / "other.jsonl"
    options = ("--num-users", 60, "--days", 130, "--fraud-scale", 4)
    assert chopmark("simulate", again, *options)[0] == 0
    assert again.read_bytes() == events.read_bytes()
    assert chopmark("simulate", other, *options, "--seed", 1)[0] == 0
    assert other.read_bytes() != events.read_bytes()


def test_from_events_to_a_model(chopmark, events, tmp_path):
    data, count = tmp_path / "data", events.read_bytes().count(b"\n")
    code, out, errors = chopmark("ingest", data, events)
    assert (code, errors) == (0, "")
    assert f"{count:,} rows read: {count:,} new, 0 known before, 0 rejected" in out
    code, out, _ = chopmark("ingest", data, events)
    assert f"{count:,} rows read: 0 new, {count:,} known before, 0 rejected" in out
    for model in ("trees", "linear"):
        code, out, errors = chopmark("train", data, "--model", model, "--seed", 3)
        assert (code, errors) == (0, "")
        assert "labelled rows" in out
        assert "roc_auc" in out
        assert "Importance" in out
    app = application()
    scorer = load_scorer(DataFolder(data).model)
    assert set(scorer.reads) <= set(app.catalog.names)
    one = DataFolder(data).open_engine(app)
    assert one.scorer is not None
    assert one.scorer.hash == scorer.hash
    assert one.offset == len(one.log) == count
    one.log.close()


def test_the_log_keeps_no_raw_identifier(chopmark, events, tmp_path):
    """Card numbers of the file are tokens in the log and in all that lies beside it."""
    data = tmp_path / "data"
    chopmark("ingest", data, events)
    numbers = set()
    for line in events.read_text().splitlines():
        for name in ("card", "bank_account", "ssn"):
            mark = f'"{name}":"'
            if mark in line:
                numbers.add(line.split(mark, 1)[1].split('"', 1)[0].encode())
    stored = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert len(numbers) > 50
    assert not [number for number in numbers if number in stored]


def test_bad_rows_stop_the_ingest_or_are_collected(chopmark, tmp_path):
    source, rejects = tmp_path / "rows.csv", tmp_path / "rejects.jsonl"
    source.write_text(
        "who,when,verdict\nann,2026-01-01T00:00:00Z,bad\nbo,yesterday,bad\ncy,2026-01-02,odd\n"
    )
    options = ("--event-type", "verdict", "--map.who=user", "--map.when=happened_at")
    ingest = ("ingest", tmp_path / "data", source, *options)
    assert_one_line(chopmark(*ingest), "row 3 of", "rows.csv", "`$.happened_at`")
    code, out, _ = chopmark(*ingest, "--rejects", rejects)
    assert code == 0
    assert "3 rows read:" in out
    assert "3 rejected" in out, "an analyst is missing in all of them"
    assert rejects.read_text().count("\n") == 3
    assert "yesterday" not in rejects.read_text()


def test_features_lists_name_kind_and_hash(chopmark):
    code, out, _ = chopmark("features")
    catalog = application().catalog
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines] == list(catalog.names)
    assert all(catalog.hashes[line.split()[0]].startswith(line.split()[-1]) for line in lines)


COUNT = 'Aggregate("buy", "count", window="1d"),'
APPLICATION = """
from typing import Annotated
from chopmark.decisions import Decision, Policy
from chopmark.engine import Application
from chopmark.events import Entity, Event, Schema, Usd
from chopmark.features import Aggregate, Catalog, Label

class Buy(Event):
    user: Annotated[str, Entity("user")]
    amount_usd: Usd

catalog = Catalog(
    Schema(Buy, Decision),
    Aggregate("buy", "count", window="1d"),
    Aggregate("decision", "sum", of="allowed_usd", window="7d"),
)
application = Application(catalog, Policy(gated=("buy",)))
label = Label(events=("decision",))
"""


def test_an_application_of_ones_own(chopmark, tmp_path):
    (tmp_path / "mine.py").write_text(APPLICATION)
    code, out, _ = chopmark("features", "--app", tmp_path / "mine.py")
    assert code == 0
    assert out.split()[0] == "buy_count_1d"
    rows = tmp_path / "rows.csv"
    rows.write_text("user,happened_at,amount_usd\nann,2026-01-01T00:00:00Z,3\n")
    mine = ("--app", tmp_path / "mine.py")
    code, out, _ = chopmark("ingest", tmp_path / "data", rows, "--event-type", "buy", *mine)
    assert code == 0
    assert "1 new" in out
    # A log of another schema is not read as if it were ours.
    assert_one_line(chopmark("train", tmp_path / "data"), "schema")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.py", None, "expected the path of a Python file"),
        ("mine.txt", "", "expected the path of a Python file"),
        ("empty.py", "", "got NoneType and NoneType"),
        ("wrong.py", "application = 3\nlabel = 4\n", "got int and int"),
        ("twice.py", APPLICATION.replace(COUNT, COUNT * 2), "declared twice"),
    ],
)  # fmt: skip
def test_a_wrong_application_file_is_refused(chopmark, tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert_one_line(chopmark("features", "--app", tmp_path / name), words)


def test_errors_are_one_line_and_exit_with_one(chopmark, events, tmp_path):
    existing = tmp_path / "file"
    existing.write_text("")
    data = tmp_path / "data"
    assert_one_line(chopmark("simulate", existing), "expected a new file", "exists")
    assert_one_line(chopmark("simulate", tmp_path / "x", "--num-users", 0), "got 0")
    assert_one_line(chopmark("simulate", tmp_path / "x", "--days", 3), "at least 30 days")
    assert_one_line(chopmark("simulate", tmp_path / "no" / "x", "--num-users", 5), "No such file")
    assert_one_line(chopmark("ingest", data, tmp_path / "none.jsonl"), "expected a file")
    assert_one_line(chopmark("ingest", data, existing), "expected")
    assert_one_line(chopmark("ingest", existing, events), "file")
    assert_one_line(chopmark("train", existing), "file")
    assert_one_line(chopmark("train", tmp_path / "nothing"), "data folder")
    assert_one_line(chopmark("train", data), "expected events of type `purchase`")
    chopmark("ingest", data, events)
    assert_one_line(chopmark("train", data, "--rows", "nope"), "event `nope`")
    (data / "log.sqlite").write_bytes(b"not a database" * 1000)
    assert_one_line(chopmark("train", data), "log.sqlite")
    assert_one_line(chopmark("ingest", data, events), "log.sqlite")


def test_a_failed_training_leaves_the_model_in_use(chopmark, events, tmp_path):
    data = tmp_path / "data"
    chopmark("ingest", data, events)
    chopmark("train", data, "--model", "linear")
    before = DataFolder(data).model.read_bytes()
    assert chopmark("train", data, "--rows", "nope")[0] == 1
    assert DataFolder(data).model.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("train",),
        ("train", "data", "--model", "forest"),
        ("serve", "a", "--port", "x"),
    ],
)
def test_a_wrong_command_line_is_explained(chopmark, arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, errors = chopmark(*arguments)
    assert code not in (0, None)
    assert "Traceback" not in out + errors
    assert not list(tmp_path.iterdir())


def commands():
    return sorted(name for name in app if not name.startswith("-"))


def test_every_command_is_listed(chopmark):
    code, out, _ = chopmark("--help")
    assert code == 0
    assert {"simulate", "ingest", "features", "train", "serve", "demo"} <= set(commands())
    assert all(f" {name} " in out for name in commands())


@pytest.mark.parametrize("name", commands())
def test_every_command_and_each_option_has_help(chopmark, name):
    code, out, _ = chopmark(name, "--help")
    assert code == 0
    assert f"chopmark {name}" in out
    options = [line for line in out.splitlines() if line.lstrip("│ *").startswith("--")]
    assert all(len(line.strip("│ ").split("  ")) > 1 for line in options), options
