"""Other rule engines on the rules and events of `benchmarks/rules.py`, which starts this.

Runs with the Python of .venv-peers, where the rivals are, and imports nothing of chopmark. Reads
JSON lines and answers each with one: first rules and events, then what to do with them.

Each engine has the form of the rules that its manual shows and the one in which it is fastest.
A rule is true only where it is known to be true. An engine that fails on null, or takes it for
zero, has a guard before each comparison that needs one, and no other guard: see `zen_text`,
`cel_text` and `json_logic_tree`.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from itertools import cycle, islice
from time import perf_counter, process_time
from typing import Any

import cel
import datalogic_py
import zen
from cel_expr_python import cel as google_cel
from json_logic import jsonLogic

Answer = Callable[[dict[str, Any]], Any]
Rule = dict[str, Any]
"""Thresholds `amount`, `age`, `velocity` and `score`, and the three `countries`."""

READ = ("amount", "age", "country", "velocity", "score", "id_verified")
SECONDS = 0.1
"""Of one measurement: fast engines see the events several times, slow ones a part of them."""


def zen_text(rule: Rule) -> str:
    """zen fails where null is compared by order, and says false of `null in` and `null ==`."""
    return (
        f"(amount != null and amount > {rule['amount']} and age != null and age < {rule['age']} "
        f"and country in {json.dumps(rule['countries'])} "
        f"and velocity != null and velocity >= {rule['velocity']}) "
        f"or (score != null and score > {rule['score']} and id_verified == false)"
    )


def cel_text(rule: Rule) -> str:
    """CEL fails where null is compared by order, and says false of `null in` and `null ==`."""
    return (
        f"(amount != null && amount > {rule['amount']} && age != null && age < {rule['age']} "
        f"&& country in {json.dumps(rule['countries'])} "
        f"&& velocity != null && velocity >= {rule['velocity']}) "
        f"|| (score != null && score > {rule['score']} && id_verified == false)"
    )


def json_logic_tree(rule: Rule, *, guarded: bool) -> dict[str, Any]:
    """JsonLogic as JavaScript has it says that null is below 7: only that needs a guard."""
    amount, age, country, velocity, score, id_verified = ({"var": name} for name in READ)
    young: list[Any] = [{"<": [age, rule["age"]]}]
    if guarded:
        young.insert(0, {"!==": [age, None]})
    first = {
        "and": [
            {">": [amount, rule["amount"]]},
            *young,
            {"in": [country, rule["countries"]]},
            {">=": [velocity, rule["velocity"]]},
        ]
    }
    second = {"and": [{">": [score, rule["score"]]}, {"===": [id_verified, False]}]}
    return {"or": [first, second]}


def leaves_of(rules: list[Rule]) -> list[tuple[str, Any]]:
    """Different leaves of all rules, field and threshold, in the order in which they come."""
    found: dict[str, tuple[str, Any]] = {}
    for rule in rules:
        for name in READ:
            threshold = rule["countries"] if name == "country" else rule.get(name)
            found.setdefault(json.dumps([name, threshold]), (name, threshold))
    return list(found.values())


OPERATORS = {"amount": ">", "age": "<", "country": "in", "velocity": ">=", "score": ">"}


def leaf_text(name: str, threshold: Any, *, null: str = "null") -> str:
    """The truth of a leaf, or what stands for missing, in CEL and in zen."""
    leaf = name if threshold is None else f"{name} {OPERATORS[name]} {json.dumps(threshold)}"
    return f"({name} == null ? {null} : {leaf})"


def leaf_tree(name: str, threshold: Any) -> dict[str, Any]:
    """The truth of a leaf, or null, in JsonLogic."""
    value = {"var": name}
    if name == "id_verified":
        return value
    return {"if": [{"===": [value, None]}, None, {OPERATORS[name]: [value, threshold]}]}


def forms(rules: list[Rule], names: list[str]) -> dict[str, Answer]:
    """Engine and form to a function that answers all rules of an event."""
    return {
        **_zen(rules), **_cel(rules), **_google_cel(rules, names), **_datalogic(rules),
        **_json_logic(rules),
    }  # fmt: skip


def _zen(rules: list[Rule]) -> dict[str, Answer]:
    texts = [zen_text(rule) for rule in rules]
    alone = [zen.compile_expression(text) for text in texts]
    together = zen.compile_expression("[" + ", ".join(texts) + "]")
    leaves = [leaf_text(*leaf) for leaf in leaves_of(rules)]
    more = zen.compile_expression("[" + ", ".join(texts + leaves) + "]")
    names = [f"r{place}" for place in range(len(rules))]
    expressions = [
        {"id": name, "key": name, "value": text} for name, text in zip(names, texts, strict=True)
    ]
    nodes: list[dict[str, Any]] = [
        {"id": "in", "name": "in", "type": "inputNode"},
        {
            "id": "all", "name": "all", "type": "expressionNode",
            "content": {"expressions": expressions},
        },
        {"id": "out", "name": "out", "type": "outputNode"},
    ]  # fmt: skip
    edges = [
        {"id": "1", "sourceId": "in", "targetId": "all"},
        {"id": "2", "sourceId": "all", "targetId": "out"},
    ]
    graph = zen.ZenEngine().create_decision(json.dumps({"nodes": nodes, "edges": edges}))

    def by_graph(event: dict[str, Any]) -> list[bool]:
        result = graph.evaluate(event)["result"]
        return [result[name] for name in names]

    return {
        "zen-engine, an expression a rule": lambda event: [one.evaluate(event) for one in alone],
        "zen-engine, one list": together.evaluate,
        "zen-engine, one list with leaves": more.evaluate,
        "zen-engine, decision graph": by_graph,
    }


def _cel(rules: list[Rule]) -> dict[str, Answer]:
    texts = [cel_text(rule) for rule in rules]
    alone = [cel.compile(text) for text in texts]
    together = cel.compile("[" + ", ".join(texts) + "]")
    leaves = [leaf_text(*leaf) for leaf in leaves_of(rules)]
    more = cel.compile("[" + ", ".join(texts + leaves) + "]")

    def each(event: dict[str, Any]) -> list[bool]:
        context = cel.Context(event)
        return [one.execute(context) for one in alone]

    return {
        "common-expression-language, a program a rule": each,
        "common-expression-language, one list": lambda event: together.execute(cel.Context(event)),
        "common-expression-language, one list with leaves": lambda event: more.execute(
            cel.Context(event)
        ),
    }


def _google_cel(rules: list[Rule], names: list[str]) -> dict[str, Answer]:
    env = google_cel.NewEnv(variables=dict.fromkeys(names, google_cel.Type.DYN))
    texts = [cel_text(rule) for rule in rules]
    alone = [env.compile(text) for text in texts]
    together = env.compile("[" + ", ".join(texts) + "]")
    # Not null: cel-expr-python 0.1.3 drops a reference to None with each null that it returns, and
    # ends the process after some thousands.
    leaves = [leaf_text(*leaf, null="dyn(2)") for leaf in leaves_of(rules)]
    more = env.compile("[" + ", ".join(texts + leaves) + "]")

    def each(event: dict[str, Any]) -> list[bool]:
        activation = env.Activation(event)
        return [one.eval(activation).value() for one in alone]

    def at_once(event: dict[str, Any]) -> Any:
        return together.eval(env.Activation(event)).plain_value()

    def with_leaves(event: dict[str, Any]) -> Any:
        return more.eval(env.Activation(event)).plain_value()

    return {
        "cel-expr-python, a program a rule": each,
        "cel-expr-python, one list": at_once,
        "cel-expr-python, one list with leaves": with_leaves,
    }


def _datalogic(rules: list[Rule]) -> dict[str, Answer]:
    engine = datalogic_py.Engine()
    trees = [json_logic_tree(rule, guarded=True) for rule in rules]
    alone = [engine.compile(tree) for tree in trees]
    together = engine.compile(trees)
    more = engine.compile(trees + [leaf_tree(*leaf) for leaf in leaves_of(rules)])
    session = engine.session()

    def many(event: dict[str, Any]) -> Any:
        return session.evaluate_many(alone, datalogic_py.DataHandle(event))

    return {
        "datalogic-py, a rule each": many,
        "datalogic-py, one list": lambda event: session.evaluate(together, event),
        "datalogic-py, one list with leaves": lambda event: session.evaluate(more, event),
    }


def _json_logic(rules: list[Rule]) -> dict[str, Answer]:
    trees = [json_logic_tree(rule, guarded=False) for rule in rules]
    return {"json-logic-qubit, one list": lambda event: jsonLogic(trees, event)}


def hits(answer: Any, num_rules: int) -> tuple[list[int], str]:
    """Places of the rules that are true, and a letter for each leaf as chopmark has them.

    datalogic's `evaluate_many` answers in JSON.
    """
    rules = [
        place for place, truth in enumerate(answer[:num_rules]) if truth is True or truth == "true"
    ]
    return rules, "".join(LETTERS[truth] for truth in answer[num_rules:])


LETTERS = {True: "1", False: "0", None: "?", 2: "?"}


def measured(answer: Answer, events: list[dict[str, Any]]) -> dict[str, float]:
    """Microseconds an event, of the clock and of the processor."""
    pending, count = cycle(events), 0
    wall, cpu = perf_counter(), process_time()
    while perf_counter() - wall < SECONDS:
        for event in islice(pending, 50):
            answer(event)
        count += 50
    return {
        "clock_us": (perf_counter() - wall) / count * 1e6,
        "cpu_us": (process_time() - cpu) / count * 1e6,
    }


def main() -> None:
    """Answer until the input ends."""
    given = json.loads(sys.stdin.readline())
    wide: list[dict[str, Any]] = given["events"]
    narrow = [{name: event[name] for name in READ} for event in wide]
    engines = forms(given["rules"], list(wide[0]))
    packages = (
        "zen-engine", "common-expression-language", "cel-expr-python", "datalogic-py",
        "json-logic-qubit",
    )  # fmt: skip
    _say(
        {
            "versions": {name: version(name) for name in packages},
            "hits": {
                name: [
                    hits(answer(event), len(given["rules"])) for event in wide[: given["compared"]]
                ]
                for name, answer in engines.items()
            },
        }
    )
    for _ in sys.stdin:
        _say(
            {
                name: {"narrow": measured(answer, narrow), "wide": measured(answer, wide)}
                for name, answer in engines.items()
            }
        )


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
