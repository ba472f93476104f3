"""One spelling for each place in a bucket, and the account that an Azure URI names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from batchroute.errors import InputError

BUCKETS = {"s3": "s3", "gs": "gcs", "abfs": "azure"}
"""The protocols of buckets, in the spelling that is used here, and the package's extra for each."""
_SPELLINGS = {"s3a": "s3", "gcs": "gs", "az": "abfs", "abfss": "abfs"}
# Azure's long forms: CONTAINER@ACCOUNT.HOST/FOLDER and ACCOUNT.HOST/CONTAINER/FOLDER.
_AZURE = re.compile(r"(?:(?P<container>[^/@]*)@)?(?P<account>[^/@.]+)\.(?:dfs|blob)\.core\.[^/]+(?P<rest>/.*|$)")
_ACCOUNT_IN_CONNECTION = re.compile(r"(?:^|;)\s*AccountName=([^;]*)", re.IGNORECASE)


def split_protocol(uri: str) -> tuple[str | None, str]:
    """The protocol, None without one, and the rest, as fsspec splits them."""
    protocol, separator, rest = uri.partition("://")
    # A single letter is a drive of Windows.
    if separator and len(protocol) > 1:
        return protocol, rest
    return ("data", uri[5:]) if uri.startswith("data:") else (None, uri)


def protocol_of(uri: str) -> str:
    """The protocol in the spelling that is used here; `file` without one."""
    protocol, separator, _ = uri.partition("://")
    return _SPELLINGS.get(protocol, protocol) if separator else "file"


def in_one_spelling(uri: str) -> str:
    """The URI as all spellings of its place: `s3://`, `gs://`, `abfs://container/…`; others as they are."""
    protocol = protocol_of(uri)
    if protocol not in BUCKETS:
        return uri
    rest = uri.partition("://")[2]
    if protocol == "abfs" and (azure := _AZURE.fullmatch(rest)):
        container = azure["container"]
        rest = azure["rest"].lstrip("/") if container is None else f"{container}{azure['rest']}"
    return f"{protocol}://{rest}"


def account_in(uri: str) -> str | None:
    """The account that an Azure URI names."""
    found = _AZURE.fullmatch(uri.partition("://")[2]) if protocol_of(uri) == "abfs" else None
    return None if found is None else found["account"]


def with_account(uri: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of Azure's filesystem for a URI: its account counts.

    Raises:
        InputError: the options or the environment are of another account.
    """
    account = account_in(uri)
    if account is None:
        return dict(options)
    elsewhere = {
        "storage_options.account_name": options.get("account_name"),
        "storage_options.connection_string": _account_of(options.get("connection_string")),
        "AZURE_STORAGE_CONNECTION_STRING": _account_of(os.environ.get("AZURE_STORAGE_CONNECTION_STRING")),
        "AZURE_STORAGE_ACCOUNT_NAME": os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"),
    }
    for name, other in elsewhere.items():
        if other and other != account:
            raise InputError(f"{uri} is of the account {account}, and {name} of {other}; make them one account")
    # A connection string says more than the name, and the client takes no account next to it.
    return dict(options) if options.get("connection_string") else {**options, "account_name": account}


def _account_of(connection: str | None) -> str | None:
    found = _ACCOUNT_IN_CONNECTION.search(connection or "")
    return None if found is None else found[1]
