"""Report: one HTML page that says how good a fitted model is, why, and what it would earn.

In: a fitted model, labelled rows that it has not seen, perhaps a baseline and amounts.
Out: a self-contained page for readers who do not program, and its figures as `Report`.
Serves rows A11, A16, A19 and A20 of the requirements.
"""

from chopmark.report.page import page, write_report
from chopmark.report.ranking import Costs
from chopmark.report.report import Report, make_report

__all__ = ["Costs", "Report", "make_report", "page", "write_report"]
