from __future__ import annotations

import datetime
import itertools
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchroute.errors import InputError
from batchroute.tables.files import Files, InputFile
from batchroute.tables.parquet import PromptTable, RowReader
from batchroute.tables.prompts import Prompts

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def find(uri: str) -> list[InputFile]:
    return Files(uri).find()


def write(path: Path, rows: int | pa.Table = 3, start: int = 0, group: int | None = None) -> Path:
    """A parquet file of rows with their own numbers in them, or of a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, int):
        numbers = list(range(start, start + rows))
        rows = pa.table(
            {"n": pa.array(numbers, pa.int64()), "prompt": pa.array([f"p{n}" for n in numbers], pa.string())}
        )
    pq.write_table(rows, path, row_group_size=group)
    return path


def open_table(uri: Path | str) -> PromptTable:
    return PromptTable.open(find(str(uri)))


def read(table: PromptTable, columns: list[str] | None = None, start: int = 0, stop: int | None = None) -> pa.Table:
    reader = table.reader(columns)
    return as_table(reader, start, table.rows if stop is None else stop)


def as_table(reader: RowReader, start: int, stop: int) -> pa.Table:
    return pa.Table.from_batches(list(reader.read(start, stop)), schema=reader.schema)


def names(uri: Path | str, base: Path) -> list[str]:
    return [os.path.relpath(file.path, base) for file in find(str(uri))]


class TestFind:
    def test_a_file_is_found_with_its_size_rows_and_time(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", 5, group=2)
        (file,) = find(str(path))
        assert file.path == str(path)
        assert file.rows == 5
        assert file.size == path.stat().st_size
        assert file.mtime_ns == path.stat().st_mtime_ns
        assert file.bytes > 5 * 8
        assert file.hive == {}

    @pytest.mark.parametrize("form", ["file://{}", "local://{}", "{}"])
    def test_a_file_is_found_by_uri(self, tmp_path: Path, form: str) -> None:
        path = write(tmp_path / "a.parquet")
        assert find(form.format(path))[0].path == str(path)

    def test_a_relative_path_and_a_home_are_followed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "d" / "a.parquet")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert find("d")[0].path == find("~/d/*.parquet")[0].path == str(path)

    def test_a_file_may_have_any_name(self, tmp_path: Path) -> None:
        assert find(str(write(tmp_path / "_data.pq")))[0].rows == 3

    def test_a_folder_is_searched_in_the_order_of_paths(self, tmp_path: Path) -> None:
        for name in ("b.parquet", "a.parquet", "deep/er/c.parquet"):
            write(tmp_path / name)
        (tmp_path / "notes.txt").write_text("x")
        assert names(tmp_path, tmp_path) == ["a.parquet", "b.parquet", "deep/er/c.parquet"]

    def test_a_glob_takes_what_matches(self, tmp_path: Path) -> None:
        for name in ("a1.parquet", "a2.parquet", "b1.parquet", "x/a3.parquet", "a4.pq"):
            write(tmp_path / name)
        assert names(tmp_path / "a*.parquet", tmp_path) == ["a1.parquet", "a2.parquet"]
        assert names(tmp_path / "[ab]1.p*", tmp_path) == ["a1.parquet", "b1.parquet"]
        assert names(tmp_path / "**" / "a?.parquet", tmp_path) == ["a1.parquet", "a2.parquet", "x/a3.parquet"]

    def test_hidden_files_and_folders_are_left_out(self, tmp_path: Path) -> None:
        for name in (".a.parquet", "_b.parquet", "_temporary/c.parquet", ".git/d.parquet", "e.parquet"):
            write(tmp_path / name)
        assert names(tmp_path, tmp_path) == ["e.parquet"]
        assert names(tmp_path / "*.parquet", tmp_path) == ["e.parquet"]

    def test_a_hidden_folder_above_the_input_does_not_matter(self, tmp_path: Path) -> None:
        write(tmp_path / "_staging" / ".cache" / "a.parquet")
        assert names(tmp_path / "_staging" / ".cache", tmp_path) == ["_staging/.cache/a.parquet"]
        assert names(tmp_path / "_staging" / ".cache" / "*", tmp_path) == ["_staging/.cache/a.parquet"]

    @pytest.mark.parametrize("folder", ["a[1]", "what?", "all*"])
    def test_a_folder_may_be_named_as_a_pattern(self, tmp_path: Path, folder: str) -> None:
        write(tmp_path / folder / "a.parquet")
        assert names(tmp_path / folder, tmp_path) == [f"{folder}/a.parquet"]

    def test_a_folder_named_as_a_file_is_searched_as_any_other(self, tmp_path: Path) -> None:
        write(tmp_path / "out.parquet" / "part-0.parquet")
        assert names(tmp_path, tmp_path) == ["out.parquet/part-0.parquet"]
        assert names(tmp_path / "out.parquet", tmp_path) == ["out.parquet/part-0.parquet"]

    def test_new_files_are_seen_by_the_next_search(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet")
        assert len(find(str(tmp_path))) == 1
        write(tmp_path / "b.parquet")
        assert len(find(str(tmp_path))) == 2

    def test_nothing_found_says_what_was_looked_for(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(InputError, match=rf"no such file: {tmp_path}/absent\.parquet"):
            find(str(tmp_path / "absent.parquet"))
        with pytest.raises(InputError, match=rf"no file matches {tmp_path}/\*\.parquet"):
            find(str(tmp_path / "*.parquet"))
        with pytest.raises(InputError, match=f"no parquet file in {tmp_path}"):
            find(str(tmp_path))

    @pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"PAR1 cut off"])
    def test_a_file_that_is_no_parquet_is_named(self, tmp_path: Path, content: bytes) -> None:
        write(tmp_path / "a.parquet")
        (tmp_path / "b.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.parquet is not a readable parquet file"):
            find(str(tmp_path))


class TestHive:
    def test_whole_numbers_become_integers_and_nulls_stay(self, tmp_path: Path) -> None:
        for folder in ("day=2", "day=10", "day=-3", "day=__HIVE_DEFAULT_PARTITION__"):
            write(tmp_path / folder / "a.parquet", 1)
        table = open_table(tmp_path)
        assert table.schema.names == ["n", "prompt", "day"]
        assert table.schema.field("day").type == pa.int64()
        assert sorted(read(table)["day"].to_pylist(), key=str) == [-3, 10, 2, None]

    @pytest.mark.parametrize("value", ["a", "2", "1.5", "--5", "-", "", "٣", "12345678901234567890"])
    def test_any_other_value_is_text(self, tmp_path: Path, value: str) -> None:
        write(tmp_path / "key=x" / "a.parquet", 1)
        write(tmp_path / f"key={value}" / "b.parquet", 1)
        table = open_table(tmp_path)
        assert table.schema.field("key").type == pa.string()
        assert sorted(read(table)["key"].to_pylist()) == sorted(["x", value])

    @pytest.mark.parametrize("value", ["--5", "٣", "12345678901234567890", "1_000", "１"])
    def test_what_only_looks_like_a_number_is_text(self, tmp_path: Path, value: str) -> None:
        write(tmp_path / f"key={value}" / "a.parquet", 1)
        assert read(open_table(tmp_path))["key"].to_pylist() == [value]

    def test_url_encoded_values_are_decoded(self, tmp_path: Path) -> None:
        write(tmp_path / "at=2026-11-24 10%3A00" / "where=a%2Fb=c" / "a.parquet", 2)
        table = read(open_table(tmp_path))
        assert table["at"].to_pylist() == ["2026-11-24 10:00"] * 2
        assert table["where"].to_pylist() == ["a/b=c"] * 2

    def test_only_nulls_are_text(self, tmp_path: Path) -> None:
        write(tmp_path / "day=__HIVE_DEFAULT_PARTITION__" / "a.parquet", 1)
        table = open_table(tmp_path)
        assert table.schema.field("day").type == pa.string()
        assert read(table)["day"].to_pylist() == [None]

    def test_a_glob_over_partitions_knows_them(self, tmp_path: Path) -> None:
        for day in (1, 2):
            write(tmp_path / f"day={day}" / "a.parquet", 1)
        assert read(open_table(tmp_path / "day=*" / "*.parquet"))["day"].to_pylist() == [1, 2]

    def test_a_partition_column_can_be_read_alone(self, tmp_path: Path) -> None:
        write(tmp_path / "day=1" / "a.parquet", 3)
        write(tmp_path / "day=2" / "a.parquet", 2)
        assert read(open_table(tmp_path), ["day"]).to_pydict() == {"day": [1, 1, 1, 2, 2]}

    def test_folders_that_are_not_partitioned_alike_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet")
        write(tmp_path / "day=1" / "a.parquet")
        with pytest.raises(InputError, match="only some files are in partition folders"):
            open_table(tmp_path)

    def test_a_partition_named_as_a_column_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "n=1" / "a.parquet")
        with pytest.raises(InputError, match="'n' is a column and a partition folder"):
            open_table(tmp_path)


class TestTable:
    def test_rows_are_numbered_over_all_files(self, tmp_path: Path) -> None:
        for number, rows in enumerate((2, 0, 3)):
            write(tmp_path / f"{number}.parquet", rows, start=10 * number)
        table = open_table(tmp_path)
        assert table.rows == 5
        assert read(table)["n"].to_pylist() == [0, 1, 20, 21, 22]
        assert table.where(1) == "0.parquet, row 1"
        assert table.where(2) == "2.parquet, row 0"

    def test_another_type_is_named_with_both(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet", pa.table({"a": [1]}))
        write(tmp_path / "b.parquet", pa.table({"a": ["x"]}))
        with pytest.raises(InputError, match=r"column 'a' is string in .*b\.parquet, but int64 in .*a\.parquet"):
            open_table(tmp_path)

    def test_another_order_of_columns_is_well(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet", pa.table({"a": [1], "b": ["x"]}))
        write(tmp_path / "b.parquet", pa.table({"b": ["y"], "a": [2]}))
        assert read(open_table(tmp_path)).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}

    def test_nulls_in_a_later_file_are_well_where_the_first_promised_none(self, tmp_path: Path) -> None:
        strict = pa.schema([pa.field("a", pa.int64(), nullable=False)])
        write(tmp_path / "a.parquet", pa.table({"a": [1]}, schema=strict))
        write(tmp_path / "b.parquet", pa.table({"a": pa.array([None], pa.int64())}))
        table = read(open_table(tmp_path))
        table.validate(full=True)
        copy = write(tmp_path / "copy" / "c.parquet", table)
        assert pq.read_table(copy)["a"].to_pylist() == [1, None]

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            (pa.string(), "text"),
            (pa.large_string(), "text"),
            (pa.dictionary(pa.int32(), pa.string()), "text"),
            (MESSAGES, "messages"),
            (pa.large_list(MESSAGES.value_type), "messages"),
            (
                pa.list_(pa.struct([("content", pa.large_string()), ("x", pa.int8()), ("role", pa.string())])),
                "messages",
            ),
        ],
    )
    def test_a_prompt_is_text_or_messages(self, tmp_path: Path, kind: pa.DataType, expected: str) -> None:
        table = open_table(write(tmp_path / "a.parquet", pa.table({"prompt": pa.array([None], kind)})))
        assert Prompts.of("prompt", table).kind == expected

    @pytest.mark.parametrize(
        "kind",
        [
            pa.int64(),
            pa.binary(),
            pa.list_(pa.string()),
            MESSAGES.value_type,
            pa.struct([("messages", pa.string())]),
            pa.list_(pa.struct([("role", pa.string())])),
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(pa.string()))])),
            pa.dictionary(pa.int32(), pa.int64()),
        ],
        ids=str,
    )
    def test_no_other_column_is_a_prompt(self, tmp_path: Path, kind: pa.DataType) -> None:
        table = open_table(write(tmp_path / "a.parquet", pa.table({"prompt": pa.array([], kind)})))
        with pytest.raises(InputError, match=r"input\.prompt: column 'prompt' is .*; a prompt is text, or a list"):
            Prompts.of("prompt", table)

    def test_a_missing_prompt_column_shows_those_there_are(self, tmp_path: Path) -> None:
        table = open_table(write(tmp_path / "a.parquet"))
        with pytest.raises(InputError, match=r"input\.prompt: no column 'text' in the input; it has n, prompt"):
            Prompts.of("text", table)
        with pytest.raises(InputError, match=r"report\.group_by: no column 'team'"):
            table.check_column("team", "report.group_by")


def all_kinds(start: int, stop: int) -> pa.Table:
    """Columns of the kinds that lose something when they are read carelessly."""
    numbers = range(start, stop)
    utc = datetime.UTC
    columns: dict[str, Any] = {
        "dictionary": pa.array([f"team {n % 3}" for n in numbers]).dictionary_encode(),
        "large": pa.array([f"text {n}" for n in numbers], pa.large_string()),
        "decimal": pa.array([Decimal(n).scaleb(-12) for n in numbers], pa.decimal128(20, 12)),
        "when": pa.array(
            [datetime.datetime(2026, 11, 24, tzinfo=utc) + datetime.timedelta(microseconds=n) for n in numbers],
            pa.timestamp("us", "Europe/Paris"),
        ),
        "nested": pa.array(
            [None if n % 7 == 0 else [{"role": "user", "content": f"m{n}"}] * (n % 3) for n in numbers], MESSAGES
        ),
        "struct": pa.array([{"a": n, "b": None if n % 2 else [n]} for n in numbers]),
        "small": pa.array([n % 100 for n in numbers], pa.int8()),
        "bytes": pa.array([bytes([n % 256]) for n in numbers], pa.binary()),
        "day": pa.array([datetime.date(2026, 1, 1) + datetime.timedelta(days=n % 99) for n in numbers], pa.date32()),
        "flag": pa.array([None if n % 5 == 0 else n % 2 == 0 for n in numbers]),
    }
    table = pa.table(columns)
    fields = [field.with_metadata({"unit": "x"}) if field.name == "small" else field for field in table.schema]
    return table.cast(pa.schema(fields, metadata={"owner": "data team"}))


@pytest.fixture(scope="module")
def kinds_table(tmp_path_factory: pytest.TempPathFactory) -> tuple[PromptTable, pa.Table]:
    folder = tmp_path_factory.mktemp("kinds")
    write(folder / "a.parquet", all_kinds(0, 5000), group=1700)
    write(folder / "b.parquet", all_kinds(5000, 5100), group=7)
    return open_table(folder), all_kinds(0, 5100)


def test_values_types_and_metadata_are_those_of_the_input(kinds_table: tuple[PromptTable, pa.Table]) -> None:
    table, expected = kinds_table
    found = read(table)
    assert found.schema.equals(expected.schema, check_metadata=False)
    assert table.schema.metadata[b"owner"] == b"data team"
    assert found.to_pylist() == expected.to_pylist()


def test_what_was_read_can_be_written_and_read_again(kinds_table: tuple[PromptTable, pa.Table], tmp_path: Path) -> None:
    table, expected = kinds_table
    copy = write(tmp_path / "copy.parquet", read(table))
    assert pq.read_table(copy).schema.equals(expected.schema)
    assert pq.read_table(copy).to_pylist() == expected.to_pylist()


def test_columns_come_in_the_order_of_the_schema(kinds_table: tuple[PromptTable, pa.Table]) -> None:
    table, expected = kinds_table
    assert read(table, ["small", "large"], 4990, 5010).equals(expected.select(["large", "small"]).slice(4990, 20))


@pytest.fixture(scope="module")
def mixed_table(tmp_path_factory: pytest.TempPathFactory) -> PromptTable:
    """Files and row groups of unlike sizes, some larger than what is read at a time, some empty."""
    folder = tmp_path_factory.mktemp("mixed")
    start = 0
    for number, (rows, group) in enumerate(
        [(0, None), (1, None), (9000, 9000), (100, 7), (0, None), (5000, 1), (40, 13)]
    ):
        write(folder / f"{number}.parquet", rows, start, 500 if group == 1 else group)
        start += rows
    return open_table(folder)


def check_ranges(table: PromptTable, ranges: list[tuple[int, int]]) -> None:
    reader = table.reader(["n"])
    for start, stop in ranges:
        batches = list(reader.read(start, stop))
        found = np.concatenate([batch.column(0).to_numpy() for batch in batches]) if batches else np.empty(0)
        assert np.array_equal(found, np.arange(start, stop)), (start, stop)


ROWS = 14141
points = st.integers(0, ROWS)
near_borders = st.sampled_from(
    [0, 1, 2, 4096, 4097, 9000, 9001, 9002, 9008, 9101, 9102, 9601, 14101, 14102, 14140, ROWS]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(points, near_borders), min_size=2, max_size=12))
def test_rising_ranges_with_gaps_are_the_slices_of_the_table(mixed_table: PromptTable, cuts: list[int]) -> None:
    assert mixed_table.rows == ROWS
    cuts = sorted(cuts)
    check_ranges(mixed_table, list(zip(cuts[::2], cuts[1::2], strict=False)))
    check_ranges(mixed_table, list(itertools.pairwise(cuts)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.one_of(points, near_borders), st.one_of(points, near_borders)), max_size=6))
@example([(ROWS, ROWS)])
@example([(0, 10), (ROWS, ROWS), (5, 5), (3, 4)])
def test_ranges_in_any_order_are_the_slices_of_the_table(mixed_table: PromptTable, ends: list[tuple[int, int]]) -> None:
    check_ranges(mixed_table, [(min(pair), max(pair)) for pair in ends])


def test_a_range_that_was_left_half_read_does_not_shift_the_next(mixed_table: PromptTable) -> None:
    reader = mixed_table.reader(["n"])
    assert next(reader.read(10, 9050)).column(0)[0].as_py() == 10
    assert as_table(reader, 9040, 9060)["n"].to_pylist() == list(range(9040, 9060))
    assert as_table(reader, 12, 14)["n"].to_pylist() == [12, 13]


def test_an_empty_table_has_a_schema_and_no_batches(tmp_path: Path) -> None:
    table = open_table(write(tmp_path / "a.parquet", 0))
    assert table.rows == 0
    assert list(table.reader().read(0, 0)) == []
    assert table.reader().schema.names == ["n", "prompt"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    column = pa.array([1])
    pq.write_table(pa.Table.from_arrays([column, column], names=["x", "x"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has two columns 'x'"):
        PromptTable.open(find(str(tmp_path / "a.parquet")))


def test_two_fields_of_one_name_are_refused_however_deep_they_lie(tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    deep = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([twice], names=["inner"]))
    pq.write_table(pa.table({"a": deep}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet has two fields 'x' in 'a'"):
        PromptTable.open(find(str(tmp_path / "a.parquet")))


class TestSize:
    """Batches are cut by their size, so that long rows take no more memory than short ones."""

    @pytest.mark.parametrize("repeated", [True, False])
    def test_long_rows_come_a_few_at_a_time(self, tmp_path: Path, repeated: bool) -> None:
        rows = 200
        long = ["x" * 500_000 if repeated else f"{n:<500000}" for n in range(rows)]
        path = write(tmp_path / "a.parquet", pa.table({"prompt": long}))
        batches = [batch.column(0) for batch in open_table(path).reader().read(0, rows)]
        assert sum(map(len, batches)) == rows
        assert max(batch.nbytes for batch in batches[1:]) <= 9 << 20
        # How long a value that repeats is, the footer does not tell.
        assert batches[0].nbytes <= (33 if repeated else 9) << 20

    def test_short_rows_come_many_at_a_time(self, tmp_path: Path) -> None:
        table = open_table(write(tmp_path / "a.parquet", 20_000))
        assert max(batch.num_rows for batch in table.reader().read(0, 20_000)) == 4096
