"""Fraud rates read while chargebacks are still coming, beside what came in the end.

    python benchmarks/readouts.py

Simulated exchanges of the seeds 0, 1 and 2 (3,000 users, 270 days), whose chargebacks are all
told in the end. Two things are measured:

    rate   at 180, 210, 240 and 270 days: the naive rate of the last 30 days, and the matured
           rate of the weeks of the last 90 days with a maturity of 0.25 or more, each over what
           the same purchases lost in the end
    band   at 170, 200, 230 and 260 days: in how many open weeks (maturity below 0.99) the band
           of 90 % held the rate that they ended with
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from machine import parser, progress, report, table

from chopmark.datasets import simulate
from chopmark.decisions.readouts import fraud_rates

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTLED = START + timedelta(days=500)
"""By then every chargeback of the simulation has been told."""
RATES_AT, BANDS_AT = (180, 210, 240, 270), (170, 200, 230, 260)


def main() -> None:
    """Print a table for each of the two."""
    arguments = parser(__doc__)
    arguments.add_argument("--users", type=int, default=3_000)
    arguments.add_argument("--seeds", type=int, default=3, help="simulations, seeds from 0 on")
    given = arguments.parse_args()
    with report(f"Read-outs, {given.seeds} exchanges of {given.users:,} users"):
        naive, matured, final, held = [], [], [], []
        for seed in range(given.seeds):
            progress(f"seed {seed}")
            simulation = simulate(num_users=given.users, days=270, seed=seed, fraud_scale=2)
            purchases, chargebacks = simulation.frame("purchase"), simulation.frame("chargeback")
            for days in RATES_AT:
                row = _rates(purchases, chargebacks, START + timedelta(days=days))
                for column, value in zip((naive, matured, final), row, strict=True):
                    column.append(value)
            for days in BANDS_AT:
                held += _held(purchases, chargebacks, START + timedelta(days=days))
        lines = [
            ["naive, last 30 days", _spread(naive), "-"],
            ["matured", _spread(matured), f"{np.average(matured, weights=final):.2f}"],
        ]
        head = ["rate over what came in the end", "median (least to most)", "mean by final rate"]
        table(head, lines)
        table(
            ["open weeks", "the band of 90 % held"], [[len(held), f"{np.mean(held):.0%} of them"]]
        )


def _rates(
    purchases: pl.DataFrame, chargebacks: pl.DataFrame, at: datetime
) -> tuple[float, float, float]:
    """Naive and matured rate over the final one, and the final one of the matured weeks."""
    known = purchases.filter(pl.col("known_at") <= at)
    read = fraud_rates(purchases, chargebacks, as_of=at, replicates=1)
    last = known.filter(pl.col("happened_at") > at - timedelta(days=30))
    weeks = read.cohorts.filter(
        pl.col("cohort") > at - timedelta(days=90), pl.col("maturity") >= 0.25
    )
    ends = [week + timedelta(days=7) for week in weeks["cohort"]]
    same = known.filter(
        pl.col("happened_at").is_between(weeks["cohort"][0], max(ends), closed="left")
    )
    rate = (weeks["matured_rate"] * weeks["volume_usd"]).sum() / weeks["volume_usd"].sum()
    final = _final(same, chargebacks)
    return read.naive_rate / _final(last, chargebacks), rate / final, final


def _held(purchases: pl.DataFrame, chargebacks: pl.DataFrame, at: datetime) -> list[bool]:
    """Of each open week, whether its band held the rate that it ended with."""
    known = purchases.filter(pl.col("known_at") <= at)
    read = fraud_rates(known, chargebacks, as_of=at).cohorts
    final = fraud_rates(known, chargebacks, as_of=SETTLED, replicates=1).cohorts["reported_rate"]
    inside = (final >= read["low"] - 1e-12) & (final <= read["high"] + 1e-12)
    return inside.filter(read["maturity"] < 0.99).to_list()


def _final(purchases: pl.DataFrame, chargebacks: pl.DataFrame) -> float:
    """What the purchases lost in the end, over their volume."""
    about = chargebacks.join(purchases.select("id"), left_on="about", right_on="id", how="semi")
    return float(about["amount_usd"].sum() / purchases["amount_usd"].sum())


def _spread(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
