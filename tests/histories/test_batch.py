"""Batches equal a plain reading of the events, whichever way they are made."""

import dataclasses
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.histories import Batch, Histories, Sketch, Tokenizer

WORDS = ["visit", "buy", "sell", "new", "é", ""]
TYPE = st.sampled_from([*WORDS, None])
NUMBER = st.one_of(
    st.sampled_from([None, 0.0, -0.0, 1.0, 3e38, -1e300, 1e-45, math.inf, -math.inf]),
    st.floats(allow_nan=False),
)
EVENT = st.fixed_dictionaries(
    {
        "type": TYPE,
        "age": st.integers(0, 2**50) | st.integers(0, 3),
        "asset": st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["BTC", "ETH"])),
        "usd": NUMBER,
        "size": NUMBER,
    }
)
DTYPE = pl.List(
    pl.Struct(
        {
            "type": pl.String,
            "age": pl.Int64,
            "asset": pl.String,
            "usd": pl.Float64,
            "size": pl.Float64,
        }
    )
)


def fitted(*, by_type=None):
    rng = np.random.default_rng(0)
    n = 4_000
    frame = pl.DataFrame(
        {
            "user": rng.integers(0, 50, n),
            "happened_at": rng.integers(0, 10**14, n),
            "type": np.array(["visit", "buy", "sell"])[rng.integers(0, 3, n)],
            "asset": np.array(["BTC", "ETH", "DOGE"])[rng.integers(0, 3, n)],
            "usd": rng.lognormal(3, 2, n) * rng.integers(-1, 2, n),
            "size": rng.integers(0, 5, n),
        }
    )
    histories = Histories.from_frame(frame)
    return histories, Tokenizer.fit(Sketch.of(histories), hash_buckets=5, by_type=by_type)


HISTORIES, TOKENIZER = fitted(by_type=["usd"])


def same(one, two):
    for field in dataclasses.fields(Batch):
        left, right = getattr(one, field.name), getattr(two, field.name)
        assert left.dtype == right.dtype, field.name
        assert np.array_equal(left, right), field.name


def plain_bin(edges, value):
    if value is None:
        return 0
    return 1 if value == 0 else 2 + sum(value >= edge for edge in edges.tolist())


def plain_log(value):
    return math.copysign(math.log1p(min(abs(value), float(np.finfo(np.float32).max))), value)


def plain(tokenizer, histories, piece):
    """(ids, numbers) of one piece (start, end), event by event."""
    ids, numbers = [], []
    for row in range(*piece):
        event = []
        for j, name in enumerate(tokenizer.fields):
            code = histories.categories[name][row]
            text = None if code < 0 else histories.words[name][code]
            event += tokenizer.ids_of(j, [text])
        floats = []
        for k, name in enumerate(tokenizer.sources):
            edges, centers, scales = tokenizer.bins(k)
            value = float(histories.numbers[name][row])
            kind = event[0] if len(centers) > 1 else 0
            if math.isnan(value):
                event.append(0)
                floats.append(0.0)
                continue
            scaled = (plain_log(value) - centers[kind]) / scales[kind]
            scaled = min(max(scaled, -10.0), 10.0)
            asked = value if len(centers) == 1 or value == 0 else scaled
            event.append(plain_bin(edges, asked) if value else 1)
            floats.append(scaled)
        ids.append(event)
        numbers.append(floats)
    return ids, numbers


@given(st.lists(st.tuples(st.integers(0, 49), st.integers(0, 10**14)), max_size=6))
def test_a_batch_is_what_reading_event_by_event_gives(asked):
    users, instants = [u for u, _ in asked], [t for _, t in asked]
    pieces = HISTORIES.slices(
        pl.Series(users, dtype=pl.Int64), np.array(instants, dtype=np.int64), last=9
    )
    batch = TOKENIZER.reader(HISTORIES).batch(pieces)
    assert len(batch) == len(asked)
    assert batch.lengths.tolist() == pieces.lengths.tolist()
    assert batch.num_tokens == pieces.lengths.sum() == len(batch.ids)
    for i in range(len(asked)):
        rows = slice(batch.offsets[i], batch.offsets[i + 1])
        start, end = int(pieces.starts[i]), int(pieces.ends[i])
        ids, numbers = plain(TOKENIZER, HISTORIES, (start, end))
        assert batch.ids[rows].tolist() == ids
        if numbers:
            assert batch.numbers[rows] == pytest.approx(np.array(numbers), abs=1e-6)
        times = HISTORIES.times[start:end]
        ages = np.log1p((instants[i] - times) / 1e6)
        assert batch.log_age[rows] == pytest.approx(ages, rel=1e-6)
        hours = (pl.Series(times).cast(pl.Datetime("us"))).dt.hour()
        assert batch.hour[rows].tolist() == hours.to_list()


def test_the_shapes_and_types_of_a_batch():
    batch = TOKENIZER.reader(HISTORIES).batch(HISTORIES.every()[:7])
    n = batch.num_tokens
    assert batch.ids.shape == (n, len(TOKENIZER.sizes))
    assert batch.ids.dtype == np.int32
    assert batch.numbers.shape == (n, 3)
    assert batch.numbers.dtype == np.float32
    assert TOKENIZER.numbers == ("size", "usd", "usd by type")
    assert np.all(batch.ids < np.array(TOKENIZER.sizes))
    assert np.all(batch.ids >= 0)
    assert batch.since_last.shape == (7,)
    assert batch.gap.dtype == np.float32
    assert batch.hour.dtype == batch.weekday.dtype == np.int8


def without_none(event):
    return {name: value for name, value in event.items() if value is not None}


@given(st.lists(st.lists(EVENT, max_size=8), max_size=4), st.booleans())
def test_rows_of_a_request_and_columns_of_a_table_give_the_same_bits(pieces, leave_out):
    pieces = [sorted(piece, key=lambda event: -event["age"]) for piece in pieces]
    histories = Histories.from_lists(pl.Series("history", pieces, dtype=DTYPE))
    columns = TOKENIZER.reader(histories).batch(histories.every(as_of=0))
    if leave_out:
        pieces = [[without_none(event) for event in piece] for piece in pieces]
    same(TOKENIZER.batch_of_rows(pieces), columns)


def test_a_piece_of_a_store_and_its_list_of_dicts_agree_but_for_the_calendar():
    pieces = HISTORIES.every(as_of=10**14, last=20)
    batch = TOKENIZER.reader(HISTORIES).batch(pieces)
    rows = TOKENIZER.batch_of_rows(pieces.to_lists().to_list())
    assert batch.hour.any()
    assert batch.weekday.any()
    silent = dataclasses.replace(
        batch, hour=np.zeros_like(batch.hour), weekday=np.zeros_like(batch.weekday)
    )
    same(rows, silent)


def test_pieces_of_a_list_column_have_no_calendar_whatever_instant_they_are_seen_from():
    lists = HISTORIES.every(as_of=10**14).to_lists()
    histories = Histories.from_lists(lists)
    batch = TOKENIZER.reader(histories).batch(histories.every())
    assert batch.num_tokens == 4_000
    assert not batch.hour.any()
    assert not batch.weekday.any()
    assert not batch.since_last.any()


def test_a_history_that_ends_at_the_epoch_has_a_calendar():
    frame = pl.DataFrame(
        {"user": [1, 1], "happened_at": [-5 * 3_600_000_000, 0], "type": ["visit", "buy"]}
    )
    histories = Histories.from_frame(frame)
    assert histories.until == 0
    for past in (histories, histories.select([1]), histories.appended(histories)):
        batch = TOKENIZER.reader(past).batch(past.every())
        assert batch.hour.tolist() == [19, 0]
        assert batch.weekday.tolist() == [2, 3]


def test_histories_of_list_columns_stay_without_a_calendar_in_all_that_is_made_of_them(tmp_path):
    lists = Histories.from_lists(HISTORIES.every(as_of=10**14).to_lists())
    lists.save(tmp_path / "lists")
    kept = (
        Histories.open(tmp_path / "lists"),
        lists.select([3, 4]),
        lists.appended(lists, after=-(10**13)),
        dataclasses.replace(lists, until=5),
    )
    for histories in kept:
        batch = TOKENIZER.reader(histories).batch(histories.every())
        assert batch.num_tokens > 0
        assert not batch.hour.any()
        assert not batch.weekday.any()
    with pytest.raises(InvalidTable, match="one of each; their times do not compare"):
        lists.appended(HISTORIES, after=0)


@pytest.mark.parametrize("code", [-2, 3, 30_000, -30_000])
def test_a_code_without_a_word_is_an_error_and_never_read_beside_an_array(code):
    codes = HISTORIES.categories["type"].copy()
    codes[7] = code
    broken = dataclasses.replace(HISTORIES, categories=HISTORIES.categories | {"type": codes})
    with pytest.raises(InvalidTable, match="`type` has codes without words"):
        TOKENIZER.reader(broken).batch(broken.every())
    with pytest.raises(InvalidTable, match="`type` has codes without words"):
        Sketch.of(broken)
    with pytest.raises(InvalidTable, match="`type` has codes without words"):
        broken.every().to_lists()
    for one, two in ((broken, HISTORIES), (HISTORIES, broken)):
        with pytest.raises(InvalidTable, match="`type` has codes without words"):
            one.appended(two)
    # Pieces that do not touch the row are as they were.
    far = slice(10, 20)
    same(
        TOKENIZER.reader(broken).batch(broken.every()[far]),
        TOKENIZER.reader(HISTORIES).batch(HISTORIES.every()[far]),
    )


def test_times_that_go_backwards_are_an_error():
    times = HISTORIES.times.copy()
    times[3] = times[2] - 1
    broken = dataclasses.replace(HISTORIES, times=times)
    with pytest.raises(InvalidTable, match="times of a user go backwards"):
        TOKENIZER.reader(broken).batch(broken.every(as_of=2 * 10**14))


def test_shifting_all_times_changes_no_bit_of_what_is_not_calendar():
    shifted = dataclasses.replace(HISTORIES, times=HISTORIES.times + 12_345_678_901)
    one = TOKENIZER.reader(HISTORIES).batch(HISTORIES.every())
    two = TOKENIZER.reader(shifted).batch(shifted.every())
    same(dataclasses.replace(two, hour=one.hour, weekday=one.weekday), one)


@given(st.lists(EVENT, max_size=8), st.randoms())
def test_events_of_a_request_are_put_in_order_and_equal_ages_keep_theirs(piece, random):
    in_order = sorted(piece, key=lambda event: -event["age"])
    by_age = {}
    for event in in_order:
        by_age.setdefault(event["age"], []).append(event)
    ages = [event["age"] for event in piece]
    random.shuffle(ages)
    shuffled = [by_age[age].pop(0) for age in ages]
    same(TOKENIZER.batch_of_rows([[], shuffled]), TOKENIZER.batch_of_rows([[], in_order]))


LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400), 2**63, "\ud800", b"x", 1j, [], {}, ()])
    | st.sampled_from([np.float32(2), np.int64(3), np.bool_(True), np.float64("nan")])
)
NAMES = st.sampled_from(["type", "age", "asset", "usd", "size", "?"])
ANYTHING = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner), max_leaves=9
)
EVENTS = st.lists(st.dictionaries(NAMES, LEAF), max_size=5)


@given(st.lists(EVENTS | ANYTHING, max_size=4))
@settings(max_examples=200)
def test_nothing_that_may_stand_in_a_request_raises(values):
    batch = TOKENIZER.batch_of_rows(values)
    assert len(batch) == len(values)
    for value, length in zip(values, batch.lengths.tolist(), strict=True):
        assert length == (len(value) if isinstance(value, list) else 0)
    assert np.all((batch.ids >= 0) & (batch.ids < np.array(TOKENIZER.sizes)))
    for name in ("numbers", "log_gap", "log_same_gap", "log_age", "gap", "since_last"):
        assert np.all(np.isfinite(getattr(batch, name))), name
    assert np.all(batch.log_age >= 0)


def test_strange_values_are_missing_and_unknown_ones_in_a_bucket():
    column = {name: j for j, name in enumerate((*TOKENIZER.fields, *TOKENIZER.numbers))}
    known = TOKENIZER.hash_buckets

    def ids(**event):
        return TOKENIZER.batch_of_rows([[{"type": "buy", **event}]]).ids[0]

    for strange in (None, [], {}, 1.5, b"BTC", math.nan):
        assert ids(asset=strange)[column["asset"]] == 0
    for unknown in ("never seen", 7, True):
        assert 1 <= ids(asset=unknown)[column["asset"]] <= known
    assert ids(asset=7)[column["asset"]] == ids(asset="7")[column["asset"]]
    assert ids(asset="BTC")[column["asset"]] > known
    for strange in ("12", None, [], math.nan, 1j):
        assert ids(usd=strange)[column["usd"]] == 0
    assert ids(usd=0)[column["usd"]] == ids(usd=-0.0)[column["usd"]] == 1
    assert ids(usd=True)[column["usd"]] == ids(usd=1.0)[column["usd"]]
    assert ids(usd=10**400)[column["usd"]] == ids(usd=1e30)[column["usd"]] == 33
    numbers = TOKENIZER.batch_of_rows([[{"type": "buy", "usd": -math.inf}]]).numbers[0]
    assert np.all(np.abs(numbers) <= 10)


def test_a_number_on_an_edge_is_in_the_bin_above_it():
    for k, name in enumerate(TOKENIZER.numbers[:2]):
        edges, _, _ = TOKENIZER.bins(k)
        rows = [[{"type": "buy", name: edge} for edge in edges.tolist()]]
        bins = TOKENIZER.batch_of_rows(rows).ids[:, len(TOKENIZER.fields) + k]
        expected = [plain_bin(edges, edge) for edge in edges.tolist()]
        assert bins.tolist() == expected
        assert len(set(expected)) == len(edges)


def test_an_age_that_is_none_counts_as_zero():
    ages = [3_000_000, "x", None, -5, math.nan, 10**30]
    piece = [{"type": "buy", "age": age} for age in ages]
    batch = TOKENIZER.batch_of_rows([piece])
    assert batch.log_age[0] > 29  # the oldest first
    assert batch.log_age[1:].tolist() == [np.float32(math.log1p(3.0)), 0, 0, 0, 0]
    assert batch.since_last.tolist() == [0]


def test_no_pieces_and_empty_pieces():
    for values in ([], [[]], [[], None, "x", {}]):
        batch = TOKENIZER.batch_of_rows(values)
        assert (len(batch), batch.num_tokens) == (len(values), 0)
        assert batch.ids.shape == (0, len(TOKENIZER.sizes))
        assert batch.since_last.tolist() == [0.0] * len(values)
    unknown = HISTORIES.slices(pl.Series([12_345]), 0)
    assert TOKENIZER.reader(HISTORIES).batch(unknown).lengths.tolist() == [0]


def test_a_field_that_the_histories_lack_is_missing_and_one_more_is_ignored():
    frame = pl.DataFrame({"user": [1], "happened_at": [1], "type": ["buy"], "color": ["red"]})
    histories = Histories.from_frame(frame)
    batch = TOKENIZER.reader(histories).batch(histories.every())
    assert batch.ids[0, 0] == TOKENIZER.ids_of(0, ["buy"])[0]
    assert batch.ids[0, 1:].tolist() == [0] * (len(TOKENIZER.sizes) - 1)
    assert batch.numbers.tolist() == [[0.0] * 3]


def test_a_field_of_the_other_kind_is_named():
    frame = pl.DataFrame({"user": [1], "happened_at": [1], "type": ["buy"], "usd": ["12"]})
    with pytest.raises(InvalidTable, match="`usd` was a number where the tokenizer was fitted"):
        TOKENIZER.reader(Histories.from_frame(frame))
    with pytest.raises(InvalidTable, match="`asset` was text where"):
        TOKENIZER.reader(Histories.from_frame(frame.drop("usd").with_columns(asset=pl.lit(1))))


def test_a_reader_refuses_pieces_of_other_histories():
    other = Histories.from_frame(pl.DataFrame({"user": [1], "happened_at": [1], "type": ["buy"]}))
    with pytest.raises(InvalidInput, match="slices are of other histories"):
        TOKENIZER.reader(HISTORIES).batch(other.every())


def test_a_hundred_thousand_events_of_one_instant():
    n = 100_000
    frame = pl.DataFrame({"user": ["ann"] * n, "happened_at": [5] * n, "type": ["buy"] * n})
    histories = Histories.from_frame(frame)
    batch = TOKENIZER.reader(histories).batch(histories.every())
    assert batch.num_tokens == n
    assert not batch.gap.any()
    assert not batch.log_age.any()


def test_memory_mapped_columns_read_as_those_in_memory(tmp_path):
    mapped = {}
    for group in ("categories", "numbers"):
        for name, column in getattr(HISTORIES, group).items():
            np.save(tmp_path / f"{name}.npy", column)
            mapped.setdefault(group, {})[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    np.save(tmp_path / "times.npy", HISTORIES.times)
    times = np.load(tmp_path / "times.npy", mmap_mode="r")
    histories = dataclasses.replace(HISTORIES, times=times, **mapped)
    same(
        TOKENIZER.reader(histories).batch(histories.every()),
        TOKENIZER.reader(HISTORIES).batch(HISTORIES.every()),
    )
    assert Sketch.of(histories) == Sketch.of(HISTORIES)
