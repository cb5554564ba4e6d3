"""Pre-training: which windows and pairs are drawn, and what comes out of it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import ArtifactError, DeclarationError, InvalidInput, InvalidTable
from chopmark.foundation.embeddings import Embeddings
from chopmark.foundation.objectives import Masked, balanced
from chopmark.foundation.usermodel import UserModel
from chopmark.foundation.windows import two_windows
from chopmark.histories import Histories, Sketch, Tokenizer
from chopmark.models import artifact as artifacts
from chopmark.sequence.inputs import Inputs
from chopmark.sequence.shape import Shape
from chopmark.sequence.training import Pace
from tests.sequence.examples import WEEK, events, histories, tokenizer_of, tower_of

SMALL = Shape(width=16)
ATTENDING = Shape(kind="transformer", width=16, heads=2, depth=1, length=32)


def fitted(task="mixed", *, steps=4, shape=SMALL, seed=0, **options):
    model = UserModel(shape=shape, task=task, pace=Pace(steps=steps), budget=512, seed=seed,
                      window=16, options=options)  # fmt: skip
    return model.fit(histories())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 50))
def test_two_windows_of_a_user_have_no_event_in_common(seed, longest):
    past = histories(num_users=30, seed=seed % 7)
    rng = np.random.default_rng(seed)
    drawn = two_windows(past, np.arange(len(past)), rng, longest=longest)
    assert len(drawn) == (np.diff(past.offsets) > 1).sum()
    earlier, later = drawn.earlier, drawn.later
    assert (earlier.ends == later.starts).all()
    for window in (earlier, later):
        assert (window.lengths >= 1).all()
        assert (window.lengths <= longest).all()
        assert (window.now >= past.times[window.ends - 1]).all()
        assert (window.now <= past.until).all()
    owner_of = np.repeat(np.arange(len(past)), np.diff(past.offsets))
    assert (owner_of[earlier.starts] == owner_of[later.ends - 1]).all()


@given(st.integers(0, 300), st.integers(0, 1_000))
def test_half_of_the_pairs_are_of_one_user(count, seed):
    partner, same = balanced(count, np.random.default_rng(seed))
    assert ((partner == np.arange(count)) == same).all()
    if count > 1:
        assert abs(int(same.sum()) - count / 2) <= 0.5
    assert ((partner >= 0) & (partner < max(count, 1))).all()


def test_a_stranger_is_any_other_user_with_the_same_chance():
    rng = np.random.default_rng(0)
    drawn = np.zeros((4, 4))
    for _ in range(6_000):
        partner, same = balanced(4, rng)
        for i in np.flatnonzero(~same):
            drawn[i, partner[i]] += 1
    others = drawn[~np.eye(4, dtype=bool)]
    assert others.min() > 0.9 * others.mean()
    assert np.trace(drawn) == 0


@pytest.mark.parametrize("task", ["mixed", "contrast", "next", "pairs", "masked", "bert"])
@pytest.mark.parametrize("shape", [SMALL, ATTENDING], ids=["recurrent", "transformer"])
def test_every_task_trains_every_encoder(task, shape):
    model = fitted(task, shape=shape)
    found = model.embed(histories())
    assert found.shape == (60, model.tower.embedding)
    assert np.isfinite(found).all()
    assert found.mean(0) == pytest.approx(np.zeros(found.shape[1]), abs=1e-3)
    assert found.std(0).max() == pytest.approx(1.0, abs=1e-2)
    assert model.training["steps"] == 4


@pytest.mark.parametrize("sampling", ["uniform", "empirical", "adaptive"])
@pytest.mark.parametrize("classes", ["binary", "many"])
def test_hidden_tokens_are_guessed_in_three_ways_and_two(sampling, classes):
    model = fitted("masked", sampling=sampling, classes=classes)
    assert np.isfinite(model.embed(histories())).all()


def test_wrong_tokens_go_from_all_alike_to_as_they_occur():
    tokenizer = tokenizer_of(histories())
    tower = tower_of(SMALL, tokenizer)
    counts = np.array([0.0, 90.0, 9.0, 1.0])
    chances = {
        way: Masked(tower, torch.Generator(), counts, sampling=way).chances
        for way in ("uniform", "empirical", "adaptive")
    }
    assert chances["uniform"](0.7) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert chances["empirical"](0.1) == pytest.approx([0, 0.9, 0.09, 0.01])
    assert chances["adaptive"](0.0) == pytest.approx(chances["uniform"](0.0))
    assert chances["adaptive"](1.0) == pytest.approx(chances["empirical"](1.0))
    assert chances["adaptive"](0.5)[1] == pytest.approx((1 / 3 + 0.9) / 2)


def test_what_is_hidden_is_not_seen():
    past = histories()
    tokenizer = tokenizer_of(past)
    tower = tower_of(SMALL, tokenizer)
    batch = tokenizer.reader(past).batch(past.every())
    inputs = Inputs.of(batch, tower.layout)
    masked = Masked(tower, torch.Generator(), np.ones(tokenizer.sizes[0]), share=1.0)
    hidden, rows = masked.hide(batch, inputs, np.random.default_rng(0))
    assert len(rows) == batch.num_tokens
    other = histories(seed=5)
    told = tokenizer.reader(other).batch(other.every())
    mine = tower.encoder.events(hidden)
    # All that is left of an event is its times: two events of equal times look the same.
    assert torch.equal(mine[0], tower.encoder.events(
        masked.hide(told, Inputs.of(told, tower.layout), np.random.default_rng(0))[0])[0]
    ) == bool(np.array_equal(batch.log_gap[0], told.log_gap[0])
              and np.array_equal(batch.log_same_gap[0], told.log_same_gap[0]))  # fmt: skip


def test_the_loss_falls():
    def mean_loss(steps):
        return fitted("mixed", steps=steps).training["loss"]

    assert mean_loss(60) < mean_loss(2) - 0.5


def test_same_seed_same_vectors_and_another_seed_others():
    one, two, other = fitted(), fitted(), fitted(seed=1)
    assert np.array_equal(one.embed(histories()), two.embed(histories()))
    assert one.space == two.space != other.space


def test_a_saved_model_embeds_the_same_and_a_damaged_one_is_refused(tmp_path):
    model = fitted()
    path = tmp_path / "space.chopmark"
    model.save(path)
    loaded = UserModel.load(path)
    assert np.array_equal(loaded.embed(histories()), model.embed(histories()))
    assert loaded.space == model.space
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError):
        UserModel.load(path)


def test_equal_weights_are_of_one_space_however_long_they_took():
    model = fitted()
    slower = fitted()
    slower.training = {**model.training, "seconds": 9_999.0, "loss": 0.0}
    assert slower.space == model.space
    assert slower.artifact().hash != model.artifact().hash
    with torch.no_grad():
        slower.tower.center_R += 1e-3
    assert slower.space != model.space


def test_an_artifact_that_was_packed_again_with_other_contents_is_refused(tmp_path):
    path = tmp_path / "space.chopmark"
    model = fitted()
    model.save(path)
    whole = artifacts.read(path)
    center = whole.arrays["center_R"]
    header = whole.header
    layout = {**header["layout"], "times": ["gap"]}
    for changes in (
        {"arrays": {**whole.arrays, "center_R": np.full_like(center, np.nan)}},
        {"arrays": {**whole.arrays, "spread_R": np.zeros_like(center)}},
        {"arrays": {**whole.arrays, "more": center}},
        {"header": {**header, "layout": layout}},
        {"header": {**header, "layout": "x"}},
        {"header": {**header, "shape": "abc"}},
        {"header": {**header, "shape": {**header["shape"], "width": 32}}},
        {"header": {**header, "shape": {**header["shape"], "depth": 10**9}}},
        {"header": {**header, "training": "x"}},
        {"header": {**header, "tokenizer": []}},
    ):
        path.write_bytes(replace(whole, **changes).pack())
        with pytest.raises(ArtifactError, match=r"space\.chopmark"):
            UserModel.load(path)
    path.write_bytes(whole.pack())
    assert UserModel.load(path).space == model.space


def test_a_checkpoint_is_gone_on_from_with_the_same_tokens_and_events_alone(tmp_path):
    path = tmp_path / "now.safetensors"
    past = histories()

    def model(**options):
        return UserModel(shape=SMALL, task="contrast", pace=Pace(steps=200), budget=64, window=4,
                         **options)  # fmt: skip

    model().fit(past, checkpoint=path)
    assert path.exists()
    again = model().fit(past, checkpoint=path)
    assert again.training["steps"] == 200
    with pytest.raises(ArtifactError, match="of another training"):
        model().fit(histories(num_users=50), checkpoint=path)
    tokens = Tokenizer.fit(Sketch.of(past), hash_buckets=3)
    with pytest.raises(ArtifactError, match="tokenizer was"):
        model().fit(past, tokenizer=tokens, checkpoint=path)
    with pytest.raises(ArtifactError, match="options was"):
        model(options={"temperature": 0.3}).fit(past, checkpoint=path)


def test_a_model_goes_on_over_newer_events_with_a_larger_vocabulary():
    model = fitted()
    frame = events(seed=3).with_columns(
        pl.col("amount").fill_nan(None),
        pl.when(pl.col("type") == "buy").then(pl.lit("stake")).otherwise("type").alias("type"),
    )
    newer = Histories.from_frame(frame)
    grown = model.grown(newer, pace=Pace(steps=1, rate=0.0, average=0.0))
    assert grown.tokenizer.version == model.tokenizer.version + 1
    assert grown.tokenizer.sizes[0] >= model.tokenizer.sizes[0]
    assert grown.space != model.space
    # With a rate of nothing, what was known means what it meant.
    old, new = model.tower, grown.tower
    past = histories()
    was = old.encoder(Inputs.of(model.tokenizer.reader(past).batch(past.every()), old.layout))[1]
    now = new.encoder(Inputs.of(grown.tokenizer.reader(past).batch(past.every()), new.layout))[1]
    torch.testing.assert_close(was, now)


def test_only_users_with_new_events_are_embedded_again():
    model = fitted()
    frame = events().with_columns(pl.col("amount").fill_nan(None))
    seam = pl.Series([WEEK + WEEK // 2]).cast(pl.Datetime("us", "UTC"))[0]
    before = Histories.from_frame(frame.filter(pl.col("happened_at") <= seam))
    vectors = Embeddings.of(model, before, as_of=WEEK + WEEK // 2)
    later = frame.filter((pl.col("happened_at") <= seam) | (pl.col("user") % 3 == 0))
    updated = vectors.updated(model, Histories.from_frame(later), as_of=3 * WEEK)
    afresh = Embeddings.of(model, Histories.from_frame(later), as_of=3 * WEEK)
    new = frame.filter((pl.col("happened_at") > seam) & (pl.col("user") % 3 == 0))["user"].unique()
    known = before.users.to_list()
    for user in updated.users.to_list():
        mine = updated.of_users([user])[0]
        if user in new:
            assert mine == pytest.approx(afresh.of_users([user])[0], abs=1e-5)
        else:
            assert user in known
            assert np.array_equal(mine, vectors.of_users([user])[0])


def test_embeddings_come_back_from_their_folder_or_say_why_not(tmp_path):
    model = fitted()
    vectors = Embeddings.of(model, histories())
    for _ in range(2):  # a folder that is there is replaced
        vectors.save(tmp_path / "space")
    opened = Embeddings.open(tmp_path / "space")
    assert np.array_equal(opened.vectors, vectors.vectors)
    assert opened.space == model.space
    assert opened.table().schema["embedding"] == pl.Array(pl.Float32, model.tower.embedding)
    with pytest.raises(InvalidTable, match="999"):
        opened.of_users([999])
    array = tmp_path / "space" / "vectors.npy"
    array.write_bytes(array.read_bytes()[:-50])
    with pytest.raises(ArtifactError, match="write it anew"):
        Embeddings.open(tmp_path / "space")


def test_vectors_of_two_spaces_do_not_mix():
    vectors = Embeddings.of(fitted(), histories())
    with pytest.raises(ArtifactError, match="do not compare"):
        vectors.updated(fitted(seed=1), histories())


def test_what_cannot_be_learned_from_is_refused():
    frame = events().unique("user", keep="first", maintain_order=True)
    alone = Histories.from_frame(frame.with_columns(pl.col("amount").fill_nan(None)))
    with pytest.raises(InvalidTable, match="two events"):
        UserModel(shape=SMALL, pace=Pace(steps=1)).fit(alone)
    with pytest.raises(DeclarationError, match="expected one of"):
        UserModel(task="guess")
    with pytest.raises(InvalidInput, match="not fitted"):
        UserModel().embed(histories())
