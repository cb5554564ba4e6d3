"""The chain beside the demo's exchange: who is told of what, and when."""

import polars as pl
import pytest

from chopmark.datasets import simulate
from chopmark.events.schema import type_name
from chopmark.features.columns import known_instant
from chopmark.graph.scored import AddressScored
from chopmark.pipelines import demochain
from chopmark.pipelines.chainrun import Recipe
from chopmark.times import DAY, moment


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    simulation = simulate(num_users=150, days=150, seed=2, fraud_scale=6.0, settle=False)
    with pytest.MonkeyPatch.context() as patch:
        recipe = Recipe(dim=8, num_walks=2, length=10, hops=1, sampled=500, model="linear")
        patch.setattr(demochain, "_RECIPE", recipe)
        found = demochain.watch(
            simulation, tmp_path_factory.mktemp("watch"), days=150, live_days=30, seed=1
        )
    return simulation, found


def test_a_withdrawal_is_told_of_by_the_last_run_before_it_and_once(watched):
    simulation, found = watched
    (first, _, early), (second, _, late) = found.runs
    told: dict[str, tuple[str, float]] = {}
    num_scored = 0
    for event in found.beside(simulation.events()):
        if isinstance(event, AddressScored):
            assert told.get(event.address) != (event.run, event.score), "nothing is told twice"
            told[event.address] = (event.run, event.score)
            num_scored += 1
        elif type_name(event) == "withdrawal":
            known = known_instant(event)
            scores = {} if known < first else early if known < second else late
            wanted = scores.get(event.address)
            assert wanted is None or told[event.address][1] == wanted
    assert num_scored > 0


def test_no_run_reads_what_came_after_it(watched):
    simulation, found = watched
    cut = moment(simulation.end - 30 * DAY)
    first = found.runs[0]
    assert first[0] == simulation.end - 30 * DAY
    seen = simulation.frame("withdrawal").filter(pl.col("happened_at") > cut)
    before = simulation.frame("withdrawal").filter(pl.col("happened_at") <= cut)
    strangers = set(seen["address"]) - set(before["address"])
    # An address may have lived on the chain before the exchange met it; most have not.
    assert len(strangers & set(first[2])) < len(strangers)
    assert found.updated.num_rows > 0
