"""The event types of an exchange: what its users do, and what it learns about them later.

The classes fall into four groups: getting known (sign-up and verifications), looking
(log-ins, page views, alerts, notifications), moving money (purchase, sale, withdrawal) and
learning later (chargebacks and analysts' verdicts). ``address`` is always the wallet that a
withdrawal goes to; where a person lives is ``home_address`` and ``billing_address``.

`SCHEMA` holds them all and is what the simulator, the recipes and the tests speak.
Serves rows B1, C1, C5, C9 and I10.
"""

from typing import Annotated, Literal

from msgspec import Meta

from chopmark.events.event import Entity, Event, Identifier, Personal, Usd
from chopmark.events.schema import Schema

User = Annotated[str, Entity("user")]
Device = Annotated[str, Entity("device")]
Ip = Annotated[str, Entity("ip")]
Card = Annotated[str, Entity("card"), Identifier()]
BankAccount = Annotated[str, Entity("bank_account"), Identifier()]
ScreenResolution = Annotated[str, Entity("screen_resolution")]
Ssn = Annotated[str, Entity("ssn"), Identifier()]
Wallet = Annotated[str, Entity("address")]
Merchant = Annotated[str, Entity("merchant")]
PersonalText = Annotated[str, Personal()]
Rail = Literal["card", "bank"]


class Signup(Event):
    """A new account, with the fingerprint of the device that opened it.

    Attributes
    ----------
    screen_resolution : str
        Width and height in pixels, such as ``1920x1080``.
    carrier : str
        Operator of the phone number, ``virtual`` for a number without a phone.
    email_domain : str
        Of the address given; the address itself is not kept.
    name : str
        As typed by the user.
    profile_name : str, optional
        On public profiles of the e-mail address, where there are any.
    country : str
        ISO 3166 code of two letters.
    """

    user: User
    device: Device
    ip: Ip
    screen_resolution: ScreenResolution
    carrier: str
    email_domain: str
    name: PersonalText
    profile_name: PersonalText | None = None
    country: str


class PhoneVerified(Event):
    """The user returned a code sent to the phone; ``registrant_name`` is the carrier's."""

    user: User
    carrier: str
    registrant_name: PersonalText


class IdVerified(Event):
    """An identity document was accepted; name and home address as printed on it."""

    user: User
    ssn: Ssn
    name: PersonalText
    home_address: PersonalText
    country: str


class PaymentMethodAdded(Event):
    """A card or a bank account was linked; holder and address as the issuer has them."""

    user: User
    device: Device
    ip: Ip
    rail: Rail
    card: Card | None = None
    bank_account: BankAccount | None = None
    issuer: str
    holder_name: PersonalText
    billing_address: PersonalText


class Login(Event):
    """A session began."""

    user: User
    device: Device
    ip: Ip
    screen_resolution: ScreenResolution


class PageView(Event):
    """A page was shown for ``view_seconds``; ``asset`` on the pages about one asset."""

    user: User
    page: str
    asset: str | None = None
    view_seconds: Annotated[int, Meta(ge=0)]


class PriceAlert(Event):
    """The user asks to be told when the price of an asset crosses a line."""

    user: User
    asset: str
    direction: Literal["above", "below"]


class NotificationSent(Event):
    """The exchange sent a push message about an asset."""

    user: User
    asset: str


class NotificationOpened(Event):
    """The user opened a push message; ``about`` is the id of its `NotificationSent`."""

    user: User
    asset: str
    about: str


class Purchase(Event):
    """Money in by card or bank account, for an asset or (``merchant``) for a shop's goods.

    Irreversible for the exchange at once; the payer's bank may still take it back for
    months (`Chargeback`). A guest checkout is a purchase of a user without a sign-up.
    """

    user: User
    device: Device
    ip: Ip
    screen_resolution: ScreenResolution
    rail: Rail
    card: Card | None = None
    bank_account: BankAccount | None = None
    issuer: str
    asset: str | None = None
    merchant: Merchant | None = None
    amount_usd: Usd


class Sale(Event):
    """An asset was sold for dollars that stay on the account."""

    user: User
    device: Device
    ip: Ip
    asset: str
    amount_usd: Usd


class Withdrawal(Event):
    """An asset left to a wallet; ``on_call`` if the app saw a phone call in progress."""

    user: User
    device: Device
    ip: Ip
    screen_resolution: ScreenResolution
    address: Wallet
    asset: str
    amount_usd: Usd
    on_call: bool


class SimChanged(Event):
    """The phone number moved to another SIM card, perhaps of another carrier."""

    user: User
    carrier: str


class PasswordReset(Event):
    """The password was replaced by means of the phone or the e-mail address."""

    user: User
    device: Device
    ip: Ip


class Chargeback(Event):
    """The payer disputed a purchase; ``about`` is the id of that `Purchase`.

    ``happened_at`` is the day of the dispute, ``known_at`` when the exchange learns it: up
    to 180 days after the purchase by card, up to 60 days by bank.
    """

    user: User
    about: str
    rail: Rail
    amount_usd: Usd


class Verdict(Event):
    """An analyst looked at an account and banned (``bad``) or cleared (``good``) it."""

    user: User
    verdict: Literal["good", "bad"]
    analyst: str


SCHEMA = Schema(
    Signup,
    PhoneVerified,
    IdVerified,
    PaymentMethodAdded,
    Login,
    PageView,
    PriceAlert,
    NotificationSent,
    NotificationOpened,
    Purchase,
    Sale,
    Withdrawal,
    SimChanged,
    PasswordReset,
    Chargeback,
    Verdict,
)
"""All event types of the exchange."""
