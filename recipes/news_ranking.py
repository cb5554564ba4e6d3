"""News ranking on a simulated exchange: whose news should stand first when a user comes back.

All of it is simulated: there are news about each of 24 assets at any time, and which are opened
follows a taste that is planted and that nobody sees. What the user and all others looked at
before the visit gives some of it away. Scored for each asset, and sorted within the visit, it
is the order of the news page.

    table = slates(seed=0)
    model = Reads().fit(table)
"""

from typing import ClassVar

import polars as pl

from chopmark.datasets import count_earlier, news_slates, simulate
from chopmark.tabular import EasyML


class Reads(EasyML):
    """Will the news about this asset be opened in this visit?"""

    target = "opened"
    groups = "visit"
    columns: ClassVar = {"user": "drop", "happened_at": "drop"}


def slates(*, seed: int, num_users: int = 2000, days: int = 90) -> pl.DataFrame:
    """One row per visit and asset in the order of time, with counts of what was known before."""
    simulation = simulate(num_users=num_users, days=days, seed=seed, scenarios=())
    viewed = simulation.frame("page_view").drop_nulls("asset")
    counts = {
        "views": (viewed, ["user"]),
        "views_of_asset": (viewed, ["user", "asset"]),
        "reads_of_asset": (viewed.filter(page="news"), ["user", "asset"]),
        "purchases_of_asset": (simulation.frame("purchase"), ["user", "asset"]),
        "reads_by_all": (viewed.filter(page="news"), ["asset"]),
    }
    table = count_earlier(news_slates(simulation), counts)
    return table.with_columns(share=pl.col("views_of_asset") / pl.col("views"))
