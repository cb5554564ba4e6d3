import numpy as np
import polars as pl
import pytest
import torch

from chopmark.histories import Histories, Sketch, Tokenizer
from chopmark.sequence.network import Tower
from chopmark.sequence.shape import Shape
from chopmark.sequence.supervised import (
    Course,
    along,
    course_of,
    embeddings,
    is_shown,
    learn,
    logistic,
    raw_scores,
)
from chopmark.sequence.training import Pace

USERS = 120
DAY = 86_400_000_000


@pytest.fixture(scope="module")
def space():
    """A tower that knows nothing yet, pieces of users, and a class that their events tell."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=USERS)
    owner = np.repeat(np.arange(USERS), 12)
    sells = rng.random(len(owner)) < np.where(kind[owner] == 1, 0.6, 0.3)
    frame = pl.DataFrame(
        {
            "user": owner,
            "happened_at": rng.integers(0, 30 * DAY, len(owner)),
            "type": np.where(sells, "sell", "buy").tolist(),
        }
    )
    histories = Histories.from_frame(frame)
    tokenizer = Tokenizer.fit(Sketch.of(histories))
    shape = Shape(width=8, depth=1, length=16)
    pieces = histories.every(31 * DAY)
    tower = Tower(shape.fitted(histories), tokenizer, torch.Generator().manual_seed(1))
    tower.standardise(torch.from_numpy(embeddings(tower, tokenizer, pieces, budget=4_096)))
    return tower, tokenizer, pieces, kind.astype(np.int64)


def learned(space, y, **options):
    tower, tokenizer, pieces, _ = space
    own = Tower(tower.shape, tokenizer, torch.Generator())
    own.load_state_dict(tower.state_dict())
    return learn(own, tokenizer, pieces, y, pace=Pace(steps=16, rate=3e-3), epochs=2.0,
                 budget=4_096, seed=0, pretrained=True, **options)  # fmt: skip


def scores(space, found):
    return raw_scores(found.tower, found.head, space[1], space[2], budget=4_096)


def test_fine_tuning_begins_with_the_probe(space):
    tower, tokenizer, pieces, y = space
    found = learned(space, y, course=Course(0))
    x = embeddings(tower, tokenizer, pieces, budget=4_096)
    assert np.allclose(scores(space, found)[:, 0], logistic(x, y).decision_function(x), atol=1e-3)
    assert found.steps == 0


def test_fine_tuning_to_labels_by_lot_stays_at_the_probe(space):
    y = np.random.default_rng(3).integers(2, size=USERS)
    found = learned(space, y, held_out=np.arange(0, USERS, 3))
    assert found.course.rounds == 0
    assert found.steps > 0
    frozen = space[0].state_dict()
    assert all(torch.equal(frozen[name], told) for name, told in found.tower.state_dict().items())


def test_a_share_of_the_way_is_weights_in_between(space):
    ends = [learned(space, space[3], course=course).tower.state_dict()
            for course in (Course(0), Course(2, 0.25), Course(2))]  # fmt: skip
    for name, start in ends[0].items():
        assert torch.allclose(ends[1][name], 0.75 * start + 0.25 * ends[2][name], atol=1e-6)
    assert any(not torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


def test_a_class_that_nobody_teaches_is_given_to_hardly_anybody(space):
    y = space[3].copy()
    y[:3] = 2
    found = learned(space, y, held_out=np.arange(30))
    z = scores(space, found)
    assert z.shape == (USERS, 3)
    assert (z[:, 2] < z[:, :2].max(axis=1) - 5).all()
    assert np.isfinite(found.held_out_loss)


def made(rows, gain, seed=0):
    """A trail whose second round is better, and whose last is worse than the start."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=rows)
    start = rng.normal(size=(rows, 1)).astype(np.float32)
    toward = (gain * (2 * y - 1) + rng.normal(size=rows)).astype(np.float32)[:, None]
    return [start, start + 0.5 * toward, start + toward, start - 4 * toward], y


def test_the_course_is_where_the_log_loss_is_least():
    trail, y = made(5_000, 0.8)
    course = course_of(trail, y, fine=True)
    losses = {
        (rounds, share): np.logaddexp(0, -(2 * y - 1) * along(trail, Course(rounds, share))[:, 0])
        for rounds in (1, 2, 3)
        for share in (0.25, 0.5, 0.75, 1.0)
    }
    least = min(losses, key=lambda place: losses[place].mean())
    assert losses[course.rounds, course.share].mean() <= losses[least].mean() + 1e-4
    assert course_of(trail, y, fine=False).share == 1.0
    assert course_of([trail[0], trail[3]], y, fine=True) == Course(0)


def test_the_same_gain_is_shown_by_many_rows_and_not_by_few():
    for rows, shown in ((24, 0.3), (5_000, 1.0)):
        told = []
        for seed in range(20):
            trail, y = made(rows, 0.2, seed)
            told.append(is_shown(trail, y, Course(1)))
        assert np.mean(told) <= shown if rows < 100 else np.mean(told) == shown


def test_the_strength_of_a_probe_is_judged_by_users_it_has_not_learned_from():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(80), 8)
    label = (np.arange(80) % 2)[users]
    # Each user's rows are nearly one: who knows some of them knows the others' label.
    own = rng.normal(size=(80, 40))[users] + 0.01 * rng.normal(size=(640, 40))
    x = own + 0.15 * (label[:, None] - 0.5)
    mixed = rng.permutation(640)
    x, label, users = x[mixed].astype(np.float32), label[mixed], users[mixed]
    by_rows = logistic(x, label)
    by_users = logistic(x, label, owners=users)
    assert by_users.steps[1][1].C < by_rows.steps[1][1].C
