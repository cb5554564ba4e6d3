"""Catalogs: wrong declarations are refused with the place, and hashes follow the meaning."""

from typing import Annotated, Literal

import pytest

from chopmark.errors import FeatureError, InvalidInput
from chopmark.events import Entity, Event, Identifier, Moment, Number, Personal, Schema, Usd
from chopmark.features import (
    Aggregate,
    Catalog,
    Derived,
    Fold,
    LabelRate,
    Lookup,
    Similarity,
    aggregates,
    from_events,
    share,
)
from chopmark.testing.features import live_values, replayed_values
from chopmark.times import moment

from .exchange import CATALOG, SCHEMA, awkward_events


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Aggregate("purchase", "median", of="amount_usd"), "unknown operation `median`"),
        (lambda: Aggregate("purchase", "cuont"), "did you mean `count`"),
        (lambda: Aggregate("purchase", "sum"), "`sum` takes a field in `of`, got None"),
        (lambda: Aggregate("purchase", "count", of="amount_usd"), "`count` takes no field"),
        (lambda: Aggregate("purchase", "seconds_since_last", window="1d"), "takes no window"),
        (lambda: Similarity("name", "signup_name", "soundex"), "unknown measure `soundex`"),
    ],
)
def test_a_feature_that_cannot_be_is_refused_when_declared(declare, message):
    with pytest.raises(FeatureError, match=message):
        declare()


@pytest.mark.parametrize("window", ["", "7", "7 days", "-1d", "0d", "1.5h", "d", "9999999d", "1y"])
def test_windows_are_durations(window):
    with pytest.raises(InvalidInput, match="expected a duration"):
        Aggregate("purchase", "count", window=window)
    with pytest.raises(InvalidInput, match="expected a duration"):
        LabelRate("chargeback", of="device", event="purchase", delay=window)


COUNT = Aggregate("purchase", "count", window="1d")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([Aggregate("purchases", "count")],
         "event `purchases`, which the schema lacks; did you mean `purchase`"),
        ([Aggregate(("purchase", "x"), "count")], "event `x`, which the schema lacks"),
        ([Lookup("sign_up", "country")], "did you mean `signup`"),
        ([LabelRate("chargebacks", of="device", event="purchase")], "did you mean `chargeback`"),
        ([Aggregate("purchase", "sum", of="amuont_usd")], "did you mean `amount_usd`"),
        ([Aggregate(("purchase", "chargeback"), "count", by="device")],
         "field `device` of event `chargeback`"),
        ([Lookup("chargeback", "country")], "field `country` of event `chargeback`"),
        ([Aggregate("purchase", "count", by="rail")], "by field `rail`, which names no entity"),
        ([LabelRate("chargeback", of="rail", event="purchase")], "`rail`, which names no entity"),
        ([LabelRate("chargeback", of="device", event="purchase", holder="rail")],
         "field `rail` of event `chargeback`"),
        ([Aggregate("purchase", "sum", of="rail")], "wants a number, but field `rail` is a text"),
        ([Aggregate("signup", "max", of="born_at")],
         "wants a number, but field `born_at` is a time"),
        ([Aggregate("purchase", "std", of="device")], "wants a number"),
        ([COUNT, COUNT], "`purchase_count_1d` is declared twice"),
        ([Derived("nope + 1")], "unknown name `nope`"),
        ([Derived("amount_usd +")], "derived feature `amount_usd_plus`"),
        ([Derived("amount_usd > 'x'", "odd")], "expected a number, got a text"),
        ([Derived("rail + 1", "odd")], "expected a number, got a text"),
        ([Derived("amount_usd + 1", "rail")], "has the name of a field or feature"),
        ([COUNT, Derived("amount_usd", "purchase_count_1d")], "declared twice"),
        ([Derived("b + 1", "a"), Derived("a + 1", "b")], "in a circle: `a`, `b`"),
        ([Derived("a", "b"), Derived("b", "c"), Derived("c", "a")], "in a circle"),
        ([Derived("a + 1", "a")], "unknown name `a`"),
        ([Derived("coalesce(rail, 'x')", "text")], "only a bare name may give a text"),
        ([Derived("'x'", "text")], "only a bare name may give a text"),
        ([Derived("None", "nothing")], "got only `None`"),
        ([Similarity("name", "nmae")],
         "`nmae`, which is neither a field nor a lookup; did you mean `name`"),
        ([Similarity("name", "amount_usd")], "wants texts, but `amount_usd` is a number"),
        ([Aggregate("purchase", "count", where="amount_usd >")], "condition of feature"),
        ([Aggregate("purchase", "count", where="amount_usd + 1")],
         "is a number; expected a boolean"),
        ([Aggregate("purchase", "count", where="as_of > 1")], "condition of feature"),
        ([COUNT, Aggregate("purchase", "count", where="purchase_count_1d > 1")], "unknown name"),
        ([LabelRate("chargeback", of="device", event="purchase", where="kind")],
         "is a text; expected a boolean"),
    ],
)  # fmt: skip
def test_a_catalog_refuses_what_cannot_be(features, message):
    with pytest.raises(FeatureError, match=message):
        Catalog(SCHEMA, *features)


def test_the_order_of_declaration_does_not_matter_to_derived_features():
    chain = [Derived("d3 + 1", "d4"), Derived("d1 + 1", "d2"), Derived("amount_usd", "d1")]
    chain.insert(1, Derived("d2 + 1", "d3"))
    catalog = Catalog(SCHEMA, *chain)
    assert catalog.names == ("d4", "d3", "d2", "d1")
    events = awkward_events(30, 0)
    for event, values in zip(events, live_values(catalog, events), strict=True):
        amount = getattr(event, "amount_usd", None)
        expected = [None] * 4 if amount is None else [amount + 3, amount + 2, amount + 1, amount]
        assert values == expected


@pytest.mark.parametrize(
    ("text", "value"), [("True", 1.0), ("1", 1.0), ("amount_usd ", 5.0), (" (amount_usd) ", 5.0)]
)
def test_constants_and_blanks_are_expressions_too(text, value):
    catalog = Catalog(SCHEMA, Derived(text, "labelled"))
    event = SCHEMA.make(
        "purchase", {"id": "p", "happened_at": moment(0), "user": "u", "amount_usd": 5.0}
    )
    assert Fold(catalog).step(event) == [value]


def test_an_alias_of_an_alias_is_the_text_itself():
    catalog = Catalog(
        SCHEMA,
        Derived("rail", "one"),
        Derived("one", "two"),
        Derived("two", "three"),
        Lookup("signup", "country"),
        Derived("signup_country", "home"),
        Derived("home", "house"),
    )
    events = awkward_events(60, 0)
    rows = live_values(catalog, events)
    assert replayed_values(catalog, events, 7) == rows
    for event, (one, two, three, country, home, house) in zip(events, rows, strict=True):
        assert one == two == three == getattr(event, "rail", None)
        assert country == home == house
    assert any(row[5] for row in rows)


class Person(Event):
    user: Annotated[str, Entity("user")]
    name: Annotated[str, Personal()] | None = None
    ssn: Annotated[str, Entity("ssn"), Identifier()] | None = None
    city: str | None = None
    other_name: Annotated[str, Personal()] | None = None


@pytest.mark.parametrize(
    "text", ["name", " name ", "name\n", "given", "person_name", " person_name"]
)
@pytest.mark.parametrize("more", [(), (Derived("again", "once_more"),)])
def test_personal_texts_are_never_among_the_outputs(text, more):
    catalog = Catalog(
        Schema(Person),
        Lookup("person", "name"),
        Lookup("person", "ssn"),
        Aggregate("person", "last", of="name", window="1d"),
        Aggregate("person", "last", of="other_name"),
        Derived("name"),
        Derived("name", "given"),
        Derived("ssn"),
        Derived(text, "again"),
        *more,
        Similarity("name", "other_name"),
        Aggregate("person", "distinct", of="name"),
        Derived("city"),
        Derived("name == other_name", "same"),
    )
    assert catalog.names == (
        "name_vs_other_name_jaccard",
        "person_name_distinct",
        "city",
        "same",
    )
    fold = Fold(catalog)
    events = [
        Person(id=f"e{i}", happened_at=moment(i), known_at=moment(i), user="u", name="Ann Lee",
               ssn="123", city="Bonn", other_name="Ann Lee")
        for i in range(3)
    ]  # fmt: skip
    for event in events:
        values = fold.step(event)
        assert "Ann Lee" not in values
        assert "123" not in values
    columns = from_events(events, catalog.schema, fold.codes, texts=fold.text_fields)
    for replayed in Fold(catalog).replay(columns):
        assert set(replayed.texts) == {"city"}


def schema_of(**fields):
    """A schema of one event type `buy` with these annotations."""
    annotations = {"user": Annotated[str, Entity("user")], **fields}
    return Schema(type("Buy", (Event,), {"__annotations__": annotations, "__module__": __name__}))


FIELDS = {
    "amount": Usd,
    "card": Annotated[str, Entity("card")],
    "rail": str,
    "flag": bool,
    "at": Moment,
}


def hash_of(feature, *more, **changes):
    return Catalog(schema_of(**(FIELDS | changes)), *more, feature).hashes[feature.name]


@pytest.mark.parametrize(
    ("feature", "other"),
    [
        (Aggregate("buy", "count", window="1d"), Aggregate("buy", "count", window="2d")),
        (Aggregate("buy", "count", window="1d"), Aggregate("buy", "count")),
        (Aggregate("buy", "count"), Aggregate("buy", "count", by="card")),
        (Aggregate("buy", "sum", of="amount"), Aggregate("buy", "mean", of="amount")),
        (Aggregate("buy", "sum", of="amount"), Aggregate("buy", "sum", of="flag")),
        (Aggregate("buy", "count", where="flag"), Aggregate("buy", "count", where="not flag")),
        (Lookup("buy", "rail"), Lookup("buy", "rail", by="card")),
        (LabelRate("buy", of="card", event="buy"),
         LabelRate("buy", of="card", event="buy", delay="1d")),
        (Derived("amount + 1", "x"), Derived("amount + 2", "x")),
        (Similarity("rail", "card"), Similarity("rail", "card", "levenshtein")),
    ],
)  # fmt: skip
def test_another_meaning_has_another_hash(feature, other):
    assert hash_of(feature) != hash_of(other)


@pytest.mark.parametrize(
    ("feature", "changes"),
    [
        (Aggregate("buy", "sum", of="amount"), {"amount": Annotated[float, Number(3)]}),
        (Aggregate("buy", "count", by="card"), {"card": Annotated[str, Entity("account")]}),
        (Lookup("buy", "amount"), {"amount": int}),
        (LabelRate("buy", of="card", event="buy"), {"card": Annotated[str, Entity("user")]}),
        (Derived("flag"), {"flag": int}),
        (Derived("rail", "x"), {"rail": float}),
        (Derived("missing(rail)", "x"), {"rail": float}),
    ],
)
def test_a_field_that_changes_its_meaning_changes_the_hash(feature, changes):
    assert hash_of(feature) != hash_of(feature, **changes)


def test_the_hash_follows_what_is_read_through_any_number_of_features():
    top = Derived("middle * 2", "top")
    middle = Derived("buy_amount_sum_1d + 1", "middle")
    total = Aggregate("buy", "sum", of="amount", window="1d")
    assert hash_of(top, middle, total) != hash_of(
        top, middle, total, amount=Annotated[float, Number(3)]
    )
    other = Derived("buy_amount_sum_1d + 2", "middle")
    assert hash_of(top, middle, total) != hash_of(top, other, total)


@pytest.mark.parametrize(
    "feature",
    [
        Aggregate("buy", "sum", of="amount", window="1d"),
        Lookup("buy", "rail"),
        Derived("amount > 3 and flag", "x"),
        LabelRate("buy", of="card", event="buy"),
        share("buy", of="card"),
    ],
)
def test_the_hash_does_not_follow_what_is_not_read(feature):
    assert hash_of(feature) == hash_of(feature, note=str, count=int)
    assert hash_of(feature) == hash_of(feature, Derived("rail == 'x'", "beside"))
    spelled = Aggregate("buy", "sum", of="amount", window="24h")
    assert hash_of(spelled) == hash_of(Aggregate("buy", "sum", of="amount", window="1d"))


def test_the_hash_of_a_catalog_covers_what_is_hidden_and_the_order():
    schema = Schema(Person)
    name, city, count = (
        Lookup("person", "name"),
        Lookup("person", "city"),
        Aggregate("person", "count"),
    )
    different = [
        Catalog(schema, city, count),
        Catalog(schema, count, city),
        Catalog(schema, name, city, count),
        Catalog(schema, city, name, count),
        Catalog(schema, city, count, name),
        Catalog(schema, city, count, Derived("name", "hidden")),
    ]
    assert len({catalog.hash for catalog in different}) == len(different)
    assert Catalog(schema, city, count).hash == different[0].hash


def test_names_are_computed_and_unique():
    assert len(set(CATALOG.names)) == len(CATALOG.names)
    assert set(CATALOG.hashes) == set(CATALOG.names)
    assert share("purchase", of="device").name == "purchase_device_share_7d_over_90d"
    features = aggregates(("signup", "purchase"), by=("user", "device"), windows=("1d", None))
    assert [feature.name for feature in features] == [
        "purchase_or_signup_count_1d",
        "purchase_or_signup_count",
        "purchase_or_signup_count_1d_by_device",
        "purchase_or_signup_count_by_device",
    ]


def test_the_order_of_event_types_in_a_declaration_does_not_matter():
    one, other = Aggregate(("a", "b"), "count"), Aggregate(("b", "a"), "count")
    assert (one.name, one.describe()) == (other.name, other.describe())


class Sent(Event):
    sender: Annotated[str, Entity("user")]
    receiver: Annotated[str, Entity("user")]
    kind: Literal["gift", "loan"] = "gift"
    amount: int = 1


class Seen(Event):
    user: Annotated[str, Entity("user")]
    friend: Annotated[str, Entity("user")] | None = None


def test_an_event_without_the_field_supplies_its_first_field_of_the_same_kind():
    catalog = Catalog(
        Schema(Sent, Seen),
        Aggregate("sent", "sum", by="sender", of="amount"),
        Aggregate("sent", "sum", by="receiver", of="amount"),
        Aggregate("seen", "count", by="user"),
    )
    fold = Fold(catalog)

    def step(event_type, **fields):
        step.count += 1
        at = moment(step.count * 1_000_000)
        return fold.step(event_type(id=str(step.count), happened_at=at, known_at=at, **fields))

    step.count = 0
    assert step(Sent, sender="ann", receiver="bo", amount=3) == [0.0, 0.0, 0.0]
    assert step(Sent, sender="bo", receiver="ann", amount=4) == [0.0, 0.0, 0.0]
    assert step(Sent, sender="ann", receiver="ann", amount=5) == [3.0, 4.0, 0.0]
    assert step(Seen, user="ann") == [8.0, 9.0, 0.0]
    assert step(Sent, sender="ann", receiver="bo") == [8.0, 3.0, 1.0]


def test_a_rate_of_users_by_users():
    """Attribute and holder of one kind share their cells."""
    catalog = Catalog(
        Schema(Sent, Seen),
        LabelRate("seen", of="friend", event="seen", holder="user", delay="1s"),
    )
    fold = Fold(catalog)
    at = [moment(n * 10_000_000) for n in range(4)]
    values = [
        fold.step(Seen(id=f"{n}", happened_at=at[n], known_at=at[n], user=f"u{n}", friend="f"))
        for n in range(4)
    ]
    assert values == [[None], [1.0], [1.0], [1.0]]
