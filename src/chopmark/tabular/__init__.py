"""Tabular: EasyML, automated learning on tables.

In: a table (polars, pandas, pyarrow, CSV, Parquet) with a label, columns as they came.
Out: a calibrated, explained model of trees or lookup tables, and its artifact.
Serves rows A1 to A21 of the seeds' list (000).
"""

from chopmark.tabular.easyml import EasyML
from chopmark.tabular.kinds import deduce
from chopmark.tabular.transforms import make_encoder

__all__ = ["EasyML", "deduce", "make_encoder"]
