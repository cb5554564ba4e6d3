"""The record of a decision: an event like any other, and all that is needed to redo it.

A decision is appended to the log right behind the event that it answers, in the same
commit. It holds the values of all features, and the hashes of the catalog, the model and
the policy that made it, so that it can be recomputed bit for bit (`Engine.recompute`) and
explained years later.
"""

from typing import Annotated, Literal

import msgspec

from chopmark.events.event import Carried, Entity, Event, EventId, Usd
from chopmark.features.sequence import EventList
from chopmark.rules.book import RuleHit

PREFIX = "decision:"
DecisionId = Annotated[str, msgspec.Meta(min_length=1, max_length=128 + len(PREFIX))]
"""As long as the longest id of an event with the prefix before it."""

Action = Literal["allow", "reduce", "wait", "ask", "delay", "deny", "record"]
"""``allow`` the amount, ``reduce`` it to what is left of the limit, ``wait`` until some of
the limit is free again, ``ask`` for a friction or a verification first, ``delay`` it, ``deny``
it (only a ban or a rule does), or only ``record``, where the event asks for no money."""

Authority = Literal["ban", "lock", "override", "rule", "damped", "model", "default"]
"""Who decided the limit, the strongest first: a ban, somebody's lock of the score or override of
the limit, a rule's bound, the score that damping holds, the model's score, or nobody."""


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reason, in words and in numbers.

    Attributes
    ----------
    code : str
        ``feature`` (it moved the score), ``limit``, ``rule``, ``lock``, ``override``, ``ban``,
        ``account``, ``friction``, ``no_score``, ``delay``, ``no_model`` or ``model_failed``.
    text : str
        For a person to read.
    feature : str, optional
        Name of the feature.
    value : float or str, optional
        Its value; None is missing.
    log_odds : float, optional
        How much it moved the log-odds of the score; above zero is riskier.
    """

    code: str
    text: str
    feature: str | None = None
    value: float | str | None = None
    log_odds: float | None = None


class Decision(Event):
    """What the engine decided about an event, and why.

    Attributes
    ----------
    about, about_type : str
        Id and type of the event that it answers.
    user : str
        Who is concerned.
    score : float, optional
        Risk in [0, 1], of the model; None if no model could say.
    limit_usd : float
        Weekly limit; only a ban makes it zero (row E4).
    allowed_usd : float
        Of the amount that the event asks for.
    action : str
        See `Action`.
    reasons : list of Reason
        Strongest first.
    score_in_force : float, optional
        What the limit was made from: the model's score, damped, bounded by a rule, or locked.
    authority : str
        Who decided the limit, see `Authority`.
    held_logit, dwell : float, optional, int
        What damping holds after this decision; a lock goes on beside it.
    state : str
        Of the account (`chopmark.decisions.account`).
    rules : list of RuleHit
        Rules that were true, shadows too.
    leaves : str
        Truth of every leaf of the rules in use: "1", "0" or "?" (missing).
    friction, friction_propensity : str, float
        What is asked for, "" for nothing, and with which probability the policy would.
    multiplier, propensity : float
        What exploration did to the limit, and the probability of that.
    delay_s : int
        Seconds that the event is to wait.
    queue : str
        Where analysts find it; "" is nowhere.
    tags : list of str
    catalog, model, policy, book : str
        Hashes of what made it; no model is None, no rules is "".
    inputs : str
        Hash of the event that it answers and of all feature values.
    values : list
        Values of all features, in the order of the catalog; None is missing, and that of a
        sequence is a list of events.
    latency_us : int
        From the event's arrival to this record; the one field that a replay does not repeat.
    """

    id: DecisionId
    about: EventId
    about_type: str
    user: Annotated[str, Entity("user")]
    score: float | None = None
    limit_usd: Annotated[float, Carried()]
    allowed_usd: Usd = 0.0
    action: Action = "record"
    reasons: Annotated[list[Reason], Carried()]
    score_in_force: float | None = None
    authority: Authority = "default"
    held_logit: float | None = None
    dwell: int = 0
    state: str = ""
    rules: Annotated[list[RuleHit], Carried()] = []  # noqa: RUF012 - msgspec copies it
    leaves: Annotated[str, Carried()] = ""
    friction: str = ""
    friction_propensity: Annotated[float, Carried()] = 1.0
    multiplier: Annotated[float, Carried()] = 1.0
    propensity: Annotated[float, Carried()] = 1.0
    delay_s: Annotated[int, Carried()] = 0
    queue: str = ""
    tags: Annotated[list[str], Carried()] = []  # noqa: RUF012 - msgspec copies it
    book: Annotated[str, Carried()] = ""
    inputs: Annotated[str, Carried()] = ""
    catalog: Annotated[str, Carried()]
    model: Annotated[str | None, Carried()] = None
    policy: Annotated[str, Carried()]
    values: Annotated[list[float | str | EventList | None], Carried()]
    latency_us: Annotated[int, Carried()] = 0


def decision_id(event_id: str) -> str:
    """The id of the decision about an event: one event, one decision.

    Examples
    --------
    >>> decision_id("p-17")
    'decision:p-17'
    """
    return PREFIX + event_id
