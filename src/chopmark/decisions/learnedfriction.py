"""The learned policy of friction: a linear table of costs, and a known share of random choices.

It takes the friction of the least predicted cost, explores with a probability that is known,
and always tells that probability: on its log any other policy can be judged
(`chopmark.decisions.offpolicy`). The draw is a keyed hash of the event's id, so a replay draws
the same again. `chopmark.lifecycle.bandit` learns the table; serving needs this file alone.
Serves row I7 of the requirements.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from hashlib import blake2b, sha256
from itertools import pairwise

import msgspec

from chopmark.decisions.decision import Reason
from chopmark.decisions.friction import EVERYTHING, AllowList, FrictionChoice, Value
from chopmark.errors import PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """A value of the context, in buckets: place 0 is missing, or a text that was never learned.

    Parameters
    ----------
    name : str
    edges : tuple of float
        Rising; a number in [edges[i - 1], edges[i]) has place i + 1.
    texts : tuple of str
        Or the texts; the first has place 1.
    """

    name: str
    edges: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.edges) == bool(self.texts):
            raise PolicyError(f"expected either edges or texts of `{self.name}`")
        finite = all(math.isfinite(edge) for edge in self.edges)
        if not finite or not all(a < b for a, b in pairwise(self.edges)):
            raise PolicyError(f"expected rising edges of `{self.name}`, got {self.edges}")
        if len(set(self.texts)) < len(self.texts):
            raise PolicyError(f"expected different texts of `{self.name}`, got {self.texts}")

    @property
    def count(self) -> int:
        """How many places there are, that of the missing included."""
        return len(self.texts) + 1 if self.texts else len(self.edges) + 2

    def place(self, value: Value) -> int:
        """Of a value, from 0 to ``count - 1``."""
        if self.texts:
            return self.texts.index(value) + 1 if value in self.texts else 0
        if value is None or value != value:
            return 0
        if isinstance(value, str):
            raise PolicyError(f"expected a number in `{self.name}`, got {value!r}")
        return bisect_right(self.edges, value) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTerm:
    """Costs that hang on one column of the context, or on two together.

    Parameters
    ----------
    columns : tuple of int
        Places of one or two columns; of two, the second counts fastest.
    micro_usd : tuple of tuple of int, (cells, frictions)
        In millionths of a dollar: whole numbers have the same sum in every order, in every
        version of Python and on every machine.
    """

    columns: tuple[int, ...]
    micro_usd: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedFriction:
    """The friction of the least predicted cost, save for a known share of random choices.

        cost(friction | context) = scale * (base(friction) + sum over terms of cost(cell, friction))

    With k permitted frictions the cheapest has the propensity 1 - epsilon + epsilon / k, each
    other epsilon / k. `chopmark.lifecycle.bandit` learns it with Vowpal Wabbit; to serve it,
    this file suffices.

    Parameters
    ----------
    frictions : tuple of str
        What can be chosen; of equal costs the first wins.
    columns : tuple of Buckets
    base_micro_usd : tuple of int, (frictions,)
    terms : tuple of CostTerm
    per : str, optional
        The scale is this value, so that costs are per dollar of an amount, say; else it is 1.
    per_least : float
        A smaller or missing scale counts as this, > 0.
    epsilon : float
        In [0, 1].
    allow : AllowList

    Raises
    ------
    PolicyError
        If shapes do not fit, a friction is unknown, or the allow-list may refuse all of them.
    """

    frictions: tuple[str, ...]
    columns: tuple[Buckets, ...]
    base_micro_usd: tuple[int, ...]
    terms: tuple[CostTerm, ...] = ()
    per: str | None = None
    per_least: float = 1.0
    epsilon: float = 0.05
    allow: AllowList = EVERYTHING

    def __post_init__(self) -> None:
        for name in self.frictions:
            self.allow.registry[name]
        if not all(possible & set(self.frictions) for possible in self.allow.possible()):
            raise PolicyError(
                f"the allow-list may refuse all of {', '.join(self.frictions) or 'no frictions'}; "
                "learn one more that it always permits"
            )
        if len(set(self.frictions)) < len(self.frictions):
            raise PolicyError(f"expected different frictions, got {', '.join(self.frictions)}")
        if not 0.0 <= self.epsilon <= 1.0:
            raise PolicyError(f"expected epsilon in [0, 1], got {self.epsilon!r}")
        if not 0.0 < self.per_least < math.inf:
            raise PolicyError(f"expected a finite `per_least` above 0, got {self.per_least!r}")
        width = len(self.frictions)
        if len(self.base_micro_usd) != width:
            raise PolicyError(f"expected {width} base costs, got {len(self.base_micro_usd)}")
        for number, term in enumerate(self.terms, start=1):
            _check_term(term, self.columns, width, f"term {number}")

    @property
    def hash(self) -> str:
        """Changes with every parameter."""
        return sha256(repr(self).encode()).hexdigest()

    def costs_usd(self, values: Mapping[str, Value]) -> tuple[float, ...]:
        """Predicted cost of each friction, in the order of ``frictions``."""
        scale = self._scale(values)
        return tuple(cost * scale / 1e6 for cost in self._costs(values))

    def probabilities(self, values: Mapping[str, Value]) -> dict[str, float]:
        """Probability of each permitted friction; they sum to 1."""
        names, best = self._ranked(self._costs(values), values)
        return {name: self._propensity(name == best, len(names)) for name in names}

    def choose(self, values: Mapping[str, Value], *, event_id: str, key: bytes) -> FrictionChoice:
        """A friction drawn by the keyed hash of the event's id: a replay draws it again.

        Parameters
        ----------
        values : mapping
            Values of the columns and of what the allow-list reads; None or absent is missing.
        event_id : str
        key : bytes
            Up to 64 secret bytes: a client who knows them could look for an id that draws
            what it likes.
        """
        costs = self._costs(values)
        names, best = self._ranked(costs, values)
        drawn = uniform(event_id, key=key)
        # The best has the first part of [0, 1), all share the rest alike.
        explores = drawn >= 1.0 - self.epsilon
        if explores:
            share = (drawn - (1.0 - self.epsilon)) / self.epsilon
            name = names[min(int(share * len(names)), len(names) - 1)]
        else:
            name = best
        cost = costs[self.frictions.index(name)] * self._scale(values) / 1e6
        text = f"predicted cost {cost:.2f} USD" + (", drawn to learn" if explores else "")
        reason = Reason(code="friction", text=text, value=cost)
        return FrictionChoice(name, self._propensity(name == best, len(names)), reason)

    def to_json(self) -> bytes:
        """As JSON; `from_json` reads it back, equal and of equal hash."""
        return msgspec.json.encode(_plain(self))

    @classmethod
    def from_json(cls, data: bytes) -> "LearnedFriction":
        """Of what `to_json` wrote.

        Raises
        ------
        PolicyError
            If it is not that, or its parts do not fit together.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise PolicyError(f"expected a learned friction policy as JSON: {error}") from error

    def _costs(self, values: Mapping[str, Value]) -> list[int]:
        """In millionths of a dollar, per unit of the scale."""
        columns = self.columns
        places = [column.place(values.get(column.name)) for column in columns]
        rows = [self.base_micro_usd]
        for term in self.terms:
            first, *second = term.columns
            cell = places[first]
            if second:
                cell = cell * columns[second[0]].count + places[second[0]]
            rows.append(term.micro_usd[cell])
        return list(map(sum, zip(*rows, strict=True)))

    def _scale(self, values: Mapping[str, Value]) -> float:
        if self.per is None:
            return 1.0
        value = values.get(self.per)
        if value is None:
            return self.per_least
        if isinstance(value, str) or not value < math.inf:
            raise PolicyError(f"expected a finite number in `{self.per}`, got {value!r}")
        return max(value, self.per_least)

    def _ranked(self, costs: Sequence[int], values: Mapping[str, Value]) -> tuple[list[str], str]:
        """The permitted names, and the cheapest of them."""
        permitted = self.allow.permitted(values)
        of_name = dict(zip(self.frictions, costs, strict=True))
        names = [name for name in self.frictions if name in permitted]
        return names, min(names, key=of_name.__getitem__)

    def _propensity(self, is_best: bool, count: int) -> float:
        share = self.epsilon / count
        return 1.0 - self.epsilon + share if is_best else share


def uniform(event_id: str, *, key: bytes) -> float:
    """A number in [0, 1) that the id and the key fix, and that nobody without the key knows.

    Examples
    --------
    >>> uniform("p-17", key=b"secret") == uniform("p-17", key=b"secret")
    True
    """
    # `person` keeps these draws apart from other uses of the key.
    digest = blake2b(event_id.encode(), digest_size=8, key=key, person=b"friction").digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53


def _plain(value: object) -> object:
    """As JSON can hold it: what was declared, without what was computed of it."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.init}
    return value


def _check_term(term: CostTerm, columns: Sequence[Buckets], width: int, where: str) -> None:
    if not 1 <= len(term.columns) <= 2 or not all(0 <= c < len(columns) for c in term.columns):
        raise PolicyError(
            f"expected places of one or two of {len(columns)} columns in {where}, got "
            f"{term.columns}"
        )
    cells = math.prod(columns[place].count for place in term.columns)
    if len(term.micro_usd) != cells or any(len(row) != width for row in term.micro_usd):
        raise PolicyError(f"expected {cells} cells of {width} costs in {where}")
