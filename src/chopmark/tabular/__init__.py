"""Tabular: EasyML, automated learning on tables.

In: a table (polars, pandas, Arrow, a file, a query) with a label, columns as they came.
Out: a calibrated, explained model of lookup tables, trees and a small network, and its artifact.
Serves rows A2 to A18, A21 and E1 of the requirements.
"""

from chopmark.tabular.easyml import EasyML
from chopmark.tabular.kinds import deduce
from chopmark.tabular.leaks import find_leaks
from chopmark.tabular.queries import Query
from chopmark.tabular.target_means import fit_encoder
from chopmark.tabular.transforms import make_encoder

__all__ = ["EasyML", "Query", "deduce", "find_leaks", "fit_encoder", "make_encoder"]
