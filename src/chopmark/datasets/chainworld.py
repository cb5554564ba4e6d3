"""The stage of the simulated chain: who is there, what they pay, and how time runs.

Addresses are numbers inside (places in the `Cast`) and become texts once, at the end. Times are
seconds since the first day. Nobody's balance is kept: the chain began before the first day.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ids = NDArray[np.int64]  # (n,) places in the cast
Floats = NDArray[np.float64]

HOUR = 3600.0
DAY = 24 * HOUR
NO_TOKEN = -1


@dataclass(slots=True)
class Cast:
    """All addresses with the role that each plays.

    Attributes
    ----------
    roles, groups : list
        By place; a group is the name of a structure that acts together, or None.
    illicit : list of bool
    given : dict of int to str
        Names that came from outside, such as the wallets of the exchange's users.
    alike : dict of int to int
        Places whose names are made to look like another's (address poisoning).
    """

    roles: list[str] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    illicit: list[bool] = field(default_factory=list)
    given: dict[int, str] = field(default_factory=dict)
    alike: dict[int, int] = field(default_factory=dict)

    def new(self, role: str, count: int, *, group: str | None = None, illicit: bool = False) -> Ids:
        """Places of some new addresses of one role."""
        first = len(self.roles)
        self.roles += [role] * count
        self.groups += [group] * count
        self.illicit += [illicit] * count
        return np.arange(first, first + count, dtype=np.int64)

    def names(self, rng: np.random.Generator) -> list[str]:
        """``0x`` and 40 digits for each; a look-alike shares the first 5 and the last 5 digits."""
        count = len(self.roles)
        digits = rng.bytes(20 * count).hex()
        names = ["0x" + digits[40 * i : 40 * i + 40] for i in range(count)]
        for place, name in self.given.items():
            names[place] = name
        for place, model in self.alike.items():
            names[place] = names[model][:7] + names[place][7:37] + names[model][37:42]
        return names


@dataclass(slots=True)
class Payments:
    """What was paid: one transaction for each row, with the token transfers that it causes."""

    _rows: list[tuple[Ids, Ids, Floats, Floats]] = field(default_factory=list)
    _logs: list[tuple[Ids, Ids, Floats, Ids, Ids]] = field(default_factory=list)
    count: int = 0

    def pay(self, senders: ArrayLike, receivers: ArrayLike, amounts: Any, at: Any) -> Ids:
        """Add payments of the chain's own coin; the arguments are broadcast. Their numbers."""
        src, dst, coins, seconds = np.broadcast_arrays(
            np.asarray(senders, dtype=np.int64), np.asarray(receivers, dtype=np.int64),
            np.asarray(amounts, dtype=np.float64), np.asarray(at, dtype=np.float64),
        )  # fmt: skip
        self._rows.append((src.ravel(), dst.ravel(), coins.ravel(), seconds.ravel()))
        first = self.count
        self.count += src.size
        return np.arange(first, self.count, dtype=np.int64)

    def log(
        self, payments: Ids, senders: ArrayLike, receivers: ArrayLike, amounts: Any, token: int
    ) -> None:
        """Add token transfers that the payments of these numbers cause."""
        number, src, dst, coins = np.broadcast_arrays(
            payments, np.asarray(senders, dtype=np.int64), np.asarray(receivers, dtype=np.int64),
            np.asarray(amounts, dtype=np.float64),
        )  # fmt: skip
        of = np.full(number.size, token, dtype=np.int64)
        self._logs.append((src.ravel(), dst.ravel(), coins.ravel(), number.ravel(), of))

    def rows(self) -> tuple[Ids, Ids, Floats, Floats]:
        """Senders, receivers, amounts and seconds of all payments."""
        src, dst, amounts, at = (np.concatenate(parts) for parts in zip(*self._rows, strict=True))
        return src, dst, amounts, at

    def logs(self) -> tuple[Ids, Ids, Floats, Ids, Ids]:
        """Senders, receivers, amounts, payments and tokens of all token transfers."""
        if not self._logs:
            none = np.zeros(0, dtype=np.int64)
            return none, none, np.zeros(0), none, none
        src, dst, amounts, numbers, tokens = (
            np.concatenate(parts) for parts in zip(*self._logs, strict=True)
        )
        return src, dst, amounts, numbers, tokens


@dataclass(slots=True, kw_only=True)
class Stage:
    """What all players share.

    Attributes
    ----------
    span : float
        Seconds until the last day ends.
    weekday : int
        Of the first day; Monday is 0.
    people : (p,) int64
    fame : (p,) float64
        Chance that a payment goes to each, heavy-tailed.
    hot : (h,) int64
        Hot wallets of exchanges; the first is that of our exchange.
    deposits : (d,) int64
        Deposit addresses, each swept to ``swept_to`` of the same place.
    mixers, cashouts : int64
    zero : int
        The address from which new tokens come.
    """

    span: float
    weekday: int
    cast: Cast
    paid: Payments
    people: Ids
    fame: Floats
    hot: Ids
    deposits: Ids
    swept_to: Ids
    mixers: Ids
    zero: int
    cashouts: Ids

    def clock(self, rng: np.random.Generator, homes: Floats) -> Floats:
        """Seconds at which people act: fewer at weekends, and around their own hour of the day.

        Parameters
        ----------
        homes : (n,) float64
            The hour around which each actor is awake.
        """
        days = np.arange(round(self.span / DAY))
        weight = np.where((days + self.weekday) % 7 < 5, 1.0, 0.7)
        day = rng.choice(days, size=len(homes), p=weight / weight.sum())
        hour = rng.normal(homes, 4.0) % 24
        seconds: Floats = day * DAY + hour * HOUR
        return seconds

    def some_people(self, rng: np.random.Generator, count: int) -> Ids:
        """Payers or payees, the famous more often."""
        chosen: Ids = rng.choice(self.people, size=count, p=self.fame)
        return chosen

    def deposit(self, rng: np.random.Generator, senders: ArrayLike, amounts: Any, at: Any) -> None:
        """Pay into an exchange: to one's deposit address, which is swept within hours."""
        src, coins, seconds = np.broadcast_arrays(
            np.asarray(senders, dtype=np.int64), np.asarray(amounts, dtype=np.float64),
            np.asarray(at, dtype=np.float64),
        )  # fmt: skip
        src, coins, seconds = src.ravel(), coins.ravel(), seconds.ravel()
        # One owner, one deposit address, with no table of owners.
        place = (src * 2_654_435_761) % len(self.deposits)
        self.paid.pay(src, self.deposits[place], coins, seconds)
        later = seconds + rng.lognormal(np.log(0.7 * HOUR), 0.9, len(src))
        self.paid.pay(self.deposits[place], self.swept_to[place], coins * 0.999, later)

    def mix(
        self, rng: np.random.Generator, sender: int, amount: float, at: float, exits: Ids
    ) -> None:
        """Pay into a mixer in its fixed sizes; days later the same sizes reach the exits."""
        size = 10.0 if amount >= 20 else 1.0 if amount >= 2 else 0.1
        count = int(np.clip(amount // size, 1, 10))
        mixer = rng.choice(self.mixers)
        paid_at = at + np.cumsum(rng.lognormal(np.log(300.0), 0.8, count))
        self.paid.pay(sender, mixer, size, paid_at)
        out_at = paid_at + rng.lognormal(np.log(2 * DAY), 1.0, count)
        self.paid.pay(mixer, rng.choice(exits, size=count), size * 0.997, out_at)
