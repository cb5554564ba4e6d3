"""Aggregates: an operation over the events of one entity in an exact sliding window.

The window of length w at the instant ``as_of`` holds the events with
``as_of - w < happened_at <= as_of`` that were known before the event at hand, in the order
of the log. It slides exactly, event by event, with no buckets and no hops.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from chopmark.errors import FeatureError, did_you_mean
from chopmark.features.feature import slug
from chopmark.times import duration

Operation = Literal[
    "count", "sum", "mean", "min", "max", "std", "distinct", "last",
    "seconds_since_last", "seconds_since_first",
]  # fmt: skip
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
WITHOUT_FIELD = ("count", "seconds_since_last", "seconds_since_first")
LIFETIME_ONLY = ("seconds_since_last", "seconds_since_first")


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An operation over the events of one entity.

    Parameters
    ----------
    event : str or tuple of str
        Event type or types that are aggregated.
    op : str
        ``count``, ``sum``, ``mean``, ``min``, ``max``, ``std`` (of the population),
        ``distinct`` (number of different values), ``last``, ``seconds_since_last`` and
        ``seconds_since_first`` (event). With no event in the window, counts and sums are 0
        and all others missing. An entity that the event at hand does not name: missing.
    by : str
        Field that names the entity, or ``"everyone"``. The event at hand supplies the
        entity with its field of this name, else with its first field of the same kind.
    of : str, optional
        Field that is aggregated; none for count and the times since.
    window : str, optional
        Such as ``"10m"`` or ``"90d"``; without it, the entity's whole life.
    where : str, optional
        Expression over the fields of the aggregated event; missing counts as false.

    Examples
    --------
    >>> Aggregate("purchase", "sum", by="user", of="amount_usd", window="7d").name
    'purchase_amount_usd_sum_7d'
    >>> Aggregate("login", "distinct", by="device", of="user", window="1h").name
    'login_user_distinct_1h_by_device'
    """

    event: str | tuple[str, ...]
    op: Operation
    by: str = "user"
    of: str | None = None
    window: str | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        if not self.events:
            raise FeatureError("an aggregate needs at least one event type, got none")
        if self.op not in OPERATIONS:
            raise FeatureError(
                f"unknown operation `{self.op}` of `{self.name}`"
                + did_you_mean(self.op, OPERATIONS)
            )
        if (self.of is None) != (self.op in WITHOUT_FIELD):
            wanted = "no field" if self.op in WITHOUT_FIELD else "a field"
            raise FeatureError(f"operation `{self.op}` takes {wanted} in `of`, got {self.of!r}")
        if self.window is not None:
            duration(self.window)
            if self.op in LIFETIME_ONLY:
                raise FeatureError(f"operation `{self.op}` takes no window, got `{self.window}`")

    @property
    def events(self) -> tuple[str, ...]:
        """The event types that are aggregated, sorted."""
        return (self.event,) if isinstance(self.event, str) else tuple(sorted(self.event))

    @property
    def name(self) -> str:
        """The computed name: events, field, operation, window, condition, entity."""
        parts = ["_or_".join(self.events), self.of, self.op, self.window]
        if self.where is not None:
            parts.append("where_" + slug(self.where))
        if self.by != "user":
            parts.append("by_" + self.by)
        return "_".join(part for part in parts if part)

    def describe(self) -> str:
        """All that the value depends on."""
        window = duration(self.window) if self.window else None
        return repr(("aggregate", self.events, self.op, self.by, self.of, window, self.where))


def aggregates(
    event: str | tuple[str, ...],
    *,
    by: Iterable[str] = ("user",),
    ops: Iterable[Operation] = ("count",),
    of: str | None = None,
    windows: Iterable[str | None] = (None,),
    where: str | None = None,
) -> list[Aggregate]:
    """All combinations of entities, operations and windows over one event type.

    Examples
    --------
    >>> [feature.name for feature in aggregates("login", windows=["1h", "7d"])]
    ['login_count_1h', 'login_count_7d']
    """
    windows = tuple(windows)
    ops = tuple(ops)
    return [
        Aggregate(
            event,
            op,
            by=entity,
            of=None if op in WITHOUT_FIELD else of,
            window=None if op in LIFETIME_ONLY else window,
            where=where,
        )
        for entity in by
        for op in ops
        for window in (windows[:1] if op in LIFETIME_ONLY else windows)
    ]


@dataclass(frozen=True, slots=True)
class LabelRate:
    """The share of an attribute's holders who were labelled bad, as far as known.

    Of the users who were ever seen with this device (say), how many have a chargeback? A
    holder counts as good only once it was seen with the attribute at least ``delay`` ago
    and nothing bad is known; until then it does not count, since its label may be on the
    way (row C7).

    Parameters
    ----------
    label : str or tuple of str
        Event type or types that label a holder as bad.
    of : str
        Field that names the attribute (``"device"``): an entity field.
    holder : str
        Field that names the holder in all of these events.
    event : str or tuple of str
        Event types that show a holder with the attribute.
    delay : str
        How long a good holder must have been seen, such as ``"30d"``.
    where : str, optional
        Expression over the fields of the label event.
    """

    label: str | tuple[str, ...]
    of: str
    event: str | tuple[str, ...]
    holder: str = "user"
    delay: str = "30d"
    where: str | None = None

    def __post_init__(self) -> None:
        duration(self.delay)

    @property
    def events(self) -> tuple[str, ...]:
        """The event types that show a holder with the attribute, sorted."""
        return (self.event,) if isinstance(self.event, str) else tuple(sorted(self.event))

    @property
    def labels(self) -> tuple[str, ...]:
        """The event types that label a holder, sorted."""
        return (self.label,) if isinstance(self.label, str) else tuple(sorted(self.label))

    @property
    def name(self) -> str:
        """The computed name."""
        condition = f"_where_{slug(self.where)}" if self.where else ""
        label = "_or_".join(self.labels)
        return f"{label}_rate_of_{self.of}_{self.holder}s_after_{self.delay}{condition}"

    def describe(self) -> str:
        """All that the value depends on."""
        delay = duration(self.delay)
        parts = (self.labels, self.of, self.events, self.holder, delay, self.where)
        return repr(("label_rate", *parts))
