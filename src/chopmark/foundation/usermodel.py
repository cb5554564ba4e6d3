"""A user foundation model: all histories in, one vector per user out, for every task.

    model = UserModel().fit(histories)
    vectors = model.embed(histories)                  # (users, 514) float32
    model.save("space.chopmark")

No labels are needed. What is saved holds numbers alone; `space` names it, and vectors of one
space are not compared with those of another. Serves G1 to G12 and B8 of the requirements.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, DeclarationError, InvalidInput, InvalidTable
from chopmark.foundation.objectives import (
    Bert,
    Contrast,
    Distil,
    Masked,
    Next,
    Objective,
    Pairs,
    Seen,
    Together,
)
from chopmark.foundation.windows import two_windows
from chopmark.histories import Histories, Sketch, Slices, Tokenizer
from chopmark.models import artifact as artifacts
from chopmark.models.artifact import Artifact
from chopmark.models.embedded import tower_of
from chopmark.sequence.inputs import Inputs
from chopmark.sequence.network import Tower
from chopmark.sequence.shape import RECURRENT, Shape
from chopmark.sequence.supervised import embeddings
from chopmark.sequence.training import Pace, Trainer

Task = Literal["mixed", "contrast", "next", "pairs", "masked", "bert"]

USER_MODEL = "user model"
_MOST_USERS = 512
_STANDARD_USERS = 10_000
_SAMPLED_USERS = 2_000
_PACE = Pace(steps=2_000, rate=3e-3)


class UserModel:
    """Learns what users are like from what they did, without labels.

    Parameters
    ----------
    shape
        Of the encoder.
    task
        What it is trained on: "pairs" as the seed has it, "contrast" (InfoNCE), "next", the
        sum of these two and of the hand-made aggregates to be told ("mixed", the default),
        "masked" or "bert".
    pace
        Steps or seconds, and rates.
    window
        Events of a training window at most.
    budget
        Events of a step.
    seed
        Same seed, data and steps: same weights.
    options
        Of the objective, such as ``sampling="uniform"`` of "masked".
    """

    def __init__(
        self,
        *,
        shape: Shape = RECURRENT,
        task: Task = "mixed",
        pace: Pace = _PACE,
        window: int = 192,
        budget: int = 8_192,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        if task not in get_args(Task):
            raise DeclarationError(
                f"expected one of {', '.join(get_args(Task))} to train on, got `{task}`"
            )
        if window < 1 or budget < 1:
            raise DeclarationError(f"expected a window and a budget of at least 1 event, got "
                                   f"{window} and {budget}")  # fmt: skip
        self.shape, self.task, self.pace = shape, task, pace
        self.window, self.budget, self.seed = window, budget, seed
        self.options = options or {}
        self.tokenizer: Tokenizer | None = None
        self.tower: Tower | None = None
        self.training: dict[str, Any] = {}

    def fit(
        self,
        histories: Histories,
        *,
        tokenizer: Tokenizer | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
        checkpoint: Path | None = None,
        on_step: Callable[[float, float], None] | None = None,
    ) -> Self:
        """The model itself, pre-trained.

        Parameters
        ----------
        tokenizer
            One that was fitted elsewhere, such as over all shards.
        weights
            Of a tower of the same shape and tokens, to go on from.
        checkpoint
            File to write now and then, and to go on from if it is there; `ArtifactError` if it
            is of other tokens, options or numbers of users and events.
        on_step
            Called with the share of the training that is over and the loss.

        Raises
        ------
        InvalidTable
            If fewer than two users have two events.
        """
        tokenizer = tokenizer or Tokenizer.fit(Sketch.of(histories))
        shape = self.shape.fitted(histories)
        lengths = np.diff(histories.offsets)
        able = np.flatnonzero(lengths > 1)
        if len(able) < 2:
            raise InvalidTable(
                "expected at least two users with two events or more to learn from, got "
                f"{len(able)} among {len(histories)} users"
            )
        generator = torch.Generator().manual_seed(self.seed)
        tower = Tower(shape, tokenizer, generator)
        if weights is not None:
            tower.load_state_dict(dict(weights))
        objective = self._objective(tower, tokenizer, histories, generator)
        trainer = Trainer(
            {"tower": tower, "task": objective.layers},
            self.pace,
            seed=self.seed,
            about={
                "tokenizer": tokenizer.hash,
                "shape": shape.to_dict(),
                "layout": tower.layout.to_dict(),
                **self._settings(),
                "num_users": len(histories),
                "num_events": int(histories.offsets[-1]),
            },
        )
        reader = tokenizer.reader(histories)
        mean = float(np.minimum(lengths[able], 1.4 * self.window).mean())
        per_step = int(np.clip(self.budget / mean, 2, _MOST_USERS))
        device = trainer.ranks.device
        losses: list[float] = []

        def loss(rng: np.random.Generator) -> torch.Tensor:
            users = rng.choice(able, size=min(per_step, len(able)), replace=False)
            windows = two_windows(histories, users, rng, longest=self.window)
            pieces = _both(windows.earlier, windows.later)
            batch = reader.batch(pieces)
            inputs, hidden = objective.hide(batch, Inputs.of(batch, tower.layout, device), rng)
            events_ND, embedding_BE = tower(inputs)
            seen = Seen(pieces, batch, hidden, events_ND, embedding_BE)
            return objective.loss(seen, rng, trainer.done)

        def told(done: float, value: float) -> None:
            losses.append(value)
            if on_step is not None:
                on_step(done, value)

        trainer.train(loss, checkpoint=checkpoint, on_step=told)
        trainer.use_average()
        self.tokenizer, self.tower = tokenizer, tower.cpu().eval()
        some = histories.every(last=self.shape.length)
        chosen = np.random.default_rng(self.seed).permutation(len(some))[:_STANDARD_USERS]
        tower.standardise(torch.from_numpy(self.embed(some[np.sort(chosen)])))
        self.training = {
            "task": self.task,
            "num_users": len(histories),
            "num_events": int(histories.offsets[-1]),
            "steps": trainer.step,
            "seconds": round(trainer.spent, 1),
            "loss": float(np.mean(losses[-20:])) if losses else None,
            "seed": self.seed,
        }
        return self

    def embed(
        self,
        histories: Histories | Slices,
        *,
        as_of: datetime | int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """(m, embedding) vectors of all users, or of the given pieces, in their order."""
        tower, tokenizer = self._fitted()
        if isinstance(histories, Histories):
            histories = histories.every(as_of, last=self.shape.length)
        return embeddings(tower, tokenizer, histories, budget=self.budget,
                          on_progress=on_progress)  # fmt: skip

    def grown(
        self,
        histories: Histories,
        *,
        pace: Pace | None = None,
        on_step: Callable[[float, float], None] | None = None,
    ) -> "UserModel":
        """A model that goes on from this one's weights over newer histories: another space.

        Words that have become frequent get ids of their own, behind those that there are.
        """
        tower, tokenizer = self._fitted()
        newer = tokenizer.grown(Sketch.of(histories))
        model = UserModel(shape=self.shape, task=self.task, pace=pace or self.pace,
                          window=self.window, budget=self.budget, seed=self.seed,
                          options=self.options)  # fmt: skip
        weights = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
        table = weights["encoder.events.table"]
        layout = self.shape.layout(newer)
        rows, fresh = tower.layout.rows_in(layout)
        larger = table.new_zeros(layout.num_rows, table.shape[1])
        larger[torch.from_numpy(rows)] = table
        # What is new begins as what unknown words were.
        larger[torch.from_numpy(fresh[:, 0])] = table[torch.from_numpy(fresh[:, 1])]
        weights["encoder.events.table"] = larger
        return model.fit(histories, tokenizer=newer, weights=weights, on_step=on_step)

    @property
    def space(self) -> str:
        """Name of the space of the vectors: 16 digits of the hash of all that makes them.

        What training left, such as its seconds, makes none: equal weights are of one space.
        """
        return self._artifact({}).hash[:16]

    def artifact(self) -> Artifact:
        """Weights, tokens and what training left, with its hash."""
        return self._artifact(self.training)

    def _settings(self) -> dict[str, Any]:
        return {"task": self.task, "window": self.window, "budget": self.budget,
                "seed": self.seed, "options": self.options}  # fmt: skip

    def _artifact(self, training: Mapping[str, Any]) -> Artifact:
        tower, tokenizer = self._fitted()
        artifact = Artifact(
            family=USER_MODEL,
            header={
                "shape": tower.shape.to_dict(),
                "layout": tower.layout.to_dict(),
                "tokenizer": tokenizer.to_dict(),
                "settings": self._settings(),
                "training": dict(training),
                "feature_hashes": {},
            },
            arrays={name: tensor.numpy() for name, tensor in tower.state_dict().items()},
        )
        return artifacts.unpack(artifact.pack())

    def save(self, path: str | Path) -> None:
        """Write the artifact, whole or not at all; its usual extension is ``.chopmark``."""
        artifacts.write_whole(Path(path), self.artifact().pack())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A saved model, ready to embed, to tune and to go on from.

        Raises
        ------
        ArtifactError
            If the file is missing, cut, damaged, or holds no user model.
        """
        artifact = artifacts.read(path)
        if artifact.family != USER_MODEL:
            raise ArtifactError(
                f"`{path}` holds a model of family `{artifact.family}`, expected a user model"
            )
        try:
            shape = Shape.from_dict(dict(artifact.header["shape"]))
            tokenizer = Tokenizer.from_dict(artifact.header["tokenizer"])
            model = cls(shape=shape, **artifact.header["settings"])
            training = dict(artifact.header.get("training", {}))
            _check_fit(artifact, shape, tokenizer)
            tower = Tower(shape, tokenizer, torch.Generator())
            weights = {name: torch.tensor(array) for name, array in artifact.arrays.items()}
            tower.load_state_dict(weights)
        except (ArtifactError, AttributeError, DeclarationError, KeyError, RuntimeError, TypeError,
                ValueError) as error:  # fmt: skip
            raise ArtifactError(f"`{path}` holds no user model that fits together: {error}") from (
                error
            )
        model.tokenizer, model.tower = tokenizer, tower.eval()
        model.training = training
        return model

    def _fitted(self) -> tuple[Tower, Tokenizer]:
        if self.tower is None or self.tokenizer is None:
            raise InvalidInput("this UserModel is not fitted: call `fit` or `load`")
        return self.tower, self.tokenizer

    def _objective(
        self,
        tower: Tower,
        tokenizer: Tokenizer,
        histories: Histories,
        generator: torch.Generator,
    ) -> Objective:
        if self.task == "pairs":
            return Pairs(tower, generator)
        if self.task == "contrast":
            return Contrast(tower, generator, **self.options)
        if self.task == "next":
            return Next(tower, generator, tokenizer.sizes)
        if self.task == "mixed":
            rng = np.random.default_rng((self.seed, 1))
            users = rng.permutation(len(histories))[:_SAMPLED_USERS]
            drawn = two_windows(histories, users, rng, longest=self.window)
            return Together(
                Contrast(tower, generator, **self.options),
                Next(tower, generator, tokenizer.sizes),
                Distil(tower, generator, _both(drawn.earlier, drawn.later)),
            )
        reader = tokenizer.reader(histories)
        some = histories.every()
        some = some[np.random.default_rng(self.seed).permutation(len(some))[:20_000]]
        ids = reader.batch(some).ids[:, 0]
        counts = np.bincount(ids, minlength=tokenizer.sizes[0]).astype(np.float64)
        kind = Masked if self.task == "masked" else Bert
        return kind(tower, generator, counts, **self.options)


def _check_fit(artifact: Artifact, shape: Shape, tokenizer: Tokenizer) -> None:
    """Hold weights, layout and tokens to each other and to the shape: as the served tower does."""
    served, _, _ = tower_of(artifact)
    if served.layout != shape.layout(tokenizer):
        raise ArtifactError("its layout is not that of its shape")
    layers = served.layers if served.kind == "recurrent" else served.attending
    if (served.width, len(layers)) != (shape.width, shape.depth):
        raise ArtifactError(
            f"expected weights of width {shape.width} and depth {shape.depth}, got {served.width} "
            f"and {len(layers)}"
        )


def _both(one: Slices, two: Slices) -> Slices:
    joined = (np.concatenate([getattr(one, name), getattr(two, name)])
              for name in ("starts", "ends", "now"))  # fmt: skip
    return Slices(one.histories, *joined)
