"""The book of addresses: ids as a plain dictionary gives them, whatever happens in between."""

import errno
import os
import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.addresses import AddressBook, text_hashes

HEX = "0x" + "0123456789abcdef" * 2 + "01234567"


class Dictionary:
    """The reference: a dict."""

    def __init__(self):
        self.known = {}

    def add(self, names):
        return [self.known.setdefault(spelled(name), len(self.known)) for name in names]


def spelled(name):
    digits = name[2:].lower()
    is_hex = len(name) == 42 and name[:2].lower() == "0x" and set(digits) <= set("0123456789abcdef")
    return "0x" + digits if is_hex else name


names = st.one_of(
    st.sampled_from([HEX, HEX.upper().replace("0X", "0x"), "0X" + HEX[2:], HEX[:-1], HEX + "0"]),
    st.integers(0, 40).map(lambda i: f"0x{i:040x}"),
    st.integers(0, 40).map(lambda i: f"tx:{i:064x}"),
    st.text(max_size=70),
    st.sampled_from(["0x" + "g" * 40, "", "é" * 10, "é" * 11, "a" * 20, "a" * 21, "a\0", "a"]),
)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.lists(names, max_size=30), st.sampled_from(["stay", "flush", "reopen", "cut"])
        ),
        max_size=6,
    )
)
def test_ids_are_those_of_a_dictionary_through_flushes_openings_and_cuts(
    tmp_path_factory, monkeypatch, steps
):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no kill here
    folder = tmp_path_factory.mktemp("book") / "addresses"
    book, reference = AddressBook.create(folder), Dictionary()
    for batch, then in steps:
        before = dict(reference.known)
        assert book.add(pl.Series(batch, dtype=pl.String)).tolist() == reference.add(batch)
        if then == "cut":
            book.cut(len(before))
            reference.known = before
        elif then != "stay":
            book.flush()
        if then == "reopen":
            book = AddressBook.open(folder, thorough=len(batch) % 2 == 0)
        every = list(reference.known)
        assert len(book) == len(every)
        assert book.names(np.arange(len(every))).to_list() == every
        assert book.ids(pl.Series([*every, None], dtype=pl.String)).tolist() == [
            *range(len(every)),
            -1,
        ]
        missing = [name for name in batch if spelled(name) not in reference.known]
        assert (book.ids(pl.Series(missing, dtype=pl.String)) == -1).all()


def test_a_book_grows_past_its_slots_and_its_pieces(tmp_path):
    book = AddressBook.create(tmp_path / "book")
    count = 200_000
    values = pl.int_range(count, eager=True)
    names = "0x" + (values.cast(pl.String) + "0" * 40).str.slice(0, 40)
    unique = names.unique(maintain_order=True)
    ids = book.add(names)
    assert len(book) == len(unique)
    assert book.names(ids).to_list() == names.to_list()
    book.flush()
    again = AddressBook.open(tmp_path / "book")
    assert (again.ids(names) == ids).all()
    more = again.add(pl.Series(["new one, longer than twenty bytes", names[7]]))
    assert more.tolist() == [len(unique), ids[7]]
    again.flush()
    last = AddressBook.open(tmp_path / "book", thorough=True)
    assert last.names(more).to_list() == ["new one, longer than twenty bytes", names[7]]
    assert (last.ids(names) == ids).all()
    size = sum(path.stat().st_size for path in (tmp_path / "book").iterdir())
    assert size / len(last) < 34


def snapshots(folder, into, monkeypatch):
    """Copies of the folder as a kill would leave it, before and after each sync and rename."""
    taken = []

    def keep():
        shutil.copytree(folder, into / str(len(taken)))
        taken.append(into / str(len(taken)))

    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def wrapped(*arguments, real=real):
            keep()
            result = real(*arguments)
            keep()
            return result

        monkeypatch.setattr(os, name, wrapped)
    return taken


@pytest.mark.parametrize("many", [3, 2000])
def test_a_flush_killed_anywhere_leaves_the_names_before_or_after(tmp_path, monkeypatch, many):
    folder = tmp_path / "book"
    book = AddressBook.create(folder)
    old = ["a", HEX, "a text of more than twenty bytes"]
    book.add(pl.Series(old))
    book.flush()
    new = [f"0x{i:040x}" for i in range(many)] + ["another text of more than twenty bytes"]
    taken = snapshots(folder, tmp_path, monkeypatch)
    book.add(pl.Series(new))
    book.flush()
    monkeypatch.undo()
    seen = set()
    assert len(taken) >= 10
    for copy in taken:
        left = AddressBook.open(copy, thorough=True)
        seen.add(len(left))
        assert left.names(np.arange(len(left))).to_list() == [*old, *new][: len(left)]
        # Other names come next, where the half-written ones stood.
        other = ["other", "yet another of more than twenty bytes", *new]
        ids = AddressBook.open(copy).add(pl.Series(other))
        left.add(pl.Series(other))
        left.flush()
        again = AddressBook.open(copy, thorough=True)
        assert again.ids(pl.Series(other)).tolist() == ids.tolist()
        assert len(again) == len(old) + len(new) + 2
    assert seen == {len(old), len(old) + len(new)}


def test_a_full_disk_in_a_flush_leaves_the_names_and_the_flush_can_be_repeated(
    tmp_path, monkeypatch
):
    book = AddressBook.create(tmp_path / "book")
    book.add(pl.Series(["a", "b"]))
    book.flush()
    book.add(pl.Series(["c"]))
    real, calls = os.fsync, [0]

    def full(handle):
        calls[0] += 1
        if calls[0] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="make room, then flush again"):
        book.flush()
    monkeypatch.undo()
    assert len(AddressBook.open(tmp_path / "book", thorough=True)) == 2
    book.cut(2)
    assert book.add(pl.Series(["d", "a"])).tolist() == [2, 0]
    book.flush()
    left = AddressBook.open(tmp_path / "book")
    assert left.names(np.arange(3)).to_list() == ["a", "b", "d"]
    assert left.ids(pl.Series(["c"])).tolist() == [-1]


def test_a_book_opened_shorter_forgets_what_came_later(tmp_path):
    book = AddressBook.create(tmp_path / "book")
    texts = [f"a text of more than twenty bytes, number {i}" for i in range(10)]
    book.add(pl.Series(texts))
    book.flush()
    short = AddressBook.open(tmp_path / "book", length=4)
    assert short.ids(pl.Series(texts)).tolist() == [0, 1, 2, 3] + [-1] * 6
    assert short.add(pl.Series([texts[8], "x"])).tolist() == [4, 5]
    short.flush()
    left = AddressBook.open(tmp_path / "book", thorough=True)
    assert left.names(np.arange(6)).to_list() == [*texts[:4], texts[8], "x"]
    with pytest.raises(StoreError, match="expected at least 7 addresses"):
        AddressBook.open(tmp_path / "book", length=7)


def test_of_two_writers_the_second_is_told(tmp_path):
    AddressBook.create(tmp_path / "book")
    first, second = (AddressBook.open(tmp_path / "book") for _ in range(2))
    first.add(pl.Series(["a"]))
    second.add(pl.Series(["b"]))
    first.flush()
    with pytest.raises(StoreError, match="changed by another process"):
        second.flush()
    assert AddressBook.open(tmp_path / "book").names(np.array([0])).to_list() == ["a"]


def test_a_reader_stays_right_while_another_process_adds(tmp_path):
    book = AddressBook.create(tmp_path / "book")
    book.add(pl.Series([f"name {i}" for i in range(300)]))
    book.flush()
    reader = AddressBook.open(tmp_path / "book")
    late = pl.Series([f"late {i}" for i in range(300)])
    book.add(late)
    book.flush()
    assert (reader.ids(late) == -1).all()
    assert reader.ids(pl.Series([f"name {i}" for i in range(300)])).tolist() == list(range(300))


def test_damage_is_told(tmp_path):
    folder = tmp_path / "book"
    with pytest.raises(StoreError, match=r"has no `head\.json`"):
        AddressBook.open(folder)
    book = AddressBook.create(folder)
    with pytest.raises(StoreError, match="expected a new folder"):
        AddressBook.create(folder)
    book.add(pl.Series(["a", HEX]))
    book.flush()
    with (folder / "names.bin").open("r+b") as file:
        file.write(b"\x02")
    assert len(AddressBook.open(folder)) == 2
    with pytest.raises(StoreError, match="not those that were written"):
        AddressBook.open(folder, thorough=True)
    with (folder / "names.bin").open("r+b") as file:
        file.truncate(41)
    with pytest.raises(StoreError, match="has 41 bytes instead of 42"):
        AddressBook.open(folder)
    for text, words in (
        ("{", "cannot be read"),
        ('{"format": "x"}', "of format"),
        ('{"format": "chopmark-addresses", "version": 9}', "of version 1"),
        ('{"format": "chopmark-addresses", "version": 1, "length": -1}', "odd ones"),
    ):
        (folder / "head.json").write_text(text)
        with pytest.raises(StoreError, match=words):
            AddressBook.open(folder)


def test_what_is_no_name_and_no_id_is_refused(tmp_path):
    book = AddressBook.create(tmp_path / "book")
    with pytest.raises(InvalidTable, match="null in row 1"):
        book.add(pl.Series(["a", None]))
    assert len(book) == 0
    book.add(pl.Series(["a"]))
    for ids in ([1], [-1]):
        with pytest.raises(InvalidInput, match="ids of addresses from 0 to 0"):
            book.names(np.array(ids))
    with pytest.raises(InvalidInput, match="length of 0 to 1"):
        book.cut(2)


def test_hashes_of_texts_are_fnv_with_a_finaliser():
    def reference(text):
        h = 0xCBF29CE484222325
        for byte in text.encode():
            h = (h ^ byte) * 0x100000001B3 % 2**64
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB % 2**64
        return h ^ (h >> 31)

    texts = ["", "a", "0x" + "7" * 64, "é" * 9]
    assert text_hashes(pl.Series(texts)).tolist() == [reference(text) for text in texts]
    assert text_hashes(pl.Series([], dtype=pl.String)).tolist() == []
