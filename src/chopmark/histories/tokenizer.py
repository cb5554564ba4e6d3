"""The tokenizer: which fields of an event a network sees, and as which small integers.

    text      0 missing, 1..H one of H hash buckets for values not known, then the known values
    number    0 missing, 1 zero, then up to 32 bins of about equal counts; and beside it the
              signed log, standardised, as a float
    by type   the same once more, measured against the events of the same type: where types
              have scales of their own (vital signs, currencies), 38 is a fever and no pulse

It is fitted on a `chopmark.histories.sketch.Sketch`, never changes, and goes to JSON and back.
`Tokenizer.grown` makes the next version: every old id stays what it was and new values get new
ids at the end, so that a network goes on with its embeddings and some new rows. Fields that
would say who the user is are refused with a reason (`chopmark.histories.identity`). Serves
rows B1, G2 and G6 of the requirements.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, FeatureError, InvalidInput, did_you_mean
from chopmark.histories.batch import Batch, Reader, rows_of
from chopmark.histories.identity import personal, refusal

if TYPE_CHECKING:
    from chopmark.events.schema import Schema
    from chopmark.histories.histories import Histories
    from chopmark.histories.sketch import NumberSketch, Sketch

FORMAT = 1
MOST_BINS = 32
MOST_BUCKETS = 65_536
LEAST_SCALE = 1e-6
BY_TYPE = " by type"
MOST_WORDS = 1_000_000

Floats = NDArray[np.float64]
Ids = NDArray[np.int32]

PARTS = 4096.0
"""Steps of 1 in which a sketch sums signed logs."""

_NORMAL = np.array(
    [NormalDist().inv_cdf(i / MOST_BINS) for i in range(1, MOST_BINS)], dtype=np.float32
)


class Tokenizer:
    """Turns events into ids and floats; fitted, frozen, versioned.

    Made by `fit`, `grown` or `from_dict`. Safe in any number of threads.

    Attributes
    ----------
    fields : tuple of str
        Categorical fields, "type" first.
    numbers : tuple of str
        A number measured against its type is called ``"amount by type"``.
    sources : tuple of str
        The field that each of `numbers` is read from.
    sizes : tuple of int
        (F,) number of ids of each column of `Batch.ids`: fields, then numbers.
    words : tuple of tuple of str
        Known values of each field, by id; the first has id ``1 + hash_buckets``.
    hash_buckets : int
    version : int
        1 when fitted, one more whenever grown.
    refused : dict of str to str
        Fields that are no tokens, each with the reason.
    kept : tuple of str
        Fields that were kept on request although they look like identities.
    hash : str
        sha256 of all of it.

    Examples
    --------
    >>> import polars as pl
    >>> from chopmark.histories import Histories
    >>> from chopmark.histories.sketch import Sketch
    >>> frame = pl.DataFrame(
    ...     {"user": ["ann", "bo"], "happened_at": [0, 0], "type": ["visit", "buy"]}
    ... ).with_columns(pl.col("happened_at").cast(pl.Datetime("us")))
    >>> histories = Histories.from_frame(frame)
    >>> tokenizer = Tokenizer.fit(Sketch.of(histories), least_count=1, hash_buckets=4)
    >>> tokenizer.fields, tokenizer.sizes
    (('type',), (7,))
    >>> tokenizer.batch_of_rows([[{"type": "visit", "age": 5_000_000}]]).ids.tolist()
    [[6]]
    """

    def __init__(
        self,
        *,
        fields: Sequence[str],
        numbers: Sequence[str],
        sources: Sequence[str],
        words: Sequence[Sequence[str]],
        hash_buckets: int,
        edges: Sequence[NDArray[np.float32]],
        centers: Sequence[Floats],
        scales: Sequence[Floats],
        version: int,
        refused: Mapping[str, str],
        kept: Sequence[str] = (),
        most: int,
        least_count: int,
    ) -> None:
        self.fields = tuple(fields)
        self.numbers = tuple(numbers)
        self.sources = tuple(sources)
        self.words = tuple(tuple(texts) for texts in words)
        self.hash_buckets = hash_buckets
        self.version = version
        self.refused = dict(refused)
        self.kept = tuple(kept)
        self.most = most
        self.least_count = least_count
        self._edges = tuple(np.array(edge, dtype=np.float32) for edge in edges)
        self._centers = tuple(np.array(center, dtype=np.float64) for center in centers)
        self._scales = tuple(np.array(scale, dtype=np.float64) for scale in scales)
        first = 1 + hash_buckets
        self._known: tuple[dict[str | None, int], ...] = tuple(
            {None: 0} | {text: first + i for i, text in enumerate(texts)} for texts in self.words
        )
        self.sizes = (
            *(first + len(texts) for texts in self.words),
            *(3 + len(edge) for edge in self._edges),
        )
        told = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        self.hash = sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    @classmethod
    def fit(
        cls,
        sketch: "Sketch",
        *,
        fields: Iterable[str] | None = None,
        numbers: Iterable[str] | None = None,
        schema: "Schema | None" = None,
        keep: Iterable[str] = (),
        by_type: Iterable[str] | None = None,
        most: int = 4_096,
        least_count: int = 5,
        hash_buckets: int = 64,
    ) -> Self:
        """A tokenizer for the histories of a sketch.

        Parameters
        ----------
        sketch
            Of all shards and days so far.
        fields, numbers
            By name; "type" always takes part. None: all that are not refused.
        schema
            Says which fields are personal or name an entity; these are refused.
        keep
            Fields to take although their values look like an identity. What the schema
            declares as personal cannot be kept.
        by_type
            Numbers to measure against their type too. None: those of which the type says more
            than half, by the variance of the signed log.
        most : int, >= 1
            Known values of a field, the most frequent ones.
        least_count : int, >= 1
            Events that a value needs to be known.
        hash_buckets : int, >= 1
            Ids that the values share which are not known.

        Raises
        ------
        FeatureError
            If a field asked for by name is refused or is of the other kind.
        InvalidInput
            If the sketch has no events or no such field, or a bound is below 1.
        """
        if sketch.num_events == 0 or "type" not in sketch.categories:
            raise InvalidInput("expected a sketch of at least one event; got one of none")
        for name, bound, largest in (
            ("most", most, MOST_WORDS),
            ("least_count", least_count, 2**62),
            ("hash_buckets", hash_buckets, MOST_BUCKETS),
        ):
            if not 1 <= bound <= largest:
                raise InvalidInput(f"expected {name} from 1 to {largest:,}, got {bound}")
        kept = tuple(sorted(set(keep)))
        refused = _refusals(sketch, schema, kept)
        texts = _chosen(fields, sketch, "text", refused)
        values = _chosen(numbers, sketch, "number", refused)
        words = [_frequent(sketch, name, most, least_count) for name in texts]
        bins = [_bins(sketch.numbers[name]) for name in values]
        split = _split(by_type, values, sketch)
        tables = [_by_type(sketch.numbers[name], words[0], hash_buckets) for name in split]
        return cls(
            fields=texts,
            numbers=[*values, *(name + BY_TYPE for name in split)],
            sources=[*values, *split],
            words=words,
            hash_buckets=hash_buckets,
            edges=[*(edges for edges, _, _ in bins), *(_NORMAL for _ in split)],
            centers=[*(center for _, center, _ in bins), *(center for center, _ in tables)],
            scales=[*(scale for _, _, scale in bins), *(scale for _, scale in tables)],
            version=1,
            refused=refused,
            kept=[name for name in kept if name in texts or name in values],
            most=most,
            least_count=least_count,
        )

    def grown(self, sketch: "Sketch", *, most: int | None = None) -> "Tokenizer":
        """The next version: old ids as they were, new frequent values at the end.

        Fields, bins and buckets stay, and so does what the old types are measured against. A
        value that was in a hash bucket now has an id of its own.

        Parameters
        ----------
        sketch
            Of all histories so far, or of the new ones alone.
        most
            Known values of a field from now on, the old ones among them; as before if None.
        """
        most = self.most if most is None else most
        words = []
        for texts, name in zip(self.words, self.fields, strict=True):
            if name in sketch.numbers:
                raise InvalidInput(
                    f"field `{name}` was text where the tokenizer was fitted and is a number in "
                    "this sketch; give it the same kind in both"
                )
            new: list[str] = []
            if name in sketch.categories:
                new = _frequent(sketch, name, most, self.least_count, known=frozenset(texts))
            words.append((*texts, *new))
        centers, scales = list(self._centers), list(self._scales)
        for k, name in enumerate(self.sources):
            if len(centers[k]) > 1:
                new_types = words[0][len(self.words[0]) :]
                more = _more_types(sketch.numbers.get(name), new_types, centers[k], scales[k])
                centers[k], scales[k] = more
        return Tokenizer(
            fields=self.fields,
            numbers=self.numbers,
            sources=self.sources,
            words=words,
            hash_buckets=self.hash_buckets,
            edges=self._edges,
            centers=centers,
            scales=scales,
            version=self.version + 1,
            refused=self.refused,
            kept=self.kept,
            most=most,
            least_count=self.least_count,
        )

    def reader(self, histories: "Histories") -> Reader:
        """A reader of these histories: words are looked up once, here.

        Raises
        ------
        InvalidTable
            If a field is text in one and number in the other.
        """
        return Reader(self, histories)

    def batch_of_rows(self, values: Sequence[object]) -> Batch:
        """Lists of dicts ``{"type": ..., "age": microseconds, ...}`` as a batch.

        The same bits as the columnar way gives for the same pieces. It takes what comes:
        what is no list is an empty piece, what is no dict in a list is an event of which
        nothing is known, a text or number of the wrong type is missing, a number beyond
        float32 is clipped, an age that is no number or below 0 counts as 0, and events are put
        in order of age, the oldest first; equal ages stay.

        Parameters
        ----------
        values
            (b,) one piece each.
        """
        return rows_of(self, values)

    def lookup(self, name: str, words: Sequence[str]) -> Ids:
        """(len(words) + 1,) id by code + 1: entry 0 is that of a missing value."""
        ids = np.zeros(len(words) + 1, dtype=np.int32)
        ids[1:] = self.ids_of(self.fields.index(name), words)
        return ids

    def ids_of(self, field: int, values: Sequence[object]) -> list[int]:
        """(n,) ids of the values of the categorical field at that place; see `batch_of_rows`."""
        known = self._known[field]
        try:
            return [known[value] for value in values]  # type: ignore[index]
        except (KeyError, TypeError):
            return [self._id(known, value) for value in values]

    def bins(self, number: int) -> tuple[NDArray[np.float32], Floats, Floats]:
        """Edges, centres and scales of the number at that place.

        One centre and scale, or one for each id of the type (a number by type: its edges are
        among the standardised logs).
        """
        return self._edges[number], self._centers[number], self._scales[number]

    def _id(self, known: dict[str | None, int], value: object) -> int:
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, int):
            value = str(value) if abs(value) < 2**63 else None
        elif not isinstance(value, str):
            return 0
        found = known.get(value)
        if found is not None or value is None:
            return found or 0
        # A checksum is the same in every process and version, as Python's hash is not.
        return 1 + crc32(value.encode("utf-8", "surrogatepass")) % self.hash_buckets

    def to_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return {
            "format": FORMAT,
            "version": self.version,
            "fields": [
                {"name": name, "words": list(texts)}
                for name, texts in zip(self.fields, self.words, strict=True)
            ],
            "numbers": [
                {
                    "name": name,
                    "of": source,
                    "edges": self._edges[k].tolist(),
                    "centers": self._centers[k].tolist(),
                    "scales": self._scales[k].tolist(),
                }
                for k, (name, source) in enumerate(zip(self.numbers, self.sources, strict=True))
            ],
            "hash_buckets": self.hash_buckets,
            "most": self.most,
            "least_count": self.least_count,
            "refused": dict(sorted(self.refused.items())),
            "kept": list(self.kept),
        }

    @classmethod
    def from_dict(cls, told: object) -> Self:
        """The tokenizer that `to_dict` told.

        Raises
        ------
        ArtifactError
            If it is none: of another format, cut, or with values that cannot be.
        """
        try:
            return cls(**_read(told))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(
                f"expected a tokenizer as Tokenizer.to_dict writes it; it fails at {error}"
            ) from error


def _refusals(sketch: "Sketch", schema: "Schema | None", kept: tuple[str, ...]) -> dict[str, str]:
    refused = {}
    for name in sorted((*sketch.categories, *sketch.numbers)):
        reason = personal(schema, name) if schema is not None and name != "type" else None
        if reason is not None and name in kept:
            raise FeatureError(f"field `{name}` cannot be kept as a token; it is {reason}")
        if reason is None and name not in kept:
            reason = refusal(sketch, name)
        if reason is not None:
            refused[name] = reason
    return refused


def _chosen(
    asked: Iterable[str] | None, sketch: "Sketch", kind: str, refused: Mapping[str, str]
) -> list[str]:
    """Names of one kind, "type" first; all good ones, or those asked for."""
    here, there = (
        (sketch.categories, sketch.numbers)
        if kind == "text"
        else (sketch.numbers, sketch.categories)
    )
    first = ["type"] if kind == "text" else []
    if asked is None:
        # A field without any value so far has nothing to be fitted on.
        good = (name for name in here if name not in refused and here[name].present)
        return first + sorted(name for name in good if name != "type")
    names = [name for name in dict.fromkeys(asked) if name != "type" or kind != "text"]
    for name in names:
        if name in there:
            raise FeatureError(f"field `{name}` was asked for as {kind} and is of the other kind")
        if name not in here:
            raise InvalidInput(
                f"expected a {kind} field of the sketch, got `{name}`" + did_you_mean(name, here)
            )
        if name in refused:
            raise FeatureError(
                f"field `{name}` may not be a token; it is {refused[name]}. Leave it out, or "
                "pass it in keep= if that is meant"
            )
    return first + names


def _frequent(
    sketch: "Sketch", name: str, most: int, least: int, known: frozenset[str] = frozenset()
) -> list[str]:
    """Values with enough events, the most frequent first, so many that `most` are known."""
    counts = sketch.categories[name].counts
    new = [text for text, count in counts.items() if count >= least and text not in known]
    new.sort(key=lambda text: (-counts[text], text))
    return new[: max(most - len(known), 0)]


def _bins(sketch: "NumberSketch") -> tuple[NDArray[np.float32], Floats, Floats]:
    """Edges between up to 32 bins of about equal counts; mean and deviation of the signed log.

    A value that is more frequent than a bin gets a bin of its own, and the others share the
    bins that are left.
    """
    middles, counts = sketch.steps()
    edges: list[float] = []
    left, bins, inside = float(counts.sum()), MOST_BINS, 0.0
    for i in range(len(counts) - 1):
        inside += counts[i]
        share = left / bins
        after = inside + counts[i + 1]
        if bins > 1 and (inside >= share or after - share > share - inside):
            # Halfway between neighbours on the grid: no value of the sketch is on an edge.
            edges.append(_between(middles[i], middles[i + 1]))
            left, bins, inside = left - inside, bins - 1, 0.0
    logs = np.sign(middles) * np.log1p(np.abs(middles))
    logs, counts = np.append(logs, 0.0), np.append(counts, sketch.zeros)
    total = max(int(counts.sum()), 1)
    center = (logs * counts).sum() / total
    spread = math.sqrt((np.square(logs - center) * counts).sum() / total)
    # Among the smallest floats neighbours may fall together.
    kept = np.unique(np.array(edges, dtype=np.float32))
    return kept, np.array([center]), np.array([spread if spread > LEAST_SCALE else 1.0])


def _between(low: float, high: float) -> float:
    if low < 0.0 < high:
        return 0.0
    return math.copysign(math.sqrt(low * high), high)


def _split(asked: Iterable[str] | None, numbers: Sequence[str], sketch: "Sketch") -> list[str]:
    """The numbers to measure against their type too."""
    if asked is not None:
        names = list(dict.fromkeys(asked))
        for name in names:
            if name not in numbers:
                raise InvalidInput(
                    f"by_type= expected numbers that are tokens, got `{name}`"
                    + did_you_mean(name, numbers)
                )
            if not sketch.numbers[name].by_type:
                raise InvalidInput(
                    f"`{name}` cannot be measured by type: too many types for a mean of each"
                )
        return names
    split = []
    for name in numbers:
        if name + BY_TYPE in sketch.pulls:
            continue
        sums = sketch.numbers[name].by_type
        if sums and len(sums) > 1:
            n, mean, variance = _moments(sums.values())
            pooled = float((n * variance).sum() / n.sum())
            center = float((n * mean).sum() / n.sum())
            if pooled < float((n * np.square(mean - center)).sum() / n.sum()):
                split.append(name)
    return split


def _moments(sums: Iterable[tuple[int, int, int]]) -> tuple[Floats, Floats, Floats]:
    """Count, mean and variance of the signed log of each type."""
    rows = [
        (n, total / n / PARTS, (n * squares - total * total) / (n * n) / PARTS**2)
        for n, total, squares in sums
    ]
    table = np.array(rows, dtype=np.float64)
    return table[:, 0], table[:, 1], table[:, 2]


def _by_type(sketch: "NumberSketch", types: Sequence[str], buckets: int) -> tuple[Floats, Floats]:
    """(ids of the type,) centres and scales; types that are not known have those of all.

    A type's variance is drawn towards the mean of the variances with the weight of ten events:
    the few events of a rare type must not make its scale.
    """
    sums = sketch.by_type or {}
    n, mean, variance = _moments(sums.values())
    pooled = float((n * variance).sum() / n.sum())
    center = float((n * mean).sum() / n.sum())
    spread = math.sqrt(pooled + float((n * np.square(mean - center)).sum() / n.sum()))
    known = dict(zip(sums, range(len(sums)), strict=True))
    centers, scales = [center] * (1 + buckets), [spread] * (1 + buckets)
    for text in types:
        place = known.get(text)
        if place is None:
            centers.append(center)
            scales.append(spread)
        else:
            drawn = (n[place] * variance[place] + 10.0 * pooled) / (n[place] + 10.0)
            centers.append(float(mean[place]))
            scales.append(math.sqrt(drawn))
    spreads = np.array(scales)
    return np.array(centers), np.where(spreads > LEAST_SCALE, spreads, 1.0)


def _more_types(
    sketch: "NumberSketch | None", types: Sequence[str], centers: Floats, scales: Floats
) -> tuple[Floats, Floats]:
    """Centres and scales of old types as they were, and those of new types after them."""
    if sketch is None or not sketch.by_type:
        more = np.full(len(types), centers[0]), np.full(len(types), scales[0])
    else:
        new_centers, new_scales = _by_type(sketch, types, 0)
        more = new_centers[1:], new_scales[1:]
    return np.append(centers, more[0]), np.append(scales, more[1])


def _read(told: object) -> dict[str, Any]:
    """The arguments of a tokenizer from JSON, all checked."""
    if not isinstance(told, dict) or told["format"] != FORMAT:
        raise ValueError(f"format {FORMAT}")
    fields = [_text(one["name"]) for one in _list(told["fields"])]
    words = [[_text(text) for text in _list(one["words"])] for one in told["fields"]]
    numbers = [_text(one["name"]) for one in _list(told["numbers"])]
    if fields[:1] != ["type"] or len(set(fields + numbers)) != len(fields + numbers):
        raise ValueError("fields, of which the first is `type` and none comes twice")
    for texts in words:
        if len(set(texts)) != len(texts) or len(texts) > MOST_WORDS:
            raise ValueError(f"words, each once and at most {MOST_WORDS:,}")
    edges = []
    for one in told["numbers"]:
        with np.errstate(over="ignore"):
            edge = np.array([_float(value) for value in _list(one["edges"])], dtype=np.float32)
        if len(edge) >= MOST_BINS or not np.all(np.isfinite(edge)) or np.any(np.diff(edge) <= 0):
            raise ValueError(f"edges that rise, at most {MOST_BINS - 1}")
        edges.append(edge)
    size = 1 + _whole(told["hash_buckets"], MOST_BUCKETS) + len(words[0])
    sources = [_text(one["of"]) for one in told["numbers"]]
    centers, scales = (
        [np.array([_float(value) for value in _list(one[key])]) for one in told["numbers"]]
        for key in ("centers", "scales")
    )
    for center, scale, source in zip(centers, scales, sources, strict=True):
        if len(center) not in (1, size) or len(scale) != len(center) or np.any(scale <= 0.0):
            raise ValueError(f"one centre and scale above 0 of `{source}`, or {size} by type")
    refused = told["refused"]
    if not isinstance(refused, dict):
        raise ValueError("reasons by name")
    return {
        "fields": fields,
        "numbers": numbers,
        "sources": sources,
        "words": words,
        "hash_buckets": _whole(told["hash_buckets"], MOST_BUCKETS),
        "edges": edges,
        "centers": centers,
        "scales": scales,
        "version": _whole(told["version"], 2**31),
        "refused": {_text(name): _text(reason) for name, reason in refused.items()},
        "kept": [_text(name) for name in _list(told["kept"])],
        "most": _whole(told["most"], MOST_WORDS),
        "least_count": _whole(told["least_count"], 2**62),
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.60}, which is no text")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.60}, which is no list")
    return value


def _whole(value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{value!r:.60}, which is no number from 1 to {most:,}")
    return value


def _float(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{value!r:.60}, which is no finite number")
    return float(value)  # type: ignore[arg-type]
