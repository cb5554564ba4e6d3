"""Snapshots: a restart goes on from one, and nothing but a whole and fitting one is taken."""

import json

import numpy as np
import pytest

from chopmark.errors import SnapshotError
from chopmark.features import Aggregate, Catalog, Fold, Lookup, fold

from .exchange import CATALOG, SCHEMA, awkward_events

SMALL = Catalog(
    SCHEMA,
    Aggregate("purchase", "sum", of="amount_usd", window="1d"),
    Aggregate("purchase", "distinct", of="rail", window="1d"),
    Lookup("signup", "country"),
)
EVENTS = awkward_events(80, 1)


def written(path, *, catalog=SMALL, count=40, key=b"chopmark"):
    state = Fold(catalog, key=key)
    for event in EVENTS[:count]:
        state.step(event, read=False)
    state.freeze(offset=count).write(path)
    return path


def rest(state):
    return [state.step(event) for event in EVENTS[40:]]


def test_a_snapshot_gives_its_offset_and_goes_on(tmp_path):
    path = written(tmp_path / "new" / "state.npz", catalog=CATALOG)
    whole, resumed = Fold(CATALOG), Fold(CATALOG)
    for event in EVENTS[:40]:
        whole.step(event, read=False)
    assert resumed.load(path) == (40, "")
    assert rest(resumed) == rest(whole)
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


def test_a_frozen_state_does_not_move(tmp_path):
    state = Fold(SMALL)
    for event in EVENTS[:40]:
        state.step(event, read=False)
    frozen = state.freeze(offset=40)
    for event in EVENTS[40:]:
        state.step(event, read=False)
    frozen.write(tmp_path / "state.npz")
    resumed, whole = Fold(SMALL), Fold(SMALL)
    resumed.load(tmp_path / "state.npz")
    for event in EVENTS[:40]:
        whole.step(event, read=False)
    assert rest(resumed) == rest(whole)


def test_a_snapshot_of_a_snapshot_is_the_same(tmp_path):
    path = written(tmp_path / "state.npz")
    state = Fold(SMALL)
    state.load(path)
    state.freeze(offset=40).write(tmp_path / "again.npz")
    again = Fold(SMALL)
    assert again.load(tmp_path / "again.npz") == (40, "")
    assert rest(again) == rest(state)


def assert_refused(path, *, match="", catalog=SMALL, key=b"chopmark"):
    """A snapshot that is not taken leaves the state as it was."""
    state, untouched = Fold(catalog, key=key), Fold(catalog, key=key)
    for one in (state, untouched):
        for event in EVENTS[:20]:
            one.step(event, read=False)
    with pytest.raises(SnapshotError, match=match) as caught:
        state.load(path)
    assert path.name in str(caught.value)
    assert rest(state) == rest(untouched)


@pytest.mark.parametrize(
    "other",
    [
        Catalog(SCHEMA, *SMALL.features[:2]),
        Catalog(SCHEMA, *reversed(SMALL.features)),
        Catalog(SCHEMA, *SMALL.features, Lookup("signup", "name")),
        Catalog(
            SCHEMA, Aggregate("purchase", "sum", of="amount_usd", window="2d"), *SMALL.features[1:]
        ),
    ],
)
def test_a_snapshot_of_another_catalog_is_refused(tmp_path, other):
    assert_refused(written(tmp_path / "state.npz", catalog=other), match="another catalog")


def test_a_snapshot_of_another_key_is_refused(tmp_path):
    assert_refused(written(tmp_path / "state.npz", key=b"other"), match="another key")


def test_a_snapshot_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fold, "SNAPSHOT_FORMAT", 99)
    path = written(tmp_path / "state.npz")
    monkeypatch.undo()
    assert_refused(path, match="another format")


def test_the_key_is_not_in_the_snapshot(tmp_path):
    path = written(tmp_path / "state.npz", key=b"a very secret key")
    assert b"a very secret key" not in path.read_bytes()
    assert b"a very secret key".hex().encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"not a snapshot",
        b"\x93NUMPY\x01\x00",
        b"\x80\x04\x95",
        bytes(10_000),
        json.dumps({"offset": 3}).encode(),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "state.npz"
    path.write_bytes(content)
    assert_refused(path, match="delete it")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert_refused(tmp_path / "none.npz", match="cannot be read: .*No such file")
    (tmp_path / "folder.npz").mkdir()
    assert_refused(tmp_path / "folder.npz", match="cannot be read")


def test_other_numpy_files_are_refused(tmp_path):
    path = tmp_path / "state.npz"
    np.savez(path, pool=np.zeros(3))
    assert_refused(path, match="delete it")
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    assert_refused(path, match="delete it")
    with open(path, "wb") as file:
        np.savez(file, about=np.zeros(3, np.uint8), digest=np.zeros(3, np.uint8))
    assert_refused(path, match="delete it")
    with open(path, "wb") as file:
        about = np.frombuffer(b"[1]", dtype=np.uint8)
        np.savez(file, about=about, digest=np.zeros(3, np.uint8))
    assert_refused(path, match="delete it")


def places(size):
    """All of the beginning and the end, where the structure is, and some in between."""
    return [*range(150), *range(150, size - 600, 211), *range(max(size - 600, 150), size, 3)]


def test_a_truncated_file_is_refused_at_any_length(tmp_path):
    content = written(tmp_path / "whole.npz").read_bytes()
    path, state = tmp_path / "state.npz", Fold(SMALL)
    for length in places(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(SnapshotError, match="delete it"):
            state.load(path)


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x40])
def test_a_damaged_byte_is_refused_or_harmless(tmp_path, mask):
    content = bytearray(written(tmp_path / "whole.npz").read_bytes())
    path, state = tmp_path / "state.npz", Fold(SMALL)
    assert state.load(tmp_path / "whole.npz") == (40, "")
    sound = state.freeze(offset=40)
    num_refused = 0
    for place in places(len(content)):
        content[place] ^= mask
        path.write_bytes(content)
        content[place] ^= mask
        try:
            offset, _ = state.load(path)
        except SnapshotError:
            num_refused += 1
            continue
        # A byte that means nothing, as the zip's clock: all is as it was.
        again = state.freeze(offset=offset)
        assert again.about == sound.about, place
        assert all(np.array_equal(again.arrays[name], sound.arrays[name]) for name in sound.arrays)
    assert num_refused > 100


def test_a_failed_write_leaves_the_older_snapshot(tmp_path, monkeypatch):
    path = written(tmp_path / "state.npz")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("chopmark.features.fold.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        written(path, count=60)
    monkeypatch.undo()
    assert Fold(SMALL).load(path) == (40, "")
