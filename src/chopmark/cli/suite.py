"""``chopmark foundation benchmark``: a user model through all tasks, and what it says of it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chopmark.cli.easyml import check_output
from chopmark.cli.show import console, number, table
from chopmark.cli.spaces import Kind, Task, need_torch, pace_of, shape_of
from chopmark.errors import InvalidInput


def benchmark(
    name: str,
    *,
    space: Path | None = None,
    shape: Kind = "recurrent",
    width: int | None = None,
    task: Task = "mixed",
    steps: int | None = None,
    seconds: float | None = None,
    data: Path | None = None,
    sets: str | None = None,
    results: Path = Path("results.jsonl"),
    report: Path | None = None,
    baseline: str | None = None,
    seeds: int = 3,
    small: Annotated[bool, Parameter(negative="")] = False,
    again: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Take a candidate through the benchmark suite; what was run already is not run again.

    Parameters
    ----------
    name
        Of the candidate, by which its results are told from those of others.
    space
        File that pretrain wrote, used as it is on every set; without it, one is pre-trained on
        each set with the settings below.
    shape
        Of the encoder.
    width
        Of the vector of an event.
    task
        What it is pre-trained on.
    steps
        Of pre-training.
    seconds
        Of pre-training.
    data
        Folder of the public sets; else the one that CHOPMARK_DATA names, else made sets alone.
    sets
        Names of sets to run, with commas; all if not given.
    results
        File of results, one JSON object a line; new ones are put behind the old ones.
    report
        HTML page of all results in the file.
    baseline
        Candidate in the file that this one is compared with.
    seeds
        Pre-trainings, and draws of labels.
    small
        Small made sets and hardly any training: shows that all works, and nothing else.
    again
        Run also what the file has already.
    """
    need_torch()
    from chopmark.foundation.suite import read_results, run_suite
    from chopmark.foundation.suitetasks import suite_sets
    from chopmark.foundation.usermodel import UserModel
    from chopmark.report.suitepage import write_suite_report

    if seeds < 1:
        raise InvalidInput(f"expected --seeds of at least 1, got {seeds}")
    if not name.strip():
        raise InvalidInput("expected a name of the candidate, got none")
    if baseline is not None and report is None:
        raise InvalidInput("expected --report with --baseline, which is compared there")
    check_output(results)
    if report is not None:
        check_output(report, results)
    if space is not None and (task != "mixed" or width is not None or shape != "recurrent"
                              or steps is not None or seconds is not None):  # fmt: skip
        raise InvalidInput("expected --space or settings to pre-train with, got both")
    candidate = UserModel.load(space) if space is not None else UserModel(
        shape=shape_of(shape, width), task=task, pace=pace_of(steps, seconds))  # fmt: skip
    chosen = suite_sets(data, small=small)
    if sets is not None:
        asked = [one.strip() for one in sets.split(",") if one.strip()]
        known = [one.name for one in chosen]
        for one in asked:
            if one not in known:
                raise InvalidInput(f"expected --sets among {', '.join(known)}, got `{one}`")
        chosen = [one for one in chosen if one.name in asked]
    with Progress(TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=console) as bar:  # fmt: skip
        shown = bar.add_task("benchmark", total=None)

        def on_progress(what: str, done: int, total: int) -> None:
            bar.update(shown, description=what or "done", completed=done, total=total)

        found = run_suite(
            candidate,
            results,
            name=name,
            sets=chosen,
            seeds=tuple(range(seeds)),
            small=small,
            again=again,
            on_progress=on_progress,
        )
    _show(found, name)
    console.print(f"{found.height:,} results of `{name}` in {results}", soft_wrap=True)
    if report is not None:
        write_suite_report(read_results(results), report, candidate=name, baseline=baseline)
        console.print(f"drawn in {report}", soft_wrap=True)


def _show(found: object, name: str) -> None:
    """Mean figures of each use over tasks, budgets and seeds."""
    import polars as pl

    assert isinstance(found, pl.DataFrame)
    means = (
        found.group_by("method")
        .agg(pl.len(), pl.col("roc_auc", "pr_auc", "log_loss", "calibration_error").mean())
        .sort("roc_auc", descending=True, nulls_last=True)
    )
    rows = [(str(use), f"{count:,}", *(number(value) for value in rest))
            for use, count, *rest in means.iter_rows()]  # fmt: skip
    header = ("use", "results", "ROC-AUC", "PR-AUC", "log loss", "calibration error")
    table(f"Means of `{name}` over tasks, numbers of labels and seeds", header, rows)
