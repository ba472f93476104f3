"""Drift: the one schema of files whose columns differ, and their rows in it. Decided from footers alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.files import Files, InputFile
from batchroute.tables.footers import fits, holds_only, is_value
from batchroute.tables.types import bare, converted, is_bytes, is_text
from batchroute.tables.widening import is_certain, wider

_WHOLE = re.compile("-?[0-9]{1,18}")
_FIELD_ID = b"PARQUET:field_id"
_NAMED = 20


@dataclass
class _Column:
    """A column of the union."""

    field: pa.Field
    seen: list[tuple[pa.DataType, InputFile]]
    """Each type that it has, and the first file that has it."""


@dataclass(frozen=True)
class Union:
    """The columns of all files, by name."""

    schema: pa.Schema
    lacking: dict[str, str] = field(default_factory=dict)
    """The first file without it, by column."""
    in_words: str = ""
    """What differs between the files: missing columns, and types that were widened."""


def union(files: Sequence[InputFile], schemas: Sequence[pa.Schema], source: Files) -> Union:
    """The columns of the first file, then those that later files add; each of a type that holds all its values.

    Raises:
        InputError: a file has two columns of one name, or a column has types of which none holds the values of both.
    """
    columns: dict[str, _Column] = {}
    lacking: dict[str, str] = {}
    having: Counter[str] = Counter()
    for number, (file, schema) in enumerate(zip(files, schemas, strict=True)):
        having.update(schema.names)
        if number and schema.equals(schemas[number - 1], check_metadata=True):
            continue
        _refuse_twice(file, schema)
        for found in schema:
            column = columns.get(found.name)
            if column is None:
                columns[found.name] = _Column(found if not number else _added(found), [(found.type, file)])
                if number:
                    lacking[found.name] = files[0].path
            elif not found.equals(column.field, check_metadata=True):
                _widen(column, found, file)
        for name in columns.keys() - set(schema.names):
            lacking.setdefault(name, file.path)
            columns[name].field = columns[name].field.with_nullable(True)
    for column in columns.values():
        if any(not is_certain(kind, column.field.type) for kind, _ in column.seen):
            _check_values(column, files, schemas, source)
    schema = pa.schema([column.field for column in columns.values()], schemas[0].metadata)
    missing = {name: (len(files) - having[name], path) for name, path in lacking.items()}
    return Union(schema, lacking, _in_words(columns, missing, len(files)))


def _in_words(columns: Mapping[str, _Column], missing: Mapping[str, tuple[int, str]], files: int) -> str:
    """
    Args:
        missing: by column, how many of the files lack it, and the first of them.
    """
    said = []
    for name, column in columns.items():
        if name in missing and name not in _hive_names(column):
            count, path = missing[name]
            said.append(f"'{name}' is missing in {count:,} of {files:,} files, such as {path}, and null there")
        if any(_differs(kind, column.field.type) for kind, _ in column.seen):
            kinds = " and ".join(dict.fromkeys(str(kind) for kind, _ in column.seen))
            said.append(f"'{name}' is {kinds}, read as {column.field.type}")
    shown = "; ".join(said[:_NAMED])
    return shown if len(said) <= _NAMED else f"{shown}; and {len(said) - _NAMED:,} more"


def _differs(kind: pa.DataType, wide: pa.DataType) -> bool:
    """Whether two types are more than two forms of one."""
    kind, wide = bare(kind), bare(wide)
    return kind != wide and not (is_text(kind) and is_text(wide)) and not (is_bytes(kind) and is_bytes(wide))


def _hive_names(column: _Column) -> Collection[str]:
    return column.seen[0][1].hive


def with_hive(schema: pa.Schema, files: Sequence[InputFile], schemas: Sequence[pa.Schema], source: Files) -> pa.Schema:
    """The schema with the columns of partition folders at its end. One that the files hold too stays where it is.

    Raises:
        InputError: only some files are in such folders, or a file holds other values than its folder names.
    """
    if any(file.hive.keys() != files[0].hive.keys() for file in files):
        raise InputError("input: only some files are in partition folders like 'day=1'; partition all of them alike")
    for name in files[0].hive:
        if name in schema.names:
            _check_folders(schema.field(name), files, schemas, source)
            continue
        values = [file.hive[name] for file in files]
        whole = all(value is None or _WHOLE.fullmatch(value) for value in values) and any(values)
        schema = schema.append(pa.field(name, pa.int64() if whole else pa.string()))
    return schema


def check_alike(files: Sequence[InputFile], schemas: Sequence[pa.Schema]) -> None:
    """Raises:
    InputError: the files' columns differ in more than their order, or one is named as a partition folder.
    """
    first, first_file = schemas[0], files[0]
    for name in first_file.hive:
        if name in first.names:
            raise InputError(f"input: '{name}' is a column and a partition folder; rename one of them")
    for file, schema in zip(files[1:], schemas[1:], strict=True):
        for column in first:
            if column.name not in schema.names:
                raise InputError(f"input: {file.path} has no column '{column.name}', but {first_file.path} has")
            if schema.field(column.name).type != column.type:
                raise InputError(_two_types(column.name, schema.field(column.name).type, file, column.type, first_file))
        for name in schema.names:
            if name not in first.names:
                raise InputError(f"input: {file.path} has a column '{name}' that {first_file.path} does not have")


def conform(batch: pa.RecordBatch, schema: pa.Schema, file: InputFile) -> pa.RecordBatch:
    """The rows of a file in the schema of all files. A column that it lacks has the value of its hive folder, or null.

    Raises:
        InputError: a value has no place in the wider type.
    """
    columns = []
    for wanted in schema:
        if wanted.name in batch.schema.names:
            column = batch.column(wanted.name)
        elif wanted.name in file.hive:
            column = pa.array([file.hive[wanted.name]] * batch.num_rows, pa.string())
        else:
            column = pa.nulls(batch.num_rows, wanted.type)
        try:
            columns.append(converted(column, wanted.type))
        except pa.ArrowInvalid as error:
            raise InputError(
                f"input: column '{wanted.name}' of {file.path} is {column.type} and has a value that {wanted.type} "
                "does not hold, its type in other files; cast one of them"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _refuse_twice(file: InputFile, schema: pa.Schema) -> None:
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"input: {file.path} has two columns '{twice}'; rename one of them")


def _added(found: pa.Field) -> pa.Field:
    """A field of a later file: null in the others, and without the number that it may share with one of theirs."""
    entries = {name: value for name, value in (found.metadata or {}).items() if name != _FIELD_ID}
    return found.with_nullable(True).with_metadata(entries or None)


def _widen(column: _Column, found: pa.Field, file: InputFile) -> None:
    """Make the column hold what is found in the file, too."""
    before = column.field
    kind = wider(before.type, found.type)
    if kind is None:
        other, other_file = next((seen for seen in column.seen if wider(seen[0], found.type) is None), column.seen[0])
        raise InputError(
            f"{_two_types(found.name, found.type, file, other, other_file)}, and no type holds the values of both; "
            "cast one of them"
        )
    if all(found.type != seen for seen, _ in column.seen):
        column.seen.append((found.type, file))
    # An entry of the field, such as the values of a polars Enum, may be of one file or one type alone.
    entries = {
        name: value for name, value in (before.metadata or {}).items() if (found.metadata or {}).get(name) == value
    }
    kept = before.with_metadata(entries or None) if kind == before.type else pa.field(found.name, kind)
    column.field = kept.with_nullable(before.nullable or found.nullable)


def _check_values(column: _Column, files: Sequence[InputFile], schemas: Sequence[pa.Schema], source: Files) -> None:
    name, wide = column.field.name, column.field.type
    for file, schema in zip(files, schemas, strict=True):
        kind = schema.field(name).type if name in schema.names else None
        if kind is None or is_certain(kind, wide) or fits(source.footer(file), name, kind, wide):
            continue
        other, other_file = next(seen for seen in column.seen if seen[0] != kind)
        raise InputError(
            f"{_two_types(name, kind, file, other, other_file)}, and its footer does not show that all its values fit "
            f"into {wide}; cast one of them"
        )


def _check_folders(column: pa.Field, files: Sequence[InputFile], schemas: Sequence[pa.Schema], source: Files) -> None:
    for file, schema in zip(files, schemas, strict=True):
        value = file.hive[column.name]
        if column.name in schema.names:
            agrees = holds_only(source.footer(file), column.name, schema.field(column.name).type, value)
        else:
            agrees = is_value(value, column.type)
        if not agrees:
            raise InputError(
                f"input: '{column.name}' is a column and a partition folder, and the footer of {file.path} does not "
                "show that all its rows hold the folder's value; rename one of them"
            )


def _two_types(name: str, kind: pa.DataType, file: InputFile, other: pa.DataType, other_file: InputFile) -> str:
    return f"input: column '{name}' is {kind} in {file.path}, but {other} in {other_file.path}"
