"""The machine: a program executed over columns, or over one row with the same bits."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.expressions.operations import (
    ABS,
    ADD,
    AND,
    COALESCE,
    CONST,
    COPY,
    DIV,
    EQ,
    EXP,
    FLOOR,
    HOUR,
    IN,
    LE,
    LOG,
    LOG1P,
    LT,
    MAX,
    MIN,
    MISSING,
    MOD,
    MUL,
    NE,
    NEG,
    NOT,
    OR,
    SECONDS,
    SELECT,
    SQRT,
    SUB,
    WEEKDAY,
)
from chopmark.expressions.program import Program


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
        if op == CONST:
            value = constants[code[step, 2]]
            for i in range(size):
                out[i] = value
            continue
        left = code[step, 2]
        a = columns[left] if left >= 0 else temporaries[-1 - left]
        if op == IN:
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
        if op == COPY:
            for i in range(size):
                out[i] = a[i]
        elif op == NEG:
            for i in range(size):
                out[i] = -a[i]
        elif op == NOT:
            for i in range(size):
                out[i] = 1.0 - a[i]
        elif op == ADD:
            for i in range(size):
                out[i] = a[i] + b[i]
        elif op == SUB:
            for i in range(size):
                out[i] = a[i] - b[i]
        elif op == SECONDS:
            for i in range(size):
                out[i] = (a[i] - b[i]) / 1e6
        elif op == MUL:
            for i in range(size):
                out[i] = a[i] * b[i]
        elif op == DIV:
            for i in range(size):
                out[i] = a[i] / b[i] if b[i] != 0.0 else nan
        elif op == MOD:
            for i in range(size):
                out[i] = a[i] - np.floor(a[i] / b[i]) * b[i] if b[i] != 0.0 else nan
        elif op == EQ:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else (1.0 if a[i] == b[i] else 0.0)
        elif op == NE:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else (1.0 if a[i] != b[i] else 0.0)
        elif op == LT:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else (1.0 if a[i] < b[i] else 0.0)
        elif op == LE:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else (1.0 if a[i] <= b[i] else 0.0)
        elif op == AND:
            for i in range(size):
                known_false = a[i] == 0.0 or b[i] == 0.0
                out[i] = 0.0 if known_false else (nan if a[i] != a[i] or b[i] != b[i] else 1.0)
        elif op == OR:
            for i in range(size):
                known_true = a[i] == 1.0 or b[i] == 1.0
                out[i] = 1.0 if known_true else (nan if a[i] != a[i] or b[i] != b[i] else 0.0)
        elif op == MISSING:
            for i in range(size):
                out[i] = 1.0 if math.isnan(a[i]) else 0.0
        elif op == COALESCE:
            for i in range(size):
                out[i] = b[i] if math.isnan(a[i]) else a[i]
        elif op == SELECT:
            # The target holds the value for "true"; a is the condition, b the value for
            # "false". A missing condition gives a missing value.
            for i in range(size):
                if a[i] == 0.0:
                    out[i] = b[i]
                elif a[i] != 1.0:
                    out[i] = nan
        elif op == ABS:
            for i in range(size):
                out[i] = abs(a[i])
        elif op == LOG:
            for i in range(size):
                out[i] = math.log(a[i]) if a[i] > 0.0 else nan
        elif op == LOG1P:
            for i in range(size):
                out[i] = math.log1p(a[i]) if a[i] > -1.0 else nan
        elif op == EXP:
            for i in range(size):
                out[i] = math.exp(a[i]) if a[i] < 709.0 else nan
        elif op == SQRT:
            for i in range(size):
                out[i] = math.sqrt(a[i]) if a[i] >= 0.0 else nan
        elif op == FLOOR:
            for i in range(size):
                out[i] = np.floor(a[i])  # of math, it would be an integer, which has no NaN
        elif op == MIN:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else min(a[i], b[i])
        elif op == MAX:
            for i in range(size):
                missing = math.isnan(a[i]) or math.isnan(b[i])
                out[i] = nan if missing else max(a[i], b[i])
        elif op == HOUR:
            for i in range(size):
                out[i] = np.floor(a[i] / 3.6e9) % 24.0
        elif op == WEEKDAY:
            for i in range(size):
                out[i] = (np.floor(a[i] / 8.64e10) + 3.0) % 7.0  # 1970-01-01 was a Thursday
        if op in (ADD, SUB, MUL, DIV, MOD):
            for i in range(size):
                if not math.isfinite(out[i]):
                    out[i] = nan


def for_rows(program: Program, num_columns: int) -> NDArray[np.int64]:
    """The code of a program as `run_row` takes it: one array of registers, no negative ones."""
    code = program.code.copy()
    constant, members = code[:, 0] == CONST, code[:, 0] == IN
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
        if op == CONST:
            registers[target] = constants[code[step, 2]]
            continue
        x = registers[code[step, 2]]
        if op == IN:
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
        if op == LT:
            if not (math.isnan(x) or math.isnan(y)):
                value = 1.0 if x < y else 0.0
        elif op == AND:
            value = 0.0 if x == 0.0 or y == 0.0 else (nan if x != x or y != y else 1.0)
        elif op == OR:
            value = 1.0 if x == 1.0 or y == 1.0 else (nan if x != x or y != y else 0.0)
        elif op == LE:
            if not (math.isnan(x) or math.isnan(y)):
                value = 1.0 if x <= y else 0.0
        elif op == EQ:
            if not (math.isnan(x) or math.isnan(y)):
                value = 1.0 if x == y else 0.0
        elif op == NE:
            if not (math.isnan(x) or math.isnan(y)):
                value = 1.0 if x != y else 0.0
        elif op == NOT:
            value = 1.0 - x
        elif op == COPY:
            value = x
        elif op == MISSING:
            value = 1.0 if math.isnan(x) else 0.0
        elif op == NEG:
            value = -x
        elif op == ADD:
            value = x + y
        elif op == SUB:
            value = x - y
        elif op == SECONDS:
            value = (x - y) / 1e6
        elif op == MUL:
            value = x * y
        elif op == DIV:
            value = x / y if y != 0.0 else nan
        elif op == MOD:
            value = x - np.floor(x / y) * y if y != 0.0 else nan
        elif op == COALESCE:
            value = y if math.isnan(x) else x
        elif op == SELECT:
            value = registers[target]
            if x == 0.0:
                value = y
            elif x != 1.0:
                value = nan
        elif op == ABS:
            value = abs(x)
        elif op == LOG:
            value = math.log(x) if x > 0.0 else nan
        elif op == LOG1P:
            value = math.log1p(x) if x > -1.0 else nan
        elif op == EXP:
            value = math.exp(x) if x < 709.0 else nan
        elif op == SQRT:
            value = math.sqrt(x) if x >= 0.0 else nan
        elif op == FLOOR:
            value = np.floor(x)
        elif op == MIN:
            if not (math.isnan(x) or math.isnan(y)):
                value = min(x, y)
        elif op == MAX:
            if not (math.isnan(x) or math.isnan(y)):
                value = max(x, y)
        elif op == HOUR:
            value = np.floor(x / 3.6e9) % 24.0
        elif op == WEEKDAY:
            value = (np.floor(x / 8.64e10) + 3.0) % 7.0
        if op in (ADD, SUB, MUL, DIV, MOD) and not math.isfinite(value):
            value = nan
        registers[target] = value
