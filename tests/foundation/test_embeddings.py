"""Embeddings of users: what refreshes a vector, and folders that are whole or refused."""

import json
import shutil
import zlib

import numpy as np
import polars as pl
import pytest

from chopmark.errors import ArtifactError, InvalidInput, InvalidTable
from chopmark.foundation import embeddings as home
from chopmark.foundation.embeddings import Embeddings
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Histories
from chopmark.sequence.shape import Shape
from chopmark.sequence.training import Pace
from tests.sequence.examples import WEEK, events, histories

NOW = 3 * WEEK


@pytest.fixture(scope="module")
def model():
    return UserModel(shape=Shape(width=16, length=8), pace=Pace(steps=2), budget=512).fit(
        histories()
    )


@pytest.fixture(scope="module")
def vectors(model):
    return Embeddings.of(model, histories(), as_of=NOW)


@pytest.fixture
def folder(vectors, tmp_path):
    vectors.save(tmp_path / "space")
    return tmp_path / "space"


def log():
    return events().with_columns(pl.col("amount").fill_nan(None))


def with_late(user, *, at):
    instant = pl.Series([at]).cast(pl.Datetime("us", "UTC"))
    row = log().head(1).with_columns(user=pl.lit(user), happened_at=instant, type=pl.lit("sell"))
    return Histories.from_frame(pl.concat([log(), row.cast(log().schema)]))


@pytest.mark.parametrize("as_of", [NOW, NOW + WEEK])
def test_an_event_that_came_in_late_refreshes_its_user_alone(model, vectors, as_of):
    newer = with_late(7, at=2 * WEEK)
    updated = vectors.updated(model, newer, as_of=as_of)
    afresh = Embeddings.of(model, newer, as_of=as_of)
    changed = (updated.vectors != vectors.vectors).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [7]
    assert updated.of_users([7]) == pytest.approx(afresh.of_users([7]), abs=1e-5)
    assert updated.as_of[7] == as_of
    assert updated.counts.tolist() == afresh.counts.tolist()
    again = updated.updated(model, newer, as_of=as_of)
    assert np.array_equal(again.vectors, updated.vectors)


def test_counts_are_of_all_events_that_had_happened_by_then(model, vectors):
    past = histories()
    assert vectors.counts.tolist() == np.diff(past.offsets).tolist()
    half = Embeddings.of(model, past, as_of=WEEK + WEEK // 2)
    assert half.counts.tolist() == past.every(WEEK + WEEK // 2).lengths.tolist()


def test_an_instant_before_that_of_the_vectors_is_refused(model, vectors):
    with pytest.raises(InvalidInput, match=r"not before those of the vectors, up to 1970-01-22"):
        vectors.updated(model, histories(), as_of=NOW - 1)
    # Nor may a vector of the future stay because its user has no events here.
    few = histories().select([1, 2])
    with pytest.raises(InvalidInput, match="not before those of the vectors"):
        vectors.updated(model, few, as_of=NOW - 1)
    assert len(vectors.updated(model, few, as_of=NOW)) == len(vectors)


def test_users_of_another_kind_are_refused(model, vectors):
    texts = Histories.from_frame(log().with_columns(pl.col("user").cast(pl.String)))
    with pytest.raises(InvalidTable, match="expected users as Int64, as the embeddings have them"):
        vectors.updated(model, texts, as_of=NOW)
    with pytest.raises(InvalidTable, match="expected users as Int64, as the embeddings have them"):
        vectors.of_users(["x"])
    with pytest.raises(InvalidTable, match="all texts or all whole numbers"):
        vectors.of_users([1, "x"])
    with pytest.raises(InvalidTable, match="`9223372036854775813` first"):
        vectors.of_users(pl.Series([1, 2**63 + 5], dtype=pl.UInt64))
    assert vectors.of_users([]).shape == (0, vectors.vectors.shape[1])


def test_embeddings_of_nobody_take_users_of_any_kind(model):
    none = Embeddings.of(model, Histories.from_frame(log().head(0)), as_of=NOW)
    texts = Histories.from_frame(log().with_columns(pl.col("user").cast(pl.String)))
    assert len(none.updated(model, texts, as_of=NOW)) == 60
    assert none.updated(model, Histories.from_frame(log().head(0))) is none


def test_all_of_a_folder_comes_back(vectors, folder):
    opened = Embeddings.open(folder, thorough=True)
    assert opened.users.to_list() == vectors.users.to_list()
    for name in ("vectors", "as_of", "counts"):
        assert np.array_equal(getattr(opened, name), getattr(vectors, name))


def test_saving_replaces_embeddings_and_nothing_else(vectors, folder, tmp_path):
    vectors.save(folder)
    (tmp_path / "empty").mkdir()
    vectors.save(tmp_path / "empty")
    assert len(Embeddings.open(tmp_path / "empty")) == 60
    thesis = tmp_path / "precious" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("x")
    past = tmp_path / "past"
    histories().save(past)
    (tmp_path / "link").symlink_to(thesis.parent)
    for place in (thesis.parent, thesis, past, tmp_path / "link"):
        with pytest.raises(ArtifactError, match=f"`{place}` is something else"):
            vectors.save(place)
    assert thesis.read_text() == "x"
    assert Histories.open(past, thorough=True).num_events == histories().num_events
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def changes(content):
    half = len(content) // 2
    yield b""
    yield content[:half]
    yield content[:half] + bytes(255 - byte for byte in content[half:])
    yield content + b"x"
    yield content[:10] + b"{'descr': ((((" + content[24:]
    yield b"[" * 100_000
    yield b"null"
    yield b"[]"


@pytest.mark.parametrize("name", ["about.json", "users.parquet", "vectors.npy"])
def test_any_damage_is_one_error(folder, name):
    content = (folder / name).read_bytes()
    for change in changes(content):
        (folder / name).write_bytes(change)
        with pytest.raises(ArtifactError, match="write it anew"):
            Embeddings.open(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="write it anew"):
        Embeddings.open(folder)


@pytest.mark.parametrize(
    "change",
    [{"version": 1}, {"version": None}, {"files": {}}, {"files": None}, {"shape": None},
     {"shape": [60, 1]}, {"files": {"vectors.npy": 3}}],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(folder, change):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | change))
    with pytest.raises(ArtifactError, match="write it anew"):
        Embeddings.open(folder)


@pytest.mark.parametrize("name", ["users.parquet", "vectors.npy"])
def test_files_that_no_save_wrote_are_refused_even_with_their_checksum(folder, name, tmp_path):
    about = json.loads((folder / "about.json").read_text())
    content = (folder / name).read_bytes()
    for number, change in enumerate(changes(content)):
        if number == 3 and name == "vectors.npy":
            continue  # numpy leaves bytes behind an array alone
        if number == 2 and name == "vectors.npy":
            continue  # other numbers are numbers
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        (copy / name).write_bytes(change)
        files = about["files"] | {name: {"bytes": len(change), "crc32": zlib.crc32(change)}}
        (copy / "about.json").write_text(json.dumps(about | {"files": files}))
        with pytest.raises(ArtifactError, match="write it anew"):
            Embeddings.open(copy)


def test_large_vectors_are_compared_where_a_thorough_look_is_asked_for(folder, monkeypatch):
    monkeypatch.setattr(home, "_AT_ONCE", 1_000)
    array = folder / "vectors.npy"
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    assert len(Embeddings.open(folder)) == 60
    with pytest.raises(ArtifactError, match="other bytes than were written"):
        Embeddings.open(folder, thorough=True)
