"""`batchroute tables inspect`, on real tables."""

from __future__ import annotations

from pathlib import Path

import adbc_driver_sqlite.dbapi as sqlite
import polars as pl
import pytest
from deltalake import write_deltalake
from pyiceberg.catalog import load_catalog
from rich.console import Console

from batchroute.errors import InputError
from batchroute.tables.preview import Preview, preview

FRAME = pl.DataFrame(
    {
        "team": ["a", "a", None],
        "note": ["a long text that is no prompt", "another one", "and one more"],
        "question": ["why?", "how?", "[bold]who?"],
        "request_id": [1, 2, 3],
    }
)


def shown(found: Preview) -> str:
    console = Console(record=True, width=200)
    found.show(console)
    return console.export_text()


def test_files_a_delta_table_an_iceberg_table_and_a_warehouse(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.write_ndjson(tmp_path / "a.jsonl")
    FRAME.write_csv(tmp_path / "a.csv")
    write_deltalake(tmp_path / "delta", FRAME.to_arrow())
    settings = {"type": "sql", "uri": f"sqlite:///{tmp_path}/c.db", "warehouse": f"file://{tmp_path}/lake"}
    catalog = load_catalog("default", **settings)
    catalog.create_namespace("lake")
    catalog.create_table("lake.t", schema=FRAME.to_arrow().schema).append(FRAME.to_arrow())
    with sqlite.connect(str(tmp_path / "w.db")) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("t", FRAME.to_arrow())
        connection.commit()
    warehouse = f"sqlite://{tmp_path}/w.db"
    previews = [
        preview(str(tmp_path / "a.parquet"), "", "", {}, {}),
        preview(str(tmp_path / "a.jsonl"), "", "", {}, {}),
        preview(str(tmp_path / "a.csv"), "", "", {}, {}),
        preview(str(tmp_path / "delta"), "", "", {}, {}),
        preview("lake.t", "", "", settings, {}),
        preview(warehouse, "", "t", {}, {}),
        preview(warehouse, "select * from t;", "", {}, {}),
    ]
    for found in previews:
        assert found.id_column() == "request_id"
        assert found.prompt_column() == "question"
        text = shown(found)
        assert "1 of 3" in text
        assert "[bold]who?" in text
    assert [found.rows for found in previews] == [3, None, None, 3, None, 3, 3]


def test_chat_messages_are_prompts_and_values_that_repeat_are_no_ids(tmp_path: Path) -> None:
    frame = FRAME.with_columns(id=pl.lit(1), chat=pl.Series([[{"role": "user", "content": "x"}]] * 3))
    frame.drop("request_id").write_parquet(tmp_path / "a.parquet")
    found = preview(str(tmp_path / "a.parquet"), "", "", {}, {})
    assert found.prompt_column() == "chat"
    assert found.id_column() is None


def test_without_rows_or_text_nothing_is_guessed(tmp_path: Path) -> None:
    pl.DataFrame({"n": []}, schema={"n": pl.Float64}).write_parquet(tmp_path / "a.parquet")
    found = preview(str(tmp_path / "a.parquet"), "", "", {}, {})
    assert (found.prompt_column(), found.id_column(), found.rows) == (None, None, 0)
    assert "0 rows" in shown(found)


@pytest.mark.parametrize(
    ("uri", "table", "query", "message"),
    [
        ("sqlite:///x.db", "", "", "a --table or a --query"),
        ("x.parquet", "t", "", "are of a warehouse"),
        ("x.parquet", "", "", "no such file"),
        ("sqlite:///nowhere.db", "t", "", "no such file"),
        ("oracle://x", "t", "", "no driver for oracle"),
    ],
)
def test_what_cannot_be_inspected_is_one_sentence(uri: str, table: str, query: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        preview(uri, query, table, {}, {})
