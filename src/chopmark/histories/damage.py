"""What is found out late about histories that were opened without reading them through."""

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import InvalidTable


def damaged(what: str) -> InvalidTable:
    """The error to raise about columns that no build writes."""
    return InvalidTable(
        f"the histories are damaged: {what}; Histories.open(folder, thorough=True) names the "
        "file; build them again, or restore a copy"
    )


def check_codes(field: str, codes: NDArray[np.integer], num_words: int) -> None:
    """Refuse codes without words: a compiled kernel would read beside its arrays.

    Raises
    ------
    InvalidTable
        If a code is not in [-1, num_words).
    """
    if codes.max(initial=-1) >= num_words or codes.min(initial=-1) < -1:
        raise damaged(f"category `{field}` has codes without words")
