"""The read-outs: maturity against a chain-ladder by hand, rates against a simulated truth."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from chopmark.datasets import simulate
from chopmark.decisions.readouts import (
    _known_shares,
    fraud_rates,
    outcomes,
)
from chopmark.errors import InvalidInput, InvalidTable

START = datetime(2026, 1, 1, tzinfo=UTC)
SEEDS = (0, 1, 2)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


@pytest.fixture(scope="module")
def exchanges():
    """Purchases and chargebacks of some simulated exchanges, all chargebacks told."""
    found = []
    for seed in SEEDS:
        simulation = simulate(num_users=3_000, days=270, seed=seed, fraud_scale=2)
        found.append((simulation.frame("purchase"), simulation.frame("chargeback")))
    return found


def final_rate(purchases: pl.DataFrame, chargebacks: pl.DataFrame) -> float:
    """What the purchases lost in the end, over their volume."""
    about = chargebacks.join(purchases.select("id"), left_on="about", right_on="id", how="semi")
    return about["amount_usd"].sum() / purchases["amount_usd"].sum()


def test_the_known_shares_are_those_of_a_chain_ladder_by_hand():
    # Losses of four purchase days with development by day; the newest day has one column.
    triangle = [[80.0, 40.0, 20.0, 10.0], [100.0, 60.0, 30.0], [60.0, 30.0], [90.0]]
    cumulative = [np.cumsum(row) for row in triangle]
    factors = []
    for step in range(3):
        old = [row for row in cumulative if len(row) > step + 1]
        factors.append(sum(row[step + 1] for row in old) / sum(row[step] for row in old))
    expected = [1 / np.prod(factors[step:]) for step in range(3)]

    cells = [
        (loss, float(delay), len(row) - 0.5)
        for row in triangle
        for delay, loss in enumerate(row)
        for _ in range(400)  # many of each: the correction for a single loss vanishes
    ]
    loss, delay, age = (
        np.array(part) for part in zip(*sorted(cells, key=lambda c: c[1]), strict=True)
    )
    shares = _known_shares(loss[:, None] / 400, delay, age, np.array([0.5, 1.5, 2.5, 3.5]))[:, 0]
    assert shares == pytest.approx([*expected, 1.0], rel=0.01)


def test_the_last_thirty_days_read_far_too_low_and_the_matured_rate_does_not(exchanges):
    naive, matured, final = [], [], []
    for purchases, chargebacks in exchanges:
        for at in (180, 210, 240, 270):
            known = purchases.filter(pl.col("known_at") <= day(at))
            read = fraud_rates(purchases, chargebacks, as_of=day(at), replicates=1)
            recent = read.cohorts.filter(
                pl.col("cohort") > day(at - 90), pl.col("maturity") >= 0.25
            )
            last = known.filter(pl.col("happened_at") > day(at - 30))
            naive.append(read.naive_rate / final_rate(last, chargebacks))
            bounds = recent["cohort"].min(), recent["cohort"].max() + timedelta(days=7)
            same = known.filter(pl.col("happened_at").is_between(*bounds, closed="left"))
            volume = recent["volume_usd"].sum()
            rate = (recent["matured_rate"] * recent["volume_usd"]).sum() / volume
            matured.append(rate / final_rate(same, chargebacks))
            final.append(final_rate(same, chargebacks))
    assert np.median(naive) < 0.35
    assert np.average(matured, weights=final) == pytest.approx(1.0, abs=0.2)


def test_the_band_holds_the_final_rate_of_nine_cohorts_in_ten(exchanges):
    held = []
    for purchases, chargebacks in exchanges:
        for at in (170, 200, 230, 260):
            known = purchases.filter(pl.col("known_at") <= day(at))
            read = fraud_rates(known, chargebacks, as_of=day(at)).cohorts
            final = fraud_rates(known, chargebacks, as_of=day(500)).cohorts["reported_rate"]
            open_ones = read["maturity"] < 0.99
            inside = (final >= read["low"] - 1e-12) & (final <= read["high"] + 1e-12)
            held += inside.filter(open_ones).to_list()
    assert len(held) > 150
    assert 0.8 <= np.mean(held) <= 0.98


def test_what_is_learned_later_changes_nothing(exchanges):
    purchases, chargebacks = exchanges[0]
    at = day(150)
    now = fraud_rates(purchases, chargebacks, as_of=at, replicates=10)
    then = fraud_rates(
        purchases.filter(pl.col("known_at") <= at),
        chargebacks.filter(pl.col("known_at") <= at),
        as_of=at,
        replicates=10,
    )
    assert_frame_equal(now.cohorts, then.cohorts)
    assert (now.pooled_rate, now.naive_rate) == (then.pooled_rate, then.naive_rate)


def test_a_settled_cohort_reads_as_lost_over_moved(exchanges):
    purchases, chargebacks = exchanges[0]
    read = fraud_rates(purchases, chargebacks, as_of=day(600), cohort="month", replicates=10)
    assert read.cohorts["cohort"][0] == START
    for row in read.cohorts.iter_rows(named=True):
        later = (row["cohort"] + timedelta(days=32)).replace(day=1)
        own = purchases.filter(
            pl.col("happened_at").is_between(row["cohort"], later, closed="left")
        )
        assert row["purchases"] == own.height
        for name in ("reported_rate", "matured_rate", "low", "high"):
            assert row[name] == pytest.approx(final_rate(own, chargebacks))
    assert read.cohorts["maturity"].min() == pytest.approx(1.0)
    assert read.num_unmatched == 0


def shop(*, num_weeks: int = 10, bad_share: float = 0.01, delay_days: float = 20.0):
    """A hundred purchases of 10 USD a day, some of which are charged back after a fixed delay."""
    rows, lost = [], []
    for place in range(num_weeks * 700):
        at = day(place / 100)
        rows.append((f"p{place}", f"u{place % 97}", at, at, 10.0))
        if place % round(1 / bad_share) == 0:
            lost.append((f"p{place}", at + timedelta(days=delay_days), 10.0))
    names = ["id", "user", "happened_at", "known_at", "amount_usd"]
    return (
        pl.DataFrame(rows, schema=names, orient="row"),
        pl.DataFrame(lost, schema=["about", "known_at", "amount_usd"], orient="row"),
    )


def test_an_alarm_is_raised_above_the_target_and_says_where():
    purchases, chargebacks = shop()
    at = day(70)
    alarm = fraud_rates(purchases, chargebacks, as_of=at, target=0.005)
    assert alarm.is_alarm
    assert alarm.statement.startswith("ALARM: the fraud rate is above the target of 0.500 % in")
    assert "% of the purchase volume, matured" in alarm.statement
    calm = fraud_rates(purchases, chargebacks, as_of=at, target=0.05)
    assert not calm.is_alarm
    assert "within the target of 5.000 %" in calm.statement
    early = fraud_rates(purchases, chargebacks, as_of=day(6), target=0.005, least_maturity=1.1)
    assert not early.is_alarm
    assert "no cohort is mature enough" in early.statement
    untold = fraud_rates(purchases, chargebacks, as_of=at)
    assert not untold.is_alarm
    assert untold.cohorts["is_above"].is_null().all()


def test_a_young_cohort_without_chargebacks_reads_the_pooled_rate():
    purchases, chargebacks = shop()
    read = fraud_rates(purchases, chargebacks, as_of=day(70))
    last = read.cohorts.row(-1, named=True)
    assert last["reported_usd"] == 0
    assert last["maturity"] == 0
    assert last["factor"] is None
    assert last["matured_rate"] == pytest.approx(0.01, rel=0.15)
    assert last["low"] < 0.01 < last["high"]
    assert not last["is_mature"]


def test_no_chargebacks_no_losses_and_no_alarm():
    purchases, chargebacks = shop()
    read = fraud_rates(purchases, chargebacks.clear(), as_of=day(70), target=0.001)
    assert read.pooled_rate == 0
    assert read.naive_rate == 0
    assert (read.cohorts["high"] == 0).all()
    assert not read.is_alarm


def test_chargebacks_of_unknown_purchases_are_counted_and_free_weeks_have_no_rate():
    purchases, chargebacks = shop()
    foreign = chargebacks.head(3).with_columns(about=pl.lit("elsewhere"))
    read = fraud_rates(purchases, pl.concat([chargebacks, foreign]), as_of=day(100))
    assert read.num_unmatched == 3
    first_week = pl.col("happened_at") < day(4)
    free = purchases.with_columns(amount_usd=pl.when(~first_week).then("amount_usd").otherwise(0.0))
    lost = chargebacks.filter(pl.col("known_at") > day(25))
    row = fraud_rates(free, lost, as_of=day(100), target=0.001).cohorts.row(0, named=True)
    assert np.isnan(row["matured_rate"])
    assert row["is_above"] is None


def test_wrong_tables_are_named():
    purchases, chargebacks = shop(num_weeks=1)
    with pytest.raises(InvalidTable, match=r"purchases with columns .* none named user"):
        fraud_rates(purchases.drop("user"), chargebacks, as_of=day(70))
    with pytest.raises(InvalidTable, match=r"purchases known by .* got none"):
        fraud_rates(purchases, chargebacks, as_of=day(-1))
    with pytest.raises(InvalidInput, match="`week` or `month`, got `year`"):
        fraud_rates(purchases, chargebacks, as_of=day(70), cohort="year")


def test_outcomes_are_counted_by_hand():
    monday = datetime(2026, 3, 2, tzinfo=UTC)
    asked = pl.DataFrame({"id": list("abcdef"), "amount_usd": [100.0, 50.0, 80.0, 70.0, 20.0, 9.0]})
    decisions = pl.DataFrame(
        {
            "about": [*"abcdef", "not asked"],
            "user": ["good", "bad", "good", "late", "bad", "good", "good"],
            "known_at": [monday] * 4 + [monday + timedelta(days=7)] + [monday] * 2,
            "action": ["allow", "reduce", "wait", "reduce", "allow", "record", "allow"],
            "allowed_usd": [100.0, 5.0, 0.0, 30.0, 20.0, 0.0, 5.0],
        }
    )
    bad = pl.DataFrame({"user": ["bad", "late"], "known_at": [monday, monday + timedelta(days=60)]})
    read = outcomes(decisions, asked, bad, as_of=monday + timedelta(days=30))
    assert read.rows() == [
        # cohort, decisions, asked, allowed, restricted, friction, false, share, usd, prevented,
        # passed
        (monday, 4, 300.0, 135.0, 3, 0.75, 2, 2 / 3, 120.0, 45.0, 5.0),
        (monday + timedelta(days=7), 1, 20.0, 20.0, 0, 0.0, 0, pytest.approx(np.nan, nan_ok=True),
         0.0, 0.0, 20.0),
    ]  # fmt: skip
    later = outcomes(decisions, asked, bad, as_of=monday + timedelta(days=60), cohort="month")
    assert later["false_restrictions"].to_list() == [1]
    assert later["prevented_usd"].to_list() == [85.0]
