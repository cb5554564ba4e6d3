"""Frames become columns user by user; pieces of them are what was known at an instant."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.errors import InvalidTable
from chopmark.histories import Histories, moments

from .frames import SCHEMA, assert_same, expected_rows, logs, rows_of


@given(logs())
def test_rows_are_those_of_a_stable_sort_by_user_and_time(frame):
    histories = Histories.from_frame(frame)
    assert rows_of(histories) == expected_rows(frame)
    assert list(histories.categories) == ["type", "shop"]
    assert list(histories.numbers) == ["usd"]


@given(logs())
def test_words_are_in_the_order_of_their_first_event(frame):
    histories = Histories.from_frame(frame)
    for name in ("type", "shop"):
        firsts = frame.drop_nulls(name).group_by(name).agg(pl.col("happened_at").min())
        assert histories.words[name] == firsts.sort("happened_at", name)[name].to_list()


@given(logs(), st.integers(-4, 16).map(lambda second: second * 1_000_000))
def test_pieces_are_what_was_known_at_the_instant(frame, as_of):
    histories = Histories.from_frame(frame)
    names = ["zoe", "bob", "ann", "bob"]
    pieces = histories.slices(names, as_of, last=3)
    expected = expected_rows(frame)
    for name, events in zip(names, pieces.to_lists().to_list(), strict=True):
        known = [event for event in expected.get(name, []) if event[0] <= as_of][-3:]
        assert [
            (as_of - event["age"], *list(event.values())[0:1], event["shop"], event["usd"])
            for event in events
        ] == known


@given(logs())
def test_list_columns_give_the_same_pieces_back(frame):
    pieces = Histories.from_frame(frame).every()
    column = pieces.to_lists()
    again = Histories.from_lists(column)
    assert again.users.to_list() == list(range(len(pieces)))
    assert again.every(as_of=0).to_lists().to_list() == column.to_list()


def test_list_columns_have_the_dtype_of_sequence_features():
    frame = pl.DataFrame({"user": ["a"], "happened_at": [5], "type": ["x"], "ok": [True]})
    column = Histories.from_frame(frame).slices(["a", "b"], 7).to_lists()
    assert column.dtype == pl.List(
        pl.Struct({"type": pl.String, "age": pl.Int64, "ok": pl.Float64})
    )
    assert column.to_list() == [[{"type": "x", "age": 2, "ok": 1.0}], []]


def test_list_columns_may_hold_nulls_or_nothing_and_events_in_any_order():
    column = pl.Series(
        "seq",
        [None, [{"type": "b", "age": 1}, {"type": "a", "age": 9}], []],
        dtype=pl.List(pl.Struct({"type": pl.String, "age": pl.Int64})),
    )
    histories = Histories.from_lists(column)
    assert rows_of(histories) == {0: [], 1: [(-9, "a"), (-1, "b")], 2: []}
    assert len(Histories.from_lists(pl.Series("seq", [None, None]))) == 2
    with pytest.raises(InvalidTable, match=r"age of 0 or more"):
        Histories.from_lists(pl.Series("seq", [[{"type": "b", "age": -1}]]))
    with pytest.raises(InvalidTable, match=r"`type` and `age` in column `seq`"):
        Histories.from_lists(pl.Series("seq", [[1]]))
    with pytest.raises(InvalidTable, match=r"list column of events in `seq`"):
        Histories.from_lists(pl.Series("seq", [1]))


def test_every_piece_ends_at_its_user_s_last_event_if_nobody_says_when():
    frame = pl.DataFrame({"user": [1, 1, 2], "happened_at": [3, 9, 4], "type": ["x", "y", "x"]})
    pieces = Histories.from_frame(frame).every(last=1)
    assert pieces.now.tolist() == [9, 4]
    assert pieces.starts.tolist() == [1, 2]
    assert Histories.from_frame(frame).every(as_of=[3, 3]).lengths.tolist() == [1, 0]
    assert pieces[[1]].now.tolist() == [4]
    assert pieces[np.array([True, False])].rows().tolist() == [1]


def test_times_of_all_kinds_and_zones_are_utc():
    instants = [1_767_225_600_000_000 + hour * 3_600_000_000 for hour in range(3)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    aware = [start + timedelta(hours=hour) for hour in range(3)]
    tokyo = timezone(timedelta(hours=9))
    mixed = [aware[0], aware[1].astimezone(tokyo), aware[2].replace(tzinfo=None)]
    kinds = {
        "micros": pl.Series(instants),
        "naive": pl.Series([moment.replace(tzinfo=None) for moment in aware]),
        "nanos": pl.Series([moment.replace(tzinfo=None) for moment in aware]).cast(
            pl.Datetime("ns")
        ),
        "tokyo": pl.Series(aware).dt.convert_time_zone("Asia/Tokyo"),
        "texts": pl.Series(["2026-01-01", "2026-01-01T10:00:00+09:00", "2026-01-01T02:00:00"]),
        "objects": pl.Series(mixed, dtype=pl.Object),
    }
    for times in kinds.values():
        frame = pl.DataFrame(
            [pl.Series("user", [1, 1, 1]), times.alias("happened_at"), pl.Series("type", ["x"] * 3)]
        )
        assert Histories.from_frame(frame).times.tolist() == instants
    table = pd.DataFrame({"user": 1, "happened_at": pd.Series(mixed, dtype=object), "type": "x"})
    assert Histories.from_frame(table).times.tolist() == instants


@given(logs())
def test_pandas_pyarrow_and_parquet_give_the_same(tmp_path_factory, frame):
    histories = Histories.from_frame(frame)
    path = tmp_path_factory.mktemp("frames") / "events.parquet"
    frame.write_parquet(path)
    for same in (frame.to_arrow(), path, str(path), frame.lazy()):
        assert_same(Histories.from_frame(same), histories)
    if frame.height and not frame["shop"].is_null().all() and not frame["type"].is_null().all():
        assert_same(Histories.from_frame(frame.to_pandas()), histories)


def test_columns_may_be_named_and_numbers_may_be_categories():
    frame = pl.DataFrame(
        {
            "who": [2**40, 7],
            "at": [1, 2],
            "what": ["x", "y"],
            "shop": [5, None],
            "left": ["p", "q"],
        }
    )
    histories = Histories.from_frame(
        frame, user="who", time="at", type="what", categories=["shop"], numbers=[]
    )
    assert rows_of(histories) == {7: [(2, "y", None)], 2**40: [(1, "x", "5")]}
    # A gap turns whole numbers into floats in pandas; the words stay the same.
    table = frame.to_pandas()
    assert table["shop"].dtype == float
    assert_same(
        Histories.from_frame(
            table, user="who", time="at", type="what", categories=["shop"], numbers=[]
        ),
        histories,
    )


def test_a_missing_user_or_time_is_refused_with_its_row():
    frame = pl.DataFrame([["ann", 1, "x", None, None]], schema=SCHEMA, orient="row")
    for name, what in (("user", "a user"), ("happened_at", "a time")):
        hole = pl.concat([frame, frame.with_columns(pl.lit(None).cast(SCHEMA[name]).alias(name))])
        with pytest.raises(InvalidTable, match=rf"expected {what} .* `{name}`.* row 1 "):
            Histories.from_frame(hole)
    with pytest.raises(InvalidTable, match=r"row 1 "):
        Histories.from_frame(
            pd.DataFrame(
                {"user": [1, 1], "happened_at": [datetime(2026, 1, 1), pd.NaT], "type": "x"}
            )
        )
    with pytest.raises(InvalidTable, match=r"a user .* row 1 "):
        Histories.from_frame(pd.DataFrame({"user": [1, None], "happened_at": 1, "type": "x"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"happened_at": ["soon"]}, "ISO 8601 time .* `soon` in row 0"),
        ({"happened_at": [1.5]}, "`happened_at`, got Float64"),
        ({"user": [1.5]}, "texts or whole numbers in the column `user` of users, got Float64"),
        ({"usr": ["a"]}, "column `user`"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(change, message):
    given_columns = {"user": ["a"], "happened_at": [1], "type": ["x"]} | change
    if "usr" in change:
        del given_columns["user"]
    with pytest.raises(InvalidTable, match=message):
        Histories.from_frame(pl.DataFrame(given_columns))


def test_a_text_where_a_number_is_asked_for_is_refused():
    frame = pl.DataFrame({"user": ["a"], "happened_at": [1], "type": ["x"], "usd": ["12"]})
    with pytest.raises(InvalidTable, match=r"numbers in field `usd`, got String"):
        Histories.from_frame(frame, numbers=["usd"])
    with pytest.raises(InvalidTable, match=r"column `usb`.*did you mean `usd`"):
        Histories.from_frame(frame, numbers=["usb"])
    with pytest.raises(InvalidTable, match=r"a column `type` beside"):
        Histories.from_frame(frame.with_columns(kind=pl.lit("k")), type="kind")
    with pytest.raises(InvalidTable, match=r"Polars, pandas or pyarrow"):
        Histories.from_frame([1, 2])
    with pytest.raises(InvalidTable, match=r"Parquet file at `nowhere.parquet`"):
        Histories.from_frame("nowhere.parquet")


def test_a_field_called_age_is_kept_but_not_put_into_lists():
    frame = pl.DataFrame({"user": ["a"], "happened_at": [1], "type": ["x"], "age": [40]})
    pieces = Histories.from_frame(frame).every()
    with pytest.raises(InvalidTable, match=r"other than `age`"):
        pieces.to_lists()


def test_selected_users_come_in_the_order_given():
    frame = pl.DataFrame(
        {"user": ["a", "b", "c", "b"], "happened_at": [1, 2, 3, 1], "type": ["x", "y", "z", "x"]}
    )
    histories = Histories.from_frame(frame)
    some = histories.select(["c", "b"])
    assert rows_of(some) == {"c": [(3, "z")], "b": [(1, "x"), (2, "y")]}
    assert some.users.to_list() == ["c", "b"]
    with pytest.raises(InvalidTable, match=r"known users, got `zoe`"):
        histories.select(["zoe"])
    with pytest.raises(InvalidTable, match=r"each user once"):
        histories.select(["b", "b"])
    with pytest.raises(InvalidTable, match=r"users as String"):
        histories.slices([1], 5)


def test_a_hundred_thousand_events_of_one_user_in_wrong_order_are_put_in_order():
    n = 100_000
    times = np.random.default_rng(0).permutation(n)
    frame = pl.DataFrame({"user": ["a"] * n, "happened_at": times, "type": ["x"] * n})
    histories = Histories.from_frame(frame)
    assert (histories.times == np.arange(n)).all()
    pieces = histories.every()
    found = moments(
        histories.times, histories.categories["type"], pieces.starts, pieces.ends, pieces.now
    )
    assert len(found.gap) == n


def test_a_frame_without_rows_has_no_users_and_takes_a_tail():
    empty = Histories.from_frame(pl.DataFrame(schema=SCHEMA))
    assert (len(empty), empty.num_events) == (0, 0)
    assert empty.slices(["ann"], 5).to_lists().to_list() == [[]]
    assert empty.every().lengths.tolist() == []
    newer = Histories.from_frame(
        pl.DataFrame([["ann", 1, "x", "s", 1.0]], schema=SCHEMA, orient="row")
    )
    assert_same(empty.appended(newer), newer)


@pytest.mark.parametrize("kind", [pl.Int64, pl.Datetime("us", "UTC"), pl.String])
def test_when_an_event_was_known_is_no_field_of_it(kind):
    known = pl.Series("known_at", ["7", "9"]) if kind == pl.String else pl.Series([7, 9]).cast(kind)
    frame = pl.DataFrame(
        {"user": ["a", "a"], "happened_at": [1, 2], "known_at": known, "type": ["x", "y"]}
    )
    histories = Histories.from_frame(frame)
    assert list(histories.categories) == ["type"]
    assert not histories.numbers
    with pytest.raises(InvalidTable, match="got `known_at`, which is a time"):
        Histories.from_frame(frame, numbers=["known_at"])
    with pytest.raises(InvalidTable, match="got `known_at`, which is a time"):
        Histories.from_frame(frame, categories=["known_at"])


def test_late_events_are_in_a_piece_once_they_are_known_where_the_time_is_that():
    frame = pl.DataFrame(
        {"user": ["a", "a"], "happened_at": [1, 2], "known_at": [8, 3], "type": ["late", "y"]}
    )
    histories = Histories.from_frame(frame, time="known_at")
    assert not histories.numbers
    assert histories.slices(["a", "a"], [7, 8]).lengths.tolist() == [1, 2]


def test_types_of_a_list_column_that_are_numbers_are_types_alone():
    column = pl.Series("seq", [[{"type": 3, "age": 2, "usd": 1.5, "known_at": 4}]])
    histories = Histories.from_lists(column)
    assert rows_of(histories) == {0: [(-2, "3", 1.5)]}
    assert list(histories.numbers) == ["usd"]


@pytest.mark.parametrize("kind", [pl.UInt8, pl.UInt32, pl.UInt64, pl.Int16])
def test_ages_may_be_whole_numbers_of_any_kind(kind):
    dtype = pl.List(pl.Struct({"type": pl.String, "age": kind}))
    column = pl.Series("seq", [[{"type": "b", "age": 9}, {"type": "a", "age": 70}]], dtype=dtype)
    assert rows_of(Histories.from_lists(column)) == {0: [(-70, "a"), (-9, "b")]}


def test_ages_that_are_no_whole_microseconds_are_refused_with_their_kind():
    for age in (timedelta(seconds=1), "1", 1.5):
        with pytest.raises(InvalidTable, match=r"ages in whole microseconds in column `seq`, got"):
            Histories.from_lists(pl.Series("seq", [[{"type": "b", "age": age}]]))
    dtype = pl.List(pl.Struct({"type": pl.String, "age": pl.UInt64}))
    with pytest.raises(InvalidTable, match="age of 0 or more microseconds"):
        Histories.from_lists(pl.Series("seq", [[{"type": "b", "age": 2**63}]], dtype=dtype))


def test_users_beyond_64_signed_bits_are_refused_by_name_and_found_nowhere():
    users = pl.Series([1, 2**63 + 5], dtype=pl.UInt64)
    frame = pl.DataFrame({"user": users, "happened_at": [1, 2], "type": ["x", "y"]})
    with pytest.raises(InvalidTable, match=r"within 64 signed bits in column `user`, got `9223"):
        Histories.from_frame(frame)
    assert Histories.from_frame(frame.head(1)).places(users).tolist() == [0, -1]


def test_users_of_two_kinds_in_one_list_are_refused():
    histories = Histories.from_frame(pl.DataFrame({"user": [1], "happened_at": [1], "type": ["x"]}))
    for users in ([1, "a"], [2**200]):
        with pytest.raises(InvalidTable, match="all texts or all whole numbers"):
            histories.slices(users, 5)
