"""Open-addressing tables of 64-bit keys, for numba: rows of (key, value), 0 marks an empty one.

Lengths are powers of 2; who owns a table keeps it at most two thirds full. The keys are
mixed so well that linear probing needs no second hash.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", inline="always")
def mix(x):
    """splitmix64's finaliser: a bijection on 64 bits that spreads every input bit."""
    x = np.uint64(x)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, error_model="numpy", inline="always")
def key_of(first, second):
    """A 64-bit key of two words, never 0 (0 marks an empty place)."""
    key = np.int64(mix(np.uint64(first) ^ mix(np.uint64(second) + np.uint64(0x9E3779B97F4A7C15))))
    return key if key != 0 else np.int64(1)


@njit(cache=True, error_model="numpy")
def slot_of(table, key):
    """Where a key is in an open-addressing table, or the empty place where it would be."""
    mask = table.shape[0] - 1
    slot = key & mask
    while table[slot, 0] != 0 and table[slot, 0] != key:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, error_model="numpy")
def remove(table, key):
    """Remove a key and close the gap (backward-shift deletion: no tombstones); how many went."""
    mask = table.shape[0] - 1
    slot = slot_of(table, key)
    if table[slot, 0] == 0:
        return 0
    follower = (slot + 1) & mask
    while table[follower, 0] != 0:
        home = table[follower, 0] & mask
        if ((follower - home) & mask) >= ((follower - slot) & mask):
            table[slot, 0] = table[follower, 0]
            table[slot, 1] = table[follower, 1]
            slot = follower
        follower = (follower + 1) & mask
    table[slot, 0] = 0
    return 1


@njit(cache=True, error_model="numpy")
def rehash(table, larger):
    """Move all entries of a table of shape (power of 2, 2) into a larger, empty one."""
    for i in range(table.shape[0]):
        if table[i, 0] != 0:
            slot = slot_of(larger, table[i, 0])
            larger[slot, 0] = table[i, 0]
            larger[slot, 1] = table[i, 1]
