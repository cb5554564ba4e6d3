"""Smart Targeting on a simulated exchange: whom to tell about an asset that was listed today.

Nobody has heard of the asset, so on the first day a random group is notified; from then on who
engaged yesterday says who may today. A user is what a user model, trained without labels on
what was done before the campaign, and hand-made aggregates say of the history up to the day.

    campaign = Campaign(2000, days=5)
    space = learned(campaign)
    sent = run(campaign, users(campaign, space), budget=100)
    write_campaign(sent, "campaign.html")             # chopmark.report.campaign
"""

from typing import Any

import polars as pl

from chopmark.datasets.campaigns import Campaign
from chopmark.foundation import (
    SmartTargeting,
    TreeLearner,
    UserModel,
    aggregates_of,
    beside,
    embeddings_of,
)
from chopmark.histories import Histories


def learned(campaign: Campaign, **settings: Any) -> UserModel:
    """A user model of what all did before the first day, without labels."""
    before = Histories.from_frame(campaign.events, until=campaign.as_of(0))
    return UserModel(**settings).fit(before)


def users(campaign: Campaign, space: UserModel) -> TreeLearner:
    """What learns who engages: trees on the embedding and the aggregates of a user."""
    events = Histories.from_frame(campaign.events)
    return TreeLearner(beside(embeddings_of(space, events), aggregates_of(events)))


def run(campaign: Campaign, learner: Any, *, budget: int, explore: float = 0.1) -> pl.DataFrame:
    """Explore, train, target, iterate: all messages of the campaign, with who engaged."""
    targeting = SmartTargeting(learner, budget=budget, explore=explore)
    for day in range(campaign.days):
        plan = targeting.plan(day, campaign.candidates(day))
        targeting.answer(day, campaign.engaged(day, plan["user"]))
    return targeting.sent
