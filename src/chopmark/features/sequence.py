"""Sequences: the last events of an entity, as a list that a sequence model reads.

All other features boil the past down to one value; a sequence keeps its order and its timing.
The value is a list of events, oldest first. Each is a dict of its ``type``, its ``age`` (whole
microseconds from the event to the instant of the question, never below 0) and those of the
declared fields that it has. An age says how long ago and not when, so that the value is a
function of history and of now, and moving all times by a year changes nothing.

Serves G2 and G6 of the requirements.
"""

from dataclasses import dataclass

from chopmark.errors import FeatureError
from chopmark.features.feature import slug
from chopmark.times import duration

EventList = list[dict[str, int | float | str]]
"""The value of a sequence: a dict per event, oldest first."""

MOST_EVENTS = 100_000
RESERVED = ("type", "age")
"""What every event of a list has; no field may be called so."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """The last events of an entity known before the event at hand, oldest first.

    In the order of ``happened_at``, and among equal instants in the order of the log; an event
    that is known late finds its place. An entity that nothing is known about has an empty list,
    and one that the event at hand does not name a missing one.

    Parameters
    ----------
    events : tuple of str
        Event types that are listed.
    fields : tuple of str
        Fields that are kept of them: numbers, truth values (as 0.0 and 1.0) and texts. Not one
        that is personal or names an entity: lists hold no personal data and no identity.
    by : str
        Field that names the entity, or ``"everyone"``; as for `Aggregate`.
    last : int, 1 to 100,000
        Most events of a list. A decision's record holds the whole list: some 40 bytes an event,
        and 20 for each of its fields.
    window : str or None
        How old an event may be, such as ``"90d"``; None for any age.
    where : str, optional
        Expression over the fields of the listed event; missing counts as false.
    name : str, optional
        Made from the declaration if none is given.

    Examples
    --------
    >>> Sequence(("page_view", "purchase"), fields=("asset", "amount_usd")).name
    'page_view_or_purchase_last_256_90d'
    >>> Sequence(("login",), by="device", last=50, window=None, name="logins").name
    'logins'
    """

    events: tuple[str, ...]
    fields: tuple[str, ...] = ()
    by: str = "user"
    last: int = 256
    window: str | None = "90d"
    where: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        events = (self.events,) if isinstance(self.events, str) else tuple(self.events)
        fields = (self.fields,) if isinstance(self.fields, str) else tuple(self.fields)
        object.__setattr__(self, "events", tuple(sorted(set(events))))
        object.__setattr__(self, "fields", fields)
        if not self.name:
            object.__setattr__(self, "name", self._computed_name())
        if not events:
            raise FeatureError("a sequence needs at least one event type, got none")
        if isinstance(self.last, bool) or not isinstance(self.last, int):
            raise FeatureError(
                f"`last` of `{self.name}` is a number of events; expected an int, got {self.last!r}"
            )
        if not 1 <= self.last <= MOST_EVENTS:
            raise FeatureError(
                f"`last` of `{self.name}` is {self.last}; expected 1 to {MOST_EVENTS:,} events"
            )
        for name in fields:
            if name in RESERVED:
                raise FeatureError(
                    f"sequence `{self.name}` reads field `{name}`, but every event of a list has "
                    "one that is called so; rename the field"
                )
            if fields.count(name) > 1:
                raise FeatureError(f"sequence `{self.name}` reads field `{name}` twice; drop one")
        if self.window is not None:
            duration(self.window)

    def _computed_name(self) -> str:
        parts = ["_or_".join(self.events), f"last_{self.last}", self.window]
        if self.where is not None:
            parts.append("where_" + slug(self.where))
        if self.by != "user":
            parts.append("by_" + self.by)
        return "_".join(part for part in parts if part)

    def describe(self) -> str:
        """All that the value depends on."""
        window = duration(self.window) if self.window else None
        parts = (self.events, self.fields, self.by, self.last, window, self.where)
        return repr(("sequence", *parts))
