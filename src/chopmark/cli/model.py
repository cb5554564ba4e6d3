"""``chopmark train``: from the log to a judged and saved model."""

from pathlib import Path
from typing import Literal

from chopmark.cli.application import load_application
from chopmark.cli.show import console, metrics_table, progress, table
from chopmark.errors import InvalidInput
from chopmark.pipelines.folder import DataFolder
from chopmark.pipelines.training import train as train_model
from chopmark.tabular import EasyML


def train(
    data: Path,
    *,
    app: str | None = None,
    model: Literal["auto", "trees", "linear"] = "auto",
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
        Family of the model; auto blends both.
    rows
        Event types to learn from; those that the policy gates by default.
    seed
        Of the training.
    """
    application, label = load_application(app)
    if not data.is_dir():
        raise InvalidInput(f"expected a data folder with a log at {data}, got none; ingest first")
    folder = DataFolder(data)
    with folder.open_log(application, read_only=True) as log:
        with progress("replay the log and train", len(log)) as done:
            trained = train_model(
                application,
                log,
                label=label,
                rows=rows,
                model=EasyML(model=model, seed=seed),
                on_progress=done,
            )
        trained.model.save(folder.model)
    console.print(f"{trained.num_rows:,} labelled rows, {trained.num_bad:,} of them bad")
    metrics_table("The last quarter of the rows, unseen", trained.metrics)
    top = list(trained.model.importance().items())[:15]
    table("Importance", ("feature", "share"), [(name, f"{share:.1%}") for name, share in top])
    console.print(f"saved to {folder.model}; a running service takes it at its next start")
