"""What an artifact may say of a column is bounded; groups of readings can be left out."""

import json
import math
import re
from time import perf_counter

import numpy as np
import polars as pl
import pytest

from chopmark.errors import ArtifactError, DeclarationError
from chopmark.models import Column, Combination, Encoder
from chopmark.models.column import GROUPS, PARTS, check_column
from chopmark.models.parsing import PATTERN_LIMIT

ENCODER = Encoder(
    columns=[
        Column(name="amount", kind="number"),
        Column(name="city", kind="high_cardinality", categories=("a", "b"), buckets=4),
        Column(name="city", kind="high_cardinality", categories=("a",), values=(0.5,)),
        Column(name="note", kind="text", parts=("length",)),
        Column(name="begin", kind="date", format="iso", parts=PARTS),
        Column(name="end", kind="date", format="iso", parts=PARTS[1:]),
    ],
    combinations=[Combination(operation="days_between", left="end", right="begin")],
)
TABLE = pl.DataFrame(
    {
        "amount": [1.5, None],
        "city": ["a", "c"],
        "note": ["hello", None],
        "begin": ["2024-01-01 10:00", "2024-02-03"],
        "end": ["2024-01-05", None],
    }
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3),
        ("kind", "identifier"),
        ("kind", ["number"]),
        ("categories", ["a", 1]),
        ("categories", ["a", "a"]),
        ("values", [0.5, 0.5]),
        ("values", [math.inf]),
        ("values", [math.nan]),
        ("values", [True]),
        ("values", ["0.5"]),
        ("values", 3),
        ("fallback", None),
        ("fallback", math.nan),
        ("fallback", 10**400),
        ("buckets", -1),
        ("buckets", 2.0),
        ("buckets", 10**9),
        ("pattern", "("),
        ("pattern", "x"),
        ("pattern", "((a+)+)"),
        ("parts", [None]),
    ],
)
def test_nonsense_in_an_artifact_is_refused(field, value):
    data = json.loads(json.dumps(ENCODER.to_json()))
    data["columns"][2][field] = value
    with pytest.raises(ArtifactError, match="encoder cannot be read"):
        Encoder.from_json(data)


@pytest.mark.parametrize("parts", [(), ("length", "words"), ("hour",)])
def test_a_text_is_read_in_one_way_by_each_column(parts):
    with pytest.raises(DeclarationError, match="read as one of"):
        check_column(Column(name="a", kind="text", parts=parts))


@pytest.mark.parametrize(
    "pattern",
    [r" ([A-Za-z]+)\.", "^0x(.)", r"^(\w+)@(\w+)\.(com|org|net)$", "(a|b|c) [*+?]{1,3}x", "(a+)?b"],
)
def test_patterns_that_take_little_time(pattern):
    check_column(Column(name="a", kind="category", pattern=pattern))
    begin = perf_counter()
    for text in ("a" * PATTERN_LIMIT, "a." * (PATTERN_LIMIT // 2)):
        re.search(pattern, text)
    assert perf_counter() - begin < 1


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)(?#)+b",
        "(?x)(a+) +b",
        "(a*)a*a*a*b",
        "(a+)+b",
        "(a|aa)*b",
        "((a?)b*){9}",
        r"(a)\1",
        "(?P<x>a)(?P=x)",
        "(" + "a?" * 40 + ")b",
        "(.*).*.*.*.*b",
        "(a)" + "b" * 300,
        "(a|a)" * 40,
    ],
)
def test_patterns_that_could_stop_a_service(pattern):
    with pytest.raises(DeclarationError, match="could take too long"):
        check_column(Column(name="a", kind="category", pattern=pattern))


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_can_be_left_out(group):
    smaller = ENCODER.without([group])
    kept = [j for j, other in enumerate(ENCODER.groups) if other != group]
    assert [ENCODER.encoded[j] for j in kept] == list(smaller.encoded)
    assert np.array_equal(ENCODER.table(TABLE)[:, kept], smaller.table(TABLE), equal_nan=True)
    assert Encoder.from_json(smaller.to_json()).encoded == smaller.encoded


def test_a_column_without_a_reading_is_not_read():
    smaller = ENCODER.without(["hashing", "target means", "date differences", "date parts"])
    assert smaller.reads == ("amount", "note", "begin")
    assert {item.name for item in smaller.dropped} == {"city", "end"}
    assert "hashing" in smaller.dropped[0].reason
    leaky = ENCODER.without(columns={"end": "it is known only later"})
    assert leaky.combinations == ()
    assert leaky.dropped[0].reason == "it is known only later"
    with pytest.raises(DeclarationError, match="no reading is left"):
        ENCODER.without(GROUPS)
