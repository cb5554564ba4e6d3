"""Kinds of the columns of thirteen real tables, judged by hand.

Whole numbers that are codes (a region, a kind of browser) count as numbers: nothing in their
values tells them from ranks and counts, and trees read them alike. Who knows better says so.
"""

import json
from pathlib import Path

import pytest

from chopmark.models import Dropped
from chopmark.tabular import deduce

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))


def described(column):
    if isinstance(column, Dropped):
        return {"kind": column.kind, "dropped": column.reason}
    return {"kind": column.kind} | ({"format": column.format} if column.format else {})


def test_there_is_one_for_each_table():
    assert len(GOLDEN) == 13


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_kinds_are_those_judged_by_hand(path, real_table):
    expected = json.loads(path.read_text())
    table = real_table(path.stem).drop("target")
    assert {name: described(deduce(table[name])) for name in table.columns} == expected
