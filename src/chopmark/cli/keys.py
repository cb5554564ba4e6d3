"""``chopmark keys``: who may speak to the service, and who may give orders."""

from pathlib import Path

from chopmark.cli.show import console, table
from chopmark.errors import InvalidInput
from chopmark.pipelines.folder import DataFolder
from chopmark.service import KeyRing


def add(data: Path, name: str, *, orders: bool = False) -> None:
    """Make a key, and show it once.

    A running service knows it within seconds.

    Parameters
    ----------
    data
        Folder of the service.
    name
        Whose key it is. Orders that come with it must name this author.
    orders
        It may give orders (locks, bans, rules, lists, outcomes of frictions), not only events.
    """
    key = _ring(data).make(name, orders=orders)
    console.print(f"the key of {name}, shown this once:")
    print(key)


def revoke(data: Path, name: str) -> None:
    """Let a key open nothing any more.

    Parameters
    ----------
    data
        Folder of the service.
    name
        Whose key it is.
    """
    _ring(data).revoke(name)
    console.print(f"the key of {name} opens nothing any more")


def show(data: Path) -> None:
    """List the keys: whose they are, and what they may do.

    Parameters
    ----------
    data
        Folder of the service.
    """
    ring = _ring(data)
    rows = [
        (name, "events and orders" if ring.may_order(name, name) else "events")
        for name in ring.names
    ]
    table("Keys", ("whose", "may send"), rows)


def _ring(data: Path) -> KeyRing:
    if not data.is_dir():
        raise InvalidInput(f"expected the folder of a service, got {data}")
    return KeyRing(DataFolder(data).keys)
