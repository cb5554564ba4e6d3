"""A history and its live tail joined at a seam, without a gap and without a repeat."""

# The kernel is typed by numba from its arguments; `joined` is the typed door.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import InvalidTable
from chopmark.histories.arranging import LATEST, code_kind, first_times
from chopmark.histories.damage import check_codes
from chopmark.times import moment

if TYPE_CHECKING:
    from chopmark.histories.histories import Histories


def joined(base: Histories, newer: Histories, after: int) -> dict[str, Any]:
    """The parts of a history that has base's rows up to `after` and newer's rows later.

    Raises
    ------
    InvalidTable
        If base does not reach `after`, a field, the users or the times are of another kind, or
        a code has no word.
    """
    if after > base.until and newer.num_events:
        raise InvalidTable(
            f"expected a seam within what the base covers, up to {instant_text(base.until)}, got "
            f"{instant_text(after)}; events between the two would be lost"
        )
    for name, has, other in (
        *((name, "text", "number") for name in base.categories if name in newer.numbers),
        *((name, "number", "text") for name in base.numbers if name in newer.categories),
    ):
        raise InvalidTable(
            f"expected field `{name}` as {has}, as the history has it, got {other} in what is "
            "newer; cast the column, or name it in `categories` or `numbers`"
        )
    if len(base) and len(newer) and base.users.dtype != newer.users.dtype:
        raise InvalidTable(
            f"expected users as {base.users.dtype}, as the history has them, got "
            f"{newer.users.dtype}; cast the column first"
        )
    if len(base) and len(newer) and base.calendar != newer.calendar:
        raise InvalidTable(
            "expected two histories with instants, or two with ages alone (from list columns), got "
            "one of each; their times do not compare"
        )
    for side in (base, newer):
        for name, codes in side.categories.items():
            check_codes(name, codes, len(side.words[name]))
    kind = base.users.dtype if len(base) else newer.users.dtype
    users = pl.concat([base.users.cast(kind), newer.users.cast(kind)]).unique().sort()
    users = users.alias("user")
    every = pl.DataFrame({"user": users, "place": np.arange(len(users))})
    old, new = (
        side.users.cast(kind).to_frame("user").join(every, on="user", maintain_order="left")[
            "place"
        ].to_numpy()
        for side in (base, newer)
    )  # fmt: skip
    # Kept rows of each user: those before the seam, those behind it. Times do not decrease.
    cuts = [
        np.array([], dtype=np.int64) if not len(side) else side.every(as_of=after).ends
        for side in (base, newer)
    ]
    starts = (base.offsets[:-1], cuts[1])
    ends = (cuts[0], newer.offsets[1:])
    offsets = np.zeros(len(users) + 1, dtype=np.int64)
    np.add.at(offsets, old + 1, ends[0] - starts[0])
    np.add.at(offsets, new + 1, ends[1] - starts[1])
    np.cumsum(offsets, out=offsets)
    # Users are unique on each side; where one is on both, newer's rows come behind base's.
    shift = np.zeros(len(users), dtype=np.int64)
    shift[old] = ends[0] - starts[0]
    n = int(offsets[-1])
    rows = (
        _targets(starts[0], ends[0], offsets[old]),
        _targets(starts[1], ends[1], offsets[new] + shift[new]),
    )

    times = np.empty(n, dtype=np.int64)
    for (source, target), side in zip(rows, (base, newer), strict=True):
        times[target] = side.times[source]
    categories: dict[str, NDArray[np.integer]] = {}
    words = {}
    source, target = rows[1]
    for name in {**base.categories, **newer.categories}:
        words[name] = list(base.words.get(name, []))
        codes = np.full(n, -1, dtype=np.int64)
        if name in base.categories:
            codes[rows[0][1]] = base.categories[name][rows[0][0]]
        if name in newer.categories:
            theirs = newer.categories[name][source]
            first = first_times(theirs, newer.times[source], len(newer.words[name]))
            # New words in the order of their first event, equal times by text.
            order = sorted(
                np.flatnonzero(first < LATEST).tolist(),
                key=lambda code: (first[code], newer.words[name][code]),
            )
            known = {word: code for code, word in enumerate(words[name])}
            renamed = np.full(len(first) + 1, -1, dtype=np.int64)
            for code in order:
                renamed[code] = known.setdefault(newer.words[name][code], len(known))
            words[name] = list(known)
            codes[target] = renamed[theirs]
        categories[name] = codes.astype(code_kind(len(words[name])))
    numbers = {}
    for name in {**base.numbers, **newer.numbers}:
        numbers[name] = np.full(n, np.nan, dtype=np.float32)
        for (source, target), side in zip(rows, (base, newer), strict=True):
            if name in side.numbers:
                numbers[name][target] = side.numbers[name][source]
    return {
        "users": users,
        "offsets": offsets,
        "times": times,
        "categories": categories,
        "numbers": numbers,
        "words": words,
        "until": max(after, newer.until),
        "calendar": base.calendar if len(base) else newer.calendar,
    }


def _targets(
    starts: NDArray[np.int64], ends: NDArray[np.int64], places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of pieces, and where they go when piece i goes to places[i]."""
    source = np.empty(int((ends - starts).sum()), dtype=np.int64)
    target = np.empty(len(source), dtype=np.int64)
    _fill(starts, ends, places, source, target)
    return source, target


@njit(cache=True)
def _fill(starts, ends, places, source, target):
    at = 0
    for piece in range(len(starts)):
        for row in range(starts[piece], ends[piece]):
            source[at] = row
            target[at] = places[piece] + row - starts[piece]
            at += 1


def instant_text(instant: int) -> str:
    """An instant as people write it, whatever number it is."""
    try:
        return f"{moment(instant).isoformat()}"
    except (OverflowError, ValueError):
        return "no instant at all"
