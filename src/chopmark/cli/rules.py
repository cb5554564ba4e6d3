"""``chopmark rules``: write, review, stage and retire rules; change the lists that they ask."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from cyclopts import Parameter

from chopmark.cli.options import (
    App,
    Approver,
    AsJson,
    Author,
    Data,
    Reason,
    RuleName,
    check_days,
    check_share,
    check_words,
)
from chopmark.cli.orders import give, made, read_along
from chopmark.cli.rulehistory import condition_of, hits_on, past_of, version_of
from chopmark.cli.show import aside, console, progress, say, table
from chopmark.decisions.friction import FRICTIONS
from chopmark.engine import Engine
from chopmark.errors import InvalidInput, RuleError, did_you_mean
from chopmark.expressions import FUNCTIONS
from chopmark.pipelines.rulehistory import share_moved
from chopmark.rules.book import RuleBook, Version, effects_text
from chopmark.rules.orders import (
    ListChanged,
    ListDropped,
    RuleDrafted,
    RuleReviewed,
    RuleSnoozed,
    RuleStaged,
)
from chopmark.rules.rule import Effects, Rule
from chopmark.rules.texts import TEXT_FUNCTIONS

_ASKABLE = ", ".join(name for name in FRICTIONS.names if name != "none")


def drafts(data: Data, *, app: App = None) -> None:
    """List the rules: what they say, how far they are in use, what they did."""
    with read_along(data, app) as engine:
        book = engine.book
        hits = _hits_in_log(engine) if book.versions else {}
    if not book.versions:
        console.print("no rules; write one with `chopmark rules draft`")
    for name, versions in sorted(book.versions.items()):
        for version in versions:
            acted, shadowed = hits.get((name, version.number), (0, 0))
            console.print(f"[bold]{name}[/bold], version {version.number}", highlight=False)
            use, review = _stage_of(book, name, version.number), _review_of(version)
            say(f"{use}; {review}; acted: {acted:,}, true without acting: {shadowed:,}", indent=2)
            say(f"when {version.rule.when}", indent=2)
            if version.rule.on:
                say(f"on {', '.join(version.rule.on)}", indent=2)
            say(f"then {version.rule.then.sentence()}", indent=2)


def draft(
    data: Data,
    name: RuleName,
    *,
    when: Annotated[
        str,
        Parameter(
            help="The condition, such as `amount_usd > 500 and purchase_count_1h >= 3`; see "
            "`chopmark rules functions` and `chopmark features`."
        ),
    ],
    because: Annotated[str, Parameter(help="Why, for those who read a decision.")],
    author: Author,
    on: Annotated[
        tuple[str, ...],
        Parameter(
            help="Event type that it is asked about, --on for each; all by default.",
            negative="",
            show_default=False,
        ),
    ] = (),
    lock_score: Annotated[
        float | None, Parameter(help="Hold the score here: 0.8 for 80 of 100.")
    ] = None,
    lock_days: Annotated[int, Parameter(help="How long a lock holds: 1 to 366.")] = 90,
    score_at_least: Annotated[
        float | None, Parameter(help="Lower bound of the score, 0 to 1.")
    ] = None,
    score_at_most: Annotated[
        float | None, Parameter(help="Upper bound of the score, 0 to 1.")
    ] = None,
    limit_at_least_usd: Annotated[
        float | None, Parameter(help="Lower bound of the weekly limit.")
    ] = None,
    limit_at_most_usd: Annotated[
        float | None, Parameter(help="Upper bound of the weekly limit.")
    ] = None,
    friction: Annotated[
        str | None,
        Parameter(
            help=f"What the user is asked for first: {_ASKABLE}, or one of the application's own."
        ),
    ] = None,
    queue: Annotated[str | None, Parameter(help="Where analysts find the case.")] = None,
    delay_hours: Annotated[float, Parameter(help="The event waits so long.")] = 0.0,
    deny: Annotated[
        bool, Parameter(help="The event is refused.", negative="", show_default=False)
    ] = False,
    tag: Annotated[
        tuple[str, ...],
        Parameter(help="Word for the record, --tag for each.", negative="", show_default=False),
    ] = (),
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Write a rule, or another version of it; it acts on nobody yet."""
    check_words(because=because, author=author)
    said = (lock_score, score_at_least, score_at_most, limit_at_least_usd, limit_at_most_usd,
            friction, queue)  # fmt: skip
    if all(effect is None for effect in said) and not (delay_hours or deny or tag):
        raise RuleError(
            "expected at least one effect, got none; give --limit-at-most-usd or --friction, for "
            "example"
        )
    then = Effects(
        score_at_least=score_at_least, score_at_most=score_at_most, lock_score=lock_score,
        limit_at_least_usd=limit_at_least_usd, limit_at_most_usd=limit_at_most_usd,
        lock_days=lock_days, friction=friction, queue=queue, delay_hours=delay_hours, deny=deny,
        tags=tag,
    )  # fmt: skip
    rule = Rule(name=name, when=when, then=then, because=because, on=on)
    with read_along(data, app) as engine:
        _check_friction(engine, friction)
        known = engine.book.versions.get(name, [])
        engine.book.language.check(rule, engine.book.list_kinds)
    version = known[-1].number + 1 if known else 1
    order = made(RuleDrafted, rule=name, version=version, when=when, effects=effects_text(then),
                 because=because, on=on, author=author)  # fmt: skip
    give(data, app, order, as_json=as_json)
    if not as_json:
        say(f"rule {name}, version {version}: {then.sentence()}")
        console.print(f"next: chopmark rules backtest {data} {name}", highlight=False)


def review(
    data: Data,
    name: RuleName,
    version: Annotated[int, Parameter(help="Number of the version, as `rules list` shows it.")],
    *,
    author: Annotated[str, Parameter(help="Who reviews: not who wrote it.")],
    reject: Annotated[
        bool, Parameter(help="Turn it down.", negative="", show_default=False)
    ] = False,
    comment: Annotated[str, Parameter(help="For its author.")] = "",
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Approve or turn down a version that somebody else wrote."""
    check_words(author=author)
    order = made(RuleReviewed, rule=name, version=version, approved=not reject, comment=comment,
                 author=author)  # fmt: skip
    give(data, app, order, as_json=as_json)


def stage(
    data: Data,
    name: RuleName,
    to: Annotated[
        Literal["shadow", "active", "off"],
        Parameter(help="`shadow` records what it would do, `active` does it, `off` ends both."),
    ],
    *,
    author: Author,
    version: Annotated[
        int | None, Parameter(help="The newest by default; an earlier one goes back to it.")
    ] = None,
    share: Annotated[
        float,
        Parameter(help="Of users, 0 to 1, for whom it acts; always the same ones."),
    ] = 1.0,
    approver: Approver = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Put a version to use, for a share of users or all; or turn a rule off; or go back."""
    check_share("share", share)
    check_words(author=author, approver=approver)
    moves = None
    with read_along(data, app) as engine, aside(as_json):
        chosen = version_of(engine.book, name, version)
        if to == "active":
            condition = condition_of(chosen)
            past, _ = past_of(data, app, engine)
            moves = share_moved(hits_on(engine.book, condition, chosen.rule, past), past)
            moved = (
                "no past to ask" if moves is None else f"it would have moved {moves:.1%} of users"
            )
            console.print(moved, highlight=False)
    order = made(RuleStaged, rule=name, version=chosen.number, stage=to, share=share, moves=moves,
                 author=author, approver=approver)  # fmt: skip
    give(data, app, order, as_json=as_json)


def snooze(
    data: Data,
    name: RuleName,
    *,
    reason: Reason,
    author: Author,
    user: Annotated[str | None, Parameter(help="On whom; everybody by default.")] = None,
    days: Annotated[float, Parameter(help="How long it does not act.")] = 7.0,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Let a rule not act on a user, or on anybody, for some days."""
    check_words(reason=reason, author=author)
    check_days(days)
    until = datetime.now(UTC) + timedelta(days=days)
    order = made(RuleSnoozed, rule=name, user=user, until=until, reason=reason, author=author)
    give(data, app, order, as_json=as_json)


def members(
    data: Data,
    name: Annotated[str, Parameter(help="Of the list.")],
    *,
    author: Annotated[
        str | None, Parameter(help="Who changes it; nobody is needed to look.")
    ] = None,
    add: Annotated[
        tuple[str, ...],
        Parameter(help="A member that enters, --add for each.", negative="", show_default=False),
    ] = (),
    remove: Annotated[
        tuple[str, ...],
        Parameter(help="A member that leaves, --remove for each.", negative="", show_default=False),
    ] = (),
    drop: Annotated[
        bool,
        Parameter(
            help="The list goes, if no rule in use asks it.", negative="", show_default=False
        ),
    ] = False,
    reason: Annotated[str, Parameter(help="Why, for whoever reads it later.")] = "",
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Show a named list, change its members, or drop it; the first change makes it."""
    if (drop or add or remove) and author is None:
        raise InvalidInput(f"expected --author, who changes list `{name}`")
    check_words(author=author)
    if drop:
        give(data, app, made(ListDropped, list_name=name, author=author), as_json=as_json)
    elif add or remove:
        order = made(ListChanged, list_name=name, added=add, removed=remove, reason=reason,
                     author=author)  # fmt: skip
        give(data, app, order, as_json=as_json)
    else:
        with read_along(data, app) as engine:
            lists = engine.book.lists
        if name not in lists:
            hint = did_you_mean(name, lists) if lists else "; there are none yet"
            raise RuleError(f"there is no list `{name}`{hint}")
        for member in sorted(lists[name]):
            print(member)


def functions() -> None:
    """List what a rule may call and read."""
    rows = [(f"{name}({', '.join('xyz'[: len(f.arguments)])})", f.meaning)
            for name, f in FUNCTIONS.items()]  # fmt: skip
    rows += [("missing(x)", "whether x is missing"), ("coalesce(x, y)", "y where x is missing")]
    for name, f in TEXT_FUNCTIONS.items():
        arguments = ["y" if kind == "text" else '"..."' for kind in f.arguments[1:]]
        rows.append((f"{name}({', '.join(['x', *arguments])})", f.meaning))
    rows += [
        ('x in list("name")', "x is a member of a named list"),
        ("x in (1, 2)", "x is one of these"),
        ("score", "of the model, 0 to 1"),
        ("event_type", "of the event at hand"),
        ("as_of, happened_at", "when it was known, and when it was"),
    ]
    table("What a rule may ask", ("", "meaning"), rows)
    console.print("and every feature (`chopmark features`) and field of the event, by name")


def _hits_in_log(engine: Engine) -> dict[tuple[str, int], tuple[int, int]]:
    """How often each version acted, and was true without acting."""
    counts: dict[tuple[str, int], tuple[int, int]] = {}
    with progress("read the decisions", engine.log.last_offset) as done:
        for batch in engine.log.read():
            for _, event in batch:
                for hit in getattr(event, "rules", ()):
                    acted, shadowed = counts.get((hit.rule, hit.version), (0, 0))
                    acts = hit.standing == "acts"
                    counts[hit.rule, hit.version] = (acted + acts, shadowed + (not acts))
            done(batch[-1][0])
    return counts


def _stage_of(book: RuleBook, name: str, number: int) -> str:
    use = book.staged.get(name)
    if use is None or use.version != number or use.stage == "off":
        return "not in use"
    return f"{use.stage} for {use.share:.0%} of users" if use.share < 1.0 else use.stage


def _review_of(version: Version) -> str:
    words = {
        None: "not reviewed",
        True: f"approved by {version.reviewer}",
        False: f"turned down by {version.reviewer}",
    }
    return f"by {version.author}, {words[version.reviewed]}"


def _check_friction(engine: Engine, friction: str | None) -> None:
    names = engine.policy.frictions.names
    if friction is not None and friction not in names:
        raise RuleError(f"there is no friction `{friction}`" + did_you_mean(friction, names))
