"""Python values to one column, whatever their types. Serves A2 of the requirements."""

from collections.abc import Sequence
from typing import Any

import polars as pl


def column_of(name: str, values: Sequence[Any]) -> pl.Series:
    """(n,) values as a Series: of their common type, else of their texts.

    None is missing and nothing else becomes so: a whole number that no integer type holds, and
    a number among texts, are texts.

    Examples
    --------
    >>> column_of("fee", [1, 2.5, None]).to_list(), column_of("fee", [1, "two"]).to_list()
    ([1.0, 2.5, None], ['1', 'two'])
    """
    num_missing = sum(value is None for value in values)
    try:
        column = pl.Series(name, values, strict=False)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return _texts(name, values)
    # Without strict, what does not fit the common type would come back as missing.
    if column.dtype == pl.Object or column.null_count() != num_missing:
        return _texts(name, values)
    return column


def _texts(name: str, values: Sequence[Any]) -> pl.Series:
    texts = [None if value is None else str(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String)
