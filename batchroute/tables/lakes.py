"""Delta and Iceberg tables: opening them, and their errors in one sentence."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from batchroute.errors import BatchrouteError, InputError, StoppedError
from batchroute.storage.objects import is_local, local_path
from batchroute.tables.failures import iceberg_may_pass, iceberg_was_second, lake_may_pass, readable

# Without it two writers to S3 could overwrite each other's version.
_CREATE_ONLY = {"aws_conditional_put": "etag"}


def open_delta(uri: str, options: Mapping[str, str], version: int | None = None) -> Any:
    """The Delta table in this version, the latest by default; None when there is no table."""
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
    """The URI as deltalake takes it."""
    return local_path(uri) if is_local(uri) else uri


def delta_options(uri: str, options: Mapping[str, str]) -> dict[str, str]:
    """The storage options, with create-only puts on S3."""
    return {**(_CREATE_ONLY if uri.startswith("s3") else {}), **options}


def open_catalog(properties: Mapping[str, str]) -> Any:
    """The Iceberg catalog with these properties, `name` among them; by default that of pyiceberg's configuration."""
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError as error:
        raise InputError("Iceberg tables need: pip install 'batchroute[iceberg]'") from error
    properties = dict(properties)
    return load_catalog(properties.pop("name", "default"), **properties)


@contextmanager
def delta_errors(public: str) -> Iterator[None]:
    """Turns errors of deltalake into one sentence.

    Args:
        public: the table, as the sentence names it.

    Raises:
        InputError: the table, the query or the storage's settings are wrong.
        StoppedError: another writer was first, or the storage failed; another attempt may succeed.
    """
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
            raise StoppedError(f"{public}: another writer was first: {readable(error)}") from None
        # deltalake raises bare exceptions too, for values that do not fit.
        if isinstance(error, DeltaError | OSError | pa.ArrowException | ValueError) or type(error) is Exception:
            raise _explained(public, error, lake_may_pass(error)) from None
        raise


@contextmanager
def iceberg_errors(public: str) -> Iterator[None]:
    """As `delta_errors`, of pyiceberg, whose errors have no common class."""
    try:
        yield
    except BatchrouteError:
        raise
    except Exception as error:
        library = type(error).__module__.split(".")[0]
        if library not in ("pyiceberg", "sqlalchemy", "pyparsing", "requests", "botocore") and not isinstance(
            error, OSError | pa.ArrowException | ValueError
        ):
            raise
        if iceberg_was_second(error):
            raise StoppedError(f"{public}: another writer was first: {readable(error)}") from None
        raise _explained(public, error, iceberg_may_pass(error)) from None


def _explained(public: str, error: Exception, may_pass: bool) -> BatchrouteError:
    message = f"{public}: {readable(error)}"
    return StoppedError(f"{message}; run again") if may_pass else InputError(message)


def parse_time(timestamp: str) -> datetime.datetime:
    """The time that `input.timestamp` names; UTC where it names no zone.

    Raises:
        InputError: it is not a time in ISO 8601.
    """
    try:
        parsed = datetime.datetime.fromisoformat(timestamp)
    except ValueError as error:
        raise InputError(f"input.timestamp: '{timestamp}' is no time such as 2026-11-24T02:00:00+00:00") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)
