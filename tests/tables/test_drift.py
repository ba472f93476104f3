"""Files whose columns differ, read as one table."""

from __future__ import annotations

import datetime
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchroute.errors import InputError
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable

LONG_AGO = datetime.datetime(1066, 10, 14)
AT = datetime.datetime(2026, 11, 29, 12, 30, 15)


def table_of(folder: Path, *columns: pa.Array | pa.Table, strict: bool = False) -> PromptTable:
    """The table of files, each of a whole table or of one column `c`."""
    folder.mkdir(exist_ok=True)
    for number, column in enumerate(columns):
        table = column if isinstance(column, pa.Table) else pa.table({"c": column})
        pq.write_table(table, folder / f"{number}.parquet")
    files = Files(str(folder))
    return PromptTable.open(files.find(), files, strict)


def rows(table: PromptTable) -> pa.Table:
    reader = table.reader()
    read = pa.Table.from_batches(reader.read(0, table.rows), reader.schema)
    read.validate(full=True)
    return read


class TestColumns:
    def test_one_that_a_file_lacks_is_null_there(self, tmp_path: Path) -> None:
        table = table_of(tmp_path, pa.table({"a": [1], "b": ["x"]}), pa.table({"a": [2]}))
        assert rows(table).to_pydict() == {"a": [1, 2], "b": ["x", None]}
        assert table.lacking == {"b": str(tmp_path / "1.parquet")}

    def test_new_ones_are_added_at_the_end(self, tmp_path: Path) -> None:
        table = table_of(tmp_path, pa.table({"a": [1]}), pa.table({"b": ["x"], "a": [2]}), pa.table({"c": [1.5]}))
        expected = {"a": [1, 2, None], "b": [None, "x", None], "c": [None, None, 1.5]}
        assert rows(table).to_pydict() == expected
        assert list(expected) == table.schema.names

    def test_one_that_had_no_nulls_may_have_them_where_a_file_lacks_it(self, tmp_path: Path) -> None:
        schema = pa.schema([pa.field("a", pa.int64()), pa.field("b", pa.int64(), nullable=False)])
        table = table_of(tmp_path, pa.table({"a": [1], "b": [2]}, schema), pa.table({"a": [2]}))
        pq.write_table(rows(table), tmp_path / "copy")
        assert pq.read_table(tmp_path / "copy")["b"].to_pylist() == [2, None]

    def test_one_column_can_be_read_from_files_of_which_some_lack_it(self, tmp_path: Path) -> None:
        table = table_of(tmp_path, pa.table({"a": [1, 2]}), pa.table({"b": [3]}))
        reader = table.reader(["b"])
        assert [value for batch in reader.read(0, 3) for value in batch.column(0).to_pylist()] == [None, None, 3]

    def test_a_file_that_has_nothing_but_rows_of_nulls_is_read(self, tmp_path: Path) -> None:
        assert rows(table_of(tmp_path, pa.nulls(2), pa.array(["x"])))["c"].to_pylist() == [None, None, "x"]

    def test_two_of_one_name_are_named_in_any_file(self, tmp_path: Path) -> None:
        twice = pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"])
        with pytest.raises(InputError, match=r"1\.parquet has two columns 'a'"):
            table_of(tmp_path, pa.table({"a": [1]}), twice)

    def test_files_that_are_alike_keep_their_schema_and_its_entries(self, tmp_path: Path) -> None:
        schema = pa.schema([pa.field("a", pa.int64(), False, {"unit": "m"})], {"owner": "us"})
        one = pa.table({"a": [1]}, schema)
        table = table_of(tmp_path, one, one)
        assert table.schema.field("a").metadata[b"unit"] == b"m"
        assert not table.schema.field("a").nullable
        assert table.schema.metadata == {b"owner": b"us"}

    def test_an_entry_that_is_not_of_all_files_is_left_out(self, tmp_path: Path) -> None:
        """Such as the values of a polars Enum, which read the column otherwise."""
        for number, values in enumerate((["x", "y"], ["y", "z"])):
            frame = pl.DataFrame({"c": pl.Series(["y"], dtype=pl.Enum(values))})
            frame.write_parquet(tmp_path / f"{number}.parquet")
        pq.write_table(rows(table_of(tmp_path)), tmp_path / "copy")
        assert pl.read_parquet(tmp_path / "copy")["c"].cast(pl.String).to_list() == ["y", "y"]


class TestStrict:
    def test_another_order_is_well(self, tmp_path: Path) -> None:
        table = table_of(tmp_path, pa.table({"a": [1], "b": [2]}), pa.table({"b": [3], "a": [4]}), strict=True)
        assert rows(table).to_pydict() == {"a": [1, 4], "b": [2, 3]}

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (pa.table({"a": [1]}), r"1\.parquet has no column 'b', but .*0\.parquet has"),
            (pa.table({"a": [1], "b": [2], "c": [3]}), r"1\.parquet has a column 'c' that .*0\.parquet does not have"),
            (
                pa.table({"a": [1], "b": pa.array([2], pa.int32())}),
                r"column 'b' is int32 in .*1\.parquet, but int64 in .*0\.parquet",
            ),
        ],
    )
    def test_other_columns_are_refused(self, tmp_path: Path, second: pa.Table, message: str) -> None:
        with pytest.raises(InputError, match=message):
            table_of(tmp_path, pa.table({"a": [1], "b": [2]}), second, strict=True)


TEXT = ["x", None]
WIDENED = [
    (pa.array(TEXT), pa.array(TEXT, pa.large_string()), pa.large_string()),
    (pa.array(TEXT), pa.array(TEXT, pa.string_view()), pa.string()),
    (pa.array(TEXT), pa.array(TEXT).dictionary_encode(), pa.string()),
    (pa.array(TEXT), pa.array(TEXT, pa.json_()), pa.string()),
    (pa.array([b"x"]), pa.array([b"y"], pa.large_binary()), pa.large_binary()),
    (pa.array([b"x"], pa.binary(1)), pa.array([b"yz"], pa.binary(2)), pa.binary()),
    (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64()),
    (pa.array([200], pa.uint8()), pa.array([-5], pa.int8()), pa.int16()),
    (pa.array([2**63], pa.uint64()), pa.array([-5], pa.int64()), pa.decimal128(20, 0)),
    (pa.array([1.5], pa.float32()), pa.array([0.1]), pa.float64()),
    (pa.array([300], pa.int16()), pa.array([1.5], pa.float32()), pa.float32()),
    (pa.array([2**31 - 1], pa.int32()), pa.array([math.inf], pa.float32()), pa.float64()),
    (pa.array([2**53]), pa.array([1.5, None]), pa.float64()),
    (pa.array([Decimal("1.5")]), pa.array([Decimal("100.25")]), pa.decimal128(5, 2)),
    (pa.array([7], pa.int8()), pa.array([Decimal("1.25")]), pa.decimal128(5, 2)),
    (
        pa.array([Decimal(10**37)], pa.decimal128(38, 0)),
        pa.array([Decimal("1e-9")], pa.decimal128(38, 9)),
        pa.decimal256(47, 9),
    ),
    (pa.array([LONG_AGO], pa.timestamp("s")), pa.array([AT], pa.timestamp("us")), pa.timestamp("us")),
    (pa.array([AT], pa.timestamp("us")), pa.array([17], pa.timestamp("ns")), pa.timestamp("ns")),
    (
        pa.array([AT], pa.timestamp("us", "UTC")),
        pa.array([AT], pa.timestamp("ms", "+00:00")),
        pa.timestamp("us", "UTC"),
    ),
    (pa.array([5], pa.time32("ms")), pa.array([5], pa.time64("ns")), pa.time64("ns")),
    (pa.array([5], pa.duration("ms")), pa.array([5], pa.duration("us")), pa.duration("us")),
    (pa.array([[1]], pa.list_(pa.int8())), pa.array([[2**40, None]]), pa.list_(pa.int64())),
    (pa.array([[[1], None]], pa.list_(pa.list_(pa.int8()))), pa.array([[[2**40]]]), pa.list_(pa.list_(pa.int64()))),
    (
        pa.array([[1, 2]], pa.list_(pa.int64(), 2)),
        pa.array([[3]], pa.large_list(pa.int64())),
        pa.large_list(pa.int64()),
    ),
    (pa.array([[1, 2]], pa.list_view(pa.int64())), pa.array([[3], None]), pa.list_(pa.int64())),
    (
        pa.array([{"x": 1, "y": "a"}, None]),
        pa.array([{"z": 1.5, "y": "b"}]),
        None,
    ),
    (pa.array([{"v": [1]}], pa.struct([("v", pa.list_view(pa.int8()))])), pa.array([{"v": [2, None]}, None]), None),
    (pa.array([{"x": {"n": 1}}]), pa.array([{"x": {"m": 2}}]), None),
    (pa.array([[{"a": 1}]]), pa.array([[{"b": None}, None]]), None),
    (
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
        pa.array([[("b", 2**40)]], pa.map_(pa.string(), pa.int64())),
        None,
    ),
]


@pytest.mark.parametrize(("first", "second", "wide"), WIDENED, ids=lambda value: str(getattr(value, "type", "")))
def test_a_type_that_holds_both_is_found_in_either_order(
    tmp_path: Path, first: pa.Array, second: pa.Array, wide: pa.DataType | None
) -> None:
    for number, pair in enumerate([(first, second), (second, first)]):
        table = table_of(tmp_path / str(number), *pair)
        found = rows(table)
        if wide is not None:
            assert _unnamed(found.schema.field("c").type) == _unnamed(wide)
        assert found["c"].equals(pa.chunked_array([_as(column, found["c"].type) for column in pair]))


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    # By Python where the type is nested: pyarrow's own casts of views of lists are wrong.
    return pa.array(column.to_pylist(), kind) if pa.types.is_nested(kind) else column.cast(kind)


def _unnamed(kind: pa.DataType) -> str:
    return str(kind).replace("element: ", "item: ")


REFUSED = [
    (pa.array(["x"]), pa.array([1]), "string", "int64"),
    (pa.array([True]), pa.array([1]), "bool", "int64"),
    (pa.array([2**53 + 1]), pa.array([1.5]), "int64", "double"),
    (pa.array([2**64 - 1], pa.uint64()), pa.array([1.5]), "uint64", "double"),
    (pa.array([Decimal("1.5")]), pa.array([1.5]), r"decimal128\(2, 1\)", "double"),
    (
        pa.array([LONG_AGO], pa.timestamp("us")),
        pa.array([AT], pa.timestamp("ns")),
        r"timestamp\[us\]",
        r"timestamp\[ns\]",
    ),
    (pa.array([AT], pa.timestamp("us")), pa.array([AT], pa.timestamp("us", "UTC")), "timestamp", "UTC"),
    (pa.array([AT], pa.timestamp("us", "Asia/Tokyo")), pa.array([AT], pa.timestamp("us", "UTC")), "Tokyo", "UTC"),
    (pa.array([AT.date()]), pa.array([AT]), "date32", "timestamp"),
    (pa.array(["x"]), pa.array([b"x"]), "string", "binary"),
    (pa.array([[1]]), pa.array([1]), "list", "int64"),
    (pa.array([[2**60]]), pa.array([[1.5]]), "list<element: int64>", "list<element: double>"),
    (pa.array([{"a": 1}]), pa.array([{"a": "x"}]), "struct<a: int64>", "struct<a: string>"),
]


@pytest.mark.parametrize(("first", "second", "ours", "theirs"), REFUSED)
def test_what_would_lose_values_is_refused_with_both_files_and_types(
    tmp_path: Path, first: pa.Array, second: pa.Array, ours: str, theirs: str
) -> None:
    with pytest.raises(InputError) as refused:
        table_of(tmp_path, first, second)
    message = str(refused.value)
    assert message.startswith("input: column 'c' is ")
    for number, kind in enumerate((ours, theirs)):
        file = str(tmp_path / f"{number}.parquet")
        assert file in message
        assert re.search(rf"{kind}.* in {file}", message)
    with pytest.raises(InputError):
        table_of(tmp_path, second, first)


def test_a_large_number_in_a_later_row_group_is_refused_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"c": [1, 2, 2**60]}), tmp_path / "0.parquet", row_group_size=1)
    pq.write_table(pa.table({"c": [1.5]}), tmp_path / "1.parquet")
    with pytest.raises(InputError, match="does not show that all its values fit into double"):
        PromptTable.open(Files(str(tmp_path)).find())


def test_numbers_without_statistics_may_not_become_floats(tmp_path: Path) -> None:
    pq.write_table(pa.table({"c": [1]}), tmp_path / "0.parquet", write_statistics=False)
    pq.write_table(pa.table({"c": [1.5]}), tmp_path / "1.parquet")
    with pytest.raises(InputError, match="does not show that all its values fit into double"):
        PromptTable.open(Files(str(tmp_path)).find())


class TestHive:
    @pytest.mark.parametrize(
        ("folder", "column"),
        [
            ("c=x", pa.array(["x", "x"])),
            ("c=7", pa.array([7, 7])),
            ("c=7", pa.array(["7", "7"])),
            ("c=2026-11-29", pa.array([AT.date()] * 2)),
            ("c=__HIVE_DEFAULT_PARTITION__", pa.array([None, None], pa.string())),
        ],
    )
    def test_a_column_that_agrees_with_its_folder_stays_as_it_is(
        self, tmp_path: Path, folder: str, column: pa.Array
    ) -> None:
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"c": column, "n": [1, 2]}), tmp_path / folder / "a.parquet")
        table = PromptTable.open(Files(str(tmp_path)).find())
        assert rows(table).select(["c"]).column(0).to_pylist() == column.to_pylist()
        assert table.schema.names == ["c", "n"]

    @pytest.mark.parametrize("column", [["x", "y"], ["x", None], [None, None], ["y", "y"]])
    def test_a_column_that_does_not_is_refused(self, tmp_path: Path, column: list[str | None]) -> None:
        (tmp_path / "c=x").mkdir()
        pq.write_table(pa.table({"c": pa.array(column, pa.string())}), tmp_path / "c=x" / "a.parquet")
        with pytest.raises(InputError, match=r"'c' is a column and a partition folder.*c=x/a\.parquet"):
            PromptTable.open(Files(str(tmp_path)).find())

    def test_a_file_without_it_has_the_value_of_its_folder(self, tmp_path: Path) -> None:
        for day, table in (
            ("c=1", pa.table({"n": [1], "c": pa.array([1], pa.int32())})),
            ("c=2", pa.table({"n": [2]})),
        ):
            (tmp_path / day).mkdir()
            pq.write_table(table, tmp_path / day / "a.parquet")
        table = PromptTable.open(Files(str(tmp_path)).find())
        assert rows(table).to_pydict() == {"n": [1, 2], "c": [1, 2]}
        assert not table.lacking


NAMES = ["a", "b", "c", "d"]
CHOICES: dict[str, list[pl.DataType | type[pl.DataType]]] = {
    "text": [pl.String, pl.Null],
    "number": [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Null],
    "natural": [pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64],
    "float": [pl.Float32, pl.Float64, pl.Int16, pl.Int32],
    "flag": [pl.Boolean, pl.Null],
    "struct": [pl.Struct({"x": pl.Int32}), pl.Struct({"x": pl.Int64})],
    "list": [pl.List(pl.Int32), pl.List(pl.Int64)],
}


@st.composite
def drifting(draw: st.DrawFn) -> list[pl.DataFrame]:
    """Two or three frames; each column is of one family, in a type and a place of its own."""
    families = {name: draw(st.sampled_from(sorted(CHOICES))) for name in NAMES}
    frames = []
    for _ in range(draw(st.integers(2, 3))):
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
        count = draw(st.integers(1, 3))
        columns = []
        for name in names:
            kind = draw(st.sampled_from(CHOICES[families[name]]))
            values = draw(st.lists(st.one_of(st.none(), _value(families[name])), min_size=count, max_size=count))
            columns.append(pl.Series(name, [None] * count if kind == pl.Null else values, dtype=kind))
        frames.append(pl.DataFrame(columns))
    return frames


def _value(family: str) -> st.SearchStrategy[Any]:
    small = st.integers(0, 100)
    return {
        "text": st.text("ab", max_size=3),
        "number": small,
        "natural": small,
        "float": small,
        "flag": st.booleans(),
        "struct": small.map(lambda number: {"x": number}),
        "list": st.lists(small, max_size=2),
    }[family]


def _write(writer: str, frame: pl.DataFrame, path: Path) -> None:
    nulls = any(kind == pl.Null for kind in frame.dtypes)
    if writer == "polars":
        frame.write_parquet(path)
    elif writer == "duckdb" and not nulls:  # which has no columns of nulls alone
        duckdb.from_arrow(frame.to_arrow()).write_parquet(str(path))
    elif writer == "pandas" and not nulls and _pandas() is not None:
        frame.to_arrow().to_pandas(types_mapper=_pandas().ArrowDtype).to_parquet(path)
    else:
        pq.write_table(frame.to_arrow(), path)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        return None
    return pandas


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drifting(), st.lists(st.sampled_from(["pyarrow", "polars", "duckdb", "pandas"]), min_size=3, max_size=3))
def test_drifting_files_are_read_as_polars_would_concatenate_them(
    tmp_path_factory: pytest.TempPathFactory, frames: list[pl.DataFrame], writers: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("drift")
    for number, frame in enumerate(frames):
        _write(writers[number], frame, folder / f"{number}.parquet")
    expected = pl.concat(frames, how="diagonal_relaxed")
    read = pl.DataFrame(rows(PromptTable.open(Files(str(folder)).find())))
    assert read.columns == expected.columns
    assert read.cast(expected.schema).rows() == expected.rows()
    for name in read.columns:
        if expected[name].dtype.is_integer():
            assert read[name].dtype == expected[name].dtype
