"""Scam tokens: a growing catalogue of checks, then the concentration of trade in few accounts.

    found = detect(transfers, facts=facts, familiar={"USDC": "0xa0b8.."})
    found.tokens                                   # token, score, verdict, reasons, figures
    found.days                                     # token, day, holders, top share, Gini, HHI, ..

`tokenevidence` gathers what is known of each token. Stage one (`tokenchecks`) asks each check of
a catalogue how strongly it speaks against it. Stage two (`tokendays`) reads its days: sales in the
hands of few, in bursts, after which trade dies. With weight w and strength s of each

    score = 1 - product over checks and the anomaly of (1 - w s)

Serves row H14.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.graph.tokenchecks import Catalogue
from chopmark.graph.tokendays import anomaly, concentration
from chopmark.graph.tokenevidence import FACTS, gather

SCAM, SUSPECT = 0.7, 0.3
"""Scores from which on a token is called a scam, or suspect."""
ANOMALY_WEIGHT = 0.6
_MIN_TRANSFERS = 10


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Verdicts:
    """What `detect` found.

    Attributes
    ----------
    tokens : pl.DataFrame
        One row per token in the order of the addresses: token, score in [0, 1], verdict
        ("scam", "suspect", "pass", or "unknown" where too little is known to let it pass),
        audit and anomaly (the scores of the two stages), reasons (list of name, says, weight:
        how much of the score each alone would give, the greatest first).
    days : pl.DataFrame
        As `tokendays.concentration` gives them.
    strengths : pl.DataFrame
        token and one column per check.
    figures : pl.DataFrame
        token and the figures of `tokenevidence.Evidence.tokens`: a table to learn from.
    """

    tokens: pl.DataFrame
    days: pl.DataFrame
    strengths: pl.DataFrame
    figures: pl.DataFrame

    @property
    def allowed(self) -> list[str]:
        """The tokens that passed: an allow-list."""
        return self.tokens.filter(pl.col("verdict") == "pass")["token"].to_list()


def detect(
    transfers: pl.DataFrame,
    *,
    facts: pl.DataFrame | None = None,
    familiar: Mapping[str, str] | None = None,
    catalogue: Catalogue | None = None,
    as_of: datetime | str | None = None,
) -> Verdicts:
    """The verdict on every token among some transfers. O(m log m), all tokens at once.

    Parameters
    ----------
    transfers : pl.DataFrame
        sender, receiver, amount (>= 0), happened_at, tx and asset; rows of asset "" (the
        chain's own coin) are passed over.
    facts : pl.DataFrame, optional
        ``token`` and any of `tokenevidence.FACTS`. Tokens without transfers are judged by
        facts alone.
    familiar : mapping of symbol to token, optional
        Well-known tokens, which others may imitate.
    catalogue : Catalogue, optional
        Of the `tokenchecks.STANDARD` ones if not given.
    as_of : instant, optional
        Only what had happened by then counts; "now" for what is fresh. Else the last transfer.

    Raises
    ------
    InvalidTable
        If a column lacks or a value cannot be.
    """
    catalogue = catalogue or Catalogue()
    evidence = gather(transfers, facts=facts, familiar=familiar, as_of=as_of)
    days = concentration(evidence)
    strengths = catalogue.strengths(evidence)
    weights = pl.DataFrame([strengths[n] * catalogue[n].weight for n in catalogue.names])
    audit = np.zeros(evidence.tokens.height)
    for name in weights.columns:
        audit = 1 - (1 - audit) * (1 - weights[name].fill_null(0.0).to_numpy())
    unlike = anomaly(evidence, days)
    score = 1 - (1 - audit) * (1 - ANOMALY_WEIGHT * unlike)
    known = (evidence.tokens["num_transfers"] >= _MIN_TRANSFERS).to_numpy()
    verdict = np.select(
        [score >= SCAM, score >= SUSPECT, known], ["scam", "suspect", "pass"], "unknown"
    )
    tokens = evidence.tokens.select("token").with_columns(
        pl.Series("score", score), pl.Series("verdict", verdict), pl.Series("audit", audit),
        pl.Series("anomaly", unlike),
        _reasons(weights, unlike, catalogue),
    )  # fmt: skip
    token = evidence.tokens.select("token")
    return Verdicts(
        tokens=tokens, days=days, strengths=pl.concat([token, strengths], how="horizontal"),
        figures=evidence.tokens.drop(*FACTS),
    )  # fmt: skip


def _reasons(weights: pl.DataFrame, unlike: NDArray[np.float64], catalogue: Catalogue) -> pl.Series:
    """Of each token what speaks against it, the strongest first."""
    columns = [
        (n, catalogue[n].says, weights[n].fill_null(0.0).to_numpy()) for n in weights.columns
    ]
    columns.append(("few_accounts", "few accounts sell nearly all of it", ANOMALY_WEIGHT * unlike))
    told: list[list[dict[str, object]]] = [[] for _ in range(len(unlike))]
    for name, says, weight in columns:
        for row in np.flatnonzero(weight >= 0.01).tolist():
            told[row].append({"name": name, "says": says, "weight": float(weight[row])})
    for reasons in told:
        reasons.sort(key=lambda reason: -float(str(reason["weight"])))
    kind = pl.List(pl.Struct({"name": pl.String, "says": pl.String, "weight": pl.Float64}))
    return pl.Series("reasons", told, dtype=kind)
