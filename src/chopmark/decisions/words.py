"""A decision told in words: for the user, by way of whoever answers them.

Every sentence comes from the record. What would help a fraudster (rules, scores, features) is
kept apart from what a user may be told.
"""

from dataclasses import dataclass

from chopmark.decisions.case import VERIFY
from chopmark.decisions.decision import Decision, Reason
from chopmark.decisions.friction import FRICTIONS, Frictions
from chopmark.errors import PolicyError

_AUTHORITY = {
    "ban": "A ban decided.",
    "lock": "The score was locked, which decided the limit.",
    "override": "A limit set by hand decided.",
    "rule": "A rule bounded what the model would have allowed.",
    "damped": "The model's score decided; it is held until it changes by enough.",
    "model": "The model's score decided.",
    "default": "No model could say, so the default limit held.",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A decision in words.

    Attributes
    ----------
    to_user : tuple of str
        What a support agent may read to the user.
    inside : tuple of str
        Why, for those who may know.
    """

    to_user: tuple[str, ...]
    inside: tuple[str, ...]


def tell(decision: Decision, *, frictions: Frictions = FRICTIONS) -> Told:
    """The decision in sentences.

    Examples
    --------
    >>> from chopmark.times import EPOCH
    >>> decision = Decision(id="decision:p", happened_at=EPOCH, about="p", about_type="purchase",
    ...     user="ann", limit_usd=100.0, allowed_usd=100.0, action="reduce", reasons=[],
    ...     catalog="", policy="", values=[])
    >>> tell(decision).to_user
    ('We could go on with 100.00 USD of the purchase now.', 'Your weekly limit is 100.00 USD.')
    """
    what = decision.about_type.replace("_", " ")
    to_user = [_action(decision, what, frictions)]
    if decision.action not in ("deny", "record"):
        to_user.append(f"Your weekly limit is {decision.limit_usd:,.2f} USD.")
    inside = [_AUTHORITY[decision.authority]]
    if decision.score is not None:
        inside.append(f"The model's score was {_points(decision.score)}.")
    if decision.score_in_force is not None and decision.score_in_force != decision.score:
        inside.append(f"In force was {_points(decision.score_in_force)}.")
    inside += [_sentence(reason) for reason in decision.reasons]
    for hit in decision.rules:
        if hit.standing != "acts":
            inside.append(
                f"Rule {hit.rule} (version {hit.version}) was true and did not act: {hit.standing}."
            )
    if decision.multiplier != 1.0:
        inside.append(
            f"The limit was multiplied by {decision.multiplier:g} to learn from it, as happens "
            f"in one of {1.0 / decision.propensity:,.0f} such cases."
        )
    if decision.queue:
        inside.append(f"It waits in the queue `{decision.queue}`.")
    return Told(tuple(to_user), tuple(inside))


def _sentence(reason: Reason) -> str:
    """A reason; one that begins with the name of a feature keeps it as it is written."""
    text = reason.text if reason.feature else reason.text[:1].upper() + reason.text[1:]
    return text + "."


def _action(decision: Decision, what: str, frictions: Frictions) -> str:
    match decision.action:
        case "allow":
            return f"The {what} was allowed."
        case "reduce":
            return f"We could go on with {decision.allowed_usd:,.2f} USD of the {what} now."
        case "wait":
            return f"The {what} has to wait: this week's limit is used up."
        case "ask":
            return f"Before the {what} we need something from you: {_asked(decision, frictions)}."
        case "delay":
            return f"The {what} is held for {_hours(decision.delay_s)} while we look at it."
        case "deny":
            return f"We cannot carry out the {what}."
    return f"Nothing had to be decided about this event ({what})."


def _asked(decision: Decision, frictions: Frictions) -> str:
    if decision.friction.startswith(VERIFY):
        return f"please verify your {decision.friction.removeprefix(VERIFY)}"
    try:
        return frictions[decision.friction].text
    except PolicyError:
        return decision.friction.replace("_", " ")


def _points(score: float) -> str:
    return f"{100 * score:.2g} of 100"


def _hours(seconds: int) -> str:
    hours = seconds / 3600
    return f"{hours:g} hours" if hours != 1 else "an hour"
