"""What is to be learned, found from the values of the label's column.

    two values                                    -> binary: 0 and 1, the second is positive
    3 to 50 texts                                 -> multiclass: codes in sorted order
    3 to 20 whole numbers, each of 5 rows or more -> multiclass
    other numbers                                 -> regression

A deduction can be overruled: counts of 0 to 9 look like classes and may be meant as numbers.
Serves A2 and A8 of the requirements.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import DeclarationError, InvalidTable, did_you_mean
from chopmark.models import parsing

Task = Literal["binary", "multiclass", "regression"]
Class: TypeAlias = str | int | float
"""A value of a label: text, or a number that is whole wherever it can be."""

TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")
MOST_CLASSES = 50
MOST_NUMBERED_CLASSES = 20
"""More whole numbers than these are amounts and not classes."""
FEWEST_ROWS_OF_NUMBERED_CLASS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """What is to be learned.

    Attributes
    ----------
    task
        "binary", "multiclass" or "regression".
    y
        (n,) float64: 0.0 or 1.0 (the positive class); codes from 0.0 on; or the numbers.
    classes
        The value that each code stands for, (negative, positive) if binary; () for numbers.
    """

    task: Task
    y: NDArray[np.float64]
    classes: tuple[Class, ...]


def target_of(
    frame: pl.DataFrame,
    target: str,
    *,
    task: Task | None = None,
    positive: Class | None = None,
) -> Target:
    """The label of a table, and what task it makes.

    Parameters
    ----------
    frame
        The table.
    target
        Column of the label.
    task
        "binary", "multiclass" or "regression" where deduction is not wanted.
    positive
        Value that counts as 1 in a binary task; None takes the second in sorted order: 1 of
        0 and 1, true of false and true, "yes" of "no" and "yes" (and "good" of "bad" and
        "good": say `positive="bad"`). Numbers may come as texts.

    Raises
    ------
    InvalidTable
        If there is no such column or row, labels are missing or not finite, all are equal, or
        they do not fit the task.
    DeclarationError
        If there is no such task.

    Examples
    --------
    >>> found = target_of(pl.DataFrame({"paid": ["no", "yes", "no"]}), "paid", positive="no")
    >>> found.task, found.classes, found.y.tolist()
    ('binary', ('yes', 'no'), [1.0, 0.0, 1.0])
    """
    if task is not None and task not in TASKS:
        raise DeclarationError(f"there is no task `{task}`" + did_you_mean(task, TASKS))
    labels = _labels(frame, target)
    if task == "regression" or (task is None and _is_amount(labels)):
        if positive is not None:
            raise InvalidTable(
                f"expected two distinct labels in `{target}` for `positive`, got "
                f"{labels.n_unique()} and a regression; leave it out"
            )
        return Target(task="regression", y=_numbers(labels), classes=())
    classes = _classes(labels, task)
    task = task or ("binary" if len(classes) == 2 else "multiclass")
    if task == "binary":
        classes = _ordered(classes, positive, target)
    elif positive is not None:
        raise InvalidTable(
            f"expected two distinct labels in `{target}` for `positive`, got {len(classes)}: "
            f"{_shown(classes)}"
        )
    codes = {value: float(code) for code, value in enumerate(classes)}
    y = labels.replace_strict(codes, return_dtype=pl.Float64).to_numpy()
    return Target(task=task, y=y, classes=classes)


def _labels(frame: pl.DataFrame, target: str) -> pl.Series:
    """The labels as texts or as numbers, whole ones where all are; none missing."""
    if target not in frame.columns:
        raise InvalidTable(
            f"expected the label in column `{target}`, which the table lacks"
            + did_you_mean(target, frame.columns)
        )
    if frame.height == 0:
        raise InvalidTable(f"expected rows with a label in `{target}`, got a table without rows")
    column = _plain(frame.get_column(target))
    missing = column.is_null()
    if missing.any():
        raise InvalidTable(
            f"{missing.sum()} of {len(column)} rows have no label in `{target}`, the first at row "
            f"index {_first(missing)}; leave out rows whose label is not known yet"
        )
    if column.dtype == pl.Float64:
        strange = ~column.is_finite()
        if strange.any():
            raise InvalidTable(
                f"expected finite labels in `{target}`, got {column[_first(strange)]} at row "
                f"index {_first(strange)}; leave out such rows"
            )
        if (column == column.round()).all() and column.abs().max() < 2**53:  # type: ignore[operator]
            column = column.cast(pl.Int64)
    if column.n_unique() == 1:
        raise InvalidTable(
            f"expected at least two distinct labels in `{target}`, got `{column[0]}` in all "
            f"{len(column)} rows; there is nothing to learn"
        )
    return column


def _plain(column: pl.Series) -> pl.Series:
    """Texts without blanks around, Int64 or Float64; null is missing."""
    dtype = column.dtype
    if dtype == pl.Null:
        return column
    if dtype in (pl.Categorical, pl.Enum, pl.String):
        texts = column.cast(pl.String).str.strip_chars()
        return texts.set(texts == "", None)
    if dtype == pl.Boolean:
        return column.cast(pl.Int64)
    if dtype.is_numeric():
        return column.cast(pl.Float64).fill_nan(None)
    raise InvalidTable(
        f"expected texts, numbers or booleans as labels in `{column.name}`, got type {dtype}"
    )


def _first(holds: pl.Series) -> int:
    return int(holds.arg_true()[0])


def _is_amount(labels: pl.Series) -> bool:
    """Whether the labels are numbers to predict rather than names of classes."""
    num_classes = labels.n_unique()
    if num_classes == 2:
        return False
    if labels.dtype == pl.String:
        return num_classes > MOST_CLASSES and not np.isnan(_parsed(labels)).any()
    if labels.dtype == pl.Float64 or num_classes > MOST_NUMBERED_CLASSES:
        return True
    fewest = labels.value_counts().get_column("count").min()
    return int(fewest) < FEWEST_ROWS_OF_NUMBERED_CLASS  # type: ignore[arg-type]


def _numbers(labels: pl.Series) -> NDArray[np.float64]:
    if labels.dtype != pl.String:
        return labels.cast(pl.Float64).to_numpy()
    numbers = _parsed(labels)
    strange = np.flatnonzero(~np.isfinite(numbers))
    if len(strange):
        raise InvalidTable(
            f"expected numbers in `{labels.name}` for a regression, got `{labels[int(strange[0])]}`"
            f" at row index {strange[0]}"
        )
    return numbers


def _parsed(labels: pl.Series) -> NDArray[np.float64]:
    """(n,) the numbers that texts are, as everywhere else; NaN where one is none."""
    distinct = labels.unique()
    numbers = {text: parsing.number(text) for text in distinct}
    return labels.replace_strict(numbers, return_dtype=pl.Float64).to_numpy()


def _classes(labels: pl.Series, task: Task | None) -> tuple[Class, ...]:
    classes = tuple(labels.unique().sort().to_list())
    if len(classes) > MOST_CLASSES:
        raise InvalidTable(
            f"expected at most {MOST_CLASSES} classes in `{labels.name}`, got {len(classes)}, such "
            f"as {_shown(classes)}; group the rare ones, or is it another column?"
        )
    if task == "binary" and len(classes) != 2:
        raise InvalidTable(
            f"expected two distinct labels in `{labels.name}` for a binary task, got "
            f"{len(classes)}: {_shown(classes)}"
        )
    return classes


def _ordered(classes: tuple[Class, ...], positive: Class | None, target: str) -> tuple[Class, ...]:
    """(negative, positive)."""
    if positive is None:
        return classes
    wanted = parsing.category_text(positive)
    named = {parsing.category_text(value): value for value in classes}
    if wanted in ("true", "false") and set(named) == {"0", "1"}:
        wanted = "1" if wanted == "true" else "0"
    if wanted not in named:
        raise InvalidTable(
            f"expected the positive label to be one of {_shown(classes)} in `{target}`, got "
            f"`{positive}`"
        )
    return tuple(sorted(classes, key=lambda value: value == named[wanted]))


def _shown(classes: Sequence[Class]) -> str:
    return ", ".join(f"`{value}`" for value in classes[:5]) + (", ..." if classes[5:] else "")
