"""Event types as declared, the two times, and what the wire may say."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from chopmark.events import Event, Schema
from chopmark.events.event import snake_case
from chopmark.times import moment
from tests.events.worlds import SCHEMA, START, Purchase


@pytest.mark.parametrize(
    ("class_name", "name"),
    [("Purchase", "purchase"), ("PaymentMethodAdded", "payment_method_added"), ("A", "a")],
)
def test_the_wire_name_is_snake_case(class_name: str, name: str) -> None:
    assert snake_case(class_name) == name


def test_an_event_never_changes_and_has_keywords_only() -> None:
    event = Purchase(id="a", happened_at=moment(START), user="ann")
    with pytest.raises(AttributeError):
        event.user = "bob"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Purchase("a", moment(START), "ann")  # type: ignore[misc]


def test_an_event_on_the_wire_and_back() -> None:
    event = Purchase(
        id='é"\\',
        happened_at=datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC),
        user="ann",
        amount_usd=0.1,
    )
    assert SCHEMA.decode(SCHEMA.encode(event)) == event
    assert b"card" not in SCHEMA.encode(event), "what has its default is left out"


def test_time_zones_keep_the_instant() -> None:
    body = b'{"type":"tick","id":"a","happened_at":"2024-01-01T01:00:00+01:00"}'
    assert SCHEMA.decode(body).happened_at == datetime(2024, 1, 1, tzinfo=UTC)


def test_a_type_may_name_itself() -> None:
    class Renamed(Event, tag="other_name"):
        pass

    assert list(Schema(Renamed).types) == ["other_name"]


def test_events_compare_by_what_they_say() -> None:
    one = Purchase(id="a", happened_at=moment(START), user="ann")
    assert one == Purchase(id="a", happened_at=moment(START), user="ann")
    later = msgspec.structs.replace(one, happened_at=moment(START) + timedelta(microseconds=1))
    assert one != later
