"""How a user stands: banned, locked, overridden, marked, and what was asked of them before.

All of it is looked up from orders of the log by features of the catalog, so it is in every
decision's values, and a replay or a recomputation needs nothing else. Serves E13 and F10 of
the requirements.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from chopmark.decisions.friction import FRICTIONS, Frictions
from chopmark.decisions.orders import ORDERS
from chopmark.events.schema import type_name
from chopmark.features.aggregate import Aggregate, LabelRate
from chopmark.features.catalog import Catalog, Feature
from chopmark.features.derived import Derived, Similarity
from chopmark.features.lookup import Lookup
from chopmark.features.sequence import Sequence

Value = float | str | None
Read = Mapping[str, Value]
"""Feature values by name; a feature that the catalog lacks is missing."""

FRICTION_WINDOW = "30d"
"""How long a completed friction counts."""
DELAY_WINDOW = "1d"
"""How long after its end a delay counts: for the event that waited, and not for the next."""


def standing_features(frictions: Frictions = FRICTIONS) -> list[Feature]:
    """The features that `Standing.of` reads, to be declared in a catalog.

    The schema must have `chopmark.decisions.orders.ORDERS` and `Decision`.
    """
    asked = [name for name in frictions.names if name != "none"]
    return [
        Lookup("decision", "held_logit"),
        Lookup("decision", "dwell"),
        Lookup("lock_set", "score"),
        Lookup("override_set", "limit_usd"),
        Lookup("vip_marked", "vip"),
        _in_force("lock_set", "lock_released", "locked", expires=True),
        _in_force("override_set", "override_released", "overridden", expires=True),
        _in_force("banned", "ban_lifted", "is_banned", expires=False),
        *(_completed(name, "passed") for name in asked),
        *(_completed(name, "failed") for name in asked),
    ]


def standing_names(frictions: Frictions = FRICTIONS) -> tuple[str, ...]:
    """Names of these features."""
    return tuple(feature.name for feature in standing_features(frictions))


def own_features(catalog: Catalog) -> tuple[str, ...]:
    """Features of a catalog that look at decisions or orders: what policies and people did.

    A model or a mined rule that read them would learn the policy instead of the risk.
    """
    made_here = {"decision", *(type_name(order) for order in ORDERS)}
    declared = {part.name: part for one in catalog.features
                for part in (one, *getattr(one, "parts", ()))}  # fmt: skip

    def looks(name: str) -> bool:
        match declared.get(name):
            case Aggregate(events=events) | Sequence(events=events):
                return bool(made_here & set(events))
            case LabelRate(events=events, labels=labels):
                return bool(made_here & {*events, *labels})
            case Lookup(event=event):
                return event in made_here
            case Similarity(left=left, right=right):
                return looks(left) or looks(right)
            case Derived(text=text):
                return any(looks(read) for read in catalog.parse(text).reads if read != name)
        return False

    return tuple(name for name in catalog.names if looks(name))


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds of a user at one instant.

    Attributes
    ----------
    banned : bool
    lock : float or None
        Score that is held.
    override_usd : float or None
        Weekly limit that somebody set.
    vip : bool
    held_logit, dwell : float or None, int
        Log-odds that held after the last decision, and how often loosening was asked for.
    """

    banned: bool
    lock: float | None
    override_usd: float | None
    vip: bool
    held_logit: float | None
    dwell: int

    @classmethod
    def of(cls, read: Read) -> "Standing":
        """From the values of `standing_features`."""
        dwell = _number(read.get("decision_dwell"))
        return cls(
            banned=read.get("is_banned") == 1.0,
            lock=_number(read.get("lock_set_score")) if read.get("locked") == 1.0 else None,
            override_usd=(
                _number(read.get("override_set_limit_usd"))
                if read.get("overridden") == 1.0
                else None
            ),
            vip=read.get("vip_marked_vip") == 1.0,
            held_logit=_number(read.get("decision_held_logit")),
            dwell=int(dwell) if dwell is not None else 0,
        )


def passed(read: Read, friction: str) -> bool:
    """Whether a user passed a friction in the last 30 days."""
    return (_number(read.get(f"passed_{friction}")) or 0.0) > 0.0


def failed(read: Read, friction: str) -> bool:
    """Whether a user failed a friction in the last 30 days."""
    return (_number(read.get(f"failed_{friction}")) or 0.0) > 0.0


def _in_force(begin: str, end: str, alias: str, *, expires: bool) -> Derived:
    """Whether the last order of one type is later than the last of another, and not over."""
    since, until = Aggregate(begin, "seconds_since_last"), Aggregate(end, "seconds_since_last")
    text = f"not missing({since.name}) and (missing({until.name}) or {since.name} <= {until.name})"
    parts: tuple[Aggregate, ...] = (since, until)
    if expires:
        expiry = Aggregate(begin, "last", of="expires_at")
        text += f" and {expiry.name} > as_of"
        parts += (expiry,)
    return Derived(text, alias, parts=parts)


def _completed(friction: str, outcome: str) -> Derived:
    count = Aggregate(
        "friction_completed",
        "count",
        window=DELAY_WINDOW if friction == "delay" else FRICTION_WINDOW,
        where=f"outcome == {outcome!r} and friction == {friction!r}",
    )
    return Derived(count.name, f"{outcome}_{friction}", parts=(count,))


def _number(value: Value) -> float | None:
    return float(value) if isinstance(value, float | int) else None
