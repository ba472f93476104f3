"""What every storage promises: the tests of this class run on disk, in fsspec's memory, on SeaweedFS and on moto."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.storage.folder import Folder

WRITERS = 6


class EveryFolder:
    """A subclass gives the fixture `folder`: a folder that is not there yet, in one that may hold others."""

    def test_what_is_put_is_there_whole_and_stays(self, folder: Folder) -> None:
        assert folder.put_new("x/1.json", b"one")
        assert not folder.put_new("x/1.json", memoryview(b"two"))
        assert folder.read("x/1.json") == folder.folder("x").read("1.json") == b"one"
        assert folder.exists("x/1.json")
        assert folder.put_new("empty", b"")
        assert folder.read("empty") == b""
        assert 0 <= folder.age("empty") < 60

    def test_names_and_folders_are_those_directly_in_it(self, folder: Folder) -> None:
        for name in ("b.json", "a.json", "c.parquet", "d/e.json"):
            folder.put_new(name, b"x")
        assert folder.names(".json") == ["a.json", "b.json"]
        assert folder.names("") == ["a.json", "b.json", "c.parquet"]
        assert folder.folders() == ["d"]
        assert folder.folder("none").names("") == folder.folder("none").folders() == []
        assert folder.read_all(["b.json", "d/e.json"]) == [b"x", b"x"]

    @pytest.mark.parametrize("name", ["day=2026-11-01", "a b", "ü+ß", "100%25", "a#b?c", "[x]*{y}", "~tilde", "a'b\"c"])
    def test_names_of_any_kind_are_kept(self, folder: Folder, name: str) -> None:
        place = folder.folder(name)
        assert place.put_new(f"{name}.json", b"1")
        assert not place.put_new(f"{name}.json", b"2")
        assert place.read(f"{name}.json") == b"1"
        assert place.names(".json") == [f"{name}.json"]
        assert folder.folders() == [name]
        place.remove_all()
        assert folder.is_empty()

    def test_a_folder_beside_is_another_one(self, folder: Folder) -> None:
        beside = folder.beside(".work")
        beside.put_new("a", b"1")
        assert folder.is_empty()
        assert not folder.exists("a")
        folder.put_new("b", b"1")
        folder.remove_all()
        assert beside.names("") == ["a"]
        beside.remove_all()

    def test_a_file_is_told_from_a_folder(self, folder: Folder) -> None:
        folder.put_new("a/b", b"1")
        assert folder.folder("a/b").is_file()
        assert not folder.folder("a").is_file()
        assert not folder.folder("none").is_file()
        assert not folder.exists("none")

    def test_removing_is_whole_and_of_nothing_does_nothing(self, folder: Folder) -> None:
        folder.remove("x")
        folder.remove_all()
        folder.put_new("b", b"1")
        folder.put_new("c/d", b"1")
        folder.remove("b")
        assert not folder.exists("b")
        assert not folder.is_empty()
        folder.remove_all()
        assert folder.is_empty()
        assert folder.names("") == []
        for missing in ("b", "c/d"):
            with pytest.raises(FileNotFoundError):
                folder.read(missing)
        # What was removed can be put again.
        assert folder.put_new("b", b"2")
        assert folder.read("b") == b"2"

    def test_runs_that_start_at_once_all_find_create_only_puts(self, folder: Folder) -> None:
        # Each removes the probe that another has just been refused for.
        with ThreadPoolExecutor(WRITERS) as pool:
            assert list(pool.map(lambda _: folder.check_create_only(), range(5 * WRITERS))) == [None] * 5 * WRITERS

    def test_create_only_puts_are_probed_and_the_probe_is_not_seen(self, folder: Folder) -> None:
        for _ in range(2):
            assert folder.check_create_only() is None
            folder.check_writable()
        assert folder.names("") == folder.folders() == folder.leftovers(0) == []

    def test_of_many_writers_one_wins_and_its_content_stays_whole(self, folder: Folder) -> None:
        for number in range(3):
            barrier = threading.Barrier(WRITERS)

            def write(writer: int, name: str = f"file-{number}", barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                return folder.put_new(name, bytes([writer]) * 100_000)

            with ThreadPoolExecutor(WRITERS) as pool:
                won = list(pool.map(write, range(WRITERS)))
            assert won.count(True) == 1
            assert folder.read(f"file-{number}") == bytes([won.index(True)]) * 100_000

    def test_parquet_is_read_whole_or_by_ranges(self, folder: Folder) -> None:
        table, content = pa.table({"a": range(1000), "b": ["text"] * 1000}), io.BytesIO()
        pq.write_table(table, content, row_group_size=100)
        folder.put_new("t.parquet", content.getvalue())
        assert pq.read_table(folder.parquet("t.parquet")).equals(table)
        by_ranges = pq.ParquetFile(folder.parquet("t.parquet", len(content.getvalue())))
        assert by_ranges.read_row_group(3, ["a"])["a"].to_pylist() == list(range(300, 400))
        with pytest.raises(FileNotFoundError):
            folder.parquet("none.parquet")
