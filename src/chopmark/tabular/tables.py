"""Any table to a polars DataFrame, and its label to an array.

    polars, pandas, pyarrow, numpy      as they are, columns x0, x1, ... for numpy
    {column: values}, [{column: value}] plain Python, missing keys are missing values
    "file.csv" .tsv .jsonl .parquet     also .csv.gz, .tsv.gz, .jsonl.gz
    Query(address, "select ...")        a database

Serves A2 of the requirements.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.models import Table
from chopmark.tabular.columns import column_of
from chopmark.tabular.queries import Query, read_query
from chopmark.tabular.textfiles import check_names, read_delimited

__all__ = ["SUFFIXES", "Query", "frame_of", "labels_of"]


def frame_of(table: Table) -> pl.DataFrame:
    """The polars DataFrame of a table.

    Parameters
    ----------
    table
        A polars DataFrame or LazyFrame; a pandas DataFrame (its index is left out); a pyarrow
        Table or RecordBatch; a numpy array (n, m); a dict of columns or a list of rows as
        dicts; the path of a file, by its ending; or a `Query`.

    Raises
    ------
    InvalidTable
        If it is none of these, cannot be read, or two columns have one name.

    Examples
    --------
    >>> frame_of([{"amount_usd": 3}, {"amount_usd": 2.5, "country": "de"}]).rows()
    [(3.0, None), (2.5, 'de')]
    """
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        return _collected(table)
    if isinstance(table, Query):
        return read_query(table)
    if isinstance(table, str | os.PathLike):
        return _of_file(table)
    if isinstance(table, np.ndarray):
        return _of_array(table)
    if isinstance(table, Mapping):
        return _of_columns(table)
    # By name, so that neither pandas nor pyarrow is imported for a table of the other sort.
    library, kind = type(table).__module__.partition(".")[0], type(table).__name__
    if library == "pandas" and kind == "DataFrame":
        return _of_pandas(table)
    if library == "pyarrow" and kind in ("Table", "RecordBatch"):
        return _of_arrow(table)
    if isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
        return _of_rows(table)
    raise InvalidTable(
        "expected a polars or pandas DataFrame, a pyarrow Table, a numpy array, a dict of columns, "
        f"a list of dicts, the path of a file or a Query, got {type(table).__module__}."
        f"{type(table).__qualname__}"
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


def _collected(table: pl.LazyFrame) -> pl.DataFrame:
    try:
        return table.collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InvalidTable(f"cannot collect the LazyFrame: {_first_line(error)}") from error


def _of_array(array: NDArray[Any]) -> pl.DataFrame:
    if array.ndim != 2:
        raise InvalidTable(f"expected an array of rows and columns, got shape {array.shape}")
    return pl.DataFrame([_of_values(f"x{j}", column) for j, column in enumerate(array.T)])


def _of_columns(columns: Mapping[Any, Any]) -> pl.DataFrame:
    names = [str(name) for name in columns]
    check_names(names, "the dict of columns")
    series = [_of_values(*pair) for pair in zip(names, columns.values(), strict=True)]
    for column in series:
        if len(column) != len(series[0]):
            raise InvalidTable(
                f"expected columns of one length, got {len(series[0])} values in `{names[0]}` "
                f"and {len(column)} in `{column.name}`"
            )
    return pl.DataFrame(series)


def _of_values(name: str, values: Any) -> pl.Series:
    if isinstance(values, pl.Series):
        return values.alias(name)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype != object:
        return pl.Series(name, np.ascontiguousarray(values))
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidTable(
            f"expected the values of column `{name}` in a list or an array, got "
            f"{type(values).__name__}"
        )
    return column_of(name, list(values))


def _of_rows(rows: Sequence[Mapping[Any, Any]]) -> pl.DataFrame:
    """Columns in the order in which rows first name them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _of_columns({name: [row.get(name) for row in rows] for name in names})


def _of_pandas(table: Any) -> pl.DataFrame:
    names = [str(name) for name in table.columns]
    check_names(names, "the pandas DataFrame")
    columns = (table.iloc[:, j] for j in range(len(names)))
    return pl.DataFrame([_of_pandas_column(*pair) for pair in zip(names, columns, strict=True)])


def _of_pandas_column(name: str, column: Any) -> pl.Series:
    if column.dtype != object:
        try:
            converted = pl.from_pandas(column.rename(name))
        except (TypeError, ValueError, NotImplementedError, pl.exceptions.PolarsError):
            pass  # a type that Arrow lacks, such as complex: by its values
        else:
            assert isinstance(converted, pl.Series)
            return converted
    known = column.notna().to_list()
    return column_of(
        name, [value if there else None for value, there in zip(column, known, strict=True)]
    )


def _of_arrow(table: Any) -> pl.DataFrame:
    check_names(table.schema.names, "the pyarrow table")
    try:
        frame = pl.from_arrow(table)
    except pl.exceptions.PolarsError as error:
        raise InvalidTable(f"cannot read the pyarrow table: {_first_line(error)}") from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def _of_file(file: str | os.PathLike[str]) -> pl.DataFrame:
    name = os.fspath(file)
    if "://" in name:
        # Not shown: an address may hold a password.
        raise InvalidTable(
            "expected the path of a file, got an address; a database is asked with "
            'Query(address, "select ..."), and a file elsewhere is to be fetched first'
        )
    path = Path(name)
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    suffix = "".join(suffixes if suffixes[-1:] == [".gz"] else suffixes[-1:])
    if suffix not in _READERS:
        raise InvalidTable(
            f"expected a file that ends in {', '.join(SUFFIXES)}, got `{path}`"
            + (did_you_mean(suffix, SUFFIXES) if suffix else "")
        )
    if not path.is_file():
        raise InvalidTable(f"expected a file at `{path}`, got none; check the path")
    return _READERS[suffix](path)


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InvalidTable(f"expected Parquet in `{path}`, got: {_first_line(error)}") from error


def _read_json_lines(path: Path) -> pl.DataFrame:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidTable(f"cannot read the table `{path}`: {error}") from error
    rows = list(_json_rows(data, path))
    if not rows:
        raise InvalidTable(f"expected a JSON object in each line of `{path}`, got an empty file")
    return _of_rows(rows)


def _json_rows(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            came = str(error) if isinstance(error, msgspec.MsgspecError) else "no UTF-8"
            raise InvalidTable(
                f"expected one JSON object in line {number} of `{path}`, got: {came}"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


_READERS: Mapping[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".csv.gz": read_delimited,
    ".tsv.gz": read_delimited,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
}
SUFFIXES = tuple(_READERS)
"""Endings of the files that are tables."""
