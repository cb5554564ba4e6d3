"""The page of the benchmark suite: what got worse, claims judged, a chart for each task.

    write_suite_report(read_results("results.jsonl"), "suite.html", baseline="pairs")

One file that needs no other and asks no network, made of the frame of results alone; equal
results give equal bytes. Serves G20 of the requirements.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import polars as pl

from chopmark.errors import InvalidInput, did_you_mean
from chopmark.models.artifact import write_whole
from chopmark.report import words
from chopmark.report.chart import Axis, Chart
from chopmark.report.page import filled
from chopmark.report.suite import (
    CHOSEN,
    Claim,
    Comparison,
    Gain,
    best_uses,
    claims,
    compare,
    ranked,
    runs,
)

_LOOKS = {
    "positives only": "warm dotted",
    "centroids": "warm",
    "probe": "good dotted",
    "trees": "good",
    "trees and aggregates": "main",
    "aggregates": "ideal",
    "fine-tuned": "bad",
    "from scratch": "bad dotted",
}
_RARE = 0.1
_WORDS = {"worse": "worse", "better": "better", "no difference": "no difference shown",
          "too few cells": "too few cells to tell"}  # fmt: skip
_MARKS = {"reproduced": "good", "refuted": "bad", "not decided": "", "not measured": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteReport:
    """The figures of the page.

    Attributes
    ----------
    candidate
        Whose charts and ranks are shown.
    comparison
        With the baseline; None without one.
    claims, ranks, uses
        As `claims`, `ranked` and `best_uses` of `chopmark.report.suite` give them.
    headline : str
    """

    candidate: str
    comparison: Comparison | None
    claims: tuple[Claim, ...]
    ranks: pl.DataFrame
    uses: pl.DataFrame
    headline: str


def write_suite_report(
    results: pl.DataFrame,
    path: str | Path,
    *,
    candidate: str | None = None,
    baseline: str | None = None,
    title: str = "Benchmark of user models",
) -> SuiteReport:
    """Write the page of the suite's results.

    Parameters
    ----------
    results
        As `chopmark.foundation.suite.read_results` gives them.
    path
        The HTML file, written whole or not at all.
    candidate
        Whose results are drawn; the one that came last if not given.
    baseline
        What it is compared with; if not given and there is one other candidate, that one.

    Returns
    -------
    SuiteReport
        The figures of the page.

    Raises
    ------
    InvalidInput, InvalidTable
        If a name is not there, or the frame is none of results.
    ArtifactError
        If the folder does not exist or cannot be written.
    """
    known = runs(results)
    names = known["run"].unique(maintain_order=True).to_list()
    shown = candidate or next(
        name for name in reversed(names) if name != baseline or len(names) < 2
    )
    if shown not in names:
        raise InvalidInput(
            f"expected a candidate with results ({', '.join(names)}), got `{shown}`"
            + did_you_mean(shown, names)
        )
    others = [name for name in names if name != shown]
    if baseline is None and len(others) == 1:
        baseline = others[0]
    comparison = None if baseline is None else compare(results, baseline=baseline, candidate=shown)
    own = known.filter(pl.col("run") == shown)
    report = SuiteReport(
        candidate=shown,
        comparison=comparison,
        claims=claims(results),
        ranks=ranked(own),
        uses=best_uses(own),
        headline=_headline(shown, comparison, own),
    )
    body = "\n".join(_body(report, known, own, title))
    write_whole(Path(path), filled(title=title, body=body).encode())
    return report


def _headline(name: str, comparison: Comparison | None, own: pl.DataFrame) -> str:
    chosen = own.filter(pl.col("method") == CHOSEN)["roc_auc"].drop_nulls()
    mean = f"mean ROC-AUC {words.fixed(_number(chosen.mean()), 4)}"
    if comparison is None:
        return (
            f"{name}: {mean} of the use that validation chose, on {own['task'].n_unique()} tasks."
        )
    worse = len(comparison.regressions)
    if worse:
        return f"{name} is worse than {comparison.baseline} in {_counted(worse, 'place')}."
    return f"{name}: {mean}; nowhere shown to be worse than {comparison.baseline}."


def _body(report: SuiteReport, known: pl.DataFrame, own: pl.DataFrame, title: str) -> Iterable[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield f'<p class="headline">{escape(report.headline)}</p>'
    facts = [
        ("Candidate", report.candidate),
        ("Tasks", str(own["task"].n_unique())),
        ("Budgets of labels", ", ".join(_budgets(own))),
        ("Seeds", str(own["seed"].n_unique())),
        ("Results", f"{own.height:,}"),
    ]
    told = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    yield f'<dl class="facts">{told}</dl>'
    if report.comparison is not None:
        yield from _compared(report.comparison)
    yield "<h2>Claims</h2>"
    yield '<p class="look">What all results in the file say of what is claimed elsewhere.</p>'
    rows = [
        [_marked(claim.judgement, _MARKS[claim.judgement]), escape(claim.text), escape(claim.told)]
        for claim in report.claims
    ]
    yield _table(["Judgement", "Claim", "Figures"], rows)
    yield "<h2>Methods</h2>"
    yield (
        '<p class="look">Means over the cells (task, budget, seed) that all methods have, and the '
        "mean rank by ROC-AUC in a cell. &ldquo;chosen&rdquo; is what validation rows chose.</p>"
    )
    yield _ranks(report.ranks)
    yield "<h2>Tasks</h2>"
    yield (
        '<p class="look">ROC-AUC on rows of test over the number of labels, mean of the seeds. '
        "Larger dots: what validation chose. Rest on a dot for its figures.</p>"
    )
    yield f"<p>{_key(own)}</p>"
    yield '<div class="grid2">'
    for task in own["task"].unique(maintain_order=True).to_list():
        yield _panel(own.filter(pl.col("task") == task), task)
    yield "</div>"
    yield "<h2>The three uses</h2>"
    yield '<p class="look">Mean ROC-AUC by task; static is the better of probe and trees.</p>'
    three = [name for name in report.uses.columns if name not in ("task", "best")]
    rows = [
        [escape(row["task"]), *(_fixed(row[name]) for name in three), escape(row["best"] or "")]
        for row in report.uses.to_dicts()
    ]
    yield _table(["Task", *(name.capitalize() for name in three), "Best"], rows, numbers=len(three))
    yield from _cost(known)


def _compared(comparison: Comparison) -> Iterable[str]:
    yield f"<h2>Against {escape(comparison.baseline)}</h2>"
    worse = comparison.regressions
    if worse:
        count = _marked(_counted(len(worse), "regression"), "bad")
        yield f"<p>{count}: ROC-AUC fell, and not by chance.</p>"
        yield _gains(worse)
    else:
        yield "<p>No regression: nothing fell by more than chance would let it.</p>"
    yield "<h3>Over all tasks</h3>"
    yield (
        '<p class="look">Points of ROC-AUC, paired by task, budget and seed, with the interval of '
        "Student's t over the means of the tasks (95 %; over the cells of one task 99 %).</p>"
    )
    yield _gains(comparison.overall)
    better = [gain for gain in comparison.tasks if gain.verdict == "better"]
    if better:
        yield f"<details><summary>{_counted(len(better), 'place')} where it is better</summary>"
        yield _gains(sorted(better, key=lambda gain: -gain.gain.value)) + "</details>"


def _gains(gains: Sequence[Gain]) -> str:
    rows = []
    for gain in gains:
        look = {"worse": "bad", "better": "good"}.get(gain.verdict, "")
        within = f"{_points(gain.gain.low)} to {_points(gain.gain.high)}"
        rows.append([
            _marked(_WORDS[gain.verdict], look),
            escape(gain.task or "all tasks"),
            escape(gain.method),
            _fixed(gain.before),
            _fixed(gain.after),
            _points(gain.gain.value),
            within if isfinite(gain.gain.low) else words.NONE,
            str(gain.num_cells),
        ])  # fmt: skip
    heads = ["Verdict", "Task", "Method", "Before", "After", "Gain", "Interval", "Cells"]
    return _table(heads, rows, numbers=5)


def _ranks(ranks: pl.DataFrame) -> str:
    heads = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "log_loss": "Log loss",
             "calibration_error": "Calibration error", "rank": "Mean rank", "first": "First",
             "cells": "Cells", "seconds": "Seconds to fit"}  # fmt: skip
    digits = {"rank": 2, "first": 0, "cells": 0, "seconds": 1}
    names = [name for name in heads if name in ranks.columns]
    rows = [
        [escape(row["method"]), *(_fixed(row[name], digits.get(name, 4)) for name in names)]
        for row in ranks.to_dicts()
    ]
    return _table(["Method", *(heads[name] for name in names)], rows, numbers=len(names))


def _panel(task: pl.DataFrame, name: str) -> str:
    budgets = _budgets(task)
    means = task.group_by("method", "budget", maintain_order=True).agg(
        *(pl.col(metric).mean() for metric in ("roc_auc", "pr_auc", "log_loss")),
        low=pl.col("roc_auc").min(),
        high=pl.col("roc_auc").max(),
        use=pl.col("use").mode().sort().first() if "use" in task.columns else pl.col("method"),
        seeds=pl.len(),
    )
    if not means["roc_auc"].drop_nulls().len():
        return (
            f'<section class="panel"><h3>{escape(name)}</h3><p>No ROC-AUC: the rows of test have '
            "one class.</p></section>"
        )
    first = task.row(0, named=True)
    about = [str(first.get("kind") or "")]
    if first.get("num_test"):
        about.append(f"{first['num_test']:,} rows of test")
    drawn = [_chart(means, name, budgets, "roc_auc", "ROC-AUC")]
    if first.get("positives") is not None:
        about.append(f"{words.percent(first['positives'])} positive")
        # Of rare positives ROC-AUC flatters: who reviews the highest scores sees precision.
        if first["positives"] < _RARE and means["pr_auc"].drop_nulls().len():
            drawn.append(_chart(means, name, budgets, "pr_auc", "PR-AUC"))
    return (
        f'<section class="panel"><h3>{escape(name)}</h3><p>{escape(", ".join(filter(None, about)))}'
        f"</p>{''.join(drawn)}</section>"
    )


def _chart(means: pl.DataFrame, name: str, budgets: list[str], metric: str, label: str) -> str:
    """A line for each method over the budgets, and dots of the chosen one."""
    values = means[metric].drop_nulls()
    low, high = _number(values.min()), _number(values.max())
    margin = max(0.05 * (high - low), 0.005)
    chart = Chart(
        f"{label} by number of labels: {name}",
        x=_Budgets(
            label="labels", low=-0.25, high=len(budgets) - 0.75,
            tick=lambda place: budgets[round(place)],
        ),
        y=Axis(label=label, low=low - margin, high=high + margin),
    )  # fmt: skip
    for method in (*_LOOKS, CHOSEN):
        rows = means.filter((pl.col("method") == method) & pl.col(metric).is_not_null())
        points = sorted(
            ((budgets.index(row["budget"]), row) for row in rows.to_dicts()),
            key=lambda pair: pair[0],
        )
        xs = [float(place) for place, _ in points]
        ys = [float(row[metric]) for _, row in points]
        if method != CHOSEN and len(points) > 1:
            chart.line(xs, ys, _LOOKS[method])
        for x, y, (_, row) in zip(xs, ys, points, strict=True):
            chart.dots([x], [y], "main" if method == CHOSEN else _LOOKS[method].split()[0],
                       size=6 if method == CHOSEN else 3)  # fmt: skip
            chart.said(_said(method, row))
    return chart.svg()


class _Budgets(Axis):
    """Budgets side by side: 50, 200, 1,000 and all are steps, not lengths."""

    def ticks(self) -> list[float]:
        return [float(place) for place in range(round(self.high + 0.75))]


def _said(method: str, row: dict[str, Any]) -> str:
    of = f" ({row['use']})" if method == CHOSEN and row["use"] else ""
    labels = "all labels" if row["budget"] == "all" else f"{row['budget']} labels"
    return (
        f"{method}{of}, {labels}: ROC-AUC {_plain(row['roc_auc'])} ({_plain(row['low'])} to "
        f"{_plain(row['high'])} over {row['seeds']} seeds), PR-AUC {_plain(row['pr_auc'])}, log "
        f"loss {_plain(row['log_loss'])}"
    )


def _key(own: pl.DataFrame) -> str:
    there = set(own["method"].unique())
    told = [
        f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true"><line class="line {look}" '
        f'x1="1" x2="29" y1="5" y2="5"/></svg> {escape(method)}'
        for method, look in _LOOKS.items()
        if method in there
    ]
    return " &ensp; ".join(told)


def _cost(known: pl.DataFrame) -> Iterable[str]:
    needed = ("pretrain_seconds", "embed_seconds", "num_embedded", "peak_mib", "pretext_loss")
    if not set(needed) <= set(known.columns):
        return
    told = (
        known.unique(["run", "set", "seed", "task"], keep="first", maintain_order=True)
        .group_by("run", maintain_order=True)
        .agg(
            pl.col("pretext").first(),
            pl.col("pretext_loss").mean(),
            pl.col("pretrain_seconds").mean(),
            rate=pl.col("num_embedded").sum() / pl.col("embed_seconds").sum(),
            peak=pl.col("peak_mib").max(),
        )
    )
    yield "<h2>Cost, and the pretext</h2>"
    yield (
        '<p class="look">The loss of the pretext is written down and gates nothing: solving it '
        "better need not make a better embedding.</p>"
    )
    rows = [
        [escape(row["run"]), escape(str(row["pretext"] or "")), _fixed(row["pretext_loss"], 3),
         _fixed(row["pretrain_seconds"], 1), _fixed(row["rate"], 0), _fixed(row["peak"], 0)]
        for row in told.to_dicts()
    ]  # fmt: skip
    heads = ["Candidate", "Pretext", "Its loss", "Seconds to pre-train", "Rows a second, embedded",
             "Peak MiB of the process"]  # fmt: skip
    yield _table(heads, rows, numbers=4)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """Cells are HTML. So many columns hold numbers, up to the last or the one before a word."""
    rows = list(rows)
    first = len(heads) - numbers
    if numbers and heads[-1] == "Best":
        first -= 1
    right = set(range(first, first + numbers))

    def cell(tag: str, place: int, text: str) -> str:
        look = ' class="number"' if place in right else ""
        return f"<{tag}{look}>{text}</{tag}>"

    head = "".join(cell("th", place, escape(text)) for place, text in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(cell('td', place, text) for place, text in enumerate(row))}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="compact"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _marked(text: str, look: str) -> str:
    """Words with a square of a colour: the words say it, too."""
    shown = f'<strong class="{look}">{escape(text)}</strong>' if look else escape(text)
    return f'<span class="key {look}" aria-hidden="true"></span> {shown}'.replace(
        'class="key "', 'class="key"'
    )


def _budgets(own: pl.DataFrame) -> list[str]:
    found = own["budget"].unique().to_list()
    return sorted(found, key=lambda budget: float("inf") if budget == "all" else float(budget))


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _points(value: float) -> str:
    return words.signed(100.0 * value)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _plain(value: Any) -> str:
    return words.fixed(_number(value), 4)


def _fixed(value: Any, digits: int = 4) -> str:
    return words.fixed(_number(value), digits)
