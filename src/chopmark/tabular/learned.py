"""What a learner hands back: arrays of its family, and how it did on rows it had not seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """The outcome of one learner.

    Attributes
    ----------
    family
        Which scorer reads the arrays: "trees" or "linear".
    arrays
        The model, as the family's `to_arrays` gives it.
    held_out_rows
        (h,) int64 row numbers that were held out, each once.
    held_out_raw
        (h,) float64 log-odds that models which had not seen these rows gave them.
    settings
        What was chosen, as JSON takes it: number of rounds, penalty and the like.
    """

    family: str
    arrays: Mapping[str, NDArray[np.generic]]
    held_out_rows: NDArray[np.int64]
    held_out_raw: NDArray[np.float64]
    settings: Mapping[str, Any]
