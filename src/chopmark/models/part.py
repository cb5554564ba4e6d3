"""What every family of models comes down to: arrays that add up to one number per row.

    z = sum over parts of raw(x),   x = encoded columns (m,)

Trees, lookup tables and small networks are parts. A weighted blend of parts is a list of parts
again, since a weight can be folded into the arrays of its part (`scaled`): a blend costs no
more to serve than its parts do. Serves A8, A11 and B14 of the requirements.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Part(Protocol):
    """A function from encoded columns to log-odds (or a number), as plain arrays."""

    name: ClassVar[str]
    """Prefix of its arrays in an artifact: "trees", "linear" or "deep"."""

    @property
    def bias(self) -> float:
        """z of an average row: what all moves are measured from."""
        ...

    def raw(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) z of encoded columns (n, m)."""
        ...

    def moves(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, m) Shapley values of the encoded columns: with `bias` they sum to `raw`."""
        ...

    def scaled(self, weight: float) -> Self:
        """The part whose z is `weight` times this one's, weight >= 0."""
        ...

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays, as an artifact stores them."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], *, num_encoded: int) -> Self:
        """The part of stored arrays, checked so that no kernel can leave them.

        Raises
        ------
        ArtifactError
            If an array is missing or points outside the others.
        """
        ...
