"""Calls to a remote filesystem by fsspec: retried while an error may pass; its last error is one sentence."""

from __future__ import annotations

import errno
import functools
import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import fsspec
from fsspec.core import split_protocol
from fsspec.exceptions import FSTimeoutError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from batchroute.errors import BatchrouteError, InputError, StoppedError

# For how many seconds to retry: the first call, for which an operator may be waiting, and every later call.
_FIRST_PATIENCE, _PATIENCE = 15.0, 150.0
_MOST_WAIT = 10.0
# S3 refuses a request that was signed a quarter of an hour ago.
_MOST_SKEW_SECONDS = 600
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
_TRANSIENT = {
    errno.EBUSY,
    errno.EIO,
    errno.EAGAIN,
    errno.EPIPE,
    errno.ETIMEDOUT,
    getattr(errno, "EREMOTEIO", errno.EIO),
}
_TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_BAD_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthorizationHeaderMalformed"}

Result = TypeVar("Result")


def store_of(uri: str, storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store that holds `uri`; one per filesystem and options.

    Raises:
        InputError: the filesystem is unknown, or its package is not installed.
    """
    return _store(split_protocol(uri)[0] or "file", json.dumps(dict(storage_options or {}), sort_keys=True))


@functools.lru_cache(maxsize=16)
def _store(protocol: str, options: str) -> Store:
    return Store(protocol, json.loads(options))


class Store:
    """A remote filesystem. Paths are whole URIs."""

    def __init__(
        self,
        protocol: str,
        options: dict[str, Any],
        first_patience: float = _FIRST_PATIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if protocol in ("s3", "s3a"):
            options = _s3_options(options)
        try:
            # Cached listings are wrong as soon as another process writes.
            self._fs = fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            extra = f"'batchroute[{_EXTRAS[protocol]}]'" if protocol in _EXTRAS else f"the fsspec package of {protocol}"
            raise InputError(f"{protocol}:// needs a package: pip install {extra}") from error
        except ValueError as error:
            raise InputError(f"{protocol}:// is not a known storage") from error
        except TypeError as error:
            raise InputError(f"storage_options do not fit {protocol}://: {error}") from error
        # `call` retries, for a bounded time.
        self._fs.retries = 1
        self.protocol = protocol
        self._first_patience, self._clock, self._reached = first_patience, clock, False

    def call(self, what: str, uri: str, do: Callable[[Any], Result]) -> Result:
        """`do(filesystem)`, retried while its error may pass.

        Raises:
            FileNotFoundError, FileExistsError: as the filesystem raises them.
            InputError: the call can never succeed.
            StoppedError: the error did not pass in time; run again.
        """
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=0.1, max=_MOST_WAIT),
            stop=stop_after_delay(_PATIENCE if self._reached else self._first_patience),
            reraise=True,
        )
        try:
            result: Result = retrying(_exclusive, do, self._fs)
        except (FileNotFoundError, FileExistsError) as error:
            if _code(error) == "NoSuchBucket":
                raise InputError(f"cannot {what} {uri}: the bucket does not exist; create it") from error
            self._reached = True
            raise
        except BatchrouteError:
            raise
        except Exception as error:
            raise _explained(what, uri, error, self._clock()) from error
        self._reached = True
        return result

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem, without retries."""
        return self._fs

    def path(self, uri: str) -> str:
        """The path in the filesystem's own form."""
        return str(self._fs._strip_protocol(uri))

    def uri(self, path: str) -> str:
        return str(self._fs.unstrip_protocol(path))

    def info(self, uri: str) -> dict[str, Any]:
        """Raises:
        FileNotFoundError: there is nothing.
        """
        return dict(self.call("read", uri, lambda fs: fs.info(self.path(uri))))

    def entries(self, uri: str) -> list[dict[str, Any]]:
        """The entries directly in a folder; empty when there is no folder."""
        path = self.path(uri)
        try:
            entries = self.call("list", uri, lambda fs: fs.ls(path, detail=True))
        except FileNotFoundError:
            return []
        # Some storages list a folder itself among what is in it.
        return [entry for entry in entries if entry["name"].strip("/") != path.strip("/")]

    def files(self, uri: str) -> list[str]:
        """The URIs of all files anywhere in a folder.

        fsspec's own `find` and `glob` silently leave out folders whose listing failed.
        """
        files: list[str] = []
        folders = [uri]
        while folders:
            for entry in self.entries(folders.pop()):
                (folders if entry["type"] == "directory" else files).append(self.uri(entry["name"].rstrip("/")))
        return sorted(files)

    def read(self, uri: str, start: int | None = None, stop: int | None = None) -> bytes:
        return bytes(self.call("read", uri, lambda fs: fs.cat_file(self.path(uri), start=start, end=stop)))

    def open(self, uri: str, size: int) -> io.BufferedIOBase | RangeFile:
        return RangeFile(self, uri, size)


class RangeFile(io.RawIOBase):
    """A remote file of known size, read by ranges: each read is one request, and nothing is read ahead."""

    def __init__(self, store: Store, uri: str, size: int) -> None:
        self._store, self._uri, self._size, self._at = store, uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        data = self._store.read(self._uri, self._at, stop)
        if len(data) != stop - self._at:
            raise InputError(f"{self._uri} is shorter than it was: it was changed while it was read")
        self._at = stop
        return data


def _s3_options(options: dict[str, Any]) -> dict[str, Any]:
    # s3fs and botocore each retry silently for minutes; `call` retries instead.
    logging.getLogger("aiobotocore").setLevel(logging.ERROR)
    config = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 0}}
    return {**options, "config_kwargs": {**config, **options.get("config_kwargs", {})}}


def _exclusive(do: Callable[[Any], Result], fs: Any) -> Result:
    try:
        return do(fs)
    except OSError as error:
        # Some servers do not name the failed condition in their answer.
        if _status(error) == 412:
            raise FileExistsError(str(error)) from error
        raise


def _causes(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _response(error: BaseException) -> dict[str, Any]:
    """The answer of an S3 server behind an error; empty without an answer."""
    responses = (getattr(cause, "response", None) for cause in _causes(error))
    return next((response for response in responses if isinstance(response, dict)), {})


def _status(error: BaseException) -> int | None:
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = status if status is not None else getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _code(error: BaseException) -> str | None:
    code = _response(error).get("Error", {}).get("Code")
    return code if isinstance(code, str) else None


def is_transient(error: BaseException) -> bool:
    """Whether an error is of a kind that passes: a lost connection, a timeout, a busy or failing server."""
    if isinstance(error, BatchrouteError | FileNotFoundError | FileExistsError) or not isinstance(error, Exception):
        return False
    if _code(error) in ("SlowDown", "RequestTimeout"):
        return True
    status = _status(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    return any(isinstance(cause, _lost_connections()) for cause in _causes(error)) or (
        isinstance(error, OSError) and error.errno in _TRANSIENT
    )


def _is_skewed(error: BaseException, now: float) -> bool:
    """Whether this machine's clock is wrong: a refusal without a body names no reason, but it has the server's time."""
    date = _response(error).get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return abs(parsedate_to_datetime(date).timestamp() - now) > _MOST_SKEW_SECONDS
    except (TypeError, ValueError):
        return False


@functools.cache
def _lost_connections() -> tuple[type[BaseException], ...]:
    kinds: list[type[BaseException]] = [ConnectionError, TimeoutError, FSTimeoutError, EOFError]
    try:
        import aiohttp

        kinds += [aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError]
    except ImportError:
        pass
    try:
        from botocore import exceptions
        from botocore.parsers import ResponseParserError

        kinds += [exceptions.HTTPClientError, exceptions.ConnectionError, ResponseParserError]
    except ImportError:
        pass
    return tuple(kinds)


def _explained(what: str, uri: str, error: Exception, now: float) -> BatchrouteError:
    code, status = _code(error), _status(error)
    place = f"cannot {what} {uri}"
    if is_transient(error):
        reason = f"answers {status}" if status else "does not answer"
        return StoppedError(f"{place}: the storage {reason}; look at it, and run again")
    if code == "ExpiredToken":
        return StoppedError(f"{place}: the session token has expired; renew it, and run again")
    if code == "RequestTimeTooSkewed" or (status == 403 and _is_skewed(error, now)):
        return InputError(f"{place}: this machine's clock is too far from the storage's; set it")
    if code in _BAD_KEY or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        state = "there are none" if code is None else "the storage refuses them"
        return InputError(
            f"{place} with these credentials: {state}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or "
            "storage_options"
        )
    if isinstance(error, PermissionError):
        return InputError(f"{place}: permission denied; check the credentials in use, and what they may do there")
    if code == "NoSuchBucket":
        return InputError(f"{place}: the bucket does not exist; create it")
    return InputError(f"{place}: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
