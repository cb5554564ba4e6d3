"""The world that a scenario enters, and what a scenario is."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from chopmark.datasets.book import Book, Instants
from chopmark.datasets.people import People
from chopmark.datasets.sessions import Surroundings


@dataclass(slots=True, kw_only=True)
class World:
    """What a scenario finds: the honest population and what all users share.

    Attributes
    ----------
    start, end : int
        Instants between which users act.
    people : People
        The honest users, whose lives are written already.
    fraud_scale : float
        Multiplies the number of fraud accounts.
    """

    start: int
    end: int
    people: People
    surroundings: Surroundings
    fraud_scale: float = 1.0

    def num_accounts(self, share: float, *, at_least: int = 3) -> int:
        """How many fraud accounts a share of the honest users is."""
        if self.fraud_scale == 0 or share == 0:
            return 0
        return max(at_least, round(len(self.people) * share * self.fraud_scale))

    def instants(
        self, rng: np.random.Generator, count: int, *, first: float = 0.03, last: float = 0.96
    ) -> Instants:
        """Instants spread evenly between two parts of the simulated time."""
        span = self.end - self.start
        drawn: Instants = self.start + (rng.uniform(first, last, count) * span).astype(np.int64)
        return drawn


class Scenario(Protocol):
    """What `simulate` plays; any object with these three members will do."""

    @property
    def name(self) -> str:
        """The name that the truth shows."""
        ...

    @property
    def stream(self) -> int:
        """Number of its random stream and of its space of names, 20 to 31 for your own."""
        ...

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write events and truth into the book."""
        ...
