"""Lifecycle: what becomes better while the platform runs.

In come logged decisions and what came of them. Out come policies that are served from tables,
and figures on which a person can let them take over. Nothing here is in the request path.
Serves row I7 of the requirements.
"""

from chopmark.lifecycle.bandit import learn_friction

__all__ = ["learn_friction"]
