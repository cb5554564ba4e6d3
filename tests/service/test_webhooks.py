"""Webhooks: what is sent, how it is signed, and that a crash or an outage loses nothing."""

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Annotated

import pytest
from rich.pretty import pretty_repr

from chopmark.decisions.decision import Decision, Reason
from chopmark.decisions.orders import ORDERS, Banned, FrictionAsked, LockSet
from chopmark.errors import InvalidInput, StoreError
from chopmark.events import Entity, Event, Identifier, Personal, Schema, SqliteLog, Usd
from chopmark.service import webhooks
from chopmark.service.webhooks import (
    BATCH,
    Courier,
    Outbox,
    Pace,
    Progress,
    Sender,
    Wire,
    book_of,
    message,
    outboxes_of,
    retry_dead,
    send_test,
)
from chopmark.times import HOUR, now
from tests.service.receiver import Receiver, status

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 2, tzinfo=UTC)
QUICK = Wire(pace=Pace(first_s=0.01, most_s=0.05), timeout_s=2)


class Payment(Event):
    """Somebody pays."""

    user: Annotated[str, Entity("user")]
    card: Annotated[str, Entity("card"), Identifier()] | None = None
    holder: Annotated[str, Personal()] | None = None
    amount_usd: Usd


SCHEMA = Schema(Payment, Decision, *ORDERS)
KNOWN = list(SCHEMA.types)


def payment(number, **fields):
    at = START + timedelta(seconds=number)
    return Payment(id=f"p-{number}", happened_at=at, known_at=at, user="u", amount_usd=5, **fields)


def decision(number, **fields):
    at = START + timedelta(seconds=number)
    given = {
        "limit_usd": 50.0, "allowed_usd": 20.0, "action": "ask", "score": 0.71, "catalog": "c" * 64,
        "reasons": [Reason(code="feature", text="many cards", feature="num_cards", value=9.0)],
        "policy": "d" * 64, "values": [9.0, "Ann Smith", None], "leaves": "101", **fields,
    }  # fmt: skip
    return Decision(
        id=f"decision:p-{number}", happened_at=at, known_at=at, about=f"p-{number}",
        about_type="payment", user="u", **given,
    )  # fmt: skip


@pytest.fixture
def log(tmp_path):
    with SqliteLog(tmp_path / "log.sqlite", SCHEMA) as made:
        yield made


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def added(folder, receiver, name="desk", types=("decision",), **options):
    return book_of(folder).add(
        name, receiver.url, types, known=KNOWN, allow_private=True, insecure_http=True, **options
    )


def put(log, *events):
    log.append(*events)
    log.sync()


def once(folder, log, wire=QUICK):
    return Sender(folder, log, wire).run(threading.Event(), once=True)


def soon(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def verified(received, secret):
    """The body, if the signature is right: written from the text of Standard Webhooks alone."""
    key = base64.b64decode(secret.split("_", 1)[1])
    assert len(key) == 32
    signed = b".".join(
        [
            received.headers["webhook-id"].encode(),
            received.headers["webhook-timestamp"].encode(),
            received.body,
        ]
    )
    right = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    found = [text.split(",", 1) for text in received.headers["webhook-signature"].split(" ")]
    assert ["v1", right] in found
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60
    return json.loads(received.body)


def test_a_decision_is_told_without_its_reasons(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver)
    put(log, payment(1), decision(1, friction="quiz", queue="cards", tags=["vip"], delay_s=60))
    assert once(tmp_path, log)["desk"].num_sent == 1
    (received,) = receiver.received
    assert received.id == "decision:p-1"
    assert received.headers["content-type"] == "application/json"
    assert verified(received, endpoint.secrets[0].text) == {
        "type": "decision",
        "timestamp": "2026-01-02T00:00:01Z",
        "data": {
            "id": "decision:p-1",
            "happened_at": "2026-01-02T00:00:01Z",
            "known_at": "2026-01-02T00:00:01Z",
            "about": "p-1",
            "about_type": "payment",
            "user": "u",
            "action": "ask",
            "friction": "quiz",
            "limit_usd": 50.0,
            "allowed_usd": 20.0,
            "delay_s": 60,
            "queue": "cards",
            "tags": ["vip"],
        },
    }


def test_personal_fields_and_what_people_wrote_stay_inside():
    paid = payment(1, card="tok_" + "0" * 32, holder="Ann Smith")
    lock = LockSet(
        id="l", happened_at=START, known_at=START, user="u", score=0.8, expires_at=START,
        reason="told on the phone", author="bob",
    )  # fmt: skip
    for event, hidden in (
        (paid, ["tok_", "Ann"]),
        (lock, ["phone", "bob", "0.8"]),
        (decision(1), ["Ann", "many cards", "101", "0.71", "values", "dddd"]),
    ):
        text = message(event, SCHEMA).decode()
        whole = message(event, SCHEMA, full=True).decode()
        assert json.loads(text)["data"]["user"] == "u"
        for word in hidden:
            assert word not in text
            assert word in whole
    data = json.loads(message(paid, SCHEMA, full=True))["data"]
    assert data["holder"] == "Ann Smith"


def test_the_package_of_the_standard_verifies_it(log, receiver, tmp_path):
    standard = pytest.importorskip("standardwebhooks")
    endpoint = added(tmp_path, receiver)
    put(log, decision(1))
    once(tmp_path, log)
    (received,) = receiver.received
    judge = standard.Webhook(endpoint.secrets[0].text)
    judge.verify(received.body, received.headers)
    with pytest.raises(standard.WebhookVerificationError):
        judge.verify(received.body + b" ", received.headers)


def test_each_endpoint_gets_what_it_chose(log, receiver, tmp_path):
    chosen = {
        "all": {},
        "asked": {"with_friction": True},
        "denied": {"actions": ["deny", "delay"]},
        "cards": {"queues": ["cards"], "actions": ["ask"]},
        "orders": {"types": ["banned", "friction_asked"]},
    }
    receivers = {name: Receiver() for name in chosen}
    try:
        for name, options in chosen.items():
            added(tmp_path, receivers[name], name, **options)
        put(
            log,
            payment(1),
            decision(1),
            decision(2, friction="none", action="deny"),
            decision(3, friction="quiz", action="delay", queue="cards"),
            decision(4, friction="id_photo", queue="cards"),
            Banned(id="b", happened_at=START, known_at=START + timedelta(seconds=9), user="u",
                   reason="r", author="a"),
            FrictionAsked(id="f", happened_at=START, known_at=START + timedelta(seconds=9),
                          user="u", friction="quiz", about="p-3"),
        )  # fmt: skip
        once(tmp_path, log)
        got = {
            name: [i.removeprefix("decision:p-") for i in r.ids] for name, r in receivers.items()
        }
        assert got == {
            "all": ["1", "2", "3", "4"],
            "asked": ["3", "4"],
            "denied": ["2", "3"],
            "cards": ["4"],
            "orders": ["b", "f"],
        }
    finally:
        for each in receivers.values():
            each.close()


def test_strange_ids_become_headers_and_stay_apart(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver, types=("payment",))
    ids = ["a.1", "a%2E1", "ä\r\nwebhook-id: x", "\u2028 ", "日本", "a" * 128]
    for number, event_id in enumerate(ids):
        at = START + timedelta(seconds=number)
        put(log, Payment(id=event_id, happened_at=at, known_at=at, user="u", amount_usd=1))
    once(tmp_path, log)
    assert len(set(receiver.ids)) == len(ids)
    bodies = [verified(received, endpoint.secrets[0].text) for received in receiver.received]
    assert [body["data"]["id"] for body in bodies] == ids
    assert all("." not in identity and identity.isascii() for identity in receiver.ids)


def test_a_rotation_signs_with_both_until_the_overlap_ends(log, receiver, tmp_path):
    first = added(tmp_path, receiver).secrets[0].text
    second = book_of(tmp_path).rotate("desk", overlap=HOUR).secrets[0].text
    put(log, decision(1))
    once(tmp_path, log)
    (received,) = receiver.received
    assert verified(received, first) == verified(received, second)
    endpoint = book_of(tmp_path).find("desk")
    assert " " in endpoint.sign("a", 1, b"", at=now())
    later = endpoint.sign("a", 1, b"", at=now() + 2 * HOUR)
    assert later == endpoint.secrets[0].signature(b"a.1.")
    assert len({first, second}) == 2
    third = book_of(tmp_path).rotate("desk", overlap=HOUR)
    assert len(third.secrets) == 2
    assert first not in {secret.text for secret in third.secrets}


def test_the_file_of_endpoints_is_closed_and_reprs_hide_the_secrets(receiver, tmp_path):
    endpoint = added(tmp_path, receiver)
    path = tmp_path / "webhooks.json"
    secret = endpoint.secrets[0].text
    assert path.stat().st_mode & 0o777 == 0o600
    assert book_of(tmp_path).read() == (endpoint,)
    for shown in (repr(endpoint), str(endpoint), pretty_repr(endpoint)):
        assert secret not in shown
    path.chmod(0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        book_of(tmp_path).read()
    path.chmod(0o600)
    sound = path.read_bytes()
    for damage in (b"", b"{}", b"\xff", sound.replace(b"http:", b"ftp:"),
                   sound.replace(b'"format": 1', b'"format": 2'), sound[:-9]):  # fmt: skip
        path.write_bytes(damage)
        with pytest.raises(StoreError, match="damaged"):
            book_of(tmp_path).read()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Desk"}, "name"),
        ({"name": "../x"}, "name"),
        ({"types": ["decisions"]}, "did you mean `decision`"),
        ({"types": []}, "at least one"),
        ({"types": ["banned"], "with_friction": True}, "among the event types"),
        ({"actions": ["block"]}, "actions"),
        ({"give_up_after": "soon"}, "duration"),
        ({"url": "http://127.0.0.1:9/"}, "https"),
        ({"url": "https://10.0.0.1/"}, "public address"),
        ({"insecure_http": True}, "--allow-private"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(tmp_path, change, words):
    given = {"name": "desk", "url": "https://desk.example/", "types": ["decision"], **change}
    with pytest.raises(InvalidInput, match=words):
        book_of(tmp_path).add(known=KNOWN, **given)
    assert book_of(tmp_path).read() == ()


def test_a_name_is_of_one_endpoint(receiver, tmp_path):
    added(tmp_path, receiver)
    with pytest.raises(InvalidInput, match="new name"):
        added(tmp_path, receiver)
    book_of(tmp_path).remove("desk")
    added(tmp_path, receiver)
    with pytest.raises(InvalidInput, match="did you mean `desk`"):
        book_of(tmp_path).find("disk")


def test_what_was_sent_is_not_sent_again(log, receiver, tmp_path):
    put(log, decision(1))
    added(tmp_path, receiver, starts_after=log.last_offset)
    put(log, decision(2), decision(3))
    for _ in range(2):
        once(tmp_path, log)
    put(log, decision(4))
    once(tmp_path, log)
    assert receiver.ids == ["decision:p-2", "decision:p-3", "decision:p-4"]


@pytest.mark.parametrize("number", [500, 503, 429, 408, 302, 307])
def test_a_passing_failure_is_tried_again_in_order(log, receiver, tmp_path, number):
    added(tmp_path, receiver)
    put(log, *[decision(n) for n in range(4)])
    good = status(200)

    def moody(handler, received):
        times = receiver.ids.count(received.id)
        (good if times == 3 else status(number))(handler, received)

    receiver.reply = moody
    stop = threading.Event()
    endpoint = book_of(tmp_path).find("desk")
    courier = Courier(endpoint, log, Outbox(outboxes_of(tmp_path), endpoint), QUICK)
    thread = threading.Thread(target=courier.run, args=(stop,))
    thread.start()
    soon(lambda: courier.tally.num_sent == 4)
    stop.set()
    thread.join()
    assert receiver.ids == [f"decision:p-{n}" for n in range(4) for _ in range(3)]
    assert courier.tally.num_dead == 0


@pytest.mark.parametrize("number", [400, 401, 404, 410, 422])
def test_what_is_refused_for_good_is_a_dead_letter_at_once(log, receiver, tmp_path, number):
    endpoint = added(tmp_path, receiver)
    put(log, *[decision(n) for n in range(4)])
    receiver.reply = lambda h, r: status(number if r.id.endswith("-1") else 200)(h, r)
    tally = once(tmp_path, log)["desk"]
    assert (tally.num_sent, tally.num_dead, tally.failure) == (3, 1, None)
    assert receiver.ids == [f"decision:p-{n}" for n in range(4)]
    outbox = Outbox(outboxes_of(tmp_path), endpoint)
    assert outbox.dead.stat().st_mode & 0o777 == 0o600
    (letter,) = outbox.letters()
    assert (letter.offset, letter.id, letter.reason) == (2, "decision:p-1", f"status {number}")
    assert "Ann" not in outbox.dead.read_text()

    assert retry_dead(endpoint, log, tmp_path, QUICK) == (0, 1)
    receiver.reply = status(200)
    assert retry_dead(endpoint, log, tmp_path, QUICK) == (1, 0)
    assert retry_dead(endpoint, log, tmp_path, QUICK) == (0, 0)
    assert outbox.letters() == []
    assert receiver.ids[4:] == ["decision:p-1"] * 2


def test_a_torn_line_of_dead_letters_is_written_again(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver)
    put(log, decision(1), decision(2))
    receiver.reply = status(400)
    once(tmp_path, log)
    outbox = Outbox(outboxes_of(tmp_path), endpoint)
    first, second = outbox.letters()
    outbox.dead.write_bytes(outbox.dead.read_bytes()[:-20])
    assert outbox.letters() == [first]
    outbox.bury(second)
    assert outbox.letters() == [first, second]


def test_a_retry_stops_at_an_endpoint_that_is_down(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver)
    put(log, *[decision(n) for n in range(4)])
    receiver.reply = status(400)
    once(tmp_path, log)
    receiver.reply = lambda h, r: status(200 if r.id.endswith("-0") else 503)(h, r)
    assert retry_dead(endpoint, log, tmp_path, QUICK) == (1, 3)
    assert receiver.ids[4:] == ["decision:p-0", "decision:p-1"]
    letters = Outbox(outboxes_of(tmp_path), endpoint).letters()
    assert [letter.reason for letter in letters] == ["status 503", "status 400", "status 400"]


def test_an_endpoint_with_nothing_to_send_writes_nothing(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver)
    put(log, payment(1))
    once(tmp_path, log)
    cursor = Outbox(outboxes_of(tmp_path), endpoint).cursor
    before = cursor.stat().st_ino
    once(tmp_path, log)
    assert cursor.stat().st_ino == before
    put(log, payment(2))
    once(tmp_path, log)
    assert cursor.stat().st_ino != before
    assert json.loads(cursor.read_bytes())["offset"] == 2


def test_a_retry_that_was_killed_is_taken_up_again(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver)
    put(log, decision(1), decision(2))
    receiver.reply = status(400)
    once(tmp_path, log)
    outbox = Outbox(outboxes_of(tmp_path), endpoint)

    def die(letter):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outbox.retry(die)
    assert [letter.offset for letter in outbox.letters()] == [1, 2]
    put(log, decision(3))
    once(tmp_path, log)
    receiver.reply = status(200)
    assert retry_dead(endpoint, log, tmp_path, QUICK) == (3, 0)
    assert outbox.letters() == []


def test_who_fails_for_too_long_has_dead_letters_and_the_cursor_goes_on(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver, give_up_after="1s")
    put(log, decision(1), decision(2))
    receiver.reply = lambda h, r: status(500 if r.id.endswith("-1") else 200)(h, r)
    stop = threading.Event()
    outbox = Outbox(outboxes_of(tmp_path), endpoint)
    courier = Courier(endpoint, log, outbox, QUICK)
    thread = threading.Thread(target=courier.run, args=(stop,))
    started = time.monotonic()
    thread.start()
    soon(lambda: outbox.progress().failing_since is not None)  # while it still tries
    assert receiver.ids[-1:] != ["decision:p-2"]
    soon(lambda: receiver.ids[-1:] == ["decision:p-2"])
    assert 0.9 < time.monotonic() - started < 5
    stop.set()
    thread.join()
    assert [letter.id for letter in outbox.letters()] == ["decision:p-1"]
    assert receiver.ids.count("decision:p-1") > 10
    assert outbox.progress().offset == 2
    assert outbox.progress().failing_since is None


def test_how_long_it_has_been_failing_outlives_the_process(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver, give_up_after="1h")
    put(log, payment(1), decision(1), payment(2), decision(2))
    receiver.reply = status(500)
    outbox = Outbox(outboxes_of(tmp_path), endpoint)
    tally = once(tmp_path, log)["desk"]
    assert tally.failure == "status 500"
    since = outbox.progress().failing_since
    assert abs(since - now()) < 10_000_000
    once(tmp_path, log)
    assert outbox.progress().failing_since == since
    assert outbox.letters() == []
    # Two hours later one is given up, and no more than one for each attempt.
    outbox.save(Progress(offset=1, failing_since=since - 2 * HOUR))
    once(tmp_path, log)
    assert [letter.offset for letter in outbox.letters()] == [2]
    receiver.reply = status(200)
    once(tmp_path, log)
    assert outbox.progress().failing_since is None
    assert receiver.ids[-1] == "decision:p-2"


def test_an_endpoint_that_is_down_holds_up_no_other(log, receiver, tmp_path):
    down = Receiver()
    down.close()
    stuck = Receiver()
    stuck.reply = lambda h, r: time.sleep(1.2)
    try:
        added(tmp_path, down, "down")
        added(tmp_path, stuck, "stuck")
        added(tmp_path, receiver)
        put(log, *[decision(n) for n in range(50)])
        stop = threading.Event()
        sender = Sender(tmp_path, log, QUICK)
        thread = threading.Thread(target=sender.run, args=(stop,))
        started = time.monotonic()
        thread.start()
        soon(lambda: len(receiver.ids) == 50)
        assert time.monotonic() - started < 1.2
        stop.set()
        thread.join()
        assert down.received == []
    finally:
        stuck.close()


def test_a_receiver_may_ask_for_a_rest_within_bounds(log, receiver, tmp_path):
    pace = Pace(first_s=0.01, most_s=0.05, longest_s=0.6)
    for number, (text, low, high) in enumerate(
        [
            ("99999999999", 0.6, 3.0),
            (format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 0.6, 3.0),
            ("0", 0.0, 0.55),
            ("-5", 0.0, 0.55),
            ("soon", 0.0, 0.55),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0, 0.55),
        ]
    ):
        endpoint = added(tmp_path, receiver, f"desk{number}")
        put(log, decision(number))
        at: list[float] = []

        def reply(handler, received, at=at, text=text):
            at.append(time.monotonic())
            answer = status(503, {"Retry-After": text}) if len(at) == 1 else status(200)
            answer(handler, received)

        receiver.reply = reply
        stop = threading.Event()
        outbox = Outbox(outboxes_of(tmp_path), endpoint)
        courier = Courier(endpoint, log, outbox, Wire(pace=pace, timeout_s=2))
        thread = threading.Thread(target=courier.run, args=(stop,))
        thread.start()
        soon(lambda at=at: len(at) > 1)
        stop.set()
        thread.join()
        assert low <= at[1] - at[0] < high, text


def test_pauses_grow_and_are_jittered():
    pace = Pace()
    for number in range(1, 30):
        drawn = [pace.pause_s(number) for _ in range(200)]
        whole = min(2.0 ** (number - 1), 300.0)
        assert whole / 2 <= min(drawn) < 0.6 * whole
        assert 0.9 * whole < max(drawn) <= whole
    assert pace.pause_s(1, 1e9) == 3600
    assert pace.pause_s(10_000) <= 300


def test_a_name_that_turns_inward_is_sent_nothing_until_it_turns_back(log, receiver, tmp_path):
    url = f"http://desk.test:{receiver.port}/"
    endpoint = book_of(tmp_path).add(
        "desk", url, ["decision"], known=KNOWN, allow_private=True, insecure_http=True
    )
    answers = [["169.254.169.254"], ["10.0.0.1"], ["127.0.0.1", "0.0.0.0"], ["127.0.0.1"]]
    wire = Wire(pace=QUICK.pace, timeout_s=2, resolver=lambda host, port: answers.pop(0))
    put(log, decision(1))
    for _ in range(3):
        assert "address of this machine" in once(tmp_path, log, wire)["desk"].failure
    assert receiver.received == []
    assert once(tmp_path, log, wire)["desk"].failure is None
    assert receiver.ids == ["decision:p-1"]
    assert Outbox(outboxes_of(tmp_path), endpoint).letters() == []


def test_endpoints_come_go_and_rotate_while_it_runs(log, receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(webhooks, "FOLLOW_S", 0.05)
    stop = threading.Event()
    thread = threading.Thread(target=Sender(tmp_path, log, QUICK).run, args=(stop,))
    thread.start()
    try:
        soon(lambda: (tmp_path / "webhooks" / "sender.lock").exists())
        first = added(tmp_path, receiver).secrets[0].text
        put(log, decision(1))
        soon(lambda: len(receiver.ids) == 1)
        verified(receiver.received[0], first)
        second = book_of(tmp_path).rotate("desk", overlap=1).secrets[0].text
        time.sleep(0.4)
        put(log, decision(2))
        soon(lambda: len(receiver.ids) == 2)
        verified(receiver.received[1], second)
        with pytest.raises(AssertionError):
            verified(receiver.received[1], first)
        with pytest.raises(StoreError, match="another process"):
            once(tmp_path, log)
        book_of(tmp_path).remove("desk")
        time.sleep(0.4)
        put(log, decision(3))
        time.sleep(0.5)
        assert len(receiver.ids) == 2
    finally:
        stop.set()
        thread.join()


def test_a_cursor_beyond_the_log_is_said_and_not_waited_for(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver)
    put(log, decision(1))
    outbox = Outbox(outboxes_of(tmp_path), endpoint)
    outbox.save(Progress(offset=9))
    assert "restored from a backup" in once(tmp_path, log)["desk"].failure
    outbox.cursor.write_bytes(b"{")
    assert "expected a cursor" in once(tmp_path, log)["desk"].failure
    assert receiver.received == []


def test_what_stood_still_goes_on_when_the_cause_is_gone(log, receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(webhooks, "FOLLOW_S", 0.05)
    monkeypatch.setattr(webhooks, "RESTART_S", 0.1)
    outbox = Outbox(outboxes_of(tmp_path), added(tmp_path, receiver))
    outbox.cursor.write_bytes(b"{")
    put(log, decision(1))
    stop = threading.Event()
    thread = threading.Thread(target=Sender(tmp_path, log, QUICK).run, args=(stop,))
    thread.start()
    time.sleep(0.3)
    assert receiver.received == []
    outbox.save(Progress(offset=0))
    soon(lambda: receiver.ids == ["decision:p-1"])
    stop.set()
    thread.join()


def test_a_test_is_signed_and_about_nothing(log, receiver, tmp_path):
    endpoint = added(tmp_path, receiver)
    send_test(endpoint, log, tmp_path, QUICK)
    (received,) = receiver.received
    body = verified(received, endpoint.secrets[0].text)
    assert (body["type"], body["data"]) == ("webhook.test", {})
    receiver.reply = status(403)
    with pytest.raises(InvalidInput, match="status 403"):
        send_test(endpoint, log, tmp_path, QUICK)


CHILD = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from chopmark.events import SqliteLog
from chopmark.service.webhooks import Sender
from tests.service.test_webhooks import QUICK, SCHEMA

folder = Path(sys.argv[1])
log = SqliteLog(folder / "log.sqlite", SCHEMA, read_only=True)
Sender(folder, log, QUICK).run(threading.Event())
"""


def test_killed_again_and_again_it_loses_nothing(log, receiver, tmp_path):
    added(tmp_path, receiver)
    refusing = Receiver()
    refusing.reply = status(410)
    dead = added(tmp_path, refusing, "gone")
    num_events, num_kills = 1_000, 3
    written = threading.Event()

    def write():
        for number in range(num_events):
            log.append(payment(number), decision(number))
            if number % 25 == 24:
                log.sync()
                time.sleep(0.03)
        log.sync()
        written.set()

    writer = threading.Thread(target=write)
    child = None
    try:
        for kill in range(num_kills + 1):
            before = len(receiver.ids)
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(tmp_path)], cwd=ROOT
            )
            if kill == 0:
                writer.start()
            if kill < num_kills:
                soon(lambda before=before: len(receiver.ids) >= before + 230, 60)
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
        outbox = Outbox(outboxes_of(tmp_path), dead)
        last = f"decision:p-{num_events - 1}"
        soon(lambda: receiver.ids[-1] == last and refusing.ids[-1] == last, 60)
        soon(lambda: len(outbox.letters()) == num_events)
    finally:
        writer.join()
        if child is not None:
            child.kill()
            child.wait()
        refusing.close()
    assert written.is_set()
    wanted = [f"decision:p-{number}" for number in range(num_events)]
    assert list(dict.fromkeys(receiver.ids)) == wanted
    assert len(receiver.ids) <= num_events + num_kills * (BATCH + 1)
    assert [letter.id for letter in outbox.letters()] == wanted
