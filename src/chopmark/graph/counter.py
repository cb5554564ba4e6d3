"""Random numbers that are a function of counters, so that no order of work can change them.

    stream = mix(seed ^ mix(walk + 1))
    draw   = mix(stream + (step * 2^32 + k + 1) * golden)        (splitmix64, entered anywhere)

A walk's numbers depend on the seed, its own number, the step and the try alone: walks are the
same for any number of threads, batches and machines.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import numpy as np
from numba import njit

from chopmark.features.hashing import mix

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_UNIT = 1.0 / (1 << 32)


@njit(cache=True, error_model="numpy", inline="always")
def stream_of(seed, walk):
    """Where the numbers of a walk begin: 64 bits; both arguments are uint64."""
    return mix(np.uint64(seed) ^ mix(np.uint64(walk) + _GOLDEN))


@njit(cache=True, error_model="numpy", inline="always")
def drawn(stream, step, k):
    """The k-th number of a step of a stream: 64 bits."""
    counter = (np.uint64(step) << _HALF) + np.uint64(k) + np.uint64(1)
    return mix(np.uint64(stream) + counter * _GOLDEN)


@njit(cache=True, error_model="numpy")
def draw(seed, walk, step, k):
    """The k-th number of a step of a walk: 64 bits, all of them good.

    Examples
    --------
    >>> draw(0, 7, 3, 0) == draw(0, 7, 3, 0), draw(0, 7, 3, 0) == draw(0, 7, 3, 1)
    (True, False)
    """
    return drawn(stream_of(seed, walk), step, k)


@njit(cache=True, error_model="numpy", inline="always")
def place_of(bits, count):
    """A place in 0 .. count - 1 from the upper 32 bits; count below 2^31."""
    return np.int64(((bits >> _HALF) * np.uint64(count)) >> _HALF)


@njit(cache=True, error_model="numpy", inline="always")
def fraction_of(bits):
    """A number in [0, 1) from the lower 32 bits: apart from `place_of` of the same draw."""
    return np.float64(np.int64(bits & _LOW)) * _UNIT
