"""Labels of addresses as a chain learns from them: one address, one yes or no, and since when.

Serves row H8 of the requirements.
"""

import polars as pl

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.graph.transfers import instants

TARGET = "is_illicit"


def checked_labels(labels: pl.DataFrame) -> pl.DataFrame:
    """``address`` and ``is_illicit`` (1 and 0) of labels, older ones first, without nulls.

    Raises
    ------
    InvalidTable
        If a column is missing, a label is neither true nor false, 1 nor 0, or a `known_at` is no
        instant.
    """
    for column in ("address", TARGET):
        if column not in labels.columns:
            raise InvalidTable(
                f"expected labels with columns `address` and `{TARGET}`, got "
                f"{', '.join(labels.columns) or 'none'}"
            )
    for column in ("address", TARGET):
        if labels[column].dtype.is_nested():
            raise InvalidTable(f"expected one value a row in `{column}`, got lists")
    label = labels[TARGET]
    if not (label.dtype.is_numeric() or label.dtype in (pl.Boolean, pl.Null)):
        such = next(iter(label.drop_nulls()), None)
        raise InvalidTable(
            f"expected `{TARGET}` as true and false or 1 and 0, got "
            f"{'text' if label.dtype == pl.String else label.dtype} such as `{such}`"
        )
    strange = label.cast(pl.Float64).drop_nulls()
    strange = strange.filter(~strange.is_in([0.0, 1.0]))
    if len(strange):
        raise InvalidTable(
            f"expected `{TARGET}` as true and false or 1 and 0, got {strange[0]:g}; leave out "
            "rows whose label is not known"
        )
    if "known_at" in labels.columns:
        labels = labels.with_columns(known_at=_known(labels["known_at"])).sort(
            "known_at", maintain_order=True
        )
    return labels.select(
        pl.col("address").cast(pl.String).str.strip_chars(), pl.col(TARGET).cast(pl.Int8)
    ).drop_nulls()


def _known(told: pl.Series) -> pl.Series:
    """When labels became known: text must not be sorted as text."""
    if told.dtype == pl.Null:
        return told
    if told.dtype == pl.Date:
        return told.cast(pl.Datetime("us"))
    try:
        found = instants(told)
    except InvalidInput as error:
        raise InvalidTable(f"`known_at` of labels: {error}") from error
    if told.dtype == pl.String:
        days = told.str.strip_chars().str.to_datetime(
            "%Y-%m-%d", strict=False, time_unit="us", time_zone="UTC"
        )
        found = found.zip_with(found.is_not_null(), days)
    wrong = told.filter(found.is_null() & told.is_not_null())
    if len(wrong):
        raise InvalidTable(
            f"expected `known_at` of labels as instants such as 2026-11-22T10:00:00Z, got "
            f"`{wrong[0]}`"
        )
    return found
