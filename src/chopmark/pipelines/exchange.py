"""The exchange as an application: its features, its label and its policy.

This is what an owner of a platform writes once; `chopmark demo` and `chopmark serve` run it
over the simulated exchange, and a real one starts from a copy of this file.
"""

from chopmark.datasets.exchange import SCHEMA
from chopmark.decisions import Decision, Policy
from chopmark.engine import Application
from chopmark.events import Schema
from chopmark.features import (
    Aggregate,
    Catalog,
    Derived,
    Label,
    LabelRate,
    Lookup,
    Similarity,
    aggregates,
    share,
)
from chopmark.features.catalog import Feature

EXCHANGE = Schema(*SCHEMA.types.values(), Decision)

SEEN = ("signup", "login", "purchase", "payment_method_added")
"""Event types that show a user on a device and at an address of the network."""


def features() -> list[Feature]:
    """All features of the exchange: about the event, the user, what they share, and names."""
    return [
        *_of_the_event(),
        *_of_the_user(),
        *_of_what_users_share(),
        *_of_identity(),
        Aggregate("decision", "sum", of="allowed_usd", window="7d"),
    ]


def application() -> Application:
    """The exchange, ready to run."""
    return Application(Catalog(EXCHANGE, *features()), Policy())


LABEL = Label(events=("chargeback", "verdict"), where="missing(verdict) or verdict == 'bad'")
"""A user is bad after a chargeback or an analyst's ban."""


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
