"""Ethereum ETL files as transfers: coins of `transactions`, tokens of `token_transfers`.

Any chain of Ethereum's kind is written alike. Other spellings that are understood: `value_string`
and `transaction_hash` of cryo, addresses as 20 bytes, `receipt_status` of the public warehouse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from chopmark.errors import InvalidInput
from chopmark.graph.files import Progress, Source, pieces
from chopmark.graph.transfers import (
    INSTANT,
    LARGEST,
    Read,
    addresses,
    instants,
    scaled,
    sifted,
    whole_numbers,
)

WEI = 18
"""Decimals of the coin, and of a token of which none are given."""

_TIMES = pl.Schema({"block": pl.Int64(), "happened_at": INSTANT})


def read_ethereum(
    transactions: Source | None = None,
    token_transfers: Source | None = None,
    *,
    blocks: Source | None = None,
    decimals: Mapping[str, int] | None = None,
    rows: int = 1_000_000,
    progress: Progress | None = None,
) -> Iterator[Read]:
    """Transfers of Ethereum ETL files, at most `rows` at once, transactions before tokens.

    Parameters
    ----------
    transactions, token_transfers
        Files .csv, .csv.gz or .parquet, or folders of them.
    blocks
        Files of `number` and `timestamp`, for transactions without `block_timestamp`. Without
        them, a token transfer has the time of the transactions of its block.
    decimals
        Decimals of tokens by address, 0 to 77; 18 for others.
    progress
        Told the share that is read, 0 to 1; each of the sources counts alike.

    A contract's creation, a failed transaction, a bad address or value and a token transfer of
    a block without a time are among `rejected`.

    Raises
    ------
    InvalidInput
        If nothing is given, or a file is absent or cannot be read to its end.
    InvalidTable
        If a column is missing.
    """
    given = [source for source in (blocks, transactions, token_transfers) if source is not None]
    if transactions is None and token_transfers is None:
        raise InvalidInput("expected `transactions` or `token_transfers` to read, got neither")
    scales = {token.lower(): places for token, places in (decimals or {}).items()}
    for token, places in scales.items():
        if not 0 <= places <= 77:
            raise InvalidInput(f"expected 0 to 77 decimals of token `{token}`, got {places}")

    def told(stage: int) -> Progress | None:
        if progress is None:
            return None
        return lambda share: progress((stage + share) / len(given))

    times = _TIMES.to_frame()
    stage = 0
    if blocks is not None:
        times, stage = _block_times(blocks, rows, told(stage)), stage + 1
    if transactions is not None:
        for read, seen in _coins(transactions, times, blocks is None, rows, told(stage)):
            yield read
            if token_transfers is not None:
                times = pl.concat([times, seen]).unique("block", keep="first", maintain_order=True)
        stage += 1
    if token_transfers is not None:
        yield from _tokens(token_transfers, times, scales, rows, told(stage))


def _block_times(blocks: Source, rows: int, progress: Progress | None) -> pl.DataFrame:
    needs = {"block": ("number", "block_number"), "happened_at": ("timestamp", "block_timestamp")}
    found = [
        pl.DataFrame(
            {
                "block": whole_numbers(piece.frame["block"]),
                "happened_at": instants(piece.frame["happened_at"]),
            }
        ).drop_nulls()
        for piece in pieces(blocks, needs=needs, takes={}, rows=rows, progress=progress)
    ]
    return pl.concat([_TIMES.to_frame(), *found]).unique("block", keep="first")


def _coins(
    source: Source, times: pl.DataFrame, dated: bool, rows: int, progress: Progress | None
) -> Iterator[tuple[Read, pl.DataFrame]]:
    """Transfers of the coin, and the times of their blocks."""
    needs = {
        "tx": ("hash", "transaction_hash"),
        "sender": ("from_address",),
        "receiver": ("to_address",),
        "value": ("value", "value_string"),
        "block": ("block_number",),
    }
    time = {"happened_at": ("block_timestamp", "timestamp")}
    takes = {"status": ("receipt_status", "success"), **({} if dated else time)}
    for piece in pieces(
        source, needs=needs | time if dated else needs, takes=takes, rows=rows, progress=progress
    ):
        frame = piece.frame
        none = pl.lit(0, dtype=pl.Int64)
        found = _found(frame, pl.repeat(WEI, len(frame), eager=True), times).with_columns(
            place=none, asset=pl.lit("")
        )
        failed = pl.lit(False)
        if "status" in frame.columns:
            status = frame["status"].cast(pl.String).str.to_lowercase()
            found = found.with_columns(status=status)
            failed = pl.col("status").is_in(["0", "false"])
        read = sifted(piece.source, found, {"failed": failed} | _reasons(), piece.broken)
        yield read, read.transfers.select("block", "happened_at").unique("block", keep="first")


def _tokens(
    source: Source,
    times: pl.DataFrame,
    scales: Mapping[str, int],
    rows: int,
    progress: Progress | None,
) -> Iterator[Read]:
    needs = {
        "tx": ("transaction_hash",),
        "sender": ("from_address",),
        "receiver": ("to_address",),
        "value": ("value", "value_string"),
        "block": ("block_number",),
        "asset": ("token_address",),
        "place": ("log_index",),
    }
    takes = {"happened_at": ("block_timestamp",)}
    for piece in pieces(source, needs=needs, takes=takes, rows=rows, progress=progress):
        frame = piece.frame
        assets = addresses(frame["asset"])
        places = assets.replace_strict(
            scales, default=WEI, return_dtype=pl.Int64
        ) if scales else pl.repeat(WEI, len(frame), eager=True)  # fmt: skip
        found = _found(frame, places, times).with_columns(
            place=whole_numbers(frame["place"]), asset=assets
        )
        more = {
            "token_address is no address": pl.col("asset").is_null() | (pl.col("asset") == ""),
            "log_index is no whole number": pl.col("place").is_null(),
        }
        yield sifted(piece.source, found, _reasons() | more, piece.broken)


def _found(frame: pl.DataFrame, decimals: pl.Series, times: pl.DataFrame) -> pl.DataFrame:
    """What both tables have, read; `amount` of units that may be out of range is still there."""
    blocks = whole_numbers(frame["block"])
    known = (
        blocks.alias("block").to_frame().join(times, on="block", how="left", maintain_order="left")
    )
    at = known["happened_at"]
    if "happened_at" in frame.columns:
        own = instants(frame["happened_at"])
        at = pl.DataFrame({"own": own, "known": at}).select(pl.coalesce("own", "known"))["own"]
    return pl.DataFrame(
        {
            "row": frame["row"],
            "tx": frame["tx"].cast(pl.String).fill_null("").str.strip_chars().str.to_lowercase(),
            "sender": addresses(frame["sender"]),
            "receiver": addresses(frame["receiver"]),
            "amount": scaled(frame["value"], decimals),
            "most": LARGEST / 10.0 ** decimals.cast(pl.Float64).to_numpy(),
            "happened_at": at,
            "block": blocks,
        }
    )


def _reasons() -> dict[str, pl.Expr]:
    amount = pl.col("amount")
    return {
        "transaction has no hash": pl.col("tx") == "",
        "from_address is no address": pl.col("sender").is_null(),
        "no sender": pl.col("sender") == "",
        "to_address is no address": pl.col("receiver").is_null(),
        "no receiver": pl.col("receiver") == "",
        "value is no whole number": amount.is_null() | amount.is_nan(),
        "value is negative": amount < 0,
        "value is above 2^256": amount > pl.col("most"),
        "block_number is no whole number": pl.col("block").is_null(),
        "no time is known of its block": pl.col("happened_at").is_null(),
    }
