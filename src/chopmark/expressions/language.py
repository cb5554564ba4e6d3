"""The language: what a text may say, checked to one tree with the kind of every part."""

import ast
import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from chopmark.errors import InvalidExpression, did_you_mean
from chopmark.expressions.operations import (
    ABS,
    ADD,
    DIV,
    EXP,
    FLOOR,
    HOUR,
    LE,
    LOG,
    LOG1P,
    LT,
    MAX,
    MIN,
    MOD,
    MUL,
    SECONDS,
    SQRT,
    SUB,
    WEEKDAY,
)

Kind = Literal["number", "boolean", "text", "time"]

MAX_LENGTH = 4_000
"""Longest text of an expression, in characters; with MAX_DEPTH it bounds the cost."""
MAX_DEPTH = 60


class TimeDifference(ast.Sub):
    """A subtraction of two times; the checker puts it in the place of `ast.Sub`."""


ARITHMETIC: dict[type[ast.operator], int] = {
    ast.Add: ADD,
    ast.Sub: SUB,
    TimeDifference: SECONDS,
    ast.Mult: MUL,
    ast.Div: DIV,
    ast.Mod: MOD,
}
ORDER = {ast.Lt: (LT, False), ast.LtE: (LE, False), ast.Gt: (LT, True), ast.GtE: (LE, True)}


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the language: kinds of its arguments, kind of its result, what it does."""

    arguments: tuple[Kind, ...]
    result: Kind
    operation: int
    meaning: str


FUNCTIONS: dict[str, Function] = {
    "abs": Function(("number",), "number", ABS, "absolute value"),
    "log": Function(("number",), "number", LOG, "natural logarithm; missing unless x > 0"),
    "log1p": Function(("number",), "number", LOG1P, "log(1 + x); missing unless x > -1"),
    "exp": Function(("number",), "number", EXP, "e to the power of x"),
    "sqrt": Function(("number",), "number", SQRT, "square root; missing if x < 0"),
    "floor": Function(("number",), "number", FLOOR, "largest whole number not above x"),
    "min": Function(("number", "number"), "number", MIN, "the smaller of two numbers"),
    "max": Function(("number", "number"), "number", MAX, "the larger of two numbers"),
    "hour": Function(("time",), "number", HOUR, "hour of the day in UTC, 0 to 23"),
    "weekday": Function(("time",), "number", WEEKDAY, "day of the week in UTC, Monday is 0"),
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


def member_list(node: ast.expr) -> str:
    """The name in ``list("name")``, "" for any other node."""
    match node:
        case ast.Call(func=ast.Name(id="list"), args=[ast.Constant(value=str(name))], keywords=[]):
            return name
    return ""


def written(tree: ast.expr) -> str:
    """A checked tree as a text of the language."""
    return ast.unparse(_Readable().visit(copy.deepcopy(tree)))


class _Readable(ast.NodeTransformer):
    """Takes back what the checker put into a tree."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if isinstance(node.op, TimeDifference):
            node.op = ast.Sub()
        return self.generic_visit(node)


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
            case ast.BinOp(op=op, left=left, right=right) if type(op) in ARITHMETIC:
                if isinstance(op, ast.Sub) and self.kind_of(left, below) == "time":
                    self.expect(right, "time", below)
                    node.op = TimeDifference()
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
        elif type(op) in ORDER:
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
