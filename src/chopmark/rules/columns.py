"""Rules over a table: history by the million, for backtests and statistics.

The only part of the rules' way that needs Polars; a service never imports it.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.expressions import Kind, Outside
from chopmark.rules.code import RuleCode, Value


def hits_of(code: RuleCode, frame: pl.DataFrame, *, threads: int = 1) -> NDArray[np.uint8]:
    """(n, number of rules) 1 where a rule is true, as `RuleCode.row` says of each row.

    Parameters
    ----------
    frame
        (n,) rows with a column for what the rules read. One that the table lacks is missing
        in all rows, but it must have one of them.
    threads
        That work at a time; the result does not depend on it.

    Raises
    ------
    InvalidTable
        If the table has nothing that the rules read, or a column of another kind.
    """
    if code.inputs and not set(code.inputs) & set(frame.columns):
        raise InvalidTable(
            f"expected a column {', '.join(f'`{name}`' for name in code.inputs[:5])} that the "
            "rules read, got none of them" + did_you_mean(code.inputs[0], frame.columns)
        )
    given = np.full((len(code.inputs) + len(code.outside), frame.height), np.nan)
    for place, name in enumerate(code.inputs):
        if name in frame.columns:
            given[place] = _encoded(code, frame.get_column(name), code.kinds[name])
    for place, outside in enumerate(code.outside.values(), start=len(code.inputs)):
        given[place] = _answered(code, outside, frame)
    return code.matrix(given, threads=threads)


def _encoded(code: RuleCode, series: pl.Series, kind: Kind) -> NDArray[np.float64]:
    try:
        if kind == "text":
            return _codes(code, series)
        if kind == "time" and series.dtype.is_temporal():
            series = series.dt.epoch("us")
        return series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    except pl.exceptions.PolarsError as error:
        raise InvalidTable(
            f"expected a {kind} in column `{series.name}`, got {series.dtype}: {error}"
        ) from error


def _codes(code: RuleCode, series: pl.Series) -> NDArray[np.float64]:
    """Codes of texts: each different one is hashed once."""
    texts = series.cast(pl.String).to_arrow().dictionary_encode()
    known = [code.codes.value(text) for text in texts.dictionary.to_pylist()]
    places = texts.indices.fill_null(len(known)).to_numpy()
    found: NDArray[np.float64] = np.array([*known, np.nan])[places]
    return found


def _answered(code: RuleCode, outside: Outside, frame: pl.DataFrame) -> NDArray[np.float64]:
    """An outside question for all rows: each different one is answered once."""
    names = list(dict.fromkeys(text for is_column, text in outside.arguments if is_column))
    if any(name not in frame.columns for name in names):
        return np.full(frame.height, np.nan)
    asked = frame.select(pl.col(name).cast(pl.String) for name in names)
    distinct = asked.unique(maintain_order=True)
    answer = code.answer(outside)
    places = [code.inputs.index(name) for name in names]
    answers = [answer(_row(len(code.inputs), places, texts)) for texts in distinct.iter_rows()]
    known = distinct.with_columns(pl.Series("answer of all", answers, dtype=pl.Float64))
    found = asked.join(known, on=names, how="left", nulls_equal=True, maintain_order="left")
    return found["answer of all"].fill_null(np.nan).to_numpy()


def _row(size: int, places: Sequence[int], texts: Sequence[str | None]) -> list[Value]:
    row: list[Value] = [None] * size
    for place, text in zip(places, texts, strict=True):
        row[place] = text
    return row
