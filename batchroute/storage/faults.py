"""Errors of remote filesystems: which of them pass, and what the others mean, in one sentence."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
from email.utils import parsedate_to_datetime
from typing import Any

from fsspec.exceptions import FSTimeoutError

from batchroute.errors import BatchrouteError, InputError, StoppedError, shortened
from batchroute.storage.clients import CREDENTIALS
from batchroute.storage.places import protocol_of

# S3 refuses a request that was signed a quarter of an hour ago.
_MOST_SKEW_SECONDS = 600
_TRANSIENT = {
    errno.EBUSY,
    errno.EIO,
    errno.EAGAIN,
    errno.EPIPE,
    errno.ETIMEDOUT,
    getattr(errno, "EREMOTEIO", errno.EIO),
}
_TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_BAD_KEY = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthorizationHeaderMalformed"),
    *("AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"),
}
_SET = "set them in storage_options, or as its client expects them"
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
# What the clients of S3, of Azure and of Google raise without an answer of the storage.
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError"),
    *("ClientAuthenticationError", "CredentialUnavailableError"),
    *("DefaultCredentialsError", "RefreshError"),
}


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


def status_of(error: BaseException) -> int | None:
    """The status of an answer, as the errors of S3, Azure, Google, aiohttp and the model hub hold it."""
    known = [_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")]
    for cause in _causes(error):
        known.append(getattr(getattr(cause, "response", None), "status_code", None))
        known += [getattr(cause, name, None) for name in ("status_code", "code", "status")]
    status = next((int(number) for number in known if str(number).isdigit()), None)
    # Google's client raises these two without their status.
    if status is None and isinstance(error, OSError) and str(error).startswith("Forbidden: "):
        return 403
    return 502 if status is None and type(error).__name__ == "ProxyError" else status


def code_of(error: BaseException) -> str | None:
    codes = [_response(error).get("Error", {}).get("Code")]
    codes += [getattr(cause, "error_code", None) for cause in _causes(error)]
    return next((str(getattr(code, "value", code)) for code in codes if code), None)


def is_missing_bucket(error: BaseException) -> bool:
    return code_of(error) in _NO_BUCKET


def missing_bucket(what: str, uri: str) -> InputError:
    kind = "container" if protocol_of(uri) == "abfs" else "bucket"
    return InputError(f"cannot {what} {uri}: the {kind} does not exist; create it")


def _lacks_credentials(error: BaseException) -> bool:
    """Whether the storage does not accept who asks. What they may do is another question."""
    return (
        code_of(error) in _BAD_KEY
        or status_of(error) == 401
        or any(type(cause).__name__ in _NO_CREDENTIALS and status_of(cause) is None for cause in _causes(error))
    )


def is_transient(error: BaseException) -> bool:
    """Whether an error is of a kind that passes: a lost connection, a timeout, a busy or failing server."""
    if isinstance(error, BatchrouteError | FileNotFoundError | FileExistsError) or not isinstance(error, Exception):
        return False
    if code_of(error) in ("SlowDown", "RequestTimeout"):
        return True
    if _lacks_credentials(error) or _is_offline(error):
        return False
    status = status_of(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    return any(isinstance(cause, _lost_connections()) for cause in _causes(error)) or (
        isinstance(error, OSError) and error.errno in _TRANSIENT
    )


def _is_offline(error: BaseException) -> bool:
    """Whether the model hub's client was told to make no request."""
    return any(type(cause).__name__ == "OfflineModeIsEnabled" for cause in _causes(error))


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
    for name in ("httpx", "httpx2"):  # which of them the model hub's client uses depends on its version
        with contextlib.suppress(ImportError):
            kinds.append(importlib.import_module(name).TransportError)
    try:
        from azure.core import exceptions as azure

        kinds += [azure.ServiceRequestError, azure.ServiceResponseError]
    except ImportError:
        pass
    try:
        import requests
        from google.auth.exceptions import TransportError

        kinds += [TransportError, requests.exceptions.ConnectionError, requests.exceptions.Timeout]
    except ImportError:
        pass
    try:
        from botocore import exceptions
        from botocore.parsers import ResponseParserError

        kinds += [exceptions.HTTPClientError, exceptions.ConnectionError, ResponseParserError]
    except ImportError:
        pass
    return tuple(kinds)


def explained(what: str, uri: str, error: Exception, now: float) -> BatchrouteError:
    code, status = code_of(error), status_of(error)
    place = f"cannot {what} {uri}"
    if is_transient(error):
        reason = f"answers {status}" if status else "does not answer"
        return StoppedError(f"{place}: the storage {reason}; look at it, and run again")
    if _is_offline(error):
        return InputError(f"{place}: HF_HUB_OFFLINE is set; unset it where there is a network, or name a copy")
    if code == "ExpiredToken":
        return StoppedError(f"{place}: the session token has expired; renew it, and run again")
    if code == "RequestTimeTooSkewed" or (status == 403 and _is_skewed(error, now)):
        return InputError(f"{place}: this machine's clock is too far from the storage's; set it")
    if _lacks_credentials(error):
        state = "there are none" if code is None and status is None else "the storage refuses them"
        return InputError(f"{place} with these credentials: {state}; {CREDENTIALS.get(protocol_of(uri), _SET)}")
    if isinstance(error, PermissionError) or status == 403:
        may = "permission denied; check the credentials in use, and what they may do there"
        return InputError(f"{place}: {may}; for others, {CREDENTIALS.get(protocol_of(uri), _SET)}")
    if code in _NO_BUCKET:
        return missing_bucket(what, uri)
    return InputError(
        f"{place}: {type(error).__name__}: {shortened(str(error).splitlines()[0], 200) if str(error) else ''}"
    )
