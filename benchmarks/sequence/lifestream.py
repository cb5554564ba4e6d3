"""What pytorch-lifestream 0.7.0, the peer, makes of histories: embeddings, and how fast.

    coles           pre-train CoLES with a GRU on the events of a file, for so many seconds, then
                    embed the users of a file: --embeddings gets an .npy, (users, width) float32
    train-speed     real tokens a second of training its GRU or its TransformerEncoder
    embed-speed     users a second through its inference loader and an untrained encoder
    prepare-speed   events a second of its PandasDataPreprocessor, and of `histories` below, which
                    the other tasks use; the benchmark fails if both do not make the same

Events are a Parquet file of `user`, `happened_at`, `type` and fields: texts are categories, all
else numbers. Without one, users are made up (--num-users, --num-events).

Modules, losses, data sets, augmentations and collate functions are the peer's own, as they are,
and so are the settings, from its published configuration for the age-group set (64 users a batch,
five slices each, margin 0.5, the five hardest negatives, Adam at 0.001, noise 0.003 on embeddings
of width 16, 1 % of the events dropped, the last 1,600 events embedded), with three differences. The
width of the GRU is an option. Slices are at most 200 long, and at least a tenth of the median
history up to 25, with users as short as that left out of pre-training, but for those of two events
or more. The loop is plain: no Lightning, which would only take time.

A token is an event that a batch holds; padding is not counted, and the five slices of a user count
each. Preparing the data is timed apart; --seconds begins when it is done. The results are one line
of JSON. Run it in the environment of `peers.txt`; `compare.py` beside it makes that one.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import ptls
import torch
from ptls.data_load.augmentations import DropoutTrx, SeqLenLimit
from ptls.data_load.datasets import AugmentationDataset, MemoryMapDataset, inference_data_loader
from ptls.data_load.iterable_processing import SeqLenFilter
from ptls.frames import PtlsDataModule
from ptls.frames.coles import ColesDataset, CoLESModule
from ptls.frames.coles.split_strategy import SampleSlices
from ptls.frames.inference_module import InferenceModule
from ptls.frames.supervised import SeqToTargetDataset, SequenceToTarget
from ptls.nn import Head, RnnSeqEncoder, TransformerSeqEncoder, TrxEncoder

History = dict[str, torch.Tensor]

USER, TIME, GAP = "user", "event_time", "log_gap"
TARGET = "target"
BATCH, NUM_SLICES = 64, 5
SHORTEST, LONGEST = 25, 200
"""Bounds of a slice's events."""

MOST_WORDS, LEAST_COUNT = 1_000, 5
"""Rarer values of a category share one embedding."""

EMBEDDING_WIDTH, NOISE, DROPPED = 16, 0.003, 0.01
LAST, EMBED_BATCH = 1_600, 512
RATE, EPOCHS_A_STEP, DECAY = 1e-3, 30, 0.9025


def main() -> None:
    """Print the line, or write it to --result."""
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(given.seed)
    np.random.seed(given.seed)  # noqa: NPY002 -- the peer's splitters draw from it
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        facts = TASKS[given.task](given)
    told = {"task": given.task, "seed": given.seed, "threads": given.threads, **facts}
    told |= {"peak_mb": round(peak_mb(), 1), "versions": versions()}
    line = json.dumps(told)
    if given.result:
        given.result.write_text(line + "\n", "utf-8")
    else:
        print(line, flush=True)


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--events", type=Path, help="Parquet of user, happened_at, type, fields")
    parser.add_argument("--users", type=Path, help="Parquet of user: whom to embed, in this order")
    parser.add_argument("--embeddings", type=Path, help=".npy to write")
    parser.add_argument("--result", type=Path, help="JSON to write instead of printing it")
    parser.add_argument("--seconds", type=float, default=20.0, help="of training; 20 by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--encoder", choices=("gru", "transformer"), default="gru")
    parser.add_argument("--objective", choices=("coles", "supervised"), default="coles")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, help="of the Transformer; its default is 6")
    parser.add_argument("--batch", type=int, default=BATCH, help="users of a training batch")
    parser.add_argument("--last", type=int, default=256, help="events of the supervised objective")
    parser.add_argument("--num-users", type=int, default=20_000, help="made up, without --events")
    parser.add_argument("--num-events", type=int, default=60, help="of each of these users")
    given = parser.parse_args()
    if given.task == "coles" and not (given.events and given.users and given.embeddings):
        parser.error("coles needs --events, --users and --embeddings")
    return given


# --- tasks


def coles(given: argparse.Namespace) -> dict[str, Any]:
    """Pre-train, then embed."""
    prepared, facts = prepare(given)
    encoder = encoder_of(prepared, given)
    model, batches = coles_of(encoder, prepared, given)
    facts |= train(model, batches, given.seconds)
    order = {user: place for place, user in enumerate(prepared.users.tolist())}
    wanted = pd.read_parquet(given.users, columns=[USER])[USER].tolist()
    if missing := [user for user in wanted if user not in order]:
        raise SystemExit(f"expected users who have events; {len(missing)} have none: {missing[:3]}")
    found, seconds = embed(model, [prepared.records[order[user]] for user in wanted])
    np.save(given.embeddings, found)
    num_events = sum(min(len(prepared.records[order[user]][TIME]), LAST) for user in wanted)
    return facts | {
        "embed_seconds": round(seconds, 3),
        "embedded": len(wanted),
        "users_per_s": round(len(wanted) / seconds, 1),
        "embed_tokens_per_s": round(num_events / seconds, 1),
    }


def train_speed(given: argparse.Namespace) -> dict[str, Any]:
    """Train, and forget."""
    prepared, facts = prepare(given)
    encoder = encoder_of(prepared, given)
    make = coles_of if given.objective == "coles" else supervised_of
    model, batches = make(encoder, prepared, given)
    return facts | {"objective": given.objective} | train(model, batches, given.seconds)


def embed_speed(given: argparse.Namespace) -> dict[str, Any]:
    """Embed everyone with weights as they were born."""
    prepared, facts = prepare(given)
    model = CoLESModule(encoder_of(prepared, given))
    embed(model, prepared.records[:EMBED_BATCH])
    _, seconds = embed(model, prepared.records)
    return facts | {
        "embed_seconds": round(seconds, 3),
        "embedded": len(prepared.records),
        "users_per_s": round(len(prepared.records) / seconds, 1),
        "users_per_s_prepared": round(
            len(prepared.records) / (seconds + facts["prepare_seconds"]), 1
        ),
        "embed_tokens_per_s": round(facts["num_events"] / seconds, 1),
    }


def prepare_speed(given: argparse.Namespace) -> dict[str, Any]:
    """Both ways to the same records."""
    prepared, facts = prepare(given)
    frame = frame_of(given)
    own, seconds = preprocessed(frame)
    for one, other in zip(prepared.records, own, strict=True):
        for name, values in one.items():
            if not torch.equal(values, other[name].to(values.dtype)):
                raise SystemExit(f"expected the same values of {name}; got {values}, {other[name]}")
    num_events = len(frame)
    return facts | {
        "own_seconds": round(seconds, 3),
        "own_events_per_s": round(num_events / seconds, 1),
        "events_per_s": round(num_events / facts["prepare_seconds"], 1),
    }


TASKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "coles": coles,
    "train-speed": train_speed,
    "embed-speed": embed_speed,
    "prepare-speed": prepare_speed,
}


# --- data


class Prepared:
    """Histories as the peer has them, and what its encoder must know of the fields."""

    def __init__(self, frame: pd.DataFrame) -> None:
        frame = ordered(frame)
        lengths, self.users = lengths_of(frame)
        columns = {TIME: torch.from_numpy(seconds_of(frame))}
        self.sizes: dict[str, int] = {}
        for name in categories_of(frame):
            columns[name], self.sizes[name] = coded(frame[name])
        self.numbers = [name for name in numbers_of(frame) if name != GAP]
        for name in [*self.numbers, GAP]:
            values = frame[name].to_numpy(dtype=np.float32, na_value=np.nan)
            columns[name] = torch.from_numpy(np.nan_to_num(values, nan=0.0))
        pieces = {name: values.split(lengths.tolist()) for name, values in columns.items()}
        self.records: list[History] = [
            dict(zip(pieces, values, strict=True)) for values in zip(*pieces.values(), strict=True)
        ]
        self.lengths = lengths


def prepare(given: argparse.Namespace) -> tuple[Prepared, dict[str, Any]]:
    """From the file to the peer's records; reading is timed too."""
    began = perf_counter()
    prepared = Prepared(frame_of(given))
    facts = {
        "prepare_seconds": round(perf_counter() - began, 3),
        "num_users": len(prepared.records),
        "num_events": int(prepared.lengths.sum()),
        "encoder": given.encoder,
        "width": given.width,
    }
    return prepared, facts


def frame_of(given: argparse.Namespace) -> pd.DataFrame:
    """Events from the file, or made up."""
    if given.events:
        return pd.read_parquet(given.events)
    rng = np.random.default_rng(given.seed)
    num = given.num_users * given.num_events
    gaps_us = rng.exponential(86_400e6, num).astype(np.int64)
    return pd.DataFrame(
        {
            USER: np.repeat(np.arange(given.num_users), given.num_events),
            "happened_at": pd.to_datetime(
                gaps_us.reshape(given.num_users, -1).cumsum(axis=1).ravel(), unit="us"
            ),
            "type": [f"type_{word}" for word in rng.zipf(1.5, num).clip(max=100)],
            "place": [f"place_{word}" for word in rng.integers(0, 30, num)],
            "asset": [f"asset_{word}" for word in rng.zipf(1.3, num).clip(max=200)],
            "amount": rng.lognormal(3.0, 1.5, num),
            "fee": rng.lognormal(0.0, 1.0, num),
        }
    )


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Events user by user, each user's in order of time, with the log of the gap in seconds."""
    frame = frame.sort_values([USER, "happened_at"], kind="stable", ignore_index=True)
    times = microseconds_of(frame)
    users = frame[USER].to_numpy()
    gaps = np.zeros(len(frame), np.float64)
    same = users[1:] == users[:-1]
    gaps[1:][same] = (times[1:] - times[:-1])[same] / 1e6
    # A bare `type` would be an attribute that torch's ModuleDict has, `target` is the label's name.
    frame.columns = [n if n in (USER, "happened_at") else f"field_{n}" for n in frame.columns]
    return frame.assign(**{GAP: np.log1p(gaps)})


def lengths_of(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(u,) events of each user, and (u,) the users, of events user by user."""
    users = frame[USER].to_numpy()
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    return np.diff(np.r_[starts, len(users)]), users[starts]


def microseconds_of(frame: pd.DataFrame) -> np.ndarray:
    times = frame["happened_at"]
    plain = times if times.dt.tz is None else times.dt.tz_convert(None)
    return plain.to_numpy().astype("datetime64[us]").astype(np.int64)


def seconds_of(frame: pd.DataFrame) -> np.ndarray:
    return microseconds_of(frame) // 1_000_000


def categories_of(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if name != USER and is_text(frame[name])]


def numbers_of(frame: pd.DataFrame) -> list[str]:
    known = {USER, "happened_at", TIME, *categories_of(frame)}
    return [name for name in frame.columns if name not in known]


def is_text(values: pd.Series) -> bool:
    return values.dtype == object or isinstance(values.dtype, pd.StringDtype)


def coded(values: pd.Series) -> tuple[torch.Tensor, int]:
    """Codes by frequency from 1 on, as its FrequencyEncoder has them, and the embeddings' number.

    Codes beyond that number the peer clips to the last one, which is that of all rare values.
    """
    texts = values.astype(str)
    counts = texts.value_counts()
    mapping = {word: place for place, word in enumerate(counts.index, start=1)}
    num_kept = min(int((counts >= LEAST_COUNT).sum()), MOST_WORDS)
    return torch.from_numpy(texts.map(mapping).to_numpy(dtype=np.int64)), num_kept + 2


def preprocessed(frame: pd.DataFrame) -> tuple[list[dict[str, Any]], float]:
    """Records by the peer's own preprocessor, and its seconds.

    Its package imports Spark and a folder that the release lacks, so it is entered by the side. Its
    transformer of datetimes fails on what its dispatcher gives it: times go in as whole seconds.
    """
    package = ModuleType("ptls.preprocessing")
    package.__path__ = [str(Path(ptls.__file__).parent / "preprocessing")]
    sys.modules[package.__name__] = package
    from ptls.preprocessing.pandas.pandas_preprocessor import PandasDataPreprocessor

    began = perf_counter()
    frame = ordered(frame)
    frame["seconds"] = seconds_of(frame)
    numbers = [name for name in numbers_of(frame) if name != "seconds"]
    frame[numbers] = frame[numbers].fillna(0.0)
    preprocessor = PandasDataPreprocessor(
        col_id=USER,
        col_event_time="seconds",
        event_time_transformation="none",
        cols_category=categories_of(frame),
        cols_numerical=numbers,
        return_records=True,
    )
    return preprocessor.fit_transform(frame), perf_counter() - began


# --- models


def encoder_of(prepared: Prepared, given: argparse.Namespace) -> Any:
    """The peer's encoder of a history."""
    is_gru = given.encoder == "gru"
    events = TrxEncoder(
        embeddings={
            name: {"in": size, "out": EMBEDDING_WIDTH} for name, size in prepared.sizes.items()
        },
        numeric_values={**dict.fromkeys(prepared.numbers, "log"), GAP: "identity"},
        embeddings_noise=NOISE,
        linear_projection_size=0 if is_gru else given.width,
    )
    if is_gru:
        return RnnSeqEncoder(trx_encoder=events, hidden_size=given.width, type="gru")
    layers = {"n_layers": given.layers} if given.layers else {}
    return TransformerSeqEncoder(trx_encoder=events, **layers)


def coles_of(
    encoder: Any, prepared: Prepared, given: argparse.Namespace
) -> tuple[CoLESModule, "Batches"]:
    """CoLES as it comes, with slices that suit the lengths."""
    shortest = int(np.clip(np.median(prepared.lengths) // 10, 1, SHORTEST))
    known = MemoryMapDataset(prepared.records, [SeqLenFilter(min_seq_len=max(shortest, 2))])
    data = ColesDataset(
        AugmentationDataset(known, [DropoutTrx(DROPPED)]),
        splitter=SampleSlices(split_count=NUM_SLICES, cnt_min=shortest, cnt_max=LONGEST),
    )
    model = CoLESModule(encoder, **optimizer())
    return model, Batches(data, given.batch, lambda x, y: model._loss(*model.shared_step(x, y)))


def supervised_of(
    encoder: Any, prepared: Prepared, given: argparse.Namespace
) -> tuple[SequenceToTarget, "Batches"]:
    """Whole histories against labels drawn by lot: only the speed means something."""
    labels = np.random.default_rng(given.seed).integers(0, 2, len(prepared.records))
    records = [
        {**record, TARGET: int(label)}
        for record, label in zip(prepared.records, labels, strict=True)
    ]
    data = SeqToTargetDataset(
        AugmentationDataset(MemoryMapDataset(records), [SeqLenLimit(given.last)]),
        target_col_name=TARGET,
        target_dtype=torch.float32,
    )
    head = Head(input_size=given.width, objective="classification")
    model = SequenceToTarget(encoder, head, torch.nn.BCELoss(), **optimizer())
    return model, Batches(data, given.batch, lambda x, y: model.loss(model(x), y))


def optimizer() -> dict[str, Any]:
    """As the peer takes it."""
    return {
        "optimizer_partial": partial(torch.optim.Adam, lr=RATE),
        "lr_scheduler_partial": partial(
            torch.optim.lr_scheduler.StepLR, step_size=EPOCHS_A_STEP, gamma=DECAY
        ),
    }


class Batches:
    """Epochs of a data set, by the peer's data module, and the loss of a batch."""

    def __init__(self, data: Any, size: int, loss: Callable[[Any, Any], torch.Tensor]) -> None:
        self.loss = loss
        if not len(data):
            raise SystemExit("expected users with histories long enough to be cut; there are none")
        module = PtlsDataModule(
            train_data=data, train_batch_size=size, train_drop_last=len(data) > size
        )
        self.loader = module.train_dataloader()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def train(model: Any, batches: Batches, limit_s: float) -> dict[str, Any]:
    """Train for so many seconds, at least one batch."""
    began = perf_counter()
    [optimizer], [scheduler] = model.configure_optimizers()
    model.train()
    num_tokens = num_steps = num_epochs = 0
    recent: list[float] = []
    while perf_counter() - began < limit_s:
        for x, y in batches:
            optimizer.zero_grad()
            loss = batches.loss(x, y)
            loss.backward()
            optimizer.step()
            num_tokens += int(x.seq_lens.sum())
            num_steps += 1
            recent = [*recent[-19:], float(loss.detach()) / len(x)]
            if perf_counter() - began >= limit_s:
                break
        else:
            num_epochs += 1
            scheduler.step()
    seconds = perf_counter() - began
    return {
        "train_seconds": round(seconds, 3),
        "tokens_per_s": round(num_tokens / seconds, 1),
        "num_tokens": num_tokens,
        "num_steps": num_steps,
        "num_epochs": num_epochs,
        "loss": round(float(np.mean(recent)), 5),
        "num_weights": sum(values.numel() for values in model.parameters()),
    }


@torch.no_grad()
def embed(model: Any, records: list[History]) -> tuple[np.ndarray, float]:
    """(n, width) float32 of the records, and the seconds from the records to the array."""
    began = perf_counter()
    module = InferenceModule(model, pandas_output=False).eval()
    loader = inference_data_loader(records, max_seq_len=LAST, batch_size=EMBED_BATCH)
    found = np.concatenate([module(batch)["out"].numpy() for batch in loader])
    return found.astype(np.float32), perf_counter() - began


# --- facts


def versions() -> dict[str, str]:
    names = ("pytorch-lifestream", "torch", "numpy", "pandas")
    return {name: version(name) for name in names}


def peak_mb() -> float:
    """Largest resident memory of this process, in MB (Linux)."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM"):
            return float(line.split()[1]) * 1.024 / 1000
    raise OSError("expected VmHWM in the status of the process")


if __name__ == "__main__":
    main()
