"""The one expression language: derived features, ``where`` clauses and rules.

A small typed subset of Python's expressions is parsed to one tree (`language`) and written as
one list of register instructions (`program`). One machine executes it, over a chunk of rows when
replaying and over a single one when serving, with the same bits (`machine`). No text of a user
is ever handed to ``eval`` or ``exec``: what is not in the tables of the language does not exist.

    amount_usd > 3 * purchase_amount_usd_mean_30d and country in ("DE", "FR")
    0 if missing(age_days) else log1p(age_days)
    issuer in list("breached_issuers") and matches(email_domain, "[0-9]{4}")

Functions of texts and named lists exist where a caller gives them: they are asked outside of
the machine, and what comes of them are columns like all others (`conditions`).

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

from chopmark.expressions.conditions import Condition, Outside, take_apart
from chopmark.expressions.language import (
    FUNCTIONS,
    MAX_DEPTH,
    MAX_LENGTH,
    Expression,
    Function,
    Kind,
    TextFunction,
    parse,
    written,
)
from chopmark.expressions.machine import for_rows, run, run_row
from chopmark.expressions.program import Program, compile_program

__all__ = [
    "FUNCTIONS",
    "MAX_DEPTH",
    "MAX_LENGTH",
    "Condition",
    "Expression",
    "Function",
    "Kind",
    "Outside",
    "Program",
    "TextFunction",
    "compile_program",
    "for_rows",
    "parse",
    "run",
    "run_row",
    "take_apart",
    "written",
]
