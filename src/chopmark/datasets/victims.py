"""Scenarios that happen to honest users' accounts: take-over, and coached withdrawals.

The accounts are months old and their owners' own events go on unchanged. The two scenarios
choose among different users, so that no account suffers both.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chopmark.datasets import vocabulary as words
from chopmark.datasets.aftermath import dispute, judge
from chopmark.datasets.book import Book, Instants
from chopmark.datasets.exchange import (
    Login,
    PageView,
    PasswordReset,
    Purchase,
    SimChanged,
    Withdrawal,
)
from chopmark.datasets.people import NEVER, People, dollars, payment_fields
from chopmark.datasets.world import World
from chopmark.times import DAY, HOUR, MINUTE, SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTakeover:
    """The phone number is ported, the password reset, an old account emptied (C4, I2).

    The thief comes from a new device within hours of the port and withdraws what is there
    to a new wallet; half of them first buy with the stored payment method.
    """

    share: float = 0.0015
    name: ClassVar[str] = "account_takeover"
    stream: ClassVar[int] = 6

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write take-overs in the last third of the time, of accounts from the first third."""
        victims, at = _old_accounts(rng, world, self.share, remainder=0)
        count = len(victims)
        place = {
            "user": victims.users,
            "device": book.new("device", count),
            "ip": np.where(
                rng.random(count) < 0.5,
                rng.choice(world.surroundings.shared_ips, size=count),
                book.new("ip", count),
            ),
        }
        screen = {"screen_resolution": words.draw(rng, words.SCREENS, count)}
        book.add(
            SimChanged,
            {"user": victims.users, "carrier": words.draw(rng, words.CARRIERS, count)},
            happened_at=at,
        )
        at = at + rng.integers(15 * MINUTE, 4 * HOUR, count)
        book.add(PasswordReset, place, happened_at=at)
        at = at + rng.integers(MINUTE, 10 * MINUTE, count)
        book.add(Login, {**place, **screen}, happened_at=at)
        bought = _buy_with_stored_method(rng, book, victims, {**place, **screen}, at + 5 * MINUTE)
        first_at = np.where(bought, at + 5 * MINUTE, NEVER)
        for _ in range(2):
            at = at + rng.integers(8 * MINUTE, 90 * MINUTE, count)
            book.add(
                Withdrawal,
                {
                    **place,
                    **screen,
                    "address": book.new("address", count),
                    "asset": words.pick(rng, ("BTC", "ETH", "USDC"), count),
                    "amount_usd": dollars(rng, victims.log_spend + 1.6),
                    "on_call": np.zeros(count, dtype=np.bool_),
                },
                happened_at=at,
                is_fraud=True,
            )
            first_at = np.minimum(first_at, at)
        told = rng.random(count) < 0.6
        lag = rng.lognormal(np.log(1.5 * DAY), 0.8, int(told.sum())).astype(np.int64)
        judge(rng, book, users=victims.users[told], at=at[told] + lag, verdict="bad")
        book.tell(victims.users, role="victim", first_fraud_at=first_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScamVictims:
    """Somebody on the phone talks a user into a large withdrawal (I2: the scam model).

    The device and the address are the user's own and there is no chargeback. What is to be
    seen: the same page open for long, a call in progress, an unusual amount, a wallet that
    is new to the user and perhaps known from the scam's other victims.
    """

    share: float = 0.0015
    name: ClassVar[str] = "scam_victims"
    stream: ClassVar[int] = 7

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write coached sessions; three victims on average pay to the same wallet."""
        victims, at = _old_accounts(rng, world, self.share, remainder=1)
        count = len(victims)
        scams = rng.integers(max(1, count // 3), size=count)
        wallets = book.new("address", int(scams.max(initial=0)) + 1)[scams]
        place = {
            "user": victims.users,
            "device": victims.devices[:, 0],
            "ip": victims.leases[:, 0],
            "screen_resolution": victims.screens[:, 0],
        }
        book.add(Login, place, happened_at=at)
        at = at + 20 * SECOND
        page = words.pick(rng, ("withdraw", "help"), count)
        for _ in range(4):
            seconds = rng.integers(90, 900, count)
            book.add(
                PageView,
                {"user": victims.users, "page": page, "view_seconds": seconds},
                happened_at=at,
                rng=rng,
            )
            at = at + seconds * SECOND + rng.integers(SECOND, 20 * SECOND, count)
        on_call = rng.random(count) < 0.5
        first_at = at
        for _ in range(2):
            book.add(
                Withdrawal,
                {
                    **place,
                    "address": wallets,
                    "asset": words.pick(rng, ("BTC", "ETH", "USDC"), count),
                    "amount_usd": dollars(rng, victims.log_spend + 2.2, spread=0.6),
                    "on_call": on_call,
                },
                happened_at=at,
                is_fraud=True,
            )
            at = at + rng.integers(2 * HOUR, 2 * DAY, count)
        told = rng.random(count) < 0.5
        lag = rng.lognormal(np.log(6 * DAY), 0.8, int(told.sum())).astype(np.int64)
        judge(rng, book, users=victims.users[told], at=first_at[told] + lag, verdict="bad")
        names = np.array([f"scam-{number}" for number in scams.tolist()], dtype=object)
        book.tell(victims.users, role="victim", rings=names, first_fraud_at=first_at)


def _old_accounts(
    rng: np.random.Generator, world: World, share: float, *, remainder: int
) -> tuple[People, Instants]:
    """Users of the first third with a payment method, and instants in the last third."""
    span = world.end - world.start
    people = world.people
    rows = np.arange(len(people))
    able = (people.joined < world.start + span // 3) & people.has_phone & (rows % 2 == remainder)
    able &= people.method_at[:, 0] < world.start + span // 2
    candidates = np.flatnonzero(able)
    count = min(world.num_accounts(share), len(candidates))
    chosen = rng.choice(candidates, size=count, replace=False)
    return people.take(chosen), world.instants(rng, count, first=0.67, last=0.97)


def _buy_with_stored_method(
    rng: np.random.Generator,
    book: Book,
    victims: People,
    place: dict[str, NDArray[np.int64]],
    at: Instants,
) -> NDArray[np.bool_]:
    """Write a purchase of half of the victims; gives of which."""
    bought = rng.random(len(victims)) < 0.5
    rows = np.flatnonzero(bought)
    paid = payment_fields(victims, rows, np.zeros(len(rows), dtype=np.int64))
    amounts = dollars(rng, victims.log_spend[rows] + 1.0)
    codes = book.add(
        Purchase,
        {
            **{name: column[rows] for name, column in place.items()},
            **paid,
            "asset": words.pick(rng, ("BTC", "ETH", "USDC"), len(rows)),
            "amount_usd": amounts,
        },
        happened_at=at[rows],
        is_fraud=True,
    )
    noticed = np.flatnonzero((rng.random(len(rows)) < 0.95) & (at[rows] < book.end))
    dispute(
        rng,
        book,
        users=victims.users[rows[noticed]],
        purchases=codes[noticed],
        rails=paid["rail"][noticed],
        amounts=amounts[noticed],
        at=at[rows][noticed],
    )
    return bought
