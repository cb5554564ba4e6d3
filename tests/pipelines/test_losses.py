"""The ledger of losses against a plain twin, and by the cases that an auditor would ask about."""

import math
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import Literal

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chopmark.datasets import exchange
from chopmark.decisions import Decision, Policy, Reason
from chopmark.decisions.decision import decision_id
from chopmark.engine import Application, Engine
from chopmark.errors import InvalidExpression, InvalidInput, InvalidTable
from chopmark.events import Event, MemoryLog, Schema, Vault
from chopmark.features import Aggregate, Catalog, Label
from chopmark.pipelines.exchange import LABEL, application
from chopmark.pipelines.losses import Terms, account, losses
from chopmark.pipelines.losspage import page
from chopmark.pipelines.lossread import read_record
from chopmark.rules import Effects
from chopmark.rules.book import RuleHit, effects_text
from chopmark.rules.orders import RuleDrafted, RuleReviewed, RuleStaged
from chopmark.times import DAY, HOUR, instant, moment

GOOD = "verdict == 'good'"
START = moment(1_770_000_000_000_000)
DEVICE = {"device": "d", "ip": "i", "screen_resolution": "1x1"}
MONEY = ("asked", "allowed", "refused", "again", "stopped", "prevented", "other_way", "suffered",
         "charged_back", "friction", "delayed", "open_stopped", "open_allowed", "cost")  # fmt: skip


@pytest.fixture(scope="module")
def app():
    return application()


class Story:
    """A log that is told step by step, hours after its start."""

    def __init__(self, app):
        self.app = app
        self.log = MemoryLog(app.catalog.schema)
        self.count = 0

    def add(self, kind, hours, **fields):
        self.count += 1
        at = START + timedelta(hours=hours)
        event = kind(id=fields.pop("id", f"e{self.count}"), happened_at=at, known_at=at, **fields)
        self.log.append(event)
        return event.id

    def ask(self, hours, user, usd, allowed, *, way="purchase", action=None, **fields):
        """An event for money, and its decision unless allowed is None; the id of the event."""
        if way == "purchase":
            asked = self.add(exchange.Purchase, hours, user=user, **DEVICE, rail="card",
                             issuer="First", amount_usd=usd)  # fmt: skip
        else:
            asked = self.add(exchange.Withdrawal, hours, user=user, **DEVICE, address="w",
                             asset="BTC", on_call=False, amount_usd=usd)  # fmt: skip
        if allowed is not None:
            usual = "allow" if allowed >= usd else "reduce" if allowed > 0 else "wait"
            self.add(
                Decision, hours, id=decision_id(asked), about=asked, about_type=way, user=user,
                limit_usd=100.0, allowed_usd=allowed, action=action or usual,
                reasons=fields.pop("reasons", []), catalog="c", policy="p", values=[], **fields,
            )  # fmt: skip
        return asked

    def verdict(self, hours, user, verdict):
        self.add(exchange.Verdict, hours, user=user, verdict=verdict, analyst="ann")

    def chargeback(self, hours, user, about, usd):
        self.add(exchange.Chargeback, hours, user=user, about=about, rail="card", amount_usd=usd)

    def later(self, days):
        """Something that has no meaning, so that time goes by."""
        self.add(exchange.PriceAlert, 24 * days, user="nobody", asset="BTC", direction="above")
        return self

    def losses(self, **options):
        self.log.sync()
        options.setdefault("good", GOOD)
        return losses(self.app, self.log, LABEL, **options)


@pytest.fixture
def story(app):
    return Story(app)


def at(hours):
    return instant(START + timedelta(hours=hours))


# --- the twin: objects and loops, no frame ---


def twin(log, *, as_of=None, since=None, until=None, again=3 * DAY, matures=60 * DAY, reach=None,
         margin=0.02, stop_usd=1.0):  # fmt: skip
    """Rows by event id, amounts in cents, as the module's docstring says it."""
    events = [event for batch in log.read() for _, event in batch]
    end = instant(events[-1].known_at) if as_of is None else as_of
    events = [event for event in events if instant(event.known_at) <= end]
    asked = {event.id: event for event in events if hasattr(event, "amount_usd")}
    rows = []
    for event in events:
        if isinstance(event, Decision):
            want = round(100 * asked[event.about].amount_usd)
            rows.append({"about": event.about, "way": event.about_type, "user": event.user,
                         "at": instant(event.known_at), "asked": want,
                         "allowed": round(100 * event.allowed_usd)})  # fmt: skip
    series = []
    for row in rows:
        mine = [one for one in series
                if (one[-1]["user"], one[-1]["way"]) == (row["user"], row["way"])]  # fmt: skip
        if mine and row["at"] - mine[-1][-1]["at"] <= again:
            mine[-1].append(row)
        else:
            series.append([row])
    for one in series:
        given_before, best, best_row = 0, -1, None
        for row in one:
            row["refused"], row["stopped"], row["late"] = row["asked"] - row["allowed"], 0, 0
            if given_before + row["asked"] > best:
                best, best_row = given_before + row["asked"], row
            given_before += row["allowed"]
        best_row["stopped"] = best - given_before
        held = next((place for place, row in enumerate(one) if row["refused"]), None)
        if held is not None:
            later = [row for row in one[held + 1 :] if row["allowed"]]
            if later:
                one[held]["late"] = min(one[held]["refused"], sum(row["allowed"] for row in later))
                one[held]["hours"] = (later[0]["at"] - one[held]["at"]) / HOUR
        for row in one:
            row["again"] = row["refused"] - row["stopped"]
    for row in rows:
        about = state(events, lambda event, row=row: getattr(event, "about", "") == row["about"])
        whose = state(events, lambda event, row=row: event.user == row["user"])
        if whose[0] == "bad" and reach is not None and row["at"] < whose[1] - reach:
            whose = ("", 0, None)
        if about[0] == "bad" or whose[0] == "bad":
            row["outcome"] = "bad"
        elif whose[0] == "good" and row["at"] <= whose[1]:
            row["outcome"] = "cleared"
        else:
            row["outcome"] = "quiet" if row["at"] <= end - matures else "open"
        row["is_charged"] = about[0] == "bad"
        row["charged_back"] = min(about[2], row["allowed"]) if about[0] == "bad" else 0
    for row in rows:
        row |= dict.fromkeys(("prevented", "other_way", "suffered", "friction", "delayed",
                              "open_stopped", "open_allowed"), 0)  # fmt: skip
        row["cost"] = 0.0
        if row["outcome"] == "bad":
            row["prevented"] = row["stopped"]
            charged = state(
                events, lambda event, row=row: getattr(event, "about", "") == row["about"]
            )
            row["suffered"] = row["charged_back"] if charged[0] == "bad" else row["allowed"]
            continue
        if row["outcome"] == "open":
            row["open_stopped"], row["open_allowed"] = row["stopped"], row["allowed"]
        else:
            row["friction"], row["delayed"] = row["stopped"], row["late"]
        row["cost"] = margin * row["stopped"]
        row["cost"] += 100 * stop_usd * (row["stopped"] > 0 or row["late"] > 0)
    first, beyond = since or 0, until or 2**62
    rows = [row for row in rows if first <= row["at"] < beyond]
    ways = defaultdict(lambda: defaultdict(int))
    for row in rows:
        ways[row["user"]][row["way"]] += row["prevented"]
    for row in rows:
        mine = ways[row["user"]]
        if row["way"] != min(mine, key=lambda way: (-mine[way], way)):
            row["other_way"], row["prevented"] = row["prevented"], 0
    return {row["about"]: row for row in rows}


def state(events, concerns):
    """What holds of the events that concern: bad or good, since when, cents of the bad ones."""
    now = ("", 0, 0)
    for event in events:
        kind = type(event).__name__
        if kind not in ("Verdict", "Chargeback") or not concerns(event):
            continue
        known = instant(event.known_at)
        if kind == "Verdict" and event.verdict == "good":
            now = ("good", known, 0)
        elif now[0] == "bad":
            now = ("bad", now[1], now[2] + round(100 * getattr(event, "amount_usd", 0)))
        else:
            now = ("bad", known, round(100 * getattr(event, "amount_usd", 0)))
    return now


GAPS = st.sampled_from([0, 1, 20, 72, 73, 1_440])
USERS = st.sampled_from(["ann", "ann", "bo"])
USD = st.sampled_from([0.0, 10.0, 20.01, 50.0, 99.99])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), GAPS, USERS, USD, st.sampled_from([None, 0.0, 0.4, 1.0]),
                  st.sampled_from(["purchase", "withdrawal"])),
        st.tuples(st.just("verdict"), GAPS, USERS, st.sampled_from(["good", "bad"])),
        st.tuples(st.just("chargeback"), GAPS, st.integers(0, 9), USD),
    ),
    min_size=3, max_size=18,
)  # fmt: skip


def told(app, steps):
    """The story of some steps, and its length in hours."""
    story, hours, asked = Story(app), 0, []
    for kind, gap, *rest in steps:
        hours += gap
        if kind == "ask":
            user, usd, share, way = rest
            allowed = None if share is None else round(usd * share, 2)
            asked.append((user, story.ask(hours, user, usd, allowed, way=way)))
        elif kind == "verdict":
            story.verdict(hours, *rest)
        elif asked:
            user, about = asked[rest[0] % len(asked)]
            story.chargeback(hours, user, about, rest[1])
    story.later(hours / 24 + 1)
    story.log.sync()
    return story, hours


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=STEPS,
    parts=st.tuples(*(st.one_of(st.none(), st.floats(0.0, 1.0)) for _ in range(3))),
    again=st.sampled_from(["1h", "3d"]),
    reach=st.sampled_from([None, "2d"]),
)
def test_every_row_is_that_of_the_twin(app, steps, parts, again, reach):
    story, hours = told(app, steps)
    as_of, since, until = (None if part is None else at(part * (hours + 24)) for part in parts)
    if since is not None and until is not None and since >= until:
        since, until = None, until
    (((_, first),),) = story.log.read(limit=1)
    as_of = None if as_of is None else max(as_of, instant(first.known_at))
    terms = Terms(again=again, reach=reach, replicates=1)
    found = story.losses(as_of=as_of, since=since, until=until, terms=terms)
    wanted = twin(
        story.log, as_of=as_of, since=since, until=until,
        again=HOUR if again == "1h" else 3 * DAY, reach=None if reach is None else 2 * DAY,
    )  # fmt: skip
    rows = {row["about"]: row for row in found.ledger.iter_rows(named=True)}
    assert set(rows) == set(wanted)
    for about, want in wanted.items():
        row = rows[about]
        assert row["outcome"] == want["outcome"]
        assert {name: round(100 * row[f"{name}_usd"], 6) for name in MONEY} == {
            name: round(want[name], 6) for name in MONEY
        }
    one = found.figures
    good = [row for row in wanted.values() if row["delayed"]]
    if good:
        weighted = sum(row["delayed"] * row["hours"] for row in good)
        assert one.waited_hours == pytest.approx(weighted / sum(row["delayed"] for row in good))
    for name in ("prevented", "suffered", "charged_back", "stopped", "cost"):
        assert getattr(one, f"{name}_usd") == pytest.approx(
            sum(row[name] for row in wanted.values()) / 100
        )
    raw = sum(row["refused"] for row in wanted.values() if row["outcome"] == "bad") / 100
    assert one.prevented_raw_usd == pytest.approx(raw)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_no_cent_is_lost_or_counted_twice(app, steps):
    story, _ = told(app, steps)
    found = story.losses(terms=Terms(replicates=1))
    cents = found.ledger.select((pl.col(f"{name}_usd") * 100).round().cast(pl.Int64).alias(name)
                                for name in MONEY if name != "cost")  # fmt: skip
    for row in cents.iter_rows(named=True):
        assert row["asked"] == row["allowed"] + row["refused"]
        assert row["refused"] == row["stopped"] + row["again"]
        assert row["again"] >= 0
        assert row["stopped"] == (
            row["prevented"] + row["other_way"] + row["friction"] + row["open_stopped"]
        )
        assert 0 <= row["charged_back"] <= row["suffered"] <= row["allowed"]
        assert row["suffered"] + row["open_allowed"] <= row["allowed"]
    one = found.figures
    assert one.prevented_usd <= one.prevented_raw_usd
    assert one.net_usd <= one.net_raw_usd + 1e-9
    for key in ("rule", "action", "month", "about_type"):
        parts = found.by(key)
        for name in ("prevented", "suffered", "stopped", "net"):
            whole = getattr(one, f"{name}_usd")
            assert parts[f"{name}_usd"].sum() == pytest.approx(whole, abs=0.006 * (len(parts) + 1))


# --- the cases of an auditor ---


def test_what_was_asked_again_after_a_denial_is_prevented_once(story):
    for hour in (0, 1, 2):
        story.ask(hour, "ann", 100.0, 0.0, action="deny")
    story.verdict(3, "ann", "bad")
    one = story.losses().figures
    assert (one.prevented_usd, one.prevented_raw_usd) == (100.0, 300.0)
    (line,) = story.losses().uncounted.filter(pl.col("why").str.starts_with("asked again")).rows()
    assert line[1:] == (2, 200.0)


def test_a_banned_user_who_tries_for_millions_counts_by_the_largest_attempt(story):
    for hour in range(0, 24 * 30, 6):
        usd = 50_000.0 if hour == 60 else 10_000.0
        story.ask(hour, "ann", usd, 0.0, action="deny", authority="ban")
    story.verdict(24 * 30, "ann", "bad")
    found = story.losses()
    assert found.figures.prevented_usd == 50_000.0
    assert found.figures.prevented_raw_usd == 119 * 10_000.0 + 50_000.0
    assert found.by("rule")["name"].to_list() == ["ban"]


def test_a_hold_that_is_released_and_then_sent_is_delay_and_not_prevention(story):
    story.ask(0, "ann", 80.0, 0.0, way="withdrawal", action="delay", delay_s=86_400)
    story.ask(25, "ann", 80.0, 80.0, way="withdrawal")
    story.verdict(26, "ann", "good")
    one = story.losses().figures
    assert (one.stopped_usd, one.delayed_usd, one.waited_hours) == (0.0, 80.0, 25.0)
    assert (one.good_stops, one.cost_usd) == (1, 1.0)
    story.verdict(27, "ann", "bad")
    one = story.losses().figures
    assert (one.prevented_usd, one.suffered_usd, one.delayed_usd) == (0.0, 80.0, 0.0)
    assert one.prevented_raw_usd == 80.0, "every attempt for itself"


def test_an_amount_sent_in_parts_is_not_prevented(story):
    story.ask(0, "ann", 100.0, 40.0)
    story.ask(1, "ann", 60.0, 0.0)
    story.ask(2, "ann", 30.0, 30.0)
    story.verdict(3, "ann", "bad")
    one = story.losses().figures
    assert (one.prevented_usd, one.suffered_usd) == (30.0, 70.0)


@pytest.mark.parametrize(("hours", "prevented"), [(72, 100.0), (72.001, 200.0)])
def test_a_series_goes_on_for_three_days_and_not_longer(story, hours, prevented):
    story.ask(0, "ann", 100.0, 0.0)
    story.ask(hours, "ann", 100.0, 0.0)
    story.verdict(100, "ann", "bad")
    assert story.losses().figures.prevented_usd == prevented


def test_delayed_is_what_was_held_and_sent_later(story):
    story.ask(0, "part", 100.0, 40.0)
    story.ask(0, "more", 30.0, 10.0)
    story.ask(5, "more", 500.0, 500.0)
    story.verdict(6, "part", "good")
    story.verdict(6, "more", "good")
    rows = {row["user"]: row for row in story.losses().ledger.iter_rows(named=True)
            if row["refused_usd"]}  # fmt: skip
    assert (rows["part"]["delayed_usd"], rows["part"]["waited_hours"]) == (0.0, None)
    assert (rows["more"]["delayed_usd"], rows["more"]["waited_hours"]) == (20.0, 5.0)


def test_the_newest_label_holds_and_the_first_of_its_kind_says_since_when(story):
    story.ask(0, "ann", 100.0, 0.0)

    def held():
        (row,) = story.losses(terms=Terms(reach="10h")).ledger.filter(
            pl.col("about") == "e1"
        ).iter_rows(named=True)  # fmt: skip
        return row["outcome"], row["learned_at"]

    story.verdict(9, "ann", "bad")
    story.verdict(11, "ann", "bad")
    assert held() == ("bad", moment(at(9))), "known since the first, which reaches far enough"
    story.verdict(12, "ann", "good")
    assert held() == ("cleared", moment(at(12)))
    story.ask(13, "ann", 10.0, 0.0)
    story.verdict(14, "ann", "good")
    assert story.losses().ledger["outcome"].to_list() == ["cleared", "cleared"]
    story.verdict(15, "ann", "bad")
    assert held() == ("open", None), "bad again, and that is not reached from there"
    assert story.losses().ledger["outcome"].to_list() == ["bad", "bad"]


@pytest.mark.parametrize(("reach", "outcome"), [("10h", "bad"), ("9h", "open")])
def test_a_label_reaches_back_to_the_instant(story, reach, outcome):
    story.ask(0, "ann", 100.0, 0.0)
    story.verdict(10, "ann", "bad")
    assert story.losses(terms=Terms(reach=reach)).ledger["outcome"].to_list() == [outcome]


def test_age_clearing_and_periods_hold_at_their_very_instant(story):
    story.ask(0, "ann", 100.0, 0.0)
    story.ask(5, "bo", 100.0, 0.0)
    story.verdict(5, "bo", "good")
    story.later(60)
    found = story.losses()
    assert dict(found.ledger.select("user", "outcome").rows()) == {"ann": "quiet", "bo": "cleared"}
    assert story.losses(since=at(5)).ledger["user"].to_list() == ["bo"]
    assert story.losses(until=at(5)).ledger["user"].to_list() == ["ann"]
    assert story.losses(as_of=at(5)).figures.decisions == 2


def test_a_chargeback_is_the_loss_up_to_what_was_allowed(story):
    part = story.ask(0, "ann", 100.0, 40.0)
    small = story.ask(200, "bo", 50.0, 50.0)
    unseen = story.ask(201, "cy", 70.0, None)
    story.chargeback(300, "ann", part, 100.0)
    story.chargeback(301, "bo", small, 20.0)
    story.chargeback(302, "cy", unseen, 70.0)
    found = story.losses()
    one = found.figures
    assert (one.prevented_usd, one.suffered_usd, one.charged_back_usd) == (60.0, 60.0, 60.0)
    why = {row[0]: row[1:] for row in found.uncounted.rows()}
    assert why["charged back beyond what was allowed"] == (1, 60.0)
    assert why["charged back, but nobody had decided"] == (1, 70.0)
    assert why["events for money that nobody decided about"] == (1, 70.0)


def test_money_on_its_way_in_and_out_counts_by_the_larger_way(story):
    story.ask(0, "ann", 100.0, 0.0)
    story.ask(1, "ann", 300.0, 0.0, way="withdrawal")
    story.ask(2, "bo", 30.0, 30.0)
    story.ask(3, "bo", 20.0, 20.0, way="withdrawal")
    for user in ("ann", "bo"):
        story.verdict(4, user, "bad")
    one = story.losses().figures
    assert (one.prevented_usd, one.prevented_raw_usd) == (300.0, 400.0)
    assert (one.suffered_usd, one.both_ways_usd) == (50.0, 20.0), "suffered in full, and said"


def test_labels_that_come_late_are_not_seen_before_they_come(story):
    story.ask(0, "ann", 100.0, 0.0)
    story.ask(0, "bo", 100.0, 0.0)
    story.verdict(24 * 90, "ann", "bad")
    early, grown, late = (story.losses(as_of=at(24 * day)).figures for day in (10, 70, 90))
    assert (early.open_stopped_usd, early.quiet_usd, early.prevented_usd) == (200.0, 0.0, 0.0)
    assert (grown.open_stopped_usd, grown.quiet_usd, grown.prevented_usd) == (0.0, 200.0, 0.0)
    assert (late.open_stopped_usd, late.quiet_usd, late.prevented_usd) == (0.0, 100.0, 100.0)
    assert story.losses(as_of=at(24 * 900)).figures == late, "the end of the log is the latest"


def test_a_retry_beyond_the_end_of_the_period_is_followed(story):
    story.ask(0, "ann", 100.0, 0.0)
    story.ask(30, "ann", 100.0, 100.0)
    story.verdict(31, "ann", "bad")
    found = story.losses(until=at(24))
    assert (found.figures.decisions, found.figures.prevented_usd) == (1, 0.0)
    assert story.losses(until=at(24), terms=Terms(again="1d")).figures.prevented_usd == 100.0


def test_what_a_ban_stops_of_who_is_known_is_told_apart(story):
    story.ask(0, "ann", 100.0, 0.0)
    story.verdict(1, "ann", "bad")
    story.ask(500, "ann", 70.0, 0.0, action="deny", authority="ban")
    one = story.losses().figures
    assert (one.prevented_usd, one.after_known_usd) == (170.0, 70.0)


def test_a_label_may_reach_back_only_so_far(story):
    story.ask(0, "ann", 10.0, 10.0)
    story.ask(24 * 80, "ann", 20.0, 20.0)
    story.verdict(24 * 85, "ann", "bad")
    assert story.losses().figures.suffered_usd == 30.0
    found = story.losses(terms=Terms(reach="10d"))
    assert found.figures.suffered_usd == 20.0
    assert found.ledger["outcome"].to_list() == ["quiet", "bad"]


def test_a_label_may_name_the_event_alone(app, story):
    first = story.ask(0, "ann", 10.0, 10.0)
    story.ask(500, "ann", 20.0, 20.0)
    story.chargeback(600, "ann", first, 10.0)
    story.log.sync()
    label = Label(events=("chargeback",), by="about", refers=True)
    found = losses(app, story.log, label)
    assert found.ledger["outcome"].to_list() == ["bad", "open"]
    assert found.figures.suffered_usd == 10.0


class Ruling(Event):
    """What somebody found about one event."""

    about: str
    verdict: Literal["good", "bad"]


def test_a_clearing_of_one_event_is_stronger_than_a_bad_user():
    schema = Schema(exchange.Purchase, exchange.Verdict, exchange.PriceAlert, Decision, Ruling)
    spent = Aggregate("decision", "sum", of="allowed_usd", window="7d")
    story = Story(Application(Catalog(schema, spent), Policy()))
    first = story.ask(0, "ann", 10.0, 0.0)
    story.ask(500, "ann", 20.0, 20.0)
    story.verdict(600, "ann", "bad")
    story.log.sync()
    label = Label(events=("verdict", "ruling"), where="verdict == 'bad'")
    assert losses(story.app, story.log, label, good=GOOD).figures.prevented_usd == 10.0
    story.add(Ruling, 601, about=first, verdict="good")
    story.log.sync()
    found = losses(story.app, story.log, label, good=GOOD)
    assert found.ledger["outcome"].to_list() == ["cleared", "bad"]
    assert found.ledger["learned_at"].to_list() == [moment(at(601)), moment(at(600))]
    assert (found.figures.cleared_usd, found.figures.suffered_usd) == (10.0, 20.0)
    story.add(Ruling, 602, about=first, verdict="bad")
    story.log.sync()
    (outcome, _) = losses(story.app, story.log, label, good=GOOD).ledger["outcome"].to_list()
    assert outcome == "bad"


def hits(*names, standing="acts"):
    return [RuleHit(rule=name, version=1, standing=standing) for name in names]


def draft(story, name, **effects):
    story.add(RuleDrafted, 0, rule=name, version=1, when="amount_usd > 1",
              effects=effects_text(Effects(**effects)), because="so", author="ann")  # fmt: skip


def test_money_is_attributed_to_what_stopped_it(story):
    draft(story, "a_deny", deny=True)
    draft(story, "b_deny", deny=True)
    draft(story, "c_limit", limit_at_most_usd=10.0)
    draft(story, "d_ask", friction="quiz")
    draft(story, "e_wait", delay_hours=2.0)
    draft(story, "f_lock", lock_score=0.9)
    every = hits("a_deny", "b_deny", "c_limit", "d_ask", "e_wait")
    cases = [
        ("deny", {"authority": "rule", "rules": every}, ["rule a_deny", "rule b_deny"]),
        ("deny", {"authority": "rule", "rules": hits("a_deny")}, ["rule a_deny"]),
        ("deny", {"authority": "ban", "rules": every}, ["ban"]),
        ("ask", {"friction": "quiz", "rules": every}, ["rule d_ask"]),
        ("ask", {"friction": "id_photo", "rules": every}, ["friction policy"]),
        ("ask", {"friction": "verify_id", "rules": every}, ["verification"]),
        ("delay", {"rules": every}, ["rule e_wait"]),
        ("delay", {"rules": every, "reasons": [Reason(code="delay", text="-")]},
         ["rule e_wait", "score band"]),
        ("wait", {"authority": "rule", "rules": every}, ["rule c_limit"]),
        ("wait", {"authority": "damped", "rules": hits("c_limit", standing="shadow")},
         ["limit by score"]),
        ("wait", {"authority": "default"}, ["limit without a score"]),
        ("wait", {"authority": "override"}, ["override"]),
        ("wait", {"authority": "lock"}, ["lock"]),
        ("wait", {"authority": "lock", "rules": hits("f_lock")}, ["rule f_lock"]),
        ("wait", {"authority": "lock", "rules": hits("f_lock"),
                  "reasons": [Reason(code="lock", text="-")]}, ["lock"]),
        ("wait", {"reasons": [Reason(code="policy_failed", text="-")]}, ["failure"]),
        ("deny", {"authority": "rule", "rules": hits("of_another_log")},
         ["rule of_another_log"]),
    ]  # fmt: skip
    for place, (action, fields, _) in enumerate(cases):
        story.ask(1, f"u{place:02}", 90.0, 0.0, action=action, **fields)
        story.verdict(1, f"u{place:02}", "bad")
    found = story.losses()
    assert found.ledger["causes"].to_list() == [causes for _, _, causes in cases]
    by = {row["name"]: row for row in found.by("rule").iter_rows(named=True)}
    assert by["rule a_deny"]["prevented_usd"] == 90.0 + 45.0, "in equal parts, which add up"
    assert (by["rule a_deny"]["alone_usd"], by["rule a_deny"]["shared_usd"]) == (90.0, 90.0)
    assert (by["rule b_deny"]["alone_usd"], by["rule b_deny"]["shared_usd"]) == (0.0, 90.0)
    assert found.by("rule")["prevented_usd"].sum() == 90.0 * len(cases)


def test_the_engines_own_records_are_read(app):
    engine = Engine(app, log=MemoryLog(app.catalog.schema), vault=Vault(bytes(32)),
                    trust_known_at=True)  # fmt: skip
    when = {"happened_at": START, "known_at": START}
    engine.observe(RuleDrafted(id="r1", **when, rule="no", version=1, when="amount_usd > 70",
                               effects=effects_text(Effects(deny=True)), because="so",
                               author="ann"))  # fmt: skip
    engine.observe(RuleReviewed(id="r2", **when, rule="no", version=1, approved=True, author="bo"))
    engine.observe(RuleStaged(id="r3", **when, rule="no", version=1, stage="active", moves=0.0,
                              author="ann", approver="bo"))  # fmt: skip
    for hour, usd in ((1, 80.0), (100, 20.0), (200, 60.0)):
        moved = START + timedelta(hours=hour)
        engine.assess(exchange.Purchase(
            id=f"p{hour}", happened_at=moved, known_at=moved, user="guest", **DEVICE, rail="card",
            card="c", issuer="First", amount_usd=usd,
        ))  # fmt: skip
    engine.log.sync()
    found = losses(app, engine.log, LABEL, good=GOOD)
    assert found.ledger["action"].to_list() == ["deny", "allow", "reduce"]
    assert found.ledger["causes"].to_list() == [["rule no"], [], ["limit without a score"]]
    last = engine.log.find(decision_id("p200"))
    assert found.ledger["allowed_usd"].to_list() == [0.0, 20.0, last.allowed_usd]


def test_a_rule_on_a_share_of_the_users_is_estimated_by_the_others(story):
    draft(story, "half", deny=True)
    stage = {"rule": "half", "version": 1, "stage": "active", "author": "ann"}
    story.add(RuleStaged, 0, **stage, share=0.5)
    lost = {True: [], False: []}
    users = [(f"u{number}", number % 3 > 0, number % 4 == 0) for number in range(120)]
    for user, acts, is_bad in users:
        lost[acts].append(is_bad * (10.0 if acts else 60.0))
        if acts:
            story.ask(1, user, 50.0, 0.0, action="deny", rules=hits("half"), authority="rule")
        else:
            story.ask(1, user, 50.0, 50.0, rules=hits("half", standing="not rolled out"))
    for user, _, _ in users:
        story.ask(9, user, 10.0, 10.0, way="withdrawal")
    for user, _, is_bad in users:
        if is_bad:
            story.verdict(10, user, "bad")
    story.add(RuleStaged, 20, **stage, share=1.0, approver="bo")
    late = story.ask(21, "late", 500.0, 500.0, rules=hits("half", standing="not rolled out"))
    story.chargeback(22, "late", late, 500.0)
    (row,) = story.losses().trials.iter_rows(named=True)
    means = {acts: sum(each) / len(each) for acts, each in lost.items()}
    assert (row["users"], row["control_users"]) == (80, 40)
    assert row["loss_usd"] == pytest.approx(means[True])
    assert row["control_loss_usd"] == pytest.approx(means[False])
    assert row["prevented_usd"] == pytest.approx(80 * (means[False] - means[True]))
    spread = sum(
        sum((x - means[acts]) ** 2 for x in each) / (len(each) - 1) / len(each)
        for acts, each in lost.items()
    )
    assert row["high"] - row["prevented_usd"] == pytest.approx(80 * 1.959964 * math.sqrt(spread))
    few = story.losses(until=at(0.5)).trials.row(0, named=True)
    assert (few["users"], few["prevented_usd"]) == (0, None)


def test_the_interval_is_as_wide_as_users_differ(story):
    for number in range(400):
        story.ask(1, f"u{number}", 10.0 + number % 37, 0.0)
        story.verdict(1, f"u{number}", "bad")
    found = story.losses(terms=Terms(replicates=1_000))
    band = found.intervals["prevented_usd"]
    wanted = math.sqrt(sum((10.0 + number % 37) ** 2 for number in range(400)))
    assert (band.high - band.low) / 2 / 1.96 == pytest.approx(wanted, rel=0.12)
    assert band.low < band.value < band.high
    assert story.losses(terms=Terms(replicates=1_000)).intervals == found.intervals


def test_without_labels_all_is_open_or_quiet(story):
    story.ask(0, "ann", 100.0, 0.0)
    story.ask(24 * 50, "bo", 100.0, 100.0)
    one = story.later(61).losses().figures
    assert (one.prevented_usd, one.suffered_usd, one.quiet_usd) == (0.0, 0.0, 100.0)
    assert one.open_allowed_usd == 100.0
    assert one.net_usd == -3.0, "2 % of 100 USD, and one stop"


def test_without_decisions_all_is_zero_and_the_page_is_made(story):
    found = story.later(1).losses()
    assert (found.figures.decisions, found.figures.net_usd) == (0, 0.0)
    assert found.by("month").is_empty()
    assert "Net, USD" in page(found)


def test_the_page_is_whole_and_the_same_each_time(story):
    for day in range(0, 100, 10):
        user = f"<b>u{day}"
        story.ask(24 * day, user, 100.0, 0.0 if day % 20 else 100.0)
        story.verdict(24 * day + 1, user, "bad")
    text = page(story.losses())
    assert text == page(story.losses())
    assert text.count("<rect") == 2 * len(story.losses().by("month"))
    assert "<b>u" not in text


def test_an_empty_log_and_what_cannot_be_are_refused(app, story):
    with pytest.raises(InvalidTable, match="empty log"):
        story.losses()
    story.ask(0, "ann", 100.0, 0.0)
    with pytest.raises(InvalidExpression, match="expected a condition"):
        story.losses(good="amount_usd + 1")
    for label in (Label(events=("chargebacks",)), Label(events=("verdict",), by="users")):
        with pytest.raises(InvalidInput, match="which the schema lacks; did you mean"):
            read_record(app, story.log, label)
    with pytest.raises(InvalidTable, match="got none; the first was known on 2026-02-02"):
        read_record(app, story.log, LABEL, as_of=at(-1))
    record = read_record(app, story.log, LABEL)
    with pytest.raises(InvalidInput, match="ends after it begins"):
        account(record, since=at(2), until=at(1))
    for bad in ({"margin": 2.0}, {"stop_usd": -1.0}, {"again": "soon"}, {"replicates": 0},
                {"reach": "0d"}, {"matures": "x"}):  # fmt: skip
        with pytest.raises(InvalidInput, match="expected"):
            replace(Terms(), **bad)
    with pytest.raises(InvalidInput, match="to part by"):
        account(record).by("moon")
