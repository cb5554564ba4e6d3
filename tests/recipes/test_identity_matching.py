"""Identity matching: people of another city, whom the model cannot know."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from chopmark.cli.application import load_recipe
from chopmark.models import load_scorer

RECIPE = str(Path(__file__).parents[2] / "recipes" / "identity_matching.py")


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(RECIPE)


@pytest.fixture(scope="module")
def known(recipe):
    return recipe.pairs(seed=0)


@pytest.fixture(scope="module")
def unknown(recipe):
    return recipe.pairs(seed=1)


def test_no_person_is_in_both_parts(known, unknown):
    people = [set(table["user"]) | set(table["holder"]) for table in (known, unknown)]
    assert min(map(len, people)) > 400
    assert people[0].isdisjoint(people[1])


def test_most_pairs_are_strangers_who_share_a_word(unknown):
    share = unknown["same_person"].mean()
    assert 0.02 < share < 0.2
    strangers = unknown.filter(pl.col("same_person") == 0)
    assert (strangers["name_vs_holder_name_jaccard"] > 0).mean() > 0.9


def test_several_distances_beat_each_of_them_and_are_served_alike(recipe, known, unknown, tmp_path):
    model = recipe.SamePerson(model="trees").fit(known)
    truth = unknown["same_person"].to_numpy()
    scores = model.score(unknown)
    alone = [
        average_precision_score(truth, unknown[likeness.name]) for likeness in recipe.likenesses
    ]
    assert average_precision_score(truth, scores) > max(0.93, *(one + 0.1 for one in alone))
    # At a score of one half: nine of ten matches are true, nine of ten people are found.
    found = scores >= 0.5
    assert truth[found].mean() > 0.85
    assert found[truth == 1].mean() > 0.85

    model.save(tmp_path / "same_person.chopmark")
    scorer = load_scorer(tmp_path / "same_person.chopmark")
    assert not {"user", "holder"} & set(scorer.reads)
    rows = unknown.head(200).select(scorer.reads).rows()
    served = [scorer.score_row(row) for row in rows]
    np.testing.assert_array_equal(served, scores[:200])
