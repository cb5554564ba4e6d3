"""Skip-gram with negative sampling over walks that stream by and are never stored.

For a node w of a walk and a node c at most b steps away (b is drawn from 1 .. window for every
w), with v the vectors, u the contexts and q_k drawn from (visits of a node)^0.75:

    maximise  log s(v_w . u_c) + sum over k of log s(-v_w . u_qk),     s(x) = 1 / (1 + exp(-x))

It differs from word2vec in two things that were measured, and neither is seen in the quality: all
pairs of one w are scored before its vector moves, so that the processor fetches all rows at once;
and the visits that make the noise are given beforehand (degrees do), as nothing is kept to be
counted. With `sharing` above 1 so many contexts of one w share the draws q_k, each counted as
often as it stands for: at 2 it is 1.6 times as fast, equal on PPI and half a point of F1 worse on
BlogCatalog (`benchmarks/graph/embeddings.py`).

Random numbers are functions of (seed, number of the walk), so how walks are cut into blocks
changes nothing but the rounding of the learning rate. With several threads the order of the writes
is the machine's (Hogwild), and no two runs are equal.

References: Mikolov et al., "Distributed Representations of Words and Phrases and their
Compositionality", 2013. Grover and Leskovec, "node2vec", 2016. Recht et al., "Hogwild!", 2011.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import DeclarationError, InvalidInput
from chopmark.graph.alias import fill_row
from chopmark.graph.counter import drawn, fraction_of, place_of, stream_of
from chopmark.graph.rowfiles import extended

Vectors = NDArray[np.float32]  # (n, dim)

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be taken in the processor's order; NaN and infinity keep their meaning."""

TRAINING, BEGINNING = np.uint64(1 << 31), np.uint64(1 << 30)
"""Steps of a stream that no walk comes to: a walk and its noise may share seed and number."""


class SkipGram:
    """Vectors and contexts of n nodes, trained block by block.

    Parameters
    ----------
    dim : int, >= 1
        Width of a vector.
    window : int, >= 1
        Most steps between a node and its context.
    negatives : int, >= 1
        Noise nodes of each pair.
    rate, last_rate : float, > 0
        Learning rate at the beginning and at the end of all training; linear between.
    sharing : int, >= 1
        Contexts of one node that share their noise; 1 draws anew for every pair.
    noise_power : float
        Noise is drawn in proportion to visits to this power.
    sample : float, >= 0
        Share of all visits above which a node is left out at random, as word2vec does; 0: never.
    threads : int, >= 1
        More than one is faster and not repeatable.
    seed : int
        Of first vectors and of all draws.

    Examples
    --------
    >>> walks = np.array([[0, 1, 0, 1], [2, 3, 2, 3]] * 200)
    >>> model = SkipGram(8, negatives=3, rate=0.1).grow([400, 400, 400, 400]).train(walks)
    >>> like = model.vectors @ model.contexts.T
    >>> bool(like[0, 1] > like[0, 3])
    True
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        window: int = 5,
        negatives: int = 5,
        rate: float = 0.025,
        last_rate: float = 0.0001,
        sharing: int = 1,
        noise_power: float = 0.75,
        sample: float = 0.0,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        whole = {"dim": dim, "window": window, "negatives": negatives, "sharing": sharing}
        for name, number in {**whole, "threads": threads}.items():
            if not isinstance(number, int) or number < 1:
                raise DeclarationError(f"`{name}` of SkipGram: expected 1, 2, ...; got {number!r}")
        if not isinstance(seed, int):
            raise DeclarationError(f"`seed` of SkipGram: expected a whole number; got {seed!r}")
        if not 0 < last_rate <= rate < np.inf:
            raise DeclarationError(
                f"rates of SkipGram: expected 0 < last_rate <= rate; got {last_rate!r}, {rate!r}"
            )
        if not (0 <= sample < np.inf and np.isfinite(noise_power)):
            raise DeclarationError(
                "SkipGram: expected sample >= 0 and a finite noise_power; got "
                f"{sample!r}, {noise_power!r}"
            )
        self.dim, self.window, self.negatives, self.sharing = dim, window, negatives, sharing
        self.rate, self.last_rate = rate, last_rate
        self.noise_power, self.sample = noise_power, sample
        self.threads, self.seed = threads, seed
        self.vectors: Vectors = np.empty((0, dim), dtype=np.float32)
        self.contexts: Vectors = np.empty((0, dim), dtype=np.float32)
        self.num_walks = 0
        self._threshold = np.empty(0, dtype=np.float32)
        self._alias = np.empty(0, dtype=np.int32)
        self._keep = np.empty(0, dtype=np.float32)

    def resume(self, vectors: Vectors, contexts: Vectors, *, num_walks: int = 0) -> SkipGram:
        """Go on from what was trained earlier: copies of its arrays; call `grow` next.

        Parameters
        ----------
        vectors, contexts : (n, dim) floats
        num_walks : int, >= 0
            Walks that were trained on, so that the next draws are new ones.

        Raises
        ------
        InvalidInput
            If the shapes are not (n, dim) twice, or a number is NaN or infinite.
        """
        shape = np.shape(vectors)
        if len(shape) != 2 or shape[1] != self.dim or np.shape(contexts) != shape or num_walks < 0:
            raise InvalidInput(
                f"SkipGram to resume: expected vectors and contexts of shape (n, {self.dim}) and "
                f"num_walks >= 0; got {shape}, {np.shape(contexts)}, {num_walks!r}"
            )
        if not (np.isfinite(vectors).all() and np.isfinite(contexts).all()):
            raise InvalidInput("SkipGram to resume: expected finite numbers; got NaN or infinity")
        self.vectors = np.array(vectors, dtype=np.float32, order="C")
        self.contexts = np.array(contexts, dtype=np.float32, order="C")
        self.num_walks = num_walks
        self._threshold = np.empty(0, dtype=np.float32)
        return self

    @property
    def num_nodes(self) -> int:
        """Rows of `vectors` and of `contexts`."""
        return len(self.vectors)

    def grow(self, visits: ArrayLike) -> SkipGram:
        """Take in nodes and say how often each is visited; known rows stay as they are.

        A new node's first vector depends on the seed and on its id alone. Call it before the first
        `train`, and again when there are more nodes or the visits have changed.

        Parameters
        ----------
        visits : (n,) float, >= 0, n >= `num_nodes`
            In any unit: counts of walks or degrees. 0 is never noise.

        Raises
        ------
        InvalidInput
            If there are fewer nodes than before, or a number is negative, NaN or infinite.
        """
        given = np.asarray(visits, dtype=np.float64)
        before = self.num_nodes
        if given.ndim != 1 or len(given) < before or len(given) > np.iinfo(np.int32).max:
            raise InvalidInput(
                f"visits of SkipGram: expected one number for each of {before:,} nodes or more; "
                f"got shape {given.shape}"
            )
        if not np.isfinite(given).all() or (given < 0).any():
            place = int(np.flatnonzero(~(np.isfinite(given) & (given >= 0)))[0])
            raise InvalidInput(
                f"visits of SkipGram: expected finite numbers >= 0; got {given[place]} at node "
                f"{place}"
            )
        if len(given) and not given.any():
            raise InvalidInput("visits of SkipGram: expected one above 0 at least; got zeros")
        if len(given) > before:
            self.vectors = extended(self.vectors, len(given))
            self.contexts = extended(self.contexts, len(given))
            _first_vectors(self.vectors[before:], before, np.uint64(self.seed & (2**64 - 1)))
        noise = np.zeros_like(given)
        np.power(given, self.noise_power, out=noise, where=given > 0)
        self._threshold = np.empty(len(given), dtype=np.float32)
        self._alias = np.empty(len(given), dtype=np.int32)
        _noise_table(noise, self._threshold, self._alias)
        self._keep = np.empty(0, dtype=np.float32)
        if self.sample > 0:
            often = np.maximum(given / given.sum(), 1e-300) / self.sample
            self._keep = np.minimum(1 / np.sqrt(often) + 1 / often, 1).astype(np.float32)
        return self

    def train(
        self,
        walks: NDArray[Any],
        progress: tuple[float, float] = (0.0, 1.0),
        *,
        frozen: NDArray[np.bool_] | None = None,
    ) -> SkipGram:
        """Learn from a block of walks, once.

        Parameters
        ----------
        walks : (m, length) integers
            Ids of nodes; a negative id is a gap that no pair spans (the rest after a dead end).
        progress : two floats, 0 <= begin <= end <= 1
            Share of all training that was done before this block, and after it: the learning
            rate falls linearly along it.
        frozen : (num_nodes,) bool, optional
            Nodes whose context rows stay as they are, which keeps an updated space in its place.

        Raises
        ------
        InvalidInput
            Before anything is learned, if an id is beyond the nodes, or a shape or `progress` is
            wrong.

        Complexity: O(m length window (1 + negatives / sharing) dim).
        """
        walks = np.asarray(walks)
        if walks.ndim != 2 or walks.dtype.kind not in "iu":
            raise InvalidInput(
                "walks of SkipGram: expected integers of shape (walks, length); got "
                f"{walks.dtype} of shape {walks.shape}"
            )
        if walks.size and int(walks.max()) >= self.num_nodes:
            raise InvalidInput(
                f"walks of SkipGram: expected ids below {self.num_nodes:,}, the nodes it has; got "
                f"{int(walks.max()):,}; call `grow` with the visits of all nodes first"
            )
        if len(self._threshold) != self.num_nodes:
            raise InvalidInput("SkipGram: expected `grow` with the visits of all nodes first")
        begin, end = progress
        if not 0 <= begin <= end <= 1:
            raise InvalidInput(
                f"progress of SkipGram: expected 0 <= begin <= end <= 1; got {begin!r}, {end!r}"
            )
        held = np.empty(0, dtype=np.bool_) if frozen is None else np.asarray(frozen)
        if frozen is not None and (held.shape != (self.num_nodes,) or held.dtype != np.bool_):
            raise InvalidInput(
                f"frozen of SkipGram: expected bool of shape ({self.num_nodes},); got "
                f"{held.dtype} of shape {held.shape}"
            )
        if walks.dtype == np.int64:  # -2^32 would be 0 in 32 bits
            walks = np.maximum(walks, -1)
        walks = np.ascontiguousarray(walks, dtype=np.int32)
        kernel = trainer(self.dim, self.negatives)
        span = self.rate - self.last_rate
        parts = max(min(self.threads, len(walks)), 1)
        ends = [len(walks) * part // parts for part in range(parts + 1)]

        def run(part: int) -> None:
            one, two = ends[part], ends[part + 1]
            # Each thread goes the whole way from begin to end, as they run side by side.
            kernel(
                self.vectors, self.contexts, walks[one:two],
                np.float32(self.rate - span * begin), np.float32(self.rate - span * end),
                self._threshold, self._alias, self._keep, held,
                self.window, self.sharing, np.uint64(self.seed & (2**64 - 1)),
                self.num_walks + one,
            )  # fmt: skip

        if parts == 1:
            run(0)
        else:
            with ThreadPoolExecutor(parts) as pool:
                list(pool.map(run, range(parts)))
        self.num_walks += len(walks)
        return self


@cache
def trainer(dim: int, negatives: int) -> Callable[..., None]:
    """The kernel for one width and one number of negatives: constants let loops be unrolled."""

    @njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
    def run(
        vectors, contexts, walks, rate, last_rate, threshold, alias, keep, frozen,
        window, sharing, seed, first,
    ):  # fmt: skip
        num_walks, length = walks.shape
        most = 2 * window * (1 + negatives)
        own = np.empty(dim, np.float32)
        moved = np.empty(dim, np.float32)
        path = np.empty(length, np.int32)
        around = np.empty(2 * window, np.int32)
        targets = np.empty(most, np.int32)
        weights = np.empty(most, np.float32)
        labels = np.empty(most, np.float32)
        scores = np.empty(most, np.float32)
        for i in range(num_walks):
            stream = stream_of(seed, np.uint64(first + i))
            draws = 0
            now = rate + (last_rate - rate) * np.float32(i / num_walks)
            count = 0
            for j in range(length):
                node = walks[i, j]
                if node >= 0 and keep.shape[0] > 0:
                    bits = drawn(stream, TRAINING, draws)
                    draws += 1
                    if fraction_of(bits) >= keep[node]:
                        continue
                path[count] = node
                count += 1
            for j in range(count):
                node = path[j]
                if node < 0:
                    continue
                reach = 1 + place_of(drawn(stream, TRAINING, draws), window)
                draws += 1
                low, high = j, j
                while low > 0 and j - low < reach and path[low - 1] >= 0:
                    low -= 1
                while high < count - 1 and high - j < reach and path[high + 1] >= 0:
                    high += 1
                num_around = 0
                for k in range(low, high + 1):
                    if k != j:
                        around[num_around] = path[k]
                        num_around += 1
                num = 0
                for k in range(0, num_around, sharing):
                    stop = min(k + sharing, num_around)
                    for other in range(k, stop):
                        targets[num] = around[other]
                        weights[num] = now
                        labels[num] = np.float32(1.0)
                        num += 1
                    for _ in range(negatives):
                        bits = drawn(stream, TRAINING, draws)
                        draws += 1
                        place = place_of(bits, threshold.shape[0])
                        # No branch: it would be guessed wrong half of the time.
                        other_place = np.int64(alias[place])
                        place = other_place if fraction_of(bits) >= threshold[place] else place
                        stands_for = 0
                        for other in range(k, stop):
                            stands_for += around[other] != place
                        if stands_for:
                            targets[num] = place
                            weights[num] = now * np.float32(stands_for)
                            labels[num] = np.float32(0.0)
                            num += 1
                h = vectors[node]
                for d in range(dim):
                    own[d] = h[d]
                    moved[d] = np.float32(0.0)
                for t in range(num):
                    row = contexts[targets[t]]
                    total = np.float32(0.0)
                    for d in range(dim):
                        total += row[d] * own[d]
                    scores[t] = total
                for t in range(num):
                    scores[t] = weights[t] * (labels[t] - _sigmoid(scores[t]))
                for t in range(num):
                    step = scores[t]
                    target = targets[t]
                    row = contexts[target]
                    for d in range(dim):
                        moved[d] += step * row[d]
                    if frozen.shape[0] == 0 or not frozen[target]:
                        for d in range(dim):
                            row[d] += step * own[d]
                for d in range(dim):
                    h[d] += moved[d]

    made: Callable[..., None] = run
    return made


@njit(cache=True, error_model="numpy", inline="always")
def _sigmoid(x):
    """1 / (1 + exp(-x)) within 1e-6, by the quotient of polynomials that is used for tanh.

    No branch and no table, so that a whole row of scores takes a few instructions.
    """
    half = min(max(x * np.float32(0.5), np.float32(-9.0)), np.float32(9.0))
    square = half * half
    up = np.float32(-2.76076847742355e-16)
    up = up * square + np.float32(2.00018790482477e-13)
    up = up * square + np.float32(-8.60467152213735e-11)
    up = up * square + np.float32(5.12229709037114e-08)
    up = up * square + np.float32(1.48572235717979e-05)
    up = up * square + np.float32(6.37261928875436e-04)
    up = up * square + np.float32(4.89352455891786e-03)
    down = np.float32(1.19825839466702e-06)
    down = down * square + np.float32(1.18534705686654e-04)
    down = down * square + np.float32(2.26843463243900e-03)
    down = down * square + np.float32(4.89352518554385e-03)
    return np.float32(0.5) + np.float32(0.5) * half * up / down


@njit(cache=True, error_model="numpy")
def _first_vectors(out, first, seed):
    """Uniform in [-1, 1) / dim; a row is a function of seed and node.

    As gensim begins. From half of that, as in word2vec, vectors grow later: 1.4 points of F1 less
    on BlogCatalog.
    """
    dim = out.shape[1]
    for i in range(out.shape[0]):
        stream = stream_of(seed, np.uint64(first + i))
        for d in range(dim):
            out[i, d] = np.float32((2.0 * fraction_of(drawn(stream, BEGINNING, d)) - 1.0) / dim)


@njit(cache=True, error_model="numpy")
def _noise_table(weights, threshold, alias):
    """The alias table of all nodes as one row."""
    scratch = np.empty((2, weights.shape[0]), np.int32)
    fill_row(weights, threshold, alias, 0, scratch[0], scratch[1])
