"""Errors of warehouses and lakes: which may pass, so that another attempt can succeed, and what of them is shown.

Codes and classes decide. Messages repeat the user's SQL, in which a column may be named `clock` or `closed_at`. Where a
library gives nothing but a message, a pattern is anchored to words that the library writes before any text of the user.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from batchroute.redaction import hide_parameters
from batchroute.storage.faults import is_transient

# Connection, rolled back for another transaction, no resources, lock not available, ended by an operator.
_PASSING_STATES = ("08", "40", "53", "55P03", "57")
# States whose messages are about the connection and the SQL. Those of other states may quote a row.
_ABOUT_SQL = ("02", "08", "0A", "25", "28", "34", "3D", "3F", "40", "42", "53", "54", "55", "57", "58")
_STATES = {
    "22001": "a text is too long for the column",
    "22003": "a number is out of the column's range",
    "22007": "a text is no date or time",
    "22012": "division by zero",
    "22P02": "a text is no value of the type",
    "23502": "a null violates the not-null constraint",
    "23503": "a value violates a foreign key constraint",
    "23505": "a value that is there already violates a unique constraint",
    "23514": "a row violates check constraint",
}
# Snowflake's codes where its states say less.
_CODES = {100072: "a null in a column that takes none", 100078: "a text is too long for the column"}
_NAMES = {"COLUMN": "column", "CONSTRAINT": "constraint", "DATATYPE": "type"}
_COPIED_COLUMN = re.compile(r"COPY [^,]+, line \d+, column ([^:\n]+)")
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
# DuckDB's class of exception, of which these are about the SQL and the place of the database.
_DUCKDB_CLASS = re.compile(r"(?:[A-Z_]+: )?(?:Failed to execute query \"COMMIT\": )?([A-Z][\w ]*?) Error: ")
_DUCKDB_ABOUT_SQL = {
    "Binder",
    "Catalog",
    "Connection",
    "HTTP",
    "IO",
    "Not implemented",
    "Parser",
    "Permission",
    "Settings",
}
_DUCKDB_ABOUT_SQL |= {"TransactionContext", "Dependency"}
# From the first quote to the last: what is quoted may hold quotes.
_QUOTED = re.compile(r"""'.*'|".*"|['"].*""", re.DOTALL)
_ROW = re.compile(r"(violated by value in row:?).*", re.DOTALL)
_ABOUT_VALUES = re.compile(r"\b(?:cast|parse|convert|conversion|invariant)", re.IGNORECASE)
_HIDDEN = "***"
# Object stores of deltalake (Rust's object_store) and of pyiceberg (pyarrow's S3): errors without a class or a code.
_STORE_PASSING = re.compile(
    r"Error performing [A-Z]+ \S+ in \S+(?:, after \d+ retries, max_retries: \d+, retry_timeout: \S+)? +- "
    r"(?:HTTP error|Server returned non-2xx status code: (?:408|425|429|5\d\d)\b)"
    r"|: AWS Error (?:NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING|"
    r"UNKNOWN \(HTTP status (?:408|429|5\d\d)\)) during \w+ operation: "
)
# Rust's chain of causes as deltalake draws it.
_DELTA_CAUSE = re.compile(r"\s*\x1b\[31m↳\x1b\[0m\s*")
# The driver of Snowflake has no code for this one, and quotes the value.
_SNOWFLAKE_RANGE = re.compile(
    r"(?:[A-Z_]+: )?(?:\[Snowflake\] )?timestamp [\d :+.UTC-]+ overflows when converted to nano"
)
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


def driver_message(scheme: str, error: Exception) -> str:
    """The message of an error of an ADBC driver, without values: those of a row are prompts and answers. Where the
    message may quote a row, what is left are the driver's class and code, and the names of columns and constraints.

    Args:
        scheme: the driver.
    """
    state = getattr(error, "sqlstate", None)
    # Drivers add their log, or the SQL, from the third line on.
    text = str(error).partition(" Detail: Python")[0]
    whole = " ".join(
        line.strip() for line in text.splitlines()[:2] if line.strip() and not line.startswith(("DETAIL:", "CONTEXT:"))
    )
    if scheme == "snowflake" and _SNOWFLAKE_RANGE.match(text):
        return "a timestamp is before 1677 or after 2262, which the driver cannot carry: cast it to text in the query"
    if state:
        return whole if state.startswith(_ABOUT_SQL) else _named(error, state)
    if scheme == "sqlite" and not isinstance(error, pa.ArrowException):
        return whole  # its messages have names alone
    if scheme == "duckdb" and (kind := _DUCKDB_CLASS.match(text)):
        if kind[1] in _DUCKDB_ABOUT_SQL:
            return whole
        if kind[1] not in ("Constraint", "Conversion"):
            return f"{kind[1]} Error"  # such as what the SQL function error() says
        return _unquoted(text.partition("\n\nLINE ")[0])
    status = getattr(error, "status_code", None)
    about_values = isinstance(error, pa.ArrowException) or scheme == "duckdb"
    if about_values or (status is not None and status.name in ("INVALID_DATA", "INTEGRITY", "INTERNAL", "UNKNOWN")):
        return _unquoted(text)
    return whole


def _named(error: Exception, state: str) -> str:
    details = {str(name): value.decode(errors="replace") for name, value in _details(error)}
    named = [f"{word} {details[key]}" for name, word in _NAMES.items() if (key := f"PG_DIAG_{name}_NAME") in details]
    copied = _COPIED_COLUMN.match(details.get("PG_DIAG_CONTEXT", ""))
    if copied:
        named.append(f"column {copied[1]}")
    known = _CODES.get(getattr(error, "vendor_code", None) or 0) or _STATES.get(state)
    return (
        f"{type(error).__name__} {state}"
        + (f": {known}" if known else "")
        + (f" ({', '.join(named)})" if named else "")
    )


def _details(error: Exception) -> list[tuple[str, bytes]]:
    found = getattr(error, "details", None) or ()
    return [(name.decode() if isinstance(name, bytes) else str(name), value) for name, value in found]


def _unquoted(text: str) -> str:
    lines = _QUOTED.sub(f"'{_HIDDEN}'", _ROW.sub(rf"\1 {_HIDDEN}", text)).strip().splitlines()
    return lines[0] if lines else ""


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
    """The first line of a message; of deltalake's with the causes that it draws as a tree below. No value of a row."""
    text = hide_parameters(_unfolded(error)).strip() or type(error).__name__
    if isinstance(error, pa.ArrowInvalid) or _ABOUT_VALUES.search(text):
        text = _unquoted(text)  # of a value that does not fit
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
