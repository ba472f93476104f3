"""Reading the job file: YAML, ${ENV}, --set, and errors in a sentence that names the key."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.policy.settings import RULES


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
    if parents == ["policy"] and last in RULES:
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
