"""Histories larger than memory: frames go by twice, users are finished band by band.

The first pass counts events per user and finds the words; the second hands each row to the band
of users that it belongs to, a file per column, always at the end of the file; then each band is
sorted in memory and its columns are appended to the result. Resident at any time: a frame, a
band, and some 200 bytes per user and per word. The disk holds the data twice for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chopmark.errors import InvalidTable
from chopmark.histories import storage
from chopmark.histories.arranging import arranged, code_kind
from chopmark.histories.histories import Histories, instants
from chopmark.histories.reading import NEVER, Fields, Frame, Part, read_part

BAND_EVENTS = 2_000_000
"""Events of the users that are sorted at a time; one user alone may have more."""
_BATCH = 500_000
"""Rows that are read from a Parquet file at a time."""

Frames = Iterable[Frame] | Callable[[], Iterable[Frame]]


def build(
    folder: str | Path,
    frames: Frames,
    *,
    user: str = "user",
    time: str = "happened_at",
    type: str = "type",
    categories: Sequence[str] | None = None,
    numbers: Sequence[str] | None = None,
    until: datetime | str | int | None = None,
    band_events: int = BAND_EVENTS,
) -> Histories:
    """Build histories in a folder from frames that need not fit in memory together.

    The result is the same as `Histories.from_frame` of all frames below each other.

    Parameters
    ----------
    folder
        A new folder; it is there whole or not at all.
    frames
        Tables or paths of Parquet files (read half a million rows at a time), in a list or
        behind a function that begins anew at each call: they are gone through twice.
    user, time, type, categories, numbers, until
        As for `Histories.from_frame`.
    band_events : int, > 0
        Events sorted in memory at a time.

    Returns
    -------
    The opened histories, mapped.

    Raises
    ------
    InvalidTable
        If a frame cannot be read, a field turns from number to text from one part to another,
        or the frames are not the same at the second pass.
    StoreError
        If the folder is there already.

    Notes
    -----
    Resident memory: one frame + about (60 + 2 * row bytes) * `band_events` + about 200 bytes per
    user and word, whatever the number of events.
    """
    if band_events <= 0:
        raise InvalidTable(f"expected `band_events` above 0, got {band_events}")
    if isinstance(frames, Iterator):
        raise InvalidTable(
            "expected frames that can be gone through twice, got an iterator, which is spent "
            "after one pass; give a list of paths, or a function that returns a new iterator"
        )
    mark = None if until is None else int(instants(until)[0])
    fields = Fields(user, time, type, categories, numbers)
    survey = _Survey()
    for place, part in _parts(frames, fields, mark):
        survey.add(part, place)
    names, counts = survey.users()
    with storage.whole(folder) as made:
        with TemporaryDirectory(prefix="bands-", dir=made) as spilled:
            bands = _Bands(Path(spilled), counts, band_events, survey)
            for place, part in _parts(frames, fields, mark):
                bands.add(part, names, place)
            bands.finish(made)
        storage.write_users(made, names)
        offsets = np.zeros(len(names) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        storage.write_array(made / "offsets.npy", offsets)
        storage.write_about(
            made,
            num_users=len(names),
            num_events=int(offsets[-1]),
            user_kind=names.dtype,
            until=survey.latest if mark is None else mark,
            words=survey.words(),
            numbers=survey.numbers(),
        )
    return Histories.open(folder)


def _parts(frames: Frames, fields: Fields, until: int | None) -> Iterator[tuple[str, Part]]:
    """Each frame as a part, with words for messages about it."""
    given = frames() if callable(frames) else frames
    for number, frame in enumerate(given, start=1):
        for place, piece in _pieces(frame, f"part {number}"):
            part = read_part(piece, fields, f"{place}: ")
            yield place, part if until is None else part.up_to(until)


def _pieces(frame: Frame, place: str) -> Iterator[tuple[str, Frame]]:
    if not isinstance(frame, (str, Path)):
        yield place, frame
        return
    try:
        with pq.ParquetFile(frame) as file:
            begin = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                yield f"{place} (`{frame}`, from row {begin:,})", pa.Table.from_batches([batch])
                begin += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InvalidTable(
            f"{place}: expected a Parquet file at `{frame}`, but it cannot be read: {error}"
        ) from error


class _Survey:
    """What the first pass finds: users with counts, fields with kinds, words with first times."""

    def __init__(self) -> None:
        self.latest = NEVER
        self._users: list[pl.DataFrame] = []
        self._merged = 0  # rows when users were merged last
        self._kinds: dict[str, tuple[str, str]] = {}  # field -> kind, where it was seen first
        self._firsts: dict[str, pl.DataFrame] = {}

    def add(self, part: Part, place: str) -> None:
        for name, kind in (
            *((name, "text") for name in part.categories),
            *((name, "number") for name in part.numbers),
        ):
            known, where = self._kinds.setdefault(name, (kind, place))
            if known != kind:
                raise InvalidTable(
                    f"{place}: expected field `{name}` as {known}, as {where} has it, got {kind}; "
                    "cast the column, or name it in `categories` or `numbers`"
                )
        self._count(part.users.alias("user").to_frame().group_by("user").len("n"), place)
        for name, texts in part.categories.items():
            rows = pl.DataFrame({"word": texts, "first": part.times}).drop_nulls("word")
            firsts = rows.group_by("word").agg(pl.col("first").min())
            if name in self._firsts:
                both = pl.concat([self._firsts[name], firsts])
                firsts = both.group_by("word").agg(pl.col("first").min())
            self._firsts[name] = firsts
        if len(part.times):
            self.latest = max(self.latest, int(part.times.max()))

    def _count(self, counts: pl.DataFrame, place: str) -> None:
        if self._users and self._users[0]["user"].dtype != counts["user"].dtype:
            raise InvalidTable(
                f"{place}: expected users as {self._users[0]['user'].dtype}, as the parts before "
                f"have them, got {counts['user'].dtype}; cast the column first"
            )
        self._users.append(counts)
        # Merged when they have doubled: all merges together cost what the last one does, twice.
        if sum(map(len, self._users)) > 2 * self._merged + _BATCH:
            self._merge()

    def _merge(self) -> None:
        self._users = [pl.concat(self._users).group_by("user").agg(pl.col("n").sum())]
        self._merged = len(self._users[0])

    def users(self) -> tuple[pl.Series, NDArray[np.int64]]:
        """Sorted names, and their numbers of events."""
        if not self._users:
            raise InvalidTable("expected one frame at least, got none")
        self._merge()
        users = self._users[0].sort("user")
        self._users = []
        return users["user"], users["n"].cast(pl.Int64).to_numpy()

    def words(self) -> dict[str, list[str]]:
        """Words in order of their first event, ``type`` first."""
        return {
            name: firsts.sort("first", "word")["word"].to_list()
            for name, firsts in self._firsts.items()
        }

    def numbers(self) -> list[str]:
        return [name for name, (kind, _) in self._kinds.items() if kind == "number"]


class _Bands:
    """Rows on disk by bands of users, and the columns that are made of them."""

    def __init__(
        self, folder: Path, counts: NDArray[np.int64], band_events: int, survey: _Survey
    ) -> None:
        self._folder = folder
        self._counts = counts
        self._starts = _band_starts(counts, band_events)  # first user of each band
        self._words = {name: pl.Series(words, dtype=pl.String)
                       for name, words in survey.words().items()}  # fmt: skip
        self._enums = {name: pl.Enum(words) for name, words in self._words.items()}
        self._numbers = survey.numbers()
        self._user_enum: pl.Enum | None = None
        self._columns: dict[str, np.dtype[Any]] = {
            "user": np.dtype(np.int32),
            "times": np.dtype(np.int64),
        }
        for place, words in enumerate(self._words.values()):
            self._columns[f"category_{place}"] = np.dtype(code_kind(len(words)))
        for place in range(len(self._numbers)):
            self._columns[f"number_{place}"] = np.dtype(np.float32)

    def add(self, part: Part, names: pl.Series, place: str) -> None:
        """Append the rows of a part to the files of their bands."""
        if not len(part.times):
            return
        users = self._places(part.users, names, place)
        band = (np.searchsorted(self._starts, users, side="right") - 1).astype(np.int32)
        # Equal times everywhere: rows of a band keep their order.
        offsets, order = arranged(band, np.zeros(len(band), dtype=np.int64), len(self._starts))
        columns: dict[str, NDArray[Any]] = {"user": users, "times": part.times}
        for number, (name, enum) in enumerate(self._enums.items()):
            texts = part.categories.get(name)
            codes = (
                np.full(len(users), -1)
                if texts is None
                else self._codes(texts, enum, place).to_numpy()
            )
            columns[f"category_{number}"] = codes
        for number, name in enumerate(self._numbers):
            columns[f"number_{number}"] = part.numbers.get(
                name, np.full(len(users), np.nan, dtype=np.float32)
            )
        for name, column in columns.items():
            arranged_column = column[order].astype(self._columns[name])
            for band_number in np.flatnonzero(np.diff(offsets)).tolist():
                with self._path(band_number, name).open("ab") as file:
                    arranged_column[offsets[band_number] : offsets[band_number + 1]].tofile(file)

    def finish(self, folder: Path) -> None:
        """Sort band after band and append its columns to those of the folder."""
        num_events = int(self._counts.sum())
        with ExitStack() as stack:
            out = {
                name: stack.enter_context(storage.Column(folder / f"{name}.npy", kind, num_events))
                for name, kind in self._columns.items()
                if name != "user"
            }
            ends = np.append(self._starts, len(self._counts))[1:]
            for number, (start, end) in enumerate(zip(self._starts, ends, strict=True)):
                expected = self._counts[start:end]
                users = self._read(number, "user")
                times = self._read(number, "times")
                found = np.bincount(users - start, minlength=int(end - start))
                if not np.array_equal(found, expected):
                    raise _changed("")
                _, order = arranged(users - np.int32(start), times, int(end - start))
                out["times"].append(times[order])
                for name in out:
                    if name != "times":
                        out[name].append(self._read(number, name)[order])
                for name in self._columns:
                    self._path(number, name).unlink(missing_ok=True)

    def _read(self, number: int, name: str) -> NDArray[Any]:
        path = self._path(number, name)
        kind = self._columns[name]
        return np.fromfile(path, dtype=kind) if path.exists() else np.empty(0, dtype=kind)

    def _path(self, number: int, name: str) -> Path:
        return self._folder / f"{number}-{name}.bin"

    def _places(self, users: pl.Series, names: pl.Series, place: str) -> NDArray[np.int32]:
        if users.dtype == pl.Int64:
            known = names.to_numpy()
            found = np.minimum(np.searchsorted(known, users.to_numpy()), len(known) - 1)
            if (known[found] != users.to_numpy()).any():
                raise _changed(place)
            return found.astype(np.int32)
        if self._user_enum is None:
            self._user_enum = pl.Enum(names)
        return self._codes(users, self._user_enum, place).to_numpy()

    def _codes(self, texts: pl.Series, enum: pl.Enum, place: str) -> pl.Series:
        try:
            return texts.cast(enum).to_physical().cast(pl.Int32).fill_null(-1)
        except pl.exceptions.PolarsError as error:
            raise _changed(place) from error


def _band_starts(counts: NDArray[np.int64], band_events: int) -> NDArray[np.int64]:
    """First users of bands that have so many events at most, or one user."""
    starts = []
    ends = np.cumsum(counts)
    user = 0
    while user < len(counts):
        starts.append(user)
        before = int(ends[user - 1]) if user else 0
        user = max(int(np.searchsorted(ends, before + band_events, side="right")), user + 1)
    return np.array(starts, dtype=np.int64)


def _changed(place: str) -> InvalidTable:
    where = f"{place}: " if place else ""
    return InvalidTable(
        f"{where}expected the same rows at the second pass as at the first, got others; do not "
        "write to the source while histories are built from it"
    )
