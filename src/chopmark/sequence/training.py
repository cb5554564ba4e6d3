"""The training loop of all sequence networks: plain torch, one step at a time.

Whoever trains gives the loss of a step; this gives warm-up and decay of the rate, clipping,
averaged weights, several processes (torchrun), a limit in steps or seconds, and checkpoints
from which training goes on as if it had never stopped. All that is drawn in a step is drawn
from its number and the seed, so a checkpoint needs no state of a generator. Serves B8.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import Module

from chopmark.errors import ArtifactError
from chopmark.models.artifact import write_whole
from chopmark.ranks import Ranks

Loss: TypeAlias = Callable[[np.random.Generator], Tensor | None]
"""The loss of one step, all that is random drawn from the generator; None: nothing to learn."""

_FORMAT = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a network is trained.

    Parameters
    ----------
    steps
        Steps at most.
    seconds
        Of the clock at most; the rate falls with the time that is left. With it the result
        depends on the machine's speed. None sets no limit.
    rate
        Highest learning rate, after warm-up.
    warmup
        Share of the training in which the rate rises.
    decay
        Weight decay of matrices.
    clip
        Length that the gradient is cut to.
    average
        How slowly the averaged weights follow, in [0, 1); 0 keeps the last ones.
    """

    steps: int = 1_000
    seconds: float | None = None
    rate: float = 2e-3
    warmup: float = 0.05
    decay: float = 0.01
    clip: float = 1.0
    average: float = 0.99


class Trainer:
    """Trains the modules of a network together.

    Parameters
    ----------
    modules
        By name; names are those of the checkpoint.
    pace
        Length and rates.
    seed
        Of all that is drawn.
    rates
        Factor on the rate of some modules' parameters by prefix, such as lower layers'.
    ranks
        The processes that train; alone by default.
    about
        What else a checkpoint must be of to be gone on from, such as the hash of the tokenizer
        and the number of events, as JSON takes it.
    """

    def __init__(
        self,
        modules: dict[str, Module],
        pace: Pace,
        *,
        seed: int = 0,
        rates: dict[str, float] | None = None,
        ranks: Ranks | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = torch.nn.ModuleDict(modules)
        self.pace, self.seed, self.ranks = pace, seed, ranks or Ranks.joined()
        self.network.to(self.ranks.device)
        # As it comes back from a file: tuples are lists there.
        self._about: dict[str, Any] = json.loads(json.dumps(dict(about or {})))
        self.step = 0
        self.spent = 0.0
        self._named = [(n, p) for n, p in self.network.named_parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = []
        for name, parameter in self._named:
            factor = next((f for start, f in (rates or {}).items() if name.startswith(start)), 1.0)
            # Scales, shifts, lifetimes and the table of events are free; matrices decay.
            free = parameter.ndim < 2 or name.endswith("events.table")
            groups.append({"params": [parameter], "factor": factor,
                           "weight_decay": 0.0 if free else pace.decay})  # fmt: skip
        self._optimizer = torch.optim.AdamW(groups, lr=pace.rate, betas=(0.9, 0.98), foreach=True)
        self._mean = {name: parameter.detach().clone() for name, parameter in self._named}

    @property
    def done(self) -> float:
        """Share of the training that is over, from 0 to 1."""
        share = self.step / self.pace.steps
        if self.pace.seconds is not None:
            share = max(share, self.spent / self.pace.seconds)
        return min(share, 1.0)

    def train(
        self,
        loss: Loss,
        *,
        until: float = 1.0,
        checkpoint: Path | None = None,
        every: int = 200,
        on_step: Callable[[float, float], None] | None = None,
    ) -> None:
        """Take steps until a share of the training is over.

        Parameters
        ----------
        checkpoint
            File to write now and then; one that is there already is gone on from.
        every
            Steps from checkpoint to checkpoint.
        on_step
            Called with the share that is over and the loss.
        """
        if checkpoint is not None and self.step == 0 and checkpoint.exists():
            self.load(checkpoint)
        began, before = perf_counter(), self.spent
        self.network.train()
        while (done := self.agreed(self.done)) < until:
            value = self._take(loss, done)
            self.step += 1
            self.spent = before + perf_counter() - began
            if checkpoint is not None and self.step % every == 0 and self.ranks.rank == 0:
                self.save(checkpoint)
            if on_step is not None:
                on_step(self.done, value)
        self.network.eval()

    def use_average(self) -> None:
        """Take the averaged weights as the weights."""
        if self.pace.average:
            with torch.no_grad():
                for name, parameter in self._named:
                    parameter.copy_(self._mean[name])

    def save(self, path: Path) -> None:
        """Write the weights, their averages and the optimizer's moments, whole or not at all."""
        tensors = {}
        for name, parameter in self._named:
            tensors[f"now.{name}"] = parameter.detach()
            tensors[f"mean.{name}"] = self._mean[name]
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value).detach()
        about = {"format": _FORMAT, "step": self.step, "spent": self.spent, "seed": self.seed,
                 "of": self._about}  # fmt: skip
        flat = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(path, save(flat, {"about": json.dumps(about)}))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        ArtifactError
            If it is cut or damaged, or of another network, seed or `about`; nothing is changed
            then.
        """
        tensors, about = read_tensors(path)
        if about.get("format") != _FORMAT or about.get("seed") != self.seed:
            raise ArtifactError(
                f"checkpoint `{path.name}` was written with seed {about.get('seed')} in format "
                f"{about.get('format')}; expected seed {self.seed} and format {_FORMAT}: delete "
                "it to begin anew"
            )
        step, spent = _progress(about, path)
        self._check_of(about.get("of"), path)
        for name, parameter in self._named:
            for part in ("now", "mean", "exp_avg", "exp_avg_sq", "step"):
                shape = torch.Size([]) if part == "step" else parameter.shape
                found = tensors.get(f"{part}.{name}")
                if found is None or found.shape != shape:
                    raise ArtifactError(
                        f"checkpoint `{path.name}` holds another network: {part} of `{name}` is "
                        f"{'missing' if found is None else tuple(found.shape)}, expected "
                        f"{tuple(shape)}; delete it to begin anew"
                    )
                if (
                    not found.is_floating_point()
                    or not bool(torch.isfinite(found).all())
                    or (part in ("exp_avg_sq", "step") and bool((found < 0).any()))
                ):
                    raise ArtifactError(
                        f"checkpoint `{path.name}` is damaged: {part} of `{name}` is not finite, "
                        "below 0 or no number; delete it to begin anew"
                    )
        with torch.no_grad():
            for name, parameter in self._named:
                parameter.copy_(tensors[f"now.{name}"])
                self._mean[name].copy_(tensors[f"mean.{name}"])
                self._optimizer.state[parameter] = {
                    "step": tensors[f"step.{name}"].to(torch.float32, copy=True),
                    "exp_avg": tensors[f"exp_avg.{name}"].to(parameter, copy=True),
                    "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter, copy=True),
                }
        self.step, self.spent = step, spent

    def _check_of(self, found: object, path: Path) -> None:
        """Refuse a checkpoint of other data, tokens or options."""
        if found == self._about:
            return
        told = found if isinstance(found, dict) else {}
        names = [name for name in {**self._about, **told}
                 if told.get(name) != self._about.get(name)]  # fmt: skip
        some = "; ".join(
            f"{name} was {_short(told.get(name))} and is {_short(self._about.get(name))}"
            for name in names[:3]
        )
        raise ArtifactError(
            f"checkpoint `{path.name}` is of another training ({some or 'it does not say of what'})"
            ": go on with what it was begun with, or delete it to begin anew"
        )

    def _take(self, loss: Loss, done: float) -> float:
        """One step; gives its loss."""
        rng = np.random.default_rng((self.seed, self.step, self.ranks.rank))
        rate = self.pace.rate * _rate(done, self.pace.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 62)))
            value = loss(rng)
        self._optimizer.zero_grad(set_to_none=False)
        if value is not None:
            (value / self.ranks.size).backward()
        for _, parameter in self._named:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        parameters = [parameter for _, parameter in self._named]
        self.ranks.add_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.pace.clip, foreach=True)
        if bool(torch.isfinite(norm)):
            self._optimizer.step()
        # The average is of all weights so far at first, and then of the newest.
        weight = max(1.0 - self.pace.average, 1.0 / (self.step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._mean.values()), parameters, weight)
        return float("nan") if value is None else float(value.detach())

    def agreed(self, number: float) -> float:
        """The number that the first of the processes has."""
        value = torch.tensor([number], dtype=torch.float64, device=self.ranks.device)
        return float(self.ranks.agreed(value))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and what it says about itself.

    Raises
    ------
    ArtifactError
        If it is missing, cut in half, or no such file.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as stored:
            about = json.loads((stored.metadata() or {}).get("about", "{}"))
        if not isinstance(about, dict):
            raise ValueError("what it says about itself is no object")
        return load_file(path), about
    except (OSError, RecursionError, SafetensorError, ValueError) as error:
        raise ArtifactError(
            f"checkpoint `{path.name}` cannot be read ({error}); it was cut or damaged: delete it "
            "to begin anew"
        ) from error


def _progress(about: Mapping[str, Any], path: Path) -> tuple[int, float]:
    """Steps and seconds that a checkpoint tells."""
    step, spent = about.get("step"), about.get("spent")
    whole = isinstance(step, int) and not isinstance(step, bool)
    if (
        not whole
        or not 0 <= step < 1 << 53  # type: ignore[operator]
        or not isinstance(spent, int | float)
        or not 0.0 <= spent < math.inf
    ):
        raise ArtifactError(
            f"checkpoint `{path.name}` is damaged: expected its step and seconds as numbers of at "
            f"least 0, got {_short(step)} and {_short(spent)}; delete it to begin anew"
        )
    return int(step), float(spent)  # type: ignore[arg-type]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fastest_threads(work: Callable[[], object], *, most: int | None = None) -> int:
    """The number of threads with which some work is done soonest, tried one after the other.

    On a busy machine two threads are slower than one; nobody knows beforehand.
    """
    before = torch.get_num_threads()
    tried: dict[int, float] = {}
    number = 1
    try:
        while number <= (most or before):
            torch.set_num_threads(number)
            work()
            times: Iterable[float] = (_seconds(work) for _ in range(3))
            tried[number] = min(times)
            number *= 2
    finally:
        torch.set_num_threads(before)
    return min(tried, key=lambda threads: tried[threads])


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def _rate(done: float, warmup: float) -> float:
    """Factor on the rate: up in a line, down in half a cosine."""
    if done < warmup:
        return max(done / warmup, 0.02)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * (done - warmup) / (1.0 - warmup)))
