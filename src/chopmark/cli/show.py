"""What the terminal shows: progress of long work, and tables of results."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

console = Console()
warnings = Console(stderr=True)

_LEAST_TEXT = 12
"""Characters that a column of texts keeps, however narrow the terminal."""
_FIGURE = re.compile(r"-?|[-+]?\d.*")


@contextmanager
def aside(apart: bool) -> Iterator[None]:
    """What the block shows goes to the error stream, so that the output is for a program alone."""
    before = console.stderr
    console.stderr = before or apart
    try:
        yield
    finally:
        console.stderr = before


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar over a block; the block calls what it is given with the number done."""
    columns: list[ProgressColumn] = [
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=30),
        *([] if total is None else [MofNCompleteColumn()]),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
        end = 1 if total is None else total
        bar.update(task, total=end, completed=end)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal: figures to the right and never cut, texts to the left and folded.

    Without rows only the title is shown, and that there are none.
    """
    if not rows:
        console.print(Text.assemble((title, "bold"), ": none"))
        return
    columns = [[name, *cells] for name, cells in zip(header, zip(*rows, strict=True), strict=True)]
    borders = 3 * len(columns) + 1
    is_roomy = sum(max(map(len, column)) for column in columns) + borders <= console.width
    shown, least = Table(), borders
    for place, (name, *cells) in enumerate(columns):
        # The words of a header may stand below each other, a figure stays whole.
        widths = [len(word) for word in name.split()]
        if place > 0 and all(_FIGURE.fullmatch(cell) for cell in cells):
            width = max([*widths, *map(len, cells)])
            shown.add_column(Text(name), justify="right", width=None if is_roomy else width)
        else:
            width = min(_LEAST_TEXT, max([*widths, *map(len, cells)]))
            shown.add_column(Text(name), overflow="fold", min_width=width)
        least += width
    if least > console.width:  # it runs over the edge rather than being cut
        shown.width = least
    for row in rows:
        shown.add_row(*map(Text, row))
    console.print(Text(title, style="bold"))
    console.print(shown, crop=False)


def say(text: str, *, indent: int = 0) -> None:
    """A paragraph, wrapped at the width of the terminal below where it begins."""
    console.print(Padding(Text(text), (0, 0, 0, indent)))


def number(value: float | None, digits: int = 4) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None or value != value else f"{value:,.{digits}f}"


def metrics_table(title: str, metrics: Mapping[str, float | None]) -> None:
    """Metrics of a model as a table."""
    table(title, ("metric", "value"), [(name, number(value)) for name, value in metrics.items()])
