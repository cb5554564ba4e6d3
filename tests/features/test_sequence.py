"""Sequences: lists of events that equal a plain recomputation, however the log is cut."""

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import FeatureError, InvalidInput, RuleError
from chopmark.events import Entity, Event, Identifier, Moment, Number, Personal, Schema
from chopmark.features import (
    Aggregate,
    Catalog,
    Derived,
    Fold,
    Label,
    Lookup,
    Sequence,
    Similarity,
    from_frame,
    training_table,
)
from chopmark.features.eventlists import as_served
from chopmark.rules.rule import Effects, Language, Rule
from chopmark.testing import check_feature
from chopmark.testing.features import live_values, replayed_values
from chopmark.times import EPOCH

from .exchange import SCHEMA, Chargeback, Purchase, Signup, awkward_events
from .streams import drawn_streams

ALL = ("signup", "purchase", "chargeback")
FIELDS = ("amount_usd", "temperature", "rail", "guest", "country", "kind")
CATALOG = Catalog(
    SCHEMA,
    Aggregate("purchase", "sum", of="amount_usd", window="1h"),
    Sequence(ALL, fields=FIELDS, name="history"),
    Lookup("signup", "country"),
    Sequence(ALL, fields=("rail",), last=3, window=None, name="last_three"),
    Sequence(("purchase",), last=1, window="1h"),
    Sequence(("purchase", "signup"), fields=("country", "amount_usd"), by="device", last=20),
    Sequence(("purchase",), fields=("amount_usd",), by="everyone", last=17, window="1d"),
    Sequence(("purchase",), fields=("rail",), where="amount_usd >= 50 and not guest", window="10m"),
)
SEQUENCES = [feature for feature in CATALOG.features if isinstance(feature, Sequence)]
START = EPOCH + timedelta(days=10_000)


def buy(number, at, *, late=0, user="ann", **fields):
    return Purchase(
        id=f"p{number}",
        happened_at=START + timedelta(seconds=at - late),
        known_at=START + timedelta(seconds=at),
        user=user,
        **{"amount_usd": float(number), **fields},
    )


def last_list(catalog, events):
    """The first value of the last event."""
    return live_values(catalog, events)[-1][0]


def listed(*, last=256, window=None, fields=("amount_usd",), **more):
    return Catalog(SCHEMA, Sequence(("purchase",), fields=fields, last=last, window=window, **more))


def amounts(events):
    return [event["amount_usd"] for event in events]


def test_a_list_is_in_the_order_of_happening_and_tells_ages():
    events = [buy(1, 10), buy(2, 20), buy(3, 30, late=15, rail="card"), buy(4, 60)]
    assert last_list(listed(fields=("rail", "amount_usd")), events) == [
        {"type": "purchase", "age": 50_000_000, "amount_usd": 1.0},
        {"type": "purchase", "age": 45_000_000, "rail": "card", "amount_usd": 3.0},
        {"type": "purchase", "age": 40_000_000, "amount_usd": 2.0},
    ]


def test_nothing_known_is_an_empty_list_and_nobody_named_a_missing_one():
    catalog = Catalog(SCHEMA, Sequence(("purchase",), by="device", last=5))
    events = [buy(1, 0, device="d"), buy(2, 1), buy(3, 2, device="d")]
    lists = [row[0] for row in live_values(catalog, events)]
    assert lists == [[], None, [{"type": "purchase", "age": 2_000_000}]]


def test_equal_instants_keep_the_order_of_the_log():
    events = [buy(1, 0), buy(2, 0), buy(3, 5, late=5), buy(4, 5), buy(5, 9, late=9), buy(6, 10)]
    assert amounts(last_list(listed(), events)) == [1.0, 2.0, 3.0, 5.0, 4.0]
    assert amounts(last_list(listed(last=3), events)) == [3.0, 5.0, 4.0]


def test_a_full_list_has_no_place_for_what_is_older_than_all_of_it():
    events = [buy(number, number) for number in range(1, 5)]
    late = [*events, buy(5, 10, late=10), buy(6, 10)]
    assert amounts(last_list(listed(last=4), late)) == [1.0, 2.0, 3.0, 4.0]
    assert amounts(last_list(listed(last=5), late)) == [5.0, 1.0, 2.0, 3.0, 4.0]


def test_an_event_exactly_as_old_as_the_window_is_out():
    events = [buy(1, 0), buy(2, 1), buy(3, 600)]
    assert amounts(last_list(listed(window="10m"), events)) == [2.0]


def test_an_event_from_the_future_of_our_clock_has_no_age_below_zero():
    (event,) = last_list(listed(), [buy(1, 0, late=-30), buy(2, 0)])
    assert event["age"] == 0


def test_moving_all_times_changes_no_list():
    events = awkward_events(150, 4)
    moved = [
        type(event)(
            **{
                **{name: getattr(event, name) for name in event.__struct_fields__},
                "happened_at": event.happened_at + timedelta(days=400, seconds=7),
                "known_at": event.known_at + timedelta(days=400, seconds=7),
            }
        )
        for event in events
    ]
    assert live_values(CATALOG, moved) == live_values(CATALOG, events)


@pytest.mark.parametrize("seed", range(3))
def test_sequences_keep_the_contract_of_features(seed):
    check_feature(SEQUENCES, CATALOG, awkward_events(140, seed))


@given(drawn_streams)
@settings(max_examples=40)
def test_sequences_of_drawn_streams_keep_the_contract(events):
    check_feature(SEQUENCES, CATALOG, events, cuts=(1, 4))


@given(drawn_streams, st.data())
@settings(max_examples=60)
def test_a_snapshot_and_the_tail_equal_the_whole_log_at_any_seam(events, data):
    seam = data.draw(st.integers(0, len(events)))
    expected = live_values(CATALOG, events)
    before = Fold(CATALOG)
    # What was asked for before the seam, and how it was cut, may not matter behind it.
    asked = np.array(data.draw(st.lists(st.booleans(), min_size=seam, max_size=seam)), dtype=bool)
    cut = data.draw(st.integers(0, seam))
    for start, end in ((0, cut), (cut, seam)):
        columns = before.columns_of(events[start:end])
        list(before.replay(columns, wanted=asked[start:end]))
    after = Fold(CATALOG)
    with TemporaryDirectory() as folder:
        before.freeze(offset=seam).write(Path(folder) / "state.npz")
        assert after.load(Path(folder) / "state.npz")[0] == seam
    assert [after.step(event) for event in events[seam:]] == expected[seam:]


def model_of_chains(moves, last):
    """The lists of a plain Python model: a sorted list, cut at the front."""
    kept, seen = {}, []
    for user, at, late, number in moves:
        have = kept.setdefault(user, [])
        seen.append([event for event in have if event[0] > at - 3_600])
        if late < 3_600:
            have.append((at - late, number))
            have.sort(key=lambda event: event[0])
            del have[:-last]
    return seen


@pytest.mark.parametrize("last", [1, 2, 7, 8, 9, 64, 300])
def test_long_lists_equal_a_plain_model(last):
    random = np.random.default_rng(last)
    at, moves = 0, []
    for number in range(3_000):
        at += int(random.choice([0, 0, 1, 5, 30, 900], p=[0.2, 0.2, 0.3, 0.2, 0.09, 0.01]))
        late = int(random.choice([0, 0, 0, 3, 200, 3_599, 3_600]))
        moves.append((f"u{random.integers(4)}", at, late, number))
    events = [
        Purchase(
            id=f"e{number}",
            happened_at=START + timedelta(seconds=at - late),
            known_at=START + timedelta(seconds=at),
            user=user,
            amount_usd=float(number),
        )
        for user, at, late, number in moves
    ]
    catalog = listed(last=last, window="1h")
    expected = model_of_chains(moves, last)
    assert max(map(len, expected)) >= min(last, 64)
    found = [row[0] for row in replayed_values(catalog, events, 700)]
    for (_, at, _, _), want, got in zip(moves, expected, found, strict=True):
        assert [(at - event["age"] // 1_000_000, event["amount_usd"]) for event in got] == want


def test_a_frame_of_history_gives_the_same_lists():
    events = awkward_events(200, 8)
    names = ["type", "id", "happened_at", "known_at", *SCHEMA.fields]
    kinds = {Signup: "signup", Purchase: "purchase", Chargeback: "chargeback"}
    frame = pl.DataFrame(
        [
            {
                name: kinds[type(event)] if name == "type" else getattr(event, name, None)
                for name in names
            }
            for event in events
        ],
        infer_schema_length=None,
    )
    fold = Fold(CATALOG)
    columns = from_frame(frame, SCHEMA, fold.codes, texts=fold.text_fields)
    (replayed,) = fold.replay(columns)
    expected = live_values(CATALOG, events)
    for feature in SEQUENCES:
        place = CATALOG.names.index(feature.name)
        assert replayed.lists[feature.name].to_list() == [row[place] for row in expected]


def test_a_field_counts_only_for_the_types_that_declare_it():
    times = [START, START + timedelta(seconds=1), START + timedelta(seconds=2)]
    frame = pl.DataFrame(
        {
            "type": ["signup", "purchase", "purchase"],
            "happened_at": times,
            "known_at": times,
            "user": ["ann"] * 3,
            "amount_usd": [7.0, 8.0, 9.0],  # a signup has none
        }
    )
    catalog = Catalog(SCHEMA, Sequence(("signup", "purchase"), fields=("amount_usd",)))
    fold = Fold(catalog)
    (replayed,) = fold.replay(from_frame(frame, SCHEMA, fold.codes))
    assert replayed.lists[catalog.names[0]].to_list()[-1] == [
        {"type": "signup", "age": 2_000_000},
        {"type": "purchase", "age": 1_000_000, "amount_usd": 8.0},
    ]


def test_a_training_table_has_a_list_column_with_the_served_values():
    events = awkward_events(300, 5)
    table = training_table(CATALOG, [events[:90], events[90:]], rows=["purchase", "signup"])
    assert table.schema["history"] == pl.List(
        pl.Struct(
            {
                "type": pl.String, "age": pl.Int64, "amount_usd": pl.Float64,
                "temperature": pl.Float64, "rail": pl.String, "guest": pl.Float64,
                "country": pl.String, "kind": pl.String,
            }
        )
    )  # fmt: skip
    assert table.columns[2:] == list(CATALOG.names)
    wanted = [row for event, row in zip(events, live_values(CATALOG, events), strict=True)
              if not isinstance(event, Chargeback)]  # fmt: skip
    for place, feature in enumerate(CATALOG.names):
        if feature in CATALOG.sequences:
            assert [as_served(value) for value in table[feature].to_list()] == [
                row[place] for row in wanted
            ]
    by_device = table[SEQUENCES[3].name]
    assert by_device.null_count() > 0
    assert (by_device.list.len() == 0).any()


def test_a_table_of_empty_lists_has_the_same_type(tmp_path):
    catalog = listed(fields=("rail", "amount_usd"))
    table = training_table(catalog, [[buy(1, 0)]], rows=["purchase"])
    longer = training_table(catalog, [[buy(1, 0), buy(2, 1, rail="card")]], rows=["purchase"])
    assert table.schema == longer.schema
    assert table[catalog.names[0]].to_list() == [[]]
    longer.write_parquet(tmp_path / "table.parquet")
    assert pl.read_parquet(tmp_path / "table.parquet").equals(longer)


def test_a_labelled_table_keeps_lists_beside_their_rows():
    catalog = Catalog(SCHEMA, Sequence(("purchase",), fields=("amount_usd",), name="history"))
    label = Label(events=("chargeback",), matures="1d")
    events = [buy(number, number * 86_400, user=f"u{number % 2}") for number in range(8)]
    table = training_table(catalog, [events], rows=["purchase"], label=label)
    assert table.height == 7
    assert [amounts(row) for row in table["history"].to_list()] == [
        [], [], [0.0], [1.0], [0.0, 2.0], [1.0, 3.0], [0.0, 2.0, 4.0],
    ]  # fmt: skip


def state_bytes(fold, name):
    arrays = fold.freeze(offset=0).arrays
    place = list(fold.catalog.sequences).index(name)
    return sum(part.nbytes for key, part in arrays.items() if key.startswith(f"sequence_{place}_"))


def test_the_state_costs_what_its_notes_say():
    catalog = listed(fields=("amount_usd", "rail"), last=50)
    fold = Fold(catalog)
    draws = np.random.default_rng(1).pareto(1, 9_000).astype(int) % 500
    events = [buy(number, number, user=f"u{who}") for number, who in enumerate(draws)]
    list(fold.replay(fold.columns_of(events)))
    counts = np.unique([event.user for event in events], return_counts=True)[1]
    kept, users = np.minimum(counts, 50).sum(), len(counts)
    law = (12 + 16) * (kept + 14 * users) + 80 * users
    assert 0.3 * law < state_bytes(fold, catalog.names[0]) <= law


def test_blocks_of_what_left_the_window_are_used_again():
    catalog = listed(window="1h")
    fold = Fold(catalog)
    sizes = []
    for day in range(6):
        events = [buy(number, day * 86_400 + number) for number in range(2_000)]
        list(fold.replay(fold.columns_of(events)))
        sizes.append(state_bytes(fold, catalog.names[0]))
    assert len(set(sizes)) == 1


def test_a_snapshot_without_sequences_is_as_before():
    catalog = Catalog(SCHEMA, Aggregate("purchase", "count"))
    fold = Fold(catalog)
    fold.step(buy(1, 0))
    assert set(fold.freeze(offset=1).arrays) == {"pool", "directory", "marks", "header", "free"}


def test_texts_of_lists_come_back_from_a_snapshot(tmp_path):
    catalog = listed(fields=("rail",))
    before, after = Fold(catalog), Fold(catalog)
    before.step(buy(1, 0, rail="bank"))
    before.freeze(offset=1).write(tmp_path / "state.npz")
    after.load(tmp_path / "state.npz")
    (event,) = after.step(buy(2, 1))[0]
    assert event["rail"] == "bank"


def test_hidden_parts_do_not_disturb_lists():
    catalog = Catalog(
        SCHEMA,
        Derived(
            "purchase_count_1h + 1",
            "one_more",
            parts=(Aggregate("purchase", "count", window="1h"),),
        ),
        Sequence(("purchase",), name="history", last=2),
        Derived("amount_usd"),
    )
    rows = live_values(catalog, [buy(1, 0), buy(2, 5)])
    assert rows[1] == [2.0, [{"type": "purchase", "age": 5_000_000}], 2.0]


class Visit(Event):
    """Something of every kind of field."""

    user: Annotated[str, Entity("user")]
    device: Annotated[str, Entity("device")] | None = None
    email: Annotated[str, Personal()] | None = None
    tax_number: Annotated[str, Identifier()] | None = None
    paid_at: Moment | None = None
    page: str = ""
    age: int = 0
    seconds: Annotated[float, Number(1)] = 0.0


VISITS = Schema(Visit)


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ("user", "names a user"),
        ("device", "names a device"),
        ("email", "is personal"),
        ("tax_number", "is personal"),
        ("paid_at", "is a time"),
        ("pages", "did you mean `page`"),
    ],
)
def test_a_field_that_no_list_may_have_is_refused(field, why):
    with pytest.raises(FeatureError, match=f"`{field}`.*{why}"):
        Catalog(VISITS, Sequence(("visit",), fields=("page", field)))


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"events": ()}, "at least one event type"),
        ({"events": ("visit",), "last": 0}, "expected 1 to 100,000 events"),
        ({"events": ("visit",), "last": 100_001}, "expected 1 to 100,000 events"),
        ({"events": ("visit",), "last": 2.5}, "expected an int, got 2.5"),
        ({"events": ("visit",), "fields": ("page", "page")}, "twice"),
        ({"events": ("visit",), "fields": ("age",)}, "every event of a list has one"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(declared, why):
    with pytest.raises(FeatureError, match=why):
        Sequence(**declared)


def test_an_unreadable_window_is_refused():
    with pytest.raises(InvalidInput, match="90 days"):
        Sequence(("visit",), window="90 days")


@pytest.mark.parametrize(
    ("feature", "why"),
    [
        (Sequence(("visits",)), "did you mean `visit`"),
        (Sequence(("visit",), by="page"), "names no entity"),
        (Sequence(("visit",), by="card"), "has none of this name"),
        (Sequence(("visit",), where="pages == ''"), "unknown name `pages`"),
        (Sequence(("visit",), where="seconds + 1"), "expected a boolean"),
        (Sequence(("visit",), name="page"), "has the name of a field"),
    ],
)
def test_a_sequence_over_what_does_not_exist_is_refused(feature, why):
    with pytest.raises(FeatureError, match=why):
        Catalog(VISITS, feature)


def test_two_sequences_of_one_name_are_refused():
    with pytest.raises(FeatureError, match="declared twice"):
        Catalog(VISITS, Sequence(("visit",), last=5, name="x"), Sequence(("visit",), name="x"))


@pytest.mark.parametrize(
    "feature",
    [
        Derived("history == 1", "x"),
        Derived("history", "x"),
        Derived("1 + missing(history)", "x"),
        Similarity("history", "page"),
    ],
)
def test_no_expression_reads_a_sequence(feature):
    with pytest.raises(FeatureError, match="`history` is a sequence, which no expression reads"):
        Catalog(VISITS, Sequence(("visit",), name="history"), feature)


def test_a_condition_reads_no_sequence():
    with pytest.raises(FeatureError, match="unknown name `history`"):
        Catalog(
            VISITS,
            Sequence(("visit",), name="history"),
            Aggregate("visit", "count", where="missing(history)"),
        )


def test_no_rule_reads_a_sequence():
    language = Language(Catalog(VISITS, Sequence(("visit",), name="history")))
    rule = Rule(name="r", when="missing(history)", then=Effects(tags=("t",)), because="-")
    with pytest.raises(RuleError, match="`history` is a sequence, which no rule reads"):
        language.check(rule, {})


def hash_of(schema=SCHEMA, **declared):
    given = {"events": ("purchase",), "fields": ("amount_usd",), "name": "x", **declared}
    return Catalog(schema, Sequence(**given)).hashes["x"]


def test_the_hash_covers_all_that_the_value_depends_on():
    others = [
        {"events": ("purchase", "signup")},
        {"fields": ("amount_usd", "rail")},
        {"by": "device"},
        {"last": 255},
        {"window": "91d"},
        {"window": None},
        {"where": "guest"},
    ]
    hashes = [hash_of(), *(hash_of(**other) for other in others)]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(window="12w") == hash_of(window="84d")
    assert hash_of(events=("purchase", "signup")) == hash_of(events=("signup", "purchase"))


def test_the_hash_covers_the_declaration_of_the_fields():
    def schema(decimals):
        class Visit(Event):
            user: Annotated[str, Entity("user")]
            seconds: Annotated[float, Number(decimals)] = 0.0

        return Schema(Visit)

    one, same, other = (
        hash_of(schema(decimals), events=("visit",), fields=("seconds",)) for decimals in (1, 1, 2)
    )
    assert one == same != other


def test_the_catalog_knows_what_a_sequence_reads():
    catalog = Catalog(SCHEMA, Sequence(("purchase",), fields=("rail",), where="guest"))
    assert catalog.event_types == {"purchase"}
    assert {"user", "rail", "guest"} <= catalog.read_fields
    assert catalog.outputs[0].kind == "sequence"
    assert catalog.names[0] not in catalog.kinds


def test_names_are_made_from_the_declaration():
    names = [feature.name for feature in SEQUENCES]
    assert names == [
        "history",
        "last_three",
        "purchase_last_1_1h",
        "purchase_or_signup_last_20_90d_by_device",
        "purchase_last_17_1d_by_everyone",
        "purchase_last_256_10m_where_amount_usd_ge_50_and_not_guest",
    ]
    assert len(Catalog(SCHEMA, *SEQUENCES).names) == len(names)
