"""What users choose, as a few numbers each: a factor model of every category, without labels.

    factors = Factors().fit(histories.every())
    vectors = factors.embed(histories.every())        # (users, d) float32

Of a field with the values v (assets, pages, types of event), user u chooses each with

    p(v | u) = softmax(base_v + loadings_v . z_u),    z_u ~ N(0, I)

so that who chose this tends to choose that as well is seen from all users, and one user's few
choices say much about their others. z_u is what the choices of the user make likely: near zero
for somebody with none or who chooses like all, far from it for who is known to differ. That is
why the vectors are not to be standardised: their length is how sure they are.

Fitted by expectation and maximisation. The step for users is Newton's, with the curvature as
the covariance (Laplace), the one for values is Newton's too, value by value: the curvature of
a Poisson count is above that of a softmax, so that steps are short rather than wild. This is
the exponential-family PCA of Collins, Dasgupta and Schapire (2001), with a prior and the
uncertainty of users kept, as in the correlated topic model of Blei and Lafferty (2007).
Serves rows G1, G25 and G29 of the requirements.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.histories import Slices

_Floats = NDArray[np.float64]

MOST_VALUES = 200
"""So many values of a category have a place, at most: those that most users have."""

_LEAST_SHARE = 1 / 500  # of users who have a value: else it tells of nobody else
_MOST_COUNT = 200.0  # of one user's choices in a field: thousands are habit, not evidence
_SAMPLED_USERS = 5_000
_ROUNDS = 12
_HALVINGS = 8
_CHUNK = 4_096


@dataclass(frozen=True, slots=True)
class _Field:
    """What was fitted of a category."""

    name: str
    values: list[str]  # V of them
    base: _Floats  # (V,)
    loadings: _Floats  # (V, k)


class Factors:
    """A vector per piece of a history: where its choices lie among those of all users.

    Parameters
    ----------
    most : int, > 0
        Numbers per category at most; one less than it has values if that is fewer.
    seed : int
        Of the users that are drawn to fit by, if there are many.

    Raises
    ------
    InvalidInput
        If `most` is no whole number of at least 1.

    Examples
    --------
    >>> import polars as pl
    >>> from chopmark.histories import Histories
    >>> words = {"b": "buy", "l": "look"}
    >>> events = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2, 3, 3], "happened_at": range(8),
    ...                        "type": [words[letter] for letter in "llbbbllb"]})
    >>> pieces = Histories.from_frame(events).every()
    >>> vectors = Factors().fit(pieces).embed(pieces)
    >>> vectors.shape, bool(np.prod(np.sign(vectors[:2])) < 0)
    ((3, 1), True)
    """

    def __init__(self, *, most: int = 8, seed: int = 0) -> None:
        if not isinstance(most, (int, np.integer)) or isinstance(most, bool) or most < 1:
            raise InvalidInput(f"expected most, a whole number of at least 1, got {most!r}")
        self._most = int(most)
        self._seed = seed
        self._fields: list[_Field] | None = None

    def fit(self, slices: Slices) -> Self:
        """Learn from pieces, one per user, what is chosen together.

        Parameters
        ----------
        slices : Slices
            Of users at one instant; what comes after it is not read.

        Notes
        -----
        A category is left out if fewer than two of its values are of one user in 500 at least,
        and if the usual user has one value in all events (a country, the issuer of a card): that
        is no choice, and a few answers would be spent on learning so. O(users V k**2) a round,
        over 5,000 users at most.
        """
        rng = np.random.default_rng(self._seed)
        some = np.flatnonzero(slices.lengths > 0)
        if len(some) > _SAMPLED_USERS:
            some = np.sort(rng.choice(some, _SAMPLED_USERS, replace=False))
        sample = slices[some]
        fields = []
        for name in sample.histories.categories:
            values = _common(sample, name)
            if len(values) < 2:
                continue
            counts = _counts(sample, name, values)
            counts = counts[counts.any(axis=1)]
            if not _is_choice(counts):
                continue
            base, loadings = _fitted(counts, min(self._most, len(values) - 1))
            fields.append(_Field(name, values, base, loadings))
        self._fields = fields
        return self

    @property
    def columns(self) -> list[str]:
        """Names of the numbers of `embed`, such as ``asset_1``: field and place.

        Raises
        ------
        InvalidTable
            If nothing is fitted.
        """
        return [
            f"{field.name}_{place}"
            for field in self._known()
            for place in range(1, field.loadings.shape[1] + 1)
        ]

    def embed(self, slices: Slices) -> NDArray[np.float32]:
        """Vectors of pieces; of one without a choice it is all but zero.

        Parameters
        ----------
        slices : Slices
            Of the histories that `fit` saw or of others: values are found by their text, and
            those that `fit` did not see say nothing.

        Returns
        -------
        (m, d) float32

        Raises
        ------
        InvalidTable
            If nothing is fitted.
        """
        fields = self._known()
        out = np.zeros((len(slices), len(self.columns)), dtype=np.float32)
        for begin in range(0, len(slices), _CHUNK):
            part, at = slices[begin : begin + _CHUNK], 0
            for field in fields:
                counts = _counts(part, field.name, field.values)
                size = field.loadings.shape[1]
                found, _ = _users(counts, field.base, field.loadings, steps=12)
                out[begin : begin + len(part), at : at + size] = found
                at += size
        return out

    def _known(self) -> list[_Field]:
        if self._fields is None:
            raise InvalidTable("expected fitted factors; call `fit` with pieces of all users")
        return self._fields


def _common(slices: Slices, name: str) -> list[str]:
    """The values of a category that most pieces have."""
    words = slices.histories.words[name]
    codes, owners = _chosen(slices, name)
    pairs = np.unique(owners * len(words) + codes)
    seen = np.bincount(pairs % max(len(words), 1), minlength=len(words))
    common = np.flatnonzero(seen >= max(2, _LEAST_SHARE * len(slices)))
    order = common[np.lexsort((common, -seen[common]))][:MOST_VALUES]
    return [words[code] for code in order]


def _chosen(slices: Slices, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes of a category, and the piece each is of."""
    codes = slices.histories.categories[name][slices.rows()].astype(np.int64)
    owners = np.repeat(np.arange(len(slices)), slices.lengths)
    known = codes >= 0
    return codes[known], owners[known]


def _counts(slices: Slices, name: str, values: list[str]) -> _Floats:
    """(m, V) how often each piece has each value, scaled down where it is very often."""
    size = len(values)
    counts = np.zeros((len(slices), size))
    if name in slices.histories.categories:
        places = {value: place for place, value in enumerate(values)}
        slots = np.array([places.get(word, -1) for word in slices.histories.words[name]], int)
        codes, owners = _chosen(slices, name)
        cells = (owners * size + slots[codes])[slots[codes] >= 0]
        counts = np.bincount(cells, minlength=counts.size).reshape(counts.shape).astype(float)
    totals = counts.sum(axis=1, keepdims=True)
    scaled: _Floats = counts * np.minimum(1.0, _MOST_COUNT / np.maximum(totals, 1.0))
    return scaled


def _is_choice(counts: _Floats) -> bool:
    """Whether the usual user who has a value several times has several values."""
    several = counts[counts.sum(axis=1) >= 2]
    return len(several) > 0 and float(np.median((several > 0).sum(axis=1))) > 1.0


def _fitted(counts: _Floats, size: int) -> tuple[_Floats, _Floats]:
    """Base (V,) and loadings (V, k) of counts (n, V)."""
    num_values = counts.shape[1]
    totals = counts.sum(axis=1)
    shares = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * num_values)
    base = np.log(shares)
    # To begin with: the directions in which users differ more than counts do by chance.
    off = (counts - totals[:, None] * shares) / np.sqrt(np.maximum(totals, 1.0)[:, None] * shares)
    variances, directions = np.linalg.eigh(off.T @ off / len(off))
    excess = np.maximum(variances[::-1][:size] - 1.0, 0.05) / totals.mean()
    loadings = directions[:, ::-1][:, :size] * np.sqrt(excess) / np.sqrt(shares)[:, None]
    # An eigenvector is known up to its sign; one is chosen, so that machines agree.
    loadings *= np.where(loadings[np.abs(loadings).argmax(axis=0), np.arange(size)] < 0, -1.0, 1.0)
    for _ in range(_ROUNDS):
        places, spreads = _users(counts, base, loadings, steps=4)
        base, loadings = _values(counts, base, loadings, places, spreads)
        base, loadings = _scaled(base, loadings, places, spreads)
    return base, loadings


def _users(
    counts: _Floats, base: _Floats, loadings: _Floats, *, steps: int
) -> tuple[_Floats, _Floats]:
    """Most likely places (n, k) of users and the covariances (n, k, k) about them."""
    size = loadings.shape[1]
    totals = counts.sum(axis=1)
    squares = (loadings[:, :, None] * loadings[:, None, :]).reshape(len(base), -1)
    places = np.zeros((len(counts), size))
    chosen = counts @ loadings
    chances, loss = _told(base, loadings, totals, chosen, places)
    for _ in range(steps):
        means = chances @ loadings
        spread = (chances @ squares).reshape(-1, size, size) - means[:, :, None] * means[:, None]
        curvature = totals[:, None, None] * spread + np.eye(size)
        slope = chosen - totals[:, None] * means - places
        step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        step = np.clip(step, -2.0, 2.0)
        # Of a favourite chosen hundreds of times a whole step goes too far, and the next further.
        chances, after = _told(base, loadings, totals, chosen, places + step)
        for _ in range(_HALVINGS):
            wild = np.flatnonzero(after > loss + 1e-9 * (1.0 + np.abs(loss)))
            if not len(wild):
                break
            step[wild] /= 2.0
            chances[wild], after[wild] = _told(
                base, loadings, totals[wild], chosen[wild], places[wild] + step[wild]
            )
        places, loss = places + step, after
        if np.abs(step).max(initial=0.0) < 1e-4:
            break
    return places, np.linalg.inv(curvature)


def _told(
    base: _Floats, loadings: _Floats, totals: _Floats, chosen: _Floats, places: _Floats
) -> tuple[_Floats, _Floats]:
    """Chances (n, V) of values at places, and minus the log of how likely (n,) the places are."""
    odds = base + places @ loadings.T
    most = odds.max(axis=1)
    powers = np.exp(odds - most[:, None])
    sums = powers.sum(axis=1)
    loss = totals * (most + np.log(sums)) - (chosen * places).sum(axis=1)
    return powers / sums[:, None], loss + 0.5 * (places**2).sum(axis=1)


def _values(
    counts: _Floats, base: _Floats, loadings: _Floats, places: _Floats, spreads: _Floats
) -> tuple[_Floats, _Floats]:
    """Base and loadings one step on, given where users are; a standard normal prior on loadings."""
    num_values, size = loadings.shape
    expected = counts.sum(axis=1)[:, None] * _softmax(base + places @ loadings.T)
    beside = np.hstack([np.ones((len(places), 1)), places])
    curvature = np.einsum("nv,ni,nj->vij", expected, beside, beside, optimize=True)
    unsure = (expected.T @ spreads.reshape(len(places), -1)).reshape(num_values, size, size)
    curvature[:, 1:, 1:] += unsure
    curvature += np.eye(size + 1)
    slope = (counts - expected).T @ beside
    slope[:, 1:] -= np.einsum("vij,vj->vi", unsure, loadings) + loadings
    step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
    step = np.clip(step, -2.0, 2.0)
    return base + step[:, 0], loadings + step[:, 1:]


def _scaled(
    base: _Floats, loadings: _Floats, places: _Floats, spreads: _Floats
) -> tuple[_Floats, _Floats]:
    """The same model with users of mean zero and covariance one, as the prior has them."""
    middle = places.mean(axis=0)
    covariance = places.T @ places / len(places) + spreads.mean(axis=0) - np.outer(middle, middle)
    return base + loadings @ middle, loadings @ np.linalg.cholesky(covariance)


def _softmax(scores: _Floats) -> _Floats:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: _Floats = powers / powers.sum(axis=1, keepdims=True)
    return chances
