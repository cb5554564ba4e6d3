"""The arrays of the running state, and how they grow; their layout is `features.kernel`'s."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from chopmark.features.hashing import rehash
from chopmark.features.plan import BUMP, HEADER_WORDS, NUM_CELLS, NUM_MARKS, Plan


class State:
    """The arrays of the state, grown ahead of each call (layout: `features.kernel`)."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pool = np.zeros(1 << 12, dtype=np.int64)
        self.directory = np.zeros((1 << 8, 2), dtype=np.int64)
        self.marks = np.zeros((1 << 8, 2), dtype=np.int64)
        self.header = np.zeros(HEADER_WORDS, dtype=np.int64)
        self.header[BUMP] = 1  # place 0 means "none"
        self.free = np.zeros(plan.num_streams, dtype=np.int64)
        self.cells = np.zeros(plan.max_visits, dtype=np.int64)
        self._room = 0

    def reserve(self, num_events: int) -> None:
        """Make room for what this many events can add at most."""
        self._room -= num_events
        if self._room < 0:
            self._grow(num_events)

    def take(self, arrays: Mapping[str, NDArray[np.int64]]) -> None:
        """Go on from the arrays of a snapshot."""
        self.pool, self.directory = arrays["pool"], arrays["directory"]
        self.marks, self.header, self.free = arrays["marks"], arrays["header"], arrays["free"]
        self._room = 0

    def _grow(self, num_events: int) -> None:
        plan = self.plan
        used = int(self.header[BUMP])
        if used + num_events * plan.max_words > self.pool.size:
            # Half as much again: few copies, little waste.
            size = max(used + num_events * plan.max_words + self.pool.size // 2, 4096)
            pool = np.zeros(size, dtype=np.int64)
            pool[:used] = self.pool[:used]
            self.pool = pool
        cells, marks = int(self.header[NUM_CELLS]), int(self.header[NUM_MARKS])
        self.directory = _roomy(self.directory, cells + num_events * plan.max_cells)
        self.marks = _roomy(self.marks, marks + num_events * plan.max_marks)
        # How many events fit for certain, so that `reserve` is a subtraction most of the time.
        self._room = -num_events + min(
            (self.pool.size - used) // max(plan.max_words, 1),
            (2 * len(self.directory) // 3 - cells) // max(plan.max_cells, 1),
            (2 * len(self.marks) // 3 - marks) // max(plan.max_marks, 1),
        )


def _roomy(table: NDArray[np.int64], num_entries: int) -> NDArray[np.int64]:
    """The table, or a larger copy if so many entries would fill more than two thirds of it."""
    if 3 * num_entries <= 2 * len(table):
        return table
    larger = np.zeros((1 << (2 * num_entries).bit_length(), 2), dtype=np.int64)
    rehash(table, larger)
    return larger
