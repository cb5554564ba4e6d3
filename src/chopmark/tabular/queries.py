"""The result of a SQL query as a table: read, never written, and no password in any message.

Serves A2 of the requirements.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
import sqlalchemy

from chopmark.errors import InvalidTable
from chopmark.events.sources import SqlQuery
from chopmark.tabular.columns import column_of
from chopmark.tabular.textfiles import check_names

Query: TypeAlias = SqlQuery
"""An SQLAlchemy address and one SELECT, `Query("sqlite:///payments.db", "select ...")`: the
record that events are ingested from too. Its text shows no address."""


def read_query(query: Query) -> pl.DataFrame:
    """The rows that a SELECT gives, one column for each of its names.

    The database is opened to read where it knows such a mode (SQLite, PostgreSQL); elsewhere
    nothing is committed. The text goes to the driver as it is: no character of it is special.

    Raises
    ------
    InvalidTable
        If the address cannot be read or its driver is not installed, the database refuses, the
        statement gives no rows or two columns of one name.
    """
    with _connected(query) as connection:
        result = connection.exec_driver_sql(query.query)
        if not result.returns_rows:
            raise InvalidTable(f"expected a SELECT, got `{query.query}`, which gives no rows")
        names = [str(name) for name in result.keys()]  # noqa: SIM118 (not a dict's)
        rows = [tuple(row) for row in result]
    check_names(names, f"the result of `{query.query}`")
    columns: Sequence[Any] = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pl.DataFrame([column_of(*pair) for pair in zip(names, columns, strict=True)])


@contextmanager
def _connected(query: Query) -> Iterator[sqlalchemy.Connection]:
    """A connection that only reads; what goes wrong within is told without the address."""
    url = _address(query)
    try:
        engine = sqlalchemy.create_engine(url, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise InvalidTable(
            f"expected an installed driver for {url.get_backend_name()}, got none; run: "
            f"pip install {error.name}"
        ) from error
    except sqlalchemy.exc.SQLAlchemyError:
        raise _unreadable() from None
    try:
        with engine.connect() as connection:
            if url.get_backend_name() == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            yield connection.execution_options(no_parameters=True, postgresql_readonly=True)
    except sqlalchemy.exc.SQLAlchemyError as error:
        came = str(getattr(error, "orig", None) or type(error).__name__)
        for secret in (query.url, url.password):
            if secret:
                came = came.replace(str(secret), "***")
        raise InvalidTable(
            f"expected the result of `{query.query}` from {url.get_backend_name()}, got: {came}"
        ) from None
    finally:
        engine.dispose()


def _address(query: Query) -> sqlalchemy.URL:
    try:
        url = sqlalchemy.make_url(query.url)
    except (sqlalchemy.exc.SQLAlchemyError, ValueError):
        # From None: the error of SQLAlchemy shows the whole address.
        raise _unreadable() from None
    file = url.database or ""
    # SQLite would make the file and then lack the table.
    is_file = url.get_backend_name() == "sqlite" and file not in ("", ":memory:")
    if is_file and not file.startswith("file:") and not Path(file).is_file():
        raise InvalidTable(f"expected a SQLite file at `{file}`, got none; check the path")
    return url


def _unreadable() -> InvalidTable:
    return InvalidTable(
        "expected a database address such as `sqlite:///file.db`, got one that SQLAlchemy "
        "cannot read"
    )
