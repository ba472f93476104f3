"""Names of datasets, by OpenLineage's rules: a namespace, such as a bucket or a server, and a name within it."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from batchroute.config.job import OutputSpec
from batchroute.storage.objects import is_local, local_path
from batchroute.storage.places import account_in, in_one_spelling
from batchroute.tables.sources.base import InputSpec
from batchroute.tables.targets.settings import TableSpec
from batchroute.tables.warehouse import Warehouse

# The scheme of a namespace where it is not that of the URI, and the port that a URI leaves out.
_SCHEMES = {"postgresql": "postgres"}
_PORTS = {"postgresql": 5432, "mysql": 3306, "redshift": 5439, "trino": 8080}
_GLOB = re.compile(r"[*?\[]")


class Name(NamedTuple):
    namespace: str
    name: str


def named_input(spec: InputSpec) -> Name:
    """A query is a dataset of its own, known by its text's digest: which tables it reads is not looked at."""
    if spec.warehouse:
        digest = hashlib.sha256(spec.query.encode()).hexdigest()[:8]
        return named_table(Warehouse(spec.warehouse), f"query-{digest}")
    if spec.iceberg:
        return _named_in_catalog(spec.iceberg, spec.catalog)
    return named_place(spec.delta or spec.uri)


def named_outputs(spec: OutputSpec) -> list[Name]:
    """The files, and the table that is loaded from them."""
    table = spec.table
    return [named_place(spec.uri), *([] if table is None else [_named_target(table)])]


def named_place(uri: str) -> Name:
    """Files: of a glob the folder before its first wildcard."""
    if is_local(uri):
        return Name("file", _without_glob(local_path(uri)))
    scheme, _, rest = in_one_spelling(uri).partition("://")
    root, _, path = rest.partition("/")
    account = account_in(uri)
    if scheme == "abfs":
        scheme, root = "abfss", root if account is None else f"{root}@{account}.dfs.core.windows.net"
    return Name(
        f"{scheme}://{root.rpartition('@')[2] if scheme != 'abfss' else root}", _without_glob(path).strip("/") or "/"
    )


def named_table(warehouse: Warehouse, table: str) -> Name:
    """`database.schema.table` of a server; a database in a file has the file's name before that of its table."""
    parts = urlsplit(warehouse.identity)
    if warehouse.scheme in ("sqlite", "duckdb"):
        return Name("file", f"{parts.path}:{table}")
    database = parts.path.strip("/").replace("/", ".")
    host = parts.netloc.rpartition("@")[2]
    port = "" if ":" in host or warehouse.scheme not in _PORTS else f":{_PORTS[warehouse.scheme]}"
    scheme = _SCHEMES.get(warehouse.scheme, warehouse.scheme)
    return Name(f"{scheme}://{host}{port}", f"{database}.{table}".lstrip("."))


def _named_target(table: TableSpec) -> Name:
    if table.warehouse:
        return named_table(Warehouse(table.warehouse, "output.table.warehouse"), table.name)
    return named_place(table.delta) if table.delta else _named_in_catalog(table.iceberg, table.catalog)


def _named_in_catalog(table: str, catalog: dict[str, str]) -> Name:
    """The address of a catalog may hold a secret: its host alone is named."""
    parts = urlsplit(catalog.get("uri", ""))
    host = parts.netloc.rpartition("@")[2]
    return Name(f"iceberg://{host}" if host else "iceberg", table)


def _without_glob(path: str) -> str:
    found = _GLOB.search(path)
    return path if found is None else path[: found.start()].rpartition("/")[0] or "/"
