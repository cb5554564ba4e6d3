"""People and how they open an account: identity, devices, payment methods, habits.

Honest users and fraudsters are drawn by the same function; a scenario then replaces the
columns in which its people differ. So whatever a scenario does not plant is the same in
both, and no field separates them by accident.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chopmark.datasets import vocabulary as words
from chopmark.datasets.book import Book, Codes, Column, Instants
from chopmark.datasets.exchange import IdVerified, PaymentMethodAdded, PhoneVerified, Signup
from chopmark.times import DAY, HOUR, MINUTE, SECOND

NUM_FACTORS = 4
"""Dimensions of the latent taste that pulls a user towards assets."""


@dataclass(slots=True, kw_only=True)
class People:
    """Columns of `n` people, one row each.

    Attributes
    ----------
    devices : (n, 3) int64
        Main device first; the others are used if ``num_devices`` says so.
    screens : (n, 3) object
        Resolution of each device.
    leases : (n, 3) int64
        IP addresses at home, one after the other.
    by_card : (n, 2) bool
        Whether the payment method is a card, else a bank account.
    methods : (n, 2) int64
        Codes of the card or bank account.
    method_at : (n, 2) int64
        When it was added; never (far in the future) if there is no second one.
    activity : (n,) float64
        Sessions per day.
    log_spend : (n,) float64
        Mean of the logarithm of a purchase in dollars.
    taste : (n, NUM_FACTORS) float64
    """

    users: Codes
    joined: Instants
    countries: Column
    names: Column
    profile_names: Column
    registrant_names: Column
    id_names: Column
    ssns: Codes
    home_addresses: Column
    billing_addresses: Column
    holder_names: Column
    carriers: Column
    email_domains: Column
    devices: NDArray[np.int64]
    screens: NDArray[Any]
    num_devices: NDArray[np.int64]
    leases: NDArray[np.int64]
    by_card: NDArray[np.bool_]
    methods: NDArray[np.int64]
    method_at: NDArray[np.int64]
    issuers: NDArray[Any]
    wallets: Codes
    has_phone: NDArray[np.bool_]
    has_id: NDArray[np.bool_]
    activity: NDArray[np.float64]
    log_spend: NDArray[np.float64]
    taste: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[Any] | slice) -> "People":
        """The people of some rows."""
        return replace(
            self, **{column.name: getattr(self, column.name)[rows] for column in fields(self)}
        )


NEVER = np.int64(2**62)


def draw_people(
    rng: np.random.Generator, book: Book, *, joined: Instants, card_share: float = 0.6
) -> People:
    """People with consistent identities, as honest users have them.

    Consistent is not the same as equal: a tenth pays with a family's phone plan, a tenth
    has moved since the bank last asked, some banks print the name in another way.

    Parameters
    ----------
    joined : (n,) int64
        When they sign up.
    card_share : float in [0, 1]
        Chance that a payment method is a card.
    """
    count = len(joined)
    names = words.full_names(rng, count)
    nicks = words.variants(rng, names)
    homes = words.postal_addresses(rng, count)
    by_card = rng.random((count, 2)) < card_share
    methods = np.where(
        by_card,
        book.new("card", 2 * count).reshape(count, 2),
        book.new("bank_account", 2 * count).reshape(count, 2),
    )
    method_at = np.full((count, 2), NEVER)
    method_at[:, 0] = joined + rng.lognormal(np.log(25 * MINUTE), 1.6, count).astype(np.int64)
    second = rng.random(count) < 0.25
    method_at[second, 1] = joined[second] + (rng.exponential(30, second.sum()) * DAY).astype(int)
    return People(
        users=book.new("user", count),
        joined=joined,
        countries=words.draw(rng, words.COUNTRIES, count),
        names=names,
        profile_names=words.where(rng.random(count) < 0.55, _mostly(rng, names, nicks, 0.25)),
        registrant_names=_mostly(rng, names, words.full_names(rng, count), 0.10),
        id_names=_mostly(rng, names, words.variants(rng, names), 0.06),
        ssns=book.new("ssn", count),
        home_addresses=homes,
        billing_addresses=_mostly(rng, homes, words.postal_addresses(rng, count), 0.10),
        holder_names=_mostly(rng, names, words.variants(rng, names), 0.20),
        carriers=words.draw(rng, words.CARRIERS, count),
        email_domains=words.draw(rng, words.EMAIL_DOMAINS, count),
        devices=book.new("device", 3 * count).reshape(count, 3),
        screens=_screens(rng, 3 * count).reshape(count, 3),
        num_devices=rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15], size=count),
        leases=book.new("ip", 3 * count).reshape(count, 3),
        by_card=by_card,
        methods=methods,
        method_at=method_at,
        issuers=words.draw(rng, words.ISSUERS, 2 * count).reshape(count, 2),
        wallets=book.new("address", count),
        has_phone=rng.random(count) < 0.97,
        has_id=rng.random(count) < 0.72,
        activity=rng.lognormal(np.log(0.22), 0.9, count),
        log_spend=rng.normal(np.log(70), 1.0, count),
        taste=rng.normal(size=(count, NUM_FACTORS)),
    )


def make_families(rng: np.random.Generator, people: People, *, share: float = 0.08) -> None:
    """Let some people live with the one before them: device, IP, name, home, rarely the bank."""
    children = np.flatnonzero(rng.random(len(people)) < share)
    children = children[children > 0]
    parents = children - 1
    people.devices[children, 0] = people.devices[parents, 0]
    people.screens[children, 0] = people.screens[parents, 0]
    people.leases[children] = people.leases[parents]
    people.home_addresses[children] = people.home_addresses[parents]
    people.registrant_names[children] = people.registrant_names[parents]
    joint = children[rng.random(len(children)) < 0.2]
    people.by_card[joint, 0] = people.by_card[joint - 1, 0]
    people.methods[joint, 0] = people.methods[joint - 1, 0]
    people.issuers[joint, 0] = people.issuers[joint - 1, 0]


def open_accounts(
    rng: np.random.Generator, book: Book, people: People, *, ips: Codes | None = None
) -> None:
    """Write the sign-up, the verifications and the payment methods of people.

    Parameters
    ----------
    ips : (n,) int64, optional
        Codes of the addresses that they do it from; by default the first at home.
    """
    count = len(people)
    if ips is None:
        ips = people.leases[:, 0]
    main = people.devices[:, 0]
    book.add(
        Signup,
        {
            "user": people.users,
            "device": main,
            "ip": ips,
            "screen_resolution": people.screens[:, 0],
            "carrier": people.carriers,
            "email_domain": people.email_domains,
            "name": people.names,
            "profile_name": people.profile_names,
            "country": people.countries,
        },
        happened_at=people.joined,
    )
    phone_at = people.joined + rng.integers(20 * SECOND, 5 * MINUTE, count)
    rows = np.flatnonzero(people.has_phone)
    book.add(
        PhoneVerified,
        {
            "user": people.users[rows],
            "carrier": people.carriers[rows],
            "registrant_name": people.registrant_names[rows],
        },
        happened_at=phone_at[rows],
    )
    id_at = phone_at + rng.lognormal(np.log(12 * MINUTE), 1.2, count).astype(np.int64)
    rows = np.flatnonzero(people.has_id)
    book.add(
        IdVerified,
        {
            "user": people.users[rows],
            "ssn": people.ssns[rows],
            "name": people.id_names[rows],
            "home_address": people.home_addresses[rows],
            "country": people.countries[rows],
        },
        happened_at=id_at[rows],
    )
    for slot in (0, 1):
        # No payment method without a verified phone (requirement C16).
        rows = np.flatnonzero(people.has_phone & (people.method_at[:, slot] < book.end))
        people.method_at[:, slot] = np.maximum(people.method_at[:, slot], phone_at + 30 * SECOND)
        book.add(
            PaymentMethodAdded,
            {
                "user": people.users[rows],
                "device": main[rows],
                "ip": ips[rows],
                **payment_fields(people, rows, np.full(len(rows), slot)),
                "holder_name": people.holder_names[rows],
                "billing_address": people.billing_addresses[rows],
            },
            happened_at=people.method_at[rows, slot],
        )


def payment_fields(
    people: People, rows: NDArray[np.int64], slots: NDArray[np.int64]
) -> dict[str, Column]:
    """The columns that say by which payment method: rail, card or bank account, issuer."""
    by_card = people.by_card[rows, slots]
    methods = people.methods[rows, slots]
    return {
        "rail": np.where(by_card, "card", "bank").astype(object),
        "card": np.where(by_card, methods, -1),
        "bank_account": np.where(by_card, -1, methods),
        "issuer": people.issuers[rows, slots],
    }


def dollars(
    rng: np.random.Generator, log_mean: NDArray[np.float64], *, spread: float = 0.8
) -> NDArray[np.float64]:
    """Heavy-tailed amounts with at most two decimals; half of them are round, as people like."""
    amounts = np.clip(rng.lognormal(log_mean, spread), 2.0, 5e6)
    # Two leading digits in steps of a half: 25, 150, 400 rather than 23.17, 148.02, 411.5.
    step = np.power(10.0, np.floor(np.log10(amounts))) / 2
    rounded = np.maximum(np.round(amounts / step) * step, 1.0)
    mixed = np.where(rng.random(len(amounts)) < 0.5, rounded, amounts)
    return np.round(mixed, 2).astype(np.float64)


def at_hour_of_life(
    rng: np.random.Generator, days: Instants, countries: Column
) -> tuple[Instants, NDArray[np.bool_]]:
    """Instants on the given days at hours when people are awake, and which to keep.

    Parameters
    ----------
    days : (n,) int64
        Some instant of the day.

    Returns
    -------
    instants : (n,) int64
    keep : (n,) bool
        Thins weekends and Mondays, so that weeks have a rhythm.
    """
    count = len(days)
    hours = rng.choice(24, p=_HOURS / _HOURS.sum(), size=count)
    behind = np.array([words.HOURS_BEHIND_UTC[country] for country in countries], dtype=np.int64)
    seconds = rng.integers(0, HOUR, count)
    instants = days // DAY * DAY + (hours + behind) * HOUR + seconds
    weekday = (instants // DAY + 3) % 7
    return instants, rng.random(count) < _WEEKDAYS[weekday]


_HOURS = np.array(
    [3, 2, 1, 1, 1, 2, 4, 7, 9, 10, 10, 10, 11, 10, 9, 9, 9, 10, 11, 12, 13, 12, 9, 5], dtype=float
)
_WEEKDAYS = np.array([0.85, 0.9, 0.95, 0.95, 1.0, 0.75, 0.7])


def _mostly(rng: np.random.Generator, usual: Column, other: Column, share: float) -> Column:
    result: Column = np.where(rng.random(len(usual)) < share, other, usual)
    return result


def _screens(rng: np.random.Generator, count: int) -> Column:
    screens = words.draw(rng, words.SCREENS, count)
    odd = np.flatnonzero(rng.random(count) < 0.02)
    for row, width, height in zip(
        odd, rng.integers(640, 2600, len(odd)), rng.integers(480, 1500, len(odd)), strict=True
    ):
        screens[row] = f"{width}x{height}"
    off = np.flatnonzero(rng.random(count) < 0.0006)
    screens[off] = words.pick(rng, words.OFF_BY_ONE_SCREENS, len(off))
    return screens
