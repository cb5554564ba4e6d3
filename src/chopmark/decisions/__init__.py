"""Decisions: functions from scores and features to an action, with its reasons.

In come a score and feature values; out come a graded limit, an action, and the record of
both, which is an event of the log again. Nobody is ever blocked: the riskiest keep a little.
Serves rows C2, C10, E4, E5, E20 of the requirements.
"""

from chopmark.decisions.decision import Action, Decision, Reason, decision_id
from chopmark.decisions.limits import DEFAULT_CURVE, FLOOR_USD, LimitCurve
from chopmark.decisions.policy import Policy, Verdict, score_reasons

__all__ = [
    "DEFAULT_CURVE",
    "FLOOR_USD",
    "Action",
    "Decision",
    "LimitCurve",
    "Policy",
    "Reason",
    "Verdict",
    "decision_id",
    "score_reasons",
]
