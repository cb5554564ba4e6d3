"""Smart Targeting: against chance, on the users and days of simulated campaigns."""

from pathlib import Path

import polars as pl
import pytest

from chopmark.cli.application import load_recipe
from chopmark.datasets.campaigns import Campaign
from chopmark.foundation import at_random
from chopmark.report.campaign import make_campaign

RECIPE = str(Path(__file__).parents[2] / "recipes" / "smart_targeting.py")
BUDGET, SEEDS = 100, (0, 1)


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(RECIPE)


@pytest.fixture(scope="module")
def played(recipe):
    """Of each seed: the messages by the recipe and by chance."""
    found = []
    for seed in SEEDS:
        campaign = Campaign(1000, warm_days=30, days=4, base=0.12, pull=1.5, seed=seed)
        sent = recipe.run(campaign, recipe.users(campaign), budget=BUDGET)
        chance = recipe.run(campaign, at_random(), budget=BUDGET, explore=1.0)
        found.append((sent, chance))
    return found


def test_nothing_is_read_of_what_comes_after_a_day(recipe):
    campaign = Campaign(300, warm_days=30, days=2, base=0.2)
    sent = recipe.run(campaign, recipe.users(campaign), budget=BUDGET)
    known = campaign.events.filter(pl.col("happened_at") <= campaign.as_of(1))
    assert known.height < campaign.events.height
    campaign.events = known
    assert recipe.run(campaign, recipe.users(campaign), budget=BUDGET).equals(sent)


def test_more_engage_than_by_chance(played):
    ours = sum(sent["engaged"].sum() for sent, _ in played)
    chance = sum(sent["engaged"].sum() for _, sent in played)
    assert all(one.height == other.height == 4 * BUDGET for one, other in played)
    assert ours > 1.3 * chance


def test_a_random_group_is_kept_every_day_and_the_report_reads_the_campaign(played):
    for sent, _ in played:
        assert sent.filter(day=0)["why"].unique().to_list() == ["explore"]
        later = sent.filter(pl.col("day") > 0).group_by("day")
        assert later.agg(pl.col("why").eq("explore").sum())["why"].to_list() == [10, 10, 10]
        lift = make_campaign(sent).lift
        assert lift.low <= lift.value <= lift.high
