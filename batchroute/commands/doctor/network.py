"""Whether a server can be reached: a connection that sends nothing is tried for two seconds."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from batchroute.redaction import host

REFUSED = "it refuses the connection"
_SECONDS = 2.0
_PORTS = {"http": 80, "https": 443}

Result = TypeVar("Result")


def within(seconds: float, do: Callable[[], Result]) -> Result:
    """Run `do()` in a thread, which is abandoned after so many seconds.

    Raises:
        TimeoutError: `do` has not returned by then.
    """
    ended: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            ended.put((do(), None))
        except BaseException as error:
            ended.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = ended.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def unreached(name: str, port: int, seconds: float = _SECONDS) -> str:
    """Why no connection can be made to this host and port; empty if one can."""
    try:
        # A name lookup has no time-out of its own.
        within(seconds, lambda: socket.create_connection((name, port), timeout=seconds).close())
    except TimeoutError:
        return f"it does not answer within {seconds:g} s"
    except ConnectionRefusedError:
        return REFUSED
    except socket.gaierror:
        return "no such name is known here"
    except (OSError, OverflowError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def unreached_url(url: str) -> str:
    """As `unreached`, for the host of a URL, or for the proxy that this machine uses for it."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and parts.hostname and not proxy_bypass(parts.hostname):
        via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        why = unreached(via.hostname or "", via.port or _PORTS.get(via.scheme, 80))
        return f"the proxy {host(via.geturl())}: {why}" if why else ""
    return unreached(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80))
