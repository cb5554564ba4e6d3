"""Features: functions from an entity's past to a value, declared once, executed one way.

In come declarations and the events of the log; out come the values of each event before it.
Training replays the log through the same compiled step that serving calls for one event.
Serves rows A12, C9, C11, C12, C13, D10, D11, G2, I5 of the requirements.
"""

from chopmark.features.aggregate import Aggregate, LabelRate, aggregates
from chopmark.features.catalog import Catalog
from chopmark.features.columns import Columns, from_events, from_frame
from chopmark.features.derived import Derived, Similarity, share
from chopmark.features.feature import EVERYONE, Feature
from chopmark.features.fold import Fold
from chopmark.features.lookup import Lookup
from chopmark.features.table import Label, training_table

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
    "Similarity",
    "aggregates",
    "from_events",
    "from_frame",
    "share",
    "training_table",
]
