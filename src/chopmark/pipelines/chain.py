"""A chain in a folder: from files of transfers to the risk of every address, and on from there.

    chain = ChainFolder.create("ethereum")
    for read in read_ethereum("transactions.csv", "token_transfers.csv"):
        chain.take(read.transfers)
    chain.learn(labels)                 # graph, behaviour, embedding, model, scores of all
    chain.take(newer); chain.update()   # embeds and scores what was touched since
    chain.risks(["0x1f98..."])

    folder/ledger/           what was read (`chopmark.graph.ledger`)
           runs/000001/      one run: embedding with its graph and walks, columns, scores, model
           current.json      the name of the run that answers

A run is made under another name and takes its place when it is whole; it knows the mark of the
ledger that it has worked up to. A run that was killed left nothing, and the next one makes up
for it: what has come since the mark is a question to the ledger. Serves rows H1 to H3, H5 to H8,
H11, H12 and H16 of the requirements.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.addresses import replace_json
from chopmark.graph.adjacency import ERA, Graph
from chopmark.graph.behaviour import Behaviour
from chopmark.graph.ledger import Delta, Ledger
from chopmark.graph.node2vec import Node2Vec
from chopmark.graph.paths import Flows, Tracer
from chopmark.histories.storage import BROKEN, whole, write_array
from chopmark.models import load_scorer
from chopmark.pipelines.chainlabels import TARGET, checked_labels
from chopmark.pipelines.chainrun import Recipe, Run
from chopmark.tabular import EasyML

Told = Callable[[str, float], None]
"""Called with the step that is on and the share of it that is done, 0 to 1."""

_EMBEDDED = "embedding_"
_CHUNK = 50_000
_HELD = 0.25
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
        Figures of a quarter of the labelled and drawn addresses by a model of the others,
        weighted to the whole chain's prevalence.
    seconds
        By step.
    num_touched
        Addresses embedded or scored anew; all of them in a first run.
    """

    run: str
    num_addresses: int
    num_rows: int
    num_labels: int
    num_illicit: int
    held_out: dict[str, float | None]
    seconds: dict[str, float]
    num_touched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressWhy:
    """Why an address has its score.

    Attributes
    ----------
    is_illicit
        Its own label, which the score does not replace; None if it has none.
    columns
        The strongest columns of behaviour: name, value, and what it moved the log-odds by.
    embedding
        What its place in the graph moved the log-odds by.
    exposure
        Share of its coins that came "in" from, or went "out" to, illicit and licit labels.
    ways
        The nearest labelled address in each direction: its label, the way there, and the share
        of the money that took it; None if there is none within six hops.
    """

    address: str
    score: float
    run: str
    is_illicit: bool | None
    columns: tuple[tuple[str, float | None, float], ...]
    embedding: float
    exposure: dict[str, dict[str, float]]
    ways: dict[str, tuple[str, tuple[str, ...], float] | None]


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
        return self._run

    def take(self, transfers: pl.DataFrame) -> Delta:
        """Write transfers into the ledger, each once; the new rows."""
        return self.ledger.append(transfers)

    def rewind(self, block: int) -> Delta:
        """Take back what came in blocks above this one; the next `update` learns of it."""
        return self.ledger.rewind(block)

    def learn(
        self, labels: pl.DataFrame, recipe: Recipe | None = None, *, told: Told | None = None
    ) -> Learned:
        """Everything anew: graph, behaviour, embedding, model, scores of all addresses.

        Parameters
        ----------
        labels
            ``address`` and ``is_illicit`` (booleans, or 1 and 0); of an address that is there
            twice the last row counts, and `known_at`, where it is a column, says which that is.

        Raises
        ------
        InvalidTable
            If a column is missing or has what is no label, or fewer than ten illicit addresses
            are on the chain, or fewer than ten others to tell them from.
        StoreError
            If another process makes a run.
        """
        recipe = recipe or Recipe()
        known = self._labels(labels)
        others = min(recipe.sampled, len(self.ledger.addresses) - known.height)
        if (licit := known.height - int(known[TARGET].sum()) + others) < _FEWEST:
            raise InvalidTable(
                f"expected at least {_FEWEST} addresses that are not illicit to learn from, "
                f"labelled so or `sampled` of those without a label, got {licit}"
            )
        with self._alone():
            return self._learn(known, recipe, told)

    def _learn(self, known: pl.DataFrame, recipe: Recipe, told: Told | None) -> Learned:
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
            with clock("walk and embed") as done:
                embedding = _node2vec(recipe).fit(graph, on_progress=done, mark=mark)
                embedding.save(folder / "node2vec")
            with clock("fit the model"):
                table = _table(names, columns, embedding.vectors)
                held_out, shift = self._fit(table, known, columns, recipe, folder)
            with clock("score all addresses") as done:
                scores = _scored(folder, table, shift, done)
            about = self._about(recipe, mark, names, shift, held_out)
            _write(folder, about, columns, scores)
            known.select("id", TARGET).write_parquet(folder / "labels.parquet")
        self._use(name)
        return Learned(
            name, num_nodes, len(src), known.height, int(known[TARGET].sum()), held_out,
            clock.seconds, num_nodes,
        )  # fmt: skip

    def update(self, *, told: Told | None = None) -> Learned:
        """Take in what came into the ledger, or went, since the last run: only what it touched.

        Walks through touched addresses are repaired, their stretches trained, vectors aligned
        to the space of the last run, and these addresses and those around them scored anew by
        the model that there is.

        Raises
        ------
        StoreError
            If nothing was learned yet, the last run is damaged, or another process makes a run.
        """
        with self._alone():
            return self._update(told)

    def _update(self, told: Told | None) -> Learned:
        last = self.run
        recipe = last.recipe
        came, went = self.ledger.since(last.mark)
        if not len(came) and not len(went):
            return Learned(last.name, last.num_addresses, 0, 0, 0, last.held_out, {}, 0)
        known = last.labels
        load_scorer(last.folder / "model.chopmark")  # damage is found before the work
        clock = _Clock(told)
        with self._new_run() as (name, folder):
            mark, num_nodes = self.ledger.mark, len(self.ledger.addresses)
            with clock("change the graph"):
                embedding = last.embedding()
                assert embedding.graph is not None  # it was fitted
                graph, touched = self._changed(embedding.graph, came, went, recipe, num_nodes)
            with clock("count behaviour"):
                src, dst, worth, time = self._columns(self.ledger.columns(), recipe)
                behaviour = Behaviour.of(src, dst, worth, time / 1e6, num_nodes=num_nodes)
                scored = _around(graph, touched)
                names, fresh = behaviour.features(scored, hops=recipe.hops)
            with clock("repair walks and train on"):
                embedding.update(graph, touched, mark=mark)
                embedding.save(folder / "node2vec")
            with clock("score what was touched") as done:
                columns = _grown(last.columns, num_nodes)
                columns[scored] = fresh
                shutil.copyfile(last.folder / "model.chopmark", folder / "model.chopmark")
                known.write_parquet(folder / "labels.parquet")
                scores = _grown(last.scores, num_nodes)
                part = _table(names, fresh, embedding.vectors[scored])
                scores[scored] = _scored(folder, part, last.shift, done)
            about = self._about(recipe, mark, names, last.shift, last.held_out)
            _write(folder, about, columns, scores)
        self._use(name)
        return Learned(name, num_nodes, len(came), 0, 0, last.held_out, clock.seconds, len(scored))

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
        if not 0 <= place < run.num_addresses:
            raise InvalidInput(
                f"expected an address of the chain in `{self.folder}`, got `{address}`, which no "
                "transfer names; read newer files and call `update`, or see whether it is written "
                "as it should be"
            )
        vector = run.embedding().vectors[place : place + 1]
        row = _table(run.about["columns"], np.asarray(run.columns[place : place + 1]), vector)
        scorer = load_scorer(run.folder / "model.chopmark")
        _, moves = scorer.explain_row([row[name][0] for name in scorer.reads])
        told = dict(zip(scorer.reads, moves.tolist(), strict=True))
        embedding = sum(told.pop(name) for name in list(told) if name.startswith(_EMBEDDED))
        strongest = sorted(told, key=lambda name: -abs(told[name]))[:most]
        columns = self.ledger.columns()
        coins = columns["asset"] == self.ledger.assets.ids(pl.Series([""]))[0]
        seconds = columns["time"] // 1_000_000 - ERA
        known = run.labels
        own = known.filter(id=place)[TARGET].to_list()
        known = known.filter(pl.col("id") != place)
        marked = known["id"].to_numpy()
        kinds = ["illicit" if bad else "licit" for bad in known[TARGET].to_list()]
        traces = {}
        both: tuple[Literal["in", "out"], ...] = ("in", "out")
        for direction in both:
            flows = Flows.of_edges(
                columns["src"][coins], columns["dst"][coins], columns["amount"][coins],
                seconds[coins], num_nodes=len(self.ledger.addresses), direction=direction,
            )  # fmt: skip
            traces[direction] = Tracer(flows, marked=marked, kinds=kinds).trace(place)
        ways: dict[str, tuple[str, tuple[str, ...], float] | None] = {
            direction: None
            if trace.path is None
            else (
                trace.path.kind,
                tuple(self.ledger.addresses.names(np.array(trace.path.nodes)).to_list()),
                trace.path.share,
            )
            for direction, trace in traces.items()
        }
        return AddressWhy(
            address=address,
            score=float(run.scores[place]),
            run=run.name,
            is_illicit=bool(own[0]) if own else None,
            columns=tuple((name, row[name][0], told[name]) for name in strongest),
            embedding=embedding,
            exposure={direction: trace.exposure for direction, trace in traces.items()},
            ways=ways,
        )

    def all_risks(self, *, chunk: int = 1_000_000) -> Iterator[pl.DataFrame]:
        """All addresses with their scores, so many at a time."""
        run = self.run
        for start in range(0, run.num_addresses, chunk):
            ids = np.arange(start, min(start + chunk, run.num_addresses))
            yield pl.DataFrame(
                {
                    "address": self.ledger.addresses.names(ids),
                    "score": np.asarray(run.scores[ids]),
                }
            )

    # --- steps

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

    def _fit(
        self,
        table: pl.DataFrame,
        known: pl.DataFrame,
        columns: NDArray[np.float32],
        recipe: Recipe,
        folder: Path,
    ) -> tuple[dict[str, float | None], float]:
        """Fit and save the model; its held-out figures, and what to add to its log-odds."""
        rng = np.random.default_rng(recipe.seed)
        others = np.setdiff1d(np.arange(len(columns)), known["id"].to_numpy())
        drawn = np.sort(rng.choice(others, min(recipe.sampled, len(others)), replace=False))
        ids = np.concatenate([known["id"].to_numpy(), drawn])
        label = np.concatenate([known[TARGET].to_numpy(), np.zeros(len(drawn), np.int8)])
        # Each address that was drawn stands for so many; those with a label for themselves.
        stands = np.where(np.arange(len(ids)) < known.height, 1.0, len(others) / max(len(drawn), 1))
        held = _stratified(label, _HELD, rng)
        rows = table[ids].with_columns(pl.Series(TARGET, label))
        shift = float(np.log((label == 0).sum() / stands[label == 0].sum()))
        # Judged by a model of three quarters; the one that is kept has learned from all.
        apart = EasyML(model=recipe.model, seed=recipe.seed)
        apart.fit(rows.filter(pl.Series(~held)), target=TARGET)
        told = _shifted(apart.score(rows.filter(pl.Series(held)).drop(TARGET)), shift)
        model = EasyML(model=recipe.model, seed=recipe.seed).fit(rows, target=TARGET)
        model.save(folder / "model.chopmark")
        return _judged(label[held], told, stands[held]), shift

    def _about(
        self,
        recipe: Recipe,
        mark: int,
        names: list[str],
        shift: float,
        held_out: dict[str, float | None],
    ) -> dict[str, Any]:
        settings = asdict(recipe) | {"prices": dict(recipe.prices)}
        return {
            "mark": mark, "recipe": settings, "columns": names, "shift": shift,
            "held_out": held_out, "created": datetime.now(UTC).isoformat(),
        }  # fmt: skip

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


def _node2vec(recipe: Recipe) -> Node2Vec:
    return Node2Vec(
        dim=recipe.dim, num_walks=recipe.num_walks, length=recipe.length,
        p=recipe.p, q=recipe.q, seed=recipe.seed,
    )  # fmt: skip


def _around(graph: Graph, touched: NDArray[np.int64], most: int = 256) -> NDArray[np.int64]:
    """Touched addresses and their neighbours; of hubs no neighbours, whom they hardly change."""
    rows = [graph.row(int(node)) for node in touched if graph.counts[node] <= most]
    return np.unique(np.concatenate([touched, *rows])).astype(np.int64)


def _table(
    names: list[str], columns: NDArray[np.float32], vectors: NDArray[np.float32]
) -> pl.DataFrame:
    """Behaviour and embedding side by side."""
    embedded = {f"{_EMBEDDED}{place}": vectors[:, place] for place in range(vectors.shape[1])}
    return pl.DataFrame(
        {name: columns[:, place] for place, name in enumerate(names)} | embedded
    ).fill_nan(None)


def _scored(
    folder: Path, table: pl.DataFrame, shift: float, done: Callable[[float], None]
) -> NDArray[np.float32]:
    scorer = load_scorer(folder / "model.chopmark")
    scores = np.empty(table.height, dtype=np.float32)
    for start in range(0, table.height, _CHUNK):
        part = table[start : start + _CHUNK]
        scores[start : start + _CHUNK] = _shifted(scorer.score(part), shift)
        done(min(1.0, (start + _CHUNK) / max(table.height, 1)))
    return scores


def _shifted(scores: Any, shift: float) -> NDArray[np.float64]:
    """Chances with so much added to their log-odds."""
    p = np.clip(np.asarray(scores, dtype=np.float64), 1e-9, 1 - 1e-9)
    found: NDArray[np.float64] = 1.0 / (1.0 + (1.0 - p) / p * np.exp(-shift))
    return found


def _judged(
    label: NDArray[Any], scores: NDArray[np.float64], stands: NDArray[np.float64]
) -> dict[str, float | None]:
    """Figures of rows that each stand for so many: at the prevalence of the whole chain."""
    from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

    return {
        "roc_auc": float(roc_auc_score(label, scores, sample_weight=stands)),
        "pr_auc": float(average_precision_score(label, scores, sample_weight=stands)),
        "log_loss": float(log_loss(label, scores, sample_weight=stands, labels=[0, 1])),
        "prevalence": float(stands[label == 1].sum() / stands.sum()),
    }


def _stratified(label: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A share of each class, at least two of it."""
    held = np.zeros(len(label), dtype=np.bool_)
    for value in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == value))
        held[rows[: max(2, round(share * len(rows)))]] = True
    return held


def _grown(array: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """A copy with room for more rows."""
    out = np.zeros((length, *array.shape[1:]), dtype=array.dtype)
    out[: min(len(array), length)] = array[:length]
    return out


def _write(
    folder: Path,
    about: dict[str, Any],
    columns: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    np.save(folder / "columns.npy", np.ascontiguousarray(columns))
    write_array(folder / "scores.npy", scores)
    replace_json(folder / "about.json", about)
