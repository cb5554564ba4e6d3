"""A history and its tail: no gap and no repeat at the seam."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.errors import InvalidTable
from chopmark.histories import Histories

from .frames import assert_same, logs, rows_of

SEAMS = st.integers(-12, 34).map(lambda half: half * 500_000)


@given(logs(), SEAMS, SEAMS)
def test_any_base_and_any_tail_that_reaches_back_to_it_are_one_build(frame, cut, back):
    base = Histories.from_frame(frame, until=cut)
    tail = frame.filter(pl.col("happened_at") > min(back, cut))
    whole = Histories.from_frame(frame, until=max([cut, *frame["happened_at"]]))
    newer = Histories.from_frame(tail, until=whole.until)
    assert_same(base.appended(newer), whole)


@given(logs(sorted_by_time=True), st.integers(0, 40))
def test_a_cut_between_equal_times_is_exact_when_the_seam_is_before_them(frame, rows):
    # The base lacks some events of its last instant; the seam lies before that instant.
    head = frame[:rows]
    if not head.height:
        return
    base = Histories.from_frame(head)
    newer = Histories.from_frame(frame)
    joined = base.appended(newer, after=base.until - 1)
    assert rows_of(joined) == rows_of(newer)
    assert joined.until == newer.until
    for name in ("type", "shop"):
        assert joined.words[name][: len(base.words[name])] == base.words[name]


@given(logs(), SEAMS, SEAMS)
def test_tail_after_tail_is_the_same_as_one_tail(frame, first, second):
    first, second = sorted((first, second))
    whole = Histories.from_frame(frame, until=40_000_000)
    steps = Histories.from_frame(frame, until=first)
    steps = steps.appended(Histories.from_frame(frame, until=second)).appended(whole)
    assert_same(steps, whole)


def test_fields_of_one_side_are_missing_on_the_other():
    base = Histories.from_frame(
        pl.DataFrame({"user": ["a"], "happened_at": [1], "type": ["x"], "usd": [2.0]})
    )
    newer = Histories.from_frame(
        pl.DataFrame(
            {"user": ["b", "a"], "happened_at": [2, 3], "type": ["y", "x"], "shop": ["s", "t"]}
        )
    )
    joined = base.appended(newer)
    assert rows_of(joined) == {
        "a": [(1, "x", None, 2.0), (3, "x", "t", None)],
        "b": [(2, "y", "s", None)],
    }


def test_what_does_not_fit_together_is_refused():
    base = Histories.from_frame(
        pl.DataFrame({"user": ["a"], "happened_at": [1], "type": ["x"], "usd": [2.0]})
    )
    texts = Histories.from_frame(
        pl.DataFrame({"user": ["a"], "happened_at": [2], "type": ["x"], "usd": ["2"]})
    )
    with pytest.raises(InvalidTable, match=r"field `usd` as number, .* got text"):
        base.appended(texts)
    with pytest.raises(InvalidTable, match=r"field `usd` as text, .* got number"):
        texts.appended(base)
    numbered = Histories.from_frame(pl.DataFrame({"user": [1], "happened_at": [2], "type": ["x"]}))
    with pytest.raises(InvalidTable, match=r"users as String"):
        base.appended(numbered)
    with pytest.raises(InvalidTable, match=r"would be lost"):
        base.appended(base, after=5)
