"""Readings that are learned from the label: target means of categories, scores of texts.

    rate of category c    p_c = (bad rows of c + M * p) / (rows of c + M),   p = overall rate
    reading of c          log(p_c / (1 - p_c))       if the label is binary
                          (sum of c + M * mean) / (rows of c + M)     if it is a number
    weight of token t     reading of t - reading of a token of average rate
    reading of a text     mean weight of its known tokens, 0 if it has none

Rare categories are drawn to the overall rate (M pseudo-rows); all unknown ones share the
reading of those that are too rare to be known. A row must not see its own label, or a category
of one row would give it away: in the training matrix a row's reading is learned from rows of
other folds alone, and only the encoder that goes into use has learned from all of them.
Serves A3 and A12 of the requirements.

References
----------
Daniele Micci-Barreca, "A Preprocessing Scheme for High-Cardinality Categorical Attributes in
Classification and Prediction Problems", 2001.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.models import Column, Encoder, parsing
from chopmark.models.bulk import Reader, ascii_tokens
from chopmark.models.splits import Split
from chopmark.tabular.kinds import category_counts
from chopmark.tabular.problem import Objective

PSEUDO_ROWS = 15.0
"""Rows of average rate that are added to each category or token: M."""

_FEWEST_CATEGORIES = 6
_MOST_CATEGORIES = 20_000
_MOST_TOKENS = 4_000
_NUM_FOLDS = 5
_LEAST_RATE = 1e-6

Labels = NDArray[np.float64]  # (n,)
Rows = NDArray[np.int64]


def fit_encoder(
    frame: pl.DataFrame,
    y: Labels,
    encoder: Encoder,
    *,
    parts: Sequence[Split],
    refit: bool = True,
    objective: Objective = "binary",
    seed: int = 0,
    threads: int | None = None,
) -> tuple[Encoder, NDArray[np.float64]]:
    """The encoder with its learned readings, and the matrix to train and to judge by.

    Added are the target mean of each category column that knows at least six values, and the
    token score of each text column. An encoder that has neither comes back as it is.

    Parameters
    ----------
    frame
        (n rows) of raw columns.
    y
        (n,) labels 0.0 or 1.0, or numbers.
    encoder
        As `make_encoder` gave it.
    parts
        The splits by which learners will be judged; their test rows are disjoint.
    refit
        The readings of the encoder are learned from all rows; else from the training rows of
        the one part.
    objective
        What y is.
    seed
        Of the folds among rows that no part holds out.
    threads
        As `Encoder.table`.

    Returns
    -------
    Encoder
        Its readings are those of a row that comes in use. The new encoded columns follow those
        of raw columns and precede the combinations.
    x
        (n, m) its encoded columns, but each learned reading comes from other rows: for a row
        that a part holds out, from the training rows of that part; for one that no part holds
        out, from the other folds of five among the training rows of this sort.

    Notes
    -----
    O(rows + categories) per learned reading and fold.
    """
    final = np.arange(len(y)) if refit else parts[0].train
    lessons = [*_lessons(len(y), parts, seed), _Lesson(learn=final, read=final[:0])]
    learned = [_learn(found, y, lessons, objective) for found in _sources(encoder, frame, final)]
    fitted = Encoder(
        columns=[*encoder.columns, *(column for column, _ in learned)],
        combinations=encoder.combinations,
        dropped=encoder.dropped,
    )
    x = fitted.table(frame, threads=threads)
    first = len(encoder.encoded) - len(encoder.combinations)
    for j, (_, out_of_fold) in enumerate(learned, start=first):
        x[:, j] = out_of_fold
    return fitted, x


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lesson:
    """Rows to learn from, and the rows whose readings come from them."""

    learn: Rows
    read: Rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """Which rows hold which categories or tokens.

    Attributes
    ----------
    column
        Knows the categories or tokens; its values are still to be learned.
    rows, places
        (t,) rows, and what each of them holds: a place in `column.categories`, or the place
        behind the last one for all that is unknown.
    is_known
        (n,) whether the row holds anything.
    """

    column: Column
    rows: Rows
    places: Rows
    is_known: NDArray[np.bool_]


def _lessons(num_rows: int, parts: Sequence[Split], seed: int) -> Iterator[_Lesson]:
    held_out = np.zeros(num_rows, dtype=bool)
    trains = np.zeros(num_rows, dtype=bool)
    for part in parts:
        held_out[part.test] = True
        trains[part.train] = True
        yield _Lesson(learn=part.train, read=part.test)
    rest = np.nonzero(~held_out)[0]
    fold = np.random.default_rng(seed).permutation(len(rest)) % _NUM_FOLDS
    for number in range(_NUM_FOLDS):
        others = rest[fold != number]
        yield _Lesson(learn=others[trains[others]], read=rest[fold == number])


def _sources(encoder: Encoder, frame: pl.DataFrame, final: Rows) -> Iterator[_Found]:
    """What can be learned from: categories of many values, texts of frequent tokens."""
    texts: set[str] = set()
    for column in encoder.columns:
        if column.is_coded and len(column.categories) >= _FEWEST_CATEGORIES:
            found = _found_categories(column, frame.get_column(column.name), final)
        elif column.kind == "text" and column.name not in texts:
            texts.add(column.name)
            found = _found_tokens(column.name, frame.get_column(column.name), final)
        else:
            continue
        if found.column.categories:
            yield found


def _found_categories(column: Column, series: pl.Series, final: Rows) -> _Found:
    counts = category_counts(series.gather(final), pattern=column.pattern)
    known = counts.filter(pl.col("count") >= 2).head(_MOST_CATEGORIES).get_column("text")
    coded = replace(column, categories=tuple(known.to_list()), buckets=0)
    codes = Reader(coded, coded.parser()).read(series).astype(np.int64)
    rows = np.nonzero(codes != parsing.MISSING_CODE)[0]
    places = codes[rows] - parsing.FIRST_CODE
    places[places < 0] = len(known)
    return _Found(column=coded, rows=rows, places=places, is_known=codes != parsing.MISSING_CODE)


def _found_tokens(name: str, series: pl.Series, final: Rows) -> _Found:
    texts = pl.Series([parsing.text_of(value) for value in series.to_list()], dtype=pl.String)
    tokens = _tokens(texts)
    least = max(3, min(10, len(final) // 200))
    known = (
        tokens.unique()
        .filter(pl.col("row").is_in(final))
        .group_by("token")
        .len("count")
        .filter(pl.col("count") >= least)
        .sort(["count", "token"], descending=[True, False])
        .head(_MOST_TOKENS)
        .get_column("token")
    )
    places = tokens.get_column("token").cast(pl.Enum(known), strict=False).to_physical()
    held = places.is_not_null().arg_true()
    return _Found(
        column=Column(name=name, kind="text", parts=("score",), categories=tuple(known)),
        rows=tokens.get_column("row").gather(held).cast(pl.Int64).to_numpy(),
        places=places.gather(held).cast(pl.Int64).to_numpy(),
        is_known=texts.is_not_null().to_numpy(),
    )


def _tokens(texts: pl.Series) -> pl.DataFrame:
    """Columns `row` and `token`: of ASCII texts at once, of others as the parser does."""
    odd = (texts.str.len_bytes() != texts.str.len_chars()).fill_null(False)
    pairs = [
        (row, token) for row in odd.arg_true().to_list() for token in parsing.tokens(texts[row])
    ]
    others = pl.DataFrame(pairs, schema={"row": pl.UInt32, "token": pl.String}, orient="row")
    plain: pl.DataFrame = ascii_tokens(texts.set(odd, None))
    return pl.concat([plain, others])


def _learn(
    found: _Found, y: Labels, lessons: Sequence[_Lesson], objective: Objective
) -> tuple[Column, NDArray[np.float64]]:
    """The column with its values, learned in the last lesson, and (n,) out-of-fold readings."""
    out_of_fold = np.full(len(y), np.nan)
    for lesson in lessons:
        values = _values(found, y, lesson.learn, objective)
        out_of_fold[lesson.read] = _means(found, values, len(y))[lesson.read]
    out_of_fold[~found.is_known] = np.nan
    *known, other = values.tolist()
    return replace(found.column, values=tuple(known), fallback=other), out_of_fold


def _values(found: _Found, y: Labels, learn: Rows, objective: Objective) -> NDArray[np.float64]:
    """(k + 1,) readings of the k known categories and of the unknown; of tokens, weights."""
    is_learned = np.zeros(len(y), dtype=bool)
    is_learned[learn] = True
    taken = is_learned[found.rows]
    rows, places = found.rows[taken], found.places[taken]
    num = len(found.column.categories) + 1
    prior = y[learn].mean() if len(learn) else 0.5
    sums = np.bincount(places, y[rows], minlength=num) + PSEUDO_ROWS * prior
    means = sums / (np.bincount(places, minlength=num) + PSEUDO_ROWS)
    values = _read(means, objective)
    # No text holds an unknown token here: the last value is that of a token of average rate.
    return values - values[-1] if found.column.kind == "text" else values


def _read(means: NDArray[np.float64], objective: Objective) -> NDArray[np.float64]:
    if objective == "number":
        return means
    rates = np.clip(means, _LEAST_RATE, 1.0 - _LEAST_RATE)
    return np.asarray(np.log(rates / (1.0 - rates)))


def _means(found: _Found, values: NDArray[np.float64], num_rows: int) -> NDArray[np.float64]:
    """(n,) mean value of what each row holds, 0 if it holds nothing."""
    sums = np.bincount(found.rows, values[found.places], minlength=num_rows)
    return np.asarray(sums / np.maximum(np.bincount(found.rows, minlength=num_rows), 1))
