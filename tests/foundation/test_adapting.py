from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from chopmark.cli.adapt import _show
from chopmark.foundation.adapting import adapt, read_labels
from chopmark.foundation.usermodel import UserModel
from chopmark.foundation.uses import choose
from chopmark.histories import Histories
from chopmark.sequence.shape import Shape
from chopmark.sequence.training import Pace

USERS = 120
DAY = 86_400_000_000
METHODS = ("probe", "aggregates")


@pytest.fixture(scope="module")
def case():
    """A space, histories, and a table of labels that events tell."""
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
    shape = Shape(width=8, depth=1, length=16)
    space = UserModel(shape=shape, pace=Pace(steps=10, rate=3e-3), budget=1_024).fit(histories)
    return space, histories, pl.DataFrame({"user": np.arange(USERS), "label": kind})


@pytest.fixture(scope="module")
def adapted(case):
    return adapt(*case, methods=METHODS)


def test_what_is_saved_is_set_beside_aggregates_on_unseen_users(adapted):
    beside = adapted.figures.filter(use="aggregates")["roc_auc"].item()
    gain, error = adapted.gain
    assert gain == pytest.approx(adapted.judged["roc_auc"] - beside, abs=1e-9)
    assert 0 < error < 0.3
    assert adapted.model.training["held_out"] == adapted.judged


def test_without_aggregates_there_is_nothing_to_set_beside(case):
    assert adapt(*case, methods=("probe",)).gain is None


def test_a_few_rows_choose_by_cross_validation_and_named_ones_as_they_are(case, adapted):
    space, histories, frame = case
    labels = read_labels(frame, histories)
    assert labels.valid_is_drawn
    both = np.concatenate([labels.train, labels.valid])
    pieces = histories.slices(labels.users, labels.as_of)[both]
    rows = np.arange(len(labels.train), len(both))
    for given, valid in ((labels, 0.2), (replace(labels, valid_is_drawn=False), rows)):
        found = adapt(space, histories, given, methods=METHODS)
        uses = choose(space, pieces, labels.y[both], valid=valid, methods=METHODS)
        told = dict(found.figures.select("use", "valid_roc_auc").iter_rows())
        assert told == {name: uses.figures[name]["roc_auc"] for name in METHODS}
    split = pl.Series("split", (["train"] * 3 + ["valid", "test"]) * (USERS // 5))
    assert not read_labels(frame.with_columns(split), histories).valid_is_drawn


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((-0.02, 0.01), "is not better than aggregates alone on unseen users"),
        ((0.01, 0.02), "is not shown to be better than aggregates alone"),
        ((0.05, 0.01), "is better than aggregates alone"),
    ],
)
def test_the_command_says_plainly_whether_aggregates_are_better(adapted, capsys, gain, words):
    _show(replace(adapted, gain=gain), 30)
    shown = " ".join(capsys.readouterr().out.split())
    area = adapted.judged["roc_auc"]
    assert words in shown
    assert f"`probe` {area:.3f}, aggregates alone {area - gain[0]:.3f}" in shown
