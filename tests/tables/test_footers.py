"""Footers: what other readers see of an output, and timestamps that footers cannot vouch for."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pandas
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.errors import InputError
from batchroute.tables.files import Files
from batchroute.tables.footers import carried
from batchroute.tables.parquet import PromptTable
from tests.support.jobs import JobFolder, table

SPARK = "org.apache.spark.sql.parquet.row.metadata"


def spark_schema(names: list[str]) -> str:
    fields = [{"name": name, "type": "string", "nullable": True, "metadata": {}} for name in names]
    return json.dumps({"type": "struct", "fields": fields})


def test_entries_that_describe_columns_are_dropped_and_others_stay() -> None:
    entries = {
        b"pandas": b"{}",
        b"huggingface": b"{}",
        SPARK.encode(): b"{}",
        b"parquet.avro.schema": b"{}",
        b"iceberg.schema": b"{}",
        b"batchroute.unit": b"{}",
        b"org.apache.spark.version": b"4.0.0",
        b"owner": b"us",
    }
    assert carried(entries) == {b"org.apache.spark.version": b"4.0.0", b"owner": b"us"}
    assert carried({b"pandas": b"{}"}) is carried(None) is None


def test_spark_pandas_and_datasets_find_the_answers_in_the_output(tmp_path: Path) -> None:
    """Each reads the columns that its own entry names, and no others, where it finds one."""
    job = JobFolder(tmp_path, table(4))
    rows = pq.read_table(job.input)
    features = {name: {"dtype": "string", "_type": "Value"} for name in rows.column_names}
    entries = {
        SPARK: spark_schema(rows.column_names),
        "pandas": json.dumps({"index_columns": ["id"], "columns": [], "column_indexes": []}),
        "huggingface": json.dumps({"info": {"features": features}}),
        "owner": "us",
    }
    pq.write_table(rows.replace_schema_metadata(entries), job.input)
    job.run()
    (part,) = (job.output / "data").glob("*.parquet")
    metadata = pq.read_metadata(part).metadata
    assert metadata[b"owner"] == b"us"
    assert not {b"pandas", b"huggingface", SPARK.encode()} & set(metadata)


def test_pandas_reads_the_answers_to_a_frame_with_an_index(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(4))
    frame = pq.read_table(job.input).to_pandas()
    frame.set_index("id").to_parquet(job.input)
    job.run()
    answers = pandas.read_parquet(job.output / "data")
    assert answers["id"].tolist() == frame["id"].tolist()
    assert answers["response"].notna().all()


def write_int96(path: Path, values: list[datetime.datetime | None]) -> None:
    rows = pa.table(
        {"id": list(range(len(values))), "prompt": ["x"] * len(values), "t": pa.array(values, pa.timestamp("us"))}
    )
    pq.write_table(rows, path, use_deprecated_int96_timestamps=True, store_schema=False)


@pytest.mark.parametrize("year", [9999, 1000, 1677, 2263])
def test_a_96_bit_timestamp_that_nanoseconds_do_not_reach_stops_the_run_before_it_begins(
    tmp_path: Path, year: int
) -> None:
    job = JobFolder(tmp_path, report={})
    write_int96(job.input, [datetime.datetime(2026, 1, 1), None, datetime.datetime(year, 1, 1)])
    with pytest.raises(InputError, match=rf"column 't' of {job.input} has a timestamp of 96 bits"):
        job.run()
    assert not (job.output / "data").exists()


def test_other_96_bit_timestamps_come_out_as_they_went_in(tmp_path: Path) -> None:
    values = [datetime.datetime(1678, 1, 1), None, datetime.datetime(2261, 12, 31, 23, 59, 59, 999999)]
    write_int96(tmp_path / "a.parquet", values)
    read = PromptTable.open(Files(str(tmp_path)).find())
    read.check_times()
    found = pa.Table.from_batches(read.reader().read(0, 3))["t"]
    assert found.cast(pa.timestamp("us")).to_pylist() == values


def test_a_96_bit_timestamp_in_a_list_is_looked_at_too(tmp_path: Path) -> None:
    times = pa.array([[datetime.datetime(9999, 1, 1)]], pa.list_(pa.timestamp("us")))
    pq.write_table(pa.table({"t": times}), tmp_path / "a", use_deprecated_int96_timestamps=True, store_schema=False)
    with pytest.raises(InputError, match="column 't'"):
        PromptTable.open(Files(str(tmp_path / "a")).find()).check_times()


@pytest.mark.parametrize("kind", [pl.Int128(), pl.UInt128(), pl.List(pl.Int128)], ids=str)
def test_integers_of_128_bits_are_refused_by_name(tmp_path: Path, kind: pl.DataType) -> None:
    values = [[1]] if isinstance(kind, pl.List) else [1]
    pl.DataFrame({"a": [1], "big": pl.Series(values, dtype=kind)}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"a\.parquet has 'big' of a type that cannot be read .*; write it as a decimal"
    ):
        Files(str(tmp_path)).find()
