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

app.command(
    "chopmark.cli.readouts:fraud_rate",
    name="fraud-rate",
    help="Show the fraud rate by purchase cohort, matured, and whether it is above a target.",
)

audit = App(name="audit", help="A log that cannot be changed unseen: keys, checkpoints, verify.")
app.command(audit)
audit.command(
    "chopmark.cli.audit:key",
    name="key",
    help="Make a key that signs checkpoints.\n\nExample: `chopmark audit key audit.pem`",
)
audit.command(
    "chopmark.cli.audit:checkpoint",
    name="checkpoint",
    help="Sign the state of a log, in a file kept elsewhere.\n\n"
    "Example: `chopmark audit checkpoint data --key audit.pem --to checkpoints.jsonl`",
)
audit.command(
    "chopmark.cli.audit:verify_log",
    name="verify",
    help="Compute the chain of a log anew and name the first record that is broken.\n\n"
    "Example: `chopmark audit verify data --checkpoints checkpoints.jsonl --key audit.pem.pub`",
)

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


rules = App(name="rules", help="Rules: write, judge, review, stage; and the lists they ask.")
app.command(rules)
for name, called, what, example in (
    ("list", "drafts", "List the rules, their stages and hits.", "data"),
    (
        "draft",
        "draft",
        "Write a rule, or another version of it.",
        "data many --when 'purchase_count_1h >= 3' --limit-at-most-usd 100 "
        "--because 'three in an hour' --author ann",
    ),
    ("backtest", "backtest", "Judge a rule on the past.", "data many"),
    (
        "review",
        "review",
        "Approve or turn down somebody else's version.",
        "data many 1 --author bob",
    ),
    (
        "stage",
        "stage",
        "Put a version to use, or turn a rule off.",
        "data many shadow --author ann",
    ),
    (
        "snooze",
        "snooze",
        "Let a rule not act for some days.",
        "data many --user u-17 --days 3 --reason 'known customer' --author ann",
    ),
    (
        "members",
        "members",
        "Show or change a named list.",
        "data bad_issuers --add First --author ann",
    ),
    ("suggest", "suggest", "Find rules in the labelled past.", "data"),
    ("functions", "functions", "List what a rule may call and read.", ""),
):
    rules.command(
        f"chopmark.cli.rules:{called}",
        name=name,
        help=f"{what}\n\nExample: `chopmark rules {name} {example}`",
    )

user = App(name="user", help="Users: lock a score, override a limit, ban, mark.")
app.command(user)
for name, what, example in (
    ("lock", "Hold a user's score at a value.", "data u-17 --score 0.8 --reason ring --author ann"),
    ("release", "End a user's lock and override.", "data u-17 --reason cleared --author ann"),
    (
        "override",
        "Set a user's weekly limit by hand.",
        "data u-17 --limit-usd 5000 --reason 'a firm' --author ann",
    ),
    ("ban", "Ban a user, or lift the ban.", "data u-17 --reason 'stolen cards' --author ann"),
    ("vip", "Mark a user whose restrictions people want to see.", "data u-17 --author ann"),
):
    user.command(
        f"chopmark.cli.orders:{name}",
        name=name,
        help=f"{what}\n\nExample: `chopmark user {name} {example}`",
    )

decision = App(name="decision", help="Decisions: told in words, and made again.")
app.command(decision)
decision.command(
    "chopmark.cli.decision:explain",
    name="explain",
    help="Tell a decision in words.\n\nExample: `chopmark decision explain data p-17`",
)
decision.command(
    "chopmark.cli.decision:replay",
    name="replay",
    help="Make decisions again, bit for bit.\n\nExample: `chopmark decision replay data`",
)

webhooks = App(name="webhooks", help="Webhooks: signed events for endpoints elsewhere.")
app.command(webhooks)
for name, called, what, example in (
    (
        "add",
        "add",
        "Add an endpoint, and show its secret.",
        "data desk https://desk.example/hooks --types decision --with-friction",
    ),
    ("list", "endpoints", "List the endpoints and how far each has come.", "data"),
    ("rotate", "rotate", "Give an endpoint a new secret beside the old one.", "data desk"),
    ("remove", "remove", "Take an endpoint out.", "data desk"),
    ("run", "run", "Send what is in the log and what comes.", "data"),
    ("test", "knock", "Send an endpoint a message about nothing.", "data desk"),
    ("retry-dead", "retry", "Send dead letters once more.", "data desk"),
):
    webhooks.command(
        f"chopmark.cli.webhooks:{called}",
        name=name,
        help=f"{what}\n\nExample: `chopmark webhooks {name} {example}`",
    )


def main() -> None:
    """Run a command; what went wrong on purpose is said in one line, without a traceback."""
    try:
        app()
    except (ChopmarkError, OSError) as error:
        print(f"chopmark: {error}", file=sys.stderr)
        raise SystemExit(1) from None


__all__ = ["app", "main"]
