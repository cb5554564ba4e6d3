"""Rules compiled together: one program for all of them, over one event or over columns.

Conditions are taken apart into leaves (what ``and``, ``or`` and ``not`` are about). A leaf that
several rules ask is asked once, and its truth is there to be recorded at no cost. Lists and
functions of texts are answered outside of the kernel; the rest is `chopmark.expressions`, the
same instructions for a row and for a million. Serves F9 of the requirements.
"""

import ast
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.expressions import (
    Condition,
    Expression,
    Kind,
    Outside,
    Program,
    compile_program,
    for_rows,
    run,
    run_row,
)
from chopmark.rules.texts import TEXT_FUNCTIONS

Value = float | str | bool | None
Lists = Mapping[str, Collection[str]]
Answer = Callable[[Sequence[Value]], float | None]

_CHUNK = 4_096
TRUTHS: Mapping[str, bool | None] = {"1": True, "0": False, "?": None}
"""What the letters in `Hits.leaves` say; None is missing."""


@dataclass(frozen=True, slots=True)
class Hits:
    """What came of all rules for one event.

    Attributes
    ----------
    rules : list of int
        Places of the rules that are true, rising.
    leaves : str
        For each leaf "1" (true), "0" (false) or "?" (missing), in the order of `RuleCode.leaves`.
    """

    rules: list[int]
    leaves: str


class RuleCode:
    """Conditions compiled together.

    Parameters
    ----------
    conditions : sequence of Condition
        From `chopmark.rules.rule.Language.check`.
    kinds : mapping of str to kind
        Of all that they read.
    lists : mapping of str to collection of str
        Members of the lists that they ask; looked at when asked.
    codes : Codes
        Any; only equality of texts depends on them.

    Attributes
    ----------
    inputs : tuple of str
        Names that are read, in the order in which `row` wants their values.
    outside : dict of str to Outside
        What is answered outside of the kernel.
    leaves : tuple of str
        As they are written.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        kinds: Mapping[str, Kind],
        lists: Lists,
        codes: Codes,
    ) -> None:
        self.codes = codes
        self._lists = lists
        self._conditions = conditions
        self.inputs = _union(condition.expression.reads for condition in conditions)
        self.kinds = {name: kinds[name] for name in self.inputs}
        self.outside = {name: o for one in conditions for name, o in one.outside.items()}
        trees = {name: tree for one in conditions for name, tree in one.leaves.items()}
        self.leaves = tuple(trees)
        columns = {name: place for place, name in enumerate((*self.inputs, *self.outside))}
        self._num_given = len(columns)
        # A leaf that is a column as it is has that name already.
        leaf_columns = {name: self._num_given + place for place, name in enumerate(trees)}
        first_rule = self._num_given + len(trees)
        self._num_columns = first_rule + len(conditions)
        program = compile_program(
            [(_bare(tree), leaf_columns[name]) for name, tree in trees.items()], columns, codes
        )
        together = compile_program(
            [(_bare(one.tree), first_rule + place) for place, one in enumerate(conditions)],
            leaf_columns,
            codes,
        )
        # The second program has no constants: nothing in it has to be moved.
        self._code = np.concatenate([program.code, together.code])
        self._constants = program.constants
        num_temporaries = max(program.num_temporaries, together.num_temporaries)
        self._program = Program(self._code, self._constants, num_temporaries)
        self._row_code = for_rows(self._program, self._num_columns)
        self._registers = np.full(self._num_columns + num_temporaries, np.nan)
        self._found = np.zeros(len(conditions) + 1, dtype=np.int64)
        self._truths = np.zeros(len(trees), dtype=np.uint8)
        self._answers = [self.answer(outside) for outside in self.outside.values()]
        self._texts = [j for j, name in enumerate(self.inputs) if self.kinds[name] == "text"]

    def row(self, values: Sequence[Value]) -> Hits:
        """All conditions of one event.

        Parameters
        ----------
        values : sequence
            Of `inputs`: numbers, truths and microseconds as floats, texts, None for missing.

        Notes
        -----
        Not for two threads at a time.
        """
        if not self._conditions:
            return Hits([], "")
        row = [*values, *(answer(values) for answer in self._answers)]
        code = self.codes.value
        for place in self._texts:
            text = row[place]
            row[place] = None if text is None else code(text)  # type: ignore[arg-type]
        self._registers[: self._num_given] = row  # None becomes NaN
        count = _evaluate(
            self._row_code, self._constants, self._registers, self._num_given, self._found,
            self._truths,
        )  # fmt: skip
        return Hits(self._found[:count].tolist(), self._truths.tobytes().decode())

    def matrix(self, given: NDArray[np.float64], *, threads: int = 1) -> NDArray[np.uint8]:
        """(n, number of conditions) 1 where a condition is true.

        Parameters
        ----------
        given : (number of inputs and outside questions, n) float64
            Texts as codes, NaN is missing.
        threads : int
            That work at a time; the result does not depend on it.
        """
        num_rows = given.shape[1]
        hits = np.zeros((len(self._conditions), num_rows), dtype=np.uint8)

        def work(start: int) -> None:
            end = min(start + _CHUNK, num_rows)
            columns = np.empty((self._num_columns, end - start))
            columns[: self._num_given] = given[:, start:end]
            temporaries = np.empty((max(self._program.num_temporaries, 1), end - start))
            run(self._code, self._constants, columns, temporaries, end - start)
            np.equal(columns[-len(hits) :], 1.0, out=hits[:, start:end], casting="unsafe")

        if len(hits):
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, range(0, num_rows, _CHUNK)))
        return hits.T

    def truths(self, leaves: str, rule: int) -> dict[str, bool | None]:
        """Truth of each leaf of a condition, as it is written, from the letters of `Hits`."""
        own = self._conditions[rule].leaves
        return {
            name: TRUTHS[letter]
            for name, letter in zip(self.leaves, leaves, strict=True)
            if name in own
        }

    def answer(self, outside: Outside) -> Answer:
        """The function that answers an outside question, given the values of `inputs`."""
        places = {name: place for place, name in enumerate(self.inputs)}
        parts = [
            (places[text], "") if is_column else (-1, text) for is_column, text in outside.arguments
        ]
        if outside.members:
            (place, _), name = parts[0], outside.members
            lists = self._lists

            def member(values: Sequence[Value]) -> float | None:
                value, members = values[place], lists.get(name)
                return None if value is None or members is None else float(value in members)

            return member
        apply = TEXT_FUNCTIONS[outside.function].apply

        def call(values: Sequence[Value]) -> float | None:
            texts = [text if place < 0 else values[place] for place, text in parts]
            return None if None in texts else float(apply(*texts))

        return call


@njit(cache=True)
def _evaluate(code, constants, registers, first_leaf, found, truths):  # type: ignore[no-untyped-def]
    """Run the program; the number of true rules, which go to ``found``."""
    run_row(code, constants, registers)
    for leaf in range(truths.shape[0]):
        value = registers[first_leaf + leaf]
        truths[leaf] = 49 if value == 1.0 else (48 if value == 0.0 else 63)
    first_rule = first_leaf + truths.shape[0]
    count = 0
    for rule in range(found.shape[0] - 1):
        if registers[first_rule + rule] == 1.0:
            found[count] = rule
            count += 1
    return count


def _bare(tree: ast.expr) -> Expression:
    return Expression(text="", kind="boolean", reads=(), hash="", tree=tree)


def _union(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({name for some in names for name in some}))
