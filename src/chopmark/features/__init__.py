"""Features: functions from an entity's past to a value, declared once, executed one way.

In come declarations and the events of the log; out come the values of each event before it.
Training replays the log through the same compiled step that serving calls for one event.
Serves rows A12, C9, C11, C12, C13, D10, D11, G2, G4, G6, I5 of the requirements.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chopmark.features.aggregate import Aggregate, LabelRate, aggregates
from chopmark.features.catalog import Catalog, Feature
from chopmark.features.columns import Columns, from_events
from chopmark.features.derived import Derived, Similarity, share
from chopmark.features.feature import EVERYONE
from chopmark.features.fold import Fold
from chopmark.features.label import Label
from chopmark.features.lookup import Lookup
from chopmark.features.sequence import Sequence

if TYPE_CHECKING:
    from chopmark.features.frames import from_frame as from_frame
    from chopmark.features.table import training_table as training_table

__all__ = [
    "EVERYONE",
    "Aggregate",
    "Catalog",
    "Columns",
    "Derived",
    "Feature",
    "Fold",
    "Label",
    "LabelRate",
    "Lookup",
    "Sequence",
    "Similarity",
    "aggregates",
    "from_events",
    "from_frame",
    "share",
    "training_table",
]


def __getattr__(name: str) -> Any:
    # Late: these two need Polars, which a service does not pay for.
    homes = {"from_frame": "frames", "training_table": "table"}
    if name not in homes:
        raise AttributeError(f"module `chopmark.features` has no attribute `{name}`")
    return getattr(import_module(f"chopmark.features.{homes[name]}"), name)
