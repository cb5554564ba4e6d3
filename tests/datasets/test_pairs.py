"""Candidate pairs, against comparing each with each."""

import re
from itertools import product

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.datasets import candidate_pairs
from chopmark.errors import InvalidTable

names = st.one_of(
    st.none(),
    st.lists(st.sampled_from(["Ann", "ANN", "Chen", "O'Neil", "é", "Zoë", "B."]), max_size=3).map(
        " ".join
    ),
)
places = st.sampled_from(["1 Elm Street", "2 Elm Street", None])
records = st.lists(st.tuples(names, places), max_size=6)


@given(ids=records, cards=records)
def test_pairs_are_those_that_share_a_word_or_the_whole_address(ids, cards):
    left = pl.DataFrame(ids, schema={"name": pl.String, "home": pl.String}, orient="row")
    right = pl.DataFrame(cards, schema={"holder": pl.String, "billing": pl.String}, orient="row")
    found = candidate_pairs(left, right, words=[("name", "holder")], whole=[("home", "billing")])
    expected = {
        (*ours, *theirs)
        for ours, theirs in product(ids, cards)
        if words(ours[0]) & words(theirs[0]) or ours[1] == theirs[1] is not None
    }
    assert found.height == len(expected)
    assert set(found.rows()) == expected


def test_tables_that_cannot_be_paired_are_refused():
    ids, cards = pl.DataFrame({"name": ["Ann"]}), pl.DataFrame({"holder": ["Ann"]})
    with pytest.raises(InvalidTable, match="both tables have a column `name`"):
        candidate_pairs(ids, ids, words=[("name", "name")])
    with pytest.raises(InvalidTable, match="expected column `owner`, got a table of holder"):
        candidate_pairs(ids, cards, whole=[("name", "owner")])
    with pytest.raises(InvalidTable, match="got none"):
        candidate_pairs(ids, cards)


def words(text: str | None) -> set[str]:
    return set(re.findall(r"[^\W\d_]{2,}", (text or "").lower()))
