import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import DeclarationError, InvalidInput
from chopmark.foundation.similarity import WEIGHTS, Similarity, unit
from chopmark.models.metrics import roc_auc


def cosine(one, two):
    return float(one @ two / np.sqrt((one @ one) * (two @ two)))


def slow(embeddings, y, weight, asked):
    """The direction and the cosine, written out."""
    mean = {}
    for label in (0, 1):
        rows = [row / np.linalg.norm(row) for row, is_ in zip(embeddings, y, strict=True)
                if is_ == label]  # fmt: skip
        mean[label] = sum(rows) / len(rows)
    direction = mean[1] - weight * mean[0]
    return np.array([cosine(row, direction) for row in asked])


def area(y, scores):
    return roc_auc(np.asarray(y, dtype=float), 0.5 + scores / 2)


def test_one_positive_is_enough_and_scores_are_cosines_to_it():
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(1, 8)), rng.normal(size=(20, 8))
    scores = Similarity().fit(known, [1]).score(asked)
    assert np.allclose(scores, [cosine(row, known[0]) for row in asked])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 3))
def test_scores_are_those_of_the_formula(seed, weight):
    rng = np.random.default_rng(seed)
    known, y = rng.normal(size=(12, 5)), np.arange(12) % 3 == 0
    asked = rng.normal(size=(7, 5))
    scores = Similarity(weight).fit(known, y).score(asked)
    assert np.allclose(scores, slow(known, y, weight, asked))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_length_of_an_embedding_says_nothing(seed):
    rng = np.random.default_rng(seed)
    known, asked = rng.normal(size=(10, 4)), rng.normal(size=(6, 4))
    y = np.arange(10) % 2
    longer = known * rng.uniform(0.1, 50, size=(10, 1))
    one = Similarity(1.0).fit(known, y).score(asked)
    two = Similarity(1.0).fit(longer, y).score(asked * rng.uniform(0.1, 50, size=(6, 1)))
    assert np.allclose(one, two)


def test_with_weight_zero_the_negatives_say_nothing():
    rng = np.random.default_rng(1)
    known, asked = rng.normal(size=(30, 6)), rng.normal(size=(9, 6))
    y = np.arange(30) % 2
    alone = Similarity().fit(known[y == 1], np.ones(15))
    assert alone.weight_ == 0.0
    assert np.allclose(Similarity(0.0).fit(known, y).score(asked), alone.score(asked))


def crowd(rng, count):
    """Everybody points the same way, and positives a little to one side."""
    y = (rng.random(count) < 0.3).astype(int)
    x = rng.normal(size=(count, 16))
    x[:, 0] += rng.normal(4.0, 2.0, count)
    x[:, 1] += 1.5 * y
    return x, y


def test_the_weighted_difference_finds_what_positives_alone_do_not():
    rng = np.random.default_rng(2)
    (known, y), (asked, truth) = crowd(rng, 200), crowd(rng, 4_000)
    weighted = Similarity().fit(known, y)
    alone = Similarity(0.0).fit(known, y)
    assert weighted.weight_ >= 0.75
    assert set(weighted.areas_) == set(WEIGHTS)
    assert weighted.areas_[1.0] > weighted.areas_[0.0] + 0.1
    assert area(truth, weighted.score(asked)) > area(truth, alone.score(asked)) + 0.1


def test_negatives_that_mislead_are_left_out():
    # Everybody is at either end of one direction, and more negatives happen to be at one end.
    rng = np.random.default_rng(3)
    y = np.arange(400) % 2
    x = rng.normal(size=(400, 6)) * 0.3
    x[:, 0] += np.where(y == 1, 1.0, 0.0)
    x[:, 1] += np.where(rng.random(400) < np.where(y == 1, 0.5, 0.65), 3.0, -3.0)
    chosen = Similarity().fit(x, y)
    assert chosen.weight_ < 1.0
    assert chosen.areas_[chosen.weight_] > chosen.areas_[1.0] + 0.05


def test_a_handful_of_labels_keeps_the_usual_weight():
    rng = np.random.default_rng(4)
    usual = [Similarity(seed=s).fit(rng.normal(size=(8, 32)), np.arange(8) % 2).weight_
             for s in range(20)]  # fmt: skip
    assert np.mean(np.array(usual) == 1.0) > 0.5


def test_left_out_scores_of_noise_are_noise():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(60, 300)), np.arange(60) % 2
    like = Similarity(1.0).fit(x, y)
    assert area(y, like.score(x)) > 0.95
    assert 0.15 < area(y, like.left_out(x, y)) < 0.85


def test_the_nearest_are_the_best_in_order():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(500, 6))
    like = Similarity().fit(x[:10], np.arange(10) % 2)
    users = [f"u{place}" for place in range(500)]
    found = like.nearest(x, users, 20)
    scores = like.score(x)
    order = sorted(range(500), key=lambda place: (-scores[place], place))[:20]
    assert found["user"].to_list() == [users[place] for place in order]
    assert found["score"].to_list() == [scores[place] for place in order]
    assert like.nearest(x, users, 9_999).height == 500
    assert like.nearest(x[:0], [], 3).height == 0
    assert like.nearest(x, users, 0).height == 0


def test_each_of_several_classes_has_a_direction():
    rng = np.random.default_rng(7)
    y = rng.integers(4, size=400)
    x = rng.normal(size=(400, 10)) + 2.5 * np.eye(10)[y]
    like = Similarity().fit(x[:100], y[:100])
    scores = like.score(x[100:])
    assert scores.shape == (300, 4)
    assert (scores.argmax(axis=1) == y[100:]).mean() > 0.85
    best = like.nearest(x[100:], y[100:], 20, of=2)
    assert (best["user"] == 2).mean() > 0.9
    with pytest.raises(InvalidInput, match="class to be like"):
        like.nearest(x, y, 3)


def test_many_users_are_scored_in_blocks_alike():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(70_000, 3)).astype(np.float32)
    like = Similarity().fit(x[:9], np.arange(9) % 2)
    assert np.array_equal(like.score(x)[66_000:], like.score(x[66_000:]))


def test_zeros_have_no_direction():
    assert np.array_equal(unit([[0.0, 0.0], [3.0, 4.0]]), [[0.0, 0.0], [0.6, 0.8]])
    assert Similarity().fit([[1.0, 0.0]], [1]).score([[0.0, 0.0]])[0] == 0.0


@pytest.mark.parametrize(
    ("embeddings", "y", "words"),
    [
        ([[1.0], [2.0]], [0, 0], "at least one positive"),
        ([[1.0], [np.nan]], [0, 1], "not finite"),
        ([[1.0], [2.0]], [1], "one label for each"),
        ([1.0, 2.0], [1, 0], "shape"),
        ([[1.0], [2.0]], [1, -1], "whole numbers"),
        ([[1.0], [2.0]], [0.5, 1], "whole numbers"),
    ],
)
def test_what_cannot_be_fitted_is_said(embeddings, y, words):
    with pytest.raises(InvalidInput, match=words):
        Similarity().fit(embeddings, y)


def test_wrong_uses_are_said():
    with pytest.raises(DeclarationError, match="0 or more"):
        Similarity(-1.0)
    with pytest.raises(InvalidInput, match="not fitted"):
        Similarity().score([[1.0]])
    like = Similarity().fit([[1.0, 0.0]], [1])
    with pytest.raises(InvalidInput, match="width 2"):
        like.score([[1.0]])
    with pytest.raises(InvalidInput, match="a name for each"):
        like.nearest([[1.0, 0.0]], ["a", "b"], 1)
