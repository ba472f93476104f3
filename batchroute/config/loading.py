"""Loading the job file: YAML, ${ENV}, --set, and errors in a sentence that names the key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from batchroute import yaml_files
from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.policy.settings import RULES

JobFile = str | os.PathLike[str] | Mapping[str, Any]


def load(path: str, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job file.

    Args:
        path: of a YAML file.
        overrides: `key.of.a.setting=value`, with the value in YAML.

    Raises:
        InputError: naming the file and the key, with the nearest known key for an unknown one.
    """
    tree = yaml_files.read(path, "job file", Job)
    for override in overrides:
        _override(tree, override)
    return yaml_files.check(Job, _expand(tree, path, ()), path)


def load_from_python(job: JobFile, changes: Mapping[str, Any] | None = None) -> Job:
    """Read and check a job that Python code gives, which is left as it is.

    Args:
        job: path of a YAML file, or what such a file holds; `${VAR}` is replaced in both.
        changes: settings by their dotted keys, such as `{"policy.threshold": 0.4}`.

    Raises:
        InputError: as `load`.
    """
    if isinstance(job, Mapping):
        tree, place = _plain(job), "job"
    elif isinstance(job, str | os.PathLike):
        place = os.fspath(job)
        tree = yaml_files.read(place, "job file", Job)
    else:
        raise InputError(f"a job is the path of a job file, or a dict of its sections, not {type(job).__name__}")
    if not isinstance(changes, Mapping | None):
        raise InputError("set is a dict of settings by their keys, such as {'policy.threshold': 0.4}")
    for key, value in (changes or {}).items():
        _set(tree, str(key), _plain(value), f"set {key}")
    return yaml_files.check(Job, _expand(tree, place, ()), place)


def _plain(value: Any) -> Any:
    """A copy in which all containers are dicts and lists, and paths are text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def options_of(pairs: Sequence[str], option: str = "--storage") -> dict[str, Any]:
    """The values of a repeated command-line option, each `key.of.a.setting=value` with the value in YAML.

    Raises:
        InputError: a value has another form.
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        _override(tree, pair, option)
    return dict(_expand(tree, option, ()))


Options = TypeVar("Options", bound=BaseModel)


def checked(model: type[Options], **values: Any) -> Options:
    """A command's options as `model`.

    Raises:
        InputError: naming each option that is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(yaml_files.problems(error, model))) from error


def _override(tree: dict[str, Any], override: str, option: str = "--set") -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"{option} {override}: write it as key=value, for example {_EXAMPLES[option]}")
    try:
        parsed = yaml_files.value(value)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{option} {override}: the value is not valid YAML, or has a key twice") from error
    _set(tree, key, parsed, f"{option} {override}")


def _set(tree: dict[str, Any], key: str, value: Any, what: str) -> None:
    """Set the value at a dotted key; `what` begins an error's sentence."""
    *parents, last = key.split(".")
    # A policy has one rule: a rule on the command line replaces the job file's.
    if parents == ["policy"] and last in RULES:
        policy: Any = tree.get("policy")
        kept = ("on_drift", "rule") if last == "max_quality_drop" else ("on_drift",)
        tree["policy"] = {key: policy[key] for key in kept if key in policy} if isinstance(policy, dict) else {}
    branch = tree
    for parent in parents:
        if branch.get(parent) is None:
            branch[parent] = {}
        branch = branch[parent]
        if not isinstance(branch, dict):
            raise InputError(f"{what}: '{parent}' is not a section")
    branch[last] = value


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
        if os.environ.get(name) or (default is None and name in os.environ):
            return os.environ[name]
        if default is not None:
            return _VARIABLE.sub(substitute, default)
        raise InputError(
            f"{path}: {'.'.join(keys)}: the environment variable {name} is not set; "
            f"set it, or write ${{{name}:-default}}"
        )

    return _VARIABLE.sub(substitute, value)
