"""Splits: disjoint, honest about time and entities, the same for the same seed."""

import numpy as np
import pytest

from chopmark.errors import InvalidInput
from chopmark.models import splits

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
