"""What each command imports: who looks at a run, or checks a job, must not wait for libraries of models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import JobFolder, table

MODELS = {"torch", "transformers", "tokenizers", "accelerate", "safetensors.torch", "openai"}
# Of tables, buckets, schemas and reports that the job does not have.
OTHERS = {"polars", "pandas", "pyarrow.dataset", "fsspec", "aiohttp", "jsonschema", "jinja2", "matplotlib", "ray"}
TABLES = {"numpy", "pyarrow"}
SETTINGS = {"batchroute.config.job", "yaml"}
UNWANTED = {
    "--help": MODELS | OTHERS | TABLES | SETTINGS | {"pydantic"},
    "status": MODELS | OTHERS | TABLES | SETTINGS,
    "verify": MODELS | OTHERS | SETTINGS,
    "validate": MODELS | OTHERS | {"rich.progress", "tenacity", "urllib.request"},
}
# One process for all, the lightest command first: each adds to what is imported already.
SCRIPT = """
import json, sys
from batchroute import cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["batchroute", *arguments]
    assert cli.command() == 0, arguments
    print("\\nimported:", json.dumps([arguments[0], *sys.modules]))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The modules that are there once a command is done."""
    folder = JobFolder(tmp_path_factory.mktemp("job"), table(40))
    folder.run()
    commands = [["--help"], ["status", str(folder.output)], ["verify", str(folder.output)], ["validate", folder.path]]
    run = [sys.executable, "-c", SCRIPT, json.dumps(commands)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "Usage: batchroute" in done.stdout
    assert "ok: 40 rows: id and prompt as in the input" in done.stdout
    lines = [json.loads(line.removeprefix("imported: ")) for line in done.stdout.splitlines() if "imported: " in line]
    return {command: set(modules) for command, *modules in lines}


@pytest.mark.parametrize("command", UNWANTED)
def test_a_command_imports_nothing_that_it_does_not_need(command: str, imported: dict[str, set[str]]) -> None:
    assert "batchroute.cli" in imported[command]
    assert not UNWANTED[command] & imported[command]
