"""Who holds what: the state of label rates (`chopmark.features.aggregate.LabelRate`).

A **pair** joins a holder (a user) to an attribute's value (a device) that it was seen with.
The pairs of an attribute form a list in the order in which they were first seen; those that
still wait to be old enough begin at a cursor, so that maturing them costs O(1) each. The
pairs of a holder form another list: when the holder is labelled, all its attributes hear.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import numpy as np
from numba import njit

from chopmark.features.hashing import key_of, slot_of
from chopmark.features.plan import BUMP, NUM_MARKS, PAIR_WIDTH

_PAIR_ATTRIBUTE, _PAIR_HOLDER, _PAIR_TIME, _PAIR_NEXT, _PAIR_NEXT_OF_HOLDER, _PAIR_MATURE = range(6)
# Words of an attribute's block and of a holder's block.
_WAITING, _LATEST, _NUM_BAD, _NUM_GOOD = range(4)
_IS_BAD, _FIRST_PAIR = range(2)


@njit(cache=True, error_model="numpy")
def join(pool, marks, header, attribute, holder, time):
    """Join a holder to an attribute, once."""
    key = key_of(attribute, holder)
    slot = slot_of(marks, key)
    if marks[slot, 0] != 0:
        return
    marks[slot, 0] = key
    header[NUM_MARKS] += 1
    pair = header[BUMP]
    header[BUMP] = pair + PAIR_WIDTH
    pool[pair + _PAIR_ATTRIBUTE] = attribute
    pool[pair + _PAIR_HOLDER] = holder
    pool[pair + _PAIR_TIME] = time
    pool[pair + _PAIR_NEXT] = 0
    pool[pair + _PAIR_NEXT_OF_HOLDER] = pool[holder + _FIRST_PAIR]
    pool[pair + _PAIR_MATURE] = 0
    pool[holder + _FIRST_PAIR] = pair
    latest = pool[attribute + _LATEST]
    if latest != 0:
        pool[latest + _PAIR_NEXT] = pair
    if pool[attribute + _WAITING] == 0:
        pool[attribute + _WAITING] = pair
    pool[attribute + _LATEST] = pair
    if pool[holder + _IS_BAD] != 0:
        pool[attribute + _NUM_BAD] += 1


@njit(cache=True, error_model="numpy")
def mark_bad(pool, holder):
    """A holder turned out bad: tell all its attributes."""
    if pool[holder + _IS_BAD] != 0:
        return
    pool[holder + _IS_BAD] = 1
    pair = pool[holder + _FIRST_PAIR]
    while pair != 0:
        attribute = pool[pair + _PAIR_ATTRIBUTE]
        pool[attribute + _NUM_BAD] += 1
        if pool[pair + _PAIR_MATURE] != 0:
            pool[attribute + _NUM_GOOD] -= 1
        pair = pool[pair + _PAIR_NEXT_OF_HOLDER]


@njit(cache=True, error_model="numpy")
def rate_of(pool, attribute, cut):
    """Bad holders over bad and mature good ones, after maturing those seen by ``cut``."""
    pair = pool[attribute + _WAITING]
    while pair != 0 and pool[pair + _PAIR_TIME] <= cut:
        pool[pair + _PAIR_MATURE] = 1
        if pool[pool[pair + _PAIR_HOLDER] + _IS_BAD] == 0:
            pool[attribute + _NUM_GOOD] += 1
        pair = pool[pair + _PAIR_NEXT]
    pool[attribute + _WAITING] = pair
    known = pool[attribute + _NUM_BAD] + pool[attribute + _NUM_GOOD]
    return pool[attribute + _NUM_BAD] / known if known > 0 else np.nan
