"""Snowflake: how its driver is connected, and its rule for the case of names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from batchroute.errors import InputError

KEY_FILE, KEY, PASSPHRASE = "SNOWFLAKE_PRIVATE_KEY_FILE", "SNOWFLAKE_PRIVATE_KEY_RAW", "PRIVATE_KEY_PASSPHRASE"
"""The variables of a key-pair login, as Snowflake's own command line has them."""
_OPTION = "adbc.snowflake.sql."
_LOGIN_SECONDS = "15s"
# A transaction whose client died is rolled back after 5 minutes in which another one waits for its lock.
_SESSION = {"LOCK_TIMEOUT": "600", "ABORT_DETACHED_QUERY": "true"}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_PART = re.compile(r'"(?:[^"]|"")+"|[^".]+')


def connect(driver: Any, rest: str) -> Any:
    """A connection in which each statement is a transaction of its own, unless one is begun.

    Args:
        driver: the module adbc_driver_snowflake.dbapi.
        rest: the URI without its scheme.

    Raises:
        InputError: the private key cannot be read, or there is neither a key nor a password.
    """
    place, _, query = rest.partition("?")
    given = {name.lower() for name, _ in parse_qsl(query)}
    options = {
        "client_option.login_timeout": _LOGIN_SECONDS,
        # Else times after the year 2262 would become times of long ago, without an error.
        "client_option.max_timestamp_precision": "nanoseconds_error_on_overflow",
    }
    settings = dict(_SESSION)
    if "@" in place and ":" not in place.rpartition("@")[0] and not given & {"authenticator", "token"}:
        settings["authenticator"] = "SNOWFLAKE_JWT"
        options |= _key_of(os.environ)
    added = urlencode({name: value for name, value in settings.items() if name.lower() not in given})
    return driver.connect(
        f"{place}?{'&'.join(part for part in (query, added) if part)}",
        db_kwargs={f"{_OPTION}{name}": value for name, value in options.items()},
        autocommit=True,
    )


def _key_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The driver's options for a login with the key of the environment."""
    key, file = environment.get(KEY), environment.get(KEY_FILE)
    if not key and not file:
        raise InputError(
            f"the Snowflake URI has no password; write user:${{PASSWORD}}@, set {KEY_FILE} to a private key, or name "
            "another way by authenticator="
        )
    if not key:
        try:
            with open(os.path.expanduser(str(file)), encoding="ascii") as opened:
                key = opened.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no PEM file"
            raise InputError(f"{KEY_FILE}: the private key {file} cannot be read: {reason}") from error
    passphrase = environment.get(PASSPHRASE)
    key = _decrypted(key, passphrase) if passphrase else key.strip()
    return {"client_option.jwt_private_key_pkcs8_value": key}


def _decrypted(key: str, passphrase: str) -> str:
    """The key without its passphrase, which the driver would send to the server as a setting of the session."""
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise InputError(f"{PASSPHRASE} needs a package: pip install 'batchroute[snowflake]'") from error
    try:
        private = serialization.load_pem_private_key(key.encode(), passphrase.encode())
    except (ValueError, TypeError) as error:
        raise InputError(f"the private key of {KEY_FILE} or {KEY} is none, or {PASSPHRASE} does not open it") from error
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.private_bytes(*form).decode()


def folded(name: str) -> str:
    """The name as Snowflake takes it: in capitals, unless it is in double quotes or could not stand without them."""
    if name.startswith('"') and name.endswith('"') and len(name) > 2:
        return name[1:-1].replace('""', '"')
    return name.upper() if _PLAIN.fullmatch(name) else name


def parts_of(name: str) -> list[str]:
    """The parts of `database.schema.table`, folded."""
    return [folded(part) for part in _PART.findall(name)]
