"""What can be planted into the simulated exchange: one small class each.

First those in which thieves spend stolen money, then honest people who look odd. What
happens to accounts of honest users stands in `chopmark.datasets.victims`. ``share`` is
always relative to the number of honest users.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from chopmark.datasets import vocabulary as words
from chopmark.datasets.aftermath import dispute
from chopmark.datasets.book import Book, Codes, Column
from chopmark.datasets.cashout import cash_out, draw_thieves
from chopmark.datasets.exchange import Purchase
from chopmark.datasets.honest import live
from chopmark.datasets.people import (
    NEVER,
    People,
    dollars,
    draw_people,
    open_accounts,
    payment_fields,
)
from chopmark.datasets.victims import AccountTakeover, ScamVictims
from chopmark.datasets.world import Scenario, World
from chopmark.times import DAY, HOUR, MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class StolenMoney:
    """Stolen card or bank account, identities of three people, buy, withdraw at once (C1)."""

    share: float = 0.006
    name: ClassVar[str] = "stolen_money"
    stream: ClassVar[int] = 1

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write independent thieves, each with an own card or account."""
        count = world.num_accounts(self.share)
        thieves = draw_thieves(rng, book, joined=world.instants(rng, count))
        cash_out(rng, book, thieves, world.surroundings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """Groups of 3 to 8 accounts that share devices, bank accounts and wallets (F5, F7, C11)."""

    share: float = 0.004
    name: ClassVar[str] = "rings"
    stream: ClassVar[int] = 2

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write rings: two devices, two bank accounts and one wallet each, some SSNs twice."""
        rings = _groups(rng, world.num_accounts(self.share), smallest=3, largest=8)
        num_rings = int(rings.max(initial=-1)) + 1
        begins = world.instants(rng, num_rings, last=0.8)
        joined = begins[rings] + (rng.uniform(0, 12, len(rings)) * DAY).astype(np.int64)
        thieves = draw_thieves(rng, book, joined=joined, card_share=0.35)
        half = rng.integers(2, size=len(rings))
        thieves.devices[:, 0] = book.new("device", 2 * num_rings)[2 * rings + half]
        thieves.screens[:, 0] = words.draw(rng, words.SCREENS, 2 * num_rings)[2 * rings + half]
        accounts = book.new("bank_account", 2 * num_rings)[2 * rings + half]
        thieves.methods[:, 0] = np.where(thieves.by_card[:, 0], thieves.methods[:, 0], accounts)
        thieves.wallets = book.new("address", num_rings)[rings]
        # The second member of each ring often uses the first one's social security number.
        second = np.flatnonzero(rings[1:] == rings[:-1]) + 1
        again = second[rng.random(len(second)) < 0.25]
        thieves.ssns[again] = thieves.ssns[again - 1]
        cash_out(rng, book, thieves, world.surroundings, rings=_named("ring", rings))


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDesktops:
    """Thieves behind remote desktops, whose screens are off by one pixel (C12, C13).

    Honest users have such a screen in less than 0.1 % of sign-ups; analysts ban most of
    those who come with it.
    """

    share: float = 0.0015
    name: ClassVar[str] = "remote_desktops"
    stream: ClassVar[int] = 3

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write thieves with a screen resolution that no honest device has."""
        count = world.num_accounts(self.share)
        thieves = draw_thieves(rng, book, joined=world.instants(rng, count))
        thieves.screens[:, 0] = words.pick(rng, words.OFF_BY_ONE_SCREENS, count)
        cash_out(rng, book, thieves, world.surroundings, banned=0.85)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreachedIssuer:
    """A bank's cards leak: a wave of sign-ups with them that begins in one week (F2 to F4).

    Attributes
    ----------
    begins : float in [0, 1)
        Part of the simulated time after which the wave begins.
    issuer : str
    """

    share: float = 0.003
    begins: float = 0.55
    issuer: str = words.BREACHED_ISSUER
    name: ClassVar[str] = "breached_issuer"
    stream: ClassVar[int] = 4

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write four fifths of the wave into its first week, the rest into two more."""
        count = world.num_accounts(self.share)
        begin = world.start + int(self.begins * (world.end - world.start))
        late = rng.random(count) < 0.2
        days = np.where(late, rng.uniform(7, 21, count), rng.uniform(0, 7, count))
        joined = np.minimum(begin + (days * DAY).astype(np.int64), world.end - DAY)
        thieves = draw_thieves(rng, book, joined=joined, card_share=1.0)
        thieves.issuers[:, 0] = self.issuer
        cash_out(rng, book, thieves, world.surroundings, patient=0.1, banned=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantCollusion:
    """Fake merchants charge stolen cards in their own shop as guest checkouts (C3).

    The ring of a payer is the merchant; all its charges come within ten days, from few
    devices, and are disputed long after the merchant was paid out.
    """

    share: float = 0.003
    name: ClassVar[str] = "merchant_collusion"
    stream: ClassVar[int] = 5

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write charges of 5 to 12 stolen cards for each fake merchant."""
        shops = _groups(rng, world.num_accounts(self.share), smallest=5, largest=12)
        num_shops = int(shops.max(initial=-1)) + 1
        begins = world.instants(rng, num_shops, last=0.85)
        at = begins[shops] + (rng.uniform(0, 10, len(shops)) * DAY).astype(np.int64)
        payers = draw_people(rng, book, joined=at, card_share=1.0)
        payers.log_spend = rng.normal(np.log(110), 0.4, len(payers))
        third = rng.integers(3, size=len(shops))
        payers.devices[:, 0] = book.new("device", 3 * num_shops)[3 * shops + third]
        payers.leases[:, 0] = rng.choice(world.surroundings.shared_ips, size=len(payers))
        _check_out(
            rng,
            book,
            payers_of=np.arange(len(payers)),
            people=payers,
            merchants=book.new("merchant", num_shops)[shops],
            is_fraud=True,
        )
        acted = at < world.end
        book.tell(
            payers.users[acted],
            role="fraudster",
            rings=_named("merchant", shops)[acted],
            first_fraud_at=at[acted],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vips:
    """Honest people with large amounts, a long history and few log-ins (E11, E13)."""

    share: float = 0.01
    name: ClassVar[str] = "vips"
    stream: ClassVar[int] = 8

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write lives whose purchases are a hundred times the usual ones."""
        joined = world.instants(rng, _honest(world, self.share), first=0.0, last=0.1)
        people = draw_people(rng, book, joined=joined, card_share=0.15)
        people.log_spend = rng.normal(np.log(7000), 0.8, len(people))
        people.activity = rng.lognormal(np.log(0.06), 0.4, len(people))
        people.has_id[:] = True
        people.has_phone[:] = True
        open_accounts(rng, book, people)
        live(rng, book, people, world.surroundings, buying=0.55)
        book.tell(people.users)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortNames:
    """Honest people with short names, old billing addresses, a family's phone plan (C9, C10).

    String distances call every one of them a mismatch; none may be rejected for it.
    """

    share: float = 0.02
    name: ClassVar[str] = "short_names"
    stream: ClassVar[int] = 9

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write usual lives under identities that hardly match themselves."""
        count = _honest(world, self.share)
        people = draw_people(rng, book, joined=world.instants(rng, count))
        people.names = words.short_names(rng, count)
        people.profile_names = words.where(rng.random(count) < 0.55, people.names)
        people.id_names = words.variants(rng, people.names)
        people.holder_names = words.variants(rng, people.names)
        family = rng.random(count) < 0.5
        people.registrant_names = np.where(family, words.short_names(rng, count), people.names)
        moved = rng.random(count) < 0.8
        people.billing_addresses = np.where(
            moved, words.postal_addresses(rng, count), people.home_addresses
        )
        open_accounts(rng, book, people)
        live(rng, book, people, world.surroundings)
        book.tell(people.users)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """Honest people without a history: guest checkouts, and sign-ups that buy at once (I10)."""

    share: float = 0.08
    name: ClassVar[str] = "guests"
    stream: ClassVar[int] = 10

    def play(self, world: World, book: Book, rng: np.random.Generator) -> None:
        """Write half of them at merchants' check-outs, half as new users in a hurry."""
        count = _honest(world, self.share)
        people = draw_people(rng, book, joined=world.instants(rng, count), card_share=0.9)
        new = np.arange(count) % 2 == 0
        payers = np.flatnonzero(~new)
        people.by_card[payers, 0] = True
        people.methods[payers, 0] = book.new("card", len(payers))
        again = np.repeat(payers, rng.integers(1, 3, len(payers)))
        merchants = rng.choice(world.surroundings.merchants, size=len(again))
        _check_out(rng, book, payers_of=again, people=people, merchants=merchants, is_fraud=False)
        hasty = people.take(new)
        hasty.has_phone[:] = True
        hasty.method_at[:, 0] = hasty.joined + rng.integers(3 * MINUTE, 12 * MINUTE, len(hasty))
        hasty.method_at[:, 1] = NEVER
        open_accounts(rng, book, hasty)
        rows = np.arange(len(hasty))
        book.add(
            Purchase,
            {
                "user": hasty.users,
                "device": hasty.devices[:, 0],
                "ip": hasty.leases[:, 0],
                "screen_resolution": hasty.screens[:, 0],
                **payment_fields(hasty, rows, np.zeros(len(hasty), dtype=np.int64)),
                "asset": words.pick(rng, words.ASSETS[:6], len(hasty)),
                "amount_usd": dollars(rng, hasty.log_spend),
            },
            happened_at=hasty.method_at[:, 0] + rng.integers(MINUTE, HOUR, len(hasty)),
        )
        book.tell(people.users)


DEFAULT: tuple[Scenario, ...] = (
    StolenMoney(),
    Rings(),
    RemoteDesktops(),
    BreachedIssuer(),
    MerchantCollusion(),
    AccountTakeover(),
    ScamVictims(),
    Vips(),
    ShortNames(),
    Guests(),
)
"""All scenarios in their usual sizes: fraud on nearly 2 % of the accounts."""


def _check_out(
    rng: np.random.Generator,
    book: Book,
    *,
    payers_of: Codes,
    people: People,
    merchants: Codes,
    is_fraud: bool,
) -> None:
    """Write one guest checkout by card per entry of `payers_of` (rows of people)."""
    rows = payers_of
    # The first one when they appear, others within two weeks.
    repeated = np.diff(rows, prepend=-1) == 0
    wait = np.where(repeated, rng.uniform(1, 14, len(rows)) * DAY, 0).astype(np.int64)
    at = people.joined[rows] + wait
    paid = payment_fields(people, rows, np.zeros(len(rows), dtype=np.int64))
    amounts = dollars(rng, people.log_spend[rows])
    codes = book.add(
        Purchase,
        {
            "user": people.users[rows],
            "device": people.devices[rows, 0],
            "ip": people.leases[rows, 0],
            "screen_resolution": people.screens[rows, 0],
            **paid,
            "merchant": merchants,
            "amount_usd": amounts,
        },
        happened_at=at,
        is_fraud=is_fraud,
    )
    disputed = np.flatnonzero(
        (rng.random(len(rows)) < (0.9 if is_fraud else 0.002)) & (at < book.end)
    )
    dispute(
        rng,
        book,
        users=people.users[rows[disputed]],
        purchases=codes[disputed],
        rails=paid["rail"][disputed],
        amounts=amounts[disputed],
        at=at[disputed],
    )


def _groups(rng: np.random.Generator, count: int, *, smallest: int, largest: int) -> Codes:
    """Numbers of groups for `count` members; the last group takes a remainder too small."""
    groups = np.empty(count, dtype=np.int64)
    start = number = 0
    while start < count:
        size = int(rng.integers(smallest, largest + 1))
        if count - start - size < smallest:
            size = count - start
        groups[start : start + size] = number
        start, number = start + size, number + 1
    return groups


def _named(kind: str, groups: Codes) -> Column:
    return np.array([f"{kind}-{number}" for number in groups.tolist()], dtype=object)


def _honest(world: World, share: float) -> int:
    return max(2, round(len(world.people) * share))
