"""Histories: preparation, time features and aggregates in events a second, and peak memory.

    speed     from a frame in three orders, moments, list columns, aggregates; one core
    build     a folder of 20 M events from Parquet parts, and a tenth of it: peak memory of a
              process of its own, and how it grows
    quality   aggregates and LightGBM on public event data, where a folder of it is given with
              --data (sets with events.parquet and labels.parquet); each seed's test ROC-AUC

Events are made by a seed: users with text names, three categories, two numbers, in order of
time as in a log.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import polars as pl
from machine import BUILD, goal, number, one_core, parser, peak_mb, progress, report, table

from chopmark.histories import Aggregates, Histories, build, moments
from chopmark.times import DAY, SECOND

PARTS = ("speed", "build", "quality")
EVENTS_A_USER = 60
START = 1_767_225_600 * SECOND
SETS = {
    # set -> folder, label, now (None: 30 days after the first event), fields, goal
    "cdnow": ("cdnow", "y_repeat", "1997-10-01", {}, 0.76),
    "physionet": ("physionet2012", "y_death", "2000-01-03", {}, 0.85),
    "dunnhumby": (
        "dunnhumby_cj", "y_redeem_q4", "2017-10-01",
        {"categories": ["department", "brand", "store_id"],
         "numbers": ["amount", "quantity", "discount"]},
        0.905,
    ),
    "bitcoin": ("bitcoin_otc", "y_scam_later", None,
                {"categories": ["counterparty"], "numbers": ["amount"]}, 0.65),
}  # fmt: skip
STATIC = ("age", "gender", "height", "weight", "icu_type")


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    arguments.add_argument("--events", type=int, default=2_000_000, help="of speed")
    arguments.add_argument("--built", type=int, default=20_000_000, help="of build")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--data", type=Path, help="folder of public sets, for quality")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        work(**json.loads(given.worker))
        return
    if set(given.parts) - set(PARTS):
        arguments.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(given.parts)}")
    parts = given.parts or [part for part in PARTS if part != "quality" or given.data]
    if "quality" in parts and given.data is None:
        arguments.error("expected --data, the folder of the public sets, for quality")
    with report("Histories"):
        if "speed" in parts:
            call("speed", events=given.events, repeats=given.repeats)
        if "build" in parts:
            sizes(given.built)
        if "quality" in parts:
            quality(given.data, seeds=given.repeats)


def call(part: str, **options: object) -> str:
    """Run one part in a process of its own, on one core; what it printed at last."""
    process = subprocess.run(
        [sys.executable, __file__, "--worker", json.dumps({"part": part, **options})],
        env=one_core(), check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if part == "speed":
        print(process.stdout, flush=True)
    return process.stdout


def work(part: str, **options: int | str) -> None:
    """What a process of its own does."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    {"speed": speed, "parts": write_parts, "built": built}[part](**options)  # type: ignore[operator]


def made(events: int, *, users: int, seed: int, start: int = START) -> pl.DataFrame:
    """Events of users in order of time; a user's name is a text."""
    random = np.random.default_rng(seed)
    names = "user-" + pl.Series(np.arange(users)).cast(pl.String)

    def words(word: str, most: int) -> pl.Series:
        codes = np.minimum(random.zipf(1.5, events) - 1, most - 1)
        return (word + pl.Series(np.arange(most)).cast(pl.String)).gather(codes)

    return pl.DataFrame({
        "user": names.gather(random.integers(0, users, events)),
        "happened_at": start + np.sort(random.integers(0, 90 * DAY, events)),
        "type": words("type ", 40),
        "asset": words("asset ", 200),
        "rail": words("rail ", 5),
        "amount_usd": random.lognormal(3, 2, events).astype(np.float32),
        "balance_usd": random.lognormal(5, 2, events).astype(np.float32),
    })  # fmt: skip


def speed(events: int, repeats: int) -> None:
    """Millions of events a second of each step."""
    frame = made(events, users=events // EVENTS_A_USER, seed=0)
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=0)
    histories = Histories.from_frame(frame)
    pieces = histories.every()
    aggregates = Aggregates().fit(pieces)
    column = pieces.to_lists()
    steps = {
        "from_frame, a log in order of time": (lambda: Histories.from_frame(frame), 1.0),
        "from_frame, rows in any order": (lambda: Histories.from_frame(shuffled), 1.0),
        "moments": (lambda: moments(histories.times, histories.categories["type"], pieces.starts,
                                    pieces.ends, pieces.now), 5.0),
        "to_lists": (pieces.to_lists, 0.0),
        "from_lists": (lambda: Histories.from_lists(column), 0.0),
        f"aggregates, {len(aggregates.columns)} columns": (lambda: aggregates.table(pieces), 1.0),
    }  # fmt: skip
    rows = []
    for name, (step, least) in steps.items():
        step()
        seconds = []
        for _ in range(repeats):
            begun = perf_counter()
            step()
            seconds.append(perf_counter() - begun)
        rate = events / np.median(seconds) / 1e6
        aim = f">= {least:.0f}: {goal(rate, least, least=True)}" if least else ""
        rows.append([name, number(rate), number(events / min(seconds) / 1e6), aim])
    table(["step, one core", "M events/s", "best", "goal"], rows)


def sizes(events: int) -> None:
    """Peak memory of building a tenth and all, each by a fresh process."""
    rows = []
    for size in (events // 10, events):
        folder = BUILD / "histories"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        progress(f"writing {size:,} events in parts")
        call("parts", events=size, folder=str(folder))
        progress("building")
        found = json.loads(call("built", folder=str(folder)))
        data = sum(path.stat().st_size for path in (folder / "all").iterdir()) / 1e6
        rows.append([f"{size:,}", f"{found['users']:,}", number(found["seconds"]),
                     number(size / found["seconds"] / 1e6), number(data), number(found["start"]),
                     number(found["peak"])])  # fmt: skip
        peaks = found["peak"]
        shutil.rmtree(folder)
    table(
        ["events", "users", "s of CPU", "M events/s", "MB on disk", "MB after import", "peak MB"],
        rows,
    )
    small, large = (float(row[-1].replace(",", "")) for row in rows)
    grown = (large - small) / (events - events // 10) * 1e6
    at_100 = (peaks + max(grown, 0.0) * (1e8 - events) / 1e6) / 1024
    print(f"{number(grown)} MB more for each million events more, with a user for each "
          f"{EVENTS_A_USER}; so 100 M take {number(at_100)} GiB, goal < 4: "
          f"{goal(at_100, 4.0)}.\n", flush=True)  # fmt: skip


def write_parts(events: int, folder: str) -> None:
    """Parquet parts of two million events, of the same users, one after the other in time."""
    step = 2_000_000
    for place, begin in enumerate(range(0, events, step)):
        part = made(min(step, events - begin), users=events // EVENTS_A_USER, seed=place,
                    start=START + place * 90 * DAY)  # fmt: skip
        part.write_parquet(Path(folder) / f"part-{place:03}.parquet")


def built(folder: str) -> None:
    """Build the parts of a folder; seconds of CPU and peak memory of this process."""
    begun, resident = process_time(), peak_mb()
    histories = build(Path(folder) / "all", sorted(Path(folder).glob("*.parquet")))
    print(json.dumps({"seconds": process_time() - begun, "start": resident, "peak": peak_mb(),
                      "users": len(histories)}))  # fmt: skip


def quality(data: Path, *, seeds: int) -> None:
    """ROC-AUC on the test split: trained on train, stopped early on valid."""
    rows = []
    for name, (folder, label, cut, fields, least) in SETS.items():
        progress(name)
        histories = Histories.from_frame(data / folder / "events.parquet", user="user_id",
                                         time="ts", type="event_type", **fields)  # fmt: skip
        labels = pl.read_parquet(data / folder / "labels.parquet").drop_nulls(label)
        users = labels["user_id"].cast(pl.Int64)
        labels = labels.filter(histories.places(users) >= 0)
        users = labels["user_id"].cast(pl.Int64)
        firsts = histories.times[histories.offsets[histories.places(users)]]
        pieces = histories.slices(users, firsts + 30 * DAY if cut is None else cut)
        aggregates = Aggregates().fit(pieces[(labels["split"] == "train").to_numpy()])
        columns = aggregates.table(pieces)
        if STATIC[0] in labels.columns:
            static = labels.select(pl.col(STATIC).cast(pl.Float32))
            known = static.select(pl.when(pl.all() >= 0).then(pl.all()).name.keep())
            columns = columns.hstack(known)
        found = [fitted(columns, labels, label, seed) for seed in range(seeds)]
        truth = labels.filter(split="test")[label].to_numpy()
        each = [area(truth, scores) for scores in found]
        mean = area(truth, np.mean(found, axis=0))
        rows.append([f"{name} {label}", columns.width, " ".join(f"{value:.4f}" for value in each),
                     f"{mean:.4f}", f"{least:.3f}: {goal(mean, least, least=True)}"])  # fmt: skip
    table(["set", "columns", "ROC-AUC by seed", "mean of scores", "goal"], rows)


def fitted(columns: pl.DataFrame, labels: pl.DataFrame, label: str, seed: int) -> np.ndarray:
    """Scores of the test split by LightGBM, which only this part needs."""
    import lightgbm

    def part(split: str) -> tuple[np.ndarray, np.ndarray]:
        mask = (labels["split"] == split).to_numpy()
        return columns.filter(mask).to_numpy(), labels[label].to_numpy()[mask]

    train = lightgbm.Dataset(*part("train"), params={"max_bin": 63, "verbose": -1})
    booster = lightgbm.train(
        {"objective": "binary", "metric": "binary_logloss", "learning_rate": 0.03,
         "num_leaves": 15, "min_child_samples": 20, "bagging_fraction": 0.7, "bagging_freq": 1,
         "feature_fraction": 0.5, "extra_trees": True, "lambda_l2": 5.0, "max_bin": 63,
         "verbose": -1, "seed": seed, "num_threads": 1},
        train, 1_000, valid_sets=[lightgbm.Dataset(*part("valid"), reference=train)],
        callbacks=[lightgbm.early_stopping(100, verbose=False)],
    )  # fmt: skip
    return booster.predict(part("test")[0])


def area(truth: np.ndarray, scores: np.ndarray) -> float:
    """ROC-AUC."""
    from chopmark.models.metrics import roc_auc

    return float(roc_auc(truth, scores))


if __name__ == "__main__":
    main()
