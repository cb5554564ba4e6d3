"""``chopmark decision``: tell why, and make a recorded decision again."""

from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from chopmark.cli.options import App, Data
from chopmark.cli.orders import read_along
from chopmark.cli.show import console, progress, say, table
from chopmark.decisions.decision import PREFIX, Decision, decision_id
from chopmark.decisions.words import tell
from chopmark.engine import Engine, replayed
from chopmark.errors import InvalidInput
from chopmark.events import type_name
from chopmark.rules.orders import ABOUT_RULES


def explain(
    data: Data,
    event: Annotated[str, Parameter(help="Id of the event that it answers, or of the decision.")],
    *,
    app: App = None,
) -> None:
    """Tell a decision in words: what a user may hear, and what is for the inside."""
    with read_along(data, app) as engine:
        decision = _found(engine, event)
        names = engine.catalog.names
    told = tell(decision, frictions=engine.policy.frictions)
    for title, sentences in (("For the user", told.to_user), ("Inside", told.inside)):
        console.print(f"[bold]{title}[/bold]")
        for sentence in sentences:
            say(sentence, indent=2)
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


def replay(
    data: Data,
    event: Annotated[
        str | None, Parameter(help="Id of one event that was decided about; all by default.")
    ] = None,
    *,
    app: App = None,
) -> None:
    """Make recorded decisions again, bit for bit, each with the rules of its time."""
    count, differing = 0, []
    with read_along(data, app) as engine:
        one = None if event is None else _found(engine, event)
        again = replayed(engine, engine.log) if one is None else _replayed_one(engine, one)
        with progress("replay") as done:
            for decision, fields in again:
                count += 1
                if fields:
                    differing.append((decision.id, ", ".join(fields)))
                if count % 1000 == 0:
                    done(count)
    if count == 0:
        raise InvalidInput("expected decisions to replay, got none; the log has only events")
    console.print(
        f"{count:,} {'decision' if count == 1 else 'decisions'} made again, "
        f"{len(differing):,} differ",
        highlight=False,
    )
    if differing:
        table("The first that differ", ("decision", "in"), differing[:20])
        raise SystemExit(1)


def _found(engine: Engine, event: str) -> Decision:
    """The decision about an event."""
    about = event.removeprefix(PREFIX)
    decision = engine.log.find(decision_id(about))
    if isinstance(decision, Decision):
        return decision
    known = engine.log.find(about)
    if known is None:
        raise InvalidInput(
            f"expected the id of an event in the log, got `{event}`, which is not there; "
            "`chopmark user show` lists those of a user's last decisions"
        )
    kind = type_name(known)
    why = (
        "it came without a decision, as history does"
        if kind in engine.policy.assessed
        else f"the policy decides about {', '.join(sorted(engine.policy.assessed))}"
    )
    raise InvalidInput(
        f"expected an event that was decided about, got `{event}`: a {kind} of the log without "
        f"a decision; {why}"
    )


def _replayed_one(engine: Engine, wanted: Decision) -> Iterator[tuple[Decision, list[str]]]:
    """As `replayed`, of one decision: only the rules before it are gone through."""
    book = engine.empty_book()
    for batch in engine.log.read():
        for _, event in batch:
            if isinstance(event, ABOUT_RULES):
                book.apply(event)
            elif event.id == wanted.id:
                yield wanted, engine.recompute(wanted, book=book)
                return
