"""Tabular: EasyML, automated learning on tables.

In: a table (polars, pandas, pyarrow, CSV, Parquet) with a label, columns as they came.
Out: a calibrated, explained model of trees or lookup tables, and its artifact.
Serves rows A2 to A6, A8, A10 to A13, A16 and E1 of the requirements.
"""

from chopmark.tabular.easyml import EasyML
from chopmark.tabular.kinds import deduce
from chopmark.tabular.transforms import make_encoder

__all__ = ["EasyML", "deduce", "make_encoder"]
