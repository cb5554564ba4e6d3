"""``chopmark fraud-rate``: what fraud costs by purchase cohort, and whether it is too much."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from chopmark.cli.application import load_application
from chopmark.cli.show import console, number, progress, table
from chopmark.decisions.decision import Decision
from chopmark.decisions.readouts import Cohort, FraudRates, fraud_rates, outcomes
from chopmark.errors import InvalidInput, InvalidTable, did_you_mean
from chopmark.events import Event, EventLog, type_name
from chopmark.pipelines.folder import DataFolder
from chopmark.times import instant, moment

_MOMENT = pl.Datetime("us", "UTC")
_PURCHASES = {
    "id": pl.String(),
    "user": pl.String(),
    "happened_at": _MOMENT,
    "known_at": _MOMENT,
    "amount_usd": pl.Float64(),
    "rail": pl.String(),
}
_CHARGEBACKS = {
    "about": pl.String(),
    "user": pl.String(),
    "known_at": _MOMENT,
    "amount_usd": pl.Float64(),
}
_DECISIONS = {
    "about": pl.String(),
    "user": pl.String(),
    "known_at": _MOMENT,
    "action": pl.String(),
    "allowed_usd": pl.Float64(),
}


def fraud_rate(
    data: Path,
    *,
    app: str | None = None,
    as_of: str | None = None,
    cohort: Cohort = "week",
    target: float | None = None,
    purchase: str = "purchase",
    chargeback: str = "chargeback",
) -> None:
    """Show chargeback losses over purchase volume by purchase cohort, matured, with a band.

    Ends with exit code 1 if a mature cohort is above the target.

    Parameters
    ----------
    data
        Folder with the log; may be in use.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    as_of
        Instant such as `2026-05-01T00:00:00Z`: only what was known then; the newest by default.
    cohort
        Purchases of a week or of a month.
    target
        Highest fraud rate wanted, such as 0.003.
    purchase
        Event type with fields user and amount_usd, perhaps rail.
    chargeback
        Event type with fields about, user and amount_usd.
    """
    application, _ = load_application(app)
    schema = application.catalog.schema
    for name, needed in ((purchase, {"user", "amount_usd"}), (chargeback, {"about", "amount_usd"})):
        lacks = needed - set(schema.fields_of.get(name, ()))
        if lacks:
            raise InvalidInput(
                f"expected an event type `{name}` with {', '.join(sorted(lacks))} in the schema"
                + did_you_mean(name, schema.types)
            )
    if not (data / "log.sqlite").is_file():
        raise InvalidInput(f"expected a log in {data}, got none; name the folder of an ingest")
    with DataFolder(data).open_log(application, read_only=True) as log:
        last = log.last_known_at
        if last is None:
            raise InvalidTable(f"expected events in {data}, got an empty log")
        now = moment(last if as_of is None else instant(as_of))
        bought, lost, bad, decided = _frames(log, purchase, chargeback)
    rates = fraud_rates(bought, lost, as_of=now, cohort=cohort, target=target)
    _show(rates, cohort, f"{now:%Y-%m-%d %H:%M} UTC")
    done = outcomes(decided, bought, bad, as_of=now, cohort=cohort)
    if not done.is_empty():
        _show_outcomes(done, cohort)
    if target is not None:
        console.print(rates.statement, highlight=False, soft_wrap=True)
        if rates.is_alarm:
            raise SystemExit(1)


def _frames(
    log: EventLog, purchase: str, chargeback: str
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Purchases, chargebacks, bad users and decisions of a log."""
    rows: dict[str, list[tuple[Any, ...]]] = {"bought": [], "lost": [], "bad": [], "decided": []}
    with progress("read the log", log.last_offset) as done:
        for batch in log.read():
            for _, event in batch:
                for name, row in _rows(event, purchase, chargeback):
                    rows[name].append(row)
            done(batch[-1][0])
    return (
        pl.DataFrame(rows["bought"], schema=_PURCHASES, orient="row"),
        pl.DataFrame(rows["lost"], schema=_CHARGEBACKS, orient="row"),
        pl.DataFrame(rows["bad"], schema={"user": pl.String(), "known_at": _MOMENT}, orient="row"),
        pl.DataFrame(rows["decided"], schema=_DECISIONS, orient="row"),
    )


def _rows(
    event: Event, purchase: str, chargeback: str
) -> Iterator[tuple[str, tuple[Any, ...]]]:  # fmt: skip
    kind = type_name(event)
    user = getattr(event, "user", None)
    if kind == purchase:
        amount, rail = getattr(event, "amount_usd", None), getattr(event, "rail", None)
        yield "bought", (event.id, user, event.happened_at, event.known_at, amount, rail)
    elif kind == chargeback:
        about, amount = getattr(event, "about", None), getattr(event, "amount_usd", None)
        yield "lost", (about, user, event.known_at, amount)
        yield "bad", (user, event.known_at)
    elif kind == "verdict" and getattr(event, "verdict", None) == "bad":
        yield "bad", (user, event.known_at)
    elif isinstance(event, Decision):
        yield (
            "decided",
            (event.about, event.user, event.known_at, event.action, event.allowed_usd),
        )


def _show(rates: FraudRates, cohort: str, as_of: str) -> None:
    header = (cohort, "purchases", "volume USD", "lost so far", "reported", "maturity", "factor",
              "matured", "band", "")  # fmt: skip
    marks = {True: "above", False: "within", None: ""}
    table(
        f"Fraud rate by {cohort} of purchase, in percent of volume, as known on {as_of}",
        header,
        [
            (
                f"{row['cohort']:%Y-%m-%d}",
                f"{row['purchases']:,}",
                number(row["volume_usd"], 0),
                number(row["reported_usd"], 0),
                number(100 * row["reported_rate"], 3),
                number(row["maturity"], 2),
                number(row["factor"], 2),
                number(100 * row["matured_rate"], 3),
                f"{number(100 * row['low'], 3)} to {number(100 * row['high'], 3)}",
                marks[row["is_above"]] if row["is_mature"] else "immature",
            )
            for row in rates.cohorts.iter_rows(named=True)
        ],
    )
    console.print(
        f"all cohorts, matured: {number(100 * rates.pooled_rate, 3)} %; the last 30 days without "
        f"it: {number(100 * rates.naive_rate, 3)} %; chargebacks later than "
        f"{rates.horizon_days:.0f} days after a purchase cannot be seen yet",
        highlight=False,
        soft_wrap=True,
    )
    if rates.num_unmatched:
        console.print(f"{rates.num_unmatched:,} chargebacks are about no purchase of the log")


def _show_outcomes(done: pl.DataFrame, cohort: str) -> None:
    header = (cohort, "decisions", "asked USD", "allowed USD", "friction %", "false", "refused to "
              "good USD", "prevented USD", "passed to bad USD")  # fmt: skip
    table(
        "What the decisions did, judged by what is known of the users",
        header,
        [
            (
                f"{row['cohort']:%Y-%m-%d}",
                f"{row['decisions']:,}",
                number(row["asked_usd"], 0),
                number(row["allowed_usd"], 0),
                number(100 * row["friction_rate"], 2),
                f"{row['false_restrictions']:,} of {row['restricted']:,}",
                number(row["false_usd"], 0),
                number(row["prevented_usd"], 0),
                number(row["passed_usd"], 0),
            )
            for row in done.iter_rows(named=True)
        ],
    )
