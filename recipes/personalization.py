"""Personalization on a simulated exchange: who opens a message about which asset.

The exchange sends messages to anyone about anything, and one in six is opened: taste decides,
which nobody sees. What users looked at and opened before gives some of it away. Scored for
every asset, it says which message a user should get.

    table = messages(seed=0)
    model = Opens().fit(table)
"""

from typing import ClassVar

import polars as pl

from chopmark.datasets import count_earlier, simulate
from chopmark.tabular import EasyML


class Opens(EasyML):
    """Will this user open a message about this asset?"""

    target = "opened"
    columns: ClassVar = {"user": "drop", "happened_at": "drop"}


def messages(*, seed: int, num_users: int = 2000, days: int = 90) -> pl.DataFrame:
    """One row per message in the order of time, with counts of what was known before it."""
    simulation = simulate(num_users=num_users, days=days, seed=seed, scenarios=())
    viewed, opened = simulation.frame("page_view"), simulation.frame("notification_opened")
    sent = simulation.frame("notification_sent").sort("happened_at")
    counts = {
        "views": (viewed, ["user"]),
        "views_of_asset": (viewed, ["user", "asset"]),
        "views_by_all": (viewed, ["asset"]),
        "messages": (sent, ["user"]),
        "opens": (opened, ["user"]),
    }
    label = pl.col("id").is_in(opened["about"].implode()).cast(pl.Int8)
    table = count_earlier(sent.with_columns(opened=label), counts).drop("id", "known_at")
    share = pl.col("views_of_asset") / pl.col("views")
    return table.with_columns(share=share, lift=share / pl.col("views_by_all"))
