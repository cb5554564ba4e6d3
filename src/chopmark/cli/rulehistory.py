"""``chopmark rules backtest`` and ``suggest``: rules and the labelled past of a log."""

from pathlib import Path
from typing import Annotated

import polars as pl
from cyclopts import Parameter

from chopmark.cli.application import load_application
from chopmark.cli.options import App, Data
from chopmark.cli.orders import read_along
from chopmark.cli.show import console, number, progress, say, table
from chopmark.engine import Engine
from chopmark.errors import InvalidInput, RuleError, did_you_mean
from chopmark.expressions import Condition
from chopmark.models import load_scorer
from chopmark.models.encoder import num_cores
from chopmark.pipelines.folder import DataFolder
from chopmark.pipelines.rulehistory import rule_history
from chopmark.rules.book import RuleBook, Version
from chopmark.rules.code import RuleCode
from chopmark.rules.columns import hits_of
from chopmark.rules.judging import Figures, History, counterexamples, judge
from chopmark.rules.rule import Effects, Rule
from chopmark.rules.suggestions import suggest_rules


def backtest(
    data: Data,
    name: Annotated[str | None, Parameter(help="Of a rule; all in use by default.")] = None,
    *,
    version: Annotated[int | None, Parameter(help="The newest by default.")] = None,
    when: Annotated[
        str | None, Parameter(help="A condition that is not written yet, instead of a name.")
    ] = None,
    examples: Annotated[int, Parameter(help="Counterexamples of each kind that are shown.")] = 5,
    app: App = None,
) -> None:
    """Judge a rule on the past: what it would have hit, stopped and hurt."""
    if name is not None and when is not None:
        raise InvalidInput("expected the name of a rule or --when, got both")
    with read_along(data, app) as engine:
        book = engine.book
        chosen = _chosen(book, name, version, when)
        past, known = past_of(data, app, engine)
    hits = pl.DataFrame(
        {title: hits_on(book, condition, rule, past) for title, (condition, rule) in chosen.items()}
    )
    judged = judge(hits.to_numpy(), known, names=list(chosen))
    title = f"{past.height:,} rows of the past"
    if len(chosen) > 1:
        table(
            title,
            ("rule", "hits", "caught", "good hit", "precision", "recall", "stopped, USD",
             "good users hurt"),
            [_figures(one)[:-1] for one in judged.rules],
        )  # fmt: skip
        say("Hits that are neither caught nor good are too young to be judged.")
        return
    one = judged.rules[0]
    what = ("rule", "hits", "bad, and caught", "good, and hit", "precision", "recall",
            "stopped, USD", "good users hurt", "hits too young to be judged")  # fmt: skip
    table(title, ("", "value"), list(zip(what, _figures(one), strict=True)))
    found = counterexamples(hits.to_numpy()[:, 0], known, most=examples)
    for title, some in (("Good, and hit", found.good_hit), ("Bad, and missed", found.bad_missed)):
        rows = [(each.event_id or str(each.row), number(each.amount_usd, 2)) for each in some]
        table(title, ("event", "USD"), rows)


def suggest(
    data: Data,
    *,
    most: Annotated[int, Parameter(help="Rules at most; none if nothing stands the test.")] = 5,
    app: App = None,
) -> None:
    """Find rules in the labelled past, each confirmed by users held out of the search."""
    if most < 1:
        raise InvalidInput(f"expected --most of one or more, got {most}")
    with read_along(data, app) as engine:
        past, known = past_of(data, app, engine)
        own = set(engine.application.own)
        features = [name for name in engine.catalog.names if name not in own]
        existing = [
            hits_on(engine.book, condition_of(one), one.rule, past).to_numpy()
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
        console.print(one.text, style="bold", highlight=False, markup=False)
        say(one.sentence, indent=2)


def version_of(book: RuleBook, name: str, number: int | None) -> Version:
    """A version of a rule, the newest by default; `RuleError` names what there is."""
    versions = book.versions.get(name)
    if not versions:
        hint = did_you_mean(name, book.versions) if book.versions else "; there are none yet"
        raise RuleError(f"there is no rule `{name}`{hint}")
    for version in versions:
        if version.number == (versions[-1].number if number is None else number):
            return version
    raise RuleError(f"rule `{name}` has no version {number}; its newest is {versions[-1].number}")


def condition_of(version: Version) -> Condition:
    """The condition of a version; `RuleError` if the catalog lacks what it reads."""
    if version.condition is None:
        raise RuleError(f"rule `{version.rule.name}` reads what the catalog no longer has")
    return version.condition


def past_of(data: Path, app: str | None, engine: Engine) -> tuple[pl.DataFrame, History]:
    """The rows of a log as rules would have read them, and what was learned about them."""
    application, label = load_application(app)
    folder = DataFolder(data)
    score = load_scorer(folder.model).score if folder.model.is_file() else None
    with progress("replay the past", engine.log.last_offset) as done:
        return rule_history(application, engine.log, label=label, score=score, on_progress=done)


def hits_on(book: RuleBook, condition: Condition, rule: Rule, past: pl.DataFrame) -> pl.Series:
    """Which rows a rule would have hit: (n,) 0 or 1."""
    code = RuleCode([condition], book.language.kinds, book.lists, book.codes)
    found = pl.Series(hits_of(code, past, threads=num_cores())[:, 0])
    return found * past["event_type"].is_in(list(rule.on)).cast(pl.UInt8) if rule.on else found


def _chosen(
    book: RuleBook, name: str | None, version: int | None, when: str | None
) -> dict[str, tuple[Condition, Rule]]:
    """The rules to judge, by title: checked before the past is replayed."""
    if when is not None:
        tried = Rule(name="tried", when=when, then=Effects(tags=("tried",)), because="-")
        return {"tried": (book.language.check(tried, book.list_kinds), tried)}
    if name is not None:
        one = version_of(book, name, version)
        return {f"{name} v{one.number}": (condition_of(one), one.rule)}
    if not book.in_use:
        raise InvalidInput("expected a rule to judge, got none in use; name one, or give --when")
    return {each: (condition_of(one), one.rule) for each, one in book.in_use.items()}


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
