"""``chopmark chain``: transfers of a chain in, the risk of every address out.

`run` does everything from files to scores, `update` goes on with newer files, `risk` asks about
addresses, `export` writes all scores, `simulate` makes files to try it on.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
from cyclopts import Parameter
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chopmark.cli.easyml import check_output
from chopmark.cli.show import console, number, say, table
from chopmark.errors import InvalidInput

if TYPE_CHECKING:
    from chopmark.graph.transfers import Read
    from chopmark.pipelines.chain import ChainFolder, Learned, Told

Folder = Annotated[Path, Parameter(help="Folder of the chain.")]
Transactions = Annotated[
    Path | None,
    Parameter(help="Transactions of Ethereum ETL: .csv, .csv.gz or .parquet, or a folder."),
]
TokenTransfers = Annotated[
    Path | None, Parameter(help="Token transfers of Ethereum ETL: a file or a folder.")
]
Blocks = Annotated[
    Path | None,
    Parameter(help="Blocks (number, timestamp), where transactions have no block_timestamp."),
]
Bitcoin = Annotated[
    Path | None, Parameter(help="Transactions of Bitcoin ETL: .json, .jsonl or .parquet.")
]
Plain = Annotated[
    Path | None,
    Parameter(
        name="--transfers",
        help="Any other chain: a table of sender, receiver, amount, happened_at.",
    ),
]
Rejected = Annotated[
    Path | None, Parameter(help="File for the rows that could not be read, with reasons (.csv).")
]


def run(
    folder: Folder,
    labels: Path,
    *,
    transactions: Transactions = None,
    token_transfers: TokenTransfers = None,
    blocks: Blocks = None,
    bitcoin: Bitcoin = None,
    transfers: Plain = None,
    rejected: Rejected = None,
    prices: Annotated[
        Path | None,
        Parameter(
            help="Table of asset and price: worth of a unit, the chain's own coin as ''. Tokens "
            "without a price count as transfers of nothing."
        ),
    ] = None,
    dim: int = 64,
    walks: int = 10,
    length: int = 40,
    seed: int = 0,
) -> None:
    """Read files, build the graph, embed it, learn from labels, and score every address.

    Parameters
    ----------
    labels
        Table of `address` and `is_illicit`; `known_at` says which of two rows is newer.
    dim
        Width of an embedding.
    walks
        From each address.
    length
        Steps of a walk.
    """
    from chopmark.pipelines.chain import ChainFolder
    from chopmark.pipelines.chainlabels import checked_labels
    from chopmark.pipelines.chainrun import Recipe
    from chopmark.tabular.tables import frame_of

    worth: dict[str, float] = {"": 1.0}
    if prices is not None:
        told = frame_of(prices)
        for column in ("asset", "price"):
            if column not in told.columns:
                raise InvalidInput(f"expected a column `{column}` in `{prices}`, got none")
        assets = pl.col("asset").cast(pl.String).fill_null("").str.strip_chars()
        if told.select(assets.is_duplicated().any()).item():
            raise InvalidInput(f"expected each asset of `{prices}` once, got one twice")
        worth |= dict(told.select(assets, "price").iter_rows())
    # What is wrong with them is said before hours of reading.
    recipe = Recipe(dim=dim, num_walks=walks, length=length, prices=worth, seed=seed)
    known = checked_labels(frame_of(labels))
    there = (folder / "ledger" / "ledger.json").exists()
    given = (transactions, token_transfers, blocks, bitcoin, transfers)
    if not there or any(source is not None for source in given):
        _check(given, rejected)
    chain = ChainFolder.open(folder) if there else ChainFolder.create(
        folder, chain="bitcoin" if bitcoin is not None else "ethereum"
    )  # fmt: skip
    if any(source is not None for source in given) or not len(chain.ledger.addresses):
        _check(given, rejected, chain)
        try:
            _take(chain, *given, rejected)
            if not len(chain.ledger.addresses):
                raise InvalidInput("expected files with transfers, but none could be read of them")
        except BaseException:
            if not there and not len(chain.ledger):  # leave no empty chain behind
                shutil.rmtree(folder / "ledger")
            raise
    with _steps() as step:
        learned = chain.learn(known, recipe, told=step)
    _show(learned, folder)


def update(
    folder: Folder,
    *,
    transactions: Transactions = None,
    token_transfers: TokenTransfers = None,
    blocks: Blocks = None,
    bitcoin: Bitcoin = None,
    transfers: Plain = None,
    rejected: Rejected = None,
    rewind: Annotated[
        int | None,
        Parameter(help="Last block that stays: what came above it was re-organised."),
    ] = None,
) -> None:
    """Read newer files, and embed and score what they touched."""
    from chopmark.pipelines.chain import ChainFolder

    chain = ChainFolder.open(folder)
    chain.run  # noqa: B018  (before anything is read: without a run there is nothing to go on from)
    given = (transactions, token_transfers, blocks, bitcoin, transfers)
    if any(source is not None for source in given):
        _check(given, rejected, chain)  # before anything is taken back
    if rewind is not None:
        gone = chain.rewind(rewind)
        console.print(f"{len(gone):,} transfers above block {rewind:,} taken back")
    if any(source is not None for source in given):
        _take(chain, *given, rejected)
    with _steps() as step:
        learned = chain.update(told=step)
    if not learned.seconds:
        console.print(f"nothing has come since run {learned.run}: all scores stay")
        return
    _show(learned, folder)


def risk(
    folder: Folder,
    addresses: list[str],
    *,
    as_json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Say how risky addresses are.

    Parameters
    ----------
    addresses
        One or more.
    as_json
        Print an object a line, for another program.
    """
    from chopmark.pipelines.chain import ChainFolder

    found = ChainFolder.open(folder).risks(addresses)
    if as_json:
        for row in found.iter_rows(named=True):
            print(json.dumps(row))
        return
    rows = [
        (row["address"], "not on the chain" if row["score"] is None else number(row["score"]))
        for row in found.iter_rows(named=True)
    ]
    table(f"Risk of addresses, run {found['run'][0]}", ("address", "score"), rows)


def why(folder: Folder, address: str) -> None:
    """Say what moved the score of an address, and where its money came from and went to.

    Parameters
    ----------
    address
        One address of the chain.
    """
    from chopmark.pipelines.chain import ChainFolder

    told = ChainFolder.open(folder).why(address)
    own = {None: "", True: "; labelled as illicit", False: "; labelled as licit"}[told.is_illicit]
    console.print(
        f"[bold]{told.address}[/bold]: {number(told.score)}, run {told.run}{own}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    rows = [
        (name, "missing" if value is None else number(value), f"{move:+.2f}")
        for name, value, move in told.columns
    ]
    rows.append(("its place in the graph", "", f"{told.embedding:+.2f}"))
    table("What moved it most", ("behaviour", "value", "log-odds"), rows)
    for direction, words in (("in", "came from"), ("out", "went to")):
        shares = ", ".join(
            f"{share:.1%} {kind}" for kind, share in told.exposure[direction].items()
        )
        console.print(f"its coins {words} labelled addresses: {shares or 'none'}", highlight=False)
        way = told.ways[direction]
        if way is not None:
            kind, nodes, share = way
            arrow = " < " if direction == "in" else " > "
            console.print(
                f"  nearest, {kind}, {share:.1%} of its coins: {arrow.join(nodes)}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip


def export(folder: Folder, out: Path) -> None:
    """Write the scores of all addresses.

    Parameters
    ----------
    out
        File that ends in .parquet or .csv.
    """
    from chopmark.pipelines.chain import ChainFolder

    if out.suffix not in (".parquet", ".csv"):
        raise InvalidInput(f"expected a file that ends in .parquet or .csv, got `{out}`")
    check_output(out)
    parts = pl.concat(list(ChainFolder.open(folder).all_risks()))
    if out.suffix == ".csv":
        parts.write_csv(out)
    else:
        parts.write_parquet(out)
    console.print(f"{parts.height:,} scores in {out}", soft_wrap=True, highlight=False)


def simulate(
    folder: Path,
    *,
    addresses: int = 20_000,
    days: int = 90,
    last: int = 5,
    seed: int = 0,
) -> None:
    """Write a simulated chain as files of Ethereum ETL, its last days apart, and labels.

    Parameters
    ----------
    folder
        New folder for `first/`, `later/`, `labels.csv` and `truth.csv`.
    addresses
        Of the chain.
    last
        Days at the end that go into `later/`, to try `update` on.
    """
    from dataclasses import replace
    from datetime import timedelta

    from chopmark.datasets.chain import simulate_chain, write_ethereum_etl

    if not 0 < last < days:
        raise InvalidInput(f"expected --last of 1 to {days - 1}, got {last}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"expected a new folder, but `{folder}` is there, and not empty")
    chain = simulate_chain(num_addresses=addresses, days=days, seed=seed)
    cut = chain.transfers["happened_at"].max() - timedelta(days=last)  # type: ignore[operator]
    for name, some in (
        ("first", pl.col("happened_at") <= cut),
        ("later", pl.col("happened_at") > cut),
    ):
        part = replace(
            chain,
            transfers=chain.transfers.filter(some),
            token_transfers=chain.token_transfers.filter(some),
        )
        write_ethereum_etl(part, folder / name)
    known = chain.labels.filter(pl.col("known_at") <= cut)
    known.select("address", "is_illicit", "label", "source", "known_at").write_csv(
        folder / "labels.csv"
    )
    chain.truth.write_csv(folder / "truth.csv")
    console.print(
        f"{chain.transfers.height:,} transactions and {chain.token_transfers.height:,} token "
        f"transfers of {chain.truth.height:,} addresses in {folder}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


def _check(
    given: tuple[Path | None, ...], rejected: Path | None, chain: "ChainFolder | None" = None
) -> None:
    """Whether files of one chain, this one, were given, and are there."""
    transactions, token_transfers, _, bitcoin, transfers = given
    ethereum = transactions is not None or token_transfers is not None
    if ethereum + (bitcoin is not None) + (transfers is not None) != 1:
        raise InvalidInput(
            "expected files of one chain: --transactions and --token-transfers, or --bitcoin, or "
            "--transfers"
        )
    for source in given:
        if source is not None and not source.exists():
            raise InvalidInput(f"expected a file or a folder, but there is no `{source}`")
    if chain is not None and transfers is None:
        kind = chain.ledger.chain
        if (bitcoin is not None) != (kind == "bitcoin"):
            raise InvalidInput(
                f"expected files of {kind}, as the ledger in `{chain.folder}` is of it; each chain "
                "has a folder of its own"
            )
    if rejected is not None:
        check_output(rejected)


def _take(
    chain: "ChainFolder",
    transactions: Path | None,
    token_transfers: Path | None,
    blocks: Path | None,
    bitcoin: Path | None,
    transfers: Path | None,
    rejected: Path | None,
) -> None:
    """Read what was given into the ledger, and say what could not be read."""
    from chopmark.graph.bitcoin import read_bitcoin
    from chopmark.graph.ethereum import read_ethereum
    from chopmark.graph.transfers import read_transfers

    num_rows = num_new = num_twice = 0
    refused: list[pl.DataFrame] = []
    with _steps() as step:

        def told(share: float) -> None:
            step("read the files", share)

        reads: Iterator[Read]
        if bitcoin is not None:
            reads = read_bitcoin(bitcoin, progress=told)
        elif transfers is not None:
            reads = read_transfers(transfers, progress=told)
        else:
            reads = read_ethereum(transactions, token_transfers, blocks=blocks, progress=told)
        for read in reads:
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
        for reason, count in bad.group_by("reason").len().sort("len", descending=True).iter_rows():
            say(f"left out: {count:,} rows, {reason}")
        if rejected is not None:
            bad.write_csv(rejected)


def _show(learned: "Learned", folder: Path) -> None:
    rows = [(name, f"{seconds:.1f}") for name, seconds in learned.seconds.items()]
    table(f"Run {learned.run}", ("step", "seconds"), rows)
    if learned.num_labels:
        told = learned.held_out
        console.print(
            f"{learned.num_labels:,} labelled addresses, {learned.num_illicit:,} of them illicit; "
            f"on rows held out ROC-AUC {number(told['roc_auc'])}, PR-AUC {number(told['pr_auc'])} "
            f"at a prevalence of {number(100 * (told['prevalence'] or 0.0))} %",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"{learned.num_touched:,} of {learned.num_addresses:,} addresses scored; ask with "
        f"`chopmark chain risk {folder} ADDRESS`",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _steps() -> Iterator["Told"]:
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
