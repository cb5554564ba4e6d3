"""Counts of the past, against a plain loop over all events."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.datasets import count_earlier
from chopmark.errors import InvalidTable

keys = st.sampled_from(["ada", "bob", None])
rows_of = st.lists(st.tuples(keys, keys, st.integers(0, 6)), max_size=12)
SCHEMA = {"user": pl.String, "asset": pl.String}


@given(rows=rows_of, events=rows_of)
def test_counts_equal_a_loop_over_all_events(rows, events):
    table = pl.DataFrame(rows, schema=SCHEMA | {"happened_at": pl.Int64}, orient="row")
    seen = pl.DataFrame(events, schema=SCHEMA | {"known_at": pl.Int64}, orient="row")
    found = count_earlier(table, {"own": (seen, ["user"]), "both": (seen, ["user", "asset"])})
    assert found.drop("own", "both").equals(table)
    for (user, asset, at), own, both in zip(rows, found["own"], found["both"], strict=True):
        mine = [event for event in events if event[0] == user is not None and event[2] < at]
        assert own == len(mine)
        assert both == sum(event[1] == asset is not None for event in mine)


def test_what_is_learned_late_counts_late():
    events = pl.DataFrame({"user": ["ada"], "happened_at": [1], "known_at": [5]})
    table = pl.DataFrame({"user": ["ada", "ada"], "happened_at": [3, 6]})
    assert count_earlier(table, {"n": (events, ["user"])})["n"].to_list() == [0, 1]
    by_then = count_earlier(table, {"n": (events, ["user"])}, known_at="happened_at")
    assert by_then["n"].to_list() == [1, 1]


def test_a_table_that_does_not_fit_is_refused():
    events = pl.DataFrame({"user": ["ada"], "known_at": [5]})
    table = pl.DataFrame({"user": ["ada"], "happened_at": [6]})
    with pytest.raises(InvalidTable, match=r"column `asset` in the table, got user, happened_at"):
        count_earlier(table, {"n": (events, ["asset"])})
    with pytest.raises(InvalidTable, match="column `learned_at` in the events of `n`"):
        count_earlier(table, {"n": (events, ["user"])}, known_at="learned_at")
    with pytest.raises(InvalidTable, match="has a column `user`"):
        count_earlier(table, {"user": (events, ["user"])})
    with pytest.raises(InvalidTable, match="a column or more to count by"):
        count_earlier(table, {"n": (events, [])})
    with pytest.raises(InvalidTable, match="expected a time in each row"):
        count_earlier(table.with_columns(happened_at=None), {"n": (events, ["user"])})
