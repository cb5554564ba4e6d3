"""What the values of a label make of it: the task, its codes and its classes."""

import numpy as np
import polars as pl
import pytest

from chopmark.errors import DeclarationError, InvalidTable
from chopmark.tabular.targets import target_of


def found(values, **options):
    """Task, classes and codes of a label."""
    frame = pl.DataFrame({"other": range(len(values)), "label": values}, strict=False)
    target = target_of(frame, "label", **options)
    assert target.y.dtype == np.float64
    assert target.y.shape == (len(values),)
    return target.task, target.classes, target.y.tolist()


@pytest.mark.parametrize(
    ("values", "classes", "codes"),
    [
        ([0, 1, 1], (0, 1), [0, 1, 1]),
        ([1.0, 0.0], (0, 1), [1, 0]),
        ([True, False], (0, 1), [1, 0]),
        ([5, 3, 5], (3, 5), [1, 0, 1]),
        ([0.5, 0.25], (0.25, 0.5), [1, 0]),
        (["no", "yes ", "no"], ("no", "yes"), [0, 1, 0]),
        (["good", "bad"], ("bad", "good"), [1, 0]),
        (pl.Series(["b", "a"], dtype=pl.Categorical), ("a", "b"), [1, 0]),
        (pl.Series(["b", "a"], dtype=pl.Enum(["b", "a"])), ("a", "b"), [1, 0]),
        (pl.Series(["1.50", "2"]).cast(pl.Decimal(9, 2)), (1.5, 2.0), [0, 1]),
    ],
)
def test_two_values_are_binary_and_the_second_is_positive(values, classes, codes):
    assert found(values) == ("binary", classes, codes)


@pytest.mark.parametrize(
    ("values", "positive", "classes"),
    [
        (["good", "bad"], "bad", ("good", "bad")),
        (["good", "bad"], " good ", ("bad", "good")),
        ([0, 1], 0, (1, 0)),
        ([0, 1], "0", (1, 0)),
        ([0.0, 1.0], 1.0, (0, 1)),
        ([False, True], False, (1, 0)),
        ([False, True], "true", (0, 1)),
    ],
)
def test_the_positive_class_can_be_named(values, positive, classes):
    assert found(values, positive=positive)[1] == classes


def test_texts_are_classes():
    assert found(["b", "a", "c", "b"]) == ("multiclass", ("a", "b", "c"), [1, 0, 2, 1])
    fifty = [f"class {i:02}" for i in range(50)]
    assert found(fifty) == ("multiclass", tuple(fifty), list(range(50)))


def test_few_whole_numbers_are_classes_if_each_has_rows():
    assert found([3, 1, 2] * 5) == ("multiclass", (1, 2, 3), [2, 0, 1] * 5)
    assert found([3.0, 1.0, 2.0] * 5)[:2] == ("multiclass", (1, 2, 3))
    assert found([*[3, 1, 2] * 5, 4]) == ("regression", (), [*[3, 1, 2] * 5, 4])
    assert found([*range(20)] * 5)[0] == "multiclass"
    assert found([*range(21)] * 5)[0] == "regression"


def test_other_numbers_are_a_regression():
    assert found([0.5, 1.5, 2.5] * 9) == ("regression", (), [0.5, 1.5, 2.5] * 9)
    texts = [f"${i:,}.50" for i in range(1_000, 1_060)]
    assert found(texts) == ("regression", (), [i + 0.5 for i in range(1_000, 1_060)])


def test_a_task_overrules():
    assert found([0, 1], task="regression") == ("regression", (), [0, 1])
    assert found([0, 1], task="multiclass") == ("multiclass", (0, 1), [0, 1])
    assert found(["1", "2,000"], task="regression") == ("regression", (), [1, 2000])
    assert found([7, 8, 9], task="multiclass") == ("multiclass", (7, 8, 9), [0, 1, 2])
    assert found(["a", "b"], task="binary")[0] == "binary"


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([1, None, None], {}, ["2 of 3 rows have no label", "first at row index 1"]),
        ([1.0, 0.0, float("nan")], {}, ["1 of 3 rows", "row index 2"]),
        (["a", " ", "b"], {}, ["1 of 3 rows", "row index 1"]),
        ([None, None], {}, ["2 of 2 rows have no label"]),
        ([1.0, float("inf"), 2.5], {}, ["finite labels", "got inf at row index 1"]),
        ([1, 1], {}, ["two distinct labels", "got `1` in all 2 rows"]),
        (["ok", "ok "], {}, ["got `ok` in all 2 rows"]),
        ([], {}, ["without rows"]),
        ([f"id {i}" for i in range(51)], {}, ["at most 50 classes", "got 51", "`id 0`"]),
        ([[1], [2]], {}, ["got type List(Int64)"]),
        (["a", "b", "c"], {"task": "binary"}, ["two distinct", "got 3: `a`, `b`, `c`"]),
        (["a", "b", "c"], {"positive": "a"}, ["two distinct", "got 3"]),
        ([0.5, 1.5, 2.5], {"positive": 1}, ["two distinct", "got 3 and a regression"]),
        (["good", "bad"], {"positive": "ugly"}, ["one of `bad`, `good`", "got `ugly`"]),
        (["1", "two"], {"task": "regression"}, ["expected numbers", "`two` at row index 1"]),
        ([*range(51)], {"task": "multiclass"}, ["at most 50 classes", "got 51"]),
    ],
)
def test_what_cannot_be_learned_is_said(values, options, words):
    with pytest.raises(InvalidTable) as raised:
        found(values, **options)
    for word in [*words, "`label`"]:
        assert word in str(raised.value)


def test_the_nearest_name_is_a_hint():
    frame = pl.DataFrame({"is_fraud": [0, 1]})
    with pytest.raises(InvalidTable, match=r"column `isfraud`.*did you mean `is_fraud`"):
        target_of(frame, "isfraud")
    with pytest.raises(DeclarationError, match="no task `binry`; did you mean `binary`"):
        target_of(frame, "is_fraud", task="binry")
