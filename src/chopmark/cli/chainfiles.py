"""Files of a chain, as ``chopmark chain run`` and ``update`` are given them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
from cyclopts import Parameter
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chopmark.cli.easyml import check_output
from chopmark.cli.show import console, say
from chopmark.errors import InvalidInput

if TYPE_CHECKING:
    from chopmark.graph.transfers import Read
    from chopmark.pipelines.chain import ChainFolder, Told


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What is to be read, and where to put what cannot be."""

    transactions: Annotated[
        Path | None,
        Parameter(help="Transactions of Ethereum ETL: .csv, .csv.gz or .parquet, or a folder."),
    ] = None
    token_transfers: Annotated[
        Path | None, Parameter(help="Token transfers of Ethereum ETL: a file or a folder.")
    ] = None
    blocks: Annotated[
        Path | None,
        Parameter(help="Blocks (number, timestamp), where transactions have no block_timestamp."),
    ] = None
    bitcoin: Annotated[
        Path | None, Parameter(help="Transactions of Bitcoin ETL: .json, .jsonl or .parquet.")
    ] = None
    transfers: Annotated[
        Path | None,
        Parameter(help="Any other chain: a table of sender, receiver, amount, happened_at."),
    ] = None
    rejected: Annotated[
        Path | None,
        Parameter(help="File for the rows that could not be read, with reasons (.csv)."),
    ] = None

    def __bool__(self) -> bool:
        return any(source is not None for source in self._sources())

    def _sources(self) -> tuple[Path | None, ...]:
        return tuple(getattr(self, one.name) for one in fields(self) if one.name != "rejected")

    @property
    def kind(self) -> str:
        """What chain they are of: ethereum, bitcoin, or other."""
        if self.bitcoin is not None:
            return "bitcoin"
        return "other" if self.transfers is not None else "ethereum"

    def check(self, chain: "ChainFolder | None" = None) -> None:
        """Whether files of one chain, this one, were given, and are there."""
        ethereum = self.transactions is not None or self.token_transfers is not None
        if ethereum + (self.bitcoin is not None) + (self.transfers is not None) != 1:
            raise InvalidInput(
                "expected files of one chain: --transactions and --token-transfers, or --bitcoin, "
                "or --transfers"
            )
        if self.blocks is not None and self.transactions is None:
            raise InvalidInput(
                "expected --blocks beside --transactions, whose times it tells; got it alone"
            )
        for source in self._sources():
            if source is not None and not source.exists():
                raise InvalidInput(f"expected a file or a folder, but there is no `{source}`")
        if chain is not None and self.kind != (kind := chain.ledger.chain):
            what = "any other table (--transfers)" if kind == "other" else kind
            raise InvalidInput(
                f"expected files of {what}, as the ledger in `{chain.folder}` is of it; each chain "
                "has a folder of its own"
            )
        if self.rejected is not None:
            check_output(self.rejected)

    def take(self, chain: "ChainFolder") -> None:
        """Read all into a ledger, and say what could not be read."""
        num_rows = num_new = num_twice = 0
        refused: list[pl.DataFrame] = []
        with steps() as step:
            for read in self._reads(lambda share: step("read the files", share)):
                delta = chain.take(read.transfers)
                num_rows += read.transfers.height
                num_new += len(delta)
                num_twice += delta.duplicates
                refused.append(read.rejected)
        bad = pl.concat(refused) if refused else pl.DataFrame()
        console.print(
            f"{num_rows:,} transfers read, {num_new:,} of them new, {num_twice:,} known before; "
            f"{len(chain.ledger.addresses):,} addresses",
            highlight=False,
        )
        if bad.height:
            for reason, count in (
                bad.group_by("reason").len().sort("len", descending=True).iter_rows()
            ):
                say(f"left out: {count:,} rows, {reason}")
            if self.rejected is not None:
                bad.write_csv(self.rejected)

    def _reads(self, told: Callable[[float], None]) -> "Iterator[Read]":
        from chopmark.graph.bitcoin import read_bitcoin
        from chopmark.graph.ethereum import read_ethereum
        from chopmark.graph.transfers import read_transfers

        if self.bitcoin is not None:
            return read_bitcoin(self.bitcoin, progress=told)
        if self.transfers is not None:
            return read_transfers(self.transfers, progress=told)
        return read_ethereum(
            self.transactions, self.token_transfers, blocks=self.blocks, progress=told
        )


@contextmanager
def steps() -> Iterator["Told"]:
    """A bar for each step of a block, one under the other."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, int] = {}

        def told(step: str, share: float) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=1.0)
            bar.update(tasks[step], completed=share)  # type: ignore[arg-type]

        caller: Callable[[str, float], None] = told
        yield caller
