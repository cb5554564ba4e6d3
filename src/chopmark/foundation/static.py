"""A frozen embedding beside all other columns of a table, in any model.

    model = StaticEmbedding(user_model).fit(table, target="label")
    model.save("model.chopmark")                     # scored without torch

The list column of the table becomes columns of numbers; aggregates, features and whatever else
the table holds stay as they are; and a model is fitted to it all: EasyML, its trees, its deep
model, or any other that keeps the contract. Serves G15 of the requirements.
"""

from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import (
    ArtifactError,
    DeclarationError,
    InvalidInput,
    InvalidTable,
)
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Histories
from chopmark.models import artifact as artifacts
from chopmark.models.artifact import Artifact
from chopmark.models.classes import CLASSES
from chopmark.models.embedded import EMBEDDED, MODEL, TOWER, EmbeddedScorer, column_names
from chopmark.models.families import scorer_of
from chopmark.models.model import Contributions, Model, Scores, Table
from chopmark.sequence.frames import frame_of as event_frame_of
from chopmark.sequence.frames import list_column, lists_in
from chopmark.tabular.easyml import EasyML
from chopmark.tabular.tables import frame_of


class StaticEmbedding:
    """A model of a table with a list column, which it reads through a user model.

    Parameters
    ----------
    user_model
        A fitted one; None of a model that was loaded, which can score and not be fitted.
    model
        What is fitted to the embedding and the other columns; `EasyML()` if not given. A copy
        of it is fitted, never itself.
    column
        List column to read; the table's only one where not given.

    Examples
    --------
    ``StaticEmbedding(user_model, EasyML(model="deep"))`` feeds a deep model, and
    ``StaticEmbedding(user_model, EasyML(model="trees"))`` LightGBM.
    """

    def __init__(
        self,
        user_model: UserModel | None,
        model: Model | None = None,
        *,
        column: str | None = None,
    ) -> None:
        self.user_model, self.column = user_model, column
        self.model: Model = EasyML() if model is None else model
        self._scorer: EmbeddedScorer | None = None

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
            With a list column of events (`features.Sequence`), any other columns, and the label.
        target
            Column of the label, 0 (good) or 1 (bad).

        Raises
        ------
        InvalidTable
            If there is no list column, or the model inside cannot be fitted.
        InvalidInput
            If there is no fitted user model, or the label has more than two classes.
        """
        if self.user_model is None:
            raise InvalidInput("a loaded StaticEmbedding has no user model to be fitted with")
        frame = _frame_of(table)
        column = list_column(frame, self.column)
        if self.user_model.shape.calendar:
            raise DeclarationError(
                "expected a user model without calendar: a list column holds ages, which have no "
                "hour or weekday; pre-train with Shape(calendar=False)"
            )
        tower = self.user_model.artifact()
        vectors = self.user_model.embed(_pieces(frame, column, self.user_model.shape.length))
        names = column_names(column, vectors.shape[1])
        taken = [name for name in names if name in frame.columns]
        if taken:
            raise InvalidTable(
                f"expected a table without the column `{taken[0]}`, as the embedding of "
                f"`{column}` gets that name; rename it"
            )
        embedded = pl.DataFrame(dict(zip(names, vectors.astype(np.float64).T, strict=True)))
        others = [name for name, kind in frame.schema.items() if not kind.is_nested()]
        hashes = dict(feature_hashes or {})
        inner = deepcopy(self.model)
        inner.fit(embedded.hstack(frame.select(others).get_columns()), target=target)
        space = self.user_model.space
        self._scorer = _packed(inner, tower, space, column, names, hashes, created)
        return self

    def score(self, table: Table) -> Scores:
        """(n,) probability of bad, each equal to `scorer.score_row` of its row."""
        return self.scorer.score(_frame_of(table))

    def predict_proba(self, table: Table) -> NDArray[np.float64]:
        """(n, 2) probabilities of good and bad."""
        scores = self.score(table)
        return np.column_stack([1.0 - scores, scores])

    def explain(self, table: Table) -> Contributions:
        """What the history and each other column add to the log-odds of each row's score."""
        return self.scorer.explain(_frame_of(table))

    def importance(self) -> dict[str, float]:
        """Share of each column, all of the embedding's under the list column's name."""
        shares: dict[str, float] = dict(self.training["importance"])
        return dict(sorted(shares.items(), key=lambda share: -share[1]))

    def save(self, path: str | Path) -> None:
        """Write the artifact, whole or not at all; its usual extension is ``.chopmark``."""
        artifacts.write_whole(Path(path), self.scorer.artifact.pack())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A saved model, ready to score and to explain; it holds no learner to fit again.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged or holds another kind of model.
        """
        scorer = scorer_of(artifacts.read(path))
        if not isinstance(scorer, EmbeddedScorer):
            raise ArtifactError(f"`{path}` holds no model over an embedding; load it as what it is")
        shares = scorer.training.get("importance")
        if not isinstance(shares, dict) or not all(
            isinstance(share, int | float) for share in shares.values()
        ):
            raise ArtifactError(f"`{path}` does not say the importance of its columns")
        loaded = cls(None, column=scorer.column)
        loaded._scorer = scorer
        return loaded

    @property
    def scorer(self) -> EmbeddedScorer:
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
        """The list column, and what else the model inside reads."""
        return self.scorer.reads

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left: that of the model inside, the space, and importance."""
        return self.scorer.training


def _frame_of(table: Table) -> pl.DataFrame:
    """Any table that EasyML reads; lists of events in pandas, which it has as texts, as lists."""
    lists = lists_in(table) if type(table).__module__.partition(".")[0] == "pandas" else []
    if not lists:
        return frame_of(table)
    events = event_frame_of(table[lists])
    if len(lists) == len(table.columns):
        return events
    return frame_of(table.drop(columns=lists)).hstack(events.get_columns())


def _pieces(frame: pl.DataFrame, column: str, last: int) -> Any:
    return Histories.from_lists(frame.get_column(column)).every(0, last=last)


def _packed(
    inner: Model,
    tower: Artifact,
    space: str,
    column: str,
    names: list[str],
    hashes: dict[str, str],
    created: datetime | None,
) -> EmbeddedScorer:
    """The scorer of the packed artifact: what is in memory is what a file would hold."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.chopmark"
        inner.save(path)
        inside = artifacts.read(path)
    if inside.family == CLASSES:
        raise InvalidInput(
            "expected a label of two classes, got more: `foundation.uses.choose` takes several"
        )
    own = set(names)
    shares = {column: 0.0}
    for name, share in inner.importance().items():
        place = column if name in own else name
        shares[place] = shares.get(place, 0.0) + share
    training = {
        **dict(inside.header.get("training", {})),
        "learner": StaticEmbedding.__name__,
        "space": space,
        "importance": shares,
        **({} if created is None else {"created": created.isoformat()}),
    }
    read = {column, *inner.reads} - own
    artifact = Artifact(
        family=EMBEDDED,
        header={
            "column": column,
            "feature_hashes": {name: value for name, value in hashes.items() if name in read},
            "training": training,
        },
        arrays={},
        parts={TOWER: tower, MODEL: inside},
    )
    found = scorer_of(artifacts.unpack(artifact.pack()))
    assert isinstance(found, EmbeddedScorer)
    return found
