"""One network, three ways: torch in training, numpy in serving, and event by event."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from chopmark.errors import ArtifactError, InvalidInput
from chopmark.histories import Histories, Slices
from chopmark.models.live import LiveStates
from chopmark.sequence.inputs import Inputs
from chopmark.sequence.shape import Shape
from tests.sequence.examples import (
    SHAPES,
    WEEK,
    events,
    histories,
    served,
    tokenizer_of,
    tower_of,
)

DAY = 86_400_000_000


def embedded(tower, tokenizer, pieces):
    batch = tokenizer.reader(pieces.histories).batch(pieces)
    with torch.inference_mode():
        return tower(Inputs.of(batch, tower.layout))[1].numpy()


@pytest.fixture(params=sorted(SHAPES))
def built(request):
    past = histories()
    tokenizer = tokenizer_of(past)
    return past, tokenizer, tower_of(SHAPES[request.param], tokenizer)


def test_numpy_says_what_torch_says(built):
    past, tokenizer, tower = built
    pieces = past.every(3 * WEEK, last=64)
    empty = Slices(past, np.zeros(1, np.int64), np.zeros(1, np.int64), np.full(1, WEEK))
    for some in (pieces, pieces[:1], empty, pieces[[3, 3, 0]]):
        batch = tokenizer.reader(past).batch(some)
        assert served(tower).embed(batch) == pytest.approx(
            embedded(tower, tokenizer, some), abs=1e-5
        )


def test_a_piece_means_the_same_alone_and_in_any_batch(built):
    past, tokenizer, tower = built
    pieces = past.every(3 * WEEK, last=64)
    whole = embedded(tower, tokenizer, pieces)
    for i in range(0, len(pieces), 7):
        alone = embedded(tower, tokenizer, pieces[[i]])[0]
        assert alone == pytest.approx(whole[i], abs=1e-5)


def test_shifting_all_times_changes_nothing(built):
    past, tokenizer, tower = built
    pieces = past.every(3 * WEEK, last=64)
    later = replace(past, times=past.times + 1_234_567_890_123, until=past.until + 10**13)
    moved = Slices(later, pieces.starts, pieces.ends, pieces.now + 1_234_567_890_123)
    assert np.array_equal(embedded(tower, tokenizer, pieces), embedded(tower, tokenizer, moved))


def test_with_a_calendar_the_hour_counts():
    past = histories()
    tokenizer = tokenizer_of(past)
    tower = tower_of(Shape(width=16, calendar=True), tokenizer)
    pieces = past.every(3 * WEEK)
    shift = 5 * 3_600_000_000
    later = replace(past, times=past.times + shift, until=past.until + shift)
    moved = Slices(later, pieces.starts, pieces.ends, pieces.now + shift)
    assert not np.allclose(
        embedded(tower, tokenizer, pieces), embedded(tower, tokenizer, moved), atol=1e-3
    )


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_one_order_with_other_gaps_is_another_history(kind):
    frame = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2],
                          "happened_at": [0, DAY, 2 * DAY, 0, 60_000_000, 2 * DAY],
                          "type": ["visit", "buy", "sell"] * 2})  # fmt: skip
    past = Histories.from_frame(frame.with_columns(pl.col("happened_at").cast(pl.Datetime("us"))))
    tokenizer = tokenizer_of(past)
    one, two = embedded(tower_of(SHAPES[kind], tokenizer), tokenizer, past.every(3 * DAY))
    assert np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_the_passing_of_time_changes_what_is_said(kind):
    past = histories()
    tokenizer = tokenizer_of(past)
    tower = tower_of(SHAPES[kind], tokenizer)
    soon = embedded(tower, tokenizer, past.every(2 * WEEK, last=64))
    late = embedded(tower, tokenizer, past.every(9 * WEEK, last=64))
    assert np.abs(soon - late).max(1).min() > 1e-3


def test_event_by_event_the_state_says_what_the_whole_history_says():
    past = histories()
    tokenizer = tokenizer_of(past)
    tower = tower_of(replace(SHAPES["recurrent"], calendar=True), tokenizer)
    live = LiveStates(served(tower), tokenizer)
    frame = events().sort("happened_at", maintain_order=True)
    for row in frame.with_columns(pl.col("happened_at").dt.epoch("us")).to_dicts():
        live.add(row.pop("user"), row.pop("happened_at"), row)
    now = 3 * WEEK
    whole = embedded(tower, tokenizer, past.every(now))
    assert len(live) == len(past)
    for user, expected in zip(past.users.to_list(), whole, strict=True):
        assert live.embed(user, now) == pytest.approx(expected, abs=1e-5)


def test_a_history_and_a_live_tail_meet_without_a_gap_or_a_repeat():
    past = histories()
    tokenizer = tokenizer_of(past)
    tower = served(tower_of(SHAPES["recurrent"], tokenizer))
    frame = events().with_columns(pl.col("happened_at").dt.epoch("us"))
    seam = WEEK + WEEK // 2
    live = LiveStates(tower, tokenizer)
    early = events().filter(frame["happened_at"] <= seam)
    live.take(Histories.from_frame(early.with_columns(pl.col("amount").fill_nan(None))))
    for row in frame.filter(pl.col("happened_at") > seam).sort("happened_at").to_dicts():
        live.add(row.pop("user"), row.pop("happened_at"), row)
    batch = tokenizer.reader(past).batch(past.every(3 * WEEK))
    for user, expected in zip(past.users.to_list(), tower.embed(batch), strict=True):
        assert live.embed(user, 3 * WEEK) == pytest.approx(expected, abs=1e-5)


def test_a_new_event_changes_what_is_said_at_the_next_call():
    past = histories(num_users=3)
    tokenizer = tokenizer_of(past)
    live = LiveStates(served(tower_of(SHAPES["recurrent"], tokenizer)), tokenizer)
    nobody = live.embed("ann", WEEK)
    live.add("ann", WEEK, {"type": "buy", "amount": 10.0})
    once = live.embed("ann", WEEK)
    live.add("ann", WEEK, {"type": "never seen", "asset": 7, "amount": "text"})
    twice = live.embed("ann", WEEK)
    assert np.abs(once - nobody).max() > 1e-3
    assert np.abs(twice - once).max() > 1e-3
    with pytest.raises(InvalidInput, match="in the order of time"):
        live.add("ann", WEEK - 1, {"type": "buy"})
    assert np.array_equal(live.embed("ann", WEEK), twice)
    live.drop("ann")
    assert np.array_equal(live.embed("ann", WEEK), nobody)


def test_states_stay_as_they_are_while_their_number_grows():
    past = histories(num_users=3)
    tokenizer = tokenizer_of(past)
    live = LiveStates(served(tower_of(SHAPES["recurrent"], tokenizer)), tokenizer)
    live.add("ann", 0, {"type": "buy"})
    before = live.embed("ann", WEEK)
    for user in range(1_300):
        live.add(user, user, {"type": "visit"})
    assert len(live) == 1_301
    assert np.array_equal(live.embed("ann", WEEK), before)


def test_attention_has_no_state_to_go_on_from():
    tokenizer = tokenizer_of(histories(num_users=3))
    with pytest.raises(ArtifactError, match="recurrent"):
        LiveStates(served(tower_of(SHAPES["seed"], tokenizer)), tokenizer)


def test_a_recurrent_network_reads_whole_histories_and_one_that_attends_the_newest_256():
    assert Shape().length == 1 << 20
    assert Shape(kind="transformer").length == Shape(kind="seed").length == 256
    assert Shape(length=64).length == 64


def test_long_histories_are_one_thing_live_and_embedded():
    frame = pl.DataFrame({"user": ["ann"] * 3_000, "happened_at": range(0, 3_000 * 10**6, 10**6),
                          "type": ["visit", "buy", "sell"] * 1_000})  # fmt: skip
    past = Histories.from_frame(frame.with_columns(pl.col("happened_at").cast(pl.Datetime("us"))))
    tokenizer = tokenizer_of(past)
    tower = tower_of(SHAPES["recurrent"], tokenizer)
    live = LiveStates(served(tower), tokenizer)
    live.take(past)
    pieces = past.every(DAY, last=tower.shape.length)
    assert live.embed("ann", DAY) == pytest.approx(embedded(tower, tokenizer, pieces)[0], abs=1e-4)
