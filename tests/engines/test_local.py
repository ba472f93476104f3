from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from batchroute.engines.local import LocalEngine
from batchroute.errors import Terminated
from batchroute.progress import NoProgress


class Leaving:
    """SIGTERM comes while its destructor runs."""

    def __del__(self) -> None:
        self.leave()

    def leave(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        # The handler runs before this.
        self.gone = True


def test_a_signal_within_a_destructor_stops_the_run_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", ignored.append)
    engine = LocalEngine(NoProgress())
    with engine.terminable():
        engine.check()
        leaving = [Leaving()]
        leaving.clear()
        with pytest.raises(Terminated):
            engine.check()
    assert ignored == []


def test_a_signal_stops_the_run_where_it_is() -> None:
    with LocalEngine(NoProgress()).terminable(), pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)


def an_import() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Terminated as error:
        raise ImportError("Are this object's requirements defined correctly?") from error


def a_panic() -> None:
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
    # As those of pyo3 it is no Exception.
    raise type("PanicException", (BaseException,), {})("called `Result::unwrap()` on an `Err` value")


@pytest.mark.parametrize("library", [an_import, a_panic])
def test_what_a_library_makes_of_a_signal_is_no_error_of_its_own(library: Callable[[], None]) -> None:
    with pytest.raises(Terminated), LocalEngine(NoProgress()).terminable():
        library()


def test_an_error_without_a_signal_is_its_own() -> None:
    with pytest.raises(ImportError), LocalEngine(NoProgress()).terminable():
        raise ImportError
