"""Personalization: trained on the first weeks, judged by the later ones."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from chopmark.cli.application import load_recipe
from chopmark.datasets import simulate
from chopmark.models import load_scorer

RECIPE = str(Path(__file__).parents[2] / "recipes" / "personalization.py")
SIZE = {"seed": 0, "num_users": 2000, "days": 90}


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(RECIPE)


@pytest.fixture(scope="module")
def messages(recipe):
    return recipe.messages(**SIZE)


def test_counts_are_of_what_was_known_before_the_message(messages):
    simulation = simulate(**SIZE, scenarios=())
    views, opened = simulation.frame("page_view"), simulation.frame("notification_opened")
    for row in messages.gather_every(997).iter_rows(named=True):
        before = views.filter(pl.col("known_at") < row["happened_at"])
        own = before.filter(user=row["user"])
        assert row["views"] == own.height
        assert row["views_of_asset"] == own.filter(asset=row["asset"]).height
        assert row["views_by_all"] == before.filter(asset=row["asset"]).height
        earlier = opened.filter(pl.col("known_at") < row["happened_at"], user=row["user"])
        assert row["opens"] == earlier.height
    assert messages["opened"].sum() == opened.height


def test_later_messages_are_ranked_and_served_alike(recipe, messages, tmp_path):
    cut = messages.height * 7 // 10
    early, late = messages[:cut], messages[cut:]
    assert early["happened_at"].max() <= late["happened_at"].min()
    model = recipe.Opens(model="trees").fit(early)
    scores = model.score(late)
    assert roc_auc_score(late["opened"], scores) > 0.66
    # A fifth of the messages, chosen by score, is opened far more often than one at random.
    best = np.argsort(-scores)[: late.height // 5]
    assert late["opened"].to_numpy()[best].mean() > 1.8 * late["opened"].mean()

    model.save(tmp_path / "opens.chopmark")
    scorer = load_scorer(tmp_path / "opens.chopmark")
    rows = late.head(200).select(scorer.reads).rows()
    np.testing.assert_array_equal([scorer.score_row(row) for row in rows], scores[:200])
