"""What a folder, a glob or a bucket names: nothing is left out in silence, and nothing is read twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batchroute.errors import InputError
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable


def write(path: Path, rows: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"prompt": [f"p{n}" for n in range(rows)]}), path)
    return path


def found(uri: Path | str, base: Path) -> list[str]:
    return [os.path.relpath(file.path, base) for file in Files(str(uri)).find()]


@pytest.mark.parametrize("name", ["b.parq", "b.pq", "b.PARQUET", "b", "b.snappy", "part-00000"])
def test_a_file_with_another_ending_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x" * 99)
    assert found(tmp_path, tmp_path) == sorted(["a.parquet", name])


@pytest.mark.parametrize("content", [b"", b"PAR1" + bytes(99)])
def test_a_broken_file_with_another_ending_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.pq").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.pq is not a readable parquet file"):
        found(tmp_path, tmp_path)


@pytest.mark.parametrize("pattern", ["", "*.parquet", "**/*.parquet", "day=*/*.parquet"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "in" / "day=1" / "a.parquet")
    write(tmp_path / "in" / "a.parquet")
    place = tmp_path / "in" if pattern == "*.parquet" else tmp_path / "in" / "day=1"
    (place / "b.parquet").symlink_to("/nowhere/b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet is a link to /nowhere/b\.parquet, which cannot be reached"):
        found(tmp_path / "in" / pattern, tmp_path)


@pytest.mark.parametrize("pattern", ["", "day=*/*.parquet", "**"])
def test_a_linked_folder_that_is_gone_is_named(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "day=1" / "a.parquet")
    (tmp_path / "day=2").symlink_to("/nowhere")
    with pytest.raises(InputError, match="day=2 is a link to /nowhere"):
        found(tmp_path / pattern, tmp_path)


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop is a link to loop"):
        found(tmp_path, tmp_path)


@pytest.mark.parametrize("pattern", ["", "**/*.parquet", "**"])
def test_a_folder_that_links_to_one_above_is_read_once(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "in" / "deep" / "a.parquet")
    (tmp_path / "in" / "current").symlink_to(".")
    (tmp_path / "in" / "deep" / "up").symlink_to("..")
    assert found(tmp_path / "in" / pattern, tmp_path / "in") == ["deep/a.parquet"]


def test_a_file_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    first = write(tmp_path / "m.parquet")
    (tmp_path / "a.parquet").symlink_to(first)
    os.link(first, tmp_path / "z.parquet")
    write(tmp_path / "days" / "1.parquet")
    (tmp_path / "latest").symlink_to("days")
    assert found(tmp_path, tmp_path) == ["days/1.parquet", "m.parquet"]


def test_a_file_outside_is_read_by_its_link(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").symlink_to(write(tmp_path / "elsewhere" / "x.parquet"))
    assert found(tmp_path / "in", tmp_path / "in") == ["a.parquet"]


def test_one_file_in_two_partitions_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "day=1" / "a.parquet")
    (tmp_path / "day=2").symlink_to("day=1")
    with pytest.raises(InputError, match="are one file in two partition folders"):
        found(tmp_path, tmp_path)


def test_a_pipe_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    os.mkfifo(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet is no regular file"):
        found(tmp_path, tmp_path)


def test_a_name_that_is_not_utf8_is_shown(tmp_path: Path) -> None:
    os.rename(write(tmp_path / "a.parquet"), os.fsencode(tmp_path) + b"/caf\xe9.parquet")
    with pytest.raises(InputError, match=r"the name of .*/caf\\xe9\.parquet is not UTF-8"):
        found(tmp_path, tmp_path)


UNREADABLE = """
import os, sys
from batchroute.tables.files import Files
os.setgroups([]); os.setuid(65534)
try: print(len(Files(sys.argv[1]).find()), "files")
except Exception as error: print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights")
@pytest.mark.parametrize(
    ("locked", "pattern", "message"),
    [
        ("in/deep", "", "deep cannot be listed: Permission denied"),
        ("in/deep", "**/*.parquet", "deep cannot be listed: Permission denied"),
        ("in/a.parquet", "", "a.parquet is permission denied"),
        ("in/other", "", "other cannot be read: Permission denied"),
    ],
)
def test_what_may_not_be_read_is_named(tmp_path: Path, locked: str, pattern: str, message: str) -> None:
    write(tmp_path / "in" / "deep" / "b.parquet")
    write(tmp_path / "in" / "a.parquet")
    write(tmp_path / "in" / "other")
    for folder in [tmp_path, *list(tmp_path.parents)[:-2]]:
        folder.chmod(0o755)
    (tmp_path / locked).chmod(0)
    command = [sys.executable, "-c", UNREADABLE, str(tmp_path / "in" / pattern)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert message in done.stdout, done.stdout + done.stderr


def test_a_glob_reads_folders_that_are_named_as_files(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet" / "part-0")
    write(tmp_path / "b.parquet")
    write(tmp_path / "archive" / "c.parquet")
    assert found(tmp_path / "*.parquet", tmp_path) == ["a.parquet/part-0", "b.parquet"]
    assert found(tmp_path / "*", tmp_path) == ["a.parquet/part-0", "b.parquet"]


class TestLakes:
    @staticmethod
    def delta(folder: Path) -> None:
        write(folder / "day=1" / "part-0.parquet")
        (folder / "_delta_log").mkdir()

    @staticmethod
    def iceberg(folder: Path) -> None:
        write(folder / "data" / "day=1" / "part-0.parquet")
        (folder / "metadata").mkdir()
        (folder / "metadata" / "00000-a.metadata.json").write_text("{}")

    @staticmethod
    def hudi(folder: Path) -> None:
        write(folder / "day=1" / "part-0.parquet")
        (folder / ".hoodie").mkdir()

    @pytest.mark.parametrize(
        ("kind", "way"), [("delta", "input.delta"), ("iceberg", "input.iceberg"), ("hudi", "query")]
    )
    @pytest.mark.parametrize("named", ["lake", "lake/**/*.parquet", "", "partition", "file", "link", "*/**/*.parquet"])
    def test_no_file_of_one_is_read_as_such(self, tmp_path: Path, kind: str, way: str, named: str) -> None:
        getattr(self, kind)(tmp_path / "lake")
        (file,) = (tmp_path / "lake").glob("**/part-0.parquet")
        (tmp_path / "link").symlink_to(file)
        place = {"partition": file.parent, "file": file}.get(named, tmp_path / named)
        with pytest.raises(
            InputError, match=rf"{kind.title()} table.*, whose files are not all of one version; .*{way}"
        ):
            found(place, tmp_path)

    def test_a_folder_of_that_name_alone_is_no_table(self, tmp_path: Path) -> None:
        write(tmp_path / "metadata" / "a.parquet")
        assert found(tmp_path, tmp_path) == ["metadata/a.parquet"]


class TestBucket:
    @pytest.fixture(autouse=True)
    def store(self) -> Iterator[None]:
        yield
        MemoryFileSystem.store.clear()

    @staticmethod
    def put(*names: str) -> None:
        for name in names:
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"prompt": [name]}), sink)
            MemoryFileSystem().pipe_file(f"/{name}", sink.getvalue().to_pybytes())

    def test_wildcards_in_a_key_that_exists_are_literal(self) -> None:
        self.put("in/what[1]?.parquet", "in/what1x.parquet", "all*/a.parquet", "allow/b.parquet")
        assert [file.path for file in Files("memory://in/what[1]?.parquet").find()] == ["memory://in/what[1]?.parquet"]
        assert [file.path for file in Files("memory://all*").find()] == ["memory:///all*/a.parquet"]

    def test_a_file_with_another_ending_is_read(self) -> None:
        self.put("in/a.parquet", "in/b", "in/c.PQ")
        MemoryFileSystem().pipe_file("/in/notes.txt", b"x" * 99)
        files = Files("memory://in").find()
        assert [file.path for file in files] == [f"memory:///in/{name}" for name in ("a.parquet", "b", "c.PQ")]

    @pytest.mark.parametrize("mark", ["_delta_log/0.json", ".hoodie/hoodie.properties", "metadata/1.metadata.json"])
    @pytest.mark.parametrize(
        "named", ["lake", "lake/day=1", "lake/day=1/a.parquet", "lake/*/*.parquet", "lake/day=1/*"]
    )
    def test_no_file_of_a_lake_is_read_as_such(self, mark: str, named: str) -> None:
        self.put("lake/day=1/a.parquet")
        MemoryFileSystem().pipe_file(f"/lake/{mark}", b"{}")
        with pytest.raises(InputError, match=r"table.*, whose files are not all of one version"):
            Files(f"memory://{named}").find()


def test_two_columns_of_one_name_in_a_later_file_are_refused(tmp_path: Path) -> None:
    column = pa.array(["x"])
    pq.write_table(pa.table({"prompt": column}), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_arrays([column] * 2, names=["prompt", "prompt"]), tmp_path / "b.parquet")
    files = Files(str(tmp_path))
    with pytest.raises(InputError, match=r"b\.parquet has two columns 'prompt'"):
        PromptTable.open(files.find(), files)
