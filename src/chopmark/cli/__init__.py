"""The command line: one file per group of commands.

In come a data folder and an application; out come progress, tables, and a running service.
``chopmark --help`` lists the commands, ``chopmark COMMAND --help`` teaches one.
Serves rows A2, E3, E16, I1 and I14 of the requirements.
"""

import sys

from cyclopts import App

from chopmark.errors import ChopmarkError

app = App(name="chopmark", help="Events in, decisions out: risk and personalization.")
app.command(
    "chopmark.cli.demo:demo",
    name="demo",
    help="Run the whole loop on a simulated exchange, then serve it.",
)
app.command(
    "chopmark.cli.data:simulate",
    name="simulate",
    help="Write the events of a simulated exchange to a file.",
)
app.command(
    "chopmark.cli.data:ingest",
    name="ingest",
    help="Take events from a file or an SQL query into the log.",
)
app.command(
    "chopmark.cli.data:features", name="features", help="List the features of an application."
)
app.command(
    "chopmark.cli.model:train",
    name="train",
    help="Train a model on the log, judge it, and put it in use.",
)
app.command(
    "chopmark.cli.backtest:backtest", name="backtest", help="Judge a recipe on real events."
)
app.command("chopmark.cli.serve:serve", name="serve", help="Serve assessments over HTTP.")

easyml = App(name="easyml", help="A model of one table: train, judge, explain, score, serve.")
app.command(easyml)
for name, what, example in (
    (
        "train",
        "Learn from a table, judge what was learned, and save it.",
        "payments.csv --target is_fraud --out fraud.chopmark",
    ),
    (
        "evaluate",
        "Judge a model on labelled rows that it has not seen.",
        "fraud.chopmark march.parquet --target is_fraud --report march.html",
    ),
    (
        "explain",
        "Say which columns moved the score of a row, and how far.",
        "fraud.chopmark march.parquet --row 17",
    ),
    ("score", "Score the rows of a table.", "fraud.chopmark april.csv --keep id --out scores.csv"),
    ("describe", "Say what a model reads, leaves out and was worth.", "fraud.chopmark"),
    ("export", "Write a model as ONNX.", "fraud.chopmark fraud.onnx"),
    ("serve", "Serve a model over HTTP.", "fraud.chopmark --port 8080"),
):
    easyml.command(
        f"chopmark.cli.easyml:{name}",
        name=name,
        help=f"{what}\n\nExample: `chopmark easyml {name} {example}`",
    )


def main() -> None:
    """Run a command; what went wrong on purpose is said in one line, without a traceback."""
    try:
        app()
    except (ChopmarkError, OSError) as error:
        print(f"chopmark: {error}", file=sys.stderr)
        raise SystemExit(1) from None


__all__ = ["app", "main"]
