"""Zero-shot scores: how like a user is to the labelled ones, and nothing is trained.

    u = embedding / |embedding|
    direction = mean of u over positives - weight * mean of u over negatives
    score = cosine of u and direction

One positive is enough, and no negative is needed. With weight 0 only the positives count; what
the negatives say is worth most where the positives are much like everybody. Of several classes,
each has a direction of its own, against all the others. Serves G13 and G14 of the requirements.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import DeclarationError, InvalidInput
from chopmark.models.metrics import roc_auc

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Weights that `Similarity` chooses from."""

_USUAL = 1.0
_FOLDS = 5
_ROUNDS = 4
_MOST_ROWS = 20_000
_BLOCK = 65_536


class Similarity:
    """Scores users by their likeness to labelled ones.

    Parameters
    ----------
    weight
        Of the negatives, 0 or more: 0 leaves them out, 1 is the difference of the means. None:
        chosen by leaving labelled rows out; 1 unless another is better by more than its error.
    seed
        Of what is left out.

    Attributes
    ----------
    weight_ : float
        The weight that is used; 0 where there are no negatives.
    areas_ : dict
        ROC-AUC of left-out rows by weight; empty where nothing was chosen.

    Examples
    --------
    >>> like = Similarity().fit([[2.0, 0.1], [1.0, 0.0], [0.0, 3.0]], [1, 1, 0])
    >>> like.score([[5.0, 0.0], [0.0, 5.0]]).round(1).tolist()
    [0.7, -0.7]
    """

    def __init__(self, weight: float | None = None, *, seed: int = 0) -> None:
        if weight is not None and not 0.0 <= weight < np.inf:
            raise DeclarationError(f"expected a weight of 0 or more, got {weight}")
        self.weight, self.seed = weight, seed
        self.weight_ = 0.0
        self.areas_: dict[float, float] = {}
        self._directions: Floats | None = None
        self._several = False

    def fit(self, embeddings: ArrayLike, y: ArrayLike) -> Self:
        """Itself, with a direction for the positives, or for each class.

        Parameters
        ----------
        embeddings : (n, d)
            Of labelled users; no unit length needed.
        y : (n,)
            1 of a positive and 0 of a negative; or codes 0 to C - 1 of three classes or more.

        Raises
        ------
        InvalidInput
            If nobody is positive, or shapes or labels cannot be.
        """
        units, codes = unit(embeddings), _codes(y)
        if len(units) != len(codes):
            raise InvalidInput(
                f"expected one label for each embedding, got {len(codes)} labels and "
                f"{len(units)} embeddings"
            )
        if codes.max(initial=0) < 1:
            raise InvalidInput("expected at least one positive (label 1) to be like, got none")
        self._several = bool(codes.max() > 1)
        self.areas_ = {}
        if not (codes == 0).any() and not self._several:
            self.weight_ = 0.0
        elif self.weight is not None:
            self.weight_ = self.weight
        else:
            self.weight_, self.areas_ = _chosen(units, codes, self.seed)
        self._directions = _directions(units, codes, self.weight_, self._classes(codes))
        return self

    def score(self, embeddings: ArrayLike) -> Floats:
        """(m,) cosines in [-1, 1], of several classes (m, C); an embedding of zeros has 0.

        Raises
        ------
        InvalidInput
            If it is not fitted, or the embeddings have another width.
        """
        if self._directions is None:
            raise InvalidInput("this Similarity is not fitted: call `fit` with labelled users")
        found = _cosines(embeddings, self._directions)
        return found if self._several else found[:, 0]

    def nearest(
        self,
        embeddings: ArrayLike,
        users: pl.Series | Sequence[Any] | NDArray[Any],
        k: int,
        *,
        of: int | None = None,
    ) -> pl.DataFrame:
        """The k users most like the positives, best first: columns ``user`` and ``score``.

        Parameters
        ----------
        users : (m,)
            Their names, in the order of the embeddings.
        k
            How many; all if there are no more.
        of
            The class to be like, where there are several.
        """
        names = users if isinstance(users, pl.Series) else pl.Series("user", users)
        scores = self.score(embeddings)
        if scores.ndim == 2:
            if of is None or not 0 <= of < scores.shape[1]:
                raise InvalidInput(
                    f"expected the class to be like (of=0 to {scores.shape[1] - 1}), got {of}"
                )
            scores = scores[:, of]
        if len(names) != len(scores) or k < 0:
            raise InvalidInput(
                f"expected a name for each of {len(scores)} embeddings and k of 0 or more, got "
                f"{len(names)} names and k = {k}"
            )
        k = min(k, len(scores))
        best = (
            np.argpartition(-scores, k - 1)[:k] if 0 < k < len(scores) else np.arange(len(scores))
        )
        best = best[np.lexsort((best, -scores[best]))][:k]
        return pl.DataFrame({"user": names.gather(best), "score": scores[best]})

    def left_out(self, embeddings: ArrayLike, y: ArrayLike) -> Floats:
        """Scores of labelled rows by directions that did not see them, as `score` gives them.

        What a score means (a probability, say) is to be learned from these. Needs two rows of
        each class; of a class with one row, that row is scored by what the others leave.
        """
        units, codes = unit(embeddings), _codes(y)
        classes = self._classes(codes)
        found = np.zeros((len(units), len(classes)))
        for rows, others in _folds(codes, np.random.default_rng(self.seed)):
            directions = _directions(units[others], codes[others], self.weight_, classes)
            found[rows] = units[rows] @ directions.T
        return found if self._several else found[:, 0]

    def _classes(self, codes: Codes) -> list[int]:
        return list(range(int(codes.max()) + 1)) if self._several else [1]


def unit(embeddings: ArrayLike) -> Floats:
    """(n, d) embeddings of length 1; zeros stay zeros.

    Raises
    ------
    InvalidInput
        If they are no (n, d) finite numbers.
    """
    given = np.asarray(embeddings, dtype=np.float64)
    if given.ndim != 2 or not np.isfinite(given).all():
        raise InvalidInput(
            f"expected (n, d) finite numbers as embeddings, got shape {given.shape} and "
            f"{int((~np.isfinite(given)).sum())} that are not finite"
        )
    lengths = np.sqrt(np.einsum("nd,nd->n", given, given))[:, None]
    units: Floats = given / np.where(lengths > 0, lengths, 1.0)
    return units


def _codes(y: ArrayLike) -> Codes:
    given = np.asarray(y)
    if given.dtype == np.bool_:
        given = given.astype(np.int64)
    whole = given.dtype.kind in "iuf" and given.ndim == 1
    if not whole or not (given == np.floor(given)).all() or (given < 0).any():
        raise InvalidInput("expected whole numbers from 0 as labels: 1 positive, 0 negative")
    return given.astype(np.int64)


def _directions(units: Floats, codes: Codes, weight: float, classes: list[int]) -> Floats:
    """(len(classes), d) of unit length; zeros for a class of nobody."""
    found = np.zeros((len(classes), units.shape[1]))
    total, count = units.sum(axis=0), len(units)
    for place, code in enumerate(classes):
        own = codes == code
        sum_own, num_own = units[own].sum(axis=0), int(own.sum())
        if num_own == 0:
            continue
        found[place] = sum_own / num_own
        if weight > 0 and num_own < count:
            found[place] -= weight * (total - sum_own) / (count - num_own)
    return unit(found)


def _cosines(embeddings: ArrayLike, directions: Floats) -> Floats:
    """In blocks, as a million users in double precision would not fit beside themselves."""
    given = np.asarray(embeddings)
    if given.ndim != 2 or given.shape[1] != directions.shape[1]:
        raise InvalidInput(
            f"expected embeddings of width {directions.shape[1]}, as in `fit`, got shape "
            f"{given.shape}"
        )
    found = np.empty((len(given), len(directions)))
    for begin in range(0, len(given), _BLOCK):
        found[begin : begin + _BLOCK] = unit(given[begin : begin + _BLOCK]) @ directions.T
    return np.clip(found, -1.0, 1.0)


def _chosen(units: Floats, codes: Codes, seed: int) -> tuple[float, dict[float, float]]:
    """The weight that ranks left-out rows best, and the areas of all."""
    rng = np.random.default_rng(seed)
    if len(codes) > _MOST_ROWS:
        some = _some(codes, rng)
        units, codes = units[some], codes[some]
    classes = [1] if codes.max() < 2 else list(range(int(codes.max()) + 1))
    areas: list[list[float]] = []
    for _ in range(_ROUNDS):
        for rows, others in _folds(codes, rng):
            areas += _areas(units, codes, rows, others, classes)
    if not areas:
        return _USUAL, {}
    table = np.array(areas)
    means = table.mean(axis=0)
    usual, best = WEIGHTS.index(_USUAL), int(means.argmax())
    gains = table[:, best] - table[:, usual]
    # Folds overlap, so this error is too small rather than too large; it only has to keep a
    # handful of labels from choosing by chance.
    error = gains.std() / max(len(gains) / _ROUNDS, 1.0) ** 0.5
    chosen = best if gains.mean() > error else usual
    return WEIGHTS[chosen], dict(zip(WEIGHTS, means.tolist(), strict=True))


def _areas(
    units: Floats, codes: Codes, rows: Codes, others: Codes, classes: list[int]
) -> list[list[float]]:
    """ROC-AUC of left-out rows by weight, one list for each class that has both sides."""
    found = []
    for code in classes:
        own, here = codes[others] == code, codes[rows] == code
        if own.all() or not own.any() or here.all() or not here.any():
            continue
        by_own = units[rows] @ units[others][own].mean(axis=0)
        by_rest = units[rows] @ units[others][~own].mean(axis=0)
        # The length of the direction is the same for all rows of a fold.
        chances = [_share(by_own - weight * by_rest) for weight in WEIGHTS]
        found.append([roc_auc(here.astype(np.float64), chance) for chance in chances])
    return found


def _share(scores: Floats) -> Floats:
    """Numbers in [-1 - w, 1 + w] as numbers in [0, 1] of the same order, as metrics take them."""
    found: Floats = 0.5 + scores / 8.0
    return found


def _folds(codes: Codes, rng: np.random.Generator) -> list[tuple[Codes, Codes]]:
    """Rows left out and the others, such that each class is spread over the folds."""
    place = np.zeros(len(codes), dtype=np.int64)
    for code in np.unique(codes):
        rows = rng.permutation(np.flatnonzero(codes == code))
        place[rows] = (np.arange(len(rows)) + rng.integers(_FOLDS)) % _FOLDS
    parts = [np.flatnonzero(place == fold) for fold in range(_FOLDS)]
    return [(part, np.setdiff1d(np.arange(len(codes)), part)) for part in parts if len(part)]


def _some(codes: Codes, rng: np.random.Generator) -> Codes:
    """At most `_MOST_ROWS` rows; of rare classes all that there are."""
    share = _MOST_ROWS // (int(codes.max()) + 1)
    parts = [rng.permutation(np.flatnonzero(codes == code))[:share] for code in np.unique(codes)]
    return np.sort(np.concatenate(parts))
