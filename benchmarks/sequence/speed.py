"""How fast sequence networks are made and used: chopmark's beside pytorch-lifestream's.

    speed.py                          everything, three rounds (two hours)
    speed.py --only training --seconds 4 --rounds 1
    speed.py --report                 Markdown of the newest results; nothing is run

    training      real tokens a second, of short histories (log-normal lengths, median 20) and of
                  60 events each: recurrent beside the peer's GRU, with labels and without; ours
                  with attention beside the peer's TransformerEncoder
    embedding     users a second, whose 60 events each become a vector
    preparation   events a second, from a frame or file of them to what a network reads
    serving       ours alone: an event into a live state, a history to a score, imports, packages

Every measurement is a process of its own on the same events (three categories, two numbers, made
by a seed), with so many threads. The contenders of a case take turns, round by round, and a ratio
is the median of the rounds' ratios. Memory is measured by benchmarks/histories.py.

A token is an event in a batch that a network is trained on; padding does not count, and an event
that is in two windows of a step counts twice, on both sides. Making batches is part of training.
All are as they come: ours in batches of 8,192 events with labels and 16,384 without, the peer's in
64 users (`by 256`: in 256). Ours has two layers where recurrent and `mixed` where there are no
labels (the peer: one layer, CoLES); with attention four layers, feed-forward four times the width.
The peer's has six and twice the width by default: as many weights in products as ours. Width 128
and 8 heads for all. In every process of ours a little work comes first, which is not counted:
compiled code is loaded in it.

Embedding is of untrained networks, which are as fast as trained ones. Vectors of ours hold all
layers and pools: 6 width + 2 numbers, to the peer's width. The peer's own preprocessor is slow;
`lifestream.py` has a faster way to the same records, which is the one beside `from a file`.

A line of JSON per measurement is appended to speed.jsonl.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import Distribution, distributions, version
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import BUILD, facts, number, one_core, parser, peak_mb, progress, ratio, runs, table
from sequence.compare import ENDLESS, PATIENCE_S, PEER, ROOT, commit
from tabular.run import kill_group, prepare

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "speed.jsonl"
PARTS = ("training", "embedding", "preparation", "serving")
START = 1_767_225_600_000_000
DAY_US = 86_400_000_000

LONGEST = 256
"""Events of a history at most: all that attention reads, and the peer with labels."""

WIDTH = 128
"""Of training and scores, on both sides; whatever the defaults are."""

Facts = dict[str, Any]


def main() -> None:
    """Run, or report."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    arguments.add_argument("--seconds", type=float, default=12.0, help="each; 12 by default")
    arguments.add_argument("--rounds", type=int, default=3, help="3 by default")
    arguments.add_argument("--core", type=int, default=1, help="that all runs on; 1 by default")
    arguments.add_argument("--threads", type=int, default=1, help="with 2, no core is pinned")
    arguments.add_argument("--users", type=int, default=20_000, help="to train on and to prepare")
    arguments.add_argument("--embedded", type=int, default=100_000, help="users to embed")
    arguments.add_argument("--report", action="store_true", help="print Markdown, run nothing")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="file of the lines")
    arguments.add_argument("--own", choices=OWN, help=argparse.SUPPRESS)
    arguments.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    arguments.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.own:
        be_own(given)
    elif given.report:
        report(given)
    else:
        raise SystemExit(run(given))


# --- what is compared


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a case: a task of our own or of lifestream.py, with its options."""

    name: str
    task: str
    options: Facts
    is_ours: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """Contenders that do the same to the same events, and what is told of it.

    Attributes
    ----------
    measures
        What is compared, and which of the facts it is, ours and theirs; more is better.
    """

    part: str
    name: str
    contenders: tuple[Contender, ...]
    measures: dict[str, tuple[str, str]] = field(default_factory=dict)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """All that is asked for."""
    train = {"tokens/s": ("tokens_per_s", "tokens_per_s")}
    for lengths in ("short", "60 events"):
        if "training" not in given.only:
            break
        events = {"events": str(made(lengths, given.users))}

        def ours(name: str, task: str, events: Facts = events, **options: object) -> Contender:
            return Contender(name, task, {**events, "seconds": given.seconds, **options})

        def theirs(name: str, events: Facts = events, **options: object) -> Contender:
            options = {**events, "seconds": given.seconds, "width": WIDTH, **options}
            return Contender(name, "train-speed", options, is_ours=False)

        yield Case("training", f"{lengths}, labels", (
            ours("recurrent", "supervised", kind="recurrent", depth=2),
            theirs("GRU", objective="supervised"),
            theirs("GRU by 256", objective="supervised", batch=256),
        ), train)  # fmt: skip
        yield Case("training", f"{lengths}, no labels", (
            ours("recurrent, mixed", "pretraining"),
            theirs("GRU, CoLES", objective="coles"),
            theirs("GRU, CoLES by 256", objective="coles", batch=256),
        ), train)  # fmt: skip
        yield Case("training", f"{lengths}, labels, attention", (
            ours("transformer", "supervised", kind="transformer", depth=4),
            theirs("Transformer", objective="supervised", encoder="transformer"),
            ours("seed", "supervised", kind="seed", depth=4),
        ), train)  # fmt: skip
    if "embedding" in given.only:
        events = {"events": str(made("60 events", given.embedded))}
        for width in (64, 128):
            yield Case("embedding", f"width {width}", (
                Contender("recurrent", "embedding", {**events, "width": width}),
                Contender("GRU", "embed-speed", {**events, "width": width}, is_ours=False),
            ), {"users/s": ("users_per_s", "users_per_s"),
                "users/s from a file": ("users_per_s_prepared", "users_per_s_prepared")},
            )  # fmt: skip
    if "preparation" in given.only:
        for lengths in ("short", "60 events"):
            events = {"events": str(made(lengths, given.users))}
            yield Case("preparation", lengths, (
                Contender("Histories, Tokenizer, Reader", "preparation", events),
                Contender("its preprocessor", "prepare-speed", events, is_ours=False),
            ), {"events/s from a frame": ("events_per_s", "own_events_per_s"),
                "events/s from a file": ("events_per_s_file", "events_per_s")},
            )  # fmt: skip
    if "serving" in given.only:
        seconds = {"seconds": given.seconds / 4.0}
        yield Case("serving", "a live state", tuple(
            Contender(f"width {width}", "live", {"width": width, **seconds}) for width in (64, 128)
        ))  # fmt: skip
        yield Case("serving", "a history to a score", tuple(
            Contender(f"{kind}, {length} events", "row",
                      {"kind": kind, "depth": depth, "length": length, **seconds})
            for kind, depth in (("recurrent", 2), ("transformer", 4), ("seed", 4))
            for length in (64, 256)
        ))  # fmt: skip
        yield Case("serving", "a fresh process", (Contender("all", "fresh", {}),))
        yield Case("serving", "packages", (Contender("all", "packages", {}),))


def made(lengths: str, num_users: int) -> Path:
    """A Parquet file of events, user by user: made by a seed, and kept."""
    path = BUILD / "sequence" / f"made-{lengths.replace(' ', '-')}-{num_users}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        frame_of(lengths, num_users).write_parquet(part)
        part.rename(path)
    return path


def frame_of(lengths: str, num_users: int) -> pl.DataFrame:
    """Events with the values that lifestream.py makes up; "short", or so many of each user."""
    rng = np.random.default_rng(0)
    if lengths == "short":
        counts = rng.lognormal(np.log(20.0), 1.0, num_users).round().astype(np.int64)
        counts = counts.clip(2, LONGEST)
    else:
        counts = np.full(num_users, int(lengths.split()[0]))
    num = int(counts.sum())
    gaps = np.cumsum(rng.exponential(DAY_US, num).astype(np.int64))
    before = np.r_[0, gaps][np.r_[0, np.cumsum(counts)[:-1]]]

    def words(word: str, codes: np.ndarray, most: int) -> pl.Series:
        names = word + pl.Series(np.arange(most + 1)).cast(pl.String)
        return names.gather(codes.clip(max=most))

    return pl.DataFrame({
        "user": np.repeat(np.arange(num_users), counts),
        "happened_at": pl.Series(START + gaps - np.repeat(before, counts)).cast(pl.Datetime("us")),
        "type": words("type_", rng.zipf(1.5, num), 100),
        "place": words("place_", rng.integers(0, 30, num), 30),
        "asset": words("asset_", rng.zipf(1.3, num), 200),
        "amount": rng.lognormal(3.0, 1.5, num),
        "fee": rng.lognormal(0.0, 1.0, num),
    })  # fmt: skip


# --- running


def run(given: argparse.Namespace) -> int:
    """Case by case, in turns; 1 if something failed."""
    if set(given.only) - {"serving"}:
        prepare(PEER)
    if given.threads == 1:
        os.sched_setaffinity(0, {given.core})
    shared = {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": given.threads,
        "machine": facts(),
        "commit": commit(),
    }
    num_failed = 0
    began = perf_counter()
    for case in cases(given):
        for turn in range(given.rounds):
            for contender in case.contenders:
                who = {"ours": contender.is_ours, "name": contender.name, "round": turn}
                try:
                    found = measured(contender, given)
                except RuntimeError as error:
                    found, num_failed = {"error": str(error)}, num_failed + 1
                row = {**shared, "part": case.part, "case": case.name, **who, **found}
                row |= {"load": round(os.getloadavg()[0], 1)}
                row["measures"] = {
                    told: found.get(keys[not contender.is_ours])
                    for told, keys in case.measures.items()
                }
                with open(given.results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                told = found.get("error") or ", ".join(
                    f"{value:,.5g} {name}" for name, value in row["measures"].items()
                )
                minutes = (perf_counter() - began) / 60
                progress(f"[{minutes:.1f} min] {case.part}, {case.name}: {contender.name}: {told}")
    return int(num_failed > 0)


def measured(contender: Contender, given: argparse.Namespace) -> Facts:
    """What a process of its own tells of itself.

    Raises
    ------
    RuntimeError
        With the process's last line, if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="speed-") as name:
        folder = Path(name)
        result = folder / "result.json"
        if contender.is_ours:
            command = [sys.executable, str(HERE / "speed.py"), "--own", contender.task]
            command += ["--options", json.dumps(contender.options)]
        else:
            command = [str(PEER.python), str(HERE / "lifestream.py"), contender.task]
            for option, value in contender.options.items():
                command += [f"--{option}", str(value)]
        command += ["--threads", str(given.threads), "--result", str(result)]
        with open(folder / "told.txt", "w+", encoding="utf-8") as told:
            process = subprocess.Popen(
                command,
                stdout=told,
                stderr=told,
                cwd=folder,
                env=one_core(threads=given.threads),
                start_new_session=True,
            )
            try:
                status = process.wait(given.seconds + PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"killed {PATIENCE_S} s after its time") from None
            finally:
                kill_group(process)
            if status:
                told.seek(0)
                last = (told.read().strip().splitlines() or ["no message"])[-1]
                # No place of this machine goes into the results.
                last = last.replace(str(folder), "FOLDER").replace(str(ROOT), ".")
                raise RuntimeError(f"status {status}: {last[:200]}")
        found: Facts = json.loads(result.read_text("utf-8"))
        return found


# --- our own side


def be_own(given: argparse.Namespace) -> None:
    """Be one of these processes."""
    if given.own not in ("fresh", "packages"):
        import torch

        torch.set_num_threads(given.threads)
        torch.set_num_interop_threads(1)
    found = OWN[given.own](**given.options)
    if given.own not in ("fresh", "packages"):
        found |= {"peak_mb": round(peak_mb(), 1)}
    names = ("chopmark", "numpy", "polars", "torch")
    found |= {"versions": {name: version(name) for name in names}}
    given.result.write_text(json.dumps(found) + "\n", "utf-8")


class Meter:
    """Tokens a second of training, from `begin` to the end of the last step."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0
        self.num_tokens = self.num_steps = 0

    def begin(self) -> None:
        """From now on."""
        self.__init__()  # type: ignore[misc]
        self.began = perf_counter()

    def step(self, done: float, value: float) -> None:
        """A step has ended."""
        self.num_steps += 1
        self.ended = perf_counter()

    def facts(self) -> Facts:
        """As lifestream.py tells them."""
        seconds = self.ended - self.began
        return {
            "train_seconds": round(seconds, 3),
            "tokens_per_s": round(self.num_tokens / seconds, 1),
            "num_tokens": self.num_tokens,
            "num_steps": self.num_steps,
        }


def supervised(events: str, seconds: float, kind: str, depth: int) -> Facts:
    """The steps of `chopmark.sequence.supervised.learn` alone: no judging between them."""
    import torch
    from torch.nn import functional as F

    from chopmark.histories import Histories, Sketch, Tokenizer
    from chopmark.sequence.batches import batches
    from chopmark.sequence.inputs import Inputs
    from chopmark.sequence.network import Head, Tower
    from chopmark.sequence.shape import Shape
    from chopmark.sequence.training import Pace, Trainer

    histories = Histories.from_frame(Path(events))
    y = np.random.default_rng(0).integers(0, 2, len(histories)).astype(np.float32)
    shape = Shape(kind=kind, width=WIDTH, depth=depth, length=LONGEST)  # type: ignore[arg-type]
    shape = shape.fitted(histories)
    tokenizer = Tokenizer.fit(Sketch.of(histories))
    generator = torch.Generator().manual_seed(0)
    tower = Tower(shape, tokenizer, generator)
    head = Head(tower.embedding, 1, generator)
    pieces, reader, meter = histories.every(last=LONGEST), tokenizer.reader(histories), Meter()
    rng = np.random.default_rng(0)

    def epochs() -> Iterator[np.ndarray]:
        while True:
            yield from batches(
                pieces.lengths, budget=8_192, most=256, alike=kind != "recurrent", rng=rng
            )

    parts = epochs()

    def loss(_: np.random.Generator) -> torch.Tensor:
        rows = next(parts)
        batch = reader.batch(pieces[rows])
        meter.num_tokens += batch.num_tokens
        z_BC = head(tower(Inputs.of(batch, tower.layout))[1], shape.dropout)
        return F.binary_cross_entropy_with_logits(z_BC[:, 0], torch.from_numpy(y[rows]))

    modules = {"tower": tower, "head": head}
    Trainer(modules, Pace(steps=1)).train(loss)
    trainer = Trainer(modules, Pace(steps=ENDLESS, seconds=seconds))
    meter.begin()
    trainer.train(loss, on_step=meter.step)
    weights = sum(values.numel() for values in [*tower.parameters(), *head.parameters()])
    return {**meter.facts(), "num_weights": weights}


def pretraining(events: str, seconds: float) -> Facts:
    """`UserModel.fit` as it comes, but for the width."""
    from chopmark.foundation import UserModel
    from chopmark.histories import Histories
    from chopmark.sequence.shape import Shape
    from chopmark.sequence.training import Pace

    meter = Meter()

    class Counted(UserModel):
        """Counts the events of each step."""

        def _objective(self, *arguments: Any) -> Any:
            found = Counting(super()._objective(*arguments), meter)
            meter.begin()
            return found

    histories = Histories.from_frame(Path(events))
    some = histories.select(histories.users[:200])
    shape = Shape(width=WIDTH)
    Counted(shape=shape, pace=Pace(steps=1)).fit(some)
    model = Counted(shape=shape, pace=Pace(steps=ENDLESS, seconds=seconds, rate=3e-3))
    model.fit(histories, on_step=meter.step)
    assert model.tower is not None
    weights = sum(values.numel() for values in model.tower.parameters())
    return {**meter.facts(), "num_weights": weights}


class Counting:
    """An objective that tells a meter of the events that it is shown."""

    def __init__(self, objective: Any, meter: Meter) -> None:
        self.objective, self.layers, self.loss = objective, objective.layers, objective.loss
        self.meter = meter

    def hide(self, batch: Any, inputs: Any, rng: np.random.Generator) -> Any:
        """As the objective does."""
        self.meter.num_tokens += batch.num_tokens
        return self.objective.hide(batch, inputs, rng)


def embedding(events: str, width: int) -> Facts:
    """`UserModel.embed` of all users."""
    from chopmark.foundation import UserModel
    from chopmark.histories import Histories
    from chopmark.sequence.shape import Shape
    from chopmark.sequence.training import Pace

    frame = pl.read_parquet(events)
    some = Histories.from_frame(frame.filter(pl.col("user") < 1_000))
    model = UserModel(shape=Shape(width=width), pace=Pace(steps=1)).fit(some)
    model.embed(some)
    del frame
    began = perf_counter()
    histories = Histories.from_frame(Path(events))
    prepared = perf_counter() - began
    vectors = model.embed(histories)
    seconds = perf_counter() - began - prepared
    return {
        "prepare_seconds": round(prepared, 3),
        "embed_seconds": round(seconds, 3),
        "embedded": len(vectors),
        "width": vectors.shape[1],
        "users_per_s": round(len(vectors) / seconds, 1),
        "users_per_s_prepared": round(len(vectors) / (seconds + prepared), 1),
        "embed_tokens_per_s": round(histories.num_events / seconds, 1),
    }


def preparation(events: str) -> Facts:
    """From a frame, then from the file, to all that a network reads."""
    from chopmark.histories import Histories, Sketch, Tokenizer

    def prepared(source: Any) -> int:
        histories = Histories.from_frame(source)
        reader = Tokenizer.fit(Sketch.of(histories)).reader(histories)
        pieces = histories.every()
        return sum(
            reader.batch(pieces[begin : begin + 1_000]).num_tokens
            for begin in range(0, len(pieces), 1_000)
        )

    frame = pl.read_parquet(events)
    prepared(frame.filter(pl.col("user") < 1_000))
    found: Facts = {"num_events": frame.height, "num_users": frame["user"].n_unique()}
    for name, source in (("events_per_s", frame), ("events_per_s_file", Path(events))):
        began = perf_counter()
        num_tokens = prepared(source)
        seconds = perf_counter() - began
        if num_tokens != frame.height:
            raise SystemExit(f"expected {frame.height} events in the batches, got {num_tokens}")
        found[name] = round(num_tokens / seconds, 1)
    return found


def live(width: int, seconds: float) -> Facts:
    """Events of a thousand users into their states, as they come, and embeddings now."""
    from chopmark.models.live import LiveStates
    from chopmark.times import Instant

    scorer = scorer_of("recurrent", 2, width, num_events=60)
    states = LiveStates(scorer.tower, scorer.tokenizer)
    events = frame_of("60 events", 1_000).sort("happened_at")
    fields = events.select(pl.exclude("user", "happened_at")).to_dicts()
    users, times = events["user"].to_list(), events["happened_at"].to_physical().to_list()
    add = [partial(states.add, *each) for each in zip(users, map(Instant, times), fields,
                                                      strict=True)]  # fmt: skip
    found = {f"add_{name}": value for name, value in latencies(add, seconds).items()}
    now = Instant(times[-1] + DAY_US)
    embed = [partial(states.embed, user, now) for user in users]
    return found | {f"embed_{name}": value for name, value in latencies(embed, seconds).items()}


def row(kind: str, depth: int, length: int, seconds: float) -> Facts:
    """One history, as a list of dicts, to a score."""
    scorer = scorer_of(kind, depth, WIDTH, num_events=length)
    values = lists_of(length, 16).to_list()
    return latencies([partial(scorer.score_row, (value,)) for value in values], seconds)


def latencies(calls: Iterable[Callable[[], object]], seconds: float) -> Facts:
    """Median and 99th percentile in microseconds of calls in turn, for so many seconds.

    Calls that may be made once only are made once: 2,000 of them are not counted at most.
    """
    calls = list(calls)
    once = len(calls) > 1_000
    num_before = 2_000 if once else 2 * len(calls)
    turns = iter(calls) if once else cycle(calls)
    times: list[float] = []
    ends = float("inf")
    for place, call in enumerate(turns):
        began = perf_counter()
        call()
        ended = perf_counter()
        if place == num_before:
            ends = ended + seconds
        elif place > num_before:
            times.append(ended - began)
        if ended > ends and len(times) >= 100:
            break
    p50, p99 = np.percentile(times, [50, 99]) * 1e6
    return {"p50_us": round(p50, 1), "p99_us": round(p99, 1), "num_calls": len(times)}


def lists_of(length: int, num_users: int) -> pl.Series:
    """Histories of so many events as a list column."""
    from chopmark.histories import Histories

    return Histories.from_frame(frame_of(f"{length} events", num_users)).every().to_lists()


def fitted(kind: str, depth: int, width: int, *, num_events: int) -> Any:
    """A `Seq2Win` of one step: what it has learned costs no time."""
    from chopmark.sequence import Pace, Seq2Win, Shape

    column = lists_of(num_events, 64)
    history = pl.DataFrame({"events": column, "target": np.arange(len(column)) % 2})
    shape = Shape(kind=kind, depth=depth, width=width, length=LONGEST)  # type: ignore[arg-type]
    return Seq2Win(shape=shape, pace=Pace(steps=1)).fit(history)


def scorer_of(kind: str, depth: int, width: int, *, num_events: int) -> Any:
    """Its scorer."""
    return fitted(kind, depth, width, num_events=num_events).scorer


SERVE = """
import json, sys
from time import perf_counter
from machine import peak_mb, resident_mb
before = resident_mb()
began = perf_counter()
import chopmark.models
from chopmark.models.families import load_scorer
imported = perf_counter()
scorer = load_scorer(sys.argv[1])
loaded = perf_counter()
scorer.warm()
warmed = perf_counter()
assert "torch" not in sys.modules
print(json.dumps({"import_s": imported - began, "load_s": loaded - imported,
                  "warm_s": warmed - loaded, "before_mb": before, "resident_mb": resident_mb(),
                  "peak_mb": peak_mb()}))
"""

IMPORT = """
from time import perf_counter
began = perf_counter()
import chopmark.sequence.seq2win
print(perf_counter() - began)
"""


def fresh() -> Facts:
    """Seconds and MB of a process that loads a scorer and is ready, and of one that may train.

    The interpreter and numpy are there before; their memory is told apart.
    """
    found: Facts = {}
    for kind, depth in (("recurrent", 2), ("transformer", 4), ("seed", 4)):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "model.chopmark"
            fitted(kind, depth, WIDTH, num_events=64).save(path)
            found[f"{kind}_file_mb"] = round(path.stat().st_size / 1e6, 3)
            told = json.loads(fresh_process(SERVE, str(path)))
        found |= {f"{kind}_{fact}": round(value, 3) for fact, value in told.items()}
    return found | {"import_seq2win_s": round(float(fresh_process(IMPORT)), 3)}


def fresh_process(code: str, *arguments: str) -> str:
    """What a new interpreter prints."""
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def packages() -> Facts:
    """What must be installed: for chopmark, for its networks, for torch alone, for the peer."""
    known = named(distributions())
    # As it is written now: what is installed may tell of an older one.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    base = needed(project["dependencies"], known)
    deep = needed(project["optional-dependencies"]["deep"], known)
    torch = needed(["torch"], known)
    beside = sorted(deep - base - torch)
    found: Facts = {
        "chopmark": len(base),
        "torch": len(torch),
        "deep_beside_torch": len(beside),
        "deep_beside_torch_names": ", ".join(beside),
    }
    if folders := sorted(PEER.folder.glob("lib/python*/site-packages")):
        known = named(distributions(path=[str(folders[0])]))
        found["peer_beside_torch"] = len(needed(["pytorch-lifestream"], known) - torch)
    return found


def named(found: Iterable[Distribution]) -> dict[str, Distribution]:
    return {plain(each.metadata["Name"]): each for each in found}


def needed(asked: Iterable[str], known: dict[str, Distribution]) -> set[str]:
    """Names of distributions, and of all that they ask for here, so far as it is installed."""
    from packaging.requirements import Requirement

    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in asked]
    while waiting:
        each, extra = waiting.pop()
        if each.marker is not None and not each.marker.evaluate({"extra": extra}):
            continue
        for own in ("", *each.extras):
            key = (plain(each.name), own)
            if key[0] in known and key not in seen:
                seen.add(key)
                waiting += [(Requirement(text), own) for text in known[key[0]].requires or ()]
    return {name for name, _ in seen}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


OWN: dict[str, Callable[..., Facts]] = {
    "supervised": supervised,
    "pretraining": pretraining,
    "embedding": embedding,
    "preparation": preparation,
    "live": live,
    "row": row,
    "fresh": fresh,
    "packages": packages,
}


# --- results


def report(given: argparse.Namespace) -> None:
    """Print Markdown of the newest run of each case."""
    newest = newest_of(given)
    print(f"## Speed of sequence networks, {given.threads} thread"
          f"{'s' if given.threads > 1 else ''}\n")  # fmt: skip
    for text in sorted({lines[0]["machine"] for lines in newest.values()}):
        print(f"{text}\n")
    known = {
        (name, number) for lines in newest.values() for line in lines
        for name, number in line.get("versions", {}).items()
    }  # fmt: skip
    print(f"{', '.join(' '.join(each) for each in sorted(known))}.\n")
    for part in given.only:
        found = {name: lines for (each, name), lines in newest.items() if each == part}
        if found:
            print(f"### {part.capitalize()}\n")
            (report_alone if part == "serving" else report_pairs)(found, given.threads)
    failed = [line for lines in newest.values() for line in lines if "error" in line]
    if failed:
        print("### Failures\n")
        names = ("part", "case", "name", "round", "error")
        table(names, [[line[name] for name in names] for line in failed])


def newest_of(given: argparse.Namespace) -> dict[tuple[str, str], list[Facts]]:
    """The lines of the last run of each part and case with so many threads."""
    found: dict[tuple[str, str], list[Facts]] = {}
    text = given.results.read_text("utf-8") if given.results.exists() else ""
    for line in map(json.loads, text.splitlines()):
        if line["threads"] != given.threads:
            continue
        key = (line["part"], line["case"])
        if key in found and found[key][0]["run"] == line["run"]:
            found[key].append(line)
        else:
            found[key] = [line]
    if not found:
        raise SystemExit(
            f"no results of {given.threads} threads in {given.results.name}: run without --report"
        )
    return found


def report_pairs(found: dict[str, list[Facts]], threads: int) -> None:
    """Medians of ours and of theirs, and how many times theirs ours is."""
    rows = []
    for case, lines in found.items():
        values: dict[tuple[bool, str], dict[str, dict[int, float]]] = defaultdict(dict)
        peaks: dict[tuple[bool, str], float] = {}
        for line in lines:
            who = (line["ours"], line["name"])
            for measure, value in line["measures"].items():
                if value is not None:
                    values[who].setdefault(measure, {})[line["round"]] = value
                    peaks[who] = max(peaks.get(who, 0.0), line["peak_mb"])
        mine, others = ([who for who in values if who[0] is is_ours] for is_ours in (True, False))
        for own, other in ((own, other) for own in mine for other in others):
            for measure in values[own]:
                turns = sorted(values[own][measure].keys() & values[other].get(measure, {}).keys())
                if not turns:
                    continue
                ours, theirs = (
                    runs([values[who][measure][turn] for turn in turns]) for who in (own, other)
                )
                rows.append([case, measure, own[1], ours.text(), other[1], theirs.text(),
                             ratio(theirs, ours).text(), number(peaks[own]),
                             number(peaks[other])])  # fmt: skip
                if measure.startswith("users/s"):
                    rows[-1][0] += (
                        f"; {million(ours.median)} and {million(theirs.median)} a million"
                    )
    table(["case", "measure", "ours", "", "peer", "", "ratio", "ours, peak MB", "peer, peak MB"],
          rows)  # fmt: skip


def million(users_per_s: float) -> str:
    return f"{number(1e6 / users_per_s / 60, 2)} min"


def report_alone(found: dict[str, list[Facts]], threads: int) -> None:
    """Medians of all that was told."""
    hidden = {"run", "threads", "round", "load", "ours"}
    for case, lines in found.items():
        print(f"{case.capitalize()}:\n")
        told: dict[str, dict[str, list[Any]]] = {}
        for line in lines:
            for name, value in line.items():
                if name in hidden or not isinstance(value, int | float):
                    continue
                told.setdefault(line["name"], {}).setdefault(name, []).append(value)
        names = list(dict.fromkeys(name for values in told.values() for name in values))
        if len(told) == 1:
            (values,) = told.values()
            table(["what", "median"], [[name, runs(values[name]).text()] for name in names])
            continue
        table(["", *names], [
            [who, *(runs(values[name]).text() if name in values else "" for name in names)]
            for who, values in told.items()
        ])  # fmt: skip


if __name__ == "__main__":
    main()
