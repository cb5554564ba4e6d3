from datetime import UTC, datetime

import polars as pl
import pytest

from chopmark.datasets import DATA_VARIABLE, shop
from chopmark.errors import InvalidInput
from chopmark.events import MemoryLog, Schema, Vault
from chopmark.events.ingest import IngestReport, ingest

SCHEMA = Schema(*shop.EVENT_TYPES)
LAST = datetime(2015, 3, 4, 5)


@pytest.fixture
def data(monkeypatch, tmp_path):
    folder = tmp_path / "events" / "ecommerce_fraud"
    folder.mkdir(parents=True)
    rows = [
        (1, datetime(2015, 1, 1), "sign_up", None),
        (2, datetime(2015, 2, 1), "sign_up", None),
        (1, datetime(2015, 3, 1), "purchase", 14),
        (2, LAST, "purchase", 20),
    ]
    columns = ["user_id", "happened_at", "event_type", "amount_usd"]
    same = {"device_id": "D", "source": "SEO", "browser": "Chrome", "sex": "F"}
    events = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        **{name: pl.lit(value) for name, value in same.items()}, age=pl.lit(38)
    )
    events.write_parquet(folder / "events.parquet")
    pl.DataFrame({"user_id": [1, 2], "y_fraud": [0, 1]}).write_parquet(folder / "labels.parquet")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))


def test_the_shop_comes_as_events_and_its_fraud_is_reported_a_day_after_the_end(data):
    log = MemoryLog(SCHEMA)
    report = ingest(log, SCHEMA, Vault(bytes(32)), shop.sources())
    assert report == IngestReport(num_read=5, num_new=5)
    events = [event for batch in log.read() for _, event in batch]
    kinds = [shop.SignUp, shop.SignUp, shop.Purchase, shop.Purchase, shop.FraudReport]
    assert [type(event) for event in events] == kinds
    assert [event.user for event in events] == ["1", "2", "1", "2", "2"]
    assert [event.device for event in events[:4]] == ["D"] * 4
    assert [event.amount_usd for event in events[2:4]] == [14, 20]
    assert events[4].happened_at == datetime(2015, 3, 5, 5, tzinfo=UTC)


def test_without_the_files_the_shop_says_where_they_belong(monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(InvalidInput, match=r"put it at `events/ecommerce_fraud/events\.parquet`"):
        shop.sources()
