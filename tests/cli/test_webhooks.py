"""Webhooks from the command line, beside a service that writes to the log."""

import json
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from chopmark.decisions.decision import Decision
from chopmark.decisions.orders import Banned
from chopmark.events import SqliteLog
from chopmark.pipelines.exchange import EXCHANGE
from tests.service.receiver import Receiver, status

START = datetime(2026, 1, 2, tzinfo=UTC)
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")


@pytest.fixture
def chopmark(chopmark):
    """Run a command about webhooks."""
    return lambda *arguments: chopmark("webhooks", *arguments)


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def log(tmp_path):
    """A log that this process writes to while the commands read it."""
    with SqliteLog(tmp_path / "data" / "log.sqlite", EXCHANGE) as made:
        yield made


@pytest.fixture
def data(log, tmp_path):
    return tmp_path / "data"


def put(log, *numbers):
    for number in numbers:
        at = START + timedelta(seconds=number)
        log.append(
            Decision(
                id=f"decision:p-{number}", happened_at=at, known_at=at, about=f"p-{number}",
                about_type="purchase", user="u", limit_usd=50.0, reasons=[], catalog="", policy="",
                values=[], action="ask", friction="quiz",
            )
        )  # fmt: skip
    log.sync()


def add(chopmark, data, receiver, *options, name="desk"):
    code, out, errors = chopmark(
        "add", data, name, receiver.url, "--types", "decision", "--insecure-http",
        "--allow-private", *options,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    return out


def test_from_adding_an_endpoint_to_its_removal(chopmark, data, log, receiver):
    put(log, 1)
    out = add(chopmark, data, receiver, "--with-friction")
    secret = re.search(r"whsec_[\w+/]{43}=", out)[0]
    assert "after offset 1" in out
    assert out.count("WARNING") == 2
    assert chopmark("test", data, "desk")[0] == 0
    assert json.loads(receiver.received[0].body)["type"] == "webhook.test"

    put(log, 2, 3)
    receiver.reply = lambda h, r: status(404 if r.id.endswith("2") else 200)(h, r)
    code, out, _ = chopmark("run", data, "--once")
    assert code == 0
    assert "`desk`: 1 sent, 1 dead letters" in out
    code, out, _ = chopmark("list", data)
    assert code == 0
    assert "3 of 3" in out
    assert secret not in out

    code, _, errors = chopmark("retry-dead", data, "desk")
    assert code == 1
    assert "1 are left" in errors
    receiver.reply = status(200)
    code, out, _ = chopmark("retry-dead", data, "desk")
    assert (code, out) == (0, "1 delivered, 0 left\n")

    code, out, _ = chopmark("rotate", data, "desk", "--overlap", "2h")
    assert code == 0
    assert re.search(r"whsec_[\w+/]{43}=", out)[0] != secret
    assert chopmark("test", data, "desk")[0] == 0
    assert receiver.received[-1].headers["webhook-signature"].count("v1,") == 2

    assert chopmark("remove", data, "desk")[0] == 0
    assert list((data / "webhooks").glob("desk*")) == []
    assert chopmark("run", data, "--once")[0] == 0
    assert receiver.ids[1:4] == ["decision:p-2", "decision:p-3", "decision:p-2"]


def test_what_came_before_is_sent_if_wanted(chopmark, data, log, receiver):
    put(log, 1, 2)
    add(chopmark, data, receiver, "--from-start")
    assert chopmark("run", data, "--once")[0] == 0
    assert receiver.ids == ["decision:p-1", "decision:p-2"]


def test_an_endpoint_that_stands_still_ends_once_with_exit_code_1(chopmark, data, log, receiver):
    add(chopmark, data, receiver)
    put(log, 1)
    receiver.reply = status(503)
    code, _, errors = chopmark("run", data, "--once")
    assert code == 1
    assert "`desk` stands still: status 503" in errors
    receiver.reply = status(200)
    assert chopmark("run", data, "--once")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("desk", "http://desk.example/"), "https://"),
        (("desk", "https://169.254.169.254/latest"), "expected a public address"),
        (("desk", "https://desk.example:6379/"), "expected port 443 or 8443"),
        (("desk", "https://root:word@desk.example/"), "without user name"),
        (("desk", "https://desk.example/", "--insecure-http"), "--allow-private"),
        (("desk", "https://desk.example/", "--types", "banana"), "`banana`"),
        (("De sk", "https://desk.example/"), "name"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(chopmark, data, arguments, words):
    code, _, errors = chopmark("add", data, *arguments, "--types", "decision")
    assert code == 1
    assert words in errors
    assert errors.count("\n") == 1
    assert not (data / "webhooks.json").exists()


def test_names_and_folders_that_are_not_there(chopmark, data, tmp_path):
    for arguments in (("test", data, "desk"), ("remove", data, "desk"), ("rotate", data, "desk")):
        code, _, errors = chopmark(*arguments)
        assert code == 1
        assert "expected the name of an endpoint" in errors
    for command in ("run", "list"):
        code, _, errors = chopmark(command, tmp_path / "nowhere")
        assert code == 1
        assert "expected a log in" in errors
    assert chopmark("remove", tmp_path / "nowhere", "desk")[0] == 1
    assert not (tmp_path / "nowhere").exists()


def test_it_runs_beside_who_writes_until_it_is_told_to_stop(chopmark, data, log, receiver):
    add(chopmark, data, receiver)
    chopmark("add", data, "bans", receiver.url, "--types", "banned", "--insecure-http",
             "--allow-private")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", "from chopmark.cli import main; main()", "webhooks", "run", data],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for number in range(20):
            put(log, number)
        at = START + timedelta(seconds=99)
        log.append(Banned(id="b", happened_at=at, known_at=at, user="u", reason="r", author="a"))
        log.sync()
        end = time.monotonic() + 60
        while len(receiver.ids) < 21:
            assert time.monotonic() < end
            time.sleep(0.02)
        code, _, errors = chopmark("run", data, "--once")
        assert code == 1
        assert "another process" in errors
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "`desk`: 20 sent, 0 dead letters" in out
    assert "`bans`: 1 sent" in out
    assert [i for i in receiver.ids if i != "b"] == [f"decision:p-{n}" for n in range(20)]
    assert chopmark("run", data, "--once")[0] == 0
    assert len(receiver.ids) == 21
