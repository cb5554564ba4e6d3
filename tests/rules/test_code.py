"""Rules compiled together: each says what it says alone, over a row and over a table."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.codes import Codes
from chopmark.errors import InvalidExpression, InvalidTable
from chopmark.expressions import parse, take_apart
from chopmark.rules.code import RuleCode
from chopmark.rules.columns import hits_of
from chopmark.rules.texts import TEXT_FUNCTIONS
from chopmark.testing.oracle import evaluate
from tests.test_expressions import KINDS, of_kind, rows

LISTS = {"cities": {"a", "it's"}, "empty": set()}
CODES = Codes(b"rules")


def condition(text):
    expression = parse(text, KINDS, functions=TEXT_FUNCTIONS, lists=dict.fromkeys(LISTS, "text"))
    return take_apart(expression, TEXT_FUNCTIONS)


def compiled(*texts):
    return RuleCode([condition(text) for text in texts], KINDS, LISTS, CODES)


def hits(code, row):
    return code.row([row[name] for name in code.inputs])


@settings(max_examples=150)
@given(st.lists(of_kind("boolean", 2), min_size=1, max_size=4), rows)
def test_a_rule_among_others_is_true_where_the_oracle_says_so(texts, given_rows):
    code = compiled(*texts)
    for row in given_rows:
        found = hits(code, row)
        assert found.rules == [j for j, text in enumerate(texts) if evaluate(text, row) is True]
        for j, own in enumerate(code.truths(found.leaves, place) for place in range(len(texts))):
            for leaf, truth in own.items():
                assert truth is evaluate(leaf, row), (texts[j], leaf)


SCHEMA = {
    "a": pl.Float64, "b": pl.Float64, "g": pl.Boolean, "h": pl.Boolean, "s": pl.String,
    "u": pl.String, "t": pl.Int64, "v": pl.Int64,
}  # fmt: skip
ASKED = [
    's in list("cities") and not (u in list("cities"))',
    's not in list("empty") or a > 1',
    'matches(s, "^[a-z]+$") and length(s) > 0',
    "name_similarity(s, u) >= 0.5",
    'starts_with(s, "i") or ends_with(u, "é") or contains(s, "t")',
    "missing(length(s)) and g",
]


@settings(max_examples=60)
@given(st.lists(of_kind("boolean", 2), min_size=1, max_size=3), rows)
def test_a_table_says_what_its_rows_say(texts, given_rows):
    code = compiled(*texts, *ASKED)
    frame = pl.DataFrame(given_rows, schema=SCHEMA, orient="row")
    for threads in (1, 2):
        found = hits_of(code, frame, threads=threads)
        assert [[j for j, hit in enumerate(row) if hit] for row in found.tolist()] == [
            hits(code, row).rules for row in given_rows
        ]


@pytest.mark.parametrize(
    ("text", "row", "truth"),
    [
        ('s in list("cities")', {"s": "a"}, "1"),
        ('s in list("cities")', {"s": "b"}, "0"),
        ('s in list("cities")', {"s": None}, "?"),
        ('s not in list("cities")', {"s": None}, "?"),
        ('matches(s, "[0-9]{2}")', {"s": "a12"}, "1"),
        ('matches(s, "[0-9]{2}")', {"s": "a1"}, "0"),
        ('matches(s, "[0-9]{2}")', {"s": None}, "?"),
        ("length(s) == 2", {"s": "éé"}, "1"),
        ("name_similarity(s, u) == 1", {"s": "LEE ANN", "u": "Ann Lee"}, "1"),
        ("address_similarity(s, u) == 0", {"s": "12 Main Street", "u": "14 Main St"}, "1"),
    ],
)
def test_what_is_asked_of_texts(text, row, truth):
    code = compiled(text)
    assert hits(code, dict.fromkeys(KINDS) | row).leaves == truth


def test_a_leaf_that_many_ask_is_asked_once_and_reads_as_it_was_written():
    code = compiled(
        "a > 1 and s in list('cities')", "a > 1 or not g", "not (a  >  1)", "v - t < 60"
    )
    assert code.leaves == ("a > 1", "s in list('cities')", "g", "v - t < 60")
    assert code.inputs == ("a", "g", "s", "t", "v")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('s in list("citys")', "unknown list `citys`; did you mean `cities`?"),
        ('"a" in list("cities")', "expected a name before"),
        ('a in list("cities")', "expected a text, got a number"),
        ('matches(s, "(?=a)")', "RE2 can read, got: invalid perl operator"),
        ('matches(s, "(a{1000}){1000}")', "RE2 can read"),
        ('matches(s, "' + "a" * 201 + '")', "at most 200 characters, got 201"),
        ("matches(s, u)", "expected a text written out for `matches`"),
        ('matches("a", "a")', "expected the name of a text"),
        ("matches(s)", "expected 2 argument"),
        ("matchs(s, 'a')", "unknown function `matchs`; did you mean `matches`?"),
        ("nope(s)", "unknown function `nope`; known: `abs`, `address_similarity`, "),
        ("length(a) > 1", "expected a text, got a number"),
        ("list('cities') == s", "unknown function `list`"),
    ],
)
def test_what_is_refused(text, reason):
    with pytest.raises(InvalidExpression) as refused:
        condition(text)
    assert reason in str(refused.value)
    assert "^" in str(refused.value)


def test_functions_of_texts_are_the_rules_own():
    with pytest.raises(InvalidExpression, match="unknown function `matches`"):
        parse('matches(s, "a")', KINDS)


def test_a_table_without_what_the_rules_read_is_refused():
    with pytest.raises(InvalidTable, match="expected a column `a`"):
        hits_of(compiled("a > 1"), pl.DataFrame({"aa": [1.0]}))
    with pytest.raises(InvalidTable, match="expected a number in column `a`"):
        hits_of(compiled("a > 1"), pl.DataFrame({"a": ["x"]}))


def test_members_of_a_list_are_looked_at_when_it_is_asked():
    members = {"cities": {"a"}}
    code = RuleCode([condition('s in list("cities")')], KINDS, members, CODES)
    assert code.row(["b"]).rules == []
    members["cities"] = {"b"}
    assert code.row(["b"]).rules == [0]


def test_no_rule_is_true_of_nothing():
    assert compiled().row([]).rules == []
