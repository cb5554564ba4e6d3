"""``chopmark fraud-rate``: what fraud costs by purchase cohort, and whether it is too much."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import polars as pl
from cyclopts import Parameter

from chopmark.cli.application import load_application
from chopmark.cli.options import App, Data
from chopmark.cli.show import console, number, progress, say, table
from chopmark.decisions.decision import Decision
from chopmark.decisions.readouts import Cohort, FraudRates, fraud_rates, outcomes
from chopmark.errors import InvalidInput, InvalidTable, did_you_mean
from chopmark.events import Event, EventLog, type_name
from chopmark.pipelines.folder import DataFolder
from chopmark.times import Instant, instant, moment

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_COHORTS = {"week": "%Y-%m-%d", "month": "%Y-%m"}
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
    data: Data,
    *,
    app: App = None,
    as_of: Annotated[
        str | None,
        Parameter(
            help="Instant such as `2026-05-01T00:00:00Z`: only what was known then; the newest "
            "by default."
        ),
    ] = None,
    cohort: Annotated[Cohort, Parameter(help="Purchases of a week or of a month.")] = "week",
    target: Annotated[
        float | None,
        Parameter(help="Highest fraud rate wanted: 0.003 for 0.3 %; exit code 1 if one is above."),
    ] = None,
    last: Annotated[int, Parameter(help="Cohorts that are shown, the newest.")] = 12,
    wide: Annotated[
        bool,
        Parameter(
            help="All columns; they may need 130 characters.", negative="", show_default=False
        ),
    ] = False,
    purchase: Annotated[
        str, Parameter(help="Event type with fields user and amount_usd, perhaps rail.")
    ] = "purchase",
    chargeback: Annotated[
        str, Parameter(help="Event type with fields about, user and amount_usd.")
    ] = "chargeback",
) -> None:
    """Show chargeback losses over purchase volume by purchase cohort, matured, with a band.

    Ends with exit code 1 if a mature cohort is above the target.
    """
    if target is not None and not 0.0 < target <= 1.0:
        hint = f"; write {target / 100:g} for {target:g} %" if 1.0 < target <= 100.0 else ""
        raise InvalidInput(f"expected --target above 0 and at most 1, got {target:g}{hint}")
    if last < 1:
        raise InvalidInput(f"expected --last of one or more, got {last}")
    at = None if as_of is None else _instant(as_of)
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
        newest = log.last_known_at
        if newest is None:
            raise InvalidTable(f"expected events in {data}, got an empty log")
        now = moment(newest if at is None else at)
        bought, lost, bad, decided = _frames(log, purchase, chargeback)
    rates = fraud_rates(bought, lost, as_of=now, cohort=cohort, target=target)
    _show(rates, cohort, f"{now:%Y-%m-%d %H:%M} UTC", last=last, wide=wide)
    done = outcomes(decided, bought, bad, as_of=now, cohort=cohort)
    if not done.is_empty():
        _show_outcomes(done, cohort, last=last, wide=wide)
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


def _instant(as_of: str) -> Instant:
    try:
        return instant(as_of)
    except InvalidInput as error:
        hint = f"; add a time: {as_of}T00:00:00Z" if _DATE.fullmatch(as_of) else ""
        raise InvalidInput(f"--as-of: {error}{hint}") from error


def _show(rates: FraudRates, cohort: Cohort, as_of: str, *, last: int, wide: bool) -> None:
    marks = {True: "above", False: "within", None: ""}
    shown = {
        "purchases": lambda row: f"{row['purchases']:,}",
        "volume, USD": lambda row: number(row["volume_usd"], 0),
        "lost so far, USD": lambda row: number(row["reported_usd"], 0),
        "reported, %": lambda row: number(100 * row["reported_rate"], 3),
        "maturity": lambda row: number(row["maturity"], 2),
        "factor": lambda row: number(row["factor"], 2),
        "matured, %": lambda row: number(100 * row["matured_rate"], 3),
        "band, %": lambda row: f"{number(100 * row['low'], 3)} to {number(100 * row['high'], 3)}",
        "": lambda row: marks[row["is_above"]] if row["is_mature"] else "immature",
    }  # fmt: skip
    few = ("volume, USD", "reported, %", "matured, %", "band, %", "")
    _table(
        f"Fraud rate by {cohort} of purchase, in percent of volume, as known on {as_of}",
        rates.cohorts, cohort, shown, None if wide else few, last,
    )  # fmt: skip
    console.print(
        f"all cohorts, matured: {number(100 * rates.pooled_rate, 3)} %; the last 30 days without "
        f"it: {number(100 * rates.naive_rate, 3)} %; chargebacks later than "
        f"{rates.horizon_days:.0f} days after a purchase cannot be seen yet",
        highlight=False,
        soft_wrap=True,
    )
    if rates.num_unmatched:
        console.print(f"{rates.num_unmatched:,} chargebacks are about no purchase of the log")


def _show_outcomes(done: pl.DataFrame, cohort: Cohort, *, last: int, wide: bool) -> None:
    shown = {
        "decisions": lambda row: f"{row['decisions']:,}",
        "asked, USD": lambda row: number(row["asked_usd"], 0),
        "allowed, USD": lambda row: number(row["allowed_usd"], 0),
        "friction, %": lambda row: number(100 * row["friction_rate"], 2),
        "restricted": lambda row: f"{row['restricted']:,}",
        "good ones": lambda row: f"{row['false_restrictions']:,}",
        "refused to good, USD": lambda row: number(row["false_usd"], 0),
        "prevented, USD": lambda row: number(row["prevented_usd"], 0),
        "passed, USD": lambda row: number(row["passed_usd"], 0),
    }  # fmt: skip
    few = ("decisions", "restricted", "good ones", "prevented, USD", "passed, USD")
    _table(
        "What the decisions did, judged by what is known of the users",
        done, cohort, shown, None if wide else few, last,
    )  # fmt: skip
    say("Good ones are restricted wrongly; prevented and passed is what bad users asked for.")


def _table(
    title: str,
    rows: pl.DataFrame,
    cohort: Cohort,
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]],
    chosen: Sequence[str] | None,
    last: int,
) -> None:
    """The newest rows with these columns; a year is shown where they are of more than one."""
    newest = rows.tail(last)
    names = list(columns) if chosen is None else chosen
    same_year = newest["cohort"].dt.year().n_unique() == 1
    as_text = "%m-%d" if cohort == "week" and same_year else _COHORTS[cohort]
    table(
        title,
        (cohort, *names),
        [
            (f"{row['cohort']:{as_text}}", *(columns[name](row) for name in names))
            for row in newest.iter_rows(named=True)
        ],
    )
    if rows.height > last:
        console.print(f"{rows.height - last} older ones are not shown; see --last", highlight=False)
