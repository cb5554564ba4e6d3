"""The registry of event types: checks, messages, and 10,000 bodies of nonsense."""

import random
import string
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.errors import InvalidEvent, SchemaError
from chopmark.events import Entity, Event, Identifier, Number, Personal, Schema, type_name
from chopmark.times import moment
from tests.events.worlds import SCHEMA, START, Purchase, texts

WHEN = '"happened_at":"2024-01-01T00:00:00Z"'
GOOD = b'{"type":"purchase","id":"a",%b,"user":"ann","amount_usd":1.5}' % WHEN.encode()


class Full(Event):
    user: Annotated[str, Entity("user")]
    ssn: Annotated[str, Identifier()] | None = None
    address: Annotated[str, Personal()] | None = None
    kind: Literal["buy", "sell"] = "buy"
    rate: Annotated[float, Number(decimals=6)] = 0.0
    count: int | None = None
    ratio: float = 0.0
    new: bool = False


def test_fields_are_described() -> None:
    fields = Schema(Full).fields
    assert fields["user"].entity == "user"
    assert (fields["ssn"].identifier, fields["ssn"].personal) == (True, True)
    assert (fields["address"].identifier, fields["address"].personal) == (False, True)
    assert [fields[name].kind for name in ("kind", "new")] == ["text", "boolean"]
    assert [fields[name].decimals for name in ("rate", "count", "ratio")] == [6, 0, 4]
    assert type_name(Full) == "full"


def test_the_hash_changes_with_the_meaning() -> None:
    def schema(decimals: int) -> Schema:
        class Rate(Event):
            rate: Annotated[float, Number(decimals=decimals)]

        Rate.__annotations__["rate"] = Annotated[float, Number(decimals=decimals)]
        return Schema(Rate)

    assert schema(2).hash == schema(2).hash != schema(3).hash


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `type`"),
        (b'{"type":"purchse"}', r"`?purchse'? - at `\$\.type`"),
        (GOOD.replace(b"1.5", b'"x"'), r"`float`, got `str` - at `\$\.amount_usd`"),
        (GOOD.replace(b"1.5", b"-1"), r">= 0.* at `\$\.amount_usd`"),
        (GOOD.replace(b"1.5", b"1.005"), r"at most 2 decimals, got 1.005 - at `\$\.amount_usd`"),
        (GOOD.replace(b'"id":"a"', b'"id":""'), r"length >= 1 - at `\$\.id`"),
        (GOOD.replace(b'"a"', b'"%b"' % (b"a" * 129)), r"length <= 128 - at `\$\.id`"),
        (GOOD.replace(b"user", b"usr"), "unknown field `usr`"),
        (GOOD.replace(b"00Z", b"00"), r"timezone component - at `\$\.happened_at`"),
        (GOOD.replace(b"ann", b"\xff\xfe"), "UTF-8"),
        (GOOD + b"x", "trailing"),
        (b'{"type":"tick","id":"a",%b,"count":9223372036854775807}' % WHEN.encode(), "at most"),
        (b"[" * 100_000, "Expected `object`"),
        (b'{"type":"tick","x":' + b"[" * 5000 + b"]" * 5000 + b"}", "recursion|unknown field"),
    ],
)
def test_a_message_names_the_place(body: bytes, message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        SCHEMA.decode(body)


def test_many_events_name_the_position() -> None:
    assert len(SCHEMA.decode_many(b"[%b,%b]" % (GOOD, GOOD))) == 2
    with pytest.raises(InvalidEvent, match=r"at `\$\[1\]\.amount_usd`"):
        SCHEMA.decode_many(b"[%b,%b]" % (GOOD, GOOD.replace(b"1.5", b"1.005")))


def test_loose_values_are_read_as_the_field_wants() -> None:
    made = SCHEMA.make(
        "purchase",
        {"id": "a", "happened_at": "2024-01-01T00:00:00Z", "user": "ann", "amount_usd": "1.5",
         "card": None},
    )  # fmt: skip
    assert made == SCHEMA.decode(GOOD)
    with pytest.raises(InvalidEvent, match="did you mean `purchase`"):
        SCHEMA.make("purchse", {})
    with pytest.raises(InvalidEvent, match=r"\$\.amount_usd"):
        SCHEMA.make("purchase", {"id": "a", "happened_at": moment(START), "user": "ann",
                                 "amount_usd": "many"})  # fmt: skip


def test_wrong_declarations_are_refused() -> None:
    class Listing(Event):
        tags: list[str]

    class Numbered(Event):
        user: Annotated[int, Entity("user")]

    class Other(Event):
        amount_usd: str

    for types, message in (
        ((), "at least one"),
        ((Purchase, Purchase), "declared twice"),
        ((Listing,), "`tags` of event type `listing` has type"),
        ((Numbered,), "must be str"),
        ((Purchase, Other), "one name, one meaning"),
    ):
        with pytest.raises(SchemaError, match=message):
            Schema(*types)


@given(
    user=texts,
    amount=st.integers(0, 10**12),
    card=st.none() | texts,
    micros=st.integers(-(10**15), 4 * 10**15),
)
def test_an_event_survives_the_wire(user: str, amount: int, card: str | None, micros: int) -> None:
    event = Purchase(
        id="a", happened_at=moment(micros), user=user, amount_usd=amount / 100, card=card
    )
    SCHEMA.check(event)
    assert SCHEMA.decode(SCHEMA.encode(event)) == event


def test_ten_thousand_malformed_bodies() -> None:
    """Random bytes, mutated JSON and JSON of other types: events or InvalidEvent, no more."""
    rng = random.Random(2024)
    values = [None, True, -1, 1e308, 2**70, "", "x" * 300, "tok_", [], {}, [[]], {"a": {}}, "\0"]
    fields = ["type", "id", "happened_at", "known_at", "user", "card", "amount_usd", "count"]
    num_refused = longest = 0
    for number in range(10_000):
        if number % 4 == 0:
            body = rng.randbytes(rng.randrange(200))
        elif number % 4 == 1:
            mutated = bytearray(GOOD)
            for _ in range(rng.randrange(1, 6)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            body = bytes(mutated)
        elif number % 4 == 2:
            start = rng.randrange(len(GOOD))
            body = GOOD[:start] + rng.choice([b"", b"{", b"]", b'"', b"\\u", b"1e999", b"NaN"])
            body += GOOD[start + rng.randrange(3) :] if rng.random() < 0.7 else b""
        else:
            said = msgspec.json.decode(GOOD)
            for _ in range(rng.randrange(1, 4)):
                said[rng.choice([*fields, rng.choice(string.printable)])] = rng.choice(values)
            body = msgspec.json.encode(said)
        try:
            event = SCHEMA.decode(body)
        except InvalidEvent as error:
            num_refused += 1
            longest = max(longest, len(str(error)))
        else:
            assert SCHEMA.decode(SCHEMA.encode(event)) == event
    assert num_refused > 8_000
    assert longest < 2_000


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()))
def test_any_bytes_are_an_event_or_invalid(body: bytes) -> None:
    with pytest.raises(InvalidEvent):
        SCHEMA.decode(body)
    with pytest.raises(InvalidEvent):
        SCHEMA.decode_many(b"[" + body + b",")
