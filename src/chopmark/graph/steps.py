"""The rule of a step of the second order, and the search in a row that it needs: for all who walk.

A candidate is drawn by weight, and a height below the largest factor. With the factors 1/p of the
way back, 1 of a neighbour of the node before and 1/q of any other node, it is taken if the height
is below its own; `judged` says so at once where no look at a row is needed.

If 1/p is the largest factor of an unweighted graph, what the way back has above the others is an
area of its own, at heights below 0: then the step goes back, whatever was drawn.
Serves rows H7 and H10.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit

TAKEN, SEARCH, REFUSED, BACK = 0, 1, 2, 3
"""A candidate is taken; it is if it is `near` enough; it is not; the step goes back instead."""


@njit(cache=True, error_model="numpy", inline="always")
def place_in(neighbours, start, count, wanted):
    """The place of a neighbour in a row, or -1."""
    low, high = np.int64(0), np.int64(count)
    while low < high:
        middle = (low + high) >> 1
        if neighbours[start + middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < count and neighbours[start + low] == wanted else np.int64(-1)


@njit(cache=True, error_model="numpy", inline="always")
def heights_of(weighted, back, away):
    """The marks that heights are compared with, of the factors back = 1/p and away = 1/q.

    Whether the way back has an area of its own; the largest factor that heights are drawn below;
    that of all but the way back; the least of all; the least of all but the way back.
    """
    usual = max(1.0, away)
    apart = not weighted and back > usual
    most = usual if apart else max(back, usual)
    return apart, most, usual, min(back, 1.0, away), min(1.0, away)


@njit(cache=True, error_model="numpy", inline="always")
def height_of(u, most, extra):
    """The height of u in [0, 1): below 0 with the chance of the extra area of the way back."""
    return u * (most + extra) - extra


@njit(cache=True, error_model="numpy", inline="always")
def judged(height, returns, back, usual, least, near_or_far):
    """What a height says of a candidate, which `returns` if it is the node before."""
    if height < least:
        verdict = BACK if height < 0.0 else TAKEN
    elif returns:
        verdict = TAKEN if height < back else REFUSED
    elif height < near_or_far:
        verdict = TAKEN
    elif height >= usual:
        verdict = REFUSED
    else:
        verdict = SEARCH
    return verdict
