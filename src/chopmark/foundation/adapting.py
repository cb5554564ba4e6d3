"""A new use case: from a few labels to a model that can be served, in one call.

    adapted = adapt(user_model, histories, labels)     # user, label, and perhaps as_of, split
    adapted.figures                                    # each use, on users that nothing has seen
    adapted.model.save("redeems.chopmark")             # chopmark easyml serve redeems.chopmark

Users are parted in three. On the first all uses of `foundation.uses` are fitted, the second
chooses, the third is looked at once, by what is to be saved too. Of up to 1,000 rows in the
first two, cross-validation on both chooses, unless the table says who is in which. Only a use
that reads nothing but the history can answer a request that holds nothing else, so what is
saved is the best of those: a network trained on the labels becomes a sequence artifact, a frozen
embedding an artifact of embedding and model. The others stand in the table to be compared with.
Serves G13 to G17 and B8 of the requirements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable, did_you_mean
from chopmark.foundation.candidates import METHODS, Training, newest
from chopmark.foundation.chances import FIGURES, gained, judged
from chopmark.foundation.static import StaticEmbedding
from chopmark.foundation.usermodel import UserModel
from chopmark.foundation.uses import FEW, Uses, best_of, choose
from chopmark.histories import Histories, Slices
from chopmark.histories.histories import instants
from chopmark.models.splits import stratified
from chopmark.sequence.seq2win import Seq2Win
from chopmark.tabular.easyml import EasyML
from chopmark.times import DAY, HOUR

Rows = NDArray[np.int64]

SERVED = ("probe", "trees", "fine-tuned", "from scratch")
"""Uses that read a history alone, the simplest first."""

HISTORY = "history"
"""List column that the saved models read."""

SPLITS = ("train", "valid", "test")

_LEAST = 4
_AGES = (3 * DAY, DAY, HOUR)
"""Ages of the events of a made-up history, microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Labelled users at instants.

    Attributes
    ----------
    users : (m,)
        Of the type that the histories have.
    as_of : (m,) int64
        Microseconds: what happened later is not read.
    y : (m,) int64
        1 or 0.
    train, valid, test : arrays of int64
        Row numbers; a user's rows are all in one of them, unless the table says otherwise.
    positive : str
        The value that 1 stands for.
    num_unknown : int
        Rows whose label is missing; they are left out.
    valid_is_drawn : bool
        Whether rows of valid were drawn, so that others would do as well.
    """

    users: pl.Series
    as_of: NDArray[np.int64]
    y: Rows
    train: Rows
    valid: Rows
    test: Rows
    positive: str
    num_unknown: int
    valid_is_drawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapted:
    """A model that is ready to be saved and served, and what it was chosen by.

    Attributes
    ----------
    model : Seq2Win or StaticEmbedding
        Reads the list column `history`.
    use : str
        The one of `SERVED` that it is.
    figures : polars.DataFrame
        A row for each use, best on test first: ``use``, ``served`` (whether it could be),
        ``valid_roc_auc`` (what chose: on rows of valid, or by cross-validation), then
        ``roc_auc``, ``pr_auc``, ``log_loss`` and ``calibration_error`` on the rows of test, and
        ``seconds`` of fitting.
    judged : dict of str to float
        The same four of the saved model itself, which has learned from the choosing rows too.
    error : float
        Standard error of its ROC-AUC.
    gain : (float, float) or None
        Its ROC-AUC less that of aggregates alone, on the rows of test, and the standard error
        of the difference; None if aggregates were not tried.
    example : list of dict
        A made-up history of words that the model knows, as JSON takes it.
    """

    model: Seq2Win | StaticEmbedding
    use: str
    figures: pl.DataFrame
    judged: dict[str, float | None]
    error: float
    gain: tuple[float, float] | None
    example: list[dict[str, Any]]


def read_labels(
    frame: pl.DataFrame,
    histories: Histories,
    *,
    label: str = "label",
    user: str = "user",
    positive: str | None = None,
    seed: int = 0,
) -> Labels:
    """Labels of users as numbers, and their parts.

    Parameters
    ----------
    frame
        Columns `user` and `label`; ``as_of`` (else the end of the histories); ``split`` with
        train, test and perhaps valid (else users are drawn: 60 % to learn from, 15 % to choose
        by, 25 % to judge by). Other columns are not read.
    positive
        Value of the label that is asked for, as text. Needed with more than two values; of two
        it is 1, true, or the second in sorted order.

    Raises
    ------
    InvalidTable
        If a column is missing or holds something else, nobody is known, or there are fewer
        than four users of each label.
    """
    for name in (user, label):
        if name not in frame.columns:
            raise InvalidTable(
                f"expected a column `{name}` in the labels" + did_you_mean(name, frame.columns)
            )
    known = frame.filter(pl.col(label).is_not_null())
    if known.is_empty():
        raise InvalidTable(f"expected rows with a label in `{label}`, got {frame.height} without")
    users = _users(known[user], histories)
    if "as_of" in known.columns:
        as_of = instants(known["as_of"])
    else:
        as_of = np.full(known.height, histories.until, dtype=np.int64)
    y, name = _codes(known[label], positive)
    valid_is_drawn = True
    if "split" in known.columns:
        split = known["split"].cast(pl.String)
        train, valid, test = _given_parts(split, users, y, seed)
        valid_is_drawn = not (split == "valid").any()
    else:
        learned, test = _by_user(np.arange(len(y)), users, y, 0.25, seed)
        train, valid = _by_user(learned, users, y, 0.2, seed + 1)
    return Labels(
        users=users,
        as_of=as_of,
        y=y,
        train=train,
        valid=valid,
        test=test,
        positive=name,
        num_unknown=frame.height - known.height,
        valid_is_drawn=valid_is_drawn,
    )


def adapt(
    user_model: UserModel,
    histories: Histories,
    labels: Labels | pl.DataFrame,
    *,
    methods: Sequence[str] = METHODS,
    training: Training | None = None,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Adapted:
    """Try all uses of a user model on labels, and make the best one that can be served.

    Parameters
    ----------
    labels
        As `read_labels` gives them; of a frame they are read so.
    methods
        Some of `uses.METHODS`; one of `SERVED` must be among them.
    on_progress
        Called with what comes, how much is done, and how much there is.

    Raises
    ------
    InvalidInput
        If no use of `SERVED` is among the methods, or the model is not fitted.
    InvalidTable
        If labels cannot be read.
    """
    able = [name for name in SERVED if name in methods]
    if not able:
        raise InvalidInput(
            f"expected a use among the methods that can be served ({', '.join(SERVED)}), got "
            f"{', '.join(methods) or 'none'}"
        )
    if isinstance(labels, pl.DataFrame):
        labels = read_labels(labels, histories, seed=seed)
    training = training or Training()
    total = len(methods) + 2

    def told(what: str, done: int) -> None:
        if on_progress is not None:
            on_progress(what, done, total)

    pieces = histories.slices(labels.users, labels.as_of)
    both = np.concatenate([labels.train, labels.valid])
    # Of few rows a share would be too few to choose by.
    crossed = labels.valid_is_drawn and len(both) <= FEW
    uses = choose(
        user_model,
        pieces[both],
        labels.y[both],
        valid=0.2 if crossed else np.arange(len(labels.train), len(both)),
        groups=labels.users.gather(both),
        methods=methods,
        training=training,
        blend=False,
        seed=seed,
        on_progress=lambda name, done, _: told(name or "judge on unseen users", done),
    )
    held = pieces[labels.test]
    figures = _figures(uses, held, labels.y[labels.test])
    use = best_of({name: uses.figures[name] for name in able})
    told(f"{use}, to be saved", len(methods) + 1)
    last = user_model.shape.length
    model = _model(use, user_model, training, seed)
    model.fit(_table(newest(pieces[both], last), labels.users.gather(both), labels.y[both]))
    found = model.predict_proba(_table(newest(held, last)))
    told("", total)
    y = labels.y[labels.test]
    _, error = gained(y, found, np.full_like(found, 0.5))
    told_of = judged(y, found)
    gain = None
    if "aggregates" in uses.figures:
        beside = uses.score(held, method="aggregates")
        gain = gained(y, found, np.column_stack([1.0 - beside, beside]))
    return Adapted(
        model=_telling(model, told_of),
        use=use,
        figures=figures,
        judged=told_of,
        error=error,
        gain=gain,
        example=_example(user_model),
    )


def _users(given: pl.Series, histories: Histories) -> pl.Series:
    """Names of the type that the histories have, some of them known there."""
    kind = histories.users.dtype
    if given.null_count():
        raise InvalidTable(f"expected a user in every row of `{given.name}`, got none in some")
    try:
        users = given.cast(kind)
    except pl.exceptions.PolarsError as error:
        raise InvalidTable(
            f"expected users as in the events ({kind}) in column `{given.name}` of the labels, "
            f"got {given.dtype}"
        ) from error
    if not users.is_in(histories.users.implode()).any():
        raise InvalidTable(
            f"expected labels of users who are in the events; not one of {users.n_unique()} is "
            f"there: the labels name `{users[0]}`, the events "
            f"{f'`{histories.users[0]}`' if len(histories) else 'nobody'}"
        )
    return users


def _codes(given: pl.Series, positive: str | None) -> tuple[Rows, str]:
    """(m,) 1 where the label is the asked one, and its name."""
    if given.dtype.is_float() and (given % 1 == 0).all():
        given = given.cast(pl.Int64)
    if not (given.dtype.is_integer() or given.dtype in (pl.Boolean, pl.String)):
        raise InvalidTable(
            f"expected 0 and 1, or texts, in the label `{given.name}`, got {given.dtype}"
        )
    values = [str(value) for value in given.unique().sort().to_list()]
    texts = pl.Series([str(value) for value in given.to_list()])
    if positive is None and len(values) > 2:
        some = ", ".join(values[:8]) + (", ..." if len(values) > 8 else "")
        raise InvalidTable(
            f"expected two labels in `{given.name}`, got {len(values)} ({some}); name the one to "
            "tell from all others (positive)"
        )
    if positive is None and len(values) == 2:
        positive = values[1]
    if len(values) < 2 or positive not in values:
        asked = "" if positive is None else f" and `{positive}` among them"
        raise InvalidTable(
            f"expected two different labels in `{given.name}`{asked}, got {', '.join(values)}"
        )
    return (texts == positive).to_numpy().astype(np.int64), positive


def _given_parts(split: pl.Series, users: pl.Series, y: Rows, seed: int) -> tuple[Rows, Rows, Rows]:
    strange = [name for name in split.unique().to_list() if name not in SPLITS]
    if strange:
        raise InvalidTable(
            f"expected {', '.join(SPLITS)} in the column `split` of the labels, got `{strange[0]}`"
        )
    train, valid, test = (np.flatnonzero((split == name).to_numpy()) for name in SPLITS)
    if not len(valid):
        train, valid = _by_user(train, users, y, 0.2, seed + 1)
    for name, rows in zip(SPLITS, (train, valid, test), strict=True):
        if len(np.unique(y[rows])) < 2:
            raise InvalidTable(
                f"expected rows of both labels with the split `{name}`, got {len(rows)} rows of "
                f"{len(np.unique(y[rows]))}"
            )
    return train, valid, test


def _by_user(rows: Rows, users: pl.Series, y: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Rows of some users and rows of the others, users with a 1 and without in equal shares."""
    names = users.gather(rows)
    frame = pl.DataFrame({"user": names, "y": y[rows]})
    each = frame.group_by("user", maintain_order=True).agg(pl.col("y").max())
    most = each["y"].to_numpy()
    for label in (0, 1):
        count = int((most == label).sum())
        if count < _LEAST:
            raise InvalidTable(
                f"expected at least {_LEAST} users with label {label} to learn from, to choose by "
                f"and to judge by, got {count} of {len(each)}; label more users"
            )
    held = each["user"].gather(stratified(most, test_share=share, seed=seed).test)
    out = names.is_in(held.implode()).to_numpy()
    return rows[~out], rows[out]


def _figures(uses: Uses, held: Slices, y: Rows) -> pl.DataFrame:
    views = uses.views(held)
    rows = []
    for name, told in uses.figures.items():
        scores = uses.score(views, method=name)
        found = judged(y, np.column_stack([1.0 - scores, scores]))
        rows.append(
            {
                "use": name,
                "served": name in SERVED,
                "valid_roc_auc": told["roc_auc"],
                **{figure: found[figure] for figure in FIGURES},
                "seconds": told["seconds"],
            }
        )
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.sort("roc_auc", descending=True, nulls_last=True, maintain_order=True)


def _model(
    use: str, user_model: UserModel, training: Training, seed: int
) -> Seq2Win | StaticEmbedding:
    if use in ("probe", "trees"):
        inner = EasyML(model="linear" if use == "probe" else "trees", groups="user", seed=seed)
        return StaticEmbedding(user_model, inner, column=HISTORY)
    tower, tokenizer = user_model.tower, user_model.tokenizer
    assert tower is not None and tokenizer is not None  # noqa: PT018
    pretrained = use == "fine-tuned"
    return Seq2Win(
        column=HISTORY,
        shape=user_model.shape,
        epochs=training.epochs,
        pace=training.fine if pretrained else training.scratch,
        budget=training.budget,
        seed=seed,
        groups="user",
        start=(tower, tokenizer) if pretrained else None,
    )


def _table(pieces: Slices, users: pl.Series | None = None, y: Rows | None = None) -> pl.DataFrame:
    """What a saved model is fitted to and reads."""
    columns = {HISTORY: pieces.to_lists()}
    known = {} if users is None else {"user": users}
    labels = {} if y is None else {"target": y}
    return pl.DataFrame({**known, **columns, **labels})


def _telling(
    model: Seq2Win | StaticEmbedding, figures: Mapping[str, float | None]
) -> Seq2Win | StaticEmbedding:
    """The model as its file will be, which tells what unseen users said of it: the rows that
    stopped its training flatter it."""
    artifact = model.scorer.artifact
    training = {**artifact.header["training"], "held_out": dict(figures)}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.chopmark"
        replace(artifact, header={**artifact.header, "training": training}).save(path)
        return type(model).load(path)


def _example(user_model: UserModel) -> list[dict[str, Any]]:
    """A made-up history of words that the model knows: nobody's own, and no field beside those."""
    tokenizer = user_model.tokenizer
    assert tokenizer is not None, "judged above by `choose`"
    events = []
    for place, age in enumerate(_AGES):
        words = {
            name: known[place % len(known)]
            for name, known in zip(tokenizer.fields, tokenizer.words, strict=True)
            if known
        }
        numbers = dict.fromkeys(tokenizer.sources, 10.0)
        events.append({"type": words.pop("type", ""), "age": age, **words, **numbers})
    return events
