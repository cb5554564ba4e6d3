"""Codes: the published vectors, one text against a column, and no zero."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from chopmark.codes import Codes, _siphash

# From the authors' reference implementation: key 00 01 ... 0f, input 00 01 ... (n-1).
VECTORS = {0: 0x726FDB47DD0E0E31, 1: 0x74F839C593DC67FD, 8: 0x93F5F5799A932462,
           15: 0xA129CA6149BE45E5}  # fmt: skip


def test_the_published_vectors():
    key = np.frombuffer(bytes(range(16)), dtype=np.uint64)
    for size, expected in VECTORS.items():
        data = np.arange(size, dtype=np.uint8)
        assert int(_siphash(key, data, 0, size)) & (2**64 - 1) == expected


@given(st.lists(st.none() | st.text(max_size=40), max_size=30), st.integers(0, 5))
def test_a_column_is_its_texts(texts, start):
    codes = Codes(b"key")
    column = pa.array(texts, pa.large_string())[start:]
    expected = [0 if text is None else codes.code(text) for text in texts[start:]]
    assert codes.column(column).tolist() == expected


def test_another_key_gives_other_codes():
    assert Codes(b"a").code("ann") != Codes(b"b").code("ann")
    assert Codes(b"a").value("ann") == Codes(b"a").code("ann") >> 12
