"""Events: what happened to whom, when it was, and when we learned it.

In come bytes, files and SQL results; out come checked events in one append-only log.
An event type is declared once, as a class; personal identifiers become keyed tokens here.
Serves rows B1, C5, C7, D4, F6 and I5 of the requirements.
"""

from chopmark.events.event import (
    Carried,
    Entity,
    Event,
    EventId,
    Identifier,
    Moment,
    Number,
    Personal,
    Usd,
)
from chopmark.events.log import EventLog, SqliteLog
from chopmark.events.memorylog import MemoryLog
from chopmark.events.personal import Vault
from chopmark.events.schema import Field, Schema, type_name

__all__ = [
    "Carried",
    "Entity",
    "Event",
    "EventId",
    "EventLog",
    "Field",
    "Identifier",
    "MemoryLog",
    "Moment",
    "Number",
    "Personal",
    "Schema",
    "SqliteLog",
    "Usd",
    "Vault",
    "type_name",
]
