"""The scorer of a model over an embedding: a history becomes numbers, a model scores them.

    history -> tower -> embedding (d,) -> columns `history[0]` ... `history[d - 1]`
    these columns and the row's others -> the model inside -> score

To the outside it is a model that reads the list column itself: what the columns of the
embedding add to the log-odds is summed under its name. Neither torch nor a data frame is needed
for a row. Serves G15 and B6 of the requirements.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidInput, InvalidTable, did_you_mean
from chopmark.histories.tokenizer import Tokenizer
from chopmark.models.artifact import Artifact
from chopmark.models.blended import TableScorer
from chopmark.models.layout import Layout
from chopmark.models.model import Contributions, Scores, Table, Value
from chopmark.models.scorers import section
from chopmark.models.sequences import newest
from chopmark.models.towers import Tower

EMBEDDED = "embedded"
TOWER = "tower"
MODEL = "model"

_LONGEST = 1 << 20

Vector = NDArray[np.float64]


class EmbeddedScorer:
    """Scores rows of a list column and others: implements `chopmark.models.Scorer`.

    Immutable after construction; safe in any number of threads.

    Parameters
    ----------
    artifact
        Of family "embedded", with its hash. Header: "column", "feature_hashes", "training".
        Parts: "tower" (a user model) and "model" (what scores the columns).
    inner
        The scorer of the part "model".

    Raises
    ------
    ArtifactError
        If the parts do not fit each other.
    """

    def __init__(self, artifact: Artifact, inner: TableScorer) -> None:
        if not artifact.hash:
            raise ArtifactError("expected an artifact with its hash: pack it and unpack it first")
        self.artifact, self.inner = artifact, inner
        column = artifact.header.get("column")
        if not isinstance(column, str) or not column:
            raise ArtifactError("expected the name of the list column in the artifact's header")
        self.column = column
        self.tower, self.tokenizer, self.length = tower_of(artifact.parts.get(TOWER))
        names = {name: j for j, name in enumerate(column_names(column, self.tower.embedding))}
        if column in inner.reads:
            raise ArtifactError(f"the model inside reads the list column `{column}` itself")
        others = [name for name in inner.reads if name not in names]
        self._reads = (column, *others)
        places = {name: place for place, name in enumerate(self._reads)}
        # Where the model inside takes each value from: the embedding, then the row.
        width = self.tower.embedding
        self._from = [
            names[name] if name in names else width + places[name] for name in inner.reads
        ]
        self._belongs = np.array(
            [0 if name in names else places[name] for name in inner.reads], dtype=np.int64
        )
        own = section(artifact.header, "feature_hashes")
        inside = {k: v for k, v in inner.feature_hashes.items() if k not in names}
        self._feature_hashes = {**inside, **{str(k): str(v) for k, v in own.items()}}

    @property
    def reads(self) -> tuple[str, ...]:
        """The list column, then the other raw columns of the model inside."""
        return self._reads

    @property
    def hash(self) -> str:
        """sha256 of the artifact file, 64 hexadecimal digits."""
        return self.artifact.hash

    @property
    def feature_hashes(self) -> Mapping[str, str]:
        """Hash of each feature's definition at training."""
        return self._feature_hashes

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left, of the model inside and of the embedding."""
        return section(self.artifact.header, "training")

    @property
    def bias(self) -> float:
        """Log-odds of an average row."""
        return self.inner.bias

    def score_row(self, values: Sequence[Value]) -> float:
        """Probability of bad of one row, `values` in the order of `reads`.

        Raises
        ------
        InvalidInput
            If there are more or fewer values than `reads` has columns.
        """
        return self.inner.score_row(self._inside(values))

    def explain_row(self, values: Sequence[Value]) -> tuple[float, Vector]:
        """Score, and (len(reads),) contributions: with `bias` they sum to its log-odds."""
        score, moves = self.inner.explain_row(self._inside(values))
        return score, self._gathered(moves)

    def reasons_row(self, values: Sequence[Value]) -> tuple[float, Vector]:
        """As `explain_row`, by the reasons of the model inside, which are faster."""
        score, moves = self.inner.reasons_row(self._inside(values))
        return score, self._gathered(moves)

    def embed_row(self, history: object) -> NDArray[np.float32]:
        """(d,) the embedding of a history; of what is no list of events, that of no events."""
        events = newest(history, self.length)
        found: NDArray[np.float32] = self.tower.embed(self.tokenizer.batch_of_rows([events]))[0]
        return found

    def score(self, table: Table) -> Scores:
        """(n,) scores of a polars DataFrame, each equal to `score_row` of its row."""
        return self.inner.score(self._table(table))

    def explain(self, table: Table) -> Contributions:
        """Contributions of all rows of a polars DataFrame."""
        moves = self.inner.explain(self._table(table)).values
        values = np.array([self._gathered(row) for row in moves]).reshape(-1, len(self._reads))
        return Contributions(reads=self._reads, values=values, bias=self.bias)

    def warm(self) -> None:
        """Compile what a request needs."""
        events = [{"type": "", "age": 1}, {"type": "", "age": 0}]
        values: list[Any] = [events, *([None] * (len(self._reads) - 1))]
        self.inner.warm()
        self.score_row(values)
        self.reasons_row(values)
        self.explain_row(values)

    def _inside(self, values: Sequence[Value]) -> list[Value]:
        if len(values) != len(self._reads):
            raise InvalidInput(
                f"expected {len(self._reads)} values, one for each column that the model reads; "
                f"got {len(values)}"
            )
        known = [*self.embed_row(values[0]).tolist(), *values]
        return [known[place] for place in self._from]

    def _gathered(self, moves: Vector) -> Vector:
        found = np.bincount(self._belongs, weights=moves, minlength=len(self._reads))
        return found.astype(np.float64)

    def _table(self, table: Table) -> Table:
        """The rows as the model inside reads them; row by row, as a product of matrices is not
        the same bits as one of a vector."""
        import polars as pl  # a request has no table

        if self.column not in table.columns:
            raise InvalidTable(
                f"expected a column `{self.column}` with histories, which the table lacks"
                + did_you_mean(self.column, table.columns)
            )
        names = column_names(self.column, self.tower.embedding)
        histories = table.get_column(self.column).to_list()
        vectors = np.array([self.embed_row(history) for history in histories], dtype=np.float64)
        columns = vectors.reshape(-1, len(names)).T
        embedded = pl.DataFrame(dict(zip(names, columns, strict=True)))
        others = [name for name in table.columns if name in self._reads and name != self.column]
        return embedded.hstack(table.select(others).get_columns()) if others else embedded


def column_names(column: str, width: int) -> list[str]:
    """Names of the columns that the embedding of a list column becomes."""
    return [f"{column}[{j}]" for j in range(width)]


def tower_of(artifact: Artifact | None) -> tuple[Tower, Tokenizer, int]:
    """The tower of a user model, its tokenizer, and how many of the newest events it reads.

    Raises
    ------
    ArtifactError
        If there is none, or its contents do not fit each other.
    """
    if artifact is None:
        raise ArtifactError(f"expected a part `{TOWER}` that makes the embedding, got none")
    header = artifact.header
    try:
        shape = header["shape"]
        kind, heads, length = str(shape["kind"]), int(shape["heads"]), int(shape["length"])
        layout, told = Layout.from_dict(header["layout"]), header["tokenizer"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"expected the header of a user model, which lacks {error}") from error
    tokenizer = Tokenizer.from_dict(told)
    few = len(layout.sizes) > len(tokenizer.sizes) or layout.num_numbers > len(tokenizer.numbers)
    if few or layout.sizes != tokenizer.sizes[: len(layout.sizes)]:
        raise ArtifactError("the tokenizer gives other tokens than the tower reads")
    if not 1 <= length <= _LONGEST:
        raise ArtifactError(f"expected a length of 1 to {_LONGEST} events, got {length}")
    return Tower(kind, layout, artifact.arrays, heads=heads), tokenizer, length
