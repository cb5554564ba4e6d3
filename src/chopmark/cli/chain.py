"""``chopmark chain``: transfers of a chain in, the risk of every address out.

`run` does everything from files to scores, `update` goes on with newer files, `risk` asks about
addresses, `export` writes all scores, `simulate` makes files to try it on.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
from cyclopts import Parameter

from chopmark.cli.chainfiles import Files, steps
from chopmark.cli.easyml import check_output
from chopmark.cli.show import console, number, table
from chopmark.errors import InvalidInput

if TYPE_CHECKING:
    from chopmark.pipelines.chain import Learned

Folder = Annotated[Path, Parameter(help="Folder of the chain.")]

_NOTHING = Files()


def run(
    folder: Folder,
    labels: Path | None = None,
    *,
    files: Files = _NOTHING,
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
    model: str = "trees",
    known_share: float = 1.0,
    threads: int = 1,
    seed: int = 0,
) -> None:
    """Read files, build the graph, embed it, learn from labels, and score every address.

    Parameters
    ----------
    labels
        Table of `address` and `is_illicit`; `known_at` says which of two rows is newer. Without
        one, what `chopmark chain labels` keeps in the folder.
    dim
        Width of an embedding.
    walks
        From each address.
    length
        Steps of a walk.
    model
        Family of `chopmark easyml`: trees, linear, auto.
    known_share
        Of the illicit addresses of the chain, the share that labels name, by your estimate: scores
        are chances to be illicit, not to be on a list.
    threads
        Of walks and embedding; scores are repeatable with 1 only.
    """
    from chopmark.pipelines.chain import ChainFolder
    from chopmark.pipelines.chainlabels import LABELS, checked_labels
    from chopmark.pipelines.chainrun import Recipe
    from chopmark.tabular.tables import frame_of

    # What is wrong with them is said before hours of reading.
    recipe = Recipe(
        dim=dim, num_walks=walks, length=length, model=model, known_share=known_share,
        threads=threads, prices={"": 1.0} | ({} if prices is None else _worth(prices)), seed=seed,
    )  # fmt: skip
    recipe.node2vec()  # refuses what it cannot be made of
    known = None if labels is None else checked_labels(frame_of(labels))
    if known is None and not (folder / LABELS).exists():
        raise InvalidInput(
            f"expected a table of labels, or labels in `{folder}`, got neither; name a table of "
            "address and is_illicit, or add some with `chopmark chain labels add`"
        )
    there = (folder / "ledger" / "ledger.json").exists()
    if files or not there:
        files.check()
    chain = ChainFolder.open(folder) if there else ChainFolder.create(folder, chain=files.kind)
    if files or not len(chain.ledger.addresses):
        files.check(chain)
        try:
            files.take(chain)
            if not len(chain.ledger.addresses):
                raise InvalidInput("expected files with transfers, but none could be read of them")
        except BaseException:
            if not there and not len(chain.ledger):  # leave no empty chain behind
                shutil.rmtree(folder / "ledger")
            raise
    with steps() as step:
        learned = chain.learn(known, recipe, told=step)
    _show(learned, folder)


def update(
    folder: Folder,
    *,
    files: Files = _NOTHING,
    rewind: Annotated[
        int | None,
        Parameter(help="Last block that stays: what came above it was re-organised."),
    ] = None,
    every: Annotated[
        bool,
        Parameter(
            name="--all", negative="", help="Score all addresses anew, not only touched ones."
        ),
    ] = False,
) -> None:
    """Read newer files, and embed and score what they touched."""
    from chopmark.pipelines.chain import ChainFolder

    chain = ChainFolder.open(folder)
    chain.run  # noqa: B018  (before anything is read: without a run there is nothing to go on from)
    if files:
        files.check(chain)  # before anything is taken back
    if rewind is not None:
        gone = chain.rewind(rewind)
        console.print(f"{len(gone):,} transfers above block {rewind:,} taken back")
    if files:
        files.take(chain)
    with steps() as step:
        learned = chain.update(every=every, told=step)
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
    count = 0
    with _writer(out) as write:
        for part in ChainFolder.open(folder).all_risks():
            write(part)
            count += part.height
    console.print(f"{count:,} scores in {out}", soft_wrap=True, highlight=False)


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


@contextmanager
def _writer(out: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Takes a table piece by piece into a file, which is there when all of it is."""
    made = out.with_name(f".{out.name}.part")
    try:
        if out.suffix == ".csv":
            with made.open("wb") as file:
                yield lambda part: part.write_csv(file, include_header=file.tell() == 0)
        else:
            import pyarrow.parquet as pq

            with ExitStack() as stack:
                writer: pq.ParquetWriter | None = None

                def write(part: pl.DataFrame) -> None:
                    nonlocal writer
                    rows = part.to_arrow()
                    if writer is None:
                        writer = stack.enter_context(pq.ParquetWriter(made, rows.schema))
                    writer.write_table(rows)

                yield write
        made.replace(out)
    finally:
        made.unlink(missing_ok=True)


def _worth(prices: Path) -> dict[str, float]:
    from chopmark.tabular.tables import frame_of

    told = frame_of(prices)
    for column in ("asset", "price"):
        if column not in told.columns:
            raise InvalidInput(f"expected a column `{column}` in `{prices}`, got none")
    assets = pl.col("asset").cast(pl.String).fill_null("").str.strip_chars()
    if told.select(assets.is_duplicated().any()).item():
        raise InvalidInput(f"expected each asset of `{prices}` once, got one twice")
    return dict(told.select(assets, "price").iter_rows())


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
        shown = [
            (
                f"{point.false_positive_share:.1%}", number(point.bound), f"{point.recall:.0%}",
                "none" if point.precision is None else f"{point.precision:.0%}",
            )
            for point in learned.points
        ]  # fmt: skip
        titles = ("of honest ones flagged", "score from", "illicit found", "of flagged illicit")
        table("What a bound on the score does, on rows held out", titles, shown)
    if learned.num_flagged:
        console.print(
            f"{learned.num_flagged:,} addresses newly flagged, from a score of "
            f"{number(learned.points[-1].bound)} on; they may appeal: "
            f"`chopmark chain labels appeal {folder} ADDRESS`",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"{learned.num_touched:,} of {learned.num_addresses:,} addresses scored; ask with "
        f"`chopmark chain risk {folder} ADDRESS`",
        highlight=False,
        soft_wrap=True,
    )
