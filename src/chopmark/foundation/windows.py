"""Two windows of one user's history without an event in common.

What all pre-training here starts from. A user's events are cut at a random place; one window
ends there and the other begins there. Each is seen from an instant of its own, between its
last event and the next: the representation is to be one of history *and* of now.
Serves G9 of the requirements.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chopmark.histories import Histories, Slices

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TwoWindows:
    """An earlier and a later window of each of m users; rows of one belong together."""

    earlier: Slices
    later: Slices

    def __len__(self) -> int:
        return len(self.earlier)


def two_windows(
    histories: Histories,
    users: Rows,
    rng: np.random.Generator,
    *,
    longest: int,
    shortest: int = 1,
) -> TwoWindows:
    """Two windows of each user who has at least two events, in the order given.

    Parameters
    ----------
    users
        Row numbers of users; who has fewer than two events is left out.
    longest, shortest
        Events of a window; fewer where the user has no more.
    """
    first, last = histories.offsets[users], histories.offsets[users + 1]
    enough = last - first > 1
    first, last = first[enough], last[enough]
    count = len(first)
    cut = first + 1 + (rng.random(count) * (last - first - 1)).astype(np.int64)

    def lengths() -> Rows:
        # Half of the windows as long as they may be, as they will be in use.
        spread = shortest + (longest - shortest) * rng.random(count) ** 2
        return np.where(rng.random(count) < 0.5, longest, spread.astype(np.int64))

    starts = np.maximum(cut - lengths(), first)
    ends = np.minimum(cut + lengths(), last)
    return TwoWindows(
        Slices(histories, starts, cut, _between(histories, cut, last, rng)),
        Slices(histories, cut, ends, _between(histories, ends, last, rng)),
    )


def _between(histories: Histories, ends: Rows, last: Rows, rng: np.random.Generator) -> Rows:
    """An instant between the last event of a window and what came next, or the end of data."""
    times = histories.times
    before = times[ends - 1]
    after = np.where(ends < last, times[np.minimum(ends, len(times) - 1)], histories.until)
    return before + ((np.maximum(after, before) - before) * rng.random(len(ends))).astype(np.int64)
