"""Codes: texts as keyed 64-bit numbers, equal if and only if the texts are.

Arrays hold numbers, and entities and categories are texts. A dictionary from texts to
numbers would have to be kept, grown and shared between training and serving; a keyed hash
needs none of that. It is SipHash-2-4, which was made for this: whoever does not know the key
cannot find two texts of one code, and among 100 million texts the chance that any two of
them share one is 0.03 %.

One kernel hashes a whole Arrow column and a single text alike.

References
----------
Jean-Philippe Aumasson, Daniel J. Bernstein: SipHash: a fast short-input PRF, 2012.
"""

from hashlib import blake2b
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_REMEMBERED = 1_000_000
"""Texts whose codes are kept at hand: a bound on memory, not a policy."""


class Codes:
    """Turns texts into codes.

    Parameters
    ----------
    key : bytes
        Up to 64 secret bytes.

    Examples
    --------
    >>> codes = Codes(b"secret")
    >>> codes.code("ann") == codes.code("ann"), codes.code("ann") == codes.code("bo")
    (True, False)
    """

    def __init__(self, key: bytes) -> None:
        self.key = key
        digest = blake2b(digest_size=16, key=key).digest()
        self._halves = np.frombuffer(digest, dtype=np.uint64)
        self._known: dict[str, int] = {}

    def code(self, text: str) -> int:
        """The code of a text: a signed 64-bit integer, never 0."""
        known = self._known.get(text)
        if known is not None:
            return known
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        code = int(_siphash(self._halves, data, 0, len(data)))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[text] = code
        return code

    def value(self, text: str) -> float:
        """The text as a value of an expression: the 52 upper bits of its code, exact in a float."""
        return float(self.code(text) >> 12)

    def column(self, texts: Any) -> NDArray[np.int64]:
        """Codes of a column, 0 where it is null.

        Parameters
        ----------
        texts : pyarrow.LargeStringArray, (n,)

        Returns
        -------
        (n,) int64
        """
        n = len(texts)
        _, offsets, data = texts.buffers()
        places = np.frombuffer(offsets, dtype=np.int64, count=texts.offset + n + 1)
        content = np.frombuffer(data, dtype=np.uint8) if data is not None else _NOTHING
        codes = np.empty(n, dtype=np.int64)
        _siphash_all(self._halves, content, places[texts.offset :], codes)
        if texts.null_count:
            codes[np.asarray(texts.is_null())] = 0
        return codes


_NOTHING = np.zeros(0, dtype=np.uint8)


@njit(cache=True, inline="always")
def _rotate(x, bits):  # type: ignore[no-untyped-def]
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@njit(cache=True, inline="always")
def _round(a, b, c, d):  # type: ignore[no-untyped-def]
    a += b
    c += d
    b = _rotate(b, 13) ^ a
    d = _rotate(d, 16) ^ c
    a = _rotate(a, 32)
    c += b
    a += d
    b = _rotate(b, 17) ^ c
    d = _rotate(d, 21) ^ a
    c = _rotate(c, 32)
    return a, b, c, d


@njit(cache=True)
def _siphash(key, data, first, last):  # type: ignore[no-untyped-def]
    """SipHash-2-4 of ``data[first:last]``; 0, which stands for missing, becomes 1."""
    a = key[0] ^ np.uint64(0x736F6D6570736575)
    b = key[1] ^ np.uint64(0x646F72616E646F6D)
    c = key[0] ^ np.uint64(0x6C7967656E657261)
    d = key[1] ^ np.uint64(0x7465646279746573)
    size = last - first
    whole = first + (size & ~7)
    for place in range(first, whole, 8):
        word = np.uint64(0)
        for byte in range(8):
            word |= np.uint64(data[place + byte]) << np.uint64(8 * byte)
        d ^= word
        a, b, c, d = _round(a, b, c, d)
        a, b, c, d = _round(a, b, c, d)
        a ^= word
    word = np.uint64(size & 0xFF) << np.uint64(56)
    for byte in range(last - whole):
        word |= np.uint64(data[whole + byte]) << np.uint64(8 * byte)
    d ^= word
    a, b, c, d = _round(a, b, c, d)
    a, b, c, d = _round(a, b, c, d)
    a ^= word
    c ^= np.uint64(0xFF)
    for _ in range(4):
        a, b, c, d = _round(a, b, c, d)
    code = np.int64(a ^ b ^ c ^ d)
    return code if code != 0 else np.int64(1)


@njit(cache=True)
def _siphash_all(key, data, places, codes):  # type: ignore[no-untyped-def]
    """Codes of consecutive texts, which begin at ``places[:-1]`` and end at ``places[1:]``."""
    for i in range(codes.size):
        codes[i] = _siphash(key, data, places[i], places[i + 1])
