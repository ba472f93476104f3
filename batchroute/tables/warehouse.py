"""Queries of a warehouse, by ADBC: their results as streams of Arrow batches."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import pyarrow as pa

from batchroute.errors import BatchrouteError, InputError, StoppedError

_EXTRAS = {"postgresql", "sqlite", "duckdb", "snowflake", "bigquery"}
_ALIASES = {"postgres": "postgresql"}
_SECRET_WORDS = ("password", "passwd", "secret", "token", "key", "credential")
_CONNECT_SECONDS = "15"


class Warehouse:
    """A database named by a URI: `postgresql://user@host/db`, `sqlite:///file`, `duckdb:///file` (none: in memory),
    `snowflake://…`, `bigquery://project/dataset`; any other scheme is the name of an ADBC driver.
    """

    def __init__(self, uri: str, key: str = "input.warehouse", create: bool = False) -> None:
        """
        Args:
            key: of the job file, for errors.
            create: make the file of a database that is one, where it is missing.

        Raises:
            InputError: it is no such URI.
        """
        scheme, found, self._rest = uri.partition("://")
        self._key, self._create = key, create
        if not found:
            raise InputError(f"{key}: not a URI such as postgresql://user@host/database")
        self.scheme = _ALIASES.get(scheme, scheme)
        self._uri = uri
        self._secrets = _secrets(uri)

    @property
    def public(self) -> str:
        """The URI without what may be a secret: for logs, and to know the warehouse by."""
        parts = urlsplit(self._uri)
        user, at, host = parts.netloc.rpartition("@")
        query = [(name, value) for name, value in parse_qsl(parts.query) if not _is_secret(name)]
        # unlike urlunsplit, which writes sqlite:/file for sqlite:///file
        shown = urlunsplit(("", user.partition(":")[0] + at + host, parts.path, urlencode(query, safe="/"), ""))
        return f"{self.scheme}://{shown.removeprefix('//')}"

    @property
    def is_there(self) -> bool:
        """False for a database whose file is missing; whether a server is there, asking it will tell."""
        return self.scheme not in ("sqlite", "duckdb") or not self._rest or os.path.exists(self._rest)

    @contextmanager
    def query(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """The result of a query, streamed.

        Raises:
            InputError: no driver, a refused user or password, or a query that the warehouse does not take.
            StoppedError: the warehouse cannot be reached, or the connection was lost; another attempt may succeed.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.execute(query)
            yield cursor.fetch_record_batch()

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """An ADBC connection, its errors explained; what is not committed is undone. Raises as `query`."""
        try:
            with self._connect() as connection:
                yield connection
        except BatchrouteError:
            raise
        except (pa.ArrowException, OSError, *_errors()) as error:
            raise self._explained(error) from None

    def schema(self, query: str) -> pa.Schema:
        """The columns of a query, without its rows. Raises as `query`."""
        with self.query(f"select * from ({query.rstrip().rstrip(';')}) as batchroute_columns limit 0") as reader:
            return reader.schema

    def _connect(self) -> Any:
        try:
            driver = importlib.import_module(f"adbc_driver_{self.scheme}.dbapi")
        except ImportError as error:
            what = f"pip install 'batchroute[{self.scheme}]'"
            if self.scheme not in _EXTRAS:
                what = f"install the package adbc-driver-{self.scheme}, if there is one, or mend the URI's scheme"
            raise InputError(f"{self._key}: no driver for {self.scheme}://: {what}") from error
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
        return driver.connect(self._rest if self.scheme == "snowflake" else self._uri)

    def _explained(self, error: Exception) -> BatchrouteError:
        told = " ".join(
            line.strip() for line in str(error).partition(" Detail: Python")[0].splitlines()[:2] if line.strip()
        )
        for secret in self._secrets:
            told = told.replace(secret, "***")
        lost = (
            "connect",
            "terminat",
            "closed",
            "timeout",
            "timed out",
            "recovery",
            "shutting down",
            "lock",
            "conflict",
            "already exists",
            "pg_type",
        )
        wrong = ("password", "authentication", "role ", "does not exist", "no pg_hba")
        if any(word in told.lower() for word in lost) and not any(word in told.lower() for word in wrong):
            return StoppedError(f"{self.public}: {told}; look at it, and run again")
        return InputError(f"{self.public}: {told}")


def _errors() -> tuple[type[Exception], ...]:
    try:
        return (importlib.import_module("adbc_driver_manager").Error,)
    except ImportError:
        return ()


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)


def _secrets(uri: str) -> list[str]:
    """What of a URI must not be told, as it stands there and decoded."""
    parts = urlsplit(uri)
    found = [parts.netloc.rpartition("@")[0].partition(":")[2]]
    found += [value for name, value in parse_qsl(parts.query) if _is_secret(name)]
    return [uri, *sorted({text for secret in found if secret for text in (secret, unquote(secret))}, key=len)[::-1]]
