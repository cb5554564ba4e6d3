"""A frame with axes as SVG text: no script, no style of its own, sizes in its own units.

Colours come from the page's classes, so a chart follows a light or a dark page and prints.
What the pointer rests on says its numbers (`<title>`). Serves A16 of the requirements.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from chopmark.report import words

_WIDTH, _HEIGHT = 480, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 14, 46


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a chart: what it shows, from where to where, and how its ticks read."""

    label: str
    low: float
    high: float
    tick: Callable[[float], str] = words.number

    def ticks(self) -> list[float]:
        """Four to eight round numbers within the axis."""
        span = self.high - self.low
        step = 10.0 ** floor(log10(span / 4.0))
        step *= next(factor for factor in (10, 5, 2, 1) if span / (step * factor) >= 4)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


class Chart:
    """A frame with two axes, to which marks are added in the order in which they are drawn.

    Parameters
    ----------
    title
        What the chart shows, for those who cannot see it.
    name
        Name by which the page's script finds the chart; "" if it need not.
    """

    def __init__(self, title: str, *, x: Axis, y: Axis, name: str = "") -> None:
        self.title, self.x, self.y, self.name = title, x, y, name
        self._marks: list[str] = []

    def line(self, xs: Sequence[float], ys: Sequence[float], look: str) -> None:
        """A line through the points."""
        points = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self._marks.append(f'<polyline class="line {look}" points="{points}"/>')

    def dots(self, xs: Iterable[float], ys: Iterable[float], look: str, *, size: float = 4) -> None:
        """A dot at each point."""
        self._marks += [
            f'<circle class="dot {look}" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{size}"/>'
            for x, y in zip(xs, ys, strict=True)
        ]

    def whisker(self, x: float, low: float, high: float, look: str) -> None:
        """A vertical line from low to high."""
        place = f"{self._x(x):.1f}"
        self._marks.append(
            f'<line class="whisker {look}" x1="{place}" x2="{place}" '
            f'y1="{self._y(low):.1f}" y2="{self._y(high):.1f}"/>'
        )

    def bar(self, left: float, right: float, height: float, look: str) -> None:
        """A bar from zero to a height."""
        top, foot = sorted((self._y(height), self._y(max(self.y.low, 0.0))))
        self._marks.append(
            f'<rect class="bar {look}" x="{self._x(left):.1f}" y="{top:.1f}" '
            f'width="{max(0.5, self._x(right) - self._x(left) - 0.6):.1f}" '
            f'height="{foot - top:.1f}"/>'
        )

    def said(self, text: str) -> None:
        """What the pointer reads on the mark that was added last."""
        mark = self._marks[-1]
        name = mark[1 : mark.index(" ")]
        self._marks[-1] = mark.removesuffix("/>") + f"><title>{escape(text)}</title></{name}>"

    def here(self, x: float, y: float) -> None:
        """The mark that the page's script moves with the threshold."""
        self._marks.append(
            f'<circle class="here" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="6"/>'
        )

    def upright(self, x: float) -> None:
        """A vertical line that the page's script moves with the threshold."""
        self._marks.append(
            f'<line class="here" x1="{self._x(x):.1f}" x2="{self._x(x):.1f}" '
            f'y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        )

    def svg(self) -> str:
        """The chart as an SVG element."""
        frame = "".join([*map(self._x_tick, self.x.ticks()), *map(self._y_tick, self.y.ticks())])
        limits = f"{self.x.low} {self.x.high} {self.y.low} {self.y.high}"
        box = f"{_LEFT} {_WIDTH - _RIGHT} {_HEIGHT - _BOTTOM} {_TOP}"
        moves = f' data-chart="{self.name}" data-limits="{limits}" data-box="{box}"'
        return (
            f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(self.title)}"{moves if self.name else ""}>'
            f"{frame}{''.join(self._marks)}"
            f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" '
            f'text-anchor="middle">{escape(self.x.label)}</text>'
            f'<text class="axis" transform="translate(13 {(_TOP + _HEIGHT - _BOTTOM) / 2}) '
            f'rotate(-90)" text-anchor="middle">{escape(self.y.label)}</text></svg>'
        )

    def _x(self, x: float) -> float:
        share = (x - self.x.low) / (self.x.high - self.x.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, y: float) -> float:
        share = (y - self.y.low) / (self.y.high - self.y.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def _x_tick(self, x: float) -> str:
        return (
            f'<line class="grid" x1="{self._x(x):.1f}" x2="{self._x(x):.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}"/><text class="tick" x="{self._x(x):.1f}" '
            f'y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(self.x.tick(x))}</text>'
        )

    def _y_tick(self, y: float) -> str:
        return (
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{self._y(y):.1f}" '
            f'y2="{self._y(y):.1f}"/><text class="tick" x="{_LEFT - 6}" '
            f'y="{self._y(y) + 4:.1f}" text-anchor="end">{escape(self.y.tick(y))}</text>'
        )
