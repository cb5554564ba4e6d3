"""Events of many users, column by column: offsets into flat arrays, never a dict per user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import InvalidTable
from chopmark.histories import storage
from chopmark.histories.arranging import arranged, by_first_time, coded
from chopmark.histories.joining import joined
from chopmark.histories.reading import (
    INSTANTS,
    NEVER,
    Fields,
    Frame,
    Part,
    is_number,
    is_text,
    micros,
    read_part,
)
from chopmark.histories.slices import Slices


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Events of many users, column by column, user by user, each user's in order of time.

    Events of equal time keep the order they came in. The arrays may be memory-mapped files.
    """

    users: pl.Series
    """(u,) Int64 or String, unique; sorted, save after `select` and `from_lists`."""
    offsets: NDArray[np.int64]
    """(u + 1,): user i has rows offsets[i]:offsets[i + 1]."""
    times: NDArray[np.int64]
    """(n,) microseconds since 1970, not decreasing within a user."""
    categories: dict[str, NDArray[np.integer]]
    """name -> (n,) int16 or int32 codes into words[name], -1 missing; ``type`` is first."""
    numbers: dict[str, NDArray[np.float32]]
    """name -> (n,) float32, NaN missing."""
    words: dict[str, list[str]]
    """name -> texts of the codes, in order of their first event."""
    until: int = NEVER
    """The last instant that is covered: later events are not known here."""
    calendar: bool = True
    """Whether the times are instants; False where only ages are known, as in list columns."""

    def __len__(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def num_events(self) -> int:
        """Number of events of all users."""
        return len(self.times)

    @classmethod
    def from_frame(
        cls,
        frame: Frame,
        *,
        user: str = "user",
        time: str = "happened_at",
        type: str = "type",
        categories: Sequence[str] | None = None,
        numbers: Sequence[str] | None = None,
        until: datetime | str | int | None = None,
    ) -> Histories:
        """The histories of a frame with a row per event, in any order.

        Parameters
        ----------
        frame
            A Polars, pandas or pyarrow table, or the path of a Parquet file.
        user
            Column of texts or whole numbers.
        time
            Column of datetimes, dates, ISO texts, or whole microseconds since 1970. Times of
            several zones become UTC; a time without a zone is UTC. Pieces are cut by it alone:
            where events come in late, name the column that says when they were known.
        type
            Column of the types of the events, which is called ``type`` from here on.
        categories, numbers
            Columns that are read as such; None: all columns of text, and all of numbers and
            booleans. A column of whole numbers may be named a category: an id of a shop, say.
            Columns called `happened_at` and `known_at` are times and are never read as such.
        until
            Events later than this are left out; None: the last event's time.

        Raises
        ------
        InvalidTable
            If a column is missing or of another kind, or a row has no user or no time.

        Notes
        -----
        Numbers are kept in 32 bits: 7 digits. O(n) for a log in order of time.

        Examples
        --------
        >>> frame = pl.DataFrame({"user": ["b", "a", "b"], "happened_at": [3, 2, 1],
        ...                       "type": ["buy", "buy", "view"], "usd": [9.5, 1.0, None]})
        >>> histories = Histories.from_frame(frame)
        >>> histories.users.to_list(), histories.offsets.tolist(), histories.times.tolist()
        (['a', 'b'], [0, 1, 3], [2, 1, 3])
        """
        part = read_part(frame, Fields(user, time, type, categories, numbers))
        mark = None if until is None else instants(until)[0]
        return _assembled(part, mark)

    @classmethod
    def from_lists(cls, column: pl.Series) -> Histories:
        """The histories of a list column: each row is a user, its number the name.

        Times are minus the ages, so now is 0: ``from_lists(column).every(as_of=0)`` are the
        pieces that the rows hold. They have no calendar: hour and weekday are unknown.

        Parameters
        ----------
        column : (m,) ``List(Struct{"type", "age", ...})``
            As `Slices.to_lists` gives it; null is a row without events.

        Raises
        ------
        InvalidTable
            If it is no such column, or an event has no age or one below 0.
        """
        inner = column.dtype.inner if isinstance(column.dtype, pl.List) else None
        if inner is None or inner == pl.Null:
            if not column.dtype == pl.Null and inner is None:
                raise InvalidTable(
                    f"expected a list column of events in `{column.name}`, got {column.dtype}"
                )
            column = column.cast(pl.List(pl.Struct({"type": pl.String, "age": pl.Int64})))
            inner = column.dtype.inner  # type: ignore[attr-defined]
        kinds = (
            {field.name: field.dtype for field in inner.fields}
            if isinstance(inner, pl.Struct)
            else {}
        )
        if "type" not in kinds or "age" not in kinds:
            raise InvalidTable(
                f"expected lists of structs with `type` and `age` in column `{column.name}`, got "
                f"{column.dtype}"
            )
        lengths = column.list.len().fill_null(0).cast(pl.Int64).to_numpy()
        age = kinds["age"]
        if not (age.is_integer() or age == pl.Null):
            raise InvalidTable(
                f"expected ages in whole microseconds in column `{column.name}`, got {age}; cast "
                "them to Int64 (of durations: `dt.total_microseconds()`)"
            )
        given = column.drop_nulls()
        events = given.filter(given.list.len() > 0).explode().struct.unnest()
        events = events.with_columns(pl.col("age").cast(pl.Int64, strict=False))
        if events.height and not (events["age"] >= 0).fill_null(False).all():
            raise InvalidTable(
                f"expected an age of 0 or more microseconds in every event of `{column.name}`"
            )
        fields = [name for name in kinds if name not in ("type", "age", *INSTANTS)]
        rows = pl.Series("user", np.repeat(np.arange(len(column)), lengths))
        frame = events.with_columns(rows.alias(" user"), (-pl.col("age")).alias(" time"))
        part = read_part(
            frame,
            Fields(
                " user",
                " time",
                "type",
                [name for name in fields if is_text(events.schema[name])],
                [name for name in fields if is_number(events.schema[name])],
            ),
        )
        found = _assembled(part, 0)
        # Rows without events are users too.
        offsets = np.zeros(len(column) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        users = pl.Series("user", np.arange(len(column)), dtype=pl.Int64)
        return _replaced(found, users=users, offsets=offsets, until=0, calendar=False)

    def save(self, folder: str | Path) -> None:
        """Write all to a new folder, whole or not at all: .npy columns and about.json.

        Raises
        ------
        StoreError
            If the folder is there already.
        """
        storage.save(_parts(self), folder)

    @classmethod
    def open(cls, folder: str | Path, *, thorough: bool = False) -> Histories:
        """The histories of a folder, mapped: what is not touched is not read.

        Parameters
        ----------
        thorough
            Read all files once and compare their checksums; else only sizes, headers, words,
            users and offsets are checked.

        Raises
        ------
        StoreError
            If a file is missing, cut, or not what `about.json` says, or the version is unknown.
        """
        return cls(**storage.read(folder, thorough=thorough))

    def appended(self, newer: Histories, *, after: datetime | str | int | None = None) -> Histories:
        """These histories and the live tail behind them, joined at a seam.

        Rows up to and at the seam come from here, rows later than it from `newer`, which may
        reach back over the seam: what it repeats is dropped. Codes of words stay, new words come
        behind. If both were made of the same log, the result is that of one build.

        Parameters
        ----------
        newer
            With the same kinds of fields; fields that one side lacks are missing there.
        after
            The seam, not later than `until`; None: `until`. Choose it before the last instant
            if events of that very instant may have come in after the base was built.

        Returns
        -------
        A copy in memory, users sorted.

        Raises
        ------
        InvalidTable
            If the seam is later than `until`, or a field or the users turned to another kind.
        """
        seam = self.until if after is None else int(instants(after)[0])
        return Histories(**joined(self, newer, seam))

    def slices(
        self,
        users: pl.Series | Sequence[Any] | NDArray[Any],
        as_of: Any,
        *,
        last: int | None = None,
    ) -> Slices:
        """The events of users known at instants: one piece per row.

        Parameters
        ----------
        users : (m,)
            Names; one that is not here has an empty piece.
        as_of : (m,) or one for all
            Instants (aware datetimes, a Series of datetimes, or whole microseconds); events up
            to and at the instant are in the piece.
        last
            Keep no more than so many of the last events.
        """
        names = names_of(users)
        places = self.places(names)
        now = np.broadcast_to(instants(as_of), (len(names),)).copy()
        starts = np.where(places < 0, 0, self.offsets[np.maximum(places, 0)])
        ends = np.where(places < 0, 0, self.offsets[np.maximum(places, 0) + (places >= 0)])
        return self._cut(starts, ends, now, last)

    def every(self, as_of: Any = None, *, last: int | None = None) -> Slices:
        """One piece per user, seen from `as_of`, or from the user's last event.

        Parameters
        ----------
        as_of : (u,) or one for all
            Instants as for `slices`; None: the time of each user's last event (`until` for a
            user without events).
        last
            Keep no more than so many of the last events.
        """
        starts, ends = self.offsets[:-1].copy(), self.offsets[1:].copy()
        if as_of is None:
            now = np.full(len(starts), self.until, dtype=np.int64)
            some = ends > starts
            now[some] = self.times[ends[some] - 1]
        else:
            now = np.broadcast_to(instants(as_of), (len(starts),)).copy()
        return self._cut(starts, ends, now, last)

    def places(self, users: pl.Series) -> NDArray[np.int64]:
        """(m,) the places of names in `users`, -1 for one that is not there."""
        return places_of(self.users, users, "the histories")

    def select(self, users: pl.Series | Sequence[Any] | NDArray[Any]) -> Histories:
        """The histories of some users, in the order given; a copy in memory.

        Raises
        ------
        InvalidTable
            If a user is not here, or is named twice.
        """
        names = names_of(users)
        places = self.places(names)
        if (places < 0).any():
            raise InvalidTable(f"expected known users, got `{names[int(np.argmin(places))]}`")
        if names.n_unique() != len(names):
            raise InvalidTable("expected each user once, got one twice")
        pieces = Slices(self, self.offsets[places], self.offsets[places + 1], places)
        rows = pieces.rows()
        offsets = np.zeros(len(names) + 1, dtype=np.int64)
        np.cumsum(pieces.lengths, out=offsets[1:])
        return Histories(
            users=self.users.gather(places),
            offsets=offsets,
            times=self.times[rows],
            categories={name: codes[rows] for name, codes in self.categories.items()},
            numbers={name: numbers[rows] for name, numbers in self.numbers.items()},
            words=dict(self.words),
            until=self.until,
            calendar=self.calendar,
        )

    def _cut(
        self,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        now: NDArray[np.int64],
        last: int | None,
    ) -> Slices:
        ends = _known(self.times, starts, ends, now)
        if last is not None:
            if last < 0:
                raise InvalidTable(f"expected `last` of 0 or more events, got {last}")
            starts = np.maximum(starts, ends - last)
        return Slices(self, starts, ends, now)


def names_of(users: pl.Series | Sequence[Any] | NDArray[Any]) -> pl.Series:
    """(m,) names of users as a column.

    Raises
    ------
    InvalidTable
        If they are not of one kind.
    """
    if isinstance(users, pl.Series):
        return users
    try:
        return pl.Series("user", users)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InvalidTable(
            f"expected names of users, all texts or all whole numbers; they make no column: {error}"
        ) from error


def places_of(known: pl.Series, asked: pl.Series, whose: str) -> NDArray[np.int64]:
    """(m,) the places of asked names among known ones (unique), -1 for one that is not there.

    Parameters
    ----------
    whose
        Who has the known names, for the message.

    Raises
    ------
    InvalidTable
        If one are texts and the other numbers.
    """
    if is_text(asked.dtype) and known.dtype == pl.String:
        asked = asked.cast(pl.String)
    elif asked.dtype.is_integer() and known.dtype == pl.Int64:
        asked = asked.cast(pl.Int64, strict=False)  # beyond 64 bits there is nobody
    elif len(asked) and len(known):
        raise InvalidTable(
            f"expected users as {known.dtype}, as {whose} have them, got {asked.dtype}; cast "
            "them first"
        )
    else:
        return np.full(len(asked), -1, dtype=np.int64)
    table = pl.DataFrame({"user": known, "place": np.arange(len(known))})
    found = pl.DataFrame({"user": asked}).join(table, on="user", how="left", maintain_order="left")
    return found["place"].fill_null(-1).to_numpy().astype(np.int64)


def instants(given: Any) -> NDArray[np.int64]:
    """(m,) or (1,) microseconds of one instant or many, as `Histories.slices` takes them."""
    if isinstance(given, pl.Series):
        return micros(given)
    if isinstance(given, (int, np.integer)):
        return np.array([given], dtype=np.int64)
    if isinstance(given, (str, datetime)):
        return micros(pl.Series("as_of", [given]))
    array = np.asarray(given)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    return micros(pl.Series("as_of", given))


def _assembled(part: Part, until: int | None) -> Histories:
    """One part, sorted."""
    part = part if until is None else part.up_to(until)
    times = part.times
    codes, names = coded(part.users)
    offsets, order = arranged(codes, times, len(names))
    found: dict[str, NDArray[np.integer]] = {}
    words = {}
    for name, texts in part.categories.items():
        texts_codes, values = coded(texts)
        column, words[name] = by_first_time(texts_codes, times, values.to_list())
        found[name] = column[order]
    if until is None:
        until = int(times.max()) if len(times) else NEVER
    return Histories(
        users=names.alias("user"),
        offsets=offsets,
        times=times[order],
        categories=found,
        numbers={name: column[order] for name, column in part.numbers.items()},
        words=words,
        until=until,
    )


def _replaced(histories: Histories, **changes: Any) -> Histories:
    return Histories(**_parts(histories) | changes)


def _parts(histories: Histories) -> dict[str, Any]:
    return {field.name: getattr(histories, field.name) for field in fields(histories)}


@njit(cache=True)  # type: ignore[untyped-decorator]
def _known(times, starts, ends, now):  # type: ignore[no-untyped-def]
    """Rows after the last that is not later than now, by bisection in each piece."""
    found = np.empty(len(starts), dtype=np.int64)
    for piece in range(len(starts)):
        low, high = starts[piece], ends[piece]
        while low < high:
            middle = (low + high) // 2
            if times[middle] <= now[piece]:
                low = middle + 1
            else:
                high = middle
        found[piece] = low
    return found
