"""The clients of buckets, made so that they neither try again nor log: `Store.call` tries again, for a bounded time."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import fsspec

from batchroute.errors import InputError, first_line
from batchroute.storage.places import BUCKETS

_CONNECT_SECONDS, _READ_SECONDS = 10, 60
# What a server answers that gives the part that it was asked for.
_PARTIAL = 206
_LOGGERS = {"s3": ("aiobotocore",), "gs": ("gcsfs", "google.auth"), "abfs": ("adlfs", "azure")}


def filesystem_of(protocol: str, options: Mapping[str, Any]) -> Any:
    """The fsspec filesystem of a protocol.

    Raises:
        InputError: it is not known, its package is missing, or the options do not fit it.
    """
    # What matters in their logs is in the errors that they raise.
    for name in _LOGGERS.get(protocol, ()):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # Cached listings are wrong as soon as another process writes.
    common = {"use_listings_cache": False, "skip_instance_cache": True}
    try:
        if protocol == "s3":
            return fsspec.filesystem(protocol, **common, **_s3_options(options))
        if protocol == "gs":
            return _google(**common, **options)
        if protocol in ("http", "https"):
            return _http(**common, **options)
        filesystem = fsspec.filesystem(protocol, **common, **options)
        if protocol == "abfs":
            _try_once(filesystem)
        return filesystem
    except InputError:
        raise
    except ImportError as error:
        others = {"http": "aiohttp", "https": "aiohttp"}.get(protocol, f"the fsspec package of {protocol}")
        extra = f"'batchroute[{BUCKETS[protocol]}]'" if protocol in BUCKETS else others
        raise InputError(f"{protocol}:// needs a package: pip install {extra}") from error
    except ValueError as error:
        if protocol == "abfs":
            raise InputError(f"abfs:// knows no account; {CREDENTIALS[protocol]}") from error
        if protocol in BUCKETS:
            raise InputError(f"storage_options do not fit {protocol}://: {first_line(error)}") from error
        raise InputError(f"{protocol}:// is not a known storage") from error
    except TypeError as error:
        raise InputError(f"storage_options do not fit {protocol}://: {error}") from error
    except Exception as error:
        # Such as Hadoop's, which needs Java and a native library.
        raise InputError(f"{protocol}:// cannot be used on this machine: {first_line(error)}") from error


CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or storage_options",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, log in by `gcloud auth application-default login`, or set "
    "storage_options: {token: …}",
    "abfs": "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or "
    "AZURE_STORAGE_SAS_TOKEN, or log in by `az login`",
    "hf": "set HF_TOKEN to a token that may read it, or log in by `hf auth login`",
    "http": "set storage_options: {headers: {Authorization: …}}",
    "https": "set storage_options: {headers: {Authorization: …}}",
}
"""What to set where a storage refuses, by protocol."""


def _s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    # s3fs and botocore each try again for minutes.
    config = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS, "retries": {"max_attempts": 0}}
    return {**options, "config_kwargs": {**config, **options.get("config_kwargs", {})}}


def _google(**options: Any) -> Any:
    # Not what `fsspec.filesystem` makes: that one asks by gRPC what kind of bucket each is, and logs where it cannot.
    from gcsfs.core import GCSFileSystem

    class Once(GCSFileSystem):  # type: ignore[misc]
        # Without the decorator that tries six times, for a minute.
        _request = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)

    if "token" in options or options.get("endpoint_url") or os.environ.get("STORAGE_EMULATOR_HOST"):
        return Once(**options)
    from google.auth.exceptions import DefaultCredentialsError

    try:
        return Once(token="google_default", **options)
    except DefaultCredentialsError as error:
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise InputError(f"GOOGLE_APPLICATION_CREDENTIALS: {first_line(error)}") from error
        # Public buckets need none. Unless told, the client would first wait 15 s for a machine of Google's.
        return Once(token="anon", **options)


def _http(**options: Any) -> Any:
    from aiohttp import ClientTimeout
    from fsspec.implementations.http import HTTPFileSystem

    class Parts(HTTPFileSystem):  # type: ignore[misc]
        async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
            """As its parent, but for a server that gives the whole file where a part is asked for."""
            if start is None and end is None:
                return bytes(await super()._cat_file(url, **more))
            settings = {**self.kwargs, **more}
            headers = {**settings.pop("headers", {}), "Range": await self._process_limits(url, start or 0, end)}
            session = await self.set_session()
            async with session.get(self.encode_url(url), headers=headers, **settings) as answer:
                self._raise_not_found_for_status(answer, url)
                if answer.status == _PARTIAL or end is None:
                    return bytes(await answer.read())
                if start:
                    raise InputError(
                        f"{url} cannot be read: its server gives no parts of a file (no answer to Range), and files of "
                        "more than 1 MiB are read in parts; download it, and name the copy"
                    )
                data = bytearray()
                while len(data) < end and (more_data := await answer.content.read(end - len(data))):
                    data += more_data
                return bytes(data)

    timeout = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
    return Parts(**{**options, "client_kwargs": {"timeout": timeout, **options.get("client_kwargs", {})}})


def _try_once(filesystem: Any) -> None:
    """Azure's client tries four times with waits of up to a minute, and takes no option that adlfs would pass on."""
    pipeline = filesystem.service_client._pipeline
    for policy in pipeline._impl_policies:
        if hasattr(policy, "total_retries"):
            policy.total_retries = 0
    connection = getattr(pipeline._transport, "connection_config", None)
    if connection is not None:
        connection.timeout = _CONNECT_SECONDS
