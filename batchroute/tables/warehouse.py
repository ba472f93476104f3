"""Warehouses: ADBC connections, and the results of queries as streams of Arrow batches."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import pyarrow as pa

from batchroute.errors import BatchrouteError, InputError, StoppedError
from batchroute.redaction import Redactor, is_secret, secret_parameters
from batchroute.tables import snowflake
from batchroute.tables.failures import driver_message, warehouse_may_pass
from batchroute.tables.queries import bare, statement_of

_EXTRAS = {"postgresql", "sqlite", "duckdb", "snowflake", "bigquery"}
_ALIASES = {"postgres": "postgresql"}
_CONNECT_SECONDS = "15"


class Warehouse:
    """A database named by a URI: `postgresql://user@host/db`, `sqlite:///file`, `duckdb:///file` (none: in memory),
    `snowflake://…`, `bigquery://project/dataset`; any other scheme is the name of an ADBC driver.
    """

    def __init__(self, uri: str, key: str = "input.warehouse", create: bool = False) -> None:
        """
        Args:
            key: the job-file key that holds the URI, for errors.
            create: create the file of a SQLite or DuckDB database where it is missing.

        Raises:
            InputError: `uri` is not a URI.
        """
        scheme, separator, self._rest = uri.partition("://")
        self._key, self._create = key, create
        if not separator:
            raise InputError(f"{key}: not a URI such as postgresql://user@host/database")
        self.scheme = _ALIASES.get(scheme, scheme)
        self._uri = uri
        try:
            password = urlsplit(uri).netloc.rpartition("@")[0].partition(":")[2]
            secrets = (password, unquote(password), *secret_parameters(uri))
        except ValueError as error:
            if self.scheme not in ("sqlite", "duckdb"):
                raise InputError(f"{key}: not a URI such as postgresql://user@host/database") from error
            secrets = ()
        self._redactor = Redactor((uri, *secrets))

    @property
    def public(self) -> str:
        """The URI without secrets: for messages."""
        return f"sqlite://{self._rest}" if self.scheme == "sqlite" else self.identity

    @property
    def identity(self) -> str:
        """The URI without secrets, as a part of a run's identity: of some SQLite files it has less than their path."""
        try:
            parts = urlsplit(self._uri)
        except ValueError:
            return f"{self.scheme}://{self._rest}"
        user, at, host = parts.netloc.rpartition("@")
        query = [(name, value) for name, value in parse_qsl(parts.query) if not is_secret(name)]
        # urlunsplit would write sqlite:/file for sqlite:///file.
        shown = urlunsplit(("", user.partition(":")[0] + at + host, parts.path, urlencode(query, safe="/"), ""))
        return f"{self.scheme}://{shown.removeprefix('//')}"

    @property
    def is_there(self) -> bool:
        """False for a SQLite or DuckDB database whose file is missing; True for a server, which is not asked."""
        return self.scheme not in ("sqlite", "duckdb") or not self._rest or os.path.exists(self._rest)

    def may_pass(self, error: Exception) -> bool:
        """Whether another attempt may succeed after this error of a connection."""
        return warehouse_may_pass(self.scheme, error)

    @contextmanager
    def query(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """The result of a query, streamed.

        Raises:
            InputError: the driver is missing, the warehouse refuses the user, the password or the query, or the result
                holds what Arrow cannot.
            StoppedError: no connection, a lock, or a conflict with another transaction; another attempt may succeed.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            statement = statement_of(self.scheme, cursor, bare(query))
            cursor.execute(statement.sql)
            yield statement.read(_reader(cursor))

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """An ADBC connection; closing it rolls back what is not committed. Raises as `query`."""
        try:
            with self._connect() as connection:
                yield connection
        except BatchrouteError:
            raise
        except (pa.ArrowException, OSError, *_errors()) as error:
            raise self._explained(error) from None

    def schema(self, query: str) -> pa.Schema:
        """The columns of a query's result; no rows are fetched, and SQLite is asked for the first ones. Raises as
        `query`.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            statement = statement_of(self.scheme, cursor, bare(query), peek=True)
            cursor.execute(statement.columns())
            return statement.read(_reader(cursor)).schema

    def _connect(self) -> Any:
        try:
            driver = importlib.import_module(f"adbc_driver_{self.scheme}.dbapi")
        except ImportError as error:
            remedy = f"pip install 'batchroute[{self.scheme}]'"
            if self.scheme not in _EXTRAS:
                remedy = f"install the package adbc-driver-{self.scheme}, if there is one, or fix the URI's scheme"
            raise InputError(f"{self._key}: no driver for {self.scheme}://: {remedy}") from error
        if self.scheme == "bigquery":
            project, _, dataset = self._rest.partition("/")
            options = {"adbc.bigquery.sql.project_id": project, "adbc.bigquery.sql.dataset_id": dataset}
            return driver.connect({name: value for name, value in options.items() if value})
        if self.scheme == "postgresql":
            more = "" if "connect_timeout=" in self._uri else f"{'&' if '?' in self._uri else '?'}connect_timeout="
            return driver.connect(f"{self._uri}{more}{_CONNECT_SECONDS if more else ''}")
        if self.scheme in ("sqlite", "duckdb"):
            needed = os.path.dirname(os.path.abspath(self._rest)) if self._create else self._rest
            if self._rest and not os.path.exists(needed):
                raise InputError(f"{self._key}: no such file: {needed}")
            return driver.connect(self._rest or ":memory:")
        if self.scheme == "snowflake":
            return snowflake.connect(driver, self._rest)
        return driver.connect(self._uri)

    def _explained(self, error: Exception) -> BatchrouteError:
        message = self._redactor.text(driver_message(self.scheme, error))
        if self.may_pass(error):
            return StoppedError(f"{self.public}: {message}; look at it, and run again")
        return InputError(f"{self.public}: {message}")


def _reader(cursor: Any) -> pa.RecordBatchReader:
    """The result of a query. An error in the middle of the rows keeps the driver's code in the driver manager's reader,
    and loses it in pyarrow's, which `fetch_record_batch` gives.
    """
    reader = cursor.fetch_record_batch()
    return getattr(getattr(cursor, "_results", None), "reader", reader)


def _errors() -> tuple[type[Exception], ...]:
    try:
        return (importlib.import_module("adbc_driver_manager").Error,)
    except ImportError:
        return ()
