"""What a report says: all figures of a fitted model on labelled rows that it has not seen.

    model, table -> scores -> one view per class, or one of the predicted number -> warnings

Nothing here knows of HTML: `chopmark.report.page` draws what this module computes.
Serves A16, A19 and A20 of the requirements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.models import Dropped, Encoder, Model
from chopmark.models.drift import ColumnDrift
from chopmark.report import bands, caveats, words
from chopmark.report.bands import Estimate
from chopmark.report.judged import Judged, Task
from chopmark.report.ranking import Costs
from chopmark.report.views import ClassView, NumberView


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendPart:
    """One part of a blend: its weight, and its own held-out metrics as training left them."""

    name: str
    weight: float
    held_out: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """All that a report says.

    Attributes
    ----------
    title
        Of the page.
    task
        What kind of answer the model gives.
    num_rows, target
        Rows that were judged, and the column of their labels.
    positive
        The label that counts as bad; "" where there are not two.
    headline
        The result in one sentence.
    warnings
        What a reader should know before trusting a figure.
    views
        One per class, one where there are two classes, none where a number is predicted.
    number
        The view of a predicted number.
    accuracy
        Share of rows whose most probable class is the right one; several classes only.
    confusion
        (k, k) rows by true (down) and most probable class (across); several classes only.
    classes
        Names of the k classes; ("bad",) where there are two.
    baseline
        What the model is compared with, in words.
    costs
        Assumptions behind the money.
    dropped
        Columns that the model does not read.
    blend, drift, facts
        Parts of a blend; columns by how far they moved since training; name and value of what
        else is known of the training.
    """

    title: str
    task: Task
    num_rows: int
    target: str
    positive: str
    headline: str
    warnings: tuple[str, ...]
    views: tuple[ClassView, ...]
    number: NumberView | None
    accuracy: Estimate | None
    confusion: NDArray[np.int64] | None
    classes: tuple[str, ...]
    baseline: str
    costs: Costs
    dropped: tuple[Dropped, ...]
    blend: tuple[BlendPart, ...]
    drift: tuple[ColumnDrift, ...]
    facts: tuple[tuple[str, str], ...]


def make_report(
    model: Model,
    table: pl.DataFrame,
    *,
    target: str,
    baseline: Model | ArrayLike | None = None,
    train: pl.DataFrame | None = None,
    title: str | None = None,
    amount: str | None = None,
    costs: Costs | None = None,
) -> Report:
    """The report of a fitted model on labelled rows that it has not seen.

    Parameters
    ----------
    model
        The fitted model; its `training`, `classes`, `encoder` and `scorer` are used where it
        has them.
    table
        Rows that the model has not learned from.
    target
        Column of their label.
    baseline
        What to compare with: a fitted model of the same task, or scores of the same shape as
        this model's. None compares with the constant that the training rows suggest.
    train
        The training rows, for drift where the model's artifact has no reference of its own.
    title
        Title of the page.
    amount
        Column of amounts in US dollars, >= 0: adds net revenue, fraud rate and friction.
    costs
        What a payment earns and costs at first; the reader of the page may change it.

    Raises
    ------
    InvalidTable
        If the table has no rows, lacks a column, or holds a label or an amount that cannot be.
    """
    if not isinstance(table, pl.DataFrame) or table.height == 0:
        raise InvalidTable("a report expects a polars DataFrame with at least one row")
    for name in (target, *([] if amount is None else [amount]), *model.reads):
        if name not in table.columns:
            raise InvalidTable(
                f"a report needs column `{name}`, which the table lacks"
                + did_you_mean(name, table.columns)
            )
    judged = Judged.of(model, table, target=target, baseline=baseline, amount=amount)
    views = () if judged.task == "regression" else judged.class_views()
    number = judged.number_view() if judged.task == "regression" else None
    several = judged.task == "multiclass"
    drift = judged.drift(train)
    encoder: Encoder | None = getattr(model, "encoder", None)
    return Report(
        title=title or f"How well is {target} told?",
        task=judged.task,
        num_rows=table.height,
        target=target,
        positive=judged.positive,
        headline=_headline(judged, views, number),
        warnings=tuple(caveats.warnings(judged, views, drift, train)),
        views=views,
        number=number,
        accuracy=_accuracy(judged) if several else None,
        confusion=_confusion(judged) if several else None,
        classes=judged.names,
        baseline=_named(baseline),
        costs=costs or Costs(),
        dropped=() if encoder is None else encoder.dropped,
        blend=_blend(judged.training),
        drift=drift,
        facts=tuple(_facts(judged.training)),
    )


def _accuracy(judged: Judged) -> Estimate:
    return bands.mean(
        (judged.answers.argmax(axis=1) == judged.outcome.argmax(axis=1)).astype(np.float64)
    )


def _confusion(judged: Judged) -> NDArray[np.int64]:
    chosen = judged.answers.argmax(axis=1)[:, None] == np.arange(len(judged.names))
    counts: NDArray[np.int64] = judged.outcome.T.astype(np.int64) @ chosen.astype(np.int64)
    return counts


def _named(baseline: Model | ArrayLike | None) -> str:
    if baseline is None:
        return "one answer for all rows, the average"
    return "another model" if isinstance(baseline, Model) else "the scores that were given"


def _headline(judged: Judged, views: Sequence[ClassView], number: NumberView | None) -> str:
    if number is not None:
        return _number_headline(number)
    if judged.task == "binary":
        return _class_headline(views[0])
    most = float(judged.outcome.mean(axis=0).max())
    return (
        f"Of 100 rows the model puts {_accuracy(judged).value * 100:.0f} in the right one of "
        f"{len(judged.names)} classes; naming the most frequent each time would get "
        f"{most * 100:.0f}."
    )


def _class_headline(view: ClassView) -> str:
    if view.y.min() == view.y.max():
        return f"All rows are {'bad' if view.y[0] else 'good'}: there is nothing to tell apart."
    share = view.ranking.recall_in_top(0.1)
    perfect = min(1.0, 0.1 / float(view.y.mean()))
    return (
        f"Of 100 bad rows the model puts {share * 100:.0f} in the riskiest tenth; "
        f"a coin would put 10 there, a perfect model {perfect * 100:.0f}."
    )


def _number_headline(view: NumberView) -> str:
    error, base = view.metrics[0].estimate.value, view.metrics[0].baseline
    better = f", {words.percent(1 - error / base)} less than the baseline's" if base > 0 else ""
    return f"Predictions are off by {words.number(error)} on average{better}."


def _blend(training: Mapping[str, Any]) -> tuple[BlendPart, ...]:
    """Parts with their held-out metrics, or at least their held-out loss, heaviest first."""
    weights = training.get("weights", {})
    metrics, losses = training.get("held_out_parts", {}), training.get("losses", {})
    if len(weights) < 2:
        return ()
    parts = (
        BlendPart(
            name=name,
            weight=float(weight),
            held_out=metrics.get(name, {"loss": losses[name]} if name in losses else {}),
        )
        for name, weight in weights.items()
    )
    return tuple(sorted(parts, key=lambda part: -part.weight))


def _facts(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "learner": "Learner",
        "created": "Made",
        "num_rows": "Training rows",
        "num_bad": "Bad in training",
        "calibration": "Calibration",
        "seed": "Seed",
    }
    found = []
    for key, name in names.items():
        if key in training:
            known = training[key]
            found.append((name, f"{known:,}" if type(known) is int else words.value(known)))
    return found
