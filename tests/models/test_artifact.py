"""Artifacts: whole or refused, the same bytes for the same contents, never code."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest

from chopmark.errors import ArtifactError
from chopmark.models import Additive, Artifact, Column, Encoder, Term, load_scorer
from chopmark.models import artifact as artifacts

ENCODER = Encoder(
    columns=[
        Column(name="amount", kind="number"),
        Column(name="country", kind="category", categories=("de",)),
    ]
)


def an_artifact(**changes):
    model = Additive.of(
        [
            Term(weights=np.array([0.5, -0.5]), edges=np.array([1.0]), missing=2.0),
            Term(weights=np.array([0.0, 1.0, -1.0])),
        ],
        bias=-1.0,
    )
    parts = {
        "family": "linear",
        "header": {
            "encoder": ENCODER.to_json(),
            "feature_hashes": {"amount": "ab" * 32},
            "training": {"seed": 0},
        },
        "arrays": {
            "calibration": np.empty((0, 2)),
            **{f"linear.{name}": array for name, array in model.to_arrays().items()},
        },
    }
    return Artifact(**{**parts, **changes})


def test_equal_contents_give_equal_bytes_and_the_hash_is_the_files(tmp_path):
    path = tmp_path / "model.chopmark"
    digest = an_artifact().save(path)
    assert an_artifact().pack() == path.read_bytes()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    scorer = load_scorer(path)
    assert scorer.hash == digest
    assert scorer.reads == ("amount", "country")
    assert scorer.feature_hashes == {"amount": "ab" * 32}
    assert [file.name for file in tmp_path.iterdir()] == ["model.chopmark"]


def test_scores_and_contributions_of_a_linear_model(tmp_path):
    path = tmp_path / "model.chopmark"
    an_artifact().save(path)
    scorer = load_scorer(path)
    for values, moves in [
        ([0.5, "de"], [0.5, -1.0]),
        ([1.0, "fr"], [-0.5, 1.0]),
        ([None, None], [2.0, 0.0]),
        (["?", 7], [2.0, 1.0]),
    ]:
        score, found = scorer.explain_row(values)
        assert found.tolist() == moves
        assert score == pytest.approx(1 / (1 + np.exp(1.0 - sum(moves))), abs=1e-15)
        assert scorer.score_row(values) == score


def test_any_flipped_byte_is_seen():
    data = an_artifact().pack()
    for place in range(len(data)):
        with pytest.raises(ArtifactError):
            artifacts.unpack(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])


@pytest.mark.parametrize("length", [0, 3, 63, 64, 100, -1])
def test_truncated(length):
    with pytest.raises(ArtifactError):
        artifacts.unpack(an_artifact().pack()[:length])


def sealed(members, *, compress=zipfile.ZIP_DEFLATED):
    """A zip with a right digest at its end: what a forger can make."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as archive:
        for name, content in members:
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    body = buffer.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def with_manifest(contents, **changes):
    named = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in contents.items()
    }
    manifest = {"format": artifacts.FORMAT, "version": 1, "members": named, **changes}
    return sealed([("manifest.json", json.dumps(manifest)), *contents.items()])


def npy(array, *, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def a_lying_npy():
    content = npy(np.zeros(4))
    return content.replace(b"(4,)", b"(9,)")


HEADER = b'{"family": "linear"}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "no chopmark artifact"),
        (sealed([("a", "b")]), "no manifest"),
        (sealed([("manifest.json", "{")]), "cannot be read"),
        (sealed([("manifest.json", "[]")]), "no object"),
        (sealed([("manifest.json", '{"format": "other"}')]), "format `other`"),
        (with_manifest({"header.json": HEADER}, version=99), "format version 99"),
        (with_manifest({"header.json": HEADER}, members={"x": {}}), "other members"),
        (
            with_manifest({"header.json": HEADER}, members={"header.json": {"sha256": "0"}}),
            "does not match its sha256",
        ),
        (with_manifest({"header.json": b"{}"}), "family"),
        (
            with_manifest(
                {
                    "header.json": HEADER,
                    "arrays/a.npy": npy(np.array([{}], dtype=object), allow_pickle=True),
                }
            ),
            "no plain array",
        ),
        (with_manifest({"header.json": HEADER, "arrays/a.npy": a_lying_npy()}), "does not fit"),
        (with_manifest({"header.json": HEADER, "arrays/a.npy": b"import os"}), "no plain array"),
        (with_manifest({"header.json": HEADER, "arrays/a.npy": npy(np.array("x"))}), "dtype"),
    ],
)
def test_forgeries_are_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        artifacts.unpack(data)


def test_a_zip_bomb_is_refused_before_it_unpacks(monkeypatch):
    monkeypatch.setattr(artifacts, "LIMIT_BYTES", 1_000_000)
    bomb = sealed([("manifest.json", "{}"), ("big", b"\0" * 5_000_000)])
    assert len(bomb) < 10_000
    with pytest.raises(ArtifactError, match="unpacks to 2 members of 5000002 bytes"):
        artifacts.unpack(bomb)


def test_a_file_too_large_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(artifacts, "LIMIT_BYTES", 10)
    path = tmp_path / "model.chopmark"
    path.write_bytes(b"0" * 11)
    with pytest.raises(ArtifactError, match="11 bytes; expected at most 10"):
        artifacts.read(path)


def test_a_missing_file_and_a_missing_folder(tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        load_scorer(tmp_path / "none.chopmark")
    with pytest.raises(ArtifactError, match="cannot write"):
        an_artifact().save(tmp_path / "no folder" / "model.chopmark")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.chopmark"
    an_artifact().save(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        an_artifact(header={}).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.chopmark"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "quantum"}, "family `quantum`"),
        ({"header": {}}, "lacks `encoder`"),
        ({"arrays": {}}, "lacks its calibration"),
        ({"arrays": {"calibration": np.empty((0, 2))}}, "terms cannot be read"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, changes, message):
    path = tmp_path / "model.chopmark"
    an_artifact(**changes).save(path)
    with pytest.raises(ArtifactError, match=message):
        load_scorer(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_weights", [1, 1], "weights within"),
        ("weight", [0, 90], "weights within"),
        ("edge", [-1, 0], "edges within"),
        ("num_edges", [5, -1], "edges within"),
        ("slope", [np.inf, 0.0], "finite"),
        ("slope", [0.0], "cannot be read"),
    ],
)
def test_terms_that_point_outside_are_refused(tmp_path, name, value, message):
    arrays = {**an_artifact().arrays, f"linear.{name}": np.array(value)}
    path = tmp_path / "model.chopmark"
    an_artifact(arrays=arrays).save(path)
    with pytest.raises(ArtifactError, match=message):
        load_scorer(path)
