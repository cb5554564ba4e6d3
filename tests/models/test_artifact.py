"""Artifacts: whole or refused, the same bytes for the same contents, never code."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        "family": "sum",
        "header": {
            "link": "logit",
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
    manifest = {
        "format": artifacts.FORMAT,
        "version": artifacts.VERSION,
        "members": named,
        **changes,
    }
    return sealed([("manifest.json", json.dumps(manifest)), *contents.items()])


def npy(array, *, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def a_lying_npy():
    content = npy(np.zeros(4))
    return content.replace(b"(4,)", b"(9,)")


HEADER = b'{"family": "linear"}'
DEEP = "parts/a/" * (artifacts.LIMIT_DEPTH + 1)


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
        (with_manifest({"header.json": HEADER}, version=1), "version 1; .* save the model again"),
        (with_manifest({"header.json": HEADER, "arrays/../a.npy": b""}), "a member `arrays/../a"),
        (with_manifest({"header.json": HEADER, "../header.json": HEADER}), "a member `../header"),
        (with_manifest({"header.json": HEADER, "parts/../header.json": HEADER}), "a member"),
        (with_manifest({"header.json": HEADER, "parts/a/run.py": b""}), "a member `parts/a/run"),
        (with_manifest({"header.json": HEADER, f"parts/{'a' * 65}/header.json": HEADER}), "member"),
        (with_manifest({"header.json": HEADER, f"{DEEP}header.json": HEADER}), "models 4 deep"),
        (with_manifest({"header.json": HEADER, "parts/a/header.json": b"[]"}), "no object"),
        (with_manifest({"header.json": HEADER, "parts/a/header.json": b"{}"}), "part a` .* family"),
        (
            with_manifest({"header.json": HEADER, "parts/a/arrays/b.npy": npy(np.zeros(1))}),
            "part a` has no header.json",
        ),
    ],
)
def test_forgeries_are_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        artifacts.unpack(data)


def test_parts_are_whole_artifacts(tmp_path):
    inner = an_artifact(parts={"deep": an_artifact(header={"training": {"seed": 1}})})
    whole = an_artifact(parts={"second": an_artifact(), "first": inner})
    read = artifacts.unpack(whole.pack())
    assert read.pack() == whole.pack()
    swapped = an_artifact(parts={"first": inner, "second": an_artifact()})
    assert swapped.pack() == whole.pack()
    assert list(read.parts) == ["first", "second"]
    assert read.parts["first"].pack() == inner.pack()
    assert read.parts["first"].parts["deep"].header["training"] == {"seed": 1}
    assert np.array_equal(read.parts["second"].arrays["linear.weights"], [0.5, -0.5, 0, 1, -1])


def test_a_part_is_known_by_its_contents_wherever_it_lies():
    first = artifacts.unpack(an_artifact(parts={"a": an_artifact()}).pack()).parts["a"]
    again = artifacts.unpack(an_artifact(parts={"b": an_artifact()}, header={}).pack()).parts["b"]
    other = artifacts.unpack(an_artifact(parts={"a": an_artifact(header={})}).pack()).parts["a"]
    assert len(first.hash) == 64
    assert first.hash == again.hash != other.hash


def nested(depth):
    return an_artifact(parts={"a": nested(depth - 1)} if depth else {})


def test_what_could_not_be_read_is_not_written():
    assert artifacts.unpack(nested(artifacts.LIMIT_DEPTH).pack()).parts
    with pytest.raises(ArtifactError, match="models 4 deep; expected at most 3"):
        nested(artifacts.LIMIT_DEPTH + 1).pack()
    for name in ("../a", "a/b", "", "a.b", "é", "a" * 65):
        with pytest.raises(ArtifactError, match="has a member"):
            an_artifact(parts={name: an_artifact()}).pack()
    for name in ("../a", "a..b", ".a", "a/b"):
        with pytest.raises(ArtifactError, match="has a member"):
            an_artifact(arrays={name: np.zeros(1)}).pack()
    with pytest.raises(ArtifactError, match="4097 members; expected less than 4096"):
        an_artifact(arrays={f"a{i}": np.zeros(1) for i in range(4_096)}).pack()


def test_two_members_of_one_name_and_a_part_with_a_wrong_sha():
    with pytest.warns(UserWarning, match="Duplicate"):
        doubled = sealed([("manifest.json", "{}"), ("manifest.json", "{}")])
    with pytest.raises(ArtifactError, match="two members of one name"):
        artifacts.unpack(doubled)
    contents = {"header.json": HEADER, "parts/a/header.json": HEADER}
    entry = {"sha256": hashlib.sha256(HEADER).hexdigest()}
    named = {"header.json": entry, "parts/a/header.json": {"sha256": "0" * 64}}
    with pytest.raises(ArtifactError, match=r"member `parts/a/header\.json` does not match"):
        artifacts.unpack(with_manifest(contents, members=named))


NAMES = st.one_of(
    st.sampled_from(["header.json", "parts/a/header.json", "arrays/a.npy", "parts/a/arrays/b.npy"]),
    st.text("ab./_-\\\0é", min_size=1, max_size=12),
    st.lists(st.sampled_from(["parts", "a", "..", "arrays", "a.npy", "header.json"])).map("/".join),
).filter(lambda name: name and "\0" not in name and name != "manifest.json")
CONTENTS = st.one_of(
    st.sampled_from([HEADER, b"{}", b"[" * 5_000, npy(np.zeros(3)), a_lying_npy()]),
    st.binary(max_size=200),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(NAMES, CONTENTS, max_size=6))
def test_whatever_a_forger_packs_is_read_or_refused(contents):
    data = with_manifest(contents)
    try:
        read = artifacts.unpack(data)
    except ArtifactError:
        return
    assert artifacts.unpack(read.pack()).family == read.family


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_a_forger_changes_in_the_zip_is_read_or_refused(data):
    whole = bytearray(an_artifact(parts={"a": an_artifact()}).pack()[:-64])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = artifacts.unpack(bytes(whole) + hashlib.sha256(whole).hexdigest().encode())
    except ArtifactError:
        return
    assert read.parts.keys() == {"a"}


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
        (
            {"arrays": {"calibration": np.empty((0, 2)), "linear.slope": np.zeros(2)}},
            "terms cannot be read",
        ),
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


_HOSTILE_HEADS = (
    "{'descr': ('",
    "{'descr': (), 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 2**70), }",
)


@pytest.mark.parametrize("head", _HOSTILE_HEADS)
def test_an_array_with_a_hostile_head_is_refused(head):
    text = head.encode().ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with pytest.raises(ArtifactError, match="is no plain array"):
        artifacts._array(content, "a", "b")
