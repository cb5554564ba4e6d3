"""Where to draw the line: what a threshold catches, whom it disturbs and what it earns, as HTML.

The page's script recomputes what carries `data-read` from the same numbers.
Serves A16 and A20 of the requirements.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from chopmark.report import words
from chopmark.report.ranking import Business, Costs, Ranking
from chopmark.report.views import ClassView

_CUTS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75)


def data(points: Ranking, view: ClassView) -> dict[str, Any]:
    """What the page's script computes with, as JSON takes it."""
    return {
        "thresholds": [None, *(float(f"{t:.6g}") for t in points.thresholds[1:].tolist())],
        "stopped": [int(rows) for rows in points.stopped.tolist()],
        "bad": [int(rows) for rows in points.bad.tolist()],
        "volume": [round(usd, 2) for usd in points.volume.tolist()],
        "bad_volume": [round(usd, 2) for usd in points.bad_volume.tolist()],
        "has_amount": view.amounts is not None,
    }


def start(view: ClassView, points: Ranking, costs: Costs) -> int:
    """Where the slider starts: what earns most, else as many stops as there are bad rows."""
    if view.amounts is not None:
        best = int(np.argmax(Business.of(points, costs).net_revenue_usd))
        if 0 < best < len(points.stopped) - 1:
            return best
    return max(1, int(np.argmin(np.abs(points.stopped - points.num_bad))))


def section(view: ClassView, points: Ranking, here: int, costs: Costs, place: int) -> str:
    """The section of one class, with the slider at point `here`."""
    last = len(points.thresholds) - 1
    beside, below = _lines(points), ""
    if view.amounts is not None:
        beside, below = _money(points, here, costs), f'<div class="scroll">{beside}</div>'
    return (
        "<h2>Where to draw the line?</h2>"
        '<p class="look">Rows that score at or above the threshold are stopped. Move it and look '
        "at what is caught and whom it disturbs; the marks in the charts below move along.</p>"
        '<div class="grid2"><div class="panel"><div class="slider">'
        f'<label for="threshold-{place}">Threshold</label>'
        f'<output data-read="threshold">{points.thresholds[here]:.4g}</output>'
        f'<input type="range" class="script" id="threshold-{place}" min="0" max="{last}" '
        f'value="{here}"></div>{_confusion(points, here)}</div>'
        f'<div class="panel">{beside}</div></div>{below}'
    )


def _confusion(points: Ranking, here: int) -> str:
    caught, stopped = points.bad[here], points.stopped[here]
    missed, wrong = points.num_bad - caught, stopped - caught
    passed = points.num_rows - points.num_bad - wrong
    rates = (
        ("recall", "of the bad rows are caught", points.recall[here]),
        ("precision", "of the stopped rows are bad", caught / stopped if stopped else np.nan),
        ("friction", "of the good rows are stopped", points.friction[here]),
        ("alarmRate", "of all rows are stopped", stopped / points.num_rows),
    )
    lines = "".join(
        f'<tr><td class="number"><strong data-read="{name}">{words.percent(float(share))}'
        f"</strong></td><td>{text}</td></tr>"
        for name, text, share in rates
    )
    return (
        '<table><thead><tr><th></th><th class="number">stopped</th>'
        '<th class="number">let through</th></tr></thead><tbody>'
        f"<tr><th>bad</th>{_count('caught', caught)}{_count('missed', missed)}</tr>"
        f"<tr><th>good</th>{_count('falseAlarms', wrong)}{_count('passed', passed)}</tr>"
        f"</tbody></table><table><tbody>{lines}</tbody></table>"
    )


def _count(name: str, rows: float) -> str:
    return f'<td class="number" data-read="{name}">{rows:,.0f}</td>'


def _money(points: Ranking, here: int, costs: Costs) -> str:
    business = Business.of(points, costs)
    series = (
        ("revenue", "Net revenue, USD", business.net_revenue_usd, _usd),
        ("rate", "Fraud rate, bp", business.fraud_rate_bp, _basis_points),
        ("friction", "Friction", business.friction, words.percent),
    )
    lines = "".join(
        f"<tr><th>{title}</th>"
        f'<td class="number" data-read="{name}Before">{shown(float(at[0]))}</td>'
        f'<td class="number" data-read="{name}After">{shown(float(at[here]))}</td>'
        f'<td class="number" data-read="{name}Change">{_change(float(at[here] - at[0]), shown)}'
        "</td></tr>"
        for name, title, at, shown in series
    )
    return (
        "<h3>What it earns</h3><p>Before: nothing is stopped. Fraud rate: losses per volume let "
        "through. Friction: share of good rows stopped. The best threshold is chosen on these "
        "rows: expect a little less on others.</p>"
        '<div class="assume script">'
        f"{_assumption('fee', 'Fee, % of good volume', 100 * costs.fee_share, 0.1)}"
        f"{_assumption('loss', 'Loss, % of bad volume', 100 * costs.loss_share, 5)}"
        f"{_assumption('stop', 'Cost of a stop, USD', costs.stop_usd, 0.5)}"
        '<button type="button" class="earn">Find what earns most</button></div>'
        '<table class="compact"><thead><tr><th></th><th class="number">before</th>'
        '<th class="number">after</th><th class="number">change</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _assumption(name: str, label: str, value: float, step: float) -> str:
    return (
        f'<label>{label}<input type="number" data-assume="{name}" min="0" step="{step}" '
        f'value="{value:g}"></label>'
    )


def _lines(points: Ranking) -> str:
    """Some thresholds in a table: for print, and for those without a script."""
    places = np.unique(np.searchsorted(points.stopped, [cut * points.num_rows for cut in _CUTS]))
    lines = "".join(
        f'<tr><td class="number">{points.thresholds[at]:.4g}</td>'
        + "".join(
            f'<td class="number">{words.percent(float(share))}</td>'
            for share in (
                points.stopped[at] / points.num_rows,
                points.precision[at],
                points.recall[at],
                points.friction[at],
            )
        )
        + "</tr>"
        for at in places.tolist()
        if at > 0
    )
    heads = "".join(
        f'<th class="number">{head}</th>'
        for head in ("threshold", "stopped", "bad among them", "bad caught", "good stopped")
    )
    return (
        f'<table class="compact"><caption>Some thresholds</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _usd(amount: float) -> str:
    return f"{amount:,.0f}".replace("-", "\N{MINUS SIGN}")


def _basis_points(rate: float) -> str:
    return f"{rate:.1f}".replace("-", "\N{MINUS SIGN}")


def _change(by: float, shown: Callable[[float], str]) -> str:
    return ("+" if by > 0 else "") + shown(by)
