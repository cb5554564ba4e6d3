"""The deep learner learns what is there, honestly, repeatably, alone or in two processes."""

import json
import subprocess
import sys
from math import factorial
from pathlib import Path

import numpy as np
import pytest

from chopmark.errors import MissingExtra
from chopmark.models import Encoded
from chopmark.models.metrics import log_loss
from chopmark.models.splits import Split, folds
from chopmark.tabular.deep import Settings, learn_deep
from chopmark.tabular.places import Places
from chopmark.tabular.problem import Problem
from chopmark.tabular.tables import labels_of
from chopmark.tabular.transforms import make_encoder

torch = pytest.importorskip("torch")

SMALL = Settings(members=4, width=16, rate=0.01, batch=64, most_epochs=12)
NUM_CODES = {"a": 0, "b": 0, "c": 5, "d": 0, "e": 0, "f": 3}
ENCODED = [Encoded(name=name, num_codes=codes) for name, codes in NUM_CODES.items()]
IN_TWO_PROCESSES = """
import json, sys
from pathlib import Path
import torch
from tests.tabular.test_deep import SMALL, learn_deep, made
learned = learn_deep(made(), settings=SMALL)
found = {
    "raw": learned.part.raw(made().x).tolist(),
    "held_out": learned.held_out_raw.tolist(),
    "epochs": learned.settings["epochs"],
}
Path(sys.argv[1], f"{torch.distributed.get_rank()}.json").write_text(json.dumps(found))
torch.distributed.destroy_process_group()
"""


def truth(x):
    """z of a bump, a slope, codes, and an effect of b that c turns around."""
    known = np.nan_to_num(x)
    bump = 2.0 * np.exp(-(known[:, 0] ** 2))
    return bump + known[:, 1] * np.where(x[:, 2] == 3, -1.5, 1.0) + np.isnan(x[:, 3]) - 1.0


def made(*, num_rows=600, seed=0, count=3, objective="binary", **more):
    """A problem with a known truth: numbers, codes, gaps, a constant and an empty column."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, len(ENCODED)))
    x[:, 2] = rng.integers(2, 5, num_rows)
    x[rng.random(num_rows) < 0.2, 3] = np.nan
    x[:, 4] = np.nan if seed % 2 else 7.0
    x[:, 5] = 2.0
    if objective == "binary":
        y = (rng.random(num_rows) < 1 / (1 + np.exp(-truth(x)))).astype(float)
        parts = list(folds(y, count=count, seed=0))
    else:
        y = truth(x) + rng.normal(size=num_rows) * 0.3
        y = (y - y.mean()) / y.std()
        parts = list(folds(np.zeros(num_rows), count=count, seed=0))
    settings = {"parts": parts, "refit": True, **more}
    return Problem(x=x, y=y, encoded=ENCODED, objective=objective, seed=seed, **settings)


@pytest.fixture(scope="module")
def learned():
    return learn_deep(made(), settings=SMALL)


def test_it_finds_the_truth(learned):
    problem = made()
    z = truth(problem.x)
    assert np.corrcoef(learned.part.raw(problem.x), z)[0, 1] >= 0.9
    held_out = learned.held_out_raw
    assert np.corrcoef(held_out, z[problem.held_out_rows])[0, 1] >= 0.85


def test_a_number_is_learned_by_squared_error():
    problem = made(objective="number", num_rows=1_000)
    learned = learn_deep(problem, settings=SMALL)
    y = problem.y[problem.held_out_rows]
    assert np.mean((learned.held_out_raw - y) ** 2) <= 0.15
    assert np.mean((learned.part.raw(problem.x) - problem.y) ** 2) <= 0.12


def test_the_served_network_equals_torch():
    """With one part and no refit, the part is the net whose held-out z torch computed."""
    problem = made()
    part = Split(train=problem.parts[0].train, test=problem.parts[0].test)
    problem.x[part.test[:20], 2] = 0.0  # codes and gaps that no training row has
    problem.x[part.test[20:40], 0] = np.nan
    problem.x[part.test[40:60], 1] = [-1e9, 1e9] * 10
    for depth in (1, 3):
        settings = Settings(members=4, width=16, depth=depth, most_epochs=3)
        alone = made(parts=[part], refit=False)
        alone.x[:] = problem.x
        learned = learn_deep(alone, settings=settings)
        assert learned.part.raw(alone.x[part.test]) == pytest.approx(learned.held_out_raw, abs=1e-5)


def test_a_code_without_training_rows_says_what_the_average_row_says(learned):
    x = made().x[:50].copy()
    x[:, 2] = 1.0
    assert not learned.part.moves(x)[:, 2].any()


def vectors(part, x):
    """(n, m, H) what the columns of each row say, by numpy's own interpolation."""
    found = []
    for (edge, count, place, num_places), values in zip(part.columns.tolist(), x.T, strict=True):
        own, edges = part.levels[place : place + num_places], part.edges[edge : edge + count]
        if count < 0:
            found.append(own[values.astype(int)])
        elif edges[0] == edges[-1]:
            found.append(own[np.where(np.isnan(values), count, 0)])
        else:
            lines = [np.interp(values, edges, level[:count]) for level in own.T]
            found.append(np.where(np.isnan(values), own[count][:, None], lines).T)
    return np.stack(found, axis=1)


def test_the_bias_is_the_average_training_row(learned):
    means = vectors(learned.part, made().x).mean(axis=0)
    assert means == pytest.approx(np.zeros(means.shape), abs=1e-6)


def test_the_same_seed_gives_the_same_bits(learned):
    again = learn_deep(made(threads=2), settings=SMALL)
    for name, array in learned.part.to_arrays().items():
        assert np.array_equal(array, again.part.to_arrays()[name]), name
    assert np.array_equal(learned.held_out_raw, again.held_out_raw)
    other = learn_deep(made(seed=2), settings=SMALL)
    assert not np.array_equal(learned.held_out_raw, other.held_out_raw)


def test_held_out_labels_are_not_learned_from():
    one_epoch = Settings(members=2, width=8, most_epochs=1)
    raw = []
    for flip in (False, True):
        problem = made(refit=False)
        problem = made(parts=problem.parts[:1], refit=False)
        if flip:
            problem.y[problem.held_out_rows] = 1.0 - problem.y[problem.held_out_rows]
        raw.append(learn_deep(problem, settings=one_epoch).held_out_raw)
    assert np.array_equal(*raw)


def test_heavy_rows_count_for_more():
    """Bad rows that weigh nine times as much raise the log-odds by about log 9."""
    y = made().y
    plain, heavy = (
        learn_deep(made(weights=weights), settings=SMALL).held_out_raw.mean()
        for weights in (None, np.where(y == 1.0, 9.0, 1.0))
    )
    assert heavy - plain == pytest.approx(np.log(9.0), abs=0.7)


def test_parts_of_unequal_size_and_an_empty_column():
    problem = made(seed=1)
    rows = np.arange(600)
    parts = [Split(train=rows[100:], test=rows[:100]), Split(train=rows[:90], test=rows[90:97])]
    learned = learn_deep(made(seed=1, parts=parts), settings=SMALL)
    assert learned.held_out_raw.shape == (107,)
    assert np.isfinite(learned.part.raw(problem.x)).all()


def test_time_is_kept():
    learned = learn_deep(made(num_rows=300), settings=Settings(patience=10**6), seconds=1e-9)
    assert learned.settings["epochs"] == 1


def values_of_subsets(part, row):
    """(2 ** m,) z of the row with the columns of each subset known, the others average: zero."""
    inside = (np.arange(2 ** len(row))[:, None] >> np.arange(len(row))) & 1
    inputs = vectors(part, row[None]) * inside[..., None]
    u = part.biases[0] + np.einsum("km,nmh->nkh", part.adapters, inputs)
    for matrix, bias in zip(part.hidden, part.biases[1:], strict=True):
        u = bias + np.maximum(u, 0.0) @ matrix
    return part.shift + (np.maximum(u, 0.0) * part.heads).sum(axis=(1, 2))


def shapley(part, row):
    """(m,) exact Shapley values against the average row."""
    m = len(row)
    z = values_of_subsets(part, row)
    exact = np.zeros(m)
    for j in range(m):
        for subset in range(2**m):
            if not subset >> j & 1:
                size = subset.bit_count()
                weight = factorial(size) * factorial(m - size - 1) / factorial(m)
                exact[j] += weight * (z[subset | 1 << j] - z[subset])
    return exact


def test_explanations_are_near_the_shapley_values(learned):
    """Measured: correlation 0.97, mean error a third of the mean absolute value."""
    x = made().x[:60]
    exact = np.array([shapley(learned.part, row) for row in x])
    moves = learned.part.moves(x)
    assert learned.part.bias + exact.sum(axis=1) == pytest.approx(learned.part.raw(x), abs=1e-9)
    assert np.corrcoef(moves.ravel(), exact.ravel())[0, 1] >= 0.95
    assert np.abs(moves - exact).mean() <= 0.4 * np.abs(exact).mean()


def test_two_processes_end_where_one_does(learned, tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(IN_TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["epochs"] == learned.settings["epochs"]
    assert first["held_out"] == pytest.approx(learned.held_out_raw.tolist(), abs=1e-3)
    assert first["raw"] == pytest.approx(learned.part.raw(made().x).tolist(), abs=1e-3)


def test_without_torch_it_says_what_to_install(monkeypatch):
    for name in ("tabular.network", "ranks"):
        monkeypatch.delitem(sys.modules, f"chopmark.{name}", raising=False)
        monkeypatch.delattr(f"chopmark.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"chopmark\[deep\]"):
        learn_deep(made(), settings=SMALL)


def test_places_say_where_numpy_would_interpolate():
    x = made(num_rows=200).x
    places = Places.of(x, ENCODED, most_edges=9)
    located, shares = places.locate(x)
    edges = places.edges[:9]
    above = edges[np.minimum(located[:, 0] + 1, 8)]
    value = edges[located[:, 0]] * (1 - shares[:, 0]) + above * shares[:, 0]
    assert value == pytest.approx(x[:, 0], abs=1e-6)
    weights = places.average(located, shares)
    totals = np.bincount(places.owner, weights)
    assert totals == pytest.approx(np.ones(len(ENCODED)), abs=1e-6)


def test_a_value_of_many_rows_is_one_edge():
    """Nine in ten are zero; the others still have nearly all edges."""
    x = np.maximum(np.arange(1000.0) - 900.0, 0.0)[:, None]
    edges = Places.of(x, [Encoded(name="gain")], most_edges=9).edges
    assert len(edges) == 9
    assert edges[0] == 0.0
    assert (np.diff(edges)[1:] <= 15.0).all()


def test_titanic(real_parts):
    train, test = real_parts("titanic")
    encoder = make_encoder(train, target="target", columns={}, extra=())
    x, y = encoder.table(train), labels_of(train, "target")
    problem = Problem(
        x=x, y=y, encoded=encoder.encoded, parts=list(folds(y, count=5, seed=0)), refit=True
    )
    learned = learn_deep(problem)
    scores = 1 / (1 + np.exp(-learned.part.raw(encoder.table(test))))
    # Default LightGBM has 0.54, scaled logistic regression 0.44.
    assert log_loss(labels_of(test, "target"), scores) <= 0.43
