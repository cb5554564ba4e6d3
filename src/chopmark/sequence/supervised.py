"""A tower trained on labels: held-out rows say when to stop, and averaged weights are kept.

With a tower that was pre-trained, what is learned first is the last layer alone (a linear
probe), and then all, lower layers at lower rates: a fresh last layer would send noise through
what pre-training has learned. The probe itself is among the candidates that the held-out rows
choose from, so fine-tuning does not end below the frozen embedding by more than chance.

References
----------
Ananya Kumar et al., "Fine-tuning can distort pretrained features and underperform
out-of-distribution", 2022.
"""

from collections.abc import Callable
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

_ROUNDS = 24
_LEAST_GAIN = 1e-4
_STANDARD_ROWS = 2_000
_HELD_OUT = 1.0 / 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A trained tower and its last layer.

    Attributes
    ----------
    held_out_loss
        Log loss on the rows that were held out.
    rounds
        Of `_ROUNDS` parts of the training; the best one was kept.
    """

    tower: Tower
    head: Head
    held_out_loss: float
    best_round: int
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
    """
    rng = np.random.default_rng((seed, 77))
    if held_out is None:
        owners = np.searchsorted(pieces.histories.offsets, pieces.starts, side="right")
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
        _probe(tower, head, tokenizer, pieces, y, rows, budget)
    alike = tower.shape.kind != "recurrent"
    lengths = pieces.lengths
    queue: list[NDArray[np.int64]] = []
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

    def judged() -> float:
        z = raw_scores(tower, head, tokenizer, pieces[held_out], budget=budget)
        return float(_loss(torch.from_numpy(z), torch.from_numpy(y[held_out])))

    best_loss, best_round = judged(), 0
    best = _copied(trainer)
    for number in range(1, _ROUNDS + 1):
        trainer.train(loss, until=number / _ROUNDS, on_step=on_step)
        now = _copied(trainer)
        trainer.use_average()
        found = trainer.agreed(judged())
        if found < best_loss - _LEAST_GAIN:
            best_loss, best_round, best = found, number, _copied(trainer)
        if number - best_round >= _ROUNDS // 3 or trainer.done >= 1.0:
            break
        _restore(trainer, now)
    _restore(trainer, best)
    trainer.network.cpu().eval()
    return Learned(tower=tower, head=head, held_out_loss=best_loss, best_round=best_round,
                   steps=trainer.step)  # fmt: skip


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


def _probe(
    tower: Tower,
    head: Head,
    tokenizer: Tokenizer,
    pieces: Slices,
    y: NDArray[np.int64],
    rows: NDArray[np.int64],
    budget: int,
) -> None:
    """Set the last layer to a logistic regression on the frozen embedding."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import StandardScaler

    x = embeddings(tower, tokenizer, pieces[rows], budget=budget)
    scaler = StandardScaler().fit(x)
    folds = int(min(5, np.bincount(y[rows]).min()))
    if folds < 2:
        return
    model = LogisticRegressionCV(Cs=np.logspace(-4, 0, 5), cv=folds, scoring="neg_log_loss",
                                 max_iter=300, l1_ratios=(0.0,),
                                 use_legacy_attributes=False)  # fmt: skip
    model.fit(scaler.transform(x), y[rows])
    weight = model.coef_ / scaler.scale_
    bias = model.intercept_ - weight @ scaler.mean_
    with torch.no_grad():
        head.line.weight.copy_(torch.from_numpy(weight))
        head.line.bias.copy_(torch.from_numpy(bias))


def _copied(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.network.named_parameters()}


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainer.network.named_parameters():
            parameter.copy_(tensors[name])
