"""Splits: disjoint, honest about time and entities, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.errors import InvalidInput
from chopmark.models import splits
from chopmark.models.splits import forward, group_folds

RNG = np.random.default_rng(0)
LABELS = (RNG.random(1_000) < 0.1).astype(int)
ENTITIES = RNG.integers(0, 200, 1_000)
TIMES = RNG.integers(0, 300, 1_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: splits.shuffled(1_000, seed=seed),
        lambda seed: splits.stratified(LABELS, seed=seed),
        lambda seed: splits.by_group(ENTITIES, seed=seed),
        lambda seed: splits.out_of_time(TIMES),
    ],
)
def test_parts_are_disjoint_whole_and_repeatable(make):
    split, again = make(3), make(3)
    assert np.array_equal(np.sort(np.concatenate([split.train, split.test])), np.arange(1_000))
    assert np.array_equal(split.train, again.train)
    assert np.all(np.diff(split.train) > 0)
    assert len(split.test) == pytest.approx(300, abs=30)


def test_another_seed_is_another_split():
    assert not np.array_equal(splits.shuffled(100, seed=1).test, splits.shuffled(100, seed=2).test)


def test_out_of_time_keeps_the_future_out_and_the_gap_free():
    split = splits.out_of_time(TIMES, test_share=0.25, gap=20)
    assert TIMES[split.train].max() + 20 <= TIMES[split.test].min()
    assert set(TIMES[split.test]).isdisjoint(TIMES[split.train])


def test_groups_are_not_torn():
    split = splits.by_group(ENTITIES)
    assert set(ENTITIES[split.train]).isdisjoint(ENTITIES[split.test])


def test_strata_have_the_same_share():
    split = splits.stratified(LABELS)
    assert LABELS[split.test].mean() == pytest.approx(LABELS.mean(), abs=0.005)


def test_folds_cover_all_rows_once():
    found = list(splits.folds(LABELS, count=5))
    assert np.array_equal(np.sort(np.concatenate([f.test for f in found])), np.arange(1_000))
    assert {len(fold.test) for fold in found} == {200}
    assert max(LABELS[f.test].sum() for f in found) - min(LABELS[f.test].sum() for f in found) <= 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: splits.shuffled(1),
        lambda: splits.shuffled(10, test_share=1.0),
        lambda: splits.stratified([0, 1]),
        lambda: splits.by_group(["a", "a"]),
        lambda: splits.out_of_time([1, 1, 1]),
        lambda: splits.out_of_time([1, 2, np.nan]),
        lambda: splits.out_of_time([1, 2, 3], gap=50),
        lambda: list(splits.folds([0, 1], count=3)),
    ],
)
def test_what_cannot_be_split(make):
    with pytest.raises(InvalidInput):
        make()


@given(
    st.lists(st.integers(0, 12), min_size=12, max_size=80).filter(lambda e: len(set(e)) >= 3),
    st.integers(2, 3),
)
def test_group_folds_keep_entities_together_and_cover_all(entities, count):
    splits = list(group_folds(entities, count=count, seed=1))
    names = np.array(entities)
    for split in splits:
        assert not set(names[split.train]) & set(names[split.test])
        assert sorted([*split.train, *split.test]) == list(range(len(names)))
    judged = np.concatenate([split.test for split in splits])
    assert sorted(judged) == list(range(len(names)))
    largest = max(np.bincount(names))
    sizes = [len(split.test) for split in splits]
    assert max(sizes) - min(sizes) <= largest


def test_group_folds_need_entities():
    with pytest.raises(InvalidInput, match="2 to 2 folds for 2 entities, got 3"):
        list(group_folds(["a", "b", "a"], count=3))


@given(st.lists(st.integers(0, 30), min_size=8, max_size=60).filter(lambda t: len(set(t)) > 3))
def test_forward_judges_by_the_past_alone(times):
    at = np.array(times)
    splits = list(forward(times, count=3))
    assert 1 <= len(splits) <= 3
    judged = np.concatenate([split.test for split in splits])
    assert len(set(judged)) == len(judged)
    for split in splits:
        assert at[split.train].max() < at[split.test].min()
    assert at[judged].max() == at.max()


def test_forward_refuses_what_has_no_order():
    with pytest.raises(InvalidInput, match="two different times"):
        list(forward([1.0, 1.0, 1.0]))
    with pytest.raises(InvalidInput, match="a time for every row"):
        list(forward([1.0, float("nan")]))
