"""Towers share weights, heads sit on the penultimate layer, hard negatives are the hardest."""

import numpy as np
import pytest
import torch

from chopmark.foundation.objectives import Contrast, Pairs
from chopmark.histories import Slices
from chopmark.sequence.inputs import Inputs
from chopmark.sequence.network import Head
from chopmark.sequence.shape import Shape
from chopmark.sequence.supervised import embeddings, learn, raw_scores
from chopmark.sequence.training import Pace
from tests.sequence.examples import WEEK, histories, tokenizer_of, tower_of

SMALL = Shape(width=16)


@pytest.fixture(scope="module")
def built():
    past = histories()
    tokenizer = tokenizer_of(past)
    return past, tokenizer, tower_of(SMALL, tokenizer)


def test_both_windows_go_through_one_tower(built):
    past, tokenizer, tower = built
    pieces = past.every(3 * WEEK)
    twice = Slices(past, *(np.concatenate([getattr(pieces, name)] * 2)
                           for name in ("starts", "ends", "now")))  # fmt: skip
    with torch.inference_mode():
        batch = tokenizer.reader(past).batch(twice)
        earlier, later = tower(Inputs.of(batch, tower.layout))[1].chunk(2)
    torch.testing.assert_close(earlier, later)
    # What the task adds reads embeddings, and no event.
    layers = Pairs(tower, torch.Generator().manual_seed(0)).layers
    assert layers[0].weight.shape[1] == 2 * tower.embedding


def test_the_embedding_is_what_the_last_layers_read(built):
    past, tokenizer, tower = built
    head = Head(tower.embedding, 1, torch.Generator().manual_seed(0)).eval()
    pieces = past.every(3 * WEEK)
    found = embeddings(tower, tokenizer, pieces, budget=4_096)
    with torch.inference_mode():
        expected = head(torch.from_numpy(found)).numpy()
    assert raw_scores(tower, head, tokenizer, pieces, budget=4_096) == pytest.approx(
        expected, abs=1e-5
    )


def test_of_the_negatives_the_hardest_count(built):
    tower = built[2]
    contrast = Contrast(tower, torch.Generator().manual_seed(0), hardest=2)
    alike = torch.randn(7, 7, generator=torch.Generator().manual_seed(1))
    kept = torch.isfinite(contrast._chosen(alike))
    for i in range(7):
        others = sorted((j for j in range(7) if j != i), key=lambda j: -float(alike[i, j]))
        assert set(np.flatnonzero(kept[i].numpy())) == {i, *others[:2]}


def test_fine_tuning_begins_with_the_weights_of_the_space(built):
    past, tokenizer, tower = built
    before = {name: weight.clone() for name, weight in tower.state_dict().items()}
    y = np.random.default_rng(0).integers(2, size=len(past))
    pace = Pace(steps=2, rate=0.0, decay=0.0, average=0.0)
    learned = learn(tower, tokenizer, past.every(3 * WEEK), y, pace=pace, epochs=1.0, budget=4_096,
                    seed=0, pretrained=True)  # fmt: skip
    for name, weight in learned.tower.state_dict().items():
        assert torch.equal(weight, before[name])
