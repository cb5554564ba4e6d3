"""``chopmark easyml``: a model of one table, from training to serving.

A table is a file (CSV, TSV, Parquet, JSON lines) or, with ``--query``, a database and a SELECT.
Nothing is written before all of it is there, and never over the file that was read.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import polars as pl
from cyclopts import Parameter
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chopmark.cli.judge import check_column, held_out_split, metrics_of
from chopmark.cli.show import console, metrics_table, number, progress, table
from chopmark.errors import InvalidInput
from chopmark.models.artifact import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chopmark.blend import EasyBlend
    from chopmark.models import Contributions
    from chopmark.tabular import EasyML
    from chopmark.tabular.targets import Class

    Fitted = EasyML | EasyBlend

# Learners are imported where they run: help must not wait seconds for them.

Family = Literal["auto", "best", "prior", "linear", "trees", "deep", "catboost", "xgboost", "vw"]
Query = Annotated[str | None, Parameter(help="SELECT to run; the table is then the address.")]

USUAL_HOLDOUT = 0.2
_SHOWN_COLUMNS = 15
_BATCH_ROWS = 20_000
_WRITERS: dict[str, Callable[[pl.DataFrame, io.BytesIO], object]] = {
    ".csv": lambda frame, file: frame.write_csv(file),
    ".jsonl": lambda frame, file: frame.write_ndjson(file),
    ".parquet": lambda frame, file: frame.write_parquet(file),
}


def train(
    file: str,
    *,
    target: str,
    out: Path = Path("model.chopmark"),
    model: tuple[Family, ...] = ("auto",),
    query: Query = None,
    task: Literal["binary", "multiclass", "regression"] | None = None,
    positive: str | None = None,
    time: str | None = None,
    group: str | None = None,
    holdout: float | None = None,
    budget: float | None = None,
    drop: tuple[str, ...] = (),
    report: Path | None = None,
    sample: int | None = None,
    memory: Path | None = None,
    seed: int = 0,
) -> None:
    """Learn from a table, judge what was learned, and save it.

    Parameters
    ----------
    file
        Table with a label.
    target
        Column of the label; all others are what it is learned from.
    out
        Where the model goes.
    model
        Family of the model; auto blends linear and trees, best these and deep. Several given
        are blended.
    task
        What the label is, if not what its values suggest.
    positive
        Label whose probability is scored; the second in sorted order by default.
    time
        Column that says when a row was: the latest rows are held out.
    group
        Column of a person or a card, say, whose rows are held out together; it is not learned
        from.
    holdout
        Share of rows that are judged by and never learned from; 0.2 with --time, --group or
        --report. Without, every row is learned from and judged by models that did not see it.
    budget
        Seconds of learning after which no further learner is begun.
    drop
        Column that is not learned from; may be given several times.
    report
        HTML page on the held-out rows.
    sample
        Learn from so many rows, drawn at random: a first look at a large table.
    memory
        Folder that keeps what was read from the table: the next model of it, of another family
        say, begins with learning. It may be emptied at any time.
    seed
        Same seed, same table: same model.
    """
    from chopmark.tabular import EasyML

    check_output(out, file)
    if holdout is None and (time or group or report):
        holdout = USUAL_HOLDOUT
    if report is not None:
        check_output(report, file, out)
        if not holdout:
            raise InvalidInput("expected --holdout above 0 with --report, which judges by it")
    frame = _table(file, query)
    split = held_out_split(
        frame, target, time=time, group=group, share=holdout, task=task, seed=seed
    )
    learned = frame if split is None else frame[split.train]
    fitted = EasyML(
        model=model[0] if len(model) == 1 else model,
        columns=dict.fromkeys(drop, "drop"),
        time=time,
        groups=group,
        budget=budget,
        task=task,
        positive=positive,
        sample=sample,
        memory=memory,
        seed=seed,
    )
    with _learning(min(learned.height, sample or learned.height)) as on_progress:
        fitted.fit(learned, target=target, on_progress=on_progress)
    fitted.save(out)
    if split is None:
        metrics_table("Rows held out while learning", fitted.training["held_out"])
    else:
        held_out = frame[split.test]
        metrics_table(f"{held_out.height:,} unseen rows", metrics_of(fitted, held_out, target))
        _write_report(fitted, held_out, target, report, train=learned)
    _show_importance(fitted.importance())
    console.print(f"saved to {out}", soft_wrap=True)


def evaluate(
    model: Path, file: str, *, target: str, query: Query = None, report: Path | None = None
) -> None:
    """Judge a model on labelled rows that it has not seen.

    Parameters
    ----------
    model
        File that train wrote.
    file
        Table with the label.
    target
        Column of the label.
    report
        HTML page with curves, thresholds and reasons.
    """
    if report is not None:
        check_output(report, file, model)
    fitted, frame = _fitted(model), _table(file, query)
    metrics_table(f"{frame.height:,} rows", metrics_of(fitted, frame, target))
    _write_report(fitted, frame, target, report)


def explain(
    model: Path,
    file: str,
    *,
    query: Query = None,
    row: int | None = None,
    top: int = 5,
    of: str | None = None,
    out: Path | None = None,
) -> None:
    """Say which columns moved the score of a row, and how far, in log-odds.

    Parameters
    ----------
    model
        File that train wrote.
    file
        Table; it needs no label.
    row
        The row, counted from 0; without --out, 0 is shown by default.
    top
        Columns to name, strongest first.
    of
        Of more than two classes, the one whose log-odds are explained.
    out
        File for all rows (or the one): .csv, .jsonl or .parquet, one line per row and column.
    """
    if top < 1:
        raise InvalidInput(f"expected --top of at least 1, got {top}")
    if out is not None:
        _writer(out)
        check_output(out, file, model)
    fitted, frame = _fitted(model), _table(file, query)
    label = _class_of(fitted, of)
    first = 0 if row is None else row
    if not 0 <= first < frame.height:
        raise InvalidInput(f"expected a row from 0 to {frame.height - 1}, got {first}")
    if out is None:
        _show_row(fitted, frame, first, label, top)
        return
    chosen = frame if row is None else frame[row : row + 1]
    parts, begin = [], first
    with progress("explain", chosen.height) as done:
        for part in chosen.iter_slices(_BATCH_ROWS):
            parts.append(_reasons(fitted, part, begin, label, top))
            begin += part.height
            done(begin - first)
    _write(pl.concat(parts), out)
    console.print(f"{chosen.height:,} rows explained in {out}", soft_wrap=True)


def score(
    model: Path,
    file: str,
    *,
    query: Query = None,
    out: Path | None = None,
    keep: tuple[str, ...] = (),
) -> None:
    """Score the rows of a table.

    Parameters
    ----------
    model
        File that train wrote.
    file
        Table; it needs no label.
    out
        File for the scores: .csv, .jsonl or .parquet. Without it they are printed as CSV.
    keep
        Column to repeat beside the score, an id say; may be given several times.
    """
    if out is not None:
        _writer(out)
        check_output(out, file, model)
    fitted, frame = _fitted(model), _table(file, query)
    for name in keep:
        check_column(frame, name, "--keep")
    if out is None:
        print(_scored(fitted, frame, keep).write_csv(), end="")
        return
    with progress("score", frame.height) as done:
        scored = _scored(fitted, frame, keep, done)
    _write(scored, out)
    console.print(f"{frame.height:,} rows scored in {out}", soft_wrap=True)


def describe(
    model: Path, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """Say what a model reads and how, what it leaves out and why, and what it was worth.

    Parameters
    ----------
    model
        File that train wrote.
    as_json
        For programs.
    """
    from chopmark.models.families import readings_of
    from chopmark.service.scoring import describe as described

    fitted = _fitted(model)
    scorer, training = fitted.scorer, fitted.training
    if as_json:
        print(json.dumps(described(scorer), indent=2))
        return
    used = {name: weight for name, weight in fitted.weights.items() if weight > 0}
    blended = " + ".join(f"{weight:.2f} {name}" for name, weight in used.items())
    named = ", ".join(map(str, fitted.classes))
    what = f"{_task(fitted)} ({named})" if len(fitted.classes) > 2 else _task(fitted)
    console.print(f"{what}: {blended}; sha256 {scorer.hash}", soft_wrap=True)
    metrics_table("Rows held out while learning", training.get("held_out", {}))
    shares = training.get("importance", {})
    kinds, dropped = readings_of(scorer)
    order = sorted(scorer.reads, key=lambda name: -shares.get(name, 0.0))
    table(
        "Columns that it reads",
        ("column", "kind", "importance"),
        # A blend's part may be of another house, whose readings nobody here knows.
        [(name, kinds.get(name, "-"), f"{shares.get(name, 0.0):.1%}") for name in order],
    )
    if dropped:
        table(
            "Columns that it leaves out",
            ("column", "kind", "why"),
            [(column.name, column.kind, column.reason) for column in dropped],
        )
    for leak in training.get("leaks", ()):
        console.print(f"may be a leak: `{leak['column']}`, {leak['reason']}", soft_wrap=True)


def export(model: Path, out: Path) -> None:
    """Write a model as ONNX, for programs that know no chopmark.

    Parameters
    ----------
    model
        File that train wrote.
    out
        The .onnx file.
    """
    from chopmark.models import ArtifactScorer, ClassScorer
    from chopmark.tabular.onnx import export_onnx

    if out.suffix != ".onnx":
        raise InvalidInput(f"expected a file that ends in .onnx, got `{out}`")
    check_output(out, model)
    scorer = _fitted(model).scorer
    if not isinstance(scorer, ArtifactScorer | ClassScorer):
        raise InvalidInput(
            f"expected a model that EasyML made, got a blend of {', '.join(scorer.names)}; ONNX "
            "takes its parts one by one"
        )
    export_onnx(scorer, out)
    console.print(f"exported to {out}", soft_wrap=True)


def serve(model: Path, *, host: str = "127.0.0.1", port: int = 8080, keys: bool = True) -> None:
    """Serve a model over HTTP until interrupted.

    Parameters
    ----------
    model
        File that train wrote.
    host
        Address to listen at.
    port
        Port to listen at; 0 takes a free one.
    keys
        Whether requests need an API key, kept beside the model; one is made and shown at the
        first start.
    """
    from chopmark.service.scoring import serve_model

    keys_path = model.with_name(model.name + ".keys.json") if keys else None
    serve_model(model, host=host, port=port, keys_path=keys_path)


@contextmanager
def _learning(num_rows: int) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over learning; the block calls what it is given after each learner."""
    what = f"learn from {num_rows:,} rows"
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
                  console=console) as bar:  # fmt: skip
        task = bar.add_task(what, total=None)

        def on_progress(learner: str, done: int, total: int) -> None:
            bar.update(task, description=f"{what}: {learner}", completed=done, total=total)

        yield on_progress
        bar.update(task, description=what, completed=1, total=1)


def check_output(out: Path, *inputs: str | Path) -> None:
    """Raise `InvalidInput` if a file cannot be written there or would replace what is read."""
    if out.is_dir() or not out.parent.is_dir():
        raise InvalidInput(f"expected the path of a file in an existing folder, got `{out}`")
    for given in map(Path, inputs):
        same = out.samefile(given) if out.exists() and given.exists() else out == given
        if same:
            raise InvalidInput(f"expected another file than `{given}`, which would be replaced")


def _table(source: str, query: str | None) -> pl.DataFrame:
    from chopmark.tabular import tables

    return tables.frame_of(source if query is None else tables.Query(source, query))


def _fitted(model: Path) -> "Fitted":
    from chopmark.models import artifact
    from chopmark.models.families import BLEND

    if artifact.read(model).family == BLEND:
        from chopmark.blend import EasyBlend

        return EasyBlend.load(model)
    from chopmark.tabular import EasyML

    return EasyML.load(model)


def _task(fitted: "Fitted") -> str:
    return str(fitted.training.get("task", "blend"))


def _write_report(
    fitted: "Fitted",
    frame: pl.DataFrame,
    target: str,
    path: Path | None,
    *,
    train: pl.DataFrame | None = None,
) -> None:
    if path is None:
        return
    from chopmark.report import write_report

    write_report(fitted, frame, target=target, path=path, train=train)
    console.print(f"report in {path}", soft_wrap=True)


def _show_importance(shares: dict[str, float]) -> None:
    top = list(shares.items())[:_SHOWN_COLUMNS]
    table("Importance", ("column", "share"), [(name, f"{share:.1%}") for name, share in top])


def _class_of(fitted: "Fitted", of: str | None) -> "Class | None":
    """The class that an option names, as the model knows it."""
    named = {str(label): label for label in fitted.classes}
    if len(named) <= 2:
        return None
    if of not in named:
        raise InvalidInput(
            f"this model has {len(named)} classes: choose the one to explain with --of, one of "
            f"{', '.join(named)}"
        )
    return named[of]


def _explained(
    fitted: "Fitted", frame: pl.DataFrame, label: "Class | None"
) -> "tuple[Contributions, NDArray[np.float64]]":
    from chopmark.tabular import EasyML

    if label is None or not isinstance(fitted, EasyML):
        return fitted.explain(frame), fitted.score(frame)
    place = fitted.classes.index(label)
    return fitted.explain(frame, of=label), fitted.predict_proba(frame)[:, place]


def _show_row(
    fitted: "Fitted", frame: pl.DataFrame, row: int, label: "Class | None", top: int
) -> None:
    one = frame[row : row + 1]
    found, scores = _explained(fitted, one, label)
    unit = "log-odds" if fitted.classes else "number"
    console.print(
        f"row {row}: score {number(float(scores[0]))}, {unit} "
        f"{number(float(found.log_odds()[0]))} where an average row has {number(found.bias)}",
        highlight=False,
        soft_wrap=True,
    )
    rows = [(name, str(one[name][0]), f"{moved:+.4f}") for name, moved in found.top(0, count=top)]
    table("Why", ("column", "value", unit), rows)


def _reasons(
    fitted: "Fitted", frame: pl.DataFrame, first: int, label: "Class | None", top: int
) -> pl.DataFrame:
    """One line per row and column, strongest first."""
    found, scores = _explained(fitted, frame, label)
    lines = [
        (first + place, float(scores[place]), name, moved)
        for place in range(frame.height)
        for name, moved in found.top(place, count=top)
    ]
    schema = {"row": pl.Int64, "score": pl.Float64, "column": pl.String, "contribution": pl.Float64}
    return pl.DataFrame(lines, schema=schema, orient="row")


def _scored(
    fitted: "Fitted",
    frame: pl.DataFrame,
    keep: Sequence[str],
    done: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """The kept columns with the score, or the probability of each class, batch after batch."""
    several = len(fitted.classes) > 2
    names = [f"score {label}" for label in fitted.classes] if several else ["score"]
    for name in names:
        if name in keep:
            raise InvalidInput(f"expected another column than `{name}` to keep; rename it first")
    parts = [np.empty((0, len(names)))]
    for part in frame.iter_slices(_BATCH_ROWS):
        scores = fitted.predict_proba(part) if several else fitted.score(part)
        parts.append(scores.reshape(part.height, len(names)))
        if done is not None:
            done(sum(map(len, parts)))
    columns = np.concatenate(parts).T
    kept = frame.select(keep).get_columns()
    return pl.DataFrame([*kept, *map(pl.Series, names, columns)])


def _writer(out: Path) -> Callable[[pl.DataFrame, io.BytesIO], object]:
    if out.suffix not in _WRITERS:
        raise InvalidInput(f"expected a file that ends in {', '.join(_WRITERS)}, got `{out}`")
    return _WRITERS[out.suffix]


def _write(frame: pl.DataFrame, out: Path) -> None:
    buffer = io.BytesIO()
    _writer(out)(frame, buffer)
    write_whole(out, buffer.getvalue())
