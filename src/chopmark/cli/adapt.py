"""``chopmark foundation adapt``: from labels of users to a served model, in one command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chopmark.cli.easyml import check_output
from chopmark.cli.eventtables import (
    Fields,
    Numbers,
    TimeColumn,
    TypeColumn,
    UserColumn,
    names_of,
    read_histories,
)
from chopmark.cli.show import console, metrics_table, number, say, table
from chopmark.cli.spaces import Threads, check_fits, load_space, need_torch, torch_threads
from chopmark.errors import InvalidInput, did_you_mean

if TYPE_CHECKING:
    import polars as pl

    from chopmark.foundation.adapting import Adapted, Labels
    from chopmark.foundation.candidates import Training

_FIGURES = ("valid_roc_auc", "roc_auc", "pr_auc", "log_loss", "calibration_error")
_ONE_SIDED = 1.645


def adapt(
    space: Path,
    events: Path,
    labels: Path,
    out: Path,
    *,
    label: str = "label",
    label_user: str = "user",
    positive: str | None = None,
    methods: str | None = None,
    user: UserColumn = None,
    time: TimeColumn = None,
    type: TypeColumn = None,
    fields: Fields = None,
    numbers: Numbers = None,
    steps: int | None = None,
    seed: int = 0,
    threads: Threads = "auto",
) -> None:
    """Make a model for a new use case: labels in, the best model that can be served out.

    Parameters
    ----------
    space
        File that pretrain wrote.
    events
        Table with a row per event, or folder of histories.
    labels
        Table with columns `user` and `label`; `as_of`, up to when a history is read (else the
        end of the events); `split`, with train, valid and test (else users are drawn).
    out
        Where the model goes; `chopmark easyml serve` serves it.
    label
        Column of the label.
    label_user
        Column of the users in the labels.
    positive
        Value of the label that is asked for; needed if there are more than two.
    methods
        Uses to try, with commas; all if not given.
    steps
        Of training the network on the labels, at most.
    seed
        Same seed, files and number of threads: same model.
    """
    need_torch()
    from chopmark.foundation.adapting import adapt as adapt_space
    from chopmark.foundation.adapting import read_labels
    from chopmark.foundation.candidates import METHODS
    from chopmark.tabular.tables import frame_of

    check_output(out, space, events, labels)
    if steps is not None and steps < 1:
        raise InvalidInput(f"expected --steps of at least 1, got {steps}")
    chosen = METHODS if methods is None else tuple(names_of(methods) or ())
    for name in chosen:
        if name not in METHODS:
            raise InvalidInput(
                f"expected --methods among {', '.join(METHODS)}, got `{name}`"
                + did_you_mean(name, METHODS)
            )
    labelled, model = frame_of(labels), load_space(space)
    histories = read_histories(events, user, time, type, fields, numbers)
    check_fits(model, histories, events)
    known = read_labels(
        labelled, histories, label=label, user=label_user, positive=positive, seed=seed
    )
    _show_labels(known)
    with torch_threads(threads, histories, model.shape) as told:
        console.print(told)
        with Progress(TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn(),
                      console=console) as bar:  # fmt: skip
            task = bar.add_task("try the uses", total=None)

            def on_progress(what: str, done: int, total: int) -> None:
                bar.update(task, description=what or "done", completed=done, total=total)

            adapted = adapt_space(
                model,
                histories,
                known,
                methods=chosen,
                training=_training(steps),
                seed=seed,
                on_progress=on_progress,
            )
    adapted.model.save(out)
    _show(adapted, len(known.test))
    console.print(f"saved to {out}", soft_wrap=True, highlight=False)
    console.print(f"\nserve it:  chopmark easyml serve {out}", soft_wrap=True, highlight=False)
    console.print(f"ask it:    {_curl(adapted)}", soft_wrap=True, highlight=False, markup=False)


def _training(steps: int | None) -> "Training":
    from dataclasses import replace

    from chopmark.foundation.candidates import Training

    usual = Training()
    if steps is None:
        return usual
    return replace(
        usual,
        fine=replace(usual.fine, steps=steps),
        scratch=replace(usual.scratch, steps=steps),
    )


def _show_labels(labels: "Labels") -> None:
    rows = [
        (name, f"{len(part):,}", f"{labels.users.gather(part).n_unique():,}",
         f"{int(labels.y[part].sum()):,}", f"{labels.y[part].mean():.2%}")
        for name, part in (("to learn from", labels.train), ("to choose by", labels.valid),
                           ("to judge by, unseen", labels.test))
    ]  # fmt: skip
    header = ("part", "rows", "users", f"label {labels.positive}", "share")
    table("Labels", header, rows)
    if labels.num_unknown:
        say(f"{labels.num_unknown:,} rows without a label are left out")


def _show(adapted: "Adapted", num_test: int) -> None:
    frame: pl.DataFrame = adapted.figures
    rows = [
        (
            ("> " if row["use"] == adapted.use else "") + row["use"],
            *(number(row[name]) for name in _FIGURES),
            f"{row['seconds']:.1f}",
            "yes" if row["served"] else "no",
        )
        for row in frame.iter_rows(named=True)
    ]
    header = ("use", "ROC-AUC, choosing", "ROC-AUC", "PR-AUC", "log loss", "calibration error",
              "seconds", "can be served")  # fmt: skip
    table(f"{num_test:,} unseen rows", header, rows)
    best = frame.row(0, named=True)
    if not best["served"]:
        reads = "aggregates, which a request does not hold" if "aggregates" in best["use"] else (
            "likeness, which no artifact holds")  # fmt: skip
        say(f"`{best['use']}` is best here and reads {reads}; saved is the best that reads the "
            "history alone")  # fmt: skip
    metrics_table(
        f"What is saved: {adapted.use}, learned from all but the unseen rows", adapted.judged
    )
    area = adapted.judged["roc_auc"]
    if area is not None and adapted.gain is not None:
        gain, error = adapted.gain
        beside = f"`{adapted.use}` {area:.3f}, aggregates alone {area - gain:.3f} (ROC-AUC)"
        if gain <= 0.0:
            say(f"what is saved is not better than aggregates alone on unseen users: {beside}")
        elif gain <= _ONE_SIDED * error:
            say(
                "what is saved is not shown to be better than aggregates alone on unseen users: "
                f"{beside}, a difference of {gain:.3f} +- {error:.3f}"
            )
        else:
            say(f"what is saved is better than aggregates alone on unseen users: {beside}")
    if area is not None and area - _ONE_SIDED * adapted.error <= 0.5:
        say(
            f"its ROC-AUC of {area:.3f} +- {adapted.error:.3f} does not show that it is better "
            "than chance: label more users before you use it"
        )


def _curl(adapted: "Adapted") -> str:
    """A request with a made-up history, as a shell takes it."""
    from chopmark.foundation.adapting import HISTORY

    body = json.dumps({HISTORY: adapted.example}).replace("'", "\\u0027")
    return f'curl "localhost:8080/v1/score" -H "Authorization: Bearer $KEY" --json \'{body}\''
