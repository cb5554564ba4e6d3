"""Raw values to the numbers that a model computes with: one encoder for training and serving.

    raw value --parser--> base value --plan--> encoded columns (m,) float64

The parser is a Python function of one value (`chopmark.models.parsing`); the plan is compiled
and makes date parts, date differences and other combinations. A table goes through the same
two steps, some thousand rows at a time on all cores: whole columns are read at once where that
is proven equal (`chopmark.models.bulk`), the parser is called once for each other value.
Therefore a batch equals its rows bit for bit. Numbers that are not finite are missing (NaN).
Serves A3, A5, A6, A7 and A12 of the requirements.
"""

import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import (
    ArtifactError,
    DeclarationError,
    InvalidInput,
    InvalidTable,
    did_you_mean,
)
from chopmark.models import kernels, parsing
from chopmark.models.bulk import Reader
from chopmark.models.column import (
    DATE_PARTS,
    OPERATIONS,
    PARTS,
    Column,
    Combination,
    Dropped,
    Encoded,
    Group,
    Kind,
    check_column,
    check_combination,
    column_from_json,
    combination_from_json,
    dropped_from_json,
)
from chopmark.models.model import Table, Value

__all__ = ["PARTS", "Column", "Combination", "Dropped", "Encoded", "Encoder", "Group", "Kind"]

_CHUNK_CELLS = 1_000_000
_LEAST_CHUNK_ROWS = 1_000


class Encoder:
    """Raw values to float64, the same for a row and for a table.

    Parameters
    ----------
    columns
        How each raw column is read. A raw column may be read more than once.
    combinations
        Further encoded columns, made of two of these.
    dropped
        What is not read, kept as documentation.

    Attributes
    ----------
    reads : tuple of str
        Raw columns, in the order in which `base_row` takes values.
    encoded : tuple of Encoded
        The m columns that come out.

    Raises
    ------
    DeclarationError
        If a column or a combination cannot be.

    Examples
    --------
    >>> encoder = Encoder(columns=[
    ...     Column(name="amount_usd", kind="number"),
    ...     Column(name="channel", kind="category", categories=("web", "app")),
    ... ])
    >>> encoder.row([12.5, "app"]).tolist(), encoder.row(["?", "fax"]).tolist()
    ([12.5, 3.0], [nan, 1.0])
    """

    def __init__(
        self,
        *,
        columns: Sequence[Column],
        combinations: Sequence[Combination] = (),
        dropped: Sequence[Dropped] = (),
    ) -> None:
        self.columns = tuple(columns)
        self.combinations = tuple(combinations)
        self.dropped = tuple(dropped)
        self.reads = tuple(dict.fromkeys(column.name for column in self.columns))
        for column in self.columns:
            check_column(column)
        self.plan, self.encoded = self._plan()
        self._parsers = tuple(column.parser() for column in self.columns)
        self._readers = tuple(
            Reader(column, parse) for column, parse in zip(self.columns, self._parsers, strict=True)
        )
        places = {name: place for place, name in enumerate(self.reads)}
        self._places = tuple(places[column.name] for column in self.columns)
        self._one_to_one = len(self.columns) == len(self.reads)
        self._pack = struct.Struct(f"{len(self.columns)}d").pack

    @property
    def groups(self) -> tuple[Group, ...]:
        """What sort of reading each of the m encoded columns is."""
        return tuple(column.group for column in self.encoded)

    def base_row(self, values: Sequence[Value]) -> NDArray[np.float64]:
        """(k,) base values of one row's raw values, given in the order of `reads`.

        Raises
        ------
        InvalidInput
            If there are more or fewer values than `reads` has columns.
        """
        if len(values) != len(self.reads):
            raise InvalidInput(
                f"expected {len(self.reads)} values, one for each column of `reads`, "
                f"got {len(values)}"
            )
        if not self._one_to_one:
            values = [values[place] for place in self._places]
        number = parsing.number
        # A float in a number column needs no call, and packing floats takes half of the time
        # that numpy takes to find out what a list holds.
        packed = self._pack(
            *[
                value if type(value) is float and parse is number else parse(value)
                for value, parse in zip(values, self._parsers, strict=True)
            ]
        )
        return np.frombuffer(bytearray(packed))

    def base_table(self, table: Table, *, threads: int | None = None) -> NDArray[np.float64]:
        """(n, k) base values of a polars DataFrame.

        Parameters
        ----------
        table
            Columns of any type; those that are not in `reads` are ignored.
        threads
            How many to use, >= 1; None: as many as this process has cores. They change the
            time and nothing else.

        Raises
        ------
        InvalidTable
            If the table lacks a column of `reads`.
        """
        base = np.empty((table.height, len(self.columns)), dtype=np.float64)

        def fill(begin: int, end: int, series: Sequence[Any]) -> None:
            self._fill_base(base[begin:end], series)

        self._by_chunks(table, fill, threads)
        return base

    def row(self, values: Sequence[Value]) -> NDArray[np.float64]:
        """(m,) encoded columns of one row."""
        x: NDArray[np.float64] = kernels.encode_row(self.base_row(values), self.plan)
        return x

    def table(self, table: Table, *, threads: int | None = None) -> NDArray[np.float64]:
        """(n, m) encoded columns of a polars DataFrame; arguments and errors as `base_table`."""
        x = np.empty((table.height, len(self.encoded)), dtype=np.float64)

        def fill(begin: int, end: int, series: Sequence[Any]) -> None:
            base = np.empty((end - begin, len(self.columns)), dtype=np.float64)
            self._fill_base(base, series)
            x[begin:end] = kernels.encode_table(base, self.plan)

        self._by_chunks(table, fill, threads)
        return x

    def without(
        self, groups: Collection[Group] = (), *, columns: Mapping[str, str] | None = None
    ) -> Self:
        """The encoder that lacks these readings; a column left with none is not read.

        The encoded columns that stay keep their order and their values: they are those of
        `encoded` whose group is not among `groups` and whose raw columns are not among
        `columns`.

        Parameters
        ----------
        groups
            Sorts of readings to leave out, see `groups`.
        columns
            Raw columns to leave out, each with the reason, which `dropped` will tell.

        Raises
        ------
        DeclarationError
            If nothing is left.
        """
        gone = dict(columns or {})
        made = [
            item
            for item in self.combinations
            if item.group not in groups and item.left not in gone and item.right not in gone
        ]
        operands = {name for item in made for name in (item.left, item.right)}
        reduced = [_reduced(column, groups) for column in self.columns if column.name not in gone]
        kept = [
            column
            for column in reduced
            if (
                column.parts or column.name in operands
                if column.kind == "date"
                else column.group not in groups
            )
        ]
        if not kept:
            raise DeclarationError("no reading is left; leave fewer of them out")
        reads = {column.name for column in kept}
        kinds = {column.name: column.kind for column in reversed(self.columns)}
        reason = f"its readings were left out: {', '.join(groups)}"
        dropped = [
            Dropped(name=name, kind=kinds[name], reason=gone.get(name, reason))
            for name in self.reads
            if name not in reads
        ]
        return type(self)(columns=kept, combinations=made, dropped=(*self.dropped, *dropped))

    def to_json(self) -> dict[str, Any]:
        """All of the encoder, as JSON takes it."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "combinations": [asdict(combination) for combination in self.combinations],
            "dropped": [asdict(dropped) for dropped in self.dropped],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The encoder that `to_json` described.

        Raises
        ------
        ArtifactError
            If the description is not of an encoder.
        """
        try:
            if not data["columns"]:
                raise ValueError("it reads no column")
            return cls(
                columns=[column_from_json(item) for item in data["columns"]],
                combinations=[combination_from_json(item) for item in data["combinations"]],
                dropped=[dropped_from_json(item) for item in data["dropped"]],
            )
        except (
            KeyError, TypeError, AttributeError, ValueError, OverflowError, DeclarationError,
        ) as error:  # fmt: skip
            raise ArtifactError(f"the artifact's encoder cannot be read: {error!r}") from error

    def _plan(self) -> tuple[NDArray[np.void], tuple[Encoded, ...]]:
        owners = {name: place for place, name in enumerate(self.reads)}
        steps: list[tuple[int, int, int, int, int]] = []
        encoded: list[Encoded] = []
        bases: dict[str, int] = {}
        for base, column in enumerate(self.columns):
            owner = owners[column.name]
            if column.kind in ("number", "date"):
                bases[column.name] = base
            for operation, reading in _readings(column):
                steps.append((operation, base, base, owner, owner))
                encoded.append(reading)
        kinds = {column.name: column.kind for column in self.columns if column.name in bases}
        for made in self.combinations:
            check_combination(made, kinds)
            left, right = made.left, made.right
            operation = OPERATIONS[made.operation]
            steps.append((operation, bases[left], bases[right], owners[left], owners[right]))
            encoded.append(Encoded(name=made.name, group=made.group))
        return np.array(steps, dtype=kernels.PLAN), tuple(encoded)

    def _fill_base(self, base: NDArray[np.float64], series: Sequence[Any]) -> None:
        for j, (reader, place) in enumerate(zip(self._readers, self._places, strict=True)):
            base[:, j] = reader.read(series[place])

    def _by_chunks(
        self, table: Table, fill: Callable[[int, int, Sequence[Any]], None], threads: int | None
    ) -> None:
        """Call `fill` with the begin and end of each chunk of rows and its raw columns."""
        names = set(table.columns)
        for name in self.reads:
            if name not in names:
                raise InvalidTable(
                    f"the model reads column `{name}`, which the table lacks"
                    + did_you_mean(name, names)
                )
        series = [table.get_column(name) for name in self.reads]
        cells = len(self.columns) + len(self.encoded)
        chunks = list(_chunks(table.height, max(_LEAST_CHUNK_ROWS, _CHUNK_CELLS // cells)))

        def fill_one(chunk: tuple[int, int]) -> None:
            begin, end = chunk
            fill(begin, end, [column.slice(begin, end - begin) for column in series])

        num_threads = min(num_cores() if threads is None else threads, len(chunks))
        if num_threads <= 1:
            for chunk in chunks:
                fill_one(chunk)
            return
        with ThreadPoolExecutor(num_threads) as pool:
            # Going through the results raises what a thread raised.
            for _ in pool.map(fill_one, chunks):
                pass


def _readings(column: Column) -> Iterator[tuple[int, Encoded]]:
    """Operation and encoded column of each reading of a raw column."""
    if column.kind != "date":
        yield (
            kernels.COPY,
            Encoded(name=column.encoded_name, num_codes=column.num_codes, group=column.group),
        )
        return
    for part in column.parts:
        group: Group = "raw" if part == PARTS[0] else "date parts"
        yield DATE_PARTS[part], Encoded(name=f"{column.encoded_name} {part}", group=group)


def _reduced(column: Column, groups: Collection[Group]) -> Column:
    """The column without its date parts of these groups."""
    if column.kind != "date":
        return column
    parts = [
        part for part in column.parts if ("raw" if part == PARTS[0] else "date parts") not in groups
    ]
    return replace(column, parts=tuple(parts))


def _chunks(num_rows: int, size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, num_rows, size):
        yield begin, min(begin + size, num_rows)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
