"""How often labels of addresses, and flags of scores, were wrong, as far as it is known.

    false_positives(labels, moment)                    # one row per source
    flag_outcomes(labels, moment, by_month=True)       # what sources said of the flagged later

Counted from the records of `chopmark.graph.labels`; nothing is kept here. Serves row H15.
"""

from datetime import datetime

import polars as pl

from chopmark.graph.labels import APPEALS, ILLICIT, LICIT, SCORES, AddressLabels
from chopmark.rules.judging import wilson
from chopmark.times import instant

_MOMENT = pl.Datetime("us", "UTC")


def false_positives(labels: AddressLabels, moment: datetime | str) -> pl.DataFrame:
    """How often each source called an address illicit that was not, as far as it is known.

    An address counts as wrong if, after the source had labelled it, an appeal was upheld, or
    a source of a better rank called it licit and still does, or the source took its label
    back. Flags of scores (`SCORES`) are taken back whenever the score falls, for it follows
    what it learns and a bound that is moved; that says nothing of whether the flag was right
    when it was made, so it is shown and not counted as wrong. Who never appeals and whom
    nobody looks at is not seen: the share is a lower bound of the true one. It is the share
    of what was flagged, as 1 - precision is, and not of all who are licit.

    Returns
    -------
    pl.DataFrame
        One row per source with illicit labels: source, num_illicit, num_retracted,
        num_appealed, num_ruled, num_upheld, num_overruled (by a better source), num_wrong,
        wrong_share (of num_illicit), low and high (its Wilson interval, 95 %).
    """
    when = int(instant(moment))
    ranks = labels.sources
    records = labels.records(
        "WHERE known_at <= ?", when, columns=("kind", "address", "label", "source", "known_at")
    )
    by_kind = {str(kind[0]): part for kind, part in records.group_by("kind")}
    none = records.clear()
    first = (
        by_kind.get("label", none)
        .filter(pl.col("label") == ILLICIT)
        .group_by("source", "address")
        .agg(pl.col("known_at").min())
    )

    def later(part: pl.DataFrame, on: list[str], name: str) -> pl.DataFrame:
        hits = first.join(part.select(*on, at="known_at"), on=on, how="inner")
        hits = hits.filter(pl.col("at") >= pl.col("known_at"))
        return hits.select("source", "address").unique().with_columns(pl.lit(True).alias(name))

    licit = pl.DataFrame(
        [(row[1], ranks[row[4]], row[6]) for row in labels.opinions(when, without=(APPEALS,))
         if row[2] == LICIT],
        schema={"address": pl.String, "better": pl.Int64, "at": pl.Int64}, orient="row",
    )  # fmt: skip
    overruled = first.join(licit, on="address", how="inner").filter(
        pl.col("better") < pl.col("source").replace_strict(ranks, return_dtype=pl.Int64),
        pl.col("at") > pl.col("known_at"),
    )
    rulings = by_kind.get("ruling", none)
    marks = {
        "num_retracted": later(by_kind.get("retraction", none), ["source", "address"], "x"),
        "num_appealed": later(by_kind.get("appeal", none), ["address"], "x"),
        "num_ruled": later(rulings, ["address"], "x"),
        "num_upheld": later(rulings.filter(pl.col("label") == LICIT), ["address"], "x"),
        "num_overruled": overruled.select("source", "address", x=pl.lit(True)).unique(),
    }
    table = first
    for name, part in marks.items():
        table = table.join(part.rename({"x": name}), on=["source", "address"], how="left")
    table = table.with_columns(pl.col(*marks).fill_null(value=False))
    taken_back = pl.col("num_retracted") & (pl.col("source") != SCORES)
    wrong = pl.col("num_upheld") | pl.col("num_overruled") | taken_back
    found = (
        table.group_by("source")
        .agg(
            pl.len().cast(pl.Int64).alias("num_illicit"),
            pl.col(*marks).sum().cast(pl.Int64),
            wrong.sum().cast(pl.Int64).alias("num_wrong"),
        )
        .sort("source")
    )
    return _with_shares(found, "num_wrong", "num_illicit", "wrong_share")


def flag_outcomes(
    labels: AddressLabels, moment: datetime | str, *, by_month: bool = False
) -> pl.DataFrame:
    """What other sources later said of those whom a score had flagged.

    Whoever had a label of any source when the flag came says nothing of the score, which may
    have learned that label: they are counted apart, in `num_known`. Of the others those are
    counted whom a label that came later holds for illicit, or for licit (an upheld appeal
    too). Nobody looks at all of them, so the share of illicit ones is a lower bound of the
    score's precision, and 1 - `num_licit` / `num_new` an upper one. A source that repeats
    our flags would confirm us by ourselves: declare none.

    Returns
    -------
    pl.DataFrame
        One row, or one per month of first flags: month (its first instant; null without
        `by_month`), num_flagged, num_known, num_new, num_illicit, num_licit, precision
        (num_illicit / num_new, null if there are none), low and high (its Wilson interval,
        95 %). Without flags no row.
    """
    when = int(instant(moment))
    records = labels.records(
        "WHERE known_at <= ? AND kind = 'label'", when,
        columns=("address", "source", "known_at"),
    )  # fmt: skip
    is_flag = pl.col("source") == SCORES
    flagged = records.filter(is_flag).group_by("address").agg(pl.col("known_at").min())
    told = records.filter(~is_flag).group_by("address").agg(told_at=pl.col("known_at").min())
    held = labels.as_of(moment, without=(SCORES,)).select("address", "label")
    rows = flagged.join(told, on="address", how="left").join(held, on="address", how="left")
    new = (pl.col("told_at") > pl.col("known_at")) | pl.col("told_at").is_null()
    month = pl.col("known_at").cast(_MOMENT).dt.truncate("1mo")
    rows = rows.select(
        month=month if by_month else pl.lit(None, dtype=_MOMENT),
        num_known=~new,
        num_new=new,
        num_illicit=new & (pl.col("label") == ILLICIT),
        num_licit=new & (pl.col("label") == LICIT),
    )
    sums = pl.col("num_known", "num_new", "num_illicit", "num_licit").sum().cast(pl.Int64)
    found = rows.group_by("month").agg(
        pl.len().cast(pl.Int64).alias("num_flagged"), sums
    ).sort("month")  # fmt: skip
    return _with_shares(found, "num_illicit", "num_new", "precision")


def _with_shares(found: pl.DataFrame, hits: str, of: str, name: str) -> pl.DataFrame:
    """The table with a share and the ends of its interval; null where there is nothing to share."""
    shares = [wilson(part, whole) if whole else None for part, whole in found[[hits, of]].rows()]
    columns = {
        name: [share and share.value for share in shares],
        "low": [share and share.low for share in shares],
        "high": [share and share.high for share in shares],
    }
    return found.with_columns(pl.Series(key, column, pl.Float64) for key, column in columns.items())
