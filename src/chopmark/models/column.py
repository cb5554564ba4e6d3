"""How one raw column is read, and what two of them make: the declarations of an encoder.

    kind               base value                                    reading
    number             the number                                    itself
    boolean            0 or 1                                        itself
    category           code of the value, or a number learned for it categorical, or a number
    high_cardinality   the same; rare and unseen values are hashed   categorical, or a number
    date               microseconds                                  days, hour, weekday, ...
    text               length, words, share of digits, token score   itself

A declaration may come from a file, so all that the request path relies on is checked here,
patterns included: a pattern that backtracks without end would stop the service.
Serves A3 to A6 of the requirements.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chopmark.errors import DeclarationError, did_you_mean
from chopmark.models import kernels, parsing

Kind = Literal[
    "number",
    "boolean",
    "category",
    "high_cardinality",
    "date",
    "text",
    "constant",
    "identifier",
    "drop",
]
"""What a raw column is. The last three are not encoded."""

Group = Literal["raw", "date parts", "date differences", "target means", "text", "hashing"]
"""What sort of reading an encoded column is: what `Encoder.without` can leave out."""

GROUPS: tuple[Group, ...] = (
    "raw", "date parts", "date differences", "target means", "text", "hashing",
)  # fmt: skip

Operation = Literal["sum", "difference", "product", "ratio", "days_between"]

OPERATIONS: Mapping[str, int] = {
    "sum": kernels.SUM,
    "difference": kernels.DIFFERENCE,
    "product": kernels.PRODUCT,
    "ratio": kernels.RATIO,
    "days_between": kernels.DAYS_BETWEEN,
}
DATE_PARTS: Mapping[str, int] = {
    "epoch_days": kernels.EPOCH_DAYS,
    "hour": kernels.HOUR,
    "weekday": kernels.WEEKDAY,
    "month": kernels.MONTH,
    "day": kernels.DAY,
}
PARTS = tuple(DATE_PARTS)
"""Parts of a date that can be encoded."""
TEXT_PARTS = ("length", "words", "digits", "score")
"""Readings of a free text; "score" is the mean weight of its known tokens."""

MOST_CATEGORIES = 65_536
MOST_BUCKETS = 65_536
LONGEST_PATTERN = 200

_ENCODED = ("number", "boolean", "category", "high_cardinality", "date", "text")
_CODED = ("category", "high_cardinality")
# A class in brackets and an escaped character are one item; a `(?` opens a group like any other.
_PATTERN_ITEM = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[\d,]+\}|\(\?P=|\(\?\(|\(\?[^)]|.", re.DOTALL
)
_REFERENCES = (*(f"\\{digit}" for digit in range(1, 10)), "(?P=", "(?(")
_MOST_PATHS = 2.0**21
_SIGNS = {
    "sum": " + ",
    "difference": " - ",
    "product": " * ",
    "ratio": " / ",
    "days_between": " - ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one raw column is read.

    Attributes
    ----------
    name
        The raw column.
    kind
        "number", "boolean", "category", "high_cardinality", "date" or "text".
    categories
        Category: the known ones; all others share one code, or `buckets`. Text: tokens.
    values
        Category: what each of `categories` is read as, instead of its code: its target mean.
        Text: weight of each token. As long as `categories`, all finite.
    fallback
        What an unknown category is read as if there are `values`.
    buckets
        Category: rare and unseen ones are hashed into this many codes after the known ones.
    pattern
        Category: a regular expression; what its first group finds is the category.
    format
        Date: one of `chopmark.models.parsing.DATE_FORMATS` or `EPOCH_FORMATS`, remembered from
        training.
    parts
        Date: which of "epoch_days", "hour", "weekday", "month", "day" to encode.
        Text: exactly one of "length", "words", "digits" and "score".
    """

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    fallback: float = 0.0
    buckets: int = 0
    pattern: str = ""
    format: str = ""
    parts: tuple[str, ...] = ()

    @property
    def is_coded(self) -> bool:
        """Whether the base value is the code of a category."""
        return self.kind in _CODED and not self.values

    @property
    def num_codes(self) -> int:
        """Number of category codes, 0 if the base value is a number."""
        first = parsing.FIRST_CODE
        return first + len(self.categories) + self.buckets if self.is_coded else 0

    @property
    def group(self) -> Group:
        """What sort of reading it is; of a date, what its "epoch_days" are."""
        if self.kind == "text":
            return "text"
        if self.values:
            return "target means"
        return "hashing" if self.kind == "high_cardinality" else "raw"

    @property
    def encoded_name(self) -> str:
        """Name of its encoded column; of a date, what the names of its parts begin with."""
        name = f"{self.name} {self.pattern}" if self.pattern else self.name
        if self.kind == "text":
            return f"{name} {self.parts[0]}"
        return f"{name} mean" if self.values else name

    def numbers(self) -> tuple[float, ...]:
        """What each of `categories` is read as: its value, or its code."""
        if self.values or self.kind == "text":
            return self.values
        return tuple(float(code) for code in range(parsing.FIRST_CODE, self.first_bucket))

    @property
    def first_bucket(self) -> int:
        """Code of the first hashing bucket."""
        return parsing.FIRST_CODE + len(self.categories)

    def parser(self) -> parsing.Parser:
        """The function from one raw value to one base value."""
        if self.kind == "number":
            return parsing.number
        if self.kind == "boolean":
            return parsing.boolean
        if self.kind == "date":
            return parsing.date_parser(self.format)
        numbers = dict(zip(self.categories, self.numbers(), strict=True))
        if self.kind == "text":
            return _TEXT_PARSERS.get(self.parts[0]) or parsing.token_score(numbers)
        read = self._category_parser(numbers)
        return parsing.pattern(self.pattern, read) if self.pattern else read

    def _category_parser(self, numbers: Mapping[str, float]) -> parsing.Parser:
        if self.values:
            return parsing.category(numbers, missing=parsing.MISSING, other=self.fallback)
        if self.buckets:
            return parsing.hashed_category(numbers, buckets=self.buckets)
        return parsing.category(numbers)


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

    @property
    def group(self) -> Group:
        """What sort of reading it is."""
        return "date differences" if self.operation == "days_between" else "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A raw column that the model does not read, and why."""

    name: str
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One encoded column.

    Attributes
    ----------
    name
        Of the raw column and the reading, for example ``login hour``.
    num_codes
        How many category codes it has; 0: it is a number.
    group
        What sort of reading it is.
    """

    name: str
    num_codes: int = 0
    group: Group = "raw"


def check_column(column: Column) -> None:
    """Refuse a column that cannot be read.

    Raises
    ------
    DeclarationError
        If its kind has no encoding, or a format, part, pattern or number is not possible.
    """
    if column.kind not in _ENCODED:
        raise DeclarationError(
            f"column `{column.name}` is of kind `{column.kind}`, which has no encoding; "
            f"expected one of {', '.join(_ENCODED)}"
        )
    _check_categories(column)
    if column.kind == "date":
        _check_date(column)
    elif column.kind == "text":
        _check_text(column)
    if column.pattern:
        _check_pattern(column)


def check_combination(made: Combination, kinds: Mapping[str, Kind]) -> None:
    """Refuse a combination whose operation is unknown or does not suit the kinds of its columns.

    Raises
    ------
    DeclarationError
        If so.
    """
    if made.operation not in OPERATIONS:
        raise DeclarationError(
            f"a combination has operation `{made.operation}`"
            + did_you_mean(made.operation, OPERATIONS)
        )
    wanted = "date" if made.operation == "days_between" else "number"
    for name in (made.left, made.right):
        if kinds.get(name) != wanted:
            raise DeclarationError(
                f"combination `{made.name}` needs `{name}` to be a {wanted} column that is read"
                + did_you_mean(name, (n for n, kind in kinds.items() if kind == wanted))
            )


def column_from_json(data: Mapping[str, Any]) -> Column:
    """The column that `dataclasses.asdict` described.

    Raises
    ------
    TypeError, KeyError
        If a field is missing or of the wrong type.
    """
    return Column(
        name=_text(data["name"]),
        kind=data["kind"],
        categories=tuple(_text(text) for text in data["categories"]),
        values=tuple(_number(value) for value in data["values"]),
        fallback=_number(data["fallback"]),
        buckets=_whole(data["buckets"]),
        pattern=_text(data["pattern"]),
        format=_text(data["format"]),
        parts=tuple(_text(part) for part in data["parts"]),
    )


def combination_from_json(data: Mapping[str, Any]) -> Combination:
    """The combination that `dataclasses.asdict` described.

    Raises
    ------
    TypeError, KeyError
        If a field is missing or of the wrong type.
    """
    return Combination(
        operation=data["operation"], left=_text(data["left"]), right=_text(data["right"])
    )


def dropped_from_json(data: Mapping[str, Any]) -> Dropped:
    """The dropped column that `dataclasses.asdict` described.

    Raises
    ------
    TypeError, KeyError
        If a field is missing or of the wrong type.
    """
    kind: Any = _text(data["kind"])
    return Dropped(name=_text(data["name"]), kind=kind, reason=_text(data["reason"]))


_TEXT_PARSERS: Mapping[str, parsing.Parser] = {
    "length": parsing.text_length,
    "words": parsing.text_words,
    "digits": parsing.text_digits,
}


def _check_categories(column: Column) -> None:
    _need(len(column.categories) <= MOST_CATEGORIES, column, "more categories than can be")
    _need(len(set(column.categories)) == len(column.categories), column, "a category twice")
    _need(0 <= column.buckets <= MOST_BUCKETS, column, f"{column.buckets} buckets")
    _need(
        not column.values or len(column.values) == len(column.categories),
        column,
        f"{len(column.values)} values for {len(column.categories)} categories",
    )
    _need(
        math.isfinite(column.fallback) and all(map(math.isfinite, column.values)),
        column,
        "a value that is not finite",
    )


def _check_date(column: Column) -> None:
    formats = (*parsing.DATE_FORMATS, *parsing.EPOCH_FORMATS)
    if column.format not in formats:
        raise DeclarationError(
            f"column `{column.name}` has date format `{column.format}`"
            + did_you_mean(column.format, formats)
        )
    for part in column.parts:
        if part not in PARTS:
            raise DeclarationError(
                f"column `{column.name}` has no date part `{part}`" + did_you_mean(part, PARTS)
            )


def _check_text(column: Column) -> None:
    _need(
        len(column.parts) == 1 and column.parts[0] in TEXT_PARTS,
        column,
        f"parts {column.parts}; a text is read as one of {', '.join(TEXT_PARTS)}",
    )
    _need(len(column.values) == len(column.categories), column, "tokens that have no weight")


def _check_pattern(column: Column) -> None:
    pattern = column.pattern
    try:
        groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise DeclarationError(
            f"column `{column.name}` has pattern `{pattern}`: {error}"
        ) from error
    if groups < 1:
        raise DeclarationError(
            f"column `{column.name}` has pattern `{pattern}`, which has no group; "
            "put what names the category in parentheses"
        )
    _need(
        len(pattern) <= LONGEST_PATTERN and _most_paths(pattern) <= _MOST_PATHS,
        column,
        f"pattern `{pattern}`, which could take too long: expected at most {LONGEST_PATTERN} "
        "characters and three repeats, none of a group that repeats or chooses, no reference "
        "back and no groups but `(`, `(?:` and `(?P<`",
    )


def _most_paths(pattern: str) -> float:
    """Bound of the ways in which a search can try a pattern on one text; infinite if unbounded.

    Each repeat multiplies them by the length of the text, each choice by its alternatives. A
    repeat of what can itself vary, and a reference back, have no such bound.
    """
    paths = 1.0
    choices = [1]  # of each open group: its alternatives
    varies = [False]  # of each open group: does it hold a repeat or a choice?
    closed = False  # was the last item a group that varies?
    for item in _PATTERN_ITEM.findall(pattern):
        # Of the groups with a question mark only those that group: a comment or a blank of the
        # verbose mode would hide what a repeat repeats.
        if item in _REFERENCES or (item[:2] == "(?" and item not in ("(?:", "(?P")):
            return math.inf
        if item.startswith("("):
            choices.append(1)
            varies.append(False)
        elif item == ")" and len(varies) > 1:
            paths *= choices.pop()
            closed = varies.pop()
            varies[-1] |= closed
            continue
        elif item == "?":
            paths *= 2
            varies[-1] = True
        elif item in "*+" or item.startswith("{"):
            if closed:
                return math.inf
            paths *= parsing.PATTERN_LIMIT
            varies[-1] = True
        elif item == "|":
            choices[-1] += 1
            varies[-1] = True
        closed = False
    return paths * math.prod(choices)


def _need(holds: bool, column: Column, problem: str) -> None:
    if not holds:
        raise DeclarationError(f"column `{column.name}` has {problem}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value
