"""A tower trained on labels: held-out rows say when to stop, and averaged weights are kept.

With a tower that was pre-trained, what is learned first is the last layer alone (a linear
probe), and then all, lower layers at lower rates: a fresh last layer would send noise through
what pre-training has learned. Held-out rows say how far to go from the probe: after which round
to stop, and which share of the way there to keep (weights in between, a single network). They
have to show it: unless their log loss falls by more than noise, the probe is what is kept. So
with few labels fine-tuning is mostly the frozen embedding, and does not lose to it.

References
----------
Ananya Kumar et al., "Fine-tuning can distort pretrained features and underperform
out-of-distribution", 2022.
Mitchell Wortsman et al., "Robust fine-tuning of zero-shot models", 2022: weights in between.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from chopmark.errors import InvalidTable
from chopmark.histories import Slices, Tokenizer
from chopmark.models.splits import stratified
from chopmark.sequence.batches import batches
from chopmark.sequence.inputs import Inputs
from chopmark.sequence.network import Head, Tower
from chopmark.sequence.training import Pace, Trainer

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

_ROUNDS, _FINE_ROUNDS = 24, 8
_SHARES = (0.25, 0.5, 0.75, 1.0)
_LEAST_GAIN = 1e-4
_ONE_SIDED = 1.645
_STANDARD_ROWS = 2_000
_CROSS_VALIDATED = 2_000
_UNHEARD = 10.0
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of a linear probe, the strictest first."""

_HELD_OUT = 1.0 / 7.0


@dataclass(frozen=True, slots=True)
class Course:
    """How far a training goes.

    Attributes
    ----------
    rounds
        After how many of its equal parts it stops; 0 is the start.
    share
        Of the way from the start to there, (0, 1].
    """

    rounds: int
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """A trained tower and its last layer.

    Attributes
    ----------
    course
        What was kept.
    held_out_loss
        Log loss on the rows that were held out; NaN where the course was given.
    trail : (T, h, C) float32
        Log-odds of the rows that were held out: at the start, and after each round.
    """

    tower: Tower
    head: Head
    course: Course
    held_out_loss: float
    trail: NDArray[np.float32]
    steps: int


def learn(
    tower: Tower,
    tokenizer: Tokenizer,
    pieces: Slices,
    y: NDArray[np.int64],
    *,
    pace: Pace,
    epochs: float,
    budget: int,
    seed: int,
    pretrained: bool = False,
    held_out: NDArray[np.int64] | None = None,
    owners: NDArray[np.int64] | None = None,
    course: Course | None = None,
    on_step: Callable[[float, float], None] | None = None,
) -> Learned:
    """Train a tower, in place, and a last layer on labels.

    Parameters
    ----------
    pieces, y
        (m,) pieces and their classes 0 to C - 1; two classes have one output.
    pace
        Its `steps` are the most, `epochs` says how many there are.
    epochs
        How often each row is seen.
    budget
        Events of a step.
    pretrained
        Whether the tower knows something already.
    held_out
        Rows to judge by; where not given a seventh of the users, all rows of a user on one
        side (`held_out_rows`).
    owners
        (m,) whose each piece is; by default the user of the histories of whom it is a piece.
    course
        How far to go, if that is known: all rows are learned from then, none is held out.
    """
    rng = np.random.default_rng((seed, 77))
    if owners is None:
        owners = np.searchsorted(pieces.histories.offsets, pieces.starts, side="right")
    if course is not None:
        held_out = np.zeros(0, dtype=np.int64)
    elif held_out is None:
        held_out = held_out_rows(y, owners, seed=seed)
    rows = np.setdiff1d(np.arange(len(y)), held_out)
    num_outputs = 1 if y.max() < 2 else int(y.max()) + 1
    head = Head(tower.embedding, num_outputs, torch.Generator().manual_seed(seed))
    _start_at_base_rate(head, y[rows], num_outputs)
    if not pretrained:
        some = rng.permutation(rows)[:_STANDARD_ROWS]
        tower.standardise(torch.from_numpy(embeddings(tower, tokenizer, pieces[some],
                                                      budget=budget)))  # fmt: skip
    else:
        _start_at_probe(tower, head, tokenizer, pieces, y, rows, held_out, owners, budget)
    alike = tower.shape.kind != "recurrent"
    lengths = pieces.lengths
    queue: list[NDArray[np.int64]] = []
    rounds = _FINE_ROUNDS if pretrained else _ROUNDS
    per_epoch = max(1, sum(1 for _ in _parts(rows, lengths, budget, alike, rng)))
    steps = int(np.clip(round(epochs * per_epoch), _ROUNDS, pace.steps))
    pace = replace(pace, steps=steps)
    rates = {"tower.encoder.events": 0.3, "tower.encoder": 0.5} if pretrained else None
    trainer = Trainer({"tower": tower, "head": head}, pace, seed=seed, rates=rates)
    device = trainer.ranks.device
    reader = tokenizer.reader(pieces.histories)
    dropout = tower.shape.dropout

    def loss(step_rng: np.random.Generator) -> Tensor | None:
        if not queue:
            queue.extend(_parts(rows, lengths, budget, alike, rng))
        part = queue.pop()
        own = part[trainer.ranks.rank :: trainer.ranks.size]
        if not len(own):
            return None  # the mean loss of no rows is no number, which would void all shares
        inputs = Inputs.of(reader.batch(pieces[own]), tower.layout, device)
        z_BC = head(tower(inputs)[1], dropout)
        return _loss(z_BC, torch.from_numpy(y[own]).to(device))

    def heard() -> NDArray[np.float32]:
        z = raw_scores(tower, head, tokenizer, pieces[held_out], budget=budget)
        agreed = trainer.ranks.agreed(torch.from_numpy(z).to(device))
        found: NDArray[np.float32] = agreed.cpu().numpy()
        return found

    start = _copied(trainer)
    best, trail, at_best = start, [heard()], 0
    last = rounds if course is None else course.rounds
    for number in range(1, last + 1):
        trainer.train(loss, until=number / rounds, on_step=on_step)
        if course is not None and number < last:
            continue
        now = _copied(trainer)
        trainer.use_average()
        trail.append(heard())
        if course is not None or course_of(trail, y[held_out], fine=pretrained).rounds == number:
            best, at_best = _copied(trainer), number
        if number - at_best >= rounds // 3 or trainer.done >= 1.0:
            break
        _restore(trainer, now)
    if course is None:
        course = course_of(trail, y[held_out], fine=pretrained)
        if pretrained and not is_shown(trail, y[held_out], course):
            course = Course(0)
    _restore(trainer, _between(start, best, course.share) if course.rounds else start)
    trainer.network.cpu().eval()
    loss_there = _losses(along(trail, course), y[held_out]) if len(held_out) else np.array([np.nan])
    return Learned(tower=tower, head=head, course=course, held_out_loss=float(loss_there.mean()),
                   trail=np.stack(trail), steps=trainer.step)  # fmt: skip


def course_of(trail: Sequence[Floats32] | Floats32, y: NDArray[np.int64], *, fine: bool) -> Course:
    """How far to go by the least log loss along a trail.

    Parameters
    ----------
    trail
        (h, C) log-odds of rows that were held out: at the start, and after each round.
    y
        (h,) their classes.
    fine
        Whether parts of the way may be kept. Those are judged by log-odds in between, to which
        weights in between come close.
    """
    best, found = float(_losses(trail[0], y).mean()), Course(0)
    for number in range(1, len(trail)):
        for share in _SHARES if fine else (1.0,):
            tried = Course(number, share)
            loss = float(_losses(along(trail, tried), y).mean())
            if loss < best - _LEAST_GAIN:
                best, found = loss, tried
    return found


def along(trail: Sequence[Floats32] | Floats32, course: Course) -> Floats32:
    """Log-odds on a course; in between about those of weights in between.

    Of a trail that has no more than the start and the end, too.
    """
    end = trail[min(course.rounds, len(trail) - 1)]
    found: Floats32 = trail[0] + np.float32(course.share) * (end - trail[0])
    return found


def is_shown(
    trail: Sequence[Floats32] | Floats32,
    y: NDArray[np.int64],
    course: Course,
    owners: NDArray[np.int64] | None = None,
) -> bool:
    """Whether the log loss falls along a course by more than noise: 1.645 standard errors, over
    owners where rows have any, as rows of one are alike."""
    fall = _losses(trail[0], y) - _losses(along(trail, course), y)
    if owners is not None:
        places = np.unique(owners, return_inverse=True)[1]
        fall = np.bincount(places, weights=fall).astype(np.float64)
    return bool(fall.sum() > _ONE_SIDED * np.sqrt(len(fall)) * fall.std())


def held_out_rows(
    y: NDArray[np.int64], groups: NDArray[Any] | None = None, *, seed: int
) -> NDArray[np.int64]:
    """Row numbers of about a seventh of the rows, to judge by.

    Parameters
    ----------
    y
        (m,) classes. Rows are drawn in equal shares of each, groups of each highest class.
    groups
        (m,) the entity of each row, such as its user: no entity has rows on both sides. A row
        that the network has learned from tells it the label of all rows that are like it.

    Raises
    ------
    InvalidTable
        If the rows that are left to learn from would lack a class.
    """
    if groups is None:
        return stratified(y.astype(np.float64), test_share=_HELD_OUT, seed=seed).test
    names, entity = np.unique(groups, return_inverse=True)
    most = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(most, entity, y)
    rng = np.random.default_rng(seed)
    apart = np.zeros(len(names), dtype=bool)
    for label in np.unique(most):
        own = rng.permutation(np.flatnonzero(most == label))
        # At least one of each, as long as one is left to learn from.
        apart[own[: min(max(round(len(own) * _HELD_OUT), 1), len(own) - 1)]] = True
    held_out = apart[entity]
    if apart.any() and len(np.unique(y[~held_out])) == len(np.unique(y)):
        return np.flatnonzero(held_out)
    raise InvalidTable(
        f"expected some groups of rows with each label, to hold whole groups out, got {len(names)} "
        f"groups of {len(y)} rows; label rows of more groups"
    )


def raw_scores(
    tower: Tower, head: Head, tokenizer: Tokenizer, pieces: Slices, *, budget: int
) -> NDArray[np.float32]:
    """(m, C) log-odds of pieces."""
    embedding = embeddings(tower, tokenizer, pieces, budget=budget)
    was_training = head.training
    head.eval()
    with torch.inference_mode():
        z_BC = head(torch.from_numpy(embedding).to(head.line.weight.device))
    head.train(was_training)
    found: NDArray[np.float32] = z_BC.cpu().numpy()
    return found


def embeddings(
    tower: Tower,
    tokenizer: Tokenizer,
    pieces: Slices,
    *,
    budget: int,
    on_progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """(m, R) embeddings of pieces, in batches of so many events.

    On a CPU as many batches at a time as torch has threads, each by one of them: products of
    this size gain little from more.
    """
    device = next(tower.parameters()).device
    reader = tokenizer.reader(pieces.histories)
    found = np.zeros((len(pieces), tower.embedding), np.float32)
    was_training = tower.training
    tower.eval()

    def embed(rows: NDArray[np.int64]) -> int:
        with torch.inference_mode():
            inputs = Inputs.of(reader.batch(pieces[rows]), tower.layout, device)
            found[rows] = tower(inputs)[1].cpu().numpy()
        return len(rows)

    alike = tower.shape.kind != "recurrent"
    parts = batches(pieces.lengths, budget=budget, alike=alike)
    num_threads = torch.get_num_threads() if device.type == "cpu" else 1
    with ThreadPoolExecutor(num_threads, initializer=_one_thread) as pool:
        for count in pool.map(embed, parts) if num_threads > 1 else map(embed, parts):
            if on_progress is not None:
                on_progress(count)
    tower.train(was_training)
    return found


def _one_thread() -> None:
    torch.set_num_threads(1)  # of this thread's own products


def _parts(
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    budget: int,
    alike: bool,
    rng: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Batches of an epoch; small tables have at least eight, so that there is something to step."""
    most = max(8, min(256, len(rows) // 8))
    found = batches(lengths[rows], budget=budget, most=most, alike=alike, rng=rng)
    return [rows[part] for part in found]


def _loss(z_BC: Tensor, y_B: Tensor) -> Tensor:
    if z_BC.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(z_BC[:, 0], y_B.to(z_BC.dtype))
    return F.cross_entropy(z_BC, y_B)


def _start_at_base_rate(head: Head, y: NDArray[np.int64], num_outputs: int) -> None:
    counts = np.bincount(y, minlength=max(num_outputs, 2)) + 0.5
    odds = np.log(counts / counts.sum())
    start = odds[1:] - odds[:1] if num_outputs == 1 else odds
    with torch.no_grad():
        head.line.bias.copy_(torch.from_numpy(start))


def logistic(
    x: Floats32,
    y: NDArray[np.int64],
    x_held: Floats32 | None = None,
    y_held: NDArray[np.int64] | None = None,
    *,
    owners: NDArray[np.int64] | None = None,
    strength: float | None = None,
) -> Any:
    """A logistic regression on standardised columns, a linear probe: a pipeline of scikit-learn.

    Where no strength is given it is found by cross-validation, all rows of an owner in one part;
    of 2,000 rows or more, or where a class has one owner, by rows that are held out.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(strength: float, some: NDArray[Any] | slice = slice(None)) -> Any:
        line = LogisticRegression(C=strength, max_iter=300)
        with warnings.catch_warnings():
            # A loose one is never quite there, and stays the looser one of those tried.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return make_pipeline(StandardScaler(), line).fit(x[some], y[some])

    def loss(model: Any, x_other: Floats32, y_other: NDArray[np.int64]) -> float:
        seen = np.isin(y_other, model.classes_)
        if not seen.any():
            return 0.0
        chances = model.predict_proba(x_other[seen])
        return float(seen.sum() * log_loss(y_other[seen], chances, labels=model.classes_))

    if strength is not None:
        return fitted(strength)
    parts = _parts_of_owners(y, owners)
    if parts is not None and (len(y) < _CROSS_VALIDATED or x_held is None):
        losses = [
            sum(
                loss(fitted(strength, parts != part), x[parts == part], y[parts == part])
                for part in range(int(parts.max()) + 1)
            )
            for strength in STRENGTHS
        ]
        return fitted(STRENGTHS[int(np.argmin(losses))])
    if x_held is None or y_held is None or not np.isin(y_held, y).any():
        return fitted(STRENGTHS[0])
    models = [fitted(strength) for strength in STRENGTHS]
    return models[int(np.argmin([loss(model, x_held, y_held) for model in models]))]


def _parts_of_owners(
    y: NDArray[np.int64], owners: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """(m,) one of five parts or fewer for each row, whole owners in a part, each class in several;
    None where the rows outside of some part would have one class."""
    rows = np.arange(len(y)) if owners is None else np.unique(owners, return_inverse=True)[1]
    most = np.zeros(rows.max() + 1, dtype=np.int64)
    np.maximum.at(most, rows, y)
    order = np.argsort(most, kind="stable")
    size = int(min(5, np.unique(most, return_counts=True)[1].min()))
    if size < 2:
        return None
    part = np.empty(len(most), dtype=np.int64)
    part[order] = np.arange(len(most)) % size
    found: NDArray[np.int64] = part[rows]
    whole = all(len(np.unique(y[found != number])) > 1 for number in range(size))
    return found if whole else None


def _start_at_probe(
    tower: Tower,
    head: Head,
    tokenizer: Tokenizer,
    pieces: Slices,
    y: NDArray[np.int64],
    rows: NDArray[np.int64],
    held_out: NDArray[np.int64],
    owners: NDArray[np.int64],
    budget: int,
) -> None:
    """Set the last layer to a logistic regression on the frozen embedding."""
    x = embeddings(tower, tokenizer, pieces, budget=budget)
    held = (x[held_out], y[held_out]) if len(held_out) else ()
    model = logistic(x[rows], y[rows], *held, owners=owners[rows])
    scaler, line = model.steps[0][1], model.steps[1][1]
    weight = line.coef_ / scaler.scale_
    bias = line.intercept_ - weight @ scaler.mean_
    outputs = head.line.bias.shape[0]
    if outputs > 1:
        if len(weight) == 1:  # two of several classes are there to learn from
            weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        some, weight = weight, np.zeros((outputs, weight.shape[1]))
        known, bias = bias, np.full(outputs, bias.min() - _UNHEARD)
        weight[line.classes_], bias[line.classes_] = some, known
    with torch.no_grad():
        head.line.weight.copy_(torch.from_numpy(weight))
        head.line.bias.copy_(torch.from_numpy(bias))


def _losses(z: NDArray[Any], y: NDArray[np.int64]) -> Floats:
    """(m,) log loss of each row."""
    z = z.astype(np.float64)
    if z.shape[1] == 1:
        found: Floats = np.logaddexp(0.0, z[:, 0]) - y * z[:, 0]
        return found
    found = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]
    return found


def _between(start: dict[str, Tensor], end: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights at a share of the way."""
    return {name: torch.lerp(start[name], end[name], share) for name in start}


def _copied(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.network.named_parameters()}


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainer.network.named_parameters():
            parameter.copy_(tensors[name])
