"""From a score to a graded limit: nobody is blocked, the riskiest may still buy a little.

The weekly purchase power falls with the score along a curve, log-linear between its points,
down to a floor of 5 USD a week: what such users then do is how the exchange goes on
learning, and its cost is known in advance (rows E4, E5).

`Limits` adds what a score alone does not say (row E6): a record of purchases, months without
a reversal and verifications raise what the curve gives, and what is not verified or not paid
by a safe rail caps it:

    limit = max(floor, min(caps, curve(score) * product of raises))
    raise = 1 + (declared - 1) * max(0, 1 - score / trust_until)

The second line lets a raise fade as the score grows. An old account with a clean record and
a bad score is what a thief buys, and its record must not speak for the thief.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from chopmark.errors import PolicyError, did_you_mean

FLOOR_USD = 5.0


@dataclass(frozen=True, slots=True)
class LimitCurve:
    """Weekly purchase power by score.

    Parameters
    ----------
    points : tuple of (score, limit_usd)
        Scores rising from 0 to 1, limits never rising and never below ``FLOOR_USD``.

    Examples
    --------
    >>> curve = LimitCurve(((0.0, 10_000.0), (0.1, 1_000.0), (1.0, 5.0)))
    >>> curve.limit_usd(0.05)
    3162.27
    >>> curve.limit_usd(1.0)
    5.0
    """

    points: tuple[tuple[float, float], ...]
    _scores: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _logs: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scores = [score for score, _ in self.points]
        limits = [limit for _, limit in self.points]
        if len(scores) < 2 or scores[0] != 0.0 or scores[-1] != 1.0 or not _rises(scores):
            raise PolicyError(f"expected scores rising from 0 to 1 in a limit curve, got {scores}")
        if not _rises([-limit for limit in limits], strictly=False):
            raise PolicyError(f"expected limits that never rise with the score, got {limits}")
        if not all(FLOOR_USD <= limit < math.inf for limit in limits):
            raise PolicyError(f"expected limits of at least {FLOOR_USD} USD a week, got {limits}")
        object.__setattr__(self, "_scores", tuple(scores))
        object.__setattr__(self, "_logs", tuple(math.log(limit) for limit in limits))

    def limit_usd(self, score: float) -> float:
        """Weekly purchase power in USD, in whole cents, at a score in [0, 1]."""
        if not 0.0 <= score <= 1.0:
            raise PolicyError(f"expected a score from 0 to 1, got {score!r}")
        right = min(bisect_right(self._scores, score), len(self._scores) - 1)
        left = right - 1
        share = (score - self._scores[left]) / (self._scores[right] - self._scores[left])
        high, low = self._logs[left], self._logs[right]
        # Each step rounds in one direction only, so that the limit never rises with the score.
        limit = math.exp(max(high + share * (low - high), low))
        # Down to whole cents, save what rounding in exp and log took from an exact limit.
        return math.floor(limit * 100.0 * (1.0 + 1e-14) + 1e-6) / 100.0


def _rises(numbers: Iterable[float], *, strictly: bool = True) -> bool:
    return all(a < b if strictly else a <= b for a, b in pairwise(numbers))


def step_curve(*steps: tuple[float, float]) -> LimitCurve:
    """A curve that falls in steps: each limit holds from its score up to the next one.

    Parameters
    ----------
    steps : (score, limit_usd)
        Scores rising from 0 to below 1, limits never rising.

    Examples
    --------
    >>> curve = step_curve((0.0, 10_000.0), (0.1, 1_000.0))
    >>> curve.limit_usd(0.0999), curve.limit_usd(0.1), curve.limit_usd(1.0)
    (10000.0, 1000.0, 1000.0)
    """
    if not _rises([score for score, _ in steps] + [1.0]):
        raise PolicyError(f"expected steps whose scores rise from 0 to below 1, got {steps}")
    points: list[tuple[float, float]] = []
    for score, limit in steps:
        if points:
            points.append((math.nextafter(score, 0.0), points[-1][1]))
        points.append((score, limit))
    return LimitCurve((*points, (1.0, points[-1][1] if points else FLOOR_USD)))


DEFAULT_CURVE = LimitCurve(
    ((0.0, 25_000.0), (0.02, 5_000.0), (0.1, 1_000.0), (0.3, 300.0), (0.8, 100.0), (1.0, 5.0))
)
"""A hand-made curve: a start, until one is fitted to the margin and the losses."""

SEVEN_STEPS = step_curve(
    (0.0, 10_000.0), (0.01, 5_000.0), (0.05, 2_000.0), (0.1, 1_000.0), (0.3, 200.0), (0.6, 50.0),
    (0.8, 5.0),
)  # fmt: skip
"""What a person draws who knows scores and no losses; what a fitted curve has to beat."""


# Above the class whose defaults it checks.
def _check_cap(who: str, cap_usd: float, *, finite: bool = False) -> None:
    if not cap_usd >= FLOOR_USD or (finite and cap_usd == math.inf):
        raise PolicyError(
            f"expected at least {FLOOR_USD} USD a week for {who}, got {cap_usd!r}; nobody is "
            "blocked"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a user can prove, and what that is worth.

    Parameters
    ----------
    name : str
    factor : float, >= 1
        Raises the limit of who has it.
    cap_usd : float
        Limits who has it not, in USD a week; infinity does not.
    """

    name: str
    factor: float = 1.0
    cap_usd: float = math.inf

    def __post_init__(self) -> None:
        if not 1.0 <= self.factor < math.inf:
            raise PolicyError(
                f"expected a factor of at least 1 for verification `{self.name}`, got "
                f"{self.factor!r}: proving more never lowers a limit"
            )
        _check_cap(f"verification `{self.name}`", self.cap_usd)


class Step(NamedTuple):
    """One step on the way from a score to a limit.

    Attributes
    ----------
    kind : {"curve", "unscored", "raise", "cap"}
    name : str
        Of the raise or the cap: ``volume``, ``clean days``, a verification, ``rail card``,
        ``without id``, ...
    number : float
        The factor of a raise; USD a week else.
    limit_usd : float
        After this step, not yet in whole cents.
    """

    kind: Literal["curve", "unscored", "raise", "cap"]
    name: str
    number: float
    limit_usd: float

    @property
    def text(self) -> str:
        """For a person to read.

        Examples
        --------
        >>> Step("raise", "clean days", 1.5, 300.0).text
        'clean days: times 1.50, 300.00 USD a week'
        """
        if self.kind == "raise":
            return f"{self.name}: times {self.number:.2f}, {self.limit_usd:.2f} USD a week"
        if self.kind == "cap":
            return f"{self.name}: at most {self.number:.2f} USD a week"
        return f"{self.name}: {self.number:.2f} USD a week"


class Breakdown(NamedTuple):
    """A limit and how it came about.

    Attributes
    ----------
    limit_usd : float
        Weekly, in whole cents, the same as `Limits.limit_usd`.
    steps : tuple of Step
        The curve, then the raises that raised and the caps that capped.
    """

    limit_usd: float
    steps: tuple[Step, ...]


Points = tuple[tuple[float, float], ...]
Part = tuple[Literal["curve", "unscored", "raise", "cap"], str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Weekly limit of a user for one kind of move: purchases, or withdrawals.

    Monotone by construction: a higher score never raises it; more volume, more clean days
    and more verifications never lower it.

    Parameters
    ----------
    curve : LimitCurve
        By calibrated score.
    unscored_usd : float
        Where no model can say, before the caps; nothing raises it.
    volume, clean_days : tuple of (from, factor)
        Raises, linear between their points and flat beyond: by USD of purchases that were
        not reversed, and by days since the oldest fund or the last reversal, whichever is
        later. Both rise, and no factor is below 1.
    verifications : tuple of Verification
    rails : tuple of (rail, cap_usd)
        Most in USD a week by way of payment. A rail that is not among them has the lowest
        of these caps: an unknown way is not a safe one.
    trust_until : float, in (0, 1]
        Score at which raises have faded to nothing.
    cap_usd : float
        Most of all in USD a week, and the bound of exploration.

    Examples
    --------
    >>> limits = Limits(curve=LimitCurve(((0.0, 1_000.0), (1.0, 5.0))), trust_until=1.0)
    >>> limits.limit_usd(0.0, verified=("phone", "id"))
    1500.0
    >>> limits.limit_usd(0.0, clean_days=365.0, verified=("phone", "id"), rail="card")
    3000.0
    >>> limits.limit_usd(0.0, clean_days=365.0)
    100.0
    >>> for step in limits.explain(0.0, clean_days=365.0, verified=["id"], rail="card").steps:
    ...     print(step.text)
    score: 1000.00 USD a week
    clean days: times 2.00, 2000.00 USD a week
    id: times 1.50, 3000.00 USD a week
    without phone: at most 100.00 USD a week
    """

    curve: LimitCurve = DEFAULT_CURVE
    unscored_usd: float = 50.0
    volume: Points = ((0.0, 1.0), (5_000.0, 1.25), (50_000.0, 1.5))
    clean_days: Points = ((180.0, 1.0), (365.0, 2.0))
    verifications: tuple[Verification, ...] = (
        Verification(name="phone", cap_usd=100.0),
        Verification(name="id", factor=1.5, cap_usd=2_000.0),
    )
    rails: tuple[tuple[str, float], ...] = (("card", 10_000.0), ("bank", 25_000.0))
    trust_until: float = 0.3
    cap_usd: float = 50_000.0
    _verifications: dict[str, Verification] = field(init=False, repr=False, compare=False)
    _rails: dict[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_cap("a user without a score", self.unscored_usd, finite=True)
        _check_cap("any user", self.cap_usd, finite=True)
        _check_raise("volume", self.volume)
        _check_raise("clean_days", self.clean_days)
        for rail, cap in self.rails:
            _check_cap(f"rail `{rail}`", cap)
        if not 0.0 < self.trust_until <= 1.0:
            raise PolicyError(
                f"expected a score above 0 and up to 1 for `trust_until`, got {self.trust_until!r}"
            )
        for what, names in (
            ("verification", [one.name for one in self.verifications]),
            ("rail", [name for name, _ in self.rails]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise PolicyError(f"{what} `{twice[0]}` is declared twice; drop one of them")
        object.__setattr__(self, "_verifications", {one.name: one for one in self.verifications})
        object.__setattr__(self, "_rails", dict(self.rails))

    def limit_usd(
        self,
        score: float | None,
        *,
        volume_usd: float | None = None,
        clean_days: float | None = None,
        verified: Collection[str] = (),
        rail: str | None = None,
    ) -> float:
        """The weekly limit in USD, in whole cents, at least `FLOOR_USD`.

        Parameters
        ----------
        score : float or None
            Calibrated risk in [0, 1]; None where no model can say.
        volume_usd, clean_days : float, optional
            See the class; missing (None or NaN) raises nothing.
        verified : collection of str
            Names of the verifications that the user has.
        rail : str, optional
            Of the payment asked for, as in `Purchase.rail`; None where none is: no rail caps.

        Raises
        ------
        PolicyError
            If the score is out of range or a verification is not declared.
        """
        limit = 0.0
        for kind, _, number in self._parts(score, volume_usd, clean_days, verified, rail):
            limit = _after(kind, number, limit)
        return _cents(limit)

    def most_usd(self, *, verified: Collection[str] = (), rail: str | None = None) -> float:
        """The least of the caps that hold, in USD a week: no chance goes beyond it."""
        caps = [
            number
            for kind, _, number in self._parts(0.0, None, None, verified, rail)
            if kind == "cap"
        ]
        return _cents(min(caps))

    def explain(
        self,
        score: float | None,
        *,
        volume_usd: float | None = None,
        clean_days: float | None = None,
        verified: Collection[str] = (),
        rail: str | None = None,
    ) -> Breakdown:
        """The same limit, step by step; parameters as of `limit_usd`."""
        limit = 0.0
        steps: list[Step] = []
        for kind, name, number in self._parts(score, volume_usd, clean_days, verified, rail):
            before, limit = limit, _after(kind, number, limit)
            if limit != before:
                steps.append(Step(kind, name, number, limit))
        return Breakdown(_cents(limit), tuple(steps))

    def _parts(
        self,
        score: float | None,
        volume_usd: float | None,
        clean_days: float | None,
        verified: Collection[str],
        rail: str | None,
    ) -> list[Part]:
        """What the limit starts from, its raises and its caps, in the order in which they apply."""
        parts: list[Part]
        if score is None:
            parts, trust = [("unscored", "no score", self.unscored_usd)], 0.0
        else:
            parts = [("curve", "score", self.curve.limit_usd(score))]
            trust = max(1.0 - score / self.trust_until, 0.0)
        known = self._verifications
        for name in verified:
            if name not in known:
                raise PolicyError(
                    f"verification `{name}` is not declared in the limits"
                    + did_you_mean(name, known)
                )
        if trust > 0.0:
            parts.append(("raise", "volume", _raised(self.volume, volume_usd, trust)))
            parts.append(("raise", "clean days", _raised(self.clean_days, clean_days, trust)))
            for name, one in known.items():
                if name in verified:
                    parts.append(("raise", name, 1.0 + (one.factor - 1.0) * trust))
        for name, one in known.items():
            if name not in verified:
                parts.append(("cap", f"without {name}", one.cap_usd))
        if rail is not None and self._rails:
            cap = self._rails.get(rail)
            cap = min(self._rails.values()) if cap is None else cap
            parts.append(("cap", f"rail {rail}", cap))
        parts.append(("cap", "any user", self.cap_usd))
        return parts


def _after(kind: str, number: float, limit: float) -> float:
    if kind == "raise":
        return limit * number
    return min(limit, number) if kind == "cap" else number


def _cents(limit: float) -> float:
    """Down to whole cents, save what rounding took from an exact limit; at least the floor."""
    return max(math.floor(limit * 100.0 * (1.0 + 1e-14) + 1e-6) / 100.0, FLOOR_USD)


def _raised(points: Points, at: float | None, trust: float) -> float:
    """The factor at a place, drawn towards 1 by what is missing of trust."""
    if at is None or not at >= points[0][0]:  # NaN, which is missing, is not at least anything
        return 1.0
    left, factor = points[0]
    for right, high in points:
        if at < right:
            factor = min(factor + (at - left) / (right - left) * (high - factor), high)
            break
        left, factor = right, high
    return 1.0 + (factor - 1.0) * trust


def _check_raise(name: str, points: Points) -> None:
    places, factors = [place for place, _ in points], [factor for _, factor in points]
    good = points and _rises(places) and _rises([1.0, *factors, math.inf], strictly=False)
    if not good or not all(0.0 <= place < math.inf for place in places) or math.inf in factors:
        raise PolicyError(
            f"expected `{name}` as (from, factor) with places that rise from 0 or more and finite "
            f"factors that never fall below 1 or each other, got {points!r}"
        )


PURCHASE_LIMITS = Limits()
"""Purchase power, to start with."""

WITHDRAWAL_LIMITS = Limits(
    curve=LimitCurve(
        ((0.0, 50_000.0), (0.02, 10_000.0), (0.1, 2_000.0), (0.3, 250.0), (0.8, 20.0), (1.0, 5.0))
    ),
    verifications=(
        Verification(name="phone", cap_usd=100.0),
        Verification(name="id", factor=2.0, cap_usd=1_000.0),
    ),
    rails=(),
    cap_usd=100_000.0,
)
"""What may leave in a week, to start with: more than is bought, and hardly without an ID."""
