"""The scorer of a model of more than two classes: one yes-or-no question for each.

    chance of class k = score of question k / sum of the scores of all questions

Each question is a binary model with its own encoder, weights and calibration, so whatever holds
for binary models (speed, exact explanation, bit-equal serving) holds here. Serves A8 and A11 of
the requirements.

References
----------
Ryan Rifkin and Aldebaro Klautau, "In Defense of One-Vs-All Classification", 2004.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidInput, did_you_mean
from chopmark.models.artifact import Artifact
from chopmark.models.encoder import Encoder
from chopmark.models.model import Contributions, Table, Value
from chopmark.models.scorers import ArtifactScorer, section

CLASSES = "classes"
"""Family of the artifact."""

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

    Raises
    ------
    ArtifactError
        If a part is missing or is no binary model.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.classes: tuple[str | int | float, ...] = tuple(
            self.training["classes"] if isinstance(self.training.get("classes"), list) else ()
        )
        plain = all(type(label) in (str, int, float, bool) for label in self.classes)
        if not plain or len(set(self.classes)) != len(self.classes) or len(self.classes) < 3:
            raise ArtifactError(
                f"the artifact has classes {list(self.classes)}; expected three or more different "
                "texts or numbers"
            )
        if sorted(artifact.parts) != sorted(str(code) for code in range(len(self.classes))):
            raise ArtifactError(
                f"the artifact has classes {list(self.classes)} and the parts "
                f"{sorted(artifact.parts)}; expected one part for each class"
            )
        self.questions = tuple(
            ArtifactScorer(artifact.parts[str(code)]) for code in range(len(self.classes))
        )
        if not all(question.is_probability for question in self.questions):
            raise ArtifactError("a part of the artifact gives numbers; expected probabilities")
        section(artifact.header, "feature_hashes")
        self.reads = tuple(dict.fromkeys(name for q in self.questions for name in q.reads))
        places = {name: place for place, name in enumerate(self.reads)}
        self._places = [[places[name] for name in q.reads] for q in self.questions]

    @property
    def hash(self) -> str:
        """sha256 of the artifact file."""
        return self.artifact.hash

    @property
    def feature_hashes(self) -> Mapping[str, str]:
        """Hash of each feature's definition at training."""
        return dict(section(self.artifact.header, "feature_hashes"))

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left."""
        return section(self.artifact.header, "training")

    @property
    def encoder(self) -> Encoder:
        """How the first question reads raw columns; the others differ in learned values alone."""
        return self.questions[0].encoder

    def score_row(self, values: Sequence[Value]) -> NDArray[np.float64]:
        """(k,) chances of one row, `values` in the order of `reads`; they sum to 1.

        Raises
        ------
        InvalidInput
            If there are more or fewer values than `reads` has columns.
        """
        if len(values) != len(self.reads):
            raise InvalidInput(
                f"expected {len(self.reads)} values, one for each column of `reads`, "
                f"got {len(values)}"
            )
        scores = [
            question.score_row([values[place] for place in places])
            for question, places in zip(self.questions, self._places, strict=True)
        ]
        chances: NDArray[np.float64] = _normalised(np.array([scores]))[0]
        return chances

    def score(self, table: Table) -> NDArray[np.float64]:
        """(n, k) chances of a polars DataFrame, each row as `score_row` gives it."""
        return _normalised(np.column_stack([question.score(table) for question in self.questions]))

    def explain(self, table: Table, *, of: str | int | float | None = None) -> Contributions:
        """Contributions to the log-odds of one class's own question.

        Raises
        ------
        InvalidInput
            If `of` is not one of the classes.
        """
        if of not in self.classes:
            known = ", ".join(f"`{label}`" for label in self.classes)
            raise InvalidInput(
                f"expected one of {known} as the class to explain (`of`), got `{of}`"
                + did_you_mean(str(of), map(str, self.classes))
            )
        return self.questions[self.classes.index(of)].explain(table)

    def warm(self) -> None:
        """Compile and touch all that a request needs."""
        for question in self.questions:
            question.warm()


def _normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    # Column by column, as numpy's sum along a row may pair terms by how many rows there are.
    total = np.full(len(scores), _SMALLEST)
    for column in scores.T:
        total += column
    chances: NDArray[np.float64] = scores / total[:, None]
    return chances
