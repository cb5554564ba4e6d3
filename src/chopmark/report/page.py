"""The page of a report: one file that needs no other and asks no network.

Texts of the table are escaped; the policy in the page lets only its own script and style
run, by their hashes, so that even a text that got through could not. The page is whole
without its script, which adds the slider, the money, sorting and searching.
Serves A16, A19 and A20 of the requirements.
"""

import base64
import hashlib
import json
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import polars as pl
from numpy.typing import ArrayLike

from chopmark.models import Model
from chopmark.models.artifact import write_whole
from chopmark.report import sections
from chopmark.report.ranking import Costs
from chopmark.report.report import Report, make_report


def write_report(
    model: Model,
    table: pl.DataFrame,
    *,
    target: str,
    path: str | Path,
    baseline: Model | ArrayLike | None = None,
    train: pl.DataFrame | None = None,
    title: str | None = None,
    amount: str | None = None,
    costs: Costs | None = None,
) -> Report:
    """Write the page of a fitted model on labelled rows that it has not seen.

    Equal inputs give equal bytes: the page carries no clock.

    Parameters
    ----------
    model, table, target, baseline, train, title, amount, costs
        As `make_report` takes them.
    path
        The HTML file, written whole or not at all.

    Returns
    -------
    Report
        The figures of the page.

    Raises
    ------
    InvalidTable
        If the table has no rows, lacks a column, or holds a label or an amount that cannot be.
    ArtifactError
        If the folder does not exist or cannot be written.
    """
    report = make_report(
        model,
        table,
        target=target,
        baseline=baseline,
        train=train,
        title=title,
        amount=amount,
        costs=costs,
    )
    write_whole(Path(path), page(report).encode())
    return report


def page(report: Report) -> str:
    """The HTML text of a report."""
    return filled(
        title=report.title,
        body=sections.body(report),
        data=sections.data(report),
        script=_resource("page.js"),
    )


def filled(*, title: str, body: str, data: Any = None, script: str = "") -> str:
    """The HTML text of a page with a body in HTML, and a script of our own if there is one.

    Parameters
    ----------
    title
        As plain text.
    body
        What stands between the `main` tags; whoever made it has escaped what is not ours.
    """
    style = _resource("page.css")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_resource("page.html")).substitute(
        policy=policy,
        title=escape(title),
        style=style,
        script=script,
        body=body,
        data=_embedded(data),
    )


def _embedded(data: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _resource(name: str) -> str:
    return files("chopmark.report").joinpath(name).read_text(encoding="utf-8")
