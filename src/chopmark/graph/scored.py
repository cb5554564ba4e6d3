"""What the log learns of an address: its risk at an instant, for features and rules to look up."""

from typing import Annotated, Literal

from msgspec import Meta

from chopmark.events.event import Entity, Event


class AddressScored(Event):
    """A run of the chain gave an address this score, or a list this label.

    Attributes
    ----------
    address : str
        As the event writes it that is decided about, whatever its case.
    score : float, optional
        Chance that the address is illicit, 0 to 1; None where the chain does not know it.
    run : str
        Which run said so.
    label : str
        What the labels of the chain hold it for; empty where they say nothing.
    band : str
        Where the score lies among those of the chain; empty where it is not known.
    """

    address: Annotated[str, Entity("address")]
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    run: str
    label: Literal["", "illicit", "licit"] = ""
    band: Literal["", "usual", "raised", "high"] = ""
