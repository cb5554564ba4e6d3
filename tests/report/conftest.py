"""What the tests of the report share."""

import numpy as np
import polars as pl
import pytest

from chopmark.tabular import EasyML
from tests.report.examples import payments


@pytest.fixture(scope="session")
def train():
    return payments(1_200, 1)


@pytest.fixture(scope="session")
def later():
    return payments(900, 2)


@pytest.fixture(scope="session")
def model(train):
    return EasyML(model="linear").fit(train)


@pytest.fixture(scope="session")
def line_table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    return pl.DataFrame({"x": x, "target": 3 * x + 10 + rng.normal(size=400)})


@pytest.fixture(scope="session")
def class_table():
    rng = np.random.default_rng(0)
    place = rng.integers(0, 3, 400)
    names = np.array(["low", "middle", "high"])[place]
    return pl.DataFrame({"x": place + rng.normal(scale=0.5, size=400), "target": names.tolist()})
