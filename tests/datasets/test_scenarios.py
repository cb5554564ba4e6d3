"""Each scenario plants what it says, and no single field gives it away."""

import zlib
from datetime import UTC, datetime, timedelta

import lightgbm
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from chopmark.datasets import DEFAULT, simulate
from chopmark.datasets.vocabulary import BREACHED_ISSUER, OFF_BY_ONE_SCREENS

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 120


@pytest.fixture(scope="module")
def simulation():
    return simulate(num_users=5000, days=DAYS, seed=11, fraud_scale=3.0)


@pytest.fixture(scope="module")
def truth(simulation):
    return simulation.truth


@pytest.fixture(scope="module")
def frame(simulation, truth):
    """Events of a type with what is true of their users."""
    frames = {}

    def of(event_type, scenario=None):
        if event_type not in frames:
            frames[event_type] = simulation.frame(event_type).join(truth, on="user")
        found = frames[event_type]
        return found if scenario is None else found.filter(pl.col("scenario") == scenario)

    return of


def test_chargebacks_come_months_later_but_within_the_limits(simulation, frame):
    purchases = simulation.frame("purchase").select(
        "id", "user", "happened_at", "rail", "amount_usd"
    )
    chargebacks = frame("chargeback").join(
        purchases, left_on="about", right_on="id", suffix="_paid"
    )
    assert chargebacks.height == frame("chargeback").height
    assert (chargebacks["user"] == chargebacks["user_paid"]).all()
    assert (chargebacks["rail"] == chargebacks["rail_paid"]).all()
    assert (chargebacks["amount_usd"] == chargebacks["amount_usd_paid"]).all()
    assert (chargebacks["happened_at"] > chargebacks["happened_at_paid"]).all()
    assert (chargebacks["known_at"] > chargebacks["happened_at"]).all()
    lag = (pl.col("known_at") - pl.col("happened_at_paid")).dt.total_hours() / 24
    lags = chargebacks.group_by("rail").agg(lag.max().alias("max"), lag.median().alias("median"))
    limits = {rail: (most, median) for rail, most, median in lags.iter_rows()}
    assert limits["card"][0] <= 180
    assert 25 < limits["card"][1] < 60
    assert limits["bank"][0] <= 60
    assert 7 < limits["bank"][1] < 25


def test_chargebacks_are_neither_all_fraud_nor_all_of_it(simulation, frame):
    disputed = set(frame("chargeback")["about"])
    told = simulation.purchase_truth.with_columns(pl.col("id").is_in(disputed).alias("disputed"))
    fraud = told.filter("is_fraud")["disputed"].mean()
    honest = told.filter(~pl.col("is_fraud"))["disputed"].mean()
    assert 0.8 < fraud < 1
    assert 0 < honest < 0.003


def test_analysts_are_earlier_than_banks_for_a_part_of_the_frauds(frame, truth):
    bans = frame("verdict").filter(pl.col("verdict") == "bad")
    thieves = truth.filter((pl.col("role") == "fraudster") & pl.col("is_fraud"))
    banned = thieves.join(bans.select("user", pl.col("known_at").alias("banned_at")), on="user")
    assert 0.25 < banned.height / thieves.height < 0.6
    lag = (banned["banned_at"] - banned["first_fraud_at"]).dt.total_hours()
    assert lag.min() >= 0
    assert lag.median() < 7 * 24
    # Analysts err, and they clear many more honest users than they ban.
    honest = frame("verdict").filter(pl.col("role") == "customer")["verdict"].value_counts()
    counts = dict(honest.iter_rows())
    assert counts["good"] > 5 * counts.get("bad", 0)


def test_no_purchase_of_an_account_without_a_verified_phone(frame):
    verified = frame("phone_verified").select("user", pl.col("happened_at").alias("verified_at"))
    members = frame("signup").select("user")
    purchases = frame("purchase").join(members, on="user", how="semi")
    checked = purchases.join(verified, on="user", how="left")
    assert (checked["verified_at"] < checked["happened_at"]).fill_null(False).all()


def test_thieves_mix_three_identities_and_withdraw_at_once(frame):
    told = (
        frame("signup", "stolen_money")
        .select("user", "name")
        .join(frame("payment_method_added").select("user", "holder_name"), on="user")
        .join(frame("phone_verified").select("user", "registrant_name"), on="user")
    )
    mixed = (told["name"] != told["holder_name"]) & (told["name"] != told["registrant_name"])
    assert 0.6 < mixed.mean() < 0.9
    bought = frame("purchase", "stolen_money").sort("happened_at")
    left = frame("withdrawal", "stolen_money").sort("happened_at")
    paired = left.join_asof(
        bought.select("user", "happened_at", pl.col("happened_at").alias("bought_at")),
        on="happened_at",
        by="user",
        check_sortedness=False,
    )
    waited = (paired["happened_at"] - paired["bought_at"]).dt.total_minutes()
    assert waited.null_count() == 0
    assert waited.median() < 60
    assert left.height > 0.7 * bought.height


def test_rings_share_devices_accounts_and_wallets(frame):
    for event_type, field, at_most in (
        ("signup", "device", 2),
        ("withdrawal", "address", 1),
        ("payment_method_added", "bank_account", 2),
    ):
        events = frame(event_type, "rings").filter(pl.col(field).is_not_null())
        per_ring = events.group_by("ring").agg(pl.col(field).n_unique())[field]
        assert per_ring.max() <= at_most
        shared = events.group_by(field).agg(pl.col("user").n_unique())["user"]
        assert shared.max() >= 3
        outside = frame(event_type).filter(pl.col("scenario") != "rings")
        assert not set(events[field]) & set(outside[field])
    sizes = frame("signup", "rings").group_by("ring").len()["len"]
    assert sizes.min() >= 3
    ssns = frame("id_verified", "rings")["ssn"]
    assert ssns.n_unique() < len(ssns)
    others = frame("id_verified").filter(pl.col("scenario") != "rings")["ssn"]
    assert others.is_unique().all()


def test_screens_off_by_one_are_rare_and_mostly_banned():
    simulation = simulate(num_users=20_000, days=60, seed=1, scenarios=[DEFAULT[2]])
    signups = simulation.frame("signup").join(simulation.truth, on="user")
    off = signups.with_columns(pl.col("screen_resolution").is_in(OFF_BY_ONE_SCREENS).alias("off"))
    assert 0 < off.filter(pl.col("role") == "customer")["off"].mean() < 0.001
    assert off.filter(pl.col("role") == "fraudster")["off"].all()
    bans = simulation.frame("verdict").filter(pl.col("verdict") == "bad")["user"]
    rate = off.filter("off")["user"].is_in(bans.implode()).mean()
    assert rate > 0.4
    assert off["user"].is_in(bans.implode()).mean() < 0.02


def test_the_wave_of_the_breached_issuer_begins_in_one_week(frame):
    added = frame("payment_method_added")
    begin = START + timedelta(days=0.55 * DAYS)
    week = (pl.col("happened_at") >= begin) & (pl.col("happened_at") < begin + timedelta(days=7))
    share = (pl.col("issuer") == BREACHED_ISSUER).mean()
    before = added.filter(pl.col("happened_at") < begin).select(share).item()
    during = added.filter(week).select(share).item()
    assert before < 0.02
    assert during > 5 * before
    wave = frame("signup", "breached_issuer")["happened_at"]
    assert wave.min() >= begin
    assert (wave < begin + timedelta(days=7)).mean() > 0.65
    assert frame("payment_method_added", "breached_issuer")["rail"].unique().to_list() == ["card"]


def test_fake_merchants_charge_stolen_cards_only(frame):
    charged = frame("purchase").filter(pl.col("merchant").is_not_null())
    per_merchant = charged.group_by("merchant").agg(
        pl.col("is_fraud").mean(),
        pl.col("card").n_unique().alias("cards"),
        pl.col("device").n_unique().alias("devices"),
        (pl.col("happened_at").max() - pl.col("happened_at").min()).alias("span"),
    )
    fake = per_merchant.filter(pl.col("is_fraud") == 1)
    honest = per_merchant.filter(pl.col("is_fraud") == 0)
    assert fake.height + honest.height == per_merchant.height
    assert fake.height >= 3
    assert honest.height > fake.height
    assert (fake["devices"] <= 3).all()
    assert (fake["cards"] >= 5).sum() >= fake.height - 1
    assert fake["span"].max() <= timedelta(days=10)


def test_take_overs_follow_a_sim_change_on_an_old_account(frame):
    joined = frame("signup", "account_takeover").select(
        "user", pl.col("happened_at").alias("joined")
    )
    ported = (
        frame("sim_changed", "account_takeover").group_by("user").agg(pl.col("happened_at").max())
    )
    told = joined.join(ported, on="user")
    assert told.height == joined.height
    assert (told["happened_at"] - told["joined"]).min() > timedelta(days=DAYS / 3)
    first = joined.join(
        frame("withdrawal", "account_takeover").select(
            "user", "device", "first_fraud_at", "happened_at"
        ),
        on="user",
    ).filter(pl.col("happened_at") >= pl.col("first_fraud_at"))
    known = frame("signup", "account_takeover").select("user", pl.col("device").alias("own"))
    assert (
        first.join(known, on="user").group_by("user").agg((pl.col("device") != pl.col("own")).any())
    )["device"].all()
    reset = frame("password_reset", "account_takeover")["user"].n_unique()
    assert reset == joined.height


def test_scam_victims_act_on_their_own_device_and_linger(frame):
    own = frame("signup", "scam_victims").select("user", pl.col("device").alias("own"))
    coached = (
        frame("withdrawal", "scam_victims")
        .filter(pl.col("happened_at") == pl.col("first_fraud_at"))
        .join(own, on="user")
    )
    assert coached.height == own.height
    assert (coached["device"] == coached["own"]).all()
    assert 0.2 < coached["on_call"].mean() < 0.8
    calm = frame("withdrawal").filter(pl.col("role") == "customer")
    assert 0 < calm["on_call"].mean() < 0.05
    usual = frame("purchase", "scam_victims").group_by("user").agg(pl.col("amount_usd").median())
    ratio = coached.join(usual, on="user", suffix="_usual").select(
        pl.col("amount_usd") / pl.col("amount_usd_usual")
    )
    assert ratio["amount_usd"].median() > 4
    before = frame("page_view", "scam_victims").filter(
        (pl.col("happened_at") < pl.col("first_fraud_at"))
        & (pl.col("happened_at") > pl.col("first_fraud_at") - timedelta(hours=2))
        & pl.col("page").is_in(["withdraw", "help"])
    )
    assert before["view_seconds"].median() > 5 * frame("page_view")["view_seconds"].median()
    assert coached["address"].n_unique() < coached.height


def test_vips_are_rich_old_and_seldom_there(frame):
    vips, honest = (frame("purchase", name)["amount_usd"] for name in ("vips", "honest"))
    assert vips.median() > 30 * honest.median()
    assert frame("signup", "vips")["happened_at"].max() < START + timedelta(days=0.1 * DAYS + 1)
    logins = frame("login").filter(pl.col("scenario").is_in(["vips", "honest"]))
    span = (START + timedelta(days=DAYS) - pl.col("joined")).dt.total_hours() / 24
    joined = frame("signup").select("user", pl.col("happened_at").alias("joined"))
    rate = (
        logins.group_by("user", "scenario")
        .len()
        .join(joined, on="user")
        .filter(pl.col("joined") < START + timedelta(days=15))
        .group_by("scenario")
        .agg((pl.col("len") / span).median())
    )
    rates = dict(rate.iter_rows())
    assert rates["vips"] < 0.7 * rates["honest"]


def test_short_names_mismatch_and_are_good(frame):
    told = frame("signup", "short_names").join(
        frame("payment_method_added").select("user", "holder_name", "billing_address"), on="user"
    )
    assert told["name"].str.len_chars().max() <= 5
    assert (told["name"] != told["holder_name"]).mean() > 0.9
    homes = told.join(frame("id_verified").select("user", "home_address"), on="user")
    assert (homes["home_address"] != homes["billing_address"]).mean() > 0.6
    assert not told["is_fraud"].any()
    # Honest users elsewhere mismatch as well, though seldom.
    usual = frame("signup", "honest").join(
        frame("payment_method_added").select("user", "holder_name"), on="user"
    )
    assert 0.1 < (usual["name"] != usual["holder_name"]).mean() < 0.4


def test_guests_have_no_history(frame):
    guests = frame("purchase", "guests")
    assert not guests["is_fraud"].any()
    members = set(frame("signup", "guests")["user"])
    strangers = guests.filter(~pl.col("user").is_in(members))
    assert strangers["merchant"].is_not_null().all()
    assert strangers["rail"].unique().to_list() == ["card"]
    hasty = guests.filter(pl.col("user").is_in(members)).join(
        frame("signup").select("user", pl.col("happened_at").alias("joined")), on="user"
    )
    assert (hasty["happened_at"] - hasty["joined"]).max() < timedelta(hours=2)


@pytest.mark.parametrize("event_type", ["signup", "payment_method_added", "purchase", "withdrawal"])
def test_no_single_field_gives_stolen_money_away(frame, event_type):
    events = frame(event_type).filter(
        (pl.col("scenario") == "stolen_money") | (pl.col("role") == "customer")
    )
    is_fraud = (events["role"] == "fraudster").to_numpy()
    half = np.array([zlib.crc32(user.encode()) % 2 for user in events["user"]])
    for name in events.columns:
        if name in {"id", "user", "known_at", *frame("signup").columns[-5:]}:
            continue
        column = events[name]
        if name == "happened_at":
            column = column.dt.hour()
        if column.dtype.is_numeric() and name != "happened_at":
            auc = roc_auc_score(is_fraud, column)
            auc = max(auc, 1 - auc)
        else:
            auc = _auc_of_rates(column.cast(pl.String).fill_null("none"), is_fraud, half)
        assert auc < 0.8, f"{event_type}.{name} alone has ROC-AUC {auc:.2f}"


def test_history_gives_stolen_money_away(frame):
    purchases = frame("purchase").filter(
        (pl.col("scenario") == "stolen_money") | (pl.col("role") == "customer")
    )
    signup = frame("signup").select("user", "carrier", pl.col("happened_at").alias("joined"))
    method = (
        frame("payment_method_added")
        .group_by("user")
        .agg(pl.col("happened_at").min().alias("added"), pl.col("holder_name").first())
    )
    phone = frame("phone_verified").select("user", "registrant_name")
    name = frame("signup").select("user", "name")
    table = purchases.join(signup, on="user").join(method, on="user").join(phone, on="user")
    table = (
        table.join(name, on="user")
        .sort("happened_at")
        .with_columns(
            (pl.col("happened_at") - pl.col("joined")).dt.total_minutes().alias("age"),
            (pl.col("happened_at") - pl.col("added")).dt.total_minutes().alias("method_age"),
            pl.int_range(pl.len()).over("user").alias("num_before"),
            (pl.col("name") != pl.col("holder_name")).cast(pl.Int8).alias("holder_differs"),
            (pl.col("name") != pl.col("registrant_name")).cast(pl.Int8).alias("phone_differs"),
            (pl.col("carrier") == "virtual").cast(pl.Int8).alias("virtual"),
        )
    )
    names = [
        "amount_usd",
        "age",
        "method_age",
        "num_before",
        "holder_differs",
        "phone_differs",
        "virtual",
    ]
    x, y = table.select(names).to_numpy().astype(float), (table["role"] == "fraudster").to_numpy()
    test = np.array([zlib.crc32(user.encode()) % 3 == 0 for user in table["user"]])
    model = lightgbm.train(
        {"objective": "binary", "num_threads": 1, "verbose": -1, "learning_rate": 0.05},
        lightgbm.Dataset(x[~test], y[~test]),
        num_boost_round=80,
    )
    assert roc_auc_score(y[test], model.predict(x[test])) > 0.9


def _auc_of_rates(column, is_fraud, half):
    """ROC-AUC of the fraud rate of a value among the users of the other half."""
    aucs = []
    for part in (0, 1):
        seen = pl.DataFrame({"value": column, "y": is_fraud}).filter(half != part)
        rates = seen.group_by("value").agg(
            (pl.col("y").sum() + 20 * seen["y"].mean()) / (pl.len() + 20)
        )
        mine = pl.DataFrame({"value": column.filter(half == part)})
        scores = mine.join(rates, on="value", how="left", maintain_order="left")["y"]
        aucs.append(roc_auc_score(is_fraud[half == part], scores.fill_null(seen["y"].mean())))
    return float(np.mean(aucs))
