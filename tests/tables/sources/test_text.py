"""JSON lines and CSV: the types of a first pass, values that come out as they stand, and errors that name the place."""

from __future__ import annotations

import gzip
import uuid
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pytest

from batchroute.errors import InputError
from batchroute.tables.small_files import MOST_BYTES
from batchroute.tables.sources import source_of
from batchroute.tables.sources.base import InputSpec


def read(uri: Any, **settings: Any) -> pa.Table:
    source = source_of(InputSpec(uri=str(uri), **settings))
    pinned = source.pin()
    with source.rows(pinned) as reader:
        table = reader.read_all()
    assert table.schema == source.schema(pinned)
    return table


def columns(uri: Any, **settings: Any) -> dict[str, str]:
    found: dict[str, str] = source_of(InputSpec(uri=str(uri), **settings)).pin()["columns"]
    return found


def put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


class TestJsonLines:
    def test_types_are_those_of_all_lines(self, tmp_path: Path) -> None:
        path = put(
            tmp_path / "a.jsonl",
            '{"id": 1, "x": 1, "ok": true, "big": 1, "mixed": 7, "none": null}\n'
            "\n"
            '{"id": 2, "x": 0.5, "ok": null, "big": 18446744073709551616, "mixed": "7a", "late": "é\\n"}\r\n',
        )
        assert columns(path) == {
            "id": "int64",
            "x": "float64",
            "ok": "boolean",
            "big": "text",
            "mixed": "text",
            "none": "text",
            "late": "text",
        }
        assert read(path).to_pylist() == [
            {"id": 1, "x": 1.0, "ok": True, "big": "1", "mixed": "7", "none": None, "late": None},
            {"id": 2, "x": 0.5, "ok": None, "big": "18446744073709551616", "mixed": "7a", "none": None, "late": "é\n"},
        ]

    def test_what_is_nested_stays_json_however_it_differs(self, tmp_path: Path) -> None:
        lines = ['{"p": "hi"}', '{"p": [{"role": "user", "content": "é"}]}', '{"p": {"messages": []}}', '{"p": null}']
        path = put(tmp_path / "a.ndjson", "\n".join(lines))
        assert columns(path) == {"p": "JSON"}
        assert read(path)["p"].to_pylist() == [
            '"hi"',
            '[{"role": "user", "content": "é"}]',
            '{"messages": []}',
            None,
        ]

    def test_half_a_surrogate_pair_in_a_chat_is_left_to_its_row(self, tmp_path: Path) -> None:
        line = '{"p": [{"role": "user", "content": "\\ud83d"}]}'
        assert read(put(tmp_path / "a.jsonl", line))["p"].to_pylist() == ['[{"role": "user", "content": "\\ud83d"}]']

    def test_lines_across_blocks_and_batches_are_whole(self, tmp_path: Path) -> None:
        texts = [f"{n} " + "é" * (n * 37 % 3000) for n in range(3000)]
        pl.DataFrame({"n": range(3000), "prompt": texts}).write_ndjson(tmp_path / "a.jsonl")
        table = read(tmp_path / "a.jsonl")
        assert table["prompt"].to_pylist() == texts
        assert table["n"].to_pylist() == list(range(3000))

    def test_a_byte_order_mark_is_no_text(self, tmp_path: Path) -> None:
        assert read(put(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"p": "a"}'))["p"].to_pylist() == ["a"]

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (b'{"p": "a"}\n{"p": secret}\n', "a.jsonl, line 2, is no JSON: Expecting value at character 6"),
            (b'\n["secret"]', "a.jsonl, line 2, is no JSON object"),
            (b'{"p": "secret\xff"}', "a.jsonl, line 1, is not UTF-8 at byte 13"),
            (b"\n", "a.jsonl has no rows, and so no columns"),
            (b'{"p": "secret \\ud83d"}', "a.jsonl, line 1, holds half of a surrogate pair"),
        ],
    )
    def test_a_line_that_is_no_row_is_named_and_not_quoted(self, tmp_path: Path, text: bytes, error: str) -> None:
        with pytest.raises(InputError) as refusal:
            read(put(tmp_path / "a.jsonl", text))
        assert error in str(refusal.value)
        assert "secret" not in str(refusal.value)


class TestCsv:
    def test_numbers_are_only_what_is_spelled_as_one(self, tmp_path: Path) -> None:
        path = put(
            tmp_path / "a.csv",
            'n,zip,x,price,ok,text,none\n1,007,1,1.50,true,a,\n-2,12345,0.25,2.00,false,"b, ""c""\nd",\n,,,,,"",\n',
        )
        assert columns(path) == {
            "n": "int64",
            "zip": "text",
            "x": "float64",
            "price": "text",
            "ok": "boolean",
            "text": "text",
            "none": "text",
        }
        assert read(path).to_pylist() == [
            {"n": 1, "zip": "007", "x": 1.0, "price": "1.50", "ok": True, "text": "a", "none": None},
            {"n": -2, "zip": "12345", "x": 0.25, "price": "2.00", "ok": False, "text": 'b, "c"\nd', "none": None},
            {"n": None, "zip": None, "x": None, "price": None, "ok": None, "text": "", "none": None},
        ]

    def test_types_are_those_of_all_files(self, tmp_path: Path) -> None:
        put(tmp_path / "in" / "a.csv", "id,a\n1,true\n")
        put(tmp_path / "in" / "b.csv", "b,id\n1.5,x\n")
        assert read(tmp_path / "in", format="csv").to_pylist() == [
            {"id": "1", "a": True, "b": None},
            {"id": "x", "a": None, "b": 1.5},
        ]

    def test_tabs(self, tmp_path: Path) -> None:
        assert read(put(tmp_path / "a.tsv", "id\tp\n1\ta, b\n")).to_pylist() == [{"id": 1, "p": "a, b"}]

    def test_no_rows_are_an_empty_table(self, tmp_path: Path) -> None:
        table = read(put(tmp_path / "a.csv", "id,prompt\n"))
        assert (table.num_rows, table.schema.names) == (0, ["id", "prompt"])

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (b"id,p\n1,a\n2,secret,3\n", "a.csv has 2 columns, but row 3 has 3 fields"),
            (b"id,id\n1,secret\n", "a.csv has two columns 'id'"),
            (b"id,p\n1,secret\xff\n", "a.csv is no CSV in UTF-8"),
            (b"", "a.csv is no CSV in UTF-8 with the names of the columns in its first line"),
        ],
    )
    def test_a_row_that_does_not_fit_is_named_and_not_quoted(self, tmp_path: Path, text: bytes, error: str) -> None:
        with pytest.raises(InputError) as refusal:
            read(put(tmp_path / "a.csv", text))
        assert error in str(refusal.value)
        assert "secret" not in str(refusal.value)


def test_compressed_files(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl.gz", gzip.compress(b'{"p": "a"}\n'))
    put(tmp_path / "b.csv.gz", gzip.compress(b"p\nb\n"))
    assert read(tmp_path / "a.jsonl.gz")["p"].to_pylist() == ["a"]
    assert read(tmp_path / "b.csv.gz")["p"].to_pylist() == ["b"]
    with pytest.raises(InputError, match=r"c\.jsonl\.gz cannot be read: it is damaged, or not compressed"):
        read(put(tmp_path / "c.jsonl.gz", '{"p": "a"}'))


def test_partition_folders_are_columns(tmp_path: Path) -> None:
    put(tmp_path / "day=1" / "a.jsonl", '{"p": "a"}')
    put(tmp_path / "day=2" / "b.jsonl", '{"p": "b"}')
    rows = [{"p": "a", "day": "1"}, {"p": "b", "day": "2"}]
    assert read(tmp_path / "*" / "*.jsonl").to_pylist() == rows
    assert read(tmp_path, format="jsonl").to_pylist() == rows


def test_a_file_that_changes_between_the_passes_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"p": "a"}')
    source = source_of(InputSpec(uri=str(path)))
    pinned = source.pin()
    put(path, '{"p": "b"}\n{"p": "c"}')
    with pytest.raises(InputError, match=r"a\.jsonl has changed since the run began"), source.rows(pinned) as reader:
        reader.read_all()


def test_the_format_can_be_said(tmp_path: Path) -> None:
    assert read(put(tmp_path / "rows.txt", "p\na\n"), format="csv")["p"].to_pylist() == ["a"]


def test_remote_files_small_and_large_and_a_folder_of_them() -> None:
    store = fsspec.filesystem("memory")
    place = f"memory://text-{uuid.uuid4().hex}"
    large = "".join(f'{{"n": {n}, "p": "{"x" * 2000}"}}\n' for n in range(MOST_BYTES // 2000 + 500))
    store.pipe(f"{place}/day=1/small.jsonl", b'{"n": -1, "p": "a"}')
    store.pipe(f"{place}/day=2/large.jsonl", large.encode())
    store.pipe(f"{place}/day=2/notes.txt", b"no rows")
    for uri, settings in ((f"{place}/*/*.jsonl", {}), (place, {"format": "jsonl"})):
        table = read(uri, **settings)
        assert table["n"].to_pylist() == [-1, *range(MOST_BYTES // 2000 + 500)]
        assert set(table["day"].to_pylist()) == {"1", "2"}
    assert read(f"{place}/day=2/large.jsonl").num_rows == MOST_BYTES // 2000 + 500


def test_a_folder_of_them_without_the_format_says_what_to_do(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", '{"p": "a"}')
    with pytest.raises(InputError, match=r"no parquet file in .*; of JSON lines or CSV say so: input\.format"):
        source_of(InputSpec(uri=str(tmp_path))).pin()
