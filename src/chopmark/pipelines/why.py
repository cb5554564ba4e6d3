"""Why a blend gave one score: what each part says, which columns moved it, and which events.

From the values in the decision's record, with the model in use: no table, no torch.
"""

from dataclasses import dataclass
from typing import Any

from chopmark.decisions import Decision
from chopmark.engine import Application
from chopmark.features.sequence import EventList
from chopmark.models.blended import BlendScorer
from chopmark.models.model import Scorer
from chopmark.models.sequences import SequenceScorer


@dataclass(frozen=True, slots=True)
class Why:
    """The answer.

    Attributes
    ----------
    parts : list of (name, score)
        What each part says by itself.
    columns : list of (name, value, log-odds)
        What moved the blend's score most, strongest first; a list is told by its length.
    events : list of (event, log-odds)
        Of the history: what Seq2Win's log-odds would lack without each, strongest first.
    """

    decision: Decision
    parts: list[tuple[str, float]]
    columns: list[tuple[str, Any, float]]
    events: list[tuple[dict[str, int | float | str], float]]


def why(application: Application, scorer: Scorer, decision: Decision, *, count: int = 5) -> Why:
    """Why a decision has its score: at most `count` columns, and as many events."""
    known = dict(zip(application.catalog.names, decision.values, strict=True))
    values: list[Any] = [known[name] for name in scorer.reads]
    _, moves = scorer.explain_row(values)
    strongest = sorted(zip(scorer.reads, moves.tolist(), strict=True), key=_size)[:count]
    parts: list[tuple[str, float]] = []
    events: list[tuple[dict[str, int | float | str], float]] = []
    if isinstance(scorer, BlendScorer):
        for name, part in zip(scorer.names, scorer.parts, strict=True):
            parts.append((name, part.score_row([known[read] for read in part.reads])))  # type: ignore[misc]
            if isinstance(part, SequenceScorer):
                events = _events(part, known[part.column], count)
    columns = [(name, _told(known[name]), move) for name, move in strongest]
    return Why(decision, parts, columns, events)


def riskiest(application: Application, decisions: list[Decision]) -> Decision | None:
    """The decision with the highest score, of a user who has a history."""
    places = [application.catalog.names.index(name) for name in application.catalog.sequences]
    told = [
        decision
        for decision in decisions
        if decision.score is not None and all(decision.values[place] for place in places)
    ]
    return max(told, key=lambda decision: decision.score or 0.0, default=None)


def _events(
    part: SequenceScorer, history: object, count: int
) -> list[tuple[dict[str, int | float | str], float]]:
    if not isinstance(history, list) or not history:
        return []
    listed: EventList = history
    moves = part.explain_events(listed).tolist()
    read = listed[-len(moves) :]
    return sorted(zip(read, moves, strict=True), key=_size)[:count]


def _size(move: tuple[Any, float]) -> float:
    return -abs(move[1])


def _told(value: object) -> object:
    return f"{len(value)} events" if isinstance(value, list) else value
