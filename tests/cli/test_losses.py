"""`chopmark losses` over the data folder of a small demo."""

import csv
import io
import sqlite3

import msgspec
import pytest

from chopmark.datasets import simulate
from chopmark.engine import replay
from chopmark.pipelines import DataFolder
from chopmark.pipelines import demo as steps
from chopmark.pipelines.exchange import application
from chopmark.times import DAY

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A data folder whose second half was decided about; not to be written to."""
    app, folder = application(), DataFolder(tmp_path_factory.mktemp("lived"))
    simulation = simulate(num_users=80, days=140, seed=5, fraud_scale=10.0, settle=False)
    events = simulation.events()
    cut = simulation.end - 90 * DAY
    num_past = sum(steps.known_instant(event) <= cut for event in simulation.events())
    with folder.open_log(app) as log:
        steps.fill(log, folder.vault(), events, count=num_past, on_progress=lambda done: None)
    engine = folder.open_engine(app, trust_known_at=True)
    replay(engine, events, decide=app.policy.assessed)
    engine.log.close()
    return folder.path


def events_of(data):
    """All events of a log as dictionaries, read with nothing of ours."""
    with sqlite3.connect(f"file:{data / 'log.sqlite'}?mode=ro", uri=True) as found:
        bodies = found.execute("SELECT body FROM events ORDER BY offset").fetchall()
    return [msgspec.json.decode(body) for (body,) in bodies]


def cell(out, name, place=1):
    """A figure of the first line that begins with a name."""
    line = next(line for line in out.splitlines() if line.startswith(f"│ {name} "))
    return line.split("│")[place + 1].strip()


def test_the_sums_are_those_of_the_log_and_of_the_file(chopmark, lived, tmp_path):
    out = tmp_path / "ledger.csv"
    code, text, errors = chopmark("losses", lived, "--csv", out)
    assert (code, errors) == (0, "")
    events = events_of(lived)
    asked = {event["id"]: event for event in events if event["type"] in ("purchase", "withdrawal")}
    decided = [event for event in events if event["type"] == "decision"
               and event.get("action", "record") != "record"]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert {row["about"] for row in rows} == {event["about"] for event in decided}
    assert f"{len(rows):,} decisions about money" in text
    wanted = sum(asked[event["about"]]["amount_usd"] for event in decided)
    assert sum(float(row["asked_usd"]) for row in rows) == pytest.approx(wanted)
    assert cell(text, "asked for") == f"{wanted:,.0f}"
    sent = sum(event.get("allowed_usd", 0.0) for event in decided)
    assert cell(text, "let through") == f"{sent:,.0f}"
    banned = {event["user"] for event in events if event.get("verdict") == "bad"}
    banned |= {event["user"] for event in events if event["type"] == "chargeback"}
    bad = [event for event in decided if event["user"] in banned]
    assert {row["about"] for row in rows if row["outcome"] == "bad"} <= {
        event["about"] for event in bad
    }
    assert len(bad) > 5
    for name in ("prevented", "suffered"):
        whole = sum(float(row[f"{name}_usd"]) for row in rows)
        assert cell(text, name) == f"{whole:,.0f}"
        assert whole > 0.0
    raw = sum(float(row["refused_usd"]) for row in rows if row["outcome"] == "bad")
    assert cell(text, "prevented", 3) == f"{raw:,.0f}"
    for said in ("What stopped it", "In none of the figures", "Raw is every attempt for itself",
                 "are one series", "counts as good 60d after it"):  # fmt: skip
        assert said in text


@pytest.mark.parametrize("by", ["month", "action", "about-type"])
def test_parts_have_names_and_all_decisions(chopmark, lived, by):
    code, text, _ = chopmark("losses", lived, "--by", by, "--matures", "20d", "--reach", "90d")
    assert code == 0
    table = text.split(f"By {by.replace('-', ' ')}")[1].split("In none of the figures")[0]
    counts = [int(line.split("│")[2].replace(",", "")) for line in table.splitlines()
              if line.startswith("│")]  # fmt: skip
    assert len(counts) > 1
    assert f"{sum(counts):,} decisions about money" in text


def test_periods_part_the_decisions_and_the_past_is_as_it_was(chopmark, lived):
    events = [event for event in events_of(lived) if event["type"] == "decision"
              and event.get("action", "record") != "record"]  # fmt: skip
    middle = events[len(events) // 2]["known_at"]
    before = chopmark("losses", lived, "--until", middle)[1]
    after = chopmark("losses", lived, "--since", middle)[1]
    then = chopmark("losses", lived, "--as-of", middle)[1]
    num_before = sum(event["known_at"] < middle for event in events)
    assert f"{num_before:,} decisions about money until" in before
    assert f"{len(events) - num_before:,} decisions about money from" in after
    known = sum(event["known_at"] <= middle for event in events)
    assert f"{known:,} decisions about money\n" in then
    assert f"Known on {middle[:10]}" in then


def test_the_page_is_written(chopmark, lived, tmp_path):
    page = tmp_path / "losses.html"
    assert chopmark("losses", lived, "--html", page)[0] == 0
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "Month by month" in text
    assert "What is assumed" in text


def test_nothing_is_written_beside_the_files_that_were_asked_for(chopmark, lived):
    before = {path: path.stat().st_mtime_ns for path in lived.iterdir() if path.suffix != ".lock"}
    chopmark("losses", lived)
    after = {path: path.stat().st_mtime_ns for path in lived.iterdir() if path.suffix != ".lock"}
    assert {path.name for path in after} - {path.name for path in before} <= {
        "log.sqlite-wal", "log.sqlite-shm",
    }  # fmt: skip
    assert before[lived / "log.sqlite"] == after[lived / "log.sqlite"]


def test_a_log_without_decisions_says_so(chopmark, ingested):
    code, text, errors = chopmark("losses", ingested)
    assert (code, errors) == (0, "")
    assert "0 decisions about money" in text
    assert "What stopped it: none" in text
    assert "events for money that nobody decided about" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--since", "2026-03-02", "--until", "2026-03-01"), "--until later than --since"),
        (("--since", "yesterday"), "--since: expected an instant like"),
        (("--as-of", "2026-03-01T00:00:00"), "--as-of: expected an instant with a time zone"),
        (("--margin", "2"), "expected --margin from 0 to 1"),
        (("--stop-usd", "-1"), "expected a cost of at least 0 USD"),
        (("--again", "soon"), "expected a duration like"),
        (("--matures", "60"), "expected a duration like"),
        (("--good", "verdict = 'good'"), "invalid syntax"),
        (("--good", "amount_usd"), "expected a condition"),
        (("--good", "verdcit == 'good'"), "verdict"),
        (("--csv", "/nowhere/at/all.csv"), "existing folder"),
        (("--as-of", "1999-01-01"), "expected events known by 1999-01-01 00:00 UTC, got none"),
    ],
)
def test_options_that_cannot_be_are_said_in_one_line(chopmark, lived, options, words):
    code, _, errors = chopmark("losses", lived, *options)
    assert code == 1
    assert errors.startswith("chopmark: ")
    assert "Traceback" not in errors
    assert words in errors


def test_a_file_may_not_replace_the_log_or_the_other(chopmark, lived, tmp_path):
    assert "another file" in chopmark("losses", lived, "--csv", lived / "log.sqlite")[2]
    both = ("--csv", tmp_path / "a", "--html", tmp_path / "a")
    assert "two files" in chopmark("losses", lived, *both)[2]
    assert not (tmp_path / "a").exists()


def test_a_folder_without_a_log_is_refused_and_stays_empty(chopmark, tmp_path):
    code, _, errors = chopmark("losses", tmp_path / "none")
    assert code == 1
    assert "expected a log in" in errors
    assert not (tmp_path / "none").exists()
