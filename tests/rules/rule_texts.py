"""Texts that nobody in his right mind would give to a rule: at random, but always the same ones.

Half are made of the language's own tokens in no order, half are valid rules in which something
was changed. `fuzz` hands them to a `Language` and judges what comes back.
"""

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import thread_time

from chopmark.codes import Codes
from chopmark.datasets.exchange import SCHEMA
from chopmark.decisions import Decision
from chopmark.decisions.orders import ORDERS
from chopmark.errors import RuleError
from chopmark.events import Schema
from chopmark.expressions import Condition
from chopmark.features import Aggregate, Catalog, Derived
from chopmark.rules import Effects, Language, Rule
from chopmark.rules.code import RuleCode
from chopmark.testing.oracle import Micros, Raw, evaluate

CATALOG = Catalog(
    Schema(*SCHEMA.types.values(), Decision, *ORDERS),
    Derived("amount_usd"),
    Aggregate("purchase", "count", window="1h"),
)
LANGUAGE = Language(CATALOG)
LISTS = {"cities": frozenset({"a", "New York"}), "empty": frozenset[str]()}
SLOWEST_SECONDS = 0.2

_NUMBERS = ("amount_usd", "purchase_count_1h", "score")
_TEXTS = ("issuer", "event_type", "user")
_TIMES = ("as_of", "happened_at")
_NAMES = (*_NUMBERS, *_TIMES, *_TEXTS, "vip", "no_such_name", "amount_us")
_FUNCTIONS = (
    "abs", "log", "log1p", "exp", "sqrt", "floor", "min", "max", "hour", "weekday", "missing",
    "coalesce", "matches", "starts_with", "ends_with", "contains", "length", "name_similarity",
    "address_similarity", "list", "eval", "getattr", "__import__", "open",
)  # fmt: skip
_CONSTANTS = (
    "0", "1", "-1", "2.5", "1e9", "1e400", "0x1f", "1_000", "9" * 30, "1j", "True", "False",
    "None", '"a"', "'New York'", '"cities"', '"(a+)+$"', '"["', '""', 'b"a"', 'f"{user}"', '"\\n"',
    '"\\ud800"', "...",
)  # fmt: skip
_OPERATORS = (
    "+", "-", "*", "/", "%", "//", "**", "@", "<<", "&", "|", "^", "~", "==", "!=", "<", "<=",
    ">", ">=", "in", "not in", "is", "and", "or", "not", "if", "else", "lambda", ":=", "for",
    "await", "yield", "=", ";", ":", ".", ",", "*",
)  # fmt: skip
_BRACKETS = ("(", ")", "[", "]", "{", "}")
_DIRT = (
    "\0",
    "\n",
    "\t",
    "\\",
    "\ud800",
    "\u202e",
    "\uff41",
    "é",
    "\x0c",
    "#",
    "'",
    '"',
    "`",
    "$",
    "?",
)
_TOKENS = (
    *_NAMES, *_FUNCTIONS, *_CONSTANTS, *_OPERATORS * 2, *_BRACKETS * 4, *_DIRT,
)  # fmt: skip


def texts(seed: int) -> Iterator[str]:
    """Without end."""
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.5:
            sep = rng.choice((" ", " ", ""))
            yield sep.join(rng.choices(_TOKENS, k=rng.randint(1, 14)))
            continue
        text = _condition(rng, rng.randint(0, 3))
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            text = _changed(rng, text)
        yield text


def rows(rng: random.Random, count: int) -> list[dict[str, Raw]]:
    """Values for every name of the language, many of them missing."""

    def value(name: str, kind: str) -> Raw:
        if rng.random() < 0.2:
            return None
        if kind == "number":
            return rng.choice((0.0, 1.0, -1.0, 2.5, 1e9, rng.uniform(-10, 10)))
        if kind == "boolean":
            return rng.random() < 0.5
        if kind == "time":
            return Micros(rng.choice((0, 86_400_000_000 * 365, rng.randrange(10**16))))
        return rng.choice(("a", "New York", "", "é", "a" * 50))

    return [
        {name: value(name, kind) for name, kind in LANGUAGE.kinds.items()} for _ in range(count)
    ]


def check(text: str) -> Condition:
    """The condition of a rule with this text; `RuleError` if it cannot be."""
    rule = Rule(name="r", when=text, then=Effects(deny=True), because="why not")
    return LANGUAGE.check(rule, dict.fromkeys(LISTS, "text"))


@dataclass(slots=True)
class Found:
    """What came of many texts.

    Attributes
    ----------
    accepted, refused : int
    judged : int
        Truths of accepted rules that were held to the oracle's.
    wrong : list of (str, str)
        Text, and what was wrong with it: an error that is no `RuleError`, a truth that is not the
        oracle's.
    slowest_seconds : float
        Of the processor, to check one text.
    slowest : str
    """

    accepted: int = 0
    refused: int = 0
    judged: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    slowest: str = ""


def fuzz(given: Iterable[str], *, seed: int, rows_each: int = 1, together: int = 200) -> Found:
    """Check every text, and run those that are accepted on random rows.

    Parameters
    ----------
    rows_each : int
        Rows on which each accepted rule is held to the oracle.
    together : int
        Accepted rules that are compiled into one program.
    """
    found, rng = Found(), random.Random(seed)
    accepted: list[tuple[str, Condition]] = []
    for text in given:
        began = thread_time()
        try:
            condition = check(text)
        except RuleError:
            found.refused += 1
        except Exception as error:
            found.wrong.append((text, f"{type(error).__name__}: {error}"))
        else:
            found.accepted += 1
            accepted.append((text, condition))
        took = thread_time() - began
        if took > found.slowest_seconds:
            found.slowest_seconds, found.slowest = took, text
        if len(accepted) >= together:
            judge(accepted, rows(rng, rows_each), found)
            accepted.clear()
    judge(accepted, rows(rng, rows_each), found)
    return found


def judge(
    accepted: Sequence[tuple[str, Condition]], given: Sequence[Mapping[str, Raw]], found: Found
) -> None:
    """Run accepted rules together on rows, and hold each truth to the oracle's."""
    code = RuleCode([one for _, one in accepted], LANGUAGE.kinds, LISTS, Codes(b"fuzz"))
    for row in given:
        hits = set(code.row([row[name] for name in code.inputs]).rules)
        for place, (text, condition) in enumerate(accepted):
            if condition.outside:
                continue  # the oracle knows neither lists nor functions of texts
            found.judged += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of texts like `1and`
                    truth = evaluate(text, row) is True
            except Exception as error:
                found.wrong.append((text, f"the oracle: {type(error).__name__}: {error}"))
                continue
            if truth != (place in hits):
                found.wrong.append((text, f"the oracle says {truth} of {row}"))


def _condition(rng: random.Random, depth: int) -> str:
    """A valid condition."""
    if depth > 0:
        left, right = _condition(rng, depth - 1), _condition(rng, depth - 1)
        return rng.choice(
            (
                f"({left}) and {right}", f"{left} or ({right})", f"not ({left})",
                f"({left}) == ({right})", f"({left}) if ({right}) else False",
                f"coalesce({left}, {right})", f"({left}) or missing({right})",
            )
        )  # fmt: skip
    text, quoted = rng.choice(_TEXTS), rng.choice(('"a"', "'New York'", '""'))
    if rng.random() < 0.1:  # seldom: the oracle does not know them
        return rng.choice(
            (
                f"{text} {rng.choice(('in', 'not in'))} list('cities')",
                f"matches({text}, '[a-z]+$')", f"starts_with({text}, {quoted})",
                f"length({text}) > {_number(rng, 1)}", f"name_similarity(user, {text}) >= 0.5",
            )
        )  # fmt: skip
    return rng.choice(
        (
            f"{_number(rng, 2)} {rng.choice(('<', '<=', '>', '>=', '==', '!='))} {_number(rng, 2)}",
            f"{_number(rng, 1)} < {_number(rng, 1)} <= {_number(rng, 1)}",
            f"{text} {rng.choice(('==', '!='))} {quoted}",
            f"{text} {rng.choice(('in', 'not in'))} ({quoted}, 'b')",
            f"{_number(rng, 1)} in (0, 1, -1, 2.5)", f"missing({rng.choice(_NAMES[:8])})",
            f"{rng.choice(_TIMES)} < {rng.choice(_TIMES)}", "vip == True", "vip",
        )
    )  # fmt: skip


def _number(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice((*_NUMBERS, "0", "1", "2.5", "1e9", "-3"))
    left, right = _number(rng, depth - 1), _number(rng, depth - 1)
    return rng.choice(
        (
            f"({left} {rng.choice('+-*/%')} {right})", f"-({left})", f"abs({left})",
            f"log1p({left})", f"sqrt({left})", f"floor({left})", f"exp({left})", f"log({left})",
            f"{rng.choice(('min', 'max'))}({left}, {right})", f"coalesce({left}, {right})",
            "(as_of - happened_at)", f"hour({rng.choice(_TIMES)})", "weekday(as_of)",
            f"({left} if score > 0.5 else {right})",
        )
    )  # fmt: skip


def _changed(rng: random.Random, text: str) -> str:
    """A text in which a piece is missing, doubled, moved or another one."""
    first, last = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    match rng.randrange(6):
        case 0:
            return text[:first] + text[last:]
        case 1:
            return text[:last] + text[first:]
        case 2:
            return text[:first] + rng.choice(_TOKENS) + text[first:]
        case 3:
            return text[:first] + rng.choice(_TOKENS) + text[last:]
        case 4:
            return text[:first] + f" {rng.choice(_TOKENS)} " + text[first:]
    return text[:first] + text[first:last][::-1] + text[last:]
