"""Slates: what a visitor could have been shown, and which of it was opened.

A ranking is learned from visits, one row per visit and thing on offer; a log holds only what
was opened. Serves rows A17 and G18.
"""

import polars as pl

from chopmark.datasets import vocabulary as words
from chopmark.datasets.simulator import Simulation


def news_slates(simulation: Simulation) -> pl.DataFrame:
    """Visits in which news were read, one row per visit and asset: whose news were opened?

    The simulated exchange has news about each asset at any time, and its readers open them
    by taste; nothing says how they were laid out, so neither position nor freshness counts.

    Returns
    -------
    polars.DataFrame
        visit (the id of the log-in), user, happened_at (of the log-in: nothing of the visit
        itself has happened yet), asset, opened (0 or 1, at least one 1 in each visit).
        Ordered by time, then visit, then asset.
    """
    read = simulation.frame("page_view").filter(page="news").sort("happened_at")
    logins = simulation.frame("login").sort("happened_at")
    visits = logins.select("user", visit="id", started_at="happened_at")
    opened = read.join_asof(
        visits,
        left_on="happened_at",
        right_on="started_at",
        by="user",
        check_sortedness=False,
    ).select("visit", "asset", opened=pl.lit(1, pl.Int8))
    slates = visits.join(opened, on="visit", how="semi").join(
        pl.DataFrame({"asset": words.ASSETS}), how="cross"
    )
    return (
        slates.join(opened.unique(), on=["visit", "asset"], how="left")
        .select(
            "visit",
            "user",
            pl.col("started_at").alias("happened_at"),
            "asset",
            pl.col("opened").fill_null(0),
        )
        .sort("happened_at", "visit", "asset")
    )
