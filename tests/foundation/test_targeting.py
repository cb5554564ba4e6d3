from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.datasets.campaigns import Campaign, hand_picked
from chopmark.errors import ArtifactError, InvalidInput, InvalidTable
from chopmark.foundation import (
    Learner,
    LinearLearner,
    SmartTargeting,
    TreeLearner,
    aggregates_of,
    at_random,
    beside,
    by_rule,
    choices_of,
    habits_of,
)

START = datetime(2026, 5, 1, tzinfo=UTC)


def candidates(day, num_users=200):
    return pl.DataFrame(
        {"user": [f"u{place}" for place in range(num_users)]}, schema={"user": pl.String}
    ).with_columns(as_of=pl.lit(START + timedelta(days=day)))  # fmt: skip


def number(rows):
    return rows["user"].str.slice(1).cast(pl.Float64).to_numpy()


def by_number(rows, engaged):
    """The higher a user's number, the better."""
    return number


def lucky(users, day):
    """Users with high numbers engage, others now and then."""
    return [user for user in users if int(user[1:]) >= 150 or (int(user[1:]) + day) % 11 == 0]


def played(campaign, days, num_users=200):
    for day in range(days):
        plan = campaign.plan(day, candidates(day, num_users))
        campaign.answer(day, lucky(plan["user"], day))
    return campaign


def test_the_first_day_is_random_and_then_the_best_are_targeted_beside_a_random_group():
    campaign = SmartTargeting(by_number, budget=40, explore=0.2, seed=1)
    first = campaign.plan(0, candidates(0))
    assert first["why"].unique().to_list() == ["explore"]
    assert first["score"].null_count() == first.height == 40
    campaign.answer(0, lucky(first["user"], 0))
    second = campaign.plan(1, candidates(1))
    random, best = second.filter(why="explore"), second.filter(why="target")
    assert (random.height, best.height) == (8, 32)
    left = set(candidates(1)["user"]) - set(first["user"]) - set(random["user"])
    assert best["user"].to_list() == sorted(left, key=lambda user: -int(user[1:]))[:32]
    assert best["score"].to_list() == [int(user[1:]) for user in best["user"]]
    assert random["chance"].unique().to_list() == [8 / 160]


def test_the_random_group_is_the_same_whatever_the_learner_says():
    worst_first = by_rule(lambda rows: -number(rows))
    groups = []
    for learner in (by_number, worst_first):
        campaign = SmartTargeting(learner, budget=50, explore=0.3, cap=9, seed=4)
        groups.append(played(campaign, 3).sent.filter(why="explore").drop("engaged"))
    assert groups[0].equals(groups[1])
    other = played(SmartTargeting(by_number, budget=50, explore=0.3, cap=9, seed=5), 3)
    assert set(other.sent["user"][:50]) != set(groups[0]["user"][:50])


def test_the_random_group_is_a_fair_sample_of_all_who_may_be_notified():
    counts = np.zeros(60)
    for seed in range(300):
        plan = SmartTargeting(by_number, budget=15, seed=seed).plan(0, candidates(0, 60))
        counts[[int(user[1:]) for user in plan["user"]]] += 1
    # Chi-square of 59 degrees: above 98.3 in one of 1,000.
    chi = ((counts - 75) ** 2 / (75 * 0.75)).sum() * 59 / 60
    assert 25 < chi < 98.3


def test_each_day_draws_anew():
    campaign = SmartTargeting(at_random(), budget=50, explore=1.0, cap=9)
    days = [set(played(campaign, 1 + day).sent.filter(day=day)["user"]) for day in range(4)]
    # Of 50 of 200, a quarter is drawn again by chance.
    overlaps = [len(one & other) for one, other in pairwise(days)]
    assert all(3 <= overlap <= 25 for overlap in overlaps)


def test_a_day_planned_again_is_read_out_and_a_lost_day_comes_out_the_same(tmp_path):
    path = tmp_path / "campaign.parquet"
    campaign = played(SmartTargeting(by_number, budget=30, seed=2), 2)
    campaign.save(path)
    third = campaign.plan(2, candidates(2))
    assert campaign.plan(2, candidates(2, 10)).equals(third)
    assert campaign.sent.height == 90
    resumed = SmartTargeting(by_number, budget=30, seed=2).resume(path)
    shuffled = candidates(2).sample(fraction=1.0, shuffle=True, seed=8)
    assert resumed.plan(2, shuffled).equals(third)
    assert resumed.sent.equals(campaign.sent)


def test_answers_may_come_twice_and_late_but_never_go():
    campaign = SmartTargeting(by_number, budget=10)
    users = campaign.plan(0, candidates(0))["user"].to_list()
    assert campaign.sent["engaged"].null_count() == 10
    campaign.answer(0, users[:2])
    once = campaign.sent
    campaign.answer(0, users[:2])
    assert campaign.sent.equals(once)
    campaign.answer(0, users[4:5])
    assert campaign.sent["engaged"].to_list() == [1, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert once["engaged"].sum() == 2


def test_a_learner_object_starts_from_scratch_each_day_and_sees_all_answers():
    class Recorded:
        def __init__(self):
            self.seen = []

        def fit(self, rows, engaged):
            self.seen.append((rows, engaged.copy()))

        def score(self, rows):
            return np.full(rows.height, float(len(self.seen)))

    learner = Recorded()
    assert isinstance(learner, Learner)
    campaign = SmartTargeting(learner, budget=40, cap=5)
    for day in range(4):
        campaign.plan(day, candidates(day))
        if day != 2:
            campaign.answer(day, lucky(campaign.sent.filter(day=day)["user"], day))
    # Day 2 was never answered, so that day 3 learned of days 0 and 1 alone.
    assert [len(engaged) for _, engaged in learner.seen] == [40, 80, 80]
    rows, engaged = learner.seen[1]
    assert rows.equals(campaign.sent.head(80).select("user", "as_of"))
    assert engaged.tolist() == campaign.sent["engaged"][:80].to_list()


def test_without_enough_answers_all_stay_random_and_a_rule_needs_none():
    campaign = SmartTargeting(by_number, budget=20, cap=9, least_engaged=3)
    for day in range(3):
        plan = campaign.plan(day, candidates(day))
        assert set(plan["why"]) == {"explore"}
        campaign.answer(day, plan["user"][:1])
    assert set(campaign.plan(3, candidates(3))["why"]) == {"explore", "target"}
    rule = SmartTargeting(by_rule(number), budget=5, explore=0.0, least_engaged=0)
    assert rule.plan(0, candidates(0))["user"].to_list() == [f"u{n}" for n in range(199, 194, -1)]


def test_a_cap_holds_for_so_many_days():
    campaign = SmartTargeting(by_number, budget=60, cap=1, cap_days=2, explore=0.1)
    played(campaign, 6, num_users=150)
    sent = campaign.sent
    for row in sent.iter_rows(named=True):
        close = sent.filter(
            pl.col("user") == row["user"], pl.col("day").is_between(row["day"] - 1, row["day"])
        )
        assert close.height == 1
    assert sent.group_by("user").len()["len"].max() > 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_budget_cap_and_random_group_hold_on_any_stream_of_candidates(data):
    budget = data.draw(st.integers(1, 30))
    cap = data.draw(st.integers(1, 3))
    cap_days = data.draw(st.none() | st.integers(1, 4))
    explore = data.draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    campaign = SmartTargeting(
        by_number, budget=budget, explore=explore, cap=cap, cap_days=cap_days, least_engaged=1
    )
    day, log = 0, []
    for _ in range(data.draw(st.integers(1, 6))):
        num_users = data.draw(st.integers(0, 40))
        since = -1 if cap_days is None else day - cap_days
        recent = [user for at, user in log if at > since]
        allowed = [user for user in candidates(day, num_users)["user"] if recent.count(user) < cap]
        learned = int(campaign.sent["engaged"].sum()) >= 1
        plan = campaign.plan(day, candidates(day, num_users))
        assert plan.height == min(budget, len(allowed))
        assert set(plan["user"]) <= set(allowed)
        assert plan["user"].n_unique() == plan.height
        num_random = plan.filter(why="explore").height
        if learned and explore < 1.0:
            wanted = 0 if explore == 0 else max(1, round(explore * plan.height))
            assert num_random == min(plan.height, wanted)
        else:
            assert num_random == plan.height
        log += [(day, user) for user in plan["user"]]
        if plan.height:
            campaign.answer(day, data.draw(st.lists(st.sampled_from(plan["user"].to_list()))))
        day += data.draw(st.integers(1, 3))
    assert [(row["day"], row["user"]) for row in campaign.sent.to_dicts()] == log


def test_users_may_be_numbers_and_instants_naive():
    rows = pl.DataFrame({"user": range(50)}).with_columns(as_of=pl.datetime(2026, 1, 1))
    campaign = SmartTargeting(at_random(), budget=10, least_engaged=0)
    plan = campaign.plan(0, rows)
    assert plan.schema["user"] == pl.Int64
    campaign.answer(0, plan["user"].to_list()[:3])
    assert campaign.sent["engaged"].sum() == 3
    assert plan.schema["as_of"] == pl.Datetime("us", "UTC")


def test_what_cannot_be_is_refused_with_what_was_expected(tmp_path):
    for bad in ({"budget": 0}, {"cap": 0}, {"cap_days": 0}, {"explore": 1.5}):
        with pytest.raises(InvalidInput, match="expected"):
            SmartTargeting(by_number, **{"budget": 5} | bad)
    campaign = SmartTargeting(by_number, budget=5)
    with pytest.raises(InvalidTable, match="column `as_of`"):
        campaign.plan(0, candidates(0).drop("as_of"))
    with pytest.raises(InvalidTable, match="texts or whole numbers, got Float64"):
        campaign.plan(0, candidates(0).with_columns(user=0.5).head(1))
    with pytest.raises(InvalidTable, match="several of `u0`"):
        campaign.plan(0, pl.concat([candidates(0, 3), candidates(0, 1)]))
    with pytest.raises(InvalidTable, match="got a null"):
        campaign.plan(0, candidates(0, 3).with_columns(user=pl.lit(None, pl.String)))
    with pytest.raises(InvalidTable, match="expected instants"):
        campaign.plan(0, candidates(0, 3).with_columns(as_of=pl.lit(3)))
    with pytest.raises(InvalidInput, match="day that was planned, got 0"):
        campaign.answer(0, [])
    campaign.plan(3, candidates(3))
    with pytest.raises(InvalidInput, match="expected a day from 3 on, got 2"):
        campaign.plan(2, candidates(2))
    with pytest.raises(InvalidInput, match="got one of `stranger`"):
        campaign.answer(3, ["stranger"])
    with pytest.raises(InvalidTable, match="users of type String"):
        campaign.plan(4, pl.DataFrame({"user": [1]}).with_columns(as_of=pl.datetime(2026, 1, 1)))
    with pytest.raises(ArtifactError):
        campaign.save(tmp_path / "no" / "campaign.parquet")


@pytest.mark.parametrize("scores", [[1.0], [np.nan] * 50, [np.inf] * 50])
def test_a_learner_that_gives_no_proper_scores_is_named(scores):
    learner = by_rule(lambda rows: np.array(scores))
    campaign = SmartTargeting(learner, budget=5, explore=0.0, least_engaged=0)
    with pytest.raises(InvalidInput, match=r"expected (the learner to give|finite scores)"):
        campaign.plan(0, candidates(0, 50))
    assert campaign.sent.is_empty()


def test_a_file_that_is_no_campaign_is_refused(tmp_path):
    path = tmp_path / "campaign.parquet"
    assert SmartTargeting(by_number, budget=5).resume(path).sent.is_empty()
    campaign = played(SmartTargeting(by_number, budget=5), 2)
    campaign.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidTable, match="expected a campaign saved at"):
        campaign.resume(path)
    campaign.sent.drop("why").write_parquet(path)
    with pytest.raises(InvalidTable, match="`why` of String, got no such column"):
        campaign.resume(path)
    campaign.sent.drop("user").write_parquet(path)
    with pytest.raises(InvalidTable, match="without `user`"):
        campaign.resume(path)


def changed(name, value, row=0):
    return lambda sent: sent.with_columns(
        pl.when(pl.int_range(pl.len()) == row)
        .then(pl.lit(value, sent.schema[name]))
        .otherwise(name)
        .alias(name)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("user", None), "a user in column `user`, got None in row 0"),
        (changed("day", None, 3), "a day in column `day`, got None in row 3"),
        (changed("as_of", None), "an instant in column `as_of`"),
        (changed("why", "luck"), "explore or target in column `why`, got luck"),
        (changed("why", None), "explore or target in column `why`, got None"),
        (changed("score", 0.5), "none for explore in column `score`, got 0.5"),
        (changed("score", None, 9), "a finite number for target .*, got None in row 9"),
        (changed("score", np.nan, 9), "a finite number for target .*, got nan in row 9"),
        (changed("chance", 0.0), "above 0 for explore in column `chance`, got 0.0"),
        (changed("chance", np.nan, 9), "a share .* in column `chance`, got nan in row 9"),
        (changed("chance", None), "a share .* in column `chance`, got None"),
        (changed("chance", 1.5, 9), "a share .* in column `chance`, got 1.5"),
        (changed("engaged", 2), "0, 1 or null in column `engaged`, got 2"),
        (lambda sent: pl.concat([sent, sent[7:8]]), "several to `u.*` on day 1"),
        (lambda sent: sent.with_columns(user=pl.lit(0.5)), "texts or whole numbers, got Float64"),
    ],
)
def test_a_file_with_values_that_no_campaign_writes_is_refused(tmp_path, change, words):
    path = tmp_path / "campaign.parquet"
    campaign = played(SmartTargeting(by_number, budget=5, least_engaged=0), 2)
    campaign.plan(2, candidates(2))
    assert campaign.sent["why"][9] == "target"
    campaign.save(path)
    resumed = SmartTargeting(by_number, budget=5).resume(path)
    assert resumed.sent.equals(campaign.sent)
    change(campaign.sent).write_parquet(path)
    with pytest.raises(InvalidTable, match=words):
        resumed.resume(path)
    assert resumed.sent.equals(campaign.sent)


def test_a_campaign_without_a_random_group_is_opened_again(tmp_path):
    rule = SmartTargeting(by_rule(number), budget=5, explore=0.0, least_engaged=0)
    rule.plan(0, candidates(0))
    assert rule.sent["chance"].to_list() == [0.0] * 5
    rule.save(tmp_path / "campaign.parquet")
    assert SmartTargeting(by_number, budget=5).resume(tmp_path / "campaign.parquet").sent.height


@pytest.mark.parametrize("engaged", [[1], ["u1", None], "u1", b"u1", 5, [("u1",)]])
def test_answers_that_name_no_users_are_refused(engaged):
    campaign = SmartTargeting(by_number, budget=200)
    campaign.plan(0, candidates(0))
    with pytest.raises(InvalidInput, match="expected users who engaged, as String"):
        campaign.answer(0, engaged)
    assert campaign.sent["engaged"].null_count() == 200


@pytest.mark.parametrize("engaged", [["1"], [1.5], [2**70]])
def test_answers_of_another_kind_than_whole_numbers_are_refused(engaged):
    campaign = SmartTargeting(at_random(), budget=9, least_engaged=0)
    rows = pl.DataFrame({"user": range(9)}).with_columns(as_of=pl.datetime(2026, 1, 1))
    campaign.plan(0, rows)
    with pytest.raises(InvalidInput, match="expected users who engaged, as Int64"):
        campaign.answer(0, engaged)
    campaign.answer(0, np.array([3, 4]))
    assert campaign.sent["engaged"].sum() == 2


@pytest.mark.parametrize(
    "bad",
    [{"budget": 2.5}, {"budget": "5"}, {"budget": True}, {"cap": np.nan}, {"cap_days": 1.0},
     {"least_engaged": None}, {"explore": "0.1"}, {"explore": np.nan}],
)  # fmt: skip
def test_settings_that_are_no_numbers_are_named(bad):
    with pytest.raises(InvalidInput, match=f"expected {next(iter(bad))}, a"):
        SmartTargeting(by_number, **{"budget": 5} | bad)


@pytest.mark.parametrize("day", [0.5, None, "0"])
def test_a_day_is_a_whole_number(day):
    campaign = SmartTargeting(by_number, budget=5)
    with pytest.raises(InvalidInput, match="expected a day as a whole number"):
        campaign.plan(day, candidates(0))
    with pytest.raises(InvalidInput, match="expected a day as a whole number"):
        campaign.answer(day, [])


# On the simulated exchange, with an asset of which nobody has heard


@pytest.fixture(scope="module")
def simulated():
    return Campaign(2500, warm_days=30, days=4, base=0.06, seed=11)


def engaged_in_all(campaign, learner, *, explore, least_engaged, days=4):
    targeting = SmartTargeting(
        learner, budget=200, explore=explore, least_engaged=least_engaged, seed=1
    )
    for day in range(days):
        plan = targeting.plan(day, campaign.candidates(day))
        targeting.answer(day, campaign.engaged(day, plan["user"]))
    return targeting.sent


def test_trees_on_aggregates_learn_a_new_asset_within_days(simulated):
    learner = TreeLearner(aggregates_of(simulated.events))
    sent = engaged_in_all(simulated, learner, explore=0.1, least_engaged=5)
    chance = engaged_in_all(simulated, at_random(), explore=0.0, least_engaged=0)
    assert sent["engaged"].sum() > 1.3 * chance["engaged"].sum()
    again = engaged_in_all(simulated, learner, explore=0.1, least_engaged=5, days=2)
    assert again.equals(sent.filter(pl.col("day") < 2))


def test_a_line_through_choices_and_habits_finds_keener_users_than_the_heuristic(simulated):
    learner = LinearLearner(beside(choices_of(simulated.events), habits_of(simulated.events)))
    targeting = SmartTargeting(learner, budget=250, seed=1)
    first = targeting.plan(0, simulated.candidates(0))
    targeting.answer(0, simulated.engaged(0, first["user"]))
    best = targeting.plan(1, simulated.candidates(1)).filter(why="target")
    assert best["score"].is_between(0, 1).all()
    everyone = simulated.candidates(1)
    picked = everyone.filter(hand_picked(simulated.events, everyone))
    ours, theirs, all_ = (
        simulated.chances(1, who["user"]).mean() for who in (best, picked, everyone)
    )
    assert ours > 1.5 * theirs > 1.5 * all_


@pytest.mark.parametrize("features", [aggregates_of, choices_of, habits_of])
def test_what_happens_after_the_instant_is_not_read(features):
    exchange = Campaign(300, warm_days=30, days=2, seed=3)
    rows = exchange.candidates(1)
    known = exchange.events.filter(pl.col("happened_at") <= exchange.as_of(1))
    assert known.height < exchange.events.height
    all_of_it, past = features(exchange.events)(rows), features(known)(rows)
    assert np.array_equal(all_of_it, past, equal_nan=True)
    assert len(all_of_it) == rows.height


@pytest.mark.parametrize("features", [choices_of, habits_of])
def test_features_for_a_line_are_finite_and_zero_for_who_did_nothing(features):
    events = pl.DataFrame(
        {"user": ["a", "a", "b", "b", "c"], "type": ["look", "buy", "look", "look", "buy"]}
    ).with_columns(happened_at=pl.lit(START) + pl.duration(hours=pl.int_range(pl.len())))
    rows = pl.DataFrame({"user": ["a", "b", "c"]}).with_columns(as_of=pl.lit(START))
    made = features(events)
    first = made(rows.with_columns(as_of=pl.lit(START + timedelta(hours=3))))
    assert np.isfinite(first).all()
    # Of the third, nothing is known by then; of all three, a second before.
    assert not first[2].any()
    assert not made(rows.with_columns(as_of=pl.lit(START - timedelta(seconds=1)))).any()


@pytest.mark.parametrize("features", [aggregates_of, choices_of, habits_of])
def test_the_order_of_rows_does_not_say_what_is_learned_from(features):
    exchange = Campaign(300, warm_days=30, days=2, seed=3)
    rows = pl.concat([exchange.candidates(1).head(20), exchange.candidates(0).head(20)])
    made, turned = features(exchange.events)(rows), features(exchange.events)(rows.reverse())
    assert np.allclose(made, turned[::-1], atol=1e-5, equal_nan=True)
    with pytest.raises(InvalidInput, match="expected rows to make features of"):
        features(exchange.events)(rows.head(0))


def test_a_line_is_the_most_likely_one_under_its_prior():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 3)) * [1.0, 3.0, 30.0]
    odds = inputs @ [0.8, -0.3, 0.1] - 1.0
    engaged = (rng.random(300) < 1 / (1 + np.exp(-odds))).astype(float)
    rows = pl.DataFrame({"user": range(300)})
    learner = LinearLearner(lambda rows: inputs[rows["user"].to_numpy()], penalty=2.0)
    found = learner.fit(rows, engaged).score(rows)
    line = np.linalg.lstsq(
        np.hstack([np.ones((300, 1)), inputs]), np.log(found / (1 - found)), rcond=None
    )[0]
    # At the best the data pull on each coefficient as the prior does.
    assert np.allclose(inputs.T @ (engaged - found), 2.0 * line[1:], atol=1e-5)
    assert found.mean() == pytest.approx(engaged.mean(), abs=1e-4)


@pytest.mark.parametrize("engaged", [np.zeros(40), np.ones(40)])
def test_a_line_takes_answers_of_one_kind_and_features_that_part_them(engaged):
    rows = pl.DataFrame({"user": range(40)})
    learner = LinearLearner(lambda rows: 1e3 * rows.to_numpy())
    assert np.isfinite(learner.fit(rows, engaged).score(rows)).all()
    half = np.arange(40) >= 20.0
    order = learner.fit(rows, half.astype(float)).score(rows)
    assert order[half].min() > order[~half].max()


@pytest.mark.parametrize("penalty", [0.0, -1.0, np.nan, np.inf, "8"])
def test_a_line_refuses_a_penalty_that_is_none(penalty):
    with pytest.raises(InvalidInput, match="penalty, a finite number above 0"):
        LinearLearner(choices_of, penalty=penalty)


def test_a_line_refuses_what_it_cannot_learn_from():
    rows = pl.DataFrame({"user": range(4)})
    with pytest.raises(InvalidInput, match="got nan in column 0 of row 0; fill or leave out"):
        LinearLearner(lambda rows: np.full((4, 1), np.nan)).fit(rows, np.ones(4))
    for answers, words in (
        ([0, 1, np.nan, 1], "got nan in row 2"),
        ([np.inf, 1, 0, 1], "got inf in row 0"),
        ([0, 1, 2, 1], "got 2.0 in row 2"),
        ([0, -1, 1, 1], "got -1.0 in row 1"),
        ([0, 1], "for each of 4 rows"),
    ):
        with pytest.raises(InvalidInput, match=words):
            LinearLearner(lambda rows: np.ones((4, 1))).fit(rows, np.array(answers))
    with pytest.raises(InvalidInput, match="expected answers to learn from"):
        LinearLearner(lambda rows: np.ones((0, 1))).fit(rows.head(0), np.ones(0))
    with pytest.raises(InvalidInput, match="expected a fitted learner"):
        LinearLearner(lambda rows: np.ones((4, 1))).score(rows)


def test_the_heuristic_notifies_the_hand_picked_first(simulated):
    rule = by_rule(lambda rows: hand_picked(simulated.events, rows))
    sent = engaged_in_all(simulated, rule, explore=0.0, least_engaged=0)
    first = sent.filter(day=0)
    assert first["score"].to_list() == [1.0] * 200
    assert first.height == hand_picked(simulated.events, first).sum()
