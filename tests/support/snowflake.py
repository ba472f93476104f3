"""Snowflake for tests: the emulator fakesnow, on a free port of 127.0.0.1; its databases lie in memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import adbc_driver_snowflake.dbapi as snowflake

from tests.support.emulator import Emulator
from tests.support.seaweed import free_ports


class Snowflake(Emulator):
    """Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        (self._port,) = free_ports(1)
        self._log = folder / "snowflake.jsonl"

    def uri(self, database: str = "db1", login: str = "u:pw@") -> str:
        """Of a database of that name, which is made by the first connection."""
        return f"snowflake://{login}127.0.0.1:{self._port}/{database}/public?account=fakesnow&protocol=http"

    def query(self, statement: str, database: str = "db1") -> list[dict[str, Any]]:
        where = self.uri(database).partition("://")[2]
        with snowflake.connect(where, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            rows: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
            return rows

    def log(self, kind: str) -> list[Any]:
        """What the server was asked: `login` or `statement`."""
        lines = map(json.loads, self._log.read_text().splitlines())
        return [line[kind] for line in lines if kind in line]

    def __enter__(self) -> Snowflake:
        command = [sys.executable, "-m", "tests.support.snowflake_server", str(self._port), str(self._log)]
        self._start(command, lambda: self.query("select 1"))
        return self
