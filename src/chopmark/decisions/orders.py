"""Orders: what people and rules tell the decision side, as events of the log.

A lock, a ban, a list, a rule and its activation are facts like all others: who said it, when
and why stands in the log, and a replay of the log finds each of them in force when it was.
Of a user they are looked up as features (`chopmark.decisions.standing`), of rules and lists
folded into a rule book (`chopmark.rules.orders`). Serves E13, F9 and F10 of the requirements.
"""

from typing import Annotated, Literal

from msgspec import Meta

from chopmark.events.event import Carried, Event, Moment, Usd
from chopmark.rules.orders import ABOUT_RULES, Author, Text, User

LOCK_PREFIX = "lock:"
"""Before the id of an event: the id of the lock that a rule set when it came."""
LockId = Annotated[str, Meta(min_length=1, max_length=128 + len(LOCK_PREFIX))]


class LockSet(Event):
    """The score of a user is held at ``score`` until ``expires_at`` or a `LockReleased`.

    A lock survives rescoring and another model, which go on beside it.
    """

    id: LockId
    user: User
    score: Annotated[float, Meta(ge=0, le=1)]
    expires_at: Moment
    reason: Annotated[Text, Carried()]
    author: Author
    approver: Author | None = None


class LockReleased(Event):
    """A lock ends before its time."""

    user: User
    reason: Annotated[Text, Carried()]
    author: Author


class OverrideSet(Event):
    """The weekly limit of a user is ``limit_usd`` until ``expires_at`` or an `OverrideReleased`."""

    user: User
    limit_usd: Usd
    expires_at: Moment
    reason: Annotated[Text, Carried()]
    author: Author
    approver: Author | None = None


class OverrideReleased(Event):
    """An override ends before its time."""

    user: User
    reason: Annotated[Text, Carried()]
    author: Author


class Banned(Event):
    """A user may do nothing that moves money, until a `BanLifted`."""

    user: User
    reason: Annotated[Text, Carried()]
    author: Author


class BanLifted(Event):
    """A ban ends."""

    user: User
    reason: Annotated[Text, Carried()]
    author: Author


class VipMarked(Event):
    """A user is (or is no longer) one whose treatment people look at before it changes."""

    user: User
    vip: bool
    author: Author


class FrictionAsked(Event):
    """A user was asked to do something, as a decision wanted it."""

    user: User
    friction: str
    about: str


class FrictionCompleted(Event):
    """How it ended."""

    user: User
    friction: str
    outcome: Literal["passed", "failed", "abandoned"]
    about: str | None = None
    author: Author | None = None


ORDERS: tuple[type[Event], ...] = (
    LockSet, LockReleased, OverrideSet, OverrideReleased, Banned, BanLifted, VipMarked,
    FrictionAsked, FrictionCompleted, *ABOUT_RULES,
)  # fmt: skip
"""All orders: ``Schema(*your_events, Decision, *ORDERS)``."""
