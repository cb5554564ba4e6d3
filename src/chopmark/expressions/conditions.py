"""Conditions taken apart: their leaves, and what is asked outside of the machine."""

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass

from chopmark.expressions.language import Expression, TextFunction, member_list, written


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
