"""`chopmark demo` and `chopmark train` with and without what histories need."""

import re
import shutil
import sys

import pytest

from chopmark.cli import demo as command
from chopmark.models import load_scorer
from chopmark.models.families import lists_of
from chopmark.pipelines import DataFolder
from chopmark.pipelines import demo as steps
from chopmark.pipelines.sequences import SequenceBlend

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")

TINY = steps.Scale(num_users=200, days=190, live_days=30, fraud_scale=6.0)


def test_the_demo_shows_parts_weights_and_why(chopmark, monkeypatch, tmp_path):
    """The command itself, over less of the same."""
    monkeypatch.setattr(steps, "QUICK", TINY)
    monkeypatch.setattr(
        command, "_learner", lambda **_: SequenceBlend(width=8, epochs=1.0, steps=4)
    )
    code, out, errors = chopmark("demo", "--once", "--quick", "--seed", 1, "--data", tmp_path)
    assert (code, errors) == (0, "")
    for name in ("easyml", "seq2win", "embedding"):
        (figures,) = re.findall(rf"│ {name} +│ +([\d.]+) │ +([\d.]+) │ +([\d.]+) │", out)
        assert float(figures[0]) >= 0.0
        assert 0.0 < float(figures[1]) < 1.0
    assert re.search(r"│ blend +│ +- │", out)
    assert "Why u" in out
    assert "has the highest score" in out
    assert "What moved it most" in out
    assert re.search(r"served values that training has otherwise │ 0 of", out)
    assert re.search(r"decisions made again from their records: 0 differ", out)
    scorer = load_scorer(DataFolder(tmp_path).model)
    assert lists_of(scorer) <= {"history"}
    assert ("Events of the history" in out) == ("seq2win" in scorer.names)


def test_without_torch_easyml_is_trained_and_a_blend_says_what_it_needs(
    chopmark, ingested, monkeypatch, tmp_path
):
    data = shutil.copytree(ingested, tmp_path / "data")
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, errors = chopmark("train", data)
    assert (code, errors) == (0, "")
    assert "The last quarter of the rows, unseen" in out
    before = DataFolder(data).model.read_bytes()
    assert not lists_of(load_scorer(DataFolder(data).model))
    code, _, errors = chopmark("train", data, "--model", "blend")
    assert code == 1
    assert "pip install 'chopmark[deep]'" in errors
    assert errors.count("\n") == 1
    assert DataFolder(data).model.read_bytes() == before


def test_the_demo_without_torch_trains_easyml(monkeypatch):
    assert isinstance(command._learner(quick=True, seed=0), SequenceBlend)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert command._learner(quick=True, seed=0).__class__.__name__ == "EasyML"
