"""A book: the columns into which one component of the simulator writes its events.

Every user, device, card and event is a number inside (its *code*) and becomes text only
when it is read, so that a million events are a few arrays. A code is
``number * NUM_STREAMS + stream``; each component has its own stream, hence components can
name new things without asking each other, and one component more changes nothing in the
others. Codes turn into text by maps that are one to one, so no two of them ever meet.

What looks like personal data can belong to nobody: cards begin with 9, SSNs with the area
900 to 999 that is never issued, IP addresses lie in 2001:db8::/32, reserved for documents.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import DeclarationError, did_you_mean
from chopmark.events import Event
from chopmark.times import DAY, HOUR, SECOND, moment

NUM_STREAMS = 32
"""Streams of codes and random numbers: 0 honest users, 1 to 19 ours, 20 to 31 free for use."""

MAX_NUMBER = 10**8 // NUM_STREAMS
"""Things of one kind that a stream can name; an SSN has no more digits than that."""

Codes = NDArray[np.int64]  # (n,), -1 is none
Instants = NDArray[np.int64]  # (n,) microseconds since the epoch
Column = NDArray[Any]  # (n,)
Role = Literal["customer", "victim", "fraudster"]

FRONT_END = frozenset({"PageView", "PriceAlert", "NotificationOpened"})


@dataclass(slots=True, kw_only=True)
class Batch:
    """Events of one type, column by column.

    Attributes
    ----------
    event_type : type of Event
    codes : (n,) int64
        Of the events; become their ids.
    happened_at, known_at : (n,) int64
    fields : dict of str to (n,) array
    is_fraud : (n,) bool
    scenario : (n,) object
    """

    event_type: type[Event]
    codes: Codes
    happened_at: Instants
    known_at: Instants
    fields: dict[str, Column]
    is_fraud: NDArray[np.bool_]
    scenario: Column

    def take(self, rows: NDArray[Any] | slice) -> "Batch":
        """The batch of some rows."""
        return Batch(
            event_type=self.event_type,
            codes=self.codes[rows],
            happened_at=self.happened_at[rows],
            known_at=self.known_at[rows],
            fields={name: column[rows] for name, column in self.fields.items()},
            is_fraud=self.is_fraud[rows],
            scenario=self.scenario[rows],
        )


@dataclass(slots=True, kw_only=True)
class UserTruth:
    """What is true of some users and nobody in the simulated exchange knows.

    Attributes
    ----------
    users : (n,) int64
    role : {"customer", "victim", "fraudster"}
    rings : (n,) object
        Name of the group that acts together, or None.
    first_fraud_at : (n,) int64
        Of the first fraudulent purchase or withdrawal; -1 if there is none.
    """

    users: Codes
    scenario: str
    role: Role
    rings: Column
    first_fraud_at: Instants


@dataclass(slots=True)
class Book:
    """Takes the events and the truth of one component.

    Parameters
    ----------
    stream : int
        In [0, NUM_STREAMS), used by no other book of the simulation.
    scenario : str
        Name that the truth tables show.
    end : int
        Instant at which users stop acting: later actions are dropped. Chargebacks,
        verdicts and late uploads may become known afterwards.
    """

    stream: int
    scenario: str
    end: int
    batches: list[Batch] = field(default_factory=list)
    truths: list[UserTruth] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def new(self, kind: str, count: int) -> Codes:
        """Codes of `count` new things of a kind, such as ``"device"``."""
        first = self._numbers.get(kind, 0)
        self._numbers[kind] = first + count
        return np.arange(first, first + count, dtype=np.int64) * NUM_STREAMS + self.stream

    def add(
        self,
        event_type: type[Event],
        fields: Mapping[str, Column | str],
        *,
        happened_at: Instants,
        known_at: Instants | None = None,
        is_fraud: NDArray[np.bool_] | bool = False,
        rng: np.random.Generator | None = None,
    ) -> Codes:
        """Write events of one type; gives the codes of all, also of those dropped.

        Parameters
        ----------
        fields : mapping of str to (n,) array or str
            Codes for the names in `RENDERED`, else the values themselves; -1 (a code), NaN
            and None mean not given. A lone text holds for all.
        happened_at : (n,) int64
        known_at : (n,) int64, optional
            At once by default; front-end events are uploaded seconds and sometimes hours
            later, for which they want `rng`.
        """
        count = len(happened_at)
        _check_columns(event_type, fields, count)
        codes = self.new("event", count)
        if known_at is None:
            late = event_type.__name__ in FRONT_END and rng is not None
            known_at = happened_at + _upload_delay(rng, count) if late and rng else happened_at
        columns = {
            name: np.full(count, column, dtype=object) if isinstance(column, str) else column
            for name, column in fields.items()
        }
        batch = Batch(
            event_type=event_type,
            codes=codes,
            happened_at=happened_at.astype(np.int64),
            known_at=known_at.astype(np.int64),
            fields=columns,
            is_fraud=np.broadcast_to(np.asarray(is_fraud, dtype=np.bool_), (count,)),
            scenario=np.full(count, self.scenario, dtype=object),
        )
        if event_type.__name__ not in ("Chargeback", "Verdict"):
            batch = batch.take(batch.happened_at < self.end)
        self.batches.append(batch)
        return codes

    def tell(
        self,
        users: Codes,
        *,
        role: Role = "customer",
        rings: Column | None = None,
        first_fraud_at: Instants | None = None,
    ) -> None:
        """Write the truth about users; a later word about the same user replaces it."""
        count = len(users)
        self.truths.append(
            UserTruth(
                users=users,
                scenario=self.scenario,
                role=role,
                rings=np.full(count, None, dtype=object) if rings is None else rings,
                first_fraud_at=np.full(count, -1) if first_fraud_at is None else first_fraud_at,
            )
        )


def merge(batches: list[Batch], *, salt: int) -> Batch:
    """One batch of all rows of some batches of one type, ordered by known_at, then by id."""
    names = {name: None for batch in batches for name in batch.fields}
    merged = Batch(
        event_type=batches[0].event_type,
        codes=np.concatenate([batch.codes for batch in batches]),
        happened_at=np.concatenate([batch.happened_at for batch in batches]),
        known_at=np.concatenate([batch.known_at for batch in batches]),
        fields={
            name: np.concatenate([_column(batch, name) for batch in batches]) for name in names
        },
        is_fraud=np.concatenate([batch.is_fraud for batch in batches]),
        scenario=np.concatenate([batch.scenario for batch in batches]),
    )
    return merged.take(np.lexsort((mix(merged.codes, salt=salt), merged.known_at)))


def events_of(batch: Batch, *, salt: int, rows_at_once: int = 4096) -> Iterator[Event]:
    """The events of a batch, row by row."""
    make = batch.event_type
    names = ["id", "happened_at", "known_at", *batch.fields]
    for start in range(0, len(batch.codes), rows_at_once):
        part = batch.take(slice(start, start + rows_at_once))
        columns: list[list[Any]] = [
            render("id", part.codes, salt=salt),
            [moment(instant) for instant in part.happened_at.tolist()],
            [moment(instant) for instant in part.known_at.tolist()],
        ]
        columns += [render(name, column, salt=salt) for name, column in part.fields.items()]
        for row in zip(*columns, strict=True):
            yield make(**dict(zip(names, row, strict=True)))


def mix(codes: Codes, *, salt: int, kind: str = "event") -> NDArray[np.uint64]:
    """Codes scattered over 64 bits, one to one (the finaliser of splitmix64).

    Each kind is scattered in its own way: user 7 and device 7 look nothing alike.
    """
    mixed = codes.astype(np.uint64) + np.uint64(_salt_of(kind, salt))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def render(name: str, column: Column, *, salt: int) -> list[Any]:
    """Python values of a column: codes as text, missing values as None.

    Parameters
    ----------
    name : str
        Of the field; decides how its codes are written (`RENDERED`).
    salt : int
        Of the simulation, so that two seeds name things differently.
    """
    kind = RENDERED.get(name)
    if kind is None:
        values = column.tolist()
        if column.dtype.kind == "f":
            return [None if value != value else value for value in values]
        return list(values)
    if kind in _DIGITS:
        texts = _digits(column, kind, _salt_of(kind, salt))
    elif kind == "ip":
        texts = _addresses(column, _salt_of(kind, salt))
    elif kind == "address":
        parts = [_hex(mix(column, salt=salt, kind=f"address{part}")) for part in range(3)]
        texts = [f"0x{a}{b}{c[:8]}" for a, b, c in zip(*parts, strict=True)]
    else:
        texts = [f"{_PREFIX[kind]}{code}" for code in _hex(mix(column, salt=salt, kind=kind))]
    if (column >= 0).all():
        return texts
    return [text if code >= 0 else None for text, code in zip(texts, column.tolist(), strict=True)]


RENDERED = {
    "id": "event",
    "about": "event",
    "user": "user",
    "device": "device",
    "ip": "ip",
    "card": "card",
    "bank_account": "bank_account",
    "ssn": "ssn",
    "address": "address",
    "merchant": "merchant",
}
"""Fields whose columns hold codes, and the kind of thing that they name."""

_PREFIX = {"event": "e", "user": "u", "device": "d", "merchant": "m"}
# Digits after the fixed first one, and a factor without common divisor with ten.
_DIGITS = {"card": (15, 2_654_435_761), "bank_account": (11, 2_246_822_519), "ssn": (8, 72_973_523)}


def _check_columns(event_type: type[Event], fields: Mapping[str, Column | str], count: int) -> None:
    for name, column in fields.items():
        if name not in event_type.__struct_fields__:
            raise DeclarationError(
                f"event type {event_type.__name__} has no field `{name}`"
                + did_you_mean(name, event_type.__struct_fields__)
            )
        if not isinstance(column, str) and len(column) != count:
            raise DeclarationError(
                f"field `{name}` of {event_type.__name__} has {len(column)} values for "
                f"{count} events; expected one each"
            )


def _column(batch: Batch, name: str) -> Column:
    if name in batch.fields:
        return batch.fields[name]
    if name in RENDERED:
        return np.full(len(batch.codes), -1, dtype=np.int64)
    return np.full(len(batch.codes), None, dtype=object)


@lru_cache(maxsize=256)
def _salt_of(kind: str, salt: int) -> int:
    return int.from_bytes(sha256(f"{kind}/{salt}".encode()).digest()[:8], "big") >> 1


def _hex(values: NDArray[np.uint64]) -> list[str]:
    text = values.astype(">u8").tobytes().hex()
    return [text[start : start + 16] for start in range(0, len(text), 16)]


def _digits(codes: Codes, kind: str, salt: int) -> list[str]:
    length, factor = _DIGITS[kind]
    modulus = np.uint64(10**length)
    numbers = np.maximum(codes, 0).astype(np.uint64) * np.uint64(factor)
    numbers = (numbers + np.uint64(salt % 10**length)) % modulus
    return [f"9{number:0{length}d}" for number in numbers.tolist()]


def _addresses(codes: Codes, salt: int) -> list[str]:
    numbers = (codes * 2_654_435_761 + salt % 2**32) % 2**32
    return [f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1" for number in numbers.tolist()]


def _upload_delay(rng: np.random.Generator, count: int) -> Instants:
    delay = rng.exponential(4 * SECOND, count)
    offline = rng.random(count) < 0.02
    delay[offline] = rng.exponential(3 * HOUR, int(offline.sum()))
    return np.minimum(delay, DAY).astype(np.int64)
