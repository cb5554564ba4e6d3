"""``chopmark user show``: what holds of a user, and what was decided about them last."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import msgspec
from cyclopts import Parameter

from chopmark.cli.options import App, Data, User
from chopmark.cli.orders import has_events, read_along
from chopmark.cli.show import console, say
from chopmark.decisions.decision import Decision
from chopmark.decisions.friction import Frictions
from chopmark.decisions.orders import Banned, LockSet, OverrideSet, VipMarked
from chopmark.decisions.words import tell
from chopmark.engine import Engine
from chopmark.errors import InvalidInput
from chopmark.events import Event
from chopmark.pipelines.folder import marked
from chopmark.times import moment


def show(
    data: Data,
    user: User,
    *,
    most: Annotated[int, Parameter(help="Decisions at most, the newest first.")] = 3,
    app: App = None,
) -> None:
    """Show the orders in force for a user, and the last decisions about them in words."""
    if most < 0:
        raise InvalidInput(f"expected --most of 0 or more, got {most}")
    with read_along(data, app) as engine:
        if not has_events(engine.log, engine.schema, user):
            raise InvalidInput(f"expected a user with events in the log, got `{user}`")
        # As the features would see it at the next event.
        now = moment(engine.log.known_at())
        lines = list(_orders(engine, user, now))
        decisions = _decisions(engine, user)
    console.print(f"{user}, as known at {_minute(now)}", style="bold", highlight=False,
                  markup=False)  # fmt: skip
    for line in lines or ["no lock, override, ban or VIP mark"]:
        say(line, indent=2)
    console.print(f"[bold]{len(decisions):,} decisions[/bold]", highlight=False)
    for decision in reversed(decisions[len(decisions) - most :] if most else []):
        say(_in_words(decision, engine.policy.frictions), indent=2)
    if decisions and most:
        say(f"more on one: chopmark decision explain {data} {decisions[-1].about}")


def _orders(engine: Engine, user: str, now: datetime) -> Iterator[str]:
    """A sentence for each order that holds, and for each that has run out by itself."""
    ban = _standing(engine, user, "banned", "ban_lifted")
    if isinstance(ban, Banned):
        yield f"banned since {_minute(ban.known_at)} by {ban.author}: {ban.reason}"
    lock = _standing(engine, user, "lock_set", "lock_released")
    if isinstance(lock, LockSet):
        what = f"score locked at {100 * lock.score:.3g} of 100"
        yield f"{what} {_until(lock, now)}: {lock.reason}"
    override = _standing(engine, user, "override_set", "override_released")
    if isinstance(override, OverrideSet):
        what = f"weekly limit set to {override.limit_usd:,.2f} USD"
        yield f"{what} {_until(override, now)}: {override.reason}"
    mark = engine.log.latest("vip_marked", user)
    if isinstance(mark, VipMarked) and mark.vip:
        yield f"VIP since {_minute(mark.known_at)}, by {mark.author}"


def _standing(engine: Engine, user: str, begin: str, end: str) -> Event | None:
    """The last order of a type, if none has ended it: as `chopmark.decisions.standing` has it."""
    begun, ended = engine.log.latest(begin, user), engine.log.latest(end, user)
    if begun is None or ended is None or _known(begun) >= _known(ended):
        return begun
    return None


def _until(order: LockSet | OverrideSet, now: datetime) -> str:
    ends = "until" if order.expires_at > now else "but it ended at"
    approved = f", approved by {order.approver}" if order.approver else ""
    return f"{ends} {_minute(order.expires_at)}, by {order.author}{approved}"


def _decisions(engine: Engine, user: str) -> list[Decision]:
    """All decisions about a user, oldest first."""
    name = msgspec.json.encode(user)
    found = (event for _, event in marked(engine.log, name))
    return [event for event in found if isinstance(event, Decision) and event.user == user]


def _in_words(decision: Decision, frictions: Frictions) -> str:
    told = tell(decision, frictions=frictions)
    return (
        f"{decision.about}, {_minute(decision.known_at)}: {told.to_user[0]} {told.inside[0]} "
        f"Limit {decision.limit_usd:,.2f} USD a week."
    )


def _known(event: Event) -> datetime:
    return event.known_at or event.happened_at


def _minute(at: datetime | None) -> str:
    return "an unknown time" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"
