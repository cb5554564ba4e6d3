"""Gaps, same-type gaps, ages and calendar, against a plain loop."""

from datetime import UTC, datetime, timedelta
from math import log1p

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.histories import Histories, moments

from .frames import logs

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def of_pieces(pieces, **options):
    histories = pieces.histories
    return moments(
        histories.times, histories.categories["type"], pieces.starts, pieces.ends, pieces.now,
        **options,
    )  # fmt: skip


def plain(pieces):
    """The same numbers, event by event in Python's own floats."""
    histories = pieces.histories
    rows = []
    for start, end, now in zip(pieces.starts, pieces.ends, pieces.now, strict=True):
        last = {}
        for row in range(start, end):
            time, kind = int(histories.times[row]), int(histories.categories["type"][row])
            gap = (time - int(histories.times[row - 1])) / 1e6 if row > start else None
            moment = EPOCH + timedelta(microseconds=time)
            rows.append((
                gap or 0.0,
                -1.0 if gap is None else log1p(gap),
                log1p((time - last[kind]) / 1e6) if kind in last else -1.0,
                log1p((int(now) - time) / 1e6),
                moment.hour,
                moment.weekday(),
            ))  # fmt: skip
            if kind >= 0:
                last[kind] = time
    return [np.array(column) for column in zip(*rows, strict=True)] or [np.zeros(0)] * 6


@given(logs(), st.integers(0, 3 * 10**14), st.integers(1, 6))
def test_moments_are_those_of_a_plain_loop(frame, later, last):
    histories = Histories.from_frame(frame)
    pieces = histories.every(as_of=20_000_000 + later, last=last)[[*range(len(histories))] * 2]
    found = of_pieces(pieces)
    names = ("gap", "log_gap", "log_same_gap", "log_age", "hour", "weekday")
    for name, expected in zip(names, plain(pieces), strict=True):
        np.testing.assert_array_equal(
            getattr(found, name), expected.astype(getattr(found, name).dtype), err_msg=name
        )
    since = [
        (int(now) - int(histories.times[end - 1])) / 1e6 if end > start else 0.0
        for start, end, now in zip(pieces.starts, pieces.ends, pieces.now, strict=True)
    ]
    np.testing.assert_array_equal(found.since_last, np.array(since, dtype=np.float32))


@given(logs(), st.integers(-(2**60), 2**60))
def test_shifting_all_times_changes_no_bit(frame, shift):
    pieces = Histories.from_frame(frame).every()
    times = pieces.histories.times
    kinds = pieces.histories.categories["type"]
    there = moments(
        times + shift, kinds, pieces.starts, pieces.ends, pieces.now + shift, calendar=False
    )
    for here, shifted in zip(of_pieces(pieces, calendar=False), there, strict=True):
        assert here.tobytes() == shifted.tobytes()


@given(logs())
def test_lists_of_ages_give_the_same_moments_save_the_calendar(frame):
    pieces = Histories.from_frame(frame).every()
    again = Histories.from_lists(pieces.to_lists()).every(as_of=0)
    for here, there in zip(of_pieces(pieces, calendar=False), of_pieces(again, calendar=False),
                           strict=True):  # fmt: skip
        assert here.tobytes() == there.tobytes()


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_types_beyond_the_number_of_types_and_missing_ones_have_no_same_type_gap(kind):
    times = np.arange(4, dtype=np.int64) * 1_000_000
    one = np.array([0], dtype=np.int64)
    found = moments(
        times, np.array([-1, 9, -1, 9], dtype=kind), one, one + 4, one + 3_000_000, num_types=2
    )
    assert found.log_same_gap.tolist() == [-1.0] * 4
    assert found.gap.tolist() == [0.0, 1.0, 1.0, 1.0]


def test_a_piece_without_events_has_no_rows():
    none = np.zeros(1, dtype=np.int64)
    found = moments(np.zeros(0, np.int64), np.zeros(0, np.int16), none, none, none + 5)
    assert found.offsets.tolist() == [0, 0]
    assert found.since_last.tolist() == [0.0]
    assert len(found.hour) == 0
