"""``chopmark decision``: tell why, and make a recorded decision again."""

from pathlib import Path

from chopmark.cli.orders import opened
from chopmark.cli.show import console, progress, table
from chopmark.decisions.decision import PREFIX, Decision, decision_id
from chopmark.decisions.words import tell
from chopmark.engine import replayed
from chopmark.errors import InvalidInput


def explain(data: Path, event: str, *, app: str | None = None) -> None:
    """Tell a decision in words: what a user may hear, and what is for the inside.

    Parameters
    ----------
    data
        Folder with the log.
    event
        Id of the event that it answers, or of the decision.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    """
    with opened(data, app) as engine:
        decision = engine.log.find(event if event.startswith(PREFIX) else decision_id(event))
        if not isinstance(decision, Decision):
            raise InvalidInput(f"expected an event that was decided about, got `{event}`")
        names = engine.catalog.names
    told = tell(decision, frictions=engine.policy.frictions)
    console.print("[bold]For the user[/bold]")
    for sentence in told.to_user:
        console.print("  " + sentence, highlight=False)
    console.print("[bold]Inside[/bold]")
    for sentence in told.inside:
        console.print("  " + sentence, highlight=False, markup=False)
    table(
        f"{decision.id}: made at {decision.known_at:%Y-%m-%d %H:%M:%S} UTC",
        ("", "value"),
        [
            ("user", decision.user),
            ("action", decision.action),
            ("authority", decision.authority),
            ("limit, USD a week", f"{decision.limit_usd:,.2f}"),
            ("allowed, USD", f"{decision.allowed_usd:,.2f}"),
            ("model", (decision.model or "none")[:12]),
            ("policy", decision.policy[:12]),
            ("rules", decision.book[:12]),
            ("features read", str(len(names))),
            ("took, µs", str(decision.latency_us)),
        ],
    )


def replay(data: Path, event: str | None = None, *, app: str | None = None) -> None:
    """Make recorded decisions again, bit for bit, each with the rules of its time.

    Ends with exit code 1 if any comes out otherwise.

    Parameters
    ----------
    data
        Folder with the log and the model.
    event
        Id of one event that was decided about; all by default.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    """
    wanted = None if event is None else event.removeprefix(PREFIX)
    count, differing = 0, []
    with opened(data, app) as engine, progress("replay", None) as done:
        for decision, fields in replayed(engine, engine.log):
            if wanted not in (None, decision.about):
                continue
            count += 1
            if fields:
                differing.append((decision.id, ", ".join(fields)))
            if count % 1000 == 0:
                done(count)
    if count == 0:
        raise InvalidInput(
            f"expected decisions to replay, got none{f' about `{event}`' if event else ''}"
        )
    console.print(f"{count:,} decisions made again, {len(differing):,} differ", highlight=False)
    if differing:
        table("The first that differ", ("decision", "in"), differing[:20])
        raise SystemExit(1)
