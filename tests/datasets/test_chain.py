"""The simulated chain: who is on it, what it looks like, and what is true of it."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import numpy as np
import polars as pl
import pytest

from chopmark.datasets import simulate
from chopmark.datasets.chain import COIN_USD, simulate_chain, write_ethereum_etl
from chopmark.errors import InvalidInput, InvalidTable
from chopmark.graph.behaviour import Behaviour
from chopmark.graph.ethereum import read_ethereum
from chopmark.graph.transfers import TRANSFERS

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def chain():
    return simulate_chain(num_addresses=6000, days=60, seed=3, illicit=0.01)


@pytest.fixture(scope="module")
def withdrawals():
    exchange = simulate(num_users=300, days=40, seed=1)
    told = exchange.event_truth.select("id", "is_fraud")
    return exchange.frame("withdrawal").join(told, on="id", maintain_order="left")


@pytest.fixture(scope="module")
def with_users(withdrawals):
    return simulate_chain(num_addresses=2000, days=40, seed=2, withdrawals=withdrawals)


def digest(chain) -> str:
    hashed = sha256()
    for frame in (chain.transfers, chain.token_transfers, chain.labels, chain.truth, chain.tokens):
        hashed.update(frame.write_json().encode())
    return hashed.hexdigest()


def places_of(chain):
    """Transfers as columns of ids in the order of `truth`, and the roles."""
    ids = chain.truth["address"].to_list()
    number = {address: i for i, address in enumerate(ids)}
    src, dst = (
        chain.transfers[name].replace_strict(number, return_dtype=pl.Int64).to_numpy()
        for name in ("sender", "receiver")
    )
    time = chain.transfers["happened_at"].dt.epoch("s").to_numpy().astype(float)
    return src, dst, chain.transfers["amount"].to_numpy(), time


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    few = {"num_addresses": 600, "days": 30, "illicit": 0.02}
    first = digest(simulate_chain(**few, seed=1))
    assert digest(simulate_chain(**few, seed=1)) == first
    assert digest(simulate_chain(**few, seed=2)) != first


def test_transfers_have_the_columns_and_the_order_of_all_transfers(chain):
    for frame in (chain.transfers, chain.token_transfers):
        assert frame.schema == TRANSFERS
        assert sum(frame.null_count().row(0)) == 0
        assert frame.equals(frame.sort("block", "happened_at", "tx", "place"))
        assert (frame["amount"] >= 0).all()
        assert frame["happened_at"].is_between(START, START + timedelta(days=60)).all()
    assert chain.transfers["tx"].is_unique().all()
    assert chain.transfers["sender"].str.contains("^0x[0-9a-f]{40}$").all()
    assert chain.token_transfers.select("block", "place").is_unique().all()
    txs = chain.transfers.select("tx", "block", "happened_at")
    logs = chain.token_transfers.join(txs, on=["tx", "block", "happened_at"], how="anti")
    assert logs.is_empty()


def test_all_that_pay_and_are_paid_are_in_the_truth_once(chain):
    assert len(chain.truth) == 6000
    assert chain.truth["address"].is_unique().all()
    seen = pl.concat([chain.transfers["sender"], chain.transfers["receiver"]]).unique()
    assert seen.is_in(chain.truth["address"].implode()).all()
    named = chain.truth.filter(pl.col("first_seen_at").is_not_null())["address"]
    assert set(named) == set(seen)


def test_as_many_are_illicit_as_asked_for(chain):
    assert 0.008 < chain.truth["is_illicit"].mean() < 0.012
    licit = simulate_chain(num_addresses=600, days=30, illicit=0)
    assert not licit.truth["is_illicit"].any()
    assert not licit.labels["is_illicit"].any()
    assert not licit.tokens["is_scam"].any()


def test_few_addresses_have_most_counterparties(chain):
    src, dst, _, _ = places_of(chain)
    pairs = np.unique(np.stack([src, dst]), axis=1)
    degree = np.bincount(pairs.ravel(), minlength=6000)
    roles = chain.truth["role"].to_numpy()
    assert degree[roles == "exchange"].min() > 100 * np.median(degree[roles == "person"])
    people = np.sort(degree[roles == "person"])[::-1]
    assert people[: len(people) // 20].sum() > 0.25 * people.sum()


def test_days_have_a_rhythm_and_amounts_a_long_tail(chain):
    hours = np.bincount(chain.transfers["happened_at"].dt.hour().to_numpy(), minlength=24)
    assert hours.max() > 1.3 * hours.min()
    week = chain.transfers["happened_at"].dt.weekday().to_numpy()
    assert (week >= 6).mean() < 0.9 * 2 / 7
    amounts = chain.transfers.filter(pl.col("amount") > 0)["amount"]
    assert amounts.mean() > 1.5 * amounts.median()


def test_criminals_hurry_more_than_those_of_the_same_shape_and_neither_can_be_told_by_it(chain):
    names, values = Behaviour.of(*places_of(chain), num_nodes=6000).features(hops=0)
    roles = chain.truth["role"].to_numpy()
    delay = values[:, names.index("last_out_after_last_in_s")]
    bad, good = (np.isin(roles, kinds) for kinds in (["theft", "cycle"], ["migration", "treasury"]))
    assert np.nanmedian(delay[bad]) < np.nanmedian(delay[good])
    assert np.nanquantile(delay[bad], 0.9) > np.nanmedian(delay[good])
    sweeps = values[roles == "deposit", names.index("forwarded_share_1d")]
    assert np.nanmedian(sweeps) > 0.9


def test_illicit_money_leaves_through_places_that_licit_money_seldom_sees(chain):
    src, dst, _, _ = places_of(chain)
    roles, illicit = chain.truth["role"].to_numpy(), chain.truth["is_illicit"].to_numpy()
    ends = np.isin(roles, ["cashout", "mixer"])
    pays = np.zeros(6000, dtype=bool)
    pays[src[ends[dst]]] = True
    active = np.isin(np.arange(6000), src)
    assert pays[active & illicit].mean() > 5 * pays[active & ~illicit].mean()
    # A mixer is no proof: more honest people than criminals pay one.
    mixed = np.unique(src[roles[dst] == "mixer"])
    assert (~illicit[mixed]).sum() > illicit[mixed].sum()


def test_every_shape_of_crime_and_each_licit_twin_is_there(chain):
    roles = set(chain.truth["role"])
    assert {"theft", "scam", "ransom", "cycle", "poisoning", "cashout", "token_maker"} <= roles
    twins = {"migration", "fundraiser", "club", "treasury", "faucet"}
    assert twins <= roles
    groups = chain.truth.filter(pl.col("group").is_not_null())
    shapes = groups.filter(pl.col("role").is_in(["theft", *twins])).group_by("role").len()
    count = dict(shapes.iter_rows())
    assert count["migration"] == 2 * count["theft"]


def test_a_ring_sends_money_round_to_where_it_came_from(chain):
    paid = set(chain.transfers.select("sender", "receiver").iter_rows())
    rings = chain.truth.filter(pl.col("role") == "cycle").group_by("group", maintain_order=True)
    closed = [
        all(
            pair in paid
            for pair in zip(
                ring["address"], [*ring["address"][1:], ring["address"][0]], strict=True
            )
        )
        for _, ring in rings
    ]
    assert any(closed)


def test_a_poisoner_looks_like_somebody_and_sends_dust_to_many(chain):
    poisoners = chain.truth.filter(pl.col("role") == "poisoning")["address"].to_list()
    others = chain.truth.filter(pl.col("role") == "person")["address"]
    ends = set(others.str.slice(0, 7) + others.str.slice(37))
    for poisoner in poisoners:
        assert poisoner[:7] + poisoner[37:] in ends
        sent = chain.transfers.filter((pl.col("sender") == poisoner) & (pl.col("amount") < 1e-4))
        assert sent["receiver"].n_unique() > 20


def test_services_are_known_at_once_and_crime_late_in_part_and_sometimes_wrongly(chain):
    labels = chain.labels.join(chain.truth, on="address", suffix="_true", maintain_order="left")
    services = labels.filter(~pl.col("is_illicit"))
    assert set(services["label"]) == {"exchange", "mixer", "pool"}
    assert (services["known_at"] == START).all()
    right = labels.filter(pl.col("is_illicit") & pl.col("is_illicit_true"))
    assert (right["known_at"] > right["first_seen_at"]).all()
    assert (right["known_at"] - right["first_seen_at"]).median() > timedelta(days=5)
    assert 0.25 < len(right) / chain.truth["is_illicit"].sum() < 0.65
    wrong = labels.filter(pl.col("is_illicit") & ~pl.col("is_illicit_true"))
    assert 0 < len(wrong) < 0.15 * len(right)


def test_of_a_honeypot_none_but_its_makers_sell(chain):
    for row in chain.tokens.iter_rows(named=True):
        moved = chain.token_transfers.filter(pl.col("asset") == row["token"])
        sellers = set(moved.filter(pl.col("receiver") == row["pool"])["sender"])
        sellers -= set(row["insiders"])
        buyers = moved.filter(pl.col("sender") == row["pool"])["receiver"].n_unique()
        assert buyers > 10
        if row["kind"] == "honeypot":
            assert not sellers
        elif row["kind"] in ("licit", "airdrop"):
            assert len(sellers) > 2
    assert set(chain.tokens["kind"]) == {
        "licit", "airdrop", "honeypot", "internal_fee", "rug_pull",
    }  # fmt: skip


def test_only_tokens_with_a_fee_pay_their_makers_at_each_transfer(chain):
    for row in chain.tokens.iter_rows(named=True):
        moved = chain.token_transfers.filter(pl.col("asset") == row["token"])
        buys = moved.filter(pl.col("sender") == row["pool"])
        to_makers = buys.filter(pl.col("receiver").is_in(row["insiders"]))
        twice = buys.group_by("tx").len().filter(pl.col("len") == 2)
        if row["kind"] == "internal_fee":
            assert len(twice) == len(to_makers) > 10
            assert 0.05 < to_makers["amount"].sum() / buys["amount"].sum() < 0.35
        else:
            assert twice.is_empty()


def test_after_a_rug_pull_nobody_buys_and_the_makers_sold_last(chain):
    for row in chain.tokens.filter(pl.col("kind") == "rug_pull").iter_rows(named=True):
        moved = chain.token_transfers.filter(pl.col("asset") == row["token"])
        pulled = moved.filter(
            pl.col("sender").is_in(row["insiders"])
            & (pl.col("receiver") == row["pool"])
            & (pl.col("happened_at") > row["deployed_at"] + timedelta(hours=1))
        )["happened_at"]
        buys = moved.filter(pl.col("sender") == row["pool"])["happened_at"]
        assert len(pulled) == 2
        assert buys.max() < pulled.min()


def test_ethereum_etl_files_are_read_back_to_the_same_transfers(with_users, tmp_path):
    write_ethereum_etl(with_users, tmp_path)
    reads = list(
        read_ethereum(
            transactions=tmp_path / "transactions.csv",
            token_transfers=tmp_path / "token_transfers.csv",
        )
    )
    assert all(read.rejected.is_empty() for read in reads)
    order = ["block", "happened_at", "tx", "asset", "place"]
    back = pl.concat([read.transfers for read in reads]).sort(order)
    ours = pl.concat([with_users.transfers, with_users.token_transfers]).sort(order)
    assert back.equals(ours)
    with pytest.raises(InvalidInput, match=r"expected no `transactions\.csv`"):
        write_ethereum_etl(with_users, tmp_path)


def test_each_withdrawal_of_the_exchange_is_paid_by_its_hot_wallet(with_users, withdrawals):
    inside = withdrawals.filter(pl.col("happened_at") < START + timedelta(days=39, hours=23))
    hot = with_users.truth.filter(pl.col("role") == "exchange")["address"][0]
    paid = with_users.transfers.filter(pl.col("sender") == hot).select(
        pl.col("receiver").alias("address"), "happened_at", "amount"
    )
    asked = inside.select(
        "address",
        pl.col("happened_at").alias("asked_at"),
        (pl.col("amount_usd") / COIN_USD).alias("coins"),
    )
    both = asked.join(paid, on="address").filter((pl.col("amount") - pl.col("coins")).abs() < 1e-8)
    both = both.filter(
        (pl.col("happened_at") - pl.col("asked_at")).is_between(
            timedelta(seconds=-12), timedelta(minutes=11)
        )
    )
    assert both.select("address", "asked_at").n_unique() == len(asked)


def test_a_thiefs_wallet_empties_within_hours_and_an_honest_one_does_not(with_users, withdrawals):
    names, values = Behaviour.of(*places_of(with_users), num_nodes=len(with_users.truth)).features(
        hops=0
    )
    roles = with_users.truth["role"].to_numpy()
    gone = values[:, names.index("forwarded_share_1d")]
    assert np.nanmedian(gone[roles == "thief_wallet"]) > 0.8
    assert np.nanmedian(gone[roles == "wallet"]) < 0.3
    thieves = with_users.truth.filter(pl.col("role") == "thief_wallet")
    assert thieves["is_illicit"].all()
    fraud = withdrawals.filter(pl.col("is_fraud"))["address"]
    assert thieves["address"].is_in(fraud.implode()).all()
    assert len(thieves) > 3


def test_what_cannot_be_simulated_says_why(withdrawals):
    with pytest.raises(InvalidInput, match="num_addresses >= 500, got 10"):
        simulate_chain(num_addresses=10)
    with pytest.raises(InvalidInput, match="at least 30 days"):
        simulate_chain(days=3)
    with pytest.raises(InvalidInput, match="illicit from 0 to"):
        simulate_chain(illicit=0.5)
    with pytest.raises(InvalidTable, match="expected a column `address`"):
        simulate_chain(num_addresses=500, withdrawals=withdrawals.drop("address"))
    naive = withdrawals.with_columns(pl.col("happened_at").dt.replace_time_zone(None))
    with pytest.raises(InvalidTable, match="a datetime with a time zone"):
        simulate_chain(num_addresses=500, withdrawals=naive)
    with pytest.raises(InvalidTable, match="expected amounts >= 0"):
        simulate_chain(
            num_addresses=500, withdrawals=withdrawals.with_columns(amount_usd=pl.lit(-1.0))
        )
    with pytest.raises(InvalidTable, match="expected a value in every row"):
        simulate_chain(
            num_addresses=500,
            withdrawals=withdrawals.with_columns(address=pl.lit(None, dtype=pl.String)),
        )
    none = simulate_chain(num_addresses=500, days=30, withdrawals=withdrawals.head(0))
    assert "wallet" not in set(none.truth["role"])
