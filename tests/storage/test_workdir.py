from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.errors import InputError
from batchroute.storage.local import LocalFolder
from batchroute.storage.parquet import Settings, output_settings, parquet_bytes, read_facts, work_settings
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Stage
from batchroute.storage.workdir import Workdir, run_ids, work_root

SCHEMA = pa.schema([pa.field("position", pa.int64()), pa.field("text", pa.string())], metadata={b"mine": b"kept"})


def rows(first: int, count: int, text: str = "t") -> pa.RecordBatch:
    return pa.record_batch([pa.array(range(first, first + count), pa.int64()), [text] * count], schema=SCHEMA)


def facts(unit: str = "00000", count: int = 3, run_id: str = "run", **more: float) -> Facts:
    values = {"first": 0, "last": count - 1, "seconds": 1.5, **more}
    return Facts(run_id=run_id, unit=unit, rows=count, counts={"failed": 1}, **values)  # type: ignore[arg-type]


def stage(folder: Path) -> Stage:
    """A stage as a new process sees it."""
    return Workdir(LocalFolder(str(folder / "out")), "run").stage("score")


def stage_folder(folder: Path) -> Path:
    return folder / "out.work" / "run" / "score"


def test_a_commit_puts_data_and_a_receipt_that_proves_it(tmp_path: Path) -> None:
    receipt = stage(tmp_path).commit(facts(), SCHEMA, [rows(0, 2), rows(2, 1)])
    data = (stage_folder(tmp_path) / "00000.parquet").read_bytes()
    assert sorted(os.listdir(stage_folder(tmp_path))) == ["00000.json", "00000.parquet"]
    assert receipt.sha256 == hashlib.sha256(data).hexdigest()
    assert receipt.bytes == len(data)
    assert receipt.file == "00000.parquet"
    assert receipt.rows == 3
    assert receipt.counts == {"failed": 1}
    assert Receipt.model_validate_json((stage_folder(tmp_path) / "00000.json").read_bytes()) == receipt
    assert stage(tmp_path).read("00000").equals(pa.Table.from_batches([rows(0, 3)]).replace_schema_metadata(None))


def test_the_data_carries_its_schema_metadata_and_its_facts(tmp_path: Path) -> None:
    stage(tmp_path).commit(facts(), SCHEMA, [rows(0, 3)])
    data = (stage_folder(tmp_path) / "00000.parquet").read_bytes()
    found = read_facts(pa.BufferReader(data))
    assert found is not None
    assert found.model_dump(exclude={"finished"}) == facts().model_dump(exclude={"finished"})
    assert pq.read_schema(pa.BufferReader(data)).metadata[b"mine"] == b"kept"


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    mine = stage(tmp_path)
    mine.commit(facts(), SCHEMA, [rows(0, 3)])
    assert mine.read("00000", ["text"]).to_pydict() == {"text": ["t"] * 3}


def test_a_unit_without_rows_is_a_file_with_a_schema(tmp_path: Path) -> None:
    mine = stage(tmp_path)
    mine.commit(facts(count=0, first=-1, last=-1), SCHEMA, [])
    assert mine.read("00000").schema.equals(SCHEMA)
    assert mine.read("00000").num_rows == 0


def test_receipts_are_listed_in_order_by_every_process(tmp_path: Path) -> None:
    mine, other = stage(tmp_path), stage(tmp_path)
    assert mine.receipts() == {}
    committed = {unit: mine.commit(facts(unit), SCHEMA, [rows(0, 3)]) for unit in ("00002", "00000")}
    assert list(mine.receipts()) == ["00000", "00002"]
    committed["00001"] = other.commit(facts("00001"), SCHEMA, [rows(0, 3)])
    assert mine.receipts() == committed
    assert list(mine.receipts()) == ["00000", "00001", "00002"]
    assert mine.receipts() == other.receipts() == stage(tmp_path).receipts()


def test_data_without_a_receipt_does_not_count_and_is_adopted_with_its_own_facts(tmp_path: Path) -> None:
    stage(tmp_path).commit(facts(seconds=1.5), SCHEMA, [rows(0, 3, "first attempt")])
    (stage_folder(tmp_path) / "00000.json").unlink()
    mine = stage(tmp_path)
    assert mine.receipts() == {}
    receipt = mine.commit(facts(seconds=9.0), SCHEMA, [rows(0, 3, "second")])
    data = (stage_folder(tmp_path) / "00000.parquet").read_bytes()
    assert receipt.seconds == 1.5
    assert receipt.sha256 == hashlib.sha256(data).hexdigest()
    assert receipt.bytes == len(data)
    assert mine.read("00000")["text"].to_pylist() == ["first attempt"] * 3


def test_the_first_receipt_wins(tmp_path: Path) -> None:
    first = stage(tmp_path).commit(facts(seconds=1.5), SCHEMA, [rows(0, 3)])
    assert stage(tmp_path).commit(facts(seconds=9.0), SCHEMA, [rows(0, 3)]) == first


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"not parquet at all",
        b"PAR1" + b"\xff" * 40 + b"\x20\x00\x00\x00PAR1",
        bytes(parquet_bytes(SCHEMA, [rows(0, 3)], facts(run_id="other"))[0]),
        bytes(parquet_bytes(SCHEMA, [rows(0, 3)], facts(unit="00001"))[0]),
        bytes(parquet_bytes(SCHEMA, [rows(0, 2)], facts(count=2))[0]),
    ],
    ids=["empty", "not parquet", "a broken footer", "another run", "another unit", "other rows"],
)
def test_a_foreign_file_in_the_way_is_refused_and_left(tmp_path: Path, foreign: bytes) -> None:
    stage_folder(tmp_path).mkdir(parents=True)
    path = stage_folder(tmp_path) / "00000.parquet"
    path.write_bytes(foreign)
    with pytest.raises(InputError, match=r"00000\.parquet is in the way and not of this run"):
        stage(tmp_path).commit(facts(), SCHEMA, [rows(0, 3)])
    assert path.read_bytes() == foreign
    assert stage(tmp_path).receipts() == {}


def test_a_parquet_file_of_others_has_no_facts() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    assert read_facts(pa.BufferReader(sink.getvalue())) is None


def test_a_reopened_unit_is_undone_and_can_be_done_anew(tmp_path: Path) -> None:
    mine = stage(tmp_path)
    mine.commit(facts(), SCHEMA, [rows(0, 3, "old")])
    mine.reopen("00000")
    assert mine.receipts() == stage(tmp_path).receipts() == {}
    assert os.listdir(stage_folder(tmp_path)) == []
    assert mine.kept("00000") is None
    mine.commit(facts(), SCHEMA, [rows(0, 3, "new")])
    assert mine.read("00000")["text"].to_pylist() == ["new"] * 3


def test_what_reopening_keeps_survives_the_next_commit_and_is_not_a_unit(tmp_path: Path) -> None:
    mine = stage(tmp_path)
    mine.commit(facts(), SCHEMA, [rows(0, 3, "old")])
    mine.reopen("00000", keep=True)
    assert mine.receipts() == {}
    mine.commit(facts(), SCHEMA, [rows(0, 3, "new")])
    kept = stage(tmp_path).kept("00000")
    assert kept is not None
    assert kept["text"].to_pylist() == ["old"] * 3
    assert list(stage(tmp_path).receipts()) == ["00000"]


def test_a_second_reopening_keeps_the_newer_data(tmp_path: Path) -> None:
    mine = stage(tmp_path)
    for text in ("old", "newer"):
        mine.commit(facts(), SCHEMA, [rows(0, 3, text)])
        mine.reopen("00000", keep=True)
    kept = mine.kept("00000")
    assert kept is not None
    assert kept["text"].to_pylist() == ["newer"] * 3


def test_reopening_is_finished_by_repeating_it_after_a_crash(tmp_path: Path) -> None:
    mine = stage(tmp_path)
    mine.commit(facts(), SCHEMA, [rows(0, 3, "old")])
    receipt = (stage_folder(tmp_path) / "00000.json").read_bytes()
    mine.reopen("00000", keep=True)
    # As a crash leaves it: the data is put aside and removed, the receipt not yet.
    (stage_folder(tmp_path) / "00000.json").write_bytes(receipt)
    again = stage(tmp_path)
    again.reopen("00000", keep=True)
    kept = again.kept("00000")
    assert kept is not None
    assert kept["text"].to_pylist() == ["old"] * 3
    assert again.receipts() == {}


def test_merged_parts_lie_in_the_output_and_their_receipts_beside_it(tmp_path: Path) -> None:
    work = Workdir(LocalFolder(str(tmp_path / "out")), "run")
    receipt = work.stage("merge").commit(facts(), SCHEMA, [rows(0, 3)])
    assert receipt.file == "part-00000.parquet"
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "out.work/run/merge/00000.json",
        "out/data/part-00000.parquet",
    }
    work.stage("merge").reopen("00000")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_small_batches_become_one_row_group_and_large_ones_several() -> None:
    def groups(batches: list[pa.RecordBatch]) -> list[int]:
        metadata = pq.read_metadata(pa.BufferReader(parquet_bytes(batches[0].schema, batches, facts())[0]))
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    assert groups([rows(0, 100)] * 50) == [5000]
    assert groups([rows(0, 1 << 15)] * 5) == [1 << 16, 1 << 16, 1 << 15]
    heavy = pa.record_batch({"text": pa.array(["x" * (17 << 20)])})
    assert groups([heavy] * 3) == [2, 1]


def columns_of(text: str, settings: Settings) -> list[tuple[bool, str]]:
    """Of a file with the numbers 0 to 19 and this text beside each: has a dictionary, and its compression."""
    batches = [rows(0, 10, text), rows(10, 10, text)]
    group = pq.read_metadata(pa.BufferReader(parquet_bytes(SCHEMA, batches, facts(), settings=settings)[0])).row_group(
        0
    )
    columns = [group.column(number) for number in range(group.num_columns)]
    return [(column.has_dictionary_page, column.compression) for column in columns]


def test_an_output_has_dictionaries_of_words_but_not_of_long_texts_or_numbers_that_differ() -> None:
    assert columns_of("short", output_settings) == [(False, "ZSTD"), (True, "ZSTD")]
    assert columns_of("long " * 20, output_settings) == [(False, "ZSTD"), (False, "ZSTD")]


def test_a_work_file_compresses_long_texts_alone() -> None:
    assert columns_of("short", work_settings) == [(False, "UNCOMPRESSED"), (True, "UNCOMPRESSED")]
    assert columns_of("long " * 20, work_settings) == [(False, "UNCOMPRESSED"), (False, "LZ4")]


def test_json_state_is_create_only(tmp_path: Path) -> None:
    work = Workdir(LocalFolder(str(tmp_path / "out")), "run")
    assert work.read_json("run.json") is None
    assert work.put_json("run.json", {"a": 1})
    assert not work.put_json("run.json", {"a": 2})
    assert work.read_json("run.json") == {"a": 1}


def test_the_runs_of_an_output_are_found_beside_it(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path / "out"))
    assert run_ids(output) == []
    for run_id in ("b", "a"):
        Workdir(output, run_id).put_json("run.json", {})
    work_root(output).put_new("stray file", b"")
    assert run_ids(output) == ["a", "b"]
    assert not (tmp_path / "out").exists()


def test_files_of_others_among_the_receipts_are_left_alone(tmp_path: Path) -> None:
    stage(tmp_path).commit(facts(), SCHEMA, [rows(0, 3)])
    for name in ("notes.json", "00000.json.bak", "2026.json", "-1.json", "a note.txt"):
        (stage_folder(tmp_path) / name).write_text("mine")
    (stage_folder(tmp_path) / "old").mkdir()
    assert list(stage(tmp_path).receipts()) == ["00000"]
    stage(tmp_path).commit(facts("00001"), SCHEMA, [rows(0, 3)])
    assert list(stage(tmp_path).receipts()) == ["00000", "00001"]
