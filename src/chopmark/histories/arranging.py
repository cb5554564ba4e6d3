"""Rows in any order turned into rows user by user, each user's in order of time.

Sorting is a counting sort by user, which keeps the order of the rows, and a stable sort of
those users alone whose times go backwards: a log in order of time is never sorted at all.
"""

# The kernels are typed by numba from their arguments; the functions above them are the doors.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, no-any-return"

from __future__ import annotations

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

LATEST = 2**63 - 1


def coded(series: pl.Series) -> tuple[NDArray[np.int32], pl.Series]:
    """Codes of a column into its sorted unique values; -1 where there is none.

    Returns
    -------
    codes : (n,) int32
    values : (k,) of the kind of the column, String or Int64
    """
    values = series.drop_nulls().unique().sort()
    if series.dtype == pl.String:
        codes = series.cast(pl.Enum(values)).to_physical().cast(pl.Int32).fill_null(-1).to_numpy()
        return (codes if codes.flags.writeable else codes.copy()), values
    low, high = (values[0], values[-1]) if len(values) else (0, 0)
    if high - low < 4 * len(series) + 1024:
        table = np.zeros(high - low + 1, dtype=np.int32)
        table[values.to_numpy() - low] = np.arange(len(values), dtype=np.int32)
        return table[series.to_numpy() - low], values
    return np.searchsorted(values.to_numpy(), series.to_numpy()).astype(np.int32), values


def by_first_time(
    codes: NDArray[np.int32], times: NDArray[np.int64], words: list[str]
) -> tuple[NDArray[np.integer], list[str]]:
    """Codes and sorted words with the words in order of the time of their first event.

    So the words of a history that goes on later are those of the shorter one, then the new
    ones: codes are stable as the words grow, and the same as if all had been built at once.
    Words of no event are left out.
    """
    first = first_times(codes, times, len(words))
    order = np.argsort(first, kind="stable")
    order = order[: int((first < LATEST).sum())]
    renamed = np.full(len(words) + 1, -1, dtype=code_kind(len(order)))
    renamed[order] = np.arange(len(order))
    return renamed[codes], [words[place] for place in order]  # code -1 reads the last place


def first_times(
    codes: NDArray[np.integer], times: NDArray[np.int64], num_words: int
) -> NDArray[np.int64]:
    """(num_words,) least time of each code, `LATEST` for none."""
    return _first_times(codes, times, num_words)


def code_kind(num_words: int) -> type[np.int16] | type[np.int32]:
    """The smallest kind of integer that holds the codes of so many words."""
    return np.int16 if num_words < 32_767 else np.int32


def arranged(
    users: NDArray[np.int32], times: NDArray[np.int64], num_users: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each user's rows are, and the rows in their new order.

    Returns
    -------
    offsets : (num_users + 1,)
    order : (n,) row i of the result is row order[i] of what was given; equal times keep the
        order they came in
    """
    return _arranged(users, times, num_users)


@njit(cache=True)
def _first_times(codes, times, num_words):
    first = np.full(num_words, LATEST, dtype=np.int64)
    for row in range(len(codes)):
        code = codes[row]
        if code >= 0:
            first[code] = min(first[code], times[row])
    return first


@njit(cache=True)
def _arranged(users, times, num_users):
    offsets = np.zeros(num_users + 1, dtype=np.int64)
    for row in range(len(users)):
        offsets[users[row] + 1] += 1
    for user in range(num_users):
        offsets[user + 1] += offsets[user]
    places = offsets[:-1].copy()
    latest = np.full(num_users, -(2**63), dtype=np.int64)
    backwards = np.zeros(num_users, dtype=np.bool_)
    order = np.empty(len(users), dtype=np.int64)
    for row in range(len(users)):
        user = users[row]
        order[places[user]] = row
        places[user] += 1
        if times[row] < latest[user]:
            backwards[user] = True
        latest[user] = times[row]
    for user in range(num_users):
        if backwards[user]:
            piece = order[offsets[user] : offsets[user + 1]]
            order[offsets[user] : offsets[user + 1]] = piece[
                np.argsort(times[piece], kind="mergesort")
            ]
    return offsets, order
