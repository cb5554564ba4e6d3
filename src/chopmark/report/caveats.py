"""What a reader should know before trusting a figure: few rows, leaks, drift, repeated rows.

Serves A16 of the requirements.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from chopmark.models.drift import ColumnDrift
from chopmark.report import words
from chopmark.report.judged import Judged
from chopmark.report.views import ClassView

_FEW_ROWS = 50


def warnings(
    judged: Judged,
    views: Sequence[ClassView],
    drift: Sequence[ColumnDrift],
    train: pl.DataFrame | None,
) -> list[str]:
    """Sentences, those of the training first.

    Parameters
    ----------
    judged
        The model and its rows.
    views
        One per class.
    drift
        Columns by how far they moved.
    train
        The training rows, where they are at hand.
    """
    found = [
        f"Column `{leak['column']}` may know the answer: {leak['reason']}."
        for leak in judged.training.get("leaks", ())
    ]
    for view in views:
        found += _of_view(view, several=len(views) > 1)
    moved = [item.column for item in drift if item.verdict == "drifted"]
    if moved:
        found.append(
            f"{len(moved)} columns look very different from the training rows: "
            + ", ".join(f"`{name}`" for name in moved[:5])
            + ("" if len(moved) <= 5 else " and others")
            + "."
        )
    if train is not None and train.schema == judged.table.schema:
        twice = int(judged.table.hash_rows().is_in(train.hash_rows().implode()).sum())
        if twice > 0:
            found.append(
                f"{twice} rows are equal to a training row in every column: if they are the same "
                "rows, the figures here are too good."
            )
    return found


def _of_view(view: ClassView, *, several: bool) -> list[str]:
    found = []
    prefix = f"Class `{view.name}`: " if several else ""
    num_bad, num_good = int(view.y.sum()), int(len(view.y) - view.y.sum())
    if min(num_bad, num_good) == 0:
        return [f"{prefix}all rows are of one class, so ranking metrics are not defined."]
    if min(num_bad, num_good) < _FEW_ROWS:
        few, kind = min((num_bad, "bad"), (num_good, "good"))
        found.append(
            f"{prefix}only {few} rows are {kind}: every figure here is rough, look at its band."
        )
    off = float(view.scores.mean() - view.y.mean())
    error = float(np.sqrt((view.scores * (1 - view.scores)).mean() / len(view.y)))
    if abs(off) > 4 * error:
        found.append(
            f"{prefix}the scores say {words.percent(float(view.scores.mean()))} bad on average, "
            f"{words.percent(float(view.y.mean()))} were: the level is off, not only the order."
        )
    return found + _leak(view, prefix)


def _leak(view: ClassView, prefix: str) -> list[str]:
    """A result that is too good to be true has a column that knew the answer."""
    area = view.metrics[0].estimate.value
    if len(view.effects) > 1 and (area > 0.995 or (area > 0.95 and view.effects[0].share > 0.7)):
        top = view.effects[0]
        return [
            f"{prefix}this is nearly perfect, and column `{top.column}` makes up "
            f"{words.percent(top.share)} of it: is it known before the outcome is?"
        ]
    return []
