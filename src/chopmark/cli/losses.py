"""``chopmark losses``: what decisions prevented, what was suffered, and what it cost good users."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from cyclopts import Parameter

from chopmark.cli.application import load_application
from chopmark.cli.easyml import check_output
from chopmark.cli.options import App, Data, check_share
from chopmark.cli.show import number, progress, say, table
from chopmark.errors import InvalidInput
from chopmark.events import Schema
from chopmark.features import Label
from chopmark.models.artifact import write_whole
from chopmark.pipelines.folder import DataFolder
from chopmark.pipelines.losses import FEWEST, Losses, Terms, losses
from chopmark.report.bands import Estimate
from chopmark.times import Instant, instant, moment

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_GOOD = "verdict == 'good'"
_PARTS = {
    "decisions": lambda row: f"{row['decisions']:,}",
    "asked, USD": lambda row: number(row["asked_usd"], 0),
    "stopped": lambda row: number(row["stopped_usd"], 0),
    "prevented": lambda row: number(row["prevented_usd"], 0),
    "suffered": lambda row: number(row["suffered_usd"], 0),
    "friction": lambda row: number(row["friction_usd"], 0),
    "open": lambda row: number(row["open_usd"], 0),
    "net": lambda row: number(row["net_usd"], 0),
}  # fmt: skip
_OF_RULES: dict[str, Callable[[dict[str, Any]], str]] = {
    "alone": lambda row: number(row["alone_usd"], 0),
    "with others": lambda row: number(row["shared_usd"], 0),
}


def report(
    data: Data,
    *,
    app: App = None,
    since: Annotated[
        str | None, Parameter(help="Decisions from here on: `2026-05-01`, or an instant.")
    ] = None,
    until: Annotated[str | None, Parameter(help="Decisions before this.")] = None,
    as_of: Annotated[
        str | None,
        Parameter(help="Neither decisions nor labels known later; the newest event by default."),
    ] = None,
    by: Annotated[
        Literal["rule", "action", "month", "about-type"],
        Parameter(help="Parts that are shown; rule is whatever stopped the money."),
    ] = "rule",
    matures: Annotated[
        str | None,
        Parameter(help="Age from which no label means good; that of the label by default."),
    ] = None,
    again: Annotated[
        str, Parameter(help="So soon after another, an attempt asks for the same money.")
    ] = "3d",
    reach: Annotated[
        str | None,
        Parameter(help="A bad user's label reaches so far back; to all decisions by default."),
    ] = None,
    good: Annotated[
        str | None,
        Parameter(
            help="Condition over the fields of the label's events that clears; "
            f"`{_GOOD}` by default where there is such a field."
        ),
    ] = None,
    margin: Annotated[float, Parameter(help="Earned of a good dollar: 0.02 for 2 %.")] = 0.02,
    stop_usd: Annotated[float, Parameter(help="Cost of each good decision stopped.")] = 1.0,
    csv: Annotated[Path | None, Parameter(help="File for the ledger, a row per decision.")] = None,
    html: Annotated[Path | None, Parameter(help="File for a page with months drawn.")] = None,
) -> None:
    """Show what decisions prevented, what was suffered, and what it cost good users."""
    check_share("margin", margin)
    begin, end, at = (
        None if text is None else _instant(text, name)
        for text, name in ((since, "since"), (until, "until"), (as_of, "as-of"))
    )
    if begin is not None and end is not None and begin >= end:
        raise InvalidInput(f"expected --until later than --since, got {since} to {until}")
    for out in (csv, html):
        if out is not None:
            check_output(out, data / "log.sqlite")
    if csv is not None and csv == html:
        raise InvalidInput(f"expected two files for --csv and --html, got `{csv}` twice")
    application, label = load_application(app)
    terms = Terms(
        matures=matures or label.matures, again=again, reach=reach, margin=margin, stop_usd=stop_usd
    )
    clears = good if good is not None else _clearing(label, application.catalog.schema)
    if not (data / "log.sqlite").is_file():
        raise InvalidInput(f"expected a log in {data}, got none; name the folder of an ingest")
    with (
        DataFolder(data).open_log(application, read_only=True) as log,
        progress("read the log", log.last_offset) as done,
    ):
        found = losses(
            application, log, label, good=clears, as_of=at, since=begin, until=end, terms=terms,
            on_progress=done,
        )  # fmt: skip
    if csv is not None:
        write_whole(csv, _csv(found).encode())
    if html is not None:
        from chopmark.pipelines.losspage import page

        write_whole(html, page(found).encode())
    show(found, by, _period(begin, end))


def show(found: Losses, by: str, period: str) -> None:
    """The ledger on the terminal: the sums, their parts, what is not counted, what is assumed."""
    figures = found.figures
    title = f"{figures.decisions:,} decisions about money{period}"
    table(title, ("USD", "careful", "95 %", "raw"), summary(found))
    key = by.replace("-", "_")
    parts = found.by(key)  # type: ignore[arg-type]
    columns = _PARTS | (_OF_RULES if key == "rule" else {})
    rows = [
        (row["name"], *(cell(row) for cell in columns.values()))
        for row in parts.iter_rows(named=True)
    ]  # fmt: skip
    title = "What stopped it" if key == "rule" else f"By {by.replace('-', ' ')}"
    table(title, ("", *columns), rows)
    if key == "rule":
        say("Several causes of one decision share it in equal parts; with others is in full.")
    _show_trials(found.trials)
    rows = [
        (row["why"], f"{row['num']:,}", number(row["usd"], 0) if row["usd"] else "-")
        for row in found.uncounted.filter(pl.col("num") > 0).iter_rows(named=True)
    ]
    table("In none of the figures", ("why", "number", "USD"), rows)
    for sentence in found.foot:
        say(f"- {sentence}")


def summary(found: Losses) -> list[tuple[str, str, str, str]]:
    """Lines of the ledger's sums: what, careful, its interval, raw."""
    one, bands = found.figures, found.intervals

    def line(
        what: str, usd: float, raw: float | None = None, band: str = ""
    ) -> tuple[str, str, str, str]:
        return (
            what,
            number(usd, 0),
            _band(bands[band]) if band else "",
            "" if raw is None else number(raw, 0),
        )

    hours = "" if one.waited_hours != one.waited_hours else f" ({one.waited_hours:.1f} hours later)"
    return [
        line("asked for", one.asked_usd),
        line("let through", one.allowed_usd),
        line("stopped or held", one.stopped_usd, one.refused_usd),
        line("prevented", one.prevented_usd, one.prevented_raw_usd, "prevented_usd"),
        line("  of it by who was known as bad", one.after_known_usd),
        line("suffered", one.suffered_usd, one.charged_back_usd, "suffered_usd"),
        line("  of it charged back", one.charged_back_usd),
        line("  of it perhaps the same in and out", one.both_ways_usd),
        line("refused to users who were cleared", one.cleared_usd),
        line("refused to users of whom nothing was learned", one.quiet_usd),
        line(f"sent to good users after all{hours}", one.delayed_usd),
        line("cost of this friction", one.cost_usd, one.cost_raw_usd, "cost_usd"),
        line("open: stopped", one.open_stopped_usd),
        line("open: let through", one.open_allowed_usd),
        line("net: prevented - suffered - cost", one.net_usd, one.net_raw_usd, "net_usd"),
    ]


def _show_trials(trials: pl.DataFrame) -> None:
    if trials.is_empty():
        return
    rows = [
        (
            f"{row['rule']} v{row['version']} on {row['share']:.0%}",
            f"{row['users']:,}",
            f"{row['control_users']:,}",
            number(row["loss_usd"], 2),
            number(row["control_loss_usd"], 2),
            "too few"
            if row["prevented_usd"] is None
            else f"{number(row['prevented_usd'], 0)} "
            f"({number(row['low'], 0)} to {number(row['high'], 0)})",
        )
        for row in trials.iter_rows(named=True)
    ]
    header = ("rule", "users", "spared", "lost by each", "lost by each spared", "prevented, USD")
    table("Rules that acted on a share of the users: what the others lost", header, rows)
    say(f"Estimated from {FEWEST} users on either side on; users are shared out by chance.")


def _csv(found: Losses) -> str:
    causes = pl.col("causes").list.join("; ")
    return found.ledger.with_columns(causes).write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")


def _band(band: Estimate) -> str:
    return f"{number(band.low, 0)} to {number(band.high, 0)}"


def _clearing(label: Label, schema: Schema) -> str | None:
    """The condition that clears where the label's events have a verdict."""
    fields = {name for event in label.events for name in schema.fields_of.get(event, ())}
    return _GOOD if "verdict" in fields and schema.fields["verdict"].kind == "text" else None


def _period(begin: Instant | None, end: Instant | None) -> str:
    since = "" if begin is None else f" from {moment(begin):%Y-%m-%d %H:%M}"
    return since + ("" if end is None else f" until {moment(end):%Y-%m-%d %H:%M}")


def _instant(text: str, name: str) -> Instant:
    """An instant, or the first one of a day."""
    try:
        return instant(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    except InvalidInput as error:
        raise InvalidInput(f"--{name}: {error}") from error
