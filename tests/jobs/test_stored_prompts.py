"""Whole jobs on prompts as people store them: chats in JSON, images, calls of tools, templates, JSON lines and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_duckdb.dbapi as duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.commands.validate import validate
from batchroute.commands.verify import verify
from batchroute.errors import InputError, StoppedError
from tests.support.jobs import JobFolder
from tests.support.openai_server import OpenAIServer
from tests.support.postgres import execute, postgres

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOLS = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "rain", "tool_call_id": "c1"},
]


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


LISTS = pa.list_(
    pa.struct(
        {
            "role": pa.dictionary(pa.int8(), pa.string()),
            "content": pa.list_(
                pa.struct({"type": pa.string(), "text": pa.string(), "image_url": pa.struct({"url": pa.string()})})
            ),
            "tool_calls": pa.list_(
                pa.struct(
                    {
                        "id": pa.string(),
                        "type": pa.string(),
                        "function": pa.struct({"name": pa.string(), "arguments": pa.string()}),
                    }
                )
            ),
            "tool_call_id": pa.string(),
        }
    )
)


def in_parts(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat with all contents as lists, as a column of lists has them."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in chat
    ]


def job_of(folder: Path, table: pa.Table, prompt: Any = "prompt", **settings: Any) -> JobFolder:
    pq.write_table(table, folder / "in.parquet", row_group_size=2)
    spec = {"uri": str(folder / "in.parquet"), "prompt": prompt, **settings.pop("input", {})}
    return JobFolder(folder, input=spec, report={}, **settings)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with OpenAIServer(key="sk-test") as found:
        yield found


@pytest.mark.parametrize("backend", ["openai", "openai_batch"])
@pytest.mark.parametrize("stored", ["json", "lists"])
def test_images_and_calls_of_tools_reach_the_endpoint(
    tmp_path: Path, server: OpenAIServer, backend: str, stored: str
) -> None:
    chats = [user("easy"), user([{"type": "text", "text": "what is it?"}, IMAGE]), TOOLS]
    column = (
        pa.array([json.dumps(chat) for chat in chats]) if stored == "json" else pa.array(map(in_parts, chats), LISTS)
    )
    large = {"backend": backend, "model": "large", "endpoint": server.url, "price": {"input": 1, "output": 1}}
    if backend == "openai_batch":
        large["poll_seconds"] = 0.05
    job = job_of(tmp_path, pa.table({"prompt": column}), policy={"threshold": 2})
    job.settings["models"]["large"] = large
    assert job.run().exit_code == 0
    assert set(job.answers()["status"]) == {"ok"}
    assert "1 row with images or the like to the large model, by input.unsupported" in job.log
    assert "1 row holds images or the like and went to the large model" in (job.output / "report/report.md").read_text()
    if backend == "openai":
        sent = [request.body["messages"] for request in server.requests]
        assert sorted(sent, key=str) == sorted(chats, key=str)


def test_a_row_with_an_image_never_goes_to_the_small_model(tmp_path: Path) -> None:
    chats = [user(f"easy {n}") for n in range(6)]
    chats[3] = user(["look", IMAGE])
    table = pa.table({"n": range(6), "prompt": [json.dumps(chat) for chat in chats]})
    job = job_of(tmp_path, table, policy={"threshold": 0})
    job.run()
    assert job.answers()["route"].to_list() == ["small", "small", "small", "large", "small", "small"]


def test_a_row_with_an_image_can_fail_instead(tmp_path: Path) -> None:
    table = pa.table({"prompt": [json.dumps(user("easy")), json.dumps(user(["look", IMAGE]))]})
    job = job_of(tmp_path, table, input={"unsupported": "fail"})
    job.run()
    row = job.answers().row(1, named=True)
    assert (row["status"], row["error_type"]) == ("failed", "unsupported")
    assert row["error"] == "message 0 holds image_url, which is no text"


def test_a_run_on_chats_that_was_stopped_goes_on(tmp_path: Path) -> None:
    texts = [f"number {n} of many" for n in range(40)]
    table = pa.table({"n": range(40), "prompt": [json.dumps({"messages": user(text)}) for text in texts]})
    job = job_of(tmp_path, table, units={"score": 8, "generate": 4, "merge": 8})
    with pytest.raises(StoppedError):
        job.run("max_tokens=100")
    assert job.run().exit_code == 0
    assert job.answers()["response"].to_list() == texts
    assert verify(str(job.output)).wrong == []


def test_a_run_that_an_earlier_version_began_on_json_as_text_goes_on_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [json.dumps(user(f"number {n}")) for n in range(40)]
    job = job_of(tmp_path, pa.table({"prompt": texts}), units={"score": 8, "generate": 4, "merge": 8})
    with monkeypatch.context() as earlier:
        earlier.setattr("batchroute.tables.prompts._shows_chats", lambda field, table: False)
        with pytest.raises(StoppedError):
            job.run("max_tokens=100")
    assert job.run().exit_code == 0
    assert job.answers()["response"].to_list() == texts


@pytest.mark.parametrize("place", ["postgresql", "duckdb"])
def test_json_of_a_database_is_a_chat(tmp_path: Path, place: str) -> None:
    rows = [json.dumps(user("one")), json.dumps({"messages": user("two")}), json.dumps({"no": "chat"})]
    values = ", ".join(f"({number}, '{row}')" for number, row in enumerate(rows))
    spec = {"query": "select * from p order by id", "prompt": "prompt"}

    def check(warehouse: str) -> None:
        job = JobFolder(tmp_path, input={**spec, "warehouse": warehouse}, report={})
        job.run()
        assert job.answers()["response"].to_list() == ["one", "two", None]
        assert job.answers()["error_type"].to_list() == [None, None, "bad_chat"]

    if place == "duckdb":
        with duckdb.connect(str(tmp_path / "a.db")) as connection, connection.cursor() as cursor:
            cursor.execute("create table p (id int, prompt json)")
            cursor.execute(f"insert into p values {values}")
            connection.commit()
        check(f"duckdb:///{tmp_path}/a.db")
        return
    with postgres(tmp_path / "pg") as uri:
        execute(uri, "create table p (id int, prompt jsonb)", f"insert into p values {values}")
        check(uri)


def test_a_template_over_csv(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,title,body\n007,Fox,"quick, brown"\n008,,none\n')
    spec = {"uri": str(tmp_path / "in.csv"), "id": "id", "prompt": "{title}: {body}"}
    job = JobFolder(tmp_path, input=spec, report={})
    assert "columns  id text, title text, body text" in validate(job.load())
    job.run()
    assert "columns: id text, title text, body text" in job.log
    answers = job.answers()
    assert answers["id"].to_list() == ["007", "008"]
    assert answers["response"].to_list() == ["Fox: quick, brown", None]
    assert answers["error"].to_list() == [None, "'title' is null"]
    assert pl.read_parquet(job.output / "data" / "*.parquet").columns[:3] == ["id", "title", "body"]


def test_json_lines_are_converted_once_and_a_copy_of_them_resumes(tmp_path: Path) -> None:
    texts = [f"number {n} of many" for n in range(40)]
    path = tmp_path / "in.jsonl"
    pl.DataFrame({"id": range(40), "prompt": texts}).write_ndjson(path)
    spec = {"uri": str(path), "id": "id"}
    job = JobFolder(tmp_path, input=spec, report={}, units={"score": 8, "generate": 4, "merge": 8})
    with pytest.raises(StoppedError):
        job.run("max_tokens=100")
    (tmp_path / "copy").write_bytes(path.read_bytes())
    (tmp_path / "copy").replace(path)
    assert job.run().exit_code == 0
    assert "rows fetched" not in job.log
    assert job.answers()["response"].to_list() == texts
    path.write_text('{"id": 1, "prompt": "another"}\n')
    with pytest.raises(InputError, match=r"in\.jsonl has changed"):
        job.run()


def test_only_new_rows_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    for night, rows in (("one", range(3)), ("two", range(5))):
        path.write_text("".join(json.dumps({"id": n, "prompt": f"number {n}"}) + "\n" for n in rows))
        spec = {"uri": str(path), "id": "id", "only_new": {"by": "id"}}
        output = {"uri": str(tmp_path / night), "table": {"delta": str(tmp_path / "answers")}}
        job = JobFolder(tmp_path, input=spec, output=output, report={})
        job.run()
    assert pl.read_parquet(tmp_path / "two" / "data" / "*.parquet")["id"].to_list() == [3, 4]
