"""A fitted model, the rows that it is judged by, and what the two come to.

What the `Model` protocol does not promise (`training` with its task, `classes`, `encoder`,
`scorer`) is used where a model has it. Serves A16 of the requirements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidTable
from chopmark.models import Artifact, Encoder, Model
from chopmark.models.drift import ColumnDrift, Reference
from chopmark.report import reasons, words
from chopmark.report.outcomes import amounts_of, classes_of, numbers_of
from chopmark.report.reasons import Case, Effect, Group
from chopmark.report.views import ClassView, NumberView, class_view, even_rows, number_view

Task = Literal["binary", "multiclass", "regression"]

_EXPLAINED_ROWS = 2_000
_CASES = (20, 10, 10)
_CASES_PER_CLASS = (8, 4, 4)
_MOST_CLASSES = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """A model and its rows, each asked for once. v is 1, or the number of classes above two.

    Attributes
    ----------
    model, table, task
        As they came.
    names
        Of the v classes.
    positive
        The label that counts as bad; "" where there are not two.
    outcome, answers, baseline
        (n, v) float64: labels 0 or 1 (or targets), scores (or predictions), and the baseline's.
    amounts
        (n,) US dollars, or None.
    encoder, base
        One reading of each column that the model looks at, and its (n, m) base values.
    labels
        What each of the classes is called in the table; () for numbers.
    """

    model: Model
    table: pl.DataFrame
    task: Task
    names: tuple[str, ...]
    positive: str
    outcome: NDArray[np.float64]
    answers: NDArray[np.float64]
    baseline: NDArray[np.float64]
    amounts: NDArray[np.float64] | None
    encoder: Encoder
    base: NDArray[np.float64]
    labels: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        table: pl.DataFrame,
        *,
        target: str,
        baseline: Model | ArrayLike | None,
        amount: str | None,
    ) -> Self:
        """Everything that the model is asked for. Raises InvalidTable as `make_report` says."""
        task, labels = _task(model), tuple(getattr(model, "classes", ())) or (0, 1)
        classes = tuple(map(str, labels))
        outcome = _outcome(table, target, task, classes)
        encoder = reasons.readings(getattr(model, "encoder", None), table, model.reads)
        return cls(
            model=model,
            table=table,
            task=task,
            names=classes if task == "multiclass" else ("bad",),
            positive=classes[1] if task == "binary" else "",
            outcome=outcome,
            answers=_answers(model, table, task),
            baseline=_baseline(baseline, model, table, task, outcome),
            amounts=None if amount is None else amounts_of(table, amount),
            encoder=encoder,
            base=encoder.base_table(table),
            labels=labels,
        )

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left, as far as the model tells."""
        return _training(self.model)

    def class_views(self) -> tuple[ClassView, ...]:
        """A view for each class, the rarest left out where there are more than twelve."""
        frequent = np.argsort(-self.outcome.sum(axis=0), kind="stable")[:_MOST_CLASSES]
        return tuple(self._class_view(place) for place in sorted(frequent.tolist()))

    def number_view(self) -> NumberView:
        """The view of a predicted number."""
        y, predicted = self.outcome[:, 0], self.answers[:, 0]
        effects, cases = self._reasons(0, np.argsort(-np.abs(predicted - y), kind="stable"))
        return number_view(y, predicted, self.baseline[:, 0], effects=effects, cases=cases)

    def drift(self, train: pl.DataFrame | None) -> tuple[ColumnDrift, ...]:
        """Columns and the score by how far they moved since training, farthest first."""
        encoder, reference = self.encoder, _reference(self.model)
        if reference is None:
            if train is None:
                return ()
            known: Encoder | None = getattr(self.model, "encoder", None)
            encoder = reasons.readings(known, train, self.model.reads)
            reference = Reference.of(train, encoder)
        scores = None if self.task == "multiclass" else self.answers[:, 0]
        return tuple(reference.drift(self.table, encoder, scores))

    def _class_view(self, place: int) -> ClassView:
        y, scores = self.outcome[:, place], self.answers[:, place]
        bad = np.nonzero(y == 1.0)[0]
        effects, cases = self._reasons(place, bad[np.argsort(scores[bad], kind="stable")])
        return class_view(
            y,
            scores,
            self.baseline[:, place],
            name=self.names[place],
            amounts=self.amounts,
            effects=effects,
            cases=cases,
        )

    def _reasons(
        self, place: int, missed: NDArray[np.int64]
    ) -> tuple[tuple[Effect, ...], tuple[Case, ...]]:
        """Effects and cases of one view: the model is asked once, for both."""
        outcome, scores = self.outcome[:, place], self.answers[:, place]
        counts = _CASES_PER_CLASS if self.task == "multiclass" else _CASES
        chosen = reasons.chosen_rows(scores, missed, counts)
        rows = even_rows(self.table.height, _EXPLAINED_ROWS)
        asked = self.table[[*rows.tolist(), *(row for _, row in chosen)]]
        if self.task == "multiclass":
            why = self.model.explain(asked, of=self.labels[place])  # type: ignore[call-arg]
        else:
            why = self.model.explain(asked)
        most, few = replace(why, values=why.values[: len(rows)]), why.values[len(rows) :]
        return (
            reasons.effects(self.base, self.encoder.columns, outcome, most, rows),
            reasons.cases(self._shown(chosen), chosen, outcome, scores, replace(why, values=few)),
        )

    def _shown(self, chosen: Sequence[tuple[Group, int]]) -> dict[str, list[str]]:
        """Values of the chosen rows by column; of a free text, which may name people, its score."""
        rows = [row for _, row in chosen]
        raw = {name: self.table.get_column(name)[rows].to_list() for name in self.encoder.reads}
        for place, column in enumerate(self.encoder.columns):
            if column.kind == "text":
                raw[column.name] = [
                    f"{column.parts[0]} {words.number(base)}"
                    for base in self.base[rows, place].tolist()
                ]
        return {name: [words.value(value) for value in values] for name, values in raw.items()}


def _task(model: Model) -> Task:
    """As training found it; what the model was told, or two classes, where that is not known."""
    task: Task = _training(model).get("task") or getattr(model, "task", None) or "binary"
    return task


def _training(model: Model) -> Mapping[str, Any]:
    training = getattr(model, "training", None)
    return training if isinstance(training, Mapping) else {}


def _reference(model: Model) -> Reference | None:
    """What the artifact says that the training rows looked like."""
    artifact = getattr(getattr(model, "scorer", None), "artifact", None)
    if not isinstance(artifact, Artifact):
        return None
    first = artifact.parts.get("0", artifact)
    stored = artifact.header.get("reference", first.header.get("reference"))
    return None if stored is None else Reference.from_json(stored)


def _outcome(
    table: pl.DataFrame, target: str, task: Task, classes: Sequence[str]
) -> NDArray[np.float64]:
    if task == "regression":
        return numbers_of(table, target).reshape(-1, 1)
    places = classes_of(table, target, classes)
    if task == "binary":
        return np.asarray(places == 1, dtype=np.float64).reshape(-1, 1)
    one_hot: NDArray[np.float64] = np.eye(len(classes))[places]
    return one_hot


def _answers(model: Any, table: pl.DataFrame, task: Task) -> NDArray[np.float64]:
    if task == "multiclass":
        answers: NDArray[np.float64] = np.asarray(model.predict_proba(table), dtype=np.float64)
    else:
        numbers = task == "regression" and hasattr(model, "predict")
        answers = np.asarray((model.predict if numbers else model.score)(table), dtype=np.float64)
    return answers.reshape(table.height, -1)


def _baseline(
    given: Model | ArrayLike | None,
    model: Model,
    table: pl.DataFrame,
    task: Task,
    outcome: NDArray[np.float64],
) -> NDArray[np.float64]:
    if isinstance(given, Model):
        return _answers(given, table, task)
    if given is None:
        training = _training(model)
        rows, bad = training.get("num_rows"), training.get("num_bad")
        if task == "binary" and isinstance(rows, int) and isinstance(bad, int) and rows > 0:
            return np.full(outcome.shape, bad / rows)
        return np.tile(outcome.mean(axis=0), (len(outcome), 1))
    scores = np.asarray(given, dtype=np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if scores.shape != outcome.shape:
        raise InvalidTable(f"expected baseline scores of shape {outcome.shape}, got {scores.shape}")
    return scores
