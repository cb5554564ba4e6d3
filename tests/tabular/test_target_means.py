"""Learned readings: smoothed as stated, never from a row's own label, the same when served."""

import json
import math

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from chopmark.models import Encoder
from chopmark.models.splits import Split, folds, shuffled
from chopmark.tabular import make_encoder
from chopmark.tabular.target_means import PSEUDO_ROWS, fit_encoder

N = 1_500
RNG = np.random.default_rng(0)
CITY = [f"city {k}" for k in RNG.zipf(1.3, N) % 300]
Y = (RNG.random(N) < 0.3).astype(float)
FRAME = pl.DataFrame(
    {
        "city": [None if k % 50 == 0 else city for k, city in enumerate(CITY)],
        "note": [f"order {k} from {city} by user" for k, city in enumerate(CITY)],
        "amount": RNG.normal(size=N),
        "begin": pl.Series(np.datetime64("2024-01-01", "ms") + RNG.integers(0, 10**10, N)),
        "end": pl.Series(np.datetime64("2024-06-01", "ms") + RNG.integers(0, 10**10, N)),
        "target": Y,
    }
)
ENCODER = make_encoder(FRAME, target="target")
PARTS = list(folds(Y, count=5, seed=0))


def place(encoder, name):
    return [column.name for column in encoder.encoded].index(name)


def log_odds(rate):
    return math.log(rate / (1 - rate))


def naive(values, labels, value, prior):
    """The reading of one category, by the formula."""
    own = [y for v, y in zip(values, labels, strict=True) if v == value]
    return log_odds((sum(own) + PSEUDO_ROWS * prior) / (len(own) + PSEUDO_ROWS))


@pytest.fixture(scope="module")
def fitted():
    return fit_encoder(FRAME, Y, ENCODER, parts=PARTS)


def test_the_readings_that_are_added(fitted):
    encoder, x = fitted
    assert {column.kind for column in ENCODER.columns} == {
        "high_cardinality", "text", "number", "date",
    }  # fmt: skip
    names = [column.name for column in encoder.encoded]
    before = [column.name for column in ENCODER.encoded]
    assert names == [*before[:-1], "city mean", "note score", "end - begin"]
    assert encoder.groups[-3:] == ("target means", "text", "date differences")
    assert x.shape == (N, len(names))


def test_all_other_columns_are_those_of_the_encoder(fitted):
    encoder, x = fitted
    served = encoder.table(FRAME)
    learned = [place(encoder, "city mean"), place(encoder, "note score")]
    others = [j for j in range(x.shape[1]) if j not in learned]
    assert np.array_equal(x[:, others], served[:, others], equal_nan=True)
    assert not np.array_equal(x[:, learned], served[:, learned], equal_nan=True)


def test_held_out_rows_learn_from_the_training_rows_of_their_part(fitted):
    encoder, x = fitted
    j = place(encoder, "city mean")
    cities = FRAME["city"].to_list()
    known = {v for v in set(cities) if v is not None and cities.count(v) >= 2}
    for part in PARTS:
        prior = Y[part.train].mean()
        train = [cities[i] for i in part.train]
        for i in part.test[:8]:
            if cities[i] is None:
                assert math.isnan(x[i, j])
            elif cities[i] in known:
                expected = naive(train, Y[part.train], cities[i], prior)
                assert x[i, j] == pytest.approx(expected, abs=1e-12)


def test_the_encoder_learns_from_all_rows(fitted):
    encoder, _ = fitted
    served = encoder.table(FRAME)
    cities = FRAME["city"].to_list()
    j = place(encoder, "city mean")
    for i in (1, 2, 3):
        assert served[i, j] == pytest.approx(naive(cities, Y, cities[i], Y.mean()), abs=1e-12)
    singles = [v for v in cities if v is not None and cities.count(v) == 1]
    rare = [i for i in range(N) if cities[i] in singles]
    pooled = naive(["rare"] * len(rare), Y[rare], "rare", Y.mean())
    values = dict.fromkeys(encoder.reads) | {"city": "never seen"}
    row = encoder.row([values[name] for name in encoder.reads])
    assert row[j] == pytest.approx(pooled, abs=1e-12)
    assert math.isnan(encoder.row([None] * len(encoder.reads))[j])


def test_token_weights_are_log_odds_against_the_average(fitted):
    encoder, _ = fitted
    score = next(column for column in encoder.columns if column.values and column.kind == "text")
    weights = dict(zip(score.categories, score.values, strict=True))
    # `order` is in every text, so it tells nothing.
    assert weights["order"] == pytest.approx(0.0, abs=1e-9)
    texts = FRAME["note"].to_list()
    number = next(token for token in score.categories if token.isdigit())
    rows = [(i, t) for i, text in enumerate(texts) for t in text.split() if t == number]
    bad = sum(Y[i] for i, _ in rows)
    rate = (bad + PSEUDO_ROWS * Y.mean()) / (len(rows) + PSEUDO_ROWS)
    assert weights[number] == pytest.approx(log_odds(rate) - log_odds(Y.mean()), abs=1e-9)


def test_no_row_sees_its_own_label():
    """Flipping one label moves no learned reading of that row, and nothing that it holds out."""
    base = fit_encoder(FRAME, Y, ENCODER, parts=PARTS)[1]
    for i in (3, 77, 1_400):
        flipped = Y.copy()
        flipped[i] = 1 - flipped[i]
        again = fit_encoder(FRAME, flipped, ENCODER, parts=PARTS)[1]
        own = next(part.test for part in PARTS if i in part.test)
        assert base[own].tobytes() == again[own].tobytes()
        assert base.tobytes() != again.tobytes()


@pytest.mark.parametrize("refit", [True, False])
def test_a_single_split(refit):
    part = shuffled(N, seed=1)
    encoder, x = fit_encoder(FRAME, Y, ENCODER, parts=[part], refit=refit)
    # Noise must stay noise in the training rows, or a model would trust it.
    j = place(encoder, "city mean")
    known = part.train[~np.isnan(x[part.train, j])]
    assert abs(roc_auc_score(Y[known], x[known, j]) - 0.5) < 0.06
    flipped = Y.copy()
    flipped[part.test] = 1 - flipped[part.test]
    other, again = fit_encoder(FRAME, flipped, ENCODER, parts=[part], refit=refit)
    assert again.tobytes() == x.tobytes()
    assert (other.columns == encoder.columns) != refit


def test_rows_between_training_and_test_teach_nothing():
    rows = np.arange(N)
    part = Split(train=rows[:800], test=rows[1_000:])
    x = fit_encoder(FRAME, Y, ENCODER, parts=[part], refit=False)[1]
    flipped = Y.copy()
    flipped[800:1_000] = 1 - flipped[800:1_000]
    again = fit_encoder(FRAME, flipped, ENCODER, parts=[part], refit=False)[1]
    assert again.tobytes() == x.tobytes()


def test_numbers_are_read_as_means():
    y = np.arange(N) / 100.0
    encoder, _ = fit_encoder(FRAME, y, ENCODER, parts=PARTS, objective="number")
    cities = FRAME["city"].to_list()
    own = y[[i for i in range(N) if cities[i] == cities[1]]]
    expected = (own.sum() + PSEUDO_ROWS * y.mean()) / (len(own) + PSEUDO_ROWS)
    assert encoder.table(FRAME[1:2])[0, place(encoder, "city mean")] == pytest.approx(expected)


def test_nothing_to_learn_changes_nothing():
    table = FRAME.select("amount", "target")
    encoder = make_encoder(table, target="target")
    fitted, x = fit_encoder(table, Y, encoder, parts=PARTS)
    assert fitted.columns == encoder.columns
    assert x.tobytes() == encoder.table(table).tobytes()


def test_a_fitted_encoder_serves_what_it_batches(fitted):
    encoder = Encoder.from_json(json.loads(json.dumps(fitted[0].to_json())))
    x = encoder.table(FRAME[:200])
    assert x.tobytes() == fitted[0].table(FRAME)[:200].tobytes()
    for i, values in enumerate(FRAME[:200].select(encoder.reads).iter_rows()):
        assert encoder.row(values).tobytes() == x[i].tobytes()


def test_titles_of_the_titanic_are_found_without_a_hint(real_parts):
    train, _ = real_parts("titanic")
    y = train["target"].cast(pl.Float64).to_numpy()
    encoder = make_encoder(train, target="target")
    fitted, x = fit_encoder(train, y, encoder, parts=list(folds(y, count=5, seed=0)))
    score = next(column for column in fitted.columns if column.values and column.kind == "text")
    weights = dict(zip(score.categories, score.values, strict=True))
    assert weights["mr"] < -0.5
    assert min(weights["mrs"], weights["miss"]) > 0.5
    assert roc_auc_score(y, x[:, place(fitted, "Name score")]) > 0.75


def test_a_large_table_takes_seconds():
    rng = np.random.default_rng(1)
    n = 100_000
    table = pl.DataFrame(
        {
            "merchant": np.char.add("m", rng.integers(0, 5_000, n).astype(str)),
            "target": rng.integers(0, 2, n),
        }
    )
    y = table["target"].cast(pl.Float64).to_numpy()
    encoder = make_encoder(table, target="target")
    assert encoder.columns[0].kind == "high_cardinality"
    assert fit_encoder(table, y, encoder, parts=[shuffled(n)])[1].shape == (n, 2)
