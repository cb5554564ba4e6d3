"""Decisions: functions from scores and features to an action, with its reasons.

In come a score, feature values and rules; out come a graded limit, an action, and the record
of both, which is an event of the log again. No score blocks: the riskiest keep a little, and
only a ban, or a rule that denies, refuses.
Serves rows C2, C10, C16, E4 to E6, E13, E19, E20, F9, F10 and H4 of the requirements.
"""

from chopmark.decisions.account import Account, State
from chopmark.decisions.case import Asked, Verdict
from chopmark.decisions.damping import Damping
from chopmark.decisions.decision import (
    Action,
    Authority,
    Decision,
    Reason,
    decision_id,
)
from chopmark.decisions.exploration import Exploration
from chopmark.decisions.limits import DEFAULT_CURVE, FLOOR_USD, LimitCurve, Limits, Verification
from chopmark.decisions.orders import ORDERS
from chopmark.decisions.policy import Band, Policy, Withdrawals
from chopmark.decisions.reasons import score_reasons
from chopmark.decisions.standing import standing_features

__all__ = [
    "DEFAULT_CURVE",
    "FLOOR_USD",
    "ORDERS",
    "Account",
    "Action",
    "Asked",
    "Authority",
    "Band",
    "Damping",
    "Decision",
    "Exploration",
    "LimitCurve",
    "Limits",
    "Policy",
    "Reason",
    "State",
    "Verdict",
    "Verification",
    "Withdrawals",
    "decision_id",
    "score_reasons",
    "standing_features",
]
