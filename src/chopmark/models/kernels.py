"""The compiled arithmetic of the request path: encode, score and explain one row or many.

    raw values -> base (one float per encoder column) -> x (encoded columns)
    z = trees(x) + linear(x) + offset
        trees:  sum over trees of the leaf that x falls into
        linear: bias + sum over columns of slope * scaled(x) + weight[bucket(x)]
        offset: what a part of another kind gave (`chopmark.models.dense`), or 0
    score = 1 / (1 + exp(-g(z))),   g = calibration, piecewise linear, never falling
    value = g(z)                    of a model of a number

The functions for tables loop over the functions for one row, so a batch equals its rows bit
for bit; no fast-math, so the order of every sum is fixed. Bounds are not checked in here:
whatever comes from a file has been checked by `Trees`, `Additive`, `Calibration` and `Encoder`.

There are two explanations. *Reasons*, for the live path, split z along the path (Saabas):
stepping from a node to its child moves the expected value, and the move belongs to the column
that the node asks; the moves of a path add up to leaf minus root. They cost little more than
the score. *Shapley values* (`chopmark.models.shap`) average the same moves over all orders of
columns and are fairer between columns that say the same; they cost ten times as much. Of a
linear model both are the terms. Both sum with the bias to z.
Serves A10 to A12 of the requirements.

References
----------
Ando Saabas, "Interpreting random forests", 2014.
Guolin Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", 2017.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

# Operations of the encoder's plan: how an encoded column comes from base values.
COPY, EPOCH_DAYS, HOUR, WEEKDAY, MONTH, DAY, SUM, DIFFERENCE, PRODUCT, RATIO, DAYS_BETWEEN = range(
    11
)
# `left` and `right` index base values, the owners index the raw columns behind them.
PLAN = np.dtype([(name, "<i4") for name in ("op", "left", "right", "left_owner", "right_owner")])

# A node of 16 bytes: four to a cache line. A leaf has feature -1 and its value as threshold;
# the right child follows the left one. A categorical node has the first word of its bitset as
# threshold and the number of words in the upper bits of its flags.
NODE = np.dtype([("threshold", "<f8"), ("child", "<i4"), ("feature", "<i2"), ("flags", "<u2")])
CATEGORICAL, NAN_LEFT, ZERO_IS_MISSING = 1, 2, 4
WORDS_SHIFT = 3
CODE_LIMIT = 2147483648.0

# One encoded column of an additive model; `edges` and `weights` are slices of shared arrays.
TERM = np.dtype(
    [
        ("slope", "<f8"),
        ("center", "<f8"),
        ("low", "<f8"),
        ("high", "<f8"),
        ("missing", "<f8"),
        ("edge", "<i4"),
        ("num_edges", "<i4"),
        ("weight", "<i4"),
        ("num_weights", "<i4"),
    ]
)

LOG_ODDS_LIMIT = 15.0
"""Calibrated log-odds stay within this: a score of 1 - 3e-7. No data warrants more certainty,
and nearer to 1 a float64 can no longer tell the log-odds to 1e-9."""

BLOCK = 256
"""Rows of a table that walk a tree together; what they read fits in the cache of a core."""

# Unsigned places spare the check for negative ones that Python's indexing asks for.
_PLACE = np.uintp
_DAY_MICROS = 86_400_000_000.0
_NEAR_ZERO = np.float64(np.float32(1e-35))


@njit(cache=True)  # type: ignore[misc]
def encode_row(base: Vector, plan: NDArray[np.void]) -> Vector:
    """Encoded columns (m,) of base values (k,)."""
    x = np.empty(plan.shape[0], np.float64)
    for j in range(plan.shape[0]):
        op = plan[j].op
        value = base[plan[j].left]
        if op == COPY:
            # Adding zero makes -0.0 the same bits as 0.0.
            x[j] = value + 0.0 if math.isfinite(value) else np.nan
        elif op <= DAY:
            x[j] = _date_part(op, value)
        else:
            x[j] = _combination(op, value, base[plan[j].right])
    return x


@njit(cache=True, nogil=True)  # type: ignore[misc]
def encode_table(base: Matrix, plan: NDArray[np.void]) -> Matrix:
    """Encoded columns (n, m) of base values (n, k)."""
    x = np.empty((base.shape[0], plan.shape[0]), np.float64)
    for i in range(base.shape[0]):
        x[i] = encode_row(base[i], plan)
    return x


@njit(cache=True)  # type: ignore[misc]
def _date_part(op: int, micros: float) -> float:
    if not math.isfinite(micros):
        return np.nan
    day = math.floor(micros / _DAY_MICROS)
    if op == EPOCH_DAYS:
        return micros / _DAY_MICROS
    if op == HOUR:
        return math.floor((micros - day * _DAY_MICROS) / 3_600_000_000.0)
    if op == WEEKDAY:
        return float((int(day) + 3) % 7)
    # Civil date from a day count: Howard Hinnant, "chrono-compatible low-level date algorithms".
    shifted = int(day) + 719_468
    era = shifted // 146_097
    doe = shifted - era * 146_097
    yoe = (doe - doe // 1_460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    month_from_march = (5 * doy + 2) // 153
    if op == DAY:
        return float(doy - (153 * month_from_march + 2) // 5 + 1)
    return float(month_from_march + 3 if month_from_march < 10 else month_from_march - 9)


@njit(cache=True)  # type: ignore[misc]
def _combination(op: int, left: float, right: float) -> float:
    result = np.nan
    if op == SUM:
        result = left + right
    elif op == DIFFERENCE:
        result = left - right
    elif op == PRODUCT:
        result = left * right
    elif op == RATIO:
        result = left / right if right != 0.0 else np.nan
    elif op == DAYS_BETWEEN:
        result = (left - right) / _DAY_MICROS
    return result if math.isfinite(result) else np.nan


@njit(cache=True)  # type: ignore[misc]
def calibrate(z: float, knots: Matrix, logit: bool) -> float:
    """Calibrated log-odds; `knots` (p + 1, 2) are points and, last, the two outer slopes.

    Not `logit`: z becomes a number, which has no limit.
    """
    last = knots.shape[0] - 2
    if last < 0:
        g = z
    elif z <= knots[0, 0]:
        g = knots[0, 1] + knots[last + 1, 0] * (z - knots[0, 0])
    elif z >= knots[last, 0]:
        g = knots[last, 1] + knots[last + 1, 1] * (z - knots[last, 0])
    else:
        low, high = 0, last
        while high - low > 1:
            middle = (low + high) // 2
            if knots[middle, 0] <= z:
                low = middle
            else:
                high = middle
        share = (z - knots[low, 0]) / (knots[high, 0] - knots[low, 0])
        g = knots[low, 1] + share * (knots[high, 1] - knots[low, 1])
    return min(max(g, -LOG_ODDS_LIMIT), LOG_ODDS_LIMIT) if logit else g


@njit(cache=True)  # type: ignore[misc]
def sigmoid(z: float) -> float:
    """1 / (1 + exp(-z)), without overflow and without loss near 0."""
    if z >= 0.0:
        return 1.0 / (1.0 + math.exp(-z))
    e = math.exp(z)
    return e / (1.0 + e)


@njit(cache=True, nogil=True)  # type: ignore[misc]
def trees_raw(
    x: Matrix,
    nodes: NDArray[np.void],
    roots: NDArray[np.int32],
    bitsets: NDArray[np.uint32],
    zs: Vector,
) -> None:
    """Sums of the leaves that the rows of x (n, m) reach, into zs (n,). O(n * trees * depth).

    A tree is walked by a block of rows before the next one: it is in the cache then, and half of
    the time is saved.
    """
    for begin in range(0, x.shape[0], BLOCK):
        end = min(begin + BLOCK, x.shape[0])
        zs[begin:end] = 0.0
        for t in range(roots.shape[0]):
            root = _PLACE(roots[t])
            for row in range(begin, end):
                i = root
                while True:
                    feature = nodes[i].feature
                    threshold = nodes[i].threshold
                    if feature < 0:
                        zs[row] += threshold
                        break
                    flags = nodes[i].flags
                    value = x[row, _PLACE(feature)]
                    if flags & CATEGORICAL:
                        # Written out in both walks: a call that passes the array costs more
                        # than it does, and inlined by numba it takes twice as long.
                        right = True
                        if 0.0 <= value < CODE_LIMIT:
                            code = int(value)
                            if code >> 5 < flags >> WORDS_SHIFT:
                                word = bitsets[_PLACE(threshold) + _PLACE(code >> 5)]
                                right = (word >> np.uint32(code & 31)) & np.uint32(1) == 0
                    elif flags & ZERO_IS_MISSING and not (abs(value) > _NEAR_ZERO):
                        right = flags & NAN_LEFT == 0
                    elif flags & NAN_LEFT:
                        right = value > threshold
                    else:
                        right = not (value <= threshold)
                    i = _PLACE(nodes[i].child) + _PLACE(right)


@njit(cache=True)  # type: ignore[misc]
def trees_moves(
    x: Vector,
    nodes: NDArray[np.void],
    values: Vector,
    roots: NDArray[np.int32],
    bitsets: NDArray[np.uint32],
    moves: Vector,
) -> float:
    """Sum of the leaves that x (m,) reaches; `moves` (m,) get what each column did on the way."""
    z = 0.0
    for t in range(roots.shape[0]):
        i = _PLACE(roots[t])
        while True:
            feature = nodes[i].feature
            threshold = nodes[i].threshold
            if feature < 0:
                z += threshold
                break
            flags = nodes[i].flags
            value = x[_PLACE(feature)]
            if flags & CATEGORICAL:
                right = True
                if 0.0 <= value < CODE_LIMIT:
                    code = int(value)
                    if code >> 5 < flags >> WORDS_SHIFT:
                        word = bitsets[_PLACE(threshold) + _PLACE(code >> 5)]
                        right = (word >> np.uint32(code & 31)) & np.uint32(1) == 0
            elif flags & ZERO_IS_MISSING and not (abs(value) > _NEAR_ZERO):
                right = flags & NAN_LEFT == 0
            elif flags & NAN_LEFT:
                right = value > threshold
            else:
                right = not (value <= threshold)
            child = _PLACE(nodes[i].child) + _PLACE(right)
            moves[_PLACE(feature)] += values[child] - values[i]
            i = child
    return z


@njit(cache=True)  # type: ignore[misc]
def additive_moves(
    x: Vector, terms: NDArray[np.void], edges: Vector, weights: Vector, moves: Vector
) -> float:
    """Sum of the terms of x (m,), each also stored in `moves` (m,). O(m log edges)."""
    z = 0.0
    for j in range(terms.shape[0]):
        value = x[j]
        if math.isnan(value):
            term = terms[j].missing
        elif terms[j].num_edges < 0:
            # A category code; one that the model never saw counts as "other", code 1.
            code = int(value) if 0.0 <= value < terms[j].num_weights else 1
            term = weights[terms[j].weight + code]
        else:
            low, high = terms[j].edge, terms[j].edge + terms[j].num_edges
            while low < high:
                middle = (low + high) // 2
                if edges[middle] <= value:
                    low = middle + 1
                else:
                    high = middle
            clipped = min(max(value, terms[j].low), terms[j].high)
            bucket = low - terms[j].edge
            term = terms[j].slope * (clipped - terms[j].center) + weights[terms[j].weight + bucket]
        moves[j] = term
        z += term
    return z


@njit(cache=True, nogil=True)  # type: ignore[misc]
def additive_table(
    x: Matrix, terms: NDArray[np.void], edges: Vector, weights: Vector
) -> tuple[Vector, Matrix]:
    """Sums (n,) and terms (n, m) of encoded columns (n, m)."""
    zs = np.empty(x.shape[0], np.float64)
    moves = np.empty(x.shape, np.float64)
    for i in range(x.shape[0]):
        zs[i] = additive_moves(x[i], terms, edges, weights, moves[i])
    return zs, moves


@njit(cache=True)  # type: ignore[misc]
def spread(
    z: float,
    bias: float,
    moves: Vector,
    plan: NDArray[np.void],
    knots: Matrix,
    logit: bool,
    out: Vector,
) -> None:
    """Fill `out` (r + 1,): raw columns' contributions to the calibrated log-odds, then bias.

    The calibration's secant from the bias to z scales all contributions alike. A column made of
    two raw columns (a date difference) is shared by them in halves.
    """
    start, end = calibrate(bias, knots, logit), calibrate(z, knots, logit)
    total = 0.0
    for j in range(moves.shape[0]):
        total += moves[j]
    if abs(total) > 1e-10:
        slope = (end - start) / total
    else:
        # A secant over rounding errors means nothing: take the slope around z.
        slope = (calibrate(z + 1e-6, knots, logit) - calibrate(z - 1e-6, knots, logit)) / 2e-6
    for j in range(moves.shape[0]):
        share = slope * moves[j]
        left, right = plan[j].left_owner, plan[j].right_owner
        if left == right:
            out[left] += share
        else:
            out[left] += 0.5 * share
            out[right] += 0.5 * share
    out[out.shape[0] - 1] = start


@njit(cache=True)  # type: ignore[misc]
def score_row(
    base: Vector,
    offset: float,
    plan: NDArray[np.void],
    nodes: NDArray[np.void],
    roots: NDArray[np.int32],
    bitsets: NDArray[np.uint32],
    terms: NDArray[np.void],
    edges: Vector,
    weights: Vector,
    bias: float,
    knots: Matrix,
    logit: bool,
) -> float:
    """Score in [0, 1] (or the number) of one row's base values (k,).

    A model without trees has no roots; one without a linear part no terms and a bias of 0.
    """
    x = encode_row(base, plan)
    zs = np.empty(1, np.float64)
    trees_raw(x.reshape(1, -1), nodes, roots, bitsets, zs)
    z = zs[0] + offset
    if terms.shape[0] > 0:
        z += bias + additive_moves(x, terms, edges, weights, np.empty(terms.shape[0], np.float64))
    g: float = calibrate(z, knots, logit)
    return sigmoid(g) if logit else g


@njit(cache=True, nogil=True)  # type: ignore[misc]
def score_table(
    base: Matrix,
    offsets: Vector,
    plan: NDArray[np.void],
    nodes: NDArray[np.void],
    roots: NDArray[np.int32],
    bitsets: NDArray[np.uint32],
    terms: NDArray[np.void],
    edges: Vector,
    weights: Vector,
    bias: float,
    knots: Matrix,
    logit: bool,
) -> Vector:
    """Scores (n,) of base values (n, k) and offsets (n,), each as `score_row` gives it."""
    scores = np.empty(base.shape[0], np.float64)
    own = np.empty(terms.shape[0], np.float64)
    for begin in range(0, base.shape[0], BLOCK):
        end = min(begin + BLOCK, base.shape[0])
        x = encode_table(base[begin:end], plan)
        zs = scores[begin:end]
        trees_raw(x, nodes, roots, bitsets, zs)
        for i in range(end - begin):
            z = zs[i] + offsets[begin + i]
            if terms.shape[0] > 0:
                z += bias + additive_moves(x[i], terms, edges, weights, own)
            g: float = calibrate(z, knots, logit)
            zs[i] = sigmoid(g) if logit else g
    return scores


@njit(cache=True)  # type: ignore[misc]
def reasons_row(
    base: Vector,
    offset: float,
    offset_moves: Vector,
    plan: NDArray[np.void],
    nodes: NDArray[np.void],
    values: Vector,
    roots: NDArray[np.int32],
    bitsets: NDArray[np.uint32],
    terms: NDArray[np.void],
    edges: Vector,
    weights: Vector,
    bias: float,
    expected: float,
    knots: Matrix,
    logit: bool,
    num_reads: int,
) -> tuple[float, Vector]:
    """Score as of `score_row`, and path contributions (r + 1,) with the bias last.

    `offset_moves` (m,) are the moves behind the offset; `expected` is z of an average row.
    """
    x = encode_row(base, plan)
    moves = offset_moves.copy()
    z = trees_moves(x, nodes, values, roots, bitsets, moves) + offset
    if terms.shape[0] > 0:
        own = np.empty(terms.shape[0], np.float64)
        z += bias + additive_moves(x, terms, edges, weights, own)
        moves += own
    out = np.zeros(num_reads + 1, np.float64)
    spread(z, expected, moves, plan, knots, logit, out)
    g: float = calibrate(z, knots, logit)
    return (sigmoid(g) if logit else g), out


@njit(cache=True, nogil=True)  # type: ignore[misc]
def raw_table(
    x: Matrix,
    offsets: Vector,
    nodes: NDArray[np.void],
    roots: NDArray[np.int32],
    bitsets: NDArray[np.uint32],
    terms: NDArray[np.void],
    edges: Vector,
    weights: Vector,
    bias: float,
) -> Vector:
    """z (n,) of encoded columns (n, m), summed in the order of `score_row`."""
    zs = np.empty(x.shape[0], np.float64)
    moves = np.empty(terms.shape[0], np.float64)
    trees_raw(x, nodes, roots, bitsets, zs)
    for i in range(x.shape[0]):
        z = zs[i] + offsets[i]
        if terms.shape[0] > 0:
            z += bias + additive_moves(x[i], terms, edges, weights, moves)
        zs[i] = z
    return zs


@njit(cache=True, nogil=True)  # type: ignore[misc]
def spread_table(
    zs: Vector,
    expected: float,
    moves: Matrix,
    plan: NDArray[np.void],
    knots: Matrix,
    logit: bool,
    num_reads: int,
) -> Matrix:
    """Contributions (n, r + 1) of moves (n, m), the bias last."""
    result = np.zeros((zs.shape[0], num_reads + 1), np.float64)
    for i in range(zs.shape[0]):
        spread(zs[i], expected, moves[i], plan, knots, logit, result[i])
    return result
