"""History from tables: every format, twice, in order, and with bad rows."""

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
import pytest

from chopmark.decisions.decision import PREFIX, Decision
from chopmark.errors import InvalidInput
from chopmark.events import Entity, Event, MemoryLog, Schema, SqliteLog, Usd, Vault
from chopmark.events.ingest import (
    RESERVED_PREFIXES,
    RESERVED_TYPES,
    IngestReport,
    Source,
    ingest,
    read_sql,
)
from chopmark.events.schema import type_name
from chopmark.times import DAY, instant, moment, now
from tests.events.worlds import SCHEMA, START, Purchase, Tick, Withdrawal

VAULT = Vault(bytes(32))
SSN = "078-05-1120"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with SqliteLog(tmp_path / "log.db", SCHEMA) as log:
        yield log


def events(log: SqliteLog) -> list[Event]:
    return [event for batch in log.read() for _, event in batch]


def load(log: SqliteLog, source: Any, **options: Any) -> IngestReport:
    return ingest(log, SCHEMA, VAULT, source, **options)


def test_a_csv_in_known_order_and_a_second_time(tmp_path: Path, log: SqliteLog) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        "id,happened_at,known_at,user,card,purchase_value\n"
        "b,2024-01-02,,ann,4111-1111,2.50\n"
        'a,2024-01-01T00:00:00Z,2024-01-03T00:00:00+00:00,"bob, jr",,1\n'
        "c,1704067200,,cid,,0\n",
        encoding="utf-8-sig",
    )
    options = {"event_type": "purchase", "mapping": {"purchase_value": "amount_usd"}}
    assert load(log, path, **options) == IngestReport(num_read=3, num_new=3)
    c, b, a = events(log)
    assert isinstance(b, Purchase)
    assert (c.id, b.id, a.id) == ("c", "b", "a")
    assert b.amount_usd == 2.5
    assert b.card == VAULT.token("card", "41111111")
    assert b.happened_at == b.known_at == datetime(2024, 1, 2, tzinfo=UTC)
    assert a.known_at == datetime(2024, 1, 3, tzinfo=UTC)
    assert c.happened_at == datetime(2024, 1, 1, tzinfo=UTC)
    assert load(log, path, **options) == IngestReport(num_read=3, num_repeated=3)
    assert len(log) == 3


TABLE = {
    "when": [START + 2_000_000, START, START + 1_000_000],
    "user": ["ann", "bob", "ann"],
    "amount_usd": [1.5, 2.25, 0.0],
    "country": ["US", None, "DE"],
    "junk": [1, 2, 3],
}
MAPPING = {"when": "happened_at", "junk": None}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "ndjson", "db"])
def test_every_format_says_the_same(tmp_path: Path, log: SqliteLog, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    frame = pl.DataFrame(TABLE)
    source: Any = path
    if suffix == "csv":
        frame.write_csv(path)
    elif suffix == "parquet":
        frame.write_parquet(path)
    elif suffix == "db":
        connection = sqlite3.connect(path)
        connection.execute('CREATE TABLE t ("when", user, amount_usd, country, junk)')
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", frame.iter_rows())
        connection.commit()
        connection.close()
        source = read_sql(f"sqlite:///{path}", "SELECT * FROM t")
    else:
        frame.write_ndjson(path)
    seen: list[IngestReport] = []
    options: dict[str, Any] = {"event_type": "purchase", "mapping": MAPPING, "batch_size": 2}
    report = load(log, source, **options, on_progress=seen.append)
    assert report == seen[-1] == IngestReport(num_read=3, num_new=3)
    assert seen[0].num_read == 2
    found = events(log)
    wanted = [(START, "bob", 2.25, None), (START + 1_000_000, "ann", 0.0, "DE")]
    wanted.append((START + 2_000_000, "ann", 1.5, "US"))
    assert [
        (instant(e.happened_at), e.user, e.amount_usd, e.country)
        for e in found
        if isinstance(e, Purchase)
    ] == wanted
    # The id says what the row says, whatever file it came in.
    assert found[0].id == "purchase:" + found[0].id.partition(":")[2]
    assert len({event.id for event in found}) == 3
    other = tmp_path / "other.parquet"
    frame.write_parquet(other)
    assert load(log, other, **options) == IngestReport(num_read=3, num_repeated=3)


def test_times_of_any_kind_in_parquet(tmp_path: Path, log: SqliteLog) -> None:
    when = datetime(2024, 7, 1, 12)
    utc = pl.Series([when])
    berlin = [Source(data=tmp_path / "0.parquet", event_type="tick", time_zone="Europe/Berlin")]
    columns = [
        utc,
        utc.dt.replace_time_zone("UTC"),
        utc.dt.replace_time_zone("UTC")
        .dt.convert_time_zone("Asia/Tokyo")
        .cast(pl.Datetime("ms", "Asia/Tokyo")),
        utc.cast(pl.Datetime("ns")),
        pl.Series(["2024-07-01T14:00:00+02:00"]),
        utc.dt.epoch("s"),
        utc.dt.epoch("ms"),
        utc.dt.epoch("us"),
        utc.dt.epoch("ns"),
        utc.dt.epoch("ms") / 1000,
        pl.Series([str(utc.dt.epoch("s")[0])]),
    ]
    for number, column in enumerate(columns):
        path = tmp_path / f"{number}.parquet"
        pl.DataFrame({"id": [number], "happened_at": column}).write_parquet(path)
        load(log, path, event_type="tick")
        found = log.find(str(number))
        assert found is not None, number
        assert found.happened_at == when.replace(tzinfo=UTC), column
    pl.DataFrame({"id": ["berlin"], "happened_at": utc}).write_parquet(tmp_path / "0.parquet")
    load(log, berlin)
    found = log.find("berlin")
    assert found is not None
    assert found.happened_at == datetime(2024, 7, 1, 10, tzinfo=UTC)
    pl.DataFrame({"id": ["day"], "happened_at": [when.date()]}).write_parquet(path)
    load(log, path, event_type="tick")
    found = log.find("day")
    assert found is not None
    assert found.happened_at == datetime(2024, 7, 1, tzinfo=UTC)


def test_numbers_as_names_and_nan_as_missing(tmp_path: Path, log: SqliteLog) -> None:
    path = tmp_path / "p.parquet"
    pl.DataFrame(
        {"happened_at": [1.0, 2.0], "user": [17, 18], "amount_usd": [float("nan"), 2.0]}
    ).write_parquet(path)
    load(log, path, event_type="purchase")
    assert [(e.user, e.amount_usd) for e in events(log) if isinstance(e, Purchase)] == [
        ("17", 0.0),
        ("18", 2.0),
    ]


def test_types_by_row_and_sources_merged(tmp_path: Path, log: SqliteLog) -> None:
    lines = [
        {"type": "purchase", "id": "p", "happened_at": 300, "user": "ann", "amount_usd": 1},
        {"type": "tick", "id": "t", "happened_at": "1970-01-01T00:01:40Z", "count": 3},
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    paid = tmp_path / "paid.csv"
    paid.write_text("who,time,account\nann,200,1\nbob,-400,2\n")
    mapping = {"who": "user", "time": "happened_at"}
    report = load(log, [path, Source(data=paid, event_type="withdrawal", mapping=mapping)])
    assert report == IngestReport(num_read=4, num_new=4)
    assert [type(event) for event in events(log)] == [Withdrawal, Tick, Withdrawal, Purchase]


def test_history_after_the_fact_is_moved_and_counted(tmp_path: Path, log: SqliteLog) -> None:
    log.append(Tick(id="now", happened_at=moment(START), known_at=moment(START)))
    path = tmp_path / "t.csv"
    path.write_text("id,happened_at\nold,2001-01-01\n")
    assert load(log, path, event_type="tick") == IngestReport(num_read=1, num_new=1, num_moved=1)
    found = log.find("old")
    assert found is not None
    assert found.known_at == moment(START)
    assert found.happened_at == datetime(2001, 1, 1, tzinfo=UTC)


def test_the_first_bad_row_stops_all_and_a_second_run_goes_on(
    tmp_path: Path, log: SqliteLog
) -> None:
    path = tmp_path / "p.csv"
    rows = [f"e{n},{n + 1},ann,1.00" for n in range(25)]
    rows[17] = f"e17,18,{SSN},many"
    path.write_text("id,happened_at,user,amount_usd\n" + "\n".join(rows))
    with pytest.raises(InvalidInput, match=rf"row 19 of {path}: .*float.*\$\.amount_usd") as caught:
        load(log, path, event_type="purchase", batch_size=5)
    assert SSN not in str(caught.value)
    assert len(log) == 15, "the batches before are durable, nothing of this one"
    path.write_text(path.read_text().replace("many", "1.00"))
    report = load(log, path, event_type="purchase", batch_size=5)
    assert report == IngestReport(num_read=25, num_new=10, num_repeated=15)


def test_bad_rows_are_put_aside_with_their_reason_and_without_values(
    tmp_path: Path, log: SqliteLog
) -> None:
    path = tmp_path / "w.csv"
    path.write_text(
        "id,happened_at,user,ssn,account\n"
        f"a,2024-01-01,ann,{SSN},1\n"
        f"b,{SSN},ann,{SSN},1\n"
        f"c,2024-01-01,ann,{SSN}\n"
        f"d,2024-01-01,,{SSN},1\n"
        f"e,2024-01-01,ann,--,1\n"
        f"f,,ann,{SSN},1\n"
        f"{SSN * 20},2024-01-01,ann,{SSN},1\n"
        f"g,2024-01-01,ann,{SSN},1,{SSN}\n"
    )
    rejects = tmp_path / "rejects.jsonl"
    report = load(log, path, event_type="withdrawal", rejects=rejects)
    assert report == IngestReport(num_read=8, num_new=1, num_rejected=7)
    text = rejects.read_text()
    assert SSN not in text
    assert "078" not in text
    records = [json.loads(line) for line in text.splitlines()]
    assert {record["row"] for record in records} == {3, 4, 5, 6, 7, 8, 9}
    reasons = {record["row"]: record["reason"] for record in records}
    assert reasons[3] == (
        "expected an ISO 8601 time or an epoch number, got `999-99-9999` - at `$.happened_at`"
    )
    assert reasons[4] == "expected 5 cells, got 4"
    assert "missing required field `user`" in reasons[5]
    assert "$.ssn" in reasons[6]
    assert "got nothing" in reasons[7]
    (kept,) = events(log)
    assert isinstance(kept, Withdrawal)
    assert kept.ssn == VAULT.token("ssn", SSN)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "expected a file at"),
        ("t.xls", b"x", r"ends in \.csv, \.parquet"),
        ("t.csv", b"", "got an empty file"),
        ("t.csv", b"id,user\n1,ann\n", "expected a column `happened_at`"),
        ("t.csv", b"id,id,happened_at\n", "got one twice"),
        ("t.csv", b"happened_at,usr,amount_usd\n", "got `usr`; map each"),
        ("t.csv", b"happened_at,user\n1,Jos\xe9\n", "UTF-8 in .*got byte 0xe9"),
        ("t.csv", b'happened_at,user\n1,"ann\n', "expected CSV in .*unexpected end of data"),
        ("t.parquet", b"PAR1 but not really", "expected a Parquet file"),
        ("t.jsonl", b'{"happened_at": 1, "user": "a"}\n{"happened_at": \n', "row 2 .*JSON object"),
        ("t.jsonl", b"[1]\n", "row 1 .*JSON object"),
        ("t.jsonl", b'{"user": "a"}\n', "row 1 .*got nothing"),
    ],
)
def test_a_source_that_cannot_be_read_says_why(
    tmp_path: Path, log: SqliteLog, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        load(log, path, event_type="purchase")
    assert len(log) == 0


def test_wrong_arguments_say_why(tmp_path: Path, log: SqliteLog) -> None:
    path = tmp_path / "t.csv"
    path.write_text("happened_at,user\n1,ann\n")
    with pytest.raises(InvalidInput, match="did you mean `purchase`"):
        load(log, path, event_type="purchse")
    with pytest.raises(InvalidInput, match="mapped column `price`"):
        load(log, path, event_type="purchase", mapping={"price": "amount_usd"})
    with pytest.raises(InvalidInput, match="both become field `user`"):
        load(log, path, event_type="purchase", mapping={"happened_at": "user"})
    with pytest.raises(InvalidInput, match="time zone"):
        load(log, path, event_type="purchase", time_zone="Mars/Olympus")
    with pytest.raises(InvalidInput, match="expected an event type, got none"):
        load(log, path)
    with pytest.raises(ValueError, match="batch_size >= 1"):
        load(log, path, event_type="purchase", batch_size=0)
    empty = tmp_path / "empty.csv"
    empty.write_text("happened_at,user\n")
    assert load(log, empty, event_type="purchase") == IngestReport()


def test_sql_errors_never_show_the_address(tmp_path: Path, log: SqliteLog) -> None:
    assert "secret" not in repr(read_sql("postgresql://me:secret@host/db", "SELECT 1"))
    with pytest.raises(InvalidInput, match="no such table: nowhere"):
        load(log, read_sql(f"sqlite:///{tmp_path}/x.db", "SELECT * FROM nowhere"))
    with pytest.raises(InvalidInput, match="expected a database address") as caught:
        load(log, read_sql("://me:secret@", "SELECT 1"))
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidInput) as failed:
        load(log, read_sql("postgresql+psycopg://me:secret@127.0.0.1:1/db", "SELECT 1"))
    assert "secret" not in str(failed.value)


class Signup(Event):
    user: Annotated[str, Entity("user")]
    plan: Literal["free", "paid"] = "free"
    amount_usd: Usd = 0.0


def rejected(tmp_path: Path, schema: Schema, lines: list[dict[str, Any]]) -> dict[int, str]:
    """The reasons of the bad rows, by row."""
    path, rejects = tmp_path / "in.jsonl", tmp_path / "rejects.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with MemoryLog(schema) as log:
        ingest(log, schema, VAULT, path, rejects=rejects)
    records = [json.loads(line) for line in rejects.read_text().splitlines()]
    return {record["row"]: record["reason"] for record in records}


@pytest.mark.parametrize(
    ("digits", "wanted"),
    [
        ("20240131120000", "2024-01-31T11:00:00Z"),
        ("20240131", "2024-01-30T23:00:00Z"),
        ("20241331", "1970-08-23T06:35:31Z"),
        ("18991231", "1970-08-08T19:20:31Z"),
        ("1706702400", "2024-01-31T12:00:00Z"),
        ("1706702400000", "2024-01-31T12:00:00Z"),
        ("200", "1970-01-01T00:03:20Z"),
        ("2024", None),
        ("202401", None),
        ("-2024", None),
        ("20241331120000", None),
    ],
)
def test_digits_are_a_date_or_an_epoch_or_refused(
    tmp_path: Path, digits: str, wanted: str | None
) -> None:
    values: list[object] = [digits, int(digits), float(digits)]
    for number, value in enumerate(values):
        log = MemoryLog(SCHEMA)
        frame = pl.DataFrame({"id": ["a"], "happened_at": [value]})
        path = tmp_path / f"{number}.jsonl"
        frame.write_ndjson(path)
        for data in (path, frame):
            source = Source(data=data, event_type="tick", time_zone="Europe/Berlin")
            if wanted is None:
                with pytest.raises(InvalidInput, match=r"part of a date - at `\$\.happened_at`"):
                    load(log, source)  # type: ignore[arg-type]
                continue
            load(log, source)  # type: ignore[arg-type]
            found = log.find("a")
            assert found is not None
            assert instant(found.happened_at) == instant(wanted)


def test_a_time_that_others_would_wait_for_is_a_bad_row(tmp_path: Path, log: SqliteLog) -> None:
    path, rejects = tmp_path / "t.csv", tmp_path / "rejects.jsonl"
    soon, late = now() + DAY // 2, now() + 2 * DAY
    path.write_text(f"id,happened_at,known_at\na,{late},\nb,100,{late}\nc,{soon},\nd,{late},100\n")
    report = load(log, path, event_type="tick", rejects=rejects)
    assert report == IngestReport(num_read=4, num_new=2, num_rejected=2)
    assert log.last_known_at == soon
    reasons = [json.loads(line)["reason"] for line in rejects.read_text().splitlines()]
    assert all("more than a day from now" in reason for reason in reasons)
    assert [reason.rpartition("$.")[2] for reason in reasons] == ["happened_at`", "known_at`"]


def test_decisions_are_made_here_and_not_ingested(tmp_path: Path, log: SqliteLog) -> None:
    rows = [
        {"type": "decision", "id": "a", "happened_at": 100, "user": "ann"},
        {"type": "tick", "id": "decision:a", "happened_at": 100},
        {"type": "tick", "id": "decisions", "happened_at": 100},
    ]
    assert rejected(tmp_path, SCHEMA, rows) == {
        1: "expected a fact, got a `decision`: these are made or checked here - at `$.type`",
        2: "expected an id that does not begin with `decision:`: such ids are made here "
        "- at `$.id`",
    }
    with pytest.raises(InvalidInput, match="got event type `decision`: these are made or"):
        load(log, tmp_path / "in.jsonl", event_type="decision")
    assert len(log) == 0


def test_the_reserved_prefix_is_that_of_decisions() -> None:
    assert PREFIX in RESERVED_PREFIXES
    assert type_name(Decision) in RESERVED_TYPES


def test_no_reason_says_a_value(tmp_path: Path) -> None:
    row = {"type": "signup", "id": "a", "happened_at": 100, "user": "ann"}
    secrets: list[tuple[str, object]] = [
        ("plan", "Ann Secret"),
        ("plan", "Ann Secret - at `$.x`, got `y`"),
        ("plan", 4111),
        ("amount_usd", 4111111111111111),
        ("amount_usd", 4111.4111),
        ("amount_usd", "Ann Secret"),
        ("amount_usd", "4111" * 200),
        ("type", "Ann Secret"),
        ("user", "Ann Secret" * 60),
        ("id", "Ann Secret" * 60),
        ("happened_at", "Ann Secret"),
        ("happened_at", int("4111" * 100)),
    ]
    rows = [row | {name: value} for name, value in secrets]
    reasons = rejected(tmp_path, Schema(Signup), rows)
    assert sorted(reasons) == list(range(1, len(rows) + 1))
    for number, (name, _) in enumerate(secrets, start=1):
        assert "Ann" not in reasons[number]
        assert "4111" not in reasons[number]
        assert f"at `$.{name}`" in reasons[number]
    assert reasons[1] == reasons[2] == "expected one of the declared values - at `$.plan`"
    assert reasons[6] == "Expected `float`, got `str` - at `$.amount_usd`"
    for secret in ("Ann Secret", 4111111111111111):
        (tmp_path / "one.jsonl").write_text(json.dumps(row | {"plan": secret}))
        with pytest.raises(InvalidInput) as caught:
            ingest(MemoryLog(Schema(Signup)), Schema(Signup), VAULT, tmp_path / "one.jsonl")
        error: BaseException | None = caught.value
        while error is not None:
            assert str(secret) not in str(error)
            error = error.__cause__ or error.__context__


def test_a_file_without_a_header_does_not_show_its_first_row(
    tmp_path: Path, log: SqliteLog
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"a1,2024-01-01,Ann Secret,{SSN}\n")
    options: list[dict[str, Any]] = [
        {},
        {"mapping": {"*": None}},
        {"mapping": {"when": "happened_at"}},
    ]
    for option in options:
        with pytest.raises(InvalidInput, match=r"`aaa aaaaaa`.*is line 1 its column") as caught:
            load(log, path, event_type="purchase", **option)
        assert "Ann" not in str(caught.value)
        assert SSN not in str(caught.value)
    path.write_text(f"happened_at,Customer name,{SSN}\n")
    with pytest.raises(InvalidInput, match="got `Customer name`, `999-99-9999`; map each"):
        load(log, path, event_type="purchase")
    (tmp_path / "t.jsonl").write_text(json.dumps({"happened_at": 100, SSN: 1, "usr": 2}))
    with pytest.raises(InvalidInput, match="got `999-99-9999`, `usr`; map each"):
        load(log, tmp_path / "t.jsonl", event_type="purchase")


def test_an_empty_text_is_missing(tmp_path: Path) -> None:
    row = {"type": "purchase", "id": "a", "happened_at": 100, "user": "", "country": ""}
    reasons = rejected(tmp_path, SCHEMA, [row, row | {"user": "ann"}])
    assert list(reasons) == [1]
    assert "missing required field `user`" in reasons[1]
