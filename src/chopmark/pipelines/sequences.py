"""A blend that also reads histories: EasyML, Seq2Win and an embedding, made from one log.

    trained = train(application, log, label=LABEL, model=SequenceBlend())

Of the features, EasyML reads the single values. Seq2Win reads the list of what a user did. A
small user model learns from the histories of all users, labelled or not, what users are like, and
trees read the vector that it makes of each list. `EasyBlend` weighs the three by what models of
earlier rows say of later ones; no user model has then seen an event that was known after the
first of these. Needs torch to be trained and not to be served. Serves B2, B10, G2 and G15 of the
requirements.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self, cast

import polars as pl

from chopmark.engine import Application
from chopmark.errors import FeatureError, MissingExtra
from chopmark.events import Event, Schema, type_name
from chopmark.features import Sequence
from chopmark.features.columns import known_instant
from chopmark.models import Contributions, Model, Scores, Table
from chopmark.tabular import EasyML
from chopmark.times import instant

if TYPE_CHECKING:
    from chopmark.blend import EasyBlend
    from chopmark.foundation.static import StaticEmbedding

TIME = "as_of"
"""Column by which the blend keeps later rows apart; none of its parts reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBlend:
    """How large the networks of a blend are, and how long they learn.

    Parameters
    ----------
    seed
        Same seed, log and number of threads: same blend.
    width
        Of the vector of an event in Seq2Win; in the user model it is half of that, as trees are
        slow on many columns: an embedding has three of its width and two more.
    epochs
        How often Seq2Win sees each row at most.
    steps
        Of the pre-training of the user model, each of some thousand events.
    num_folds
        Later parts of the rows that the weights are learned from; each costs a fit more.
    """

    seed: int = 0
    width: int = 32
    epochs: float = 6.0
    steps: int = 100
    num_folds: int = 2

    def unfitted(self, sequence: Sequence, events: pl.DataFrame, times: pl.Series) -> "EasyBlend":
        """The blend, to be fitted to a table with the column ``as_of``.

        Parameters
        ----------
        sequence
            The feature that Seq2Win and the embedding read.
        events
            What `Diary.events` gives.
        times
            ``as_of`` of all rows that it will be fitted to.

        Raises
        ------
        MissingExtra
            If torch is not installed.
        """
        check_torch()
        from chopmark.blend import EasyBlend
        from chopmark.sequence.seq2win import Seq2Win
        from chopmark.sequence.shape import Shape

        shape = Shape(width=self.width, depth=1, length=min(sequence.last, 1_024))
        half = replace(shape, width=max(1, self.width // 2))
        # A blend asks no more of a part than `Pretrained` has.
        embedding = cast(Model, Pretrained(self, half, sequence.name, events, times))
        return EasyBlend(
            {
                "easyml": EasyML(seed=self.seed, columns={TIME: "drop"}),
                "seq2win": Seq2Win(
                    column=sequence.name, shape=shape, epochs=self.epochs, seed=self.seed
                ),
                "embedding": embedding,
            },
            time=TIME,
            num_folds=self.num_folds,
            seed=self.seed,
        )


class Pretrained:
    """An embedding with trees upon it, whose user model is learned anew for each fit.

    A model of `chopmark.models` but for loading: what it saves is a `StaticEmbedding`.

    Parameters
    ----------
    settings, shape
        Of the user model.
    column
        List column to read.
    events
        What `Diary.events` gives.
    times
        ``as_of`` of all rows that there are. A fit that is given the first of them learns from
        the events known before the next, and one that is given the last of them from all.
    """

    def __init__(
        self,
        settings: SequenceBlend,
        shape: Any,
        column: str,
        events: pl.DataFrame,
        times: pl.Series,
    ) -> None:
        self.settings, self.shape, self.column = settings, shape, column
        self.events, self.times = events, times
        self._model: StaticEmbedding | None = None

    def fit(
        self,
        table: Table,
        *,
        target: str = "target",
        feature_hashes: Mapping[str, str] | None = None,
        created: datetime | None = None,
    ) -> Self:
        """The model itself, fitted to the list column of a table that has ``as_of``."""
        from chopmark.foundation.static import StaticEmbedding
        from chopmark.foundation.usermodel import UserModel
        from chopmark.sequence.training import Pace

        settings = self.settings
        later = self.times.filter(self.times > table[TIME].max())
        known = self.events
        if len(later):
            known = known.filter(pl.col("known_at") < instant(later.min()))  # type: ignore[arg-type]
        users = UserModel(
            shape=self.shape,
            pace=Pace(steps=settings.steps, rate=3e-3),
            window=self.shape.length,
            budget=4_096,
            seed=settings.seed,
        ).fit(histories_of(known))
        self._model = StaticEmbedding(
            users, EasyML(model="trees", seed=settings.seed), column=self.column
        ).fit(
            table.select(self.column, target),
            target=target,
            feature_hashes=feature_hashes,
            created=created,
        )
        return self

    def score(self, table: Table) -> Scores:
        """(n,) probability of bad."""
        return self._fitted.score(table)

    def explain(self, table: Table) -> Contributions:
        """What the history adds to the log-odds of each row's score."""
        return self._fitted.explain(table)

    def save(self, path: Any) -> None:
        """Write the artifact of the `StaticEmbedding`."""
        self._fitted.save(path)

    @property
    def _fitted(self) -> "StaticEmbedding":
        assert self._model is not None, "fitted by the blend before anything else"
        return self._model


class Diary:
    """Gathers the events of a sequence while a log is read for something else.

    Its condition (`Sequence.where`) aside: what users are like shows in the events around, too.

    Parameters
    ----------
    sequence
        Says the types and fields to gather, and whose they are.
    schema
        Of the log.
    """

    def __init__(self, sequence: Sequence, schema: Schema) -> None:
        self.sequence = sequence
        kinds = {name: schema.fields[name].kind for name in sequence.fields}
        self._schema: dict[str, Any] = {
            "user": pl.String,
            "happened_at": pl.Int64,
            "known_at": pl.Int64,
            "type": pl.String,
            **{name: pl.String if kind == "text" else pl.Float64 for name, kind in kinds.items()},
        }
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema}

    def along(self, batches: Iterable[list[Event]]) -> Iterator[list[Event]]:
        """The same batches, whose events are written down on the way."""
        kinds, fields, by = frozenset(self.sequence.events), self.sequence.fields, self.sequence.by
        columns = self._columns
        for batch in batches:
            for event in batch:
                name = type_name(event)
                who = getattr(event, by, None) if name in kinds else None
                if who is None:
                    continue
                known = known_instant(event)
                columns["user"].append(who)
                # As the feature has it: nothing happens after it is known.
                columns["happened_at"].append(min(instant(event.happened_at), known))
                columns["known_at"].append(known)
                columns["type"].append(name)
                for field in fields:
                    columns[field].append(getattr(event, field, None))
            yield batch

    def events(self, *, until: int | None = None) -> pl.DataFrame:
        """A row per event: user, happened_at and known_at (microseconds), type and fields."""
        frame = pl.DataFrame(self._columns, schema=self._schema, strict=False)
        return frame if until is None else frame.filter(pl.col("known_at") <= until)


def histories_of(events: pl.DataFrame) -> Any:
    """`Histories` of what a `Diary` holds, of users without a list column as well."""
    from chopmark.histories import Histories

    return Histories.from_frame(events.drop("known_at"))


def sequence_of(application: Application) -> Sequence | None:
    """The sequence of users that a blend would read: the first that is not our own doing."""
    own = application.own
    return next(
        (
            feature
            for feature in application.catalog.features
            if isinstance(feature, Sequence) and feature.by == "user" and feature.name not in own
        ),
        None,
    )


def needed_sequence(application: Application) -> Sequence:
    """As `sequence_of`; `FeatureError` if there is none."""
    sequence = sequence_of(application)
    if sequence is None:
        raise FeatureError(
            "expected a `Sequence` of users among the features, for Seq2Win and the embedding to "
            "read; got none: declare one, or train EasyML alone"
        )
    return sequence


def check_torch() -> None:
    """`MissingExtra` where networks of sequences cannot be trained."""
    if not has_torch():
        raise MissingExtra("training a model that reads histories", "deep")


def has_torch() -> bool:
    """Whether networks of sequences can be trained here; to score with them needs no torch."""
    return all(find_spec(name) is not None for name in ("torch", "safetensors"))
