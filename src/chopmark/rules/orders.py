"""Orders about rules and lists, as events of the log: a rule book is folded from them."""

from typing import Annotated, Literal

from msgspec import Meta

from chopmark.events.event import Carried, Entity, Event, Moment

Author = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(min_length=1, max_length=2_000)]
RuleName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Stage = Literal["shadow", "active", "off"]
User = Annotated[str, Entity("user")]


class ListChanged(Event):
    """Members enter or leave a named list; the first change makes the list."""

    list_name: RuleName
    added: Annotated[tuple[str, ...], Carried()] = ()
    removed: Annotated[tuple[str, ...], Carried()] = ()
    author: Author
    reason: Annotated[str, Carried()] = ""


class ListDropped(Event):
    """A list goes; refused while a rule asks it."""

    list_name: RuleName
    author: Author


class RuleDrafted(Event):
    """A version of a rule is written: ``when`` in the language, ``effects`` as JSON."""

    rule: RuleName
    version: Annotated[int, Meta(ge=1)]
    when: Annotated[str, Carried()]
    effects: Annotated[str, Carried()]
    because: Annotated[Text, Carried()]
    on: Annotated[tuple[str, ...], Carried()] = ()
    author: Author


class RuleReviewed(Event):
    """A second person read a version."""

    rule: RuleName
    version: int
    approved: bool
    comment: Annotated[str, Carried()] = ""
    author: Author


class RuleStaged(Event):
    """A version is put to use: beside the decisions, for a share of users, for all, or not.

    Attributes
    ----------
    share : float
        Of the users, chosen by their ids, for whom it acts; the others are shadowed.
    moves : float, optional
        Share of users that it would have moved in a backtest.
    approver : str, optional
        A second person, needed where it moves many limits, or none was measured.
    """

    rule: RuleName
    version: int
    stage: Stage
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    moves: Annotated[float, Meta(ge=0, le=1)] | None = None
    author: Author
    approver: Author | None = None


class RuleSnoozed(Event):
    """A rule does not act on a user (or on anybody) until an instant."""

    rule: RuleName
    user: User | None = None
    until: Moment
    reason: Annotated[Text, Carried()]
    author: Author


ABOUT_RULES: tuple[type[Event], ...] = (
    ListChanged, ListDropped, RuleDrafted, RuleReviewed, RuleStaged, RuleSnoozed,
)  # fmt: skip
"""Orders that a rule book is folded from."""
