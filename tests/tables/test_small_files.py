"""Small remote files are read whole, each once, the next ones before their turn."""

from __future__ import annotations

import threading
import time

import pytest

from batchroute.tables.small_files import MOST_BYTES, SmallFile, SmallFiles


class Slow:
    """A store that counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def read(self, uri: str, start: int, stop: int) -> bytes:
        with self._lock:
            self.asked.append(uri)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.01)
        with self._lock:
            self.at_once -= 1
        return uri.encode()


def test_each_file_is_asked_for_once_and_several_at_a_time() -> None:
    store = Slow()
    files = SmallFiles(store)  # type: ignore[arg-type]
    expected = [SmallFile(f"m://{number}", 10, "1") for number in range(60)]
    files.expect(expected)
    assert [files.read(file) for file in expected] == [file.path.encode() for file in expected]
    assert sorted(store.asked) == sorted(file.path for file in expected)
    assert 4 < store.most <= 16


def test_memory_is_bounded() -> None:
    store = Slow()
    files = SmallFiles(store)  # type: ignore[arg-type]
    for number in range(100):
        files.read(SmallFile(f"m://{number}", MOST_BYTES, "1"))
    files.read(SmallFile("m://0", MOST_BYTES, "1"))
    assert len(store.asked) == 101
    assert len(files._asked) <= 64


def test_a_file_that_could_not_be_read_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Slow()
    files = SmallFiles(store)  # type: ignore[arg-type]
    monkeypatch.setattr(store, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.read(SmallFile("m://0", 1, "1"))
    monkeypatch.undo()
    assert files.read(SmallFile("m://0", 1, "1")) == b"m://0"


def test_another_version_is_another_file() -> None:
    store = Slow()
    files = SmallFiles(store)  # type: ignore[arg-type]
    for version in ("1", "2", "1"):
        files.read(SmallFile("m://0", 1, version))
    assert len(store.asked) == 2
