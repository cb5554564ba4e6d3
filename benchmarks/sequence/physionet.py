"""PhysioNet 2012: who dies in hospital, from 48 hours of measurements, by one call.

    physionet.py                     learned from train and valid, judged on the set's test rows
    physionet.py --judge valid       learned from train, judged on valid: to choose settings by
    physionet.py --ways blend --seeds 0

    trees       LightGBM on chopmark.histories.Aggregates
    easyml      EasyML on these and the static columns (age, sex, height, weight, unit)
    network     Seq2Win on the measurements themselves, and nothing else
    blend       pipelines.sequences.SequenceBlend(split="users"): EasyML, Seq2Win and an embedding

The blend reads the columns that the others read together. Its parts are judged with it. A line
of several seeds has ROC-AUC of each and of their mean scores. One core. The set is
`sequence/physionet2012` in the folder that CHOPMARK_DATA names, or in ../shared/data.
"""

import argparse
import os
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import goal, one_core, parser, progress, report, table
from tabular.run import seeds_of

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("trees", "easyml", "network", "blend")
LEAST = 0.86
WIDTH, EPOCHS, STEPS, FOLDS = 64, 4.0, 100, 2
"""Of the network and the blend; set before the first run, by what a core does in minutes."""
LABEL, USER, COLUMN = "label", "user", "measured"

TREES = {
    "objective": "binary", "learning_rate": 0.03, "num_leaves": 15, "min_data_in_leaf": 20,
    "feature_fraction": 0.5, "bagging_fraction": 0.8, "bagging_freq": 1, "deterministic": True,
    "force_row_wise": True, "verbosity": -1, "num_threads": 1,
}  # fmt: skip
NUM_TREES = 250


def main() -> None:
    """Print a line for each way."""
    arguments = parser(__doc__)
    arguments.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY")
    arguments.add_argument("--seeds", type=seeds_of, default=(0,), help="such as 0-2; 0 by default")
    arguments.add_argument("--judge", choices=("valid", "test"), default="test")
    arguments.add_argument("--core", type=int, help="that all runs on; the first by default")
    arguments.add_argument("--data", type=Path, help="folder that has the folder `sequence`")
    given = arguments.parse_args()
    env = one_core()
    if not env.items() <= os.environ.items():
        # Libraries read it when they are imported, so begin anew.
        os.execve(sys.executable, [sys.executable, *sys.argv], env)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {given.core or min(os.sched_getaffinity(0))})
    with report("PhysioNet 2012"):
        run(given)


def run(given: argparse.Namespace) -> None:
    """Fit and judge all ways."""
    folder = given.data or Path(os.environ.get("CHOPMARK_DATA", ROOT.parent / "shared" / "data"))
    learned, judged = parts_of(folder, given.judge)
    y = judged[LABEL].to_numpy()
    rows = []
    for way in given.ways:
        found: dict[str, list[np.ndarray]] = {}
        began = perf_counter()
        for seed in given.seeds:
            progress(f"{way}, seed {seed}")
            for name, scores in WAY[way](learned, judged, seed).items():
                found.setdefault(name, []).append(scores)
        minutes = (perf_counter() - began) / 60 / len(given.seeds)
        for name, scores in found.items():
            mean = area(y, np.mean(scores, axis=0))
            aim = f">= {LEAST}: {goal(mean, LEAST, least=True)}" if name == "blend" else ""
            each = " ".join(f"{area(y, one):.4f}" for one in scores)
            rows.append([name, each, f"{mean:.4f}", f"{minutes:.1f}", aim])
    print(f"Learned from {learned.height:,} stays, judged on {judged.height:,} of which "
          f"{int(y.sum())} ended in death ({given.judge}).\n")  # fmt: skip
    table(["way", "ROC-AUC by seed", "mean of scores", "minutes a seed", "goal"], rows)


def parts_of(folder: Path, judge: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows to learn from and rows that judge: label, list column, static columns, aggregates."""
    from chopmark.datasets import sequences
    from chopmark.histories import Aggregates, Histories

    data = sequences.load("physionet2012", folder)
    histories = Histories.from_frame(data.events)
    pieces = histories.slices(data.labels["user"], data.labels["as_of"])
    known = ("train",) if judge == "valid" else ("train", "valid")
    learning = data.labels["split"].is_in(known).to_numpy()
    columns = Aggregates().fit(pieces[learning]).table(pieces)
    assert data.profile is not None
    profile = data.labels.select("user").join(
        data.profile, on="user", how="left", maintain_order="left"
    )
    whole = profile.hstack(columns.get_columns()).with_columns(
        data.labels["y_death"].alias(LABEL), pieces.to_lists().alias(COLUMN)
    )
    return whole.filter(learning), whole.filter(data.labels["split"] == judge)


def trees(learned: pl.DataFrame, judged: pl.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """LightGBM on aggregates alone."""
    import lightgbm

    static = ("age", "gender", "height", "weight", "icu_type")
    names = [name for name in learned.columns if name not in (USER, LABEL, COLUMN, *static)]
    data = lightgbm.Dataset(learned.select(names).to_numpy(), learned[LABEL].to_numpy())
    model = lightgbm.train({**TREES, "seed": seed}, data, NUM_TREES)
    return {"trees": model.predict(judged.select(names).to_numpy())}


def easyml(learned: pl.DataFrame, judged: pl.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """EasyML on aggregates and static columns."""
    from chopmark.tabular import EasyML

    kept = pl.exclude(USER, COLUMN)
    model = EasyML(seed=seed, threads=1).fit(learned.select(kept), target=LABEL)
    return {"easyml": model.score(judged.select(kept).drop(LABEL))}


def network(learned: pl.DataFrame, judged: pl.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """The recurrent Seq2Win on the measurements alone."""
    from chopmark.sequence import Seq2Win, Shape

    model = Seq2Win(column=COLUMN, shape=Shape(width=WIDTH), epochs=EPOCHS, seed=seed)
    model.fit(learned.select(COLUMN, LABEL), target=LABEL)
    return {"network": model.score(judged.select(COLUMN))}


def blend(learned: pl.DataFrame, judged: pl.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """All three parts, weighed by what each says of stays that it had not seen."""
    from chopmark.pipelines.sequences import SequenceBlend

    settings = SequenceBlend(split="users", seed=seed, width=WIDTH, epochs=EPOCHS, steps=STEPS,
                             num_folds=FOLDS)  # fmt: skip
    model = settings.fit(
        learned, target=LABEL, user=USER,
        progress=lambda done, count, name: progress(f"  {done} of {count}: {name}"),
    )  # fmt: skip
    rows = judged.drop(LABEL, USER)
    found = {"blend": model.score(rows)}
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in model.weights.items())
    held_out = ", ".join(f"{name} {one['roc_auc']:.4f}" for name, one in model.held_out.items())
    progress(f"  weights: {weights}; ROC-AUC on stays held out of learning: {held_out}")
    # Each part with a weight, as it is within the blend.
    for name, part in zip(model.scorer.names, model.scorer.parts, strict=True):
        found[f"of it, {name}"] = part.score(rows)
    return found


WAY = {"trees": trees, "easyml": easyml, "network": network, "blend": blend}


def area(truth: np.ndarray, scores: np.ndarray) -> float:
    """ROC-AUC."""
    from chopmark.models.metrics import roc_auc

    return float(roc_auc(truth, scores))


if __name__ == "__main__":
    main()
