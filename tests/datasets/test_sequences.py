import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from chopmark.datasets import DATA_VARIABLE, simulate
from chopmark.datasets.campaigns import Campaign, hand_picked
from chopmark.datasets.exchange import SCHEMA
from chopmark.datasets.rhythm import THRESHOLD, rhythm
from chopmark.datasets.sequences import SPLITS, available_sequences, load
from chopmark.datasets.simulated import (
    NUMBERS,
    TEXTS,
    exchange_events,
    simulated,
    simulated_names,
)
from chopmark.errors import InvalidInput, InvalidTable

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
FOLDER = Path(os.environ.get(DATA_VARIABLE, SHARED))
ROWS = {
    "cdnow": 49_086,
    "physionet2012": 3_245_708,
    "dunnhumby_cj": 1_095_181,
    "bitcoin_otc": 28_333,
    "fraud_handbook_sim": 872_795,
}


def public(name):
    if not (FOLDER / "sequence" / name).is_dir():
        pytest.skip(f"no folder of sequences; let {DATA_VARIABLE} name one")
    return load(name, FOLDER)


def check_shape(data):
    """What all sets have in common."""
    events, labels = data.events, data.labels
    assert events.columns[:3] == ["user", "happened_at", "type"]
    assert events.schema["happened_at"] == labels.schema["as_of"] == pl.Datetime("us", "UTC")
    assert all(kind in (pl.Float64, pl.String) for kind in events.dtypes[2:])
    assert events.select("user", "happened_at").equals(
        events.select("user", "happened_at").sort("user", "happened_at")
    )
    assert labels.columns[:2] == ["user", "as_of"]
    assert labels.columns[-1] == "split"
    assert set(labels["split"]) == set(SPLITS)
    assert labels.join(events, on="user", how="anti").is_empty()
    for task in data.tasks:
        rows = data.rows(task.name)
        assert rows.columns == ["user", "as_of", "label", "split"]
        for split in SPLITS:
            values = set(data.rows(task, split)["label"])
            assert len(values) >= 2
            if task.kind == "binary":
                assert values == {0, 1}


@pytest.mark.parametrize("name", available_sequences())
def test_a_public_set_has_the_common_shape_and_no_key_of_an_event(name):
    data = public(name)
    check_shape(data)
    assert data.events.height == ROWS[name]
    assert not {"basket_id", "tx_id", "user_id"} & {*data.events.columns, *data.labels.columns}
    assert data.events["type"].null_count() == 0


@pytest.mark.parametrize("name", ["cdnow", "physionet2012", "dunnhumby_cj", "bitcoin_otc"])
def test_events_lie_before_the_instant_of_the_label(name):
    data = public(name)
    joined = data.labels.join(data.events, on="user")
    assert (joined["happened_at"] <= joined["as_of"]).all()


def test_places_and_partners_are_texts_and_what_does_not_change_is_kept_apart():
    assert public("dunnhumby_cj").events.schema["store_id"] == pl.String
    assert public("bitcoin_otc").events.schema["counterparty"] == pl.String
    stays = public("physionet2012")
    assert stays.profile["user"].equals(stays.labels["user"])
    assert stays.profile["height"].min() > 0
    assert stays.profile["height"].null_count() > 1000
    assert set(stays.profile["icu_type"]) == {"1", "2", "3", "4"}


def test_a_transaction_is_labelled_as_of_itself_and_split_by_time():
    data = public("fraud_handbook_sim")
    at = [data.rows("fraud", split)["as_of"] for split in SPLITS]
    assert at[0].max() + timedelta(days=7) <= at[1].min()
    assert at[1].max() <= at[2].min()
    own = data.labels.join(
        data.events, left_on=["user", "as_of"], right_on=["user", "happened_at"], how="semi"
    )
    assert own.height == data.labels.height
    assert data.events["terminal"].n_unique() > 5000


def test_an_unknown_set_task_or_split_is_answered_with_the_names(tmp_path):
    with pytest.raises(InvalidInput, match="did you mean `cdnow`"):
        load("cdnov")
    data = rhythm(20)
    with pytest.raises(InvalidInput, match="did you mean `rhythm`"):
        data.rows("rythm")
    with pytest.raises(InvalidInput, match="train, valid, test"):
        data.rows("rhythm", "validation")
    with pytest.raises(InvalidInput, match="does not exist"):
        load("cdnow", tmp_path)


def test_files_that_are_not_as_published_are_refused(tmp_path):
    folder = tmp_path / "sequence" / "cdnow"
    folder.mkdir(parents=True)
    for part in ("events", "labels"):
        pl.DataFrame({"user_id": [1]}).write_parquet(folder / f"{part}.parquet")
    with pytest.raises(InvalidTable, match="`cdnow` are not as they are published"):
        load("cdnow", tmp_path)


# Rhythm


def facts(data):
    """Per user: the label, and what a rule or a baseline would read."""
    joined = data.events.join(data.labels, on="user", maintain_order="left")
    bought = pl.col("happened_at").filter(pl.col("type") == "purchase")
    gaps = pl.col("happened_at").diff().dt.total_microseconds()
    types = {name: (pl.col("type") == name).sum() for name in sorted(joined["type"].unique())}
    table = joined.group_by("user", maintain_order=True).agg(
        pl.col("y_rhythm").first(),
        age=(pl.col("as_of").first() - bought.last()).dt.total_microseconds(),
        returned=(bought.last() - bought.get(-2, null_on_oob=True)).dt.total_microseconds(),
        tail=(pl.col("as_of").first() - pl.col("happened_at").last()).dt.total_microseconds(),
        spread=gaps.clip(1).log().std(),
        gaps=gaps.drop_nulls(),
        order=pl.col("type").tail(12),
        count=pl.len(),
        **types,
    )
    return table, table["y_rhythm"].to_numpy()


@pytest.mark.parametrize(
    ("rule", "oracle"), [("age", "age"), ("returns", "returned"), ("bursts", "spread")]
)
def test_the_rule_itself_reaches_the_best_there_is_and_no_more(rule, oracle):
    data = rhythm(2000, rule=rule, noise=0.02, seed=3)
    check_shape(data)
    table, y = facts(data)
    assert (table["tail"] > 0).all()
    assert 0.96 <= roc_auc_score(y, table[oracle].fill_null(0)) <= 0.99
    if rule != "bursts":
        assert ((table[oracle] > THRESHOLD) != (y == 1)).mean() == pytest.approx(0.02, abs=0.01)


def learned(features, y, seed=0):
    """ROC-AUC of trees on the later half of the rows, learned on the first."""
    half = len(y) // 2
    settings = {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": seed}
    data = lightgbm.Dataset(features[:half], y[:half], params={"verbosity": -1})
    model = lightgbm.train(settings | {"num_leaves": 15}, data, num_boost_round=60)
    return roc_auc_score(y[half:], model.predict(features[half:], num_threads=1))


@pytest.mark.parametrize("rule", ["age", "returns", "bursts"])
def test_types_and_their_order_tell_nothing(rule):
    table, y = facts(rhythm(3000, rule=rule, seed=1))
    bag = table.select("count", "login", "page_view", "price_alert", "purchase", "sale")
    order = np.stack([row.cast(pl.Categorical).to_physical() for row in table["order"]])
    # Three standard errors at 1,500 rows are 0.045.
    assert abs(learned(bag.to_numpy(), y) - 0.5) < 0.05
    assert abs(learned(np.hstack([bag.to_numpy(), order]), y) - 0.5) < 0.05


@pytest.mark.parametrize("rule", ["age", "returns"])
def test_gaps_in_buckets_or_not_tell_nothing_either(rule):
    table, y = facts(rhythm(3000, rule=rule, seed=2))
    last = np.stack([row.to_numpy()[-20:] for row in table["gaps"]])
    buckets = np.floor(np.log2(np.maximum(last, 1)))
    sums = np.cumsum(last[:, ::-1], axis=1)
    assert abs(learned(buckets, y) - 0.5) < 0.05
    assert abs(learned(np.hstack([last, sums]), y) - 0.5) < 0.05


def test_the_time_since_any_event_is_not_enough_for_the_age_of_a_purchase():
    table, y = facts(rhythm(3000, rule="age", seed=4))
    assert roc_auc_score(y, table["tail"]) < 0.93


def test_the_same_seed_gives_the_same_rhythm_and_bad_numbers_are_refused():
    assert rhythm(50, seed=5).events.equals(rhythm(50, seed=5).events)
    assert not rhythm(50, seed=5).events.equals(rhythm(50, seed=6).events)
    for bad in ({"num_users": 5}, {"noise": 0.5}, {"rule": "tempo"}):
        with pytest.raises(InvalidInput, match="expected"):
            rhythm(**{"num_users": 20} | bad)


# The simulated exchange


@pytest.mark.parametrize("name", ["clicks", "conversions", "segments"])
def test_a_simulated_task_has_the_common_shape_and_repeats(name):
    data = simulated(name, num_users=300, days=60, seed=2)
    check_shape(data)
    again = simulated(name, num_users=300, days=60, seed=2)
    assert data.events.equals(again.events)
    assert data.labels.equals(again.labels)


def test_events_of_the_exchange_carry_no_identity():
    simulation = simulate(num_users=60, days=60, seed=1)
    events = exchange_events(simulation)
    fields = {name: SCHEMA.fields[name] for name in (*TEXTS, *NUMBERS)}
    assert events.columns == ["user", "happened_at", "type", *fields]
    assert not [name for name, field in fields.items() if field.entity or field.personal]
    assert not {"chargeback", "verdict"} & set(events["type"])
    assert events.filter(pl.col("type") == "purchase")["amount_usd"].null_count() == 0


def test_a_click_is_the_message_that_was_opened():
    data = simulated("clicks", num_users=300, days=60, seed=2)
    simulation = simulate(num_users=300, days=60, seed=2, scenarios=())
    sent = simulation.frame("notification_sent")
    about = set(simulation.frame("notification_opened")["about"])
    truth = {
        (row["user"], row["happened_at"]): int(row["id"] in about)
        for row in sent.iter_rows(named=True)
    }
    rows = data.rows("clicks").iter_rows(named=True)
    assert all(row["label"] == truth[row["user"], row["as_of"]] for row in rows)


def test_a_conversion_is_a_purchase_within_seven_days_of_the_visit():
    data = simulated("conversions", num_users=300, days=60, seed=2)
    bought = {}
    for row in data.events.filter(pl.col("type") == "purchase").iter_rows(named=True):
        bought.setdefault(row["user"], []).append(row["happened_at"])
    for row in data.rows("conversions").iter_rows(named=True):
        at = row["as_of"]
        soon = [one for one in bought.get(row["user"], []) if at < one <= at + timedelta(days=7)]
        assert row["label"] == bool(soon)


def test_labels_of_a_part_come_true_before_the_next_part_begins():
    data = simulated("conversions", num_users=300, days=60, seed=2)
    at = {split: data.rows("conversions", split)["as_of"] for split in SPLITS}
    assert at["train"].max() + timedelta(days=7) <= at["valid"].min()
    assert at["valid"].max() + timedelta(days=7) <= at["test"].min()


def test_the_strongest_taste_is_planted_and_seen_in_what_is_looked_at():
    data = simulated("segments", num_users=1500, days=90, seed=3)
    simulation = simulate(num_users=1500, days=90, seed=3, scenarios=())
    factors = np.array(simulation.asset_factors["factors"].to_list())
    place = {name: row for row, name in enumerate(simulation.asset_factors["asset"])}
    seen = data.events.filter(pl.col("type") == "page_view", pl.col("asset").is_not_null())
    labels = dict(data.rows("taste").select("user", "label").iter_rows())
    hits = total = 0
    for (user,), part in seen.group_by("user"):
        if user in labels and part.height >= 40:
            mean = factors[[place[name] for name in part["asset"]]].mean(axis=0)
            centred = mean - factors.mean(axis=0)
            hits += labels[user] == f"taste{centred.argmax()}"
            total += 1
    assert total >= 50
    assert hits / total > 0.4


def test_fraudulent_payments_are_rare():
    data = simulated("payments", num_users=2000, days=120, seed=1)
    check_shape(data)
    assert 0.001 <= data.rows("payments")["label"].mean() <= 0.01


def test_an_unknown_simulated_task_is_refused():
    assert set(simulated_names()) == {"clicks", "conversions", "segments", "payments"}
    with pytest.raises(InvalidInput, match="did you mean `clicks`"):
        simulated("click")
    with pytest.raises(InvalidInput, match="at least 60 days"):
        simulated("clicks", days=30)


# A campaign


@pytest.fixture(scope="module")
def campaign():
    return Campaign(1500, warm_days=40, days=4, seed=7)


def test_who_engages_is_drawn_with_the_true_chance(campaign):
    rows = campaign.candidates(1)
    chances = campaign.chances(1, rows["user"])
    hits, expected, variance = 0, 0.0, 0.0
    for seed in range(12):
        other = Campaign(1500, warm_days=40, days=2, base=0.05, seed=seed)
        users = other.candidates(1)["user"]
        p = other.chances(1, users)
        hits += len(other.engaged(1, users))
        expected += p.sum()
        variance += (p * (1 - p)).sum()
    assert abs(hits - expected) < 4 * variance**0.5
    assert 0.01 < chances.mean() < 0.035
    assert campaign.chances(0, campaign.candidates(0)["user"]).mean() == pytest.approx(
        0.02, rel=0.4
    )


def test_an_answer_depends_on_user_and_day_alone(campaign):
    users = campaign.candidates(2)["user"]
    all_of_them = set(campaign.engaged(2, users))
    some = users.sample(500, seed=1)
    assert set(campaign.engaged(2, some)) == all_of_them & set(some)
    assert set(campaign.engaged(3, users)) != all_of_them
    twin = Campaign(1500, warm_days=40, days=4, seed=7)
    assert set(twin.engaged(2, users)) == all_of_them


def test_nobody_has_met_the_asset_and_users_live_on_during_the_campaign(campaign):
    begin, end = campaign.as_of(0), campaign.as_of(3)
    during = campaign.events.filter(pl.col("happened_at").is_between(begin, end))
    assert during["user"].n_unique() > 100
    joined = campaign.events.filter(pl.col("type") == "signup").select("user", "happened_at")
    for day in range(4):
        here = set(joined.filter(pl.col("happened_at") <= campaign.as_of(day))["user"])
        assert set(campaign.candidates(day)["user"]) == here


def test_the_hand_picked_are_active_and_hold_something(campaign):
    rows = campaign.candidates(1)
    picked = hand_picked(campaign.events, rows)
    signs = {"purchase": 1, "sale": -1, "withdrawal": -1}
    at = campaign.as_of(1)
    for user, found in list(zip(rows["user"], picked, strict=True))[:300]:
        own = campaign.events.filter(pl.col("user") == user, pl.col("happened_at") <= at)
        holds, active = 0.0, False
        for row in own.iter_rows(named=True):
            holds += signs.get(row["type"], 0) * (row["amount_usd"] or 0.0)
            recent = row["happened_at"] >= at - timedelta(days=7)
            active |= recent and row["type"] != "notification_sent"
        assert found == (active and holds > 100)
    assert 0.05 < picked.mean() < 0.5
    # Active users look at messages, so the heuristic is better than chance.
    chances = campaign.chances(1, rows["user"])
    assert chances[picked].mean() > 1.1 * chances.mean()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_hand_picked_answers_each_row_by_its_own_instant(campaign, data):
    days = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
    parts = [campaign.candidates(day).head(200) for day in days]
    mixed = pl.concat(parts).sample(fraction=1.0, shuffle=True, seed=data.draw(st.integers(0, 9)))
    together = mixed.with_columns(picked=hand_picked(campaign.events, mixed))
    for part in parts:
        alone = part.with_columns(alone=hand_picked(campaign.events, part))
        joined = alone.join(together, on=["user", "as_of"])
        assert joined.height == part.height
        assert joined["alone"].equals(joined["picked"], null_equal=False)


def test_a_campaign_says_what_it_cannot_do(campaign):
    with pytest.raises(InvalidInput, match="day from 0 to 3, got 4"):
        campaign.candidates(4)
    with pytest.raises(InvalidInput, match="got `nobody`"):
        campaign.chances(0, ["nobody"])
    for bad in ({"warm_days": 5}, {"base": 0.0}, {"days": 0}, {"pull": -1}):
        with pytest.raises(InvalidInput, match="expected"):
            Campaign(50, **bad)
    empty = pl.DataFrame(schema={"user": pl.String, "as_of": pl.Datetime("us", "UTC")})
    assert hand_picked(campaign.events, empty).shape == (0,)
    assert campaign.as_of(0) == datetime(2026, 2, 10, tzinfo=UTC)
