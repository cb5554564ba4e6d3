"""A deep model as flat arrays: a small network with many members, one compiled pass per row.

    e_j(x)  = levels of column j, interpolated at x_j      vector (H,); zero is the average row
    u_k^0   = b_k^0 + sum_j r_kj e_j(x)                     member k reads column j by r_kj
    u_k^l   = b_k^l + relu(u_k^(l-1)) W^l                   weights W^l shared by all members
    z       = shift + sum_k v_k . relu(u_k^L)               mean of the members' log-odds

A number has a vector per edge and is interpolated between the two around it; values beyond
the training range count as its end. A missing number has a vector of its own, a category one
per code. So the first layer costs two vectors a column, however many edges there are.
Scores and explanations share one float64 forward pass; sums have a fixed order, no fast-math:
a batch equals its rows bit for bit.

An explanation is Deep SHAP: the rescale rule of DeepLIFT against one reference, the average
training row, whose input to the first layer is zero. Each relu passes on what changed in it as
change of output over change of input, so the moves sum to z - bias. They are Shapley values as
far as the members are linear between the reference and the row; where columns interact,
an approximation (the true ones cost 2 ** m passes). Serves A4, A8 and A11 of the requirements.

Shape suffixes in the code: M encoded columns, P places (rows of levels), K members, H width,
L matrices between hidden layers.

References
----------
Yury Gorishniy et al., "TabM: Advancing tabular deep learning with parameter-efficient
ensembling", 2024. Here the adapter scales a column's vector, and log-odds are averaged instead
of probabilities, so that explanations add up.
Yury Gorishniy et al., "On embeddings for numerical features in tabular deep learning", 2022.
Avanti Shrikumar et al., "Learning important features through propagating activation
differences", 2017.
Scott Lundberg and Su-In Lee, "A unified approach to interpreting model predictions", 2017.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import ArtifactError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Cube = NDArray[np.float64]

# Where an encoded column has its edges and places; -1 edges mark a category, whose places are
# its codes. A number has a place per edge, then one for missing.
COLUMN = np.dtype([(name, "<i4") for name in ("edge", "num_edges", "place", "num_places")])

_UNSEEN = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense:
    """A network over encoded columns, in log-odds or standardised numbers.

    Attributes
    ----------
    columns
        (M,) structured as `COLUMN`.
    edges
        Float64, rising within each number's slice, at least two to a number (a constant
        number has the same edge twice).
    levels
        (P, H) what each place adds to the first layer, centred on the average training row.
    adapters
        (K, M) by how much each member reads each column.
    hidden
        (L, H, H) weights between hidden layers, from row to column.
    biases
        (L + 1, K, H) of each hidden layer and member.
    heads
        (K, H) weights of the members' outputs, the mean over members included.
    shift
        Mean of the members' output biases.
    transposed
        `hidden` from column to row, for the way back; derived.
    reference
        (L + 1, K, H) input to each relu of the average training row; derived.
    """

    name: ClassVar[str] = "deep"

    columns: NDArray[np.void]
    edges: Vector
    levels: Matrix
    adapters: Matrix
    hidden: Cube
    biases: Cube
    heads: Matrix
    shift: float
    transposed: Cube = field(init=False)
    reference: Cube = field(init=False)

    def __post_init__(self) -> None:
        transposed = np.ascontiguousarray(self.hidden.transpose(0, 2, 1))
        average = np.zeros((len(self.columns), self.levels.shape[1]))
        reference = _layers(average, self.adapters, self.hidden, self.biases)
        object.__setattr__(self, "transposed", transposed)
        object.__setattr__(self, "reference", reference)

    @property
    def bias(self) -> float:
        """z of the average training row."""
        return float(_output(self.reference, self.heads, self.shift))

    @property
    def scoring(self) -> tuple[Any, ...]:
        """Arguments of `dense_raw` after the row."""
        return (
            *(self.columns, self.edges, self.levels),
            *(self.adapters, self.hidden, self.biases, self.heads, self.shift),
        )

    @property
    def explaining(self) -> tuple[Any, ...]:
        """Arguments of `dense_moves` between the row and the moves."""
        return (*self.scoring, self.transposed, self.reference)

    def raw(self, x: Matrix) -> Vector:
        """(n,) z of encoded columns (n, m)."""
        z: Vector = _raw_table(np.ascontiguousarray(x, dtype=np.float64), *self.scoring)
        return z

    def moves(self, x: Matrix) -> Matrix:
        """(n, m) Deep SHAP values of the encoded columns: with `bias` they sum to `raw`."""
        moves: Matrix = _moves_table(np.ascontiguousarray(x, dtype=np.float64), *self.explaining)
        return moves

    def scaled(self, weight: float) -> Self:
        """The network whose z is `weight` times this one's, weight >= 0."""
        return type(self)(
            columns=self.columns,
            edges=self.edges,
            levels=self.levels,
            adapters=self.adapters,
            hidden=self.hidden,
            biases=self.biases,
            heads=self.heads * weight,
            shift=self.shift * weight,
        )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays, as an artifact stores them.

        Levels, adapters, matrices and biases are float32, which is how they were trained; the
        heads hold a blend's weight and stay float64.
        """
        fields = {name: self.columns[name].copy() for name in self.columns.dtype.names or ()}
        return {
            **fields,
            "edges": self.edges,
            "levels": self.levels.astype(np.float32),
            "adapters": self.adapters.astype(np.float32),
            "hidden": self.hidden.astype(np.float32),
            "biases": self.biases.astype(np.float32),
            "heads": self.heads,
            "shift": np.array([self.shift]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], *, num_encoded: int) -> Self:
        """The network of stored arrays, checked so that no kernel can leave them.

        Parameters
        ----------
        num_encoded
            Columns that the network reads, >= 1.

        Raises
        ------
        ArtifactError
            If an array is missing, of a wrong shape, not finite or points outside the others.
        """
        try:
            columns = np.empty(len(arrays["edge"]), dtype=COLUMN)
            for name in columns.dtype.names or ():
                columns[name] = arrays[name]
            floats = {
                name: np.ascontiguousarray(arrays[name], dtype=np.float64)
                for name in ("edges", "levels", "adapters", "hidden", "biases", "heads", "shift")
            }
        except (KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"the artifact's network cannot be read: {error!r}") from error
        _check(columns, floats, num_encoded)
        return cls(columns=columns, shift=float(floats.pop("shift")[0]), **floats)


@njit(cache=True)  # type: ignore[misc]
def dense_raw(
    x: Vector,
    columns: NDArray[np.void],
    edges: Vector,
    levels: Matrix,
    adapters: Matrix,
    hidden: Cube,
    biases: Cube,
    heads: Matrix,
    shift: float,
) -> float:
    """z of encoded columns x (m,). O(K (M H + L H ** 2)), less where relu is zero."""
    inputs_MH = _inputs(x, columns, edges, levels)
    z: float = _output(_layers(inputs_MH, adapters, hidden, biases), heads, shift)
    return z


@njit(cache=True)  # type: ignore[misc]
def dense_moves(
    x: Vector,
    columns: NDArray[np.void],
    edges: Vector,
    levels: Matrix,
    adapters: Matrix,
    hidden: Cube,
    biases: Cube,
    heads: Matrix,
    shift: float,
    transposed: Cube,
    reference: Cube,
    moves: Vector,
) -> float:
    """`dense_raw`, adding each encoded column's Deep SHAP value to `moves` (m,)."""
    inputs_MH = _inputs(x, columns, edges, levels)
    layers_LKH = _layers(inputs_MH, adapters, hidden, biases)
    slopes_MH = np.zeros_like(inputs_MH)
    for k in range(adapters.shape[0]):
        _add_slopes(k, layers_LKH, reference, adapters, transposed, heads, slopes_MH)
    for j in range(inputs_MH.shape[0]):
        move = 0.0
        for h in range(inputs_MH.shape[1]):
            move += slopes_MH[j, h] * inputs_MH[j, h]
        moves[j] += move
    z: float = _output(layers_LKH, heads, shift)
    return z


@njit(cache=True)  # type: ignore[misc]
def _inputs(x: Vector, columns: NDArray[np.void], edges: Vector, levels: Matrix) -> Matrix:
    """(M, H) the vector of each column: the level of its place, or between two of them."""
    num_columns, width = columns.shape[0], levels.shape[1]
    inputs_MH = np.empty((num_columns, width), np.float64)
    for j in range(num_columns):
        place, share = _place(x[j], columns[j], edges)
        out, low = inputs_MH[j], levels[place]
        if share > 0.0:
            high = levels[place + 1]
            for h in range(width):
                out[h] = low[h] + share * (high[h] - low[h])
        else:
            for h in range(width):
                out[h] = low[h]
    return inputs_MH


@njit(cache=True)  # type: ignore[misc]
def _place(value: float, column: Any, edges: Vector) -> tuple[int, float]:
    """The place of a value, and how far it is on the way to the next one, in [0, 1)."""
    begin, count, place = column.edge, column.num_edges, column.place
    if count < 0:
        known = 0.0 <= value < column.num_places
        return place + (int(value) if known else _UNSEEN), 0.0
    if math.isnan(value):
        return place + count, 0.0
    if value <= edges[begin]:
        return place, 0.0
    if value >= edges[begin + count - 1]:
        return place + count - 1, 0.0
    low, high = begin, begin + count - 1
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= value:
            low = middle
        else:
            high = middle
    # Halves, as the difference of two large numbers may overflow. Neighbouring subnormal
    # numbers have no half between them.
    width = 0.5 * edges[high] - 0.5 * edges[low]
    share = (0.5 * value - 0.5 * edges[low]) / width if width > 0.0 else 0.0
    return place + low - begin, share


@njit(cache=True)  # type: ignore[misc]
def _layers(inputs_MH: Matrix, adapters: Matrix, hidden: Cube, biases: Cube) -> Cube:
    """(L + 1, K, H) inputs to the relus of all layers and members."""
    layers_LKH = biases.copy()
    width = inputs_MH.shape[1]
    for k in range(adapters.shape[0]):
        first = layers_LKH[0, k]
        for j in range(inputs_MH.shape[0]):
            # The inner loops run over a vector that is added to another: that is what compiles
            # to vector instructions without reordering any sum.
            adapter, vector = adapters[k, j], inputs_MH[j]
            for h in range(width):
                first[h] += adapter * vector[h]
        for layer in range(hidden.shape[0]):
            below, above = layers_LKH[layer, k], layers_LKH[layer + 1, k]
            for i in range(width):
                active, weights = below[i], hidden[layer, i]
                if active > 0.0:
                    for h in range(width):
                        above[h] += active * weights[h]
    return layers_LKH


@njit(cache=True)  # type: ignore[misc]
def _output(layers_LKH: Cube, heads: Matrix, shift: float) -> float:
    last_KH = layers_LKH[layers_LKH.shape[0] - 1]
    z = shift
    for k in range(heads.shape[0]):
        for h in range(heads.shape[1]):
            if last_KH[k, h] > 0.0:
                z += heads[k, h] * last_KH[k, h]
    return z


@njit(cache=True)  # type: ignore[misc]
def _add_slopes(
    k: int,
    layers_LKH: Cube,
    reference: Cube,
    adapters: Matrix,
    transposed: Cube,
    heads: Matrix,
    slopes_MH: Matrix,
) -> None:
    """Add what a unit of each column's vector moves z by, through member k."""
    last, width = transposed.shape[0], heads.shape[1]
    above = np.empty(width, np.float64)
    for h in range(width):
        above[h] = heads[k, h] * _rescale(layers_LKH[last, k, h], reference[last, k, h])
    for layer in range(last - 1, -1, -1):
        below = np.zeros(width, np.float64)
        for h in range(width):
            slope, weights = above[h], transposed[layer, h]
            if slope != 0.0:
                for i in range(width):
                    below[i] += slope * weights[i]
        for i in range(width):
            below[i] *= _rescale(layers_LKH[layer, k, i], reference[layer, k, i])
        above = below
    for j in range(adapters.shape[1]):
        adapter, slopes = adapters[k, j], slopes_MH[j]
        for h in range(width):
            slopes[h] += adapter * above[h]


@njit(cache=True)  # type: ignore[misc]
def _rescale(now: float, then: float) -> float:
    """Change of relu over change of its input; exact also where the change is tiny."""
    if now > 0.0 and then > 0.0:
        return 1.0
    if now <= 0.0 and then <= 0.0:
        return 0.0
    return max(now, then) / abs(now - then)


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _raw_table(
    x: Matrix,
    columns: NDArray[np.void],
    edges: Vector,
    levels: Matrix,
    adapters: Matrix,
    hidden: Cube,
    biases: Cube,
    heads: Matrix,
    shift: float,
) -> Vector:
    z = np.empty(x.shape[0], np.float64)
    for i in range(x.shape[0]):
        z[i] = dense_raw(x[i], columns, edges, levels, adapters, hidden, biases, heads, shift)
    return z


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _moves_table(
    x: Matrix,
    columns: NDArray[np.void],
    edges: Vector,
    levels: Matrix,
    adapters: Matrix,
    hidden: Cube,
    biases: Cube,
    heads: Matrix,
    shift: float,
    transposed: Cube,
    reference: Cube,
) -> Matrix:
    moves = np.zeros(x.shape, np.float64)
    for i in range(x.shape[0]):
        dense_moves(
            x[i],
            columns,
            edges,
            levels,
            adapters,
            hidden,
            biases,
            heads,
            shift,
            transposed,
            reference,
            moves[i],
        )
    return moves


def _check(columns: NDArray[np.void], floats: Mapping[str, Cube], num_encoded: int) -> None:
    levels, adapters, hidden = floats["levels"], floats["adapters"], floats["hidden"]
    width, members, depth = levels.shape[-1:], adapters.shape[:1], len(hidden.shape[:1])
    matrices = hidden.shape[0] if depth else 0
    shapes = {
        "edges": (floats["edges"].size,),
        "levels": (levels.shape[0] if levels.ndim else 0, *width),
        "adapters": (*members, num_encoded),
        "hidden": (matrices, *width, *width),
        "biases": (matrices + 1, *members, *width),
        "heads": (*members, *width),
        "shift": (1,),
    }
    checks = {
        f"{num_encoded} columns": len(columns) == num_encoded,
        **{
            f"{name} of shape {shape}": floats[name].shape == shape
            for name, shape in shapes.items()
        },
        "finite numbers": all(bool(np.all(np.isfinite(array))) for array in floats.values()),
    }
    for expectation, holds in checks.items():
        if not holds:
            raise ArtifactError(f"the artifact's network is broken: expected {expectation}")
    _check_columns(columns, floats["edges"], len(levels))


def _check_columns(columns: NDArray[np.void], edges: Vector, num_places: int) -> None:
    number = columns["num_edges"] >= 0
    edge, count = columns["edge"].astype(np.int64), columns["num_edges"].astype(np.int64)
    place, places = columns["place"].astype(np.int64), columns["num_places"].astype(np.int64)
    checks = {
        "two edges or more to a number": bool(np.all(count[number] >= 2)),
        "edges within the array": bool(
            np.all((edge[number] >= 0) & (edge[number] + count[number] <= len(edges)))
        ),
        # A category needs the codes 0 and 1; a number has a place for missing after its edges.
        "a place for every edge or code": bool(np.all(places >= np.where(number, count + 1, 2))),
        "places within the levels": bool(np.all((place >= 0) & (place + places <= num_places))),
    }
    for expectation, holds in checks.items():
        if not holds:
            raise ArtifactError(f"the artifact's network is broken: expected {expectation}")
    for column in columns[number]:
        own = edges[column["edge"] : column["edge"] + column["num_edges"]]
        if np.any(np.diff(own) < 0.0):
            raise ArtifactError("the artifact's network is broken: expected rising edges")
