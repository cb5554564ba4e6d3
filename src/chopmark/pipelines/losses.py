"""The ledger of losses: what decisions prevented, what was suffered, what it cost good users.

Each decision about money is a row. What was refused and what was let through is held against
what was learned by an instant:

    prevented   refused, and later known to be bad
    suffered    let through, and later known to be bad
    friction    refused, and cleared, or old enough that a label would have come
    open        too young to say

and nothing is counted twice. Attempts of one user and event type that follow each other within
`Terms.again` are one **series**. With A_i allowed before attempt i, the series wanted

    D = max over i of (A_i + asked_i),    and D - (all that it was allowed) stays stopped:

once, at the attempt that reaches D first. So a retry adds nothing, what was held and then sent
is no money stopped, nor is what was asked in parts; a banned user who tries all day counts by
the largest open attempt. Of the event types of one user only that with the most prevented money
counts, since a dollar bought is a dollar that would have been withdrawn. These figures are the
*careful* ones; the *raw* ones, every attempt for itself, stand beside them.

All is in whole cents until the end, so sums are the same in any order. Serves H13.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.engine import Application
from chopmark.errors import InvalidInput
from chopmark.events import EventLog
from chopmark.features import Label
from chopmark.pipelines.lossread import Record, read_record
from chopmark.report.bands import Z95, Estimate
from chopmark.times import DAY, HOUR, Instant, duration, moment

By = Literal["rule", "action", "month", "about_type"]
Ints = NDArray[np.int64]

PASSED = "let through"
"""The cause of a decision that stopped nothing."""
FEWEST = 20
"""Users on either side of a trial from which on it is estimated what a rule prevents."""

_CHUNK = 50  # bootstrap replicates at a time, for memory
_SERIES = ("user", "about_type")
_MONEY = ("asked", "allowed", "refused", "again", "stopped", "prevented", "other_way", "suffered",
          "charged_back", "friction", "delayed", "open_stopped", "open_allowed")  # fmt: skip
_IN_USD = (*_MONEY, "cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the ledger assumes; `Losses.foot` says all of it.

    Parameters
    ----------
    matures : str
        Age from which on a decision that nothing was learned about counts as good.
    again : str
        An attempt that comes so soon after the last of its series asks for the same money.
    reach : str, optional
        A label of a user reaches so far back; to all decisions by default, as in training.
    margin : float
        Earned of a dollar of a good user, and lost where it is refused.
    stop_usd : float
        Of each good decision that was stopped: support, and the time of who looked.
    replicates, seed : int
        Of the bootstrap over users.

    Raises
    ------
    InvalidInput
        If a number or a duration cannot be.
    """

    matures: str = "60d"
    again: str = "3d"
    reach: str | None = None
    margin: float = 0.02
    stop_usd: float = 1.0
    replicates: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for length in (self.matures, self.again, self.reach or "1d"):
            duration(length)
        if not 0.0 <= self.margin <= 1.0:
            raise InvalidInput(f"expected a margin from 0 to 1, got {self.margin!r}")
        if not 0.0 <= self.stop_usd < math.inf:
            raise InvalidInput(f"expected a cost of at least 0 USD, got {self.stop_usd!r}")
        if self.replicates < 1:
            raise InvalidInput(f"expected one replicate or more, got {self.replicates}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Sums of a ledger, in USD.

    Attributes
    ----------
    decisions, stops, good_stops, bad_users : int
        Decisions; those that kept some money back; of these, those of good users; users with
        prevented or suffered money.
    asked_usd, allowed_usd, stopped_usd, refused_usd : float
        Stopped is careful (once for a series), refused is raw (every attempt).
    prevented_usd, prevented_raw_usd : float
    after_known_usd : float
        Of the prevented money, asked for by who was known to be bad already.
    suffered_usd, charged_back_usd : float
        Let through and bad; the part that labels named with an amount, or by the event's id.
    both_ways_usd : float
        Of the suffered money, what may be the same dollar on its way in and out.
    cleared_usd, quiet_usd : float
        Friction: refused to users who were cleared, and to those of whom nothing was learned.
    delayed_usd, waited_hours : float
        Refused to good users first and sent later; the mean of the waits, weighted by money.
        NaN hours where nothing was delayed.
    open_stopped_usd, open_allowed_usd : float
        Too young to say.
    cost_usd, cost_raw_usd : float
        Of the friction, by `Terms`; careful: as if all that is open were good.
    net_usd, net_raw_usd : float
        Prevented less suffered less the cost, careful; raw: every attempt prevented, only what
        was charged back suffered, and no cost of what is open.
    """

    decisions: int
    stops: int
    good_stops: int
    bad_users: int
    asked_usd: float
    allowed_usd: float
    stopped_usd: float
    refused_usd: float
    prevented_usd: float
    prevented_raw_usd: float
    after_known_usd: float
    suffered_usd: float
    charged_back_usd: float
    both_ways_usd: float
    cleared_usd: float
    quiet_usd: float
    delayed_usd: float
    waited_hours: float
    open_stopped_usd: float
    open_allowed_usd: float
    cost_usd: float
    cost_raw_usd: float
    net_usd: float
    net_raw_usd: float


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """The ledger of losses of a log.

    Attributes
    ----------
    ledger : DataFrame
        A row per decision, by user, event type and time: at, about, about_type, user, action,
        causes, outcome (bad, cleared, quiet, open), learned_at, waited_hours, and in USD asked,
        allowed, refused (asked - allowed), again (of it, counted at another attempt), stopped
        (the rest), prevented, other_way (prevented, but counted at another event type),
        suffered, charged_back, friction, delayed, open_stopped, open_allowed, cost.
    figures : Figures
    intervals : dict of str to Estimate
        Of prevented_usd, suffered_usd, cost_usd and net_usd, 95 %, by a bootstrap over users.
    uncounted : DataFrame
        why, num, usd: what is in none of the figures.
    trials : DataFrame
        Where a rule acted on a share of the users, chosen by chance: rule, version, share,
        users, control_users, loss_usd and control_loss_usd (suffered, per user), prevented_usd
        with low and high (95 %); null where either side has fewer than `FEWEST` users.
    foot : tuple of str
        What is assumed, in sentences.
    """

    ledger: pl.DataFrame
    figures: Figures
    intervals: dict[str, Estimate]
    uncounted: pl.DataFrame
    trials: pl.DataFrame
    foot: tuple[str, ...]
    terms: Terms

    def by(self, key: By) -> pl.DataFrame:
        """The ledger in parts, the largest prevented first, months in their order.

        ``rule`` is what stopped the money. Where several did, each has an equal part, so that
        parts add up; ``alone_usd`` is prevented by it alone, ``shared_usd`` in full wherever it
        was one of several, which does not add up.

        Returns
        -------
        DataFrame
            name, decisions, asked_usd, allowed_usd, stopped_usd, prevented_usd, suffered_usd,
            friction_usd, open_usd, net_usd; of rules alone_usd and shared_usd too.
        """
        names = {
            "rule": pl.col("cause"),
            "action": pl.col("action"),
            "month": pl.col("at").dt.strftime("%Y-%m"),
            "about_type": pl.col("about_type"),
        }
        if key not in names:
            raise InvalidInput(f"expected {', '.join(names)} to part by, got `{key}`")
        many = pl.col("causes").list.len() if key == "rule" else pl.lit(1)
        rows = self.ledger.with_columns(
            many=many.clip(lower_bound=1).cast(pl.Float64),
            cause=pl.when(pl.col("causes").list.len() == 0)
            .then(pl.lit([PASSED], dtype=pl.List(pl.String)))
            .otherwise(pl.col("causes")),
        )
        rows = (rows.explode("cause") if key == "rule" else rows).with_columns(name=names[key])
        is_alone, prevented = pl.col("many") == 1.0, pl.col("prevented_usd")
        amounts = {
            **{name: pl.col(name) for name in ("asked_usd", "allowed_usd", "stopped_usd",
                                               "prevented_usd", "suffered_usd", "friction_usd")},
            "open_usd": pl.col("open_stopped_usd") + pl.col("open_allowed_usd"),
            "net_usd": prevented - pl.col("suffered_usd") - pl.col("cost_usd"),
        }  # fmt: skip
        sums = {name: (each / pl.col("many")).sum() for name, each in amounts.items()}
        if key == "rule":
            sums["alone_usd"] = prevented.filter(is_alone).sum()
            sums["shared_usd"] = prevented.filter(~is_alone).sum()
        parts = rows.group_by("name").agg(decisions=pl.len(), **sums)
        parts = parts.with_columns(pl.col(pl.Float64).round(2))
        if key == "month":
            return parts.sort("name")
        return parts.sort("prevented_usd", "name", descending=[True, False])


def losses(
    application: Application,
    log: EventLog,
    label: Label,
    *,
    good: str | None = None,
    as_of: Instant | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    terms: Terms | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Losses:
    """The ledger of a log, as it was known at an instant.

    Parameters
    ----------
    label : Label
        What makes an event, or a user, bad.
    good : str, optional
        Expression over the fields of the label's events that clears.
    as_of : Instant, optional
        Neither decisions nor labels that were known later are looked at.
    since, until : Instant, optional
        Decisions from here on, and before this; what becomes of them is followed to `as_of`.
    terms : Terms, optional
        With the label's age of maturity by default.

    Raises
    ------
    InvalidInput
        If a name is not in the schema, or the period is empty.
    InvalidTable
        If nothing was known by then.
    """
    record = read_record(
        application, log, label, good=good, as_of=as_of, on_progress=on_progress
    )  # fmt: skip
    return account(
        record, terms=terms or Terms(matures=label.matures), since=since, until=until
    )  # fmt: skip


def account(
    record: Record,
    *,
    terms: Terms | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
) -> Losses:
    """The ledger of what was read. O(n log n) for n decisions."""
    terms = terms or Terms()
    if since is not None and until is not None and since >= until:
        raise InvalidInput(
            f"expected a period that ends after it begins, got {moment(since)} to {moment(until)}"
        )
    named = record.decided.filter(pl.col("cents").is_not_null())
    rows = _judged(_series(named, duration(terms.again)), record, terms)
    within = _within(pl.col("at"), since, until)
    inside = _one_way(rows.filter(within))
    ledger = _ledger(inside)
    figures = _figures(inside, terms)
    return Losses(
        ledger=ledger,
        figures=figures,
        intervals=_intervals(inside, figures, terms),
        uncounted=_uncounted(record, rows, inside, since, until),
        trials=_trials(record, rows, since, until),
        foot=tuple(_foot(record, terms)),
        terms=terms,
    )


def _series(decided: pl.DataFrame, again: int) -> pl.DataFrame:
    """The decisions by user, event type and time, and what stays stopped of each series."""
    rows = decided.with_columns(asked=pl.col("cents").clip(lower_bound=0)).sort(
        *_SERIES, "at", maintain_order=True
    )
    rows = rows.with_columns(allowed=pl.min_horizontal("allowed", "asked"))
    n = rows.height
    asked, allowed, at = (rows[name].to_numpy() for name in ("asked", "allowed", "at"))
    is_other = rows.select(
        pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(1)) for name in _SERIES)
    ).to_series().to_numpy()  # fmt: skip
    stopped, delayed = np.zeros(n, np.int64), np.zeros(n, np.int64)
    waited = np.full(n, np.nan)
    if n:
        begins = is_other | (np.diff(at, prepend=at[0]) > again)
        begins[0] = True
        starts = np.flatnonzero(begins)
        series = np.cumsum(begins) - 1
        place = np.arange(n)
        before = np.cumsum(allowed) - allowed
        before -= before[starts][series]
        given = np.add.reduceat(allowed, starts)
        wanted = np.maximum.reduceat(before + asked, starts)
        at_most = _first((before + asked) == wanted[series], starts, place)
        stopped[at_most] = wanted - given
        # Held first and sent later: from the first refusal to the next money of the series.
        held = _first(asked > allowed, starts, place)
        sent = _first((allowed > 0) & (place > held[series]), starts, place)
        both = sent < n
        held, sent = held[both], sent[both]
        later = given[series[held]] - before[held] - allowed[held]
        delayed[held] = np.minimum(asked[held] - allowed[held], later)
        waited[held] = (at[sent] - at[held]) / HOUR
    refused = asked - allowed
    return rows.with_columns(
        refused=pl.Series(refused),
        stopped=pl.Series(stopped),
        again=pl.Series(refused - stopped),
        late=pl.Series(delayed),
        waited_hours=pl.Series(waited, nan_to_null=True),
    )


def _first(is_so: NDArray[np.bool_], starts: Ints, place: Ints) -> Ints:
    """(series,) the first row of each series where something is so; n where nowhere."""
    found: Ints = np.minimum.reduceat(np.where(is_so, place, len(place)), starts)
    return found


def _judged(rows: pl.DataFrame, record: Record, terms: Terms) -> pl.DataFrame:
    """The rows with what was learned of each, and their money by it."""
    direct, owned = (
        _learned(record.labels, is_direct=True),
        _learned(record.labels, is_direct=False),
    )
    rows = rows.join(
        direct.rename({"key": "about", "bad_at": "charged_at", "good_at": "event_good_at",
                       "cents": "charged"}),
        on="about", how="left", maintain_order="left",
    ).join(owned.drop("cents"), on="key", how="left", maintain_order="left")  # fmt: skip
    reach = duration(terms.reach) if terms.reach else None
    far = pl.lit(True) if reach is None else pl.col("at") >= pl.col("bad_at") - reach
    is_charged = pl.col("charged_at").is_not_null()
    is_owned = (pl.col("bad_at").is_not_null() & far).fill_null(False)
    # A label about the event itself is stronger than one about its user.
    event_good = (pl.col("event_good_at") >= pl.col("at")).fill_null(False) & ~is_charged
    is_bad = is_charged | (is_owned & ~event_good)
    user_good = (pl.col("good_at") >= pl.col("at")).fill_null(False)
    is_old = pl.col("at") <= record.as_of - duration(terms.matures)
    outcome = (
        pl.when(is_bad).then(pl.lit("bad"))
        .when(event_good | user_good).then(pl.lit("cleared"))
        .when(is_old).then(pl.lit("quiet"))
        .otherwise(pl.lit("open"))
    )  # fmt: skip
    learned = (
        pl.when(is_bad).then(pl.min_horizontal("charged_at", pl.when(is_owned).then("bad_at")))
        .when(event_good).then(pl.col("event_good_at"))
        .when(user_good).then(pl.col("good_at"))
    )  # fmt: skip
    rows = rows.with_columns(outcome=outcome, learned=learned, is_charged=is_charged)
    bad, is_open = pl.col("outcome") == "bad", pl.col("outcome") == "open"
    good = pl.col("outcome").is_in(["cleared", "quiet"])
    charged = pl.min_horizontal(pl.col("charged").fill_null(pl.col("allowed")), "allowed")
    charged_back = pl.when("is_charged").then(charged).otherwise(0)
    return rows.with_columns(
        prevented=_if(bad, pl.col("stopped")),
        suffered=_if(bad, pl.when("is_charged").then(charged).otherwise(pl.col("allowed"))),
        charged_back=charged_back,
        friction=_if(good, pl.col("stopped")),
        delayed=_if(good, pl.col("late")),
        waited_hours=pl.when(good).then(pl.col("waited_hours")),
        open_stopped=_if(is_open, pl.col("stopped")),
        open_allowed=_if(is_open, pl.col("allowed")),
        # A retry is no other stop.
        is_stop=~bad & ((pl.col("stopped") > 0) | (pl.col("late") > 0)),
    ).with_columns(
        cost=terms.margin * (pl.col("friction") + pl.col("open_stopped"))
        + 100.0 * terms.stop_usd * pl.col("is_stop")
    )


def _learned(labels: pl.DataFrame, *, is_direct: bool) -> pl.DataFrame:
    """What holds of each key.

    bad_at (the first bad label since it was last cleared), cents of these labels (null if one
    names no amount), good_at (the last clearing, if it holds).
    """
    known = labels.filter(pl.col("is_direct") == is_direct).with_row_index("order")
    last_good = pl.col("order").filter(~pl.col("is_bad")).max().over("key")
    known = known.with_columns(
        holds=pl.col("is_bad") & (pl.col("order") > last_good).fill_null(True)
    )
    holding = known.filter("holds").group_by("key").agg(
        bad_at=pl.col("at").first(),
        cents=pl.when(pl.col("cents").is_null().any()).then(None).otherwise(pl.col("cents").sum()),
    )  # fmt: skip
    cleared = known.filter(~pl.col("is_bad")).group_by("key").agg(good_at=pl.col("at").last())
    both = holding.join(cleared, on="key", how="full", coalesce=True)
    return both.with_columns(good_at=pl.when(pl.col("bad_at").is_null()).then(pl.col("good_at")))


def _if(condition: pl.Expr, value: pl.Expr) -> pl.Expr:
    return pl.when(condition).then(value).otherwise(0)


def _one_way(rows: pl.DataFrame) -> pl.DataFrame:
    """Prevented money of each user's largest way only; that of the others stands aside."""
    ways = rows.group_by(*_SERIES).agg(pl.col("prevented").sum())
    main = (
        ways.sort("user", "prevented", "about_type", descending=[False, True, False])
        .group_by("user", maintain_order=True)
        .agg(main=pl.col("about_type").first())
    )
    rows = rows.join(main, on="user", how="left", maintain_order="left")
    is_main = pl.col("about_type") == pl.col("main")
    return rows.with_columns(
        other_way=_if(~is_main, pl.col("prevented")), prevented=_if(is_main, pl.col("prevented"))
    ).drop("main")


def _ledger(rows: pl.DataFrame) -> pl.DataFrame:
    day = pl.Datetime("us", "UTC")
    return rows.select(
        pl.col("at").cast(day),
        "about", "about_type", "user", "action", "causes", "outcome",
        pl.col("learned").cast(day).alias("learned_at"),
        "waited_hours",
        *((pl.col(name) / 100).alias(f"{name}_usd") for name in _IN_USD),
    )  # fmt: skip


def _figures(rows: pl.DataFrame, terms: Terms) -> Figures:
    sums = {name: _sum(rows[name]) for name in _MONEY}
    is_bad, is_cleared = rows["outcome"] == "bad", rows["outcome"] == "cleared"
    good = rows.filter(pl.col("is_stop") & (pl.col("outcome") != "open"))
    waits = rows.filter(pl.col("delayed") > 0)
    hours = float((waits["delayed"] * waits["waited_hours"]).sum())
    cost, good_cost = float(rows["cost"].sum()), float(good["cost"].sum())
    refused_bad = _sum(rows.filter(is_bad)["refused"])
    by_way = rows.group_by(*_SERIES).agg(pl.col("suffered").sum())
    largest = by_way.group_by("user").agg(pl.col("suffered").max())
    users = rows.filter((pl.col("prevented") > 0) | (pl.col("suffered") > 0))["user"].n_unique()
    cleared = _sum(rows.filter(is_cleared)["friction"])
    return Figures(
        decisions=rows.height,
        stops=rows.filter(pl.col("refused") > 0).height,
        good_stops=good.height,
        bad_users=users,
        asked_usd=sums["asked"] / 100,
        allowed_usd=sums["allowed"] / 100,
        stopped_usd=sums["stopped"] / 100,
        refused_usd=sums["refused"] / 100,
        prevented_usd=sums["prevented"] / 100,
        prevented_raw_usd=refused_bad / 100,
        after_known_usd=_sum(rows.filter(pl.col("learned") <= pl.col("at"))["prevented"]) / 100,
        suffered_usd=sums["suffered"] / 100,
        charged_back_usd=sums["charged_back"] / 100,
        both_ways_usd=(sums["suffered"] - _sum(largest["suffered"])) / 100,
        cleared_usd=cleared / 100,
        quiet_usd=(sums["friction"] - cleared) / 100,
        delayed_usd=sums["delayed"] / 100,
        waited_hours=hours / sums["delayed"] if sums["delayed"] else math.nan,
        open_stopped_usd=sums["open_stopped"] / 100,
        open_allowed_usd=sums["open_allowed"] / 100,
        cost_usd=cost / 100,
        cost_raw_usd=good_cost / 100,
        net_usd=(sums["prevented"] - sums["suffered"] - cost) / 100,
        net_raw_usd=(refused_bad - sums["charged_back"] - good_cost) / 100,
    )


def _intervals(rows: pl.DataFrame, figures: Figures, terms: Terms) -> dict[str, Estimate]:
    """By drawing users with all of theirs, each a Poisson number of times of mean 1."""
    users = (
        rows.group_by("user")
        .agg(
            pl.col("prevented").sum(),
            pl.col("suffered").sum(),
            pl.col("cost").sum(),
        )
        # Who adds nothing adds nothing in any draw.
        .filter((pl.col("prevented") > 0) | (pl.col("suffered") > 0) | (pl.col("cost") > 0))
        .sort("user")
    )  # fmt: skip
    each = users.select("prevented", "suffered", "cost").to_numpy().astype(np.float64) / 100.0
    rng = np.random.default_rng(terms.seed)
    drawn = np.zeros((3, terms.replicates))
    for start in range(0, terms.replicates, _CHUNK):
        size = min(_CHUNK, terms.replicates - start)
        drawn[:, start : start + size] = each.T @ rng.poisson(1.0, (len(each), size))
    series = {
        "prevented_usd": drawn[0], "suffered_usd": drawn[1], "cost_usd": drawn[2],
        "net_usd": drawn[0] - drawn[1] - drawn[2],
    }  # fmt: skip
    found = {}
    for name, values in series.items():
        low, high = np.quantile(values, [0.025, 0.975]).tolist()
        found[name] = Estimate(value=getattr(figures, name), low=low, high=high)
    return found


def _uncounted(
    record: Record,
    rows: pl.DataFrame,
    inside: pl.DataFrame,
    since: Instant | None,
    until: Instant | None,
) -> pl.DataFrame:
    """What is in none of the figures, and why."""
    within = _within(pl.col("at"), since, until)
    nameless = record.decided.filter(within & pl.col("cents").is_null())
    undecided = record.undecided.filter(within)
    charges = _learned(record.labels, is_direct=True).filter(pl.col("cents").is_not_null())
    named = charges.join(rows.select(about="about"), left_on="key", right_on="about", how="semi")
    ours = charges.join(inside.select("about", "charged_back"), left_on="key", right_on="about")
    beyond = (ours["cents"] - ours["charged_back"]).filter(ours["cents"] > ours["charged_back"])
    lines = [
        ("asked again within a series, or in parts: counted once",
         inside.filter(pl.col("again") > 0).height, _sum(inside["again"])),
        ("prevented, but of a user's smaller way",
         inside.filter(pl.col("other_way") > 0).height, _sum(inside["other_way"])),
        ("decisions about an event without an amount", nameless.height, 0),
        ("events for money that nobody decided about",
         undecided.height, _sum(undecided["cents"].clip(lower_bound=0))),
        ("charged back beyond what was allowed", len(beyond), _sum(beyond)),
        ("charged back, decided in another period",
         named.height - ours.height, _sum(named["cents"]) - _sum(ours["cents"])),
        ("charged back, but nobody had decided",
         charges.height - named.height, _sum(charges["cents"]) - _sum(named["cents"])),
        ("decisions that ask for no money, of the whole log", record.num_records, 0),
    ]  # fmt: skip
    return pl.DataFrame(
        [(why, num, cents / 100) for why, num, cents in lines],
        schema={"why": pl.String, "num": pl.Int64, "usd": pl.Float64},
        orient="row",
    )


def _trials(
    record: Record, rows: pl.DataFrame, since: Instant | None, until: Instant | None
) -> pl.DataFrame:
    """What users lost whom a rule acted on, and those whom chance spared it.

    Users are chosen by a hash, so both groups are alike but for the rule. From the first hit to
    the end of the trial all that a user lost counts, by whichever way.
    """
    hits = record.hits.join(rows.select("about", "user", "at"), on="about", maintain_order="left")
    hits = hits.filter(_within(pl.col("at"), since, until))
    lines = []
    for rule, version, share, begin, end in record.trials:
        is_of = (pl.col("rule") == rule) & (pl.col("version") == version)
        users = (
            hits.filter(is_of & pl.col("at").is_between(begin, end, closed="left"))
            .sort("at", maintain_order=True)
            .group_by("user")
            .agg(first=pl.col("at").first(), acts=pl.col("acts").first())
        )
        last = end if until is None else min(end, until)
        lost = (
            rows.join(users, on="user")
            .filter(pl.col("at").is_between(pl.col("first"), last, closed="left"))
            .group_by("user", "acts")
            .agg(pl.col("suffered").sum())
        )
        treated, spared = (
            lost.filter(pl.col("acts") == acts)["suffered"].to_numpy() / 100.0
            for acts in (True, False)
        )
        lines.append((rule, version, share, len(treated), len(spared), *_effect(treated, spared)))
    names = ("loss_usd", "control_loss_usd", "prevented_usd", "low", "high")
    return pl.DataFrame(
        lines,
        schema={"rule": pl.String, "version": pl.Int64, "share": pl.Float64, "users": pl.Int64,
                "control_users": pl.Int64, **dict.fromkeys(names, pl.Float64)},
        orient="row",
    )  # fmt: skip


def _effect(
    treated: NDArray[np.float64], spared: NDArray[np.float64]
) -> tuple[float | None, float | None, float | None, float | None, float | None]:
    """Means, and what the treated would have lost beyond what they did (Welch's interval)."""
    size = len(treated)
    means = [float(each.mean()) if len(each) else None for each in (treated, spared)]
    if min(size, len(spared)) < FEWEST:
        return means[0], means[1], None, None, None
    gain = size * float(spared.mean() - treated.mean())
    variance = treated.var(ddof=1) / size + spared.var(ddof=1) / len(spared)
    half = Z95 * size * math.sqrt(float(variance))
    return means[0], means[1], gain, gain - half, gain + half


def _within(at: pl.Expr, since: Instant | None, until: Instant | None) -> pl.Expr:
    inside = pl.lit(True)
    if since is not None:
        inside = inside & (at >= since)
    return inside if until is None else inside & (at < until)


def _foot(record: Record, terms: Terms) -> Iterable[str]:
    """What is assumed, the strongest first."""
    yield (
        "Prevented is what would have been lost only if nothing else had stopped it and the user "
        "had gone on; that is assumed of money known to be bad, and of no other."
    )
    yield (
        f"Attempts of a user at one event type within {terms.again} of each other are one series: "
        "it counts by the largest sum that was open at once, less all that it was allowed, so "
        "retries, released holds and amounts in parts count once. Of a user's event types only "
        "the one with the most prevented money counts."
    )
    reach = "all decisions of a user" if terms.reach is None else (
        f"a user's decisions from {terms.reach} before on"
    )  # fmt: skip
    yield (
        f"A bad label of a user makes {reach} bad until the user is cleared; a label about the "
        "event itself is stronger, and its amount is the loss, up to what was allowed."
    )
    yield (
        f"Without a label a decision counts as good {terms.matures} after it, and is open before."
        f"{_late(record, terms)} Money that is stopped cannot be charged back: bad users of whom "
        "nothing else was learned count as friction here, not as prevented."
    )
    yield (
        f"Friction costs {terms.margin:.1%} of what good users were refused and "
        f"{terms.stop_usd:,.2f} USD for each of their decisions that was stopped; careful: as if "
        "all that is open were good."
    )
    yield (
        "Raw is every attempt for itself, and of losses only what was charged back. Intervals "
        f"are of 95 %, by {terms.replicates} draws of users."
    )
    yield f"Known on {moment(record.as_of):%Y-%m-%d %H:%M} UTC; nothing later was looked at."


def _late(record: Record, terms: Terms) -> str:
    """How much of what was charged back came later than a decision is called good."""
    events = pl.concat(
        [record.decided.select(id="about", at="at"), record.undecided.select("id", "at")]
    )
    charged = _learned(record.labels, is_direct=True).drop_nulls(["bad_at", "cents"])
    delays = charged.join(events, left_on="key", right_on="id").select(
        "cents", delay=pl.col("bad_at") - pl.col("at")
    )
    total = _sum(delays["cents"])
    if not total:
        return ""
    late = _sum(delays.filter(pl.col("delay") > duration(terms.matures))["cents"])
    slowest, oldest = (
        float(micros) / DAY
        for micros in (
            delays["delay"].to_numpy().max(),
            record.as_of - events["at"].to_numpy().min(),
        )
    )
    return (
        f" {late / total:.1%} of the money charged back in this log came later, up to "
        f"{slowest:.0f} days after; the log sees {oldest:.0f} days."
    )


def _sum(cents: pl.Series) -> int:
    return int(cents.sum())
