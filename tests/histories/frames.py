"""Small drawn logs of events, and what two histories have in common."""

from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from chopmark.histories import Histories

SECOND = 1_000_000
SCHEMA = {
    "user": pl.String,
    "happened_at": pl.Int64,
    "type": pl.String,
    "shop": pl.String,
    "usd": pl.Float64,
}


@st.composite
def logs(draw: Any, *, most: int = 40, sorted_by_time: bool = False) -> pl.DataFrame:
    """Frames with few users and few instants, so that ties and empty values are common."""
    row = st.tuples(
        st.sampled_from(["ann", "bob", "cy", "dé"]),
        st.integers(-5, 30).map(lambda second: second * SECOND // 2),
        st.sampled_from(["view", "buy", "pay", None]),
        st.sampled_from(["a", "b", None]),
        st.one_of(st.none(), st.integers(-40, 40).map(lambda half: half / 2)),
    )
    rows = draw(st.lists(row, max_size=most))
    if sorted_by_time:
        rows.sort(key=lambda values: values[1])
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def rows_of(histories: Histories) -> dict[Any, list[tuple[Any, ...]]]:
    """Plain lists of what is in the columns, by user."""
    found = {}
    for place, user in enumerate(histories.users.to_list()):
        events = []
        for row in range(histories.offsets[place], histories.offsets[place + 1]):
            texts = [
                None if codes[row] < 0 else histories.words[name][codes[row]]
                for name, codes in histories.categories.items()
            ]
            values = [
                None if np.isnan(numbers[row]) else float(numbers[row])
                for numbers in histories.numbers.values()
            ]
            events.append((int(histories.times[row]), *texts, *values))
        found[user] = events
    return found


def expected_rows(frame: pl.DataFrame) -> dict[Any, list[tuple[Any, ...]]]:
    """The same of a frame, by a stable sort in plain Python."""
    found: dict[Any, list[tuple[Any, ...]]] = {user: [] for user in sorted(set(frame["user"]))}
    for user, *values in frame.rows():
        found[user].append(tuple(values))
    for events in found.values():
        events.sort(key=lambda event: event[0])
    return found


def assert_same(one: Histories, other: Histories) -> None:
    """Raise AssertionError where two histories differ in any bit."""
    assert one.users.dtype == other.users.dtype
    assert one.users.to_list() == other.users.to_list()
    assert one.until == other.until
    assert one.calendar == other.calendar
    assert one.words == other.words
    assert list(one.categories) == list(other.categories)
    assert list(one.numbers) == list(other.numbers)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.times, other.times)
    for mine, theirs in (
        *((one.categories[name], other.categories[name]) for name in one.categories),
        *((one.numbers[name], other.numbers[name]) for name in one.numbers),
    ):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
