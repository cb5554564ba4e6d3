"""The front end: page views, price alerts, notifications, and the tastes that drive them.

A user's taste is a vector and an asset has one too; their product says what is looked at,
bought and opened, and the truth of the simulation shows both. Serves rows B1, B6 and G18.
"""

import numpy as np
from numpy.typing import NDArray

from chopmark.datasets import vocabulary as words
from chopmark.datasets.book import Book, Column, Instants
from chopmark.datasets.exchange import NotificationOpened, NotificationSent, PageView, PriceAlert
from chopmark.datasets.people import NUM_FACTORS, People
from chopmark.datasets.sessions import Sessions
from chopmark.times import DAY, MINUTE, SECOND


class Tastes:
    """Draws assets by popularity and by the product of a user's and an asset's vector.

    Parameters
    ----------
    taste : (n, NUM_FACTORS) float64
    loadings : (num_assets, NUM_FACTORS) float64
    """

    def __init__(self, taste: NDArray[np.float64], loadings: NDArray[np.float64]) -> None:
        popularity = -0.9 * np.log(np.arange(len(loadings)) + 1.5)
        self.affinity = taste @ loadings.T
        weights = np.exp(popularity + self.affinity)
        self._cumulative = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
        self._assets = np.array(words.ASSETS, dtype=object)

    def draw(self, rng: np.random.Generator, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of assets for the people of the given rows."""
        drawn = np.empty(len(rows), dtype=np.int64)
        for start in range(0, len(rows), 65_536):
            part = rows[start : start + 65_536]
            below = self._cumulative[part] < rng.random(len(part))[:, None]
            drawn[start : start + 65_536] = below[:, :-1].sum(axis=1)
        return drawn

    def names(self, rng: np.random.Generator, rows: NDArray[np.int64]) -> Column:
        """Names of drawn assets."""
        drawn: Column = self._assets[self.draw(rng, rows)]
        return drawn


def draw_loadings(rng: np.random.Generator) -> NDArray[np.float64]:
    """Vectors of the assets, (num_assets, NUM_FACTORS)."""
    return rng.normal(scale=0.7, size=(len(words.ASSETS), NUM_FACTORS))


def browse(
    rng: np.random.Generator,
    book: Book,
    people: People,
    sessions: Sessions,
    tastes: Tastes,
    *,
    mean_views: float = 2.6,
) -> Instants:
    """Write the page views of sessions; gives when each session is through with them."""
    views = rng.geometric(1 / mean_views, len(sessions.rows))
    owner = np.repeat(np.arange(len(views)), views)
    rows = sessions.rows[owner]
    seconds = np.clip(rng.lognormal(np.log(18), 1.0, len(owner)), 1, 1500).astype(np.int64)
    gaps = seconds * SECOND + rng.integers(SECOND // 5, 4 * SECOND, len(owner))
    total = np.cumsum(gaps)
    ends = np.cumsum(views) - 1
    before = np.concatenate([[0], total[ends][:-1]])
    happened_at = sessions.starts[owner] + total - gaps - before[owner] + SECOND
    pages = words.draw(rng, words.PAGES, len(owner))
    about_asset = np.isin(pages, ["asset", "buy", "news"])
    assets = words.where(about_asset, tastes.names(rng, rows))
    book.add(
        PageView,
        {"user": people.users[rows], "page": pages, "asset": assets, "view_seconds": seconds},
        happened_at=happened_at,
        rng=rng,
    )
    done: Instants = sessions.starts + total[ends] - before + 3 * SECOND
    return done


def ask_for_alerts(
    rng: np.random.Generator, book: Book, people: People, sessions: Sessions, tastes: Tastes
) -> None:
    """Write price alerts that users ask for in a tenth of their sessions."""
    some = np.flatnonzero(rng.random(len(sessions.rows)) < 0.1)
    rows = sessions.rows[some]
    book.add(
        PriceAlert,
        {
            "user": people.users[rows],
            "asset": tastes.names(rng, rows),
            "direction": words.pick(rng, ("above", "below"), len(rows)),
        },
        happened_at=sessions.starts[some] + rng.integers(10 * SECOND, 5 * MINUTE, len(some)),
        rng=rng,
    )


def notify(
    rng: np.random.Generator, book: Book, people: People, tastes: Tastes, *, end: int
) -> None:
    """Write messages to anyone about anything; taste decides who opens them."""
    span = np.maximum(end - people.joined, 0)
    rows = np.repeat(np.arange(len(people)), rng.poisson(span / DAY * 0.09))
    sent_at = people.joined[rows] + (rng.random(len(rows)) * span[rows]).astype(np.int64)
    assets = rng.integers(len(words.ASSETS), size=len(rows))
    names = np.array(words.ASSETS, dtype=object)[assets]
    sent = book.add(
        NotificationSent, {"user": people.users[rows], "asset": names}, happened_at=sent_at
    )
    pull = -2.2 + 1.1 * tastes.affinity[rows, assets] + 0.5 * np.log(people.activity[rows] / 0.22)
    delay = rng.lognormal(np.log(40 * MINUTE), 1.5, len(rows)).astype(np.int64)
    opened = rng.random(len(rows)) < 1 / (1 + np.exp(-pull))
    opened &= sent_at + delay < end
    book.add(
        NotificationOpened,
        {"user": people.users[rows[opened]], "asset": names[opened], "about": sent[opened]},
        happened_at=(sent_at + delay)[opened],
        rng=rng,
    )
