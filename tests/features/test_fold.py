"""The one execution against the oracle, on awkward events, and against itself on many."""

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.features import Aggregate, Catalog, Fold, aggregates, from_events
from chopmark.testing.features import check_feature, live_values, replayed_values, resumed_values
from chopmark.testing.oracle import Oracle

from .exchange import CATALOG, SCHEMA, Purchase, awkward_events
from .streams import SMALL, START, drawn_streams, of_values, shapes

WITHOUT_STD = [feature for feature in CATALOG.features if getattr(feature, "op", "") != "std"]


@pytest.mark.parametrize("seed", range(2))
def test_every_feature_keeps_the_contract(seed):
    check_feature(CATALOG.features, CATALOG, awkward_events(150, seed))


@settings(max_examples=40)
@given(drawn_streams)
def test_every_feature_keeps_the_contract_on_drawn_streams(events):
    # The spread of amounts that differ by a factor of 10**12 has a test of its own below.
    check_feature(WITHOUT_STD, CATALOG, events, cuts=(1, 4))


@pytest.mark.parametrize("shape", shapes(1))
def test_monotone_lists_on_adversarial_sequences(shape):
    check_feature(SMALL.features, SMALL, of_values(shapes(150)[shape]), cuts=(9,))


@pytest.mark.parametrize("seed", range(6))
def test_late_events_enter_at_their_place(seed):
    random = np.random.default_rng(seed)
    late = random.choice([0, 0, 1, 19, 20, 21, 500, 600, 3_000, 90_000], 150)
    values = random.choice([-3, -1, 0, 1, 2, 5], 150)
    devices = [None if i == 3 else f"d{i}" for i in random.integers(0, 4, 150)]
    events = of_values(values, late=late, devices=devices)
    check_feature(SMALL.features, SMALL, events, cuts=(1, 13))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3) | st.none(), st.integers(0, 40).map(lambda n: n * 20)),
        min_size=1,
        max_size=60,
    )
)
def test_drawn_late_sequences(entries):
    values, late = zip(*entries, strict=True)
    check_feature(SMALL.features, SMALL, of_values(values, late=late, step=60), cuts=(5,))


def test_windows_are_emptied_and_filled_again():
    bursts = [*[5.0] * 8, *range(8), *range(8, 0, -1)]
    events = []
    for burst in range(6):
        for event in of_values(bursts):
            late = timedelta(days=2 * burst)
            events.append(
                Purchase(
                    id=f"{burst}-{event.id}",
                    happened_at=event.happened_at + late,
                    known_at=event.known_at + late,
                    user="hot",
                    amount_usd=2.0,
                    temperature=event.temperature,
                    device=f"d{burst}",
                )
            )
    check_feature(SMALL.features, SMALL, events, cuts=(10,))


def test_an_event_exactly_one_window_old_has_left():
    catalog = Catalog(SCHEMA, *aggregates("purchase", windows=("10m",)))
    events = of_values([1, 2, 3], step=600.0)
    assert live_values(catalog, events) == [[0.0], [0.0], [0.0]]
    events = of_values([1, 2, 3], step=599.999999)
    assert live_values(catalog, events) == [[0.0], [1.0], [1.0]]


def test_a_hot_entity_uses_its_places_again():
    """3,000 events of one user, of which the longest window holds 180 at a time."""
    features = [
        *aggregates("purchase", ops=("count", "sum", "max", "min", "distinct"), of="temperature",
                    windows=("10m", "1h")),
        Aggregate("purchase", "distinct", of="temperature"),
    ]  # fmt: skip
    catalog = Catalog(SCHEMA, *features)
    random = np.random.default_rng(1)
    values = random.integers(-400, 400, 3_000) / 8
    late = random.choice([0, 0, 0, 5, 700], 3_000)
    events = of_values(values, late=late)
    live = live_values(catalog, events)
    assert replayed_values(catalog, events, 100) == live
    oracle = Oracle(catalog, events)
    for position in range(2, 3_000, 149):
        expected = [oracle.value(name, position) for name in catalog.names]
        assert live[position] == expected, position

    def words(count):
        fold = Fold(catalog)
        for event in events[:count]:
            fold.step(event, read=False)
        arrays = fold.freeze(offset=0).arrays
        return sum(array.size for array in arrays.values())

    assert words(3_000) < 1.05 * words(1_500), "what left the windows is used again"


def test_many_values_make_the_tables_grow_and_shrink():
    """Thousands of different values: the table of marks is grown, deleted from and refilled."""
    random = np.random.default_rng(2)
    values = random.integers(0, 10**8, 4_000) / 1000
    values[2_000:] = values[:2_000]  # the same ones once more
    catalog = Catalog(
        SCHEMA,
        *aggregates("purchase", ops=("distinct", "count"), of="temperature", windows=("1h", "1d")),
    )
    events = of_values(values, step=30.0)
    live = live_values(catalog, events)
    distinct, num_in_window = catalog.names.index("purchase_temperature_distinct_1h"), 119
    for position in range(500, 4_000, 171):
        past = values[max(position - num_in_window, 0) : position]
        assert live[position][distinct] == len(set(past.tolist()))
    assert replayed_values(catalog, events, 1_000) == live
    assert resumed_values(catalog, events, 2_500) == live


@pytest.mark.parametrize("largest", [1.0, 1e4, 1e6])
def test_the_spread_is_exact_for_amounts_of_daily_life(largest):
    random = np.random.default_rng(0)
    events = [
        Purchase(
            id=f"e{i}",
            happened_at=START + timedelta(seconds=i),
            known_at=START + timedelta(seconds=i),
            user="u",
            amount_usd=round(float(amount), 2),
        )
        for i, amount in enumerate(random.uniform(0, largest, 60))
    ]
    catalog = Catalog(
        SCHEMA, *aggregates("purchase", ops=("std",), of="amount_usd", windows=("10m",))
    )
    check_feature(catalog.features, catalog, events)


@pytest.mark.parametrize(
    "amounts", [(1e10, 1e10 - 0.01), (1e8, 1e8 - 0.01), (1e6, 1e6 - 0.01, 1e6)]
)
def test_the_spread_of_large_amounts_that_hardly_differ(amounts):
    events = [
        Purchase(
            id=f"e{i}",
            happened_at=START + timedelta(seconds=i),
            known_at=START + timedelta(seconds=i),
            user="u",
            amount_usd=amount,
        )
        for i, amount in enumerate((*amounts, 0.0))
    ]
    catalog = Catalog(SCHEMA, Aggregate("purchase", "std", of="amount_usd", window="10m"))
    value = live_values(catalog, events)[-1][0]
    assert math.isclose(value, float(np.std(np.array(amounts) - amounts[0])), abs_tol=1e-6)


def test_thirty_thousand_events_replay_bit_for_bit():
    """Step by step, in chunks of two sizes, and through a snapshot: no bit differs."""
    events = many_events(30_000, num_users=500)
    catalog = Catalog(
        SCHEMA,
        *aggregates("purchase", by=("user", "device", "everyone"),
                    ops=("count", "sum", "mean", "max", "std"), of="amount_usd",
                    windows=("10m", "1d", None)),
        *aggregates("purchase", ops=("min", "distinct", "last"), of="temperature",
                    windows=("1h", "1d", None)),
        *[feature for feature in CATALOG.features if type(feature).__name__ == "LabelRate"],
    )  # fmt: skip
    assert len(catalog.names) >= 55
    live = _matrix(live_values(catalog, events))
    whole = from_events(events, SCHEMA, Fold(catalog).codes)
    for size in (257, 30_000):
        fold = Fold(catalog)
        parts = [part.values for chunk in whole.chunks(size) for part in fold.replay(chunk)]
        replayed = np.hstack(parts).T
        differing = live.view(np.int64) != np.ascontiguousarray(replayed).view(np.int64)
        differing &= ~(np.isnan(live) & np.isnan(replayed))
        assert differing.sum() == 0
    assert np.isfinite(live).mean() > 0.5


def test_only_wanted_rows_are_given_and_nothing_else_changes():
    events = awkward_events(300, 9)
    live = live_values(CATALOG, events)
    fold = Fold(CATALOG)
    columns = from_events(events, SCHEMA, fold.codes, texts=fold.text_fields)
    wanted = np.arange(300) % 7 == 3
    (replayed,) = fold.replay(columns, wanted=wanted)
    assert replayed.rows.tolist() == np.flatnonzero(wanted).tolist()
    place = CATALOG.names.index("purchase_amount_usd_sum_1d")
    assert replayed.values[place].tolist() == pytest.approx(
        [math.nan if live[i][place] is None else live[i][place] for i in replayed.rows],
        nan_ok=True,
        abs=0,
    )


def test_state_only_steps_leave_the_same_state():
    events = awkward_events(120, 5)
    silent, read = Fold(CATALOG), Fold(CATALOG)
    for event in events[:100]:
        assert silent.step(event, read=False) == []
        read.step(event)
    for event in events[100:]:
        assert silent.step(event) == read.step(event)


def test_another_key_gives_the_same_values():
    events = awkward_events(100, 6)
    one, other = Fold(CATALOG, key=b"one"), Fold(CATALOG, key=b"other")
    assert [one.step(event) for event in events] == [other.step(event) for event in events]


def many_events(num_events, *, num_users, seed=11):
    random = np.random.default_rng(seed)
    gaps = random.exponential(20, num_events)
    gaps[random.random(num_events) < 0.1] = 0
    known = np.cumsum(gaps * 1e6).astype(np.int64)
    late = np.where(random.random(num_events) < 0.2, random.exponential(3_000, num_events), 0.0)
    users, devices = random.integers(0, num_users, num_events), random.integers(0, 90, num_events)
    amounts = np.round(random.lognormal(4, 2, num_events), 2).clip(0, 1e9)
    temperatures = random.integers(-50, 50, num_events) / 4
    kinds = random.random(num_events)
    events = []
    for i in range(num_events):
        moment = START + timedelta(microseconds=int(known[i]))
        about = {
            "id": f"e{i}",
            "happened_at": moment - timedelta(seconds=float(late[i])),
            "known_at": moment,
            "user": f"u{users[i]}",
        }
        if kinds[i] < 0.97:
            events.append(
                Purchase(
                    **about,
                    device=None if devices[i] == 0 else f"d{devices[i]}",
                    amount_usd=float(amounts[i]),
                    temperature=None if devices[i] % 5 == 0 else float(temperatures[i]),
                )
            )
        else:
            events.append(
                SCHEMA.types["chargeback"](**about, amount_usd=float(amounts[i]), kind="fraud")
            )
    return events


def _matrix(rows):
    return np.array([[math.nan if value is None else value for value in row] for row in rows])
