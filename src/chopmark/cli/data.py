"""``chopmark simulate`` and ``chopmark ingest``: events to a file, and files to the log."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chopmark.cli.application import load_application
from chopmark.cli.show import console, progress
from chopmark.datasets import simulate as simulate_exchange
from chopmark.datasets.exchange import SCHEMA
from chopmark.errors import InvalidInput
from chopmark.events.ingest import ingest as ingest_source
from chopmark.events.ingest import read_sql
from chopmark.pipelines.folder import DataFolder


def simulate(
    file: Path, *, num_users: int = 2000, days: int = 120, seed: int = 0, fraud_scale: float = 1.0
) -> None:
    """Write the events of a simulated exchange to a JSON-lines file.

    Parameters
    ----------
    file
        Where to; must not exist yet.
    num_users
        Honest users.
    days
        Days on which they act.
    seed
        The same seed gives the same bytes.
    fraud_scale
        Multiplies the number of fraud accounts.
    """
    if file.exists():
        raise InvalidInput(f"expected a new file, but {file} exists; remove it or name another")
    simulation = simulate_exchange(
        num_users=num_users, days=days, seed=seed, fraud_scale=fraud_scale
    )
    with progress("simulate", simulation.num_events) as done, file.open("wb") as out:
        for position, event in enumerate(simulation.events(), start=1):
            out.write(SCHEMA.encode(event) + b"\n")
            if position % 1000 == 0:
                done(position)
    console.print(f"{simulation.num_events:,} events in {file}")


def ingest(
    data: Path,
    source: str,
    *,
    app: str | None = None,
    event_type: str | None = None,
    map: Annotated[dict[str, str] | None, Parameter(help="Field by column.")] = None,
    query: str | None = None,
    rejects: Path | None = None,
) -> None:
    """Take events from a file or an SQL query into the log, each once however often it runs.

    Parameters
    ----------
    data
        Folder with the log; made if it does not exist.
    source
        A .csv, .parquet or .jsonl file; with --query, an SQLAlchemy address.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    event_type
        Type of all events, where the source has no column `type`.
    map
        Fields by column of the source, where names differ: `--map.purchase_value=amount_usd`.
    query
        SQL text whose result is ingested.
    rejects
        File for rows that do not fit; without it, the first one stops the ingest.
    """
    application, _ = load_application(app)
    folder = DataFolder(data)
    with (
        folder.open_log(application) as log,
        progress("ingest") as done,
    ):
        report = ingest_source(
            log,
            application.catalog.schema,
            folder.vault(),
            read_sql(source, query) if query is not None else source,
            event_type=event_type,
            mapping=map,
            rejects=rejects,
            on_progress=lambda report: done(report.num_read),
        )
    console.print(
        f"{report.num_read:,} rows read: {report.num_new:,} new, {report.num_repeated:,} known "
        f"before, {report.num_rejected:,} rejected"
    )


def features(*, app: str | None = None) -> None:
    """List the features of an application: name, kind and hash.

    Parameters
    ----------
    app
        Python file with `application` and `label`; the simulated exchange by default.
    """
    catalog = load_application(app)[0].catalog
    for output in catalog.outputs:
        console.print(
            f"{output.name}  [dim]{output.kind}  {catalog.hashes[output.name][:12]}[/dim]",
            highlight=False,
            soft_wrap=True,
        )
