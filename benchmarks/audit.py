"""The tamper-evident log: what its hashes cost, and how fast they are verified.

    python benchmarks/audit.py [--records 200000] [--repeats 5] [--append-only]

A log of pairs, an event of about 250 bytes and a decision of about 1.7 kB, 16 pairs a commit.
`--append-only` needs nothing of the chain: run it with PYTHONPATH on an earlier source tree for
the figure before. The last line is the goal of issue 4: >= 100,000 records verified a second.
"""

import hashlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import numpy as np
from machine import BUILD, goal, number, parser, progress, report, runs, table

from chopmark.datasets import exchange
from chopmark.decisions import Decision, Reason
from chopmark.events import Event, Schema, SqliteLog
from chopmark.times import moment

SCHEMA = Schema(exchange.Purchase, Decision)
START = 1_767_225_600_000_000
PAIRS_PER_COMMIT = 16
GOAL = 100_000


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--records", type=int, default=200_000)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--append-only", action="store_true")
    given = arguments.parse_args()
    with (
        report(f"Tamper-evident log, {given.records:,} records"),
        TemporaryDirectory(dir=BUILD) as at,
    ):
        pairs = list(encoded_pairs(given.records // 2))
        mean = np.mean([len(body) for pair in pairs for _, body in pair])
        print(f"Mean body: {mean:,.0f} bytes; {PAIRS_PER_COMMIT} pairs a commit, fsync in each.\n")
        append(Path(at), pairs, given.repeats)
        if not given.append_only:
            hashes(pairs, given.repeats)
            verified(Path(at), len(pairs) * 2, given.repeats)


Pair = list[tuple[Event, bytes]]


def encoded_pairs(count: int) -> Iterator[Pair]:
    """Events and decisions with 150 feature values."""
    rng = np.random.default_rng(0)
    for place in range(count):
        at = moment(START + place * 1_000)
        user = f"user-{rng.integers(20_000)}"
        name = f"purchase-{place:08d}-{rng.integers(1 << 40):010x}"
        purchase = exchange.Purchase(
            id=name, happened_at=at, known_at=at, user=user, device=f"device-{place % 9_973}",
            ip=f"ip-{place % 7_919}", screen_resolution="1920x1080", rail="card",
            card=f"card-{place % 20_011}", issuer="First Bank", asset="BTC",
            amount_usd=round(float(rng.uniform(5, 500)), 2),
        )  # fmt: skip
        decision = Decision(
            id=f"decision:{name}", happened_at=at, known_at=at, about=name, about_type="purchase",
            user=user, score=float(rng.random()), limit_usd=250.0, allowed_usd=5.0, action="allow",
            reasons=[Reason(code="feature", text="purchase_count_1d = 4: riskier", value=4.0)],
            catalog="c" * 64, model="m" * 64, policy="p" * 64,
            values=np.round(rng.gamma(1.0, 50.0, 150), 2).tolist(),
        )  # fmt: skip
        yield [(event, SCHEMA.encode(event)) for event in (purchase, decision)]


def append(folder: Path, pairs: list[Pair], repeats: int) -> None:
    """Time appends and commits of all pairs; the last log stays."""
    walls, cpus = [], []
    for turn in range(repeats):
        progress(f"append, {turn + 1} of {repeats}")
        for file in folder.glob("log.db*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        wall, cpu = perf_counter(), process_time()
        with SqliteLog(folder / "log.db", SCHEMA) as log:
            for place, pair in enumerate(pairs):
                log.append_encoded(pair)
                if place % PAIRS_PER_COMMIT == PAIRS_PER_COMMIT - 1:
                    log.sync()
        walls.append((perf_counter() - wall) / len(pairs) * 1e6)
        cpus.append((process_time() - cpu) / len(pairs) * 1e6)
    size = (folder / "log.db").stat().st_size / len(pairs)
    table(
        ["append", "us a pair", "CPU us a pair", "pairs/s", "bytes a pair on disk"],
        [["SqliteLog", runs(walls).text(), runs(cpus).text(), number(1e6 / runs(walls).median),
          number(size, 4)]],
    )  # fmt: skip


def hashes(pairs: list[Pair], repeats: int) -> None:
    """Time the hashing alone."""
    from chopmark.events.chain import GENESIS, link_text

    rows = [
        (event.id, "decision", "user-1", START, body) for pair in pairs for event, body in pair
    ][:50_000]
    ours, floor = [], []
    for _ in range(repeats):
        began, head = perf_counter(), GENESIS
        for offset, row in enumerate(rows, start=1):
            head = link_text(head, offset, *row)
        ours.append((perf_counter() - began) / len(rows) * 1e6)
        began = perf_counter()
        for row in rows:
            hashlib.sha256(row[4]).digest()
        floor.append((perf_counter() - began) / len(rows) * 1e6)
    table(
        ["hash", "us a record"],
        [["link", runs(ours).text()], ["sha256 of the body alone", runs(floor).text()]],
    )


def verified(folder: Path, num_records: int, repeats: int) -> None:
    """Time verify over the log that `append` left."""
    from chopmark.events.chain import verify
    from chopmark.events.sqlitelog import read_records

    rates, cpus = [], []
    for turn in range(repeats):
        progress(f"verify, {turn + 1} of {repeats}")
        wall, cpu = perf_counter(), process_time()
        audit = verify(partial(read_records, folder / "log.db"))
        rates.append(num_records / (perf_counter() - wall))
        cpus.append(num_records / (process_time() - cpu))
        assert audit.fault is None
        assert audit.num_records == num_records
    table(
        ["verify, one core", "records/s", "records per CPU second", f"goal >= {GOAL:,}/s"],
        [
            [
                "chain",
                runs(rates).text(),
                runs(cpus).text(),
                goal(runs(rates).median, GOAL, least=True),
            ]
        ],
    )


if __name__ == "__main__":
    main()
