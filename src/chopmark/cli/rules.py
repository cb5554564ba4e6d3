"""``chopmark rules``: write, judge, review, stage and retire rules; change lists."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from cyclopts import Parameter

from chopmark.cli.application import load_application
from chopmark.cli.orders import give, made, opened
from chopmark.cli.show import console, number, progress, table
from chopmark.engine import Engine
from chopmark.errors import InvalidInput, RuleError, did_you_mean
from chopmark.expressions import FUNCTIONS, Condition
from chopmark.features import Label
from chopmark.models import load_scorer
from chopmark.models.encoder import num_cores
from chopmark.pipelines.folder import DataFolder
from chopmark.pipelines.rulehistory import rule_history, share_moved
from chopmark.rules.book import RuleBook, Version, effects_text
from chopmark.rules.code import RuleCode
from chopmark.rules.columns import hits_of
from chopmark.rules.judging import Figures, History, counterexamples, judge
from chopmark.rules.orders import (
    ListChanged,
    ListDropped,
    RuleDrafted,
    RuleReviewed,
    RuleSnoozed,
    RuleStaged,
)
from chopmark.rules.rule import Effects, Rule
from chopmark.rules.suggestions import suggest_rules
from chopmark.rules.texts import TEXT_FUNCTIONS

_UNUSED = "not in use"


def drafts(data: Path, *, app: str | None = None) -> None:
    """List the rules: what they say, how far they are in use, what they did.

    Parameters
    ----------
    data
        Folder with the log.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    """
    with opened(data, app) as engine:
        book = engine.book
        hits = _hits_in_log(engine)
    if not book.versions:
        console.print("no rules; write one with `chopmark rules draft`")
        return
    rows = []
    for name, versions in sorted(book.versions.items()):
        for version in versions:
            acted, shadowed = hits.get((name, version.number), (0, 0))
            rows.append((name, str(version.number), _stage_of(book, name, version.number),
                         _review_of(version), f"{acted:,}", f"{shadowed:,}",
                         version.rule.when, version.rule.then.sentence()))  # fmt: skip
    table(
        "Rules", ("rule", "version", "stage", "review", "acted", "shadowed", "when", "then"), rows
    )


def draft(
    data: Path,
    name: str,
    *,
    when: str,
    because: str,
    author: str,
    on: tuple[str, ...] = (),
    lock_score: float | None = None,
    lock_days: int = 90,
    score_at_least: float | None = None,
    score_at_most: float | None = None,
    limit_at_least_usd: float | None = None,
    limit_at_most_usd: float | None = None,
    friction: str | None = None,
    queue: str | None = None,
    delay_hours: float = 0.0,
    deny: bool = False,
    tag: tuple[str, ...] = (),
    app: str | None = None,
    as_json: bool = False,
) -> None:
    """Write a rule, or another version of it; it acts on nobody yet.

    Parameters
    ----------
    data
        Folder with the log.
    name
        Of the rule: small letters, digits and `_`.
    when
        The condition, such as `amount_usd > 500 and purchase_count_1h >= 3`; see `chopmark rules
        functions` and `chopmark features`.
    because
        Why, for those who read a decision.
    author
        Who writes it.
    on
        Event type that it is asked about; several may be given; all by default.
    lock_score
        Hold the score here (0.8 for 80 of 100) for `lock_days`.
    score_at_least, score_at_most
        Bounds of the score.
    limit_at_least_usd, limit_at_most_usd
        Bounds of the weekly limit.
    friction
        What the user is asked for first.
    queue
        Where analysts find the case.
    delay_hours
        The event waits so long.
    deny
        The event is refused.
    tag
        Word for the record; several may be given.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    as_json
        Print the order instead, for a service that has the log open.
    """
    then = Effects(
        score_at_least=score_at_least, score_at_most=score_at_most, lock_score=lock_score,
        limit_at_least_usd=limit_at_least_usd, limit_at_most_usd=limit_at_most_usd,
        lock_days=lock_days, friction=friction, queue=queue, delay_hours=delay_hours, deny=deny,
        tags=tag,
    )  # fmt: skip
    rule = Rule(name=name, when=when, then=then, because=because, on=on)
    with opened(data, app) as engine:
        _check_friction(engine, friction)
        known = engine.book.versions.get(name, [])
        engine.book.language.check(rule, engine.book.list_kinds)
    version = known[-1].number + 1 if known else 1
    order = made(RuleDrafted, rule=name, version=version, when=when, effects=effects_text(then),
                 because=because, on=on, author=author)  # fmt: skip
    give(data, app, order, as_json=as_json)
    if not as_json:
        console.print(f"rule {name}, version {version}: {then.sentence()}", highlight=False)
        console.print(f"next: chopmark rules backtest {data} {name}", highlight=False)


def review(
    data: Path, name: str, version: int, *, author: str, reject: bool = False, comment: str = "",
    app: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Approve or turn down a version that somebody else wrote.

    Parameters
    ----------
    data
        Folder with the log.
    reject
        Turn it down.
    comment
        For its author.
    """
    order = made(RuleReviewed, rule=name, version=version, approved=not reject, comment=comment,
                 author=author)  # fmt: skip
    give(data, app, order, as_json=as_json)


def stage(
    data: Path, name: str, to: Literal["shadow", "active", "off"], *, author: str,
    version: int | None = None, share: float = 1.0, approver: str | None = None,
    app: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Put a version to use, for a share of users or all; or turn a rule off; or go back.

    Before it acts, the past says how many users it would have moved; many need an approver.

    Parameters
    ----------
    data
        Folder with the log.
    to
        `shadow` records what it would do, `active` does it, `off` ends both.
    author
        Who says so.
    version
        The newest by default; an earlier one goes back to it.
    share
        Of users, for whom it acts; always the same ones.
    approver
        A second person.
    """
    moves = None
    with opened(data, app) as engine:
        chosen = _version(engine.book, name, version)
        if to == "active":
            past, _ = _history(data, app, engine)
            hits = _hits(engine.book, _condition(chosen), chosen.rule, past)
            moves = share_moved(hits, past)
            console.print(f"it would have moved {moves:.2%} of users", highlight=False)
    order = made(RuleStaged, rule=name, version=chosen.number, stage=to, share=share, moves=moves,
                 author=author, approver=approver)  # fmt: skip
    give(data, app, order, as_json=as_json)


def snooze(
    data: Path, name: str, *, reason: str, author: str, user: str | None = None,
    days: float = 7.0, app: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Let a rule not act on a user, or on anybody, for some days.

    Parameters
    ----------
    data
        Folder with the log.
    user
        On whom; everybody by default.
    """
    until = datetime.now(UTC) + timedelta(days=days)
    order = made(RuleSnoozed, rule=name, user=user, until=until, reason=reason, author=author)
    give(data, app, order, as_json=as_json)


def members(
    data: Path, name: str, *, author: str | None = None, add: tuple[str, ...] = (),
    remove: tuple[str, ...] = (), drop: bool = False, reason: str = "", app: str | None = None,
    as_json: bool = False,
) -> None:  # fmt: skip
    """Show a named list, change its members, or drop it; the first change makes it.

    Parameters
    ----------
    data
        Folder with the log.
    author
        Who changes it; nobody is needed to look.
    add, remove
        Members; several may be given.
    drop
        The list goes, if no rule in use asks it.
    """
    if (drop or add or remove) and author is None:
        raise InvalidInput(f"expected --author, who changes list `{name}`")
    if drop:
        give(data, app, made(ListDropped, list_name=name, author=author), as_json=as_json)
    elif add or remove:
        order = made(ListChanged, list_name=name, added=add, removed=remove, reason=reason,
                     author=author)  # fmt: skip
        give(data, app, order, as_json=as_json)
    else:
        with opened(data, app) as engine:
            found = engine.book.lists.get(name)
            if found is None:
                raise RuleError(
                    f"there is no list `{name}`" + did_you_mean(name, engine.book.lists)
                )
        for member in sorted(found):
            print(member)


def backtest(
    data: Path,
    name: str | None = None,
    *,
    version: int | None = None,
    when: str | None = None,
    examples: Annotated[int, Parameter(help="Counterexamples of each kind that are shown.")] = 5,
    app: str | None = None,
) -> None:
    """Judge a rule on the past: what it would have hit, stopped and hurt.

    Rows whose label has not had time to come are counted apart, and are nobody's false positive.

    Parameters
    ----------
    data
        Folder with the log.
    name
        Of a rule; all rules in use by default.
    version
        The newest by default.
    when
        A condition that is not written yet, instead of a name.
    """
    with opened(data, app) as engine:
        book = engine.book
        past, known = _history(data, app, engine)
        if when is not None:
            draft_rule = Rule(name="tried", when=when, then=Effects(tags=("tried",)), because="-")
            chosen = {"tried": (book.language.check(draft_rule, book.list_kinds), draft_rule)}
        elif name is not None:
            one = _version(book, name, version)
            chosen = {f"{name} v{one.number}": (_condition(one), one.rule)}
        else:
            chosen = {each: (_condition(one), one.rule) for each, one in book.in_use.items()}
    if not chosen:
        raise InvalidInput("expected a rule to judge, got none in use; name one, or give --when")
    hits = pl.DataFrame(
        {title: _hits(book, condition, rule, past) for title, (condition, rule) in chosen.items()}
    )
    judged = judge(hits.to_numpy(), known, names=list(chosen))
    rows = [_figures(one) for one in judged.rules]
    table(
        f"{past.height:,} rows of the past",
        ("rule", "hits", "caught", "good hit", "precision", "recall", "stopped, USD",
         "good users hurt", "too young"),
        rows,
    )  # fmt: skip
    if len(chosen) == 1:
        found = counterexamples(hits.to_numpy()[:, 0], known, most=examples)
        for title, some in (
            ("Good, and hit", found.good_hit),
            ("Bad, and missed", found.bad_missed),
        ):
            rows = [(one.event_id or str(one.row), number(one.amount_usd, 2)) for one in some]
            table(title, ("event", "USD"), rows)


def suggest(data: Path, *, most: int = 5, app: str | None = None) -> None:
    """Rules that the labelled past suggests, each confirmed by users held out of the search.

    Parameters
    ----------
    data
        Folder with the log.
    most
        Rules at most; none if nothing stands the test.
    """
    with opened(data, app) as engine:
        past, known = _history(data, app, engine)
        own = set(engine.policy.own)
        features = [name for name in engine.catalog.names if name not in own]
        existing = [
            _hits(engine.book, _condition(one), one.rule, past).to_numpy()
            for one in engine.book.in_use.values()
        ]
    with progress("search", None):
        found = suggest_rules(
            past, known, features=features, kinds=engine.catalog.kinds, most=most,
            existing=pl.DataFrame(existing).to_numpy() if existing else None,
        )  # fmt: skip
    if not found:
        console.print("nothing that users held out of the search confirm")
    for one in found:
        console.print(f"[bold]{one.text}[/bold]", highlight=False)
        console.print(f"  {one.sentence}", highlight=False)


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


def _history(data: Path, app: str | None, engine: Engine) -> tuple[pl.DataFrame, History]:
    application, label = load_application(app)
    assert isinstance(label, Label)
    folder = DataFolder(data)
    score = load_scorer(folder.model).score if folder.model.is_file() else None
    with progress("replay the past", engine.log.last_offset) as done:
        return rule_history(application, engine.log, label=label, score=score, on_progress=done)


def _hits(book: RuleBook, condition: Condition, rule: Rule, past: pl.DataFrame) -> pl.Series:
    code = RuleCode([condition], book.language.kinds, book.lists, book.codes)
    found = pl.Series(hits_of(code, past, threads=num_cores())[:, 0])
    return found * past["event_type"].is_in(list(rule.on)).cast(pl.UInt8) if rule.on else found


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


def _version(book: RuleBook, name: str, number: int | None) -> Version:
    versions = book.versions.get(name)
    if not versions:
        raise RuleError(f"there is no rule `{name}`" + did_you_mean(name, book.versions))
    for version in versions:
        if version.number == (versions[-1].number if number is None else number):
            return version
    raise RuleError(f"rule `{name}` has no version {number}; its newest is {versions[-1].number}")


def _condition(version: Version) -> Condition:
    if version.condition is None:
        raise RuleError(f"rule `{version.rule.name}` reads what the catalog no longer has")
    return version.condition


def _stage_of(book: RuleBook, name: str, number: int) -> str:
    use = book.staged.get(name)
    if use is None or use.version != number or use.stage == "off":
        return _UNUSED
    return f"{use.stage} {use.share:.0%}" if use.share < 1.0 else use.stage


def _review_of(version: Version) -> str:
    words = {None: "open", True: f"by {version.reviewer}", False: f"no, {version.reviewer}"}
    return words[version.reviewed]


def _check_friction(engine: Engine, friction: str | None) -> None:
    names = engine.policy.frictions.names
    if friction is not None and friction not in names:
        raise RuleError(f"there is no friction `{friction}`" + did_you_mean(friction, names))


def _figures(one: Figures) -> tuple[str, ...]:
    return (
        one.name,
        f"{one.num_hits:,}",
        f"{one.true_positives:,}",
        f"{one.false_positives:,}",
        number(one.precision.value, 3),
        number(one.recall.value, 3),
        number(one.bad_usd, 0),
        f"{one.good_users:,}",
        f"{one.unjudged:,}",
    )
