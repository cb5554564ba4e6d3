"""Days of a token: in how few hands it is and trade is, and how unlike a market that looks.

    concentration(evidence)    token, day, holders, share of the greatest, Gini, HHI, trade
    anomaly(evidence, days)    sales in the hands of few, in bursts, after which trade dies

It knows of no kind of scam, so it sees those that no check was written for. Serves row H14.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from chopmark.graph.tokenevidence import Evidence, is_buy, is_sale
from chopmark.times import DAY


def concentration(evidence: Evidence, *, top: int = 10) -> pl.DataFrame:
    """Per token and day with a transfer (UTC): who holds it at its end, and who trades on it.

    Pool, mint and burn addresses are no holders. Complexity O(holders log holders) a day.

    Returns
    -------
    pl.DataFrame
        token, day, num_holders, top_share (of the `top` greatest in what all hold), gini, hhi
        (sum of squared shares), pool_balance, bought, sold, top_sales (share of the day's three
        greatest sellers in what was sold), num_buyers and num_sellers (up to that day),
        seller_share (of buyers who sold, up to that day). Shares are null where nothing is.
    """
    rows = evidence.transfers.with_columns(day=pl.col("at") // DAY)
    accounts = evidence.accounts.with_row_index("row")
    place = accounts.select("of", "account", "row")
    moves = (
        rows.select("of", "day", "at", "amount", "sender", "receiver")
        .join(place.rename({"account": "sender", "row": "src"}), on=["of", "sender"], how="left",
              maintain_order="left")
        .join(place.rename({"account": "receiver", "row": "dst"}), on=["of", "receiver"],
              how="left", maintain_order="left")
        .sort("of", "day", maintain_order=True)
    )  # fmt: skip
    days = moves.select("of", "day").unique(maintain_order=True).with_row_index("place")
    moves = moves.join(days, on=["of", "day"], how="left", maintain_order="left")
    outside = accounts["is_pool"] | accounts["is_source"]
    of = accounts["of"].to_numpy()
    found = _concentrations(
        moves["place"].to_numpy().astype(np.int64),
        moves["src"].to_numpy().astype(np.int64),
        moves["dst"].to_numpy().astype(np.int64),
        moves["amount"].to_numpy().astype(np.float64),
        np.searchsorted(of, days["of"].to_numpy(), "left").astype(np.int64),
        np.searchsorted(of, days["of"].to_numpy(), "right").astype(np.int64),
        np.array(outside.to_numpy(), dtype=np.bool_),
        np.array(accounts["is_pool"].to_numpy(), dtype=np.bool_),
        top,
    )
    names = ("num_holders", "top_share", "gini", "hhi", "pool_balance")
    held = pl.DataFrame({name: found[:, i] for i, name in enumerate(names)}).with_columns(
        pl.col("num_holders").cast(pl.Int64), pl.col("top_share", "gini", "hhi").fill_nan(None)
    )
    return _with_trade(pl.concat([days.drop("place"), held], how="horizontal"), rows, evidence)


def anomaly(evidence: Evidence, days: pl.DataFrame) -> NDArray[np.float64]:
    """How unlike a market trade is, in [0, 1]: sales of few, in a burst, and then silence.

    (n,) float64; 0 where fewer than 10 bought, as three sellers of few are nothing unusual.
    """
    bursts = days.group_by("token").agg(
        (pl.col("top_sales").fill_null(0.0) * pl.col("sold")).max().alias("burst")
    )
    figures = evidence.tokens.join(bursts, on="token", how="left", maintain_order="left")
    few = ((pl.col("top_sellers") - 0.6) / 0.3).clip(0, 1)
    burst = (pl.col("burst") / pl.col("sold")).clip(0, 1)
    silent = ((pl.col("idle_share") - 0.2) / 0.4).clip(0, 1)
    found = figures.select(
        pl.when((pl.col("num_buyers") >= 10) & (pl.col("sold") > 0))
        .then(few * (0.4 + 0.3 * burst + 0.3 * silent))
        .fill_null(0.0)
        .fill_nan(0.0)
    )
    return found.to_series().fill_null(0.0).to_numpy().astype(np.float64)


def _with_trade(days: pl.DataFrame, rows: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """The days with what was bought and sold on them, and by how many until then."""
    on = ["of", "day"]
    bought = rows.filter(is_buy()).group_by(on).agg(
        pl.col("amount").sum().alias("bought")
    )  # fmt: skip
    by_seller = rows.filter(is_sale()).group_by(*on, "sender").agg(
        pl.col("amount").sum()
    )  # fmt: skip
    sold = by_seller.group_by(on).agg(
        pl.col("amount").sum().alias("sold"), pl.col("amount").top_k(3).sum().alias("top_sales")
    )
    buyers = evidence.accounts.filter(pl.col("first_buy").is_not_null())
    steps = [
        buyers.group_by("of", day=pl.col(when) // DAY).agg(pl.len().alias(name))
        for when, name in (("first_buy", "num_buyers"), ("first_sale", "num_sellers"))
    ]
    for part in (bought, sold, *steps):
        days = days.join(part, on=on, how="left", maintain_order="left")
    token = pl.Series("token", evidence.tokens["token"])
    return (
        days.with_columns(pl.col("bought", "sold").fill_null(0.0))
        .with_columns(
            pl.col("num_buyers", "num_sellers").fill_null(0).cum_sum().over("of").cast(pl.Int64),
            pl.when(pl.col("sold") > 0).then(pl.col("top_sales") / pl.col("sold"))
            .alias("top_sales"),
        )
        .with_columns(
            pl.when(pl.col("num_buyers") > 0).then(pl.col("num_sellers") / pl.col("num_buyers"))
            .alias("seller_share"),
            token=token.gather(days["of"]), day=pl.from_epoch("day", "d"),
        )
        .select("token", pl.exclude("token", "of"))
    )  # fmt: skip


@njit(cache=True, error_model="numpy")
def _concentrations(place, src, dst, amount, first, end, outside, is_pool, top):
    """At the end of each day: number of holders, share of the greatest, Gini, HHI, pool.

    place : (m,) the day of each transfer, in order; first, end : (days,) where its token's
    accounts are; outside, is_pool : (accounts,).
    """
    balances = np.zeros(outside.shape[0])
    found = np.full((first.shape[0], 5), np.nan)
    i = 0
    for day in range(first.shape[0]):
        while i < place.shape[0] and place[i] == day:
            balances[src[i]] -= amount[i]
            balances[dst[i]] += amount[i]
            i += 1
        held = np.empty(end[day] - first[day])
        count, pool = 0, 0.0
        for account in range(first[day], end[day]):
            if is_pool[account]:
                pool = balances[account]
            # What rounding leaves of an emptied account is nothing.
            elif not outside[account] and balances[account] > 1e-12:
                held[count] = balances[account]
                count += 1
        found[day, 0], found[day, 4] = count, pool
        if count == 0:
            continue
        ordered = np.sort(held[:count])
        total, ranked, squares, greatest = 0.0, 0.0, 0.0, 0.0
        for rank in range(count):
            total += ordered[rank]
            ranked += (rank + 1) * ordered[rank]
            squares += ordered[rank] * ordered[rank]
            if rank >= count - top:
                greatest += ordered[rank]
        found[day, 1] = greatest / total
        found[day, 2] = 2.0 * ranked / (count * total) - (count + 1.0) / count
        found[day, 3] = squares / (total * total)
    return found
