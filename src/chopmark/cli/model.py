"""``chopmark train``: from the log to a judged and saved model."""

from pathlib import Path
from typing import Literal

from chopmark.cli.application import load_application
from chopmark.cli.show import console, metrics_table, number, progress, table
from chopmark.errors import InvalidInput
from chopmark.pipelines.folder import DataFolder
from chopmark.pipelines.sequences import SequenceBlend
from chopmark.pipelines.training import Trained
from chopmark.pipelines.training import train as train_model
from chopmark.tabular import EasyML

LEFT_OUT = (
    "without torch, Seq2Win and the embedding of histories are left out; to have them: "
    "pip install 'chopmark[deep]'"
)


def train(
    data: Path,
    *,
    app: str | None = None,
    model: Literal["easyml", "blend", "trees", "linear"] = "easyml",
    rows: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Train a model on the log of a data folder, judge it out of time, and put it in use.

    Parameters
    ----------
    data
        Folder with the log; the artifact is written there.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    model
        What to train. easyml: single values alone, trees and a linear model blended; or one of
        these two. blend: EasyML, Seq2Win on what users did, and an embedding of it; needs a
        `Sequence` among the features, and torch: look at the figures of its parts.
    rows
        Event types to learn from; those that the policy gates by default.
    seed
        Of the training.
    """
    application, label = load_application(app)
    if not data.is_dir():
        raise InvalidInput(f"expected a data folder with a log at {data}, got none; ingest first")
    folder = DataFolder(data)
    learner = _learner(model, seed)
    with folder.open_log(application, read_only=True) as log:
        with progress("replay the log and train", len(log)) as done:
            trained = train_model(
                application,
                log,
                label=label,
                rows=rows,
                model=learner,
                on_progress=done,
            )
        trained.model.save(folder.model)
    console.print(f"{trained.num_rows:,} labelled rows, {trained.num_bad:,} of them bad")
    if trained.parts:
        blend_table(trained)
    else:
        metrics_table("The last quarter of the rows, unseen", trained.metrics)
    top = list(trained.model.importance().items())[:15]
    table("Importance", ("feature", "share"), [(name, f"{share:.1%}") for name, share in top])
    console.print(f"saved to {folder.model}; a running service takes it at its next start")


def blend_table(trained: Trained) -> None:
    """What each part of a blend was worth on later rows than it learned from, and weighs."""
    weights: dict[str, float] = dict(trained.model.training["weights"])
    rows = [
        (name, number(weights.get(name), 2), *(number(found[key]) for key in _FIGURES))
        for name, found in (*trained.parts.items(), ("blend", trained.metrics))
    ]
    table("The last 60 % of the rows, unseen", ("part", "weight", *_FIGURES), rows)


_FIGURES = ("log_loss", "roc_auc", "pr_auc")


def _learner(model: str, seed: int) -> EasyML | SequenceBlend:
    if model == "blend":
        return SequenceBlend(seed=seed)
    return EasyML(seed=seed) if model == "easyml" else EasyML(model=model, seed=seed)  # type: ignore[arg-type]
