"""What a rule may ask of texts: regular expressions, likeness of names and of addresses.

Regular expressions are RE2's: their time is linear in the text, whatever somebody writes.
Names and addresses are compared as people write them: in any order, shortened to initials,
with `St.` for `Street`. A missing text makes the answer missing. Serves F9, C9 and C10 of
the requirements.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import re2
from rapidfuzz.distance import JaroWinkler

from chopmark.errors import InvalidExpression
from chopmark.expressions import TextFunction

LONGEST = 4_096
"""Characters of a text that are looked at: no field may make a rule slow."""
LONGEST_PATTERN = 200
_MEMORY = 1 << 16
"""Bytes of a compiled pattern: what needs more is slow on every text."""
_INITIAL = 0.9
"""What an initial is worth that fits a whole word: less than the word, more than another."""
_NO_WORD = re.compile(r"[\W_]+")
_SHORT = {
    "street": "st", "avenue": "ave", "road": "rd", "drive": "dr", "lane": "ln", "court": "ct",
    "boulevard": "blvd", "place": "pl", "square": "sq", "apartment": "apt", "suite": "ste",
    "floor": "fl", "north": "n", "south": "s", "east": "e", "west": "w", "highway": "hwy",
}  # fmt: skip


def matches(text: str, pattern: str) -> bool:
    """Whether a regular expression (RE2) is found anywhere in a text.

    Examples
    --------
    >>> matches("ann1984@example.com", "[0-9]{4}@")
    True
    """
    # Half of a surrogate pair is in no text that came as JSON; RE2 knows none.
    whole = text[:LONGEST].encode("utf-8", "replace").decode()
    return _compiled(pattern).search(whole) is not None


def starts_with(text: str, beginning: str) -> bool:
    """Whether a text begins with another.

    Examples
    --------
    >>> starts_with("First National", "First")
    True
    """
    return text.startswith(beginning)


def ends_with(text: str, end: str) -> bool:
    """Whether a text ends with another.

    Examples
    --------
    >>> ends_with("mail.example.com", ".com")
    True
    """
    return text.endswith(end)


def contains(text: str, part: str) -> bool:
    """Whether a text holds another.

    Examples
    --------
    >>> contains("First National", "Nation")
    True
    """
    return part in text[:LONGEST]


def length(text: str) -> float:
    """Number of characters.

    Examples
    --------
    >>> length("Lee")
    3.0
    """
    return float(len(text))


def name_similarity(left: str, right: str) -> float:
    """How alike two names of a person are, 0 to 1, in any order and with initials.

    Each word of the shorter name is paired with the word of the longer that it is most like
    (Jaro-Winkler); the mean of these is the answer, so that a name that is left out costs
    nothing and a wrong one does.

    Examples
    --------
    >>> name_similarity("LEE, ANN", "Ann Marie Lee")
    1.0
    >>> name_similarity("A. Lee", "Ann Lee")
    0.95
    >>> name_similarity("Ann Lee", "John Smith") < 0.6
    True
    """
    return _paired(_words(left), _words(right))


def address_similarity(left: str, right: str) -> float:
    """How alike two addresses are, 0 to 1: usual short forms are alike, numbers must be equal.

    Examples
    --------
    >>> address_similarity("12 Main Street, Springfield", "12 Main St. Springfield")
    1.0
    >>> address_similarity("12 Main Street", "14 Main Street")
    0.0
    """
    first = [_SHORT.get(word, word) for word in _words(left)]
    second = [_SHORT.get(word, word) for word in _words(right)]
    numbers = (
        {word for word in first if word.isdigit()},
        {word for word in second if word.isdigit()},
    )
    if numbers[0] and numbers[1] and not numbers[0] & numbers[1]:
        return 0.0
    return _paired(first, second)


def _paired(first: list[str], second: list[str]) -> float:
    short, long = sorted((first, second), key=len)
    if not short:
        return 0.0
    left = list(long)
    total = 0.0
    # Longer words choose first: an initial takes what they leave.
    for word in sorted(short, key=len, reverse=True):
        likeness, place = max(
            ((_alike(word, other), -place) for place, other in enumerate(left)), default=(0.0, 0)
        )
        total += likeness
        if left:
            left.pop(-place)
    return round(total / len(short), 12)


def _alike(word: str, other: str) -> float:
    if min(len(word), len(other)) == 1:
        return 1.0 if word == other else _INITIAL if word[0] == other[0] else 0.0
    return JaroWinkler.similarity(word, other)


@lru_cache(maxsize=100_000)
def _split(text: str) -> tuple[str, ...]:
    return tuple(_NO_WORD.sub(" ", text[:LONGEST].casefold()).split()[:20])


def _words(text: str) -> list[str]:
    return list(_split(text))


def _check_pattern(pattern: str) -> None:
    if len(pattern) > LONGEST_PATTERN:
        raise InvalidExpression(
            f"expected a pattern of at most {LONGEST_PATTERN} characters, got {len(pattern)}"
        )
    try:
        _compiled(pattern)
    except UnicodeEncodeError:
        raise InvalidExpression("expected a pattern of whole characters, got half a one") from None
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "no reason given"
        raise InvalidExpression(f"expected a pattern that RE2 can read, got: {reason}") from None


@lru_cache(maxsize=10_000)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    return re2.compile(pattern, options=options)


TEXT_FUNCTIONS: Mapping[str, TextFunction] = MappingProxyType(
    {
        "matches": TextFunction(
            ("text", "constant"), "boolean", matches, "a regular expression (RE2) is found in x",
            _check_pattern,
        ),
        "starts_with": TextFunction(
            ("text", "constant"), "boolean", starts_with, "x begins with a text"
        ),
        "ends_with": TextFunction(("text", "constant"), "boolean", ends_with, "x ends with a text"),
        "contains": TextFunction(("text", "constant"), "boolean", contains, "x holds a text"),
        "length": TextFunction(("text",), "number", length, "number of characters of x"),
        "name_similarity": TextFunction(
            ("text", "text"), "number", name_similarity,
            "how alike two names are, 0 to 1: any order, initials, words left out",
        ),
        "address_similarity": TextFunction(
            ("text", "text"), "number", address_similarity,
            "how alike two addresses are, 0 to 1: short forms alike, numbers equal",
        ),
    }
)  # fmt: skip
"""The functions of texts that a rule has besides those of `chopmark.expressions.FUNCTIONS`."""
