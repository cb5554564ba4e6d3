"""Live = replay = audit = backtest: decisions that differ over a million events.

Live: every event of a simulated exchange through `Engine.assess` or `observe`, with a linear
model learned from another exchange, and people who give orders meanwhile: rules drafted,
reviewed, shadowed, rolled out, activated, replaced and turned off, a list that changes, locks.
Replay: the facts of that log over another one. Audit: each decision made again from its record,
with the rules of its time. Backtest: the rules that were in use throughout, asked about the past
as a table. All fields of a decision are compared but its latency.
"""

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from machine import BUILD, goal, number, parser, progress, report, table

from chopmark.datasets import simulate
from chopmark.decisions import Decision
from chopmark.decisions.orders import LockSet
from chopmark.engine import Engine, is_made_here, replayed
from chopmark.engine import replay as live_through
from chopmark.events import Event, MemoryLog, SqliteLog, Vault
from chopmark.pipelines import exchange
from chopmark.pipelines.rulehistory import rule_history
from chopmark.pipelines.training import train
from chopmark.rules.book import effects_text
from chopmark.rules.code import RuleCode
from chopmark.rules.columns import hits_of
from chopmark.rules.orders import ListChanged, RuleDrafted, RuleReviewed, RuleStaged
from chopmark.rules.rule import Effects
from chopmark.tabular import EasyML

EVENTS_PER_USER = 90
THROUGHOUT = {
    "large": ("amount_usd > 300 and purchase_count_7d >= 2", Effects(limit_at_most_usd=500)),
    "listed": ('issuer in list("watched") or score > 0.3', Effects(tags=("watched",))),
    "odd_hours": (
        'hour(as_of) < 6 and not missing(amount_usd) and starts_with(event_type, "p")',
        Effects(friction="quiz"),
    ),
}
"""Rules that are in shadow from the first event to the last: those that a table is asked about."""


def main() -> None:
    """Print the table; the exit status is 1 if any decision differs."""
    arguments = parser(__doc__)
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    with report(f"Decisions made in four ways, {given.events:,} events"):
        differing = compare(given.events, given.seed)
        print(f"Goal, 0 differing decisions: {goal(differing, 0)}.")
    raise SystemExit(1 if differing else 0)


def compare(num_events: int, seed: int) -> int:
    """Print what was compared; how many decisions or truths differ."""
    app = exchange.application()
    schema, vault = app.catalog.schema, Vault(bytes(range(32)))
    scorer = learned(seed + 1).scorer
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        log = SqliteLog(Path(folder) / "live.sqlite", schema)
        live = Engine(app, log=log, vault=vault, scorer=scorer, trust_known_at=True)
        began = perf_counter()
        stream = with_orders(simulated(num_events, seed), num_events)
        progress("live")
        decisions = live_through(live, stream, decide=app.policy.assessed)
        lived = perf_counter() - began
        progress("replay over another log")
        other = SqliteLog(Path(folder) / "again.sqlite", schema)
        again = Engine(app, log=other, vault=vault, scorer=scorer, trust_known_at=True)
        repeated = live_through(again, facts(log), decide=app.policy.assessed)
        changed = sum(
            timeless(one) != timeless(two) for one, two in zip(decisions, repeated, strict=True)
        )
        progress("audit")
        audited = [bool(fields) for _, fields in replayed(live, log)]
        progress("backtest")
        num_truths, wrong = backtested(live, log, decisions)
        acted = sum(any(hit.standing == "acts" for hit in one.rules) for one in decisions)
        locked = sum(one.authority == "lock" for one in decisions)
        log.close()
        other.close()
    table(
        ("compared with live", "compared", "differ"),
        [
            (
                "replay of the facts over another log",
                f"{len(decisions):,} decisions",
                f"{changed:,}",
            ),
            ("made again from the record", f"{len(audited):,} decisions", f"{sum(audited):,}"),
            ("rules asked about the past as a table", f"{num_truths:,} truths", f"{wrong:,}"),
        ],
    )
    print(
        f"\n{num_events:,} events and {len(decisions):,} decisions in {number(lived)} s; rules "
        f"acted in {acted:,} of them, a lock decided {locked:,}.\n"
    )
    return changed + sum(audited) + wrong + (len(audited) != len(decisions))


def learned(seed: int) -> EasyML:
    """A linear model of another exchange."""
    app = exchange.application()
    log = MemoryLog(app.catalog.schema)
    for event in simulate(num_users=600, days=180, seed=seed, fraud_scale=6.0).events():
        log.append(event)
    log.sync()
    return train(app, log, label=exchange.LABEL, model=EasyML(model="linear"), test_share=0).model


def simulated(num_events: int, seed: int) -> Iterator[Event]:
    """The events of an exchange that has a few more than asked for."""
    users = num_events // EVENTS_PER_USER + 50
    for count, event in enumerate(simulate(num_users=users, days=120, seed=seed).events()):
        if count == num_events:
            return
        yield event


def with_orders(events: Iterator[Event], num_events: int) -> Iterator[Event]:
    """The events, and between them what people order."""
    acting = Effects(limit_at_most_usd=200, lock_score=0.6, lock_days=5)
    script: dict[int, list[tuple[type[Event], dict[str, Any]]]] = {
        0: [
            (ListChanged, {"list_name": "watched", "added": ("Granite Trust",)}),
            *(
                step
                for name, (when, then) in THROUGHOUT.items()
                for step in staged(name, when, then)
            ),
            (RuleDrafted, drafted("burst", 1, "purchase_count_1h >= 2", acting)),
        ],
        num_events // 5: [
            (RuleReviewed, {"rule": "burst", "version": 1, "approved": True, "author": "bob"}),
            (
                RuleStaged,
                {"rule": "burst", "version": 1, "stage": "active", "share": 0.5, "moves": 0.0},
            ),
        ],
        2 * num_events // 5: [
            (RuleStaged, {"rule": "burst", "version": 1, "stage": "active", "moves": 0.0}),
            (
                RuleDrafted,
                drafted("burst", 2, "purchase_count_1h >= 1 and amount_usd > 50", acting),
            ),
            (RuleReviewed, {"rule": "burst", "version": 2, "approved": True, "author": "bob"}),
        ],
        3 * num_events // 5: [
            (RuleStaged, {"rule": "burst", "version": 2, "stage": "active", "moves": 0.0}),
        ],
        4 * num_events // 5: [(RuleStaged, {"rule": "burst", "version": 2, "stage": "off"})],
    }
    for count, event in enumerate(events):
        at = {"happened_at": event.happened_at, "known_at": event.known_at}
        for place, (kind, fields) in enumerate(script.get(count, ())):
            yield kind(id=f"order-{count}-{place}", **at, **{"author": "ann", **fields})
        if count % 5_000 == 4_999 and getattr(event, "user", None):
            until = event.happened_at + timedelta(days=20)
            yield LockSet(id=f"lock-{count}", **at, user=event.user, score=0.7, author="cy",
                          expires_at=until, reason="a call")  # fmt: skip
        yield event


def staged(name: str, when: str, then: Effects) -> list[tuple[type[Event], dict[str, Any]]]:
    return [
        (RuleDrafted, drafted(name, 1, when, then)),
        (RuleStaged, {"rule": name, "version": 1, "stage": "shadow"}),
    ]


def drafted(name: str, version: int, when: str, then: Effects) -> dict[str, Any]:
    return {"rule": name, "version": version, "when": when, "effects": effects_text(then),
            "because": "measured"}  # fmt: skip


def facts(log: SqliteLog) -> Iterator[Event]:
    """What a log holds that no engine wrote."""
    for batch in log.read():
        yield from (event for _, event in batch if not is_made_here(event))


def backtested(engine: Engine, log: SqliteLog, decisions: list[Decision]) -> tuple[int, int]:
    """Truths of the rules that were in use throughout, and how many a table has otherwise."""
    assert engine.scorer is not None
    past, _ = rule_history(
        engine.application, log, label=exchange.LABEL, rows=sorted(engine.policy.assessed),
        score=engine.scorer.score,
    )  # fmt: skip
    book = engine.book
    conditions = [book.versions[name][0].condition for name in THROUGHOUT]
    code = RuleCode([one for one in conditions if one], book.language.kinds, book.lists, book.codes)
    hits = hits_of(code, past, threads=2)
    live = {one.about: {hit.rule for hit in one.rules} for one in decisions}
    place_of = {about: place for place, about in enumerate(past["event_id"].to_list())}
    recorded = np.zeros_like(hits)
    for about, rules in live.items():
        recorded[place_of[about]] = [name in rules for name in THROUGHOUT]
    asked = np.array([place_of[about] for about in live])
    return hits[asked].size, int((hits[asked] != recorded[asked]).sum())


def timeless(decision: Decision) -> dict[str, Any]:
    names = decision.__struct_fields__
    return {name: getattr(decision, name) for name in names if name != "latency_us"}


if __name__ == "__main__":
    main()
