import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.foundation import Factors
from chopmark.foundation.factors import _fitted, _users
from chopmark.histories import Histories


def chosen(num_users=600, num_values=15, size=2, mean=12, seed=0):
    """Events of users with planted places, and the places."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(num_users, size))
    odds = places @ rng.normal(size=(size, num_values)) - 0.2 * np.arange(num_values)
    chances = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    users = np.repeat(np.arange(num_users), 2 + rng.poisson(mean - 2, num_users))
    values = [rng.choice(num_values, p=chances[user]) for user in users]
    events = pl.DataFrame(
        {
            "user": users,
            "happened_at": np.arange(len(users)),
            "type": "look",
            "thing": [f"t{value}" for value in values],
            "country": [f"c{user % 5}" for user in users],
        }
    )
    return events, places


@pytest.fixture(scope="module")
def planted():
    events, places = chosen()
    pieces = Histories.from_frame(events).every()
    return events, places, pieces, Factors(most=5).fit(pieces)


def explained(vectors, truth):
    """Share of the variance of planted places that a line through the vectors tells."""
    inputs = np.hstack([np.ones((len(vectors), 1)), vectors])
    left = truth - inputs @ np.linalg.lstsq(inputs, truth, rcond=None)[0]
    return 1 - left.var() / truth.var()


def test_planted_places_are_found_from_a_dozen_choices(planted):
    events, places, pieces, factors = planted
    vectors = factors.embed(pieces)
    assert explained(vectors, places) > 0.75
    # The shares of things themselves say less, with three times as many numbers.
    counts = events.pivot("thing", index="user", values="type", aggregate_function="len")
    counts = counts.fill_null(0).sort("user").drop("user").to_numpy()
    assert explained(vectors, places) > explained(counts / counts.sum(1, keepdims=True), places)


def test_numbers_that_say_nothing_stay_near_zero(planted):
    _, _, pieces, factors = planted
    variances = np.sort(factors.embed(pieces).var(axis=0))[::-1]
    assert variances[1] > 0.5
    assert variances[2:].max() < 0.25


def test_a_field_of_which_everybody_has_one_value_is_no_choice(planted):
    assert planted[3].columns == [f"thing_{place}" for place in range(1, 6)]


def test_the_more_is_known_of_a_user_the_longer_the_vector():
    pieces = Histories.from_frame(chosen()[0]).every()
    factors = Factors(most=2).fit(pieces)
    one, ten, many = (
        np.linalg.norm(factors.embed(Histories.from_frame(frame).every()))
        for frame in (
            pl.DataFrame({"user": "new", "happened_at": range(n), "type": "look", "thing": "t14"})
            for n in (1, 10, 100_000)
        )
    )
    assert 0 < one < ten < many < 20


def test_users_with_a_favourite_have_the_most_likely_place_and_nothing_runs_away():
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 101) ** 1.2
    counts = np.array(
        [
            rng.multinomial(total, 0.1 * shares / shares.sum() + 0.9 * np.eye(100)[favourite])
            for total, favourite in zip(
                rng.choice([3, 30, 200], 300), rng.integers(0, 100, 300), strict=True
            )
        ]
    ).astype(float)
    base, loadings = _fitted(counts, 6)
    places, _ = _users(counts, base, loadings, steps=12)
    assert np.abs(loadings).max() < 30
    for own, place in zip(counts[:20], places, strict=False):

        def unlikely(at, own=own):
            return -own @ log_softmax(base + loadings @ at) + at @ at / 2

        assert unlikely(place) < minimize(unlikely, np.zeros(6)).fun + 1e-3


def test_values_never_seen_and_no_choice_say_nothing(planted):
    factors = planted[3]
    strange = pl.DataFrame({"user": ["a", "b"], "happened_at": [0, 1], "type": ["x", "look"]})
    for events in (strange, strange.with_columns(thing=pl.lit("never seen"))):
        assert np.abs(factors.embed(Histories.from_frame(events).every())).max() < 1e-6


def test_order_of_users_and_events_company_and_a_second_fit_change_nothing(planted):
    events, _, pieces, factors = planted
    vectors = factors.embed(pieces)
    shuffled = events.with_columns(happened_at=-pl.col("happened_at"))
    assert np.allclose(factors.embed(Histories.from_frame(shuffled).every()), vectors, atol=1e-4)
    assert np.allclose(factors.embed(pieces[[7, 3]]), vectors[[7, 3]], atol=1e-4)
    assert np.array_equal(Factors(most=5).fit(pieces).embed(pieces), vectors)


def test_histories_without_a_choice_have_no_numbers():
    events = pl.DataFrame({"user": ["a", "b"], "happened_at": [0, 1], "type": ["x", "x"]})
    pieces = Histories.from_frame(events).every()
    assert Factors().fit(pieces).embed(pieces).shape == (2, 0)


@pytest.mark.parametrize("most", [0, -1, 1.5, True, None, "8"])
def test_what_cannot_be_is_refused(most):
    with pytest.raises(InvalidInput, match="expected most, a whole number of at least 1"):
        Factors(most=most)


def test_factors_that_are_not_fitted_say_so(planted):
    with pytest.raises(InvalidTable, match="expected fitted factors"):
        Factors().embed(planted[2])
