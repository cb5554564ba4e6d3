"""Limit curves: profit and fraud rate on new users, beside a hand-made curve; time of a limit.

    python benchmarks/limits.py             # the book and the time of a call
    python benchmarks/limits.py --exchange  # the simulated exchange, some minutes

The book: 600,000 users to learn from and 600,000 new ones, 0.19 % of them thieves, a margin
of 2 %. A raw score is calibrated (Platt) and the curve fitted on the past. Chance decides
much of what so few new thieves take; the rate is therefore also told as it is expected of
them: from the true risk of each, and with what each would take if a thief.
The exchange: a row is a user in a week, a loss what was charged back. A model learns from the
first half of the weeks; of the second half, half of the users set the curve and the others
judge it, or the third quarter sets it and the last one judges.

A thief is taken to spend 90 USD on an account, a card and the work of a week; what a dollar of
that brings beyond itself is the return of fraud, below 0 where it does not pay.

The goal `volume` spends a cap: its rate should be within 20 % of it. The goal `profit` stays
below one that does not bind.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from time import process_time
from timeit import repeat

import numpy as np
import polars as pl
from machine import goal, parser, progress, report, table

from chopmark.datasets import Simulation
from chopmark.datasets import simulate as play
from chopmark.datasets.simulator import START
from chopmark.decisions.limits import (
    DEFAULT_CURVE,
    PURCHASE_LIMITS,
    SEVEN_STEPS,
    LimitCurve,
    step_curve,
)  # fmt: skip
from chopmark.decisions.profit import (
    Figures,
    Floats,
    Goal,
    History,
    fit_curve,
    limits_of,
    return_of_fraud,
    simulate,
)  # fmt: skip
from chopmark.errors import PolicyError
from chopmark.events import Event
from chopmark.features import training_table
from chopmark.models.calibration import Calibration
from chopmark.pipelines.exchange import application
from chopmark.tabular import EasyML

MARGIN = 0.02
THIEF_USD = 90.0
CAPS = (10.0, 25.0, 50.0)
GOALS: tuple[Goal, ...] = ("profit", "volume")
BLOCK = step_curve((0.0, 25_000.0), (0.01, 5.0))
HEAD = ["limits", "profit", "fraud rate, bp", "good volume kept", "learning, $"]


@dataclass(frozen=True, slots=True)
class Told:
    """What a way to set limits did to new users, and the fraud rate expected of them."""

    name: str
    figures: Figures
    expected_bp: float
    fraud_return: float


@dataclass(frozen=True, slots=True)
class Book:
    """Users, their true log-odds, and what each would buy if good and take if a thief."""

    history: History
    log_odds: Floats
    demand: Floats
    take: Floats

    def judge(self, name: str, curve: LimitCurve, log_odds: Floats) -> Told:
        """A curve on these users, by scores of these log-odds."""
        history = scored(self.history, log_odds)
        limit = limits_of(curve, history.score)
        loss = float((self.history.score * np.minimum(self.take, limit)).sum())
        good = float(((1.0 - self.history.score) * np.minimum(self.demand, limit)).sum())
        figures = simulate(curve, history, margin=MARGIN)
        returned = return_of_fraud(curve, history, cost_usd=THIEF_USD)
        return Told(name, figures, 1e4 * loss / (loss + good), returned)


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--users", type=int, default=600_000, help="of the book")
    arguments.add_argument("--repeats", type=int, default=10, help="books, each of its own seed")
    arguments.add_argument("--exchange", action="store_true", help="on the simulated exchange")
    arguments.add_argument("--exchange-users", type=int, default=40_000)
    arguments.add_argument("--fraud-scale", type=float, default=1.0, help="of the exchange")
    given = arguments.parse_args()
    if given.exchange:
        with report(f"Limits on the simulated exchange, {given.exchange_users:,} users"):
            on_the_exchange(given.exchange_users, given.fraud_scale)
        return
    with report(f"Limits, {given.users:,} users to learn from and as many new ones"):
        time_of_a_limit()
        on_the_book(given.users, given.repeats)


def time_of_a_limit() -> None:
    """Microseconds of a limit and of its breakdown, of the processor: the machine is shared."""
    facts = {"volume_usd": 12_000.0, "clean_days": 250.0, "verified": ("phone", "id")}
    calls = {
        "`LimitCurve.limit_usd`": lambda: DEFAULT_CURVE.limit_usd(0.013),
        "`Limits.limit_usd`, all facts": lambda: PURCHASE_LIMITS.limit_usd(
            0.013, rail="card", **facts
        ),
        "`Limits.explain`": lambda: PURCHASE_LIMITS.explain(0.013, rail="card", **facts),
    }
    rows = []
    for name, call in calls.items():
        micros = median(repeat(call, process_time, number=20_000, repeat=7)) / 20_000 * 1e6
        rows.append([name, f"{micros:.2f}", f"< 5: {goal(micros, 5.0)}"])
    table(["call", "us", "goal"], rows)


def on_the_book(users: int, repeats: int) -> None:
    """All ways to set limits, on several books."""
    told: dict[str, list[Told]] = {}
    for seed in range(repeats):
        progress(f"book {seed + 1} of {repeats}")
        for one in one_book(users, seed):
            told.setdefault(one.name, []).append(one)
    rows = []
    for name, runs in told.items():
        rates = [one.figures.fraud_bp for one in runs]
        rows.append(
            [
                name,
                f"{median(one.figures.profit_usd for one in runs) / 1e6:.2f} M",
                f"{median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})",
                f"{median(one.figures.kept_share for one in runs):.1%}",
                f"{median(one.figures.learning_usd for one in runs):,.0f}",
                f"{median(one.fraud_return for one in runs):+.2f}",
            ]
        )
    table([*HEAD, "return of fraud"], rows)
    print("Medians of the books, least and largest rate in brackets.\n")
    kinds = [("volume", cap) for cap in CAPS] + [("profit", CAPS[0])]
    table(
        ["goal", "cap, bp", "rate / cap of the new users, each book", "standard error / cap",
         "within 20 %", "rate / cap as expected of them", "within 20 %"],
        [caps_row(kind, cap, told[f"{kind}, at most {cap:g} bp"]) for kind, cap in kinds],
    )  # fmt: skip


def caps_row(kind: str, cap: float, runs: list[Told]) -> list[str]:
    """One cap in all books, as a row of the table."""
    came = [one.figures.fraud_bp / cap for one in runs]
    expected = [one.expected_bp / cap for one in runs]
    error = median(one.figures.fraud_bp_error for one in runs) / cap
    cells = [kind, f"{cap:g}"]
    for ratios in (came, expected):
        inside = sum(0.8 <= ratio <= 1.2 for ratio in ratios)
        cells += [", ".join(f"{ratio:.2f}" for ratio in ratios), f"{inside} of {len(ratios)}"]
    return [*cells[:3], f"{error:.2f}", *cells[3:]]


def one_book(users: int, seed: int) -> Iterator[Told]:
    """Each way to set limits, learned from the past and judged on new users."""
    past, new = drawn(users, seed=2 * seed), drawn(users, seed=2 * seed + 1)
    raw_past, raw_new = past.log_odds + 2.0, new.log_odds + 2.0
    calibration = Calibration.platt(raw_past, past.history.is_fraud.astype(float))
    calm = calibration.apply(raw_new)
    for name, curve in (
        ("block > 0.01", BLOCK), ("seven steps by hand", SEVEN_STEPS),
        ("default curve", DEFAULT_CURVE),
    ):  # fmt: skip
        yield new.judge(name, curve, calm)
    wrong = fit_curve(scored(past.history, raw_past), margin=MARGIN)
    yield new.judge("most profit, score not calibrated", wrong.curve, raw_new)
    known = fit_curve(past.history, margin=MARGIN)
    yield new.judge("most profit, true risk known", known.curve, new.log_odds)
    for name, curve in curves(scored(past.history, calibration.apply(raw_past))):
        yield new.judge(name, curve, calm)


def curves(past: History) -> Iterator[tuple[str, LimitCurve]]:
    """Curves fitted to the past: most profit, and each cap with both goals."""
    yield "most profit", fit_curve(past, margin=MARGIN).curve
    for kind in GOALS:
        for cap in CAPS:
            fitted = fit_curve(past, margin=MARGIN, cap_bp=cap, goal=kind)
            yield f"{kind}, at most {cap:g} bp", fitted.curve


def drawn(users: int, *, seed: int) -> Book:
    """A book of its own seed."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-7.9, 1.8, users)
    risk = 1.0 / (1.0 + np.exp(-log_odds))
    is_fraud = rng.random(users) < risk
    demand, take = rng.lognormal(4.0, 1.6, users), rng.lognormal(7.3, 1.2, users)
    history = History(
        score=risk,
        demand_usd=np.where(is_fraud, np.nan, demand),
        take_usd=np.where(is_fraud, take, np.nan),
        is_fraud=is_fraud,
    )
    return Book(history, log_odds, demand, take)


def scored(history: History, log_odds: Floats) -> History:
    """A history with other scores."""
    return replace(history, score=1.0 / (1.0 + np.exp(-log_odds)))


def on_the_exchange(users: int, fraud_scale: float) -> None:
    """A model of the exchange's own features, and curves from its scores."""
    weeks = weeks_of(users, fraud_scale)
    early, late = (weeks["as_of"].quantile(share) for share in (0.5, 0.75))
    learned = weeks.filter(pl.col("as_of") <= early)
    progress(f"a model of {learned.height:,} weeks")
    names = [name for name in application().catalog.names if name in weeks.columns]
    names.remove(application().policy.spent)
    model = EasyML(model="trees", target="bad").fit(learned.select(*names, "bad"))
    rest = weeks.filter(pl.col("as_of") > early)
    rest = rest.with_columns(score=model.score(rest))
    one_half = pl.col("user").hash(seed=0) % 2 == 0
    in_time = pl.col("as_of") <= late
    for title, known in (("other users of the same weeks", one_half), ("later weeks", in_time)):
        for calibrate in (Calibration.platt, Calibration.isotonic):
            print(f"Judged on {title}, calibration {calibrate.__name__}:\n")
            judge_on_the_exchange(rest.filter(known), rest.filter(~known), calibrate)


def judge_on_the_exchange(
    past: pl.DataFrame, new: pl.DataFrame, calibrate: Callable[[Floats, Floats], Calibration]
) -> None:
    """Curves fitted to some weeks, on others; scores calibrated on the former."""
    raw_past, raw_new = log_odds_of(past["score"].to_numpy()), log_odds_of(new["score"].to_numpy())
    calibration = calibrate(raw_past, past["bad"].to_numpy().astype(float))
    known = history_of(past, calibration.apply(raw_past))
    later = history_of(new, calibration.apply(raw_new))
    print(
        f"{known.is_fraud.sum():,} of {len(known):,} weeks bad where the curve learns, "
        f"{later.is_fraud.sum():,} of {len(later):,} where it is judged.\n"
    )
    rows = [
        week_row("no limits", np.full(len(later), 1e9), later),
        week_row("seven steps by hand", SEVEN_STEPS, later),
        week_row("default curve", DEFAULT_CURVE, later),
        week_row("most profit", fit_curve(known, margin=MARGIN).curve, later),
    ]
    for kind in GOALS:
        for cap in CAPS:
            name = f"{kind}, at most {cap:g} bp"
            try:
                best = fit_curve(known, margin=MARGIN, cap_bp=cap, goal=kind)
            except PolicyError as error:
                rows.append([name, str(error).split(";")[0], *[""] * 6])
                continue
            came = simulate(best.curve, known, margin=MARGIN).fraud_bp
            told = [f"{best.expected.fraud_bp:.1f}", f"{came:.1f}"]
            rows.append([*week_row(name, best.curve, later, cap), *told])
    rows = [[*row, *[""] * (8 - len(row))] for row in rows]
    table([*HEAD, "rate / cap", "expected of the weeks it learned from", "came of them"], rows)


def week_row(
    name: str, limits: LimitCurve | Floats, weeks: History, cap: float | None = None
) -> list[str]:
    """One way to set limits on weeks of the exchange, as a row of the table."""
    one = simulate(limits, weeks, margin=MARGIN)
    return [
        name,
        f"{one.profit_usd:,.0f}",
        f"{one.fraud_bp:.1f} ± {one.fraud_bp_error:.1f}",
        f"{one.kept_share:.1%}",
        f"{one.learning_usd:,.0f}",
        f"{one.fraud_bp / cap:.2f}" if cap else "",
    ]


def weeks_of(users: int, fraud_scale: float) -> pl.DataFrame:
    """One row per user and week: features of its first purchase, what it bought, what came back.

    With the log settled: all chargebacks are known, as they would be half a year later.
    """
    progress("simulating")
    simulation = play(num_users=users, days=210, fraud_scale=fraud_scale)
    progress(f"features of {simulation.num_events:,} events")
    features = training_table(
        application().catalog, batched(simulation), rows=("purchase",)
    ).rename({"event_id": "id"})
    back = simulation.frame("chargeback").select(pl.col("about").alias("id"), back=pl.lit(1))
    purchases = (
        simulation.frame("purchase")
        .select("id", "user", "happened_at", usd="amount_usd")
        .join(back.unique("id"), on="id", how="left")
        .with_columns(week=(pl.col("happened_at") - START).dt.total_days() // 7)
        .sort("happened_at", "id")
    )
    weeks = purchases.group_by("user", "week", maintain_order=True).agg(
        id=pl.col("id").first(),
        bad=pl.col("back").is_not_null().any().cast(pl.Int64),
        demand=pl.col("usd").sum(),
        take=pl.col("usd").filter(pl.col("back").is_not_null()).sum(),
    )
    return weeks.join(features, on="id").sort("as_of", "id")


def batched(simulation: Simulation) -> Iterator[list[Event]]:
    """The events, many at a time."""
    batch: list[Event] = []
    for event in simulation.events():
        batch.append(event)
        if len(batch) == 50_000:
            yield batch
            batch = []
    yield batch


def history_of(weeks: pl.DataFrame, log_odds: Floats) -> History:
    """Weeks as a history; what a thief's week held of honest purchases is left out."""
    is_fraud = weeks["bad"].to_numpy() == 1
    return History(
        score=1.0 / (1.0 + np.exp(-log_odds)),
        demand_usd=np.where(is_fraud, np.nan, weeks["demand"].to_numpy()),
        take_usd=np.where(is_fraud, weeks["take"].to_numpy(), np.nan),
        is_fraud=is_fraud,
    )


def log_odds_of(score: Floats) -> Floats:
    """Log-odds of scores, finite."""
    inside = np.clip(score, 1e-9, 1.0 - 1e-9)
    odds: Floats = np.log(inside / (1.0 - inside))
    return odds


if __name__ == "__main__":
    main()
