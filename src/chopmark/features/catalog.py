"""The catalog: all features of an application, checked, hashed and compiled together.

A feature's hash covers its declaration, the declarations of the fields that it reads and
the hashes of the features that it reads. A trained model keeps the hashes of its columns,
and serving refuses a catalog that would compute something else under the same name.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Literal

from chopmark.codes import Codes
from chopmark.errors import FeatureError, InvalidExpression, did_you_mean
from chopmark.events.schema import Schema
from chopmark.expressions import Expression, Kind, Program, compile_program, parse
from chopmark.features.aggregate import Aggregate, LabelRate
from chopmark.features.chains import Layout, lay_out
from chopmark.features.derived import Derived, Similarity
from chopmark.features.lookup import Lookup
from chopmark.features.plan import Plan, PlanBuilder, check_fields
from chopmark.features.sequence import Sequence

Feature = Aggregate | Lookup | LabelRate | Derived | Similarity | Sequence
"""Any declaration; each has a computed `name` and `describe()`, all that its value depends on."""

TIMES = ("as_of", "happened_at")
"""Columns before those of the fields; expressions may read them as times."""


@dataclass(frozen=True, slots=True)
class Output:
    """One column that the catalog gives.

    Attributes
    ----------
    row : int
        Its row in the matrix of columns.
    kind : {"number", "boolean", "text", "time", "sequence"}
        Booleans are given as 0 and 1, times as microseconds, texts as texts, sequences as lists
        of events; these have an empty row.
    text_field : str or None
        For a text taken from the event at hand: its field.
    """

    name: str
    row: int
    kind: Kind | Literal["sequence"]
    text_field: str | None = None


class Catalog:
    """The features of an application.

    Parameters
    ----------
    schema : Schema
        Whose events they read.
    features : Feature
        In any order; `FeatureError` if one is declared twice, reads what does not exist, or
        reads itself in a circle.

    Attributes
    ----------
    outputs : tuple of Output
        One for each declared feature, in the order of declaration; texts that are personal
        data (a name, an address) are none, and can only be compared by `Similarity`.
    kinds : dict of str to kind
        Of all that an expression may read; sequences are not among them.
    sequences : dict of str to Layout
    hashes : dict of str to str
        Of each output.
    hash : str
        Of all together.
    """

    def __init__(self, schema: Schema, *features: Feature) -> None:
        self.schema = schema
        self.features = features
        self.num_fields = len(schema.fields)
        self.row_of: dict[str, int] = {name: row for row, name in enumerate(TIMES)}
        self.kinds: dict[str, Kind] = dict.fromkeys(TIMES, "time")
        for name, field in schema.fields.items():
            self.row_of[name] = len(self.row_of)
            self.kinds[name] = field.kind
        self.entity_rows = {
            name: row
            for row, name in enumerate(
                name for name, field in schema.fields.items() if field.entity is not None
            )
        }
        self.conditions: dict[str, tuple[Expression, int]] = {}
        self.similarities: list[tuple[Similarity, int]] = []
        self.expressions: list[tuple[Expression, int]] = []
        self.text_lookups: dict[int, str] = {}
        self.sequences: dict[str, Layout] = {}
        self.num_columns = len(self.row_of)
        self._hash_of: dict[str, str] = {}
        self._conditions_on: dict[str, Kind] = dict(self.kinds)
        self._stored: dict[str, int] = {}
        self._alias_of: dict[str, str] = {}
        self._builder = PlanBuilder(
            schema, {name: self.row_of[name] for name in schema.fields}, self.entity_rows
        )
        self._add_all(features)
        self.outputs = tuple(
            self._output(feature) for feature in features if not self._is_personal(feature)
        )
        self.names = tuple(output.name for output in self.outputs)
        self.hashes = {name: self._hash_of[name] for name in self.names}
        # Hidden features take part: they shape the state that a snapshot holds.
        parts = (schema.hash, list(self._hash_of.items()), list(self.hashes.items()))
        self.hash = sha256(repr(parts).encode()).hexdigest()

    @cached_property
    def plan(self) -> Plan:
        """The tables for the kernel."""
        return self._builder.build()

    @cached_property
    def read_fields(self) -> frozenset[str]:
        """Fields whose values any feature depends on; the fold leaves out all others."""
        read = {name for expression, _ in self.conditions.values() for name in expression.reads}
        read |= {name for expression, _ in self.expressions for name in expression.reads}
        read |= set(self._alias_of.values()) | {output.name for output in self.outputs}
        parts = [*self.features, *(part for one in self.features for part in _parts(one))]
        for feature in parts:
            if isinstance(feature, Aggregate | Lookup | LabelRate):
                by = feature.holder if isinstance(feature, LabelRate) else feature.by
                read |= {by, feature.of or ""}
            if isinstance(feature, Sequence):
                read |= {feature.by, *feature.fields}
        kinds = {field.entity for name, field in self.schema.fields.items() if name in read}
        alike = {
            name for name, field in self.schema.fields.items() if field.entity in kinds - {None}
        }
        return frozenset((read | alike) & set(self.schema.fields))

    @cached_property
    def event_types(self) -> frozenset[str]:
        """Event types that change the value of any feature."""
        types: set[str] = set()
        for feature in (*self.features, *(part for one in self.features for part in _parts(one))):
            if isinstance(feature, Aggregate | LabelRate | Sequence):
                types |= set(feature.events)
            if isinstance(feature, LabelRate):
                types |= set(feature.labels)
            if isinstance(feature, Lookup):
                types.add(feature.event)
        return frozenset(types)

    @cached_property
    def kept_texts(self) -> frozenset[str]:
        """Text fields whose values the state holds, so that the fold must know their texts."""
        listed = {
            name
            for layout in self.sequences.values()
            for name, is_text in zip(layout.feature.fields, layout.texts, strict=True)
            if is_text
        }
        return frozenset(self.text_lookups.values()) | listed

    def programs(self, codes: Codes) -> tuple[Program, Program]:
        """Programs of the conditions and of the derived features, for these codes."""
        return (
            compile_program(list(self.conditions.values()), self.row_of, codes),
            compile_program(self.expressions, self.row_of, codes),
        )

    def parse(self, text: str) -> Expression:
        """The checked expression of a text over all features, hidden ones too, and fields.

        Not over sequences: a list of events is no value of the language.
        """
        return parse(text, self.kinds)

    def _add_all(self, features: tuple[Feature, ...]) -> None:
        derived: list[Derived] = []
        similar: list[Similarity] = []
        seen: set[str] = set()
        for feature in features:
            if feature.name in seen:
                raise FeatureError(f"feature `{feature.name}` is declared twice; drop one of them")
            seen.add(feature.name)
            if isinstance(feature, Derived):
                derived.append(feature)
            elif isinstance(feature, Similarity):
                similar.append(feature)
            elif isinstance(feature, Sequence):
                self._add_sequence(feature)
            else:
                self._add_stateful(feature)
        for share in derived:
            for part in share.parts:
                if part.name not in self._stored:
                    self._add_stateful(part)
        for similarity in similar:
            self._add_similarity(similarity)
        self._add_derived(derived)

    def _add_stateful(self, feature: Aggregate | Lookup | LabelRate) -> None:
        check_fields(self.schema, feature)
        row = self._new_row(feature)
        condition = -1
        if not isinstance(feature, Lookup) and feature.where is not None:
            condition = self._condition(feature)
        if isinstance(feature, Aggregate):
            self._builder.add_aggregate(feature, row, condition)
        elif isinstance(feature, Lookup):
            self._builder.add_lookup(feature, row)
        else:
            self._builder.add_rate(feature, row, condition)
        taken = feature.of if isinstance(feature, Lookup) else None
        if isinstance(feature, Aggregate) and feature.op == "last":
            taken = feature.of
        kind: Kind = self.schema.fields[taken].kind if taken else "number"
        if kind == "text":
            self.text_lookups[row] = taken or ""
        self.kinds[feature.name] = kind
        by = feature.holder if isinstance(feature, LabelRate) else feature.by
        fields = sorted({feature.of or "", by} & set(self.schema.fields))
        read = [repr(self.schema.fields[name]) for name in fields]
        if condition >= 0:
            where = self.conditions[feature.where or ""][0]  # type: ignore[union-attr]
            read += [repr(self.schema.fields.get(name)) for name in where.reads]
        self._hash_of[feature.name] = _hash(feature, read)

    def _add_sequence(self, feature: Sequence) -> None:
        check_fields(self.schema, feature)
        condition = -1 if feature.where is None else self._condition(feature)
        self._new_row(feature)
        self.sequences[feature.name] = lay_out(
            self.schema,
            feature,
            field_rows=self.row_of,
            entity_rows=self.entity_rows,
            condition=condition,
        )
        read = [repr(self.schema.fields.get(name)) for name in (*feature.fields, feature.by)]
        if feature.where is not None:
            where = self.conditions[feature.where][0]
            read += [repr(self.schema.fields.get(name)) for name in where.reads]
        self._hash_of[feature.name] = _hash(feature, read)

    def _add_similarity(self, feature: Similarity) -> None:
        for name in (feature.left, feature.right):
            if name in self.sequences:
                raise FeatureError(f"feature `{feature.name}` wants texts, but {_no_value(name)}")
            if name not in self.kinds:
                raise FeatureError(
                    f"feature `{feature.name}` reads `{name}`, which is neither a field nor a "
                    "lookup" + did_you_mean(name, self.kinds)
                )
            if self.kinds[name] != "text":
                raise FeatureError(
                    f"feature `{feature.name}` wants texts, but `{name}` is a {self.kinds[name]}"
                )
        self.similarities.append((feature, self._new_row(feature)))
        self.kinds[feature.name] = "number"
        read = [self._meaning(name) for name in (feature.left, feature.right)]
        self._hash_of[feature.name] = _hash(feature, read)

    def _add_derived(self, waiting: list[Derived]) -> None:
        """Add derived features in an order in which each finds what it reads."""
        labels = {feature.name for feature in waiting}
        while waiting:
            later: list[Derived] = []
            for feature in waiting:
                if feature.name in self.kinds and feature.text.strip() == feature.name:
                    self._hash_of.setdefault(
                        feature.name, _hash(feature, [self._meaning(feature.name)])
                    )
                    continue  # a bare name: the field or feature as it is
                if feature.name in self.kinds:
                    raise FeatureError(
                        f"derived feature `{feature.name}` has the name of a field or feature; "
                        "give it another alias"
                    )
                try:
                    expression = parse(feature.text, self.kinds)
                except InvalidExpression as error:
                    for name in self.sequences:
                        if str(error).startswith(f"unknown name `{name}`"):
                            raise FeatureError(
                                f"derived feature `{feature.name}`: {_no_value(name)}"
                            ) from error
                    reads = {name for name in labels if name in feature.text}
                    if reads - {feature.name} - set(self.kinds):
                        later.append(feature)
                        continue
                    raise FeatureError(f"derived feature `{feature.name}`: {error}") from error
                if expression.kind == "text" and expression.text not in self.row_of:
                    raise FeatureError(
                        f"derived feature `{feature.name}` is a text made by an expression; "
                        "only a bare name may give a text"
                    )
                if expression.text in self.row_of:
                    self._alias_of[feature.name] = expression.text
                self.expressions.append((expression, self._new_row(feature)))
                self.kinds[feature.name] = expression.kind
                read = [self._meaning(name) for name in expression.reads]
                self._hash_of[feature.name] = _hash(feature, read)
            if len(later) == len(waiting):
                circle = ", ".join(f"`{feature.name}`" for feature in later)
                raise FeatureError(f"derived features read each other in a circle: {circle}")
            waiting = later

    def _meaning(self, name: str) -> str:
        """What a hash says of a name that a feature reads."""
        return self._hash_of.get(name) or f"{name}: {self.kinds[name]}"

    def _condition(self, feature: Aggregate | LabelRate | Sequence) -> int:
        text = feature.where or ""
        if text not in self.conditions:
            try:
                expression = parse(text, self._conditions_on)
            except InvalidExpression as error:
                raise FeatureError(f"condition of feature `{feature.name}`: {error}") from error
            if expression.kind != "boolean":
                raise FeatureError(
                    f"condition of feature `{feature.name}` is a {expression.kind}; expected a "
                    "boolean"
                )
            self.conditions[text] = (expression, self.num_columns)
            self.num_columns += 1
        return self.conditions[text][1]

    def _new_row(self, feature: Feature) -> int:
        row = self.num_columns
        if feature.name in self.schema.fields:
            raise FeatureError(f"feature `{feature.name}` has the name of a field")
        self.row_of[feature.name] = row
        self._stored[feature.name] = row
        self.num_columns += 1
        return row

    def _is_personal(self, feature: Feature) -> bool:
        row = self._output(feature).row
        name = self.text_lookups.get(row)
        if name is None:
            name = next((known for known, place in self.row_of.items() if place == row), "")
        field = self.schema.fields.get(name)
        return field is not None and field.kind == "text" and field.personal

    def _output(self, feature: Feature) -> Output:
        if isinstance(feature, Sequence):
            return Output(feature.name, self.row_of[feature.name], "sequence")
        name = source = feature.name
        while source in self._alias_of:
            source = self._alias_of[source]
        kind = self.kinds[name]
        text_field = source if kind == "text" and source in self.schema.fields else None
        return Output(name, self.row_of[source], kind, text_field)


def _no_value(name: str) -> str:
    return (
        f"`{name}` is a sequence, which no expression reads; read an `Aggregate` of the same "
        "events, or the score of a model of sequences"
    )


def _parts(feature: Feature) -> tuple[Aggregate, ...]:
    return feature.parts if isinstance(feature, Derived) else ()


def _hash(feature: Feature, read: list[str]) -> str:
    return sha256(repr((feature.describe(), read)).encode()).hexdigest()
