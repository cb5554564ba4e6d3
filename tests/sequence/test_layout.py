"""Which rows of the table an event is a sum of."""

import numpy as np
import pytest

from chopmark.errors import ArtifactError
from chopmark.models.layout import NUM_KNOTS, Layout
from chopmark.sequence.shape import Shape
from tests.sequence.examples import WEEK, histories, tokenizer_of


def made(num_users=5):
    past = histories(num_users=num_users)
    tokenizer = tokenizer_of(past)
    return tokenizer, tokenizer.reader(past).batch(past.every(3 * WEEK, last=64))


def test_the_seed_adds_event_gap_and_position():
    tokenizer, batch = made()
    layout = Shape(kind="seed", width=16, heads=4, length=64).layout(tokenizer)
    rows, weights = layout.terms(batch)
    types, gaps = tokenizer.sizes[0], NUM_KNOTS + 1
    assert layout.num_rows == types + gaps + 64
    assert np.array_equal(rows[:, 0], batch.ids[:, 0])
    # One bucket for the gap; the row beside it has no weight.
    assert set(weights[:, 1]) == {1.0}
    assert set(weights[:, 2]) == {0.0}
    assert ((rows[:, 1] >= types) & (rows[:, 1] < types + gaps)).all()
    places = rows[:, 3] - types - gaps
    assert (weights[:, 3] == 1.0).all()
    for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        assert places[first:last].tolist() == list(range(64 - (last - first), 64))


def test_gaps_of_the_seed_fall_into_buckets():
    tokenizer, batch = made()
    rows, _ = Shape(kind="seed", width=16, heads=4).layout(tokenizer).terms(batch)
    buckets = rows[:, 1] - tokenizer.sizes[0]
    first = batch.offsets[:-1]
    assert (buckets[first] == NUM_KNOTS).all()  # no gap has a bucket of its own
    others = np.setdiff1d(np.arange(batch.num_tokens), first)
    order = np.argsort(batch.log_gap[others], kind="stable")
    assert (np.diff(buckets[others][order]) >= 0).all()
    assert len(set(buckets[others].tolist())) > 5


def test_a_time_moves_evenly_between_two_knots():
    tokenizer, batch = made()
    layout = Shape(width=16).layout(tokenizer)
    rows, weights = layout.terms(batch)
    at = len(tokenizer.sizes) + len(tokenizer.numbers)
    later = np.setdiff1d(np.arange(batch.num_tokens), batch.offsets[:-1])
    base = rows[:, at].min()
    assert weights[later, at] + weights[later, at + 1] == pytest.approx(1.0)
    place = rows[later, at] - rows[later, at].min() + weights[later, at + 1]
    expected = batch.log_gap[later] * (NUM_KNOTS - 1) / 18.0
    assert place - place.min() == pytest.approx(expected - expected.min(), abs=1e-3)
    assert base >= 0


def test_a_number_has_a_row_for_each_type():
    tokenizer, batch = made()
    layout = Shape(width=16).layout(tokenizer)
    rows, weights = layout.terms(batch)
    at = len(tokenizer.sizes)
    assert np.array_equal(rows[:, at] - sum(tokenizer.sizes), batch.ids[:, 0])
    assert np.array_equal(weights[:, at], batch.numbers[:, 0])


def test_rows_lie_within_the_table_and_a_larger_one_holds_them():
    tokenizer, batch = made()
    small = Shape(width=16, calendar=True).layout(tokenizer)
    rows, _ = small.terms(batch)
    assert (rows >= 0).all()
    assert rows.max() < small.num_rows
    larger = Layout(sizes=tuple(size + 3 for size in small.sizes), num_numbers=small.num_numbers,
                    times=small.times)  # fmt: skip
    places, fresh = small.rows_in(larger)
    assert len(set(places.tolist())) == small.num_rows
    both = np.concatenate([places, fresh[:, 0]])
    assert sorted(both.tolist()) == list(range(larger.num_rows))


def test_a_layout_comes_back_from_json_or_is_refused():
    layout = Layout(sizes=(3, 4), num_numbers=1, times=("gap", "age"), positions=9)
    assert Layout.from_dict(layout.to_dict()) == layout
    for broken in ({"sizes": []}, {"sizes": [-1]}, {"times": ["moon"]}, {"positions": "x"}):
        with pytest.raises(ArtifactError):
            Layout.from_dict({**layout.to_dict(), **broken})
    with pytest.raises(ArtifactError):
        Layout.from_dict({})
