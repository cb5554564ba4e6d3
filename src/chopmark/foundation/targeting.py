"""Smart Targeting: whom to notify today, learned from who answered yesterday.

    campaign = SmartTargeting(learner, budget=500)
    for day in range(days):
        sent = campaign.plan(day, candidates)      # user, as_of -> whom, why, score
        campaign.answer(day, engaged)              # who of them engaged
        campaign.save("campaign.parquet")

Explore, train, target, iterate. On the first day nothing is known, of a new asset least of
all, so the whole budget goes to a random group. From then on a model is trained from scratch
each day on all answers so far, the best of the others are notified, and a small random group
is kept every day: it shows what would have been without the model, and teaches what the model
would never have tried.

Who is in the random group is decided by a keyed hash of user and day, over all who may be
notified that day, before any score is looked at. So the group is a fair sample of them, a day
that is planned again gives the same people, and `chopmark.report.write_campaign` may compare
the targeted with the random group of the same days without bias.

The whole state is one frame, `sent`: a row per message. Saved and opened again it goes on
where it was. Serves rows G25 to G31 of the requirements.
"""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.errors import InvalidInput, InvalidTable
from chopmark.models.artifact import write_whole

Scorer = Callable[[pl.DataFrame], NDArray[np.float64]]
Learn = Callable[[pl.DataFrame, NDArray[np.float64]], Scorer]
"""From rows (``user``, ``as_of``) and (n,) answers, 0 or 1, to a function from rows to scores."""

EXPLORE, TARGET = "explore", "target"
"""Values of the column ``why``: of the random group, or chosen by score."""

_SENT: dict[str, pl.DataType] = {
    "day": pl.Int64(),
    "as_of": pl.Datetime("us", "UTC"),
    "why": pl.String(),
    "score": pl.Float64(),
    "chance": pl.Float64(),
    "engaged": pl.Int8(),
}


@runtime_checkable
class Learner(Protocol):
    """What learns who engages. `fit` starts from scratch each time it is called."""

    def fit(self, rows: pl.DataFrame, engaged: NDArray[np.float64]) -> object:
        """Learn from rows (``user``, ``as_of``) and (n,) answers, 0 or 1."""

    def score(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """(n,) finite; the higher, the sooner notified."""


class SmartTargeting:
    """A campaign: decides day by day whom to notify.

    Parameters
    ----------
    learner : Learner or callable
        An object with `fit` and `score`, or a function of rows and answers that gives a
        function from rows to scores. It gets users and instants; what it reads of a user up
        to the instant is its own business.
    budget : int, > 0
        Messages per day; exactly as many are sent unless fewer users may be notified.
    explore : float in [0, 1]
        Share of the budget for the random group, rounded, at least one message if above 0.
    cap : int, > 0
        Messages to one user within `cap_days`.
    cap_days : int, > 0, optional
        None: in the whole campaign.
    least_engaged : int, >= 0
        As long as fewer have engaged, the whole budget goes to the random group. 0 asks the
        learner from the first day on, with no rows to learn from: for rules that learn nothing.
    seed : int
        Key of the random group; two campaigns of one seed have the same lucky users.

    Raises
    ------
    InvalidInput
        If a number is out of range.

    Examples
    --------
    >>> rows = pl.DataFrame({"user": ["ann", "bo", "cy"]})
    >>> campaign = SmartTargeting(lambda rows, engaged: lambda rows: np.ones(rows.height), budget=2)
    >>> campaign.plan(0, rows.with_columns(as_of=pl.datetime(2026, 1, 1)))["why"].to_list()
    ['explore', 'explore']
    """

    def __init__(
        self,
        learner: Learner | Learn,
        *,
        budget: int,
        explore: float = 0.1,
        cap: int = 1,
        cap_days: int | None = None,
        least_engaged: int = 5,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("budget", budget, 1),
            ("cap", cap, 1),
            ("cap_days", 1 if cap_days is None else cap_days, 1),
            ("least_engaged", least_engaged, 0),
        ):
            if not _is_whole(value) or value < least:
                raise InvalidInput(
                    f"expected {name}, a whole number of at least {least}, got {value!r}"
                )
        if not isinstance(explore, (int, float, np.floating)) or not 0.0 <= explore <= 1.0:
            raise InvalidInput(
                f"expected explore, a share of the budget, in [0, 1], got {explore!r}"
            )
        self.budget = budget
        self.explore = explore
        self.cap = cap
        self.cap_days = cap_days
        self.least_engaged = least_engaged
        self._learn = _learn_of(learner)
        self._codes = Codes(f"smart-targeting/{seed}".encode())
        self._sent: pl.DataFrame | None = None

    @property
    def sent(self) -> pl.DataFrame:
        """All messages so far, a row each, by day and then by rank.

        Columns: ``user``; ``day``; ``as_of``; ``why`` (explore or target); ``score`` (null in
        the random group); ``chance`` (with which the user could come into the random group of
        that day); ``engaged`` (0, 1, or null as long as the day is not answered).
        """
        if self._sent is None:
            return pl.DataFrame(schema={"user": pl.String(), **_SENT})
        return self._sent

    def plan(self, day: int, rows: pl.DataFrame) -> pl.DataFrame:
        """Whom to notify on a day; a day that was planned before is only read out.

        Parameters
        ----------
        day : int
            Not before a day that is planned already.
        rows : polars.DataFrame
            All who could be notified, one row each: ``user``, ``as_of``.

        Returns
        -------
        polars.DataFrame
            The rows of `sent` of that day.

        Raises
        ------
        InvalidInput
            If the day is no whole number or lies before one that was planned.
        InvalidTable
            If a column is missing or of another type, or a user is missing or there twice.
        """
        if not _is_whole(day):
            raise InvalidInput(f"expected a day as a whole number, got {day!r}")
        sent = self.sent
        known = sent.filter(pl.col("day") == day)
        if known.height:
            return known
        if sent.height and day < sent["day"][-1]:
            raise InvalidInput(
                f"expected a day from {sent['day'][-1]} on, got {day}: days are planned in their "
                "order"
            )
        rows = self._drawn(day, self._allowed(day, _candidates(rows, sent)))
        num_all = min(self.budget, rows.height)
        scorer = self._trained()
        num_random = num_all if scorer is None else self._num_random(num_all)
        random, others = rows.head(num_random), rows.slice(num_random)
        parts = [random.with_columns(why=pl.lit(EXPLORE), score=pl.lit(None, pl.Float64))]
        if scorer is not None:
            scores = _checked(scorer(others.select("user", "as_of")), others.height)
            # Equal scores stay in the order of their hashes: by chance, not by name.
            best = others.with_columns(why=pl.lit(TARGET), score=scores)
            best = best.sort("score", descending=True, maintain_order=True)
            parts.append(best.head(num_all - num_random))
        plan = pl.concat(parts).select(
            "user",
            pl.lit(day, pl.Int64).alias("day"),
            "as_of",
            "why",
            "score",
            pl.lit(num_random / max(rows.height, 1)).alias("chance"),
            pl.lit(None, pl.Int8).alias("engaged"),
        )
        self._sent = plan if self._sent is None else pl.concat([self._sent, plan])
        return plan

    def answer(self, day: int, engaged: Iterable[Any] | pl.Series) -> None:
        """Write down who of a day's users engaged; all others of that day did not (so far).

        May be called again: who engaged stays so, later ones are added.

        Raises
        ------
        InvalidInput
            If the day was not planned, somebody engaged who was not notified that day, or the
            users are of another kind than those who were, or null.
        """
        if not _is_whole(day):
            raise InvalidInput(f"expected a day as a whole number, got {day!r}")
        sent = self.sent
        on_day = pl.col("day") == day
        notified = sent.filter(on_day)["user"]
        if notified.is_empty():
            raise InvalidInput(f"expected a day that was planned, got {day}; call `plan` first")
        names = _names(engaged, sent.schema["user"])
        strangers = names.filter(~names.is_in(notified.implode()))
        if len(strangers):
            raise InvalidInput(
                f"expected answers of users notified on day {day}, got one of `{strangers[0]}`"
            )
        now = pl.col("user").is_in(names.implode()).cast(pl.Int8)
        before = pl.col("engaged").fill_null(0)
        answered = pl.when(on_day).then(pl.max_horizontal(now, before))
        self._sent = sent.with_columns(answered.otherwise("engaged").alias("engaged"))

    def save(self, path: str | Path) -> None:
        """Write `sent` to a Parquet file, whole or not at all.

        Raises
        ------
        ArtifactError
            If the folder does not exist or cannot be written.
        """
        memory = io.BytesIO()
        self.sent.write_parquet(memory)
        write_whole(Path(path), memory.getvalue())

    def resume(self, path: str | Path) -> "SmartTargeting":
        """Go on from a saved file; a file that does not exist yet is an empty campaign.

        Raises
        ------
        InvalidTable
            If the file cannot be read or is not of a campaign.
        """
        if not Path(path).exists():
            return self
        try:
            sent = pl.read_parquet(Path(path))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InvalidTable(f"expected a campaign saved at `{path}`: {error}") from error
        self._sent = check_sent(sent)
        return self

    def _allowed(self, day: int, rows: pl.DataFrame) -> pl.DataFrame:
        """Those who have had fewer messages than the cap."""
        if self._sent is None:
            return rows
        since = -(2**62) if self.cap_days is None else day - self.cap_days
        counts = self._sent.filter(pl.col("day") > since).group_by("user").len()
        full = counts.filter(pl.col("len") >= self.cap)
        return rows.join(full.select("user"), on="user", how="anti", maintain_order="left")

    def _drawn(self, day: int, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows in an order that depends on the key, the day and each user alone."""
        names = rows["user"].cast(pl.String)
        marks = (names + f"/{day}").to_arrow().cast("large_string")
        ordered = rows.with_columns(hash=self._codes.column(marks), name=names)
        return ordered.sort("hash", "name").select("user", "as_of")

    def _num_random(self, num_all: int) -> int:
        if self.explore == 0.0:
            return 0
        return min(num_all, max(1, round(self.explore * num_all)))

    def _trained(self) -> Scorer | None:
        """A scorer trained from scratch on all answers, or None if they are too few."""
        answered = self.sent.filter(pl.col("engaged").is_not_null())
        engaged = answered["engaged"].cast(pl.Float64).to_numpy()
        if engaged.sum() < self.least_engaged:
            return None
        return self._learn(answered.select("user", "as_of"), engaged)


def check_sent(sent: pl.DataFrame) -> pl.DataFrame:
    """The frame itself, by day, if it may be one of `SmartTargeting.sent`.

    Raises
    ------
    InvalidTable
        If a column is missing or of another type, a value is missing or none that is written
        there, or a user is there twice on one day.
    """
    if "user" not in sent.columns:
        raise InvalidTable("expected the messages of a campaign, got a table without `user`")
    for name, kind in _SENT.items():
        found = sent.schema.get(name)
        if found != kind:
            raise InvalidTable(
                f"expected the messages of a campaign with column `{name}` of {kind}, got "
                f"{'no such column' if found is None else found}"
            )
    users = sent.schema["user"]
    if users != pl.String and not users.is_integer():
        raise InvalidTable(
            f"expected the messages of a campaign with users as texts or whole numbers, got {users}"
        )
    random, chance = pl.col("why") == EXPLORE, pl.col("chance")
    for name, is_right, wanted in (
        ("user", pl.col("user").is_not_null(), "a user"),
        ("day", pl.col("day").is_not_null(), "a day"),
        ("as_of", pl.col("as_of").is_not_null(), "an instant"),
        ("why", pl.col("why").is_in([EXPLORE, TARGET]), f"{EXPLORE} or {TARGET}"),
        (
            "score",
            pl.when(random).then(pl.col("score").is_null()).otherwise(pl.col("score").is_finite()),
            f"a finite number for {TARGET} and none for {EXPLORE}",
        ),
        (
            "chance",
            # Without a random group nobody could come into it.
            chance.is_between(0.0, 1.0) & (~random | (chance > 0.0)),
            f"a share in [0, 1], above 0 for {EXPLORE}",
        ),
        ("engaged", pl.col("engaged").is_in([0, 1]) | pl.col("engaged").is_null(), "0, 1 or null"),
    ):
        wrong = sent.select((~is_right.fill_null(False)).arg_true()).to_series()
        if len(wrong):
            row = int(wrong[0])
            raise InvalidTable(
                f"expected the messages of a campaign with {wanted} in column `{name}`, got "
                f"{sent[name][row]} in row {row}"
            )
    twice = sent.filter(pl.struct("user", "day").is_duplicated())
    if twice.height:
        raise InvalidTable(
            f"expected one message to a user on a day, got several to `{twice['user'][0]}` on day "
            f"{twice['day'][0]}"
        )
    return sent.select("user", *_SENT).sort("day", maintain_order=True)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _names(engaged: Iterable[Any] | pl.Series, kind: pl.DataType) -> pl.Series:
    """Users as the campaign has them."""
    wanted = f"users who engaged, as {kind} like those who were notified"
    if isinstance(engaged, (str, bytes)):
        raise InvalidInput(f"expected {wanted}, in a list, got the one text {engaged!r}")
    try:
        names = pl.Series("user", list(engaged), dtype=kind)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"expected {wanted}, got others: {error}") from error
    if names.null_count():
        raise InvalidInput(f"expected {wanted}, got a null")
    return names


def _learn_of(learner: Learner | Learn) -> Learn:
    if not isinstance(learner, Learner):
        return learner
    fitted = learner

    def learn(rows: pl.DataFrame, engaged: NDArray[np.float64]) -> Scorer:
        fitted.fit(rows, engaged)
        return fitted.score

    return learn


def _candidates(rows: pl.DataFrame, sent: pl.DataFrame) -> pl.DataFrame:
    for name in ("user", "as_of"):
        if name not in rows.columns:
            raise InvalidTable(
                f"expected candidates with column `{name}`, got {', '.join(rows.columns)}"
            )
        if rows[name].null_count():
            raise InvalidTable(f"expected a `{name}` in each row of the candidates, got a null")
    twice = rows["user"].is_duplicated()
    if twice.any():
        raise InvalidTable(
            f"expected one row per user, got several of `{rows['user'].filter(twice)[0]}`"
        )
    users, before = rows.schema["user"], sent.schema["user"]
    if users != pl.String and not users.is_integer():
        raise InvalidTable(f"expected users as texts or whole numbers, got {users}")
    if sent.height and users != before:
        raise InvalidTable(f"expected users of type {before}, as on the days before, got {users}")
    kind = rows.schema["as_of"]
    if not isinstance(kind, pl.Datetime):
        raise InvalidTable(f"expected instants in column `as_of`, got {kind}")
    at = pl.col("as_of")
    zoned = at.dt.replace_time_zone("UTC") if kind.time_zone is None else at
    return rows.select("user", zoned.dt.convert_time_zone("UTC").dt.cast_time_unit("us"))


def _checked(scores: Any, num_rows: int) -> pl.Series:
    found = np.asarray(scores, dtype=np.float64)
    if found.shape != (num_rows,):
        raise InvalidInput(
            f"expected the learner to give {num_rows} scores, one per row, got {found.shape}"
        )
    if not np.isfinite(found).all():
        bad = int(np.flatnonzero(~np.isfinite(found))[0])
        raise InvalidInput(f"expected finite scores of the learner, got {found[bad]} for row {bad}")
    return pl.Series("score", found)
