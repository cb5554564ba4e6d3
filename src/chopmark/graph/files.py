"""CSV and Parquet files read piece by piece: only the columns that are asked for, rows numbered.

A file larger than memory passes as frames of at most `rows` rows. What is wrong with one row (too
few fields, say) rejects that row; what is wrong with the whole (a column that is not there, a file
cut in half) is an error that names it. Numbers stay as they are written: nothing is turned into
floating point here.
"""

from __future__ import annotations

import csv as plain_csv
import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from chopmark.errors import InvalidInput, InvalidTable, did_you_mean

Source = str | Path | Iterable[str | Path]
"""A file, a folder of files (read in the order of their names), or several of these."""

Progress = Callable[[float], None]
"""Told the share of the bytes that are read, 0 to 1, after each piece."""

REJECTED = pl.Schema({"source": pl.String, "row": pl.Int64, "reason": pl.String})
"""Rows that cannot be taken: file, row of the data (first is 1, blank lines not counted), why."""

TABLES = (".csv", ".csv.gz", ".parquet")
_BLOCK = 8 << 20  # bytes parsed at once; a row may not be longer


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some rows of one file: the columns asked for, and `row`, the number of each."""

    source: str
    frame: pl.DataFrame
    broken: pl.DataFrame


def files_of(source: Source, kinds: tuple[str, ...]) -> list[Path]:
    """The files that are meant, folders opened, in the order of their names.

    Raises
    ------
    InvalidInput
        If one is not there, is of another kind, or a folder has none.
    """
    given = [source] if isinstance(source, str | Path) else list(source)
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.name.endswith(kinds))
            if not inside:
                raise InvalidInput(
                    f"expected files {', '.join(kinds)} in `{path}`, found none of these"
                )
            found += inside
        elif not path.is_file():
            raise InvalidInput(f"expected a file at `{path}`, but there is none")
        elif not path.name.endswith(kinds):
            raise InvalidInput(
                f"expected a file named {', '.join(kinds)}, got `{path.name}`; rename or convert it"
            )
        else:
            found.append(path)
    return found


def pieces(
    source: Source,
    *,
    needs: Mapping[str, tuple[str, ...]],
    takes: Mapping[str, tuple[str, ...]],
    rows: int,
    progress: Progress | None = None,
) -> Iterator[Piece]:
    """Frames of at most `rows` rows with the columns of `needs`, and those of `takes` if there.

    Both map our name to the names that a file may give the column. Text stays text, bytes become
    "0x" and hex digits, decimals become text, other kinds are left alone.

    Raises
    ------
    InvalidInput
        If a file is absent or cannot be read to its end.
    InvalidTable
        If a column of `needs` is missing.
    """
    if rows < 1:
        raise InvalidInput(f"expected at least 1 row in a piece, got rows={rows}")
    paths = files_of(source, TABLES)
    sizes = [max(path.stat().st_size, 1) for path in paths]
    for place, path in enumerate(paths):
        opened = _parquet if path.name.endswith(".parquet") else _csv
        try:
            for piece, share in opened(path, needs, takes, rows):
                yield piece
                if progress is not None:
                    progress((sum(sizes[:place]) + share * sizes[place]) / sum(sizes))
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"`{path}` cannot be read to its end ({str(error)[:200]}); is it cut short?"
            ) from error
    if progress is not None:
        progress(1.0)


def rejected(source: str, rows: pl.Series, reasons: pl.Series) -> pl.DataFrame:
    """Rejected rows as a frame; rows without a reason are left out."""
    frame = pl.DataFrame({"row": rows, "reason": reasons}).drop_nulls("reason")
    return frame.select(pl.lit(source).alias("source"), "row", "reason").cast(REJECTED)


def _chosen(
    path: Path,
    there: list[str],
    needs: Mapping[str, tuple[str, ...]],
    takes: Mapping[str, tuple[str, ...]],
) -> dict[str, str]:
    """Our name of each column and the file's."""
    chosen = {}
    for name, spellings in {**needs, **takes}.items():
        found = [spelling for spelling in spellings if spelling in there]
        if found:
            if there.count(found[0]) > 1:
                raise InvalidTable(f"expected one column `{found[0]}` in `{path}`, got several")
            chosen[name] = found[0]
        elif name in needs:
            raise InvalidTable(
                f"expected a column `{spellings[0]}` in `{path}`, which lacks it"
                + did_you_mean(spellings[0], there)
            )
    return chosen


def _parquet(
    path: Path,
    needs: Mapping[str, tuple[str, ...]],
    takes: Mapping[str, tuple[str, ...]],
    rows: int,
) -> Iterator[tuple[Piece, float]]:
    with pq.ParquetFile(path) as file:
        chosen = _chosen(path, file.schema_arrow.names, needs, takes)
        done, count = 0, max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(batch_size=rows, columns=list(chosen.values())):
            table = pa.Table.from_batches([batch])
            frame = pl.DataFrame(
                {name: _native(table.column(theirs)) for name, theirs in chosen.items()}
            )
            numbers = pl.int_range(done + 1, done + len(frame) + 1, dtype=pl.Int64, eager=True)
            done += len(frame)
            yield (
                Piece(str(path), frame.with_columns(row=numbers), pl.DataFrame(schema=REJECTED)),
                done / count,
            )


def _native(column: pa.ChunkedArray) -> pl.Series:
    """A column of Parquet as Polars; what Polars might round becomes text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.string())
    series = pl.Series(pl.from_arrow(column))
    if series.dtype == pl.Binary:
        series = ("0x" + series.bin.encode("hex")).cast(pl.String)
    return series


def _csv(
    path: Path,
    needs: Mapping[str, tuple[str, ...]],
    takes: Mapping[str, tuple[str, ...]],
    rows: int,
) -> Iterator[tuple[Piece, float]]:
    packed = path.name.endswith(".gz")
    opener: Any = gzip.open if packed else open
    with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as text:
        header = next(plain_csv.reader(text), [])
    chosen = _chosen(path, header, needs, takes)
    names = list(chosen.values())
    skipped: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        skipped.append(
            (row.number - 1, f"expected {row.expected_columns} fields, got {row.actual_columns}")
        )
        return "skip"

    with path.open("rb") as raw:
        size = max(path.stat().st_size, 1)
        reader = csv.open_csv(
            pa.input_stream(raw, compression="gzip" if packed else None),
            # One thread: only then is the number of a broken row known.
            read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=csv.ParseOptions(invalid_row_handler=skip),
            convert_options=csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.binary()),
                strings_can_be_null=False,
            ),
        )
        done = told = 0
        for table in _cut(reader, rows):
            frame = pl.DataFrame(
                {name: _text(table.column(theirs)) for name, theirs in chosen.items()}
            )
            # Rows among those that parsed, moved on by the broken rows before them.
            numbers = np.arange(done, done + len(frame), dtype=np.int64)
            gaps = np.array([number for number, _ in skipped], dtype=np.int64) - 1
            moved = numbers + np.searchsorted(gaps - np.arange(len(gaps)), numbers, side="right")
            done += len(frame)
            broken, told = skipped[told:], len(skipped)
            yield (
                Piece(
                    str(path), frame.with_columns(row=pl.Series(moved + 1)), _broken(path, broken)
                ),
                min(raw.tell() / size, 1.0),
            )
        if skipped[told:]:  # broken rows behind the last whole one
            yield (
                Piece(
                    str(path),
                    pl.DataFrame(schema=dict.fromkeys(chosen, pl.String) | {"row": pl.Int64}),
                    _broken(path, skipped[told:]),
                ),
                1.0,
            )


def _broken(path: Path, skipped: list[tuple[int, str]]) -> pl.DataFrame:
    rows = pl.Series([row for row, _ in skipped], dtype=pl.Int64)
    return rejected(str(path), rows, pl.Series([why for _, why in skipped], dtype=pl.String))


def _text(column: pa.ChunkedArray) -> pl.Series:
    """Text of bytes; what is no UTF-8 keeps a mark that fits no address and no number."""
    series = pl.Series(pl.from_arrow(column))
    try:
        return series.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series([one.decode(errors="replace") for one in series], dtype=pl.String)


def _cut(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of `rows` rows, the last one shorter."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count < rows:
            continue
        table = pa.Table.from_batches(held)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield table.slice(start, rows)
        held, count = table.slice(whole).to_batches(), count - whole
    if count:
        yield pa.Table.from_batches(held)


def lines(path: Path, rows: int) -> Iterator[tuple[list[bytes], float]]:
    """Lists of at most `rows` lines of a text file, packed or not, with the share that is read."""
    size = max(path.stat().st_size, 1)
    with path.open("rb") as raw:
        packed = path.name.endswith(".gz")
        file: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw
        held: list[bytes] = []
        for line in file:
            held.append(line)
            if len(held) == rows:
                yield held, min(raw.tell() / size, 1.0)
                held = []
        yield held, 1.0
