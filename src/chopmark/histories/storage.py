"""Histories as a folder of plain columns, written whole and opened by mapping, not by reading.

    folder/about.json       format, version, sizes, fields, words, and bytes and crc of each file
           offsets.npy      (u + 1,) int64
           times.npy        (n,) int64
           users.npy        (u,) int64, or the UTF-8 of all names with user_ends.npy (u + 1,)
           category_0.npy   (n,) int16 or int32, one file per category, "type" first
           number_0.npy     (n,) float32, one file per number

The folder is made under another name and renamed when it is complete: it is there whole or not
at all. Plain arrays and JSON; nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
import shutil
import tokenize
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from chopmark.errors import StoreError
from chopmark.histories.arranging import code_kind
from chopmark.histories.description import read_description

FORMAT = "chopmark-histories"
VERSION = 1

# What numpy raises on headers that are not of its making.
BROKEN = (
    ValueError, TypeError, SyntaxError, LookupError, ArithmeticError, RecursionError, MemoryError,
    OSError, EOFError, tokenize.TokenError,
)  # fmt: skip


class Column:
    """One .npy file that is written piece by piece; its length is known before."""

    def __init__(self, path: Path, kind: DTypeLike, length: int) -> None:
        self.kind, self.length, self.written = np.dtype(kind), length, 0
        self._file: BinaryIO = path.open("wb")
        header = np.lib.format.header_data_from_array_1_0(np.empty(0, dtype=self.kind))
        np.lib.format.write_array_header_1_0(self._file, {**header, "shape": (length,)})

    def append(self, values: NDArray[Any]) -> None:
        """Write the next values."""
        self.written += len(values)
        self._file.write(np.ascontiguousarray(values, dtype=self.kind).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
        if error is None and self.written != self.length:
            raise StoreError(f"expected {self.length:,} values to write, got {self.written:,}")


@contextmanager
def whole(folder: str | Path) -> Iterator[Path]:
    """A folder to fill that takes its name when all has gone well, and vanishes otherwise.

    Raises
    ------
    StoreError
        If something of that name is there already.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(
            f"expected a new folder to write to, but `{target}` is there; choose another name or "
            "remove it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield made
        made.chmod(0o755)
        for path in (*made.rglob("*"), made):
            sync(path)
        os.rename(made, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, outlast a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_users(folder: Path, users: pl.Series) -> None:
    """The names of users as arrays."""
    if users.dtype == pl.Int64:
        write_array(folder / "users.npy", users.to_numpy())
        return
    lengths = users.str.len_bytes().cast(pl.Int64).to_numpy()
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    texts = "".join(users.to_list()).encode()
    write_array(folder / "users.npy", np.frombuffer(texts, dtype=np.uint8))
    write_array(folder / "user_ends.npy", ends)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """One array at once."""
    with Column(path, array.dtype, len(array)) as column:
        column.append(array)


def write_about(
    folder: Path,
    *,
    num_users: int,
    num_events: int,
    user_kind: pl.DataType,
    until: int,
    words: Mapping[str, list[str]],
    numbers: list[str],
    calendar: bool = True,
) -> None:
    """The description, with the size and the checksum of each file that is there."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "users": num_users,
        "events": num_events,
        "user_kind": "number" if user_kind == pl.Int64 else "text",
        "until": until,
        "calendar": calendar,
        "categories": [{"name": name, "words": texts} for name, texts in words.items()],
        "numbers": numbers,
        "files": {
            path.name: {"bytes": path.stat().st_size, "crc32": crc_of(path)}
            for path in sorted(folder.glob("*.npy"))
        },
    }
    text = json.dumps(about, ensure_ascii=False, indent=1)
    with (folder / "about.json").open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def save(parts: Mapping[str, Any], folder: str | Path) -> None:
    """Write the fields of a `Histories` to a folder."""
    with whole(folder) as made:
        write_users(made, parts["users"])
        write_array(made / "offsets.npy", parts["offsets"])
        write_array(made / "times.npy", parts["times"])
        for place, codes in enumerate(parts["categories"].values()):
            write_array(made / f"category_{place}.npy", codes)
        for place, values in enumerate(parts["numbers"].values()):
            write_array(made / f"number_{place}.npy", values)
        write_about(
            made,
            num_users=len(parts["users"]),
            num_events=len(parts["times"]),
            user_kind=parts["users"].dtype,
            until=parts["until"],
            words={name: parts["words"][name] for name in parts["categories"]},
            numbers=list(parts["numbers"]),
            calendar=parts["calendar"],
        )


def read(folder: str | Path, *, thorough: bool) -> dict[str, Any]:
    """The fields of a `Histories` from a folder, mapped.

    Raises
    ------
    StoreError
        If the folder is no such folder, is of a later version, or is damaged.
    """
    folder = Path(folder)
    about = _about(folder)
    num_users, num_events = about["users"], about["events"]
    for name, facts in about["files"].items():
        _check_file(folder / name, facts, thorough=thorough)

    def column(name: str, kind: DTypeLike, length: int) -> NDArray[Any]:
        if f"{name}.npy" not in about["files"]:
            raise _damaged(folder, f"file `{name}.npy` is not in its list")
        return _mapped(folder / f"{name}.npy", np.dtype(kind), length)

    offsets = column("offsets", np.int64, num_users + 1)
    if offsets[0] != 0 or offsets[-1] != num_events or (np.diff(offsets) < 0).any():
        raise _damaged(folder, "`offsets.npy` does not lead from user to user")
    if about["user_kind"] == "number":
        users = pl.Series("user", column("users", np.int64, num_users))
    else:
        ends = column("user_ends", np.int64, num_users + 1)
        if ends[0] != 0 or (np.diff(ends) < 0).any():
            raise _damaged(folder, "`user_ends.npy` does not lead from name to name")
        texts = column("users", np.uint8, int(ends[-1]))
        users = _names(folder, texts, ends)
    if users.n_unique() != num_users:
        raise _damaged(folder, "`users.npy` names a user twice")
    words = {part["name"]: part["words"] for part in about["categories"]}
    found = {
        "users": users,
        "offsets": offsets,
        "times": column("times", np.int64, num_events),
        "categories": {
            name: column(f"category_{place}", code_kind(len(texts)), num_events)
            for place, (name, texts) in enumerate(words.items())
        },
        "numbers": {
            name: column(f"number_{place}", np.float32, num_events)
            for place, name in enumerate(about["numbers"])
        },
        "words": words,
        "until": about["until"],
        "calendar": about.get("calendar", True),
    }
    if thorough:
        for name, codes in found["categories"].items():
            if codes.max(initial=-1) >= len(words[name]) or codes.min(initial=-1) < -1:
                raise _damaged(folder, f"category `{name}` has codes without words")
        times = found["times"]
        backwards = np.flatnonzero(times[1:] < times[:-1]) + 1
        if not np.isin(backwards, offsets).all():
            raise _damaged(folder, "times of a user go backwards")
    return found


def _about(folder: Path) -> dict[str, Any]:
    about = read_description(
        folder / "about.json", format=FORMAT, version=VERSION, what="histories",
        make="make one with `Histories.save` or `chopmark.histories.build`",
        again="update chopmark, or build them again", damaged=_damaged,
    )  # fmt: skip
    if not _sound(about):
        raise _damaged(folder, "`about.json` lacks sizes, fields or words, or has odd ones")
    return about


def _sound(about: dict[str, Any]) -> bool:
    """Whether the description has all that is read from it, of the right kinds."""

    def texts(given: object) -> bool:
        return (
            isinstance(given, list)
            and all(isinstance(text, str) for text in given)
            and len(set(given)) == len(given)
        )

    def size(given: object) -> bool:
        return type(given) is int and 0 <= given < 2**48

    categories, files, until = about.get("categories"), about.get("files"), about.get("until")
    return (
        size(about.get("users"))
        and size(about.get("events"))
        and type(until) is int
        and -(2**63) <= until < 2**63
        and type(about.get("calendar", True)) is bool
        and about.get("user_kind") in ("number", "text")
        and texts(about.get("numbers"))
        and isinstance(categories, list)
        and all(isinstance(part, dict) and texts(part.get("words")) for part in categories)
        and texts([part.get("name") for part in categories])
        and [part["name"] for part in categories][:1] == ["type"]
        and not set(about["numbers"]) & {part["name"] for part in categories}
        and isinstance(files, dict)
        and all(
            isinstance(facts, dict) and size(facts.get("bytes")) and size(facts.get("crc32"))
            for facts in files.values()
        )
        # A name with a way in it would lead out of the folder.
        and all(name == Path(name).name and name.endswith(".npy") for name in files)
    )


def _check_file(path: Path, facts: dict[str, int], *, thorough: bool) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _damaged(path.parent, f"file `{path.name}` is missing") from error
    if size != facts["bytes"]:
        raise _damaged(
            path.parent, f"file `{path.name}` has {size:,} bytes instead of {facts['bytes']:,}"
        )
    if thorough and crc_of(path) != facts["crc32"]:
        raise _damaged(path.parent, f"file `{path.name}` has other bytes than were written")


def _mapped(path: Path, kind: np.dtype[Any], length: int) -> NDArray[Any]:
    """The array of a file. Copy on write, as kernels are compiled for arrays that may be written.

    A write stays in this process and never reaches the file.
    """
    try:
        array = (
            np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
            if length
            else np.load(path, allow_pickle=False)  # nothing to map
        )
    except BROKEN as error:
        raise _damaged(path.parent, f"file `{path.name}` is no array ({error})") from error
    if array.dtype != kind or array.shape != (length,):
        raise _damaged(
            path.parent,
            f"file `{path.name}` holds {array.shape} {array.dtype} instead of ({length},) {kind}",
        )
    return array


def _names(folder: Path, texts: NDArray[np.uint8], ends: NDArray[np.int64]) -> pl.Series:
    array = pa.LargeStringArray.from_buffers(
        len(ends) - 1, pa.py_buffer(np.ascontiguousarray(ends)), pa.py_buffer(texts)
    )
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise _damaged(folder, "`users.npy` is not UTF-8") from error
    return pl.Series("user", pl.from_arrow(array))


def crc_of(path: Path) -> int:
    """The checksum of a file, read piece by piece."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            crc = zlib.crc32(piece, crc)
    return crc


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(
        f"histories in `{folder}` are damaged: {what}; build them again, or restore a copy"
    )
