"""Why the scores are what they are: which columns matter, in which direction, row by row.

All of it is read off the model's own contributions, which sum to each score's log-odds (to the
prediction, where a number is predicted). Serves A11 and A16 of the requirements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.models import Column, Contributions, Encoder
from chopmark.models.drift import plain_readings
from chopmark.models.parsing import MISSING_CODE, category_text
from chopmark.report import words

Group = Literal["riskiest", "typical", "missed"]

_MOST_BINS = 10
_FEW_VALUES = 12
_MOST_CATEGORIES = 12
_OTHERS = "all others"
_MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Effect:
    """What one raw column does to the scores, by its value.

    Attributes
    ----------
    column
        The raw column.
    reading
        How it was read to tell its values apart; the column's name if plainly.
    share
        Its share in the mean absolute contributions of all columns.
    labels
        Values or ranges of values, b of them.
    rows, outcome
        (b,) rows with such a value, and the bad share (or the mean target) among them.
    mean, low, high
        (b,) mean, 10 % and 90 % point of the contributions; NaN where no row was explained.
    """

    column: str
    reading: str
    share: float
    labels: tuple[str, ...]
    rows: NDArray[np.int64]
    outcome: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One column's part in one score."""

    column: str
    value: str
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row with its reasons.

    Attributes
    ----------
    group
        Why it is shown.
    row
        Its number in the table, from 0.
    outcome, score
        Label and score, or target and prediction.
    bias
        Log-odds (or prediction) of an average row.
    moves
        From the bias to the score, strongest first.
    """

    group: Group
    row: int
    outcome: float
    score: float
    bias: float
    moves: tuple[Move, ...]


def readings(encoder: Encoder | None, frame: pl.DataFrame, reads: Sequence[str]) -> Encoder:
    """An encoder with one plain reading for each column that the model reads, in their order.

    It is the model's own where that is known; else numbers stay numbers, dates dates and all
    else is a category.
    """
    known = {} if encoder is None else {c.name: c for c in plain_readings(encoder).columns}
    return Encoder(columns=[known.get(name) or _column(frame.get_column(name)) for name in reads])


def effects(
    base: NDArray[np.float64],
    columns: Sequence[Column],
    outcome: NDArray[np.float64],
    explained: Contributions,
    rows: NDArray[np.int64],
) -> tuple[Effect, ...]:
    """The effect of each column, the most important first.

    Parameters
    ----------
    base
        (n, m) base values of the columns that the model reads.
    columns
        Their m readings; `explained` may be of some of them.
    outcome
        (n,) labels or targets.
    explained
        Contributions of some of the rows.
    rows
        (e,) their row numbers.
    """
    strength = np.abs(explained.values).mean(axis=0)
    total = float(strength.sum())
    shares = strength / total if total > 0.0 else np.full(len(strength), 1.0 / len(strength))
    places = {column.name: place for place, column in enumerate(columns)}
    found = []
    for j in np.argsort(-shares, kind="stable").tolist():
        place = places[explained.reads[j]]
        moves = explained.values[:, j]
        found.append(_effect(columns[place], shares[j], base[:, place], outcome, moves, rows))
    return tuple(found)


def chosen_rows(
    scores: NDArray[np.float64],
    missed: NDArray[np.int64],
    counts: tuple[int, int, int],
) -> list[tuple[Group, int]]:
    """Rows worth a look, each once: the riskiest, one of each stretch of scores, the missed.

    Parameters
    ----------
    scores
        (n,) scores.
    missed
        Row numbers in the order in which the model went wrong, worst first.
    counts
        How many of the riskiest, the typical and the missed.
    """
    order = np.argsort(-scores, kind="stable")
    spread = (np.arange(counts[1]) + 0.5) / max(1, counts[1])
    typical = order[np.floor(spread * len(order)).astype(np.int64)]
    found: dict[int, Group] = {}
    groups: tuple[tuple[Group, NDArray[np.int64]], ...] = (
        ("riskiest", order[: counts[0]]),
        ("missed", missed[: counts[2]]),
        ("typical", typical),
    )
    for group, rows in groups:
        for row in rows.tolist():
            found.setdefault(row, group)
    return [(group, row) for row, group in found.items()]


def cases(
    shown: Mapping[str, Sequence[str]],
    chosen: Sequence[tuple[Group, int]],
    outcome: NDArray[np.float64],
    scores: NDArray[np.float64],
    why: Contributions,
) -> tuple[Case, ...]:
    """The chosen rows with their reasons `why` and the values `shown`, in the order given."""
    return tuple(
        Case(
            group=group,
            row=row,
            outcome=float(outcome[row]),
            score=float(scores[row]),
            bias=why.bias,
            moves=_moves(why, place, shown),
        )
        for place, (group, row) in enumerate(chosen)
    )


def _moves(why: Contributions, place: int, shown: Mapping[str, Sequence[str]]) -> tuple[Move, ...]:
    amounts = why.values[place]
    return tuple(
        Move(column=why.reads[j], value=shown[why.reads[j]][place], amount=float(amounts[j]))
        for j in np.argsort(-np.abs(amounts), kind="stable")
    )


def _column(series: pl.Series) -> Column:
    name, dtype = series.name, series.dtype
    if dtype == pl.Boolean:
        return Column(name=name, kind="boolean")
    if dtype.is_numeric():
        return Column(name=name, kind="number")
    if dtype in (pl.Date, pl.Datetime):
        return Column(name=name, kind="date", format="iso", parts=("epoch_days",))
    texts = sorted({category_text(raw) for raw in series.unique().to_list()} - {None}, key=str)
    return Column(name=name, kind="category", categories=tuple(str(text) for text in texts))


def _effect(
    column: Column,
    share: float,
    base: NDArray[np.float64],
    outcome: NDArray[np.float64],
    moves: NDArray[np.float64],
    rows: NDArray[np.int64],
) -> Effect:
    bins, labels = _bins(base, column)
    count = np.bincount(bins, minlength=len(labels))
    spread = [_spread(moves[bins[rows] == place]) for place in range(len(labels))]
    low, middle, high = (np.array(side) for side in zip(*spread, strict=True))
    order = _by_effect(middle, labels) if column.is_coded else np.arange(len(labels))
    return Effect(
        column=column.name,
        reading=column.encoded_name,
        share=float(share),
        labels=tuple(labels[place] for place in order),
        rows=count[order],
        outcome=np.bincount(bins, weights=outcome, minlength=len(labels))[order] / count[order],
        mean=middle[order],
        low=low[order],
        high=high[order],
    )


def _spread(moves: NDArray[np.float64]) -> tuple[float, float, float]:
    if len(moves) == 0:
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(moves, [0.1, 0.9])
    return float(low), float(moves.mean()), float(high)


def _by_effect(middle: NDArray[np.float64], labels: Sequence[str]) -> NDArray[np.int64]:
    """Categories from the most to the least raising; what is no single value comes last."""
    last = np.array([label in (_OTHERS, _MISSING) for label in labels])
    return np.lexsort((-np.nan_to_num(middle), last))


def _bins(base: NDArray[np.float64], column: Column) -> tuple[NDArray[np.int64], list[str]]:
    """The bin of each row, and the bins' labels; each bin holds a row."""
    bins, labels = (_of_categories if column.is_coded else _of_numbers)(base, column)
    used, dense = np.unique(bins, return_inverse=True)
    return dense.astype(np.int64), [labels[place] for place in used]


def _of_categories(
    base: NDArray[np.float64], column: Column
) -> tuple[NDArray[np.int64], list[str]]:
    codes = base.astype(np.int64)
    rows = np.bincount(codes, minlength=len(column.categories) + 2)[2:]
    top = np.argsort(-rows, kind="stable")[:_MOST_CATEGORIES]
    labels = [words.value(column.categories[code]) for code in top] + [_OTHERS, _MISSING]
    of_code = np.full(len(column.categories) + 2, len(top), dtype=np.int64)
    of_code[top + 2] = np.arange(len(top))
    of_code[int(MISSING_CODE)] = len(top) + 1
    return of_code[codes], labels


def _of_numbers(base: NDArray[np.float64], column: Column) -> tuple[NDArray[np.int64], list[str]]:
    known = base[np.isfinite(base)]
    shown = _shown(column)
    values = np.unique(known)
    if len(values) <= _FEW_VALUES:
        edges, labels = values, [shown(number) for number in values.tolist()]
        bins = np.searchsorted(values, base)
    else:
        edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, _MOST_BINS + 1)[1:-1]))
        bins = np.searchsorted(edges, base, side="left")
        ends = [shown(edge) for edge in edges.tolist()]
        between = [f"{low} to {high}" for low, high in pairwise(ends)]
        labels = [f"up to {ends[0]}", *between, f"above {ends[-1]}"]
    bins[~np.isfinite(base)] = len(labels)
    return bins.astype(np.int64), [*labels, _MISSING]


def _shown(column: Column) -> Callable[[float], str]:
    if column.kind == "date":
        return words.moment
    if column.kind == "boolean":
        return lambda flag: "true" if flag else "false"
    return words.number
