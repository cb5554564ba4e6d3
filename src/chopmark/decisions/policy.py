"""The policy: a function from a score and features to an action, with its reasons.

The score is the model's, the limit comes from the score, and the action from the limit and
what was used of it. A policy has no state: all that it looks at is in the features, so the
same inputs give the same decision today, in a backtest and in an audit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from chopmark.decisions.decision import Action, Reason
from chopmark.decisions.limits import DEFAULT_CURVE, FLOOR_USD, LimitCurve
from chopmark.errors import PolicyError

Value = float | str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says.

    Attributes
    ----------
    limit_usd, allowed_usd : float
        Weekly purchase power, and what is allowed of the amount asked for.
    action : str
        See `chopmark.decisions.decision.Action`.
    reasons : list of Reason
        Of the policy; those of the score come from `score_reasons`.
    """

    limit_usd: float
    allowed_usd: float
    action: Action
    reasons: list[Reason] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Graded purchase power by score.

    Parameters
    ----------
    curve : LimitCurve
    default_limit_usd : float
        Where no model can say, in USD a week; at least the floor of 5.
    amount : str
        Field of the event that asks for money.
    gated : tuple of str
        Event types whose amount counts against the limit.
    spent : str
        Feature with what was allowed in the last seven days, in USD.
    """

    curve: LimitCurve = DEFAULT_CURVE
    default_limit_usd: float = 50.0
    amount: str = "amount_usd"
    gated: tuple[str, ...] = ("purchase",)
    spent: str = "decision_allowed_usd_sum_7d"

    def __post_init__(self) -> None:
        if not FLOOR_USD <= self.default_limit_usd < math.inf:
            raise PolicyError(
                f"expected a finite default limit of at least {FLOOR_USD} USD a week, got "
                f"{self.default_limit_usd!r}"
            )

    @property
    def hash(self) -> str:
        """Changes with every parameter."""
        return sha256(repr(self).encode()).hexdigest()

    def decide(
        self, score: float | None, *, event_type: str, amount_usd: float | None, spent_usd: float
    ) -> Verdict:
        """The limit and the action for one event.

        Parameters
        ----------
        score : float or None
            Risk in [0, 1]; None where no model can say.
        amount_usd : float or None
            What the event asks for; below zero, which gives money back, counts as zero.
        spent_usd : float
            What was allowed in the last seven days.
        """
        limit = self.default_limit_usd if score is None else self.curve.limit_usd(score)
        if event_type not in self.gated or amount_usd is None:
            return Verdict(limit, 0.0, "record")
        amount_usd = max(amount_usd, 0.0)
        left = max(round(limit - spent_usd, 2), 0.0)
        if amount_usd <= left:
            return Verdict(limit, amount_usd, "allow")
        text = f"{amount_usd:.2f} USD asked for, {left:.2f} left of a weekly limit of {limit:.2f}"
        reason = Reason(code="limit", text=text, value=limit)
        return Verdict(limit, left, "reduce" if left > 0 else "wait", [reason])


def score_reasons(
    reads: Sequence[str],
    values: Sequence[Value],
    contributions: NDArray[np.float64],
    *,
    most: int = 3,
    least_log_odds: float = 0.05,
) -> list[Reason]:
    """The features that moved a score most, up or down, strongest first.

    Parameters
    ----------
    reads, values : sequences of equal length
        Names and values of the model's features.
    contributions : (n,) float64
        In log-odds.
    least_log_odds : float
        Weaker ones are left out.
    """
    # A few dozen numbers: plain Python sorts them in a third of the time of numpy.
    parts: list[float] = contributions.tolist()
    places = sorted(range(len(parts)), key=[-abs(part) for part in parts].__getitem__)[:most]
    return [
        Reason(
            code="feature",
            text=_sentence(reads[place], values[place], parts[place]),
            feature=reads[place],
            value=values[place],
            log_odds=parts[place],
        )
        for place in places
        if abs(parts[place]) >= least_log_odds
    ]


def _sentence(name: str, value: Value, log_odds: float) -> str:
    shown = (
        "is missing" if value is None else f"= {value:.6g}" if _is_number(value) else f"= {value}"
    )
    return f"{name} {shown}: {'riskier' if log_odds > 0 else 'safer'}"


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float)
