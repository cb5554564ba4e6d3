"""A campaign on the simulated exchange: messages about an asset that was listed today.

Nobody has ever looked at the asset, bought it or opened a message about it. Users have tastes
(`chopmark.datasets.browsing`), and the new asset has a vector like all others; nobody in the
exchange sees either. When user u gets a message on day d, the chance that they engage is

    base * exp(pull * z - pull**2 / 2) * recency / (its mean on the first day) * mood

z : product of the taste of u and the asset's vector of that day, over the vector's length: a
    standard normal number over all users. The vector turns a little from day to day, as news
    about the asset change.
recency : 0.4 + 1.6 * exp(-days since the last own event / 4): who was here lately looks at
    messages.
mood : of the day, the same for all users, log-normal.

Chances end at 0.6. Whether a user engages is drawn by a keyed hash of the user and the day:
every strategy that notifies the same user on the same day gets the same answer, so strategies
are compared in pairs, and a day can be played again. Users live on meanwhile; messages do
not change what they do. Serves rows G25 to G29 of the requirements.
"""

from collections.abc import Iterable
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.datasets.people import NUM_FACTORS
from chopmark.datasets.sequences import INSTANT
from chopmark.datasets.simulated import exchange_events
from chopmark.datasets.simulator import simulate
from chopmark.errors import InvalidInput
from chopmark.times import DAY

OWN = pl.col("type") != "notification_sent"
"""Which events are of the user's own doing: a message that the exchange sent is not."""

_LENGTH = 1.4  # of the vector of an asset, about the mean of the others
_MOST = 0.6


class Campaign:
    """Users, what they do day by day, and what they answer when they are notified.

    Parameters
    ----------
    num_users : int, > 0
        Who sign up over the whole span; most are there when the campaign begins.
    warm_days : int, >= 30
        Days of history before the campaign.
    days : int, > 0
        Days of the campaign, numbered from 0.
    base : float in (0, 0.2]
        Mean chance to engage on the first day.
    pull : float, >= 0
        How much taste matters: standard deviation of the logarithm of the chance.
    turn : float, >= 0
        How far the asset's vector turns per day, in radians.
    seed : int
        The same seed gives the same campaign.

    Attributes
    ----------
    events : polars.DataFrame
        Of all users over the whole span (``user``, ``happened_at``, ``type``, fields), as
        `chopmark.datasets.simulated.exchange_events` gives them. Who decides on a day reads
        those with ``happened_at <= as_of`` only.

    Raises
    ------
    InvalidInput
        If a number is out of range.

    Examples
    --------
    >>> campaign = Campaign(num_users=200, warm_days=30, days=2)
    >>> rows = campaign.candidates(0)
    >>> rows.columns, 0 <= len(campaign.engaged(0, rows["user"])) < rows.height
    (['user', 'as_of'], True)
    """

    def __init__(
        self,
        num_users: int = 5000,
        *,
        warm_days: int = 60,
        days: int = 7,
        base: float = 0.02,
        pull: float = 1.2,
        turn: float = 0.04,
        seed: int = 0,
    ) -> None:
        if warm_days < 30 or days < 1:
            raise InvalidInput(
                f"expected warm_days of at least 30 and days of at least 1, got {warm_days} "
                f"and {days}"
            )
        if not 0 < base <= 0.2 or pull < 0 or turn < 0:
            raise InvalidInput(
                f"expected base above 0 and up to 0.2, pull and turn of at least 0, got {base}, "
                f"{pull} and {turn}"
            )
        simulation = simulate(
            num_users=num_users, days=warm_days + days, seed=seed, scenarios=(), settle=False
        )
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(33,)))
        self.days = days
        self.events = exchange_events(simulation)
        self._base = base
        self._pull = pull
        self._begin = simulation.start + warm_days * DAY
        self._codes = Codes(f"campaign/{seed}".encode())
        people = simulation.tastes
        joined = simulation.frame("signup").select("user", joined="happened_at")
        self._users = people.select("user").join(joined, on="user", maintain_order="left")
        self._taste = simulation.world.people.taste
        self._vectors = _turning(rng, days, turn)
        self._moods = np.exp(rng.normal(scale=0.15, size=days))
        # Times of events by row of the user, for the recency of any day.
        rows = pl.DataFrame({"user": people["user"], "row": np.arange(people.height)})
        told = self.events.filter(OWN).join(rows, on="user", how="inner")
        self._event_rows = told["row"].to_numpy()
        self._event_times = told["happened_at"].to_physical().to_numpy()
        here = self._here(0)
        self._mean_recency = float(self._recency(0)[here].mean())

    def as_of(self, day: int) -> datetime:
        """The instant at which the messages of a day are sent."""
        return pl.Series([self._at(day)]).cast(INSTANT).item()  # type: ignore[no-any-return]

    def candidates(self, day: int) -> pl.DataFrame:
        """Who could be notified: ``user`` and ``as_of``, a row per user with an account by then."""
        names = self._users.filter(pl.Series(self._here(day)))["user"]
        return pl.DataFrame({"user": names}).with_columns(as_of=pl.lit(self._at(day)).cast(INSTANT))

    def engaged(self, day: int, users: Iterable[str] | pl.Series) -> list[str]:
        """Who of the users engages, within the day, if all of them are notified.

        Raises
        ------
        InvalidInput
            If the campaign has no such day or a user is unknown or not there yet.
        """
        names = pl.Series("user", users, dtype=pl.String)
        chances = self.chances(day, names)
        marks = (names + f"/{day}").to_arrow().cast("large_string")
        drawn = (self._codes.column(marks).view(np.uint64) >> np.uint64(11)) / 2.0**53
        return names.filter(pl.Series(drawn < chances)).to_list()

    def chances(self, day: int, users: Iterable[str] | pl.Series) -> NDArray[np.float64]:
        """(n,) the true chance of each user to engage on a day, which no strategy may see.

        Raises
        ------
        InvalidInput
            If the campaign has no such day or a user is unknown or not there yet.
        """
        all_rows = (
            self._users.select("user").with_row_index("row").filter(pl.Series(self._here(day)))
        )
        asked = pl.DataFrame({"user": pl.Series(users, dtype=pl.String)})
        rows = asked.join(all_rows, on="user", how="left", maintain_order="left")["row"]
        if rows.null_count():
            unknown = asked["user"].filter(rows.is_null())[0]
            raise InvalidInput(
                f"expected users with an account on day {day}, got `{unknown}`; notify "
                "those of `candidates` only"
            )
        chances: NDArray[np.float64] = self._chances(day)[rows.to_numpy()]
        return chances

    def _chances(self, day: int) -> NDArray[np.float64]:
        z = self._taste @ self._vectors[day] / _LENGTH
        taste = np.exp(self._pull * z - self._pull**2 / 2)
        recency = self._recency(day) / self._mean_recency
        raw = self._base * taste * recency * self._moods[day]
        chances: NDArray[np.float64] = np.minimum(raw, _MOST)
        return chances

    def _recency(self, day: int) -> NDArray[np.float64]:
        at = self._at(day)
        last = np.full(len(self._taste), -(2**60), dtype=np.int64)
        before = self._event_times <= at
        np.maximum.at(last, self._event_rows[before], self._event_times[before])
        recency: NDArray[np.float64] = 0.4 + 1.6 * np.exp(-(at - last) / (4 * DAY))
        return recency

    def _here(self, day: int) -> NDArray[np.bool_]:
        joined = self._users["joined"].to_physical().to_numpy()
        here: NDArray[np.bool_] = joined <= self._at(day)
        return here

    def _at(self, day: int) -> int:
        if not 0 <= day < self.days:
            raise InvalidInput(f"expected a day from 0 to {self.days - 1}, got {day}")
        return self._begin + day * DAY


def hand_picked(events: pl.DataFrame, rows: pl.DataFrame) -> NDArray[np.bool_]:
    """The heuristic of a marketing team: active in the last 7 days, and holds over 100 dollars.

    What somebody holds is what they bought less what they sold and withdrew, of any asset.

    Parameters
    ----------
    events : polars.DataFrame
        ``user``, ``happened_at``, ``type``, ``amount_usd``.
    rows : polars.DataFrame
        ``user``, ``as_of``.

    Returns
    -------
    (n,) bool
    """
    instants = rows["as_of"].unique()
    if instants.is_empty():
        return np.zeros(0, dtype=np.bool_)
    chosen = pl.concat([_picked(events, at) for at in instants])
    marked = rows.select("user", "as_of").join(
        chosen.with_columns(picked=True),
        on=["user", "as_of"],
        how="left",
        maintain_order="left",
    )
    picked: NDArray[np.bool_] = marked["picked"].fill_null(False).to_numpy()
    return picked


def _picked(events: pl.DataFrame, at: datetime) -> pl.DataFrame:
    amount = pl.col("amount_usd").fill_null(0.0)
    signed = (
        pl.when(pl.col("type") == "purchase")
        .then(amount)
        .when(pl.col("type").is_in(["sale", "withdrawal"]))
        .then(-amount)
        .otherwise(0.0)
    )
    own = pl.col("happened_at").filter(OWN)
    return (
        events.lazy()
        .filter(pl.col("happened_at") <= at)
        .group_by("user")
        .agg(last=own.max(), holds=signed.sum())
        .filter(pl.col("last") >= at - pl.duration(days=7), pl.col("holds") > 100.0)
        .select("user", as_of=pl.lit(at).cast(INSTANT))
        .collect()
    )


def _turning(rng: np.random.Generator, days: int, turn: float) -> NDArray[np.float64]:
    """(days, NUM_FACTORS) vectors of equal length, each turned from the one before."""
    vectors = np.empty((days, NUM_FACTORS))
    now = rng.normal(size=NUM_FACTORS)
    for day in range(days):
        now = now / np.linalg.norm(now)
        vectors[day] = _LENGTH * now
        aside = rng.normal(size=NUM_FACTORS)
        aside -= (aside @ now) * now
        now = now * np.cos(turn) + aside / np.linalg.norm(aside) * np.sin(turn)
    return vectors
