import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import DeclarationError, InvalidInput
from chopmark.foundation.candidates import METHODS, Training, Views, newest
from chopmark.foundation.chances import FIGURES, blended, gained, judged
from chopmark.foundation.usermodel import UserModel
from chopmark.foundation.uses import (
    BLEND,
    _as_good,
    _folds,
    _groups,
    _mixed,
    _parted,
    best_of,
    choose,
)
from chopmark.histories import Aggregates, Histories
from chopmark.models import metrics
from chopmark.models.splits import stratified
from chopmark.sequence.shape import Shape
from chopmark.sequence.supervised import STRENGTHS, logistic
from chopmark.sequence.training import Pace

QUICK = Training(fine=Pace(steps=24, rate=3e-4), scratch=Pace(steps=24, rate=1e-3), epochs=2.0)
USERS = 160
DAY = 86_400_000_000


def made(num_users=USERS, seed=0):
    """Users of two kinds, one of which sells more; and how many events they have."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 30, num_users)
    kind = (rng.random(num_users) < 0.4).astype(np.int64)
    owner = np.repeat(np.arange(num_users), lengths)
    sells = rng.random(len(owner)) < np.where(kind[owner] == 1, 0.6, 0.25)
    frame = pl.DataFrame(
        {
            "user": owner,
            "happened_at": rng.integers(0, 30 * DAY, len(owner)),
            "type": np.where(sells, "sell", rng.choice(["buy", "view"], len(owner))).tolist(),
        }
    )
    return Histories.from_frame(frame), kind, lengths


@pytest.fixture(scope="module")
def space():
    histories, kind, lengths = made()
    shape = Shape(width=8, depth=1, length=16)
    model = UserModel(shape=shape, pace=Pace(steps=20, rate=3e-3), budget=1_024).fit(histories)
    return model, histories.every(31 * DAY), kind, lengths


@pytest.fixture(scope="module")
def valid():
    return np.arange(0, USERS, 4)


@pytest.fixture(scope="module")
def uses(space, valid):
    model, pieces, y, _ = space
    told = []
    found = choose(model, pieces, y, valid=valid, training=QUICK,
                   on_progress=lambda *now: told.append(now))  # fmt: skip
    assert [name for name, _, _ in told] == [*METHODS, ""]
    return found


def test_every_use_is_fitted_and_scores(uses, space):
    _, pieces, _, _ = space
    assert set(METHODS) <= set(uses.figures)
    views = uses.views(pieces)
    for method in uses.figures:
        scores = uses.score(views, method=method)
        assert scores.shape == (USERS,)
        assert ((scores >= 0) & (scores <= 1)).all()
        assert uses.score(pieces[:0], method=method).shape == (0,)


def test_the_figures_are_those_of_the_scores_on_validation_rows(uses, space, valid):
    _, pieces, y, _ = space
    for method, told in uses.figures.items():
        scores = uses.score(pieces[valid], method=method)
        own = metrics.summary(y[valid].astype(float), scores)
        assert {name: told[name] for name in FIGURES} == pytest.approx(
            {name: own[name] for name in FIGURES}, abs=1e-4
        )


def test_the_chosen_one_is_the_best_on_validation_rows(uses, space):
    _, pieces, _, _ = space
    areas = {name: told["roc_auc"] for name, told in uses.figures.items() if name != BLEND}
    assert areas[uses.best] >= max(areas.values()) - 1e-3
    assert np.array_equal(uses.score(pieces), uses.score(pieces, method=uses.chosen))
    table = uses.table()
    assert table.filter("chosen")["use"].to_list() == [uses.chosen]
    assert table["roc_auc"].is_sorted(descending=True)


def test_uses_find_what_is_there_to_find(space, valid):
    model, pieces, y, _ = space
    later, truth, _ = made(600, seed=9)
    methods = ("centroids", "probe", "trees", "aggregates")
    found = choose(model, pieces, y, valid=valid, methods=methods)
    for method in found.figures:
        scores = found.score(later.every(31 * DAY), method=method)
        assert metrics.roc_auc(truth, scores) > 0.75, method


def test_labels_of_validation_rows_are_not_learned(space, valid):
    model, pieces, y, _ = space
    turned = y.copy()
    turned[valid] = 1 - turned[valid]
    methods = ("positives only", "centroids", "probe")
    one = choose(model, pieces, y, valid=valid, methods=methods)
    two = choose(model, pieces, turned, valid=valid, methods=methods)
    for method in methods:
        first, second = (uses.score(pieces, method=method) for uses in (one, two))
        assert np.array_equal(first, second)
        old, new = one.figures[method]["roc_auc"], two.figures[method]["roc_auc"]
        assert old + new == pytest.approx(1.0)


def test_several_classes_have_a_probability_each(space, valid):
    model, pieces, kind, lengths = space
    y = kind + 2 * (lengths > 15)
    found = choose(model, pieces, y, valid=valid, training=QUICK)
    for method in found.figures:
        chances = found.score(pieces, method=method)
        assert chances.shape == (USERS, 4)
        assert np.allclose(chances.sum(axis=1), 1.0)
    assert metrics.class_summary(y, found.score(pieces, method="aggregates"))["accuracy"] > 0.7


def test_a_class_that_only_validation_rows_have_stops_nothing(space):
    model, pieces, kind, _ = space
    y = kind.copy()
    y[:2] = 2
    found = choose(model, pieces, y, valid=np.arange(50), training=QUICK)
    for method in METHODS:
        assert found.score(pieces[:9], method=method)[:, 2].max() < 0.2


def test_features_stand_beside_the_aggregates(space, valid):
    model, pieces, _, _ = space
    rng = np.random.default_rng(3)
    y = rng.integers(2, size=USERS)
    features = np.column_stack([y + 0.1 * rng.normal(size=USERS), np.full(USERS, np.nan)])
    methods = ("trees", "aggregates", "trees and aggregates")
    found = choose(
        model, pieces, y, valid=valid, methods=methods, features=features, aggregates=False
    )
    assert found.figures["aggregates"]["roc_auc"] > 0.95
    assert found.figures["trees"]["roc_auc"] < 0.8
    scores = found.score(pieces[:5], features=features[:5], method="aggregates")
    assert np.array_equal(scores > 0.5, y[:5] == 1)
    few = ("probe", "aggregates")
    without = choose(model, pieces, y, valid=valid, methods=few, aggregates=False)
    assert set(without.figures) == {"probe"}


def often(space, times, each=6):
    """Several pieces of each user, nearly the same, and a label by lot for each user."""
    model, pieces, _, _ = space
    users = np.repeat(np.arange(USERS), each)
    y = np.random.default_rng(7).integers(2, size=USERS)[users]
    now = times + np.tile(np.arange(each), USERS)
    return model, pieces.histories.slices(users, now), users, y


def test_a_few_labels_are_judged_by_those_who_had_not_learned_them(space):
    model, pieces, truth, _ = space
    # The probe of all rows knows a label by lot, and yet is not fooled.
    y = np.random.default_rng(11).integers(2, size=USERS)
    found = choose(model, pieces, y, methods=("positives only", "probe"), blend=False)
    assert all(0.3 < told["roc_auc"] < 0.65 for told in found.figures.values())
    real = choose(model, pieces, truth, methods=("probe", "fine-tuned"), training=QUICK)
    assert all(told["roc_auc"] > 0.75 for told in real.figures.values())
    # Who was judged on all rows has learned from all of them, too.
    x = model.embed(newest(pieces, model.shape.length))
    each = [logistic(x, truth, strength=strength).predict_proba(x)[:, 1] for strength in STRENGTHS]
    own = real.score(pieces, method="probe")
    assert min(np.abs(own - told).max() for told in each) < 1e-6


def test_two_of_a_rare_class_are_enough_where_none_are_set_aside(space):
    model, pieces, _, _ = space
    y = (np.arange(40) < 2).astype(np.int64)
    found = choose(model, pieces[:40], y, methods=("centroids", "probe"))
    assert all(told["roc_auc"] is not None for told in found.figures.values())
    with pytest.raises(InvalidInput, match="two classes"):
        choose(model, pieces[:40], y * (np.arange(40) < 1), methods=("probe",))


def test_several_classes_are_cross_validated_too(space):
    model, pieces, kind, lengths = space
    y = kind + 2 * (lengths > 15)
    y[:2] = 4  # rows of a part are then of a class that the others hardly have
    methods = ("centroids", "fine-tuned")
    found = choose(model, pieces, y, methods=methods, training=QUICK)
    for method in methods:
        chances = found.score(pieces, method=method)
        assert chances.shape == (USERS, 5)
        assert np.allclose(chances.sum(axis=1), 1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(12, 80), st.integers(0, 1_000))
def test_each_part_has_whole_users_and_its_share_of_each_class(count, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(count // 2, size=count)
    _, groups = np.unique(groups, return_inverse=True)
    y = (rng.random(count) < 0.3).astype(np.int64)
    found = _folds(y, groups, seed)
    if found is None:
        assert len(np.unique(groups[y == 1])) < 6 or len(np.unique(groups[y == 0])) < 6
        return
    assert all(len(np.unique(found[groups == group])) == 1 for group in groups)
    each = [len(np.unique(groups[found == part])) for part in range(6)]
    assert max(each) - min(each) <= 1


def parts(pieces, y, groups=None, share=0.25, seed=0):
    return _parted(y, share, _groups(groups, pieces), seed)


def test_a_users_label_by_lot_is_not_foretold_by_other_rows_of_the_user(space):
    model, pieces, _, y = often(space, 31 * DAY)
    methods = ("trees", "aggregates")
    found = choose(model, pieces, y, methods=methods)
    assert all(0.25 < found.figures[name]["roc_auc"] < 0.75 for name in methods)
    # By rows the same columns seem to know it.
    rows = np.random.default_rng(0).permutation(len(y))[: len(y) // 5]
    fooled = choose(model, pieces, y, valid=rows, methods=methods)
    assert all(fooled.figures[name]["roc_auc"] > 0.9 for name in methods)


def test_validation_rows_are_all_rows_of_some_users(space):
    model, pieces, users, y = often(space, 31 * DAY)
    mixed = np.random.default_rng(8).permutation(len(users))
    for rows in (pieces, Views.of(model, pieces)):
        train, held = parts(rows[mixed], y[mixed])
        assert not set(users[mixed][train]) & set(users[mixed][held])
        assert len(set(users[mixed][held])) == pytest.approx(USERS / 4, abs=1)
        assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(len(y)))
    # Cut pieces, and pieces before the first event, are still of their user.
    early = pieces.histories.slices(users, np.repeat(np.arange(6), USERS) * 5 * DAY, last=3)
    assert (early.lengths == 0).sum() > 2 * 6
    train, held = parts(early, y)
    named = early.ends > 0
    assert not set(users[train][named[train]]) & set(users[held][named[held]])


def test_one_row_of_each_user_is_drawn_as_rows_are(space):
    _, pieces, y, _ = space
    train, held = parts(pieces, y, seed=3)
    wanted = stratified(y, test_share=0.25, seed=3)
    assert np.array_equal(train, wanted.train)
    assert np.array_equal(held, wanted.test)


def test_rows_of_nobody_stand_alone(space):
    _, pieces, _, _ = space
    strangers = pieces.histories.slices(np.arange(1_000, 1_100), 31 * DAY)
    assert len(set(_groups(None, strangers).tolist())) == 100
    lists = pl.Series("h", [[]] * 50 + [[{"type": "buy", "age": 1}]] * 2 + [[]] * 50)
    every = Histories.from_lists(lists).every(as_of=0)
    assert len(set(_groups(None, every).tolist())) == 102


def test_the_share_of_a_rare_class_is_kept_in_both_parts(space):
    _, pieces, users, _ = often(space, 31 * DAY)
    rng = np.random.default_rng(9)
    y = np.where(rng.random(len(users)) < 0.02, 2, rng.integers(2, size=len(users)))
    _, held = parts(pieces, y)
    rare = len(set(users[y == 2]))
    assert len(set(users[held][y[held] == 2])) == round(rare / 4)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_group_is_on_both_sides(data):
    count = data.draw(st.integers(8, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    names = rng.integers(2, 12, count)
    y = rng.integers(data.draw(st.integers(2, 4)), size=count)
    groups = data.draw(st.sampled_from([names, names.astype(str), pl.Series(names)]))
    codes = _groups(groups, [None] * count)
    assert len(set(codes.tolist())) == len(set(names.tolist()))
    try:
        train, held = _parted(y, data.draw(st.floats(0.1, 0.9)), codes, 0)
    except InvalidInput:
        return
    assert not set(names[train].tolist()) & set(names[held].tolist())
    assert len(train) + len(held) == count


def test_given_groups_go_before_the_users_of_the_pieces(space):
    _, pieces, users, y = often(space, 31 * DAY)
    lists = Histories.from_lists(pieces.to_lists()).every(as_of=0)
    train, held = parts(lists, y)
    assert set(users[train]) & set(users[held])
    train, held = parts(lists, y, groups=users)
    assert not set(users[train]) & set(users[held])


def test_a_use_that_reads_columns_refuses_rows_with_other_columns(space, valid):
    model, pieces, y, _ = space
    features = np.random.default_rng(1).random((USERS, 3))
    methods = ("probe", "aggregates")
    found = choose(model, pieces, y, valid=valid, methods=methods, features=features)
    with pytest.raises(InvalidInput, match=r"columns beside the embedding for `aggregates`.*feat"):
        found.score(pieces, method="aggregates")
    assert found.score(pieces, method="probe").shape == (USERS,)  # it reads none
    assert found.score(pieces, method="aggregates", features=features).shape == (USERS,)
    views = Views.of(model, pieces, aggregates=Aggregates().fit(pieces))
    found = choose(model, views, y, valid=valid, methods=methods)
    with pytest.raises(InvalidInput, match=r"got 0; give .*`Views` made as those were"):
        found.score(pieces, method="aggregates")
    assert found.score(views[:7], method="aggregates").shape == (7,)


def test_a_network_reads_the_newest_events_and_aggregates_read_all(space):
    model, pieces, _, lengths = space
    cut = newest(pieces, model.shape.length)
    assert np.array_equal(cut.lengths, np.minimum(lengths, 16))
    assert np.array_equal(cut.ends, pieces.ends)
    views = Views.of(model, pieces)
    assert np.array_equal(views.embedding, model.embed(cut))
    assert views.columns.shape == (USERS, 0)


def together(y, chances):
    return _mixed("probe", chances, y)


def both(scores):
    return np.column_stack([1 - scores, scores])


def noisy(y, rng):
    return both(1 / (1 + np.exp(-(1.5 * (2 * y - 1) + rng.normal(scale=3.0, size=len(y))))))


def test_a_blend_is_made_of_what_knows_different_things_and_not_of_copies():
    rng = np.random.default_rng(4)
    y = rng.integers(2, size=600)
    one, two = noisy(y, rng), noisy(y, rng)
    assert together(y, {"probe": one, "aggregates": two}) == ("probe", "aggregates")
    assert together(y, {"probe": one, "aggregates": one}) == ("probe",)
    assert together(y, {"probe": one, "aggregates": both(rng.random(600))}) == ("probe",)


def test_with_few_rows_all_that_are_not_shown_to_be_worse_are_averaged():
    rng = np.random.default_rng(4)
    y = rng.integers(2, size=200)
    uses = {"probe": noisy(y, rng), "trees": noisy(y, rng), "aggregates": both(rng.random(200))}
    assert _as_good("probe", uses, y) == ("probe", "trees")
    few = {name: chances[:12] for name, chances in uses.items()}
    assert set(_as_good("probe", few, np.arange(12) % 2)) == set(uses)


def test_a_blend_averages_log_odds():
    rng = np.random.default_rng(5)
    a, b = rng.uniform(0.01, 0.99, (2, 50))
    odds = (np.log(a / (1 - a)) + np.log(b / (1 - b))) / 2
    assert np.allclose(blended([both(a), both(b)])[:, 1], 1 / (1 + np.exp(-odds)))


def figures(**areas):
    return {name.replace("_", " "): {"roc_auc": area, "log_loss": loss}
            for name, (area, loss) in areas.items()}  # fmt: skip


def test_of_two_that_are_as_good_the_simpler_is_chosen():
    assert best_of(figures(trees=(0.8, 0.3), probe=(0.7995, 0.31))) == "probe"
    assert best_of(figures(trees=(0.8, 0.3), probe=(0.79, 0.3))) == "trees"
    # Both rank ten rows without fault; one of them knows why.
    assert best_of(figures(trees=(1.0, 0.1), probe=(1.0, 0.6))) == "trees"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_gain_is_the_difference_of_areas(seed):
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0, 1], rng.integers(2, size=40)])
    one, two = np.round(rng.random((2, 42)), 1)  # with ties
    gain, _ = gained(y, both(one), both(two))
    assert gain == pytest.approx(metrics.roc_auc(y, one) - metrics.roc_auc(y, two))
    codes = np.concatenate([[0, 1, 2], rng.integers(3, size=39)])
    p, q = rng.dirichlet(np.ones(3), (2, 42))
    gain, _ = gained(codes, p, q)
    areas = [metrics.class_summary(codes, chances)["roc_auc"] for chances in (p, q)]
    assert gain == pytest.approx(areas[0] - areas[1])


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_error_of_a_gain_is_that_of_a_bootstrap(num_classes):
    rng = np.random.default_rng(6)
    y = rng.integers(num_classes, size=500)
    p = rng.dirichlet(np.ones(num_classes), 500) + 0.4 * np.eye(num_classes)[y]
    q = p + 0.2 * rng.random(p.shape)
    p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    drawn = []
    for _ in range(300):
        rows = np.concatenate([rng.choice(np.flatnonzero(y == c), (y == c).sum())
                               for c in range(num_classes)])  # fmt: skip
        drawn.append(judged(y[rows], p[rows])["roc_auc"] - judged(y[rows], q[rows])["roc_auc"])
    assert gained(y, p, q)[1] == pytest.approx(np.std(drawn), rel=0.2)


@pytest.mark.parametrize(
    ("y", "options", "error", "words"),
    [
        (np.zeros(USERS), {}, InvalidInput, "two classes"),
        (np.zeros(3), {}, InvalidInput, "one label for each of 160"),
        (np.full(USERS, 0.5), {}, InvalidInput, "codes 0 to C - 1"),
        (np.full(USERS, np.nan), {}, InvalidInput, "codes 0 to C - 1"),
        (np.arange(USERS) % 2, {"valid": [999]}, InvalidInput, "row numbers"),
        (np.arange(USERS) % 2, {"valid": [0, 2]}, InvalidInput, "to judge by"),
        (np.arange(USERS) % 2, {"methods": ["tree"]}, DeclarationError, "did you mean"),
        (np.arange(USERS) % 2, {"methods": []}, DeclarationError, "got none"),
        (np.arange(USERS) % 2, {"features": [1.0]}, InvalidInput, "features of shape"),
        (np.arange(USERS) % 2, {"groups": [1, 2]}, InvalidInput, "one group for each of 160"),
        (np.arange(USERS) % 2, {"groups": 3}, InvalidInput, "one group for each of 160"),
        (np.arange(USERS) % 2, {"groups": [None] * USERS}, InvalidInput, "got none for some"),
        (np.arange(USERS) % 2, {"groups": np.full(USERS, np.nan)}, InvalidInput, "got none for"),
        (np.arange(USERS) % 2, {"groups": np.zeros(USERS)}, InvalidInput, "1 with 160 rows"),
        (np.arange(USERS) % 2, {"valid": 1.5}, InvalidInput, "between 0 and 1"),
    ],
)
def test_what_cannot_be_is_said(space, y, options, error, words):
    model, pieces, _, _ = space
    with pytest.raises(error, match=words):
        choose(model, pieces, y, **{"methods": ("centroids",), **options})


def test_an_unknown_use_and_an_unfitted_model_are_said(uses, space):
    _, pieces, y, _ = space
    with pytest.raises(InvalidInput, match="did you mean"):
        uses.score(pieces, method="prob")
    with pytest.raises(InvalidInput, match="not fitted"):
        choose(UserModel(), pieces, y)
