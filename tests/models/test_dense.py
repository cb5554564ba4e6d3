"""The compiled network equals a plain one, and its explanations are what Deep SHAP says."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from chopmark.errors import ArtifactError
from chopmark.models import dense
from chopmark.models.dense import COLUMN, Dense

# Columns: a number of 5 edges, a category of 4 codes, a number of 3 edges, a constant number.
EDGES = np.array([-2.0, -1.0, 0.0, 0.5, 3.0, 10.0, 20.0, 40.0, 7.0, 7.0])
COLUMNS = np.array([(0, 5, 0, 6), (5, -1, 6, 4), (5, 3, 10, 4), (8, 2, 14, 3)], dtype=COLUMN)
NUM_PLACES = 17


def network(*, seed=0, members=3, width=8, matrices=1):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32).astype(np.float64)

    return Dense(
        columns=COLUMNS,
        edges=EDGES,
        levels=normal(NUM_PLACES, width),
        adapters=normal(members, len(COLUMNS)),
        hidden=normal(matrices, width, width) * 0.5,
        biases=normal(matrices + 1, members, width),
        heads=rng.normal(size=(members, width)) / members,
        shift=0.3,
    )


def rows(num=200, *, seed=1):
    rng = np.random.default_rng(seed)
    x = np.column_stack(
        [
            rng.normal(size=num) * 2,
            rng.integers(0, 4, num),
            rng.uniform(0, 50, num),
            rng.normal(size=num) + 7,
        ]
    )
    x[rng.random(num) < 0.2, 0] = np.nan
    x[rng.random(num) < 0.2, 2] = np.nan
    x[:8, 0] = [-2.0, -1.0, 3.0, -99.0, 99.0, np.inf, -np.inf, -1e308]
    x[:6, 1] = [9.0, -1.0, np.nan, 4.0, 1e300, 3.0]
    x[:3, 2] = [10.0, 20.0, 40.0]
    x[:3, 3] = [7.0, np.nan, 6.0]
    return x


def vectors(net, row):
    """(M, H) by numpy's own interpolation."""
    found = []
    for value, (edge, count, place, num_places) in zip(row, net.columns.tolist(), strict=True):
        own = net.levels[place : place + num_places]
        if count < 0:
            found.append(own[int(value) if 0 <= value < num_places else 1])
        elif np.isnan(value):
            found.append(own[count])
        else:
            edges = net.edges[edge : edge + count]
            if edges[0] == edges[-1]:
                found.append(own[0] if value <= edges[0] else own[count - 1])
            else:
                found.append([np.interp(value, edges, level) for level in own[:count].T])
    return np.array(found)


def plain(net, inputs):
    """z of the vectors (M, H), as the equations in the module's head say."""
    u = net.biases[0] + net.adapters @ inputs
    for matrix, bias in zip(net.hidden, net.biases[1:], strict=True):
        u = bias + np.maximum(u, 0) @ matrix
    return net.shift + (np.maximum(u, 0) * net.heads).sum()


@pytest.mark.parametrize("matrices", [0, 1, 2])
def test_raw_is_what_the_equations_say(matrices):
    net = network(matrices=matrices)
    expected = [plain(net, vectors(net, row)) for row in rows()]
    assert net.raw(rows()) == pytest.approx(expected, abs=1e-12)


def test_a_batch_equals_its_rows_bit_for_bit():
    net, x = network(), rows()
    alone = [dense.dense_raw(row, *net.scoring) for row in x]
    assert net.raw(x).tolist() == alone
    moves = np.zeros((len(x), len(COLUMNS)))
    explained = [
        dense.dense_moves(row, *net.explaining, own) for row, own in zip(x, moves, strict=True)
    ]
    assert explained == alone
    assert np.array_equal(moves, net.moves(x))


@pytest.mark.parametrize("matrices", [0, 1, 2])
def test_moves_and_bias_sum_to_z(matrices):
    net, x = network(matrices=matrices), rows()
    assert net.bias == pytest.approx(plain(net, np.zeros((len(COLUMNS), 8))), abs=1e-12)
    assert net.bias + net.moves(x).sum(axis=1) == pytest.approx(net.raw(x), abs=1e-9)


def test_moves_are_added_to_what_is_there():
    net, row = network(), rows()[20]
    moves = np.full(len(COLUMNS), 5.0)
    dense.dense_moves(row, *net.explaining, moves)
    assert moves - 5.0 == pytest.approx(net.moves(row[None])[0], abs=1e-12)


def shapley(net, row):
    """Exact Shapley values against the average row, over all subsets of columns."""
    inputs = vectors(net, row)
    num = len(inputs)
    values = np.zeros(num)
    for j in range(num):
        others = [i for i in range(num) if i != j]
        for size in range(num):
            for subset in combinations(others, size):
                mask = np.zeros((num, 1))
                mask[list(subset)] = 1
                without = plain(net, inputs * mask)
                mask[j] = 1
                values[j] += (plain(net, inputs * mask) - without) / (num * comb(num - 1, size))
    return values


def test_a_linear_network_has_exact_shapley_values():
    """With all relus open the rescale rule is no approximation."""
    net = network()
    net.biases[:] = 100.0
    net = net.scaled(1.0)  # the reference follows the biases
    for row in rows()[::20]:
        assert net.moves(row[None])[0] == pytest.approx(shapley(net, row), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_deep_shap_is_near_the_shapley_values(seed):
    """Random weights interact far more than trained ones do (`test_deep` has those)."""
    net, x = network(seed=seed, members=8, width=16), rows(60)
    exact = np.array([shapley(net, row) for row in x])
    moves = net.moves(x)
    assert np.corrcoef(moves.ravel(), exact.ravel())[0, 1] >= 0.93
    assert np.abs(moves - exact).mean() <= 0.45 * np.abs(exact).mean()


def test_scaled_multiplies_z_moves_and_bias():
    net, x = network(), rows()
    half = net.scaled(0.5)
    assert half.raw(x).tolist() == (net.raw(x) * 0.5).tolist()
    assert half.moves(x) == pytest.approx(net.moves(x) * 0.5, abs=1e-12)
    assert half.bias == net.bias * 0.5
    assert not net.scaled(0.0).raw(x).any()


def test_arrays_come_back():
    net = network().scaled(0.37)
    again = Dense.from_arrays(net.to_arrays(), num_encoded=len(COLUMNS))
    assert np.array_equal(again.raw(rows()), net.raw(rows()))
    assert np.array_equal(again.moves(rows()), net.moves(rows()))


def test_numbers_next_to_each_other_and_far_apart_do_not_overflow():
    arrays = network().to_arrays()
    arrays["edges"][:5] = [-1.7e308, -5e-324, 0.0, 5e-324, 1.7e308]
    net = Dense.from_arrays(arrays, num_encoded=len(COLUMNS))
    x = rows()[:6]
    x[:, 0] = [-1.7e308, -1e308, -5e-324, 0.0, 5e-324, 1e308]
    assert np.isfinite(net.raw(x)).all()
    assert np.isfinite(net.moves(x)).all()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("edge", lambda a: a[:-1], "cannot be read|columns"),
        ("edge", lambda a: a + 3, "edges within"),
        ("edge", lambda a: a - 1, "edges within"),
        ("num_edges", lambda a: np.where(a == 2, 1, a), "two edges or more"),
        ("num_edges", lambda a: np.where(a == 3, 2_000_000_000, a), "edges within"),
        ("num_places", lambda a: a - 1, "a place for every edge"),
        ("num_places", lambda a: a + 10, "places within"),
        ("place", lambda a: a - 1, "places within"),
        ("edges", lambda a: a[::-1], "rising"),
        ("edges", lambda a: a * np.nan, "finite"),
        ("levels", lambda a: a[:-1], "places within"),
        ("levels", lambda a: a[0], "shape"),
        ("adapters", lambda a: a[:, :-1], "adapters of shape"),
        ("hidden", lambda a: a[:, :-1], "hidden of shape"),
        ("hidden", lambda a: a[0], "shape"),
        ("biases", lambda a: a[:-1], "biases of shape"),
        ("heads", lambda a: a[:-1], "heads of shape"),
        ("heads", lambda a: a * np.inf, "finite"),
        ("shift", lambda a: a[:0], "shift of shape"),
        ("shift", lambda a: np.array(["x"]), "cannot be read"),
    ],
)
def test_broken_arrays_are_refused(name, change, message):
    arrays = network().to_arrays()
    arrays[name] = change(arrays[name])
    with np.errstate(invalid="ignore"), pytest.raises(ArtifactError, match=message):
        Dense.from_arrays(arrays, num_encoded=len(COLUMNS))


def test_a_missing_array_and_another_number_of_columns_are_refused():
    arrays = network().to_arrays()
    with pytest.raises(ArtifactError, match="expected 5 columns"):
        Dense.from_arrays(arrays, num_encoded=5)
    del arrays["heads"]
    with pytest.raises(ArtifactError, match="heads"):
        Dense.from_arrays(arrays, num_encoded=len(COLUMNS))
