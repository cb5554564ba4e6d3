"""Programs: checked trees written as instructions for registers."""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.expressions.language import ARITHMETIC, FUNCTIONS, ORDER, Expression
from chopmark.expressions.operations import (
    AND,
    COALESCE,
    CONST,
    COPY,
    EQ,
    IN,
    MISSING,
    NE,
    NEG,
    NOT,
    OR,
    SELECT,
)


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
                self.add(CONST, target, self.constant(node))
            case ast.Name(id=name):
                self.add(COPY, target, self.columns[name])
            case ast.UnaryOp(op=op, operand=operand):
                self.add(NOT if isinstance(op, ast.Not) else NEG, target, self.emit(operand))
            case ast.BoolOp(op=op, values=values):
                self.emit_to(values[0], target)
                for value in values[1:]:
                    self.add(
                        AND if isinstance(op, ast.And) else OR, target, target, self.emit(value)
                    )
            case ast.BinOp(op=op, left=left, right=right):
                a, b = self.emit(left), self.emit(right)
                self.add(ARITHMETIC[type(op)], target, a, b)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                self.emit_comparison(target, left, ops, comparators)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition, otherwise = self.emit(test), self.emit(orelse)
                self.emit_to(body, target)
                self.add(SELECT, target, condition, otherwise)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                special = {"missing": MISSING, "coalesce": COALESCE}
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
                self.add(IN, register, a, self.members(right.elts))
                if isinstance(op, ast.NotIn):
                    self.add(NOT, register, register)
            else:
                # Emitted once, also where it stands between two operators: else nested
                # comparisons would cost 2**depth.
                b = self.emit(right)
                if isinstance(op, ast.Eq | ast.NotEq):
                    self.add(EQ if isinstance(op, ast.Eq) else NE, register, a, b)
                else:
                    operation, swapped = ORDER[type(op)]
                    self.add(operation, register, *((b, a) if swapped else (a, b)))
                a = b
            if position > 0:
                self.add(AND, target, target, register)
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
