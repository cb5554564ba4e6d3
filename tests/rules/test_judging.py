"""Rules judged on history: every figure equals that of plain loops over the rows."""

import math
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.rules.judging import (
    counterexamples,
    difference,
    history,
    history_of_table,
    judge,
    wilson,
)
from chopmark.times import DAY, EPOCH, instant

WEEK = 7 * DAY


def random_rows(seed, size, *, num_users=30, num_rules=5, density=0.2):
    rng = np.random.default_rng(seed)
    return {
        "hits": rng.random((size, num_rules)) < density,
        "labels": rng.choice([0, 1, -1, np.nan], size=size, p=[0.6, 0.25, 0.1, 0.05]),
        "matured": rng.random(size) < 0.8,
        "amounts": np.round(rng.lognormal(4, 1, size), 2),
        "users": rng.integers(num_users, size=size),
        "times": instant("2026-01-01T00:00:00Z") + rng.integers(40 * DAY, size=size),
    }


def history_of(rows, **options):
    names = ("labels", "matured", "amounts", "users", "times")
    return history(*(rows[name] for name in names), **options)


def plain_figures(rows, rule):
    """What a rule did, by plain loops."""
    told = dict.fromkeys(("hits", "tp", "fp", "unjudged", "young_bad", "alone_tp", "alone_fp"), 0)
    told |= {"bad_usd": 0.0, "good_usd": 0.0, "alone_usd": 0.0, "shared": 0}
    bad_users, good_users = set(), set()
    for row, hits in enumerate(rows["hits"].tolist()):
        if not hits[rule]:
            continue
        label, user, usd = rows["labels"][row], rows["users"][row], rows["amounts"][row]
        alone = sum(hits) == 1
        told["hits"] += 1
        told["shared"] += not alone
        if label not in (0, 1) or not rows["matured"][row]:
            told["unjudged"] += 1
            told["young_bad"] += label == 1
        elif label == 1:
            told["tp"] += 1
            told["bad_usd"] += usd
            bad_users.add(user)
            told["alone_tp"] += alone
            told["alone_usd"] += usd * alone
        else:
            told["fp"] += 1
            told["good_usd"] += usd
            good_users.add(user)
            told["alone_fp"] += alone
    return told | {"bad_users": len(bad_users), "good_users": len(good_users)}


# 63, 64 and 65 rules stand around the end of a word of bits; 70,000 rows are tallied in parts.
@pytest.mark.parametrize(
    ("seed", "size", "num_rules"),
    [(0, 1, 1), (1, 300, 5), (2, 500, 65), (3, 400, 64), (4, 70_000, 3)],
)  # fmt: skip
def test_figures_are_those_of_plain_loops(seed, size, num_rules):
    rows = random_rows(seed, size, num_rules=num_rules, num_users=max(size // 9, 2))
    judged = judge(rows["hits"], history_of(rows))
    for rule in {0, num_rules // 2, num_rules - 1}:
        got, expected = judged.rules[rule], plain_figures(rows, rule)
        assert got.num_hits == expected["hits"]
        assert got.hit_rate == expected["hits"] / size
        assert (got.true_positives, got.false_positives) == (expected["tp"], expected["fp"])
        assert (got.unjudged, got.young_bad) == (expected["unjudged"], expected["young_bad"])
        assert (got.bad_users, got.good_users) == (expected["bad_users"], expected["good_users"])
        assert got.unique_true_positives == expected["alone_tp"]
        assert got.unique_false_positives == expected["alone_fp"]
        assert got.bad_usd == pytest.approx(expected["bad_usd"])
        assert got.good_usd == pytest.approx(expected["good_usd"])
        assert got.unique_bad_usd == pytest.approx(expected["alone_usd"])
        if expected["hits"]:
            assert got.shared == pytest.approx(expected["shared"] / expected["hits"])


def test_all_rules_together_are_one_rule_that_hits_where_any_does():
    rows = random_rows(5, 400)
    judged = judge(rows["hits"], history_of(rows))
    alone = judge(rows["hits"].any(axis=1), history_of(rows)).rules[0]
    assert judged.together.num_hits == alone.num_hits
    assert judged.together.true_positives == alone.true_positives
    assert judged.together.good_users == alone.good_users
    assert judged.together.bad_usd == pytest.approx(alone.bad_usd)


def test_what_is_young_or_unknown_is_neither_good_nor_bad():
    past = history([1, 0, -1, np.nan, 1, 0], [True, True, True, True, False, False],
                   [1, 2, 4, 8, 16, 32], ["a", "b", "c", "d", "e", "f"], [0] * 6)  # fmt: skip
    judged = judge(np.ones((6, 1)), past)
    figures = judged.rules[0]
    assert (figures.true_positives, figures.false_positives, figures.unjudged) == (1, 1, 4)
    assert figures.young_bad == 1
    assert figures.precision.value == 0.5
    assert (figures.bad_usd, figures.good_usd) == (1.0, 2.0)
    assert (judged.num_bad, judged.num_good) == (1, 1)
    assert (judged.num_unjudged, judged.num_young_bad) == (3, 1)
    assert figures.recall.value == 1.0


def test_overlap_and_jaccard_are_those_of_sets_of_rows():
    rows = random_rows(6, 700, num_rules=4)
    judged = judge(rows["hits"], history_of(rows))
    sets = [set(np.flatnonzero(column).tolist()) for column in rows["hits"].T]
    for i, one in enumerate(sets):
        for j, other in enumerate(sets):
            assert judged.overlap[i, j] == len(one & other)
            assert judged.jaccard[i, j] == pytest.approx(len(one & other) / len(one | other))


def test_weeks_begin_on_monday_and_add_up():
    rows = random_rows(7, 500)
    judged = judge(rows["hits"], history_of(rows))
    assert datetime.fromtimestamp(judged.weeks[0] / 1e6, UTC).weekday() == 0
    assert judged.weeks[0] <= rows["times"].min() < judged.weeks[0] + WEEK
    assert judged.weeks[-1] <= rows["times"].max() < judged.weeks[-1] + WEEK
    for place, start in enumerate(judged.weeks.tolist()):
        inside = (rows["times"] >= start) & (rows["times"] < start + WEEK)
        bad = inside & rows["matured"] & (rows["labels"] == 1)
        assert judged.rows_by_week[place] == inside.sum()
        assert judged.bad_by_week[place] == bad.sum()
        assert judged.hits_by_week[place, :-1].tolist() == rows["hits"][inside].sum(axis=0).tolist()
        assert judged.true_positives_by_week[place, 0] == rows["hits"][bad, 0].sum()
    assert judged.hits_by_week[:, -1].sum() == judged.together.num_hits


@pytest.mark.parametrize(("part", "whole"), [(0, 7), (3, 10), (10, 10), (250, 1_000)])
def test_intervals_are_those_of_scipy(part, whole):
    expected = binomtest(part, whole).proportion_ci(0.95, method="wilson")
    share = wilson(part, whole)
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_rule_without_hits_has_no_precision_and_an_open_interval():
    figures = judge([[0], [0]], history([1, 0], [1, 1], [5, 5], [0, 1], [0, 0])).rules[0]
    assert math.isnan(figures.precision.value)
    assert (figures.precision.low, figures.precision.high) == (0.0, 1.0)
    assert figures.recall.value == 0.0


def test_a_history_without_rows_is_judged_empty():
    judged = judge(np.zeros((0, 2)), history([], [], [], np.zeros(0, dtype=int), []))
    assert judged.num_rows == 0
    assert judged.rules[1].num_hits == 0
    assert len(judged.weeks) == 0


def test_a_difference_tells_what_is_newly_hit_and_no_longer():
    past = history([1, 0, 1, 0, 1], [1] * 5, [10, 20, 40, 80, 160], list("abcbe"), [0] * 5)
    change = difference([1, 1, 0, 0, 0], [1, 0, 1, 1, 0], past)
    assert change.newly_hit.tolist() == [2, 3]
    assert change.no_longer_hit.tolist() == [1]
    assert (change.true_positives, change.false_positives) == (1, 0)
    assert (change.bad_usd, change.good_usd) == (40.0, 60.0)
    assert change.good_users == 0, "user b is hurt before and after"
    assert change.newly.good_users == 1
    assert change.before.precision.value == 0.5


def test_sets_of_different_sizes_are_compared_as_wholes():
    rows = random_rows(8, 300)
    past = history_of(rows)
    change = difference(rows["hits"][:, :2], rows["hits"], past)
    assert len(change.no_longer_hit) == 0
    assert change.true_positives == change.newly.true_positives
    assert change.after.num_hits == judge(rows["hits"], past).together.num_hits


def test_counterexamples_are_the_dearest_mistakes():
    past = history([0, 0, 0, 1, 1, -1], [1] * 6, [5, 50, 50, 7, 70, 999], list("abcdef"), [0] * 6,
                   event_ids=[f"event-{k}" for k in range(6)])  # fmt: skip
    found = counterexamples([1, 1, 1, 0, 0, 1], past, most=2)
    assert [example.row for example in found.good_hit] == [1, 2]
    assert [example.event_id for example in found.bad_missed] == ["event-4", "event-3"]
    assert found.bad_missed[0].amount_usd == 70.0


def test_part_of_a_history_is_that_of_its_rows():
    rows = random_rows(9, 200)
    mask = np.arange(200) % 3 == 0
    part = judge(rows["hits"][mask], history_of(rows).take(mask))
    alone = judge(rows["hits"][mask], history_of({name: rows[name][mask] for name in rows}))
    assert part.rules == alone.rules


def test_a_training_table_has_its_history():
    table = pl.DataFrame(
        {
            "event_id": ["p1", "p2", "p3", "p4"],
            "as_of": [EPOCH.replace(year=2026)] * 4,
            "amount_usd": [10.0, None, 30.0, 40.0],
            "user": ["ann", None, None, "ann"],
            "label": pl.Series([1, 0, 0, None], dtype=pl.Int8),
        }
    )
    past = history_of_table(table)
    figures = judge(np.ones((4, 1)), past).rules[0]
    assert (figures.true_positives, figures.false_positives, figures.unjudged) == (1, 2, 1)
    assert figures.good_users == 2, "two rows of nobody are two users"
    assert figures.good_usd == 30.0
    assert counterexamples(np.ones(4), past, most=1).good_hit[0].event_id == "p3"
    with pytest.raises(InvalidTable, match=r"column `usr`.*did you mean `user`"):
        history_of_table(table, users="usr")


def test_what_does_not_fit_is_refused():
    past = history([1, 0], [1, 1], [5, 5], [0, 1], [0, 0])
    with pytest.raises(InvalidInput, match=r"hits of 2 rows.*\(3, 1\)"):
        judge(np.zeros((3, 1)), past)
    with pytest.raises(InvalidInput, match="1 names of rules, got 2"):
        judge(np.zeros((2, 1)), past, names=["a", "b"])
    with pytest.raises(InvalidInput, match="true or false"):
        judge([[0.5], [0.0]], past)
    with pytest.raises(InvalidInput, match="labels of 0 and 1"):
        history([2], [1], [1], [1], [0])
    with pytest.raises(InvalidInput, match="equal length"):
        history([1, 0], [1], [1], [1], [0])
    with pytest.raises(InvalidInput, match="weeks"):
        history([1, 0], [1, 1], [1, 1], [1, 1], [0, 2**62])
    with pytest.raises(InvalidInput, match=r"no rule `big`.*`bog`"):
        judge(np.zeros((2, 1)), past, names=["bog"]).of("big")
