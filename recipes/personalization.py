"""Personalization on a simulated exchange: who opens a message about which asset.

The exchange sends messages to anyone about anything, and one in six is opened: taste decides,
which nobody sees. What users looked at and opened before gives some of it away. Scored for
every asset, it says which message a user should get.

    table = messages(seed=0)
    model = Opens().fit(table)
"""

from typing import ClassVar

import polars as pl

from chopmark.datasets import simulate
from chopmark.tabular import EasyML


class Opens(EasyML):
    """Will this user open a message about this asset?"""

    target = "opened"
    columns: ClassVar = {"user": "drop", "happened_at": "drop"}


def messages(*, seed: int, num_users: int = 2000, days: int = 90) -> pl.DataFrame:
    """One row per message in the order of time, with counts of what happened before it."""
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
    table = sent.with_columns(opened=pl.col("id").is_in(opened["about"].implode()).cast(pl.Int8))
    for name, (events, by) in counts.items():
        numbered = pl.int_range(1, pl.len() + 1).over(by).alias(name)
        past = events.sort("happened_at").select(*by, "happened_at", numbered)
        table = table.join_asof(
            past, on="happened_at", by=by, allow_exact_matches=False, check_sortedness=False
        )
    shown = table.drop("id", "known_at").with_columns(pl.col(*counts).fill_null(0))
    share = pl.col("views_of_asset") / pl.col("views")
    return shown.with_columns(share=share, lift=share / pl.col("views_by_all"))
