"""Tasks on the simulated exchange: one source of events, and four things to foretell from it.

The tasks of the seed's benchmark, on users whose truth is planted: who opens a message, who
buys after a visit, which segment somebody belongs to, and a rare one, which payment is fraud.
Events carry what was done (asset, page, amount, rail) and no identity: neither devices nor
cards nor wallets nor names. What becomes known later (chargebacks, verdicts of analysts) is
left out. Serves rows G18 and G19 of the requirements.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from chopmark.datasets.exchange import SCHEMA
from chopmark.datasets.sequences import INSTANT, SPLITS, SequenceData, Task
from chopmark.datasets.simulator import Simulation, simulate
from chopmark.errors import InvalidInput, did_you_mean

TEXTS = ("asset", "page", "rail", "direction", "issuer", "country")
"""Fields of `exchange_events` that are texts."""
NUMBERS = ("amount_usd", "view_seconds")
"""Fields of `exchange_events` that are numbers."""

_LATER = ("chargeback", "verdict")
_WARM_UP = timedelta(days=14)
_SETTLED = timedelta(days=2)  # a message that nobody opened in two days stays unopened
_FRAUD_SCALE = 0.25
_SHARES = (0.6, 0.15, 0.25)


def simulated(name: str, *, num_users: int = 2000, days: int = 120, seed: int = 0) -> SequenceData:
    """Events of a simulated exchange with the labels of one task; the same seed, the same set.

    Parameters
    ----------
    name : str
        ``clicks``: a row per message sent, 1 if it was opened; as of when it was sent (the
        message itself is the last event).
        ``conversions``: a row per user and week, at the user's first visit of the week; 1 if
        a purchase follows within 7 days.
        ``segments``: a row per user, 30 days before the end. ``cohort`` is what they do in
        those days (gone, looks, buys, trades); ``taste`` is planted: which of four latent
        tastes is their strongest.
        ``payments``: a row per purchase and withdrawal, 1 if it is fraud; under 1 % are.
    num_users : int, > 0
        300 are enough for a test; a benchmark wants some thousands.
    days : int, >= 60

    Returns
    -------
    SequenceData
        Split by time (60 % of it for train, 15 % valid, 25 % test, with a gap between them as
        long as labels need to come true), segments by user.

    Raises
    ------
    InvalidInput
        If there is no such task or a number is out of range.

    Examples
    --------
    >>> simulated("segments", num_users=100, days=60).task("cohort").kind
    'classes'
    """
    if name not in _TASKS:
        raise InvalidInput(
            f"expected one of {', '.join(_TASKS)}, got `{name}`" + did_you_mean(name, _TASKS)
        )
    if days < 60:
        raise InvalidInput(f"expected at least 60 days, got {days}; labels need time to come true")
    if name == "payments":
        simulation = simulate(
            num_users=num_users, days=days, seed=seed, fraud_scale=_FRAUD_SCALE, settle=False
        )
    else:
        simulation = simulate(num_users=num_users, days=days, seed=seed, scenarios=(), settle=False)
    labels, tasks = _TASKS[name](simulation, seed)
    return SequenceData(f"exchange_{name}", exchange_events(simulation), labels, tasks)


def simulated_names() -> tuple[str, ...]:
    """Names that `simulated` takes."""
    return tuple(_TASKS)


def exchange_events(simulation: Simulation) -> pl.DataFrame:
    """What users of a simulation did: ``user``, ``happened_at``, ``type``, the fields.

    The fields are `TEXTS` and `NUMBERS`; one that a type of event lacks is null. No field
    names a person, a device, a card or a wallet.
    """
    frames = []
    for name in SCHEMA.types:
        if name in _LATER:
            continue
        frame = simulation.frame(name)
        frames.append(
            frame.select(
                "user",
                "happened_at",
                pl.lit(name).alias("type"),
                *(_field(frame, field, pl.String()) for field in TEXTS),
                *(_field(frame, field, pl.Float64()) for field in NUMBERS),
            )
        )
    return pl.concat(frames).sort("user", "happened_at", maintain_order=True)


def _field(frame: pl.DataFrame, name: str, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name) if name in frame.columns else pl.lit(None)
    return column.cast(kind).alias(name)


def _clicks(simulation: Simulation, seed: int) -> tuple[pl.DataFrame, tuple[Task, ...]]:
    opened = simulation.frame("notification_opened")["about"]
    rows = simulation.frame("notification_sent").select(
        "user",
        as_of="happened_at",
        y_opened=pl.col("id").is_in(opened.implode()).cast(pl.Int8),
    )
    return _by_time(rows, simulation, known_after=_SETTLED), (Task("clicks", "y_opened"),)


def _conversions(simulation: Simulation, seed: int) -> tuple[pl.DataFrame, tuple[Task, ...]]:
    week = timedelta(days=7)
    visits = (
        simulation.frame("login")
        .sort("happened_at", "id")
        .unique(["user", pl.col("happened_at").dt.truncate("1w")], keep="first")
        .select("user", as_of="happened_at")
        .sort("as_of")
    )
    bought = simulation.frame("purchase").select("user", bought="happened_at").sort("bought")
    rows = visits.join_asof(
        bought,
        left_on="as_of",
        right_on="bought",
        by="user",
        strategy="forward",
        tolerance=week,
        allow_exact_matches=False,
        check_sortedness=False,
    ).select("user", "as_of", y_buys=pl.col("bought").is_not_null().cast(pl.Int8))
    return _by_time(rows, simulation, known_after=week), (Task("conversions", "y_buys"),)


def _segments(simulation: Simulation, seed: int) -> tuple[pl.DataFrame, tuple[Task, ...]]:
    as_of = _end(simulation) - timedelta(days=30)
    old = simulation.frame("signup").filter(pl.col("happened_at") < as_of - _WARM_UP)
    rows = old.select("user").join(simulation.tastes, on="user", how="left").sort("user")
    taste = rows["taste"].list.arg_max().cast(pl.String)
    for name in ("page_view", "purchase", "sale"):
        some = simulation.frame(name).filter(pl.col("happened_at") > as_of)
        counts = some.group_by("user").agg(pl.len().alias(name))
        rows = rows.join(counts, on="user", how="left", maintain_order="left")
    cohort = (
        pl.when(pl.col("sale") > 0)
        .then(pl.lit("trades"))
        .when(pl.col("purchase") > 0)
        .then(pl.lit("buys"))
        .when(pl.col("page_view") > 0)
        .then(pl.lit("looks"))
        .otherwise(pl.lit("gone"))
    )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(32,)))
    labels = rows.select(
        "user",
        pl.lit(as_of).cast(INSTANT).alias("as_of"),
        y_cohort=cohort,
        y_taste="taste" + taste,
        split=pl.Series(rng.choice(SPLITS, p=_SHARES, size=rows.height)),
    )
    return labels, (Task("cohort", "y_cohort", "classes"), Task("taste", "y_taste", "classes"))


def _payments(simulation: Simulation, seed: int) -> tuple[pl.DataFrame, tuple[Task, ...]]:
    frames = [
        simulation.frame(name).select("id", "user", as_of="happened_at")
        for name in ("purchase", "withdrawal")
    ]
    truth = simulation.event_truth.select("id", y_fraud=pl.col("is_fraud").cast(pl.Int8))
    rows = pl.concat(frames).join(truth, on="id", how="inner").drop("id").sort("as_of", "user")
    return _by_time(rows, simulation, known_after=timedelta()), (Task("payments", "y_fraud"),)


def _by_time(rows: pl.DataFrame, simulation: Simulation, *, known_after: timedelta) -> pl.DataFrame:
    """Rows whose label is known by the end, split by time; none reaches into a later part."""
    # Each part is followed by as long as its labels need to come true: a label of train that
    # comes true in valid would tell of valid's own time.
    at, begin = pl.col("as_of"), _instant(simulation.start) + _WARM_UP
    span = _end(simulation) - begin - len(SPLITS) * known_after
    parts = []
    for split, share in zip(SPLITS, _SHARES, strict=True):
        end = begin + span * share
        parts.append(rows.filter((at >= begin) & (at < end)).with_columns(split=pl.lit(split)))
        begin = end + known_after
    return pl.concat(parts).sort("as_of", "user")


def _instant(at: int) -> datetime:
    return pl.Series([at]).cast(INSTANT).item()  # type: ignore[no-any-return]


def _end(simulation: Simulation) -> datetime:
    return _instant(simulation.end)


_TASKS: dict[str, Callable[[Simulation, int], tuple[pl.DataFrame, tuple[Task, ...]]]] = {
    "clicks": _clicks,
    "conversions": _conversions,
    "segments": _segments,
    "payments": _payments,
}
