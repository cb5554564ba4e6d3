"""The one expression language: derived features, ``where`` clauses and rules.

A small typed subset of Python's expressions is parsed to one tree and compiled to one list
of register instructions. One numba kernel (`run`) executes it, over one row when serving
and over a chunk of rows when replaying, so that both give the same bits by construction.
No text of a user is ever handed to ``eval`` or ``exec``: what is not in the tables below
does not exist.

    amount_usd > 3 * purchase_amount_usd_mean_30d and country in ("DE", "FR")
    0 if missing(age_days) else log1p(age_days)

Semantics
---------
Values are numbers, booleans, texts and times; each may be missing. Arithmetic and
comparison with a missing value are missing; ``and``, ``or`` and ``not`` are three-valued
(Kleene); ``missing(x)`` is never missing. A result that is not finite (a division by zero,
the logarithm of nothing) is missing. ``time - time`` is a number of seconds.

Inside, every value is one float64: NaN is missing, booleans are 0 and 1, times are
microseconds since 1970, texts are 52-bit keyed codes (`chopmark.codes`), which compare equal if and
only if the texts do, up to a collision of probability 2**-52.
"""

import ast
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.errors import InvalidExpression, did_you_mean

Kind = Literal["number", "boolean", "text", "time"]

MAX_LENGTH = 4_000
"""Longest text of an expression, in characters; with MAX_DEPTH it bounds the cost."""
MAX_DEPTH = 60

# One row per instruction: operation, target register, two operands.
(
    _CONST, _COPY, _NEG, _NOT, _ADD, _SUB, _MUL, _DIV, _MOD, _EQ, _NE, _LT, _LE, _AND, _OR,
    _MISSING, _COALESCE, _SELECT, _IN, _ABS, _LOG, _LOG1P, _EXP, _SQRT, _FLOOR, _MIN, _MAX,
    _HOUR, _WEEKDAY, _SECONDS,
) = range(30)  # fmt: skip


class _Seconds(ast.Sub):
    """A subtraction of two times; the checker puts it in the place of `ast.Sub`."""


_ARITHMETIC: dict[type[ast.operator], int] = {
    ast.Add: _ADD,
    ast.Sub: _SUB,
    _Seconds: _SECONDS,
    ast.Mult: _MUL,
    ast.Div: _DIV,
    ast.Mod: _MOD,
}
_ORDER = {ast.Lt: (_LT, False), ast.LtE: (_LE, False), ast.Gt: (_LT, True), ast.GtE: (_LE, True)}


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the language: kinds of its arguments, kind of its result, what it does."""

    arguments: tuple[Kind, ...]
    result: Kind
    operation: int
    meaning: str


FUNCTIONS: dict[str, Function] = {
    "abs": Function(("number",), "number", _ABS, "absolute value"),
    "log": Function(("number",), "number", _LOG, "natural logarithm; missing unless x > 0"),
    "log1p": Function(("number",), "number", _LOG1P, "log(1 + x); missing unless x > -1"),
    "exp": Function(("number",), "number", _EXP, "e to the power of x"),
    "sqrt": Function(("number",), "number", _SQRT, "square root; missing if x < 0"),
    "floor": Function(("number",), "number", _FLOOR, "largest whole number not above x"),
    "min": Function(("number", "number"), "number", _MIN, "the smaller of two numbers"),
    "max": Function(("number", "number"), "number", _MAX, "the larger of two numbers"),
    "hour": Function(("time",), "number", _HOUR, "hour of the day in UTC, 0 to 23"),
    "weekday": Function(("time",), "number", _WEEKDAY, "day of the week in UTC, Monday is 0"),
}
"""Functions besides ``missing(x)`` and ``coalesce(x, y)``, which take any kind."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression.

    Attributes
    ----------
    text : str
        As written.
    kind : {"number", "boolean", "text", "time"}
        Of its result.
    reads : tuple of str
        Names that it reads, sorted.
    hash : str
        Of its tree: white space and parentheses do not change it.
    """

    text: str
    kind: Kind
    reads: tuple[str, ...]
    hash: str
    tree: ast.expr = field(repr=False, compare=False)


@dataclass(slots=True)
class Program:
    """Instructions for one or more expressions: see `run`.

    Attributes
    ----------
    code : (m, 4) int64
        Operation, target, operand, operand; see the top of this module.
    constants : (k,) float64
    num_temporaries : int
        Registers needed beyond the columns.
    """

    code: NDArray[np.int64]
    constants: NDArray[np.float64]
    num_temporaries: int


def parse(text: str, kinds: Mapping[str, Kind]) -> Expression:
    """The checked expression of a text.

    Parameters
    ----------
    kinds : mapping of str to kind
        The names that may be read.

    Raises
    ------
    InvalidExpression
        With the place, the reason, and the nearest known name.

    Examples
    --------
    >>> parse("amount > 3 * usual", {"amount": "number", "usual": "number"}).kind
    'boolean'
    """
    if len(text) > MAX_LENGTH:
        raise InvalidExpression(
            f"expected an expression of at most {MAX_LENGTH} characters, got {len(text)}"
        )
    source = text.strip().replace("\r\n", "\n").replace("\r", "\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of texts like `1and`, which parse all the same
            tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        place = len(source)  # without an offset, the text ended too early
        if error.lineno and error.offset:
            place = min(_line_start(source, error.lineno) + error.offset - 1, place)
        raise _complaint(source, place, error.msg) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidExpression(f"expected a readable expression, got one that is not: {error}") \
            from None  # fmt: skip
    checker = _Checker(source, kinds)
    kind = checker.kind_of(tree, depth=0)
    if kind is None:
        raise _complaint(source, 0, "expected an expression with a value, got only `None`")
    dump = ast.dump(tree)
    return Expression(
        text=source,
        kind=kind,
        reads=tuple(sorted(checker.reads)),
        hash=sha256(dump.encode()).hexdigest(),
        tree=tree,
    )


def compile_program(
    expressions: Sequence[tuple[Expression, int]], columns: Mapping[str, int], codes: Codes
) -> Program:
    """One program that writes each expression into its column, in the given order.

    Parameters
    ----------
    expressions : sequence of (Expression, int)
        With the row of the matrix that takes its values.
    columns : mapping of str to int
        The row of the matrix of every name that is read.
    codes : Codes
        Those with which the matrix was filled.
    """
    writer = _Writer(columns, codes)
    for expression, target in expressions:
        writer.emit_to(expression.tree, target)
    return Program(
        code=np.array(writer.code, dtype=np.int64).reshape(-1, 4),
        constants=np.array(writer.constants or [0.0], dtype=np.float64),
        num_temporaries=writer.num_temporaries,
    )


@njit(cache=True)
def run(code, constants, columns, temporaries, size):  # type: ignore[no-untyped-def]
    """Execute a program over the first ``size`` entries of all columns, in place.

    Parameters
    ----------
    code, constants
        Of a `Program`.
    columns : (num_columns, n) float64
    temporaries : (num_temporaries, n) float64
        Scratch space; register ``-1 - i`` is its row i.
    size : int
        0 to n.
    """
    nan = np.nan
    for step in range(code.shape[0]):
        op = code[step, 0]
        target = code[step, 1]
        out = columns[target] if target >= 0 else temporaries[-1 - target]
        if op == _CONST:
            value = constants[code[step, 2]]
            for i in range(size):
                out[i] = value
            continue
        left = code[step, 2]
        a = columns[left] if left >= 0 else temporaries[-1 - left]
        if op == _IN:
            first = np.int64(constants[code[step, 3]])
            last = np.int64(constants[code[step, 3] + 1])
            for i in range(size):
                x = a[i]
                result = 0.0
                for k in range(first, last):
                    if constants[k] == x:
                        result = 1.0
                out[i] = nan if math.isnan(x) else result
            continue
        right = code[step, 3]
        b = columns[right] if right >= 0 else temporaries[-1 - right]
        if op == _COPY:
            for i in range(size):
                out[i] = a[i]
        elif op == _NEG:
            for i in range(size):
                out[i] = -a[i]
        elif op == _NOT:
            for i in range(size):
                out[i] = 1.0 - a[i]
        elif op == _ADD:
            for i in range(size):
                out[i] = a[i] + b[i]
        elif op == _SUB:
            for i in range(size):
                out[i] = a[i] - b[i]
        elif op == _SECONDS:
            for i in range(size):
                out[i] = (a[i] - b[i]) / 1e6
        elif op == _MUL:
            for i in range(size):
                out[i] = a[i] * b[i]
        elif op == _DIV:
            for i in range(size):
                out[i] = a[i] / b[i] if b[i] != 0.0 else nan
        elif op == _MOD:
            for i in range(size):
                out[i] = a[i] - np.floor(a[i] / b[i]) * b[i] if b[i] != 0.0 else nan
        elif op == _EQ:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else (1.0 if a[i] == b[i] else 0.0)
        elif op == _NE:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else (1.0 if a[i] != b[i] else 0.0)
        elif op == _LT:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else (1.0 if a[i] < b[i] else 0.0)
        elif op == _LE:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else (1.0 if a[i] <= b[i] else 0.0)
        elif op == _AND:
            for i in range(size):
                known_false = a[i] == 0.0 or b[i] == 0.0
                out[i] = 0.0 if known_false else (nan if a[i] != a[i] or b[i] != b[i] else 1.0)
        elif op == _OR:
            for i in range(size):
                known_true = a[i] == 1.0 or b[i] == 1.0
                out[i] = 1.0 if known_true else (nan if a[i] != a[i] or b[i] != b[i] else 0.0)
        elif op == _MISSING:
            for i in range(size):
                out[i] = 1.0 if math.isnan(a[i]) else 0.0
        elif op == _COALESCE:
            for i in range(size):
                out[i] = b[i] if math.isnan(a[i]) else a[i]
        elif op == _SELECT:
            # The target holds the value for "true"; a is the condition, b the value for
            # "false". A missing condition gives a missing value.
            for i in range(size):
                if a[i] == 0.0:
                    out[i] = b[i]
                elif a[i] != 1.0:
                    out[i] = nan
        elif op == _ABS:
            for i in range(size):
                out[i] = abs(a[i])
        elif op == _LOG:
            for i in range(size):
                out[i] = math.log(a[i]) if a[i] > 0.0 else nan
        elif op == _LOG1P:
            for i in range(size):
                out[i] = math.log1p(a[i]) if a[i] > -1.0 else nan
        elif op == _EXP:
            for i in range(size):
                out[i] = math.exp(a[i]) if a[i] < 709.0 else nan
        elif op == _SQRT:
            for i in range(size):
                out[i] = math.sqrt(a[i]) if a[i] >= 0.0 else nan
        elif op == _FLOOR:
            for i in range(size):
                out[i] = np.floor(a[i])  # of math, it would be an integer, which has no NaN
        elif op == _MIN:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else min(a[i], b[i])
        elif op == _MAX:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else max(a[i], b[i])
        elif op == _HOUR:
            for i in range(size):
                out[i] = np.floor(a[i] / 3.6e9) % 24.0
        elif op == _WEEKDAY:
            for i in range(size):
                out[i] = (np.floor(a[i] / 8.64e10) + 3.0) % 7.0  # 1970-01-01 was a Thursday
        if op in (_ADD, _SUB, _MUL, _DIV, _MOD):
            for i in range(size):
                if not math.isfinite(out[i]):
                    out[i] = nan


class _Checker:
    """Finds the kind of each node, and refuses all that the language does not have."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        self.text = text
        self.kinds = kinds
        self.reads: set[str] = set()
        self.found: dict[ast.expr, Kind | None] = {}

    def kind_of(self, node: ast.expr, depth: int) -> Kind | None:
        """The kind of a node's value; None for the literal `None`, which fits every kind."""
        # Each node is visited once: without this, nested comparisons cost 2**depth.
        if node not in self.found:
            self.found[node] = self.find_kind(node, depth)
        return self.found[node]

    def find_kind(self, node: ast.expr, depth: int) -> Kind | None:
        if depth > MAX_DEPTH:
            raise self.complain(node, f"expected at most {MAX_DEPTH} levels of nesting")
        below = depth + 1
        match node:
            case ast.Constant(value=None):
                return None
            case ast.Constant(value=bool()):
                return "boolean"
            case ast.Constant(value=int(number) | float(number)):
                if not abs(number) < 1e300:
                    raise self.complain(node, "expected a number below 1e300")
                return "number"
            case ast.Constant(value=str()):
                return "text"
            case ast.Name(id=name):
                if name not in self.kinds:
                    hint = did_you_mean(name, self.kinds)
                    raise self.complain(node, f"unknown name `{name}`{hint}")
                self.reads.add(name)
                return self.kinds[name]
            case ast.UnaryOp(op=ast.Not()):
                return self.expect(node.operand, "boolean", below)
            case ast.UnaryOp(op=ast.USub()):
                return self.expect(node.operand, "number", below)
            case ast.BoolOp(values=values):
                for value in values:
                    self.expect(value, "boolean", below)
                return "boolean"
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                if isinstance(op, ast.Sub) and self.kind_of(left, below) == "time":
                    self.expect(right, "time", below)
                    node.op = _Seconds()
                    return "number"
                self.expect(left, "number", below)
                return self.expect(right, "number", below)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for comparison, right in zip(ops, comparators, strict=True):
                    self.check_comparison(node, comparison, left, right, below)
                    left = right
                return "boolean"
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.expect(test, "boolean", below)
                return self.same_kind(body, orelse, below)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.kind_of_call(node, name, arguments, below)
        what = type(node.op if isinstance(node, ast.BinOp | ast.UnaryOp) else node).__name__
        raise self.complain(
            node,
            f"expected a value, an operator or a function of the language, got `{what.lower()}`",
        )

    def kind_of_call(
        self, node: ast.expr, name: str, arguments: list[ast.expr], depth: int
    ) -> Kind | None:
        if name == "missing" and len(arguments) == 1:
            self.kind_of(arguments[0], depth)
            return "boolean"
        if name == "coalesce" and len(arguments) == 2:
            return self.same_kind(arguments[0], arguments[1], depth)
        function = FUNCTIONS.get(name)
        if function is None and name not in ("missing", "coalesce"):
            hint = did_you_mean(name, [*FUNCTIONS, "missing", "coalesce"])
            raise self.complain(node, f"unknown function `{name}`{hint}")
        wanted = len(function.arguments) if function else (1 if name == "missing" else 2)
        if function is None or len(arguments) != wanted:
            raise self.complain(
                node, f"expected {wanted} argument(s) for `{name}`, got {len(arguments)}"
            )
        for argument, kind in zip(arguments, function.arguments, strict=True):
            self.expect(argument, kind, depth)
        return function.result

    def check_comparison(
        self, node: ast.expr, op: ast.cmpop, left: ast.expr, right: ast.expr, depth: int
    ) -> None:
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
                raise self.complain(right, "expected a list of constants after `in`")
            kind = self.kind_of(left, depth)
            for member in right.elts:
                constant = member
                if isinstance(member, ast.UnaryOp) and isinstance(member.op, ast.USub):
                    constant = member.operand
                if not isinstance(constant, ast.Constant) or constant.value is None:
                    raise self.complain(member, "expected a constant in the list after `in`")
                self.expect(member, kind or "number", depth)
        elif isinstance(op, ast.Eq | ast.NotEq):
            for side in (left, right):
                if isinstance(side, ast.Constant) and side.value is None:
                    raise self.complain(side, "expected a value to compare; use `missing(x)`")
            self.same_kind(left, right, depth)
        elif type(op) in _ORDER:
            kind = self.same_kind(left, right, depth)
            if kind not in ("number", "time"):
                raise self.complain(left, f"expected numbers or times to compare, got {kind}")
        else:
            raise self.complain(node, "expected one of ==, !=, <, <=, >, >=, in, not in")

    def expect(self, node: ast.expr, kind: Kind, depth: int) -> Kind:
        found = self.kind_of(node, depth)
        if found is not None and found != kind:
            raise self.complain(node, f"expected a {kind}, got a {found}")
        return kind

    def same_kind(self, left: ast.expr, right: ast.expr, depth: int) -> Kind | None:
        first, second = self.kind_of(left, depth), self.kind_of(right, depth)
        if first is not None and second is not None and first != second:
            raise self.complain(right, f"expected a {first}, got a {second}")
        return first or second

    def complain(self, node: ast.expr, reason: str) -> InvalidExpression:
        start = _line_start(self.text, node.lineno)
        # The parser counts in bytes of UTF-8.
        prefix = self.text[start:].encode()[: node.col_offset].decode(errors="replace")
        place = start + len(prefix)
        return _complaint(self.text, place, reason)


class _Writer:
    """Writes the instructions of checked trees."""

    def __init__(self, columns: Mapping[str, int], codes: Codes) -> None:
        self.columns = columns
        self.codes = codes
        self.code: list[tuple[int, int, int, int]] = []
        self.constants: list[float] = []
        self.num_temporaries = 0
        self.in_use = 0

    def emit_to(self, node: ast.expr, target: int) -> None:
        """Write the value of a node into a register."""
        before = self.in_use
        match node:
            case ast.Constant():
                self.add(_CONST, target, self.constant(node))
            case ast.Name(id=name):
                self.add(_COPY, target, self.columns[name])
            case ast.UnaryOp(op=op, operand=operand):
                self.add(_NOT if isinstance(op, ast.Not) else _NEG, target, self.emit(operand))
            case ast.BoolOp(op=op, values=values):
                self.emit_to(values[0], target)
                for value in values[1:]:
                    self.add(
                        _AND if isinstance(op, ast.And) else _OR, target, target, self.emit(value)
                    )
            case ast.BinOp(op=op, left=left, right=right):
                a, b = self.emit(left), self.emit(right)
                self.add(_ARITHMETIC[type(op)], target, a, b)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                self.emit_comparison(target, left, ops, comparators)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition, otherwise = self.emit(test), self.emit(orelse)
                self.emit_to(body, target)
                self.add(_SELECT, target, condition, otherwise)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                special = {"missing": _MISSING, "coalesce": _COALESCE}
                op_code = special[name] if name in special else FUNCTIONS[name].operation
                registers = [self.emit(argument) for argument in arguments]
                self.add(op_code, target, *registers)
            case _:
                raise AssertionError(f"unchecked node {ast.dump(node)}")
        self.in_use = before

    def emit(self, node: ast.expr) -> int:
        """The register that holds the value of a node: its column, or a new temporary."""
        if isinstance(node, ast.Name):
            return self.columns[node.id]
        self.in_use += 1
        self.num_temporaries = max(self.num_temporaries, self.in_use)
        target = -self.in_use
        self.emit_to(node, target)
        return target

    def emit_comparison(
        self, target: int, left: ast.expr, ops: list[ast.cmpop], rights: list[ast.expr]
    ) -> None:
        before = self.in_use
        a = self.emit(left)
        for position, (op, right) in enumerate(zip(ops, rights, strict=True)):
            register = target
            if position > 0:
                self.in_use += 1
                self.num_temporaries = max(self.num_temporaries, self.in_use)
                register = -self.in_use
            if isinstance(op, ast.In | ast.NotIn):
                assert isinstance(right, ast.Tuple | ast.List | ast.Set)
                self.add(_IN, register, a, self.members(right.elts))
                if isinstance(op, ast.NotIn):
                    self.add(_NOT, register, register)
            else:
                # Emitted once, also where it stands between two operators: else nested
                # comparisons would cost 2**depth.
                b = self.emit(right)
                if isinstance(op, ast.Eq | ast.NotEq):
                    self.add(_EQ if isinstance(op, ast.Eq) else _NE, register, a, b)
                else:
                    operation, swapped = _ORDER[type(op)]
                    self.add(operation, register, *((b, a) if swapped else (a, b)))
                a = b
            if position > 0:
                self.add(_AND, target, target, register)
        self.in_use = before

    def constant(self, node: ast.Constant) -> int:
        self.constants.append(self.value(node))
        return len(self.constants) - 1

    def members(self, nodes: list[ast.expr]) -> int:
        """Constants of an `in` list, and before them where they begin and end."""
        place = len(self.constants)
        values = [self.member(node) for node in nodes]
        self.constants += [float(place + 2), float(place + 2 + len(values)), *values]
        return place

    def member(self, node: ast.expr) -> float:
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            return -self.value(node.operand)
        assert isinstance(node, ast.Constant)
        return self.value(node)

    def value(self, node: ast.Constant) -> float:
        if node.value is None:
            return math.nan
        if isinstance(node.value, str):
            return self.codes.value(node.value)
        assert isinstance(node.value, bool | int | float)
        return float(node.value)

    def add(self, op: int, target: int, a: int = 0, b: int | None = None) -> None:
        self.code.append((op, target, a, a if b is None else b))


def _line_start(text: str, line: int) -> int:
    """Where a line begins, counted from 1 as the parser does."""
    return sum(len(earlier) + 1 for earlier in text.split("\n")[: line - 1])


def _complaint(text: str, place: int, reason: str) -> InvalidExpression:
    """The error with the line of the text and a caret below the place."""
    before = text[:place]
    line_start = before.rfind("\n") + 1
    line = text[line_start:].split("\n", 1)[0]
    caret = " " * (place - line_start) + "^"
    return InvalidExpression(f"{reason}\n    {line}\n    {caret}")
