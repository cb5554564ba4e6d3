"""What the log learns of an address: its risk at an instant, for features and rules to look up."""

from typing import Annotated

from msgspec import Meta

from chopmark.events.event import Entity, Event


class AddressScored(Event):
    """A run of the chain gave an address this score.

    Attributes
    ----------
    score : float
        Chance that the address is illicit, 0 to 1.
    run : str
        Which run said so.
    """

    address: Annotated[str, Entity("address")]
    score: Annotated[float, Meta(ge=0, le=1)]
    run: str
