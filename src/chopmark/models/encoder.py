"""Raw values to the numbers that a model computes with: one encoder for training and serving.

    raw value --parser--> base value --plan--> encoded columns (m,) float64

The parser is a Python function of one value (`chopmark.models.parsing`); the plan is compiled
and makes date parts, date differences and other combinations. A table goes through the same
two steps: the parser is called once per distinct value of a column, the plan once per row.
Therefore a batch equals its rows bit for bit. Numbers that are not finite are missing (NaN).
Serves A3, A5, A6 and A12 of the requirements.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

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
from chopmark.models.model import Table, Value

Kind = Literal["number", "boolean", "category", "date", "constant", "identifier", "text", "drop"]
"""What a raw column is. The last four are not encoded."""

Operation = Literal["sum", "difference", "product", "ratio", "days_between"]

_OPERATIONS: dict[str, int] = {
    "sum": kernels.SUM,
    "difference": kernels.DIFFERENCE,
    "product": kernels.PRODUCT,
    "ratio": kernels.RATIO,
    "days_between": kernels.DAYS_BETWEEN,
}
_SIGNS = {
    "sum": " + ",
    "difference": " - ",
    "product": " * ",
    "ratio": " / ",
    "days_between": " - ",
}
_PARTS: dict[str, int] = {
    "epoch_days": kernels.EPOCH_DAYS,
    "hour": kernels.HOUR,
    "weekday": kernels.WEEKDAY,
    "month": kernels.MONTH,
    "day": kernels.DAY,
}
PARTS = tuple(_PARTS)
"""Parts of a date that can be encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one raw column is read.

    Attributes
    ----------
    name
        The raw column.
    kind
        "number", "boolean", "category" or "date".
    categories
        Category only: the known ones; all others share one bucket.
    pattern
        Category only: a regular expression; what its first group finds is the category.
    format
        Date only: one of `chopmark.models.parsing.DATE_FORMATS`, remembered from training.
    parts
        Date only: which of "epoch_days", "hour", "weekday", "month", "day" to encode.
    """

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()
    pattern: str = ""
    format: str = ""
    parts: tuple[str, ...] = ()

    def parser(self) -> parsing.Parser:
        """The function from one raw value to one base value."""
        if self.kind == "number":
            return parsing.number
        if self.kind == "boolean":
            return parsing.boolean
        if self.kind == "date":
            return parsing.date_parser(self.format)
        codes = {text: float(code) for code, text in enumerate(self.categories, start=2)}
        return parsing.pattern(self.pattern, codes) if self.pattern else parsing.category(codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """An encoded column made of two raw columns, both numbers or both dates.

    A ratio by zero is missing. "days_between" is left minus right, in days.
    """

    operation: Operation
    left: str
    right: str

    @property
    def name(self) -> str:
        """For example ``logout - login``."""
        return self.left + _SIGNS[self.operation] + self.right


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A raw column that the model does not read, and why."""

    name: str
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One encoded column: its name, and how many category codes it has (0: it is a number)."""

    name: str
    num_codes: int = 0


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
            _check_column(column)
        self.plan, self.encoded = self._plan()
        self._parsers = tuple(column.parser() for column in self.columns)
        places = {name: place for place, name in enumerate(self.reads)}
        self._places = tuple(places[column.name] for column in self.columns)
        self._one_to_one = len(self.columns) == len(self.reads)
        self._pack = struct.Struct(f"{len(self.columns)}d").pack

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

    def base_table(self, table: Table) -> NDArray[np.float64]:
        """(n, k) base values of a polars DataFrame.

        Raises
        ------
        InvalidTable
            If the table lacks a column of `reads`.
        """
        for name in self.reads:
            if name not in table.columns:
                raise InvalidTable(
                    f"the model reads column `{name}`, which the table lacks"
                    + did_you_mean(name, table.columns)
                )
        base = np.empty((table.height, len(self.columns)), dtype=np.float64)
        for j, (column, parse) in enumerate(zip(self.columns, self._parsers, strict=True)):
            base[:, j] = base_values(table.get_column(column.name), column.kind, parse)
        return base

    def row(self, values: Sequence[Value]) -> NDArray[np.float64]:
        """(m,) encoded columns of one row."""
        x: NDArray[np.float64] = kernels.encode_row(self.base_row(values), self.plan)
        return x

    def table(self, table: Table) -> NDArray[np.float64]:
        """(n, m) encoded columns of a polars DataFrame."""
        x: NDArray[np.float64] = kernels.encode_table(self.base_table(table), self.plan)
        return x

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
            columns = [
                Column(
                    name=_text(item["name"]),
                    kind=item["kind"],
                    categories=tuple(_text(text) for text in item["categories"]),
                    pattern=_text(item["pattern"]),
                    format=_text(item["format"]),
                    parts=tuple(_text(part) for part in item["parts"]),
                )
                for item in data["columns"]
            ]
            combinations = [Combination(**item) for item in data["combinations"]]
            dropped = [Dropped(**item) for item in data["dropped"]]
            return cls(columns=columns, combinations=combinations, dropped=dropped)
        except (KeyError, TypeError, AttributeError, DeclarationError) as error:
            raise ArtifactError(f"the artifact's encoder cannot be read: {error!r}") from error

    def _plan(self) -> tuple[NDArray[np.void], tuple[Encoded, ...]]:
        owners = {name: place for place, name in enumerate(self.reads)}
        steps: list[tuple[int, int, int, int, int]] = []
        encoded: list[Encoded] = []
        bases: dict[str, int] = {}
        for base, column in enumerate(self.columns):
            owner = owners[column.name]
            if column.kind == "date":
                bases[column.name] = base
                for part in column.parts:
                    steps.append((_PARTS[part], base, base, owner, owner))
                    encoded.append(Encoded(name=f"{column.name} {part}"))
                continue
            if column.kind == "number":
                bases[column.name] = base
            steps.append((kernels.COPY, base, base, owner, owner))
            name = f"{column.name} {column.pattern}" if column.pattern else column.name
            num_codes = len(column.categories) + 2 if column.kind == "category" else 0
            encoded.append(Encoded(name=name, num_codes=num_codes))
        for made in self.combinations:
            _check_combination(made, {c.name: c.kind for c in self.columns if c.name in bases})
            left, right = made.left, made.right
            steps.append(
                (
                    _OPERATIONS[made.operation],
                    bases[left],
                    bases[right],
                    owners[left],
                    owners[right],
                )
            )
            encoded.append(Encoded(name=made.name))
        return np.array(steps, dtype=kernels.PLAN), tuple(encoded)


def base_values(series: Any, kind: Kind, parse: parsing.Parser) -> NDArray[np.float64]:
    """(n,) base values of a polars Series: what `parse` says of each of its values."""
    import polars as pl

    dtype = series.dtype
    if kind == "number" and (dtype.is_integer() or dtype.is_float() or dtype == pl.Boolean):
        # Casts round to nearest as Python's float() does: the parser would say the same.
        floats: NDArray[np.float64] = series.cast(pl.Float64).fill_null(np.nan).to_numpy()
        return floats
    if dtype.is_nested() or dtype == pl.Object:
        return np.array([parse(value) for value in series.to_list()], dtype=np.float64)
    if dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    distinct = series.unique().alias("value")
    bases = pl.Series("base", [parse(value) for value in distinct.to_list()], dtype=pl.Float64)
    joined = (
        series.alias("value")
        .to_frame()
        .join(
            pl.DataFrame([distinct, bases]),
            on="value",
            how="left",
            nulls_equal=True,
            maintain_order="left",
        )
    )
    result: NDArray[np.float64] = joined.get_column("base").to_numpy()
    return result


def _check_column(column: Column) -> None:
    if column.kind not in ("number", "boolean", "category", "date"):
        raise DeclarationError(
            f"column `{column.name}` is of kind `{column.kind}`, which has no encoding; "
            "expected number, boolean, category or date"
        )
    if column.kind == "date":
        if column.format not in parsing.DATE_FORMATS:
            raise DeclarationError(
                f"column `{column.name}` has date format `{column.format}`"
                + did_you_mean(column.format, parsing.DATE_FORMATS)
            )
        for part in column.parts:
            if part not in _PARTS:
                raise DeclarationError(
                    f"column `{column.name}` has no date part `{part}`" + did_you_mean(part, _PARTS)
                )
    if column.pattern:
        try:
            groups = re.compile(column.pattern).groups
        except re.error as error:
            raise DeclarationError(
                f"column `{column.name}` has pattern `{column.pattern}`: {error}"
            ) from error
        if groups < 1:
            raise DeclarationError(
                f"column `{column.name}` has pattern `{column.pattern}`, which has no group; "
                "put what names the category in parentheses"
            )


def _check_combination(made: Combination, kinds: Mapping[str, Kind]) -> None:
    if made.operation not in _OPERATIONS:
        raise DeclarationError(
            f"a combination has operation `{made.operation}`"
            + did_you_mean(made.operation, _OPERATIONS)
        )
    wanted = "date" if made.operation == "days_between" else "number"
    for name in (made.left, made.right):
        if kinds.get(name) != wanted:
            raise DeclarationError(
                f"combination `{made.name}` needs `{name}` to be a {wanted} column that is read"
                + did_you_mean(name, (n for n, kind in kinds.items() if kind == wanted))
            )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value
