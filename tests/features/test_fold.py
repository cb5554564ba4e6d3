"""The one execution against the oracle, on awkward events."""

import pytest

from chopmark.testing.features import check_feature

from .exchange import CATALOG, awkward_events


@pytest.mark.parametrize("seed", range(4))
def test_every_feature_keeps_the_contract(seed):
    check_feature(CATALOG.features, CATALOG, awkward_events(250, seed))
