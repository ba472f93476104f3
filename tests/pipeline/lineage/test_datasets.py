from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchroute.config.job import OutputSpec
from batchroute.pipeline.lineage.datasets import named_input, named_outputs
from batchroute.tables.sources.base import InputSpec


def query(warehouse: str) -> dict[str, str]:
    return {"warehouse": warehouse, "query": "SELECT 1"}


@pytest.mark.parametrize(
    ("spec", "namespace", "name"),
    [
        ({"uri": "/data/prompts/day=*/part-?.parquet"}, "file", "/data/prompts"),
        ({"uri": "/data/prompts.parquet"}, "file", "/data/prompts.parquet"),
        ({"uri": "in/*.parquet"}, "file", "CWD/in"),
        ({"uri": "s3a://prompts/nights/2026-11-24/*.parquet"}, "s3://prompts", "nights/2026-11-24"),
        ({"uri": "gcs://prompts/*.parquet"}, "gs://prompts", "/"),
        ({"uri": "az://in/a"}, "abfss://in", "a"),
        ({"uri": "abfss://in@acc.dfs.core.windows.net/a/b"}, "abfss://in@acc.dfs.core.windows.net", "a/b"),
        ({"uri": "https://ops:planted@example.com/data/in.parquet"}, "https://example.com", "data/in.parquet"),
        ({"delta": "s3://lake/prompts"}, "s3://lake", "prompts"),
        ({"iceberg": "ns.p", "catalog": {"uri": "https://u:planted@cat.org/v1"}}, "iceberg://cat.org", "ns.p"),
        (query("postgresql://u:planted@db/shop"), "postgres://db:5432", "shop.query-e004ebd5"),
        (query("sqlite:///data/a.db"), "file", "/data/a.db:query-e004ebd5"),
        (query("snowflake://u:planted@acc/db/public"), "snowflake://acc", "db.public.query-e004ebd5"),
    ],
)
def test_an_input_has_the_name_that_others_give_it(spec: dict[str, Any], namespace: str, name: str) -> None:
    found = named_input(InputSpec.model_validate(spec))
    assert found == (namespace, name.replace("CWD", str(Path.cwd())))


def test_a_table_that_is_loaded_is_an_output_too() -> None:
    table = {"warehouse": "postgresql://u:planted@db:5433/shop", "name": "public.answers"}
    assert named_outputs(OutputSpec.model_validate({"uri": "s3://answers/n", "table": table})) == [
        ("s3://answers", "n"),
        ("postgres://db:5433", "shop.public.answers"),
    ]
    lake = {"iceberg": "ns.answers"}
    assert named_outputs(OutputSpec.model_validate({"uri": "/a", "table": lake}))[1] == ("iceberg", "ns.answers")
