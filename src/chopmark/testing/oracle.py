"""A slow and obvious second opinion on every feature: plain loops over plain lists.

Nothing here is shared with the kernel: expressions are evaluated by walking their tree with
Python's numbers and None for missing, aggregates by filtering the whole past for each
event. Use it to judge `chopmark.features`, never to serve.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any

from chopmark.events.event import Event
from chopmark.events.schema import Schema, type_name
from chopmark.features.aggregate import Aggregate, LabelRate
from chopmark.features.catalog import Catalog, Feature
from chopmark.features.columns import known_instant
from chopmark.features.derived import Derived, Similarity
from chopmark.features.feature import EVERYONE
from chopmark.features.lookup import Lookup
from chopmark.features.sequence import EventList
from chopmark.features.sequence import Sequence as EventSequence
from chopmark.times import duration, instant


class Micros(float):
    """A time, in microseconds; the difference of two is a number of seconds."""


Raw = float | str | bool | None


def evaluate(text: str, values: Mapping[str, Raw]) -> Raw:
    """The value of an expression; times are given as microseconds under names in `values`."""
    return _walk(ast.parse(text.strip(), mode="eval").body, values)


class Oracle:
    """Features of each event of a log, computed from the whole past each time: O(n) an event.

    Parameters
    ----------
    catalog : Catalog
    events : sequence of Event
        In the order of the log, with ``known_at`` set.
    """

    def __init__(self, catalog: Catalog, events: Sequence[Event]) -> None:
        self.catalog = catalog
        self.schema: Schema = catalog.schema
        self.events = events
        self.by_name: dict[str, Feature] = {
            part.name: part
            for feature in catalog.features
            for part in (*getattr(feature, "parts", ()), feature)
        }

    def value(self, name: str, position: int) -> Raw | EventList:
        """The value of a feature, or of a field, of the event at a position, before it."""
        feature = self.by_name.get(name)
        if isinstance(feature, EventSequence):
            return self._sequence(feature, position)
        return self._plain(name, feature, position)

    def _plain(self, name: str, feature: Feature | None, position: int) -> Raw:
        event = self.events[position]
        if isinstance(feature, Derived) and feature.text.strip() == name:
            feature = None
        if feature is None:
            if name == "as_of":
                return Micros(known_instant(event))
            return _raw(event, name)
        if isinstance(feature, Derived):
            tree = ast.parse(feature.text.strip(), mode="eval")
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            functions = {"missing", "coalesce", *_FUNCTIONS}
            return evaluate(
                feature.text,
                {
                    name: self._plain(name, self.by_name.get(name), position)
                    for name in names - functions
                },
            )
        if isinstance(feature, Similarity):
            left, right = (
                self._plain(name, self.by_name.get(name), position)
                for name in (feature.left, feature.right)
            )
            if left is None or right is None:
                return None
            return feature(str(left), str(right))
        if isinstance(feature, LabelRate):
            return self._label_rate(feature, position)
        if isinstance(feature, Lookup):
            feature = Aggregate(feature.event, "last", by=feature.by, of=feature.of)
        assert isinstance(feature, Aggregate)
        return self._aggregate(feature, position)

    def _entity(self, event: Event, by: str) -> str | None:
        if by == EVERYONE:
            return EVERYONE
        names = self.schema.fields_of[type_name(event)]
        kind = self.schema.fields[by].entity
        alike = [name for name in names if self.schema.fields[name].entity == kind]
        source = by if by in names else next(iter(alike), None)
        return getattr(event, source) if source is not None else None

    def _aggregate(self, feature: Aggregate, position: int) -> Raw:
        event = self.events[position]
        entity = self._entity(event, feature.by)
        if entity is None:
            return None
        as_of = known_instant(event)
        past = [
            (when, order, _raw(earlier, feature.of) if feature.of else None)
            for when, order, earlier in self._past(feature, entity, position)
        ]
        if feature.op == "count":
            return float(len(past))
        if feature.op == "seconds_since_last":
            return (as_of - past[-1][0]) / 1e6 if past else None
        if feature.op == "seconds_since_first":
            return (as_of - past[0][0]) / 1e6 if past else None
        known = [value for _, _, value in past if value is not None]
        if feature.op == "distinct":
            return float(len(set(known)))
        if feature.op == "last":
            if feature.window is None:
                return known[-1] if known else None
            return past[-1][2] if past else None
        return self._statistic(feature, known)

    def _sequence(self, feature: EventSequence, position: int) -> EventList | None:
        event = self.events[position]
        entity = self._entity(event, feature.by)
        if entity is None:
            return None
        listed: EventList = []
        for when, _, earlier in self._past(feature, entity, position)[-feature.last :]:
            one: dict[str, int | float | str] = {"type": type_name(earlier)}
            one["age"] = known_instant(event) - when
            for name in feature.fields:
                value = _raw(earlier, name)
                if value is not None:
                    one[name] = value if isinstance(value, str) else float(value)
            listed.append(one)
        return listed

    def _past(
        self, feature: Aggregate | EventSequence, entity: str, position: int
    ) -> list[tuple[int, int, Event]]:
        """Instant, place in the log and event of all that a feature is over, in order."""
        as_of = known_instant(self.events[position])
        cut = as_of - duration(feature.window) if feature.window else -math.inf
        past = []
        for order, earlier in enumerate(self.events[:position]):
            if type_name(earlier) not in feature.events:
                continue
            if feature.by != EVERYONE and getattr(earlier, feature.by) != entity:
                continue
            when = min(instant(earlier.happened_at), known_instant(earlier))
            if when > cut and self._holds(feature.where, earlier):
                past.append((when, order, earlier))
        return sorted(past, key=lambda entry: entry[:2])

    def _statistic(self, feature: Aggregate, known: Sequence[Raw]) -> Raw:
        """A sum or a moment, exactly, over whole steps."""
        decimals = self.schema.fields[feature.of or ""].decimals
        steps = [Fraction(round(float(value or 0) * 10.0**decimals)) for value in known]
        scale = Fraction(10**decimals)
        if feature.op == "sum":
            return float(sum(steps, Fraction(0)) / scale)
        if not steps:
            return None
        if feature.op in ("min", "max"):
            return float((min if feature.op == "min" else max)(steps) / scale)
        mean = sum(steps, Fraction(0)) / len(steps)
        if feature.op == "mean":
            return float(mean / scale)
        variance = sum(((step - mean) ** 2 for step in steps), Fraction(0)) / len(steps)
        return math.sqrt(variance / scale**2)

    def _label_rate(self, feature: LabelRate, position: int) -> Raw:
        event = self.events[position]
        attribute = self._entity(event, feature.of)
        if attribute is None:
            return None
        cut = known_instant(event) - duration(feature.delay)
        first_seen: dict[str, int] = {}
        bad: set[str] = set()
        for earlier in self.events[:position]:
            name = type_name(earlier)
            if name in feature.events and getattr(earlier, feature.of) == attribute:
                holder = getattr(earlier, feature.holder)
                if holder is not None:
                    first_seen.setdefault(holder, known_instant(earlier))
            if name in feature.labels and self._holds(feature.where, earlier):
                labelled = getattr(earlier, feature.holder)
                if labelled is not None:
                    bad.add(labelled)
        num_bad = len(bad & set(first_seen))
        num_good = sum(when <= cut for holder, when in first_seen.items() if holder not in bad)
        return num_bad / (num_bad + num_good) if num_bad + num_good else None

    def _holds(self, where: str | None, event: Event) -> bool:
        if where is None:
            return True
        return evaluate(where, {name: _raw(event, name) for name in self.schema.fields}) is True


def _raw(event: Event, name: str) -> Raw:
    """A field as the language sees it: None if the event has none, times in microseconds."""
    value: Raw | datetime = getattr(event, name, None)
    return Micros(instant(value)) if isinstance(value, datetime) else value


def _division(a: float, b: float) -> float | None:
    return a / b if b else None


def _modulo(a: float, b: float) -> float | None:
    return a - math.floor(a / b) * b if b and math.isfinite(a / b) else None


_BINARY: dict[type[ast.operator], Callable[[float, float], float | None]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _division,
    ast.Mod: _modulo,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., float | None]] = {
    "abs": abs,
    "log": lambda x: math.log(x) if x > 0 else None,
    "log1p": lambda x: math.log1p(x) if x > -1 else None,
    "exp": lambda x: math.exp(x) if x < 709 else None,
    "sqrt": lambda x: math.sqrt(x) if x >= 0 else None,
    "floor": math.floor,
    "min": min,
    "max": max,
    "hour": lambda t: math.floor(t / 3.6e9) % 24,
    "weekday": lambda t: (math.floor(t / 8.64e10) + 3) % 7,
}


def _walk(node: ast.expr, values: Mapping[str, Raw]) -> Raw:
    match node:
        case ast.Constant(value=value):
            return value  # type: ignore[return-value]
        case ast.Name(id=name):
            return values[name]
        case ast.BoolOp(op=op, values=parts):
            results = [_walk(part, values) for part in parts]
            decisive = isinstance(op, ast.Or)
            if any(result is decisive for result in results):
                return decisive
            return None if None in results else not decisive
        case ast.UnaryOp(op=op, operand=operand):
            value = _walk(operand, values)
            if value is None:
                return None
            return (not value) if isinstance(op, ast.Not) else -float(value)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition = _walk(test, values)
            return None if condition is None else _walk(body if condition else orelse, values)
        case ast.Compare(left=left, ops=ops, comparators=rights):
            result: Raw = True
            for comparison, right in zip(ops, rights, strict=True):
                step = _compare(comparison, _walk(left, values), right, values)
                if step is False or result is False:
                    result = False
                elif step is None or result is None:
                    result = None
                left = right
            return result
        case ast.BinOp(op=op, left=left, right=right):
            a, b = _walk(left, values), _walk(right, values)
            if a is None or b is None:
                return None
            if isinstance(a, Micros) and isinstance(b, Micros):
                return float(a - b) / 1e6
            outcome = _BINARY[type(op)](float(a), float(b))
            return outcome if outcome is not None and math.isfinite(outcome) else None
        case ast.Call(func=ast.Name(id="missing"), args=[argument]):
            return _walk(argument, values) is None
        case ast.Call(func=ast.Name(id="coalesce"), args=[first, second]):
            value = _walk(first, values)
            return _walk(second, values) if value is None else value
        case ast.Call(func=ast.Name(id=name), args=arguments):
            given = [_walk(argument, values) for argument in arguments]
            return None if None in given else _FUNCTIONS[name](*given)
    raise ValueError(f"the oracle does not know {ast.dump(node)}")


def _compare(op: ast.cmpop, left: Raw, right: ast.expr, values: Mapping[str, Raw]) -> Raw:
    if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.Tuple | ast.List | ast.Set):
        if left is None:
            return None
        found = left in [_walk(member, values) for member in right.elts]
        return found if isinstance(op, ast.In) else not found
    other = _walk(right, values)
    if left is None or other is None:
        return None
    return _COMPARE[type(op)](left, other)
