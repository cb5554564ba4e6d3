"""Behaviour of addresses: against plain Python, at any cut, and beside the catalog."""

import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.datasets import DATA_VARIABLE
from chopmark.datasets.exchange import SCHEMA as EXCHANGE
from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.events import Schema
from chopmark.features import Catalog, Fold, from_frame
from chopmark.graph.behaviour import Behaviour, feature_names
from chopmark.graph.transferevents import (
    Transfer,
    address_features,
    catalog_names,
    transfer_events,
)

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
HOUR, DAY = 3600, 86400

rows = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 5),
        st.sampled_from([0.0, 1e-6, 0.5, 1.0, 1.0, 3.25, 40.0, 1e6]),
        st.sampled_from([0, 0, 12, 600, HOUR, HOUR + 1, 7 * HOUR, DAY, DAY + 1, 40 * DAY]),
    ),
    min_size=1,
    max_size=40,
)


def columns_of(drawn):
    src, dst, amount, step = (np.array(column) for column in zip(*drawn, strict=True))
    return src, dst, amount.astype(float), 1.6e9 + np.cumsum(step).astype(float)


def some_history(num=3000, nodes=200, seed=0):
    rng = np.random.default_rng(seed)
    src, dst = ((nodes * rng.random(num) ** 2).astype(int) for _ in range(2))
    time = 1.6e9 + np.sort(rng.integers(0, 90 * DAY, num)).astype(float)
    return src, dst, np.round(rng.lognormal(0, 1.5, num), 4), time


def told_plainly(node, events):
    """The features of one address from the list of all (src, dst, amount, time), slowly."""
    told = {}
    sides = {"out": [e for e in events if e[0] == node], "in": [e for e in events if e[1] == node]}
    for side, mine in sides.items():
        coins = [e[2] for e in mine]
        times = [e[3] for e in mine]
        gaps = [b - a for a, b in pairwise(times)]
        runs = [1] if mine else [0]
        for gap in gaps:
            runs.append(runs[-1] + 1 if gap <= HOUR else 1)
        others = {e[1] if side == "out" else e[0] for e in mine}
        told |= {
            f"{side}_count": len(mine),
            f"{side}_sum": sum(coins),
            f"{side}_distinct": len(others),
            f"{side}_burst_max": max(runs),
        }
        if mine:
            turns = [2 * math.pi * (t % DAY) / DAY for t in times]
            length = math.hypot(sum(map(math.cos, turns)), sum(map(math.sin, turns)))
            told |= {
                f"{side}_mean": np.mean(coins),
                f"{side}_min": min(coins),
                f"{side}_max": max(coins),
                f"{side}_std": np.std(coins),
                f"{side}_last": coins[-1],
                f"{side}_log_std": np.std(np.log1p(coins)),
                f"{side}_life_s": times[-1] - times[0],
                f"{side}_hour_spread": 1 - length / len(mine),
            }
        if gaps:
            same = [a == b for a, b in pairwise(coins)]
            told |= {
                f"{side}_repeat_share": np.mean(same),
                f"{side}_gap_mean_s": np.mean(gaps),
                f"{side}_gap_std_s": np.std(gaps),
                f"{side}_short_gap_share": np.mean([gap <= HOUR for gap in gaps]),
            }
    sent, got = sides["out"], sides["in"]
    paid, payers = {e[1] for e in sent}, {e[0] for e in got}
    total = told["out_sum"] + told["in_sum"]
    if total:
        told["flow_balance"] = (told["in_sum"] - told["out_sum"]) / total
    if sent or got:
        told["count_balance"] = (len(got) - len(sent)) / (len(got) + len(sent))
        told["pair_balance"] = (len(payers) - len(paid)) / (len(payers) + len(paid))
        told["mutual_share"] = 2 * len(paid & payers) / (len(payers) + len(paid))
        times = [e[3] for e in sent + got]
        told["life_s"] = max(times) - min(times)
    if sent and got:
        told["first_out_after_first_in_s"] = sent[0][3] - got[0][3]
        told["last_out_after_last_in_s"] = sent[-1][3] - got[-1][3]
    newest, delays = None, []
    fresh, gone = {HOUR: 0.0, DAY: 0.0}, {HOUR: 0.0, DAY: 0.0}
    for src, dst, coins, at in events:
        if src == node and newest is not None:
            delays.append(at - newest)
            for window in fresh:
                if at - newest <= window:
                    part = min(coins, fresh[window])
                    fresh[window] -= part
                    gone[window] += part
        if dst == node:
            for window in fresh:
                if newest is not None and at - newest > window:
                    fresh[window] = 0.0
                fresh[window] += coins
            newest = at
    if told["in_sum"]:
        told["forwarded_share_1h"] = gone[HOUR] / told["in_sum"]
        told["forwarded_share_1d"] = gone[DAY] / told["in_sum"]
    if delays:
        told["delay_mean_s"] = np.mean(delays)
    return [told.get(name, math.nan) for name in feature_names(hops=0)]


@settings(max_examples=25, deadline=None)
@given(rows)
def test_features_equal_a_slow_telling_in_plain_python(drawn):
    columns = columns_of(drawn)
    names, values = Behaviour.of(*columns, num_nodes=6).features(hops=0)
    events = list(zip(*(column.tolist() for column in columns), strict=True))
    slow = np.array([told_plainly(node, events) for node in range(6)])
    assert values.shape == (6, len(names))
    # Gaps of 40 days: a variance from sums of squares keeps half a second of them.
    np.testing.assert_allclose(values, slow, rtol=2e-6, atol=1e-6, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(rows, st.lists(st.integers(0, 40), max_size=4))
def test_any_cut_of_the_stream_gives_the_same_bits_as_one_piece(drawn, cuts):
    columns = columns_of(drawn)
    whole = Behaviour.of(*columns)
    parts = Behaviour()
    edges = [0, *sorted(min(cut, len(drawn)) for cut in cuts), len(drawn)]
    for begin, end in pairwise(edges):
        touched = parts.update(*(column[begin:end] for column in columns))
        ends = set(columns[0][begin:end].tolist()) | set(columns[1][begin:end].tolist())
        assert set(touched.tolist()) == ends
    assert parts.num_pairs == whole.num_pairs
    np.testing.assert_array_equal(
        parts.features(ages=True)[1].view(np.uint32), whole.features(ages=True)[1].view(np.uint32)
    )


def test_hops_are_means_of_the_own_features_weighted_by_the_amounts_of_the_pairs():
    src, dst, amount, time = some_history(600, 40)
    behaviour = Behaviour.of(src, dst, amount, time)
    own_names, own = behaviour.features(hops=0)
    names, values = behaviour.features(hops=2)
    n, d = own.shape
    near = np.sign(own) * np.log1p(np.abs(own))
    sums = np.zeros((n, n))
    np.add.at(sums, (src, dst), amount)
    linked = np.zeros((n, n), dtype=bool)
    linked[src, dst] = True
    np.fill_diagonal(linked, False)
    weights = np.where(linked, np.log1p(sums) + 1e-6, 0.0)

    def mean(weights, x):
        there = ~np.isnan(x)
        with np.errstate(invalid="ignore"):
            return (weights @ np.where(there, x, 0)) / (weights @ there)

    paid, payers = mean(weights, near), mean(weights.T, near)
    slow = np.hstack([own, paid, payers, mean(weights, paid), mean(weights.T, payers)])
    np.testing.assert_allclose(values, slow, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert names[d] == "paid_" + own_names[0]
    assert names[4 * d] == "payers_of_payers_" + own_names[0]


def test_one_address_reads_the_same_bits_as_the_table_of_all():
    behaviour = Behaviour.of(*some_history())
    _, table = behaviour.features(ages=True, most=16)
    for node in (0, 7, 150):
        _, one = behaviour.features([node, node], ages=True, most=16)
        np.testing.assert_array_equal(one, table[[node, node]])


def test_a_hub_is_read_through_its_newest_pairs_alone():
    num = 50
    payers = np.arange(1, num + 1)
    time = 1e9 + payers * 60.0
    behaviour = Behaviour.of(payers, np.zeros(num, int), payers.astype(float), time)
    names, values = behaviour.features([0], hops=1, most=1)
    assert values[0, names.index("payers_out_sum")] == pytest.approx(math.log1p(num))
    assert values[0, names.index("in_distinct")] == num


def test_an_update_leaves_the_untouched_as_they_were():
    src, dst, amount, time = some_history()
    behaviour = Behaviour.of(src[:-5], dst[:-5], amount[:-5], time[:-5], num_nodes=200)
    before = behaviour.features(hops=0)[1]
    touched = behaviour.update(src[-5:], dst[-5:], amount[-5:], time[-5:])
    same = np.setdiff1d(np.arange(200), touched)
    after = behaviour.features(hops=0)[1]
    np.testing.assert_array_equal(after[same], before[same])
    assert (after[touched, 0] + after[touched, 16] > before[touched, 0] + before[touched, 16]).all()


def test_an_earlier_now_sees_nothing_of_what_came_later():
    src, dst, amount, time = some_history()
    cut = 1700
    shuffled = np.random.default_rng(1).permutation(len(src))
    # The order among rows of one second is theirs; there are none here at the cut.
    now = time[cut - 1]
    known = time <= now
    early = Behaviour.of(src[known], dst[known], amount[known], time[known], num_nodes=200)
    seen = Behaviour.of(
        src[shuffled], dst[shuffled], amount[shuffled], time[shuffled], now=now, num_nodes=200
    )
    assert seen.num_rows == known.sum()
    if len(np.unique(time)) == len(time):
        np.testing.assert_array_equal(seen.features()[1], early.features()[1])


def test_moving_all_history_by_some_days_changes_no_feature():
    src, dst, amount, time = some_history()
    here = Behaviour.of(src, dst, amount, time).features()[1]
    there = Behaviour.of(src, dst, amount, time + 1234 * DAY).features()[1]
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_the_catalog_reads_the_same_values_at_a_withdrawal():
    src, dst, amount, time = some_history(400, 30)
    names = [f"0x{i:040x}" for i in range(30)]
    moments = (pl.Series(time) * 1e6).cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    transfers = pl.DataFrame(
        {
            "sender": [names[i] for i in src],
            "receiver": [names[i] for i in dst],
            "amount": amount,
            "happened_at": moments,
            "asset": "",
        }
    )
    schema = Schema(*EXCHANGE.types.values(), Transfer)
    fold = Fold(Catalog(schema, *address_features([None, "7d"])))
    end = moments[-1]
    asked = pl.DataFrame(
        {
            "type": "withdrawal",
            "happened_at": pl.Series([end] * 30).dt.offset_by("1d"),
            "known_at": pl.Series([end] * 30).dt.offset_by("1d"),
            "address": names,
        }
    )
    log = pl.concat([transfer_events(transfers), asked], how="diagonal")
    columns = from_frame(log, schema, fold.codes)
    (replayed,) = list(fold.replay(columns, wanted=np.arange(len(log)) >= len(transfers)))
    behaviour = Behaviour.of(src, dst, amount, time, num_nodes=30)
    ours_names, ours = behaviour.features(hops=0, ages=True, now=time[-1] + DAY)
    for theirs, name in catalog_names().items():
        row = fold.catalog.names.index(theirs)
        np.testing.assert_allclose(
            replayed.values[row],
            ours[:, ours_names.index(name)],
            rtol=2e-6,
            atol=1e-5,
            equal_nan=True,
            err_msg=theirs,
        )
    assert len(catalog_names()) == 20
    assert "transfer_amount_sum_7d_by_sender" in fold.catalog.names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": [-1, 1]}, "expected ids from 0"),
        ({"src": [0.5, 1]}, "expected whole numbers in `src`"),
        ({"dst": [1]}, "expected columns of one length"),
        ({"amount": [1.0, -2.0]}, "expected finite amounts >= 0, got -2.0 in row 1"),
        ({"amount": [math.inf, 1.0]}, "expected finite amounts"),
        ({"time": [math.nan, 1e9]}, "expected finite times"),
        ({"time": [2e9, 1e9]}, "expected rows in the order of time"),
        ({"time": [1.0, 2.0]}, "expected rows in the order of time"),
    ],
)
def test_rows_that_cannot_be_leave_nothing_behind(change, message):
    behaviour = Behaviour.of(*some_history(100, 10))
    before = behaviour.features(ages=True)[1]
    good = {"src": [0, 50], "dst": [1, 2], "amount": [1.0, 2.0], "time": [2e9, 2e9]}
    with pytest.raises(InvalidInput, match=message):
        behaviour.update(**(good | change))
    np.testing.assert_array_equal(behaviour.features(ages=True)[1], before)
    assert behaviour.update(**good).tolist() == [0, 1, 2, 50]


def test_questions_that_cannot_be_answered_say_why():
    behaviour = Behaviour.of(*some_history(100, 10))
    with pytest.raises(InvalidInput, match="expected ids from 0 to 9, got 10"):
        behaviour.features([10])
    with pytest.raises(InvalidInput, match="expected now >="):
        behaviour.features(now=0.0)
    with pytest.raises(InvalidInput, match="expected hops of 0, 1 or 2"):
        behaviour.features(hops=3)
    with pytest.raises(InvalidTable, match=r"did you mean `amounts`\?"):
        transfer_events(pl.DataFrame({"sender": [], "receiver": [], "amounts": []}))
    wrong = {"sender": ["a"], "receiver": ["b"], "amount": [-1.0], "happened_at": [None]}
    with pytest.raises(InvalidTable, match="expected amounts from 0"):
        transfer_events(pl.DataFrame(wrong))


def test_an_empty_delta_and_an_address_that_never_moved_anything_are_fine():
    behaviour = Behaviour(3)
    assert behaviour.update([], [], [], []).tolist() == []
    names, values = behaviour.features()
    assert values[:, names.index("in_count")].tolist() == [0, 0, 0]
    assert np.isnan(values[:, names.index("paid_in_count")]).all()
    assert behaviour.features([])[1].shape == (0, 210)


def test_a_saved_state_goes_on_as_if_it_had_never_stopped(tmp_path):
    src, dst, amount, time = some_history()
    whole = Behaviour.of(src, dst, amount, time)
    half = Behaviour.of(src[:1500], dst[:1500], amount[:1500], time[:1500])
    half.save(tmp_path / "behaviour")
    again = Behaviour.open(tmp_path / "behaviour")
    again.update(src[1500:], dst[1500:], amount[1500:], time[1500:])
    np.testing.assert_array_equal(again.features()[1], whole.features()[1])
    assert again.num_rows == 3000


def test_a_damaged_state_is_refused(tmp_path):
    Behaviour.of(*some_history(100, 10)).save(tmp_path / "behaviour")
    part = tmp_path / "behaviour" / "state.npy"
    data = bytearray(part.read_bytes())
    data[131] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"state\.npy` has other bytes"):
        Behaviour.open(tmp_path / "behaviour", thorough=True)
    part.write_bytes(bytes(data[:-1]))
    with pytest.raises(StoreError, match=r"state\.npy` has [0-9,]+ bytes instead of"):
        Behaviour.open(tmp_path / "behaviour")
    with pytest.raises(StoreError, match="expected a folder"):
        Behaviour.open(tmp_path / "elsewhere")


def test_phishers_of_a_real_chain_are_found_by_behaviour_and_better_with_neighbours():
    folder = Path(os.environ.get(DATA_VARIABLE, SHARED)) / "graph"
    if not (folder / "eth_phishing_tedge_edges.parquet").exists():
        pytest.skip(f"no graphs; let {DATA_VARIABLE} name a folder with `graph`")
    lightgbm = pytest.importorskip("lightgbm")
    edges = pl.read_parquet(folder / "eth_phishing_tedge_edges.parquet")
    labels = pl.read_parquet(folder / "eth_phishing_tedge_labels.parquet")
    behaviour = Behaviour.of(
        *(edges[name].to_numpy() for name in ("src", "dst", "amount", "timestamp"))
    )
    is_bad = labels["label"].to_numpy()
    names, values = behaviour.features(labels["node"].to_numpy(), hops=1)
    alone = [i for i, name in enumerate(names) if not name.startswith(("paid_", "payers_"))]
    fold = np.random.default_rng(0).permutation(len(labels)) % 2
    lost = []
    for columns in (alone, list(range(len(names)))):
        scores = np.zeros(len(labels))
        for part in range(2):
            data = lightgbm.Dataset(values[fold != part][:, columns], is_bad[fold != part])
            options = {"objective": "binary", "verbose": -1, "num_threads": 1, "max_bin": 63}
            tree = lightgbm.train(options, data, num_boost_round=50)
            scores[fold == part] = tree.predict(values[fold == part][:, columns])
        wins = scores[is_bad == 1][:, None] - scores[is_bad == 0][None, :]
        lost.append(1 - (wins > 0).mean() - (wins == 0).mean() / 2)
    assert lost[0] < 0.035
    assert lost[1] < 0.03
