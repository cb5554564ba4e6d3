"""The portfolio: learners blended into one sum of parts, none of which had seen the rows."""

import time
from dataclasses import replace

import numpy as np
import pytest

from chopmark.errors import DeclarationError
from chopmark.models import Encoded
from chopmark.models.splits import Split, folds
from chopmark.tabular.portfolio import FAMILIES, learn, learn_prior, learners_of
from chopmark.tabular.problem import Problem

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def problem():
    x = RNG.normal(size=(1_500, 4))
    x[RNG.random(x.shape) < 0.05] = np.nan
    x = np.column_stack([x, RNG.integers(0, 5, 1_500)])
    known = np.nan_to_num(x)
    z = known[:, 0] + known[:, 1] * known[:, 2] + (x[:, 4] == 3)
    y = (RNG.random(1_500) < 1 / (1 + np.exp(-z))).astype(float)
    return Problem(
        x=x,
        y=y,
        encoded=[*(Encoded(name=name) for name in "abcd"), Encoded(name="kind", num_codes=5)],
        parts=list(folds(y, count=3)),
        refit=True,
    )


@pytest.fixture(scope="module")
def numbers(problem):
    known = np.nan_to_num(problem.x)
    y = known[:, 0] + known[:, 1] * known[:, 2] + 0.5 * RNG.normal(size=len(known))
    return replace(problem, y=(y - y.mean()) / y.std(), objective="number")


def total(blend, x):
    return blend.bias + sum(part.raw(x) for part in blend.parts)


@pytest.mark.parametrize("which", ["problem", "numbers"])
def test_a_blend_is_no_worse_than_its_best_learner(which, request):
    problem = request.getfixturevalue(which)
    blend = learn(problem, learners_of("auto"))
    loss = problem.loss(blend.held_out_raw, problem.y[problem.held_out_rows])
    assert loss <= min(blend.losses.values()) + 1e-9
    assert set(blend.weights) == set(learners_of("auto"))
    assert all(weight >= 0 for weight in blend.weights.values())
    # The parts served have the weights within them: on rows learned from they fit still better.
    assert problem.loss(total(blend, problem.x), problem.y) < loss


def test_sums_of_trees_become_one(problem):
    blend = learn(problem, learners_of("trees"))
    assert [part.name for part in blend.parts] == ["trees"]
    assert sum(weight > 0 for weight in blend.weights.values()) >= 2


def test_the_number_of_workers_is_no_matter(problem):
    one, two = (learn(problem, learners_of("auto"), workers=n) for n in (1, 2))
    assert np.array_equal(total(one, problem.x), total(two, problem.x))


def test_noise_is_not_learned(problem):
    noise = replace(problem, y=RNG.permutation(problem.y))
    blend = learn(noise, learners_of(("prior", "trees")))
    prior = blend.losses["prior"]
    assert noise.loss(blend.held_out_raw, noise.y[noise.held_out_rows]) <= prior
    assert np.std(total(blend, problem.x)) < 0.5


def test_the_prior_is_the_share_of_bad_rows(problem, numbers):
    learned = learn_prior(problem)
    assert learned.part.raw(problem.x) == pytest.approx(
        np.full(1_500, np.log(problem.y.mean() / (1 - problem.y.mean()))), abs=0.01
    )
    assert np.allclose(learn_prior(numbers).part.raw(numbers.x), 0.0)


def test_a_budget_ends_the_list_but_not_before_the_first(problem):
    told = []

    def slow(problem):
        time.sleep(0.05)
        return learn_prior(problem)

    learners = {"first": slow, "second": slow, "third": slow}
    blend = learn(problem, learners, budget=0.01, on_progress=lambda *step: told.append(step))
    assert blend.skipped == ("second", "third")
    assert told == [("first", 1, 3)]


def test_what_a_learner_raises_reaches_the_caller(problem):
    def broken(problem):
        raise RuntimeError("as said")

    with pytest.raises(RuntimeError, match="as said"):
        learn(problem, {"broken": broken}, workers=2)


def test_a_later_part_is_never_learned_from(problem):
    rows = np.arange(1_500)
    later = replace(problem, parts=[Split(train=rows[:1_000], test=rows[1_000:])], refit=False)
    flipped = replace(later, y=np.where(rows >= 1_000, 1 - later.y, later.y))
    learner = {"linear": FAMILIES["linear"]["linear"]}
    one, other = (learner["linear"](each) for each in (later, flipped))
    # Only the penalty may follow the rows that are judged by.
    if one.settings == other.settings:
        assert np.array_equal(one.part.raw(problem.x), other.part.raw(problem.x))
    assert later.final_rows.max() == 999


def test_weights_of_rows_pull_the_scores(problem):
    heavy = replace(problem, weights=np.where(problem.y == 1, 20.0, 1.0))
    for name in ("linear", "trees"):
        plain, pulled = (FAMILIES[name][name](each) for each in (problem, heavy))
        assert pulled.part.raw(problem.x).mean() > plain.part.raw(problem.x).mean() + 1


@pytest.mark.parametrize(
    ("model", "message"),
    [("tree", "did you mean `trees`"), ((), "at least one family"), (("linear", "x"), "got `x`")],
)
def test_families_that_are_not(model, message):
    with pytest.raises(DeclarationError, match=message):
        learners_of(model)
