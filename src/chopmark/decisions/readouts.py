"""Business read-outs: what fraud costs, and what it costs to stop it, as of any instant.

**Fraud rate = chargeback losses over purchase volume, by the week or month of the purchase.**
Chargebacks come weeks late, so the rate of the last 30 days reads a fifth of the truth. Here
each cohort's reported losses are matured:

    F(d)      share of losses known d days after the purchase: the chain-ladder with steps
              of no width, which is the product-limit estimate for delays that are seen only
              if shorter than the purchase's age (Lynden-Bell), weighted by loss
    m         maturity of a cohort: mean of F(age) over its volume; 1 / m is its factor
    expected  pooled rate, sum of reported losses / sum of m * volume (Cape Cod)
    matured   reported + (1 - m) * (reported + (1 - m) * expected * volume)   (Benktander)

All that for each rail, then added up. With m near 1 this is the chain-ladder's reported / m,
with m near 0 the pooled rate, so that a cohort with no chargeback yet gets neither zero nor
infinity. The band holds the rate that the cohort will end with: a bootstrap over users for F
and the losses, and a compound Poisson spread for the part that is still to come. Delays beyond
the age of the oldest purchase are not known to it.

Polars: not imported by the request path. Serves rows C15 and E7.

References
----------
D. Lynden-Bell, "A method of allowing for known observational selection", 1971.
T. Mack, "Credible claims reserves: the Benktander method", 2000.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.times import DAY, instant

Floats = NDArray[np.float64]
Cohort = Literal["week", "month"]

_EVERY = {"week": "1w", "month": "1mo"}
_CHUNK = 25  # bootstrap replicates at a time, for memory


@dataclass(frozen=True, slots=True)
class FraudRates:
    """The fraud rate by purchase cohort, as it was known at an instant.

    Attributes
    ----------
    cohorts : DataFrame
        One row each, oldest first: cohort (its first instant), purchases, volume_usd,
        reported_usd, reported_rate, maturity, factor (null at maturity 0), matured_rate, low,
        high, is_mature, is_above (null without a target or where not mature).
    pooled_rate : float
        Over all cohorts, matured.
    naive_rate : float
        What a dashboard of the last 30 days shows: chargebacks so far of the purchases of
        these days, over their volume. NaN if there are none.
    horizon_days : float
        Age of the oldest purchase; of later chargebacks nothing is known.
    num_unmatched : int
        Chargebacks about purchases that are not in the table, which count nowhere.
    target : float or None
    statement : str
        One sentence on the target; with ``ALARM`` first if a mature cohort is above it.
    """

    cohorts: pl.DataFrame
    pooled_rate: float
    naive_rate: float
    horizon_days: float
    num_unmatched: int
    target: float | None
    statement: str

    @property
    def is_alarm(self) -> bool:
        """Whether the matured rate of a mature cohort is above the target."""
        return bool(self.cohorts["is_above"].fill_null(False).any())


def fraud_rates(
    purchases: pl.DataFrame,
    chargebacks: pl.DataFrame,
    *,
    as_of: datetime,
    cohort: Cohort = "week",
    target: float | None = None,
    least_maturity: float = 0.25,
    confidence: float = 0.9,
    replicates: int = 200,
    seed: int = 0,
) -> FraudRates:
    """Fraud rate by purchase cohort, matured, from what was known at an instant.

    Parameters
    ----------
    purchases : DataFrame
        id, user, happened_at, known_at, amount_usd; rail, if delays differ by it.
    chargebacks : DataFrame
        about (id of the purchase), known_at, amount_usd.
    as_of : datetime
        With a time zone; rows known later are not looked at.
    target : float, optional
        Highest fraud rate wanted, such as 0.003.
    least_maturity : float
        Cohorts below it raise no alarm: their rate is mostly the pooled one.
    confidence : float
        Of the band.
    replicates : int
        Of the bootstrap.

    Raises
    ------
    InvalidTable
        If a column is missing, or nothing was bought by then.
    """
    _need(purchases, "purchases", "id", "user", "happened_at", "known_at", "amount_usd")
    _need(chargebacks, "chargebacks", "about", "known_at", "amount_usd")
    if cohort not in _EVERY:
        raise InvalidInput(f"expected cohorts by `week` or `month`, got `{cohort}`")
    now = instant(as_of)
    bought = _known(purchases, as_of).filter(pl.col("happened_at") <= as_of)
    if bought.is_empty():
        raise InvalidTable(f"expected purchases known by {as_of.isoformat()}, got none")
    if "rail" not in bought.columns:
        bought = bought.with_columns(rail=pl.lit("all"))
    bought = bought.with_columns(
        pl.col("happened_at").dt.truncate(_EVERY[cohort]).alias("cohort"),
        age=(now - pl.col("happened_at").dt.epoch("us")) / DAY,
    )
    told = _known(chargebacks, as_of).select("about", "known_at", loss_usd="amount_usd")
    losses = told.join(
        bought.select("id", "user", "happened_at", "rail", "cohort", "age"),
        left_on="about",
        right_on="id",
    ).with_columns(delay=(pl.col("known_at") - pl.col("happened_at")).dt.total_microseconds() / DAY)
    starts = bought["cohort"].unique().sort()
    grown, finals = _develop(bought, losses, starts, replicates=replicates, seed=seed)
    volume, reported, maturity = grown.volume[:, 0], grown.reported[:, 0], grown.maturity[:, 0]
    rated = np.where(volume > 0, volume, np.nan)  # a week of free purchases has no rate
    matured = grown.matured[:, 0] / rated
    edge = (1.0 - confidence) / 2.0
    low, high = np.quantile(finals, [edge, 1.0 - edge], axis=1) / rated
    is_mature = maturity >= least_maturity
    table = pl.DataFrame(
        {
            "cohort": starts,
            "purchases": bought.group_by("cohort").len().sort("cohort")["len"],
            "volume_usd": volume,
            "reported_usd": reported,
            "reported_rate": reported / rated,
            "maturity": maturity,
            "factor": pl.Series([1.0 / part if part > 0 else None for part in maturity]),
            "matured_rate": matured,
            # The quantiles of a skewed spread may leave its mean outside.
            "low": np.minimum(low, matured),
            "high": np.maximum(high, matured),
            "is_mature": is_mature,
            "is_above": pl.Series(
                [
                    None if target is None or not mature else bool(rate > target)
                    for rate, mature in zip(matured, is_mature, strict=True)
                ],
                dtype=pl.Boolean,
            ),
        }
    )
    return FraudRates(
        cohorts=table,
        pooled_rate=float(grown.matured.sum() / max(volume.sum(), 0.01)),
        naive_rate=_naive(bought, losses, days=30.0),
        horizon_days=float(bought["age"].max() or 0.0),  # type: ignore[arg-type]
        num_unmatched=told.height - losses.height,
        target=target,
        statement=_statement(table, cohort, target),
    )


def outcomes(
    decisions: pl.DataFrame,
    asked: pl.DataFrame,
    bad: pl.DataFrame,
    *,
    as_of: datetime,
    cohort: Cohort = "week",
) -> pl.DataFrame:
    """What the decisions did, by cohort, judged by what was known at an instant.

    Parameters
    ----------
    decisions : DataFrame
        about, user, known_at, action, allowed_usd. Those whose action is ``record``, or which
        are about nothing in ``asked``, are left out.
    asked : DataFrame
        id and amount_usd of the events that asked for money.
    bad : DataFrame
        user and known_at: who turned out bad, and since when that is known.
    as_of : datetime
        With a time zone. The younger a cohort, the more of its bad users still count as good:
        false restrictions can only fall later, prevented loss only rise.

    Returns
    -------
    DataFrame
        One row per cohort of decisions: cohort, decisions, asked_usd, allowed_usd (the
        volume), restricted (action other than ``allow``), friction_rate (share of decisions
        restricted), false_restrictions (of users not known to be bad), false_share (of the
        restricted), false_usd (refused to them), prevented_usd (asked for and refused, of bad
        users), passed_usd (allowed to bad users).
    """
    _need(decisions, "decisions", "about", "user", "known_at", "action", "allowed_usd")
    _need(asked, "asked", "id", "amount_usd")
    _need(bad, "bad", "user", "known_at")
    if cohort not in _EVERY:
        raise InvalidInput(f"expected cohorts by `week` or `month`, got `{cohort}`")
    known_bad = _known(bad, as_of)["user"].unique()
    is_bad, is_stopped = pl.col("user").is_in(known_bad.implode()), pl.col("action") != "allow"
    refused = (pl.col("amount_usd") - pl.col("allowed_usd")).clip(lower_bound=0.0)
    return (
        _known(decisions, as_of)
        .filter(pl.col("action") != "record")
        .join(asked.select("id", "amount_usd"), left_on="about", right_on="id")
        .with_columns(pl.col("known_at").dt.truncate(_EVERY[cohort]).alias("cohort"))
        .group_by("cohort")
        .agg(
            decisions=pl.len(),
            asked_usd=pl.col("amount_usd").sum(),
            allowed_usd=pl.col("allowed_usd").sum(),
            restricted=is_stopped.sum(),
            friction_rate=is_stopped.mean(),
            false_restrictions=(is_stopped & ~is_bad).sum(),
            false_share=(is_stopped & ~is_bad).sum() / is_stopped.sum(),
            false_usd=refused.filter(~is_bad).sum(),
            prevented_usd=refused.filter(is_bad).sum(),
            passed_usd=pl.col("allowed_usd").filter(is_bad).sum(),
        )
        .sort("cohort")
    )


def _need(frame: pl.DataFrame, what: str, *names: str) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise InvalidTable(
            f"expected {what} with columns {', '.join(names)}, got none named {', '.join(missing)}"
        )


def _known(frame: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("known_at") <= as_of)


def _naive(bought: pl.DataFrame, losses: pl.DataFrame, *, days: float) -> float:
    volume = float(bought.filter(pl.col("age") <= days)["amount_usd"].sum())
    lost = float(losses.filter(pl.col("age") <= days)["loss_usd"].sum())
    return lost / volume if volume > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class _Grown:
    """What c cohorts have become, in b replicates: (c, b), in USD but for the maturity."""

    volume: Floats  # (c, 1)
    reported: Floats
    expected: Floats
    matured: Floats
    maturity: Floats


def _develop(
    bought: pl.DataFrame, losses: pl.DataFrame, starts: pl.Series, *, replicates: int, seed: int
) -> tuple[_Grown, Floats]:
    """The cohorts as they are reported (b = 1), and (c, replicates) draws of their final losses."""
    rng = np.random.default_rng(seed)
    users = losses["user"].unique().sort()
    # Frauds come in series of one user: who is drawn is drawn with all of it.
    drawn = rng.exponential(size=(len(users), replicates))
    parts: list[_Grown] = []
    coming = np.zeros((len(starts), replicates))
    for name in bought["rail"].unique().sort():
        rail = _Rail(bought, losses, name, starts, users)
        parts.append(rail.grown(rail.loss[:, None]))
        for start in range(0, replicates, _CHUNK):
            part = slice(start, start + _CHUNK)
            grown = rail.grown(rail.loss[:, None] * drawn[rail.user_of, part])
            coming[:, part] += grown.matured - grown.reported
    volume = sum((part.volume for part in parts), np.zeros((len(starts), 1)))
    expected = sum((part.expected for part in parts), np.zeros((len(starts), 1)))
    # Rails count for the maturity by the losses expected of them, or else by their volume.
    weights = [np.where(expected > 0, part.expected, part.volume) for part in parts]
    total = _Grown(
        volume=volume,
        reported=sum((part.reported for part in parts), np.zeros_like(volume)),
        expected=expected,
        matured=sum((part.matured for part in parts), np.zeros_like(volume)),
        maturity=sum(
            (part.maturity * weight for part, weight in zip(parts, weights, strict=True)),
            np.zeros_like(volume),
        )
        / np.maximum(sum(weights, np.zeros_like(volume)), 1e-9),
    )
    return total, total.reported + _drawn(rng, coming, _lump(losses))


class _Rail:
    """Purchases and losses of one rail, as arrays."""

    def __init__(
        self,
        bought: pl.DataFrame,
        losses: pl.DataFrame,
        rail: str | None,
        starts: pl.Series,
        users: pl.Series,
    ) -> None:
        # Purchases of a day share an age: a thousand rows instead of millions.
        days = (
            bought.filter(pl.col("rail").eq_missing(pl.lit(rail)))
            .group_by("cohort", day=pl.col("happened_at").dt.truncate("1d"))
            .agg(pl.col("amount_usd").sum(), pl.col("age").mean())
            .sort("day", "cohort")
        )
        self.num_cohorts = len(starts)
        self.cohort_of_day = starts.search_sorted(days["cohort"]).to_numpy()
        self.amounts = days["amount_usd"].to_numpy()[:, None]
        self.ages = days["age"].to_numpy()
        lost = losses.filter(pl.col("rail").eq_missing(pl.lit(rail))).sort("delay")
        self.loss, self.delay, self.age = (
            lost[name].to_numpy() for name in ("loss_usd", "delay", "age")
        )
        self.cohort_of = starts.search_sorted(lost["cohort"]).to_numpy()
        self.user_of = users.search_sorted(lost["user"]).to_numpy()

    def grown(self, weights: Floats) -> _Grown:
        """What the cohorts became if the losses were (n, b) ``weights``."""
        shares = _known_shares(weights, self.delay, self.age, self.ages)
        volume = _summed(self.cohort_of_day, self.amounts, self.num_cohorts)
        known = _summed(self.cohort_of_day, self.amounts * shares, self.num_cohorts)
        reported = _summed(self.cohort_of, weights, self.num_cohorts)
        maturity = known / np.maximum(volume, 1e-9)
        expected = reported.sum(axis=0) / np.maximum(known.sum(axis=0), 1e-9) * volume
        late = 1.0 - maturity
        matured = reported + late * (reported + late * expected)
        return _Grown(volume, reported, expected, matured, maturity)


def _summed(places: NDArray[np.integer], values: Floats, num: int) -> Floats:
    sums = np.zeros((num, values.shape[1]))
    np.add.at(sums, places, values)
    return sums


def _known_shares(weights: Floats, delay: Floats, age: Floats, ages: Floats) -> Floats:
    """F at (k,) ages, (k, b): of a purchase's losses, the share known at its age.

    Parameters
    ----------
    weights : (n, b)
        Losses, in the order of their delays.
    delay, age : (n,)
        Days from the purchase until it was known, and until now.
    """
    n = len(weights)
    if n == 0:
        # Nothing was ever lost by this rail: all of nothing is known.
        return np.ones((len(ages), weights.shape[1]))
    nothing = np.zeros((1, weights.shape[1]))
    order = np.argsort(age, kind="stable")
    # At risk at a delay: losses not later than that, of purchases that are as old as that.
    earlier = np.cumsum(weights, axis=0)
    younger = np.concatenate([nothing, np.cumsum(weights[order], axis=0)])
    at_risk = earlier - younger[np.searchsorted(age[order], delay, side="left")]
    # A single loss at risk would say that all came that late: half a loss more says "some".
    half = 0.5 * weights.mean(axis=0)
    kept = (np.maximum(at_risk - weights, 0.0) + half) / (np.maximum(at_risk, weights) + half)
    known = np.concatenate([np.cumprod(kept[::-1], axis=0)[::-1], nothing + 1.0])
    known[0] = 0.0
    return np.asarray(known[np.searchsorted(delay, ages, side="right")])


def _lump(losses: pl.DataFrame) -> float:
    """USD of the average dollar's user: the variance of a sum of losses over its mean."""
    by_user = losses.group_by("user").agg(pl.col("loss_usd").sum())["loss_usd"].to_numpy()
    total = by_user.sum()
    return float((by_user**2).sum() / total) if total > 0 else 1.0


def _drawn(rng: np.random.Generator, means: Floats, lump: float) -> Floats:
    """Random sums of these means, whose variance is the mean times ``lump``; some are 0."""
    counts = rng.poisson(means / (lump / 2.0))
    sums = rng.gamma(np.maximum(counts, 1), lump / 2.0)
    return np.where(counts > 0, sums, 0.0)


def _statement(table: pl.DataFrame, cohort: str, target: float | None) -> str:
    mature = table.filter("is_mature")
    if target is None:
        return "no target was given"
    if mature.is_empty():
        return f"no cohort is mature enough to be held against the target of {_percent(target)}"
    worst = mature.sort("matured_rate").row(-1, named=True)
    said = (
        f"the {cohort} from {worst['cohort']:%Y-%m-%d}: {_percent(worst['matured_rate'])} of the "
        f"purchase volume, matured ({_percent(worst['low'])} to {_percent(worst['high'])}; "
        f"{_percent(worst['reported_rate'])} reported so far at maturity {worst['maturity']:.2f})"
    )
    num_above = int(mature["is_above"].sum())
    if num_above == 0:
        return (
            f"the fraud rate is within the target of {_percent(target)} in all {mature.height} "
            f"mature cohorts; highest in {said}"
        )
    doubt = "" if worst["low"] > target else "; the band still holds the target"
    return (
        f"ALARM: the fraud rate is above the target of {_percent(target)} in {num_above} of "
        f"{mature.height} mature cohorts; highest in {said}{doubt}"
    )


def _percent(rate: float) -> str:
    return f"{100.0 * rate:.3f} %"
