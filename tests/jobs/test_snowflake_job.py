"""Prompts from Snowflake, and answers into it: as far as its emulator shows it (tests/support/snowflake_server.py)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from batchroute.commands.validate import validate
from batchroute.errors import InputError, StoppedError
from batchroute.pipeline import run as job
from batchroute.pipeline.stages.load import load
from batchroute.progress import NoProgress
from batchroute.storage import manifest
from batchroute.storage.objects import folder_at
from batchroute.tables import snowflake
from batchroute.tables.preview import preview
from batchroute.tables.targets import target_of
from batchroute.tables.targets.base import Answers
from batchroute.tables.targets.snowflake import SnowflakeTarget
from batchroute.tables.warehouse import Warehouse
from tests.jobs.accepted import ARROW
from tests.support.jobs import JobFolder, table
from tests.support.snowflake import Snowflake

DDL = ("create", "drop", "alter", "truncate", "put", "copy")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snowflake]:
    with Snowflake(tmp_path_factory.mktemp("snowflake")) as started:
        yield started


class Night(JobFolder):
    """A job that loads into a database of its own."""

    def __init__(self, server: Snowflake, folder: Path, frame: pl.DataFrame, **into: Any) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder, frame, report={})
        self.server = server
        self.settings["output"]["table"] = {"name": "answers", **into, "warehouse": server.uri(self.database)}

    @property
    def database(self) -> str:
        return f"db_{self.folder.parent.name}".replace("-", "_")

    def rows(self, name: str = "answers") -> list[dict[str, Any]]:
        return self.server.query(f"select * from {name} order by id", self.database)

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.server.query(statement, self.database)


def test_answers_are_loaded_once_under_names_that_need_no_quotes(server: Snowflake, tmp_path: Path) -> None:
    night = Night(server, tmp_path / "one", table(30))
    night.run()
    assert "loaded 30 rows" in night.log
    answers, rows = night.answers().sort("id"), night.rows()
    assert list(rows[0]) == [name.upper() for name in answers.columns]
    for name in ("id", "response", "input_tokens", "cost"):
        assert [row[name.upper()] for row in rows] == answers[name].to_list()
    assert night.run().was_done
    assert "were loaded before" in night.log
    assert len(night.rows()) == 30
    with pytest.raises(InputError, match=r"earlier commit of this run .* append would repeat"):
        night.run(fresh=True)


def test_a_load_is_one_transaction_without_anything_that_commits(server: Snowflake, tmp_path: Path) -> None:
    night = Night(server, tmp_path / "one", table(5), mode="upsert")
    night.settings["output"]["table"]["name"] = "public.answers"
    night.run()
    said = [statement.lower() for statement in server.log("statement")]
    begun = len(said) - said[::-1].index("begin")
    inside = said[begun : said.index("commit", begun)]
    assert [statement.split()[0] for statement in inside] == ["update", "select", "delete", "insert", "merge"]
    assert not [statement for statement in inside if statement.startswith(DDL)]
    assert [statement.split()[0] for statement in said[:begun]].count("copy") > 0
    assert len(night.rows("public.answers")) == 5


def test_nights_are_appended_replaced_and_upserted(server: Snowflake, tmp_path: Path) -> None:
    frame = table(30)
    Night(server, tmp_path / "one", frame[:10]).run()
    two = Night(server, tmp_path / "two", frame[:20])
    two.settings["input"]["only_new"] = {"by": "id"}
    two.run()
    assert "10 rows left out" in two.log
    assert len(two.rows()) == 20
    changed = frame[15:25].with_columns(prompt=pl.lit("changed ") + pl.col("id"))
    three = Night(server, tmp_path / "three", changed, mode="upsert")
    three.run()
    assert [row["PROMPT"].startswith("changed") for row in three.rows()].count(True) == 10
    assert len(three.rows()) == 25
    four = Night(server, tmp_path / "four", frame[:3], mode="replace")
    four.run()
    assert len(four.rows()) == 3


def test_a_run_that_was_killed_before_its_load_loads_when_it_is_run_again(
    server: Snowflake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = Night(server, tmp_path / "one", table(9))

    def end(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "load", end)
        with pytest.raises(KeyboardInterrupt):
            night.run()
    assert night.rows() == []
    assert night.run().was_done
    assert len(night.rows()) == 9


def test_a_load_ends_while_another_one_holds_the_lock(server: Snowflake, tmp_path: Path) -> None:
    """Snowflake waits for the lock, for ten minutes; the emulator refuses at once."""
    night = Night(server, tmp_path / "one", table(9))
    into = night.settings["output"].pop("table")
    night.run()
    night.settings["output"]["table"] = into
    output = folder_at(str(night.output))
    committed = manifest.read(output)
    target = target_of(night.load().output.table, None)
    assert committed is not None
    assert target is not None
    target.prepare(pq.read_schema(next((night.output / "data").glob("*.parquet"))))
    with Warehouse(into["warehouse"]).connected() as connection, connection.cursor() as cursor:
        cursor.execute("begin")
        cursor.execute("update batchroute_loads set loaded_at = 'now' where load_id = 'lock'")
        with pytest.raises(StoppedError, match=r"committed in .*, but not loaded .* locked"):
            load(night.load(), output, committed, NoProgress(), attempts=1)
        assert night.rows() == []
        cursor.execute("rollback")
    night.run()
    assert len(night.rows()) == 9


def test_columns_of_any_type_are_loaded(server: Snowflake, tmp_path: Path) -> None:
    night = Night(server, tmp_path / "one", table(1))
    row = {"id": pa.array(["r"]), "prompt": pa.array(["hello there"]), "Odd name": pa.array(["x"])}
    names = [name.replace(" ", "_") for name in ARROW]
    pq.write_table(pa.table({**row, **dict(zip(names, ARROW.values(), strict=True))}), night.input)
    night.run()
    assert night.rows()[0]["Odd name"] == "x"
    kinds = {row["name"].lower(): row["type"] for row in server.query("describe table answers", night.database)}
    wanted = {
        "int32": "NUMBER(38,0)",
        "float32": "FLOAT",
        "decimal128(20,_4)": "NUMBER(20,4)",
        "binary": "BINARY(8388608)",
    }
    assert {name: kinds[name] for name in wanted} == wanted
    assert [kinds[name] for name in ("struct", "map", "list_of_text", "decimal256(50,_4)")] == ["VARCHAR(16777216)"] * 4


def test_a_table_that_is_there_is_compared_before_the_work(server: Snowflake, tmp_path: Path) -> None:
    night = Night(server, tmp_path / "one", table(3).with_columns(tags=pl.lit(["a"]), score2=pl.lit(1, pl.Int64)))
    night.execute(
        'create table answers (id varchar(20), "answer" varchar, cost float, tags variant, score2 number(5,0))'
    )
    night.settings["output"]["table"]["columns"] = {'"answer"': "response"}
    for use in (lambda: validate(night.load()), night.run):
        with pytest.raises(InputError, match=r"SCORE2 is NUMBER\(5,0\) there and int64 here"):
            use()
    assert not (night.output / "data").exists()
    night.settings["output"]["table"]["columns"]["score2"] = None
    assert "table    a load of no rows went through" in validate(night.load(), deep=True)
    night.run()
    assert "costs are rounded to 15 digits" in night.log
    (first, *_) = night.rows()
    assert (first["SCORE2"], json.loads(first["TAGS"])) == (None, ["a"])
    assert first["answer"] == night.answers().sort("id")["response"][0]


def test_of_two_loaders_the_second_one_sees_the_first(server: Snowflake, tmp_path: Path) -> None:
    """The first loads while the second one has its rows ready. The emulator cannot do both at once."""
    night = Night(server, tmp_path / "one", table(9))
    night.run("output.table=null")
    schema = pq.read_schema(next((night.output / "data").glob("*.parquet")))
    rows = pq.read_table(night.output / "data").cast(schema)
    answers = Answers("load", 1, 9, schema, lambda: iter(rows.to_batches()))
    first, second = (target_of(night.load().output.table, None) for _ in range(2))
    assert isinstance(first, SnowflakeTarget)
    assert isinstance(second, SnowflakeTarget)
    first.prepare(schema)
    stage = second._stage

    def stage_and_wait(*arguments: Any) -> None:
        stage(*arguments)
        assert first.load(answers)

    second._stage = stage_and_wait  # type: ignore[method-assign]
    assert not second.load(answers)
    assert len(night.rows()) == 9


def test_a_value_that_the_table_refuses_is_not_shown(server: Snowflake, tmp_path: Path) -> None:
    night = Night(server, tmp_path / "one", table(2).with_columns(note=pl.Series(["a", None])))
    night.execute("create table answers (id varchar, response varchar, note varchar not null)")
    night.run("output.table=null")
    output = folder_at(str(night.output))
    committed = manifest.read(output)
    assert committed is not None
    with pytest.raises(InputError, match=r"not loaded into the table: .* 22000: a null in a column that takes none$"):
        load(night.load(), output, committed, NoProgress(), attempts=1)
    assert night.rows() == []


def test_a_schema_that_is_missing_is_known_before_the_night(server: Snowflake, tmp_path: Path) -> None:
    night = Night(server, tmp_path / "one", table(3), name="nowhere.answers")
    for use in (lambda: validate(night.load()), lambda: validate(night.load(), deep=True), night.run):
        with pytest.raises(InputError, match="NOWHERE"):
            use()
    assert not (night.output / "data").exists()


def test_prompts_come_from_a_query_in_the_case_that_it_gives_them(server: Snowflake, tmp_path: Path) -> None:
    night = Night(server, tmp_path / "one", table(1))
    del night.settings["output"]["table"]
    night.execute(
        "create table backlog (id number, prompt varchar, seen timestamp_ntz, cents number(10,2), more variant)",
        "insert into backlog select 7, 'hello there', '2026-11-29 12:30:00', 1.25, parse_json('[1]')",
    )
    uri = server.uri(night.database)
    night.settings["input"] = {"warehouse": uri, "query": "select * from backlog", "id": "ID", "prompt": "PROMPT"}
    night.run()
    answers = night.answers()
    assert answers.columns[:5] == ["ID", "PROMPT", "SEEN", "CENTS", "MORE"]
    assert answers.schema["CENTS"] == pl.Decimal(10, 2)
    assert answers["MORE"][0] == "[1]"
    seen = preview(uri, "", "backlog", {}, {})
    assert (seen.id_column(), seen.prompt_column()) == ("ID", "PROMPT")
    night.settings["input"] |= {"id": "id", "prompt": "prompt"}
    with pytest.raises(InputError, match="no column 'prompt' in the input; it has ID, PROMPT"):
        night.run(fresh=True)
    with (
        pytest.raises(InputError, match="a timestamp is before 1677 or after 2262"),
        Warehouse(uri).query("select '9999-12-31'::timestamp as x") as reader,
    ):
        reader.read_all()


@pytest.mark.parametrize("passphrase", ["", "open sesame"])
def test_a_login_with_a_key_is_signed_and_sends_no_secret(
    server: Snowflake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    closed = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed)
    (tmp_path / "key.p8").write_bytes(pem)
    monkeypatch.setenv(snowflake.KEY_FILE, str(tmp_path / "key.p8"))
    monkeypatch.setenv(snowflake.PASSPHRASE, passphrase)
    with Warehouse(server.uri(login="me@")).query("select 1 as one") as reader:
        assert reader.read_all().num_rows == 1
    said = server.log("login")[-1]
    assert said["AUTHENTICATOR"] == "SNOWFLAKE_JWT"
    signed, _, signature = said["TOKEN"].rpartition(".")
    key.public_key().verify(
        base64.urlsafe_b64decode(signature + "=="), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    assert set(said["SESSION_PARAMETERS"]) == {
        *("ABORT_DETACHED_QUERY", "LOCK_TIMEOUT", "CLIENT_VALIDATE_DEFAULT_PARAMETERS")
    }
    assert not passphrase or passphrase not in json.dumps(said)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, r"has no password; write user:\$\{PASSWORD\}@, set SNOWFLAKE_PRIVATE_KEY_FILE"),
        ({snowflake.KEY_FILE: "/no/key"}, "private key /no/key cannot be read: No such file"),
        ({snowflake.KEY: "nonsense", snowflake.PASSPHRASE: "x"}, "is none, or PRIVATE_KEY_PASSPHRASE does not open it"),
        ({snowflake.KEY: "nonsense"}, "private key"),
    ],
)
def test_a_login_without_a_key_that_works_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in (snowflake.KEY_FILE, snowflake.KEY, snowflake.PASSPHRASE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as found:
        Warehouse("snowflake://me@account/db/schema").schema("select 1")
    assert "nonsense" not in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "parts"),
    [("answers", ["ANSWERS"]), ('db.s."an""s.w"', ["DB", "S", 'an"s.w']), ("a b", ["a b"]), ('"lower"', ["lower"])],
)
def test_names_are_taken_as_snowflake_takes_them(name: str, parts: list[str]) -> None:
    assert snowflake.parts_of(name) == parts
