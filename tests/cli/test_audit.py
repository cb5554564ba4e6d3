"""The audit from the command line: a log is vouched for, spoilt, and found out by name."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from chopmark.events.chain import GENESIS, link

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")


@pytest.fixture
def data(ingested, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(ingested, tmp_path / "data")


@pytest.fixture
def safe(tmp_path, chopmark):
    """A folder elsewhere, with a key."""
    folder = tmp_path / "safe"
    folder.mkdir()
    code, out, _ = chopmark("audit", "key", folder / "audit.pem")
    assert code == 0
    assert "audit.pem.pub verifies" in out
    return folder


def sql(data, *statements):
    with closing(sqlite3.connect(data / "log.sqlite")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def num_records(data):
    with closing(sqlite3.connect(data / "log.sqlite")) as connection:
        return connection.execute("SELECT max(offset) FROM events").fetchone()[0]


def vouch(chopmark, data, safe):
    return chopmark(
        "audit", "checkpoint", data, "--key", safe / "audit.pem", "--to", safe / "points.jsonl"
    )


def verify(chopmark, data, safe):
    return chopmark(
        "audit", "verify", data, "--checkpoints", safe / "points.jsonl",
        "--key", safe / "audit.pem.pub",
    )  # fmt: skip


def test_a_whole_log_is_vouched_for_and_verified(chopmark, data, safe):
    count = num_records(data)
    code, out, errors = vouch(chopmark, data, safe)
    assert (code, errors) == (0, "")
    assert f"{count:,} records vouched for" in out
    assert vouch(chopmark, data, safe)[0] == 0
    code, out, errors = verify(chopmark, data, safe)
    assert (code, errors) == (0, "")
    assert f"{count:,} records, none changed" in out
    assert f"2 checkpoints hold, the last at offset {count:,}" in out
    assert "; 0 records came after it" in out
    code, out, _ = chopmark("audit", "verify", data)
    assert code == 0
    assert "no checkpoints given" in out
    code, out, _ = chopmark("audit", "verify", data / "log.sqlite")
    assert code == 0


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE events SET body = replace(body, '\"', '''') WHERE offset = 99",
            "changed: record 99",
        ),
        ("DELETE FROM events WHERE offset = 99", "missing: record 99"),
        ("DELETE FROM events WHERE offset > 99", "truncated: expected record 100"),
    ],
)
def test_a_spoilt_log_ends_with_exit_code_1_and_the_place(chopmark, data, safe, statement, words):
    vouch(chopmark, data, safe)
    sql(data, statement)
    code, _, errors = verify(chopmark, data, safe)
    assert code == 1
    assert words in errors
    assert errors.count("\n") == 1


def test_a_chain_written_anew_is_seen_against_the_checkpoint_alone(chopmark, data, safe):
    vouch(chopmark, data, safe)
    sql(data, "UPDATE events SET known_at = known_at + 1 WHERE offset = 99")
    with closing(sqlite3.connect(data / "log.sqlite")) as connection:
        head = GENESIS
        for offset, *texts, known_at, body in connection.execute(
            "SELECT offset, id, type, subject, known_at, body FROM events ORDER BY offset"
        ).fetchall():
            encoded = [None if text is None else text.encode() for text in texts]
            head = link(head, offset, *encoded, known_at, body)
            connection.execute("UPDATE events SET hash = ? WHERE offset = ?", (head, offset))
        connection.commit()
    assert chopmark("audit", "verify", data)[0] == 0
    code, _, errors = verify(chopmark, data, safe)
    assert code == 1
    assert "rewritten: expected hash" in errors


def test_a_spoilt_log_is_not_vouched_for(chopmark, data, safe):
    vouch(chopmark, data, safe)
    before = (safe / "points.jsonl").read_bytes()
    sql(data, "DELETE FROM events WHERE offset > 99")
    code, _, errors = vouch(chopmark, data, safe)
    assert code == 1
    assert "truncated" in errors
    assert (safe / "points.jsonl").read_bytes() == before


def test_a_foreign_signature_is_named(chopmark, data, safe, tmp_path):
    vouch(chopmark, data, safe)
    chopmark("audit", "key", tmp_path / "other.pem")
    code, _, errors = chopmark(
        "audit", "verify", data, "--checkpoints", safe / "points.jsonl",
        "--key", tmp_path / "other.pem.pub",
    )  # fmt: skip
    assert code == 1
    assert "line 1 of" in errors
    assert "foreign signature" in errors
    line = (safe / "points.jsonl").read_text()
    (safe / "points.jsonl").write_text(line.replace('"count":', '"count":1'))
    code, _, errors = verify(chopmark, data, safe)
    assert code == 1
    assert "invalid signature" in errors


def test_keys_and_checkpoints_do_not_stand_beside_the_log(chopmark, data, safe):
    for arguments in (
        ("key", data / "audit.pem"),
        ("checkpoint", data, "--key", safe / "audit.pem", "--to", data / "points.jsonl"),
    ):
        code, _, errors = chopmark("audit", *arguments)
        assert code == 1
        assert "away from the log" in errors
    assert not (data / "audit.pem").exists()


def test_what_is_missing_is_said_in_one_line(chopmark, data, safe, tmp_path):
    for arguments, words in (
        (("verify", tmp_path / "nowhere"), "expected a log in"),
        (("verify", data, "--key", safe / "audit.pem.pub"), "--checkpoints and --key together"),
        (("verify", data, "--checkpoints", safe / "none", "--key", safe / "audit.pem.pub"), "none"),
        (("key", safe / "audit.pem"), "exists"),
    ):
        code, _, errors = chopmark("audit", *arguments)
        assert code == 1
        assert words in errors
        assert errors.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


def test_the_fraud_rate_of_a_log_by_cohort_with_an_alarm(chopmark, ingested, tmp_path):
    code, out, errors = chopmark("fraud-rate", ingested, "--cohort", "month")
    assert (code, errors) == (0, "")
    assert "Fraud rate by month of purchase" in out
    assert "2026-01" in out
    assert "ALARM" not in out
    code, out, _ = chopmark("fraud-rate", ingested, "--target", 0.0001)
    assert code == 1
    assert "ALARM: the fraud rate is above the target of 0.010 %" in out
    code, out, _ = chopmark(
        "fraud-rate", ingested, "--as-of", "2026-02-15T00:00:00Z", "--target", 0.9
    )
    assert code == 0
    assert "as known on 2026-02-15 00:00 UTC" in out
    assert "02-09" in out
    assert "02-16" not in out.partition("as known on")[2]
    code, _, errors = chopmark("fraud-rate", ingested, "--purchase", "purchse")
    assert code == 1
    assert "did you mean `purchase`" in errors
    assert chopmark("fraud-rate", tmp_path / "nowhere")[0] == 1


def test_checkpoints_that_were_wiped_are_missed(chopmark, data, safe):
    assert chopmark("audit", "checkpoint", data, safe / "points.jsonl", "--key", safe / "audit.pem")
    (safe / "points.jsonl").write_text("")
    code, _, errors = verify(chopmark, data, safe)
    assert code == 1
    assert "expected signed checkpoints" in errors
