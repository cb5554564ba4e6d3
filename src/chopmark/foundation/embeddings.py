"""The vectors of all users in one space, kept up to date for those with new events.

    vectors = Embeddings.of(model, histories)
    vectors = vectors.updated(model, newer)     # only users with events since are embedded
    vectors.save("embeddings")

A vector is of a user, as of an instant, in a space; vectors of two spaces do not compare, and
nothing here mixes them. On disk: one memory-mapped array and a table. Serves G1, G5 and G15.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidInput, InvalidTable
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Histories
from chopmark.histories.histories import names_of, places_of
from chopmark.histories.joining import instant_text
from chopmark.histories.storage import BROKEN, crc_of

_FORMAT = "chopmark-embeddings"
_VERSION = 2
_AT_ONCE = 1 << 28
"""Bytes of vectors whose checksum is compared by every `open`: a quarter of a second."""
_BEFORE_ALL = -(1 << 62)


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of users.

    Attributes
    ----------
    space
        Of the model that made them.
    users : (u,) Int64 or String
    vectors : (u, width) float32
    as_of : (u,) int64
        Microseconds: the instant that each vector is seen from.
    counts : (u,) int64
        Events of each user that had happened by then, as far as they were known.
    """

    space: str
    users: pl.Series
    vectors: NDArray[np.float32]
    as_of: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of users."""
        return len(self.users)

    @classmethod
    def of(
        cls,
        model: UserModel,
        histories: Histories,
        *,
        as_of: Any = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Self:
        """The vectors of all users, as of an instant: the end of the histories by default."""
        now = histories.until if as_of is None else as_of
        pieces = histories.every(now, last=model.shape.length)
        vectors = model.embed(pieces, on_progress=on_progress)
        counts = histories.every(now).lengths
        return cls(model.space, histories.users, vectors, pieces.now, counts)

    def updated(self, model: UserModel, histories: Histories, *, as_of: Any = None) -> Self:
        """The same with new vectors for users who have an event that theirs does not know, and
        for new users; the others keep theirs, as of when it was made.

        An event that came in late counts too: it may have happened before the old vector's
        instant. What changed without changing a user's newest event or number of events is not
        seen (an event that was corrected, say): embed all users anew.

        Parameters
        ----------
        histories
            All events, the old ones too.
        as_of
            An instant not before those of the vectors; None: the end of the histories.

        Raises
        ------
        ArtifactError
            If the model makes vectors of another space.
        InvalidInput
            If a vector is seen from an instant after `as_of`: it would know the future.
        InvalidTable
            If the users are numbers on one side and texts on the other.
        """
        if model.space != self.space:
            raise ArtifactError(
                f"the vectors are of space {self.space} and the model makes those of "
                f"{model.space}, which do not compare; embed all users anew (Embeddings.of)"
            )
        now = histories.until if as_of is None else as_of
        if not len(histories):
            return self
        pieces = histories.every(now, last=model.shape.length)
        counts = histories.every(now).lengths
        rows = places_of(self.users, histories.users, "the embeddings")
        known = rows >= 0
        before = np.full(len(rows), _BEFORE_ALL)
        before[known] = self.as_of[rows[known]]
        latest = int(self.as_of.max(initial=_BEFORE_ALL))
        if latest > pieces.now.max() or (before > pieces.now).any():
            raise InvalidInput(
                "expected an instant (as_of) not before those of the vectors, up to "
                f"{instant_text(latest)}, got {instant_text(int(pieces.now.min()))}; give a later "
                "one, or embed all users anew (Embeddings.of)"
            )
        some = pieces.lengths > 0
        newest = np.full(len(rows), _BEFORE_ALL)
        newest[some] = histories.times[pieces.ends[some] - 1]
        seen_before = np.zeros(len(rows), dtype=np.int64)
        seen_before[known] = self.counts[rows[known]]
        stale = ~known | (newest > before) | (counts != seen_before)
        old, new = stale & known, stale & ~known
        vectors, instants, seen = self.vectors.copy(), self.as_of.copy(), self.counts.copy()
        fresh = model.embed(pieces[stale])
        vectors[rows[old]] = fresh[known[stale]]
        instants[rows[old]] = pieces.now[old]
        seen[rows[old]] = counts[old]
        users = histories.users.filter(pl.Series(new))
        return type(self)(
            self.space,
            pl.concat([self.users, users]) if len(self) else users,
            np.concatenate([vectors, fresh[~known[stale]]]),
            np.concatenate([instants, pieces.now[new]]),
            np.concatenate([seen, counts[new]]),
        )

    def of_users(self, users: pl.Series | Sequence[Any]) -> NDArray[np.float32]:
        """(k, width) vectors of some users, in their order.

        Raises
        ------
        InvalidTable
            If one of them has none; the message names the first. If they are numbers where the
            vectors are of texts, or the other way round.
        """
        asked = names_of(users)
        rows = places_of(self.users, asked, "the embeddings")
        missing = rows < 0
        if missing.any():
            raise InvalidTable(
                f"expected users that have a vector, {missing.sum()} of {len(asked)} have "
                f"none, `{asked[int(missing.argmax())]}` first; update the embeddings with their "
                "events"
            )
        found: NDArray[np.float32] = self.vectors[rows]
        return found

    def table(self) -> pl.DataFrame:
        """``user``, ``as_of`` (UTC) and ``embedding``, an array column."""
        return pl.DataFrame(
            {
                "user": self.users,
                "as_of": pl.Series(self.as_of).cast(pl.Datetime("us", "UTC")),
                "embedding": pl.Series(self.vectors),
            }
        )

    def save(self, folder: str | Path) -> None:
        """Write a folder, whole or not at all; embeddings that are there are replaced.

        Raises
        ------
        ArtifactError
            If something else is there: it is left as it is.
        """
        folder = Path(folder)
        if os.path.lexists(folder) and not _replaceable(folder):
            raise ArtifactError(
                f"expected a new folder, an empty one or one of embeddings to write to, but "
                f"`{folder}` is something else; choose another name"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            np.save(fresh / "vectors.npy", self.vectors, allow_pickle=False)
            table = self.table().select("user", "as_of")
            table.with_columns(events=pl.Series(self.counts)).write_parquet(fresh / "users.parquet")
            about = {
                "format": _FORMAT,
                "version": _VERSION,
                "space": self.space,
                "shape": self.vectors.shape,
                "files": {
                    name: {"bytes": (fresh / name).stat().st_size, "crc32": crc_of(fresh / name)}
                    for name in ("vectors.npy", "users.parquet")
                },
            }
            (fresh / "about.json").write_text(json.dumps(about))
            if folder.exists():
                old = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
                folder.rename(old / "old")
                fresh.rename(folder)
                rmtree(old)
            else:
                fresh.rename(folder)
        finally:
            rmtree(fresh, ignore_errors=True)

    @classmethod
    def open(cls, folder: str | Path, *, thorough: bool = False) -> Self:
        """The vectors of a folder, memory-mapped.

        Parameters
        ----------
        thorough
            Compare the checksum of the vectors even if they are more than 256 MB.

        Raises
        ------
        ArtifactError
            If it is no such folder, or parts of it are missing, cut or changed.
        """
        folder = Path(folder)
        try:
            about = _about(folder)
            if about["version"] != _VERSION:
                raise ValueError(f"version {about['version']!r} instead of {_VERSION}")
            for name in ("vectors.npy", "users.parquet"):
                _check_file(folder, name, about["files"][name], thorough=thorough)
            # Only now: what has the bytes that were written can be read.
            users = pl.read_parquet(folder / "users.parquet")
            vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
            if list(vectors.shape) != about["shape"] or vectors.ndim != 2:
                raise ValueError(f"vectors of shape {vectors.shape} instead of {about['shape']}")
            if len(users) != len(vectors) or vectors.dtype != np.float32:
                raise ValueError(
                    f"{len(vectors)} vectors of {vectors.dtype} instead of {len(users)} of float32"
                )
            if users["user"].dtype not in (pl.Int64, pl.String):
                raise ValueError(f"users of {users['user'].dtype}")
            missing = any(users[name].null_count() for name in ("user", "as_of", "events"))
            if missing or users["user"].is_duplicated().any():
                raise ValueError("a user without a name, an instant or a count, or named twice")
            as_of = users["as_of"].dt.epoch("us").to_numpy()
            counts = users["events"].cast(pl.Int64).to_numpy()
            return cls(str(about["space"]), users["user"], vectors, as_of, counts)
        except (*BROKEN, AttributeError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(
                f"`{folder}` cannot be read as embeddings ({error}); write it anew"
            ) from error


def _about(folder: Path) -> dict[str, Any]:
    """The description of a folder of embeddings; an error of `BROKEN` if it is none."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ValueError(f"`about.json` is not of format `{_FORMAT}`")
    return about


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty or one of embeddings."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        _about(folder)
    except BROKEN:
        return False
    return True


def _check_file(folder: Path, name: str, facts: dict[str, int], *, thorough: bool) -> None:
    size = (folder / name).stat().st_size
    if size != facts["bytes"]:
        raise ValueError(f"`{name}` has {size:,} bytes instead of {facts['bytes']:,}")
    if (thorough or size <= _AT_ONCE) and crc_of(folder / name) != facts["crc32"]:
        raise ValueError(f"`{name}` has other bytes than were written")
