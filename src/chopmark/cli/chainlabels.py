"""``chopmark chain labels``: who calls an address illicit, who objects, and who was wrong.

Labels are kept in the chain's folder with their source and since when they are known; nothing is
ever removed. `chopmark chain run` learns from them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import polars as pl
from cyclopts import Parameter

from chopmark.cli.show import console, number, say, table
from chopmark.errors import InvalidInput
from chopmark.graph import labelaccounts as accounts
from chopmark.graph.labels import ILLICIT, LICIT, SCORES, AddressLabels
from chopmark.times import instant, moment, now

Folder = Annotated[Path, Parameter(help="Folder of the chain.")]
By = Annotated[str, Parameter(help="Who says it.")]
Reason = Annotated[str, Parameter(help="Why, in words that an auditor can follow.")]
At = Annotated[str | None, Parameter(help="An instant such as 2026-11-22T10:00:00Z; else now.")]


def add(
    folder: Folder,
    file: Path,
    *,
    source: str | None = None,
    rank: int | None = None,
    category: str | None = None,
    known_at: str | None = None,
) -> None:
    """Record the labels of a table, all of them or none.

    Parameters
    ----------
    file
        Table of `address`, `is_illicit` or `label` (illicit, licit), and optionally `category`,
        `source`, `known_at`, `confidence` and `until`. With `is_illicit`, a `label` is read as
        the category.
    source
        Who says it, if the table has no such column.
    rank
        Of sources that are new here: 1 is believed most, 999 least.
    category
        Such as "mixer", where the table has none.
    known_at
        Since when, where the table does not say; else now.
    """
    from chopmark.pipelines.chainlabels import LABELS, record
    from chopmark.tabular.tables import frame_of

    done = record(
        folder, frame_of(file), source=source, rank=rank, category=category, known_at=known_at
    )
    counts = done.labels.group_by("source", "category", "label").len().sort(pl.all())
    rows = [(*words, f"{num:,}") for *words, num in counts.iter_rows()]
    table(f"Labels of {file}", ("source", "category", "label", "labels"), rows)
    if done.declared:
        say(f"declared with rank {rank}: {', '.join(done.declared)}")
    console.print(
        f"{done.num_new:,} of {done.labels.height:,} labels are new in {folder / LABELS}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def show(folder: Folder, address: str, *, at: At = None) -> None:
    """Show what holds of an address, and all that was ever said of it.

    Parameters
    ----------
    address
        One address.
    """
    when, address = _moment(at), address.strip()
    with _opened(folder) as labels:
        held = labels.as_of(when, addresses=[address])
        past = labels.history(address)
    table(
        f"What holds of {address} at {_time(when)}",
        ("label", "category", "source", "confidence", "known at", "until", "sources", "disputed"),
        [
            (
                row["label"], row["category"], row["source"], number(row["confidence"], 2),
                _time(row["known_at"]), _time(row["until"]), str(row["num_sources"]),
                "yes" if row["is_disputed"] else "no",
            )
            for row in held.iter_rows(named=True)
        ],
    )  # fmt: skip
    table(
        "What was said of it",
        ("number", "record", "label", "category", "source", "confidence", "known at", "until",
         "by", "reason", "appeal"),
        [
            (
                str(row["number"]), row["kind"], row["label"] or "-", row["category"] or "-",
                row["source"], number(row["confidence"], 2), _time(row["known_at"]),
                _time(row["until"]), row["by"] or "-", row["reason"] or "-",
                "-" if row["appeal"] is None else str(row["appeal"]),
            )
            for row in past.iter_rows(named=True)
        ],
    )  # fmt: skip


def retract(
    folder: Folder, address: str, *, source: str, by: By, reason: Reason, at: At = None
) -> None:
    """Record that a source takes back what it said of an address.

    Parameters
    ----------
    address
        One address.
    source
        Which source.
    """
    when, address = _moment(at), address.strip()
    with _opened(folder) as labels:
        labels.retract(address, source=source, by=by, reason=reason, at=when)
    console.print(f"{source} says nothing of {address} any more", soft_wrap=True, highlight=False)
    show(folder, address, at=when.isoformat())


def appeal(folder: Folder, address: str, *, by: By, reason: Reason, at: At = None) -> None:
    """Record that somebody objects to an address being called illicit, by a source or a score.

    Parameters
    ----------
    address
        One address. Its label holds until the appeal is ruled on.
    """
    when, address = _moment(at), address.strip()
    with _opened(folder) as labels:
        num = labels.appeal(address, by=by, reason=reason, at=when)
    console.print(
        f"appeal {num} is open; rule on it with `chopmark chain labels rule {folder} {num} "
        "--uphold` or `--reject`",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    show(folder, address, at=when.isoformat())


def rule(
    folder: Folder,
    appeal: int,
    *,
    uphold: Annotated[bool, Parameter(negative="--reject", show_default=False)],
    by: By,
    reason: Reason,
    at: At = None,
) -> None:
    """Rule on an appeal; upheld, the address is licit from then on, whatever a list says.

    Parameters
    ----------
    appeal
        Its number.
    uphold
        Whether the objection is right.
    """
    when = _moment(at)
    with _opened(folder) as labels:
        labels.rule(appeal, upheld=uphold, by=by, reason=reason, at=when)
        (address,) = labels.appeals(when).filter(number=appeal)["address"]
    console.print(f"appeal {appeal} is {'upheld' if uphold else 'rejected'}", highlight=False)
    show(folder, address, at=when.isoformat())


def appeals(folder: Folder, *, at: At = None) -> None:
    """List the appeals, open ones first."""
    when = _moment(at)
    with _opened(folder) as labels:
        found = labels.appeals(when)
        held = {
            row["address"]: f"{row['label']} ({row['source']})"
            for row in labels.as_of(when, addresses=found["address"].to_list()).iter_rows(
                named=True
            )
        }
    found = found.sort(pl.col("upheld").is_not_null(), maintain_order=True)
    state = {None: "open", True: "upheld", False: "rejected"}
    table(
        f"Appeals in {folder}",
        ("number", "state", "address", "asked at", "by", "reason", "held for"),
        [
            (
                str(row["number"]), state[row["upheld"]], row["address"], _time(row["known_at"]),
                row["by"], row["reason"],
                held.get(row["address"], "-"),
            )
            for row in found.iter_rows(named=True)
        ],
    )  # fmt: skip


def false_positives(folder: Folder, *, at: At = None) -> None:
    """Show how often each source, and the scores, called an address illicit that was not."""
    when = _moment(at)
    with _opened(folder) as labels:
        found = accounts.false_positives(labels, when)
        ranks = labels.sources
        flags = [
            *accounts.flag_outcomes(labels, when, by_month=True).iter_rows(named=True),
            *accounts.flag_outcomes(labels, when).iter_rows(named=True),
        ]
    counts = ("illicit", "retracted", "appealed", "ruled", "upheld", "overruled", "wrong")
    table(
        f"False positives as far as they are known at {_time(when)}",
        ("source", "rank", *counts, "share", "low", "high"),
        [
            (
                row["source"], str(ranks[row["source"]]),
                *(f"{row[f'num_{name}']:,}" for name in counts),
                *(number(row[name]) for name in ("wrong_share", "low", "high")),
            )
            for row in found.iter_rows(named=True)
        ],
    )  # fmt: skip
    say(
        "wrong: an appeal was upheld, a better source says licit since, or the source took its "
        f"label back (a flag of `{SCORES}` that falls with the score is no error). Who never "
        "appeals is not seen: a lower bound. low and high: 95 % (Wilson)."
    )
    if flags:
        table(
            "Flagged by a score, and what sources said of them later",
            ("month", "flagged", "known before", ILLICIT, LICIT, "precision", "low", "high"),
            [
                (
                    "all" if row["month"] is None else f"{row['month']:%Y-%m}",
                    *(
                        f"{row[f'num_{name}']:,}"
                        for name in ("flagged", "known", "illicit", "licit")
                    ),
                    *(number(row[name]) for name in ("precision", "low", "high")),
                )
                for row in flags
            ],
        )  # fmt: skip
        say("precision: illicit among those not known before; nobody looks at all: a lower bound.")


@contextmanager
def _opened(folder: Path) -> Iterator[AddressLabels]:
    from chopmark.pipelines.chainlabels import open_labels

    labels = open_labels(folder)
    if labels is None:
        raise InvalidInput(
            f"expected labels in `{folder}`, got none; record some with `chopmark chain labels "
            f"add {folder} TABLE`"
        )
    try:
        yield labels
    finally:
        labels.close()


def _moment(at: str | None) -> datetime:
    return moment(now() if at is None else instant(at))


def _time(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
