"""The charts of a report as SVG text. Serves A16 of the requirements."""

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, isfinite

import numpy as np
from numpy.typing import NDArray

from chopmark.report import bands, words
from chopmark.report.chart import Axis, Chart
from chopmark.report.ranking import Ranking
from chopmark.report.reasons import Case, Effect
from chopmark.report.views import ClassView, NumberView

_NUM_BINS = 25
_POINTS = 240
_STRONGEST = 10


def reliability(view: ClassView) -> str:
    """What the scores said against what happened, with 95 % bands of each bucket."""
    table = view.reliability
    low, high = bands.wilson(table.bad_rate * table.rows, table.rows.astype(np.float64))
    most = min(1.0, 1.06 * float(max(table.mean_score.max(), high.max())))
    axis = Axis(label="score said", low=0.0, high=most, tick=_percent)
    chart = Chart(
        "Share of bad rows against the score, in ten buckets",
        x=axis,
        y=Axis(label="bad rows, with 95 % band", low=0.0, high=most, tick=_percent),
    )
    chart.line([0.0, most], [0.0, most], "ideal")
    for place, said in enumerate(table.mean_score.tolist()):
        chart.whisker(said, float(low[place]), float(high[place]), "main")
        chart.dots([said], [float(table.bad_rate[place])], "main")
        chart.said(
            f"{table.rows[place]:,} rows: said {words.percent(said)}, "
            f"{words.percent(float(table.bad_rate[place]))} were bad"
        )
    return chart.svg()


def gain(ranking: Ranking, here: int) -> str:
    """Share of the bad rows caught against the share of rows stopped."""
    chart = Chart(
        "Share of the bad rows that is caught when the riskiest share of all rows is stopped",
        x=Axis(label="riskiest share of all rows", low=0.0, high=1.0, tick=_percent),
        y=Axis(label="bad rows among them (recall)", low=0.0, high=1.0, tick=_percent),
        name="gain",
    )
    thin = ranking.thinned(_POINTS)
    bad_share = ranking.num_bad / ranking.num_rows
    chart.line([0.0, bad_share, 1.0], [0.0, 1.0, 1.0], "ideal")
    chart.line([0.0, 1.0], [0.0, 1.0], "ideal")
    chart.line(_list(thin.stopped / ranking.num_rows), _list(thin.recall), "main")
    chart.here(ranking.stopped[here] / ranking.num_rows, ranking.recall[here])
    return chart.svg()


def lift(ranking: Ranking) -> str:
    """How many times more bad rows each tenth has than the average."""
    cuts = np.linspace(0.0, 1.0, 11)
    recall = [ranking.recall_in_top(cut) for cut in cuts.tolist()]
    lifts = np.diff(recall) * 10.0
    chart = Chart(
        "Lift of each tenth of the rows, the riskiest first",
        x=Axis(label="tenth of the rows, riskiest first", low=0.5, high=10.5),
        y=Axis(label="bad rows, times the average", low=0.0, high=float(1.08 * lifts.max())),
    )
    for place, times in enumerate(lifts.tolist(), start=1):
        chart.bar(place - 0.42, place + 0.42, times, "bad")
        chart.said(f"tenth {place}: {times:.2f} times the average")
    chart.line([0.5, 10.5], [1.0, 1.0], "ideal")
    return chart.svg()


def roc(ranking: Ranking, here: int) -> str:
    """Share of the bad rows caught against the share of the good rows stopped."""
    thin = ranking.thinned(_POINTS)
    chart = Chart(
        "ROC curve",
        x=Axis(label="good rows stopped (friction)", low=0.0, high=1.0, tick=_percent),
        y=Axis(label="bad rows caught (recall)", low=0.0, high=1.0, tick=_percent),
        name="roc",
    )
    chart.line([0.0, 1.0], [0.0, 1.0], "ideal")
    chart.line(_list(thin.friction), _list(thin.recall), "main")
    chart.here(ranking.friction[here], ranking.recall[here])
    return chart.svg()


def precision_recall(ranking: Ranking, here: int) -> str:
    """Share of bad rows among those stopped, against the share of bad rows caught."""
    thin = ranking.thinned(_POINTS)
    chart = Chart(
        "Precision-recall curve",
        x=Axis(label="bad rows caught (recall)", low=0.0, high=1.0, tick=_percent),
        y=Axis(label="bad among those stopped", low=0.0, high=1.0, tick=_percent),
        name="precision",
    )
    bad_share = ranking.num_bad / ranking.num_rows
    chart.line([0.0, 1.0], [bad_share, bad_share], "ideal")
    chart.line(_list(thin.recall), _list(thin.precision), "main")
    chart.here(ranking.recall[here], ranking.precision[here])
    return chart.svg()


def histogram(view: ClassView, threshold: float) -> str:
    """The scores of good and of bad rows, each as shares of their own class."""
    most = max(0.02, ceil(float(view.scores.max()) * 50 - 1e-9) / 50)
    edges = np.linspace(0.0, most, _NUM_BINS + 1)
    good = _shares(view.scores[view.y == 0.0], edges)
    bad = _shares(view.scores[view.y == 1.0], edges)
    chart = Chart(
        "Histogram of the scores of good and of bad rows",
        x=Axis(label="score", low=0.0, high=most),
        y=Axis(
            label="share of its class",
            low=0.0,
            high=1.06 * max(good.max(), bad.max(), 0.01),
            tick=_percent,
        ),
        name="histogram",
    )
    half = (edges[1] - edges[0]) / 2
    for place, left in enumerate(edges[:-1].tolist()):
        for look, shift, share in (("good", 0.0, good[place]), ("bad", half, bad[place])):
            if share > 0.0:
                chart.bar(left + shift, left + shift + half, float(share), look)
                chart.said(
                    f"{words.percent(float(share))} of the {look} rows score "
                    f"{left:.3g} to {edges[place + 1]:.3g}"
                )
    chart.upright(min(threshold, most))
    return chart.svg()


def predictions(view: NumberView) -> str:
    """Predictions against what happened."""
    rows = view.drawn
    low = float(min(view.y.min(), view.predicted.min()))
    high = float(max(view.y.max(), view.predicted.max()))
    pad = 0.03 * (high - low) or 1.0
    chart = Chart(
        "Predicted against true numbers",
        x=Axis(label="predicted", low=low - pad, high=high + pad),
        y=Axis(label="true", low=low - pad, high=high + pad),
    )
    chart.line([low, high], [low, high], "ideal")
    chart.dots(_list(view.predicted[rows]), _list(view.y[rows]), "main faint", size=2.5)
    return chart.svg()


def residuals(view: NumberView) -> str:
    """How far off predictions are, and how often; the outermost hundredth is put at the ends."""
    off = view.predicted - view.y
    low, high = np.quantile(off, [0.005, 0.995]).tolist()
    most = max(abs(low), abs(high)) or 1.0
    edges = np.linspace(-most, most, _NUM_BINS + 1)
    shares = _shares(np.clip(off, -most, most), edges)
    chart = Chart(
        "Histogram of prediction minus truth",
        x=Axis(label="prediction minus truth", low=-most, high=most),
        y=Axis(label="share of rows", low=0.0, high=1.06 * float(shares.max()), tick=_percent),
    )
    for place, share in enumerate(shares.tolist()):
        chart.bar(edges[place], edges[place + 1], share, "main")
        chart.said(f"{words.percent(share)}: {edges[place]:.3g} to {edges[place + 1]:.3g}")
    return chart.svg()


def effect(found: Effect, *, unit: str, outcome: Callable[[float], str], head: str) -> str:
    """What a column's values do: mean contribution with its spread, outcome and rows."""
    known = [float(end) for end in (*found.low, *found.high) if isfinite(end)] or [0.0]
    low, high = min(0.0, *known), max(0.0, *known)
    pad = 0.05 * (high - low) or 0.5
    low, high = low - pad, high + pad
    name_at, left, right, row = 168, 176, 452, 24
    height = row * len(found.labels) + 46

    def place(move: float) -> float:
        return left + (move - low) / (high - low) * (right - left)

    by = "" if found.reading == found.column else f"by {_short(found.reading, 26)}"
    marks = [
        f'<text class="axis" x="{name_at}" y="12" text-anchor="end">{escape(by)}</text>'
        f'<text class="axis" x="{(left + right) / 2}" y="12" text-anchor="middle">'
        f"contribution, {escape(unit)}</text>"
        f'<text class="axis" x="530" y="12" text-anchor="end">{escape(head)}</text>'
        f'<text class="axis" x="600" y="12" text-anchor="end">rows</text>'
        f'<line class="zero" x1="{place(0):.1f}" x2="{place(0):.1f}" y1="20" y2="{height - 22}"/>'
    ]
    for index, label in enumerate(found.labels):
        middle = 20 + row * (index + 0.5)
        marks.append(
            f'<text class="tick" x="{name_at}" y="{middle + 4}" text-anchor="end">'
            f"{escape(_short(label, 26))}<title>{escape(label)}</title></text>"
            f'<text class="tick" x="530" y="{middle + 4}" text-anchor="end">'
            f"{escape(outcome(float(found.outcome[index])))}</text>"
            f'<text class="tick" x="600" y="{middle + 4}" text-anchor="end">'
            f"{found.rows[index]:,}</text>"
        )
        if isfinite(found.mean[index]):
            marks.append(_spread(found, index, middle, place))
    marks += [
        f'<text class="tick" x="{place(tick):.1f}" y="{height - 6}" text-anchor="middle">'
        f"{escape(words.number(tick))}</text>"
        for tick in Axis(label="", low=low, high=high).ticks()
    ]
    return (
        f'<svg class="wide" viewBox="0 0 610 {height}" role="img" '
        f'aria-label="Effect of {escape(found.column)}">{"".join(marks)}</svg>'
    )


def waterfall(case: Case, *, unit: str) -> str:
    """The way from an average row to this one, strongest column first."""
    moves = case.moves[:_STRONGEST]
    rest = case.moves[_STRONGEST:]
    steps = [(f"{move.column} = {move.value}", move.amount) for move in moves]
    if rest:
        steps.append((f"{len(rest)} other columns", sum(move.amount for move in rest)))
    ends = case.bias + np.cumsum([0.0, *(amount for _, amount in steps)])
    low, high = float(ends.min()), float(ends.max())
    pad = 0.08 * (high - low) or 0.5
    low, high = low - pad, high + pad
    left, right, row = 226, 560, 24
    height = row * (len(steps) + 2) + 12

    def place(z: float) -> float:
        return left + (z - low) / (high - low) * (right - left)

    marks = [_step_end("average row", float(ends[0]), place(float(ends[0])), row * 0.5)]
    for index, (label, amount) in enumerate(steps):
        marks.append(_step(label, amount, place(ends[index]), place(ends[index + 1]), row, index))
    last = row * (len(steps) + 1.5)
    marks.append(_step_end(f"this row ({unit})", float(ends[-1]), place(float(ends[-1])), last))
    return (
        f'<svg class="wide" viewBox="0 0 610 {height}" role="img" '
        f'aria-label="Reasons of row {case.row}">{"".join(marks)}</svg>'
    )


def share_bar(share: float, look: str = "main", *, of: float = 1.0) -> str:
    """A small horizontal bar."""
    width = 0.0 if of <= 0.0 else 100.0 * share / of
    return (
        '<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="bar {look}" x="0" y="0" width="{width:.1f}" height="10"/></svg>'
    )


def twin_bars(before: NDArray[np.float64], now: NDArray[np.float64], labels: Sequence[str]) -> str:
    """Small bars of shares before and now, side by side for each bucket."""
    most = float(max(before.max(), now.max())) or 1.0
    wide = 220.0 / len(labels)
    marks = []
    for place, label in enumerate(labels):
        marks.append(
            f"<g><title>{escape(label)}: {words.percent(float(before[place]))} before, "
            f"{words.percent(float(now[place]))} now</title>"
            + _twin(before[place] / most, wide * place, wide * 0.45, "before")
            + _twin(now[place] / most, wide * (place + 0.45), wide * 0.45, "now")
            + "</g>"
        )
    return f'<svg class="twins" viewBox="0 0 220 40" aria-hidden="true">{"".join(marks)}</svg>'


def _twin(share: float, left: float, width: float, look: str) -> str:
    tall = 38.0 * float(share)
    return (
        f'<rect class="bar {look}" x="{left:.1f}" y="{39 - tall:.1f}" width="{width:.1f}" '
        f'height="{tall + 1:.1f}"/>'
    )


def _spread(found: Effect, index: int, middle: float, place: Callable[[float], float]) -> str:
    low, mean, high = (float(side[index]) for side in (found.low, found.mean, found.high))
    look = "bad" if mean > 0 else "good"
    start, end = sorted((place(0.0), place(mean)))
    return (
        f"<g><title>{words.signed(mean)} on average, {words.signed(low)} to {words.signed(high)} "
        f"in 8 of 10 rows</title>"
        f'<rect class="bar {look}" x="{start:.1f}" y="{middle - 7}" width="{end - start:.1f}" '
        f'height="14"/><line class="whisker" x1="{place(low):.1f}" x2="{place(high):.1f}" '
        f'y1="{middle}" y2="{middle}"/></g>'
    )


def _step(label: str, amount: float, start: float, end: float, row: int, index: int) -> str:
    top = row * (index + 1) + 4
    left, right = sorted((start, end))
    look = "bad" if amount > 0 else "good"
    return (
        f'<text class="tick" x="218" y="{top + 12}" text-anchor="end">{escape(_short(label, 36))}'
        f"<title>{escape(label)}</title></text>"
        f'<rect class="bar {look}" x="{left:.1f}" y="{top}" '
        f'width="{max(1.0, right - left):.1f}" height="16"/>'
        f'<line class="link" x1="{end:.1f}" x2="{end:.1f}" y1="{top + 16}" y2="{top + row}"/>'
        f'<text class="tick" x="{right + 4:.1f}" y="{top + 12}">{words.signed(amount)}</text>'
    )


def _step_end(label: str, z: float, x: float, middle: float) -> str:
    return (
        f'<text class="axis" x="218" y="{middle + 4}" text-anchor="end">{escape(label)}</text>'
        f'<circle class="dot main" cx="{x:.1f}" cy="{middle}" r="4"/>'
        f'<text class="axis" x="{x + 8:.1f}" y="{middle + 4}">{words.signed(z)}</text>'
    )


def _shares(scores: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    count, _ = np.histogram(scores, bins=edges)
    return count / max(1, len(scores))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _list(values: NDArray[np.float64]) -> list[float]:
    found: list[float] = values.tolist()
    return found
