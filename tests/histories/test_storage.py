"""Folders of histories: the same after opening, whole or not at all, damage named."""

import json
import shutil
from contextlib import suppress

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import StoreError
from chopmark.histories import Histories

from .frames import SCHEMA, assert_same, logs

FRAME = pl.DataFrame({
    "user": ["ann", "", "dé", "ann"], "happened_at": [4, 3, 2, 1],
    "type": ["buy", "view", None, "buy"], "odd/name": ["a", "ü", "a", None], "usd": [1, 2, 3, None],
})  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    Histories.from_frame(FRAME).save(tmp_path / "all")
    return tmp_path / "all"


@given(logs())
def test_what_is_opened_is_what_was_saved(tmp_path_factory, frame):
    place = tmp_path_factory.mktemp("histories") / "all"
    histories = Histories.from_frame(frame)
    histories.save(place)
    assert_same(Histories.open(place, thorough=True), histories)
    assert_same(Histories.open(place), histories)


def test_names_of_users_may_be_empty_or_numbers(tmp_path, folder):
    assert_same(Histories.open(folder), Histories.from_frame(FRAME))
    numbered = Histories.from_frame(FRAME.with_columns(user=pl.Series([-5, 2**60, 0, 1])))
    numbered.save(tmp_path / "numbered")
    assert_same(Histories.open(tmp_path / "numbered"), numbered)
    empty = Histories.from_frame(pl.DataFrame(schema=SCHEMA))
    empty.save(tmp_path / "empty")
    assert_same(Histories.open(tmp_path / "empty"), empty)


def test_more_words_than_16_bits_hold_take_32(tmp_path):
    n = 40_000
    frame = pl.DataFrame({"user": [1] * n, "happened_at": range(n),
                          "type": [f"kind {number}" for number in range(n)]})  # fmt: skip
    histories = Histories.from_frame(frame)
    assert histories.categories["type"].dtype == np.int32
    histories.save(tmp_path / "many")
    assert_same(Histories.open(tmp_path / "many"), histories)


def test_a_folder_that_is_there_is_never_written_over(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match="is there; choose another name"):
        Histories.from_frame(FRAME.head(1)).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["all"]


def test_writing_into_what_is_opened_never_reaches_the_file(folder):
    Histories.open(folder).times[0] = 99
    assert_same(Histories.open(folder, thorough=True), Histories.from_frame(FRAME))


def test_every_file_that_is_cut_grown_or_gone_is_named(folder, tmp_path):
    for number, path in enumerate(sorted(folder.iterdir())):
        bytes_ = path.read_bytes()
        for damage, change in enumerate((bytes_[:-1], bytes_[: len(bytes_) // 2], b"", None)):
            copy = tmp_path / f"copy-{number}-{damage}"
            shutil.copytree(folder, copy)
            if change is None:
                (copy / path.name).unlink()
            else:
                (copy / path.name).write_bytes(change)
            with pytest.raises(StoreError, match=path.name.replace(".", r"\.")):
                Histories.open(copy)


@settings(max_examples=300)
@given(st.data())
def test_any_byte_that_is_changed_is_an_error_or_shows_in_a_thorough_look(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("histories") / "all"
    Histories.from_frame(FRAME).save(place)
    path = data.draw(st.sampled_from(sorted(place.iterdir())))
    bytes_ = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(bytes_) - 1))
    bytes_[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes_)
    if path.name != "about.json":
        with pytest.raises(StoreError):
            Histories.open(place, thorough=True)
    for thorough in (True, False):
        # Without the thorough look a changed value may pass; a crash may not.
        with suppress(StoreError):
            Histories.open(place, thorough=thorough).every().lengths.sum()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"}, {"version": 2}, {"version": "1"}, {"users": 4}, {"users": -1},
        {"events": 10**12}, {"events": True}, {"until": "now"}, {"until": 2**80}, {"calendar": 1},
        {"user_kind": "number"}, {"categories": []}, {"categories": None}, {"numbers": [1]},
        {"numbers": ["usd", "usd"]}, {"numbers": ["type"]}, {"files": {"../x.npy": {}}},
        {"files": {}}, {"categories": [{"name": "type", "words": ["a", "a"]}]},
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(folder, change):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | change))
    with pytest.raises(StoreError):
        Histories.open(folder, thorough=True)


def test_times_that_go_backwards_show_in_a_thorough_look(folder, tmp_path):
    histories = Histories.open(folder)
    Histories.open(folder, thorough=True)
    histories.times[histories.offsets[1]] += 10  # of ann's two events the first is later now
    histories.save(tmp_path / "backwards")
    Histories.open(tmp_path / "backwards")
    with pytest.raises(StoreError, match="times of a user go backwards"):
        Histories.open(tmp_path / "backwards", thorough=True)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"no `about\.json`"):
        Histories.open(tmp_path)
    (tmp_path / "about.json").write_text("[" * 100_000)
    with pytest.raises(StoreError, match="damaged"):
        Histories.open(tmp_path)
