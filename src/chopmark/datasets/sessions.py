"""Sessions: when users come, from which device and address; and what all of them share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chopmark.datasets.book import Codes, Column, Instants
from chopmark.datasets.people import People, at_hour_of_life
from chopmark.times import DAY, MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all users share.

    Attributes
    ----------
    end : int
        Instant at which the simulation stops.
    shared_ips : (m,) int64
        Addresses of mobile carriers and offices, each used by many.
    popular_wallets : (m,) int64
        Deposit addresses of large services.
    merchants : (m,) int64
    loadings : (num_assets, NUM_FACTORS) float64
        Vectors of the assets, to be multiplied with a user's taste.
    """

    end: int
    shared_ips: Codes
    popular_wallets: Codes
    merchants: Codes
    loadings: NDArray[np.float64]


@dataclass(slots=True)
class Sessions:
    """Sessions, one row each: of whom, when, from where.

    Attributes
    ----------
    rows : (n,) int64
        Row of the user among the people.
    """

    rows: NDArray[np.int64]
    starts: Instants
    devices: Codes
    ips: Codes
    screens: Column

    def take(self, chosen: NDArray[Any]) -> "Sessions":
        """Some of the sessions."""
        return Sessions(
            self.rows[chosen],
            self.starts[chosen],
            self.devices[chosen],
            self.ips[chosen],
            self.screens[chosen],
        )

    def place(self) -> dict[str, Column]:
        """The columns of an event that tell device and IP address."""
        return {"device": self.devices, "ip": self.ips}


def draw_sessions(rng: np.random.Generator, people: People, surroundings: Surroundings) -> Sessions:
    """Sessions of people between sign-up and the day they lose interest, ordered by user."""
    span = np.maximum(surroundings.end - people.joined, 0) / DAY
    active = np.minimum(span, rng.exponential(150, len(people)) + 1)
    # A few more than wanted, because the rhythm of the week thins them.
    counts = rng.poisson(np.minimum(people.activity, 6) * active * 1.15)
    rows = np.repeat(np.arange(len(people)), counts)
    days = people.joined[rows] + (rng.random(len(rows)) * active[rows] * DAY).astype(np.int64)
    starts, keep = at_hour_of_life(rng, days, people.countries[rows])
    keep &= (starts > people.joined[rows] + 30 * MINUTE) & (starts < surroundings.end)
    # The first session follows the sign-up at once.
    first = np.arange(len(people))
    rows = np.concatenate([rows[keep], first])
    soon = people.joined + rng.integers(2 * MINUTE, 40 * MINUTE, len(people))
    starts = np.concatenate([starts[keep], soon])
    order = np.lexsort((starts, rows))
    rows, starts = rows[order], starts[order]
    used = rng.choice(3, p=[0.72, 0.2, 0.08], size=len(rows)) % people.num_devices[rows]
    lease = ((starts // DAY + rows) // 30) % 3
    where = rng.random(len(rows))
    shared = surroundings.shared_ips[
        # Everyone has two of them: the phone's carrier and the office.
        (rows * 7 + rng.integers(2, size=len(rows)) * 3) % len(surroundings.shared_ips)
    ]
    ips = np.where(where < 0.35, shared, people.leases[rows, lease])
    away = where > 0.93
    ips[away] = rng.choice(people.leases[:, 2], size=int(away.sum()))
    return Sessions(rows, starts, people.devices[rows, used], ips, people.screens[rows, used])
