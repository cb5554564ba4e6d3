"""Candidate pairs: which records of two tables are worth comparing.

To compare each with each is hopeless from some ten thousand records on. Two records of one
person nearly always share a word of the name, or the address to the letter; those that do
are candidates, and a model decides. Serves row A1.

References
----------
Fellegi and Sunter, "A Theory for Record Linkage", JASA 64, 1969: the blocking of records.
"""

from collections.abc import Sequence

import polars as pl

from chopmark.errors import InvalidTable

_KEY = "__key"


def candidate_pairs(
    left: pl.DataFrame,
    right: pl.DataFrame,
    *,
    words: Sequence[tuple[str, str]] = (),
    whole: Sequence[tuple[str, str]] = (),
) -> pl.DataFrame:
    """Pairs of a row of `left` and a row of `right` that have something in common.

    Parameters
    ----------
    words : sequence of (str, str)
        A column of `left` and one of `right`: rows meet if the two texts share a word of two
        letters or more, in whatever case and order.
    whole : sequence of (str, str)
        The same, where the two texts have to be equal. Missing ones meet nothing.

    Returns
    -------
    polars.DataFrame
        All columns of both, sorted by them. Equal pairs come once.

    Raises
    ------
    InvalidTable
        If a column is missing, or both tables have one of the same name.

    Complexity: a value that a rows share on one side and b on the other makes a * b pairs.

    Examples
    --------
    >>> ids = pl.DataFrame({"name": ["Mary Chen", "Li Wu"], "user": [1, 2]})
    >>> cards = pl.DataFrame({"holder": ["M. CHEN", "Mary Poe"], "card": [7, 8]})
    >>> candidate_pairs(ids, cards, words=[("name", "holder")])["card"].to_list()
    [7, 8]
    """
    both = sorted(set(left.columns) & set(right.columns))
    if both:
        raise InvalidTable(f"both tables have a column `{both[0]}`; rename one")
    for ours, theirs in [*words, *whole]:
        _check_column(left, ours)
        _check_column(right, theirs)
    met = [_by_word(left, ours).join(_by_word(right, theirs), on=_KEY) for ours, theirs in words]
    met += [_by_all(left, ours).join(_by_all(right, theirs), on=_KEY) for ours, theirs in whole]
    if not met:
        raise InvalidTable("expected columns in `words` or in `whole`, got none")
    found = pl.concat(met).drop(_KEY).unique()
    return found.sort(found.columns)


def _check_column(frame: pl.DataFrame, name: str) -> None:
    if name not in frame.columns:
        raise InvalidTable(f"expected column `{name}`, got a table of {', '.join(frame.columns)}")


def _by_word(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    words = pl.col(name).str.to_lowercase().str.extract_all(r"\p{L}{2,}")
    return frame.with_columns(words.alias(_KEY)).explode(_KEY)


def _by_all(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    return frame.with_columns(pl.col(name).alias(_KEY))
