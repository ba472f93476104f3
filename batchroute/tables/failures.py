"""Errors of warehouses and lakes: which of them may pass, so that another attempt can succeed.

Codes and classes decide. Messages repeat the user's SQL, in which a column may be named `clock` or `closed_at`. Where a
library gives nothing but a message, a pattern is anchored to words that the library writes before any text of the user.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from batchroute.redaction import hide_parameters
from batchroute.storage.store import is_transient

# Connection, rolled back for another transaction, no resources, lock not available, ended by an operator.
_PASSING_STATES = ("08", "40", "53", "55P03", "57")
# Snowflake's for a refused login.
_LOGIN_REFUSED = "08004"
_PASSING_STATUS = ("IO", "TIMEOUT", "CANCELLED")

# libpq has no code for a connection that failed. Settings that it does not take, and what the server refuses for good:
_LIBPQ_REFUSED = re.compile(
    r"(?:IO: \[libpq\] Failed to connect: )?"
    r'(?:invalid |missing |connection to server (?:at|on socket) "[^"]*"(?: \([^)]*\))?(?:, port \d+)? failed: '
    r'(?:fe_sendauth: |FATAL:  (?:(?:role|database) "|[\w-]+ authentication failed|no pg_hba\.conf entry|'
    r"pg_hba\.conf rejects|permission denied|unrecognized configuration parameter)))"
)
# The driver of SQLite drops the result code; the text of SQLITE_BUSY and SQLITE_LOCKED begins what follows its prefix.
_SQLITE_LOCKED = re.compile(
    r"(?:[A-Z_]+: )?(?:\[SQLite\] )?(?:[Ff]ailed to [a-z ]+: )?database (?:table |schema )?is locked"
)
# DuckDB's class of exception begins the message; a detail holds it for some errors only. The last two are of httpfs.
_DUCKDB_PASSING = re.compile(
    r'(?:[A-Z]+: )?(?:Failed to execute query "COMMIT": )?(?:TransactionContext Error: |'
    r"IO Error: (?:Could not set lock on file \"|[\w ]+ error for HTTP [A-Z]+ to ')|"
    r"HTTP Error: HTTP [A-Z]+ error on '[^']*' \(HTTP (?:408|429|5\d\d)\b)"
)
# Object stores of deltalake (Rust's object_store) and of pyiceberg (pyarrow's S3): errors without a class or a code.
_STORE_PASSING = re.compile(
    r"Error performing [A-Z]+ \S+ in \S+(?:, after \d+ retries, max_retries: \d+, retry_timeout: \S+)? +- "
    r"(?:HTTP error|Server returned non-2xx status code: (?:408|425|429|5\d\d)\b)"
    r"|: AWS Error (?:NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING|"
    r"UNKNOWN \(HTTP status (?:408|429|5\d\d)\)) during \w+ operation: "
)
# Rust's chain of causes as deltalake draws it.
_DELTA_CAUSE = re.compile(r"\s*\x1b\[31m↳\x1b\[0m\s*")
_SQLITE_BUSY, _SQLITE_LOCK, _SQLITE_ERROR = 5, 6, 1


def warehouse_may_pass(scheme: str, error: Exception) -> bool:
    """Of an error of an ADBC driver, or of Arrow or the operating system while one was used.

    Args:
        scheme: the driver.
    """
    state, status, message = getattr(error, "sqlstate", None), getattr(error, "status_code", None), str(error)
    if state:
        return _state_may_pass(state)
    if scheme == "sqlite":
        return bool(_SQLITE_LOCKED.match(message))
    if scheme == "duckdb":
        kinds = [value for name, value in getattr(error, "details", ()) if name == b"duckdb:error_type"]
        return kinds == [b"Transaction"] or bool(_DUCKDB_PASSING.match(message))
    if status is None:
        return is_transient(error)
    return status.name in _PASSING_STATUS and not _LIBPQ_REFUSED.match(message)


def exists_already(error: Exception) -> bool:
    """Whether a table could not be created since another connection was first: `if not exists` does not see a table
    that is not committed yet. Of an error of an ADBC driver.
    """
    state, status = getattr(error, "sqlstate", None), getattr(error, "status_code", None)
    return state in ("42P07", "42710", "23505") or (
        status is not None and status.name in ("INTEGRITY", "ALREADY_EXISTS")
    )


def lake_may_pass(error: Exception) -> bool:
    """Of an error of deltalake, or of the storage under a table of either kind."""
    if is_transient(error):
        return True
    return isinstance(error, OSError | pa.ArrowException) and bool(_STORE_PASSING.search(_unfolded(error)))


def iceberg_was_second(error: Exception) -> bool:
    """Whether another writer's commit, or its creation of the same table, was first."""
    from pyiceberg import exceptions

    kinds = (
        exceptions.CommitFailedException,
        exceptions.CommitStateUnknownException,
        exceptions.NamespaceAlreadyExistsError,
        exceptions.TableAlreadyExistsError,
        exceptions.ValidationException,
    )
    return isinstance(error, kinds) or _sql_was_second(error)


def iceberg_may_pass(error: Exception) -> bool:
    from pyiceberg import exceptions

    kinds = (
        exceptions.AuthorizationExpiredError,
        exceptions.ServerError,
        exceptions.ServiceUnavailableError,
        exceptions.TooManyRequestsError,
        exceptions.WaitingForLockException,
    )
    if isinstance(error, kinds) or lake_may_pass(error):
        return True
    cause, sql = _driver_error(error)
    if not sql:
        return False
    if (code := getattr(cause, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in (_SQLITE_BUSY, _SQLITE_LOCK)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state:
        return _state_may_pass(state)
    return isinstance(error, sql.OperationalError | sql.InterfaceError) and not _LIBPQ_REFUSED.match(str(cause))


def readable(error: Exception) -> str:
    """The first line of a message; of deltalake's with the causes that it draws as a tree below."""
    text = hide_parameters(_unfolded(error)).strip() or type(error).__name__
    return text.splitlines()[0].strip()[:400]


def _unfolded(error: Exception) -> str:
    return _DELTA_CAUSE.sub(": ", str(error))


def _state_may_pass(state: str) -> bool:
    return state.startswith(_PASSING_STATES) and state != _LOGIN_REFUSED


def _driver_error(error: Exception) -> tuple[Any, Any]:
    """The database driver's error within one of SQLAlchemy, and SQLAlchemy's exceptions; none of other errors."""
    try:
        from sqlalchemy import exc
    except ImportError:
        return None, None
    return (error.orig, exc) if isinstance(error, exc.DBAPIError) else (None, None)


def _sql_was_second(error: Exception) -> bool:
    cause, sql = _driver_error(error)
    if not sql:
        return False
    # Of a new SQL catalog: two writers see that its own tables are missing, and both create them. SQLite's code for a
    # table that exists is that of any error in a statement, but the statement is pyiceberg's.
    creates = str(error.statement).lstrip().startswith("CREATE TABLE iceberg_")  # type: ignore[attr-defined]
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    taken = getattr(cause, "sqlite_errorcode", None) == _SQLITE_ERROR or state == "42P07"
    return isinstance(error, sql.IntegrityError) or (creates and taken)
