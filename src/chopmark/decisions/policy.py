"""The policy: a function from a score, features and rules to an action, with its reasons.

Here is what it is made of, declared; `chopmark.decisions.case` applies it. The precedence is
ban > lock > override > rule > damped score > default, and every decision says who had the last
word. A policy has no state: all that it looks at is in the features, so the same inputs give the
same decision today, in a backtest and in an audit.
Serves E4 to E6, E13, E19, E20, F9, F10 and H4 of the requirements.
"""

import math
from dataclasses import dataclass, field
from hashlib import sha256

from chopmark.decisions.account import Account
from chopmark.decisions.case import VERIFY, Asked, Case, Verdict
from chopmark.decisions.damping import Damping
from chopmark.decisions.decision import Reason
from chopmark.decisions.exploration import Exploration
from chopmark.decisions.friction import FRICTIONS, FrictionPolicy, Frictions
from chopmark.decisions.limits import DEFAULT_CURVE, FLOOR_USD, LimitCurve, Limits
from chopmark.decisions.orders import FrictionAsked, FrictionCompleted, LockSet, OverrideSet
from chopmark.decisions.standing import Read, standing_names
from chopmark.errors import InvalidEvent, PolicyError, did_you_mean
from chopmark.events.event import Event
from chopmark.rules.book import NOTHING, Ruling, is_same


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What happens to a withdrawal from a score on (row H4).

    Parameters
    ----------
    score : float
        From this score in force on.
    delay_hours : float
        The withdrawal waits, and analysts find it in the queue ``withdrawals``.
    warn : bool
        The user is warned: tag ``warn``.
    """

    score: float
    delay_hours: float = 0.0
    warn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawals:
    """Limits of money that leaves.

    Parameters
    ----------
    gated : tuple of str
        Event types whose amount counts against them.
    limits : Limits
    spent : str
        Feature with what was allowed to leave in the last seven days, in USD.
    bands : tuple of Band
        By rising score; the last that fits holds.
    """

    gated: tuple[str, ...] = ("withdrawal",)
    limits: Limits = field(default_factory=Limits)
    spent: str = "withdrawn_7d"
    bands: tuple[Band, ...] = ()

    def __post_init__(self) -> None:
        scores = [band.score for band in self.bands]
        if scores != sorted(set(scores)) or not all(0.0 <= score <= 1.0 for score in scores):
            raise PolicyError(f"expected bands of rising scores from 0 to 1, got {scores}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Graded purchase power by score, and all that may change it.

    Parameters
    ----------
    curve : LimitCurve
        Weekly purchase power by score, where `limits` are not declared.
    default_limit_usd : float
        Where no model can say, in USD a week; at least the floor of 5.
    amount : str
        Field of the event that asks for money.
    gated : tuple of str
        Event types whose amount counts against the limit.
    spent : str
        Feature with what was allowed of these in the last seven days, in USD.
    rescored : tuple of str
        Further event types that are assessed: the score and the limit are made anew.
    limits : Limits, optional
        Instead of curve and default: verifications, volume, age of funds, rails.
    withdrawals : Withdrawals, optional
    damping : Damping, optional
        Needs the features of `standing`.
    exploration : Exploration, optional
    friction : FrictionPolicy, optional
        Asked where money is about to be allowed.
    risks : tuple of (risk, feature)
        Scores of risks besides ``stolen_payment``, which is the score in force.
    frictions : Frictions
        That may be asked for.
    account : Account, optional
    member : str
        Feature that is missing for who has no account, such as a guest at a checkout.
    guests : tuple of str
        Event types for which no state of `account` is asked of who has none.
    verified : tuple of (verification, feature)
        A user has a verification where the feature is above zero.
    volume : str
        Feature with the USD that were allowed.
    clean_since : tuple of str
        Features with seconds, such as since the first purchase and since the last reversal: the
        smallest counts.
    rail : str
        Field with the way of payment.
    standing : bool
        Whether bans, locks, overrides and completed frictions are looked up: the catalog then
        has `chopmark.decisions.standing.standing_features`.
    """

    curve: LimitCurve = DEFAULT_CURVE
    default_limit_usd: float = 50.0
    amount: str = "amount_usd"
    gated: tuple[str, ...] = ("purchase",)
    spent: str = "decision_allowed_usd_sum_7d"
    rescored: tuple[str, ...] = ()
    limits: Limits | None = None
    withdrawals: Withdrawals | None = None
    damping: Damping | None = None
    exploration: Exploration | None = None
    friction: FrictionPolicy | None = None
    risks: tuple[tuple[str, str], ...] = ()
    frictions: Frictions = FRICTIONS
    account: Account | None = None
    member: str = ""
    guests: tuple[str, ...] = ()
    verified: tuple[tuple[str, str], ...] = ()
    volume: str = ""
    clean_since: tuple[str, ...] = ()
    rail: str = "rail"
    standing: bool = False

    def __post_init__(self) -> None:
        if not FLOOR_USD <= self.default_limit_usd < math.inf:
            raise PolicyError(
                f"expected a finite default limit of at least {FLOOR_USD} USD a week, got "
                f"{self.default_limit_usd!r}"
            )
        if self.damping is not None and not self.standing:
            raise PolicyError("damping remembers the last score: expected `standing=True` with it")
        known = {name for name, _ in self.verified}
        wanted = set() if self.account is None else set(self.account.verifications)
        for limits in self._all_limits:
            wanted |= {one.name for one in limits.verifications}
        if wanted - known:
            raise PolicyError(
                f"expected a feature in `verified` for {', '.join(sorted(wanted - known))}: the "
                "account's states or the limits ask for it"
            )

    @property
    def hash(self) -> str:
        """Changes with every parameter."""
        return sha256(repr(self).encode()).hexdigest()

    @property
    def reads(self) -> tuple[str, ...]:
        """Features that it looks at; the catalog must have them."""
        names = [self.spent, *(name for _, name in (*self.verified, *self.risks))]
        names += [self.volume] if self.volume else []
        names += [self.member] if self.member else []
        names += self.clean_since
        names += [self.withdrawals.spent] if self.withdrawals else []
        names += standing_names(self.frictions) if self.standing else ()
        return tuple(dict.fromkeys(names))

    @property
    def assessed(self) -> frozenset[str]:
        """Event types that are decided about."""
        withdrawn = self.withdrawals.gated if self.withdrawals else ()
        return frozenset((*self.gated, *withdrawn, *self.rescored))

    @property
    def _all_limits(self) -> list[Limits]:
        withdrawn = self.withdrawals.limits if self.withdrawals else None
        return [limits for limits in (self.limits, withdrawn) if limits is not None]

    @property
    def askable(self) -> tuple[str, ...]:
        """Names of the frictions that a rule may ask for."""
        return tuple(name for name in self.frictions.names if name != "none")

    def held_back(self, asked: Asked) -> Verdict:
        """What is done where rules or the policy itself failed: nothing moves, and people look."""
        moves = asked.event_type in self.assessed and asked.amount_usd is not None
        text = "rules or policy failed on this event: it waits for people"
        return Verdict(
            limit_usd=FLOOR_USD,
            action="wait" if moves else "record",
            queue="failed",
            reasons=[Reason(code="policy_failed", text=text)],
        )

    def check(self, order: Event) -> None:
        """Raise `InvalidEvent` for an order that may not be.

        About a friction that there is not, with an outcome that it cannot have, or approved by
        its own author.
        """
        if isinstance(order, LockSet | OverrideSet) and order.approver is not None:
            if is_same(order.author, order.approver):
                raise InvalidEvent(
                    f"expected an approver other than {order.author} - at `$.approver`"
                )
            return
        if not isinstance(order, FrictionAsked | FrictionCompleted):
            return
        if order.friction.startswith(VERIFY):
            return
        if order.friction not in self.frictions.names:
            raise InvalidEvent(
                f"there is no friction `{order.friction}`"
                + did_you_mean(order.friction, self.frictions.names)
                + " - at `$.friction`"
            )
        outcomes = self.frictions[order.friction].outcomes
        if isinstance(order, FrictionCompleted) and order.outcome not in outcomes:
            raise InvalidEvent(
                f"friction `{order.friction}` cannot be {order.outcome}; expected one of "
                f"{', '.join(outcomes)} - at `$.outcome`"
            )

    def decide(
        self, asked: Asked, read: Read, ruling: Ruling = NOTHING, *, key: bytes = b"draws"
    ) -> Verdict:
        """The limit and the action for one event.

        Parameters
        ----------
        read : mapping
            Feature values by name.
        ruling : Ruling
            What the rules say.
        key : bytes
            Secret, for draws of exploration and friction: equal keys draw alike.
        """
        return Case(self, asked, read, ruling, key).verdict()
