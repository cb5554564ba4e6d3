"""Whether scores of a chain are chances: simulated chains of which 0.1, 0.5 and 2 % are illicit.

    python benchmarks/graph/calibration.py [--illicit 0.001 0.005 0.02] [--seeds 0 1 2]
        [--labels addresses gangs]

The whole of `ChainFolder.learn` on a simulated chain; labels name half of the illicit addresses,
and the recipe is told so (`known_share`). They name illicit addresses at random, or all of half of
the gangs: then whoever is judged has no accomplice with a label, and has some among those who are
taken for licit. Judged are the addresses that no label names:

expected / found   sum of scores over the number that are illicit: 1 is calibrated
above a bound      the same of addresses at or above "raised" and "high"
false alarms       of addresses that are not illicit, the share at or above a bound, beside the
                   1 % and 0.1 % that the run says of it
gain               how much less log loss the scores have than the true prevalence for everyone
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from chopmark.datasets.chain import simulate_chain
from chopmark.pipelines.chain import ChainFolder
from chopmark.pipelines.chainrun import Recipe

KNOWN = 0.5


def measured(
    num_addresses: int, illicit: float, seed: int, by: str, folder: Path
) -> dict[str, float]:
    """Figures of one chain."""
    made = simulate_chain(num_addresses=num_addresses, days=90, seed=seed, illicit=illicit)
    truth = made.truth
    key = pl.col("address") if by == "addresses" else pl.col("group").fill_null(pl.col("address"))
    keys = truth.filter("is_illicit").select(key.alias("key"))["key"].unique().sort()
    named = keys.sample(fraction=1.0, shuffle=True, seed=seed)[: round(KNOWN * len(keys))]
    of_named = key.is_in(named.implode())
    labels = truth.filter(pl.col("is_illicit") & of_named).select("address", "is_illicit")
    chain = ChainFolder.create(folder)
    chain.take(pl.concat([made.transfers, made.token_transfers]))
    here = truth.filter("is_illicit")
    share = labels.height / here.height
    chain.learn(labels, Recipe(known_share=share, num_walks=5, length=20))
    scores = pl.concat(list(chain.all_risks()))
    rest = scores.join(truth.filter(~of_named), on="address", how="inner")
    y, p = rest["is_illicit"].to_numpy().astype(int), rest["score"].to_numpy().astype(float)
    bounds = {point.false_positive_share: point.bound for point in chain.run.points}
    found = {
        "labels": labels.height,
        "illicit": int(y.sum()),
        "prevalence": y.mean(),
        "expected / found": p.sum() / y.sum(),
        "ROC-AUC": roc_auc_score(y, p),
        "PR-AUC": average_precision_score(y, p),
        "gain": 1 - log_loss(y, p) / log_loss(y, np.full(len(y), y.mean())),
    }
    for name, promised in (("raised", 0.01), ("high", 0.001)):
        above = p >= bounds[promised]
        found[f"{name}: expected / found"] = p[above].sum() / max(y[above].sum(), 1)
        found[f"{name}: false alarms %"] = 100 * above[y == 0].mean()
        found[f"{name}: illicit found %"] = 100 * above[y == 1].mean()
    return found


def main() -> None:
    """Read the command line and run."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--illicit", type=float, nargs="+", default=[0.001, 0.005, 0.02])
    reader.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    reader.add_argument("--addresses", type=int, default=60_000)
    reader.add_argument("--labels", nargs="+", default=["addresses", "gangs"])
    given = reader.parse_args()
    for illicit, by in product(given.illicit, given.labels):
        every = []
        for seed in given.seeds:
            folder = Path(tempfile.mkdtemp(prefix="chopmark-calibration-"))
            try:
                every.append(measured(given.addresses, illicit, seed, by, folder / "chain"))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        print(
            f"\n{illicit:.1%} illicit, labels of {by}, {given.addresses:,} addresses, "
            f"seeds {given.seeds}"
        )
        for name in every[0]:
            values = [one[name] for one in every]
            each = ", ".join(f"{value:.4g}" for value in values)
            print(f"  {name:26s} {np.mean(values):9.4g}   ({each})", flush=True)


if __name__ == "__main__":
    main()
