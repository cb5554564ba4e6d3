"""Which rows to learn from and which to judge by.

A risk model is judged on what came later (`out_of_time`) and on entities it has not seen
(`by_group`, `group_folds`); a random split flatters it. All splits are row numbers, in rising
order, and the same for the same seed. Serves A16 and B11 of the requirements.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Row numbers, rising: `train` to learn from, `test` to judge by. Disjoint."""

    train: Rows
    test: Rows


def out_of_time(times: ArrayLike, *, test_share: float = 0.3, gap: float = 0.0) -> Split:
    """The latest rows to judge by, the earlier ones to learn from.

    Rows of one instant stay together, so the test part may be a little smaller or larger.

    Parameters
    ----------
    times
        (n,) when each row was, any number that rises with time; no NaN.
    test_share
        Share of rows to judge by, in (0, 1).
    gap
        Rows less than this before the first test row are left out, in the unit of `times`:
        the labels of the last days before the test are not known when it begins. >= 0.

    Examples
    --------
    >>> split = out_of_time([5, 1, 2, 3, 4], test_share=0.4, gap=1.5)
    >>> split.train.tolist(), split.test.tolist()
    ([1, 2], [0, 4])
    """
    at = np.asarray(times, dtype=np.float64)
    _check_share(test_share)
    if len(at) < 2 or np.isnan(at).any() or gap < 0:
        raise InvalidInput("expected at least two times, none missing, and a gap of at least zero")
    place = min(max(round(len(at) * (1.0 - test_share)), 1), len(at) - 1)
    begin = np.partition(at, place)[place]
    if begin == at.min():
        later = at[at > begin]
        if len(later) == 0:
            raise InvalidInput("expected at least two different times, got one")
        begin = later.min()
    train = np.nonzero((at < begin) if gap == 0 else (at <= begin - gap))[0]
    if len(train) == 0:
        raise InvalidInput(f"a gap of {gap} leaves no row to learn from; make it smaller")
    return Split(train=train, test=np.nonzero(at >= begin)[0])


def shuffled(num_rows: int, *, test_share: float = 0.3, seed: int = 0) -> Split:
    """Rows at random."""
    _check_share(test_share)
    if num_rows < 2:
        raise InvalidInput(f"expected at least two rows to split, got {num_rows}")
    order = np.random.default_rng(seed).permutation(num_rows)
    num_test = min(max(round(num_rows * test_share), 1), num_rows - 1)
    return Split(train=np.sort(order[num_test:]), test=np.sort(order[:num_test]))


def stratified(target: ArrayLike, *, test_share: float = 0.3, seed: int = 0) -> Split:
    """Rows at random, with the same share of each label in both parts.

    A label that only one row has goes to the training part.
    """
    labels = np.asarray(target)
    _check_share(test_share)
    rng = np.random.default_rng(seed)
    in_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.nonzero(labels == label)[0])
        num_test = round(len(rows) * test_share) if len(rows) > 1 else 0
        in_test[rows[: min(num_test, len(rows) - 1)]] = True
    if not in_test.any():
        raise InvalidInput(f"{len(labels)} rows are too few for a test share of {test_share}")
    return Split(train=np.nonzero(~in_test)[0], test=np.nonzero(in_test)[0])


def by_group(entities: ArrayLike, *, test_share: float = 0.3, seed: int = 0) -> Split:
    """Entities at random: all rows of one entity are in the same part."""
    _check_share(test_share)
    names, entity = np.unique(np.asarray(entities), return_inverse=True)
    if len(names) < 2:
        raise InvalidInput(f"expected at least two entities to split, got {len(names)}")
    parts = shuffled(len(names), test_share=test_share, seed=seed)
    in_test = np.isin(entity, parts.test)
    return Split(train=np.nonzero(~in_test)[0], test=np.nonzero(in_test)[0])


def folds(target: ArrayLike, *, count: int = 5, seed: int = 0) -> Iterator[Split]:
    """`count` splits whose test parts are disjoint and cover all rows, labels spread evenly."""
    labels = np.asarray(target)
    if not 2 <= count <= len(labels):
        raise InvalidInput(f"expected 2 to {len(labels)} folds for {len(labels)} rows, got {count}")
    rng = np.random.default_rng(seed)
    fold = np.empty(len(labels), dtype=np.int64)
    dealt = 0
    for label in np.unique(labels):
        rows = rng.permutation(np.nonzero(labels == label)[0])
        # Go on dealing where the last label stopped, so that fold sizes differ by one at most.
        fold[rows] = (dealt + np.arange(len(rows))) % count
        dealt += len(rows)
    for number in range(count):
        yield Split(train=np.nonzero(fold != number)[0], test=np.nonzero(fold == number)[0])


def group_folds(entities: ArrayLike, *, count: int = 5, seed: int = 0) -> Iterator[Split]:
    """`count` splits in which all rows of one entity are on the same side.

    Entities are dealt out largest first, each to the fold with the fewest rows, so that folds
    are about equal in size.
    """
    names, entity, sizes = np.unique(np.asarray(entities), return_inverse=True, return_counts=True)
    if not 2 <= count <= len(names):
        raise InvalidInput(
            f"expected 2 to {len(names)} folds for {len(names)} entities, got {count}"
        )
    # Random among entities of one size, else alphabet would decide.
    order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), -sizes))
    fold_of = np.empty(len(names), dtype=np.int64)
    rows = [(0, number) for number in range(count)]
    for name in order.tolist():
        held, number = heappop(rows)
        fold_of[name] = number
        heappush(rows, (held + int(sizes[name]), number))
    fold = fold_of[entity]
    for number in range(count):
        yield Split(train=np.nonzero(fold != number)[0], test=np.nonzero(fold == number)[0])


def forward(times: ArrayLike, *, count: int = 3, first_share: float = 0.4) -> Iterator[Split]:
    """`count` splits that follow one another in time: each part is judged by its past alone.

    Rows of one instant stay together. The first `first_share` of the rows are never judged.

    Examples
    --------
    >>> [split.test.tolist() for split in forward([3, 1, 2, 4], count=2, first_share=0.5)]
    [[0], [3]]
    """
    at = np.asarray(times, dtype=np.float64)
    _check_share(first_share)
    if np.isnan(at).any():
        raise InvalidInput("expected a time for every row, got a missing one")
    shares = np.linspace(first_share, 1.0, count + 1)[:-1]
    begins = np.unique(np.quantile(at, shares, method="higher")) if len(at) else at
    begins = begins[begins > at.min()] if len(at) else begins
    if len(begins) == 0:
        raise InvalidInput("expected at least two different times, got one")
    for begin, end in zip(begins, [*begins[1:], np.inf], strict=True):
        yield Split(train=np.nonzero(at < begin)[0], test=np.nonzero((at >= begin) & (at < end))[0])


def _check_share(test_share: float) -> None:
    if not 0.0 < test_share < 1.0:
        raise InvalidInput(f"expected a test share between 0 and 1, got {test_share}")
