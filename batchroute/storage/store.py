"""Calls to a remote filesystem by fsspec: retried while an error may pass; its last error is one sentence."""

from __future__ import annotations

import functools
import inspect
import io
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import fsspec
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from batchroute.errors import BatchrouteError, InputError
from batchroute.redaction import host, passwords
from batchroute.storage.clients import filesystem_of
from batchroute.storage.faults import explained, is_missing_bucket, is_transient, missing_bucket, status_of
from batchroute.storage.places import BUCKETS, in_one_spelling, protocol_of, with_account

# For how many seconds to retry: the first call, for which an operator may be waiting, and every later call.
_FIRST_PATIENCE, _PATIENCE = 15.0, 150.0
_MOST_WAIT = 10.0
# A wait is at most this share of the patience, so that nearly all of it is used, and none of it is overrun.
_LONGEST_WAIT = 0.1
_REFUSALS = (401, 403)
Result = TypeVar("Result")


def store_of(uri: str, storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store that holds `uri`; one per filesystem and options.

    Raises:
        InputError: the filesystem is unknown, its package is not installed, or the URI chains several or has a secret.
    """
    if "::" in uri:
        raise InputError(f"{uri} chains filesystems, which is not supported; unpack the files, and name their place")
    protocol, options = protocol_of(uri), dict(storage_options or {})
    if protocol in BUCKETS and not in_one_spelling(uri).partition("://")[2].strip("/"):
        raise InputError(f"{uri} names no bucket")
    if protocol in ("http", "https") and passwords(uri):
        raise InputError(
            f"an address on {host(uri)} has a password or a signature in it, which run.json and messages would repeat; "
            "put it into storage_options: {headers: {Authorization: …}}, or download the file, and name the copy"
        )
    options = with_account(uri, options) if protocol in BUCKETS else {**_options_in(protocol, uri), **options}
    return _store(protocol, json.dumps(options, sort_keys=True))


def _options_in(protocol: str, uri: str) -> dict[str, Any]:
    """What stands in the URI itself, such as a server's name and a user."""
    try:
        return dict(fsspec.get_filesystem_class(protocol)._get_kwargs_from_urls(uri))
    except (ImportError, ValueError):
        # `filesystem_of` says so.
        return {}


@functools.lru_cache(maxsize=16)
def _store(protocol: str, options: str) -> Store:
    return Store(protocol, json.loads(options))


def forget() -> None:
    """Connect to every store anew, with the keys that the environment has then."""
    _store.cache_clear()


class Store:
    """A remote filesystem. Paths are whole URIs."""

    def __init__(
        self,
        protocol: str,
        options: dict[str, Any],
        first_patience: float = _FIRST_PATIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fs = filesystem_of(protocol, options)
        # `call` retries, for a bounded time.
        self._fs.retries = 1
        self.protocol = protocol
        # s3fs asks for the size of each file before it reads the whole, for several connections where that is large.
        read = inspect.signature(getattr(self._fs, "_cat_file", self._fs.cat_file)).parameters
        self._of_one_request = {"max_concurrency": 1} if "max_concurrency" in read else {}
        self._first_patience, self._clock = first_patience, clock
        self._reached: set[str] = set()
        self._buckets: set[str] = set()

    def call(self, what: str, uri: str, do: Callable[[Any], Result]) -> Result:
        """`do(filesystem)`, retried while its error may pass.

        Raises:
            FileNotFoundError, FileExistsError: as the filesystem raises them.
            InputError: the call can never succeed.
            StoppedError: the error did not pass in time; run again.
        """
        # Of addresses each server is met for the first time.
        server = uri.partition("://")[2].partition("/")[0] if self.protocol in ("http", "https") else ""
        patience = _PATIENCE if server in self._reached else self._first_patience
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=0.1, max=min(_MOST_WAIT, patience * _LONGEST_WAIT)),
            stop=stop_before_delay(patience),
            reraise=True,
        )
        try:
            result: Result = retrying(_exclusive, do, self._fs)
        except (FileNotFoundError, FileExistsError) as error:
            if is_missing_bucket(error) or (isinstance(error, FileNotFoundError) and self._has_no_bucket(uri)):
                raise missing_bucket(what, uri) from error
            self._reached.add(server)
            raise
        except BatchrouteError:
            raise
        except Exception as error:
            raise explained(what, uri, error, self._clock()) from error
        self._reached.add(server)
        return result

    def _has_no_bucket(self, uri: str) -> bool:
        """Whether it is the bucket that is not there: Google's and Azure's clients do not tell. Asked once."""
        bucket = self.path(uri).partition("/")[0]
        if self.protocol not in ("gs", "abfs") or bucket in self._buckets:
            return False
        try:
            if self.protocol == "gs":
                self._fs.call("GET", "b/{}/o", bucket, maxResults=1)
            else:
                self._fs.info(bucket)
        except FileNotFoundError:
            return True
        except Exception as error:
            # Who may not ask does not learn it.
            if is_transient(error):
                return False
        self._buckets.add(bucket)
        return False

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem, without retries."""
        return self._fs

    def path(self, uri: str) -> str:
        """The path in the filesystem's own form."""
        return str(self._fs._strip_protocol(in_one_spelling(uri)))

    def uri(self, path: str) -> str:
        """The URI of a path, as `in_one_spelling`."""
        return f"{self.protocol}://{path}" if self.protocol in BUCKETS else str(self._fs.unstrip_protocol(path))

    def info(self, uri: str) -> dict[str, Any]:
        """Raises:
        FileNotFoundError: there is nothing.
        """
        if self.protocol == "hf":
            self._fs.invalidate_cache()  # it caches listings whatever it is told
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

    def kind(self, uri: str) -> Literal["file", "directory"] | None:
        """What is there under this very name, with its wildcards taken literally; None where nothing is."""
        try:
            return "directory" if self.info(uri)["type"] == "directory" else "file"
        except FileNotFoundError:
            return None

    def files(self, uri: str) -> list[str]:
        """The URIs of all files anywhere in a folder."""
        return sorted(self.uri(entry["name"]) for entry in self.listed(uri))

    def listed(self, uri: str) -> list[dict[str, Any]]:
        """The entries of all files anywhere in a folder. Of a bucket, one request lists 1,000 keys or more."""
        if self.protocol in BUCKETS:
            path = self.path(uri)
            try:
                found = self.call("list", uri, lambda fs: fs.find(path, detail=True))
            except FileNotFoundError:
                return []
            if not found and self._has_no_bucket(uri):
                raise missing_bucket("list", uri)
            # A key that ends in a slash and holds nothing is a console's mark of a folder.
            found = found if isinstance(found, dict) else {}  # Azure's, of a file
            marks = {name for name, entry in found.items() if name.endswith("/") and not entry["size"]}
            return [entry for name, entry in found.items() if name != path and name not in marks]
        # fsspec's own `find` and `glob` silently leave out folders whose listing failed.
        files: list[dict[str, Any]] = []
        folders = [uri]
        while folders:
            for entry in self.entries(folders.pop()):
                if entry["type"] == "directory":
                    folders.append(self.uri(entry["name"].rstrip("/")))
                else:
                    files.append(entry)
        return files

    def first_keys(self, uri: str) -> list[str]:
        """The names of up to 1,000 files in a folder, for one request; empty where nothing may be listed."""
        if self.protocol in ("http", "https"):
            return []
        try:
            if self.protocol != "s3":
                return [entry["name"] for entry in self.entries(uri)]
            bucket, _, prefix = self.path(uri).partition("/")
            answer = self.call(
                "list", uri, lambda fs: fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix + "/")
            )
        except InputError:
            return []
        return [f"{bucket}/{entry['Key']}" for entry in answer.get("Contents") or []]

    def read(self, uri: str, start: int | None = None, stop: int | None = None) -> bytes:
        part = self._of_one_request if start is stop is None else {"start": start, "end": stop}
        return bytes(self.call("read", uri, lambda fs: fs.cat_file(self.path(uri), **part)))

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


def _exclusive(do: Callable[[Any], Result], fs: Any) -> Result:
    try:
        return do(fs)
    except FileNotFoundError as error:
        # Clients of addresses say so of every failure, a lost connection among them.
        cause = error.__cause__
        if isinstance(cause, Exception) and (is_transient(cause) or status_of(cause) in _REFUSALS):
            raise cause from None
        raise
    except OSError as error:
        # Some servers do not name the failed condition in their answer.
        if status_of(error) == 412:
            raise FileExistsError(str(error)) from error
        raise
