"""Addresses <-> numbers: a book of names that only grows, on disk, opened by mapping.

    folder/head.json       how many names are valid, and the crc of their bytes
           names.bin       (n, 21) uint8: how the name is kept, and 20 bytes
           texts.bin       the UTF-8 of names that do not fit 20 bytes
           slots-<c>.bin   (c,) int32: places of the names by their hash, id + 1, 0 is empty

A name is found by open addressing: hash to a slot, the slot's id to its 21 bytes. Names of "0x"
and 40 hex digits are their 20 bytes, short texts stand in place, long ones by length and hash
with their bytes in `texts.bin`: 27 to 33 bytes for an address in all.

`head.json` is replaced at the end of a flush; what stands behind its count is as if it never was.
The slots are only an index: they are made again from the names when a flush was cut off.
"""

# The kernels are typed by numba from their arguments; `AddressBook` is the typed door.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.features.hashing import mix
from chopmark.histories.description import read_description
from chopmark.histories.storage import sync

FORMAT = "chopmark-addresses"
VERSION = 1
WIDTH = 21
HEX, LONG = 255, 254  # else the first byte is the length of a text of up to 20 bytes
MOST = 2**31 - 2
_CAPITALS = r"0[xX][0-9a-fA-F]{40}|(?:BC|TB|BCRT|LTC)1[02-9AC-HJ-NP-Z]+"
"""Hex of any case, and bech32 in capitals: one address with that in lower case."""
_PIECE = 1 << 16
_FEWEST_SLOTS = 1 << 10
# The value of each byte as a hex digit, 16 where it is none.
_DIGITS = np.array(
    [int(chr(byte), 16) if chr(byte) in "0123456789abcdefABCDEF" else 16 for byte in range(256)],
    dtype=np.uint8,
)


class AddressBook:
    """Names and their ids 0, 1, 2, ... in the order of arrival; an id never changes.

    Hex addresses ("0x" and 40 digits) are the same in upper and lower case and come back in
    lower case; all other texts are as they are. One process writes; others may read meanwhile.

    Examples
    --------
    >>> book = AddressBook.create(folder)  # doctest: +SKIP
    >>> book.add(pl.Series(["0x" + "Ab" * 20, "bc1q", "0x" + "aB" * 20]))  # doctest: +SKIP
    array([0, 1, 0])
    >>> book.flush()  # doctest: +SKIP
    """

    def __init__(self, folder: Path, head: dict[str, Any], length: int, *, thorough: bool) -> None:
        self.folder = folder
        self._head = head
        self._slots: NDArray[np.int32]
        self._length = self._tail_count = self._tail_text_count = 0
        self._map(length, thorough=thorough)

    @classmethod
    def create(cls, folder: str | Path) -> AddressBook:
        """An empty book in a new folder.

        Raises
        ------
        StoreError
            If the folder has something in it, or cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(f"expected a new folder for addresses, but `{folder}` is there")
        head = {
            "format": FORMAT, "version": VERSION, "length": 0, "text_bytes": 0,
            "names_crc": 0, "texts_crc": 0, "slots": None,
        }  # fmt: skip
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("names.bin", "texts.bin"):
                (folder / name).touch()
            replace_json(folder / "head.json", head)
        except OSError as error:
            raise StoreError(f"addresses cannot be written to `{folder}`: {error}") from error
        return cls(folder, head, 0, thorough=False)

    @classmethod
    def open(
        cls, folder: str | Path, *, length: int | None = None, thorough: bool = False
    ) -> AddressBook:
        """The book of a folder; with `length`, only its first names.

        `thorough` reads all bytes and compares their checksums; else sizes alone are checked.

        Raises
        ------
        StoreError
            If there is none, it is of a later version, damaged, or has fewer than `length` names.
        """
        folder = Path(folder)
        head = _read_head(folder)
        if length is not None and not 0 <= length <= head["length"]:
            raise StoreError(
                f"expected at least {length:,} addresses in `{folder}`, got {head['length']:,}; "
                "restore a copy"
            )
        return cls(folder, head, head["length"] if length is None else length, thorough=thorough)

    def __len__(self) -> int:
        return self._length

    def ids(self, names: pl.Series) -> NDArray[np.int64]:
        """Ids of names, -1 where a name is unknown or null: (m,) int64.

        Complexity: two random reads a name.
        """
        names = names.cast(pl.String)
        ids = self._settle(names.fill_null(""), adding=False)
        ids[names.is_null().to_numpy()] = -1
        return ids

    def add(self, names: pl.Series) -> NDArray[np.int64]:
        """Ids of names, known or new: (m,) int64. Durable after `flush`.

        Raises
        ------
        InvalidTable
            If a name is null.
        StoreError
            If the book is full (2^31 - 2 names).
        """
        names = names.cast(pl.String)
        if names.null_count():
            row = int(names.is_null().arg_true()[0])
            raise InvalidTable(f"expected an address in each row, got null in row {row}")
        return self._settle(names, adding=True)

    def names(self, ids: NDArray[np.integer]) -> pl.Series:
        """Names of ids.

        Raises
        ------
        InvalidInput
            If an id is not in the book.
        """
        wanted = np.ascontiguousarray(ids, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise InvalidInput(
                f"expected ids of addresses from 0 to {len(self) - 1:,}, got {wanted.min():,} to "
                f"{wanted.max():,}"
            )
        ends = np.zeros(len(wanted) + 1, dtype=np.int64)
        nothing = np.empty(0, dtype=np.uint8)
        shelves = (self._base, self._tail, self._base_texts, self._tail_texts)
        _spell(wanted, *shelves, ends, nothing)
        texts = np.empty(max(int(ends[-1]), 1), dtype=np.uint8)
        _spell(wanted, *shelves, ends, texts)
        array = pa.LargeStringArray.from_buffers(
            len(wanted), pa.py_buffer(ends), pa.py_buffer(texts)
        )
        return pl.Series("name", pl.from_arrow(array))

    def flush(self) -> None:
        """Make all names durable. Cost grows with what is new.

        Raises
        ------
        StoreError
            If it cannot be written, or another process wrote; the names on disk are whole.
        """
        if not self._waiting() and not self._cut:
            return
        try:
            if _read_head(self.folder) != self._head:
                raise StoreError(
                    f"addresses in `{self.folder}` were changed by another process; open them again"
                )
            self._write()
        except OSError as error:
            self._grown = True  # slots may be half written: all of them next time
            if self._waiting() and self._head["length"] == self._length:
                self._map(self._length, thorough=False)
            raise StoreError(
                f"addresses cannot be written to `{self.folder}` ({error}); those there are "
                "whole: make room, then flush again"
            ) from error
        self._map(self._length, thorough=False)

    def cut(self, length: int) -> None:
        """Forget all names but the first `length`; only for ids that nothing refers to yet."""
        if not 0 <= length <= len(self):
            raise InvalidInput(f"expected a length of 0 to {len(self):,}, got {length:,}")
        if length < len(self._base):
            self._map(length, thorough=False)
            return
        keep = length - len(self._base)
        dropped = self._places[keep : self._tail_count]
        self._length, self._tail_count = length, keep
        self._tail_text_count = self._text_end(keep)
        if self._grown:
            self._lay_slots(length)
        else:
            self._slots[dropped] = 0  # the last ones in are the first ones out: no gap is left

    def _waiting(self) -> int:
        return self._length - len(self._base)

    def _text_end(self, count: int) -> int:
        """Bytes of texts of the first names of the tail."""
        rows = self._tail[:count]
        long = rows[rows[:, 0] == LONG]
        if not len(long):
            return 0
        words = np.ascontiguousarray(long[-1, 1:13])
        end = int(words[:8].view("<i8")[0]) + int(words[8:].view("<i4")[0])
        return end - len(self._base_texts)

    def _map(self, length: int, *, thorough: bool) -> None:
        """Take the first `length` names of the files; nothing waits to be written."""
        head = self._head
        names = _mapped(self.folder / "names.bin", head["length"] * WIDTH)
        texts = _mapped(self.folder / "texts.bin", head["text_bytes"])
        if thorough and (
            zlib.crc32(names.data) != head["names_crc"]
            or zlib.crc32(texts.data) != head["texts_crc"]
        ):
            raise _damaged(self.folder, "its bytes are not those that were written")
        self._cut = length < head["length"]
        self._base = names.reshape(-1, WIDTH)[:length]
        self._base_texts = texts
        self._tail = np.zeros((0, WIDTH), dtype=np.uint8)
        self._tail_texts = np.zeros(0, dtype=np.uint8)
        self._places = np.zeros(0, dtype=np.int64)
        self._tail_count = self._tail_text_count = 0
        self._length = length
        capacity = head["slots"]
        path = self.folder / f"slots-{capacity}.bin"
        whole = capacity is not None and path.exists() and path.stat().st_size == 4 * capacity
        if whole and not self._cut and not thorough:
            self._slots = _mapped(path, 4 * capacity).view(np.int32)
            self._grown = False
        else:
            self._lay_slots(length)

    def _lay_slots(self, length: int) -> None:
        """New slots with room for `length` names, at most two thirds full."""
        capacity = _FEWEST_SLOTS
        while 2 * capacity < 3 * length:
            capacity *= 2
        self._slots = np.zeros(capacity, dtype=np.int32)
        _place(self._base, self._tail[: self._tail_count], self._slots)
        self._grown = True

    def _settle(self, names: pl.Series, *, adding: bool) -> NDArray[np.int64]:
        ids = np.empty(len(names), dtype=np.int64)
        for start in range(0, len(names), _PIECE):
            data, ends = _buffers(names[start : start + _PIECE])
            count = len(ends) - 1
            records = np.zeros((count, WIDTH), dtype=np.uint8)
            text_bytes = int(_encode(data, ends, records))
            if adding:
                self._make_room(count, text_bytes)
            found = ids[start : start + count]
            new, self._tail_text_count = _find(
                records, data, self._base, self._tail, self._base_texts, self._tail_texts,
                self._tail_count, self._tail_text_count, self._slots, self._places, adding, found,
            )  # fmt: skip
            self._tail_count += new
            self._length += new
        return ids

    def _make_room(self, count: int, text_bytes: int) -> None:
        if self._length + count > MOST:
            raise StoreError(f"expected at most {MOST:,} addresses in `{self.folder}`")
        if 2 * len(self._slots) < 3 * (self._length + count):
            self._lay_slots(self._length + count)
        self._tail = _roomy(self._tail, self._tail_count, count)
        self._places = _roomy(self._places, self._tail_count, count)
        self._tail_texts = _roomy(self._tail_texts, self._tail_text_count, text_bytes)

    def _write(self) -> None:
        new, texts = self._tail[: self._tail_count], self._tail_texts[: self._tail_text_count]
        start, text_start = len(self._base), len(self._base_texts)
        head = dict(self._head)
        if self._cut:
            head |= {
                "length": start,
                "names_crc": zlib.crc32(np.ascontiguousarray(self._base).data),
            }
        # From here until the last step the slots are not to be trusted.
        self._say(head | {"slots": None})
        _write_at(self.folder / "names.bin", start * WIDTH, new)
        _write_at(self.folder / "texts.bin", text_start, texts)
        capacity = len(self._slots)
        path = self.folder / f"slots-{capacity}.bin"
        if self._grown:
            # Never cut short in place: another process may have it mapped.
            made = path.with_name(f".{path.name}.new")
            with made.open("wb") as file:
                file.write(self._slots.data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, path)
        else:
            places = self._places[: self._tail_count]
            slots = np.memmap(path, dtype=np.int32, mode="r+", shape=(capacity,))
            slots[places] = self._slots[places]
            slots.flush()
        self._say(
            head
            | {
                "length": start + len(new),
                "text_bytes": text_start + len(texts),
                "names_crc": zlib.crc32(np.ascontiguousarray(new).data, head["names_crc"]),
                "texts_crc": zlib.crc32(texts.data, head["texts_crc"]),
                "slots": capacity,
            }
        )
        for old in self.folder.glob("*slots-*"):
            if old != path:
                old.unlink()

    def _say(self, head: dict[str, Any]) -> None:
        try:
            replace_json(self.folder / "head.json", head)
        except OSError:
            if _read_head(self.folder) == head:  # it is there, though not confirmed
                self._head = head
            raise
        self._head = head


def text_hashes(texts: pl.Series) -> NDArray[np.uint64]:
    """A 64-bit hash of each text, the same on all machines and versions: (n,) uint64."""
    hashes = np.empty(len(texts), dtype=np.uint64)
    if len(texts):
        _hash_all(*_buffers(texts), hashes)
    return hashes


def replace_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file: after a crash it is the old one or the new one, whole."""
    made = path.with_name(f".{path.name}.new")
    with made.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(made, path)
    sync(path.parent)


def folded(address: str) -> str:
    """An address as it is looked up: what may be written in any case in lower case.

    Examples
    --------
    >>> folded("0X" + "AB" * 20) == "0x" + "ab" * 20, folded("Alice")
    (True, 'Alice')
    """
    return address.lower() if re.fullmatch(_CAPITALS, address) else address


def folded_column(address: pl.Expr) -> pl.Expr:
    """`folded` of a column."""
    is_one = address.str.contains(rf"^(?:{_CAPITALS})$")
    return pl.when(is_one).then(address.str.to_lowercase()).otherwise(address)


def _read_head(folder: Path) -> dict[str, Any]:
    head = read_description(
        folder / "head.json", format=FORMAT, version=VERSION, what="addresses",
        make="make them with `AddressBook.create`", again="update chopmark", damaged=_damaged,
    )  # fmt: skip
    sizes = [head.get(name) for name in ("length", "text_bytes", "names_crc", "texts_crc")]
    slots = head.get("slots")
    if not all(type(size) is int and 0 <= size < 2**48 for size in sizes) or not (
        slots is None
        # A power of two that leaves an empty slot, or a search would not end.
        or (type(slots) is int and head["length"] < slots <= 2**32 and slots & (slots - 1) == 0)
    ):
        raise _damaged(folder, "`head.json` lacks sizes, or has odd ones")
    return head


def _mapped(path: Path, size: int) -> NDArray[np.uint8]:
    """The first bytes of a file. Copy on write: a write stays in this process."""
    try:
        there = path.stat().st_size
        if there >= size:
            mode: Any = "c"
            return (
                np.asarray(np.memmap(path, dtype=np.uint8, mode=mode, shape=(size,)))
                if size
                else np.zeros(0, dtype=np.uint8)  # nothing to map
            )
    except OSError as error:
        raise _damaged(path.parent, f"file `{path.name}` cannot be read ({error})") from error
    raise _damaged(path.parent, f"file `{path.name}` has {there:,} bytes instead of {size:,}")


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(f"addresses in `{folder}` are damaged: {what}; restore a copy")


def _write_at(path: Path, start: int, values: NDArray[Any]) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(np.ascontiguousarray(values).data)
        file.flush()
        os.fsync(file.fileno())


def _roomy(array: NDArray[Any], used: int, more: int) -> NDArray[Any]:
    """The array with room for more, grown by doubling."""
    if used + more <= len(array):
        return array
    larger = np.zeros((max(used + more, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    larger[:used] = array[:used]
    return larger


def _buffers(texts: pl.Series) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """UTF-8 of all texts, and where each begins and ends: (n + 1,) int64."""
    array = texts.to_arrow()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    array = array.cast(pa.large_string())
    _, ends, data = array.buffers()
    offsets = np.frombuffer(ends, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data if data else b"-", dtype=np.uint8), offsets


@njit(cache=True, error_model="numpy")
def _hash_bytes(data, start, stop):
    """FNV-1a with splitmix64's finaliser behind."""
    h = np.uint64(0xCBF29CE484222325)
    for i in range(start, stop):
        h = (h ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
    return mix(h)


@njit(cache=True, error_model="numpy")
def _hash_all(data, ends, hashes):
    for i in range(len(ends) - 1):
        hashes[i] = _hash_bytes(data, ends[i], ends[i + 1])


@njit(cache=True, error_model="numpy")
def _put(row, start, width, value):
    value = np.uint64(value)
    for i in range(width):
        row[start + i] = np.uint8((value >> np.uint64(8 * i)) & np.uint64(255))


@njit(cache=True, error_model="numpy")
def _get(row, start, width):
    value = np.int64(0)
    for i in range(width):
        value |= np.int64(row[start + i]) << np.int64(8 * i)
    return value


@njit(cache=True, error_model="numpy")
def _encode(data, ends, records):
    """Records of texts; how many bytes the long ones take."""
    total = 0
    for i in range(len(ends) - 1):
        start, length = ends[i], ends[i + 1] - ends[i]
        row = records[i]
        if length == 42 and data[start] == 48 and (data[start + 1] | 32) == 120:
            sound = True
            for j in range(20):
                high = _DIGITS[data[start + 2 + 2 * j]]
                low = _DIGITS[data[start + 3 + 2 * j]]
                sound &= (high | low) < 16
                row[1 + j] = np.uint8(high << 4 | low & 15)
            if sound:
                row[0] = HEX
                continue
        if length <= 20:
            row[0] = np.uint8(length)
            for j in range(length):
                row[1 + j] = data[start + j]
        else:
            row[0] = LONG
            _put(row, 1, 8, start)
            _put(row, 9, 4, length)
            _put(row, 13, 8, _hash_bytes(data, start, start + length))
            total += length
    return total


@njit(cache=True, error_model="numpy", inline="always")
def _home(records, i):
    """The hash of a record; where the bytes of a long text stand is no part of it."""
    h = np.uint64(0xCBF29CE484222325)
    for j in range(9 if records[i, 0] == LONG else 0, 21):
        h = (h ^ np.uint64(records[i, j])) * np.uint64(0x100000001B3)
    return mix(h)


@njit(cache=True, error_model="numpy")
def _same(records, i, data, shelf, k, texts, shift):
    """Whether a name that is asked for is the one of a row of the book."""
    kind = records[i, 0]
    if kind != shelf[k, 0]:
        return False
    for j in range(9 if kind == LONG else 1, 21):
        if records[i, j] != shelf[k, j]:
            return False
    if kind == LONG:
        start, there = _get(records[i], 1, 8), _get(shelf[k], 1, 8) - shift
        for j in range(_get(records[i], 9, 4)):
            if data[start + j] != texts[there + j]:
                return False
    return True


@njit(cache=True, error_model="numpy")
def _find(
    records, data, base, tail, base_texts, tail_texts, used, used_texts, slots, places, adding, ids
):
    """Ids of records; new ones go to the tail. How many are new, and the tail's bytes of text."""
    mask = len(slots) - 1
    before = used
    length = len(base) + used
    for i in range(len(records)):
        slot = np.int64(_home(records, i) & np.uint64(mask))
        ids[i] = -1
        while slots[slot] != 0:
            known = slots[slot] - 1
            # A larger id is another process's, written since this book was opened.
            if known < length:
                if known < len(base):
                    same = _same(records, i, data, base, known, base_texts, 0)
                else:
                    k = known - len(base)
                    same = _same(records, i, data, tail, k, tail_texts, len(base_texts))
                if same:
                    ids[i] = known
                    break
            slot = (slot + 1) & mask
        if ids[i] == -1 and adding:
            ids[i] = length
            slots[slot] = length + 1
            places[used] = slot
            tail[used] = records[i]
            if records[i, 0] == LONG:
                start, size = _get(records[i], 1, 8), _get(records[i], 9, 4)
                _put(tail[used], 1, 8, len(base_texts) + used_texts)
                for j in range(size):
                    tail_texts[used_texts + j] = data[start + j]
                used_texts += size
            used += 1
            length += 1
    return used - before, used_texts


@njit(cache=True, error_model="numpy")
def _place(base, tail, slots):
    """Fill empty slots with all names."""
    mask = len(slots) - 1
    for known in range(len(base) + len(tail)):
        if known < len(base):
            slot = np.int64(_home(base, known) & np.uint64(mask))
        else:
            slot = np.int64(_home(tail, known - len(base)) & np.uint64(mask))
        while slots[slot] != 0:
            slot = (slot + 1) & mask
        slots[slot] = known + 1


@njit(cache=True, error_model="numpy")
def _spell(ids, base, tail, base_texts, tail_texts, ends, out):
    """Where the text of each id ends, if `out` is empty; else the texts."""
    for i in range(len(ids)):
        known = ids[i]
        row = base[known] if known < len(base) else tail[known - len(base)]
        kind = row[0]
        if len(out) == 0:
            size = 42 if kind == HEX else (_get(row, 9, 4) if kind == LONG else np.int64(kind))
            ends[i + 1] = ends[i] + size
            continue
        at = ends[i]
        if kind == HEX:
            out[at], out[at + 1] = 48, 120
            for j in range(20):
                for k in range(2):
                    digit = (row[1 + j] >> (4 * (1 - k))) & 15
                    out[at + 2 + 2 * j + k] = digit + (48 if digit < 10 else 87)
        elif kind == LONG:
            start = _get(row, 1, 8)
            for j in range(ends[i + 1] - at):
                if start < len(base_texts):
                    out[at + j] = base_texts[start + j]
                else:
                    out[at + j] = tail_texts[start - len(base_texts) + j]
        else:
            for j in range(kind):
                out[at + j] = row[1 + j]
