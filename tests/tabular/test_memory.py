"""What a memory keeps changes no model, and what it cannot read is made anew."""

import numpy as np
import polars as pl
import pytest

from chopmark.errors import InvalidInput
from chopmark.tabular import EasyML, heads
from chopmark.tabular.memory import Memory


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    city = rng.choice(list("abcdefghij"), size=600)
    chance = 1 / (1 + np.exp(-x - (city < "d")))
    return pl.DataFrame({"x": x, "city": city, "target": (rng.random(600) < chance).astype(int)})


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "memory"


def kept(memory):
    return sorted(memory.glob("*.npz"))


def packed(model, tmp_path):
    model.save(tmp_path / "model.chopmark")
    return (tmp_path / "model.chopmark").read_bytes()


@pytest.fixture
def no_reading(monkeypatch):
    """A fit that reads a table again ends in an error."""

    def read(*_, **__):
        raise AssertionError("the table was read again")

    def forbid():
        monkeypatch.setattr(heads, "make_encoder", read)

    return forbid


def test_a_fit_that_remembers_gives_the_same_file(table, memory, tmp_path, no_reading):
    plain = packed(EasyML().fit(table), tmp_path)
    assert packed(EasyML(memory=memory).fit(table), tmp_path) == plain
    no_reading()
    assert packed(EasyML(memory=memory).fit(table), tmp_path) == plain


def test_another_model_of_the_same_table_begins_with_learning(table, memory, no_reading):
    EasyML(model="linear", memory=memory).fit(table)
    no_reading()
    for settings in ({"model": "trees"}, {"calibration": "isotonic"}, {"class_weight": 3.0}):
        EasyML(**{"model": "linear", **settings}, memory=memory).fit(table)
    assert len(kept(memory)) == 1


@pytest.mark.parametrize(
    "settings",
    [{"columns": {"city": "drop"}}, {"seed": 1}, {"sample": 300}, {"groups": "city"}],
    ids=str,
)
def test_what_changes_the_readings_is_read_again(settings, table, memory):
    EasyML(model="prior", memory=memory).fit(table)
    EasyML(model="prior", memory=memory, **settings).fit(table)
    assert len(kept(memory)) == 2


@pytest.mark.parametrize("place", [0, 300, 599])
@pytest.mark.parametrize("column", ["x", "target"])
def test_one_other_value_is_another_table(place, column, table, memory):
    EasyML(model="prior", memory=memory).fit(table)
    changed = table[column].to_list()
    changed[place] = 1 - changed[place]
    EasyML(model="prior", memory=memory).fit(table.with_columns(pl.Series(column, changed)))
    assert len(kept(memory)) == 2


@pytest.mark.parametrize("damage", [b"", b"no zip at all", None])
def test_a_damaged_file_is_made_anew(damage, table, memory):
    expected = EasyML(model="linear", memory=memory).fit(table).score(table)
    (path,) = kept(memory)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert np.array_equal(EasyML(model="linear", memory=memory).fit(table).score(table), expected)
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="expected a folder"):
        Memory(tmp_path / "file" / "memory")
