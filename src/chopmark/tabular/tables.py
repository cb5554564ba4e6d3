"""Any table to a polars DataFrame, and its label to an array.

Takes polars, pandas, pyarrow, and paths to CSV or Parquet: the result of a SQL query or a file.
Serves A2 of the requirements.
"""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.models import Table

_READERS = (".csv", ".parquet", ".pq")


def frame_of(table: Table) -> pl.DataFrame:
    """The polars DataFrame of a table.

    Parameters
    ----------
    table
        A polars DataFrame or LazyFrame, a pandas DataFrame, a pyarrow Table, or the path of a
        CSV file with a header or of a Parquet file.

    Raises
    ------
    InvalidTable
        If it is none of these, or the file cannot be read.
    """
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    if isinstance(table, str | Path):
        return _read(Path(table))
    # By name, so that neither pandas nor pyarrow is imported for a table of the other sort.
    library = type(table).__module__.partition(".")[0]
    if library in ("pandas", "pyarrow"):
        frame = pl.from_pandas(table) if library == "pandas" else pl.from_arrow(table)
        if isinstance(frame, pl.DataFrame):
            return frame
    raise InvalidTable(
        "expected a polars or pandas DataFrame, a pyarrow Table or the path of a CSV or Parquet "
        f"file, got {type(table).__module__}.{type(table).__qualname__}"
    )


def labels_of(frame: pl.DataFrame, target: str) -> NDArray[np.float64]:
    """(n,) labels 0.0 or 1.0 of a table's column `target`.

    Raises
    ------
    InvalidTable
        If there is no such column, a label is missing or is neither 0 nor 1 (false or true),
        or all rows have the same one.
    """
    if target not in frame.columns:
        raise InvalidTable(
            f"expected the label in column `{target}`, which the table lacks"
            + did_you_mean(target, frame.columns)
        )
    column = frame.get_column(target)
    if column.null_count() > 0:
        raise InvalidTable(
            f"{column.null_count()} of {len(column)} rows have no label in `{target}`; "
            "leave out rows whose label is not known yet"
        )
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise InvalidTable(
            f"expected 0 (good) or 1 (bad) in `{target}`, got values of type {column.dtype}"
        )
    labels: NDArray[np.float64] = column.cast(pl.Float64).to_numpy()
    strange = labels[(labels != 0.0) & (labels != 1.0)]
    if len(strange) > 0:
        raise InvalidTable(f"expected 0 (good) or 1 (bad) in `{target}`, got {strange[0]:g}")
    if len(labels) == 0 or labels.min() == labels.max():
        raise InvalidTable(
            f"expected both good and bad rows, got {int((labels == 0).sum())} good and "
            f"{int((labels == 1).sum())} bad in `{target}`"
        )
    return labels


def _read(path: Path) -> pl.DataFrame:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise InvalidTable(
            f"expected a file ending in {', '.join(_READERS)}, got `{path}`"
            + did_you_mean(suffix, _READERS)
        )
    try:
        # Types of a CSV come from all rows: a late text must not break the read.
        return (
            pl.read_csv(path, infer_schema_length=None)
            if suffix == ".csv"
            else (pl.read_parquet(path))
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InvalidTable(f"cannot read the table `{path}`: {error}") from error
