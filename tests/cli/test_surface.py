"""The public surface: what users' scripts, job files and readers of the output hold on to. Change it on purpose."""

from __future__ import annotations

import dataclasses
import inspect
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel

import batchroute
from batchroute import cli, errors
from batchroute.config.job import Job
from batchroute.costs.report import COLUMNS, ESCALATED, CostReport, Escalated
from batchroute.costs.usage import ModelUsage, RouterUsage
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.shards import names as shards
from batchroute.pipeline.stages.results import CONFIDENCE, READING, RESULTS, SIGNALS
from batchroute.reports import night as nights
from batchroute.reports.night import NightReport
from batchroute.storage.manifest import Manifest
from batchroute.storage.receipts import FORMAT_VERSION, Receipt

COMMANDS: dict[str, list[str]] = {
    "batchroute": ["--version"],
    "batchroute calibrate": ["--quality-table", "--router", "--output", "--signal", "--reader", "--seed"],
    "batchroute check-transfer": ["--router", "--quality-table", "--trained-on", "--seed"],
    "batchroute doctor": ["JOB_FILE", "--set", "--json"],
    "batchroute evaluate": [
        "--quality-table",
        "--output",
        "--router",
        "--compare",
        "--second-table",
        "--confidence",
        "--signal",
        "--reader",
        "--job",
        "--set",
        "--small-cost",
        "--bootstrap",
        "--seed",
        "--all-rows",
        "--overwrite",
    ],
    "batchroute export": ["OUTPUT", "--format", "--output", "--storage"],
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
        "--extract",
        "--judge-endpoint",
        "--prompt",
        "--id",
        "--reference",
        "--helper",
        "--signal",
        "--agree",
        "--small-model",
        "--large-model",
        "--recorded",
        "--keep-responses",
        "--import",
        "--fresh",
        "--json-logs",
    ],
    "batchroute models": [],
    "batchroute models fetch": ["BUNDLE"],
    "batchroute models list": [],
    "batchroute plan": ["JOB_FILE", "--set", "--sample", "--simulate"],
    "batchroute run": [
        "JOB_FILE",
        "--set",
        "--fresh",
        "--retry-failed",
        "--no-wait",
        "--json-logs",
        "--processes",
        "--nodes",
        "--node-rank",
        "--master",
        "--max-restarts",
        "--engine",
    ],
    "batchroute status": ["OUTPUT", "--storage"],
    "batchroute tables": [],
    "batchroute tables inspect": ["URI", "--table", "--query", "--catalog", "--storage"],
    "batchroute train": [
        "--quality-table",
        "--base",
        "--output",
        "--label",
        "--method",
        "--reads",
        "--add",
        "--epochs",
        "--patience",
        "--lr",
        "--batch-size",
        "--max-length",
        "--validation",
        "--test",
        "--seed",
        "--allow-pickle",
        "--overwrite",
    ],
    "batchroute validate": ["JOB_FILE", "--set", "--deep"],
    "batchroute what-if": ["OUTPUT", "--policy", "--storage"],
    "batchroute verify": ["OUTPUT", "--storage"],
    "batchroute report": ["OUTPUTS", "--output", "--storage"],
    "batchroute gc": ["OUTPUT", "--storage", "--older-than", "--dry-run"],
}
JOB_KEYS: list[str] = [
    "name",
    "input.uri",
    "input.format",
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
    "input.chat",
    "input.unsupported",
    "input.id",
    "input.schema",
    "input.storage_options",
    "output.uri",
    "output.storage_options",
    "output.single_writer",
    "output.keep_work",
    "output.prefix",
    "output.columns",
    "output.table.warehouse",
    "output.table.name",
    "output.table.delta",
    "output.table.iceberg",
    "output.table.catalog",
    "output.table.columns",
    "output.table.mode",
    "output.table.allow_new_columns",
    "output.table.storage_options",
    "router.model",
    "router.max_length",
    "router.token_budget",
    "router.precision",
    "router.allow_pickle",
    "router.price.input",
    "router.price.cached_input",
    "router.price.output",
    "router.price.batch_discount",
    "router.price.gpu_hour",
    "policy.threshold",
    "policy.small_share",
    "policy.max_quality_drop",
    "policy.rule",
    "policy.budget",
    "policy.by",
    "policy.groups",
    "policy.on_drift",
    "policy.decide",
    "policy.calibrate.rows",
    "policy.calibrate.metric.name",
    "policy.calibrate.metric.model",
    "policy.calibrate.metric.direction",
    "policy.calibrate.metric.extract",
    "policy.calibrate.metric.endpoint",
    "policy.calibrate.metric.api_key_env",
    "policy.calibrate.metric.batch_size",
    "policy.calibrate.metric.dtype",
    "policy.calibrate.reference",
    "policy.calibrate.reader",
    "policy.calibrate.seed",
    "policy.calibration",
    "policy.signals",
    "models.small.provider",
    "models.small.endpoint",
    "models.small.api_key_env",
    "models.small.api_key_file",
    "models.small.api_key_command",
    "models.small.headers",
    "models.small.query",
    "models.small.organization",
    "models.small.project",
    "models.small.concurrency",
    "models.small.requests_per_minute",
    "models.small.tokens_per_minute",
    "models.small.timeout",
    "models.small.retries",
    "models.small.length_key",
    "models.small.extra_body",
    "models.small.tokenizer",
    "models.small.batch_requests",
    "models.small.poll_seconds",
    "models.small.give_up_after",
    "models.small.batch_size",
    "models.small.batching",
    "models.small.dtype",
    "models.small.device_map",
    "models.small.quantization",
    "models.small.adapter",
    "models.small.trust_remote_code",
    "models.small.allow_pickle",
    "models.small.tensor_parallel",
    "models.small.data_parallel",
    "models.small.chat_template_kwargs",
    "models.small.engine",
    "models.small.python",
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
    "models.small.response_format",
    "models.small.reasoning",
    "models.small.confidence.logprobs",
    "models.small.confidence.samples",
    "models.small.confidence.agree",
    "models.small.confidence.model",
    "models.small.confidence.reader",
    "models.small.price.input",
    "models.small.price.cached_input",
    "models.small.price.output",
    "models.small.price.batch_discount",
    "models.small.price.gpu_hour",
    "models.small.on_failure",
    "models.small.escalate.json",
    "models.small.escalate.regex",
    "models.large.provider",
    "models.large.endpoint",
    "models.large.api_key_env",
    "models.large.api_key_file",
    "models.large.api_key_command",
    "models.large.headers",
    "models.large.query",
    "models.large.organization",
    "models.large.project",
    "models.large.concurrency",
    "models.large.requests_per_minute",
    "models.large.tokens_per_minute",
    "models.large.timeout",
    "models.large.retries",
    "models.large.length_key",
    "models.large.extra_body",
    "models.large.tokenizer",
    "models.large.batch_requests",
    "models.large.poll_seconds",
    "models.large.give_up_after",
    "models.large.batch_size",
    "models.large.batching",
    "models.large.dtype",
    "models.large.device_map",
    "models.large.quantization",
    "models.large.adapter",
    "models.large.trust_remote_code",
    "models.large.allow_pickle",
    "models.large.tensor_parallel",
    "models.large.data_parallel",
    "models.large.chat_template_kwargs",
    "models.large.engine",
    "models.large.python",
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
    "models.large.response_format",
    "models.large.reasoning",
    "models.large.confidence.logprobs",
    "models.large.confidence.samples",
    "models.large.confidence.agree",
    "models.large.confidence.model",
    "models.large.confidence.reader",
    "models.large.price.input",
    "models.large.price.cached_input",
    "models.large.price.output",
    "models.large.price.batch_discount",
    "models.large.price.gpu_hour",
    "models.large.on_failure",
    "models.large.escalate.json",
    "models.large.escalate.regex",
    "report.group_by",
    "report.audit.share",
    "report.audit.metric.name",
    "report.audit.metric.model",
    "report.audit.metric.direction",
    "report.audit.metric.extract",
    "report.audit.metric.endpoint",
    "report.audit.metric.api_key_env",
    "report.audit.metric.batch_size",
    "report.audit.metric.dtype",
    "report.audit.reference",
    "report.audit.seed",
    "report.signals",
    "cache.uri",
    "cache.days",
    "cache.storage_options",
    "prices.file",
    "prices.published",
    "prices.on",
    "max_cost",
    "max_tokens",
    "max_failed",
    "units.score",
    "units.generate",
    "units.merge",
    "ray.address",
    "ray.router.num_gpus",
    "ray.router.num_cpus",
    "ray.router.min",
    "ray.router.max",
    "ray.router.accelerator_type",
    "ray.small.num_gpus",
    "ray.small.num_cpus",
    "ray.small.min",
    "ray.small.max",
    "ray.small.accelerator_type",
    "ray.large.num_gpus",
    "ray.large.num_cpus",
    "ray.large.min",
    "ray.large.max",
    "ray.large.accelerator_type",
    "notify.url",
    "notify.on",
    "notify.metrics",
    "notify.pushgateway",
    "lineage.url",
    "lineage.file",
    "lineage.api_key_env",
    "lineage.namespace",
    "lineage.nominal_time",
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
        "prices",
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
        "quality",
        "versions",
        "precision",
    ],
    "report/cost.json": [
        "name",
        "run_id",
        "currency",
        "rows",
        "cost_advantage",
        "router",
        "reader",
        "models",
        "escalated",
        "deferred",
        "calibration",
        "audited",
        "total_cost",
        "baseline",
        "savings",
        "missing_prices",
        "groups",
        "failures",
    ],
    "report/cost.json: router": [
        "model",
        "rows",
        "tokens",
        "truncated",
        "unscored",
        "busy_seconds",
        "load_seconds",
        "cost",
        "price",
    ],
    "report/cost.json: models, escalated.usage": [
        "model",
        "rows",
        "generated",
        "copies",
        "answered",
        "failed",
        "cut",
        "input_tokens",
        "cached_tokens",
        "output_tokens",
        "reasoning_tokens",
        "estimated",
        "sample_input_tokens",
        "sample_output_tokens",
        "router_tokens",
        "busy_seconds",
        "load_seconds",
        "cost",
        "price",
        "hits",
        "hit_input_tokens",
        "hit_output_tokens",
        "hit_cost",
    ],
    "report/cost.json: escalated": ["rows", "reasons", "small_cost", "usage"],
    "report/report.json": [
        "format_version",
        "finished",
        "cost",
        "policy",
        "by",
        "choices",
        "expected",
        "alternatives",
        "curve",
        "scores",
        "audit",
        "drift",
        "on_drift",
        "stages",
        "failures",
        "assumptions",
        "calibration",
        "prices",
        "deciding",
        "spread",
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
ROUTES: list[str] = ["small", "large", "small→large"]
EXIT_CODES: dict[str, int] = {
    "EXIT_OK": 0,
    "EXIT_FAILED_ROWS": 1,
    "EXIT_BAD_INPUT": 2,
    "EXIT_STOPPED": 3,
    "EXIT_WAITING": 4,
    "EXIT_CRASHED": 70,
    "EXIT_INTERRUPTED": 130,
    "EXIT_CLOSED": 141,
    "EXIT_TERMINATED": 143,
}


FUNCTIONS: dict[str, list[str]] = {
    "run": ["job", "set", "fresh", "retry_failed", "wait", "engine", "processes", "progress"],
    "validate": ["job", "set"],
    "plan": ["job", "set", "sample", "progress"],
    "read": ["output", "storage_options", "into"],
}
ERRORS = ["BatchrouteError", "FailedRowsError", "InputError", "StoppedError", "Terminated", "WaitingError"]


def test_the_library_has_these_functions() -> None:
    assert sorted(batchroute.__all__) == sorted([*FUNCTIONS, *ERRORS, "Plan", "Result", "__version__"])
    assert {name: list(inspect.signature(getattr(batchroute, name)).parameters) for name in FUNCTIONS} == FUNCTIONS
    assert [field.name for field in dataclasses.fields(batchroute.Result) if field.repr] == [
        "output", "run_id", "was_done", "rows", "counts", "cost", "savings", "sentence", "figures", "data", "report",
        "manifest",
    ]  # fmt: skip


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
        key, section = prefix + (field.alias or name), _section(field.annotation)
        found += keys(section, f"{key}.") if section else [key]
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


def test_a_job_that_looks_at_answers_adds_these_columns_too() -> None:
    assert {field.name: str(field.type) for field in (CONFIDENCE, *SIGNALS, READING)} == {
        "confidence": "float", "logprob": "float", "logprob_low": "float", "agreement": "float", "reading": "float"
    }  # fmt: skip


def test_the_route_of_a_row_is_one_of_these() -> None:
    assert list(dict.fromkeys(shards.ROUTES.values())) == ROUTES
    assert ESCALATED in ROUTES


def test_the_written_files_have_these_keys() -> None:
    models: dict[str, type[BaseModel]] = {
        "run.json": Snapshot,
        "receipt": Receipt,
        "manifest.json": Manifest,
        "report/cost.json": CostReport,
        "report/cost.json: router": RouterUsage,
        "report/cost.json: models, escalated.usage": ModelUsage,
        "report/cost.json: escalated": Escalated,
        "report/report.json": NightReport,
    }
    assert {name: list(model.model_fields) for name, model in models.items()} == FILES


def test_the_reports_files_have_these_names() -> None:
    assert list(nights.FILES) == [
        "cost.json", "cost.parquet", "report.json", "report.html", "report.md", "metrics.prom", "focus.parquet",
        "audit.parquet", "calibration.parquet",
    ]  # fmt: skip


def test_the_table_of_costs_has_these_columns() -> None:
    assert list(COLUMNS) == COST_COLUMNS


def test_the_format_version_is_raised_with_the_format() -> None:
    assert FORMAT_VERSION == 1


def test_the_exit_codes_are_those_that_schedulers_act_on() -> None:
    assert {name: code for name, code in vars(errors).items() if name.startswith("EXIT_")} == EXIT_CODES
    assert errors.BatchrouteError.exit_code == errors.InputError.exit_code == EXIT_CODES["EXIT_BAD_INPUT"]
    assert errors.StoppedError.exit_code == EXIT_CODES["EXIT_STOPPED"]
    assert not issubclass(errors.Terminated, Exception)
