"""Testing: the contracts that every feature, model and store keeps, as library code.

In come a declaration, a factory or a store of yours; out comes an AssertionError that says
where it breaks the contract, or nothing. Each contract has an oracle that shares no code.
Serves rows A12, D10 and D11 of the requirements.
"""

from chopmark.testing.features import check_feature
from chopmark.testing.models import check_model
from chopmark.testing.oracle import Oracle
from chopmark.testing.stores import check_store

__all__ = ["Oracle", "check_feature", "check_model", "check_store"]
