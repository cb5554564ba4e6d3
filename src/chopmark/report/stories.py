"""Which columns matter, and why single rows got their scores, as HTML.

Serves A11 and A16 of the requirements.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from chopmark.report import figures, words
from chopmark.report.reasons import Case, Effect

_MOST_EFFECTS = 40
_FIRST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How answers of one kind are put.

    Attributes
    ----------
    unit
        Of contributions.
    head, mean, outcome, score
        Title and text of the mean outcome of many rows; texts of one row's outcome and score.
    groups
        Names of the groups of cases.
    """

    unit: str
    head: str
    mean: Callable[[float], str]
    outcome: Callable[[float], str]
    score: Callable[[float], str]
    groups: dict[str, str]


def _label(outcome: float) -> str:
    return "bad" if outcome == 1.0 else "good"


def _score(score: float) -> str:
    return f"{score:.4f}" if score >= 0.001 else f"{score:.2g}"


def columns(effects: Sequence[Effect], wording: Wording) -> str:
    """The section of the columns, the most important first."""
    if not effects:
        return ""
    most = effects[0].share
    items = "".join(
        f"<details{' open' if place == 0 else ''}><summary>"
        f'<span class="name" title="{escape(effect.column)}">{escape(effect.column)}</span>'
        f"{figures.share_bar(effect.share, of=most)}"
        f'<span class="amount">{words.percent(effect.share)}</span></summary>'
        + figures.effect(effect, unit=wording.unit, outcome=wording.mean, head=wording.head)
        + "</details>"
        for place, effect in enumerate(effects[:_MOST_EFFECTS])
    )
    more = len(effects) - _MOST_EFFECTS
    rest = f"<p>{more} columns that matter less are left out.</p>" if more > 0 else ""
    return (
        "<h2>Which columns matter, and how?</h2>"
        '<p class="look">Bars are shares of all contributions; open one to see which values raise '
        'the answer (<span class="key bad"></span>) and which lower it '
        '(<span class="key good"></span>). The thin line spans 8 of 10 rows: long lines mean that '
        "the effect depends on other columns. Beware of a column that is known too late.</p>"
        f'<div class="columns">{items}</div>{rest}'
    )


def cases(cases: Sequence[Case], place: int, wording: Wording) -> str:
    """The section of the single rows; `place` keeps the names of several views apart."""
    if not cases:
        return ""
    lines = "".join(_case_line(case, f"case-{place}-{case.row}", wording) for case in cases)
    stories = "".join(
        f'<figure class="story panel" id="case-{place}-{case.row}">'
        f"<h3>Row {case.row}: {wording.score(case.score)}, was {wording.outcome(case.outcome)}</h3>"
        f"<p>From an average row to this one, in {wording.unit}: "
        '<span class="key bad"></span> raises, <span class="key good"></span> lowers.</p>'
        f"{figures.waterfall(case, unit=wording.unit)}</figure>"
        for case in cases
    )
    heads = "".join(
        f'<th class="{look}"><button type="button">{name}</button></th>'
        for name, look in (
            ("group", ""),
            ("row", "number"),
            ("was", ""),
            ("score", "number"),
            ("strongest reasons", ""),
        )
    )
    return (
        "<h2>Why did single rows get their scores?</h2>"
        '<p class="look">The riskiest rows, some from each stretch of scores, and those that were '
        "missed worst; choose one to see its reasons. Look whether an expert would agree.</p>"
        '<div class="cases"><p class="script"><label>Search <input type="search" '
        'placeholder="column, value, group"></label></p>'
        f'<div class="table" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f'<tbody>{lines}</tbody></table></div><div class="stories" aria-live="polite">{stories}'
        "</div></div>"
    )


def _case_line(case: Case, name: str, wording: Wording) -> str:
    reasons = "; ".join(
        f"{move.column} = {move.value} ({words.signed(move.amount)})"
        for move in case.moves[:_FIRST]
    )
    every = " ".join(f"{move.column} = {move.value};" for move in case.moves)
    group = wording.groups[case.group]
    text = f"{group} row {case.row} {wording.outcome(case.outcome)} {every}"
    return (
        f'<tr data-story="{name}" data-text="{escape(text)}"><td>{group}</td>'
        f'<td class="number" data-sort="{case.row}"><a href="#{name}">{case.row}</a></td>'
        f"<td>{wording.outcome(case.outcome)}</td>"
        f'<td class="number" data-sort="{case.score:.9g}">{wording.score(case.score)}</td>'
        f"<td><small>{escape(reasons)}</small></td></tr>"
    )


CLASS = Wording(
    unit="log-odds",
    head="bad",
    mean=words.percent,
    outcome=_label,
    score=_score,
    groups={"riskiest": "riskiest", "typical": "typical", "missed": "missed"},
)
NUMBER = Wording(
    unit="units of the target",
    head="mean",
    mean=words.number,
    outcome=words.number,
    score=words.number,
    groups={"riskiest": "highest", "typical": "typical", "missed": "missed"},
)
