"""The exchange as an application: its features, its label and its policy.

This is what an owner of a platform writes once; `chopmark demo` and `chopmark serve` run it
over the simulated exchange, and a real one starts from a copy of this file.
"""

from chopmark.datasets.exchange import SCHEMA
from chopmark.decisions import (
    ORDERS,
    Account,
    Band,
    Damping,
    Decision,
    Policy,
    State,
    Withdrawals,
    standing_features,
)
from chopmark.decisions.limits import PURCHASE_LIMITS, WITHDRAWAL_LIMITS
from chopmark.engine import Application
from chopmark.events import Schema
from chopmark.features import (
    Aggregate,
    Catalog,
    Derived,
    Label,
    LabelRate,
    Lookup,
    Sequence,
    Similarity,
    aggregates,
    share,
)
from chopmark.features.catalog import Feature
from chopmark.graph.scored import AddressScored

EXCHANGE = Schema(*SCHEMA.types.values(), Decision, *ORDERS, AddressScored)

ADDRESS_RISK = Lookup("address_scored", "score", by="address")
"""Of the wallet that a withdrawal goes to, as the last run of the chain before it said; missing
where the chain does not know the address (rows H3, H16)."""

ADDRESS_LABEL = Lookup("address_scored", "label", by="address")
"""What lists and people say of that wallet, as they did then: "illicit", "licit" or nothing; a
rule over it is a block list (row H13)."""

ADDRESS_BAND = Lookup("address_scored", "band", by="address")
"""Where its score lay among those of the chain: "usual", "raised" or "high"."""

SEEN = ("signup", "login", "purchase", "payment_method_added")
"""Event types that show a user on a device and at an address of the network."""

HISTORY = Sequence(
    (
        "signup",
        "phone_verified",
        "id_verified",
        "payment_method_added",
        "login",
        "page_view",
        "price_alert",
        "notification_sent",
        "notification_opened",
        "purchase",
        "sale",
        "withdrawal",
        "sim_changed",
        "password_reset",
    ),
    fields=("page", "asset", "rail", "amount_usd"),
    last=64,
    window="90d",
    name="history",
)
"""What a user did, in order and in time: not what was learned or decided about them later, and
no field that names a person or a thing. A record holds all 64 events, so there are not more."""


def features() -> list[Feature]:
    """All features: about the event, the user, what they share, names, decisions, the history."""
    return [
        *_of_the_event(),
        *_of_the_user(),
        *_of_what_users_share(),
        *_of_identity(),
        ADDRESS_RISK,
        ADDRESS_LABEL,
        ADDRESS_BAND,
        *_of_decisions(),
        HISTORY,
    ]


def application() -> Application:
    """The exchange, ready to run."""
    return Application(Catalog(EXCHANGE, *features()), POLICY)


ACCOUNT = Account(
    State("new"),
    State("phone verified", needs=("phone",), permits=("purchase", "sale")),
    State("identified", needs=("phone", "id"), permits=("purchase", "sale", "withdrawal")),
)
"""A phone number before any purchase, an ID before money leaves (row C16)."""

POLICY = Policy(
    limits=PURCHASE_LIMITS,
    withdrawals=Withdrawals(
        limits=WITHDRAWAL_LIMITS,
        bands=(Band(score=0.3, warn=True), Band(score=0.6, warn=True, delay_hours=24.0)),
    ),
    damping=Damping(),
    account=ACCOUNT,
    member="signup_seconds_since_first",
    guests=("purchase",),
    verified=(("phone", "phone_verified_count"), ("id", "id_verified_count")),
    volume="bought",
    clean_since=("purchase_seconds_since_first", "chargeback_seconds_since_last"),
    rescored=("sale", "payment_method_added", "id_verified", "phone_verified"),
    spent="bought_7d",
    standing=True,
)
"""Graded limits for purchases and withdrawals; a new score only when it means it."""


LABEL = Label(events=("chargeback", "verdict"), where="missing(verdict) or verdict == 'bad'")
"""A user is bad after a chargeback or an analyst's ban."""


def _of_decisions() -> list[Feature]:
    """What was decided and ordered before: for the policy, not for the model."""
    allowed = {
        name: Aggregate(
            "decision", "sum", of="allowed_usd", window="7d", where=f"about_type == '{name}'"
        )
        for name in ("purchase", "withdrawal")
    }
    bought = Aggregate("decision", "sum", of="allowed_usd", where="about_type == 'purchase'")
    return [
        # What was allowed, not what was asked for: asking is free.
        Derived(bought.name, "bought", parts=(bought,)),
        Derived(allowed["purchase"].name, "bought_7d", parts=(allowed["purchase"],)),
        Derived(allowed["withdrawal"].name, "withdrawn_7d", parts=(allowed["withdrawal"],)),
        *standing_features(),
    ]


def _of_the_event() -> list[Feature]:
    return [
        Derived("amount_usd"),
        Derived("rail"),
        Derived("asset"),
        Derived("issuer"),
        Derived("hour(happened_at)", "hour"),
        Derived("0 if missing(merchant) else 1", "at_merchant"),
    ]


def _of_the_user() -> list[Feature]:
    return [
        *aggregates("purchase", ops=("count", "sum"), of="amount_usd", windows=("1h", "1d", "7d")),
        *aggregates("purchase", ops=("mean", "max", "std"), of="amount_usd", windows=("90d",)),
        *aggregates("purchase", ops=("count", "sum", "seconds_since_first"), of="amount_usd"),
        *aggregates("page_view", windows=("1d", "30d")),
        *aggregates("login", windows=("1d", "30d")),
        *aggregates("sale", windows=("30d",)),
        *aggregates("withdrawal", ops=("count", "sum"), of="amount_usd", windows=("1d", "7d")),
        Aggregate("purchase", "distinct", of="card", window="30d"),
        Aggregate("payment_method_added", "count", window="7d"),
        Aggregate("payment_method_added", "seconds_since_last"),
        Aggregate("signup", "seconds_since_first"),
        Aggregate("sim_changed", "seconds_since_last"),
        Aggregate("password_reset", "seconds_since_last"),
        Aggregate(SEEN, "distinct", of="device", window="30d"),
        Aggregate("chargeback", "count", window="90d"),
        Aggregate("chargeback", "seconds_since_last"),
        Aggregate("phone_verified", "count"),
        Aggregate("id_verified", "count"),
        Lookup("signup", "country"),
        Lookup("signup", "carrier"),
        Lookup("signup", "email_domain"),
        Lookup("id_verified", "country"),
        Derived("amount_usd / purchase_amount_usd_mean_90d", "amount_over_usual"),
        Derived("signup_country != id_verified_country", "country_mismatch"),
    ]


def _of_what_users_share() -> list[Feature]:
    return [
        Aggregate(SEEN, "distinct", by="device", of="user", window="90d"),
        Aggregate(SEEN, "distinct", by="ip", of="user", window="7d"),
        *aggregates("purchase", by=("device", "ip", "card", "bank_account"), windows=("1d", "30d")),
        Aggregate("purchase", "distinct", by="card", of="user", window="90d"),
        Aggregate("purchase", "distinct", by="bank_account", of="user", window="90d"),
        Aggregate("purchase", "count", by="merchant", window="7d"),
        Aggregate("purchase", "mean", by="merchant", of="amount_usd", window="30d"),
        Aggregate("signup", "count", by="screen_resolution", window="90d"),
        share("signup", of="screen_resolution", window="7d", baseline="90d"),
        LabelRate(("chargeback", "verdict"), of="device", event=SEEN, where=LABEL.where),
        LabelRate(("chargeback", "verdict"), of="ip", event=SEEN, where=LABEL.where),
        LabelRate(("chargeback", "verdict"), of="screen_resolution", event=("signup", "login"),
                  where=LABEL.where),
        LabelRate(("chargeback", "verdict"), of="merchant", event="purchase", where=LABEL.where),
    ]  # fmt: skip


def _of_identity() -> list[Feature]:
    return [
        Lookup("signup", "name"),
        Lookup("id_verified", "name"),
        Lookup("id_verified", "home_address"),
        Lookup("payment_method_added", "holder_name"),
        Lookup("payment_method_added", "billing_address"),
        Lookup("phone_verified", "registrant_name"),
        Similarity("signup_name", "payment_method_added_holder_name"),
        Similarity("signup_name", "payment_method_added_holder_name", "levenshtein"),
        Similarity("id_verified_name", "payment_method_added_holder_name"),
        Similarity("id_verified_name", "phone_verified_registrant_name"),
        Similarity("id_verified_home_address", "payment_method_added_billing_address"),
    ]
