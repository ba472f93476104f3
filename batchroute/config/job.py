"""The job file: what a run reads, decides, calls and writes."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from batchroute.costs import report
from batchroute.costs.price_lists import PricesSpec
from batchroute.costs.prices import Money, Price
from batchroute.engines.ray.pools import RaySpec
from batchroute.errors import InputError
from batchroute.fields import Share
from batchroute.generators.settings import ModelSpec
from batchroute.generators.validation import Check
from batchroute.hardware.devices import Precision
from batchroute.policy.settings import WAYS, Policy
from batchroute.quality.audit import AuditSpec
from batchroute.reports.export.notify import NotifySpec
from batchroute.tables.sources import InputSpec
from batchroute.tables.targets.base import TableSpec

Side = Literal["small", "large"]
SIDES: tuple[Side, Side] = ("small", "large")


class OutputSpec(BaseModel):
    """Where the answers go."""

    model_config = ConfigDict(extra="forbid")

    uri: str
    storage_options: dict[str, Any] = Field(default_factory=dict, description="of the fsspec filesystem")
    single_writer: bool = Field(default=False, description="accept a storage without create-only puts")
    keep_work: bool = Field(default=True, description="keep the work folder after the commit")
    prefix: str = Field(default="", description="put before the names of the result columns")
    table: TableSpec | None = Field(default=None, description="loaded from the committed files")


class RouterSpec(BaseModel):
    """The router: a Hugging Face sequence classifier whose score is high for easy prompts."""

    model_config = ConfigDict(extra="forbid")

    model: str
    max_length: int | None = Field(default=None, ge=8, description="tokens read of a prompt; the router's own limit")
    token_budget: int | None = Field(default=None, ge=64, description="tokens scored at a time, padding included")
    precision: Precision = Field(default="auto", description="auto: float32 on CPU, half precision on a GPU")
    allow_pickle: bool = Field(default=False, description="load weights that are no safetensors")
    price: Price | None = None


class JobModel(ModelSpec):
    """One of the two models of a job, with its price, and what becomes of rows that the small one does not manage."""

    price: Price | None = None
    on_failure: Literal["large"] | None = Field(
        default=None,
        description="large: rows that failed, were refused, cut, or came back empty go on to the large one",
    )
    escalate: Check | None = Field(default=None, description="so do rows whose response does not pass this check")

    @property
    def escalates(self) -> bool:
        return self.on_failure is not None or self.escalate is not None


class Models(BaseModel):
    model_config = ConfigDict(extra="forbid")

    small: JobModel
    large: JobModel

    @model_validator(mode="after")
    def _only_the_small_one_escalates(self) -> Self:
        if self.large.escalates:
            raise ValueError("on_failure and escalate are settings of models.small: there is no model above the large")
        return self

    def of(self, side: Side) -> JobModel:
        return self.small if side == "small" else self.large


class ReportSpec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    group_by: list[str] = Field(default_factory=list, description="input columns to split the costs by")
    audit: AuditSpec | None = Field(default=None, description="this share of small's rows to the large one too")

    @field_validator("group_by")
    @classmethod
    def _no_column_twice(cls, value: list[str]) -> list[str]:
        for number, name in enumerate(value):
            if name in report.COLUMNS:
                raise ValueError(f"'{name}' is a column of cost.parquet itself: rename the input's, or leave it out")
            if name in value[:number]:
                raise ValueError(f"'{name}' is there twice")
        return value


class Units(BaseModel):
    """How many rows are committed at a time. A crash repeats at most one unit."""

    model_config = ConfigDict(extra="forbid")

    score: int | None = Field(default=None, ge=1, description="rows of a scored chunk")
    generate: int | None = Field(default=None, ge=1, description="rows of a piece of a shard")
    merge: int | None = Field(default=None, ge=1, description="rows of an output file; whole chunks")


class Job(BaseModel):
    """A job file, checked."""

    model_config = ConfigDict(extra="forbid")

    name: str = "batchroute"
    input: InputSpec
    output: OutputSpec
    router: RouterSpec
    policy: Policy
    models: Models
    report: ReportSpec = Field(default_factory=ReportSpec)
    prices: PricesSpec | None = None
    max_cost: Money | None = Field(default=None, description="USD; a run that would cost more stops, to be resumed")
    max_tokens: int | None = Field(default=None, ge=1, description="of both models, prompts and responses together")
    max_failed: Share = Field(default="1%", validate_default=True, description="of all rows; more: exit code 1")
    units: Units = Field(default_factory=Units)
    ray: RaySpec = Field(default_factory=RaySpec, description="what --engine ray uses")
    notify: NotifySpec | None = Field(default=None, description="who is told that a run has ended")

    @model_validator(mode="after")
    def _sections_go_together(self) -> Self:
        if self.input.only_new is not None and self.output.table is None:
            raise ValueError("input.only_new needs output.table: what is new is known by what the table holds")
        total = self.policy.budget
        if total is not None and self.max_cost is not None and total > self.max_cost:
            raise ValueError(
                f"policy.budget {total} is more than max_cost {self.max_cost}, which stops the run: make them agree"
            )
        if self.output.table is not None and self.output.table.mode == "upsert" and self.input.id is None:
            raise ValueError("output.table.mode upsert needs input.id, the column that rows are known by")
        return self


def load(path: str, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job file.

    Args:
        path: of a YAML file.
        overrides: `key.of.a.setting=value`, with the value in YAML.

    Raises:
        InputError: naming the file and the key, and for an unknown key its nearest neighbour.
    """
    tree = _read_yaml(path)
    for override in overrides:
        _override(tree, override)
    expanded = _expand(tree, path, ())
    try:
        return Job.model_validate(expanded)
    except ValidationError as error:
        problems = [f"{path}: {_explain(problem)}" for problem in error.errors()]
        raise InputError("\n".join(dict.fromkeys(problems))) from error


def options_of(pairs: Sequence[str], option: str = "--storage") -> dict[str, Any]:
    """Options of a command line that are pairs, each `key.of.an.option=value` with the value in YAML.

    Raises:
        InputError: one is not of that form.
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        _override(tree, pair, option)
    return dict(_expand(tree, option, ()))


Checked = TypeVar("Checked", bound=BaseModel)


def checked(model: type[Checked], **values: Any) -> Checked:
    """A command's options, checked.

    Raises:
        InputError: naming the option.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(dict.fromkeys(_explain(problem) for problem in error.errors()))) from error


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot read the job file {path}: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: a job file is a mapping with the keys {', '.join(Job.model_fields)}")
    return tree


def _override(tree: dict[str, Any], override: str, option: str = "--set") -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"{option} {override}: write it as key=value, for example {_EXAMPLES[option]}")
    *parents, last = key.split(".")
    # The ways to decide exclude each other, so that setting one on the command line replaces the other.
    if parents == ["policy"] and last in WAYS:
        policy: Any = tree.get("policy")
        kept = ("on_drift", "rule") if last == "max_quality_drop" else ("on_drift",)
        tree["policy"] = {key: policy[key] for key in kept if key in policy} if isinstance(policy, dict) else {}
    branch = tree
    for parent in parents:
        branch = branch.setdefault(parent, {})
        if not isinstance(branch, dict):
            raise InputError(f"{option} {override}: '{parent}' is not a section")
    try:
        branch[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{option} {override}: the value is not valid YAML") from error


_EXAMPLES = {"--set": "policy.threshold=0.4", "--storage": "anon=true", "--catalog": "type=sql"}
_VARIABLE = re.compile(r"\$\$\{|\$\{(\w+)(?::-((?:[^{}]|\$\{[^{}]*\})*))?\}")


def _expand(value: Any, path: str, keys: tuple[str, ...]) -> Any:
    """Replace `${VAR}` and `${VAR:-default}` in all strings; `$${` stands for `${` itself."""
    if isinstance(value, dict):
        return {key: _expand(item, path, (*keys, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, path, (*keys, str(number))) for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def substitute(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match[1], match[2]
        # As in a shell, ":-" also replaces an empty value.
        found = os.environ.get(name) or (_VARIABLE.sub(substitute, default) if default is not None else None)
        if found is None and name not in os.environ:
            raise InputError(
                f"{path}: {'.'.join(keys)}: the environment variable {name} is not set; "
                f"set it, or write ${{{name}:-default}}"
            )
        return found or ""

    return _VARIABLE.sub(substitute, value)


def _explain(problem: Any) -> str:
    """One sentence for one of pydantic's errors."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] not in ("value_error", "model_type", "dict_type") and problem["input"] is not None:
        message += f" (it is {problem['input']!r})"
    # Of the file as a whole, that is of several sections, which the message names.
    return f"{key}: {message[0].lower()}{message[1:]}" if key else message


def _fields_at(location: Sequence[str]) -> list[str]:
    """The known keys of the section at this place of the job file."""
    model: type[BaseModel] = Job
    parts = iter(location)
    for part in parts:
        annotation = model.model_fields[part].annotation
        named = _named_sections(annotation)
        if named is not None:
            next(parts, None)
        model = named or _section(annotation)
    return [field.alias or name for name, field in model.model_fields.items()]


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _named_sections(annotation: Any) -> type[BaseModel] | None:
    """The section under each name, where the names are the user's own; None where they are fields."""
    values = [get_args(option)[1] for option in _options(annotation) if get_origin(option) is dict]
    return values[0] if values and isinstance(values[0], type) and issubclass(values[0], BaseModel) else None


def _section(annotation: Any) -> type[BaseModel]:
    options = _options(annotation)
    return next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
