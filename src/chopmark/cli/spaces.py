"""User models for commands: loaded, checked against events, shaped and trained by options."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from cyclopts import Parameter

from chopmark.cli.show import console, progress, say, table
from chopmark.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from chopmark.foundation.usermodel import UserModel
    from chopmark.histories import Histories, Tokenizer
    from chopmark.sequence.shape import Shape
    from chopmark.sequence.training import Pace

# What trains is imported where it runs: help must not wait seconds for torch.

Kind = Literal["recurrent", "transformer", "seed"]
Task = Literal["mixed", "contrast", "next", "pairs", "masked", "bert"]

Threads = Annotated[
    str, Parameter(help="Of the processor: a number, or `auto`, which tries what is fastest here.")
]

_SECONDS_STEPS = 1_000_000
_TRIED_USERS = 200


def need_torch() -> None:
    """Raise `MissingExtra` with the install line where torch is not installed."""
    for name in ("torch", "safetensors"):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtra("a user model", "deep") from error


def load_space(space: Path) -> "UserModel":
    """The user model of a file."""
    from chopmark.foundation.usermodel import UserModel

    return UserModel.load(space)


def check_fits(model: "UserModel", histories: "Histories", events: Path) -> None:
    """Refuse events of a kind that a space knows nothing of; say which fields are missing."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    known = set(tokenizer.words[0])
    types = histories.words["type"]
    if known.isdisjoint(types):
        raise InvalidInput(
            f"expected events of types that space {model.space} was trained on "
            f"({', '.join(sorted(known)[:8])}), got {', '.join(sorted(types)[:8])} in `{events}`: "
            "pre-train a space on these events"
        )
    there = {*histories.categories, *histories.numbers}
    read = dict.fromkeys((*tokenizer.fields, *tokenizer.sources))
    lacking = [name for name in read if name not in there]
    if lacking:
        say(f"note: the space reads {', '.join(f'`{name}`' for name in lacking)}, which the events "
            "lack; missing everywhere")  # fmt: skip


def shape_of(kind: Kind, width: int | None) -> "Shape":
    """The shape of that name, perhaps of another width."""
    from chopmark.sequence import RECURRENT, SEED, TRANSFORMER

    shape = {"recurrent": RECURRENT, "transformer": TRANSFORMER, "seed": SEED}[kind]
    return shape if width is None else replace(shape, width=width)


def pace_of(steps: int | None, seconds: float | None) -> "Pace":
    """How long to train, by steps, by the clock, or by what comes first."""
    from chopmark.foundation.usermodel import UserModel

    if steps is not None and steps < 1:
        raise InvalidInput(f"expected --steps of at least 1, got {steps}")
    if seconds is not None and not 0.0 < seconds < float("inf"):
        raise InvalidInput(f"expected --seconds above 0, got {seconds:g}")
    usual = UserModel().pace
    if seconds is None:
        return replace(usual, steps=steps or usual.steps)
    return replace(usual, steps=steps or _SECONDS_STEPS, seconds=seconds)


@contextmanager
def torch_threads(threads: str, histories: "Histories", shape: "Shape") -> Iterator[str]:
    """A block in which torch has so many threads; gives a line that says how many and why."""
    import torch

    from chopmark.foundation.usermodel import UserModel
    from chopmark.sequence.training import Pace, fastest_threads

    if threads != "auto" and not (threads.isascii() and threads.isdigit() and int(threads) > 0):
        raise InvalidInput(f"expected --threads as a number from 1 on, or auto, got `{threads}`")
    before = torch.get_num_threads()
    if threads != "auto":
        chosen, why = int(threads), "as asked"
    elif before == 1:
        chosen, why = 1, "there is no other"
    else:
        able = np.flatnonzero(np.diff(histories.offsets) > 1)[:_TRIED_USERS]
        if len(able) < 2:
            chosen, why = 1, "too few users to try more"
        else:
            sample = histories.select(histories.users.gather(able))

            def work() -> None:
                UserModel(shape=shape, task="contrast", pace=Pace(steps=2)).fit(sample)

            chosen, why = fastest_threads(work), f"the fastest of 1 to {before} on a sample"
    torch.set_num_threads(chosen)
    try:
        yield f"threads: {chosen} ({why})"
    finally:
        torch.set_num_threads(before)


@contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; the block calls what it is given with how many more are done."""
    count = 0
    with progress(what, total) as done:

        def more(number: int) -> None:
            nonlocal count
            count += number
            done(count)

        yield more


def show_tokens(tokenizer: "Tokenizer") -> None:
    """What is a token, in a line, and what is refused, with the reasons."""
    console.print(
        f"reads {', '.join((*tokenizer.fields, *tokenizer.numbers))}", highlight=False,
        soft_wrap=True,
    )  # fmt: skip
    show_refused(tokenizer)


def show_refused(tokenizer: "Tokenizer") -> None:
    """Fields that are no tokens, with the reasons; nothing where there are none."""
    if tokenizer.refused:
        table("Refused as tokens", ("field", "why"), list(tokenizer.refused.items()))
    if tokenizer.kept:
        say(f"kept on request: {', '.join(tokenizer.kept)}")
