"""Delta and Iceberg tables: one version of each as a stream of Arrow batches."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from batchroute.errors import BatchrouteError, InputError, StoppedError
from batchroute.storage.objects import is_local, local_path

# Without it two writers to S3 could overwrite each other's version.
_CREATE_ONLY = {"aws_conditional_put": "etag"}
_OTHERS_FIRST = (
    "CommitFailedException",
    "CommitStateUnknownException",
    "IntegrityError",
    "NamespaceAlreadyExistsError",
    "TableAlreadyExistsError",
    "ValidationException",
)
_PASSING = ("locked", "connect", "timed out", "timeout", "error sending request", "503", "SlowDown", "unavailable")


def open_delta(uri: str, options: Mapping[str, str], version: int | None = None) -> Any:
    """The table, or None when there is none there."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError
    except ImportError as error:
        raise InputError("Delta tables need: pip install 'batchroute[delta]'") from error
    try:
        return DeltaTable(delta_place(uri), version, storage_options=delta_options(uri, options))
    except TableNotFoundError:
        return None


def delta_place(uri: str) -> str:
    return local_path(uri) if is_local(uri) else uri


def delta_options(uri: str, options: Mapping[str, str]) -> dict[str, str]:
    return {**(_CREATE_ONLY if uri.startswith("s3") else {}), **options}


def open_catalog(properties: Mapping[str, str]) -> Any:
    """That of these properties, among them `name`; with none, the default one of pyiceberg's configuration."""
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError as error:
        raise InputError("Iceberg tables need: pip install 'batchroute[iceberg]'") from error
    properties = dict(properties)
    return load_catalog(properties.pop("name", "default"), **properties)


@contextmanager
def delta_errors(what: str) -> Iterator[None]:
    """Errors of deltalake in one sentence: a StoppedError where another attempt may succeed, else an InputError."""
    try:
        yield
    except BatchrouteError:
        raise
    except Exception as error:
        try:
            from deltalake.exceptions import CommitFailedError, DeltaError
        except ImportError:
            raise error from None
        if isinstance(error, CommitFailedError):
            raise StoppedError(f"{what}: another writer was first: {_first_line(error)}") from None
        if isinstance(error, DeltaError | OSError | pa.ArrowException | ValueError):
            raise _explained(what, error) from None
        raise


@contextmanager
def iceberg_errors(what: str) -> Iterator[None]:
    """The same of pyiceberg, whose errors have no common class."""
    try:
        yield
    except BatchrouteError:
        raise
    except Exception as error:
        kind = type(error)
        # The latter of a new SQL catalog, of whose own tables two writers found none.
        if kind.__name__ in _OTHERS_FIRST or "already exists" in str(error):
            raise StoppedError(f"{what}: another writer was first: {_first_line(error)}") from None
        if kind.__module__.split(".")[0] in ("pyiceberg", "sqlalchemy", "pyparsing", "requests") or isinstance(
            error, OSError | pa.ArrowException | ValueError
        ):
            raise _explained(what, error) from None
        raise


def _explained(what: str, error: Exception) -> BatchrouteError:
    told = _first_line(error)
    passing = any(word.lower() in str(error).lower() for word in _PASSING)
    return StoppedError(f"{what}: {told}; run again") if passing else InputError(f"{what}: {told}")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:400]


def moment(timestamp: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(timestamp)
    except ValueError as error:
        raise InputError(f"input.timestamp: '{timestamp}' is no moment such as 2026-11-24T02:00:00+00:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
