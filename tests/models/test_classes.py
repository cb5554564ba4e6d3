"""The scorer of several classes: equal in rows and tables, and no other file is taken for one."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from chopmark.errors import ArtifactError, InvalidInput
from chopmark.models import (
    Additive,
    Artifact,
    ArtifactScorer,
    ClassScorer,
    Column,
    Dropped,
    Encoder,
    Term,
    load_scorer,
)
from chopmark.models import artifact as artifacts
from chopmark.models.families import load_any, readings_of

LABELS = ("low", "mid", "high", "none")
AMOUNT = Column(name="amount", kind="number")
COUNTRY = Column(name="country", kind="category", categories=("de",))


def question(place: int, label: Any = None, **header: Any) -> Artifact:
    """A binary model of the amount, of every other class of the country too."""
    terms = [Term(weights=np.array([0.5, -0.5 * place]), edges=np.array([1.0]), missing=0.1)]
    columns, dropped = [AMOUNT], [Dropped(name="country", kind="category", reason="no use")]
    if place % 2:
        terms.append(Term(weights=np.array([0.0, 1.0, -1.0])))
        columns, dropped = [AMOUNT, COUNTRY], []
    additive = Additive.of(terms, bias=-0.3 * place)
    return Artifact(
        family="sum",
        header={
            "encoder": Encoder(columns=columns, dropped=dropped).to_json(),
            "feature_hashes": {},
            "link": "logit",
            "training": {} if label is None else {"class": label},
            **header,
        },
        arrays={
            "calibration": np.empty((0, 2)),
            **{f"linear.{name}": array for name, array in additive.to_arrays().items()},
        },
    )


def several(labels: Any = LABELS, **changed: Any) -> Artifact:
    """The artifact of a model with a question for each label."""
    known = list(labels) if isinstance(labels, tuple) else labels
    parts = {str(place): question(place) for place in range(len(labels))}
    header = {"feature_hashes": {"amount": "ab" * 32}, "training": {"classes": known}}
    return Artifact(
        **{"family": "classes", "header": header, "arrays": {}, "parts": parts} | changed
    )


def scorer_of(artifact: Artifact) -> ClassScorer:
    """The scorer of what a file would hold."""
    return ClassScorer(artifacts.unpack(artifact.pack()))


def test_rows_and_tables_have_the_same_bits() -> None:
    scorer = scorer_of(several())
    assert scorer.reads == ("amount", "country")
    rng = np.random.default_rng(0)
    amounts = [None, 1.0, *rng.normal(1, 2, 500).tolist()]
    table = pl.DataFrame({"country": (["de", None, "fr"] * 200)[:502], "amount": amounts})
    chances = scorer.score(table)
    assert chances.shape == (502, 4)
    assert np.abs(chances.sum(axis=1) - 1.0).max() < 1e-11
    own = [ArtifactScorer(part) for part in scorer.artifact.parts.values()]
    expected = np.column_stack([part.score(table) for part in own])
    assert chances == pytest.approx(expected / expected.sum(axis=1, keepdims=True), abs=1e-11)
    for row, found in zip(table.select(scorer.reads).iter_rows(), chances, strict=True):
        assert np.array_equal(scorer.score_row(row), found)
    assert np.array_equal(scorer.score(table[7:9]), chances[7:9])
    assert scorer.score(table[:0]).shape == (0, 4)


def test_a_row_is_explained_as_its_table_is() -> None:
    scorer = scorer_of(several())
    table = pl.DataFrame({"amount": [0.5, None], "country": ["de", "fr"]})
    for label in LABELS:
        of_table = scorer.explain(table, of=label)
        for place, row in enumerate(table.iter_rows()):
            found = scorer.explain_row(row, of=label)
            assert found.reads == of_table.reads
            assert np.array_equal(found.values[0], of_table.values[place])
            assert found.log_odds()[0] == of_table.log_odds()[place]
    assert scorer.explain_row([0.5, "de"], of="mid").values.tolist() == [[0.5, -1.0]]
    assert scorer.explain_row([0.5, "de"], of="high").reads == ("amount",)


def test_wrong_questions_are_refused() -> None:
    scorer = scorer_of(several())
    with pytest.raises(InvalidInput, match=r"got `hihg`; did you mean `high`"):
        scorer.explain_row([1.0, "de"], of="hihg")
    for ask in (scorer.score_row, lambda values: scorer.explain_row(values, of="low")):
        with pytest.raises(InvalidInput, match="expected 2 values"):
            ask([1.0])


def test_the_scorer_tells_what_all_questions_read(tmp_path) -> None:
    several().save(tmp_path / "model.chopmark")
    scorer = load_any(tmp_path / "model.chopmark")
    assert isinstance(scorer, ClassScorer)
    assert scorer.feature_hashes == {"amount": "ab" * 32}
    kinds, dropped = readings_of(scorer)
    assert kinds == {"amount": "number", "country": "category"}
    assert dropped == (), "what one question leaves out another reads"
    question(0).save(tmp_path / "one.chopmark")
    one = load_any(tmp_path / "one.chopmark")
    assert isinstance(one, ArtifactScorer)
    assert [column.name for column in readings_of(one)[1]] == ["country"]


def test_one_score_a_row_is_not_made_of_several(tmp_path) -> None:
    several().save(tmp_path / "model.chopmark")
    with pytest.raises(ArtifactError, match="one score a row is asked for"):
        load_scorer(tmp_path / "model.chopmark")


def test_one_row_costs_as_much_as_its_questions() -> None:
    scorer = scorer_of(several())
    scorer.warm()
    rows = [[float(place % 7), "de"] for place in range(2_000)]

    def p50(score: Any, rows: list[Any]) -> float:
        taken = []
        for row in rows:
            begin = time.perf_counter()
            score(row)
            taken.append(time.perf_counter() - begin)
        return float(np.median(taken))

    alone = sum(p50(q.score_row, [row[: len(q.reads)] for row in rows]) for q in scorer.questions)
    together = min(p50(scorer.score_row, rows) for _ in range(3))
    assert together < 3 * alone


def broken(place: int, **arrays: Any) -> Artifact:
    part = question(place)
    return replace(part, arrays={**part.arrays, **arrays})


NAN = np.array([[np.nan, 0.0], [1.0, 1.0], [1.0, 1.0]])
FOREIGN = Artifact(family="bucket rates", header={}, arrays={})


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, r"4 classes and other parts .* lacks \['0', '1', '2', '3'\]"),
        ({0: None}, r"lacks \['0'\] and has \[\]"),
        ({3: None, "none": question(3)}, r"lacks \['3'\] and has \['none'\]"),
        ({4: question(4)}, r"lacks \[\] and has \['4'\]"),
        ({"01": question(1)}, r"has \['01'\]"),
        ({1: FOREIGN}, "part `1`, of class `mid`: it holds a model of family `bucket rates`"),
        ({1: several()}, "part `1`, of class `mid`: it holds a model of family `classes`"),
        ({2: question(2, link="identity")}, "part `2`, of class `high`: it gives numbers"),
        ({2: question(2, link="probit")}, "part `2`, of class `high`: the artifact has link"),
        ({2: question(2, encoder={})}, "part `2`, of class `high`: the artifact's encoder"),
        ({2: question(2, encoder=None)}, "part `2`, of class `high`: .* lacks `encoder`"),
        ({2: question(2, training=[])}, "part `2`, of class `high`: .* lacks `training`"),
        ({0: question(0, "mid")}, "part `0`, of class `low`: it learned the class `mid`"),
        ({3: broken(3, calibration=NAN)}, "part `3`, of class `none`: "),
        ({3: broken(3, **{"linear.weights": np.full(5, np.nan)})}, "part `3`, of class `none`: "),
        ({3: broken(3, **{"linear.bias": np.array([np.inf])})}, "part `3`, of class `none`: "),
        ({3: broken(3, **{"linear.weights": np.ones(1)})}, "part `3`, of class `none`: "),
    ],
)  # fmt: skip
def test_parts_that_are_not_the_classes_questions_are_refused(parts: Any, words: str) -> None:
    whole = several()
    changed = {**whole.parts, **{str(name): part for name, part in parts.items()}} if parts else {}
    found = {name: part for name, part in changed.items() if part is not None}
    with pytest.raises(ArtifactError, match=words):
        scorer_of(replace(whole, parts=found))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "has 0 classes; expected three or more"),
        (["low", "high"], "has 2 classes"),
        (None, "has no list of classes"),
        ({"low": 0, "mid": 1, "high": 2}, "has no list of classes"),
        ("low", "has no list of classes"),
        (["low", "mid", "low", "high"], "lists the class `low` twice"),
        ([1, 2, 1.0, 3], "lists the class `1.0` twice"),
        ([1, 2, True, 3], "lists the class `True` twice"),
        ([1, 2, "1", 3], "lists the class `1` twice"),
        (["low", None, "mid", "high"], "has a class `None`"),
        (["low", ["mid"], "high", "none"], r"has a class `\['mid'\]`"),
    ],
)
def test_classes_that_are_not_different_names_are_refused(labels: Any, words: str) -> None:
    header = {"feature_hashes": {}, "training": {"classes": labels}}
    with pytest.raises(ArtifactError, match=words):
        scorer_of(several(header=header))


def test_a_class_that_is_no_number_cannot_be_written_or_read() -> None:
    header = {"feature_hashes": {}, "training": {"classes": ["a", "b", "c", float("nan")]}}
    with pytest.raises(ArtifactError, match="has a class `nan`"):
        ClassScorer(replace(several(header=header), hash="ab" * 32))


@pytest.mark.parametrize("lacking", ["training", "feature_hashes"])
def test_a_header_that_lacks_a_section_is_refused(lacking: str) -> None:
    header = {name: found for name, found in several().header.items() if name != lacking}
    with pytest.raises(ArtifactError, match=f"lacks `{lacking}`"):
        scorer_of(several(header=header))


def test_an_artifact_without_its_hash_is_refused() -> None:
    with pytest.raises(ArtifactError, match="with its hash"):
        ClassScorer(several())
