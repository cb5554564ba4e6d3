"""What a campaign brought: the targeted against the random group of the same days.

    report = write_campaign(targeting.sent, "campaign.html")
    report.lift.value, report.lift.low, report.lift.high

The random group is drawn each day from all who might have been notified, before any score is
looked at. So its rate is an unbiased estimate of what the messages of that day would have
brought without a model, and

    lift = engaged of the targeted / sum over days (targeted * rate of the day's random group)

is the only fair answer to "what did the model do". The rate of another week, or of another
campaign, is not: days differ. Shares have Wilson intervals of 95 %, with the random group's
messages weighted by how many were targeted on their day (Kish's effective number). The
interval of the lift is made of the two (Donner and Zou). Both take messages as independent;
with more than one message per user they are somewhat too narrow.

Works on the frame alone and imports nothing of the foundation. Serves rows G25, G26 and G29.

References
----------
Allan Donner, Guangyong Zou, "Closed-form confidence intervals for functions of the normal
mean and standard deviation", 2012.
Leslie Kish, "Survey sampling", 1965.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from math import inf, isfinite, isnan, nan, sqrt
from pathlib import Path

import numpy as np
import polars as pl

from chopmark.errors import InvalidTable
from chopmark.models.artifact import write_whole
from chopmark.report import words
from chopmark.report.bands import Estimate, wilson
from chopmark.report.chart import Axis, Chart
from chopmark.report.page import filled

_FEW = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Messages of one kind, who engaged, and the share with its 95 % interval.

    Attributes
    ----------
    sent, engaged : int
    rate : Estimate
        NaN, 0 and 1 of no messages.
    """

    sent: int
    engaged: int
    rate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignDay:
    """One day's answers; `lift` is NaN where one of the groups is empty."""

    day: int
    targeted: Group
    random: Group
    lift: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignReport:
    """What a campaign brought, by day and in all.

    Attributes
    ----------
    days : tuple of CampaignDay
        Answered days, in order.
    targeted : Group
        Chosen by score, on days that also had a random group.
    random : Group
        Random group of these days; its rate is weighted as the targeted are spread over days.
    lift : Estimate
        How many times as often the targeted engaged. Above 1 throughout the interval: the
        model helped. NaN without a random group beside a targeted one.
    extra : Estimate
        Engagements beyond what as many random messages would have brought.
    num_messages, num_engaged, num_unanswered : int
        Of all days; the unanswered are in no other figure.
    headline : str
    warnings : tuple of str
    """

    days: tuple[CampaignDay, ...]
    targeted: Group
    random: Group
    lift: Estimate
    extra: Estimate
    num_messages: int
    num_engaged: int
    num_unanswered: int
    headline: str
    warnings: tuple[str, ...]


def make_campaign(sent: pl.DataFrame) -> CampaignReport:
    """The figures of a campaign from its messages.

    Parameters
    ----------
    sent : polars.DataFrame
        A row per message, as `SmartTargeting.sent` of `chopmark.foundation`: ``day``, ``why``
        (explore or target), ``engaged`` (0, 1, or null if not answered yet).

    Raises
    ------
    InvalidTable
        If a column is missing or holds something else.

    Examples
    --------
    >>> sent = pl.DataFrame({"day": 1, "why": ["target"] * 100 + ["explore"] * 100,
    ...                      "engaged": [1] * 30 + [0] * 70 + [1] * 10 + [0] * 90})
    >>> round(make_campaign(sent).lift.value, 2)
    3.0
    """
    _check(sent)
    answered = sent.filter(pl.col("engaged").is_not_null())
    counts = (
        answered.group_by("day")
        .agg(
            *(
                expression.filter(pl.col("why") == why).alias(f"{name}_{why}")
                for why in ("target", "explore")
                for name, expression in (
                    ("sent", pl.col("engaged").is_not_null()),
                    ("engaged", pl.col("engaged") == 1),
                )
            )
        )
        .with_columns(pl.exclude("day").list.sum())
        .sort("day")
    )
    days = tuple(
        _day(row["day"], *(int(row[name]) for name in counts.columns[1:]))
        for row in counts.iter_rows(named=True)
    )
    compared = [day for day in days if day.targeted.sent and day.random.sent]
    targeted = _group(
        sum(day.targeted.sent for day in compared), sum(day.targeted.engaged for day in compared)
    )
    random = _weighted(compared)
    lift = ratio(targeted.rate, random.rate)
    num_unanswered = sent.height - answered.height
    return CampaignReport(
        days=days,
        targeted=targeted,
        random=random,
        lift=lift,
        extra=_extra(targeted, random),
        num_messages=answered.height,
        num_engaged=int(answered["engaged"].sum()),
        num_unanswered=num_unanswered,
        headline=_headline(lift),
        warnings=tuple(_warnings(days, targeted, random, num_unanswered)),
    )


def write_campaign(
    sent: pl.DataFrame, path: str | Path, *, title: str = "What did the campaign bring?"
) -> CampaignReport:
    """Write the page of a campaign: one HTML file that needs no other and no network.

    Parameters
    ----------
    sent
        As `make_campaign` takes it.
    path
        The file, written whole or not at all. Equal messages give equal bytes.

    Raises
    ------
    InvalidTable
        If a column is missing or holds something else.
    ArtifactError
        If the folder does not exist or cannot be written.
    """
    report = make_campaign(sent)
    page = filled(title=title, body=_body(report, title))
    write_whole(Path(path), page.encode())
    return report


def ratio(above: Estimate, below: Estimate) -> Estimate:
    """The quotient of two independent shares with its interval, from theirs.

    The high end is infinite where the share below may be 0. NaN, 0 and infinity where one is
    not known.

    Examples
    --------
    >>> targeted, random = (Estimate(value=0.3, low=0.22, high=0.4),
    ...                     Estimate(value=0.1, low=0.06, high=0.17))
    >>> found = ratio(targeted, random)
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (3.0, 1.62, 5.37)
    """
    p, q = above.value, below.value
    if isnan(p) or isnan(q):
        return Estimate(value=nan, low=0.0, high=inf)
    value = p / q if q > 0.0 else (inf if p > 0.0 else nan)
    low = 0.0
    if above.low > 0.0:
        top = above.low * (2.0 * p - above.low)
        root = (p * q) ** 2 - top * below.high * (2.0 * q - below.high)
        low = top / (p * q + sqrt(max(root, 0.0)))
    high = inf
    if below.low > 0.0:
        foot = below.low * (2.0 * q - below.low)
        root = (p * q) ** 2 - above.high * (2.0 * p - above.high) * foot
        high = (p * q + sqrt(max(root, 0.0))) / foot
    return Estimate(value=value, low=low, high=high)


def _check(sent: pl.DataFrame) -> None:
    for name in ("day", "why", "engaged"):
        if name not in sent.columns:
            raise InvalidTable(
                f"expected the messages of a campaign with column `{name}`, got "
                f"{', '.join(sent.columns) or 'no column'}"
            )
    odd = sent.filter(~pl.col("why").is_in(["explore", "target"]) | pl.col("why").is_null())
    if odd.height:
        raise InvalidTable(f"expected `why` to be explore or target, got `{odd['why'][0]}`")
    odd = sent.filter(~pl.col("engaged").cast(pl.Float64).is_in([0.0, 1.0]))
    if odd.height:
        raise InvalidTable(f"expected `engaged` to be 0, 1 or null, got {odd['engaged'][0]}")


def _day(
    day: int, num_targeted: int, engaged_targeted: int, num_random: int, engaged_random: int
) -> CampaignDay:
    targeted = _group(num_targeted, engaged_targeted)
    random = _group(num_random, engaged_random)
    return CampaignDay(
        day=day, targeted=targeted, random=random, lift=ratio(targeted.rate, random.rate)
    )


def _group(sent: int, engaged: int, rate: Estimate | None = None) -> Group:
    return Group(sent=sent, engaged=engaged, rate=_share(engaged, sent) if rate is None else rate)


def _share(hits: float, rows: float) -> Estimate:
    if rows <= 0:
        return Estimate(value=nan, low=0.0, high=1.0)
    low, high = wilson(np.array([hits]), np.array([rows]))
    # Rounding would leave a share just above 0 where it may be 0.
    return Estimate(
        value=hits / rows,
        low=float(low[0]) if hits > 0 else 0.0,
        high=float(high[0]) if hits < rows else 1.0,
    )


def _weighted(days: list[CampaignDay]) -> Group:
    """The random groups as if they were spread over the days as the targeted are."""
    sent = sum(day.random.sent for day in days)
    engaged = sum(day.random.engaged for day in days)
    weights = [day.targeted.sent / day.random.sent for day in days]
    total = sum(day.targeted.sent for day in days)
    squares = sum(weight**2 * day.random.sent for weight, day in zip(weights, days, strict=True))
    if not total:
        return _group(sent, engaged)
    rate = sum(w * day.random.engaged for w, day in zip(weights, days, strict=True)) / total
    effective = total**2 / squares
    return _group(sent, engaged, _share(rate * effective, effective))


def _extra(targeted: Group, random: Group) -> Estimate:
    p, q = targeted.rate, random.rate
    if isnan(p.value) or isnan(q.value):
        return Estimate(value=nan, low=nan, high=nan)
    difference = p.value - q.value
    below = sqrt((p.value - p.low) ** 2 + (q.high - q.value) ** 2)
    above = sqrt((p.high - p.value) ** 2 + (q.value - q.low) ** 2)
    return Estimate(
        value=targeted.sent * difference,
        low=targeted.sent * (difference - below),
        high=targeted.sent * (difference + above),
    )


def _headline(lift: Estimate) -> str:
    if isnan(lift.value):
        return "Nothing to compare yet: no day had both a targeted and a random group."
    if not isfinite(lift.value):
        return (
            "Nobody of the random group has engaged yet, so nothing can be said of how many times "
            "as often the targeted do."
        )
    told = f"{_lifted(lift.value)} ({_lifted(lift.low)} to {_lifted(lift.high)}) times"
    if lift.low > 1.0:
        return f"The targeted engaged {told} as often as the random group."
    if lift.high < 1.0:
        return f"Targeting did harm: the targeted engaged {told} as often as the random group."
    return f"Not shown yet to help: the targeted engaged {told} as often as the random group."


def _warnings(
    days: tuple[CampaignDay, ...], targeted: Group, random: Group, num_unanswered: int
) -> Iterable[str]:
    if num_unanswered:
        yield f"{num_unanswered:,} messages are not answered yet and are left out."
    alone = [day.day for day in days if day.targeted.sent and not day.random.sent]
    if alone:
        yield (
            f"On day {', '.join(map(str, alone))} nobody was drawn at random, so these days are "
            "not compared. Keep a small random group every day."
        )
    if targeted.sent and random.engaged < _FEW:
        yield (
            f"Only {random.engaged} of the random group engaged; the interval says how little "
            "that tells. More days or a larger random group will narrow it."
        )


def _body(report: CampaignReport, title: str) -> str:
    facts = [
        ("Messages", f"{report.num_messages:,}"),
        ("Engaged", f"{report.num_engaged:,}"),
        ("Rate of the targeted", _rate(report.targeted.rate)),
        ("Rate of the random group", _rate(report.random.rate)),
        ("Engaged beyond chance", _beyond(report.extra)),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    notes = "".join(f"<li>{escape(text)}</li>" for text in report.warnings)
    listed = f'<ul class="warnings" aria-label="Warnings">{notes}</ul>' if notes else ""
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="headline">{escape(report.headline)}</p>'
        '<p class="look">Each day some messages go to users drawn by chance from all who may '
        "get one. They show what a day's messages bring without a model; the same days' "
        "targeted messages are compared with them, never with other days. In brackets: the "
        "range in which the true figure lies in 95 of 100 such campaigns. If the range of the "
        "lift begins above 1, the model helps.</p>"
        f'<dl class="facts">{items}</dl></header>{listed}'
        f"{_charts(report)}{_table(report)}"
    )


def _charts(report: CampaignReport) -> str:
    if not report.days:
        return ""
    return (
        '<h2>Day by day</h2><div class="grid2">'
        '<div class="panel"><h3>Share that engaged</h3><p>Full dots: the targeted. Faint dots: '
        "the random group. Look whether the full dots stay above the faint ones.</p>"
        f"{_rates(report.days)}</div>"
        '<div class="panel"><h3>Engaged so far</h3><p>Line: all messages. Broken line: had all '
        "messages been random. Look whether the gap widens.</p>"
        f"{_sums(report.days)}</div></div>"
    )


def _rates(days: tuple[CampaignDay, ...]) -> str:
    groups = [group for day in days for group in (day.targeted, day.random) if group.sent]
    most = max([group.rate.high for group in groups], default=0.01)
    chart = Chart("Share that engaged, by day", x=_axis(days), y=_percents(1.06 * most))
    for shift, look, name in ((-0.08, "main", "targeted"), (0.08, "main faint", "random")):
        for day in days:
            group = day.targeted if name == "targeted" else day.random
            if group.sent:
                at = day.day + shift
                chart.whisker(at, group.rate.low, group.rate.high, "main" if shift < 0 else "")
                chart.dots([at], [group.rate.value], look)
                chart.said(f"day {day.day}, {name}: {group.engaged:,} of {group.sent:,}")
    return chart.svg()


def _sums(days: tuple[CampaignDay, ...]) -> str:
    engaged = np.cumsum([day.targeted.engaged + day.random.engaged for day in days])
    # A day without a random group of its own takes the mean of the others.
    num_random = sum(day.random.sent for day in days)
    mean = sum(day.random.engaged for day in days) / num_random if num_random else 0.0
    chance = np.cumsum(
        [
            (day.targeted.sent + day.random.sent)
            * (day.random.rate.value if day.random.sent else mean)
            for day in days
        ]
    )
    most = max(float(engaged[-1]), float(chance[-1]), 1.0)
    y = Axis(label="engaged", low=0.0, high=1.06 * most)
    chart = Chart("Engaged so far, and had all messages been random", x=_axis(days), y=y)
    at = [float(day.day) for day in days]
    chart.line(at, chance.tolist(), "ideal")
    chart.line(at, [float(count) for count in engaged], "main")
    chart.dots(at, [float(count) for count in engaged], "main", size=3)
    return chart.svg()


def _axis(days: tuple[CampaignDay, ...]) -> Axis:
    return Axis(label="day", low=days[0].day - 0.5, high=days[-1].day + 0.5, tick=_whole)


def _whole(value: float) -> str:
    return f"{value:.0f}" if abs(value - round(value)) < 1e-9 else ""


def _percents(high: float) -> Axis:
    return Axis(label="share that engaged", low=0.0, high=high, tick=_percent)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _table(report: CampaignReport) -> str:
    lines = "".join(
        f"<tr><th>{day.day}</th>{_cells(day.targeted)}{_cells(day.random)}"
        f'<td class="number">{_lift(day.lift)}</td></tr>'
        for day in report.days
    )
    total = (
        f"<tr><th>compared days</th>{_cells(report.targeted)}{_cells(report.random)}"
        f'<td class="number">{_lift(report.lift)}</td></tr>'
    )
    heads = "".join(
        f'<th class="number">{name}</th>'
        for name in (
            "targeted",
            "engaged",
            "rate",
            "random",
            "engaged",
            "rate",
            "lift",
        )
    )
    return (
        '<div class="scroll"><table class="compact"><caption>Messages, who engaged, and how many '
        f"times as often the targeted did</caption><thead><tr><th>day</th>{heads}</tr></thead>"
        f"<tbody>{lines}{total}</tbody></table></div>"
    )


def _cells(group: Group) -> str:
    return (
        f'<td class="number">{group.sent:,}</td><td class="number">{group.engaged:,}</td>'
        f'<td class="number">{_rate(group.rate)}</td>'
    )


def _rate(rate: Estimate) -> str:
    if isnan(rate.value):
        return words.NONE
    band = f"{words.percent(rate.low)} to {words.percent(rate.high)}"
    return f"{words.percent(rate.value)} <small>({band})</small>"


def _lift(lift: Estimate) -> str:
    if isnan(lift.value):
        return words.NONE
    return f"{_lifted(lift.value)} <small>({_lifted(lift.low)} to {_lifted(lift.high)})</small>"


def _beyond(extra: Estimate) -> str:
    if isnan(extra.value):
        return words.NONE
    low, high = words.signed(extra.low, 0), words.signed(extra.high, 0)
    return f"{words.signed(extra.value, 0)} <small>({low} to {high})</small>"


def _lifted(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "no limit"
