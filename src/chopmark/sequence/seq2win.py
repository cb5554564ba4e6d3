"""Seq2Win: a model that reads what a user did, in order and in time.

    model = Seq2Win().fit(table, target="label")      # reads the table's list column
    model.score(table)

By default it is the seed's: events and bucketised gaps, embeddings added, learned positions,
256 events, 8 heads, 4 encoder layers. ``shape=RECURRENT`` or ``TRANSFORMER`` are ours, behind
the same interface. It keeps the contract of all models here, so it is served, blended and
explained like any other. Serves B1 to B7, B9 and G16 of the requirements.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from chopmark.errors import (
    ArtifactError,
    DeclarationError,
    InvalidInput,
    InvalidTable,
    did_you_mean,
)
from chopmark.histories import Histories, Sketch, Tokenizer
from chopmark.models import artifact as artifacts
from chopmark.models.artifact import Artifact
from chopmark.models.kernels import LOG_ODDS_LIMIT
from chopmark.models.metrics import summary
from chopmark.models.model import Contributions, Scores, Table
from chopmark.models.sequences import SEQUENCE, SequenceScorer
from chopmark.sequence.frames import frame_of, list_column
from chopmark.sequence.network import Head, Tower
from chopmark.sequence.shape import SEED, Shape
from chopmark.sequence.supervised import held_out_rows, learn, raw_scores
from chopmark.sequence.training import Pace


class Seq2Win:
    """A sequence network for a yes-or-no label.

    Parameters
    ----------
    column
        List column to read; the table's only one where not given.
    shape
        Of the encoder: `SEED`, `RECURRENT`, `TRANSFORMER`, or any other `Shape`.
    epochs
        How often each row is seen at most; held-out rows end it earlier.
    pace
        Rates, and the most steps.
    budget
        Events of a step.
    seed
        Same seed, table and number of threads: same model.
    groups
        Column of the entity that a row is of, such as its user, for tables with several rows of
        one: all its rows are held out or none, so that training ends, and `training` tells
        figures, by entities that are new. It is not read otherwise, and no request needs it.
        Without it rows are held out one by one, as if each were somebody else's.
    start
        A pre-trained tower and its tokenizer to begin with, such as those of a user model.
    progress
        Called with the share of the training that is over and the loss.
    """

    def __init__(
        self,
        *,
        column: str | None = None,
        shape: Shape = SEED,
        epochs: float = 12.0,
        pace: Pace | None = None,
        budget: int = 8_192,
        seed: int = 0,
        groups: str | None = None,
        start: tuple[Tower, Tokenizer] | None = None,
        progress: Callable[[float, float], None] | None = None,
    ) -> None:
        self.column = column
        self.shape = shape if start is None else start[0].shape
        self.epochs, self.budget, self.seed = epochs, budget, seed
        self.pace = pace or Pace(steps=4_000, rate=1e-3 if start is None else 3e-4)
        self.groups, self.start, self.progress = groups, start, progress
        self._scorer: SequenceScorer | None = None

    def fit(
        self,
        table: Table,
        *,
        target: str = "target",
        feature_hashes: Mapping[str, str] | None = None,
        created: datetime | None = None,
    ) -> Self:
        """The model itself, fitted.

        Parameters
        ----------
        table
            A polars or pandas DataFrame or a pyarrow Table with a list column of events
            (`features.Sequence`), the label, and the column `groups` if one is named.
        target
            Column of the label, 0 (good) or 1 (bad).

        Raises
        ------
        InvalidTable
            If there is no list column, label or column of groups, a label is neither 0 nor 1,
            or there is one class.
        """
        frame = frame_of(table)
        column = list_column(frame, self.column)
        if self.shape.calendar:
            raise DeclarationError(
                "expected a shape without calendar: a list column holds ages, which have no hour "
                "or weekday; Shape(calendar=False)"
            )
        y = _labels(frame, target)
        groups = None if self.groups is None else _groups(frame, self.groups)
        histories = Histories.from_lists(frame.get_column(column))
        pieces = histories.every(0, last=self.shape.length)
        held_out = held_out_rows(y, groups, seed=self.seed)
        if self.start is None:
            tokenizer = Tokenizer.fit(Sketch.of(histories))
            shape = self.shape.fitted(histories)
            tower = Tower(shape, tokenizer, torch.Generator().manual_seed(self.seed))
        else:
            tokenizer = self.start[1]
            tower = Tower(self.shape, tokenizer, torch.Generator())
            tower.load_state_dict(self.start[0].state_dict())
        learned = learn(
            tower,
            tokenizer,
            pieces,
            y,
            pace=self.pace,
            epochs=self.epochs,
            budget=self.budget,
            seed=self.seed,
            pretrained=self.start is not None,
            held_out=held_out,
            on_step=self.progress,
        )
        z = raw_scores(tower, learned.head, tokenizer, pieces, budget=self.budget)[:, 0]
        scores = 1.0 / (1.0 + np.exp(-z.astype(np.float64)))
        training = {
            "learner": type(self).__name__,
            "num_rows": frame.height,
            "num_bad": int(y.sum()),
            "seed": self.seed,
            "shape": self.shape.to_dict(),
            "steps": learned.steps,
            "held_out": summary(y[held_out].astype(np.float64), scores[held_out]),
            **({} if created is None else {"created": created.isoformat()}),
        }
        hashes = feature_hashes or {}
        self._scorer = _packed(
            tower,
            learned.head,
            tokenizer,
            column=column,
            bias=float(np.clip(z, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT).mean()),
            hashes={column: hashes[column]} if column in hashes else {},
            training=training,
        )
        return self

    def score(self, table: Table) -> Scores:
        """(n,) probability of bad, each equal to `scorer.score_row` of its row."""
        return self.scorer.score(frame_of(table))

    def predict_proba(self, table: Table) -> NDArray[np.float64]:
        """(n, 2) probabilities of good and bad."""
        scores = self.score(table)
        return np.column_stack([1.0 - scores, scores])

    def explain(self, table: Table) -> Contributions:
        """What the history adds to the log-odds of each row's score."""
        return self.scorer.explain(frame_of(table))

    def importance(self) -> dict[str, float]:
        """All of it is the history's."""
        return {self.scorer.column: 1.0}

    def save(self, path: str | Path) -> None:
        """Write the artifact, whole or not at all; its usual extension is ``.chopmark``."""
        artifacts.write_whole(Path(path), self.scorer.artifact.pack())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A saved model, ready to score and to explain.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged or no sequence network.
        """
        artifact = artifacts.read(path)
        if artifact.family != SEQUENCE:
            raise ArtifactError(f"`{path}` holds no sequence network; load it as what it is")
        loaded = cls()
        loaded._scorer = SequenceScorer(artifact)
        loaded.column = loaded._scorer.column
        return loaded

    @property
    def scorer(self) -> SequenceScorer:
        """The request path's view of the fitted model.

        Raises
        ------
        InvalidInput
            If the model is not fitted.
        """
        if self._scorer is None:
            raise InvalidInput(f"this {type(self).__name__} is not fitted: call `fit` or `load`")
        return self._scorer

    @property
    def reads(self) -> tuple[str, ...]:
        """The list column."""
        return self.scorer.reads

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left: rows, shape, steps, held-out metrics."""
        return self.scorer.training


def _groups(frame: pl.DataFrame, name: str) -> NDArray[np.object_]:
    """(n,) names of entities; the missing are one entity."""
    if name not in frame.columns:
        raise InvalidTable(
            f"expected a column `{name}` of groups" + did_you_mean(name, frame.columns)
        )
    column = frame.get_column(name)
    if column.dtype.is_nested():
        raise InvalidTable(f"expected names or numbers of groups in `{name}`, got {column.dtype}")
    names: NDArray[np.object_] = column.cast(pl.String).fill_null("").to_numpy()
    return names


def _labels(frame: pl.DataFrame, target: str) -> NDArray[np.int64]:
    if target not in frame.columns:
        raise InvalidTable(
            f"expected a column `{target}` with the label" + did_you_mean(target, frame.columns)
        )
    column = frame.get_column(target)
    if column.null_count() or not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise InvalidTable(
            f"expected 0 (good) or 1 (bad) in each row of `{target}`, got {column.null_count()} "
            f"missing labels and values of type {column.dtype}"
        )
    values: NDArray[np.float64] = column.cast(pl.Float64).to_numpy()
    good, bad = int((values == 0.0).sum()), int((values == 1.0).sum())
    others = values[(values != 0.0) & (values != 1.0)]
    if len(others) or min(good, bad) < 2:
        such = f" such as {others[0]:g}" if len(others) else ""
        raise InvalidTable(
            f"expected labels 0 and 1 in `{target}`, two rows of each or more, got {good} of 0, "
            f"{bad} of 1 and {len(others)} others{such}"
        )
    return values.astype(np.int64)


def _packed(
    tower: Tower,
    head: Head,
    tokenizer: Tokenizer,
    *,
    column: str,
    bias: float,
    hashes: dict[str, str],
    training: dict[str, Any],
) -> SequenceScorer:
    """The scorer of the packed artifact: what is in memory is what a file would hold."""
    weights = {**tower.state_dict(), **{f"head.{n}": p for n, p in head.state_dict().items()}}
    artifact = Artifact(
        family=SEQUENCE,
        header={
            "column": column,
            "length": tower.shape.length,
            "bias": bias,
            "tower": {"kind": tower.shape.kind, "heads": tower.shape.heads},
            "layout": tower.layout.to_dict(),
            "tokenizer": tokenizer.to_dict(),
            "feature_hashes": hashes,
            "training": training,
        },
        arrays={name: tensor.detach().numpy() for name, tensor in weights.items()},
    )
    return SequenceScorer(artifacts.unpack(artifact.pack()))
