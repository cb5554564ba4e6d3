"""The compiled pass against plain Python, column by column, and what `fit` chooses."""

import json
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import fmean, pstdev

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.errors import ChopmarkError, InvalidTable
from chopmark.histories import Aggregates, Histories

from .frames import SECOND, logs

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WINDOWS = {"2s": 2 * SECOND, "5s": 5 * SECOND, "3h": 10_800 * SECOND}


def stats(series):
    """Mean to slope of values at days, as the columns of a number have them."""
    values = [value for _, value in series]
    days = [day for day, _ in series]
    middle = fmean(days)
    spread = sum((day - middle) ** 2 for day in days)
    slope = None
    if len(set(days)) > 1:
        slope = sum((day - middle) * (value - fmean(values)) for day, value in series) / spread
    return {"mean": fmean(values), "std": pstdev(values), "min": min(values), "max": max(values),
            "first": values[0], "last": values[-1], "slope": slope}  # fmt: skip


def plain(events, now, values):
    """All columns of one piece, from a list of dicts, each by its definition."""
    found = {"count": len(events)}
    times = [now - event["age"] for event in events]
    visits = sorted(set(times))
    moments = [EPOCH + timedelta(microseconds=time) for time in times]
    days = {moment.date() for moment in moments}
    found |= {"visits": len(visits), "active_days": len(days)}
    if events:
        found["count_per_active_day"] = len(events) / len(days)
        found["count_per_visit"] = len(events) / len(visits)
        found["seconds_since_last"] = (now - times[-1]) / 1e6
        found["seconds_since_first"] = (now - times[0]) / 1e6
        found["seconds_first_to_last"] = (times[-1] - times[0]) / 1e6
        for low in range(0, 24, 4):
            share = fmean(low <= moment.hour < low + 4 for moment in moments)
            found[f"hour_{low:02}_to_{low + 3:02}_share"] = share
        for number, name in enumerate(("mon", "tue", "wed", "thu", "fri", "sat", "sun")):
            found[f"{name}_share"] = fmean(moment.weekday() == number for moment in moments)
    gaps = [(late - early) / 1e6 for early, late in pairwise(visits)]
    if gaps:
        found |= {"gap_mean": fmean(gaps), "gap_std": pstdev(gaps), "gap_min": min(gaps),
                  "gap_max": max(gaps), "gap_last": gaps[-1]}  # fmt: skip
    inside = {name: [event for event in events if event["age"] < length]
              for name, length in WINDOWS.items()}  # fmt: skip
    for name, length in WINDOWS.items():
        found[f"count_{name}"] = len(inside[name])
        found[f"visits_{name}"] = sum(now - time < length for time in visits)
        found[f"decayed_count_{name}"] = sum(2 ** (-event["age"] / length) for event in events)
        if events:
            found[f"count_share_{name}"] = len(inside[name]) / len(events)
    for field, texts in values.items():
        held = [event[field] for event in events if event[field] is not None]
        found[f"{field}_distinct"] = len(set(held))
        if held:
            found[f"{field}_entropy"] = -sum(
                count / len(held) * math.log(count / len(held)) for count in Counter(held).values()
            )
        for text in texts:
            of = [event for event in events if event[field] == text]
            found[f"count_of_{field}_{text}"] = len(of)
            if events:
                found[f"share_of_{field}_{text}"] = len(of) / len(events)
            if of:
                found[f"seconds_since_{field}_{text}"] = of[-1]["age"] / 1e6
            for name, length in WINDOWS.items():
                found[f"count_of_{field}_{text}_{name}"] = sum(e["age"] < length for e in of)
    series = [(-event["age"] / 86.4e9, event["usd"]) for event in events
              if event["usd"] is not None]  # fmt: skip
    found |= {"usd_count": len(series), "usd_sum": sum(value for _, value in series)}
    if series:
        found |= {f"usd_{name}": value for name, value in stats(series).items()}
        found["usd_last_minus_mean"] = found["usd_last"] - found["usd_mean"]
        found["usd_zero_share"] = fmean(value == 0 for _, value in series)
        found["usd_per_visit"] = found["usd_sum"] / len(visits)
    for name, length in WINDOWS.items():
        recent = [event["usd"] for event in inside[name] if event["usd"] is not None]
        found[f"usd_sum_{name}"] = sum(recent)
        if recent:
            found[f"usd_mean_{name}"] = fmean(recent)
        found[f"usd_decayed_{name}"] = sum(
            2 ** (-event["age"] / length) * event["usd"]
            for event in events if event["usd"] is not None
        )  # fmt: skip
    for text in values["type"]:
        of = [(-event["age"] / 86.4e9, event["usd"]) for event in events
              if event["type"] == text and event["usd"] is not None]  # fmt: skip
        if of:
            found |= {f"usd_{name}_of_type_{text}": value for name, value in stats(of).items()}
        for name in list(WINDOWS)[-2:]:
            recent = [event["usd"] for event in inside[name]
                      if event["type"] == text and event["usd"] is not None]  # fmt: skip
            if recent:
                found[f"usd_mean_of_type_{text}_{name}"] = fmean(recent)
    return {name: value for name, value in found.items() if value is not None}


@given(logs(), st.integers(0, 30), st.integers(0, 9))
def test_every_column_is_that_of_plain_python(frame, now, last):
    pieces = Histories.from_frame(frame).slices(
        ["ann", "bob", "zoe", "ann", "dé"], now * SECOND, last=last or None
    )
    aggregates = Aggregates(windows=tuple(WINDOWS)).fit(pieces)
    table = aggregates.table(pieces)
    assert table.columns == aggregates.columns
    assert set(table.dtypes) == {pl.Float32}
    values = aggregates.to_dict()["values"]
    rows = zip(table.rows(named=True), pieces.to_lists().to_list(), strict=True)
    for row, events in rows:
        expected = plain(events, now * SECOND, values)
        assert {name for name, value in row.items() if value is not None} == set(expected)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=2e-5), name


@given(logs(), st.integers(-(10**6), 10**6))
def test_pieces_in_chunks_and_shifted_by_weeks_give_the_same_bits(frame, weeks):
    with pytest.MonkeyPatch.context() as patch:
        pieces = Histories.from_frame(frame).every()
        aggregates = Aggregates().fit(pieces)
        table = aggregates.table(pieces)
        patch.setattr("chopmark.histories.aggregates._CHUNK", 3)
        assert aggregates.table(pieces).equals(table)
        # Whole weeks leave hours and weekdays as they are, and all else looks at differences.
        later = frame.with_columns(pl.col("happened_at") + weeks * 7 * 86_400 * SECOND)
        assert aggregates.table(Histories.from_frame(later).every()).equals(table)


@given(logs())
def test_columns_fitted_on_one_history_find_their_words_in_another(frame):
    pieces = Histories.from_frame(frame).every()
    aggregates = Aggregates(windows=("5s",)).fit(pieces)
    # The same events with codes in another order, for words are ordered by time.
    first = frame.head(1).with_columns(
        pl.lit("zoe").alias("user"), pl.lit(-(10**9)).cast(pl.Int64).alias("happened_at"),
        pl.lit("pay").alias("type"), pl.lit("new").alias("shop"),
    )  # fmt: skip
    other = Histories.from_frame(pl.concat([frame, first]))
    same = other.slices(pieces.histories.users, pieces.now)
    assert aggregates.table(same).equals(aggregates.table(pieces))


def test_plain_json_brings_the_aggregates_back():
    frame = pl.DataFrame({"user": ["a", "a"], "happened_at": [1, 2], "type": ["x", "y y"],
                          "usd": [1.0, 2.0]})  # fmt: skip
    pieces = Histories.from_frame(frame).every()
    aggregates = Aggregates(windows=("1d",)).fit(pieces)
    again = Aggregates.from_dict(json.loads(json.dumps(aggregates.to_dict())))
    assert again.table(pieces).equals(aggregates.table(pieces))
    assert "count_of_type_y_y" in again.columns
    good = aggregates.to_dict()
    for change in ({"windows": ["soon"]}, {"values": {}}, {"values": {"shop": []}},
                   {"numbers": 3}, {"num_pairs": 9}, {"num_pairs": None}):  # fmt: skip
        with pytest.raises(ChopmarkError):
            Aggregates.from_dict(good | change)
    with pytest.raises(InvalidTable, match="call `fit`"):
        Aggregates().table(pieces)


@pytest.mark.parametrize(
    ("hours", "windows"),
    [(48, ["3h", "6h", "1d"]), (24 * 270, ["14d", "30d", "180d"])],
)
def test_windows_fit_the_span_of_the_data(hours, windows):
    frame = pl.DataFrame({"user": [1, 1], "happened_at": [0, hours * 3600 * SECOND],
                          "type": ["x", "x"]})  # fmt: skip
    aggregates = Aggregates().fit(Histories.from_frame(frame).every())
    assert aggregates.to_dict()["windows"] == windows


def test_values_of_hardly_any_piece_have_no_column():
    n = 2_000
    frame = pl.DataFrame({"user": list(range(n)) * 2, "happened_at": [0] * n + [1] * n,
                          "type": ["view", "buy"] * n,
                          "id": [f"order {number}" for number in range(2 * n)]})  # fmt: skip
    aggregates = Aggregates().fit(Histories.from_frame(frame).every())
    assert aggregates.to_dict()["values"] == {"type": ["buy", "view"], "id": []} or (
        aggregates.to_dict()["values"] == {"type": ["view", "buy"], "id": []}
    )
    assert "id_distinct" in aggregates.columns


def test_infinite_numbers_count_as_missing_and_names_stay_unique():
    frame = pl.DataFrame({"user": ["a"] * 3, "happened_at": [1, 2, 3],
                          "type": ["x-y", "x y", "x.y"], "usd": [1.0, np.inf, 3.0]})  # fmt: skip
    pieces = Histories.from_frame(frame).every()
    aggregates = Aggregates().fit(pieces)
    table = aggregates.table(pieces)
    assert table["usd_mean"].to_list() == [2.0]
    assert len(set(table.columns)) == len(table.columns)
    assert {"count_of_type_x_y", "count_of_type_x_y_2", "count_of_type_x_y_3"} < set(table.columns)


def test_users_without_events_or_with_a_hundred_thousand_have_a_row():
    n = 100_000
    frame = pl.DataFrame({"user": ["a"] * n, "happened_at": range(n), "type": ["x"] * n})
    pieces = Histories.from_frame(frame).slices(["a", "nobody"], n)
    table = Aggregates().fit(pieces).table(pieces)
    assert table["count"].to_list() == [n, 0]
    assert table["seconds_since_last"].to_list() == [pytest.approx(1e-6), None]
    nobody = pieces[1:]
    assert Aggregates().fit(nobody).table(nobody)["count"].to_list() == [0]
    assert Aggregates().fit(nobody[:0]).table(nobody[:0]).height == 0
