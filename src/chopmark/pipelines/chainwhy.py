"""Why an address has its score: what it did, its place, and the ways of its money to labels.

Serves rows H3 and H15 of the requirements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from chopmark.graph.adjacency import ERA
from chopmark.graph.ledger import Ledger
from chopmark.graph.paths import Flows, Tracer
from chopmark.pipelines.chainlabels import TARGET
from chopmark.pipelines.chainrun import EMBEDDED, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressWhy:
    """Why an address has its score.

    Attributes
    ----------
    is_illicit
        The label that the run learned from; None if it has none.
    columns
        The strongest columns of behaviour: name, value, and what it moved the log-odds by.
    embedding
        What its place in the graph moved the log-odds by.
    exposure
        Share of its coins that came "in" from, or went "out" to, illicit and licit labels.
    ways
        The nearest labelled address in each direction: its label, the way there, and the share
        of the money that took it; None if there is none within six hops.
    """

    address: str
    score: float
    run: str
    is_illicit: bool | None
    columns: tuple[tuple[str, float | None, float], ...]
    embedding: float
    exposure: dict[str, dict[str, float]]
    ways: dict[str, tuple[str, tuple[str, ...], float] | None]


def explained(run: Run, ledger: Ledger, address: str, place: int, most: int) -> AddressWhy:
    """Of an address by its place in the ledger; `most` columns."""
    scorer = run.scorer
    row = run.row(place)
    _, moves = scorer.explain_row([row[name] for name in scorer.reads])
    told = dict(zip(scorer.reads, moves.tolist(), strict=True))
    embedding = sum(told.pop(name) for name in list(told) if name.startswith(EMBEDDED))
    strongest = sorted(told, key=lambda name: -abs(told[name]))[:most]
    columns = ledger.columns()
    coins = columns["asset"] == ledger.assets.ids(pl.Series([""]))[0]
    seconds = columns["time"] // 1_000_000 - ERA
    known = run.labels
    own = known.filter(id=place)[TARGET].to_list()
    known = known.filter(pl.col("id") != place)
    marked = known["id"].to_numpy()
    kinds = ["illicit" if bad else "licit" for bad in known[TARGET].to_list()]
    traces = {}
    both: tuple[Literal["in", "out"], ...] = ("in", "out")
    for direction in both:
        flows = Flows.of_edges(
            columns["src"][coins], columns["dst"][coins], columns["amount"][coins],
            seconds[coins], num_nodes=len(ledger.addresses), direction=direction,
        )  # fmt: skip
        traces[direction] = Tracer(flows, marked=marked, kinds=kinds).trace(place)
    ways: dict[str, tuple[str, tuple[str, ...], float] | None] = {
        direction: None
        if trace.path is None
        else (
            trace.path.kind,
            tuple(ledger.addresses.names(np.array(trace.path.nodes)).to_list()),
            trace.path.share,
        )
        for direction, trace in traces.items()
    }
    return AddressWhy(
        address=address,
        score=float(run.scores[place]),
        run=run.name,
        is_illicit=bool(own[0]) if own else None,
        columns=tuple((name, row[name], told[name]) for name in strongest),
        embedding=embedding,
        exposure={direction: trace.exposure for direction, trace in traces.items()},
        ways=ways,
    )
