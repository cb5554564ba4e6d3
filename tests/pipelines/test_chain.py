"""A chain in a folder, from transfers to scores and on, with kills and re-organised blocks."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from chopmark.datasets.chain import simulate_chain
from chopmark.errors import ChopmarkError, InvalidInput, InvalidTable, StoreError
from chopmark.graph.adjacency import Graph
from chopmark.graph.behaviour import Behaviour
from chopmark.graph.labels import SCORES, AddressLabels
from chopmark.graph.risks import AddressRisks
from chopmark.pipelines import chainfit, chainrun
from chopmark.pipelines.chain import ChainFolder
from chopmark.pipelines.chainlabels import checked_labels, record
from chopmark.pipelines.chainrun import Recipe

RECIPE = Recipe(dim=8, num_walks=2, length=10, hops=1, sampled=400, model="linear")


@pytest.fixture(scope="module")
def made():
    """Transfers of a chain, those of its last days apart, and its labels."""
    chain = simulate_chain(num_addresses=600, days=40, seed=3, illicit=0.05)
    every = pl.concat([chain.transfers, chain.token_transfers])
    cut = every["happened_at"].max() - timedelta(days=3)
    early = pl.col("happened_at") <= cut
    labels = chain.truth.sample(fraction=0.6, seed=0).select("address", "is_illicit")
    return every.filter(early), every.filter(~early), labels


@pytest.fixture(scope="module")
def learned(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain") / "ethereum"
    chain = ChainFolder.create(folder)
    chain.take(made[0])
    chain.learn(made[2], RECIPE)
    return folder


@pytest.fixture
def chain(learned, tmp_path):
    """A copy of a chain that was learned."""
    shutil.copytree(learned, tmp_path / "ethereum")
    return ChainFolder.open(tmp_path / "ethereum")


def test_every_address_has_a_score_and_a_stranger_none(chain, made):
    found = pl.concat(list(chain.all_risks(chunk=100)))
    names = pl.concat([made[0]["sender"], made[0]["receiver"]]).unique()
    assert set(found["address"]) == set(names)
    assert found["score"].is_between(0, 1).all()
    asked = chain.risks([found["address"][5].upper().replace("0X", "0x"), "0x" + "0" * 39 + "1"])
    assert asked["score"][0] == found["score"][5]
    assert asked["score"][1] is None


def test_illicit_addresses_score_higher(chain, made):
    scores = dict(pl.concat(list(chain.all_risks())).iter_rows())
    known = made[2].filter(pl.col("address").is_in(list(scores)))
    by_label = {bad: np.mean([scores[one] for one in part["address"]])
                for (bad,), part in known.group_by("is_illicit")}  # fmt: skip
    assert by_label[True] > 2 * by_label[False]


def test_an_update_leaves_what_the_ledger_has_now(chain, made):
    before = chain.run.name
    chain.take(made[1])
    told = chain.update()
    run = chain.run
    assert run.name != before
    assert run.num_addresses == len(chain.ledger.addresses) == told.num_addresses
    columns = chain.ledger.columns()
    coin = chain.ledger.assets.ids(pl.Series([""]))[0]
    worth = np.where(columns["asset"] == coin, columns["amount"], 0.0)
    edges = (columns["src"], columns["dst"], worth, columns["time"])
    fresh = Graph.of_edges(*edges, num_nodes=run.num_addresses, weight="log", keep_amounts=True)
    graph = run.embedding().graph
    for node in range(run.num_addresses):
        assert graph.row(node).tolist() == fresh.row(node).tolist()
    behaviour = Behaviour.of(*edges[:3], columns["time"] / 1e6, num_nodes=run.num_addresses)
    _, wanted = behaviour.features(hops=0)
    # What an address did itself is exact; of its neighbours' doings, those it has a part in.
    np.testing.assert_array_equal(run.columns[:, : wanted.shape[1]], wanted)
    assert chain.update().num_touched == 0


def test_blocks_that_are_taken_back_and_come_again_change_nothing_for_good(chain, made):
    chain.take(made[1])
    chain.update()
    there = chain.run.embedding().graph
    rows = [there.row(node).tolist() for node in range(there.num_nodes)]
    block = int(made[1]["block"].quantile(0.5))
    gone = chain.rewind(block)
    assert len(gone) > 0
    assert chain.update().num_touched > 0
    fewer = chain.run.embedding().graph
    assert fewer.num_slots < there.num_slots
    chain.take(made[1])
    chain.update()
    again = chain.run.embedding().graph
    assert [again.row(node).tolist() for node in range(again.num_nodes)] == rows


def test_blocks_taken_back_and_replaced_before_one_update_count_once(chain, made):
    chain.take(made[1])
    chain.update()
    assert len(chain.rewind(int(made[1]["block"].quantile(0.5)))) > 0
    chain.take(made[1].with_columns(pl.col("amount") * 2))
    chain.update()
    columns = chain.ledger.columns()
    coin = chain.ledger.assets.ids(pl.Series([""]))[0]
    worth = np.where(columns["asset"] == coin, columns["amount"], 0.0)
    nodes = len(chain.ledger.addresses)
    fresh = Graph.of_edges(
        columns["src"], columns["dst"], worth, columns["time"], num_nodes=nodes, weight="log"
    )
    graph = chain.run.embedding().graph
    for node in range(nodes):
        assert graph.row(node).tolist() == fresh.row(node).tolist()
        np.testing.assert_allclose(graph.weights(node), fresh.weights(node), rtol=1e-4, atol=1e-6)


def test_a_kill_between_the_delta_and_the_scores_is_made_up_for(chain, made):
    chain.take(made[1])
    before = chain.run.name
    code = (
        "import os, signal, sys\n"
        "from chopmark.pipelines import chain\n"
        "chain.Found.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "chain.ChainFolder.open(sys.argv[1]).update()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(chain.folder)], check=False)
    assert ended.returncode == -signal.SIGKILL
    again = ChainFolder.open(chain.folder)
    assert again.run.name == before
    assert again.risks([made[0]["sender"][0]])["score"][0] is not None
    assert again.update().num_touched > 0
    assert again.run.num_addresses == len(again.ledger.addresses)


def test_a_full_disk_leaves_the_last_run_in_charge(chain, made, monkeypatch):
    chain.take(made[1])
    before = chain.run.name

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("chopmark.pipelines.chain.Found.write", full)
    with pytest.raises(OSError, match="No space"):
        chain.update()
    assert chain.run.name == before
    assert [one.name for one in (chain.folder / "runs").iterdir()] == [before]


def test_updates_of_a_day_each_count_behaviour_as_one_telling_of_all_would(chain, made):
    rest = made[1].sort("happened_at", maintain_order=True)
    for part in (rest[:40], rest[40:41], rest[41:]):
        chain.take(part)
        assert ChainFolder.open(chain.folder).update().num_rows == part.height
    chain = ChainFolder.open(chain.folder)
    columns = chain.ledger.columns()
    coin = chain.ledger.assets.ids(pl.Series([""]))[0]
    worth = np.where(columns["asset"] == coin, columns["amount"], 0.0)
    anew = Behaviour.of(columns["src"], columns["dst"], worth, columns["time"] / 1e6)
    _, expected = anew.features(hops=2)
    _, found = chain.run.behaviour().features(hops=2)
    np.testing.assert_array_equal(found, expected)
    chain.update(every=True)
    np.testing.assert_array_equal(chain.run.columns, anew.features(hops=1)[1])


def test_who_pays_itself_is_scored_anew(chain, made):
    place = 17
    (name,) = chain.ledger.addresses.names(np.array([place]))
    own = made[1].tail(1).with_columns(
        pl.col("block") + 1, sender=pl.lit(name), receiver=pl.lit(name), tx=pl.lit("0xself")
    )  # fmt: skip
    assert len(chain.take(own)) == 1
    chain.update()
    assert_own_behaviour_is_told(chain, place)
    chain.rewind(int(own["block"][0]) - 1)
    chain.update()
    assert_own_behaviour_is_told(chain, place)


def assert_own_behaviour_is_told(chain, place):
    run = chain.run
    _, wanted = run.behaviour().features([place], hops=0)
    np.testing.assert_array_equal(run.columns[[place], : wanted.shape[1]], wanted)


def test_more_addresses_may_come_than_there_was_room_for(chain, made):
    old = made[0]["sender"].unique(maintain_order=True).head(200)
    num = len(old)
    new = pl.DataFrame(
        {
            "sender": old,
            "receiver": [f"0x{place:040x}" for place in range(1, num + 1)],
            "amount": 1.0,
            "happened_at": made[1]["happened_at"].max(),
            "block": made[1]["block"].max() + 1,
            "tx": [f"0xnew{place}" for place in range(num)],
            "place": 0,
            "asset": "",
        }
    ).cast(dict(made[0].schema))
    chain.take(new)
    chain.update()
    run = ChainFolder.open(chain.folder).run
    assert run.num_addresses == len(chain.ledger.addresses)
    assert len(run.embedding().vectors) == len(run.behaviour().features(hops=0)[1])


def test_flags_of_a_run_that_was_killed_before_they_were_kept_come_with_the_next_update(
    chain, made, monkeypatch
):
    chain.take(made[1])
    path = chain.folder / "labels.db"
    path.unlink()
    with monkeypatch.context() as context:
        context.setattr(ChainFolder, "_flag", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chain.update()
    chain.update()
    with closing(AddressLabels.open(path)) as labels:
        flagged = set(labels.as_of("2100-01-01T00:00:00Z")["address"])
    scores = pl.concat(list(chain.all_risks()))
    assert flagged == set(scores.filter(pl.col("score") >= chain.run.high)["address"])
    assert flagged


def test_who_has_a_chain_open_knows_what_another_took_in(chain, made):
    reader = ChainFolder.open(chain.folder)
    assert reader.run.name == "000001"
    chain.take(made[1])
    chain.update()
    assert pl.concat(list(reader.all_risks())).equals(pl.concat(list(chain.all_risks())))
    assert reader.update().num_touched == 0


def test_whom_a_bound_just_misses_is_not_flagged(chain):
    path = chain.run.folder / "about.json"
    about = json.loads(path.read_text())
    about["bands"]["high"] = float(np.nextafter(float(np.nanmax(chain.run.scores)), 2.0))
    path.write_text(json.dumps(about))
    again = ChainFolder.open(chain.folder)
    assert again._flag() == 0
    assert current_flags(again) == []


def test_rows_that_come_late_are_counted_where_they_belong(chain, made):
    rest = made[1].sort("happened_at", maintain_order=True)
    for part in (rest[60:], rest[:60]):
        chain.take(part)
        chain.update()
    columns = chain.ledger.columns()
    coin = chain.ledger.assets.ids(pl.Series([""]))[0]
    worth = np.where(columns["asset"] == coin, columns["amount"], 0.0)
    anew = Behaviour.of(columns["src"], columns["dst"], worth, columns["time"] / 1e6)
    np.testing.assert_array_equal(
        chain.run.behaviour().features(hops=1)[1], anew.features(hops=1)[1]
    )


def test_an_update_that_fails_leaves_the_run_as_it_was_for_the_next_try(chain, made, monkeypatch):
    chain.take(made[1])
    other = chain.folder.with_name("other")
    shutil.copytree(chain.folder, other)
    before = chain.run.columns.copy(), chain.run.vectors.copy()
    write = chainrun.Found.write

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("chopmark.pipelines.chain.Found.write", full)
    with pytest.raises(OSError, match="No space"):
        chain.update()
    monkeypatch.setattr("chopmark.pipelines.chain.Found.write", write)
    np.testing.assert_array_equal(chain.run.columns, before[0])
    np.testing.assert_array_equal(chain.run.vectors, before[1])
    chain.update()
    untroubled = ChainFolder.open(other)
    untroubled.update()
    np.testing.assert_array_equal(chain.run.scores, untroubled.run.scores)


def test_an_address_whose_transfers_were_all_taken_back_has_no_score(chain, made):
    first = made[0]["block"].max()
    chain.take(made[1])
    chain.update()
    known = set(made[0]["sender"]) | set(made[0]["receiver"])
    new = [one for one in made[1]["receiver"].unique() if one not in known]
    assert new
    assert chain.risks(new)["score"].null_count() == 0
    chain.rewind(first)
    chain.update()
    assert chain.risks(new)["score"].null_count() == len(new)
    assert not set(pl.concat(list(chain.all_risks()))["address"]) & set(new)
    with pytest.raises(InvalidInput, match="which no transfer names"):
        chain.why(new[0])


def test_a_score_can_be_given_again_from_what_is_stored(chain, made):
    for address in made[0]["sender"].unique(maintain_order=True)[:20]:
        assert chain.score_of(address) == pytest.approx(
            chain.risks([address])["score"][0], rel=1e-5
        )
    assert chain.score_of("0x" + "f" * 40) is None


def test_who_asks_by_http_hears_what_the_folder_says(chain, made):
    asked = [*made[0]["sender"].unique(maintain_order=True)[:50], "0x" + "f" * 40]
    risks = AddressRisks(chain.folder)
    told = risks.of(asked)
    assert [one.score for one in told] == chain.risks(asked)["score"].cast(pl.Float64).to_list()
    assert {one.band for one in told if one.score is not None and one.score >= chain.run.high} <= {
        "high"
    }
    chain.take(made[1])
    chain.update()
    risks.follow(at_once=True)
    assert [one.run for one in risks.of(asked[:1])] == [chain.run.name]
    risks.close()


def test_bounds_of_scores_trouble_no_more_honest_ones_than_they_say(chain):
    points = chain.run.points
    bounds = [point.bound for point in points]
    assert bounds == sorted(bounds)
    assert [point.recall for point in points] == sorted((p.recall for p in points), reverse=True)
    label = np.array([0, 0, 1, 0, 1, 1, 0, 0])
    scores = np.array([0.1, 0.2, 0.3, 0.3, 0.8, 0.9, 0.05, 0.01])
    stands = np.array([100.0, 100, 1, 2, 1, 1, 100, 98])
    one = {point.false_positive_share: point for point in chainfit.points(label, scores, stands)}
    assert one[0.01].bound == 0.3  # flags 2 of 400 that are not illicit, and all three that are
    assert one[0.01].recall == 1.0
    assert one[0.01].precision == pytest.approx(3 / 5)
    assert one[0.001].bound == 0.8
    assert one[0.001].recall == pytest.approx(2 / 3)
    assert one[0.001].precision == 1.0
    # Half of the illicit have no label: the two without one that 0.3 flags are taken for those.
    half = {
        point.false_positive_share: point
        for point in chainfit.points(label, scores, stands, known_share=0.5)
    }
    assert half[0.001].bound == 0.3
    assert half[0.001].recall == 1.0
    assert half[0.001].precision == 1.0
    none = chainfit.points(np.array([0, 1]), np.array([0.9, 0.5]), np.array([1.0, 1.0]))
    assert all(p.recall == 0 and p.precision is None and p.bound > 0.9 for p in none)


def test_a_score_is_a_chance_to_be_illicit_where_labels_name_a_part():
    given = np.linspace(0.0001, 0.9999, 999)
    for share in (1.0, 0.5, 0.02):
        found = chainfit.chance(given, 0.0, share)
        assert (np.diff(found) > 0).all()
        assert ((found > 0) & (found < 1)).all()
        low = found < 0.89
        np.testing.assert_allclose(found[low], given[low] / share)
    # A sample of one in four of those without a label: their odds are four times too high.
    np.testing.assert_allclose(chainfit.chance([0.5, 0.8], np.log(1 / 4)), [0.2, 0.5])


def test_labels_of_the_folder_are_learned_from_and_flags_are_kept_but_not_learned(chain, made):
    bound = chain.run.high
    every = pl.concat(list(chain.all_risks()))
    flagged = set(every.filter(pl.col("score") >= bound)["address"])
    assert flagged
    assert set(current_flags(chain)) == flagged
    with pytest.raises(InvalidTable, match=r"at least 10 illicit addresses .* got 0 of 0"):
        chain.learn(None, RECIPE)
    record(chain.folder, made[2], source="court", rank=1, category="fraud")
    told = chain.learn(None, RECIPE)
    assert (
        told.num_illicit
        == made[2].filter("is_illicit").join(every, on="address", how="semi").height
    )


def current_flags(chain):
    with closing(AddressLabels.open(chain.folder / "labels.db")) as labels:
        held = labels.as_of("2100-01-01T00:00:00Z")
        return held.filter(pl.col("source") == SCORES)["address"].to_list()


def test_a_score_is_explained_by_behaviour_place_and_ways(chain, made):
    address = made[2].filter("is_illicit")["address"][0]
    told = chain.why(address)
    assert told.is_illicit is True
    assert told.score == pytest.approx(chain.risks([address])["score"][0])
    assert len(told.columns) == 8
    for direction in ("in", "out"):
        assert 0 <= sum(told.exposure[direction].values()) <= 1 + 1e-6
        way = told.ways[direction]
        assert way is None or (way[1][0] == address and len(way[1]) > 1)
    with pytest.raises(InvalidInput, match="which no transfer names"):
        chain.why("0x" + "f" * 40)


def test_what_cannot_be_learned_is_said(made, tmp_path):
    chain = ChainFolder.create(tmp_path / "c")
    with pytest.raises(StoreError, match="call `learn` with labels first"):
        chain.update()
    chain.take(made[0].head(50))
    with pytest.raises(InvalidTable, match="columns `address` and `is_illicit`"):
        chain.learn(made[2].rename({"is_illicit": "bad"}))
    with pytest.raises(InvalidTable, match="true and false or 1 and 0, got text such as"):
        chain.learn(made[2].with_columns(pl.col("is_illicit").cast(pl.String)))
    with pytest.raises(InvalidTable, match="at least 10 illicit addresses"):
        chain.learn(made[2].filter(~pl.col("is_illicit")))
    assert not (tmp_path / "c" / "runs").exists()
    with pytest.raises(StoreError, match="choose"):
        ChainFolder.create(tmp_path / "c")


@pytest.mark.parametrize("value", [2, -1, 0.5, float("nan"), 300, [1], "1", None])
def test_what_is_no_label_is_refused(chain, made, value):
    labels = made[2].with_columns(is_illicit=pl.Series([value] * len(made[2])))
    with pytest.raises(InvalidTable, match="expected"):
        chain.learn(labels, RECIPE)


def test_the_newest_label_counts_by_instant_and_not_by_text(made):
    told = pl.DataFrame(
        {
            "address": ["a", " a "],
            "is_illicit": [True, False],
            "known_at": ["2024-09-01T08:00:00Z", "2024-09-01T12:00:00+05:00"],
        }
    )
    assert checked_labels(told).rows() == [("a", 0), ("a", 1)]
    with pytest.raises(InvalidTable, match="got `9/1/2024`"):
        checked_labels(told.with_columns(known_at=pl.lit("9/1/2024")))


@pytest.mark.parametrize(
    "wrong", [{"sampled": 0}, {"prices": {"": -1.0}}, {"prices": {"": None}}, {"prices": {"": "a"}}]
)
def test_a_recipe_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidInput, match="expected"):
        Recipe(**wrong)


def test_a_share_of_labels_that_would_make_most_of_the_chain_illicit_is_refused(chain, made):
    with pytest.raises(InvalidInput, match=r"known_share.*got 0\.001: of its .* would be illicit"):
        chain.learn(made[2], replace(RECIPE, known_share=0.001))
    assert chain.run.name == "000001"


def test_too_few_that_are_not_illicit_is_said_before_the_work(chain, made):
    bad = made[2].filter("is_illicit")
    with pytest.raises(InvalidTable, match="not illicit to learn from"):
        chain.learn(bad, replace(RECIPE, sampled=3))


def test_two_updates_at_once_and_leftovers_of_a_kill(chain, made):
    left = chain.folder / "runs" / ".000002-abc"
    left.mkdir()
    chain.take(made[1])
    second = ChainFolder.open(chain.folder)
    seen = []

    def told(*_):
        if not seen:
            seen.append(True)
            with pytest.raises(StoreError, match="another process is making a run"):
                second.update()

    assert chain.update(told=told).run == "000002"
    assert seen
    assert not left.exists()
    assert second.update().num_touched == 0


def test_a_price_holds_for_any_spelling_and_huge_amounts_do_not_stop_it(chain, made):
    token = "0x" + "a" * 40
    rows = made[0].head(2).with_columns(tx=pl.lit("new"), amount=pl.lit(2.0**256))
    chain.take(rows.with_columns(asset=pl.Series(["", token]), place=pl.Series([0, 1])))
    columns = chain.ledger.columns()
    recipe = replace(RECIPE, prices={"": 1.0, token.upper().replace("0X", "0x"): 2.0})
    worth = chain._columns(columns, recipe)[2]
    assert (worth[columns["asset"] > 0] > 0).any()
    assert chain.update().num_rows == 2


@pytest.mark.parametrize("part", ["labels.parquet", "model.chopmark", "columns.npy", "about.json"])
def test_a_damaged_run_is_said(chain, made, part):
    path = chain.folder / "runs" / "000001" / part
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    chain.take(made[1])
    with pytest.raises(ChopmarkError, match=r"000001.*damaged"):
        ChainFolder.open(chain.folder).update()
    assert [one.name for one in (chain.folder / "runs").iterdir()] == ["000001"]
