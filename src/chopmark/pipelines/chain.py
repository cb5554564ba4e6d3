"""A chain in a folder: from files of transfers to the risk of every address, and on from there.

    chain = ChainFolder.create("ethereum")
    for read in read_ethereum("transactions.csv", "token_transfers.csv"):
        chain.take(read.transfers)
    chain.learn(labels)                 # graph, behaviour, embedding, model, scores of all
    chain.take(newer); chain.update()   # embeds and scores what was touched since
    chain.risks(["0x1f98..."])

    folder/ledger/           what was read (`chopmark.graph.ledger`)
           labels.db         who said what of addresses (`chainlabels`), if there are labels
           runs/000001/      one run (`chainrun`): graph, behaviour, embedding, scores, model
           current.json      the name of the run that answers

A run is made under another name and takes its place when it is whole; it knows the mark of the
ledger that it has worked up to. A run that was killed left nothing, and the next one makes up
for it: what has come since the mark is a question to the ledger. An update computes and writes
what was touched and what is around it; of the rest 16 bytes an address. Serves rows H1 to H3, H5
to H8, H11, H12, H15 and H16 of the requirements.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.addresses import replace_json
from chopmark.graph.adjacency import Graph
from chopmark.graph.behaviour import Behaviour
from chopmark.graph.ledger import Delta, Ledger
from chopmark.histories.storage import BROKEN, whole
from chopmark.models import load_scorer
from chopmark.pipelines.chainfit import chance, fit, scored
from chopmark.pipelines.chainlabels import TARGET, checked_labels, flag, known, open_labels
from chopmark.pipelines.chainrun import MODEL, Found, Point, Recipe, Run, table_of, with_rows
from chopmark.pipelines.chainwhy import AddressWhy, explained
from chopmark.times import moment, now

Told = Callable[[str, float], None]
"""Called with the step that is on and the share of it that is done, 0 to 1."""

_FEWEST = 10
_MOST = 1e30  # the ledger takes all that fits 256 bits; graph and behaviour count in 32-bit floats


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run did.

    Attributes
    ----------
    run
        Its name.
    num_addresses, num_rows
        Of the ledger then.
    num_labels, num_illicit
        Labelled addresses that are on the chain; 0 of an update.
    held_out
        Figures of the model on labelled and drawn addresses, out of fold, weighted to the whole
        chain's prevalence.
    points
        What bounds on the score would find, and whom they would trouble.
    seconds
        By step.
    num_touched
        Addresses embedded or scored anew; all of them in a first run.
    num_flagged
        Addresses that the run flags and the one before it did not.
    """

    run: str
    num_addresses: int
    num_rows: int
    num_labels: int
    num_illicit: int
    held_out: dict[str, float | None]
    points: tuple[Point, ...]
    seconds: dict[str, float]
    num_touched: int
    num_flagged: int


class ChainFolder:
    """One chain: its ledger, its runs, and the scores of its addresses.

    Made by `create` or `open`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger.open(folder / "ledger")
        self._run: Run | None = None

    @classmethod
    def create(cls, folder: str | Path, *, chain: str = "ethereum") -> ChainFolder:
        """A new folder with an empty ledger.

        Raises
        ------
        StoreError
            If there is a ledger already, or it cannot be written.
        """
        folder = Path(folder)
        Ledger.create(folder / "ledger", chain)
        return cls(folder)

    @classmethod
    def open(cls, folder: str | Path) -> ChainFolder:
        """The chain in a folder.

        Raises
        ------
        StoreError
            If there is none.
        """
        folder = Path(folder)
        if not (folder / "ledger" / "ledger.json").exists():
            raise StoreError(
                f"expected a chain in `{folder}`, got none; make one with `chopmark chain run` or "
                "`ChainFolder.create`"
            )
        return cls(folder)

    @property
    def run(self) -> Run:
        """The run that answers.

        Raises
        ------
        StoreError
            If nothing was learned yet, or the run is damaged.
        """
        path = self.folder / "current.json"
        try:
            name = json.loads(path.read_text(encoding="utf-8"))["run"]
        except FileNotFoundError:
            raise StoreError(
                f"expected a run in `{self.folder}`, got none; call `learn` with labels first "
                "(`chopmark chain run`)"
            ) from None
        except (*BROKEN, UnicodeDecodeError) as error:
            raise StoreError(f"`{path}` is damaged: {error}") from error
        if self._run is None or self._run.name != name:
            self._run = Run.open(self.folder / "runs" / str(name))
            if self._run.mark > self.ledger.mark:  # another process took in more, and made it
                self.ledger = Ledger.open(self.folder / "ledger")
        return self._run

    def take(self, transfers: pl.DataFrame) -> Delta:
        """Write transfers into the ledger, each once; the new rows."""
        return self.ledger.append(transfers)

    def rewind(self, block: int) -> Delta:
        """Take back what came in blocks above this one; the next `update` learns of it."""
        return self.ledger.rewind(block)

    def learn(
        self,
        labels: pl.DataFrame | None = None,
        recipe: Recipe | None = None,
        *,
        told: Told | None = None,
    ) -> Learned:
        """Everything anew: graph, behaviour, embedding, model, scores of all addresses.

        Parameters
        ----------
        labels
            ``address`` and ``is_illicit`` (booleans, or 1 and 0); of an address that is there
            twice the last row counts, and `known_at`, where it is a column, says which that is.
            None: what holds now of the labels in the folder (`chainlabels`), without the flags
            of scores, from which nothing can be learned.

        Raises
        ------
        InvalidTable
            If a column is missing or has what is no label, or fewer than ten illicit addresses
            are on the chain, or fewer than ten others to tell them from.
        InvalidInput
            If by `known_share` more than half of those without a label would be illicit.
        StoreError
            If there are no labels, or another process makes a run.
        """
        recipe = recipe or Recipe()
        if labels is None:
            labels = self._kept_labels()
        here = self._labels(labels)
        others = min(recipe.sampled, len(self.ledger.addresses) - here.height)
        if (licit := here.height - int(here[TARGET].sum()) + others) < _FEWEST:
            raise InvalidTable(
                f"expected at least {_FEWEST} addresses that are not illicit to learn from, "
                f"labelled so or `sampled` of those without a label, got {licit}"
            )
        unlabelled = len(self.ledger.addresses) - here.height
        hidden = int(here[TARGET].sum()) * (1.0 / recipe.known_share - 1.0)
        if hidden > unlabelled / 2:
            raise InvalidInput(
                f"expected a `known_share` that fits the chain, got {recipe.known_share:g}: of its "
                f"{unlabelled:,} addresses without a label {hidden:,.0f} would be illicit"
            )
        with self._alone():
            return self._learn(here, recipe, told)

    def _learn(self, here: pl.DataFrame, recipe: Recipe, told: Told | None) -> Learned:
        clock = _Clock(told)
        with self._new_run() as (name, folder):
            mark = self.ledger.mark
            with clock("read the ledger"):
                src, dst, worth, time = self._columns(self.ledger.columns(), recipe)
                num_nodes = len(self.ledger.addresses)
            with clock("lay out the graph"):
                graph = Graph.of_edges(
                    src, dst, worth, time, num_nodes=num_nodes, weight="log", keep_amounts=True
                )
            with clock("count behaviour"):
                behaviour = Behaviour.of(src, dst, worth, time / 1e6, num_nodes=num_nodes)
                names, columns = behaviour.features(hops=recipe.hops)
                behaviour.save(folder / "behaviour")
            with clock("walk and embed") as done:
                embedding = recipe.node2vec().fit(graph, on_progress=done, mark=mark)
                embedding.save(folder / "node2vec")
            with clock("fit the model") as done:
                table = table_of(names, columns, embedding.vectors)
                model = fit(table, here, recipe, folder, done)
            with clock("score all addresses") as done:
                scores = scored(folder, table, model.shift, recipe.known_share, done)
                scores[_unmoved(names, columns)] = np.nan
            here.select("id", TARGET).write_parquet(folder / "labels.parquet")
            Found(
                recipe=recipe, mark=mark, names=names, shift=model.shift, held_out=model.held_out,
                points=model.points, columns=columns, scores=scores,
            ).write(folder)  # fmt: skip
        self._use(name)
        return Learned(
            name, num_nodes, len(src), here.height, int(here[TARGET].sum()), model.held_out,
            model.points, clock.seconds, num_nodes, self._flag(),
        )  # fmt: skip

    def update(self, *, every: bool = False, told: Told | None = None) -> Learned:
        """Take in what came into the ledger, or went, since the last run: only what it touched.

        Walks through touched addresses are repaired, their stretches trained, vectors aligned
        to the space of the last run, and these addresses and those around them scored anew by
        the model that there is.

        Parameters
        ----------
        every
            Score all addresses anew, also those whose neighbours' neighbours alone moved
            something, or nobody.

        Raises
        ------
        StoreError
            If nothing was learned yet, the last run is damaged, or another process makes a run.
        """
        with self._alone():
            return self._update(every, told)

    def _update(self, every: bool, told: Told | None) -> Learned:
        # Opened anew: its arrays are changed in memory on the way to the next run.
        last = Run.open(self.run.folder)
        recipe = last.recipe
        came, went = self.ledger.since(last.mark)
        if not len(came) and not len(went) and not every:
            return Learned(
                last.name, last.num_addresses, 0, 0, 0, last.held_out, last.points, {}, 0,
                self._flag(),  # of a run that was killed before its flags were kept
            )  # fmt: skip
        load_scorer(last.folder / MODEL), last.labels  # damage is found before the work
        clock = _Clock(told)
        with self._new_run() as (name, folder):
            mark, num_nodes = self.ledger.mark, len(self.ledger.addresses)
            with clock("change the graph"):
                embedding = last.embedding()
                assert embedding.graph is not None  # it was fitted
                graph, touched = self._changed(embedding.graph, came, went, recipe, num_nodes)
                # The graph has no transfers to oneself, and behaviour has.
                moved = np.concatenate([touched, came.touched, went.touched])
                rows = np.arange(num_nodes) if every else _around(graph, np.unique(moved))
            with clock("count behaviour"):
                behaviour = self._counted_on(last, came, went, num_nodes)
                names, fresh = behaviour.features(rows, hops=recipe.hops)
                behaviour.save(folder / "behaviour")
            with clock("repair walks and train on"):
                embedding.update(graph, touched, mark=mark)
                embedding.save(folder / "node2vec")
            with clock("score what was touched") as done:
                for kept in (MODEL, "labels.parquet"):
                    shutil.copyfile(last.folder / kept, folder / kept)
                table = table_of(names, fresh, embedding.vectors[rows])
                part = scored(folder, table, last.shift, recipe.known_share, done)
                part[_unmoved(names, fresh)] = np.nan
                Found(
                    recipe=recipe, mark=mark, names=names, shift=last.shift,
                    held_out=last.held_out, points=last.points,
                    columns=with_rows(last.columns, num_nodes, rows, fresh),
                    scores=with_rows(np.array(last.scores), num_nodes, rows, part),
                    kept=last.kept.changed(rows),
                ).write(folder)  # fmt: skip
        self._use(name)
        return Learned(
            name, num_nodes, len(came), 0, 0, last.held_out, last.points, clock.seconds, len(rows),
            self._flag(),
        )  # fmt: skip

    def risks(self, addresses: Sequence[str] | pl.Series) -> pl.DataFrame:
        """``address``, ``score`` in [0, 1] and ``run``; null for whom the ledger never saw."""
        run = self.run
        names = pl.Series("address", addresses, dtype=pl.String)
        ids = self.ledger.addresses.ids(names)
        on = (ids >= 0) & (ids < run.num_addresses)
        scores = np.full(len(ids), np.nan, dtype=np.float32)
        scores[on] = run.scores[ids[on]]
        return pl.DataFrame({"address": names, "score": scores}).with_columns(
            pl.col("score").fill_nan(None), run=pl.lit(run.name)
        )

    def why(self, address: str, *, most: int = 8) -> AddressWhy:
        """What moved the score of an address, and the ways of its money to labelled ones.

        Raises
        ------
        InvalidInput
            If the chain does not know the address, or learned nothing of it yet.
        """
        run = self.run
        (place,) = self.ledger.addresses.ids(pl.Series([address], dtype=pl.String)).tolist()
        if not 0 <= place < run.num_addresses or np.isnan(run.scores[place]):
            raise InvalidInput(
                f"expected an address of the chain in `{self.folder}`, got `{address}`, which no "
                "transfer names; read newer files and call `update`, or see whether it is written "
                "as it should be"
            )
        return explained(run, self.ledger, address, place, most)

    def all_risks(self, *, chunk: int = 1_000_000) -> Iterator[pl.DataFrame]:
        """All addresses that have a score, with it, so many at a time."""
        run = self.run
        for start in range(0, run.num_addresses, chunk):
            scores = np.asarray(run.scores[start : start + chunk])
            ids = start + np.flatnonzero(~np.isnan(scores))
            yield pl.DataFrame(
                {"address": self.ledger.addresses.names(ids), "score": scores[ids - start]}
            )

    def score_of(self, address: str) -> float | None:
        """The score of an address as the model gives it now, from what is stored of it.

        `risks` reads what the model gave when the address or a neighbour last moved something: the
        same after `learn` and `update(every=True)`. Else walks that were repaired may have moved
        its vector since.
        """
        run = self.run
        (place,) = self.ledger.addresses.ids(pl.Series([address], dtype=pl.String)).tolist()
        if not 0 <= place < run.num_addresses or np.isnan(run.scores[place]):
            return None
        row = run.row(place)
        score = run.scorer.score_row([row[name] for name in run.scorer.reads])
        return float(chance(score, run.shift, run.recipe.known_share))

    # --- steps

    def _kept_labels(self) -> pl.DataFrame:
        labels = open_labels(self.folder)
        if labels is None:
            raise StoreError(
                f"expected labels in `{self.folder}`, got none; add some with `chopmark chain "
                "labels add`, or give a table of them"
            )
        with closing(labels):
            return known(labels)

    def _flag(self) -> int:
        """Keep on record whom the scores of the run flag, so that they can object; the new ones."""
        run = self.run
        ids = np.flatnonzero(run.scores >= np.float64(run.high))  # as who asks by HTTP is told
        flagged = pl.DataFrame(
            {
                "address": self.ledger.addresses.names(ids),
                "score": np.asarray(run.scores[ids], dtype=np.float64),
            }
        )
        labels = open_labels(self.folder, create=True)
        assert labels is not None
        with closing(labels):
            return flag(labels, flagged, run=run.name, at=moment(now()))[0]

    def _counted_on(self, last: Run, came: Delta, went: Delta, num_nodes: int) -> Behaviour:
        """Behaviour with what came; counted anew where the past has changed."""
        recipe = last.recipe
        if not len(went):
            behaviour = last.behaviour()
            src, dst, worth, time = self._columns(came.columns, recipe)
            order = np.argsort(time, kind="stable")
            if not len(order) or time[order[0]] / 1e6 >= behaviour.latest:
                behaviour.update(
                    src[order], dst[order], worth[order], time[order] / 1e6, num_nodes=num_nodes
                )
                return behaviour
        src, dst, worth, time = self._columns(self.ledger.columns(), recipe)
        return Behaviour.of(src, dst, worth, time / 1e6, num_nodes=num_nodes)

    def _labels(self, labels: pl.DataFrame) -> pl.DataFrame:
        """Id (-1 if the chain has it not) and label of each labelled address, once."""
        found = checked_labels(labels)
        found = found.with_columns(id=pl.Series(self.ledger.addresses.ids(found["address"])))
        # Two spellings of one address are one address.
        here = found.filter(pl.col("id") >= 0).unique("id", keep="last", maintain_order=True)
        num_illicit = int(here[TARGET].sum())
        if num_illicit < _FEWEST:
            raise InvalidTable(
                f"expected at least {_FEWEST} illicit addresses that are on the chain to learn "
                f"from, got {num_illicit} of {found.height:,} labels"
            )
        return here

    def _columns(
        self, columns: Mapping[str, NDArray[Any]], recipe: Recipe
    ) -> tuple[NDArray[Any], ...]:
        """Sender, receiver, worth and microseconds of rows."""
        # By id, so that an address in capitals has its price.
        ids = self.ledger.assets.ids(pl.Series(list(recipe.prices), dtype=pl.String)).tolist()
        priced = dict(zip(ids, recipe.prices.values(), strict=True))
        price = np.array([priced.get(place, 0.0) for place in range(len(self.ledger.assets))])
        worth = columns["amount"]
        if len(price):
            with np.errstate(over="ignore"):
                worth = np.minimum(worth * price[columns["asset"]], _MOST)
        return columns["src"], columns["dst"], worth, columns["time"]

    def _changed(
        self, graph: Graph, came: Delta, went: Delta, recipe: Recipe, num_nodes: int
    ) -> tuple[Graph, NDArray[np.int64]]:
        touched = [np.arange(graph.num_nodes, num_nodes)]
        if len(went):
            gone = self._columns(went.columns, recipe)
            # What came stands last in the ledger, and is added below: here it would count twice.
            there = self.ledger.columns()
            stayed = len(there["src"]) - len(came)
            left = self._columns({name: part[:stayed] for name, part in there.items()}, recipe)
            graph, nodes = graph.without_edges(gone[0], gone[1], left=left)
            touched.append(nodes)
        if len(came):
            graph, nodes = graph.with_edges(*self._columns(came.columns, recipe))
            touched.append(nodes)
        return graph, np.unique(np.concatenate(touched)).astype(np.int64)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process makes a run meanwhile."""
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(
                    f"another process is making a run in `{self.folder}`; try again when it has "
                    "ended"
                ) from error
            yield

    @contextmanager
    def _new_run(self) -> Iterator[tuple[str, Path]]:
        runs = self.folder / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        for left in runs.glob(".*-*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        taken = [int(one.name) for one in runs.iterdir() if one.name.isdigit()]
        name = f"{max(taken, default=0) + 1:06d}"
        with whole(runs / name) as folder:
            yield name, folder

    def _use(self, name: str) -> None:
        """Let a run answer; all but the one before it are no longer needed."""
        replace_json(self.folder / "current.json", {"run": name})
        for one in (self.folder / "runs").iterdir():
            if one.name.isdigit() and int(one.name) < int(name) - 1:
                shutil.rmtree(one, ignore_errors=True)


class _Clock:
    """Seconds of each step, and who is told of it."""

    def __init__(self, told: Told | None) -> None:
        self.seconds: dict[str, float] = {}
        self._told = told

    @contextmanager
    def __call__(self, step: str) -> Iterator[Callable[[float], None]]:
        began = perf_counter()
        if self._told is not None:
            self._told(step, 0.0)
        yield lambda share: self._told(step, share) if self._told is not None else None
        self.seconds[step] = round(perf_counter() - began, 3)
        if self._told is not None:
            self._told(step, 1.0)


def _around(graph: Graph, touched: NDArray[np.int64], most: int = 256) -> NDArray[np.int64]:
    """Touched addresses and their neighbours; of hubs no neighbours, whom they hardly change."""
    rows = [graph.row(int(node)) for node in touched if graph.counts[node] <= most]
    return np.unique(np.concatenate([touched, *rows])).astype(np.int64)


def _unmoved(names: list[str], columns: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Addresses that no transfer names any more: what named them was taken back."""
    found: NDArray[np.bool_] = (
        columns[:, names.index("out_count")] + columns[:, names.index("in_count")] == 0
    )
    return found
