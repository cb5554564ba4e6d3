"""Fit one learner on one table and one split; print what came of it as one line of JSON.

    prior              the share of bad training rows, for every row
    lightgbm           LGBMClassifier as it comes; texts are categories, near-unique texts dropped
    catboost           CatBoostClassifier as it comes (1000 iterations); texts are categories
    autogluon-medium   medium_quality, limit of 60 s, models kept in memory for the row times
    autogluon-best     best_quality, limit of 180 s, models kept in memory for the row times
    flaml              60 s
    mljar              mode Compete (on two tables tried it beat Perform), limit of 60 s
    chopmark           EasyML; --options gives it keyword arguments

Everyone gets the same raw columns and one thread, and is asked for a small log loss where it can
be asked. The split is stratified, 70 % to learn from, by scikit-learn, with the seed. Times are of
the clock: `fit_seconds` is from the raw table to the fitted model, without imports
(`fit_cpu_seconds` of the processor: much less of it means that the core was shared);
`predict_1k_ms` is for 1,000 raw rows; `row_ms` for one raw row in a table of its own (for chopmark
a dict). Learners with a seed get the split's.

Run it in an environment that has the learner; `run.py` beside it knows which, and runs many.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split

ONE_THREAD = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")},
    "POLARS_MAX_THREADS": "1",
    "LOKY_MAX_CPU_COUNT": "1",
}
"""Two threads on a busy core are many times slower than one."""

TARGET = "target"
ROOT = Path(__file__).resolve().parents[2]
LEAKS = {"vehicle_claims_fraud": "PolicyNumber"}
"""Columns that tell the label and would not in production; kept in the table NAME+leak."""

WITH_LEAK = "+leak"
NEAR_UNIQUE = 0.5
"""Texts with more distinct values than this share of the rows are no categories."""

NUM_BATCHES, NUM_ROWS, PATIENCE_S = 5, 30, 20.0
"""Predictions that are timed, and seconds after which a slow learner needs no more of them."""


class Contender:
    """A learner, imported when made, that works on a table of its own kind."""

    packages: tuple[str, ...] = ()

    def __init__(self, seed: int, folder: Path, options: dict[str, Any]) -> None:
        self.seed, self.folder, self.options = seed, folder, options
        self.load()

    def load(self) -> None:
        """Import what is needed."""

    def native(self, table: pa.Table) -> Any:
        """The raw table as this learner's users have it."""
        return table.to_pandas()

    def rows(self, table: pa.Table) -> Sequence[Any]:
        """Raw rows, each as it would arrive alone."""
        frame = self.native(table)
        return [frame.iloc[[place]] for place in range(len(frame))]

    def fit(self, frame: Any) -> None:
        """Learn from a raw table with its label."""
        raise NotImplementedError

    def ready(self) -> None:
        """Get ready to serve; not timed."""

    def predict(self, frame: Any) -> np.ndarray:
        """(n,) probability of bad of the rows of a raw table."""
        raise NotImplementedError

    def predict_row(self, row: Any) -> float:
        """Probability of bad of a raw row."""
        return float(self.predict(row)[0])

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in self.packages}


class Prior(Contender):
    packages = ("pandas",)

    def fit(self, frame: Any) -> None:
        self.share = float(frame[TARGET].mean())

    def predict(self, frame: Any) -> np.ndarray:
        return np.full(len(frame), self.share)


class LightGBM(Contender):
    packages = ("lightgbm", "pandas")

    def load(self) -> None:
        import lightgbm
        import pandas

        self.pandas = pandas
        self.model = lightgbm.LGBMClassifier(n_jobs=1, random_state=self.seed, verbose=-1)

    def fit(self, frame: Any) -> None:
        self.kinds: dict[str, Any] = {}
        for name in _texts(frame):
            values = frame[name].dropna()
            if values.nunique() <= NEAR_UNIQUE * len(frame):
                self.kinds[name] = self.pandas.CategoricalDtype(sorted(values.unique()))
            else:
                self.kinds[name] = None
        self.model.fit(self._prepared(frame.drop(columns=TARGET)), frame[TARGET])

    def predict(self, frame: Any) -> np.ndarray:
        return self.model.predict_proba(self._prepared(frame))[:, 1]

    def _prepared(self, frame: Any) -> Any:
        kept = frame.drop(columns=[name for name, kind in self.kinds.items() if kind is None])
        return kept.astype({name: kind for name, kind in self.kinds.items() if kind is not None})


class CatBoost(Contender):
    packages = ("catboost", "pandas")

    def load(self) -> None:
        from catboost import CatBoostClassifier

        self.learner = CatBoostClassifier

    def fit(self, frame: Any) -> None:
        self.texts = _texts(frame)
        self.model = self.learner(
            cat_features=self.texts,
            random_seed=self.seed,
            thread_count=1,
            verbose=False,
            allow_writing_files=False,
        )
        self.model.fit(self._prepared(frame.drop(columns=TARGET)), frame[TARGET])

    def predict(self, frame: Any) -> np.ndarray:
        return self.model.predict_proba(self._prepared(frame), thread_count=1)[:, 1]

    def _prepared(self, frame: Any) -> Any:
        return frame.assign(**{name: frame[name].fillna("").astype(str) for name in self.texts})


class AutoGluon(Contender):
    packages = ("autogluon.tabular", "torch", "pandas")
    preset, limit = "medium_quality", 60

    def load(self) -> None:
        from autogluon.tabular import TabularPredictor

        self.model = TabularPredictor(
            label=TARGET, eval_metric="log_loss", path=str(self.folder / "models"), verbosity=0
        )

    def fit(self, frame: Any) -> None:
        self.model.fit(frame, presets=self.preset, time_limit=self.limit, num_cpus=1, num_gpus=0)

    def ready(self) -> None:
        self.model.persist()

    def predict(self, frame: Any) -> np.ndarray:
        return self.model.predict_proba(frame, as_multiclass=False).to_numpy()


class AutoGluonBest(AutoGluon):
    preset, limit = "best_quality", 180


class Flaml(Contender):
    packages = ("flaml", "xgboost-cpu", "pandas")

    def load(self) -> None:
        from flaml import AutoML

        self.model = AutoML()

    def fit(self, frame: Any) -> None:
        self.model.fit(
            X_train=frame.drop(columns=TARGET),
            y_train=frame[TARGET],
            task="classification",
            metric="log_loss",
            time_budget=60,
            n_jobs=1,
            seed=self.seed,
            log_file_name="",
            verbose=0,
        )

    def predict(self, frame: Any) -> np.ndarray:
        return self.model.predict_proba(frame)[:, 1]


class Mljar(Contender):
    packages = ("mljar-supervised", "xgboost-cpu", "pandas")

    def load(self) -> None:
        from supervised.automl import AutoML

        self.model = AutoML(
            mode="Compete",
            total_time_limit=60,
            ml_task="binary_classification",
            eval_metric="logloss",
            n_jobs=1,
            random_state=self.seed,
            results_path=str(self.folder / "models"),
            verbose=0,
        )

    def fit(self, frame: Any) -> None:
        self.model.fit(frame.drop(columns=TARGET), frame[TARGET])

    def predict(self, frame: Any) -> np.ndarray:
        return self.model.predict_proba(frame)[:, 1]


class Chopmark(Contender):
    packages = ("chopmark", "lightgbm", "polars")

    def load(self) -> None:
        import polars

        from chopmark import EasyML

        self.frame_of = polars.from_arrow
        self.model = EasyML(**{"seed": self.seed, "threads": 1, **self.options})

    def native(self, table: pa.Table) -> Any:
        return self.frame_of(table)

    def rows(self, table: pa.Table) -> Sequence[Any]:
        return table.to_pylist()

    def fit(self, frame: Any) -> None:
        self.model.fit(frame, target=TARGET)

    def predict(self, frame: Any) -> np.ndarray:
        return self.model.predict_proba(frame)[:, 1]

    def predict_row(self, row: Any) -> float:
        scorer = self.model.scorer
        return float(scorer.score_row([row[name] for name in scorer.reads]))

    def versions(self) -> dict[str, str]:
        """With the commit of the code, "-dirty" if there is more in the folder."""
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        told = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        return super().versions() | ({"commit": told} if told else {})


CONTENDERS: dict[str, type[Contender]] = {
    "prior": Prior,
    "lightgbm": LightGBM,
    "catboost": CatBoost,
    "autogluon-medium": AutoGluon,
    "autogluon-best": AutoGluonBest,
    "flaml": Flaml,
    "mljar": Mljar,
    "chopmark": Chopmark,
}


def main() -> None:
    """Print the line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("contender", choices=CONTENDERS)
    arguments.add_argument("table", help="a Parquet file's name, without .parquet")
    arguments.add_argument("seed", type=int, help="of the split")
    arguments.add_argument("--options", type=json.loads, default={}, help="JSON, for chopmark")
    arguments.add_argument("--label", help="name of the contender in the line")
    given = arguments.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():
        # Libraries read it when they are imported, so begin anew.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    folder = Path(tempfile.mkdtemp(prefix="tabular-"))
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            contender = CONTENDERS[given.contender](given.seed, folder, given.options)
            measured = measure(contender, given.table, given.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    name = {"contender": given.label or given.contender, "table": given.table, "seed": given.seed}
    options = {"options": given.options} if given.options else {}
    print(json.dumps(name | measured | options | {"versions": contender.versions()}), flush=True)


def measure(contender: Contender, name: str, seed: int) -> dict[str, Any]:
    """Fit, predict and compare with the labels that were held back."""
    load_average = os.getloadavg()[0]
    whole = read(name)
    y = whole[TARGET].to_numpy()
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, random_state=seed, stratify=y)
    frame = contender.native(whole.take(train))
    began, cpu_began = perf_counter(), cpu_seconds()
    contender.fit(frame)
    fit_seconds, fit_cpu_seconds = perf_counter() - began, cpu_seconds() - cpu_began
    contender.ready()

    features = whole.drop_columns([TARGET])
    predicted = np.asarray(contender.predict(contender.native(features.take(test))), dtype=float)
    thousand = contender.native(features.take(np.resize(test, 1000)))
    rows = contender.rows(features.take(test[:NUM_ROWS]))
    contender.predict_row(rows[0])
    return {
        "num_train": len(train),
        "num_test": len(test),
        "log_loss": round(log_loss(y[test], predicted), 6),
        "roc_auc": round(roc_auc_score(y[test], predicted), 6),
        "pr_auc": round(average_precision_score(y[test], predicted), 6),
        "fit_seconds": round(fit_seconds, 3),
        "fit_cpu_seconds": round(fit_cpu_seconds, 2),
        "predict_1k_ms": median_ms(contender.predict, [thousand] * NUM_BATCHES),
        "row_ms": median_ms(contender.predict_row, rows),
        "load": round(load_average, 1),
    }


def read(name: str) -> pa.Table:
    """A table by name; `CHOPMARK_DATA` names the folder that holds `tabular`."""
    data = Path(os.environ.get("CHOPMARK_DATA", ROOT.parent / "shared" / "data"))
    plain = name.removesuffix(WITH_LEAK)
    table = pq.read_table(data / "tabular" / f"{plain}.parquet")
    if plain in LEAKS and not name.endswith(WITH_LEAK):
        table = table.drop_columns([LEAKS[plain]])
    return table


def cpu_seconds() -> float:
    """Seconds of the processor so far, those of ended child processes too."""
    return sum(os.times()[:4])


def median_ms(call: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Milliseconds of a call, four digits; fewer calls when they are slow."""
    times: list[float] = []
    for given in inputs:
        began = perf_counter()
        call(given)
        times.append(perf_counter() - began)
        if sum(times) > PATIENCE_S and len(times) >= 3:
            break
    return float(f"{np.median(times) * 1e3:.4g}")


def _texts(frame: Any) -> list[str]:
    return [name for name in frame.columns if frame[name].dtype == object]


if __name__ == "__main__":
    main()
