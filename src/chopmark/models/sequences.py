"""The scorer of a sequence network: the request path's view of `chopmark.sequence.Seq2Win`.

Reads one column, whose value is a list of events (`features.Sequence`): a new event changes
the score at the next call, and so does the passing of time, as ages are part of the value.
The functions for tables loop over those for one row. Serves B2, B6 and B7 of the requirements.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidInput, InvalidTable, did_you_mean
from chopmark.histories.batch import _times
from chopmark.histories.tokenizer import Tokenizer
from chopmark.models.artifact import Artifact
from chopmark.models.kernels import LOG_ODDS_LIMIT, sigmoid
from chopmark.models.layout import Layout
from chopmark.models.model import Contributions, Scores, Table, Value
from chopmark.models.towers import Tower

SEQUENCE = "sequence"


class SequenceScorer:
    """Scores the history in one column: implements `chopmark.models.Scorer`.

    Immutable after construction; safe in any number of threads.

    Parameters
    ----------
    artifact
        Of family "sequence", with its hash. Header: "column", "length", "tower" (kind and
        heads), "layout", "tokenizer", "bias", "feature_hashes", "training". Arrays: the
        weights, by their names in training.

    Raises
    ------
    ArtifactError
        If its contents do not fit each other.
    """

    def __init__(self, artifact: Artifact) -> None:
        if not artifact.hash:
            raise ArtifactError("expected an artifact with its hash: pack it and unpack it first")
        self.artifact = artifact
        header = artifact.header
        try:
            self.column, self.length = str(header["column"]), int(header["length"])
            self._bias = float(header["bias"])
            shape = header["tower"]
            kind, heads = str(shape["kind"]), int(shape["heads"])
            hashes = {str(name): str(value) for name, value in header["feature_hashes"].items()}
            layout, told = Layout.from_dict(header["layout"]), header["tokenizer"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"expected the header of a sequence network: {error}") from error
        if not 1 <= self.length <= 1 << 20 or not math.isfinite(self._bias):
            raise ArtifactError(
                f"expected a length of at least 1 and a finite bias, got {self.length} and "
                f"{self._bias}"
            )
        self._feature_hashes = hashes
        self.tokenizer = Tokenizer.from_dict(told)
        if layout.sizes != self.tokenizer.sizes[: len(layout.sizes)] or layout.num_numbers > len(
            self.tokenizer.numbers
        ):
            raise ArtifactError("the tokenizer gives other tokens than the network reads")
        self.tower = Tower(kind, layout, artifact.arrays, heads=heads)
        self._head = _head(artifact.arrays, self.tower.embedding)

    @property
    def reads(self) -> tuple[str, ...]:
        """The one column that it reads."""
        return (self.column,)

    @property
    def hash(self) -> str:
        """sha256 of the artifact file, 64 hexadecimal digits."""
        return self.artifact.hash

    @property
    def feature_hashes(self) -> Mapping[str, str]:
        """Hash of the feature's definition at training."""
        return self._feature_hashes

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left: rows, rounds, held-out metrics, seed."""
        found = self.artifact.header.get("training")
        return found if isinstance(found, dict) else {}

    @property
    def bias(self) -> float:
        """Mean log-odds of the training rows."""
        return self._bias

    def score_row(self, values: Sequence[Value]) -> float:
        """Probability of bad of one history.

        Raises
        ------
        InvalidInput
            If there are more or fewer values than one.
        """
        return float(sigmoid(self._log_odds(self._history(values))))

    def explain_row(self, values: Sequence[Value]) -> tuple[float, NDArray[np.float64]]:
        """Score, and (1,) contribution: what the history adds to the log-odds."""
        z = self._log_odds(self._history(values))
        return float(sigmoid(z)), np.array([z - self._bias])

    reasons_row = explain_row

    def explain_events(self, history: object) -> NDArray[np.float64]:
        """(n,) what each of the events that are read adds to the log-odds: the score with it
        less the score without. They need not sum to the whole, as events mean more together."""
        events = self._read(history)
        whole = self._log_odds(events)
        return np.array(
            [whole - self._log_odds([*events[:i], *events[i + 1 :]]) for i in range(len(events))]
        )

    def embed_row(self, history: object) -> NDArray[np.float32]:
        """(embedding,) what the penultimate layer says of a history."""
        embedding: NDArray[np.float32] = self.tower.embed(
            self.tokenizer.batch_of_rows([self._read(history)])
        )[0]
        return embedding

    def score(self, table: Table) -> Scores:
        """(n,) scores of a polars DataFrame, each as `score_row` gives it."""
        return np.array([self.score_row((history,)) for history in self._column_of(table)])

    def explain(self, table: Table) -> Contributions:
        """Contributions of all rows of a polars DataFrame."""
        z = [self._log_odds(self._read(history)) for history in self._column_of(table)]
        values = np.array(z, dtype=np.float64).reshape(-1, 1) - self._bias
        return Contributions(reads=self.reads, values=values, bias=self._bias)

    def warm(self) -> None:
        """Compile what a request needs."""
        self.score_row(([{"type": "", "age": 1}, {"type": "", "age": 0}],))  # type: ignore[arg-type]

    def _history(self, values: Sequence[Value]) -> list[Any]:
        if len(values) != 1:
            raise InvalidInput(f"expected 1 value, for column `{self.column}`, got {len(values)}")
        return self._read(values[0])

    def _read(self, history: object) -> list[Any]:
        """The newest events of a value; of what is no list, none."""
        return newest(history, self.length)

    def _log_odds(self, events: list[Any]) -> float:
        embedding = self.tower.embed(self.tokenizer.batch_of_rows([events]))[0].astype(np.float64)
        line, inner, inner_bias, outer, shift = self._head
        z = embedding @ inner + inner_bias
        z *= 0.5 * (1.0 + np.tanh(0.7978845608028654 * (z + 0.044715 * z**3)))
        log_odds = float(embedding @ line + z @ outer) + float(shift)
        return min(max(log_odds, -LOG_ODDS_LIMIT), LOG_ODDS_LIMIT)

    def _column_of(self, table: Table) -> list[Any]:
        if self.column not in table.columns:
            raise InvalidTable(
                f"expected a column `{self.column}` with histories, which the table lacks"
                + did_you_mean(self.column, table.columns)
            )
        found: list[Any] = table.get_column(self.column).to_list()
        return found


def newest(history: object, length: int) -> list[Any]:
    """The `length` youngest events of a value, in the order they came in; of what is no list, none.

    By age, as a table is read in training, not by place: a list may be newest first. Of equal
    ages the later places are taken.
    """
    if isinstance(history, np.ndarray):
        history = history.tolist()
    elif hasattr(history, "to_list"):
        history = history.to_list()
    if not isinstance(history, list | tuple):
        return []
    if len(history) <= length:
        return list(history)
    times = _times([event.get("age") if isinstance(event, dict) else None for event in history])
    if (times[1:] >= times[:-1]).all():
        return list(history[-length:])
    kept = np.sort(np.argsort(times, kind="stable")[-length:])
    return [history[place] for place in kept.tolist()]


def _head(arrays: Mapping[str, NDArray[Any]], embedding: int) -> tuple[Any, ...]:
    """The last layers as float64: line, inner, its bias, outer, and the sum of the shifts."""
    weights = []
    hidden = arrays["head.outer.weight"].size if "head.outer.weight" in arrays else 0
    for name, shape in (
        ("head.line.weight", (1, embedding)),
        ("head.inner.weight", (hidden, embedding)),
        ("head.inner.bias", (hidden,)),
        ("head.outer.weight", (1, hidden)),
        ("head.line.bias", (1,)),
        ("head.outer.bias", (1,)),
    ):
        found = arrays.get(name)
        if found is None or found.shape != shape or not np.isfinite(found).all():
            raise ArtifactError(f"expected finite weights `{name}` of shape {shape}")
        weights.append(found.astype(np.float64))
    line, inner, inner_bias, outer, shift, more = weights
    return line[0], np.ascontiguousarray(inner.T), inner_bias, outer[0], float(shift[0] + more[0])
