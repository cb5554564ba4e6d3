"""The registry of event types: decodes, checks and describes every event.

One `Schema` is made from the event classes of an application. It turns bytes into events
with messages that name the place, and gives the feature engine one flat list of fields:
a field name has one meaning over all event types, so two types that both have
``amount_usd`` must declare it alike.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import Meta

from chopmark.errors import InvalidEvent, SchemaError, did_you_mean
from chopmark.events.event import Carried, Entity, Event, Identifier, Number, Personal

Kind = Literal["number", "boolean", "text", "time"]
ENVELOPE = ("id", "happened_at", "known_at")
MAX_STEPS = 2**40
"""Largest number of a field's steps, so that sums of squares stay exact (features.fold)."""

MAX_TEXT = 512
"""Longest text of a field, in characters: some features compare texts letter by letter."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the schema, alike in every event type that has it.

    Attributes
    ----------
    kind : {"number", "boolean", "text", "time"}
    entity : str or None
        Kind of the entity that it names.
    decimals : int
        Steps of ``10 ** -decimals`` in which a number is aggregated.
    exact : bool
        Whether a number with more decimals is refused.
    identifier, personal : bool
        Kept only as a keyed token; kept but never logged or shown.
    """

    name: str
    kind: Kind
    entity: str | None = None
    decimals: int = 0
    exact: bool = False
    identifier: bool = False
    personal: bool = False


class Schema:
    """All event types of an application.

    Parameters
    ----------
    event_types : type of Event
        Each with its own name; `SchemaError` if two disagree about a field.

    Attributes
    ----------
    types : dict of str to type of Event
        By wire name, in the order of declaration.
    fields : dict of str to Field
        All fields of all types, without the envelope (id and times).
    fields_of : dict of str to tuple of str
        Field names by event type.
    hash : str
        Changes whenever a type or field changes its meaning.

    Examples
    --------
    >>> class Login(Event):
    ...     user: Annotated[str, Entity("user")]
    >>> schema = Schema(Login)
    >>> schema.fields["user"].entity
    'user'
    """

    def __init__(self, *event_types: type[Event]) -> None:
        self.types: dict[str, type[Event]] = {}
        self.fields: dict[str, Field] = {}
        self.fields_of: dict[str, tuple[str, ...]] = {}
        for event_type in event_types:
            self._add(event_type)
        if not self.types:
            raise SchemaError("a schema needs at least one event type, got none")
        union: Any = Union[tuple(self.types.values())]  # noqa: UP007 - made at run time
        self._decoder = msgspec.json.Decoder(union)
        self._list_decoder = msgspec.json.Decoder(list[union])
        self._encoder = msgspec.json.Encoder()
        self._numbers = {
            name: [
                (field, 10.0 ** self.fields[field].decimals, self.fields[field].exact)
                for field in fields
                if self.fields[field].kind == "number"
            ]
            for name, fields in self.fields_of.items()
        }
        # An empty name of an entity would join all who have none.
        self._texts = {
            name: [
                (field, 1 if self.fields[field].entity else 0)
                for field in fields
                if self.fields[field].kind == "text"
            ]
            for name, fields in self.fields_of.items()
        }
        described = repr((sorted(self.fields.items()), sorted(self.fields_of.items())))
        self.hash = sha256(described.encode()).hexdigest()

    def decode(self, body: bytes | str) -> Event:
        """The event of a JSON text.

        Raises
        ------
        InvalidEvent
            With what was expected, what came and where, such as
            ``Expected `float`, got `str` - at `$.amount_usd` ``.
        """
        try:
            event = self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise InvalidEvent(str(error)) from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise InvalidEvent(f"expected JSON in UTF-8 - {error}") from error
        self.check(event)
        return typing.cast(Event, event)

    def decode_many(self, body: bytes | str) -> list[Event]:
        """The events of a JSON array; an error names the position of the first bad one."""
        try:
            events = self._list_decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise InvalidEvent(str(error)) from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise InvalidEvent(f"expected JSON in UTF-8 - {error}") from error
        for position, event in enumerate(events):
            self.check(event, place=f"$[{position}]")
        return typing.cast(list[Event], events)

    def make(self, type_name: str, fields: Mapping[str, object]) -> Event:
        """The event of loose values, as a CSV row or an SQL result has them.

        Text is read as the number, truth value or instant that the field wants; a field
        that is None counts as not given.

        Raises
        ------
        InvalidEvent
            Naming the field that does not fit.
        """
        event_type = self.types.get(type_name)
        if event_type is None:
            raise InvalidEvent(
                f"expected a declared event type, got `{type_name}` - at `$.type`"
                + did_you_mean(type_name, self.types)
            )
        given = {name: value for name, value in fields.items() if value is not None}
        given["type"] = type_name
        try:
            event = msgspec.convert(given, event_type, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidEvent(str(error)) from error
        self.check(event)
        return event

    def encode(self, event: Event) -> bytes:
        """The JSON text of an event, in UTF-8; `decode` gives the same event back."""
        return self._encoder.encode(event)

    def check(self, event: Event, *, place: str = "$") -> None:
        """Raise `InvalidEvent` for a number that cannot be kept exactly, or a text too long."""
        kind = type_name(event)
        for name, scale, exact in self._numbers[kind]:
            value = getattr(event, name)
            if value is None:
                continue
            if not abs(value) <= MAX_STEPS / scale:
                raise InvalidEvent(
                    f"expected a number of at most {MAX_STEPS / scale:.6g} in absolute value, "
                    f"got {value!r} - at `{place}.{name}`"
                )
            if exact and abs(value * scale - round(value * scale)) > 1e-4:
                raise InvalidEvent(
                    f"expected at most {self.fields[name].decimals} decimals, got {value!r} - "
                    f"at `{place}.{name}`"
                )
        for name, least in self._texts[kind]:
            text = getattr(event, name)
            if text is not None and not least <= len(text) <= MAX_TEXT:
                raise InvalidEvent(
                    f"expected a text of {least} to {MAX_TEXT} characters, got {len(text)} - at "
                    f"`{place}.{name}`"
                )

    def _add(self, event_type: type[Event]) -> None:
        name = type_name(event_type)
        if name in self.types:
            raise SchemaError(f"event type `{name}` is declared twice; rename one of the classes")
        hints = typing.get_type_hints(event_type, include_extras=True)
        fields = []
        for field_name in event_type.__struct_fields__:
            if field_name in ENVELOPE:
                continue
            hint, marks = _unwrap(hints[field_name])
            if any(isinstance(mark, Carried) for mark in marks):
                continue
            field = _describe(name, field_name, hint, marks)
            known = self.fields.setdefault(field_name, field)
            if known != field:
                raise SchemaError(
                    f"field `{field_name}` of event type `{name}` is {field}, but another event "
                    f"type declares it as {known}; one name, one meaning: rename one of them"
                )
            fields.append(field_name)
        self.types[name] = event_type
        self.fields_of[name] = tuple(fields)


def type_name(event: Event | type[Event]) -> str:
    """The wire name of an event or of an event type."""
    return typing.cast(str, event.__struct_config__.tag)


def _describe(type_name: str, field_name: str, hint: Any, marks: list[Any]) -> Field:
    kinds: dict[Any, Kind] = {
        int: "number",
        float: "number",
        bool: "boolean",
        str: "text",
        datetime: "time",
    }
    literals = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    kind = kinds.get(type(literals[0]) if literals else hint)
    if kind is None:
        raise SchemaError(
            f"field `{field_name}` of event type `{type_name}` has type {hint}; expected "
            "float, int, bool, str, Literal or datetime, each perhaps with `| None`"
        )
    entity = next((mark.kind for mark in marks if isinstance(mark, Entity)), None)
    if entity is not None and kind != "text":
        raise SchemaError(f"entity field `{field_name}` of event type `{type_name}` must be str")
    if kind == "time" and not any(isinstance(mark, Meta) and mark.tz for mark in marks):
        raise SchemaError(
            f"time field `{field_name}` of event type `{type_name}` must have a time zone; declare "
            "it as `Moment`"
        )
    if any(isinstance(mark, Identifier) for mark in marks) and kind != "text":
        raise SchemaError(f"identifier `{field_name}` of event type `{type_name}` must be str")
    decimals = 4 if hint is float else 0
    decimals = next((mark.decimals for mark in marks if isinstance(mark, Number)), decimals)
    return Field(
        name=field_name,
        kind=kind,
        entity=entity,
        decimals=decimals,
        exact=any(isinstance(mark, Number) for mark in marks),
        identifier=any(isinstance(mark, Identifier) for mark in marks),
        personal=any(isinstance(mark, Personal | Identifier) for mark in marks),
    )


def _unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """Strip ``| None`` and Annotated from a hint, and collect the marks on the way."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        if len(members) == 1:
            return _unwrap(members[0])
        return hint, []
    if typing.get_origin(hint) is Annotated:
        inner, *marks = typing.get_args(hint)
        bare, inner_marks = _unwrap(inner)
        return bare, [*inner_marks, *marks]
    return hint, []
