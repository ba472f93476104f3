from __future__ import annotations

import os
import signal

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


def test_what_a_library_makes_of_a_signal_is_no_error_of_its_own() -> None:
    def load() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Terminated as error:
            raise ImportError("Are this object's requirements defined correctly?") from error

    with pytest.raises(Terminated), LocalEngine(NoProgress()).terminable():
        load()


def test_an_error_without_a_signal_is_its_own() -> None:
    with pytest.raises(ImportError), LocalEngine(NoProgress()).terminable():
        raise ImportError
