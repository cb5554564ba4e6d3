"""The vectors of all users in one space, kept up to date for those with new events.

    vectors = Embeddings.of(model, histories)
    vectors = vectors.updated(model, newer)     # only users with events since are embedded
    vectors.save("embeddings")

A vector is of a user, as of an instant, in a space; vectors of two spaces do not compare, and
nothing here mixes them. On disk: one memory-mapped array and a table. Serves G1, G5 and G15.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidTable
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Histories

_FORMAT = 1


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
    """

    space: str
    users: pl.Series
    vectors: NDArray[np.float32]
    as_of: NDArray[np.int64]

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
        return cls(model.space, histories.users, vectors, pieces.now)

    def updated(self, model: UserModel, histories: Histories, *, as_of: Any = None) -> Self:
        """The same with new vectors for users who had an event since theirs was made, and for
        new users; the others keep theirs, as of when it was made.

        Raises
        ------
        ArtifactError
            If the model makes vectors of another space.
        """
        if model.space != self.space:
            raise ArtifactError(
                f"the vectors are of space {self.space} and the model makes those of "
                f"{model.space}, which do not compare; embed all users anew (Embeddings.of)"
            )
        now = histories.until if as_of is None else as_of
        pieces = histories.every(now, last=model.shape.length)
        known = pl.DataFrame({"user": self.users, "row": np.arange(len(self))})
        rows = (
            pl.DataFrame({"user": histories.users})
            .join(known, on="user", how="left", maintain_order="left")["row"]
            .fill_null(-1)
            .to_numpy()
        )
        newest = np.where(
            pieces.lengths > 0, histories.times[np.maximum(pieces.ends - 1, 0)], -(1 << 62)
        )
        before = np.where(rows >= 0, self.as_of[np.maximum(rows, 0)], -(1 << 62))
        stale = (rows < 0) | (newest > before)
        vectors, seen = self.vectors.copy(), self.as_of.copy()
        fresh = model.embed(pieces[stale])
        old = rows[stale] >= 0
        vectors[rows[stale][old]] = fresh[old]
        seen[rows[stale][old]] = pieces.now[stale][old]
        return type(self)(
            self.space,
            pl.concat([self.users, histories.users.filter(pl.Series(stale & (rows < 0)))]),
            np.concatenate([vectors, fresh[~old]]),
            np.concatenate([seen, pieces.now[stale][~old]]),
        )

    def of_users(self, users: pl.Series | Sequence[Any]) -> NDArray[np.float32]:
        """(k, width) vectors of some users, in their order.

        Raises
        ------
        InvalidTable
            If one of them has none; the message names the first.
        """
        asked = pl.Series("user", users, dtype=self.users.dtype)
        known = pl.DataFrame({"user": self.users, "row": np.arange(len(self))})
        rows = asked.to_frame().join(known, on="user", how="left", maintain_order="left")["row"]
        if rows.null_count():
            first = asked.filter(rows.is_null())[0]
            raise InvalidTable(
                f"expected users that have a vector, {rows.null_count()} of {len(asked)} have "
                f"none, `{first}` first; update the embeddings with their events"
            )
        found: NDArray[np.float32] = self.vectors[rows.to_numpy()]
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
        """Write a folder, whole or not at all; one that is there is replaced."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            np.save(fresh / "vectors.npy", self.vectors, allow_pickle=False)
            self.table().select("user", "as_of").write_parquet(fresh / "users.parquet")
            about = {"format": _FORMAT, "space": self.space, "shape": self.vectors.shape}
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
    def open(cls, folder: str | Path) -> Self:
        """The vectors of a folder, memory-mapped.

        Raises
        ------
        ArtifactError
            If it is no such folder, or parts of it are missing or cut.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / "about.json").read_text())
            users = pl.read_parquet(folder / "users.parquet")
            vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
            fits = about["format"] == _FORMAT and list(vectors.shape) == list(about["shape"])
            if not fits or len(users) != len(vectors) or vectors.dtype != np.float32:
                raise ArtifactError(
                    f"`{folder}` holds {len(vectors)} vectors and {len(users)} users in format "
                    f"{about['format']}; expected as many of both in format {_FORMAT}"
                )
            as_of = users["as_of"].dt.epoch("us").to_numpy()
            return cls(str(about["space"]), users["user"], vectors, as_of)
        except (OSError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(
                f"`{folder}` cannot be read as embeddings ({error}); write it anew"
            ) from error
