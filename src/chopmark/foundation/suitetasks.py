"""The tasks of the benchmark suite, and the rows of one under a budget of labels.

Public sets that are in the data folder, the simulator's messages, purchases, segments and
frauds, and sets where only time matters. Serves rows G18 and G19 of the requirements.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.datasets.rhythm import Rule, rhythm
from chopmark.datasets.sequences import SequenceData, Task, available_sequences, load
from chopmark.datasets.simulated import simulated, simulated_names
from chopmark.datasets.tables import available

Rows = NDArray[np.int64]

MOST_ROWS = 20_000
"""So many rows of a split are used at most, drawn at random."""

_USERS, _DAYS = 4_000, 120
_SMALL_USERS, _SMALL_DAYS = 200, 60
_RHYTHM, _SMALL_RHYTHM = 4_000, 300
_RULES: tuple[Rule, ...] = ("age", "returns")
_SMALL = ("segments", "payments")
_LEARN = 0.8  # of a budget; the rest chooses
_LEAST = (5, 2)  # rows of each class to learn from and to choose by, where there are as many


@dataclass(frozen=True, slots=True, eq=False)
class SuiteSet:
    """A set with one source of events and the tasks on it, loaded when its turn comes."""

    name: str
    load: Callable[[], SequenceData]


@dataclass(frozen=True, slots=True, eq=False)
class TaskRows:
    """The labelled rows of a task.

    Attributes
    ----------
    frame : polars.DataFrame
        ``user``, ``as_of``, ``split``, in the order of `codes`.
    codes : (m,) int64
        0 and 1, or the place of the class among `classes`.
    """

    task: Task
    frame: pl.DataFrame
    codes: Rows
    classes: tuple[str, ...]

    def split(self, name: str) -> Rows:
        """Row numbers of a split."""
        return np.flatnonzero((self.frame["split"] == name).to_numpy())


def suite_sets(
    folder: str | Path | None = None, *, small: bool = False, seed: int = 0
) -> list[SuiteSet]:
    """All sets that can be had here: public ones if the folder has them, then made ones.

    Parameters
    ----------
    folder
        Of the public sets; None: the one that ``CHOPMARK_DATA`` names, if any.
    small
        Some made sets in a small size, for a first look and for tests.
    """
    users, days = (_SMALL_USERS, _SMALL_DAYS) if small else (_USERS, _DAYS)
    made = [
        SuiteSet(f"exchange_{name}", _Simulated(name, users, days, seed))
        for name in simulated_names()
        if not small or name in _SMALL
    ]
    if small:
        return [*made, SuiteSet("rhythm_age", _Rhythm("age", _SMALL_RHYTHM, seed))]
    public = [SuiteSet(name, _Public(name, folder)) for name in _present(folder)]
    timed = [SuiteSet(f"rhythm_{rule}", _Rhythm(rule, _RHYTHM, seed)) for rule in _RULES]
    return [*public, *made, *timed]


def rows_of(data: SequenceData, task: Task, *, seed: int = 0, most: int = MOST_ROWS) -> TaskRows:
    """The rows of a task whose label is known, at most so many of each split, as codes.

    A class that is not among the rows of train is left out.
    """
    known = data.rows(task).with_row_index("place")
    kept = []
    rng = np.random.default_rng(seed)
    for split in known["split"].unique(maintain_order=True):
        places = known.filter(pl.col("split") == split)["place"].to_numpy()
        kept.append(np.sort(rng.permutation(places)[:most]))
    frame = known[np.sort(np.concatenate(kept))]
    label = frame["label"]
    if task.kind == "classes":
        train = frame.filter(pl.col("split") == "train")["label"].cast(pl.String)
        classes = tuple(sorted(train.unique().to_list()))
        frame = frame.filter(pl.col("label").cast(pl.String).is_in(classes))
        label = frame["label"].cast(pl.String)
        code = {name: place for place, name in enumerate(classes)}
        codes = np.array([code[name] for name in label.to_list()], dtype=np.int64)
    else:
        classes = ("0", "1")
        codes = label.cast(pl.Int64).to_numpy()
    return TaskRows(task, frame.select("user", "as_of", "split"), codes, classes)


def budgeted(rows: TaskRows, budget: int | None, *, seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to choose by: `budget` labels in all, four of five to learn.

    Drawn at random from train and valid. Each class has five rows to learn from and two to
    choose by where there are as many: with 50 labels and one fraud in 200 there would be
    nothing to learn. Such a draw holds more of the rare class than comes in truth, which
    rankings do not mind and calibration does.
    """
    rng = np.random.default_rng((seed, 0 if budget is None else budget))
    train, valid = rows.split("train"), rows.split("valid")
    if budget is None or budget >= len(train) + len(valid):
        return train, valid
    learn = min(round(budget * _LEARN), len(train))
    choose = min(budget - learn, len(valid))
    return (
        _drawn(train, rows.codes, learn, _LEAST[0], rng),
        _drawn(valid, rows.codes, choose, _LEAST[1], rng),
    )


def _drawn(rows: Rows, codes: Rows, count: int, least: int, rng: np.random.Generator) -> Rows:
    order = rng.permutation(rows)
    first = np.concatenate(
        [order[codes[order] == code][:least] for code in np.unique(codes[order])]
    )
    others = order[~np.isin(order, first)]
    return np.sort(np.concatenate([first, others[: max(count - len(first), 0)]]))


def _present(folder: str | Path | None) -> list[str]:
    if folder is None:
        found = available().filter(pl.col("found"))["name"].to_list()
        return [name for name in available_sequences() if name in found]
    return [name for name in available_sequences() if (Path(folder) / "sequence" / name).is_dir()]


@dataclass(frozen=True, slots=True)
class _Public:
    name: str
    folder: str | Path | None

    def __call__(self) -> SequenceData:
        return load(self.name, self.folder)


@dataclass(frozen=True, slots=True)
class _Simulated:
    name: str
    num_users: int
    days: int
    seed: int

    def __call__(self) -> SequenceData:
        return simulated(self.name, num_users=self.num_users, days=self.days, seed=self.seed)


@dataclass(frozen=True, slots=True)
class _Rhythm:
    rule: Rule
    num_users: int
    seed: int

    def __call__(self) -> SequenceData:
        return rhythm(self.num_users, rule=self.rule, seed=self.seed)
