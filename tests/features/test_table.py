"""Training tables: rows as served, labels as learned, and nothing from the future."""

import math
from datetime import datetime, timedelta
from typing import Annotated

import numpy as np
import polars as pl
import pytest

from chopmark.errors import FeatureError, InvalidTable
from chopmark.events import Entity, Event, Schema, Usd
from chopmark.features import (
    Aggregate,
    Catalog,
    Fold,
    Label,
    from_events,
    from_frame,
    training_table,
)
from chopmark.times import DAY, EPOCH, instant

from .exchange import CATALOG, SCHEMA, awkward_events

DAYS = timedelta(days=1)


class Buy(Event):
    user: Annotated[str, Entity("user")] | None = None
    amount_usd: Usd = 1.0


class Dispute(Event):
    user: Annotated[str, Entity("user")] | None = None
    about: str | None = None
    kind: str | None = None


BOOK = Schema(Buy, Dispute)
COUNTS = Catalog(BOOK, Aggregate("buy", "count"), Aggregate("dispute", "count"))


def day(number):
    return EPOCH + number * DAYS


def buy(number, at, **fields):
    return Buy(id=number, happened_at=day(at), known_at=day(at), **fields)


def dispute(number, at, **fields):
    return Dispute(id=number, happened_at=day(at - 1), known_at=day(at), **fields)


HISTORY = [
    buy("ann-1", 0, user="ann"),
    buy("bo-1", 1, user="bo"),
    buy("nobody", 2),
    dispute("d1", 30, user="ann", about="ann-1", kind="fraud"),
    buy("ann-2", 31, user="ann"),
    dispute("d2", 40, user="bo", about="bo-1", kind="quality"),
    buy("cy-1", 50, user="cy"),
    dispute("d3", 60, user="ann", about="ann-2", kind="fraud"),
    buy("cy-2", 100, user="cy"),
    dispute("d4", 101, user="dee", about="none"),
]


def labels(label, **options):
    table = training_table(
        COUNTS, [HISTORY[:4], HISTORY[4:]], rows=("buy",), label=label, **options
    )
    known = table["label_known_at"].to_list()
    return {
        name: (bad, when and (when - EPOCH).days)
        for name, bad, when in zip(table["event_id"], table["label"], known, strict=True)
    }


def test_the_rows_of_a_bad_user_are_bad_until_that_is_known():
    label = Label(events=("dispute",), matures="30d")
    # ann-2 came a day after ann was known to be bad: its features hold the label already.
    assert labels(label) == {
        "ann-1": (1, 30), "bo-1": (1, 40), "nobody": (0, None), "cy-1": (0, None),
    }  # fmt: skip
    assert labels(label, immature=True)["ann-2"] == (1, 30)


def test_a_label_that_refers_to_a_row_labels_this_row():
    label = Label(events=("dispute",), by="about", refers=True, matures="30d")
    assert labels(label) == {
        "ann-1": (1, 30), "bo-1": (1, 40), "nobody": (0, None), "ann-2": (1, 60), "cy-1": (0, None),
    }  # fmt: skip


def test_a_condition_on_the_label_event():
    label = Label(events=("dispute",), where="kind == 'fraud'", matures="30d")
    assert labels(label)["bo-1"] == (0, None)
    assert labels(label)["ann-1"] == (1, 30)
    label = Label(events=("dispute",), where="missing(kind) or kind != 'fraud'", matures="30d")
    assert labels(label)["ann-1"] == (0, None)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (day(29), {"ann-1": None, "bo-1": None, "nobody": None}),
        (day(30), {"ann-1": 1, "bo-1": None, "nobody": None}),
        (day(31), {"ann-1": 1, "bo-1": 0, "nobody": None, "ann-2": 1}),
        (day(40), {"ann-1": 1, "bo-1": 1, "nobody": 0, "ann-2": 1}),
        (day(50), {"ann-1": 1, "bo-1": 1, "nobody": 0, "ann-2": 1, "cy-1": None}),
    ],
)
def test_until_knows_nothing_that_was_learned_later(until, expected):
    label = Label(events=("dispute",), matures="30d")
    found = labels(label, until=instant(until), immature=True)
    assert {name: bad for name, (bad, _) in found.items()} == expected
    # Of the young rows only the bad ones are known, so all of them are left out.
    bought = {"ann-1": 0, "bo-1": 1, "nobody": 2}
    ripe = [name for name, at in bought.items() if day(at + 30) <= until]
    mature = {name: bad for name, (bad, _) in labels(label, until=instant(until)).items()}
    assert mature == {name: expected[name] for name in ripe}


def test_youth_does_not_tell_who_is_bad():
    events = [buy(f"p{n}", n, user=f"u{n}") for n in range(100)]
    events += [dispute(f"d{n}", n + 2, user=f"u{n}") for n in range(0, 98, 5)]
    events.sort(key=lambda event: event.known_at)
    label = Label(events=("dispute",), matures="60d")
    table = training_table(COUNTS, [events], rows=["buy"], label=label)
    assert table["as_of"].max() <= events[-1].known_at - 60 * DAYS
    halves = table["label"][: table.height // 2].mean(), table["label"][table.height // 2 :].mean()
    assert halves[0] == pytest.approx(halves[1], abs=0.05)


def test_a_row_matures_at_the_instant_and_not_before():
    label = Label(events=("dispute",), matures="50d")
    at = instant(day(100))
    assert labels(label, until=at, immature=True)["cy-1"] == (0, None)
    at = instant(day(100)) - 1
    assert labels(label, until=at, immature=True)["cy-1"] == (None, None)


def test_the_past_of_a_table_does_not_depend_on_its_future():
    events = awkward_events(300, 2)
    label = Label(events=("chargeback",), matures="1d")
    cut = instant(events[150].known_at)
    known = [event for event in events if instant(event.known_at) <= cut]
    whole = training_table(
        CATALOG, [events], rows=("purchase",), label=label, until=cut, immature=True
    )
    cut_off = training_table(
        CATALOG, [known], rows=("purchase",), label=label, until=cut, immature=True
    )
    assert whole.equals(cut_off)


@pytest.mark.parametrize("size", [1, 37, 1000])
def test_a_row_equals_what_was_served_bit_for_bit(size):
    events = awkward_events(300, 4)
    fold = Fold(CATALOG)
    served = {event.id: fold.step(event) for event in events}
    batches = [events[start : start + size] for start in range(0, len(events), size)]
    table = training_table(CATALOG, batches, rows=("purchase", "signup"))
    chosen = [event for event in events if type(event).__name__ != "Chargeback"]
    assert table["event_id"].to_list() == [event.id for event in chosen]
    assert table["as_of"].to_list() == [event.known_at for event in chosen]
    rows = table.select(CATALOG.names).rows()
    assert [list(row) for row in rows] == [served[event.id] for event in chosen]
    texts = {output.name for output in CATALOG.outputs if output.kind == "text"}
    assert texts == {name for name in CATALOG.names if table.schema[name] == pl.String}


def test_a_fold_goes_on_from_where_it_was():
    events = awkward_events(200, 5)
    whole = training_table(CATALOG, [events], rows=("purchase",))
    fold = Fold(CATALOG)
    for event in events[:100]:
        fold.step(event, read=False)
    rest = training_table(CATALOG, [events[100:]], rows=("purchase",), fold=fold)
    assert rest.equals(whole.tail(rest.height))


def test_progress_is_told():
    told = []
    batches = [HISTORY[:3], [], HISTORY[3:]]
    training_table(COUNTS, batches, rows=("buy",), on_progress=told.append)
    assert told == [3, 10]


def test_what_a_table_cannot_be_made_of():
    with pytest.raises(FeatureError, match="event `buys`, which the schema lacks"):
        training_table(COUNTS, [HISTORY], rows=("buys",))
    with pytest.raises(FeatureError, match="event `x`, which the schema lacks"):
        training_table(COUNTS, [HISTORY], rows=("buy",), label=Label(events=("x",)))
    with pytest.raises(FeatureError, match="joins by field `usr`"):
        training_table(COUNTS, [HISTORY], rows=("buy",), label=Label(events=("dispute",), by="usr"))
    with pytest.raises(InvalidTable, match="expected events of type `buy` in the log, got none"):
        training_table(COUNTS, [HISTORY[3:4]], rows=("buy",))
    with pytest.raises(InvalidTable, match="got none among 0 events"):
        training_table(COUNTS, [], rows=("buy",))


def frame_of(events):
    names = ["id", "happened_at", "known_at", *SCHEMA.fields]
    moments = pl.Datetime("us", "UTC")
    kinds = {"number": pl.Float64, "boolean": pl.Boolean, "text": pl.String, "time": moments}
    types = {"id": pl.String, "happened_at": moments, "known_at": moments}
    types |= {name: kinds[field.kind] for name, field in SCHEMA.fields.items()}
    data = {name: [getattr(event, name, None) for event in events] for name in names}
    frame = pl.DataFrame(data, schema={name: types[name] for name in names})
    return frame.with_columns(type=pl.Series([type(event).__name__.lower() for event in events]))


def assert_same_columns(one, other):
    assert one.types.tolist() == other.types.tolist()
    assert one.happened_at.tolist() == other.happened_at.tolist()
    assert one.known_at.tolist() == other.known_at.tolist()
    assert np.array_equal(one.values, other.values, equal_nan=True)
    assert np.array_equal(one.entities, other.entities)
    assert list(one.ids) == list(other.ids)
    assert {name: list(texts) for name, texts in one.texts.items()} == {
        name: list(texts) for name, texts in other.texts.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_gives_the_columns_of_its_events(seed):
    events = awkward_events(200, seed)
    fold = Fold(CATALOG)
    made = from_events(events, SCHEMA, fold.codes, texts=fold.text_fields)
    frame = frame_of(events)
    assert_same_columns(from_frame(frame, SCHEMA, fold.codes, texts=fold.text_fields), made)
    micros = frame.with_columns(pl.col("happened_at", "known_at").dt.epoch("us"))
    micros = micros.with_columns(pl.col("rail", "country", "user").cast(pl.Categorical))
    assert_same_columns(from_frame(micros, SCHEMA, fold.codes, texts=fold.text_fields), made)


def test_a_table_of_a_frame_is_the_table_of_its_events():
    events = awkward_events(200, 3)
    fold = Fold(CATALOG)
    columns = from_frame(frame_of(events), SCHEMA, fold.codes, texts=fold.text_fields)
    label = Label(events=("chargeback",), matures="1d")
    options = {"rows": ("purchase",), "label": label, "immature": True}
    table = training_table(
        CATALOG, [columns.first(90), columns_after(columns, 90)], fold=fold, **options
    )
    assert table.equals(training_table(CATALOG, [events], **options))


def columns_after(columns, start):
    return list(columns.chunks(start))[1] if len(columns) <= 2 * start else _rest(columns, start)


def _rest(columns, start):
    return columns._part(slice(start, len(columns)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("type"), "expected a column `type`"),
        (lambda frame: frame.rename({"known_at": "knwon_at"}), "did you mean `knwon_at`"),
        (lambda frame: frame.with_columns(type=pl.lit("purchse")), "did you mean `purchase`"),
        (lambda frame: frame.reverse(), "in the order of `known_at`"),
        (lambda frame: frame.with_columns(known_at=pl.lit("today")), "expected datetimes"),
        (lambda frame: frame.with_columns(happened_at=pl.lit(None).cast(pl.Datetime("us", "UTC"))),
         "`happened_at`"),
        (lambda frame: frame.rename({"amount_usd": "amount_us"}), "did you mean `amount_usd`"),
    ],
)  # fmt: skip
def test_a_frame_that_is_no_log_is_refused(change, message):
    events = [
        e
        for e in awkward_events(50, 0)
        if e.known_at > datetime.min.replace(tzinfo=e.known_at.tzinfo)
    ]
    with pytest.raises(InvalidTable, match=message):
        from_frame(change(frame_of(events)), SCHEMA, Fold(CATALOG).codes)


def test_an_empty_frame_is_an_empty_log():
    columns = from_frame(frame_of([]), SCHEMA, Fold(CATALOG).codes)
    assert len(columns) == 0
    assert list(Fold(CATALOG).replay(columns)) == []


def test_labels_of_a_year_of_rows_match_a_join_by_hand():
    random = np.random.default_rng(0)
    events = []
    for number in range(2_000):
        at = EPOCH + timedelta(hours=4 * number)
        user = f"u{random.integers(60)}"
        if random.random() < 0.03:
            events.append(Dispute(id=f"d{number}", happened_at=at, known_at=at, user=user))
        else:
            events.append(Buy(id=f"b{number}", happened_at=at, known_at=at, user=user))
    until = instant(events[1_500].known_at)
    label = Label(events=("dispute",), matures="40d")
    table = training_table(COUNTS, [events], rows=("buy",), label=label, until=until, immature=True)
    first = {}
    for event in events[:1_501]:
        if isinstance(event, Dispute):
            first.setdefault(event.user, event.known_at)
    expected = []
    for event in events[:1_501]:
        if isinstance(event, Buy):
            old = instant(event.known_at) <= until - 40 * DAY
            expected.append(1 if event.user in first else 0 if old else None)
    assert table["label"].to_list() == expected
    assert not math.isnan(table["buy_count"].sum())
