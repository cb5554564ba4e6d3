"""A blend that also reads histories: EasyML, Seq2Win and an embedding.

    trained = train(application, log, label=LABEL, model=SequenceBlend())   # of a log
    model = SequenceBlend(split="users").fit(table, target="label")         # of a table

Of the features, EasyML reads the single values. Seq2Win reads the list of what a user did. A
small user model learns from the histories of all users, labelled or not, what users are like, and
trees read the vector that it makes of each list. `EasyBlend` weighs the three by what models of
earlier rows say of later ones or, where rows are no stream, models of some users of others; no
user model has then seen what the rows that judge it tell. Needs torch to be trained and not to be
served. Serves B2, B10, G2 and G15 of the requirements.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

import polars as pl
from sklearn.base import clone

from chopmark.engine import Application
from chopmark.errors import DeclarationError, FeatureError, InvalidTable, MissingExtra, did_you_mean
from chopmark.events import Event, Schema, type_name
from chopmark.features import Sequence
from chopmark.features.columns import known_instant
from chopmark.models import Contributions, Model, Scores, Table
from chopmark.tabular import EasyML
from chopmark.times import instant

if TYPE_CHECKING:
    from chopmark.blend import EasyBlend
    from chopmark.foundation.static import StaticEmbedding

Split = Literal["time", "users"]

TIME = "as_of"
"""Column by which the blend keeps later rows apart; none of its parts reads it."""
_MOST_EVENTS = 1_024


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
        Parts of the rows that the weights are learned from; each costs a fit more.
    split
        Which rows judge: "time", those after the rows that were learned from, as live traffic
        is; "users", drawn at random, all rows of a user on one side, for tables that are no
        stream, such as one row per patient.
    easyml
        What reads the single values, `EasyML()` by default. Its seed, its columns and how it
        holds out rows are the blend's.
    """

    seed: int = 0
    width: int = 32
    epochs: float = 6.0
    steps: int = 100
    num_folds: int = 2
    split: Split = "time"
    easyml: EasyML | None = None

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise DeclarationError(
                f"expected {' or '.join(get_args(Split))} as the split of a blend, got "
                f"`{self.split}`" + did_you_mean(str(self.split), get_args(Split))
            )

    def fit(
        self,
        table: pl.DataFrame,
        *,
        target: str = "target",
        column: str | None = None,
        user: str | None = None,
        time: str = TIME,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> "EasyBlend":
        """A blend fitted to a table, without a log.

        Parameters
        ----------
        table
            With a list column of events, any other columns, and the label.
        target
            Column of the label, 0 (good) or 1 (bad).
        column
            List column to read; the table's only one where not given.
        user
            Column that says whose a row is. No model reads it. Without it each row is taken as
            somebody else's, which is right where a user has one row.
        time
            Column of times by which rows are split if `split` is "time". No model reads it.
        progress
            Called after each fit with the fits done, the fits in all and the name of this one.

        Raises
        ------
        InvalidTable
            If there is no such column, or the label cannot be learned from.
        MissingExtra
            If torch is not installed.
        """
        check_torch()
        from chopmark.sequence.frames import list_column

        by_time = self.split == "time"
        apart = [name for name in (user, time if by_time else None) if name is not None]
        for name in apart:
            if name not in table.columns:
                raise InvalidTable(
                    f"expected a column `{name}` to split by {self.split}, which the table lacks"
                    + did_you_mean(name, table.columns)
                    + ('; `split="users"` needs no time' if name == time else "")
                )
        if user is not None and (user == target or table.schema[user].is_nested()):
            raise InvalidTable(
                f"expected names or numbers in the column `{user}` that says whose a row is, got "
                f"{'the label' if user == target else table.schema[user]}"
            )
        if user is not None and (num_unknown := table[user].null_count()):
            raise InvalidTable(
                f"expected whose each row is in the column `{user}`, got nothing in "
                f"{num_unknown:,} of {table.height:,} rows; name each, or leave those rows out"
            )
        if not by_time and time != target:
            table = table.drop(time, strict=False)
        name = list_column(table, column)
        blend = self._blend(
            name,
            _MOST_EVENTS,
            lambda rows: histories_in(rows, name, user),
            user=user,
            time=time if by_time else None,
            progress=progress,
        )
        return blend.fit(table, target=target)

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
        if self.split != "time":
            raise DeclarationError(
                f'expected the split "time" for rows of a log, got "{self.split}": they are '
                "scored in the order of time, and so they are judged"
            )

        def known_then(rows: pl.DataFrame) -> Any:
            """What was known before the rows that come next, or all if none do."""
            later = times.filter(times > rows[TIME].max())
            known = events
            if len(later):
                known = known.filter(pl.col("known_at") < instant(later.min()))  # type: ignore[arg-type]
            return histories_of(known)

        return self._blend(sequence.name, sequence.last, known_then, time=TIME)

    def _blend(
        self,
        column: str,
        last: int,
        known: Callable[[pl.DataFrame], Any],
        *,
        user: str | None = None,
        time: str | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> "EasyBlend":
        from chopmark.blend import EasyBlend
        from chopmark.sequence.seq2win import Seq2Win
        from chopmark.sequence.shape import Shape

        shape = Shape(width=self.width, depth=1, length=min(last, _MOST_EVENTS))
        half = replace(shape, width=max(1, self.width // 2))
        unread = {name: "drop" for name in (time, user) if name is not None}
        easyml = clone(self.easyml or EasyML()).set_params(
            seed=self.seed, time=None, groups=None if time is not None else user
        )
        easyml.columns = {**(easyml.columns or {}), **unread}
        # A blend asks no more of a part than `Pretrained` has.
        embedding = cast(Model, Pretrained(self, half, column, known))
        return EasyBlend(
            {
                "easyml": easyml,
                "seq2win": Seq2Win(
                    column=column, shape=shape, epochs=self.epochs, seed=self.seed, groups=user
                ),
                "embedding": embedding,
            },
            time=time,
            groups=None if time is not None else user,
            num_folds=self.num_folds,
            seed=self.seed,
            progress=progress,
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
    known
        Gives the `Histories` that a fit to some rows may learn from, which hold nothing of the
        rows that will judge it.
    """

    def __init__(
        self,
        settings: SequenceBlend,
        shape: Any,
        column: str,
        known: Callable[[pl.DataFrame], Any],
    ) -> None:
        self.settings, self.shape, self.column, self.known = settings, shape, column, known
        self._model: StaticEmbedding | None = None

    def fit(
        self,
        table: Table,
        *,
        target: str = "target",
        feature_hashes: Mapping[str, str] | None = None,
        created: datetime | None = None,
    ) -> Self:
        """The model itself, fitted to the list column of a table."""
        from chopmark.foundation.static import StaticEmbedding
        from chopmark.foundation.usermodel import UserModel
        from chopmark.sequence.training import Pace

        settings = self.settings
        users = UserModel(
            shape=self.shape,
            pace=Pace(steps=settings.steps, rate=3e-3),
            window=self.shape.length,
            budget=4_096,
            seed=settings.seed,
        ).fit(self.known(table))
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


def histories_in(rows: pl.DataFrame, column: str, user: str | None) -> Any:
    """`Histories` of the lists of a table's rows; of a user with several rows the longest list.

    Two lists of one user hold the same events, by which windows of "two users" would be told.
    """
    from chopmark.histories import Histories

    if user is not None:
        length = pl.col(column).list.len().fill_null(0)
        rows = rows.sort(length, descending=True, maintain_order=True)
        rows = rows.unique(user, keep="first", maintain_order=True)
    return Histories.from_lists(rows.get_column(column))


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
