"""News ranking: trained on the first visits, judged by the order it gives the later ones."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from chopmark.cli.application import load_recipe
from chopmark.datasets import simulate
from chopmark.models import load_scorer
from chopmark.models.metrics import hit_rate, ndcg

RECIPE = str(Path(__file__).parents[2] / "recipes" / "news_ranking.py")
SIZE = {"seed": 0, "num_users": 2000, "days": 90}


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(RECIPE)


@pytest.fixture(scope="module")
def slates(recipe):
    return recipe.slates(**SIZE)


def test_counts_are_of_what_was_known_before_the_visit(slates):
    simulation = simulate(**SIZE, scenarios=())
    views = simulation.frame("page_view").drop_nulls("asset")
    purchases = simulation.frame("purchase")
    for row in slates.gather_every(2003).iter_rows(named=True):
        before = views.filter(pl.col("known_at") < row["happened_at"])
        own = before.filter(user=row["user"])
        assert row["views"] == own.height
        assert row["views_of_asset"] == own.filter(asset=row["asset"]).height
        assert row["reads_of_asset"] == own.filter(asset=row["asset"], page="news").height
        assert row["reads_by_all"] == before.filter(asset=row["asset"], page="news").height
        bought = purchases.filter(pl.col("known_at") < row["happened_at"], user=row["user"])
        assert row["purchases_of_asset"] == bought.filter(asset=row["asset"]).height
    assert slates["views"].max() > slates["reads_of_asset"].max() > 0


def test_later_visits_are_ranked_better_than_by_popularity_and_served_alike(
    recipe, slates, tmp_path
):
    starts = slates["happened_at"].unique().sort()
    cut = starts[len(starts) * 7 // 10]
    early = slates.filter(pl.col("happened_at") < cut)
    late = slates.filter(pl.col("happened_at") >= cut)
    assert set(early["visit"]).isdisjoint(late["visit"])
    model = recipe.Reads(model="trees").fit(early)
    scores = model.score(late)

    opened, visits = late["opened"], late["visit"]
    chance = np.random.default_rng(0).random(late.height)
    popular = late["reads_by_all"]
    assert ndcg(opened, scores, visits, k=5) > 0.48
    assert ndcg(opened, scores, visits, k=5) > ndcg(opened, popular, visits, k=5) + 0.11
    assert ndcg(opened, popular, visits, k=5) > ndcg(opened, chance, visits, k=5) + 0.15
    # What users looked at before is the better of the simple orders.
    assert ndcg(opened, scores, visits, k=5) > ndcg(opened, late["views_of_asset"], visits, k=5)
    # In more than half of the visits, what is opened is among the three that come first.
    assert hit_rate(opened, scores, visits, k=3) > 0.53
    assert hit_rate(opened, scores, visits, k=3) > hit_rate(opened, popular, visits, k=3) + 0.1

    model.save(tmp_path / "reads.chopmark")
    scorer = load_scorer(tmp_path / "reads.chopmark")
    assert not {"visit", "user", "happened_at"} & set(scorer.reads)
    rows = late.head(200).select(scorer.reads).rows()
    np.testing.assert_array_equal([scorer.score_row(row) for row in rows], scores[:200])
