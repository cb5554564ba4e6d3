"""Alias tables (Vose 1991): a draw in proportion to weights at the same price for every row.

A place of the row is drawn evenly and kept with probability `threshold`, else its `alias` is
taken. The table is the only form in which weights are kept: 8 bytes a slot.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", inline="always")
def fill_row(weights, threshold, alias, start, small, large):
    """The table of one row into threshold and alias from `start` on.

    weights : (m,) float64, finite, >= 0; overwritten. All zero counts as all equal.
    small, large : (>= m,) int32 scratch.
    """
    count = weights.shape[0]
    total = 0.0
    for i in range(count):
        total += weights[i]
    num_small, num_large = 0, 0
    # All zero: every threshold is 1, and no alias is ever asked for.
    equal = not total > 0.0
    for i in range(count):
        scaled = 1.0 if equal else weights[i] / total * count
        weights[i] = scaled
        threshold[start + i] = 1.0
        alias[start + i] = i
        if scaled < 1.0:
            small[num_small] = i
            num_small += 1
        else:
            large[num_large] = i
            num_large += 1
    while num_small > 0 and num_large > 0:
        num_small -= 1
        low, high = small[num_small], large[num_large - 1]
        threshold[start + low] = weights[low]
        alias[start + low] = high
        weights[high] -= 1.0 - weights[low]
        if weights[high] < 1.0:
            num_large -= 1
            small[num_small] = high
            num_small += 1
    # What is left over is 1 but for rounding: its threshold stays 1.


@njit(cache=True, error_model="numpy")
def row_weights(threshold, alias):
    """The weights that a row's table stands for: (m,) float64 that sum to 1."""
    count = threshold.shape[0]
    weights = np.zeros(count)
    for i in range(count):
        weights[i] += threshold[i]
        weights[alias[i]] += 1.0 - threshold[i]
    return weights / count
