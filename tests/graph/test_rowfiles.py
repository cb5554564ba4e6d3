import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import StoreError
from chopmark.graph.rowfiles import extended, kept_of, open_rows, write_rows


@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.sampled_from([(), (1,), (3,)]))
def test_what_is_changed_and_saved_in_turns_is_opened_as_a_plain_array_would_be(
    tmp_path_factory, data, width
):
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    array = rng.normal(size=(data.draw(st.integers(0, 12)), *width))
    oracle, kept, last = array.copy(), None, None
    for turn in range(data.draw(st.integers(1, 6))):
        if len(array):
            rows = rng.integers(0, len(array), data.draw(st.integers(0, 4)))
            array[rows] = oracle[rows] = rng.normal(size=(len(rows), *width))
            kept = kept and kept.changed(rows)
        more = rng.normal(size=(data.draw(st.integers(0, 3)), *width))
        array = extended(array, len(array) + len(more))
        assert not array[len(oracle) :].any()
        array[len(oracle) :] = more
        oracle = np.concatenate([oracle, more])
        made = folder / str(turn)
        made.mkdir()
        facts = write_rows(made, "a", array, kept)
        kept = kept_of(made, "a", facts, kept)
        if last is not None:
            shutil.rmtree(last)  # a folder needs no other
        if data.draw(st.booleans()):
            array, kept = open_rows(made, "a", facts, np.float64, *width, thorough=True)
            assert np.array_equal(array, oracle)
        last = made
    found, _ = open_rows(last, "a", facts, np.float64, *width, thorough=True)
    assert np.array_equal(found, oracle)


def test_saving_costs_what_changed_and_the_rest_is_the_same_file(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir(), second.mkdir()
    array = np.arange(100_000.0).reshape(50_000, 2)
    facts = write_rows(first, "a", array)
    array, kept = open_rows(first, "a", facts, np.float64, 2)
    array = extended(array, 50_010)
    array[7] = -1.0
    facts = write_rows(second, "a", array, kept.changed([7]))
    assert (first / "a.npy").samefile(second / "a.npy")
    new = sum(path.stat().st_size for path in second.iterdir() if path.stat().st_nlink == 1)
    assert new < 1_000
    assert np.load(first / "a.npy", mmap_mode="r")[7].tolist() == [14.0, 15.0]
    assert open_rows(second, "a", facts, np.float64, 2)[0][7].tolist() == [-1.0, -1.0]


def test_a_base_is_written_anew_when_many_rows_are_others(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir(), second.mkdir()
    facts = write_rows(first, "a", np.zeros(100))
    array, kept = open_rows(first, "a", facts, np.float64)
    array[:26] = 1.0
    told = write_rows(second, "a", array, kept.changed(np.arange(26)))
    assert told["patch"] is None
    assert not (first / "a.npy").samefile(second / "a.npy")


@pytest.mark.parametrize(("length", "appended"), [(1_190, False), (1_300, False), (1_565, True)])
def test_a_base_is_written_anew_when_what_came_has_no_room_behind_it(tmp_path, length, appended):
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir(), second.mkdir()
    facts = write_rows(first, "a", np.arange(1_000), appended=appended)
    array, kept = open_rows(first, "a", facts, np.int64)
    array = extended(array, length)
    facts = write_rows(second, "a", array, kept, appended=appended)
    assert facts["patch"] is None
    assert open_rows(second, "a", facts, np.int64)[0].tolist() == array.tolist()


@pytest.mark.parametrize("other", [False, True])
def test_a_base_is_written_anew_when_it_is_gone_or_another_has_its_name(tmp_path, other):
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir(), second.mkdir()
    array, kept = open_rows(first, "a", write_rows(first, "a", np.zeros(100)), np.float64)
    shutil.rmtree(first)
    if other:
        first.mkdir()
        write_rows(first, "a", np.ones(100))
    facts = write_rows(second, "a", array, kept)
    assert not open_rows(second, "a", facts, np.float64, thorough=True)[0].any()


def test_where_there_are_no_hard_links_a_base_is_copied(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refused)
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir(), second.mkdir()
    array, kept = open_rows(first, "a", write_rows(first, "a", np.zeros(100)), np.float64)
    array[3] = 1.0
    facts = write_rows(second, "a", array, kept.changed([3]))
    shutil.rmtree(first)
    assert open_rows(second, "a", facts, np.float64, thorough=True)[0].nonzero()[0].tolist() == [3]


def test_a_view_of_a_longer_array_does_not_write_over_what_is_behind_it():
    owner = np.arange(10.0)
    # Only views that begin where their owner does have room; these grow into memory of their own.
    assert extended(owner[2:5], 6).tolist() == [2.0, 3.0, 4.0, 0.0, 0.0, 0.0]
    assert owner.tolist() == list(range(10))


def test_every_kind_of_damage_is_told(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir(), second.mkdir()
    array, kept = open_rows(first, "a", write_rows(first, "a", np.zeros(100)), np.float64)
    array = extended(array, 101)
    facts = write_rows(second, "a", array, kept.changed([3]))
    for name in ("a.npy", "a.rows.npy", "a.values.npy"):
        path = second / name
        content = path.read_bytes()
        path.unlink()  # the base has another name
        with pytest.raises(StoreError, match="is missing"):
            open_rows(second, "a", facts, np.float64)
        path.write_bytes(content[:-1])
        with pytest.raises(StoreError, match="bytes instead of"):
            open_rows(second, "a", facts, np.float64)
        path.write_bytes(content[:130] + b"\x40" + content[131:])
        with pytest.raises(StoreError, match="other bytes than were written"):
            open_rows(second, "a", facts, np.float64, thorough=True)
        path.write_bytes(content)
    with pytest.raises(StoreError, match="instead of rows"):
        open_rows(second, "a", facts, np.float32)
    with pytest.raises(StoreError, match="instead of rows"):
        open_rows(second, "a", facts, np.float64, 2)
    for odd in (None, {}, facts | {"rows": -1}, facts | {"patch": {}}, facts | {"base": 3}):
        with pytest.raises(StoreError, match="odd ones"):
            open_rows(second, "a", odd, np.float64)
    for size in (100, 102, 10**6):
        with pytest.raises(StoreError, match=r"instead of|which rows"):
            open_rows(second, "a", facts | {"rows": size}, np.float64)
