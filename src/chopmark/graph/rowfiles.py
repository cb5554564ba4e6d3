"""Arrays in files of which an update changes a few rows: a base that stays, and those rows.

    vectors.npy          the base: all rows as they once were, and room behind them
    vectors.rows.npy     (k,) int64, sorted: which rows are others since, or came since
    vectors.values.npy   (k, ...): what they are

A base is never written again. The next version of an array, in a folder of its own, has the same
base under a second name (a hard link) and its own rows, so saving costs what has changed, any
folder can be removed, and none depends on another. When the rows are too many, or have no room
left, or the base is gone, one is written anew. An array that was opened is mapped copy on write,
with its room: it grows (`extended`) and changes in memory alone, and no page is read before it is
needed.
Serves row H11 of the requirements.
"""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import StoreError
from chopmark.histories.storage import BROKEN, crc_of, write_array

Facts = dict[str, Any]
"""Of one array, for an ``about.json``: its rows, and rows, bytes and checksum of its files."""

MOST_CHANGED = 0.25
"""A base is written anew when more than this share of rows is not in it."""
_ROOM = 0.125
_PIECE = 1 << 24

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What a file holds of an array, and which rows of it are others by now.

    Attributes
    ----------
    base
        The file.
    facts
        Its own ones: rows, bytes, crc32.
    rows : (k,) int64
        Sorted; rows behind those of the base are not among them.
    stamp
        What tells the file from another that took its place.
    """

    base: Path
    facts: Facts
    rows: NDArray[np.int64]
    stamp: _Stamp | None

    def changed(self, rows: ArrayLike) -> Kept:
        """The same, with more rows that are others by now."""
        more = np.asarray(rows, dtype=np.int64)
        more = more[more < self.facts["rows"]]
        return replace(self, rows=np.union1d(self.rows, more))


def extended(array: NDArray[Any], length: int) -> NDArray[Any]:
    """An array with more rows, zeros at first; in its own memory where that has room behind it.

    Only for arrays that are nobody else's: `array` may be a view of what comes out.
    """
    owner = array.base
    if (
        isinstance(owner, np.ndarray)
        and owner.dtype == array.dtype
        and owner.shape[1:] == array.shape[1:]
        and owner.ctypes.data == array.ctypes.data
        and len(owner) >= length
    ):
        more = owner[:length]
        more[len(array) :] = 0
        return more
    owner = np.zeros((length + int(_ROOM * length) + 64, *array.shape[1:]), dtype=array.dtype)
    owner[: len(array)] = array
    return owner[:length]


def write_rows(
    folder: Path,
    name: str,
    array: NDArray[Any],
    kept: Kept | None = None,
    *,
    appended: bool = False,
) -> Facts:
    """Write an array: what has changed since `kept`, or all of it.

    Parameters
    ----------
    appended
        Rows that came may be as many as there is room for: of arrays that only grow.
    """
    if kept is not None:
        known = kept.facts["rows"]
        num_new = len(array) - known
        most = MOST_CHANGED * max(len(array), 1)
        few = num_new >= 0 and len(kept.rows) + (0 if appended else num_new) <= most
        if few and _is_there(kept) and len(array) <= _room_of(kept.base):
            rows = np.concatenate([kept.rows, np.arange(known, len(array))])
            _link(kept.base, folder / f"{name}.npy")
            write_array(folder / f"{name}.rows.npy", rows)
            _write_base(folder / f"{name}.values.npy", array[rows], len(rows))
            patch = {part: _facts_of(folder / f"{name}.{part}.npy") for part in ("rows", "values")}
            return {"rows": len(array), "base": kept.facts, "patch": patch}
    room = len(array) + int((0.5 if appended else _ROOM) * len(array)) + 64
    base = _write_base(folder / f"{name}.npy", array, room)
    return {"rows": len(array), "base": base, "patch": None}


def kept_of(folder: Path, name: str, facts: Facts, kept: Kept | None) -> Kept:
    """What a folder keeps of an array that `write_rows` has just written to it."""
    nothing = np.empty(0, dtype=np.int64)
    rows = nothing if facts["patch"] is None or kept is None else kept.rows
    path = folder / f"{name}.npy"
    return Kept(path, facts["base"], rows, _stamp(path))


def open_rows(
    folder: Path, name: str, facts: object, kind: Any, *width: int, thorough: bool = False
) -> tuple[NDArray[Any], Kept]:
    """An array as it was written, mapped copy on write, and what is kept of it.

    Parameters
    ----------
    facts
        What `write_rows` gave.
    kind, width
        Of its rows.
    thorough
        Also read all of the base and compare it with its checksum.

    Raises
    ------
    StoreError
        If a file is missing, or is not what was written.
    """
    if not _sound(facts):
        raise StoreError(f"it lacks sizes of `{name}`, or has odd ones")
    assert isinstance(facts, dict)
    size, base, patch = facts["rows"], facts["base"], facts["patch"]
    path = folder / f"{name}.npy"
    owner = _mapped(path, kind, width, base["bytes"])
    if len(owner) < max(size, base["rows"]):
        raise StoreError(f"file `{path.name}` has {len(owner):,} rows instead of {size:,}")
    if thorough and _crc(owner[: base["rows"]]) != base["crc32"]:
        raise StoreError(f"file `{path.name}` has other bytes than were written")
    rows = np.empty(0, dtype=np.int64)
    array = owner[:size]
    if patch is None:
        if size != base["rows"]:
            raise StoreError(f"`{name}` has {size:,} rows, and its file {base['rows']:,}")
        return array, Kept(path, base, rows, _stamp(path))
    for part in ("rows", "values"):
        beside = folder / f"{name}.{part}.npy"
        _check_bytes(beside, patch[part]["bytes"])
        if crc_of(beside) != patch[part]["crc32"]:  # they are small
            raise StoreError(f"file `{beside.name}` has other bytes than were written")
    rows = _loaded(folder / f"{name}.rows.npy", np.int64, ())
    values = _loaded(folder / f"{name}.values.npy", kind, width)
    fits = len(rows) == len(values) and (
        not len(rows) or (rows[0] >= 0 and rows[-1] < size and (np.diff(rows) > 0).all())
    )
    num_new = len(rows) - int(np.searchsorted(rows, base["rows"]))
    if not fits or num_new != size - base["rows"]:
        raise StoreError(f"file `{name}.rows.npy` does not tell which rows changed")
    array[rows] = values
    return array, Kept(path, base, rows[: len(rows) - num_new], _stamp(path))


def _write_base(path: Path, array: NDArray[Any], room: int) -> Facts:
    """All rows, and room behind them that takes no space on the disk."""
    crc = 0
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(np.empty(0, dtype=array.dtype))
        shape = (room, *array.shape[1:])
        np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
        begin = file.tell()
        step = max(1, _PIECE // max(1, array[:1].nbytes))
        for low in range(0, len(array), step):
            part = _bytes(array[low : low + step])
            crc = zlib.crc32(part, crc)
            file.write(part)
        file.flush()
        width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        os.truncate(file.fileno(), begin + room * width)
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    return {"rows": len(array), "bytes": size, "crc32": crc}


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _is_there(kept: Kept) -> bool:
    """Whether the base was not removed meanwhile, and none of its name has taken its place."""
    return kept.stamp is not None and _stamp(kept.base) == kept.stamp


def _room_of(base: Path) -> int:
    """Rows that a base has space for."""
    return len(np.load(base, mmap_mode="r", allow_pickle=False))


def _link(base: Path, path: Path) -> None:
    """The base under a second name; a copy where the file system knows no such thing."""
    try:
        os.link(base, path)
    except OSError:
        shutil.copyfile(base, path)


def _facts_of(path: Path) -> Facts:
    return {"bytes": path.stat().st_size, "crc32": crc_of(path)}


def _crc(array: NDArray[Any]) -> int:
    return zlib.crc32(_bytes(array))


def _bytes(array: NDArray[Any]) -> Any:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _sound(facts: object) -> bool:
    def sizes(given: object, *names: str) -> bool:
        return isinstance(given, dict) and all(
            type(given.get(name)) is int and 0 <= given[name] <= 2**48 for name in names
        )

    if not isinstance(facts, dict) or not sizes(facts, "rows"):
        return False
    patch = facts.get("patch")
    return sizes(facts.get("base"), "rows", "bytes", "crc32") and (
        patch is None
        or (
            isinstance(patch, dict)
            and all(sizes(patch.get(part), "bytes", "crc32") for part in ("rows", "values"))
        )
    )


def _check_bytes(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StoreError(f"file `{path.name}` is missing") from error
    if size != expected:
        raise StoreError(f"file `{path.name}` has {size:,} bytes instead of {expected:,}")


def _mapped(path: Path, kind: Any, width: tuple[int, ...], expected: int) -> NDArray[Any]:
    _check_bytes(path, expected)
    return _of_kind(path, "c", kind, width)


def _loaded(path: Path, kind: Any, width: tuple[int, ...]) -> NDArray[Any]:
    return _of_kind(path, None, kind, width)


def _of_kind(path: Path, mode: Any, kind: Any, width: tuple[int, ...]) -> NDArray[Any]:
    try:
        array = np.asarray(np.load(path, mmap_mode=mode, allow_pickle=False))
    except BROKEN as error:
        raise StoreError(f"file `{path.name}` is no array ({error})") from error
    if array.dtype != np.dtype(kind) or array.shape[1:] != width or array.ndim != 1 + len(width):
        raise StoreError(
            f"file `{path.name}` holds {array.shape} {array.dtype} instead of rows of "
            f"{width or 'one'} {np.dtype(kind)}"
        )
    return array
