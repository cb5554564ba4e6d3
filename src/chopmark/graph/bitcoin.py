"""Bitcoin ETL transactions as transfers: what each input's address paid to each output's address.

A transaction of many inputs and many outputs does not say who paid whom. Each output is taken to
come from all inputs in proportion to their values, so that sums are kept: what an address
receives is what its outputs hold. Where that would be too many pairs, the transaction itself
stands between them as ``tx:<hash>``. Change that goes back to an address that pays is no transfer.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.graph.files import REJECTED, Progress, Source, files_of, lines
from chopmark.graph.transfers import TRANSFERS, Read, arranged, instants

SATOSHI = 100_000_000
"""Units of a coin."""

MOST = 21_000_000 * SATOSHI
"""Units that there will ever be."""

_KINDS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
_COLUMNS = ("hash", "block_number", "block_timestamp", "inputs", "outputs")


class _Side(msgspec.Struct):
    addresses: list[str] | None = None
    value: int | None = None


class _Transaction(msgspec.Struct):
    hash: str
    block_number: int
    block_timestamp: Any
    inputs: list[_Side] | None = None
    outputs: list[_Side] | None = None
    is_coinbase: bool | None = None


def read_bitcoin(
    transactions: Source,
    *,
    rows: int = 100_000,
    widest: int = 2500,
    progress: Progress | None = None,
) -> Iterator[Read]:
    """Transfers of Bitcoin ETL transactions, those of at most `rows` transactions at once.

    Parameters
    ----------
    transactions
        Files of JSON lines (.json, .jsonl, with .gz or not) or .parquet with nested `inputs` and
        `outputs`, or folders of them. Values in satoshi.
    widest
        Pairs of sender and receiver from which on the transaction becomes a node of its own.
    progress
        Told the share that is read, 0 to 1.

    Among `rejected`: lines that are no transaction, coinbase (no sender), inputs without value or
    address, values out of range, outputs that hold coins but name no address, and change.

    Raises
    ------
    InvalidInput
        If a file is absent or cannot be read to its end.
    InvalidTable
        If a Parquet file lacks a column.
    """
    if rows < 1 or widest < 1:
        raise InvalidInput(f"expected rows and widest of 1 or more, got {rows} and {widest}")
    paths = files_of(transactions, _KINDS)
    sizes = [max(path.stat().st_size, 1) for path in paths]
    for place, path in enumerate(paths):
        first = 1
        opened = _parquet if path.name.endswith(".parquet") else _json
        try:
            for found, share in opened(path, rows):
                yield _edges(str(path), found, first, widest)
                first += len(found)
                if progress is not None:
                    progress((sum(sizes[:place]) + share * sizes[place]) / sum(sizes))
        except (pa.ArrowException, OSError, EOFError) as error:
            raise InvalidInput(
                f"`{path}` cannot be read to its end ({str(error)[:200]}); is it cut short?"
            ) from error


def _json(path: Path, rows: int) -> Iterator[tuple[list[_Transaction | str | None], float]]:
    """Transactions of lines; text says what is wrong with one, None stands for a blank line."""
    decoder = msgspec.json.Decoder(_Transaction)
    for held, share in lines(path, rows):
        found: list[_Transaction | str | None] = []
        for line in held:
            if not line.strip():
                found.append(None)
                continue
            try:
                found.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                found.append(f"no transaction: {error}")
        yield found, share


def _parquet(path: Path, rows: int) -> Iterator[tuple[list[_Transaction | str | None], float]]:
    with pq.ParquetFile(path) as file:
        there = file.schema_arrow.names
        for name in _COLUMNS:
            if name not in there:
                raise InvalidTable(f"expected a column `{name}` in `{path}`, which lacks it")
        done, count = 0, max(file.metadata.num_rows, 1)
        names = [*_COLUMNS, *(["is_coinbase"] if "is_coinbase" in there else [])]
        for batch in file.iter_batches(batch_size=rows, columns=names):
            found: list[_Transaction | str | None] = []
            for row in batch.to_pylist():
                try:
                    found.append(msgspec.convert(row, _Transaction))
                except msgspec.ValidationError as error:
                    found.append(f"no transaction: {error}")
            done += len(found)
            yield found, done / count


def _edges(source: str, found: list[_Transaction | str | None], first: int, widest: int) -> Read:
    kept: list[tuple[_Transaction, int]] = []
    wrong: list[tuple[int, str]] = []
    paid: list[tuple[int, int, str, str, float]] = []
    times = instants(
        pl.Series(
            [_stamp(one.block_timestamp) if isinstance(one, _Transaction) else "" for one in found],
            dtype=pl.String,
        )
    ).to_physical()
    for row, (one, time) in enumerate(zip(found, times, strict=True), first):
        if one is None:
            continue
        reason = one if isinstance(one, str) else _reason(one)
        if reason is None and time is None:
            reason = "block_timestamp is no instant"
        if reason is not None or isinstance(one, str):
            wrong.append((row, str(reason)))
            continue
        wrong += [
            (row, f"an output of {side.value:,} satoshi names no address")
            for side in one.outputs or []
            if side.value and not side.addresses
        ]
        edges, change = _pay(one, widest)
        if change:
            wrong.append((row, "change back to a sender"))
        paid += [(len(kept), place, *edge) for place, edge in enumerate(edges)]
        kept.append((one, time))
    about = pl.DataFrame(
        {
            "happened_at": pl.Series([time for _, time in kept], dtype=pl.Int64),
            "block": pl.Series([one.block_number for one, _ in kept], dtype=pl.Int64),
            "tx": pl.Series([one.hash.lower() for one, _ in kept], dtype=pl.String),
        }
    ).with_columns(pl.col("happened_at").cast(TRANSFERS["happened_at"]), asset=pl.lit(""))
    kinds = {"at": pl.Int64, "place": pl.Int64, "sender": pl.String, "receiver": pl.String}
    frame = pl.DataFrame(paid, schema={**kinds, "amount": pl.Float64}, orient="row")
    transfers = pl.concat([frame, about[frame["at"]]], how="horizontal")
    rejects = pl.DataFrame(
        [(source, row, why) for row, why in wrong], schema=REJECTED, orient="row"
    )
    return Read(arranged(transfers.select(list(TRANSFERS)).cast(TRANSFERS)), rejects)


def _stamp(time: Any) -> str:
    return time.isoformat() if isinstance(time, datetime) else str(time)


def _reason(one: _Transaction) -> str | None:
    """Why a transaction moves nothing that could be told, if so."""
    inputs, outputs = one.inputs or [], one.outputs or []
    if one.is_coinbase or not inputs:
        return "coinbase has no sender"
    if not one.hash or one.block_number < 0:
        return "no hash" if not one.hash else "block_number is negative"
    if any(side.value is None for side in inputs) or any(side.value is None for side in outputs):
        return "an input or output has no value; export them enriched"
    if any(not 0 <= (side.value or 0) <= MOST for side in (*inputs, *outputs)):
        return "a value is not within 0 to 21 million coins"
    if any(side.value and not side.addresses for side in inputs):
        return "an input names no address"
    if not any(side.value for side in inputs):
        return "its inputs are worth nothing"
    if any(not address for side in (*inputs, *outputs) for address in side.addresses or []):
        return "an address is empty"
    return None


def _pay(one: _Transaction, widest: int) -> tuple[list[tuple[str, str, float]], bool]:
    """Sender, receiver and coins of each edge, and whether some change was left out."""
    senders, receivers = _sums(one.inputs or []), _sums(one.outputs or [])
    if len(senders) * len(receivers) > widest:
        node = f"tx:{one.hash.lower()}"
        return [
            *((sender, node, float(worth / SATOSHI)) for sender, worth in senders.items()),
            *((node, receiver, float(worth / SATOSHI)) for receiver, worth in receivers.items()),
        ], False
    total = sum(senders.values())
    edges = [
        # Whole numbers or fractions to here, so that the one rounding is the last.
        (sender, receiver, float(worth * given / (total * SATOSHI)))
        for sender, given in senders.items()
        for receiver, worth in receivers.items()
        if sender != receiver
    ]
    return edges, len(edges) < len(senders) * len(receivers)


def _sums(sides: list[_Side]) -> dict[str, int | Fraction]:
    """Satoshi of each address in order of appearance; several of one side share it alike."""
    sums: dict[str, int | Fraction] = {}
    for side in sides:
        names, value = side.addresses or [], side.value or 0
        if not value:
            continue
        for name in names:
            share = value if len(names) == 1 else Fraction(value, len(names))
            sums[name] = sums.get(name, 0) + share
    return sums
