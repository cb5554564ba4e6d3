"""The learned policy of friction against Vowpal Wabbit itself, and against a known truth."""

import sys
from pathlib import Path

import numpy as np
import pytest

from chopmark.decisions.learnedfriction import LearnedFriction
from chopmark.decisions.offpolicy import FrictionLog, target_probabilities
from chopmark.errors import InvalidInput, MissingExtra, PolicyError
from chopmark.lifecycle import bandit, learn_friction

FRICTIONS = ("none", "quiz", "human_review")
READS = ("scam_victim", "amount_usd", "rail")
# Share of a fraud that goes through, share of good users who stay, cost in USD.
THROUGH, STAY, COST = np.array([1.0, 0.6, 0.2]), np.array([1.0, 0.97, 0.94]), np.array([0, 0.02, 4])


def drawn(n, seed, *, logging=(0.4, 0.3, 0.3)):
    """A log, and the true mean reward of each friction in each of its rows."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.3, 3.0, n)
    amount = np.round(np.exp(rng.normal(4.5, 0.8, n)), 2)
    rail = np.array(["ach", "card", "wire"])[rng.integers(0, 3, n)]
    margin = np.where(rail == "card", 0.03, 0.01)
    means = amount[:, None] * (
        (1 - chance)[:, None] * STAY * margin[:, None] - chance[:, None] * THROUGH
    )
    probabilities = logging(chance) if callable(logging) else np.tile(logging, (n, 1))
    actions = (rng.random(n)[:, None] >= np.cumsum(probabilities, axis=1)).sum(axis=1)
    fraud = rng.random(n) < chance
    through, stay = rng.random(n) < THROUGH[actions], rng.random(n) < STAY[actions]
    rewards = amount * np.where(fraud, -1.0 * through, margin * stay) - COST[actions]
    seen = zip(chance.tolist(), amount.tolist(), rail.tolist(), strict=True)
    log = FrictionLog(
        values=[dict(zip(READS, row, strict=True)) for row in seen],
        frictions=FRICTIONS,
        actions=actions,
        propensities=probabilities[np.arange(n), actions],
        rewards_usd=rewards,
    )
    return log, means - COST


@pytest.fixture(scope="module")
def small():
    return drawn(3_000, 0)[0]


@pytest.fixture(scope="module")
def policy(small):
    return learn_friction(small, reads=READS, together=(("scam_victim", "rail"),), num_buckets=5)


def test_the_table_predicts_what_vowpal_wabbit_predicts(small, policy, tmp_path):
    """Its own hashing, its own reading of names: only options and rows are ours."""
    from vowpalwabbit import Workspace

    from chopmark.tabular.vw import OPTIONS

    def names(row, action):
        cells = [f"{c.name}_{c.place(row.get(c.name))}" for c in policy.columns]
        cells.append(f"{cells[0]}_{cells[2]}")
        own = [f"{cell}_with_{action}" for cell in cells]
        return " ".join([*cells, *own, f"base_{action}:{bandit._BASE}"])

    penalty = 30.0
    weights = 1.0 / small.propensities
    weights /= weights.mean()
    scales = np.array([max(row["amount_usd"], 20.0) for row in small.values])
    lines = [
        f"{float(cost)!r} {float(weight)!r} |a {names(row, FRICTIONS[action])}"
        for cost, weight, row, action in zip(
            -small.rewards_usd / scales, weights, small.values, small.actions, strict=True
        )
    ]
    path = tmp_path / "rows"
    path.write_text("\n".join(lines) + "\n")
    workspace = Workspace(
        f"--quiet --loss_function squared --min_prediction -1e6 --max_prediction 1e6 {OPTIONS} "
        f"--l2 {penalty!r} --bit_precision 18 --data {path} --cache_file {path}.cache"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bandit, "_PENALTIES", (penalty,))
        ours = learn_friction(
            small, reads=READS, together=(("scam_victim", "rail"),), num_buckets=5
        )
    assert ours.columns == policy.columns
    for row, scale in zip(small.values[:300], scales, strict=False):
        theirs = [workspace.predict(f"|a {names(row, action)}") * scale for action in FRICTIONS]
        # Vowpal Wabbit adds up in float32.
        assert ours.costs_usd(row) == pytest.approx(theirs, abs=3e-5 * scale)
    workspace.finish()


def test_it_learns_which_friction_pays(policy):
    log, _ = drawn(20_000, 1)
    learned = learn_friction(log, reads=READS, epsilon=0.0)
    test, truth = drawn(8_000, 2)
    chosen = target_probabilities(learned, test)
    value = float((chosen * truth).sum(axis=1).mean())
    best = float(truth.max(axis=1).mean())
    constant = float(truth.mean(axis=0).max())
    assert value > constant + 0.75 * (best - constant)
    assert learned.costs_usd(test.values[0]) == pytest.approx(-truth[0], abs=15.0)


def test_propensities_undo_what_the_log_was_partial_to():
    """Risky payments went to review by a score that the learner cannot read.

    Means of what was logged blame review for the risk of those it was given.
    """

    def partial(chance):
        review = np.where(chance > 0.1, 0.8, 0.1)
        return np.column_stack([0.9 - review, np.full(len(chance), 0.1), review])

    log, truth = drawn(20_000, 3, logging=partial)
    learned = learn_friction(log, reads=("amount_usd",), epsilon=0.0, num_buckets=4)
    predicted = -np.array([learned.costs_usd(row) for row in log.values[:4_000]])
    assert predicted.mean(axis=0) == pytest.approx(truth.mean(axis=0), abs=1.5)
    review_over_none = predicted.mean(axis=0) @ [-1.0, 0.0, 1.0]
    as_logged = [log.rewards_usd[log.actions == action].mean() for action in (0, 2)]
    assert review_over_none > 2.0
    assert as_logged[1] < as_logged[0]


def test_the_same_log_gives_the_same_policy_and_no_noise(small, capfd):
    one, other = (learn_friction(small, reads=READS) for _ in range(2))
    assert one.hash == other.hash
    assert capfd.readouterr() == ("", "")


def test_what_was_learned_is_served_from_json(small, policy):
    again = LearnedFriction.from_json(policy.to_json())
    assert again.hash == policy.hash
    for number, row in enumerate(small.values[:100]):
        one, other = (p.choose(row, event_id=f"p-{number}", key=b"k") for p in (policy, again))
        assert one == other


def test_a_text_or_a_gap_that_was_never_seen_costs_nothing_more(small, policy):
    known = {**small.values[0], "rail": None}
    assert policy.costs_usd({**known, "rail": "pigeon"}) == policy.costs_usd(known)
    assert policy.choose({}, event_id="p", key=b"k").friction in FRICTIONS


def test_large_losses_can_be_capped(small):
    whole = learn_friction(small, reads=READS, epsilon=0.0)
    capped = learn_friction(small, reads=READS, cap_usd=20.0, epsilon=0.0)
    rows = small.values[:300]
    costs = [np.mean([policy.costs_usd(row)[0] for row in rows]) for policy in (capped, whole)]
    assert costs[0] < costs[1]


def test_no_file_is_left_behind(small, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    learn_friction(small, reads=("scam_victim",))
    assert list(Path(tmp_path).iterdir()) == []


def test_a_friction_that_was_hardly_logged_is_refused():
    log, _ = drawn(600, 0, logging=(0.5, 0.49, 0.01))
    with pytest.raises(InvalidInput, match="expected `human_review` at least 50 times"):
        learn_friction(log, reads=READS)


def test_columns_that_cannot_be_read_are_refused(small):
    with pytest.raises(InvalidInput, match="`country`, got the same in all rows"):
        learn_friction(small, reads=("country",))
    with pytest.raises(InvalidInput, match="expected `rail`, of `together`"):
        learn_friction(small, reads=("scam_victim",), together=(("scam_victim", "rail"),))
    with pytest.raises(InvalidInput, match="expected numbers in `rail`"):
        learn_friction(small, reads=("scam_victim",), per="rail")
    mixed = [{**row, "rail": 1.0} for row in small.values[:1]] + list(small.values[1:])
    log = FrictionLog(
        values=mixed,
        frictions=FRICTIONS,
        actions=small.actions,
        propensities=small.propensities,
        rewards_usd=small.rewards_usd,
    )
    with pytest.raises(InvalidInput, match="texts or numbers in `rail`, got both"):
        learn_friction(log, reads=READS)


def test_a_friction_that_the_registry_lacks_is_refused(small):
    log = FrictionLog(
        values=small.values,
        frictions=("none", "quiz", "handshake"),
        actions=small.actions,
        propensities=small.propensities,
        rewards_usd=small.rewards_usd,
    )
    with pytest.raises(PolicyError, match="`handshake`"):
        learn_friction(log, reads=("scam_victim",))


def test_without_the_package_the_message_is_its_install_line(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "vowpalwabbit", None)
    with pytest.raises(MissingExtra, match=r"pip install 'chopmark\[vw\]'"):
        learn_friction(small, reads=("scam_victim",))
