"""What a friction does to the fraudster's return, and to the exchange's profit.

    fraudster   profit = (1 - stops) * keeps * amount - cost of an attempt - cost of the friction
                ROI    = profit / (cost of an attempt + cost of the friction)
    exchange    profit = good users * (1 - abandonment) * margin * amount
                         - fraud * (1 - stops) * loses * amount - cost of asking

A fraudster is a business: it goes where a dollar brings most. A friction need not catch all of
them, it has to bring their return below what they get elsewhere; below zero they lose by trying.
The exchange's figure does not count on that: fraud stays as frequent as it was. Expected values
are exact, `simulate` draws the same one decision at a time. Serves row F11 of the requirements.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chopmark.decisions.friction import FRICTIONS, Friction, Frictions, Risk, check_risk
from chopmark.errors import PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One way to steal, as a fraudster counts it.

    Parameters
    ----------
    risk : str
    amount_usd : float
        What an attempt takes if it succeeds, > 0.
    cost_usd : float
        Of an attempt: the stolen card, the leaked password, the hours on the phone; > 0.
    keeps : float
        Share of the amount that is left after mules and money changers, in [0, 1].
    """

    risk: Risk
    amount_usd: float
    cost_usd: float
    keeps: float = 0.5

    def __post_init__(self) -> None:
        check_risk(self.risk, "of an attack")
        for what in ("amount_usd", "cost_usd"):
            if not 0.0 < getattr(self, what) < math.inf:
                raise PolicyError(f"expected {what} of an attack > 0, got {getattr(self, what)!r}")
        if not 0.0 <= self.keeps <= 1.0:
            raise PolicyError(f"expected `keeps` of an attack in [0, 1], got {self.keeps!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Economics:
    """What the exchange earns and loses by a payment.

    Parameters
    ----------
    margin : float
        Share of a good user's amount that is earned, in [0, 1].
    loses : tuple of (risk, share)
        Share of a fraudulent amount that the exchange has to bear, in [0, 1]; 1 if left out.
    """

    margin: float = 0.02
    loses: tuple[tuple[Risk, float], ...] = (("scam_victim", 0.5), ("money_mule", 0.3))

    def __post_init__(self) -> None:
        for risk, share in self.loses:
            check_risk(risk, "in `loses`")
            if not 0.0 <= share <= 1.0:
                raise PolicyError(f"expected a share of `{risk}` in [0, 1], got {share!r}")
        if not 0.0 <= self.margin <= 1.0:
            raise PolicyError(f"expected a margin in [0, 1], got {self.margin!r}")

    def lost(self, risk: Risk) -> float:
        """Share of a fraudulent amount that the exchange has to bear."""
        return dict(self.loses).get(risk, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """What one decision under a friction brings to both sides, in USD.

    Attributes
    ----------
    fraudster_profit_usd : float
        Per attempt.
    fraudster_roi : float
        Profit per dollar spent; -1 is all of it lost.
    exchange_profit_usd : float
        Per decision, good users and fraud together.
    """

    friction: str
    fraudster_profit_usd: float
    fraudster_roi: float
    exchange_profit_usd: float


DEFAULT_ECONOMICS = Economics()


def exchange_profit_usd(
    friction: Friction,
    *,
    amount_usd: float,
    chances: Mapping[Risk, float],
    economics: Economics = DEFAULT_ECONOMICS,
) -> float:
    """Expected profit of the exchange from one decision.

    Parameters
    ----------
    chances : mapping
        Calibrated probability of each risk; the rest is good.

    Raises
    ------
    PolicyError
        If the chances are no probabilities, or sum to more than 1.
    """
    if not all(0.0 <= chance <= 1.0 for chance in chances.values()) or sum(chances.values()) > 1.0:
        raise PolicyError(f"expected chances that sum to at most 1, got {dict(chances)}")
    good = 1.0 - sum(chances.values())
    earned = good * (1.0 - friction.abandonment) * economics.margin
    lost = sum(
        chance * (1.0 - friction.stopped(risk)) * economics.lost(risk)
        for risk, chance in chances.items()
    )
    return (earned - lost) * amount_usd - friction.cost_usd


def returns(
    attack: Attack,
    *,
    chance: float,
    economics: Economics = DEFAULT_ECONOMICS,
    frictions: Frictions = FRICTIONS,
) -> list[Return]:
    """Expected returns under each friction, in the order of the registry.

    Parameters
    ----------
    chance : float
        Share of the attack among the decisions, in [0, 1].

    Examples
    --------
    >>> attack = Attack(risk="stolen_payment", amount_usd=500.0, cost_usd=30.0)
    >>> none, _, _, selfie, *_ = returns(attack, chance=0.05)
    >>> round(none.fraudster_roi, 2), round(selfie.fraudster_roi, 2)
    (7.33, -0.72)
    """
    return [
        _return(
            friction,
            attack,
            success=1.0 - friction.stopped(attack.risk),
            exchange=exchange_profit_usd(
                friction,
                amount_usd=attack.amount_usd,
                chances={attack.risk: chance},
                economics=economics,
            ),
        )
        for friction in frictions
    ]


def simulate(
    attack: Attack,
    *,
    chance: float,
    num_decisions: int,
    seed: int,
    economics: Economics = DEFAULT_ECONOMICS,
    frictions: Frictions = FRICTIONS,
) -> list[Return]:
    """The same returns as means over so many drawn decisions under each friction.

    Raises
    ------
    PolicyError
        If no attack was among the decisions: the fraudster's return has no mean then.
    """
    rng = np.random.default_rng(seed)
    found = []
    for friction in frictions:
        is_attack = rng.random(num_decisions) < chance
        num_attacks = int(is_attack.sum())
        if not num_attacks:
            raise PolicyError(f"expected attacks among {num_decisions} decisions, got none")
        luck = rng.random(num_decisions)
        succeeds = is_attack & (luck >= friction.stopped(attack.risk))
        stays = ~is_attack & (luck >= friction.abandonment)
        lost = economics.lost(attack.risk) * int(succeeds.sum())
        earned = economics.margin * int(stays.sum())
        exchange = (earned - lost) * attack.amount_usd / num_decisions - friction.cost_usd
        success = int(succeeds.sum()) / num_attacks
        found.append(_return(friction, attack, success=success, exchange=exchange))
    return found


def _return(friction: Friction, attack: Attack, *, success: float, exchange: float) -> Return:
    spent = attack.cost_usd + friction.fraudster_cost_usd
    profit = success * attack.keeps * attack.amount_usd - spent
    return Return(
        friction=friction.name,
        fraudster_profit_usd=profit,
        fraudster_roi=profit / spent,
        exchange_profit_usd=exchange,
    )
