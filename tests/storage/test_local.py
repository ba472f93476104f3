from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchroute.errors import InputError, StoppedError
from batchroute.storage.folder import Folder
from batchroute.storage.local import LocalFolder
from batchroute.storage.objects import folder_at
from tests.storage.every_folder import EveryFolder

WRITERS = 8


class TestDisk(EveryFolder):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Folder:
        return LocalFolder(tmp_path / "a")


def test_a_put_leaves_no_temporary_file_whether_it_wins_or_not(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    folder.put_new("a", memoryview(b"first"))
    folder.put_new("a", b"second")
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    LocalFolder(str(tmp_path)).put_new("a", b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_of_many_threads_one_wins_and_its_content_stays_whole(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    mask = os.umask(0o022)
    os.umask(mask)
    for number in range(20):
        barrier = threading.Barrier(WRITERS)

        def write(writer: int, name: str = f"file-{number}", barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return folder.put_new(name, bytes([writer]) * 10_000)

        with ThreadPoolExecutor(WRITERS) as pool:
            won = list(pool.map(write, range(WRITERS)))
        assert won.count(True) == 1
        assert folder.read(f"file-{number}") == bytes([won.index(True)]) * 10_000
    assert len(os.listdir(tmp_path)) == 20
    assert os.umask(mask) == mask


def _put(uri: str, writer: int, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    results.put((writer, [LocalFolder(uri).put_new(str(number), bytes([writer]) * 1000) for number in range(50)]))  # type: ignore[attr-defined]


def test_of_many_processes_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_put, args=(str(tmp_path), writer, start, results)) for writer in range(4)]
    for process in processes:
        process.start()
    won = dict(results.get(timeout=30) for _ in processes)
    for process in processes:
        process.join()
    for number in range(50):
        winners = [writer for writer in won if won[writer][number]]
        assert len(winners) == 1
        assert (tmp_path / str(number)).read_bytes() == bytes(winners) * 1000


def test_a_name_appears_with_its_whole_content(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    content = bytes(range(256)) * 4096
    seen: list[bytes] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for name in folder.names(""):
                seen.append(folder.read(name))

    watcher = threading.Thread(target=watch)
    watcher.start()
    number = 0
    while number < 10 or not seen:
        folder.put_new(f"{number}", content)
        number += 1
    done.set()
    watcher.join()
    assert seen
    assert all(found == content for found in seen)


def test_a_put_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        LocalFolder(str(tmp_path)).put_new("a", "text")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def _put_beyond_the_limit(uri: str, results: object) -> None:
    # The kernel's limit on a file's size fails a write in the middle, as a full disk does.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        LocalFolder(uri).put_new("a", bytes(10_000))
    except StoppedError as error:
        results.put(str(error))  # type: ignore[attr-defined]


def test_a_disk_that_fails_stops_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=_put_beyond_the_limit, args=(str(tmp_path), results))
    process.start()
    process.join()
    assert not results.empty()
    assert results.get() == f"cannot write {tmp_path}/a: File too large; make room and run again"
    assert os.listdir(tmp_path) == []


def test_names_are_sorted_and_hide_what_is_being_written(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "c.parquet", ".tmp-x.json"):
        (tmp_path / name).write_bytes(b"")
    folder = LocalFolder(str(tmp_path))
    assert folder.names(".json") == ["a.json", "b.json"]
    assert folder.names("") == ["a.json", "b.json", "c.parquet"]
    assert folder.folder("absent").names("") == []


@pytest.mark.parametrize("name", ["x", "x/y"])
def test_a_file_in_the_place_of_the_folder_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write .*/file/x"):
        LocalFolder(str(tmp_path / "file")).put_new(name, b"")
    with pytest.raises(InputError, match=r"cannot write .*/file is a file"):
        LocalFolder(str(tmp_path / "file" / "deeper")).check_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"cannot write .*: Permission denied"):
        LocalFolder(str(tmp_path)).put_new("a", b"")
    with pytest.raises(InputError, match="is not writable"):
        LocalFolder(str(tmp_path / "new")).check_writable()


def test_a_new_folder_in_a_writable_one_is_writable_and_not_made_by_asking(tmp_path: Path) -> None:
    LocalFolder(str(tmp_path / "a" / "b")).check_writable()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("uri", ["{}/a", "file://{}/a", "local://{}/a"])
def test_local_uris_are_one_folder(tmp_path: Path, uri: str) -> None:
    assert str(folder_at(uri.format(tmp_path))) == str(tmp_path / "a")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/a", r"pip install 'batchroute\[gcs\]'"),
        ("nonsense://a", "nonsense:// is not a known storage"),
    ],
)
def test_a_storage_that_is_not_there_is_a_sentence(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test of this process may have imported it.
    for module in ("gcsfs", "gcsfs.core"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=message):
        folder_at(uri)
