"""Rules: beside other engines on the same rules and events, at scale, and under attack.

    peers      50 rules over an event, null-safe, beside zen-engine, two bindings of CEL and two
               of JsonLogic; all answers are compared before anything is timed
    scale      2,000 rules over an event, a book of 2,000 rules that changes, 50 rules over a
               table of 1 M rows, and whether rows and columns say the same
    fuzz       texts at random as rules: what was accepted and refused, and that nothing but a
               refusal came of them (not among the parts that run by default)

Run: .venv/bin/python benchmarks/rules.py [peers] [scale] [fuzz --count 1000000]
The peers need .venv-peers, which `make bench` makes.
"""

import gc
import json
import subprocess
import sys
from argparse import Namespace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any

import numpy as np
import polars as pl
from machine import Runs, goal, number, parser, progress, ratio, report, runs, table

from chopmark.codes import Codes
from chopmark.decisions import Decision
from chopmark.decisions.orders import ORDERS
from chopmark.events import Event, Schema
from chopmark.events.event import Entity
from chopmark.expressions import Kind, parse, take_apart
from chopmark.features import Catalog, Derived
from chopmark.rules import Effects, Language, RuleBook
from chopmark.rules.book import effects_text
from chopmark.rules.code import RuleCode
from chopmark.rules.columns import hits_of
from chopmark.rules.orders import RuleDrafted, RuleReviewed, RuleStaged
from chopmark.rules.texts import TEXT_FUNCTIONS
from chopmark.testing.oracle import evaluate
from chopmark.times import EPOCH, instant

ROOT = Path(__file__).resolve().parents[1]
COUNTRIES = ("US", "GB", "DE", "FR", "IT", "ES", "NL", "BR", "IN", "JP")
KINDS: dict[str, Kind] = {
    "amount": "number", "age": "number", "country": "text", "velocity": "number",
    "score": "number", "id_verified": "boolean",
}  # fmt: skip
NUM_RULES = 50
MANY = 2_000
MISSING = 0.05
"""Share of values that are missing, in each of the six fields that the rules read."""
JUDGED = 400
"""Events on which ours is held to the oracle, before the peers are held to ours."""
GOAL_EVALUATIONS = 10e6
GOAL_MANY_US = 250.0
GOAL_SWAP_SECONDS = 0.5
GOAL_ROWS = 1.5e6

Rule = dict[str, Any]


def main() -> None:
    """Print the tables of the parts that are asked for."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help="peers, scale or fuzz")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--rows", type=int, default=1_000_000, help="of the backtest")
    arguments.add_argument("--count", type=int, default=100_000, help="texts of the fuzz")
    arguments.add_argument("--seed", type=int, default=0, help="of the fuzz")
    options = arguments.parse_args()
    parts = {"peers": _peers, "scale": _scale, "fuzz": _fuzz}
    unknown = sorted(set(options.parts) - set(parts))
    if unknown:
        arguments.error(f"expected parts of {', '.join(parts)}; got {', '.join(unknown)}")
    with report("Rules"):
        for name in options.parts or ("peers", "scale"):
            parts[name](options)


def make_rules(count: int, seed: int = 0) -> list[Rule]:
    """Thresholds of rules; fifty share many of theirs, two thousand hardly any."""
    rng = np.random.default_rng(seed)

    def one() -> Rule:
        if count <= NUM_RULES:
            amount, age = rng.choice([100, 200, 500, 1000, 2000]), rng.choice([7, 14, 30])
            velocity, score = rng.integers(2, 6), rng.choice([0.7, 0.8, 0.9, 0.95])
        else:
            amount, age = rng.integers(1, 10_000), rng.integers(1, 100)
            velocity, score = rng.integers(2, 50), round(rng.random(), 3)
        countries = [str(name) for name in rng.choice(COUNTRIES, 3, replace=False)]
        return {
            "amount": float(amount), "age": float(age), "countries": countries,
            "velocity": float(velocity), "score": float(score),
        }  # fmt: skip

    return [one() for _ in range(count)]


def text_of(rule: Rule) -> str:
    """A rule in the language; it needs no guards."""
    countries = ", ".join(f'"{name}"' for name in rule["countries"])
    return (
        f"(amount > {rule['amount']} and age < {rule['age']} and country in ({countries}) and "
        f"velocity >= {rule['velocity']}) or (score > {rule['score']} and not id_verified)"
    )


def make_frame(size: int, seed: int = 1) -> pl.DataFrame:
    """What the rules read, for so many events; about one rule in seven is true of one."""
    rng = np.random.default_rng(seed)
    whole = {
        "amount": rng.lognormal(5, 1, size).round(2),
        "age": rng.integers(0, 60, size).astype(float),
        "country": rng.choice(COUNTRIES, size),
        "velocity": rng.integers(0, 8, size).astype(float),
        "score": rng.random(size).round(4),
        "id_verified": rng.random(size) < 0.2,
    }
    return pl.DataFrame(whole).with_columns(
        pl.when(pl.Series(rng.random(size) >= MISSING)).then(pl.col(name)).alias(name)
        for name in KINDS
    )


def compiled(rules: list[Rule]) -> RuleCode:
    """All rules as one program."""
    expressions = [parse(text_of(rule), KINDS) for rule in rules]
    return RuleCode(
        [take_apart(one, TEXT_FUNCTIONS) for one in expressions], KINDS, {}, Codes(b"rules")
    )


def values_of(code: RuleCode, frame: pl.DataFrame) -> list[list[Any]]:
    """Ready lists of values, as `RuleCode.row` wants them."""
    return [list(row) for row in frame.select(code.inputs).iter_rows()]


def measured(code: RuleCode, given: list[list[Any]]) -> dict[str, float]:
    """Microseconds an event, of the clock and of the processor."""
    wall, cpu = perf_counter(), process_time()
    for values in given:
        code.row(values)
    return {
        "clock_us": (perf_counter() - wall) / len(given) * 1e6,
        "cpu_us": (process_time() - cpu) / len(given) * 1e6,
    }


def measured_wide(code: RuleCode, events: list[dict[str, Any]]) -> dict[str, float]:
    """The same, from events as the peers get them."""
    wall, cpu = perf_counter(), process_time()
    for event in events:
        code.row([event[name] for name in code.inputs])
    return {
        "clock_us": (perf_counter() - wall) / len(events) * 1e6,
        "cpu_us": (process_time() - cpu) / len(events) * 1e6,
    }


# Beside other engines.


def _peers(options: Namespace) -> None:
    python = ROOT / ".venv-peers" / "bin" / "python"
    if not python.exists():
        print(f"The peers are left out: {python.parent.parent.name} is missing.\n")
        return
    rules = make_rules(NUM_RULES)
    frame = make_frame(2_000)
    code = compiled(rules)
    given = values_of(code, frame)
    events = _wide_events(frame)
    found = [code.row(values) for values in given]
    expected = [hits.rules for hits in found]
    num_wrong = _against_oracle(rules, frame, expected)
    child = subprocess.Popen(
        [str(python), str(ROOT / "benchmarks" / "rules_peers.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    progress("the peers compile and answer")
    compared = 1_000
    first = _ask(child, {"rules": rules, "events": events, "compared": compared})
    num_missing = sum(None in row for row in frame.head(compared).iter_rows())
    differing = {
        name: sum(
            hits.rules != rules or leaves not in ("", hits.leaves)
            for hits, (rules, leaves) in zip(found, answers, strict=False)
        )
        for name, answers in first["hits"].items()
    }
    ours, theirs = _rounds(options.rounds, child, code, given, events)
    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    share = sum(map(len, expected)) / len(expected) / NUM_RULES
    print(
        f"{NUM_RULES} rules over an event, {share:.0%} of them true, {len(code.leaves)} different "
        f"leaves. Of {JUDGED} events {num_wrong} differ from the oracle. Peers: "
        + ", ".join(f"{name} {version}" for name, version in first["versions"].items())
        + f". Compared on {compared:,} events, of which {num_missing} lack a value. "
        "`With leaves` gives the truth of each leaf beside the rules, which peers do only where it "
        "is asked of them as so many more expressions. The ratio is of processor time, and each is "
        "measured in turn in each round. `six fields`: peers get a dictionary of what the rules "
        "read, ours a ready list; `36 fields`: all get the dictionary of the event.\n"
    )
    _peer_table(ours, theirs, differing)
    if num_wrong or any(differing.values()):
        sys.exit("answers differ: the times above compare different things")


def _wide_events(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Events of 36 fields, of which the rules read six."""
    rng = np.random.default_rng(2)
    return [
        row
        | {f"number_{k}": float(value) for k, value in enumerate(rng.random(15).round(4))}
        | {f"text_{k}": f"value-{value}" for k, value in enumerate(rng.integers(999, size=10))}
        | {f"truth_{k}": bool(value) for k, value in enumerate(rng.integers(2, size=5))}
        for row in frame.iter_rows(named=True)
    ]


def _against_oracle(rules: list[Rule], frame: pl.DataFrame, expected: list[list[int]]) -> int:
    texts = [text_of(rule) for rule in rules]
    checked = list(frame.head(JUDGED).iter_rows(named=True))
    return sum(
        [place for place, text in enumerate(texts) if evaluate(text, row) is True] != hits
        for row, hits in zip(checked, expected, strict=False)
    )


def _ask(child: subprocess.Popen[str], question: Any) -> Any:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(question) + "\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        sys.exit(f"the peers ended with status {child.wait()}")
    return json.loads(answer)


Times = dict[str, dict[str, list[float]]]
"""Fields given ("narrow" or "wide"), then "clock_us" or "cpu_us"."""


def _rounds(
    count: int,
    child: subprocess.Popen[str],
    code: RuleCode,
    given: list[list[Any]],
    events: list[dict[str, Any]],
) -> tuple[Times, dict[str, Times]]:
    def none() -> Times:
        return {given: {"clock_us": [], "cpu_us": []} for given in ("narrow", "wide")}

    ours, theirs = none(), dict[str, Times]()
    measured(code, given)
    _ask(child, "warm")
    for turn in range(count):
        progress(f"round {turn + 1} of {count}")
        _keep(ours["narrow"], measured(code, given * 10))
        _keep(ours["wide"], measured_wide(code, events * 10))
        for name, both in _ask(child, "again").items():
            for fields, times in both.items():
                _keep(theirs.setdefault(name, none())[fields], times)
    return ours, theirs


def _keep(kept: dict[str, list[float]], times: dict[str, float]) -> None:
    for name, value in times.items():
        kept[name].append(value)


def _peer_table(ours: Times, theirs: dict[str, Times], differing: dict[str, int]) -> None:
    head = [
        "engine", "six fields, us an event (clock)", "rule evaluations/s", "theirs / ours",
        "36 fields, us an event (clock)", "theirs / ours", "events that differ",
    ]  # fmt: skip
    cells = []
    for name, times in {"chopmark, with leaves": ours, **theirs}.items():
        row: list[object] = [name]
        for fields in ("narrow", "wide"):
            cpu, clock = runs(times[fields]["cpu_us"]), runs(times[fields]["clock_us"])
            row.append(f"{cpu.text()} ({number(clock.median)})")
            if fields == "narrow":
                row.append(f"{number(NUM_RULES / cpu.median)} M")
            row.append(ratio(runs(ours[fields]["cpu_us"]), cpu).text(unit="x"))
        cells.append([*row, differing.get(name, "")])
    table(head, cells)
    cpu, clock = (runs(ours["narrow"][name]) for name in ("cpu_us", "clock_us"))
    said = [
        f"{number(rate / 1e6)} M by the {what} ({goal(rate, GOAL_EVALUATIONS, least=True)})"
        for what, rate in (
            ("processor", NUM_RULES / cpu.median * 1e6),
            ("clock", NUM_RULES / clock.median * 1e6),
        )
    ]
    print(
        f"Goal of {number(GOAL_EVALUATIONS / 1e6)} M rule evaluations/s, leaves and all: "
        f"{', '.join(said)}.\n"
    )


# Ours alone.


def _scale(options: Namespace) -> None:
    head = ["what", "clock", "processor", "rate", "goal"]
    table(head, [_many(options), _swap(options), *_backtest(options)])
    _same(100_000)


def _many(options: Namespace) -> list[object]:
    progress(f"{MANY} rules over an event")
    code = compiled(make_rules(MANY))
    given = values_of(code, make_frame(1_000))
    measured(code, given)
    found = [measured(code, given) for _ in range(options.rounds)]
    clock, cpu = (runs([one[name] for one in found]) for name in ("clock_us", "cpu_us"))
    rate = f"{number(MANY / cpu.median)} M rule evaluations/s"
    verdict = f"<= {GOAL_MANY_US:.0f} us: {goal(cpu.median, GOAL_MANY_US)}"
    what = f"{MANY:,} rules over an event ({len(code.leaves):,} leaves)"
    return [what, clock.text(unit=" us"), cpu.text(unit=" us"), rate, verdict]


class Payment(Event):
    """What the rules of the book read, save the score."""

    user: Annotated[str, Entity("user")]
    amount: float
    age: float
    country: str
    velocity: float
    id_verified: bool


def _swap(options: Namespace) -> list[object]:
    progress(f"a book of {MANY} rules")
    schema = Schema(Payment, Decision, *ORDERS)
    book = RuleBook(Language(Catalog(schema, Derived("amount"))), Codes(b"rules"))
    for place, rule in enumerate(make_rules(MANY)):
        _enact(book, f"rule_{place}", 1, text_of(rule))
    at = instant(EPOCH + timedelta(days=1))
    values = dict(next(make_frame(1).iter_rows(named=True)))
    clocks, cpus = [], []
    for turn in range(options.rounds + 1):
        version = turn + 2
        rule = make_rules(MANY, seed=version)[0]
        wall, cpu = perf_counter(), process_time()
        _enact(book, "rule_0", version, text_of(rule))
        book.rule_on(
            [values[name] for name in book.inputs], event_type="payment", user="ann", at=at
        )
        clocks.append(perf_counter() - wall)
        cpus.append(process_time() - cpu)
    clock, cpu = (runs([value * 1e3 for value in times[1:]]) for times in (clocks, cpus))
    return [
        f"a book of {MANY:,} rules: one is drafted, reviewed and activated, until it has answered",
        clock.text(unit=" ms"), cpu.text(unit=" ms"), "",
        f"<= {GOAL_SWAP_SECONDS} s: {goal(clock.median / 1e3, GOAL_SWAP_SECONDS)}",
    ]  # fmt: skip


def _enact(book: RuleBook, name: str, version: int, text: str) -> None:
    """A rule that acts, checked at each step as the engine does."""
    common = {"happened_at": EPOCH, "rule": name, "version": version}
    effects = effects_text(Effects(limit_at_most_usd=100.0))
    for order in (
        RuleDrafted(
            id="d", when=text, effects=effects, because="measured", author="ann", **common
        ),
        RuleReviewed(id="r", approved=True, author="bob", **common),
        RuleStaged(id="s", stage="active", moves=0.01, author="ann", **common),
    ):  # fmt: skip
        book.check(order)
        book.apply(order)


def _backtest(options: Namespace) -> list[list[object]]:
    frame = make_frame(options.rows)
    code = compiled(make_rules(NUM_RULES))
    hits_of(code, frame.head(10_000), threads=2)
    found: dict[int, tuple[list[float], list[float]]] = {1: ([], []), 2: ([], [])}
    for turn in range(options.rounds):
        progress(f"backtest, round {turn + 1} of {options.rounds}")
        for threads, (clocks, cpus) in found.items():
            wall, cpu = perf_counter(), process_time()
            hits_of(code, frame, threads=threads)
            clocks.append(perf_counter() - wall)
            cpus.append(process_time() - cpu)
    return [_backtest_row(options.rows, threads, *times) for threads, times in found.items()]


def _backtest_row(
    size: int, threads: int, clocks: list[float], cpus: list[float]
) -> list[object]:  # fmt: skip
    clock: Runs = runs(clocks)
    rate = size / clock.median
    return [
        f"{NUM_RULES} rules over {size:,} rows, {threads} thread{'s' * (threads > 1)}",
        clock.text(unit=" s"), runs(cpus).text(unit=" s"), f"{number(rate / 1e6)} M rows/s",
        f">= {GOAL_ROWS / 1e6} M rows/s on 2: {goal(rate, GOAL_ROWS, least=True)}"
        if threads == 2 else "",
    ]  # fmt: skip


def _same(size: int) -> None:
    frame = make_frame(size, seed=3)
    code = compiled(make_rules(NUM_RULES))
    whole = hits_of(code, frame, threads=2)
    rows = values_of(code, frame)
    differing = sum(
        code.row(values).rules != np.flatnonzero(hits).tolist()
        for values, hits in zip(rows, whole, strict=True)
    )
    num_missing = sum(None in values for values in rows)
    print(
        f"Row by row and by columns: {differing} of {size:,} rows differ (goal 0: "
        f"{goal(differing, 0)}); {num_missing:,} of them lack a value.\n"
    )


# Under attack.


def _fuzz(options: Namespace) -> None:
    # The texts and the judge are those of the tests, which hand a part of them to the language.
    sys.path.append(str(ROOT))
    from tests.rules.rule_texts import Found, fuzz, texts

    fuzz(islice(texts(options.seed), 500), seed=0)
    gc.collect()
    gc.freeze()  # as the service does before it answers
    whole, source = Found(), texts(options.seed)
    began, cpu, left = perf_counter(), process_time(), options.count
    while left:
        part = fuzz(islice(source, min(left, 50_000)), seed=options.seed + left)
        left -= min(left, 50_000)
        whole.accepted += part.accepted
        whole.refused += part.refused
        whole.judged += part.judged
        whole.wrong += part.wrong
        if part.slowest_seconds > whole.slowest_seconds:
            whole.slowest_seconds, whole.slowest = part.slowest_seconds, part.slowest
        progress(f"{options.count - left:,} texts in {perf_counter() - began:.0f} s")
    seconds = process_time() - cpu
    table(
        ["texts", "accepted", "refused", "other errors or truths", "truths held to the oracle",
         "slowest check", "processor"],
        [[
            f"{options.count:,}", f"{whole.accepted:,}", f"{whole.refused:,}",
            f"{len(whole.wrong):,}", f"{whole.judged:,}",
            f"{number(whole.slowest_seconds * 1e3)} ms", f"{seconds:.0f} s",
        ]],
    )  # fmt: skip
    print(f"The slowest was `{whole.slowest!a}`.\n")
    for text, what in whole.wrong[:20]:
        print(f"- `{text!a}`: {what!a}")


if __name__ == "__main__":
    main()
