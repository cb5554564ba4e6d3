"""An event is a fact about entities at an instant, and never changes.

An event type is a frozen class whose annotations say all there is to say: the Python type
of each field, which entity it names, how exactly its numbers are kept, and whether it is
personal. From that one declaration come the decoder, the validation messages, the feature
columns and the protection of personal data (`chopmark.events.schema`).

    class Purchase(Event):
        user: Annotated[str, Entity("user")]
        card: Annotated[str, Entity("card"), Identifier()] | None = None
        amount_usd: Usd
        country: str | None = None

Two times, never to be mixed up: ``happened_at`` is when it was, ``known_at`` is when we
learned it. A chargeback happened on the day of the purchase's dispute and may be known
months later; a model may only see what was known.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from re import sub
from typing import Annotated, Any, dataclass_transform, get_args, get_type_hints

from msgspec import Meta, Struct, StructMeta


@dataclass(frozen=True, slots=True)
class Entity:
    """Marks a text field as the name of an entity of some kind, such as ``"user"``."""

    kind: str


@dataclass(frozen=True, slots=True)
class Number:
    """Marks a number that is aggregated exactly in steps of ``10 ** -decimals``.

    Sums, means and spreads are computed on integers of this step, so that they replay bit
    for bit; the absolute value may be at most ``2 ** 40`` steps, and more decimals are
    refused. A ``float`` field without this mark is rounded to 4 decimals where it is
    aggregated; an ``int`` field has none.
    """

    decimals: int


@dataclass(frozen=True, slots=True)
class Identifier:
    """Marks an identifier of a person (SSN, account, card): kept only as a keyed token."""


@dataclass(frozen=True, slots=True)
class Personal:
    """Marks personal data that is kept as it is (a name, an address) and never logged."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Marks a field that an event carries along and no feature reads (a list, a map)."""


EventId = Annotated[str, Meta(min_length=1, max_length=128)]
Moment = Annotated[datetime, Meta(tz=True)]
Usd = Annotated[float, Meta(ge=0, le=1e10), Number(decimals=2)]
"""An amount of US dollars with at most two decimals, kept as whole cents."""


def snake_case(class_name: str) -> str:
    """The name of an event type on the wire.

    Examples
    --------
    >>> snake_case("PaymentMethodAdded")
    'payment_method_added'
    """
    return sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name).lower()


class _EventMeta(StructMeta):
    """Makes the fields of every event type keyword-only; msgspec does not inherit that."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> Any:
        return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **options})


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Event(
    Struct,
    metaclass=_EventMeta,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag=snake_case,
):
    """What all events have: an id that makes it exactly-once, and the two times.

    Attributes
    ----------
    id : str
        1 to 128 characters, unique over the whole log; a second event of this id is a repeat.
    happened_at : datetime
        When it was; with a time zone. Later than ``known_at`` counts as ``known_at``.
    known_at : datetime, optional
        When we learned it; the log sets it on arrival, history brings its own.
    """

    id: EventId
    happened_at: Moment
    known_at: Moment | None = None

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # type: ignore[override]
        """The same for the rich library, which would not ask `__repr__`."""
        hidden = _personal_fields(type(self))
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [
            (name, "•••" if name in hidden and value is not None else value)
            for name, value in values
        ]

    def __repr__(self) -> str:
        """All fields, save that personal ones are not shown: a repr ends up in logs."""
        hidden = _personal_fields(type(self))
        shown = (
            f"{name}={'•••' if name in hidden and value is not None else repr(value)}"
            for name in self.__struct_fields__
            for value in [getattr(self, name)]
        )
        return f"{type(self).__name__}({', '.join(shown)})"


@cache
def _personal_fields(event_type: type[Event]) -> frozenset[str]:
    hints = get_type_hints(event_type, include_extras=True)
    return frozenset(name for name, hint in hints.items() if _is_personal(hint))


def _is_personal(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    inner = get_args(hint)
    return any(isinstance(mark, Identifier | Personal) for mark in marks) or any(
        _is_personal(part) for part in inner
    )
