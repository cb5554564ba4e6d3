"""Time features of pieces of histories: gaps, same-type gaps, ages, hour and weekday.

All differences are taken between integers of microseconds first and turned into seconds and
logarithms after, so shifting all times and instants by the same amount changes no bit (hour
and weekday aside, which are of the calendar). Needs numpy and numba alone. Serves row G9.
"""

# The kernel is typed by numba from its arguments; `moments` is the typed door.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

NONE = np.float32(-1.0)
"""What a logarithm of seconds holds where there is no earlier event to count from."""


class Moments(NamedTuple):
    """Time features of m pieces, n events in all, piece after piece without padding."""

    offsets: NDArray[np.int64]
    """(m + 1,): piece i has rows offsets[i]:offsets[i + 1]."""
    gap: NDArray[np.float32]
    """(n,) seconds since the previous event of the piece, 0 for its first."""
    log_gap: NDArray[np.float32]
    """(n,) log1p of `gap`; -1 for the first event of a piece."""
    log_same_gap: NDArray[np.float32]
    """(n,) log1p of seconds since the last event of the same type in the piece; -1 for none."""
    log_age: NDArray[np.float32]
    """(n,) log1p of seconds from the event to now."""
    since_last: NDArray[np.float32]
    """(m,) seconds from the last event to now, 0 for an empty piece."""
    hour: NDArray[np.int8]
    """(n,) hour of the day in UTC, 0 to 23."""
    weekday: NDArray[np.int8]
    """(n,) day of the week in UTC, 0 Monday to 6 Sunday."""


def moments(
    times: NDArray[np.int64],
    types: NDArray[np.integer],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    now: NDArray[np.int64],
    *,
    num_types: int | None = None,
    calendar: bool = True,
) -> Moments:
    """The time features of pieces of histories.

    Parameters
    ----------
    times : (N,) microseconds, not decreasing within a piece
    types : (N,) codes of the types, below `num_types`; -1, a missing type, has no same-type gap
    starts, ends : (m,) rows of `times`: piece i is starts[i]:ends[i], pieces may overlap
    now : (m,) microseconds, not before the last event of the piece
    num_types
        Found in `types` if it is not given.
    calendar
        False leaves hour and weekday 0: the times are ages and say nothing of a calendar.

    Notes
    -----
    One pass over the events of the pieces; the table of last rows by type is made once and
    cleared in the time of the piece's own events.
    """
    if num_types is None:
        num_types = int(types.max(initial=-1)) + 1
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    np.cumsum(ends - starts, out=offsets[1:])
    n = int(offsets[-1])
    found = Moments(
        offsets=offsets,
        gap=np.empty(n, dtype=np.float32),
        log_gap=np.empty(n, dtype=np.float32),
        log_same_gap=np.empty(n, dtype=np.float32),
        log_age=np.empty(n, dtype=np.float32),
        since_last=np.zeros(len(starts), dtype=np.float32),
        hour=np.zeros(n, dtype=np.int8),
        weekday=np.zeros(n, dtype=np.int8),
    )
    _fill(times, types, starts, ends, now, num_types, calendar, *found)
    return found


@njit(cache=True, error_model="numpy")
def _fill(
    times, types, starts, ends, now, num_types, calendar,
    offsets, gap, log_gap, log_same_gap, log_age, since_last, hour, weekday,
):  # fmt: skip
    last = np.full(num_types, -1, dtype=np.int64)
    for piece in range(len(starts)):
        start, end = starts[piece], ends[piece]
        if end <= start:
            continue
        shift = offsets[piece] - start
        instant = now[piece]
        since_last[piece] = (instant - times[end - 1]) / 1e6
        for row in range(start, end):
            at = row + shift
            time = times[row]
            log_age[at] = np.log1p((instant - time) / 1e6)
            if row == start:
                gap[at] = 0.0
                log_gap[at] = NONE
            else:
                seconds = (time - times[row - 1]) / 1e6
                gap[at] = seconds
                log_gap[at] = np.log1p(seconds)
            log_same_gap[at] = NONE
            kind = types[row]
            if 0 <= kind < num_types:
                if last[kind] >= 0:
                    log_same_gap[at] = np.log1p((time - times[last[kind]]) / 1e6)
                last[kind] = row
            if calendar:
                hours = time // 3_600_000_000
                hour[at] = hours % 24
                weekday[at] = (hours // 24 + 3) % 7  # 1970-01-01 was a Thursday
        for row in range(start, end):
            kind = types[row]
            if 0 <= kind < num_types:
                last[kind] = -1
