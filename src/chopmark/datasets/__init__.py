"""Datasets: a simulated exchange with planted truth, and loaders of public data.

In go a number of users, a seed and the scenarios to plant, or the name of a public set;
out come events in the order in which they became known, tables, and the truth about them.
Serves rows A1, A2, A15, A17, C1 to C14, E11, F1 to F7, G18, I2 and I10 of the requirements.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chopmark.datasets.exchange import SCHEMA

if TYPE_CHECKING:
    from chopmark.datasets.campaigns import Campaign as Campaign
    from chopmark.datasets.chain import Chain as Chain
    from chopmark.datasets.chain import simulate_chain as simulate_chain
    from chopmark.datasets.chain import write_ethereum_etl as write_ethereum_etl
    from chopmark.datasets.history import count_earlier as count_earlier
    from chopmark.datasets.pairs import candidate_pairs as candidate_pairs
    from chopmark.datasets.scenarios import DEFAULT as DEFAULT
    from chopmark.datasets.scenarios import BreachedIssuer as BreachedIssuer
    from chopmark.datasets.scenarios import Guests as Guests
    from chopmark.datasets.scenarios import MerchantCollusion as MerchantCollusion
    from chopmark.datasets.scenarios import RemoteDesktops as RemoteDesktops
    from chopmark.datasets.scenarios import Rings as Rings
    from chopmark.datasets.scenarios import ShortNames as ShortNames
    from chopmark.datasets.scenarios import StolenMoney as StolenMoney
    from chopmark.datasets.scenarios import Vips as Vips
    from chopmark.datasets.simulator import Simulation as Simulation
    from chopmark.datasets.simulator import simulate as simulate
    from chopmark.datasets.slates import news_slates as news_slates
    from chopmark.datasets.tables import DATA_VARIABLE as DATA_VARIABLE
    from chopmark.datasets.tables import EventTables as EventTables
    from chopmark.datasets.tables import available as available
    from chopmark.datasets.tables import load_events as load_events
    from chopmark.datasets.tables import load_table as load_table
    from chopmark.datasets.tables import load_titanic as load_titanic
    from chopmark.datasets.victims import AccountTakeover as AccountTakeover
    from chopmark.datasets.victims import ScamVictims as ScamVictims
    from chopmark.datasets.world import Scenario as Scenario
    from chopmark.datasets.world import World as World

_HOMES = {
    "campaigns": ("Campaign",),
    "chain": ("Chain", "simulate_chain", "write_ethereum_etl"),
    "history": ("count_earlier",),
    "pairs": ("candidate_pairs",),
    "scenarios": (
        "DEFAULT", "BreachedIssuer", "Guests", "MerchantCollusion", "RemoteDesktops", "Rings",
        "ShortNames", "StolenMoney", "Vips",
    ),
    "simulator": ("Simulation", "simulate"),
    "slates": ("news_slates",),
    "tables": (
        "DATA_VARIABLE", "EventTables", "available", "load_events", "load_table", "load_titanic",
    ),
    "victims": ("AccountTakeover", "ScamVictims"),
    "world": ("Scenario", "World"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DATA_VARIABLE",
    "DEFAULT",
    "SCHEMA",
    "AccountTakeover",
    "BreachedIssuer",
    "Campaign",
    "Chain",
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
    "candidate_pairs",
    "count_earlier",
    "load_events",
    "load_table",
    "load_titanic",
    "news_slates",
    "simulate",
    "simulate_chain",
    "write_ethereum_etl",
]


def __getattr__(name: str) -> Any:
    # Late: a service takes the exchange's event types and not the simulator.
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module `chopmark.datasets` has no attribute `{name}`")
    return getattr(import_module(f"chopmark.datasets.{home}"), name)
