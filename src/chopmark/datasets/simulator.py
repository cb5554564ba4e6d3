"""A simulated exchange with planted truth: honest users, and scenarios that act among them.

    simulation = simulate(num_users=2000, days=120, seed=0)
    for event in simulation.events(): ...
    simulation.truth            # who was what, which nobody in the exchange knows

Each component draws from its own random stream and names its users, cards and events in
its own space (`chopmark.datasets.book`), so the honest users' events are the same to the
byte whichever scenarios play beside them. Serves rows C1 to C14, F4, G18 and I10.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl

from chopmark.datasets import vocabulary as words
from chopmark.datasets.book import (
    MAX_NUMBER,
    NUM_STREAMS,
    Batch,
    Book,
    events_of,
    merge,
    mix,
    render,
)
from chopmark.datasets.browsing import draw_loadings
from chopmark.datasets.exchange import SCHEMA
from chopmark.datasets.honest import live
from chopmark.datasets.people import draw_people, make_families, open_accounts
from chopmark.datasets.scenarios import DEFAULT
from chopmark.datasets.sessions import Surroundings
from chopmark.datasets.world import Scenario, World
from chopmark.errors import DeclarationError, InvalidInput, did_you_mean
from chopmark.events import Event, type_name
from chopmark.times import DAY, instant

START = datetime(2026, 1, 1, tzinfo=UTC)


def simulate(
    *,
    num_users: int = 2000,
    days: int = 120,
    seed: int = 0,
    scenarios: Sequence[Scenario] = DEFAULT,
    fraud_scale: float = 1.0,
    start: datetime = START,
    settle: bool = True,
) -> "Simulation":
    """Let honest users and scenarios act for some days; the same seed gives the same bytes.

    Parameters
    ----------
    num_users : int, > 0
        Honest users who sign up; the scenarios' users come on top. A user makes about 95
        events in 120 days.
    days : int, >= 30
        Days on which users act.
    scenarios : sequence of Scenario
        What to plant. By default all of `DEFAULT`: fraud on nearly 2 % of the accounts, far
        more than an exchange has, so that small demos hold enough of it.
    fraud_scale : float, >= 0
        Multiplies the number of fraud accounts of every scenario (each plants at least
        three unless it is 0).
    start : datetime
        With a time zone.
    settle : bool
        Also give what becomes known after the last day (chargebacks come up to 180 days
        later). If False the log stops there, as a real one does today.

    Raises
    ------
    InvalidInput
        If a number is out of range.
    DeclarationError
        If two scenarios use the same random stream.

    Examples
    --------
    >>> simulation = simulate(num_users=50, days=30, scenarios=())
    >>> type(next(simulation.events())).__name__
    'Signup'
    """
    if not 0 < num_users <= MAX_NUMBER:
        raise InvalidInput(f"expected num_users from 1 to {MAX_NUMBER}, got {num_users}")
    if days < 30:
        raise InvalidInput(f"expected at least 30 days, got {days}; fraud needs time to play out")
    if fraud_scale < 0:
        raise InvalidInput(f"expected fraud_scale >= 0, got {fraud_scale}")
    _check_streams(scenarios)
    begin = instant(start)
    world, honest = _honest_world(num_users=num_users, days=days, seed=seed, begin=begin)
    world.fraud_scale = fraud_scale
    books = [honest]
    for scenario in scenarios:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(scenario.stream,)))
        book = Book(scenario.stream, scenario.name, world.end)
        scenario.play(world, book, rng)
        books.append(book)
    cut = None if settle else world.end
    return Simulation(books, world=world, salt=_salt(seed), cut=cut)


class Simulation:
    """Events in the order in which they become known, and the truth behind them.

    Attributes
    ----------
    num_events : int
    start, end : int
        Instants between which users act.
    world : World
        The honest population, for scenarios and tests.
    """

    def __init__(self, books: Sequence[Book], *, world: World, salt: int, cut: int | None) -> None:
        self.world = world
        self.start = world.start
        self.end = world.end
        self._books = books
        self._salt = salt
        by_type: dict[str, list[Batch]] = {}
        for book in books:
            for batch in book.batches:
                part = batch if cut is None else batch.take(batch.known_at < cut)
                if len(part.codes):
                    by_type.setdefault(type_name(batch.event_type), []).append(part)
        self._batches = {
            name: merge(by_type[name], salt=salt) for name in SCHEMA.types if name in by_type
        }
        self.num_events = sum(len(batch.codes) for batch in self._batches.values())

    def events(self) -> Iterator[Event]:
        """All events, ordered by ``known_at``, equal times by ``id``."""
        if not self._batches:
            return
        batches = list(self._batches.values())
        known_at = np.concatenate([batch.known_at for batch in batches])
        ids = np.concatenate([mix(batch.codes, salt=self._salt) for batch in batches])
        kinds = np.repeat(np.arange(len(batches)), [len(batch.codes) for batch in batches])
        order = kinds[np.lexsort((ids, known_at))]
        streams = [events_of(batch, salt=self._salt) for batch in batches]
        for kind in order.tolist():
            yield next(streams[kind])

    def frame(self, event_type: str) -> pl.DataFrame:
        """All events of a type as a table, in the same order: id, both times, the fields.

        Parameters
        ----------
        event_type : str
            Such as ``"purchase"``.
        """
        if event_type not in SCHEMA.types:
            raise InvalidInput(
                f"expected an event type of the exchange, got `{event_type}`"
                + did_you_mean(event_type, SCHEMA.types)
            )
        moments = pl.Datetime("us", "UTC")
        types: dict[str, type[pl.DataType] | pl.DataType] = {
            "number": pl.Float64,
            "boolean": pl.Boolean,
            "text": pl.String,
            "time": moments,
        }
        names = SCHEMA.fields_of[event_type]
        if event_type not in self._batches:
            schema = {"id": types["text"], "happened_at": types["time"], "known_at": types["time"]}
            schema |= {name: types[SCHEMA.fields[name].kind] for name in names}
            return pl.DataFrame(schema=schema)
        batch = self._batches[event_type]
        columns = [
            pl.Series("id", render("id", batch.codes, salt=self._salt)),
            pl.Series("happened_at", batch.happened_at).cast(moments),
            pl.Series("known_at", batch.known_at).cast(moments),
        ]
        for name in names:
            kind = SCHEMA.fields[name].kind
            if name in batch.fields:
                values = render(name, batch.fields[name], salt=self._salt)
            else:
                values = [None] * len(batch.codes)
            columns.append(pl.Series(name, values, dtype=types[kind]))
        return pl.DataFrame(columns)

    @property
    def truth(self) -> pl.DataFrame:
        """One row per user: what they are and when their account first served a fraud.

        Columns: user, scenario (``honest`` or the name of the one that planted them), role
        (customer, victim, fraudster), is_fraud (fraud happens on the account), ring (their
        group, or null), first_fraud_at (null if none).
        """
        rows: dict[int, tuple[str, str, str | None, int]] = {}
        for book in self._books:
            for told in book.truths:
                for user, ring, at in zip(
                    told.users.tolist(), told.rings, told.first_fraud_at.tolist(), strict=True
                ):
                    rows[user] = (told.scenario, told.role, ring, at)
        users = np.fromiter(rows, dtype=np.int64, count=len(rows))
        columns = list(zip(*rows.values(), strict=True)) if rows else [(), (), (), ()]
        first = pl.Series(columns[3], dtype=pl.Int64)
        return pl.DataFrame(
            {
                "user": pl.Series(render("user", users, salt=self._salt), dtype=pl.String),
                "scenario": pl.Series(columns[0], dtype=pl.String),
                "role": pl.Series(columns[1], dtype=pl.String),
                "is_fraud": first >= 0,
                "ring": pl.Series(columns[2], dtype=pl.String),
                "first_fraud_at": first.set(first < 0, None).cast(pl.Datetime("us", "UTC")),
            }
        )

    @property
    def event_truth(self) -> pl.DataFrame:
        """One row per purchase and withdrawal: id, event_type, is_fraud, scenario."""
        frames = []
        for name in ("purchase", "withdrawal"):
            if name in self._batches:
                batch = self._batches[name]
                frames.append(
                    pl.DataFrame(
                        {
                            "id": render("id", batch.codes, salt=self._salt),
                            "event_type": [name] * len(batch.codes),
                            "is_fraud": batch.is_fraud,
                            "scenario": pl.Series(batch.scenario.tolist(), dtype=pl.String),
                        }
                    )
                )
        return pl.concat(frames)

    @property
    def purchase_truth(self) -> pl.DataFrame:
        """One row per purchase: id, is_fraud, scenario."""
        return self.event_truth.filter(pl.col("event_type") == "purchase").drop("event_type")

    @property
    def tastes(self) -> pl.DataFrame:
        """One row per honest user: the latent vector that pulls towards assets."""
        people = self.world.people
        return pl.DataFrame(
            {
                "user": render("user", people.users, salt=self._salt),
                "taste": pl.Series(people.taste.tolist(), dtype=pl.List(pl.Float64)),
            }
        )

    @property
    def asset_factors(self) -> pl.DataFrame:
        """One row per asset: the latent vector to be multiplied with a user's taste."""
        factors = self.world.surroundings.loadings.tolist()
        return pl.DataFrame(
            {"asset": words.ASSETS, "factors": pl.Series(factors, dtype=pl.List(pl.Float64))}
        )


def _check_streams(scenarios: Sequence[Scenario]) -> None:
    taken = {0: "honest"}
    for scenario in scenarios:
        stream = scenario.stream
        if not 0 < stream < NUM_STREAMS:
            raise DeclarationError(
                f"scenario `{scenario.name}` has stream {stream}; expected 1 to {NUM_STREAMS - 1}"
            )
        if stream in taken:
            other = taken[stream]
            fault = "is played twice" if other == scenario.name else f"is taken by `{other}`"
            raise DeclarationError(
                f"stream {stream} of scenario `{scenario.name}` {fault}; each needs its own, "
                f"20 to {NUM_STREAMS - 1} are free for yours"
            )
        taken[stream] = scenario.name


def _honest_world(*, num_users: int, days: int, seed: int, begin: int) -> tuple[World, Book]:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    end = begin + days * DAY
    book = Book(0, "honest", end)
    # A third is there from the first two weeks on, as if the exchange had just opened.
    early = rng.random(num_users) < 0.35
    joined_days = np.where(early, rng.random(num_users) * 14, rng.random(num_users) * days * 0.97)
    joined = begin + (joined_days * DAY).astype(np.int64)
    people = draw_people(rng, book, joined=joined)
    make_families(rng, people)
    surroundings = Surroundings(
        end=end,
        shared_ips=book.new("ip", max(12, num_users // 40)),
        popular_wallets=book.new("address", 30),
        merchants=book.new("merchant", max(8, num_users // 200)),
        loadings=draw_loadings(rng),
    )
    open_accounts(rng, book, people)
    live(rng, book, people, surroundings)
    book.tell(people.users)
    world = World(start=begin, end=end, people=people, surroundings=surroundings)
    return world, book


def _salt(seed: int) -> int:
    return int(
        np.random.SeedSequence(seed, spawn_key=(NUM_STREAMS,)).generate_state(1, np.uint32)[0]
    )
