"""A day at the desk: a rule from draft to action, a lock, a friction, an explanation, a replay.

What `chopmark demo` shows of the decision side, on the log that it has just lived through.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from chopmark.decisions import Decision
from chopmark.decisions.orders import FrictionAsked, FrictionCompleted, LockSet
from chopmark.decisions.words import tell
from chopmark.engine import Engine, replayed
from chopmark.errors import InvalidInput
from chopmark.events import Event
from chopmark.features import Label
from chopmark.pipelines.rulehistory import rule_history, share_moved
from chopmark.rules import Effects
from chopmark.rules.book import effects_text
from chopmark.rules.code import RuleCode
from chopmark.rules.columns import hits_of
from chopmark.rules.judging import Figures, judge
from chopmark.rules.orders import RuleDrafted, RuleReviewed, RuleStaged
from chopmark.times import moment

RULE = "many_in_an_hour"
WHEN = "purchase_count_1h >= 2 and amount_usd > 100"
THEN = Effects(limit_at_most_usd=1_000.0, friction="quiz", tags=("burst",))


@dataclass(frozen=True, slots=True)
class Day:
    """What happened.

    Attributes
    ----------
    backtest : Figures
        Of the rule on the past.
    moves : float
        Share of users whose limit it would have moved.
    steps : list of (what, decision)
        One purchase after each step.
    told : tuple of str
        The last decision, as a support agent may read it.
    num_decisions, num_differing : int
        All decisions of the log, made again.
    """

    backtest: Figures
    moves: float
    steps: list[tuple[str, Decision]]
    told: tuple[str, ...]
    num_decisions: int
    num_differing: int


class _Desk:
    """Gives orders and lets one user buy, a minute apart."""

    def __init__(self, engine: Engine, pattern: Event) -> None:
        self.engine = engine
        self.pattern = pattern
        self.count = 0
        last = engine.log.last_known_at
        assert last is not None
        self.now: datetime = moment(last)

    def tick(self) -> dict[str, Any]:
        self.count += 1
        self.now += timedelta(minutes=1)
        return {"id": f"desk-{self.count}", "happened_at": self.now, "known_at": self.now}

    def order(self, kind: type[Event], **fields: Any) -> None:
        self.engine.observe(kind(**self.tick(), **fields))

    def buy(self, amount_usd: float) -> Decision:
        event = msgspec.structs.replace(self.pattern, **self.tick(), amount_usd=amount_usd)
        return self.engine.assess(event).decision


def day_at_the_desk(
    engine: Engine, *, label: Label, score: Callable[[pl.DataFrame], Any] | None
) -> Day:
    """Write, judge, shadow and activate a rule; lock; complete a friction; explain; replay.

    Parameters
    ----------
    engine : Engine
        With ``trust_known_at``, over a log that knows some purchases.
    score : callable, optional
        Of the model in use, for the backtest.

    Raises
    ------
    InvalidInput
        If no purchase in the log was allowed.
    """
    engine.log.sync()
    past, known = rule_history(engine.application, engine.log, label=label, score=score)
    desk = _Desk(engine, _good_purchase(engine))
    user = getattr(desk.pattern, "user")  # noqa: B009 - not every event type has one
    desk.order(RuleDrafted, rule=RULE, version=1, when=WHEN, effects=effects_text(THEN),
               because="card testers buy several times in an hour", author="ann")  # fmt: skip
    condition = engine.book.versions[RULE][0].condition
    assert condition is not None
    book = engine.book
    hits = hits_of(RuleCode([condition], book.language.kinds, book.lists, book.codes), past)
    judged = judge(hits, known, names=[RULE]).rules[0]
    moves = share_moved(pl.Series(hits[:, 0]), past) or 0.0
    desk.order(RuleStaged, rule=RULE, version=1, stage="shadow", author="ann")
    steps = []
    for _ in range(2):
        desk.buy(10.0)
    steps.append(("the rule in shadow", desk.buy(150.0)))
    desk.order(RuleReviewed, rule=RULE, version=1, approved=True, author="bob")
    desk.order(RuleStaged, rule=RULE, version=1, stage="active", moves=moves, author="ann",
               approver="bob")  # fmt: skip
    asked = desk.buy(150.0)
    steps.append(("the rule active", asked))
    desk.order(FrictionAsked, user=user, friction="quiz", about=asked.about)
    desk.order(FrictionCompleted, user=user, friction="quiz", outcome="passed")
    steps.append(("the quiz passed", desk.buy(150.0)))
    desk.order(LockSet, user=user, score=0.8, expires_at=desk.now + timedelta(days=30),
               reason="a call from the bank", author="bob", approver="cy")  # fmt: skip
    steps.append(("the score locked at 80", desk.buy(20.0)))
    steps.append(("scored again, still locked", desk.buy(20.0)))
    engine.log.sync()
    again = [bool(differing) for _, differing in replayed(engine, engine.log)]
    return Day(
        backtest=judged,
        moves=moves,
        steps=steps,
        told=tell(steps[-1][1], frictions=engine.policy.frictions).to_user,
        num_decisions=len(again),
        num_differing=sum(again),
    )


def _good_purchase(engine: Engine) -> Event:
    """The newest purchase that was allowed to a user far from any limit."""
    found = None
    spent = engine.catalog.names.index(engine.policy.spent)
    for batch in engine.log.read():
        for _, event in batch:
            if (
                isinstance(event, Decision)
                and event.about_type in engine.policy.gated
                and event.action == "allow"
                and event.limit_usd >= 2_000.0
                and event.values[spent] in (None, 0.0)
            ):
                found = event.about
    purchase = None if found is None else engine.log.find(found)
    if purchase is None:
        raise InvalidInput(
            "expected an allowed purchase in the log, of a user with a limit of 2,000 USD and "
            "nothing bought this week; got none"
        )
    return purchase
