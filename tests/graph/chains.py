"""A chain's folder as a run leaves it, written by hand: real parts, scores that tests choose."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from chopmark.graph.addresses import replace_json
from chopmark.graph.labels import AddressLabels, Source
from chopmark.graph.ledger import Ledger
from chopmark.graph.transfers import TRANSFERS
from chopmark.histories.storage import write_array

START = datetime(2024, 1, 1, tzinfo=UTC)
BANDS = {"raised": 0.25, "high": 0.5}
SAFE, LISTED, RISKY, STRANGER = ("0x" + digits * 20 for digits in ("1a", "2b", "3c", "4d"))


def make_chain(folder, scores, *, chain="ethereum", bands=BANDS):
    """A chain whose first run gives these scores by address."""
    Ledger.create(folder / "ledger", chain)
    return add_run(folder, scores, bands=bands)


def add_run(folder, scores, *, bands=BANDS, run=None, use=True):
    """One more run; addresses that the ledger lacks move something first."""
    ledger = Ledger.open(folder / "ledger")
    new = pl.Series(list(scores), dtype=pl.String)
    new = new.filter(pl.Series(ledger.addresses.ids(new) < 0))
    if len(new):
        block = ledger.last_block + 1
        rows = [
            (name, name, 1.0, START + timedelta(seconds=12 * block), block, f"tx{block}", place, "")
            for place, name in enumerate(new)
        ]
        ledger.append(pl.DataFrame(rows, schema=TRANSFERS, orient="row"))
    if run is None:
        taken = [one.name for one in (folder / "runs").glob("[0-9]*")]
        run = f"{max(map(int, taken), default=0) + 1:06d}"
    home = folder / "runs" / run
    home.mkdir(parents=True)
    values = np.zeros(len(ledger.addresses), dtype=np.float32)
    values[ledger.addresses.ids(pl.Series(list(scores), dtype=pl.String))] = list(scores.values())
    write_array(home / "scores.npy", values)
    replace_json(home / "about.json", {} if bands is None else {"bands": bands})
    if use:
        replace_json(folder / "current.json", {"run": run})
    return folder


def add_labels(folder, labels, *, source="court", at=START, category="mixer"):
    """Labels by address, in the file of the chain, which is made if it is not there."""
    path = folder / "labels.db"
    sources = [Source("court", 1), Source("forum", 5)]
    kept = AddressLabels.open(path) if path.exists() else AddressLabels.create(path, sources)
    rows = [(name, label, category, source, at) for name, label in labels.items()]
    schema = {"address": pl.String, "label": pl.String, "category": pl.String,
              "source": pl.String, "known_at": pl.Datetime("us", "UTC")}  # fmt: skip
    kept.add(pl.DataFrame(rows, schema=schema, orient="row"))
    return kept
