"""Batches by tokens, not by pieces: as many events as the budget has room for.

Histories differ in length by orders of magnitude, so a fixed number of pieces is now tiny and
now too much. Pieces of like length go together where an encoder pads (attention), and batches
come in random order.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def batches(
    lengths: NDArray[np.int64],
    *,
    budget: int,
    most: int = 4_096,
    alike: bool = False,
    rng: np.random.Generator | None = None,
) -> Iterator[Rows]:
    """Indices of pieces, batch by batch; each piece once.

    Parameters
    ----------
    lengths
        (m,) events of each piece.
    budget
        Events of a batch at most; padded ones count where `alike`. A longer piece is alone.
    most
        Pieces of a batch at most.
    alike
        Whether to put pieces of like length together.
    rng
        Of the order; without it, pieces come in their own order, or by length.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    if alike:
        order = order[np.argsort(lengths[order], kind="stable")]
    sizes = np.maximum(lengths[order], 1)
    ends = _ends(sizes, budget, most, alike)
    starts = [0, *ends][:-1]
    parts = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    turns = np.arange(len(parts)) if rng is None else rng.permutation(len(parts))
    for turn in turns.tolist():
        yield parts[turn]


def _ends(sizes: NDArray[np.int64], budget: int, most: int, alike: bool) -> list[int]:
    """Where each batch ends. Sizes that count by the longest must not fall."""
    ends: list[int] = []
    total = np.concatenate([[0], np.cumsum(sizes)])
    start = 0
    while start < len(sizes):
        stop = min(start + most, len(sizes))
        if alike:
            counts = np.arange(1, stop - start + 1) * sizes[start:stop]
            fits = int(np.searchsorted(counts, budget, side="right"))
        else:
            fits = int(np.searchsorted(total[start + 1 : stop + 1] - total[start], budget, "right"))
        start += max(fits, 1)
        ends.append(start)
    return ends
