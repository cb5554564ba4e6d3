"""The command line: one file per group of commands.

In come a data folder and an application; out come progress, tables, and a running service.
``chopmark --help`` lists the commands, ``chopmark COMMAND --help`` teaches one.
Serves rows A2, E3, E16, G25, I1 and I14 of the requirements.
"""

import sys

from cyclopts import App

from chopmark.errors import ChopmarkError


def _help(group: str, name: str, what: str, more: str, example: str) -> str:
    """What a list of commands shows, then the rest in paragraphs of its own."""
    parts = (what, more, f"Example: `{f'chopmark {group} {name} {example}'.strip()}`")
    return "\n\n".join(part for part in parts if part)


app = App(name="chopmark", help="Events in, decisions out: risk and personalization.")
app.command(
    "chopmark.cli.demo:demo",
    name="demo",
    help="Run the whole loop on a simulated exchange, then serve it.\n\n"
    "Example: `chopmark demo --quick --data data`",
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
    help="Show the fraud rate by purchase cohort, matured, and whether it is above a target.\n\n"
    "Ends with exit code 1 if a mature cohort is above it. The log may be in use.\n\n"
    "Example: `chopmark fraud-rate data --target 0.003`",
)
app.command(
    "chopmark.cli.losses:report",
    name="losses",
    help="Show what decisions prevented, what was suffered, and what it cost good users.\n\n"
    "Judged by what is known by now, nothing counted twice, assumptions below. The log may be in "
    "use.\n\nExample: `chopmark losses data --since 2026-01-01 --by month --csv ledger.csv`",
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

foundation = App(
    name="foundation",
    help="User models: learn users from events without labels, then any use case from few labels.",
)
app.command(foundation)
for name, called, what, more, example in (
    (
        "tokens",
        "foundation:tokens",
        "Say what a network would see of events, and what is refused and why.",
        "A first look before `pretrain`: needs no torch and trains nothing.",
        "events.parquet --user customer --time ts",
    ),
    (
        "pretrain",
        "foundation:pretrain",
        "Learn what users are like from what they did, without labels.",
        "The file is a space: all vectors that it makes compare with each other, and with those "
        "of no other.",
        "events.parquet space.chopmark --seconds 600",
    ),
    (
        "embed",
        "foundation:embed",
        "Give each user a vector.",
        "With --update only those with events since; the folder is replaced as a whole.",
        "space.chopmark events.parquet vectors --as-of 2026-01-31T00:00:00Z",
    ),
    (
        "similar",
        "foundation:similar",
        "Find the users who are most like some.",
        "No label is learned from; --unlike says what to move away from.",
        "space.chopmark events.parquet --users ann,bo --unlike cy",
    ),
    (
        "adapt",
        "adapt:adapt",
        "Make a model for a new use case, from labels to a file that can be served.",
        "All uses of the space are tried on the labels and shown; the best that reads a history "
        "alone is saved.",
        "space.chopmark events.parquet churned.csv churn.chopmark",
    ),
    (
        "benchmark",
        "suite:benchmark",
        "Take a user model through all tasks of the suite.",
        "Results are kept and compared; a run that was broken off goes on where it was.",
        "pairs --task pairs --data data --report suite.html --baseline mixed",
    ),
):
    foundation.command(
        f"chopmark.cli.{called}", name=name, help=_help("foundation", name, what, more, example)
    )

target = App(name="target", help="Smart Targeting: whom to notify, learned from who answered.")
foundation.command(target)
for name, what, more, example in (
    (
        "plan",
        "Say whom to notify today: a random group, and the best of the others.",
        "The first days are random, until five have engaged. A day that is planned again gives "
        "the same list.",
        "campaign.parquet events.parquet --budget 500 --out today.csv",
    ),
    (
        "answer",
        "Write down who of a day's users engaged.",
        "May be done again as late answers come in.",
        "campaign.parquet opened.csv",
    ),
    (
        "report",
        "Draw what a campaign brought, with intervals.",
        "",
        "campaign.parquet campaign.html",
    ),
    (
        "simulate",
        "Run one campaign with every strategy on simulated users.",
        "",
        "--users 2000 --days 4 --no-space",
    ),
):
    target.command(
        f"chopmark.cli.campaign:{name}",
        name=name,
        help=_help("foundation target", name, what, more, example),
    )

chain = App(
    name="chain", help="Address risk: transfers of a chain in, a score of every address out."
)
app.command(chain)
for name, what, more, example in (
    (
        "run",
        "Read files, build the graph, embed it, learn from labels, and score every address.",
        "Run again without files, it learns anew from what was read.",
        "ethereum labels.csv --transactions transactions.csv --token-transfers token_transfers.csv",
    ),
    (
        "update",
        "Read newer files, and embed and score what they touched.",
        "Rows that were read before count once; a run that was killed is made up for.",
        "ethereum --transactions today.csv",
    ),
    (
        "risk",
        "Say how risky addresses are.",
        "",
        "ethereum 0x00000000219ab540356cbb839cbe05303d7705fa",
    ),
    (
        "why",
        "Say what moved the score of an address, and where its money came from and went to.",
        "",
        "ethereum 0x00000000219ab540356cbb839cbe05303d7705fa",
    ),
    ("export", "Write the scores of all addresses.", "", "ethereum scores.parquet"),
    (
        "simulate",
        "Write a simulated chain as files of Ethereum ETL, its last days apart, and labels.",
        "",
        "files --addresses 20000",
    ),
):
    chain.command(
        f"chopmark.cli.chain:{name}", name=name, help=_help("chain", name, what, more, example)
    )

labels = App(
    name="labels", help="Labels of addresses: who says what, who objects, and who was wrong."
)
chain.command(labels)
for name, called, what, more, example in (
    (
        "add",
        "add",
        "Record the labels of a table, all of them or none.",
        "The first ones make the file, in which `chain run` finds what to learn from. A source is "
        "declared with its --rank when it is first heard of: 1 is believed most.",
        "ethereum files/labels.csv --rank 3",
    ),
    (
        "show",
        "show",
        "Show what holds of an address, and all that was ever said of it.",
        "Of one source its newest label holds; of several that of the best rank.",
        "ethereum 0x00000000219ab540356cbb839cbe05303d7705fa",
    ),
    (
        "retract",
        "retract",
        "Record that a source takes back what it said of an address.",
        "",
        "ethereum 0x00000000219ab540356cbb839cbe05303d7705fa --source forum --by ann "
        "--reason 'typing error'",
    ),
    (
        "appeal",
        "appeal",
        "Record that somebody objects to an address being called illicit, by a source or a score.",
        "What is said of it holds until the appeal is ruled on.",
        "ethereum 0x00000000219ab540356cbb839cbe05303d7705fa --by owner --reason 'sold in May'",
    ),
    (
        "rule",
        "rule",
        "Rule on an appeal; upheld, the address is licit from then on, whatever a list says.",
        "The next `chain run` learns from it.",
        "ethereum 17 --uphold --by ann --reason 'proof of sale'",
    ),
    ("appeals", "appeals", "List the appeals, open ones first.", "", "ethereum"),
    (
        "false-positives",
        "false_positives",
        "Show how often each source, and the scores, called an address illicit that was not.",
        "As far as it is known, with intervals; and what sources later said of whom a score had "
        "flagged.",
        "ethereum",
    ),
):
    labels.command(
        f"chopmark.cli.chainlabels:{called}",
        name=name,
        help=_help("chain labels", name, what, more, example),
    )

rules = App(
    name="rules",
    help="Rules: write, judge, review, stage; and the lists they ask.\n\n"
    "What only looks (list, backtest, suggest, members) works beside a running service; what "
    "writes needs the log for itself, or --as-json.",
)
app.command(rules)
for name, called, what, more, example in (
    (
        "list",
        "rules:drafts",
        "List the rules, their stages and hits.",
        "Works beside a running service.",
        "data",
    ),
    (
        "draft",
        "rules:draft",
        "Write a rule, or another version of it.",
        "It is checked at once and acts on nobody yet: next come backtest, review and stage.",
        "data many --when 'purchase_count_1h >= 3' --limit-at-most-usd 100 "
        "--because 'three in an hour' --author ann",
    ),
    (
        "backtest",
        "rulehistory:backtest",
        "Judge a rule on the past.",
        "Rows whose label has not had time to come are counted apart, and are nobody's false "
        "positive. Works beside a running service.",
        "data many",
    ),
    (
        "review",
        "rules:review",
        "Approve or turn down somebody else's version.",
        "No version acts without it.",
        "data many 1 --author bob",
    ),
    (
        "stage",
        "rules:stage",
        "Put a version to use, or turn a rule off.",
        "Before it acts, the past says how many users it would have moved: above 5 % of them, or "
        "where there is no past, an --approver is needed. `--share 0.1` begins with a tenth of "
        "the users; `--version 1` goes back to an earlier version.",
        "data many shadow --author ann",
    ),
    (
        "snooze",
        "rules:snooze",
        "Let a rule not act for some days.",
        "On one user with --user, else on nobody; 7 days unless --days says otherwise.",
        "data many --user u-17 --days 3 --reason 'known customer' --author ann",
    ),
    (
        "members",
        "rules:members",
        "Show or change a named list.",
        'A rule asks it with `issuer in list("bad_issuers")`; the first change makes it.',
        "data bad_issuers --add First --author ann",
    ),
    (
        "suggest",
        "rulehistory:suggest",
        "Find rules in the labelled past.",
        "Only those that users held out of the search confirm. Works beside a running service.",
        "data",
    ),
    ("functions", "rules:functions", "List what a rule may call and read.", "", ""),
):
    rules.command(
        f"chopmark.cli.{called}", name=name, help=_help("rules", name, what, more, example)
    )

user = App(name="user", help="Users: show, lock a score, override a limit, ban, mark.")
app.command(user)
for name, called, what, more, example in (
    (
        "show",
        "usershow:show",
        "Show the orders in force for a user, and the last decisions.",
        "Works beside a running service.",
        "data u-17",
    ),
    (
        "lock",
        "orders:lock",
        "Hold a user's score at a value.",
        "Whatever a model says meanwhile: the lock survives rescoring and another model, for 90 "
        "days unless --days says otherwise, or until `user release`.",
        "data u-17 --score 0.8 --reason ring --author ann",
    ),
    (
        "release",
        "orders:release",
        "End a user's lock and override.",
        "",
        "data u-17 --reason cleared --author ann",
    ),
    (
        "override",
        "orders:override",
        "Set a user's weekly limit by hand.",
        "For 30 days unless --days says otherwise, or until `user release`.",
        "data u-17 --limit-usd 5000 --reason 'a firm' --author ann",
    ),
    (
        "ban",
        "orders:ban",
        "Ban a user, or lift the ban.",
        "Nothing that moves money is done for a banned user.",
        "data u-17 --reason 'stolen cards' --author ann",
    ),
    (
        "vip",
        "orders:vip",
        "Mark a user whose restrictions people want to see.",
        "",
        "data u-17 --author ann",
    ),
):
    user.command(f"chopmark.cli.{called}", name=name, help=_help("user", name, what, more, example))

decision = App(name="decision", help="Decisions: told in words, and made again.")
app.command(decision)
for name, what, more, example in (
    (
        "explain",
        "Tell a decision in words.",
        "What a user may hear, and what is for the inside only. `chopmark user show` lists ids. "
        "Works beside a running service.",
        "data p-17",
    ),
    (
        "replay",
        "Make decisions again, bit for bit.",
        "Each with the rules of its time; exit code 1 if one comes out otherwise. Works beside a "
        "running service.",
        "data",
    ),
):
    decision.command(
        f"chopmark.cli.decision:{name}",
        name=name,
        help=_help("decision", name, what, more, example),
    )

keys = App(name="keys", help="Keys: who may speak to the service, and who may give orders.")
app.command(keys)
for name, called, what, more, example in (
    (
        "add",
        "add",
        "Make a key, and show it once.",
        "With --orders it may give orders too: those that name its owner as their author.",
        "data ann --orders",
    ),
    ("list", "show", "List the keys and what they may do.", "", "data"),
    ("revoke", "revoke", "Let a key open nothing any more.", "", "data ann"),
):
    keys.command(
        f"chopmark.cli.keys:{called}", name=name, help=_help("keys", name, what, more, example)
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
