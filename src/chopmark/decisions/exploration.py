"""Exploration: a few decisions get more than the curve gives, by chance, and it is written down.

Where a limit binds, the demand and the losses above it are never seen, and a curve that is
fitted to such a history believes that there are none. So a small share of decisions gets a
multiple of its limit, and each decision records the multiplier and the probability with
which it was drawn: its propensity. Weighting a decision by 1 / propensity makes the explored
ones stand for all, without bias (Horvitz and Thompson 1952).

The chance is a keyed hash of the event's id: a replay repeats it, a client who does not know
the key cannot pick a lucky id, though one who sends many events will draw many times. Give
it an id such as ``user/week`` to draw once for both.

References
----------
Daniel Horvitz, Donovan Thompson, "A generalization of sampling without replacement from a
finite universe", 1952.
"""

import math
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

from chopmark.errors import PolicyError


class Draw(NamedTuple):
    """What exploration did to a limit.

    Attributes
    ----------
    limit_usd : float
        In whole cents; the limit itself where nothing was explored.
    multiplier : float
        1 where nothing was explored.
    propensity : float
        Probability of this multiplier, in (0, 1].
    """

    limit_usd: float
    multiplier: float
    propensity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """A share of decisions whose limit is multiplied.

    Parameters
    ----------
    share : float, in [0, 0.5]
        Of decisions; 0 explores nothing.
    multipliers : tuple of float
        Rising, each above 1; each has an equal part of the share.
    name : str
        Two explorations of different names draw independently of each other.

    Examples
    --------
    >>> exploration = Exploration(share=0.5, multipliers=(2.0,))
    >>> exploration.draw("p-9", 100.0, cap_usd=1_000.0, key=b"secret")
    Draw(limit_usd=100.0, multiplier=1.0, propensity=0.5)
    >>> exploration.draw("p-8", 100.0, cap_usd=1_000.0, key=b"secret")
    Draw(limit_usd=200.0, multiplier=2.0, propensity=0.5)
    >>> exploration.draw("p-8", 100.0, cap_usd=150.0, key=b"secret")
    Draw(limit_usd=100.0, multiplier=1.0, propensity=1.0)
    """

    share: float = 0.01
    multipliers: tuple[float, ...] = (1.5, 2.0, 3.0)
    name: str = "limits"

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 0.5:
            raise PolicyError(
                f"expected a share of decisions from 0 to 0.5 to explore, got {self.share!r}"
            )
        steps = (1.0, *self.multipliers)
        if not self.multipliers or not all(low < high < math.inf for low, high in pairwise(steps)):
            raise PolicyError(f"expected multipliers that rise above 1, got {self.multipliers!r}")

    def draw(
        self,
        event_id: str,
        limit_usd: float,
        *,
        cap_usd: float,
        key: bytes,
        allowed: bool = True,
    ) -> Draw:
        """The limit for one event, perhaps multiplied, with the probability of that.

        Parameters
        ----------
        event_id : str
            Or whatever else the draw shall hold for.
        limit_usd : float
            Of the curve and its caps.
        cap_usd : float
            Never exceeded: a multiplier that would is not among those drawn from.
        key : bytes
            Up to 64 secret bytes, not empty.
        allowed : bool
            False for the banned, the locked and all others with whom nobody plays.
        """
        if not key:
            raise PolicyError("expected a secret key to draw with, got an empty one")
        open_to = [one for one in self.multipliers if limit_usd * one <= cap_usd]
        if not allowed or not open_to or self.share == 0.0:
            return Draw(limit_usd, 1.0, 1.0)
        chance = _uniform(f"{self.name}/{event_id}", key)
        if chance >= self.share:
            return Draw(limit_usd, 1.0, 1.0 - self.share)
        place = min(int(chance / self.share * len(open_to)), len(open_to) - 1)
        multiplier = open_to[place]
        # Down to whole cents, save what the product took from an exact one; never above the cap.
        cents = math.floor(limit_usd * multiplier * 100.0 + 1e-6)
        return Draw(min(cents / 100.0, cap_usd), multiplier, self.share / len(open_to))


def _uniform(text: str, key: bytes) -> float:
    """A number in [0, 1) that only the key's holder can foresee."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 9007199254740992.0
