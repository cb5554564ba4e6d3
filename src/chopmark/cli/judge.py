"""How ``chopmark easyml`` judges: which rows are held out, and by what metrics."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable, did_you_mean

if TYPE_CHECKING:
    from chopmark.blend import EasyBlend
    from chopmark.models.splits import Split
    from chopmark.tabular import EasyML
    from chopmark.tabular.targets import Task


def held_out_split(
    frame: pl.DataFrame,
    target: str,
    *,
    time: str | None,
    group: str | None,
    share: float | None,
    task: "Task | None",
    seed: int,
) -> "Split | None":
    """Which rows are held out: the latest, whole groups, or some at random; None for none."""
    from chopmark.models.splits import by_group, out_of_time, shuffled, stratified
    from chopmark.tabular.targets import target_of

    if time and group:
        raise InvalidInput("expected one of --time and --group, got both; choose how to judge")
    if not share:
        return None
    found = target_of(frame, target, task=task)
    if time:
        return out_of_time(times_of(frame, time), test_share=share)
    if group:
        check_column(frame, group, "--group")
        # By its texts: numpy cannot sort a column in which some are missing.
        entities = frame.get_column(group).cast(pl.String).fill_null("").to_numpy()
        return by_group(entities, test_share=share, seed=seed)
    if found.task == "regression":
        return shuffled(frame.height, test_share=share, seed=seed)
    return stratified(found.y, test_share=share, seed=seed)


def times_of(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """(n,) times that rise, whatever the column has for them: dates, texts or numbers."""
    from chopmark.models import Column, Encoder
    from chopmark.tabular import deduce

    check_column(frame, name, "--time")
    series = frame.get_column(name)
    column = deduce(series, hint="number" if series.dtype.is_numeric() else "date")
    assert isinstance(column, Column)
    times = Encoder(columns=[column]).base_table(frame)[:, 0]
    unread = np.flatnonzero(np.isnan(times))
    if len(unread):
        raise InvalidTable(
            f"expected a time in every row of `{name}`, got none that can be read in {len(unread)} "
            f"of {len(times)}, the first at row index {unread[0]}"
        )
    return times


def metrics_of(
    fitted: "EasyML | EasyBlend", frame: pl.DataFrame, target: str
) -> dict[str, float | None]:
    """What the model is worth on these rows, by the metrics of its task."""
    from chopmark.models import metrics
    from chopmark.report.outcomes import classes_of, numbers_of

    check_column(frame, target, "--target")
    if not fitted.classes:
        return metrics.number_summary(numbers_of(frame, target), fitted.predict(frame))
    codes = classes_of(frame, target, [str(name) for name in fitted.classes])
    if len(fitted.classes) > 2:
        return metrics.class_summary(codes, fitted.predict_proba(frame))
    return metrics.summary(codes == 1, fitted.score(frame))


def check_column(frame: pl.DataFrame, name: str, option: str) -> None:
    """Raise `InvalidTable` if the column that an option names is none of the table's."""
    if name not in frame.columns:
        raise InvalidTable(
            f"{option} names column `{name}`, which the table lacks"
            + did_you_mean(name, frame.columns)
        )
