"""Exact Shapley values of a sum of trees for one row, fast enough for the request path.

The game is TreeSHAP's (path dependent): z is expected over the columns that a coalition does
not know, and a node that asks an unknown column sends the row both ways, in proportion to the
covers. Let each column be known with probability t, independently, and F(t) be the expected
value. A Shapley value is an integral over these games (Owen's multilinear extension):

    phi_j = integral over t in [0, 1] of  E[z | j known] - E[z | j unknown]

In such a game a tree is a random walk. At a node that asks j, let c be the probability that j
is unknown given that the walk came here: 1 - t if no node above has asked j; after one has,
Bayes' rule tells. Where x goes left and a share e of the cover goes left,

    left:  reached with  (1 - c) + c e,  then j is unknown with  c e / ((1 - c) + c e)
    right: reached with  c (1 - e),      then j is unknown for certain

Write G for what the leaves below a node are worth: the sum of their values times the
probabilities to reach them. Since E[z; j known] = t E[z | j known] and likewise for unknown,

    E[z | j known] - E[z | j unknown] = sum over nodes that ask j of
        ((1 - c_below) G_below - (1 - c) G) / (t (1 - t)),    below = the child where x goes

because the sum telescopes along every path, also where a column is asked again and again.
One pass down gives c and the reaching probabilities, one pass up gives G: O(nodes) per t. The
integrand is a polynomial of degree D - 1 in t, D the most different columns on a path, so
Gauss and Legendre's rule with ceil(D / 2) points is exact. All probabilities are positive
and only multiplied and added, hence no digits are lost.
Serves A11 of the requirements.

References
----------
Scott M. Lundberg et al., "From local explanations to global understanding with explainable AI
for trees", 2020 (the game). Guillermo Owen, "Multilinear extensions of games", 1972.
Peng Yu et al., "Linear TreeShap", 2022 (another way to linear time, over polynomials).
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import ArtifactError
from chopmark.models.kernels import CATEGORICAL, CODE_LIMIT, NAN_LEFT, WORDS_SHIFT, ZERO_IS_MISSING

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

# A question that a node asks, and which step it decides. Questions stand in the order of their
# kinds, so that the processor foresees which branch is taken.
QUESTION = np.dtype([("threshold", "<f8"), ("step", "<i4"), ("feature", "<i2"), ("flags", "<u2")])
# A step down from a node to its two children; places count from the tree's root. `before` is
# the last place below a node that asks the same column, on the way here; the root if none is.
STEP = np.dtype([(name, "<i4") for name in ("place", "child", "before", "feature")])
# The steps of one tree, its root's place among all nodes, and its points.
SPAN = np.dtype(
    [(name, "<i4") for name in ("begin", "end", "root", "num_nodes", "point", "num_points")]
)

LIMIT_COLUMNS = 256
"""Most different columns on one path: 128 points, whose rule is still exact in float64."""

_PLACE = np.uintp
_NEAR_ZERO = np.float64(np.float32(1e-35))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShapPaths:
    """The arrays of `shap_moves`, laid out once per model.

    Attributes
    ----------
    questions
        (s,) structured as `QUESTION`.
    steps
        (s,) structured as `STEP`, parents before children, tree after tree.
    spans
        (t,) structured as `SPAN`.
    shares
        (p,) float64: share of a node's cover in its parent's, in (0, 1]; 1 at a root.
    gains
        (p,) float64: a leaf's value, 1 at other nodes.
    bitsets
        (w,) uint32, as `Trees` has it.
    points
        (k, 2) float64: the points of all rules in use, and their weights / (t (1 - t)).
    """

    questions: NDArray[np.void]
    steps: NDArray[np.void]
    spans: NDArray[np.void]
    shares: Vector
    gains: Vector
    bitsets: NDArray[np.uint32]
    points: Matrix

    @classmethod
    def of(
        cls,
        nodes: NDArray[np.void],
        covers: Vector,
        roots: NDArray[np.int32],
        bitsets: NDArray[np.uint32],
    ) -> Self:
        """The paths of a `Trees`' arrays. O(nodes).

        Raises
        ------
        ArtifactError
            If a path asks more than `LIMIT_COLUMNS` different columns.
        """
        inner = np.nonzero(nodes["feature"] >= 0)[0]
        ends = np.append(roots, len(nodes))
        before, num_columns = _last_edges(nodes["feature"].copy(), nodes["child"].copy(), roots)
        if num_columns.max(initial=0) > LIMIT_COLUMNS:
            raise ArtifactError(
                f"a path of the trees asks {num_columns.max()} different columns; explanations "
                f"are made of at most {LIMIT_COLUMNS}"
            )
        root = np.repeat(roots, np.diff(ends))[inner]
        steps = np.empty(len(inner), dtype=STEP)
        steps["place"] = inner - root
        steps["child"] = nodes["child"][inner] - root
        steps["before"] = before[inner] - root
        steps["feature"] = nodes["feature"][inner]
        points, firsts, counts = _points((num_columns + 1) // 2)
        spans = np.empty(len(roots), dtype=SPAN)
        spans["begin"], spans["end"] = (
            np.searchsorted(inner, ends[:-1]),
            np.searchsorted(inner, ends[1:]),
        )
        spans["root"], spans["num_nodes"] = roots, np.diff(ends)
        spans["point"], spans["num_points"] = firsts, counts
        return cls(
            questions=_questions(nodes[inner]),
            steps=steps,
            spans=spans,
            shares=_shares(nodes[inner], covers[inner], covers),
            gains=np.where(nodes["feature"] < 0, nodes["threshold"], 1.0),
            bitsets=bitsets,
            points=points,
        )

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """What `shap_moves` and `shap_table` take between the row and the moves."""
        return (
            self.questions,
            self.steps,
            self.spans,
            self.shares,
            self.gains,
            self.bitsets,
            self.points,
        )


@njit(cache=True, nogil=True)  # type: ignore[misc]
def shap_moves(
    x: Vector,
    questions: NDArray[np.void],
    steps: NDArray[np.void],
    spans: NDArray[np.void],
    shares: Vector,
    gains: Vector,
    bitsets: NDArray[np.uint32],
    points: Matrix,
    moves: Vector,
) -> None:
    """Add the Shapley values of x (m,) to `moves` (m,). O(nodes * points)."""
    right = _answers(x, questions, bitsets)
    room = 1
    for k in range(spans.shape[0]):
        room = max(room, spans[k].num_nodes * spans[k].num_points)
    unknown, worth = np.empty(room, np.float64), np.empty(room, np.float64)
    for k in range(spans.shape[0]):
        _walk_down(steps, spans[k], shares, gains, right, points, unknown, worth)
        _walk_up(steps, spans[k], right, points, unknown, worth, moves)


@njit(cache=True, nogil=True)  # type: ignore[misc]
def shap_table(
    x: Matrix,
    questions: NDArray[np.void],
    steps: NDArray[np.void],
    spans: NDArray[np.void],
    shares: Vector,
    gains: Vector,
    bitsets: NDArray[np.uint32],
    points: Matrix,
) -> Matrix:
    """Shapley values (n, m) of rows (n, m), each bit for bit that of `shap_moves`."""
    moves = np.zeros(x.shape, np.float64)
    for i in range(x.shape[0]):
        shap_moves(x[i], questions, steps, spans, shares, gains, bitsets, points, moves[i])
    return moves


@njit(cache=True, inline="always")  # type: ignore[misc]
def code_within(value: float, flags: int) -> int:
    """The category code of a value, or -1 if the bitset of a node's flags has no bit for it."""
    if 0.0 <= value < CODE_LIMIT:
        code = int(value)
        if code >> 5 < flags >> WORDS_SHIFT:
            return code
    return -1


@njit(cache=True, inline="always")  # type: ignore[misc]
def exceeds(value: float, threshold: float, flags: int) -> bool:
    """Whether a number goes right at a node."""
    missing = not (abs(value) > _NEAR_ZERO) if flags & ZERO_IS_MISSING else math.isnan(value)
    if missing:
        return flags & NAN_LEFT == 0
    return value > threshold


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _answers(
    x: Vector, questions: NDArray[np.void], bitsets: NDArray[np.uint32]
) -> NDArray[np.uint8]:
    """(s,) 1 where x goes right, else 0, by step."""
    right = np.empty(questions.shape[0], np.uint8)
    for k in range(questions.shape[0]):
        value, flags = x[_PLACE(questions[k].feature)], questions[k].flags
        if flags & CATEGORICAL:
            answer = True
            code = code_within(value, flags)
            if code >= 0:
                word = bitsets[_PLACE(questions[k].threshold) + _PLACE(code >> 5)]
                answer = (word >> np.uint32(code & 31)) & np.uint32(1) == 0
        else:
            answer = exceeds(value, questions[k].threshold, flags)
        right[_PLACE(questions[k].step)] = answer
    return right


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _walk_down(
    steps: NDArray[np.void],
    span: Any,
    shares: Vector,
    gains: Vector,
    right: NDArray[np.uint8],
    points: Matrix,
    unknown: Vector,
    worth: Vector,
) -> None:
    """Fill `unknown` and `worth`, both by place and point.

    `worth` is the probability to reach a node; at a leaf, that times its value.
    """
    root, point, count = _PLACE(span.root), _PLACE(span.point), _PLACE(span.num_points)
    for q in range(count):
        unknown[q] = 1.0 - points[point + q, 0]
        worth[q] = gains[root]
    for s in range(span.begin, span.end):
        near = _PLACE(steps[s].child) + _PLACE(right[s])
        far = _PLACE(steps[s].child) + _PLACE(1) - _PLACE(right[s])
        share, gain = shares[root + near], gains[root + near]
        far_gain = shares[root + far] * gains[root + far]
        here, before = count * _PLACE(steps[s].place), count * _PLACE(steps[s].before)
        near, far = count * near, count * far
        for q in range(count):
            c, reached = unknown[before + q], worth[here + q]
            by_chance = c * share
            passed = 1.0 - c + by_chance
            unknown[near + q] = by_chance / passed
            unknown[far + q] = 1.0
            worth[near + q] = reached * passed * gain
            worth[far + q] = reached * c * far_gain


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _walk_up(
    steps: NDArray[np.void],
    span: Any,
    right: NDArray[np.uint8],
    points: Matrix,
    unknown: Vector,
    worth: Vector,
    moves: Vector,
) -> None:
    """Add up `worth` from the leaves, and what each node adds to its column's `moves`."""
    point, count = _PLACE(span.point), _PLACE(span.num_points)
    for s in range(span.end - 1, span.begin - 1, -1):
        left = _PLACE(steps[s].child)
        near = count * (left + _PLACE(right[s]))
        left *= count
        here, before = count * _PLACE(steps[s].place), count * _PLACE(steps[s].before)
        move = 0.0
        for q in range(count):
            both = worth[left + q] + worth[left + count + q]
            known = (1.0 - unknown[near + q]) * worth[near + q]
            move += points[point + q, 1] * (known - (1.0 - unknown[before + q]) * both)
            worth[here + q] = both
        moves[_PLACE(steps[s].feature)] += move


def _questions(inner: NDArray[np.void]) -> NDArray[np.void]:
    kinds = inner["flags"] & (CATEGORICAL | NAN_LEFT | ZERO_IS_MISSING)
    order = np.argsort(kinds, kind="stable")
    questions = np.empty(len(inner), dtype=QUESTION)
    questions["step"] = order
    for name in ("threshold", "feature", "flags"):
        questions[name] = inner[name][order]
    return questions


def _shares(inner: NDArray[np.void], above: Vector, covers: Vector) -> Vector:
    shares = np.ones(len(covers))
    for child in (inner["child"], inner["child"] + 1):
        shares[child] = covers[child] / above
    return shares


def _points(
    counts: NDArray[np.int64],
) -> tuple[Matrix, NDArray[np.int64], NDArray[np.int64]]:
    """Points of all rules in use, and for each tree the first of its own and their number."""
    used, which = np.unique(np.maximum(counts, 1), return_inverse=True)
    rules = [_rule(int(count)) for count in used]
    firsts = np.cumsum([0, *used[:-1]])
    return np.concatenate([np.empty((0, 2)), *rules]), firsts[which], used[which]


@cache
def _rule(count: int) -> Matrix:
    """(count, 2): Gauss and Legendre's points t in (0, 1), and their weights / (t (1 - t))."""
    points, weights = np.polynomial.legendre.leggauss(count)
    t = (1.0 + points) / 2.0
    rule: Matrix = np.column_stack([t, weights / 2.0 / (t * (1.0 - t))])
    return rule


@njit(cache=True)  # type: ignore[misc]
def _last_edges(
    feature: NDArray[np.int16], child: NDArray[np.int32], roots: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By node: the last place on the way there below a node that asks the same column.

    Also, by tree, the most different columns on a path. Depth first, with a stack of its own:
    a place stays on the stack as ~place until all below are done, then its edge is taken back.
    """
    num_nodes = len(feature)
    before = np.zeros(num_nodes, np.int64)
    asked = np.full(num_nodes, -1, np.int64)
    hidden = np.empty(num_nodes, np.int64)
    stack = np.empty(num_nodes + 1, np.int64)
    last = np.full(1 << 15, -1, np.int64)
    num_columns = np.zeros(len(roots), np.int64)
    for t in range(len(roots)):
        depth, height = 0, 1
        stack[0] = roots[t]
        while height > 0:
            height -= 1
            place = stack[height]
            if place < 0:
                column = asked[~place]
                last[column] = hidden[~place]
                depth -= last[column] < 0
                continue
            column = asked[place]
            if column >= 0:
                hidden[place] = last[column]
                depth += last[column] < 0
                last[column] = place
                stack[height] = ~place
                height += 1
            num_columns[t] = max(num_columns[t], depth)
            if feature[place] >= 0:
                nearest = last[feature[place]]
                before[place] = nearest if nearest >= 0 else roots[t]
                for below in range(child[place], child[place] + 2):
                    asked[below] = feature[place]
                    stack[height] = below
                    height += 1
    return before, num_columns
