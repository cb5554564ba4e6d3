"""The record of a decision: an event like any other, and all that is needed to redo it.

A decision is appended to the log right behind the event that it answers, in the same
commit. It holds the values of all features, and the hashes of the catalog, the model and
the policy that made it, so that it can be recomputed bit for bit (`Engine.recompute`) and
explained years later.
"""

from typing import Annotated, Literal

import msgspec

from chopmark.events.event import Carried, Entity, Event, EventId, Usd

PREFIX = "decision:"
DecisionId = Annotated[str, msgspec.Meta(min_length=1, max_length=128 + len(PREFIX))]
"""As long as the longest id of an event with the prefix before it."""

Action = Literal["allow", "reduce", "wait", "record"]
"""``allow`` the amount, ``reduce`` it to what is left of the limit, ``wait`` until some of
the limit is free again, or only ``record``, where the event asks for no money."""


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reason, in words and in numbers.

    Attributes
    ----------
    code : str
        ``feature`` (it moved the score), ``limit``, ``no_model`` or ``model_failed``.
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
        Risk in [0, 1]; None if no model could say.
    limit_usd : float
        Weekly purchase power, never zero (row E4).
    allowed_usd : float
        Of the amount that the event asks for.
    action : str
        See `Action`.
    reasons : list of Reason
        Strongest first.
    catalog, model, policy : str
        Hashes of what made it; no model is None.
    values : list
        Values of all features, in the order of the catalog; None is missing.
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
    catalog: Annotated[str, Carried()]
    model: Annotated[str | None, Carried()] = None
    policy: Annotated[str, Carried()]
    values: Annotated[list[float | str | None], Carried()]
    latency_us: Annotated[int, Carried()] = 0


def decision_id(event_id: str) -> str:
    """The id of the decision about an event: one event, one decision.

    Examples
    --------
    >>> decision_id("p-17")
    'decision:p-17'
    """
    return PREFIX + event_id
