"""Service: the engine behind HTTP, durable before it answers and idempotent by event id.

In come events as JSON; out go decisions with their reasons, as they stand in the log.
It keeps itself alive: it recovers after a failing disk, and says when it cannot take events.
Serves rows C2, C6, D11, I4 and I5 of the requirements.
"""

from chopmark.service.app import Service, create_app
from chopmark.service.keys import KeyRing, open_keys
from chopmark.service.server import serve

__all__ = ["KeyRing", "Service", "create_app", "open_keys", "serve"]
