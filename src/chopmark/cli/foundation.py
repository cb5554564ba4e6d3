"""``chopmark foundation``: a user model from events, and vectors of users from it.

Events are a table with a row per event (CSV, TSV, Parquet, JSON lines), or a folder of columns
that `chopmark.histories.build` or `Histories.save` wrote. Nothing is written before all of it is
there, and never over what was read.
"""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from chopmark.cli.easyml import check_output
from chopmark.cli.eventtables import (
    AsOf,
    Fields,
    Numbers,
    TimeColumn,
    TypeColumn,
    UserColumn,
    instant_of,
    names_of,
    places_of,
    read_histories,
    show_histories,
)
from chopmark.cli.show import console, number, progress, say, table
from chopmark.cli.spaces import (
    Kind,
    Task,
    Threads,
    check_fits,
    counted,
    load_space,
    need_torch,
    pace_of,
    shape_of,
    show_refused,
    show_tokens,
    torch_threads,
)
from chopmark.errors import InvalidInput

if TYPE_CHECKING:
    from chopmark.histories import Tokenizer

_SHARES = 100
_BATCH = 4_096


def pretrain(
    events: Path,
    out: Path,
    *,
    user: UserColumn = None,
    time: TimeColumn = None,
    type: TypeColumn = None,
    fields: Fields = None,
    numbers: Numbers = None,
    until: str | None = None,
    keep: str | None = None,
    shape: Kind = "recurrent",
    width: int | None = None,
    task: Task = "mixed",
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    threads: Threads = "auto",
    checkpoint: Path | None = None,
) -> None:
    """Learn what users are like from what they did, without labels.

    Parameters
    ----------
    events
        Table with a row per event, or folder of histories.
    out
        Where the user model goes.
    until
        Instant after which nothing is learned from, such as 2026-01-31: what a model is to be
        judged by should be later.
    keep
        Fields, with commas, to take although their values look like an identity.
    shape
        Of the encoder: recurrent is the fastest and can be kept up to date event by event,
        transformer weighs the newest 256 events against each other, seed is Seq2Win's.
    width
        Of the vector of an event; the shape's own if not given.
    task
        What it is trained on.
    steps
        Of training; the usual number unless --seconds says when to end.
    seconds
        Of training.
    seed
        Same seed, events and steps: same model.
    checkpoint
        File to write now and then, and to go on from if it is there; removed at the end.
    """
    need_torch()
    from chopmark.foundation.usermodel import UserModel
    from chopmark.histories import Sketch, Tokenizer

    check_output(out, events)
    if checkpoint is not None:
        check_output(checkpoint, events, out)
    model = UserModel(shape=shape_of(shape, width), task=task, pace=pace_of(steps, seconds),
                      seed=seed)  # fmt: skip
    histories = read_histories(events, user, time, type, fields, numbers, until=until)
    show_histories(histories)
    tokenizer = Tokenizer.fit(Sketch.of(histories), keep=names_of(keep) or ())
    show_tokens(tokenizer)
    losses: list[float] = []
    with torch_threads(threads, histories, model.shape) as told:
        console.print(told)
        with progress("pre-train, %", _SHARES) as done:

            def on_step(share: float, loss: float) -> None:
                losses.append(loss)
                done(int(share * _SHARES))

            model.fit(histories, tokenizer=tokenizer, checkpoint=checkpoint, on_step=on_step)
        some = histories.every(last=model.shape.length)[:_BATCH]
        model.embed(some[:1])
        began = perf_counter()
        model.embed(some)
        pace = len(some) / (perf_counter() - began)
    model.save(out)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    training = model.training
    rate = training["steps"] / max(training["seconds"], 1e-9)
    rows = [
        ("steps", f"{training['steps']:,}"),
        ("seconds", f"{training['seconds']:,.1f}"),
        ("steps a second", f"{rate:,.1f}"),
        ("loss at first", number(_mean(losses[:20]))),
        ("loss at the end", number(_mean(losses[-20:]))),
        ("users embedded a second", f"{pace:,.0f}"),
        ("numbers of a vector", f"{model.embed(some[:1]).shape[1]:,}"),
    ]
    table("Training", ("figure", "value"), rows)
    console.print(f"saved to {out}: space {model.space}", soft_wrap=True, highlight=False)
    say("The loss says whether it learns, and not what the vectors are worth: `chopmark "
        "foundation adapt` and `benchmark` do.")  # fmt: skip


def embed(
    space: Path,
    events: Path,
    out: Path,
    *,
    user: UserColumn = None,
    time: TimeColumn = None,
    type: TypeColumn = None,
    fields: Fields = None,
    numbers: Numbers = None,
    as_of: AsOf = None,
    update: bool = False,
    threads: Threads = "auto",
) -> None:
    """Give each user a vector, and write them to a folder.

    Parameters
    ----------
    space
        File that pretrain wrote.
    events
        Table with a row per event, or folder of histories: all events, the old ones too.
    out
        Folder: `vectors.npy` and `users.parquet`.
    update
        Only users with events since the folder was written get another vector; the others keep
        theirs.
    """
    need_torch()
    from chopmark.foundation.embeddings import Embeddings

    check_folder(out, update=update)
    model = load_space(space)
    histories = read_histories(events, user, time, type, fields, numbers)
    check_fits(model, histories, events)
    at = None if as_of is None else instant_of(as_of)
    with torch_threads(threads, histories, model.shape) as told:
        console.print(told)
        began = perf_counter()
        if update:
            before = Embeddings.open(out)
            vectors = before.updated(model, histories, as_of=at)
            same = before.as_of == vectors.as_of[: len(before)]
            fresh = len(vectors) - int(same.sum())
        else:
            with counted("embed users", len(histories)) as more:
                vectors = Embeddings.of(model, histories, as_of=at, on_progress=more)
            fresh = len(vectors)
        spent = perf_counter() - began
    vectors.save(out)
    console.print(
        f"{fresh:,} of {len(vectors):,} users embedded in {spent:,.1f} s, "
        f"{vectors.vectors.shape[1]} numbers each, in {out}: space {vectors.space}",
        soft_wrap=True,
        highlight=False,
    )


def tokens(
    events: Path,
    *,
    user: UserColumn = None,
    time: TimeColumn = None,
    type: TypeColumn = None,
    fields: Fields = None,
    numbers: Numbers = None,
    keep: str | None = None,
) -> None:
    """Say what a network would see of events, and what is refused and why.

    Parameters
    ----------
    events
        Table with a row per event, or folder of histories.
    keep
        Fields, with commas, to take although their values look like an identity.
    """
    from chopmark.histories import Sketch, Tokenizer
    from chopmark.histories.identity import identity

    histories = read_histories(events, user, time, type, fields, numbers)
    show_histories(histories)
    with progress("count the values of fields"):
        sketch = Sketch.of(histories)
    tokenizer = Tokenizer.fit(sketch, keep=names_of(keep) or ())
    rows = []
    for name in (*histories.categories, *histories.numbers):
        told = identity(sketch, name)
        kind = "category" if name in histories.categories else "number"
        rows.append(
            (
                name,
                kind,
                f"{told.distinct:,}",
                _share(told.present, histories.num_events),
                _share_of(told.within),
                _share_of(told.between),
                _what(tokenizer, name),
            )
        )
    header = ("field", "kind", "values", "events with one", "same value: one user", "two users",
              "becomes")  # fmt: skip
    table("Fields", header, rows)
    show_refused(tokenizer)


def similar(
    space: Path,
    events: Path,
    *,
    users: str,
    unlike: str | None = None,
    top: int = 10,
    user: UserColumn = None,
    time: TimeColumn = None,
    type: TypeColumn = None,
    fields: Fields = None,
    numbers: Numbers = None,
    as_of: AsOf = None,
) -> None:
    """Find the users who are most like some.

    Parameters
    ----------
    space
        File that pretrain wrote.
    events
        Table with a row per event, or folder of histories.
    users
        Who to be like, with commas.
    unlike
        Who not to be like, with commas.
    top
        How many to show.
    """
    need_torch()
    from chopmark.foundation.similarity import Similarity

    if top < 1:
        raise InvalidInput(f"expected --top of at least 1, got {top}")
    model = load_space(space)
    histories = read_histories(events, user, time, type, fields, numbers)
    check_fits(model, histories, events)
    liked, disliked = (places_of(histories, text, name)
                       for text, name in ((users, "--users"), (unlike, "--unlike")))  # fmt: skip
    if not len(liked):
        raise InvalidInput("expected names of users with --users, got none")
    both = np.intersect1d(liked, disliked)
    if len(both):
        raise InvalidInput(
            f"expected a user in --users or in --unlike, got `{histories.users[int(both[0])]}` "
            "in both"
        )
    with counted("embed users", len(histories)) as more:
        at = histories.until if as_of is None else instant_of(as_of)
        pieces = histories.every(at, last=model.shape.length)
        vectors = model.embed(pieces, on_progress=more)
    known = np.concatenate([liked, disliked])
    likeness = Similarity().fit(vectors[known], np.arange(len(known)) < len(liked))
    others = np.setdiff1d(np.arange(len(histories)), known)
    found = likeness.nearest(vectors[others], histories.users.gather(others), top)
    rows = [(str(name), number(score)) for name, score in found.iter_rows()]
    table(f"Most like {users}", ("user", "cosine"), rows)


def check_folder(out: Path, *, update: bool) -> None:
    """Refuse a folder that would be replaced, and to update what is not there."""
    if update and not out.is_dir():
        raise InvalidInput(f"expected a folder of embeddings to update at `{out}`, got none")
    if not update and out.exists():
        raise InvalidInput(
            f"expected a new folder, but `{out}` exists; --update brings embeddings up to date, "
            "or name another"
        )
    if not out.parent.is_dir():
        raise InvalidInput(f"expected a folder in an existing folder, got `{out}`")


def _what(tokenizer: "Tokenizer", name: str) -> str:
    """What a field becomes, in a few words."""
    if name in tokenizer.refused:
        return "refused"
    if name in tokenizer.fields:
        place = tokenizer.fields.index(name)
        return f"{len(tokenizer.words[place]):,} known values, others hashed"
    bins = tokenizer.sizes[len(tokenizer.fields) + tokenizer.numbers.index(name)]
    return f"{bins} bins and a number" + (", by type too" if f"{name} by type" in tokenizer.numbers
                                          else "")  # fmt: skip


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.0%}"


def _share_of(value: float) -> str:
    return "-" if value != value else f"{max(value, 0.0):.1%}"


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
