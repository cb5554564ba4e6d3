"""The past of a table's rows: how much had happened before each of them.

For tables at hand and a first look at what counts are worth. A model that is to go live
reads `chopmark.features` instead, which counts for training and for serving with one code.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from chopmark.errors import InvalidTable

_TIME = "__known_at"


def count_earlier(
    table: pl.DataFrame,
    counts: Mapping[str, tuple[pl.DataFrame, Sequence[str]]],
    *,
    as_of: str = "happened_at",
    known_at: str = "known_at",
) -> pl.DataFrame:
    """The table with a column per count: how many events were known before the row was.

    Parameters
    ----------
    counts : mapping of str to (events, keys)
        Name of the new column; the events to count; the columns, of the table and of the
        events, that have to be equal. A row in which one of them is missing counts nothing.
    as_of : str
        Column of the table with the instant for which we ask.
    known_at : str
        Column of the events with the instant at which each was learned. One learned at the
        very instant of the row is not counted: it may be the row itself.

    Returns
    -------
    polars.DataFrame
        The same rows in the same order; counts are uint32, 0 where nothing came before.

    Raises
    ------
    InvalidTable
        If a column is missing, a count has no keys or the name of a column of the table, or
        a row of the table has no time.

    Complexity: O((n + m) log(n + m)) for n rows and m events, per count.

    Examples
    --------
    >>> views = pl.DataFrame({"user": ["ada", "ada", "bob"], "known_at": [1, 5, 2]})
    >>> rows = pl.DataFrame({"user": ["ada", "bob", "ada"], "happened_at": [9, 2, 5]})
    >>> count_earlier(rows, {"views": (views, ["user"])})["views"].to_list()
    [2, 0, 1]
    """
    _check_columns(table, [as_of], whose="the table")
    if table[as_of].has_nulls():
        raise InvalidTable(f"expected a time in each row of column `{as_of}`, got none in some")
    order = table[as_of].arg_sort()
    found = table[order]
    for name, (events, keys) in counts.items():
        if name in table.columns:
            raise InvalidTable(f"the table has a column `{name}`; give the count another name")
        if not keys:
            raise InvalidTable(f"expected a column or more to count by for `{name}`, got none")
        _check_columns(table, keys, whose="the table")
        _check_columns(events, [known_at, *keys], whose=f"the events of `{name}`")
        past = events.select(*keys, pl.col(known_at).alias(_TIME)).drop_nulls().sort(_TIME)
        # Two that are learned at once share a time: the later number stands for both.
        number = pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).over(keys)
        found = found.join_asof(
            past.with_columns(number.alias(name)),
            left_on=as_of,
            right_on=_TIME,
            by=list(keys),
            allow_exact_matches=False,
            check_sortedness=False,
        ).drop(_TIME, strict=False)
    return found.with_columns(pl.col(list(counts)).fill_null(0))[order.arg_sort()]


def _check_columns(frame: pl.DataFrame, names: Sequence[str], *, whose: str) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise InvalidTable(
            f"expected column `{missing[0]}` in {whose}, got {', '.join(frame.columns)}"
        )
