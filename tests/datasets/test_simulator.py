import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from chopmark.datasets import DEFAULT, SCHEMA, StolenMoney, simulate
from chopmark.datasets.exchange import Signup
from chopmark.errors import DeclarationError, InvalidInput
from chopmark.events import type_name


@pytest.fixture(scope="module")
def simulation():
    return simulate(num_users=600, days=120, seed=3)


@pytest.fixture(scope="module")
def events(simulation):
    return list(simulation.events())


def digest(simulation) -> str:
    hashed = sha256()
    for event in simulation.events():
        hashed.update(SCHEMA.encode(event) + b"\n")
    return hashed.hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_another_process_too():
    script = (
        "from hashlib import sha256\n"
        "from chopmark.datasets import SCHEMA, simulate\n"
        "h = sha256()\n"
        "for e in simulate(num_users=120, days=60, seed=7).events():\n"
        "    h.update(SCHEMA.encode(e) + b'\\n')\n"
        "print(h.hexdigest())\n"
    )
    # Isolated mode drops the environment, so that hashing starts from another seed.
    other = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert digest(simulate(num_users=120, days=60, seed=7)) == other
    assert digest(simulate(num_users=120, days=60, seed=8)) != other


def test_honest_events_do_not_depend_on_the_scenarios_beside_them():
    alone = [SCHEMA.encode(event) for event in simulate(num_users=80, scenarios=()).events()]
    among = [SCHEMA.encode(event) for event in simulate(num_users=80).events()]
    honest = set(alone)
    assert len(among) > len(alone)
    assert [body for body in among if body in honest] == alone


def test_a_scenario_does_not_depend_on_its_neighbours():
    def thieves(scenarios):
        simulation = simulate(num_users=80, scenarios=scenarios)
        truth = simulation.truth.filter(pl.col("scenario") == "stolen_money")
        return truth["user"].to_list(), truth["first_fraud_at"].to_list()

    assert thieves(DEFAULT) == thieves((StolenMoney(),)) == thieves(tuple(reversed(DEFAULT)))


def test_events_are_complete_unique_and_ordered(simulation, events):
    assert len(events) == simulation.num_events
    assert len({event.id for event in events}) == len(events)
    keys = [(event.known_at, event.id) for event in events]
    assert all(before < after for before, after in pairwise(keys))
    assert all(event.happened_at <= event.known_at for event in events)
    assert {type_name(event) for event in events} == set(SCHEMA.types)


def test_every_event_passes_the_schema_and_round_trips(events):
    for event in events:
        SCHEMA.check(event)
        assert SCHEMA.decode(SCHEMA.encode(event)) == event


def test_frames_hold_what_the_events_hold(simulation, events):
    total = 0
    for name in SCHEMA.types:
        frame = simulation.frame(name)
        total += frame.height
        first = next(event for event in events if type_name(event) == name)
        row = frame.row(0, named=True)
        assert {field: getattr(first, field) for field in row} == row
    assert total == len(events)
    with pytest.raises(InvalidInput, match="did you mean `purchase`"):
        simulation.frame("purchse")


def test_a_frame_of_a_type_that_never_happened_is_empty_and_typed():
    frame = simulate(num_users=1, days=30, scenarios=()).frame("chargeback")
    assert frame.height == 0
    assert frame.schema["amount_usd"] == pl.Float64
    assert frame.columns[:3] == ["id", "happened_at", "known_at"]


def test_the_default_size_and_its_base_rates():
    simulation = simulate()
    assert 100_000 <= simulation.num_events <= 230_000
    truth = simulation.truth
    assert truth["user"].is_unique().all()
    assert 0.01 <= truth["is_fraud"].mean() <= 0.025
    assert 0.002 <= simulation.purchase_truth["is_fraud"].mean() <= 0.02
    assert set(truth["scenario"]) == {"honest", *(scenario.name for scenario in DEFAULT)}


def test_fraud_scale_multiplies_fraud_and_nothing_else():
    usual, none, triple = (
        simulate(num_users=2000, days=30, fraud_scale=scale).truth for scale in (1.0, 0.0, 3.0)
    )
    assert none["is_fraud"].sum() == 0
    assert 2 < triple["is_fraud"].sum() / usual["is_fraud"].sum() < 3.5
    honest = [
        set(truth.filter(pl.col("role") != "fraudster")["user"]) for truth in (usual, none, triple)
    ]
    assert honest[0] == honest[1] == honest[2]


def test_truth_agrees_with_the_events(simulation):
    truth = simulation.truth
    acts = pl.concat(
        [
            simulation.frame(name).select("id", "user", "happened_at")
            for name in ("purchase", "withdrawal")
        ]
    ).join(simulation.event_truth, on="id")
    first = acts.filter("is_fraud").group_by("user").agg(pl.col("happened_at").min())
    told = truth.filter("is_fraud").join(first, on="user", how="left")
    assert told.height == first.height
    assert (told["first_fraud_at"] == told["happened_at"]).all()
    users = {
        user for name in SCHEMA.types for user in simulation.frame(name)["user"].unique().to_list()
    }
    assert users == set(truth["user"])


def test_without_settling_the_log_stops_on_the_last_day():
    start = datetime(2025, 6, 1, tzinfo=UTC)
    whole = simulate(num_users=500, days=60, start=start)
    cut = simulate(num_users=500, days=60, start=start, settle=False)
    end = start + timedelta(days=60)
    ids = [event.id for event in cut.events()]
    assert ids == [event.id for event in whole.events() if event.known_at < end]
    assert len(ids) < whole.num_events


def test_users_act_within_the_simulated_days(simulation, events):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    late = {"chargeback", "verdict"}
    for event in events:
        assert start <= event.happened_at
        if type_name(event) not in late:
            assert event.happened_at < start + timedelta(days=120)


def test_honest_life_is_varied(simulation):
    purchases = simulation.frame("purchase")
    by_hour = purchases["happened_at"].dt.hour().value_counts()["count"]
    assert by_hour.max() > 2 * by_hour.min()
    amounts = purchases["amount_usd"].to_numpy()
    assert np.quantile(amounts, 0.99) > 10 * np.median(amounts)
    logins = simulation.frame("login")
    devices = logins.group_by("user").agg(pl.col("device").n_unique())["device"]
    assert 0.2 < (devices > 1).mean() < 0.8
    sharers = logins.group_by("ip").agg(pl.col("user").n_unique())["user"]
    assert sharers.max() > 20
    owners = logins.group_by("device").agg(pl.col("user").n_unique())["user"]
    assert 0.01 < (owners > 1).mean() < 0.1
    per_user = logins.group_by("user").len()["len"]
    assert per_user.max() > 8 * per_user.median()


def test_tastes_drive_what_is_opened(simulation):
    factors = dict(simulation.asset_factors.iter_rows())
    tastes = dict(simulation.tastes.iter_rows())
    opened = set(simulation.frame("notification_opened")["about"])
    pulls = {True: [], False: []}
    for event_id, user, asset in (
        simulation.frame("notification_sent").select("id", "user", "asset").iter_rows()
    ):
        if user in tastes:
            pulls[event_id in opened].append(np.dot(tastes[user], factors[asset]))
    assert np.mean(pulls[True]) > np.mean(pulls[False]) + 0.4


def test_own_scenarios_play_too():
    class Echo:
        name = "echo"
        stream = 20

        def play(self, world, book, rng):
            user = book.new("user", 1)
            fields = {
                "user": user,
                "device": book.new("device", 1),
                "ip": world.surroundings.shared_ips[:1],
                "screen_resolution": "1x1",
                "carrier": "echo",
                "email_domain": "echo.example",
                "name": "Echo",
                "country": "US",
            }
            book.add(Signup, fields, happened_at=np.array([world.start]))
            book.tell(user)

    simulation = simulate(num_users=10, scenarios=[Echo()])
    assert "echo" in set(simulation.frame("signup")["carrier"])
    assert "echo" in set(simulation.truth["scenario"])


def test_bad_input_says_what_to_do():
    class Thief:
        name = "thief"
        stream: ClassVar[int] = StolenMoney.stream

        def play(self, world, book, rng):
            raise AssertionError

    with pytest.raises(DeclarationError, match="taken by `stolen_money`"):
        simulate(scenarios=[StolenMoney(), Thief()])
    with pytest.raises(DeclarationError, match="played twice"):
        simulate(scenarios=[StolenMoney(), StolenMoney()])
    with pytest.raises(InvalidInput, match="num_users"):
        simulate(num_users=0)
    with pytest.raises(InvalidInput, match="30 days"):
        simulate(days=3)
    with pytest.raises(InvalidInput, match="fraud_scale"):
        simulate(fraud_scale=-1)
    with pytest.raises(InvalidInput, match="time zone"):
        simulate(start=datetime(2026, 1, 1))
