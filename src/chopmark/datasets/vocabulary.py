"""The words of the simulated exchange, with the weights that honest users draw them by.

All banks, carriers and streets are invented. A weight is relative; `draw` normalises.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[Any]  # (n,) object


def _split(text: str) -> list[str]:
    return text.split()


FIRST_NAMES = _split(
    "James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth William Barbara "
    "Richard Susan Joseph Jessica Thomas Karen Charles Sarah Daniel Lisa Matthew Nancy Anthony "
    "Sandra Mark Ashley Steven Emily Andrew Donna Joshua Michelle Kevin Carol Brian Amanda "
    "George Melissa Ana Luis Carmen Jorge Sofia Diego Mei Wei Hiroshi Yuki Priya Arjun Fatima "
    "Omar Aisha Kwame Ingrid Lars Chiara Marco Olga Ivan Zofia Piotr Noah Mia Liam Emma"
)
LAST_NAMES = _split(
    "Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez "
    "Gonzalez Wilson Anderson Thomas Taylor Moore Jackson Martin Lee Perez Thompson White Harris "
    "Sanchez Clark Ramirez Lewis Robinson Walker Young Allen King Wright Scott Torres Nguyen "
    "Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter Roberts Chen "
    "Wang Tanaka Suzuki Patel Sharma Khan Hassan Mensah Larsen Rossi Bianchi Petrov Kowalski "
    "Novak Silva Costa Schmidt Fischer Weber Dubois Laurent Murphy Kelly Byrne Olsen"
)
SHORT_FIRST_NAMES = _split("Li Bo Jo Al Ed Ty Su Mo Yi An Vi Ky")
SHORT_LAST_NAMES = _split("Wu Li Ho Ng Xu Ma Yu Lo Oh Le Ko Du")
STREETS = _split(
    "Oak Maple Cedar Pine Elm Washington Lake Hill Walnut Spring North Ridge Church Park Main "
    "Mill River Sunset Railroad Jefferson Center Highland Forest Jackson Franklin Chestnut"
)
CITIES = _split(
    "Springfield Clinton Madison Georgetown Salem Fairview Bristol Dover Arlington Milton "
    "Newport Ashland Burlington Clayton Dayton Lexington Oxford Riverside Winchester Hudson"
)

COUNTRIES = {"US": 70, "GB": 8, "DE": 6, "CA": 6, "FR": 4, "ES": 3, "SG": 2, "BR": 1}
HOURS_BEHIND_UTC = {"US": 6, "CA": 6, "GB": 0, "DE": -1, "FR": -1, "ES": -1, "SG": -8, "BR": 3}
EMAIL_DOMAINS = {
    "gmail.com": 55,
    "yahoo.com": 14,
    "outlook.com": 10,
    "icloud.com": 8,
    "hotmail.com": 6,
    "aol.com": 3,
    "proton.me": 2,
    "work.example": 1.2,
    "mailbox.example": 0.8,
}
CARRIERS = {
    "northcell": 34,
    "blueline": 28,
    "unotel": 20,
    "prairie": 8,
    "pocket": 6,
    "virtual": 4,
}
SCREENS = {
    "1920x1080": 21,
    "390x844": 12,
    "393x873": 10,
    "1366x768": 9,
    "414x896": 8,
    "1536x864": 8,
    "360x800": 7,
    "1440x900": 5,
    "430x932": 5,
    "412x915": 4,
    "2560x1440": 4,
    "1280x720": 2,
    "1600x900": 2,
    "1680x1050": 1.5,
    "820x1180": 1,
    "3840x2160": 0.5,
}
OFF_BY_ONE_SCREENS = ("1919x1080", "1920x1079", "1365x768")
"""What remote desktops leave behind: one pixel less than a common screen."""

ISSUERS = {
    f"{stem} {kind}": 40.0 / (rank + 2)
    for rank, (stem, kind) in enumerate(
        (stem, kind)
        for kind in ("Bank", "Federal", "Credit Union", "Trust")
        for stem in _split(
            "Harbor Summit Liberty Prairie Cascade Redwood Granite Beacon Pioneer Sterling"
        )
    )
}
BREACHED_ISSUER = "Granite Trust"
"""A small bank whose cards leak in the wave of a breached issuer; under 1 % of the cards."""

ASSETS = _split(
    "BTC ETH USDC SOL XRP DOGE ADA LTC LINK DOT MATIC AVAX UNI ATOM XLM BCH ALGO NEAR FIL AAVE "
    "MKR COMP SUSHI SHIB"
)
PAGES = {
    "home": 22,
    "prices": 18,
    "asset": 34,
    "portfolio": 12,
    "buy": 5,
    "news": 4,
    "help": 2,
    "settings": 2,
    "withdraw": 1,
}


def draw(rng: np.random.Generator, words: dict[str, float] | dict[str, int], count: int) -> Words:
    """Words drawn by their weights, as an object array."""
    weights = np.array(list(words.values()), dtype=np.float64)
    choices = np.array(list(words), dtype=object)
    picked: Words = choices[rng.choice(len(choices), size=count, p=weights / weights.sum())]
    return picked


def pick(rng: np.random.Generator, words: list[str] | tuple[str, ...], count: int) -> Words:
    """Words drawn with equal chance, as an object array."""
    picked: Words = np.array(words, dtype=object)[rng.integers(len(words), size=count)]
    return picked


def full_names(rng: np.random.Generator, count: int) -> Words:
    """Names such as ``"Mary Chen"``."""
    names: Words = pick(rng, FIRST_NAMES, count) + " " + pick(rng, LAST_NAMES, count)
    return names


def short_names(rng: np.random.Generator, count: int) -> Words:
    """Names of four or five letters, on which string distances are at their worst."""
    names: Words = pick(rng, SHORT_FIRST_NAMES, count) + " " + pick(rng, SHORT_LAST_NAMES, count)
    return names


def postal_addresses(rng: np.random.Generator, count: int) -> Words:
    """Addresses such as ``"1208 Cedar Street, Salem"``."""
    numbers = np.array([str(n) for n in rng.integers(1, 4000, size=count)], dtype=object)
    kinds = pick(rng, ["Street", "Avenue", "Road", "Lane"], count)
    places: Words = numbers + " " + pick(rng, STREETS, count) + " " + kinds + ", "
    places = places + pick(rng, CITIES, count)
    return places


def variants(rng: np.random.Generator, names: Words) -> Words:
    """The same names as a bank may print them: initial, capitals, reversed, married."""
    style = rng.integers(5, size=len(names))
    surnames = pick(rng, LAST_NAMES, len(names))
    return np.array(
        [
            _variant(name, int(how), surname)
            for name, how, surname in zip(names, style, surnames, strict=True)
        ],
        dtype=object,
    )


def _variant(name: str, style: int, surname: str) -> str:
    first, _, last = name.partition(" ")
    return (
        f"{first[0]}. {last}",
        name.upper(),
        f"{last}, {first}",
        f"{first} {surname}",
        f"{first} {surname[0]} {last}",
    )[style]


def where(condition: NDArray[np.bool_], texts: Words) -> Words:
    """The texts where the condition holds, else None."""
    result = texts.astype(object)
    result[~condition] = None
    return result
