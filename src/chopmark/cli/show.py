"""What the terminal shows: progress of long work, and tables of results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console()


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar over a block; the block calls what it is given with the number done."""
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
        bar.update(task, total=total or bar.tasks[0].completed, completed=total)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal; numbers stand to the right."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    shown.add_column(header[0])
    for name in header[1:]:
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def number(value: float | None, digits: int = 4) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None or value != value else f"{value:,.{digits}f}"


def metrics_table(title: str, metrics: Mapping[str, float | None]) -> None:
    """Metrics of a model as a table."""
    table(title, ("metric", "value"), [(name, number(value)) for name, value in metrics.items()])
