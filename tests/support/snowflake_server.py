"""The emulator fakesnow as a server: `python -m tests.support.snowflake_server PORT LOG`. The log has a line of JSON
for each login and each statement.

It is helped where it does not do what Snowflake's documentation says, and a load could not be shown otherwise: the
driver's stage of parquet files has their format, temporary tables take a COPY, a MERGE stays within its transaction,
and conflicts and violated constraints are errors of a statement instead of the server's.
"""

from __future__ import annotations

import gzip
import json
import sys
from typing import Any

import duckdb
import snowflake.connector.errors as errors
import uvicorn
from fakesnow import copy_into, cursor
from fakesnow.server import app, login_request
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_execute = cursor.FakeSnowflakeCursor.execute
_describe = copy_into._describe_table
_STAGE = "@ADBC$BIND MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
# What the server describes after a MERGE, to tell the types of its answer.
_MERGED = 'select 0::bigint as "number of rows inserted"'


def execute(self: Any, command: str, *arguments: Any, **more: Any) -> Any:
    log({"statement": command})
    if command.endswith(_STAGE):
        command += " FILE_FORMAT = (TYPE = PARQUET)"
    try:
        done = _execute(self, command, *arguments, **more)
    except duckdb.TransactionException as error:
        message = f"Statement has locked table in a transaction: {error}"
        raise errors.ProgrammingError(msg=message, errno=625, sqlstate="57014") from error
    except duckdb.ConstraintException as error:
        raise errors.ProgrammingError(msg=str(error), errno=100072, sqlstate="22000") from error
    if command.lower().startswith("merge"):
        self._last_sql = _MERGED
    return done


def describe(table: Any, connection: Any, database: str | None, schema: str | None) -> list[tuple[str, str]]:
    query = "select column_name, data_type from duckdb_columns() where database_name = 'temp' and table_name = ?"
    return connection.execute(query, [table.name]).fetchall() or _describe(table, connection, database, schema)


async def login(request: Request) -> Response:
    body = await request.body()
    zipped = request.headers.get("Content-Encoding") == "gzip"
    log({"login": json.loads(gzip.decompress(body) if zipped else body)["data"]})
    return await login_request(request)


def log(what: dict[str, Any]) -> None:
    with open(sys.argv[2], "a") as file:
        file.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    cursor.FakeSnowflakeCursor.execute = execute
    copy_into._describe_table = describe
    cursor.transforms.merge = lambda expression: [expression]
    app.router.routes.insert(0, Route("/session/v1/login-request", login, methods=["POST"]))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
