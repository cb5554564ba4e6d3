"""Histories built from many frames on disk are those of one frame in memory."""

import subprocess
import sys
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.errors import InvalidTable
from chopmark.histories import Histories, build

from .frames import assert_same, logs


@given(logs(), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 12), st.booleans())
def test_any_cut_into_parts_and_bands_builds_the_same(
    tmp_path_factory, frame, cuts, band_events, numbered
):
    if numbered:
        users = frame["user"].replace_strict({"ann": 9, "bob": -1, "cy": 2**50, "dé": 0},
                                             return_dtype=pl.Int64)  # fmt: skip
        frame = frame.with_columns(user=users)
    edges = [0, *sorted(cuts), frame.height]
    parts = [frame[low:high] for low, high in pairwise(edges) if low <= high]
    folder = tmp_path_factory.mktemp("built") / "all"
    built = build(folder, lambda: iter(parts), band_events=band_events)
    assert_same(built, Histories.from_frame(frame))
    assert_same(Histories.open(folder, thorough=True), built)
    assert not [path for path in folder.iterdir() if path.suffix not in (".npy", ".json")]


@given(logs(), st.integers(-4, 16).map(lambda second: second * 1_000_000))
def test_rows_after_the_mark_are_left_out(tmp_path_factory, frame, until):
    folder = tmp_path_factory.mktemp("built") / "all"
    built = build(folder, [frame[:10], frame[10:]], until=until)
    assert_same(built, Histories.from_frame(frame, until=until))
    assert built.until == until


def test_parquet_files_are_read_piece_by_piece(tmp_path, monkeypatch):
    frame = pl.DataFrame({"user": [n % 7 for n in range(100)], "happened_at": range(100, 0, -1),
                          "type": [f"t{n % 3}" for n in range(100)]})  # fmt: skip
    frame.write_parquet(tmp_path / "events.parquet")
    monkeypatch.setattr("chopmark.histories.building._BATCH", 30)
    built = build(tmp_path / "all", [tmp_path / "events.parquet"])
    assert_same(built, Histories.from_frame(frame))


def test_a_field_that_turns_from_number_to_text_is_named_with_both_parts(tmp_path):
    base = {"user": ["a"], "happened_at": [1], "type": ["x"]}
    parts = [pl.DataFrame({**base, "usd": [1.0]}), pl.DataFrame({**base, "usd": [None]}),
             pl.DataFrame({**base, "usd": ["1 USD"]})]  # fmt: skip
    with pytest.raises(
        InvalidTable, match=r"part 3: expected field `usd` as number, as part 1 has it, got text"
    ):
        build(tmp_path / "all", parts)
    assert list(tmp_path.iterdir()) == []
    mixed = [pl.DataFrame({**base, "user": [1]}), pl.DataFrame(base)]
    with pytest.raises(InvalidTable, match=r"part 2: expected users as Int64"):
        build(tmp_path / "all", mixed)
    # Asked for by name, both are texts.
    built = build(tmp_path / "all", parts, categories=["usd"])
    assert built.words["usd"] == ["1 USD", "1"] or built.words["usd"] == ["1", "1 USD"]


def test_a_row_that_cannot_be_used_is_named_with_its_part(tmp_path):
    good = pl.DataFrame({"user": ["a"], "happened_at": [1], "type": ["x"]})
    bad = pl.DataFrame({"user": ["a", None], "happened_at": [1, 2], "type": ["x", "y"]})
    with pytest.raises(InvalidTable, match=r"part 2: expected a user .* row 1 "):
        build(tmp_path / "all", [good, bad])
    (tmp_path / "no.parquet").write_text("no table")
    with pytest.raises(InvalidTable, match=r"part 2: expected a Parquet file"):
        build(tmp_path / "all", [good, tmp_path / "no.parquet"])
    assert not (tmp_path / "all").exists()


def test_frames_that_can_be_read_only_once_or_change_are_refused(tmp_path):
    frame = pl.DataFrame({"user": ["a"], "happened_at": [1], "type": ["x"]})
    with pytest.raises(InvalidTable, match=r"gone through twice"):
        build(tmp_path / "all", iter([frame]))
    with pytest.raises(InvalidTable, match=r"one frame at least"):
        build(tmp_path / "all", [])
    for change in (
        frame.with_columns(user=pl.lit("b")),
        frame.with_columns(type=pl.lit("y")),
        pl.concat([frame, frame]),
        frame.clear(),
    ):
        passes = iter([[frame], [change]])
        with pytest.raises(InvalidTable, match=r"the same rows at the second pass"):
            build(tmp_path / "all", lambda passes=passes: next(passes))
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
import polars as pl
from chopmark.histories import build

def frames():
    yield pl.DataFrame({"user": ["a"], "happened_at": [1], "type": ["x"]})
    if any(path.suffix == ".bin" for path in Path(sys.argv[1]).rglob("*")):
        os._exit(9)

build(Path(sys.argv[1]) / "all", frames)
"""


def test_a_build_that_is_killed_leaves_no_folder_of_that_name(tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=120)
    assert ended.returncode == 9
    assert not (tmp_path / "all").exists()
    frame = pl.DataFrame({"user": ["a"], "happened_at": [1], "type": ["x"]})
    assert_same(build(tmp_path / "all", [frame]), Histories.from_frame(frame))
