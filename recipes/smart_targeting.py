"""Smart Targeting on a simulated exchange: whom to tell about an asset that was listed today.

Nobody has heard of the asset, so on the first day a random group is notified; from then on who
engaged yesterday says who may today. A user is what they choose, as a factor model of all users
sees it that was learned without labels before the campaign, and how lately and often they came.

    campaign = Campaign(2000, days=5)
    sent = run(campaign, users(campaign), budget=100)
    write_campaign(sent, "campaign.html")             # chopmark.report.campaign
"""

from typing import Any

import polars as pl

from chopmark.datasets.campaigns import Campaign
from chopmark.foundation import LinearLearner, SmartTargeting, beside, choices_of, habits_of
from chopmark.histories import Histories


def users(campaign: Campaign) -> LinearLearner:
    """What learns who engages: a line through choices and habits of a user."""
    events = Histories.from_frame(campaign.events)
    return LinearLearner(beside(choices_of(events), habits_of(events)))


def run(campaign: Campaign, learner: Any, *, budget: int, explore: float = 0.1) -> pl.DataFrame:
    """Explore, train, target, iterate: all messages of the campaign, with who engaged."""
    targeting = SmartTargeting(learner, budget=budget, explore=explore)
    for day in range(campaign.days):
        plan = targeting.plan(day, campaign.candidates(day))
        targeting.answer(day, campaign.engaged(day, plan["user"]))
    return targeting.sent
