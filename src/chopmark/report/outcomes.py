"""Labels, targets and amounts of a table as arrays. Serves A16 and A20 of the requirements."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidTable
from chopmark.models.parsing import category_text


def classes_of(table: pl.DataFrame, target: str, names: Sequence[str]) -> NDArray[np.int64]:
    """(n,) place of each row's class among the names."""
    column = table.get_column(target)
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    texts = [category_text(raw) for raw in column.to_list()]
    places = {name: place for place, name in enumerate(names)}
    strange = [text for text in texts if text not in places]
    if strange:
        raise InvalidTable(
            f"expected labels {', '.join(names[:12])} in `{target}`, got "
            f"{'a missing one' if strange[0] is None else strange[0]}"
        )
    return np.array([places[str(text)] for text in texts], dtype=np.int64)


def numbers_of(table: pl.DataFrame, target: str) -> NDArray[np.float64]:
    """(n,) numbers to predict, all finite."""
    column = table.get_column(target)
    if not column.dtype.is_numeric():
        raise InvalidTable(f"expected numbers in `{target}`, got values of type {column.dtype}")
    y: NDArray[np.float64] = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    if not np.all(np.isfinite(y)):
        raise InvalidTable(f"expected a finite number in every row of `{target}`")
    return y


def amounts_of(table: pl.DataFrame, amount: str | None) -> NDArray[np.float64] | None:
    """(n,) US dollars of each row, missing ones as 0; None without a column for them."""
    if amount is None:
        return None
    column = table.get_column(amount)
    if not column.dtype.is_numeric():
        raise InvalidTable(f"expected US dollars in `{amount}`, got values of type {column.dtype}")
    amounts: NDArray[np.float64] = column.cast(pl.Float64).fill_null(0.0).fill_nan(0.0).to_numpy()
    if not np.all(np.isfinite(amounts) & (amounts >= 0.0)):
        raise InvalidTable(f"expected amounts of at least zero in `{amount}`, got others")
    return amounts
