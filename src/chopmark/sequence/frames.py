"""Tables with list columns, of whichever library, as Polars."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.models.model import Table


def frame_of(table: Table) -> pl.DataFrame:
    """The polars DataFrame of a polars, pandas or pyarrow table, lists of events included.

    Raises
    ------
    InvalidTable
        If it is none of these, or holds what has no type in Arrow.
    """
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    library = type(table).__module__.partition(".")[0]
    if library in ("pandas", "pyarrow"):
        try:
            table = pl.from_pandas(table) if library == "pandas" else pl.from_arrow(table)
        except (TypeError, ValueError, NotImplementedError, pl.exceptions.PolarsError) as error:
            raise InvalidTable(
                f"cannot read the {library} table ({error}); give each column values of one type, "
                "and events as lists of dicts"
            ) from error
    if isinstance(table, pl.DataFrame):
        return table
    raise InvalidTable(
        "expected a polars or pandas DataFrame or a pyarrow Table with a column of events, got "
        f"{type(table).__module__}.{type(table).__qualname__}"
    )


def lists_in(table: Any) -> list[str]:
    """Columns of a pandas DataFrame whose first value that is there is a list."""
    found = []
    for place, name in enumerate(table.columns):
        column = table.iloc[:, place]
        first = column.dropna().head(1).to_list() if column.dtype == object else []
        if first and isinstance(first[0], list | tuple | np.ndarray):
            found.append(name)
    return found


def list_column(frame: pl.DataFrame, named: str | None) -> str:
    """The list column of events that is named, or the only one.

    Raises
    ------
    InvalidTable
        If there is no such column, or several and none is named.
    """
    schema: Mapping[str, Any] = frame.schema
    lists = [name for name, kind in schema.items() if isinstance(kind, pl.List)]
    if named is not None:
        if named not in lists:
            raise InvalidTable(
                f"expected a list column `{named}` of events, got "
                f"{schema.get(named, 'no such column')}" + did_you_mean(named, lists)
            )
        return named
    if len(lists) != 1:
        raise InvalidTable(
            f"expected one list column of events, got {len(lists)} "
            f"({', '.join(lists) or 'none'}): name the one to read (column=)"
        )
    return lists[0]
