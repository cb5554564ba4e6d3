"""The one expression language: derived features, ``where`` clauses and rules.

A small typed subset of Python's expressions is parsed to one tree and compiled to one list
of register instructions. One numba kernel (`run`) executes it, over one row when serving
and over a chunk of rows when replaying, so that both give the same bits by construction.
No text of a user is ever handed to ``eval`` or ``exec``: what is not in the tables below
does not exist.

    amount_usd > 3 * purchase_amount_usd_mean_30d and country in ("DE", "FR")
    0 if missing(age_days) else log1p(age_days)
    issuer in list("breached_issuers") and matches(email_domain, "[0-9]{4}")

Functions of texts and named lists exist where a caller gives them: they are asked outside of
the kernel, and what comes of them are columns like all others (`ask_outside`).

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
import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
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
class TextFunction:
    """A function that looks at texts themselves, which the kernel never sees.

    Attributes
    ----------
    arguments : tuple of {"text", "constant"}
        A "constant" stands written in the expression, so that it can be checked once.
    result : {"number", "boolean"}
    apply : callable
        From texts that are not missing to a number or a truth.
    meaning : str
    check : callable, optional
        Given the constants; raises `InvalidExpression` if they will not do.
    """

    arguments: tuple[Literal["text", "constant"], ...]
    result: Literal["number", "boolean"]
    apply: Callable[..., float | bool]
    meaning: str
    check: Callable[..., None] | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """One question of an expression that is answered outside of the kernel.

    Attributes
    ----------
    arguments : tuple of (bool, str)
        Whether it is a column's name, and else the constant itself.
    function : str
        Name of the function; "" asks whether the one column is in a list.
    members : str
        Name of the list; "" for a function.
    """

    arguments: tuple[tuple[bool, str], ...]
    function: str = ""
    members: str = ""


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
    lists : tuple of str
        Names of the lists that it asks, sorted.
    """

    text: str
    kind: Kind
    reads: tuple[str, ...]
    hash: str
    tree: ast.expr = field(repr=False, compare=False)
    lists: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """A boolean expression taken apart.

    Attributes
    ----------
    expression : Expression
    outside : dict of str to Outside
        What is answered outside of the kernel, by how it is written.
    leaves : dict of str to tree
        What ``and``, ``or`` and ``not`` are about, by how it is written.
    tree : ast.expr
        The expression over its leaves, which are names in it.
    """

    expression: Expression
    outside: dict[str, Outside]
    leaves: dict[str, ast.expr]
    tree: ast.expr


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


def parse(
    text: str,
    kinds: Mapping[str, Kind],
    *,
    functions: Mapping[str, TextFunction] | None = None,
    lists: Mapping[str, Kind] | None = None,
) -> Expression:
    """The checked expression of a text.

    Parameters
    ----------
    kinds : mapping of str to kind
        The names that may be read.
    functions : mapping of str to TextFunction, optional
        Functions of texts that may be called.
    lists : mapping of str to kind, optional
        Lists that may be asked by ``x in list("name")``, with the kind of their members.

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
    checker = _Checker(source, kinds, functions or {}, lists or {})
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
        lists=tuple(sorted(checker.lists)),
    )


def take_apart(expression: Expression, functions: Mapping[str, TextFunction]) -> Condition:
    """A boolean expression as its leaves and what is asked outside of the kernel.

    Parameters
    ----------
    functions : mapping of str to TextFunction
        Those that it was parsed with.
    """
    outside: dict[str, Outside] = {}
    leaves: dict[str, ast.expr] = {}
    # The tree belongs to its expression, which others compile too.
    tree = _Outsider(functions, outside).visit(copy.deepcopy(expression.tree))
    return Condition(
        expression=expression, outside=outside, tree=_split(tree, leaves), leaves=leaves
    )


def _split(tree: ast.expr, leaves: dict[str, ast.expr]) -> ast.expr:
    match tree:
        case ast.BoolOp(op=op, values=values):
            return ast.BoolOp(op=op, values=[_split(value, leaves) for value in values])
        case ast.UnaryOp(op=ast.Not() as op, operand=operand):
            return ast.UnaryOp(op=op, operand=_split(operand, leaves))
    name = written(tree)
    leaves[name] = tree
    return ast.Name(id=name, ctx=ast.Load())


def written(tree: ast.expr) -> str:
    """A checked tree as a text of the language."""
    return ast.unparse(_Readable().visit(copy.deepcopy(tree)))


class _Readable(ast.NodeTransformer):
    """Takes back what the checker put into a tree."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if isinstance(node.op, _Seconds):
            node.op = ast.Sub()
        return self.generic_visit(node)


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


@njit(cache=True, nogil=True)
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


def for_rows(program: Program, num_columns: int) -> NDArray[np.int64]:
    """The code of a program as `run_row` takes it: one array of registers, no negative ones."""
    code = program.code.copy()
    constant, members = code[:, 0] == _CONST, code[:, 0] == _IN
    registers = np.ones(code.shape, dtype=np.bool_)
    registers[:, 0] = False
    registers[:, 2] = ~constant
    registers[:, 3] = ~(constant | members)
    return np.where(registers & (code < 0), num_columns - 1 - code, code)


@njit(cache=True, nogil=True)
def run_row(code, constants, registers):  # type: ignore[no-untyped-def]
    """Execute a program over one row, with the bits of `run` and a tenth of its time.

    Parameters
    ----------
    code : (m, 4) int64
        From `for_rows`.
    constants
        Of the `Program`.
    registers : (num_columns + num_temporaries,) float64
        The columns, then scratch space.
    """
    nan = np.nan
    for step in range(code.shape[0]):
        op = code[step, 0]
        target = code[step, 1]
        if op == _CONST:
            registers[target] = constants[code[step, 2]]
            continue
        x = registers[code[step, 2]]
        if op == _IN:
            first = np.int64(constants[code[step, 3]])
            last = np.int64(constants[code[step, 3] + 1])
            found = 0.0
            for k in range(first, last):
                if constants[k] == x:
                    found = 1.0
            registers[target] = nan if math.isnan(x) else found
            continue
        y = registers[code[step, 3]]
        value = nan
        if op == _LT:
            if not (math.isnan(x) or math.isnan(y)):
                value = 1.0 if x < y else 0.0
        elif op == _AND:
            value = 0.0 if x == 0.0 or y == 0.0 else (nan if x != x or y != y else 1.0)
        elif op == _OR:
            value = 1.0 if x == 1.0 or y == 1.0 else (nan if x != x or y != y else 0.0)
        elif op == _LE:
            if not (math.isnan(x) or math.isnan(y)):
                value = 1.0 if x <= y else 0.0
        elif op == _EQ:
            if not (math.isnan(x) or math.isnan(y)):
                value = 1.0 if x == y else 0.0
        elif op == _NE:
            if not (math.isnan(x) or math.isnan(y)):
                value = 1.0 if x != y else 0.0
        elif op == _NOT:
            value = 1.0 - x
        elif op == _COPY:
            value = x
        elif op == _MISSING:
            value = 1.0 if math.isnan(x) else 0.0
        elif op == _NEG:
            value = -x
        elif op == _ADD:
            value = x + y
        elif op == _SUB:
            value = x - y
        elif op == _SECONDS:
            value = (x - y) / 1e6
        elif op == _MUL:
            value = x * y
        elif op == _DIV:
            value = x / y if y != 0.0 else nan
        elif op == _MOD:
            value = x - np.floor(x / y) * y if y != 0.0 else nan
        elif op == _COALESCE:
            value = y if math.isnan(x) else x
        elif op == _SELECT:
            value = registers[target]
            if x == 0.0:
                value = y
            elif x != 1.0:
                value = nan
        elif op == _ABS:
            value = abs(x)
        elif op == _LOG:
            value = math.log(x) if x > 0.0 else nan
        elif op == _LOG1P:
            value = math.log1p(x) if x > -1.0 else nan
        elif op == _EXP:
            value = math.exp(x) if x < 709.0 else nan
        elif op == _SQRT:
            value = math.sqrt(x) if x >= 0.0 else nan
        elif op == _FLOOR:
            value = np.floor(x)
        elif op == _MIN:
            if not (math.isnan(x) or math.isnan(y)):
                value = min(x, y)
        elif op == _MAX:
            if not (math.isnan(x) or math.isnan(y)):
                value = max(x, y)
        elif op == _HOUR:
            value = np.floor(x / 3.6e9) % 24.0
        elif op == _WEEKDAY:
            value = (np.floor(x / 8.64e10) + 3.0) % 7.0
        if op in (_ADD, _SUB, _MUL, _DIV, _MOD) and not math.isfinite(value):
            value = nan
        registers[target] = value


class _Outsider(ast.NodeTransformer):
    """Puts columns in the place of what is asked outside."""

    def __init__(self, functions: Mapping[str, TextFunction], asked: dict[str, Outside]) -> None:
        self.functions = functions
        self.asked = asked

    def visit_Call(self, node: ast.Call) -> ast.AST:
        assert isinstance(node.func, ast.Name)
        if node.func.id not in self.functions:
            return self.generic_visit(node)
        arguments = tuple(_argument(argument) for argument in node.args)
        return self.column(node, Outside(arguments, function=node.func.id))

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        asks = [member_list(right) for right in node.comparators]
        if not any(asks):
            return self.generic_visit(node)
        # A chain may ask several: each link is one comparison of its own.
        links: list[ast.expr] = []
        left = node.left
        for op, right, name in zip(node.ops, node.comparators, asks, strict=True):
            link: ast.expr = ast.Compare(left, [ast.In() if name else op], [right])
            if name:
                link = self.column(link, Outside((_argument(left),), members=name))
                if isinstance(op, ast.NotIn):
                    link = ast.UnaryOp(op=ast.Not(), operand=link)
            else:
                self.generic_visit(link)
            links.append(link)
            left = right
        return links[0] if len(links) == 1 else ast.BoolOp(op=ast.And(), values=links)

    def column(self, question: ast.expr, outside: Outside) -> ast.expr:
        name = written(question)
        self.asked[name] = outside
        return ast.Name(id=name, ctx=ast.Load())


def _argument(node: ast.expr) -> tuple[bool, str]:
    """A column to read, or a constant."""
    if isinstance(node, ast.Name):
        return True, node.id
    assert isinstance(node, ast.Constant)
    return False, str(node.value)


def member_list(node: ast.expr) -> str:
    """The name in ``list("name")``, "" for any other node."""
    match node:
        case ast.Call(func=ast.Name(id="list"), args=[ast.Constant(value=str(name))], keywords=[]):
            return name
    return ""


class _Checker:
    """Finds the kind of each node, and refuses all that the language does not have."""

    def __init__(
        self,
        text: str,
        kinds: Mapping[str, Kind],
        functions: Mapping[str, TextFunction],
        known_lists: Mapping[str, Kind],
    ) -> None:
        self.text = text
        self.kinds = kinds
        self.functions = functions
        self.known_lists = known_lists
        self.lists: set[str] = set()
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
        if name in self.functions:
            return self.kind_of_text_call(node, name, self.functions[name], arguments, depth)
        function = FUNCTIONS.get(name)
        if function is None and name not in ("missing", "coalesce"):
            known = sorted({*FUNCTIONS, *self.functions, "missing", "coalesce"})
            hint = did_you_mean(name, known) or "; known: " + ", ".join(f"`{k}`" for k in known)
            raise self.complain(node, f"unknown function `{name}`{hint}")
        wanted = len(function.arguments) if function else (1 if name == "missing" else 2)
        if function is None or len(arguments) != wanted:
            raise self.complain(
                node, f"expected {wanted} argument(s) for `{name}`, got {len(arguments)}"
            )
        for argument, kind in zip(arguments, function.arguments, strict=True):
            self.expect(argument, kind, depth)
        return function.result

    def kind_of_text_call(
        self,
        node: ast.expr,
        name: str,
        function: TextFunction,
        arguments: list[ast.expr],
        depth: int,
    ) -> Kind:
        if len(arguments) != len(function.arguments):
            raise self.complain(
                node,
                f"expected {len(function.arguments)} argument(s) for `{name}`, got "
                f"{len(arguments)}",
            )
        constants = []
        for argument, wanted in zip(arguments, function.arguments, strict=True):
            self.expect(argument, "text", depth)
            if wanted == "constant":
                if not isinstance(argument, ast.Constant) or argument.value is None:
                    raise self.complain(argument, f"expected a text written out for `{name}`")
                constants.append(argument.value)
            elif not isinstance(argument, ast.Name):
                raise self.complain(argument, f"expected the name of a text for `{name}`")
        if function.check is not None:
            try:
                function.check(*constants)
            except InvalidExpression as error:
                raise self.complain(node, str(error)) from None
        return function.result

    def check_list(self, left: ast.expr, right: ast.expr, name: str, depth: int) -> None:
        if name not in self.known_lists:
            hint = did_you_mean(name, self.known_lists) if self.known_lists else "; there are none"
            raise self.complain(right, f"unknown list `{name}`{hint}")
        if not isinstance(left, ast.Name):
            raise self.complain(left, "expected a name before `in list(...)`")
        self.expect(left, self.known_lists[name], depth)
        self.lists.add(name)

    def check_comparison(
        self, node: ast.expr, op: ast.cmpop, left: ast.expr, right: ast.expr, depth: int
    ) -> None:
        if isinstance(op, ast.In | ast.NotIn) and member_list(right):
            self.check_list(left, right, member_list(right), depth)
        elif isinstance(op, ast.In | ast.NotIn):
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
