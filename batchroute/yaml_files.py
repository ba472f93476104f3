"""Settings in YAML files: read with each key once, checked against a model, every problem in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from batchroute.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def read(path: str, what: str, model: type[BaseModel]) -> dict[str, Any]:
    """The settings in a YAML file, unchecked.

    Args:
        what: the kind of file for error messages, such as `job file`.
        model: has the top-level keys.

    Raises:
        InputError: naming the file, and the line where there is one: the file cannot be read, is no YAML mapping, or
            has a key twice.
    """
    try:
        tree = value(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot read the {what} {path}: {reason}") from error
    except _KeyTwice as error:
        raise InputError(f"{path} line {error.line}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: a {what} is a mapping with the keys {', '.join(model.model_fields)}")
    return tree


def value(text: str) -> Any:
    """A value in YAML.

    Raises:
        yaml.YAMLError: the text is not valid YAML, or has a key twice.
        ValueError: a date does not exist.
    """
    return yaml.load(text, _KeysOnce)


def check(model: type[Model], settings: dict[str, Any], path: str) -> Model:
    """The settings of a file as `model`. An empty section gives its defaults.

    Raises:
        InputError: a line for each problem, naming the file and the key.
    """
    try:
        return model.model_validate(_without_empty_sections(settings, model))
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {problem}" for problem in problems(error, model))) from error


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """What `model` refused: a sentence for each key."""
    return list(dict.fromkeys(_sentence(problem, model) for problem in error.errors()))


class _KeyTwice(yaml.YAMLError):
    """A mapping has a key twice, the second time at `line`."""

    def __init__(self, key: str, first: int, line: int) -> None:
        super().__init__(f"the key '{key}' is there already, on line {first}: keep one of the two")
        self.line = line


class _KeysOnce(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error. PyYAML itself takes the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first:
                    raise _KeyTwice(key.value, first[key.value], line)
                first[key.value] = line
        return node


def _without_empty_sections(settings: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The settings without the sections that are empty (null in YAML) and have defaults."""
    kept = {}
    for key, setting in settings.items():
        field = model.model_fields.get(key)
        annotation = None if field is None else field.annotation
        is_section = _is_model(annotation) or get_origin(annotation) is dict
        if field is not None and is_section and setting is None and not field.is_required():
            continue
        section = _section(annotation)
        kept[key] = _without_empty_sections(setting, section) if section and isinstance(setting, dict) else setting
    return kept


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _keys_of(_model_at(model, location[:-1]))
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    if problem["type"] == "model_type":
        section = _model_at(model, location)
        needed = [name for name, field in section.model_fields.items() if field.is_required()]
        keys = f"it needs {' and '.join(needed)}" if needed else f"its keys are {', '.join(_keys_of(section))}"
        given = problem["input"]
        return f"{key}: {'the section is empty' if given is None else f'should be a section, not {given!r}'}; {keys}"
    if problem["type"] == "too_short":
        return f"{key}: is empty: name at least {problem['ctx']['min_length']}, or leave it out"
    if problem["type"] == "dict_type" and problem["input"] is None:
        return f"{key}: the section is empty"
    if location and location[-1] == "[key]":
        return f"{'.'.join(location[:-1])}: the name is text: put it in quotation marks"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] not in ("value_error", "model_type", "dict_type") and problem["input"] is not None:
        message += f" (it is {problem['input']!r})"
    # Without a key the problem is of several sections, which the message names.
    return f"{key}: {message[0].lower()}{message[1:]}" if key else message


def _keys_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    """The model of the section at this place of the file."""
    parts = iter(location)
    for part in parts:
        annotation = model.model_fields[part].annotation
        named = _named_sections(annotation)
        if named is not None:
            next(parts, None)
        section = named or _section(annotation)
        assert section is not None, f"{part} is no section"
        model = section
    return model


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _named_sections(annotation: Any) -> type[BaseModel] | None:
    """The model of sections under names of the user's own; None where the annotation is no such mapping."""
    values = [get_args(option)[1] for option in _options(annotation) if get_origin(option) is dict]
    return next((value for value in values if _is_model(value)), None)


def _section(annotation: Any) -> type[BaseModel] | None:
    return next((option for option in _options(annotation) if _is_model(option)), None)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
