"""The sections of a report's page as HTML, each with one sentence that says what to look for.

Every text that comes from a table or a model goes through `escape`.
Serves A16, A19 and A20 of the requirements.
"""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from chopmark.models.drift import SCORES, ColumnDrift, Profile
from chopmark.report import figures, stops, stories, words
from chopmark.report.ranking import Ranking
from chopmark.report.report import Report
from chopmark.report.views import ClassView, Gain, Metric, NumberView

_POINTS = 400


def body(report: Report) -> str:
    """All that stands between the page's `main` tags."""
    parts = [_head(report), _warnings(report)]
    if report.confusion is not None:
        parts.append(_classes(report))
    parts += [_class_view(view, place, report) for place, view in enumerate(report.views)]
    if report.number is not None:
        parts.append(_number_view(report.number, report))
    parts += [_blend(report), _drift(report), _dropped(report), _foot(report)]
    return "\n".join(part for part in parts if part)


def data(report: Report) -> dict[str, Any]:
    """What the page's script computes with; null where a view has one class only."""
    return {
        "views": [
            stops.data(view.ranking.thinned(_POINTS), view) if _has_both(view) else None
            for view in report.views
        ]
    }


def _head(report: Report) -> str:
    facts = [("Rows judged", f"{report.num_rows:,}")]
    if report.task == "binary":
        view = report.views[0]
        facts += [
            ("Bad rows", words.percent(float(view.y.mean()))),
            ("Mean score", words.percent(float(view.scores.mean()))),
        ]
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in (*facts, *report.facts)
    )
    return (
        f"<header><h1>{escape(report.title)}</h1>"
        f'<p class="headline">{_ticked(report.headline)}</p>'
        f'<p class="look">{_meaning(report)}</p>'
        f'<dl class="facts">{items}</dl></header>'
    )


def _meaning(report: Report) -> str:
    target = f"<code>{escape(report.target)}</code>"
    unseen = "These rows are taken as new to the model: nobody can promise what it has seen."
    if report.task == "binary":
        return (
            f"A row is bad where {target} is {escape(report.positive)}; a score is the "
            f"probability of that. {unseen}"
        )
    if report.task == "multiclass":
        return f"The model tells the classes of {target} apart. {unseen}"
    return f"The model predicts {target}, a number. {unseen}"


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    items = "".join(f"<li>{_ticked(text)}</li>" for text in report.warnings)
    return f'<ul class="warnings" aria-label="Warnings">{items}</ul>'


def _classes(report: Report) -> str:
    assert report.confusion is not None
    assert report.accuracy is not None
    heads = "".join(f'<th class="number">{escape(name)}</th>' for name in report.classes)
    lines = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f'<td class="number">{count:,}</td>' for count in counts)
        + "</tr>"
        for name, counts in zip(report.classes, report.confusion.tolist(), strict=True)
    )
    options = "".join(f"<option>{escape(view.name)}</option>" for view in report.views)
    right = report.accuracy
    return (
        "<h2>Which class is taken for which?</h2>"
        f'<p class="look">{words.percent(right.value)} of the rows are put in the right class '
        f"(95 % band {words.percent(right.low)} to {words.percent(right.high)}). Look for large "
        "numbers off the diagonal.</p>"
        '<div class="scroll"><table><caption>True class down, most probable class across'
        f"</caption><thead><tr><th></th>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
        '<p class="script"><label>Show the class <select id="class">'
        f"{options}</select></label> against all others; “bad” below means: of this class.</p>"
    )


def _class_view(view: ClassView, place: int, report: Report) -> str:
    name = f"<h2>Class {escape(view.name)}</h2>" if report.task == "multiclass" else ""
    parts = [name, _metrics(view.metrics, report), _gain(view.gain, report)]
    if _has_both(view):
        points = view.ranking.thinned(_POINTS)
        here = stops.start(view, points, report.costs)
        parts += [stops.section(view, points, here, report.costs, place)]
        parts += [_curves(view, points, here)]
    parts += [
        stories.columns(view.effects, stories.CLASS),
        stories.cases(view.cases, place, stories.CLASS),
    ]
    return f'<section class="view">{"".join(parts)}</section>'


def _number_view(view: NumberView, report: Report) -> str:
    charts = (
        ("Predicted and true", "Points on the dashed line are right.", figures.predictions(view)),
        (
            "How far off",
            "A narrow hill around zero is good; a hill beside zero is a bias.",
            figures.residuals(view),
        ),
    )
    return (
        f'<section class="view">{_metrics(view.metrics, report)}'
        f"<h2>Where does it miss?</h2>{_panels(charts)}"
        + stories.columns(view.effects, stories.NUMBER)
        + stories.cases(view.cases, 0, stories.NUMBER)
        + "</section>"
    )


def _metrics(metrics: Sequence[Metric], report: Report) -> str:
    lines = "".join(
        f"<tr><th>{escape(metric.name)}<br><small>{escape(metric.meaning)} "
        f"{'Higher' if metric.higher_is_better else 'Lower'} is better.</small></th>"
        f'<td class="number">{words.fixed(metric.estimate.value, 4)}</td>'
        f'<td class="number">{words.fixed(metric.estimate.low, 4)} to '
        f"{words.fixed(metric.estimate.high, 4)}</td>"
        f'<td class="number">{words.fixed(metric.baseline, 4)}</td></tr>'
        for metric in metrics
    )
    return (
        "<h2>How good is it?</h2>"
        '<p class="look">Look at the band: in 95 of 100 such samples of rows it holds the true '
        f"figure. The baseline is {escape(report.baseline)}.</p>"
        '<div class="scroll"><table><thead><tr><th>Metric</th><th class="number">Model</th>'
        '<th class="number">95 % band</th><th class="number">Baseline</th>'
        f"</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _gain(gain: Gain, report: Report) -> str:
    won = gain.absolute
    if not np.isfinite(won.value):
        return ""
    sure = "" if won.low > 0 else " The band reaches zero: this may be chance."
    return (
        f"<p>ROC-AUC is <strong>{words.signed(won.value, 4)}</strong> above the baseline "
        f"(95 % band {words.signed(won.low, 4)} to {words.signed(won.high, 4)}), which is "
        f"<strong>{words.signed(100 * gain.relative, 1)} %</strong> relative to its "
        f"{words.fixed(gain.baseline, 4)}.{sure}</p>"
    )


def _curves(view: ClassView, points: Ranking, here: int) -> str:
    error = view.metrics[-1].estimate.value
    charts = (
        (
            "Do scores mean what they say?",
            "Points on the dashed line are right; bands that miss it are not. Off by "
            f"{words.percent(error)} on average, where true scores would show "
            f"{words.percent(view.by_chance)} by chance.",
            figures.reliability(view),
        ),
        (
            "How are the scores spread?",
            '<span class="key good"></span> good and <span class="key bad"></span> bad rows: the '
            "farther apart, the better. The dashed line is the threshold.",
            figures.histogram(view, float(points.thresholds[here])),
        ),
        (
            "How many bad rows for how many stops?",
            "The higher the curve, the better; dashed: a coin, and a perfect model.",
            figures.gain(points, here),
        ),
        (
            "How much richer is each tenth?",
            "The first bars should tower; dashed is the average of all rows.",
            figures.lift(view.ranking),
        ),
        (
            "What does catching cost the good?",
            "ROC curve: the closer to the upper left corner, the better; dashed is a coin.",
            figures.roc(points, here),
        ),
        (
            "How pure are the stops?",
            "Precision-recall curve: the closer to the upper right, the better; dashed is a coin.",
            figures.precision_recall(points, here),
        ),
    )
    return f"<h2>How does it rank, and is it honest?</h2>{_panels(charts)}"


def _panels(charts: Iterable[tuple[str, str, str]]) -> str:
    """Figures side by side; titles and texts are our own, with tags."""
    panels = "".join(
        f'<figure class="panel"><h3>{title}</h3><p>{text}</p>{svg}</figure>'
        for title, text, svg in charts
    )
    return f'<div class="grid2">{panels}</div>'


def _blend(report: Report) -> str:
    if not report.blend:
        return ""
    names = list(dict.fromkeys(name for part in report.blend for name in part.held_out))
    heads = "".join(f'<th class="number">{escape(name.replace("_", " "))}</th>' for name in names)
    total = sum(part.weight for part in report.blend)
    lines = "".join(
        f'<tr><th>{escape(part.name)}</th><td class="number">{words.fixed(part.weight)}</td>'
        f"<td>{figures.share_bar(part.weight, of=total)}</td>"
        + "".join(
            f'<td class="number">{words.fixed(_float(part.held_out.get(name)), 4)}</td>'
            for name in names
        )
        + "</tr>"
        for part in report.blend
    )
    return (
        "<h2>What is the blend made of?</h2>"
        '<p class="look">Weights are of log-odds; metrics are of each part alone, on rows held out '
        "of training. Look for a part that adds nothing.</p>"
        '<div class="scroll"><table><thead><tr><th>Part</th><th class="number">Weight</th><th></th>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _drift(report: Report) -> str:
    if not report.drift:
        return ""
    lines = "".join(map(_drift_line, report.drift))
    return (
        "<h2>Do these rows look like the training rows?</h2>"
        '<p class="look">Look for “drifted”: there the model answers about a world that it has not '
        "seen. PSI below 0.1 above chance is stable, below 0.25 moved; by chance alone it would be "
        "about the number in the next column.</p>"
        '<div class="scroll"><table><thead><tr><th>Column</th><th>Verdict</th>'
        '<th class="number">PSI</th><th class="number">by chance</th><th class="number">KS</th>'
        '<th class="number">missing before</th><th class="number">missing now</th>'
        '<th><span class="key"></span> before <span class="key now"></span> now</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _drift_line(moved: ColumnDrift) -> str:
    before = np.array([*moved.before.counts, moved.before.missing]) / max(1, moved.before.rows)
    now = np.array([*moved.now.counts, moved.now.missing]) / max(1, moved.now.rows)
    name = f"<strong>{SCORES}</strong>" if moved.column == SCORES else escape(moved.column)
    return (
        f'<tr><td>{name}</td><td>{moved.verdict}</td><td class="number">{words.fixed(moved.psi)}'
        f'</td><td class="number">{words.fixed(moved.noise)}</td>'
        f'<td class="number">{words.NONE if moved.ks is None else words.fixed(moved.ks)}</td>'
        f'<td class="number">{words.percent(moved.missing_before)}</td>'
        f'<td class="number">{words.percent(moved.missing_now)}</td>'
        f"<td>{figures.twin_bars(before, now, _buckets(moved.before))}</td></tr>"
    )


def _buckets(profile: Profile) -> list[str]:
    """Names of a profile's buckets, the missing last."""
    if profile.kind == "category":
        return [*(words.value(name) for name in profile.names), "all others", "missing"]
    if profile.kind == "boolean":
        return ["false", "true", "missing"]
    shown = words.moment if profile.kind == "date" else words.number
    ends = [shown(edge) for edge in profile.edges]
    if not ends:
        return ["any value", "missing"]
    between = [f"above {low} to {high}" for low, high in pairwise(ends)]
    return [f"up to {ends[0]}", *between, f"above {ends[-1]}", "missing"]


def _dropped(report: Report) -> str:
    if not report.dropped:
        return ""
    lines = "".join(
        f"<tr><td>{escape(item.name)}</td><td>{escape(item.kind)}</td>"
        f"<td>{escape(item.reason)}</td></tr>"
        for item in report.dropped
    )
    return (
        "<h2>Which columns were left out?</h2>"
        '<p class="look">Look for a column that should count: its kind can be declared.</p>'
        '<div class="scroll"><table><thead><tr><th>Column</th><th>Taken for</th><th>Why</th></tr>'
        f"</thead><tbody>{lines}</tbody></table></div>"
    )


def _foot(report: Report) -> str:
    return (
        "<footer>Contributions sum to each answer exactly. Bands: DeLong for ROC-AUC, the spread "
        "of the mean for log loss, Brier score and MAE, bootstrap for the others, Wilson for "
        "shares. Rows are numbered from 0. This page is one file and asks no network; it shows "
        "values of single rows, so treat it as you treat the table. Made by chopmark.</footer>"
    )


def _has_both(view: ClassView) -> bool:
    return bool(view.y.min() < view.y.max())


def _ticked(text: str) -> str:
    """Escaped text, with what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(
        f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts)
    )


def _float(number: float | None) -> float:
    return float("nan") if number is None else float(number)
