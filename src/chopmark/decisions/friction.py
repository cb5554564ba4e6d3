"""Friction: what a user is asked before a payment goes on, and how that is chosen.

Each friction is a declaration: what it costs, how many good users give up on it, and how
much of each kind of fraud it stops. They differ: a selfie with the ID stops a stolen card,
and does nothing for a victim who is coached on the phone and holds the ID gladly.

Here are the registry, the allow-list of compliance, and what every policy answers. A table
chooses by default (`chopmark.decisions.frictiontable`), a learned policy where there is a log to
learn from (`chopmark.decisions.learnedfriction`). Serves rows F10, I7 and, with delay and human
review, H4 of the requirements.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal, Protocol, get_args

from chopmark.decisions.decision import Reason
from chopmark.errors import PolicyError, did_you_mean

Value = float | str | None
Risk = Literal["stolen_payment", "account_takeover", "scam_victim", "money_mule"]
Outcome = Literal["passed", "failed", "abandoned"]
"""How a friction ends. Who gives up, or lets the time run out, has abandoned it."""

RISKS: tuple[Risk, ...] = get_args(Risk)
AMOUNT = "amount_usd"


def check_risk(risk: str, where: str) -> None:
    """Raise PolicyError, which says where, if there is no such risk."""
    if risk not in RISKS:
        raise PolicyError(f"no risk {where} is called `{risk}`{did_you_mean(risk, RISKS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Friction:
    """One thing that a user can be asked, with its price and its effects.

    Parameters
    ----------
    name : str
    text : str
        What happens, for a person to read.
    cost_usd : float
        What asking once costs the exchange, >= 0.
    abandonment : float
        Share of good users who give up, in [0, 1].
    stops : tuple of (risk, share)
        Share of the attempts of each kind of fraud that fail on it, in [0, 1]; 0 if left out.
    fraudster_cost_usd : float
        What getting past it costs a fraudster each time, >= 0: a forged ID, an hour.
    judged : bool
        Whether somebody or something rules that the user failed. Nobody does so over a delay,
        and a conversational agent only asks and summarises: it never decides.

    Raises
    ------
    PolicyError
        If a number is out of its range, or a risk is unknown or named twice.
    """

    name: str
    text: str
    cost_usd: float
    abandonment: float
    stops: tuple[tuple[Risk, float], ...] = ()
    fraudster_cost_usd: float = 0.0
    judged: bool = True

    def __post_init__(self) -> None:
        of = f"of friction `{self.name}`"
        for what in ("cost_usd", "fraudster_cost_usd"):
            cost = getattr(self, what)
            if not 0.0 <= cost < math.inf:
                raise PolicyError(f"expected a finite {what} >= 0 {of}, got {cost!r}")
        if not 0.0 <= self.abandonment <= 1.0:
            raise PolicyError(f"expected abandonment {of} in [0, 1], got {self.abandonment!r}")
        for risk, share in self.stops:
            check_risk(risk, of)
            if not 0.0 <= share <= 1.0:
                raise PolicyError(f"expected a share of `{risk}` {of} in [0, 1], got {share!r}")
        if len({risk for risk, _ in self.stops}) < len(self.stops):
            raise PolicyError(f"expected each risk once in `stops` {of}, got {self.stops}")

    def stopped(self, risk: Risk) -> float:
        """Share of the attempts of a risk that fail on it, in [0, 1]."""
        return dict(self.stops).get(risk, 0.0)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """How it may end: who is not judged cannot fail."""
        return get_args(Outcome) if self.judged else ("passed", "abandoned")


@dataclass(frozen=True, slots=True)
class Frictions:
    """The registry: all frictions that there are, by name.

    Raises
    ------
    PolicyError
        If two share a name, or none is called ``none``.

    Examples
    --------
    >>> FRICTIONS["id_selfie"].stopped("stolen_payment")
    0.9
    >>> FRICTIONS["id_selfie"].stopped("scam_victim")
    0.03
    """

    declared: tuple[Friction, ...]

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) < len(names):
            raise PolicyError(f"expected frictions of different names, got {', '.join(names)}")
        if "none" not in names:
            raise PolicyError("expected a friction `none`, which is what most users see")

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were declared."""
        return tuple(friction.name for friction in self.declared)

    def __iter__(self) -> Iterator[Friction]:
        return iter(self.declared)

    def __len__(self) -> int:
        return len(self.declared)

    def __getitem__(self, name: str) -> Friction:
        for friction in self.declared:
            if friction.name == name:
                return friction
        raise PolicyError(f"no friction is called `{name}`{did_you_mean(name, self.names)}")


def _stops(
    stolen: float, takeover: float, scam: float, mule: float
) -> tuple[tuple[Risk, float], ...]:
    return tuple(zip(RISKS, (stolen, takeover, scam, mule), strict=True))


FRICTIONS = Frictions(
    (
        Friction(name="none", text="nothing is asked", cost_usd=0.0, abandonment=0.0, judged=False),
        Friction(
            name="quiz",
            text="a few questions that make a victim see the scam",
            cost_usd=0.02,
            abandonment=0.03,
            stops=_stops(0.03, 0.02, 0.30, 0.10),
            fraudster_cost_usd=0.1,
        ),
        Friction(
            name="id_photo",
            text="a photo of the ID",
            cost_usd=0.6,
            abandonment=0.08,
            stops=_stops(0.65, 0.55, 0.02, 0.15),
            fraudster_cost_usd=15.0,
        ),
        Friction(
            name="id_selfie",
            text="a photo of the ID by webcam, and a selfie holding the ID",
            cost_usd=1.2,
            abandonment=0.12,
            stops=_stops(0.90, 0.85, 0.03, 0.20),
            fraudster_cost_usd=60.0,
        ),
        Friction(
            name="delay",
            text="the payment waits, so that second thoughts and alarms can come",
            cost_usd=0.05,
            abandonment=0.10,
            stops=_stops(0.35, 0.40, 0.35, 0.15),
            fraudster_cost_usd=2.0,
            judged=False,
        ),
        Friction(
            name="call_back",
            text="a call to the number that was on file before",
            cost_usd=6.0,
            abandonment=0.10,
            stops=_stops(0.50, 0.70, 0.55, 0.30),
            fraudster_cost_usd=10.0,
        ),
        Friction(
            name="human_review",
            text="the payment waits for an analyst",
            cost_usd=8.0,
            abandonment=0.06,
            stops=_stops(0.75, 0.70, 0.50, 0.60),
            fraudster_cost_usd=10.0,
        ),
        Friction(
            name="agent",
            text="a conversational agent asks and summarises; it never decides",
            cost_usd=0.15,
            abandonment=0.05,
            stops=_stops(0.10, 0.15, 0.50, 0.25),
            fraudster_cost_usd=1.0,
            judged=False,
        ),
    )
)
"""A start, by hand: what each costs and stops is to be measured on the exchange's own log."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Where a field has a value, only these frictions may be chosen.

    Examples
    --------
    >>> permit = Permit("country", "DE", ("none", "id_photo", "human_review"))
    """

    field: str
    value: str
    frictions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowList:
    """Which frictions compliance permits, given the context.

    Parameters
    ----------
    registry : Frictions
    frictions : tuple of str
        What may be chosen at all; empty is the whole registry.
    permits : tuple of Permit
        Each takes away from that; where several fit, a friction must be in all of them. Where
        a field is missing, all permits that name it fit.

    Raises
    ------
    PolicyError
        If a friction is unknown, a field and value are named twice, or some combination of
        values leaves nothing to choose.

    Examples
    --------
    >>> allow = AllowList(permits=(Permit("country", "DE", ("none", "quiz")),))
    >>> sorted(allow.permitted({"country": "DE"}))
    ['none', 'quiz']
    >>> len(allow.permitted({"country": "US"}))
    8
    """

    registry: Frictions = FRICTIONS
    frictions: tuple[str, ...] = ()
    permits: tuple[Permit, ...] = ()
    # Defaults, as a decoder of JSON asks for whatever has none.
    _all: frozenset[str] = field(init=False, repr=False, compare=False, default=frozenset())
    _fields: tuple[tuple[str, dict[Value, frozenset[str]]], ...] = field(
        init=False, repr=False, compare=False, default=()
    )

    def __post_init__(self) -> None:
        for names in (self.frictions, *(permit.frictions for permit in self.permits)):
            for name in names:
                self.registry[name]
        whole = frozenset(self.frictions or self.registry.names)
        fields: dict[str, dict[Value, frozenset[str]]] = {}
        for permit in self.permits:
            of_value = fields.setdefault(permit.field, {})
            if permit.value in of_value:
                raise PolicyError(f"expected one permit for {permit.field} = {permit.value!r}")
            of_value[permit.value] = frozenset(permit.frictions) & whole
        for of_value in fields.values():
            of_value[None] = reduce(frozenset.intersection, of_value.values())
        object.__setattr__(self, "_all", whole)
        object.__setattr__(self, "_fields", tuple(fields.items()))
        if frozenset() in self.possible():
            raise PolicyError(
                "expected permits that leave at least one friction for every combination of "
                f"{', '.join(fields)}, missing values included; give them one in common"
            )

    def permitted(self, values: Mapping[str, Value]) -> frozenset[str]:
        """Names of the frictions that may be chosen; never empty."""
        found = self._all
        for name, of_value in self._fields:
            found = found & of_value.get(values.get(name), found)
        return found

    def possible(self) -> frozenset[frozenset[str]]:
        """Every set that `permitted` can return."""
        found = {self._all}
        for _, of_value in self._fields:
            found |= {one & other for one in found for other in of_value.values()}
        return frozenset(found)


EVERYTHING = AllowList()


@dataclass(frozen=True, slots=True)
class FrictionChoice:
    """What a policy chose.

    Attributes
    ----------
    friction : str
    propensity : float
        Probability, in (0, 1], with which this policy chooses it in this context.
    reason : Reason
        Of code ``friction``, or ``no_score`` where what the policy had to read is missing.
    """

    friction: str
    propensity: float
    reason: Reason


class FrictionPolicy(Protocol):
    """Whatever chooses a friction; it reads values and has no state."""

    @property
    def hash(self) -> str:
        """Changes with every parameter."""
        ...

    def probabilities(self, values: Mapping[str, Value]) -> dict[str, float]:
        """Probability of each friction that may be chosen; they sum to 1."""
        ...

    def choose(self, values: Mapping[str, Value], *, event_id: str, key: bytes) -> FrictionChoice:
        """One friction; the same event id and key choose the same again."""
        ...
