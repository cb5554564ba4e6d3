"""``chopmark foundation target``: Smart Targeting, a campaign from the command line.

The whole campaign is one file: a row per message, with who engaged. `plan` decides whom to
notify today and adds them, `answer` writes down who engaged, `report` draws what it brought.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from cyclopts import Parameter
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chopmark.cli.easyml import check_output
from chopmark.cli.eventtables import (
    AsOf,
    Fields,
    Numbers,
    TimeColumn,
    TypeColumn,
    UserColumn,
    instant_of,
    names_of,
    read_histories,
)
from chopmark.cli.options import check_share
from chopmark.cli.show import console, number, progress, say, table
from chopmark.cli.spaces import check_fits, load_space, need_torch
from chopmark.errors import InvalidInput, InvalidTable, MissingExtra, did_you_mean
from chopmark.models.artifact import write_whole

if TYPE_CHECKING:
    from chopmark.datasets.campaigns import Campaign
    from chopmark.foundation import Learner, SmartTargeting
    from chopmark.histories import Histories

State = Annotated[Path, Parameter(help="File of the campaign (Parquet): all messages so far.")]

_WRITERS: dict[str, Callable[[pl.DataFrame, io.BytesIO], object]] = {
    ".csv": lambda frame, file: frame.write_csv(file),
    ".jsonl": lambda frame, file: frame.write_ndjson(file),
    ".parquet": lambda frame, file: frame.write_parquet(file),
}
_DAY = 86_400_000_000
_SHOWN = ("user", "day", "why", "score")


def plan(
    state: State,
    events: Path,
    *,
    budget: int,
    out: Path | None = None,
    candidates: Path | None = None,
    space: Path | None = None,
    explore: float = 0.1,
    cap: int = 1,
    cap_days: int | None = None,
    day: int | None = None,
    as_of: AsOf = None,
    user: UserColumn = None,
    time: TimeColumn = None,
    type: TypeColumn = None,
    fields: Fields = None,
    numbers: Numbers = None,
    seed: int = 0,
) -> None:
    """Say whom to notify today: a random group, and the best of the others.

    Parameters
    ----------
    events
        Table with a row per event, or folder of histories.
    budget
        Messages of a day.
    out
        File for the list: .csv, .jsonl or .parquet. Without it, it is printed as CSV.
    candidates
        Table with a column `user` of all who may be notified; everyone with an event by then if
        not given.
    space
        File that pretrain wrote: trees on its vectors and the aggregates then learn, instead of a
        line through what users choose and when they were active.
    explore
        Share of the budget for the random group.
    cap
        Messages to one user, within --cap-days or in the whole campaign.
    cap_days
        Days that the cap is for.
    day
        Number of the day; the days since the campaign began if not given.
    seed
        Key of the random group: give each campaign its own, and keep it.
    """
    check_share("explore", explore)
    if out is not None:
        if out.suffix not in _WRITERS:
            raise InvalidInput(f"expected a file that ends in {', '.join(_WRITERS)}, got `{out}`")
        check_output(out, state, events, *([] if candidates is None else [candidates]))
    check_output(state, events, *([] if candidates is None else [candidates]))
    if space is not None:
        need_torch()
        check_output(state, space)
    histories = read_histories(events, user, time, type, fields, numbers)
    at = histories.until if as_of is None else instant_of(as_of)
    targeting = _targeting(
        _learner(histories, space, events),
        budget=budget, explore=explore, cap=cap, cap_days=cap_days, seed=seed,
    ).resume(state)  # fmt: skip
    asked = _day(targeting.sent, at) if day is None else day
    again = targeting.sent.filter(pl.col("day") == asked).height > 0
    rows = _candidates(histories, at, candidates, user or "user")
    # Without a file the list alone is printed, as another program may read it.
    with nullcontext() if out is None else progress("learn, and score the candidates"):
        planned = targeting.plan(asked, rows)
    targeting.save(state)
    listed = planned.select(_SHOWN)
    if out is None:
        print(listed.write_csv(), end="")
        return
    buffer = io.BytesIO()
    _WRITERS[out.suffix](listed, buffer)
    write_whole(out, buffer.getvalue())
    random = planned.filter(pl.col("why") == "explore").height
    engaged = int(targeting.sent["engaged"].fill_null(0).sum())
    console.print(
        f"day {asked}: {planned.height:,} to notify, {random:,} of them drawn at random, in {out}",
        soft_wrap=True,
        highlight=False,
    )
    if again:
        say("this day was planned before; the list is the same")
    elif random == planned.height and explore < 1.0:
        say(f"{engaged} have engaged so far, too few to learn from: all are drawn at random")
    if planned.height < budget and not again:
        say(f"{planned.height:,} instead of {budget:,}: no more may be notified")


def answer(
    state: State,
    engaged: Path | None = None,
    *,
    users: str | None = None,
    user: UserColumn = None,
    day: int | None = None,
) -> None:
    """Write down who of a day's users engaged; all others of that day did not, so far.

    Parameters
    ----------
    engaged
        Table with a column `user` of those who engaged; it may have no rows.
    users
        Their names, with commas, instead of a table.
    day
        Of the message; the last one planned if not given.
    """
    from chopmark.tabular.tables import frame_of

    if (engaged is None) == (users is None):
        raise InvalidInput("expected a table of those who engaged or --users, and not both")
    if engaged is not None:
        check_output(state, engaged)
    targeting = _opened(state)
    sent = targeting.sent
    if engaged is not None:
        names = _column(frame_of(engaged), user or "user", engaged)
    else:
        names = pl.Series("user", names_of(users), dtype=pl.String)
    asked = int(sent["day"][-1]) if day is None else day
    targeting.answer(asked, _as(names, sent.schema["user"]).unique())
    targeting.save(state)
    on_day = targeting.sent.filter(pl.col("day") == asked)
    count = int(on_day["engaged"].sum())
    console.print(
        f"day {asked}: {count:,} of {on_day.height:,} engaged ({count / on_day.height:.1%})",
        highlight=False,
    )


def report(state: State, out: Path) -> None:
    """Draw what a campaign brought: the targeted against the random group of the same days.

    Parameters
    ----------
    out
        The HTML file; it asks no network.
    """
    from chopmark.report.campaign import write_campaign

    check_output(out, state)
    made = write_campaign(_opened(state).sent, out)
    say(made.headline)
    for warning in made.warnings:
        say(f"note: {warning}")
    console.print(f"drawn in {out}", soft_wrap=True, highlight=False)


def simulate(
    *,
    users: int = 5000,
    days: int = 5,
    budget: int = 200,
    explore: float = 0.1,
    base: float = 0.02,
    seeds: int = 1,
    steps: int | None = None,
    space: bool = True,
    report: Path | None = None,
) -> None:
    """Run one campaign about a new asset with every strategy, on users who are simulated.

    Parameters
    ----------
    users
        Of the exchange.
    days
        Of the campaign.
    budget
        Messages of a day.
    explore
        Share of the budget for the random group.
    base
        Share of users who would engage on the first day.
    seeds
        Exchanges to run it on; figures are sums over them.
    steps
        Of pre-training; the usual number if not given.
    space
        Whether to pre-train a user model; --no-space leaves it out.
    report
        HTML page of the last exchange's campaign, by choices and habits.
    """
    from chopmark.datasets.campaigns import Campaign
    from chopmark.report.campaign import write_campaign

    check_share("explore", explore)
    for name, value in (
        ("seeds", seeds),
        ("users", users),
        ("steps", 1 if steps is None else steps),
    ):
        if value < 1:
            raise InvalidInput(f"expected --{name} of at least 1, got {value}")
    if report is not None:
        check_output(report)
    if space:
        try:
            need_torch()
        except MissingExtra as error:
            say(f"left out: the strategy with a user model; {error}")
            space = False
    by_name: dict[str, list[pl.DataFrame]] = {}
    with _working() as told:
        for seed in range(seeds):
            told(f"seed {seed}: simulate users")
            campaign = Campaign(users, days=days, base=base, seed=seed)
            for name, (learner, share, least) in _strategies(
                campaign, seed, explore, steps, space, told
            ).items():
                told(f"seed {seed}: {name}")
                sent = _played(campaign, learner, budget, share, least, seed)
                by_name.setdefault(name, []).append(sent)
    _show_strategies(by_name, days)
    if report is not None:
        write_campaign(by_name["choices and habits"][-1], report)
        console.print(f"drawn in {report}", soft_wrap=True, highlight=False)


def _targeting(learner: "Learner", **settings: Any) -> "SmartTargeting":
    from chopmark.foundation import SmartTargeting

    return SmartTargeting(learner, **settings)


def _learner(histories: "Histories", space: Path | None, events: Path) -> "Learner":
    from chopmark.foundation.learners import (
        LinearLearner,
        TreeLearner,
        aggregates_of,
        beside,
        choices_of,
        embeddings_of,
        habits_of,
    )

    if space is None:
        return LinearLearner(beside(choices_of(histories), habits_of(histories)))
    model = load_space(space)
    check_fits(model, histories, events)
    return TreeLearner(beside(embeddings_of(model, histories), aggregates_of(histories)))


def _opened(state: Path) -> "SmartTargeting":
    """A campaign that has begun; it has no learner, as nothing is planned."""
    from chopmark.foundation import SmartTargeting, at_random

    if not state.is_file():
        raise InvalidInput(
            f"expected a campaign at `{state}`, got no such file; `chopmark foundation target "
            "plan` begins one"
        )
    targeting = SmartTargeting(at_random(), budget=1).resume(state)
    if targeting.sent.is_empty():
        raise InvalidInput(f"expected messages in the campaign `{state}`, got none; plan a day")
    return targeting


def _day(sent: pl.DataFrame, at: int) -> int:
    """The day of an instant, by the calendar in UTC; a campaign begins with day 0."""
    if sent.is_empty():
        return 0
    first = int(sent["as_of"].dt.epoch("us")[0])
    return int(sent["day"][0]) + at // _DAY - first // _DAY


def _candidates(histories: "Histories", at: int, path: Path | None, column: str) -> pl.DataFrame:
    """All who may be notified, with the instant to look from."""
    if path is None:
        names = histories.users.filter(pl.Series(histories.every(at).lengths > 0))
        if names.is_empty():
            raise InvalidInput("expected users with an event by the instant of --as-of, got none")
    else:
        from chopmark.tabular.tables import frame_of

        names = _as(_column(frame_of(path), column, path), histories.users.dtype)
    instants = pl.lit(at).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"user": names}).with_columns(as_of=instants)


def _column(frame: pl.DataFrame, name: str, path: Path) -> pl.Series:
    if name not in frame.columns:
        raise InvalidTable(
            f"expected a column `{name}` in `{path}`" + did_you_mean(name, frame.columns)
        )
    return frame[name].alias("user")


def _as(names: pl.Series, kind: pl.DataType) -> pl.Series:
    """Users of the type that they have elsewhere."""
    try:
        return names.cast(kind)
    except pl.exceptions.PolarsError as error:
        raise InvalidTable(
            f"expected users of type {kind}, as in the events, got {names.dtype}"
        ) from error


def _strategies(
    campaign: "Campaign",
    seed: int,
    explore: float,
    steps: int | None,
    space: bool,
    told: Callable[[str], None],
) -> dict[str, tuple[Any, float, int]]:
    """By name: the learner, the share to explore, and how many must engage before it learns."""
    from chopmark.datasets.campaigns import hand_picked
    from chopmark.foundation.learners import (
        LinearLearner,
        TreeLearner,
        aggregates_of,
        at_random,
        beside,
        by_rule,
        choices_of,
        embeddings_of,
        habits_of,
    )

    def picked(rows: pl.DataFrame) -> Any:
        return hand_picked(campaign.events, rows)

    def knows(rows: pl.DataFrame) -> Any:
        return campaign.chances((rows["as_of"][0] - campaign.as_of(0)).days, rows["user"])

    aggregates = aggregates_of(campaign.events)
    line = LinearLearner(beside(choices_of(campaign.events), habits_of(campaign.events)))
    found: dict[str, tuple[Any, float, int]] = {
        "random": (at_random(), 0.0, 0),
        "active in 7 days, holds over 100 dollars": (by_rule(picked), 0.0, 0),
        "aggregates": (TreeLearner(aggregates, seed=seed), explore, 5),
        "choices and habits": (line, explore, 5),
    }
    if space:
        from chopmark.cli.spaces import pace_of
        from chopmark.foundation.usermodel import UserModel
        from chopmark.histories import Histories

        told(f"seed {seed}: pre-train")
        before = Histories.from_frame(campaign.events, until=campaign.as_of(0))
        model = UserModel(pace=pace_of(steps, None), seed=seed).fit(before)
        features = beside(embeddings_of(model, campaign.events), aggregates)
        found["embedding and aggregates"] = (TreeLearner(features, seed=seed), explore, 5)
    found["who knows the true chances"] = (by_rule(knows), 0.0, 0)
    return found


def _played(
    campaign: "Campaign", learner: Any, budget: int, explore: float, least: int, seed: int
) -> pl.DataFrame:
    from chopmark.foundation import SmartTargeting

    targeting = SmartTargeting(
        learner, budget=budget, explore=explore, least_engaged=least, seed=seed
    )
    for day in range(campaign.days):
        plan = targeting.plan(day, campaign.candidates(day))
        targeting.answer(day, campaign.engaged(day, plan["user"]))
    return targeting.sent


def _show_strategies(by_name: dict[str, list[pl.DataFrame]], days: int) -> None:
    sums = {
        name: [sum(int(one.filter(pl.col("day") == day)["engaged"].sum()) for one in sent)
               for day in range(days)]
        for name, sent in by_name.items()
    }  # fmt: skip
    at_random = sum(sums["random"])
    rows = [
        (name, f"{sum(engaged):,}", *(f"{one:,}" for one in engaged),
         number(sum(engaged) / at_random, 2) if at_random else "-")
        for name, engaged in sums.items()
    ]  # fmt: skip
    header = ("strategy", "engaged", *(f"day {day}" for day in range(days)), "times random")
    table("Who engaged", header, rows)


@contextmanager
def _working() -> Iterator[Callable[[str], None]]:
    """A bar without an end over a block that says what it is at."""
    with Progress(TextColumn("{task.description:<42}"), BarColumn(), TimeElapsedColumn(),
                  console=console) as bar:  # fmt: skip
        task = bar.add_task("", total=None)
        yield lambda what: bar.update(task, description=what)
        bar.update(task, description="done", completed=1, total=1)
