"""One tree in a neutral form: what every library's tree is turned into before it is ours.

Its nodes may stand in any order; node 0 is the root. Readers of the libraries' formats make
these (`lightgbm_text`, `xgboost_json`, `catboost_json`), `Trees.of` lays them out for use.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tree:
    """A binary tree whose leaves hold a number.

    Attributes
    ----------
    feature
        (k,) the encoded column that a node asks; -1 marks a leaf.
    threshold
        (k,) a value up to it goes left; a leaf's own value at a leaf.
    left, right
        (k,) children of a node; of no meaning at a leaf.
    cover
        (k,) training rows, or the sum of their hessians, that reached a leaf; of no meaning at
        other nodes, where it is the sum of the leaves below.
    flags
        (k,) `kernels.NAN_LEFT` and `kernels.ZERO_IS_MISSING`, else 0.
    words
        By node: the category codes that go left, as `words_of` packs them. Such a node has no
        threshold, and all other values go right.
    """

    feature: Sequence[int]
    threshold: Sequence[float]
    left: Sequence[int]
    right: Sequence[int]
    cover: Sequence[float]
    flags: Sequence[int]
    words: Mapping[int, Sequence[int]] = field(default_factory=dict)


def leaf(value: float) -> Tree:
    """The tree that gives every row the same value."""
    return Tree(feature=[-1], threshold=[value], left=[0], right=[0], cover=[1.0], flags=[0])


def words_of(codes: Iterable[int]) -> list[int]:
    """Bit c % 32 of word c // 32 for each code c, with at least one word.

    Examples
    --------
    >>> words_of([0, 3, 32])
    [9, 1]
    """
    bits = sum(1 << code for code in set(codes))
    return [bits >> shift & 0xFFFFFFFF for shift in range(0, max(bits.bit_length(), 1), 32)]


def last_within_float32(bound: float) -> float:
    """The largest float64 that is at most `bound` once it is rounded to float32.

    Libraries that keep rows in float32 compare rounded values: `float32(x) <= bound` is
    `x <= last_within_float32(bound)` for every float64 x.

    Parameters
    ----------
    bound
        A float32 number, finite.

    Examples
    --------
    >>> last = last_within_float32(1.0)
    >>> float(np.float32(last)), float(np.float32(np.nextafter(last, 2.0))) > 1.0
    (1.0, True)
    """
    below = np.float32(bound)
    with np.errstate(over="ignore"):
        above = float(np.nextafter(below, np.float32(np.inf)))
        # Exact in float64. A value halfway goes to the neighbour whose last bit is 0; the
        # largest float32 has a neighbour by this rule too, though it is then called infinite.
        middle = float(below) + (min(above, 2.0**128) - float(below)) / 2.0
        return middle if np.float32(middle) <= below else float(np.nextafter(middle, -np.inf))
