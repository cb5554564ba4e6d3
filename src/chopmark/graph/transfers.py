"""Transfers: the one table of what moved on a chain, and its reader for plain columns.

One row is one directed edge: `sender` gave `amount` of `asset` to `receiver` at `happened_at`.
Readers take what can be taken and say of every other row where it stood and why it was left.

Amounts are scaled before they are rounded: the digits of a whole number of wei and the exponent
are parsed as one decimal, so that the float is the nearest one to the true amount, once rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from chopmark.errors import InvalidInput, InvalidTable, did_you_mean
from chopmark.graph.files import REJECTED, Progress, Source, pieces, rejected

INSTANT: pl.DataType = pl.Datetime("us", "UTC")
TRANSFERS = pl.Schema(
    {
        "sender": pl.String(),
        "receiver": pl.String(),
        "amount": pl.Float64(),
        "happened_at": INSTANT,
        "block": pl.Int64(),
        "tx": pl.String(),
        "place": pl.Int64(),
        "asset": pl.String(),
    }
)
"""Columns of transfers. `amount` in whole coins or tokens, >= 0; `block` 0 if unknown; `place` the
index of the transfer inside its `tx`; `asset` "" for the chain's own coin, else its address."""

LARGEST = 2.0**256
"""No chain moves more units than fit 256 bits."""

_ADDRESS = r"^0x[0-9a-f]{40}$"
_NUMBER = r"^([0-9]+)(?:\.0*)?$"
_POWER = r"^([0-9]+(?:\.[0-9]+)?)[eE]\+?([0-9]{1,2})$"


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What a reader found: `transfers` to take, and `rejected` rows with source, row and reason.

    `transfers` has the columns of `TRANSFERS` in the order of block, time, tx and place.
    """

    transfers: pl.DataFrame
    rejected: pl.DataFrame

    @classmethod
    def of(cls, reads: Iterable[Read]) -> Read:
        """All of several reads as one; for what fits in memory."""
        every = list(reads)
        return cls(
            arranged(pl.concat([TRANSFERS.to_frame(), *(one.transfers for one in every)])),
            pl.concat([REJECTED.to_frame(), *(one.rejected for one in every)]),
        )


def read_transfers(
    source: Source, *, rows: int = 1_000_000, progress: Progress | None = None
) -> Iterator[Read]:
    """Transfers of files that have the plain columns, at most `rows` at once.

    `sender`, `receiver`, `amount` and `happened_at` are needed; `block`, `tx`, `place` and
    `asset` are 0 or "" where absent. Any text is an address here, save an empty one.

    Raises
    ------
    InvalidInput
        If a file is absent or cannot be read to its end.
    InvalidTable
        If a column is missing.
    """
    names = list(TRANSFERS)
    for piece in pieces(
        source,
        needs={name: (name,) for name in names[:4]},
        takes={name: (name,) for name in names[4:]},
        rows=rows,
        progress=progress,
    ):
        frame = piece.frame
        found = pl.DataFrame(
            {
                "row": frame["row"],
                "sender": plain_names(frame["sender"]),
                "receiver": plain_names(frame["receiver"]),
                "amount": frame["amount"].cast(pl.Float64, strict=False),
                "happened_at": instants(frame["happened_at"]),
                **{
                    name: whole_numbers(frame[name])
                    if name in frame.columns
                    else pl.repeat(0, len(frame), dtype=pl.Int64, eager=True)
                    for name in ("block", "place")
                },
                **{
                    name: frame[name].cast(pl.String).fill_null("").str.strip_chars()
                    if name in frame.columns
                    else pl.repeat("", len(frame), dtype=pl.String, eager=True)
                    for name in ("tx", "asset")
                },
            }
        )
        reasons = {
            "no sender": pl.col("sender").is_null(),
            "no receiver": pl.col("receiver").is_null(),
            "amount is no number": pl.col("amount").is_null() | pl.col("amount").is_nan(),
            "amount is negative": pl.col("amount") < 0,
            "amount is above 2^256": pl.col("amount") > LARGEST,
            "happened_at is no instant": pl.col("happened_at").is_null(),
            "block is no whole number": pl.col("block").is_null(),
            "place is no whole number": pl.col("place").is_null(),
        }
        yield sifted(piece.source, found, reasons, piece.broken)


def sifted(
    source: str, found: pl.DataFrame, reasons: Mapping[str, pl.Expr], broken: pl.DataFrame
) -> Read:
    """Rows that no reason speaks against, in order, and the others with the first that does.

    `found` has the columns of `TRANSFERS` and `row`; a reason that is null does not hold.
    """
    why = found.select(
        pl.coalesce(
            [pl.when(wrong).then(pl.lit(reason)) for reason, wrong in reasons.items()]
        ).alias("reason")
    )["reason"]
    return Read(
        arranged(found.filter(why.is_null()).select(list(TRANSFERS)).cast(TRANSFERS)),
        pl.concat([broken, rejected(source, found["row"], why)]).sort("row"),
    )


def arranged(transfers: pl.DataFrame) -> pl.DataFrame:
    """Transfers in the order of block, time, tx and place."""
    return transfers.sort("block", "happened_at", "tx", "place", maintain_order=True)


def check_transfers(transfers: pl.DataFrame) -> pl.DataFrame:
    """The columns of `TRANSFERS` alone, if all that is said of them holds.

    Raises
    ------
    InvalidTable
        If a column is missing or of another kind, has nulls, or an amount, block or place is out
        of range; with the first row.
    """
    for name, kind in TRANSFERS.items():
        if name not in transfers.columns:
            raise InvalidTable(
                f"expected transfers with a column `{name}`, which is missing"
                + did_you_mean(name, transfers.columns)
            )
        if transfers[name].dtype != kind:
            raise InvalidTable(
                f"expected column `{name}` of transfers as {kind}, got {transfers[name].dtype}; "
                "cast it, or read it with a reader of `chopmark.graph`"
            )
    wrong = {
        **{f"`{name}` is null": pl.col(name).is_null() for name in TRANSFERS},
        "`sender` is empty": pl.col("sender") == "",
        "`receiver` is empty": pl.col("receiver") == "",
        "`amount` is not within 0 to 2^256": ~pl.col("amount").is_between(0, LARGEST),
        "`block` is not within 0 to 2^62": ~pl.col("block").is_between(0, 2**62),
        "`place` is not within 0 to 2^31": ~pl.col("place").is_between(0, 2**31 - 1),
    }
    holds = transfers.select(condition.any().alias(what) for what, condition in wrong.items())
    for what, any_row in zip(wrong, holds.row(0), strict=True):
        if any_row:
            row = int(transfers.select(wrong[what].arg_true())[:, 0][0])
            raise InvalidTable(
                f"expected sound transfers, but {what} in row {row}: "
                f"{transfers.row(row, named=True)}; nothing was taken in"
            )
    return transfers.select(list(TRANSFERS))


def addresses(names: pl.Series) -> pl.Series:
    """Hex addresses in lower case; null where a text is none, "" where nothing is said."""
    text = names.cast(pl.String).fill_null("").str.strip_chars().str.to_lowercase()
    frame = text.alias("text").to_frame()
    sound = (pl.col("text") == "") | pl.col("text").str.contains(_ADDRESS)
    return frame.select(pl.when(sound).then("text"))["text"]


def plain_names(names: pl.Series) -> pl.Series:
    """Texts without blanks around; null where nothing is said."""
    frame = names.cast(pl.String).str.strip_chars().alias("text").to_frame()
    # The mark of bytes that were no text.
    sound = (pl.col("text") != "") & ~pl.col("text").str.contains("\ufffd", literal=True)
    return frame.select(pl.when(sound).then("text"))["text"]


def whole_numbers(values: pl.Series) -> pl.Series:
    """Whole numbers from 0 to 2^62; null where a value is none."""
    if values.dtype == pl.String:
        values = values.str.strip_chars().str.extract(_NUMBER).cast(pl.Int64, strict=False)
    elif values.dtype.is_float():
        frame = values.alias("value").to_frame()
        values = frame.select(pl.when(pl.col("value") == pl.col("value").floor()).then("value"))[
            "value"
        ]
    values = values.cast(pl.Int64, strict=False).alias("value")
    return values.to_frame().select(pl.when(pl.col("value").is_between(0, 2**62)).then("value"))[
        "value"
    ]


def scaled(values: pl.Series, decimals: pl.Series) -> pl.Series:
    """Whole units over 10^decimals as floats; null where a value is no whole number.

    Text is read with an error of one unit in the last place at most.

    Text (also of powers, such as ``1.5e18``) is scaled as a decimal, before it becomes a float.
    Negative values stay negative.

    Examples
    --------
    >>> scaled(pl.Series(["2500000000000000000", "7"]), pl.Series([18, 0])).to_list()
    [2.5, 7.0]
    """
    frame = pl.DataFrame({"value": values, "decimals": decimals})
    if values.dtype.is_float():  # already rounded by who wrote it
        return frame.select(pl.col("value") / pl.lit(10.0).pow(pl.col("decimals")))["value"]
    # Nearly all values are digits alone: the rest is looked at only where one is not.
    frame = frame.with_columns(pl.col("value").cast(pl.String))
    digits_alone = pl.col("value").str.contains(r"^[0-9]+$")
    if frame.select(digits_alone.all() & pl.col("value").is_not_null().all()).item():
        quick = pl.col("value") + "e-" + pl.col("decimals").cast(pl.String)
        return frame.select(quick.cast(pl.Float64, strict=False))["value"]
    text = pl.col("value").str.strip_chars().str.strip_prefix("-")
    sign = pl.when(pl.col("value").str.strip_chars().str.starts_with("-"))
    plain = text.str.extract(_NUMBER) + "e-" + pl.col("decimals").cast(pl.String)
    digits, power = text.str.extract(_POWER, 1), text.str.extract(_POWER, 2).cast(pl.Int64)
    written = digits + "e" + (power - pl.col("decimals")).cast(pl.String)
    amount = pl.coalesce(plain, written).cast(pl.Float64, strict=False)
    return frame.select(sign.then(-amount).otherwise(amount).alias("value"))["value"]


def instants(values: pl.Series) -> pl.Series:
    """Instants of datetimes, of epoch numbers (s, ms or us, told by size) or of their texts.

    Null where a value is no instant. A datetime without a time zone is UTC, as chains count it.

    Raises
    ------
    InvalidInput
        If the column is of a kind that holds no instants.
    """
    kind = values.dtype
    if isinstance(kind, pl.Datetime):
        if kind.time_zone is None:
            return values.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return values.cast(pl.Datetime("us", kind.time_zone)).dt.convert_time_zone("UTC")
    if kind == pl.String:
        frame = values.str.strip_chars().alias("text").to_frame()
        text = pl.col("text")
        utc = text.str.replace(r"( ?UTC|Z|\+00:?00)$", "").str.replace("T", " ", literal=True)
        day = utc.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
        zoned = text.str.replace("T", " ", literal=True).str.to_datetime(
            "%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_unit="us"
        )
        return frame.select(
            pl.coalesce(
                _epoch(text.str.extract(_NUMBER).cast(pl.Int64, strict=False)),
                day.dt.replace_time_zone("UTC"),
                zoned.dt.convert_time_zone("UTC"),
            ).alias("text")
        )["text"]
    if kind.is_numeric():
        frame = values.cast(pl.Int64, strict=False).alias("number").to_frame()
        return frame.select(_epoch(pl.col("number")))["number"]
    raise InvalidInput(f"expected instants as datetimes, numbers or text, got {kind}")


def _epoch(number: pl.Expr) -> pl.Expr:
    us = (
        pl.when(number.is_between(0, 10**11 - 1))
        .then(number * 1_000_000)
        .when(number.is_between(10**11, 10**14 - 1))
        .then(number * 1000)
        .when(number.is_between(10**14, 10**17 - 1))
        .then(number)
    )
    return us.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
