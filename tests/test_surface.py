"""The public surface: what users' scripts, job files and readers of the output hold on to. Change it on purpose."""

from __future__ import annotations

import subprocess
import sys
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel

from batchroute import cli, errors
from batchroute.costs.report import COLUMNS, CostReport
from batchroute.spec import Job
from batchroute.stages.context import Snapshot
from batchroute.stages.merge import RESULTS
from batchroute.storage.manifest import Manifest
from batchroute.storage.workdir import FORMAT_VERSION, Receipt

COMMANDS: dict[str, list[str]] = {
    "batchroute": ["--version"],
    "batchroute calibrate": ["--quality-table", "--router", "--seed"],
    "batchroute evaluate": [
        "--quality-table",
        "--router",
        "--output",
        "--compare",
        "--second-table",
        "--bootstrap",
        "--seed",
        "--all-rows",
        "--overwrite",
    ],
    "batchroute label": [
        "PROMPTS",
        "--output",
        "--metric",
        "--job",
        "--set",
        "--samples",
        "--temperature",
        "--seed",
        "--metric-model",
        "--metric-direction",
        "--judge-endpoint",
        "--prompt",
        "--id",
        "--reference",
        "--small-model",
        "--large-model",
        "--keep-responses",
        "--fresh",
        "--json-logs",
    ],
    "batchroute models": [],
    "batchroute models fetch": ["BUNDLE"],
    "batchroute run": ["JOB_FILE", "--set", "--fresh", "--retry-failed", "--json-logs"],
    "batchroute status": ["OUTPUT", "--storage"],
    "batchroute tables": [],
    "batchroute tables inspect": ["URI", "--table", "--query", "--catalog", "--storage"],
    "batchroute train": [
        "--quality-table",
        "--base",
        "--output",
        "--label",
        "--epochs",
        "--patience",
        "--lr",
        "--batch-size",
        "--max-length",
        "--validation",
        "--test",
        "--seed",
        "--overwrite",
    ],
    "batchroute validate": ["JOB_FILE", "--set"],
    "batchroute verify": ["OUTPUT", "--storage"],
    "batchroute gc": ["OUTPUT", "--storage", "--older-than", "--dry-run"],
}
JOB_KEYS: list[str] = [
    "name",
    "input.uri",
    "input.warehouse",
    "input.query",
    "input.delta",
    "input.iceberg",
    "input.catalog",
    "input.version",
    "input.timestamp",
    "input.where",
    "input.only_new.by",
    "input.prompt",
    "input.id",
    "input.storage_options",
    "output.uri",
    "output.storage_options",
    "output.single_writer",
    "output.keep_work",
    "output.prefix",
    "output.table.warehouse",
    "output.table.name",
    "output.table.delta",
    "output.table.iceberg",
    "output.table.catalog",
    "output.table.mode",
    "output.table.allow_new_columns",
    "output.table.storage_options",
    "router.model",
    "router.max_length",
    "router.token_budget",
    "router.price.input",
    "router.price.output",
    "router.price.gpu_hour",
    "policy.threshold",
    "policy.small_share",
    "policy.max_quality_drop",
    "policy.rule",
    "models.small.backend",
    "models.small.model",
    "models.small.template",
    "models.small.system",
    "models.small.generation.max_new_tokens",
    "models.small.generation.temperature",
    "models.small.generation.top_p",
    "models.small.generation.top_k",
    "models.small.generation.seed",
    "models.small.generation.stop",
    "models.small.batch_size",
    "models.small.dtype",
    "models.small.price.input",
    "models.small.price.output",
    "models.small.price.gpu_hour",
    "models.large.backend",
    "models.large.model",
    "models.large.template",
    "models.large.system",
    "models.large.generation.max_new_tokens",
    "models.large.generation.temperature",
    "models.large.generation.top_p",
    "models.large.generation.top_k",
    "models.large.generation.seed",
    "models.large.generation.stop",
    "models.large.batch_size",
    "models.large.dtype",
    "models.large.price.input",
    "models.large.price.output",
    "models.large.price.gpu_hour",
    "report.group_by",
    "max_failed",
    "units.score",
    "units.generate",
    "units.merge",
]
RESULT_COLUMNS: dict[str, str] = {
    "route": "string",
    "score": "float",
    "model": "string",
    "response": "large_string",
    "finish_reason": "string",
    "input_tokens": "int32",
    "output_tokens": "int32",
    "cost": "decimal128(20, 12)",
    "status": "string",
    "error_type": "string",
    "error": "string",
    "attempts": "int32",
}
FILES: dict[str, list[str]] = {
    "run.json": [
        "format_version",
        "run_id",
        "fingerprint",
        "settings",
        "source",
        "files",
        "rows",
        "prompt_kind",
        "chunk_rows",
        "unit_rows",
        "part_rows",
    ],
    "receipt": [
        "run_id",
        "unit",
        "rows",
        "first",
        "last",
        "seconds",
        "load_seconds",
        "finished",
        "counts",
        "file",
        "bytes",
        "sha256",
    ],
    "manifest.json": [
        "format_version",
        "name",
        "run_id",
        "fingerprint",
        "settings",
        "source",
        "input_files",
        "committed_at",
        "committed_by",
        "rows",
        "counts",
        "cutoff",
        "files",
        "report",
        "cost",
        "versions",
    ],
    "report/cost.json": [
        "name",
        "run_id",
        "currency",
        "rows",
        "cost_advantage",
        "router",
        "models",
        "total_cost",
        "baseline",
        "savings",
        "missing_prices",
        "groups",
        "failures",
    ],
}
COST_COLUMNS: list[str] = [
    "name",
    "run_id",
    "route",
    "model",
    "rows",
    "failed",
    "input_tokens",
    "output_tokens",
    "cost",
]
EXIT_CODES: dict[str, int] = {
    "EXIT_OK": 0,
    "EXIT_FAILED_ROWS": 1,
    "EXIT_BAD_INPUT": 2,
    "EXIT_STOPPED": 3,
    "EXIT_INTERRUPTED": 130,
    "EXIT_TERMINATED": 143,
}


def commands() -> dict[str, list[str]]:
    """Each command with its arguments and options."""
    return dict(sorted(_commands(typer.main.get_command(cli.app), "batchroute")))


def _commands(command: Any, name: str) -> list[tuple[str, list[str]]]:
    parameters = [
        parameter.opts[0] if parameter.param_type_name == "option" else parameter.name.upper()
        for parameter in command.params
        if "--help" not in parameter.opts
    ]
    children = getattr(command, "commands", {})
    below = [pair for child in children.values() for pair in _commands(child, f"{name} {child.name}")]
    return [(name, parameters), *below]


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted keys of a model and of the models in it."""
    found = []
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        found += keys(section, f"{prefix}{name}.") if section else [prefix + name]
    return found


def _section(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    models = [option for option in options if option is not NoneType]
    return models[0] if isinstance(models[0], type) and issubclass(models[0], BaseModel) else None


def test_the_commands_and_their_options_are_those_that_scripts_use() -> None:
    assert commands() == COMMANDS


def test_the_keys_of_a_job_file_are_those_that_job_files_use() -> None:
    assert keys(Job) == JOB_KEYS


def test_the_output_adds_these_columns_of_these_types() -> None:
    assert {field.name: str(field.type) for field in RESULTS} == RESULT_COLUMNS


def test_the_written_files_have_these_keys() -> None:
    models = {"run.json": Snapshot, "receipt": Receipt, "manifest.json": Manifest, "report/cost.json": CostReport}
    assert {name: list(model.model_fields) for name, model in models.items()} == FILES


def test_the_table_of_costs_has_these_columns() -> None:
    assert list(COLUMNS) == COST_COLUMNS


def test_the_format_version_is_raised_with_the_format() -> None:
    assert FORMAT_VERSION == 1


def test_the_exit_codes_are_those_that_schedulers_act_on() -> None:
    assert {name: code for name, code in vars(errors).items() if name.startswith("EXIT_")} == EXIT_CODES
    assert errors.BatchrouteError.exit_code == errors.InputError.exit_code == EXIT_CODES["EXIT_BAD_INPUT"]
    assert errors.StoppedError.exit_code == EXIT_CODES["EXIT_STOPPED"]
    assert not issubclass(errors.Terminated, Exception)


@pytest.mark.parametrize(
    "package", ["torch", "transformers", "accelerate", "polars", "pyarrow", "numpy", "pydantic", "yaml", "fsspec"]
)
def test_help_loads_nothing_heavy(package: str, imported_for_help: set[str]) -> None:
    assert "batchroute.cli" in imported_for_help
    assert package not in imported_for_help


@pytest.fixture(scope="module")
def imported_for_help() -> set[str]:
    """The modules that are loaded when `--help` has answered."""
    script = (
        "import sys\nsys.argv = ['batchroute', '--help']\nfrom batchroute import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('\\n' + ' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: batchroute" in done.stdout
    return set(done.stdout.splitlines()[-1].split())
