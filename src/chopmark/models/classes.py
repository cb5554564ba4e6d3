"""The scorer of a model of more than two classes: one yes-or-no question for each.

    chance of class k = score of question k / sum of the scores of all questions

Each question is a binary model with its own encoder, weights and calibration, so whatever holds
for binary models (speed, exact explanation, bit-equal serving) holds here. Serves A8 and A11 of
the requirements.

References
----------
Ryan Rifkin and Aldebaro Klautau, "In Defense of One-Vs-All Classification", 2004.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidInput, did_you_mean
from chopmark.models.artifact import Artifact
from chopmark.models.encoder import Encoder
from chopmark.models.model import Contributions, Table, Value
from chopmark.models.scorers import FAMILY, ArtifactScorer, section

CLASSES = "classes"
"""Family of the artifact."""

Label: TypeAlias = str | int | float
"""What a class is called: a text, a number, or true and false."""

_SMALLEST = 1e-12


class ClassScorer:
    """Scores rows and tables by the artifact of a model of several classes.

    Parameters
    ----------
    artifact
        Of family "classes", read or unpacked; its parts are binary models named "0", "1", ...

    Attributes
    ----------
    classes : tuple
        The labels, in the order of the chances.
    reads : tuple of str
        Raw columns that any of the questions looks at.

    questions : tuple of ArtifactScorer
        The binary model of each class, in the same order.

    Raises
    ------
    ArtifactError
        If the classes are not three or more different ones, or the parts are not one binary
        model for each of them.
    """

    def __init__(self, artifact: Artifact) -> None:
        if not artifact.hash:
            raise ArtifactError("expected an artifact with its hash: pack it and unpack it first")
        self.artifact = artifact
        self.classes: tuple[Label, ...] = _classes(self.training.get("classes"))
        expected = [str(place) for place in range(len(self.classes))]
        if {*artifact.parts} != {*expected}:
            lacking = [name for name in expected if name not in artifact.parts]
            strange = sorted({*artifact.parts} - {*expected})
            raise ArtifactError(
                f"the artifact has {len(self.classes)} classes and other parts than one for each: "
                f"it lacks {lacking[:9]} and has {strange[:9]} beside them"
            )
        self.questions = tuple(
            _question(artifact.parts[name], name, label)
            for name, label in zip(expected, self.classes, strict=True)
        )
        self._feature_hashes = {
            str(name): str(digest)
            for name, digest in section(artifact.header, "feature_hashes").items()
        }
        self.reads = tuple(dict.fromkeys(name for q in self.questions for name in q.reads))
        places = {name: place for place, name in enumerate(self.reads)}
        self._asked = [
            (q.score_row, None if q.reads == self.reads else [places[name] for name in q.reads])
            for q in self.questions
        ]

    @property
    def hash(self) -> str:
        """sha256 of the artifact file."""
        return self.artifact.hash

    @property
    def feature_hashes(self) -> Mapping[str, str]:
        """Hash of each feature's definition at training."""
        return self._feature_hashes

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left."""
        return section(self.artifact.header, "training")

    @property
    def encoder(self) -> Encoder:
        """How the first question reads raw columns; others may have left out other readings."""
        return self.questions[0].encoder

    def score_row(self, values: Sequence[Value]) -> NDArray[np.float64]:
        """(k,) chances of one row, `values` in the order of `reads`; they sum to 1.

        Raises
        ------
        InvalidInput
            If there are more or fewer values than `reads` has columns.
        """
        self._check(values)
        scores = [
            score(values if places is None else [values[place] for place in places])
            for score, places in self._asked
        ]
        # As `_normalised` does it, in the same order; numpy would take longer for so few.
        total = _SMALLEST
        for score in scores:
            total += score
        return np.array([score / total for score in scores])

    def score(self, table: Table) -> NDArray[np.float64]:
        """(n, k) chances of a polars DataFrame, each row as `score_row` gives it."""
        return _normalised(np.column_stack([question.score(table) for question in self.questions]))

    def explain_row(self, values: Sequence[Value], *, of: Label) -> Contributions:
        """Contributions to the log-odds of one class's own question, of one row.

        Raises
        ------
        InvalidInput
            If `of` is not one of the classes, or the values are not one for each column.
        """
        place = self._place(of)
        self._check(values)
        question, (_, places) = self.questions[place], self._asked[place]
        _, moves = question.explain_row(
            values if places is None else [values[column] for column in places]
        )
        return Contributions(reads=question.reads, values=moves[None], bias=question.bias)

    def explain(self, table: Table, *, of: Label | None = None) -> Contributions:
        """Contributions to the log-odds of one class's own question.

        Raises
        ------
        InvalidInput
            If `of` is not one of the classes.
        """
        return self.questions[self._place(of)].explain(table)

    def warm(self) -> None:
        """Compile and touch all that a request needs."""
        for question in self.questions:
            question.warm()

    def _place(self, of: Label | None) -> int:
        if of not in self.classes:
            known = ", ".join(f"`{label}`" for label in self.classes)
            raise InvalidInput(
                f"expected one of {known} as the class to explain (`of`), got `{of}`"
                + did_you_mean(str(of), map(str, self.classes))
            )
        return self.classes.index(of)

    def _check(self, values: Sequence[Value]) -> None:
        if len(values) != len(self.reads):
            raise InvalidInput(
                f"expected {len(self.reads)} values, one for each column of `reads`, "
                f"got {len(values)}"
            )


def _classes(found: Any) -> tuple[Label, ...]:
    """The classes that an artifact lists, each of them once."""
    if not isinstance(found, list) or len(found) < 3:
        count = len(found) if isinstance(found, list) else "no list of"
        raise ArtifactError(f"the artifact has {count} classes; expected three or more")
    labels: set[Label] = set()
    texts: set[str] = set()
    for label in found:
        if type(label) not in (str, int, float, bool) or (
            type(label) is float and not math.isfinite(label)
        ):
            raise ArtifactError(
                f"the artifact has a class `{label!r:.60}`; expected texts or finite numbers"
            )
        # Answers name a class by its text, which would be one for 1 and "1".
        if label in labels or str(label) in texts:
            raise ArtifactError(
                f"the artifact lists the class `{label!s:.60}` twice; expected different ones"
            )
        labels.add(label)
        texts.add(str(label))
    return tuple(found)


def _question(part: Artifact, name: str, label: Label) -> ArtifactScorer:
    """The binary model of one class."""
    where = f"part `{name}`, of class `{label!s:.60}`"
    if part.family != FAMILY:
        raise ArtifactError(
            f"{where}: it holds a model of family `{part.family:.60}`; expected `{FAMILY}`"
        )
    try:
        question = ArtifactScorer(part)
        learned = question.training.get("class", label)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from error
    if not question.is_probability:
        raise ArtifactError(f"{where}: it gives numbers; expected probabilities")
    if learned != label:
        raise ArtifactError(f"{where}: it learned the class `{learned!s:.60}`")
    return question


def _normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    # Column by column, as numpy's sum along a row may pair terms by how many rows there are.
    total = np.full(len(scores), _SMALLEST)
    for column in scores.T:
        total += column
    chances: NDArray[np.float64] = scores / total[:, None]
    return chances
