"""Datasets: a simulated exchange with planted truth, and loaders of public data.

In go a number of users, a seed and the scenarios to plant, or the name of a public set;
out come events in the order in which they became known, tables, and the truth about them.
Serves rows A2, A15, C1 to C14, E11, F1 to F7, G18, I2 and I10 of the requirements.
"""

from chopmark.datasets.exchange import SCHEMA
from chopmark.datasets.scenarios import (
    DEFAULT,
    BreachedIssuer,
    Guests,
    MerchantCollusion,
    RemoteDesktops,
    Rings,
    ShortNames,
    StolenMoney,
    Vips,
)
from chopmark.datasets.simulator import Simulation, simulate
from chopmark.datasets.tables import (
    DATA_VARIABLE,
    EventTables,
    available,
    load_events,
    load_table,
    load_titanic,
)
from chopmark.datasets.victims import AccountTakeover, ScamVictims
from chopmark.datasets.world import Scenario, World

__all__ = [
    "DATA_VARIABLE",
    "DEFAULT",
    "SCHEMA",
    "AccountTakeover",
    "BreachedIssuer",
    "EventTables",
    "Guests",
    "MerchantCollusion",
    "RemoteDesktops",
    "Rings",
    "ScamVictims",
    "Scenario",
    "ShortNames",
    "Simulation",
    "StolenMoney",
    "Vips",
    "World",
    "available",
    "load_events",
    "load_table",
    "load_titanic",
    "simulate",
]
