"""The page of a ledger of losses: one HTML file, months drawn, for who reads no terminal.

Equal ledgers give equal bytes: the page carries no clock. Serves H13 of the requirements.
"""

from collections.abc import Iterable, Sequence
from html import escape

import polars as pl

from chopmark.pipelines.losses import By, Losses
from chopmark.report import words
from chopmark.report.bands import Estimate
from chopmark.report.chart import Axis, Chart
from chopmark.report.page import filled

_TITLE = "Losses, prevented and suffered"
_UNITS = ((1e6, "millions of USD"), (1e3, "thousands of USD"), (1.0, "USD"))
_PARTS = ("decisions", "asked_usd", "stopped_usd", "prevented_usd", "suffered_usd", "friction_usd",
          "open_usd", "net_usd")  # fmt: skip


def page(found: Losses) -> str:
    """The HTML text of a ledger: its sums, months drawn, parts, and what is assumed."""
    one, bands = found.figures, found.intervals
    facts = [
        ("Decisions", f"{one.decisions:,}"),
        ("Prevented, USD", _told(bands["prevented_usd"])),
        ("Suffered, USD", _told(bands["suffered_usd"])),
        ("Cost of friction, USD", _told(bands["cost_usd"])),
        ("Net, USD", _told(bands["net_usd"])),
        ("Open: stopped, USD", _usd(one.open_stopped_usd)),
        ("Open: let through, USD", _usd(one.open_allowed_usd)),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    months = found.by("month")
    keys: tuple[tuple[By, str], ...] = (
        ("month", "By month"), ("rule", "By what stopped it"), ("about_type", "By event type"),
        ("action", "By action"),
    )  # fmt: skip
    tables = "".join(
        _table(title, ("", *_PARTS), found.by(key).select("name", *_PARTS).iter_rows())
        for key, title in keys
    )
    uncounted = _table(
        "In none of the figures", ("", "number", "usd"),
        found.uncounted.filter(pl.col("num") > 0).iter_rows(),
    )  # fmt: skip
    foot = "".join(f"<li>{escape(text)}</li>" for text in found.foot)
    return filled(
        title=_TITLE,
        body=f"<header><h1>{_TITLE}</h1>"
        f'<p class="headline">{escape(_headline(bands["net_usd"]))}</p>'
        f'<dl class="facts">{items}</dl></header>{_drawn(months)}{tables}{uncounted}'
        f"<h2>What is assumed</h2><ul>{foot}</ul>",
    )


def _headline(net: Estimate) -> str:
    said = f"{_usd(net.value)} USD ({_usd(net.low)} to {_usd(net.high)})"
    return f"Prevented less suffered less the cost of friction: {said}, by careful figures."


def _drawn(months: pl.DataFrame) -> str:
    """Bars of each month beside each other, and the net of all months until each."""
    if months.is_empty():
        return ""
    return (
        '<h2>Month by month</h2><div class="grid2"><div class="panel">'
        '<h3>Prevented and suffered</h3><p><span class="key good"></span> prevented, '
        '<span class="key bad"></span> suffered, by the month of the decision. The last months '
        f"are not mature: both can still rise.</p>{_bars(months)}</div>"
        '<div class="panel"><h3>Net so far</h3><p>Prevented less suffered less the cost of '
        "friction, by careful figures, added up from the first month on.</p>"
        f"{_sums(months)}</div></div>"
    )


def _bars(months: pl.DataFrame) -> str:
    names = months["name"].to_list()
    columns = {name: months[f"{name}_usd"].to_list() for name in ("prevented", "suffered")}
    most = max(1.0, *columns["prevented"], *columns["suffered"])
    chart = Chart(_TITLE, x=_months(names), y=_money(0.0, most))
    for name, look, left in (("prevented", "good", -0.38), ("suffered", "bad", 0.02)):
        for place, usd in enumerate(columns[name]):
            chart.bar(place + left, place + left + 0.36, usd, look)
            chart.said(f"{names[place]}, {name}: {_usd(usd)} USD")
    return chart.svg()


def _sums(months: pl.DataFrame) -> str:
    names, sums = months["name"].to_list(), months["net_usd"].cum_sum().to_list()
    y = _money(min(0.0, *sums), max(1.0, *sums))
    chart = Chart("Net so far", x=_months(names), y=y)
    places = [float(place) for place in range(len(sums))]
    chart.line([-0.5, len(sums) - 0.5], [0.0, 0.0], "ideal")
    chart.line(places, sums, "main")
    for place, usd in zip(places, sums, strict=True):
        chart.dots([place], [usd], "main")
        chart.said(f"until the end of {names[int(place)]}: {_usd(usd)} USD")
    return chart.svg()


def _months(names: Sequence[str]) -> Axis:
    return Axis(
        label="month", low=-0.5, high=len(names) - 0.5, tick=lambda at: _month(names, at)
    )  # fmt: skip


def _money(low: float, high: float) -> Axis:
    size = max(-low, high)
    unit, label = next((unit, label) for unit, label in _UNITS if size >= unit)
    return Axis(
        label=label, low=1.06 * low, high=1.06 * high, tick=lambda usd: words.number(usd / unit)
    )


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    heads = "".join(f"<th>{escape(_head(name))}</th>" for name in header)
    lines = "".join(
        f"<tr><th>{escape(str(name))}</th>"
        + "".join(f'<td class="number">{_cell(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return (
        f'<h2>{escape(title)}</h2><div class="scroll"><table class="compact"><thead><tr>{heads}'
        f"</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _head(column: str) -> str:
    return column.removesuffix("_usd") + (", USD" if column.endswith("_usd") else "")


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _usd(float(str(value)))


def _month(names: Sequence[str], at: float) -> str:
    place = round(at)
    return names[place] if abs(at - place) < 1e-9 and 0 <= place < len(names) else ""


def _told(band: Estimate) -> str:
    return f"{_usd(band.value)} <small>({_usd(band.low)} to {_usd(band.high)})</small>"


def _usd(usd: float) -> str:
    return f"{usd:,.0f}" if usd == usd else words.NONE
