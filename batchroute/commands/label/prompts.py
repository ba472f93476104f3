"""The input of `batchroute label`: parquet as it is, and JSON lines or CSV, which are converted each time."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.tables.files import Files, InputFile
from batchroute.tables.parquet import PromptTable
from batchroute.tables.sources import files_of
from batchroute.tables.sources.base import InputSpec
from batchroute.tables.sources.text import TextRows, columns_in_words
from batchroute.tables.text_files import TextFiles


@dataclass(frozen=True)
class LabelPrompts:
    """The rows to label, and the files that they come from.

    Attributes:
        files: as the user named them, of which the identity is made.
        columns: of files without types, the types that were found, in words; empty of parquet.
    """

    source: Files
    files: list[InputFile]
    table: PromptTable
    columns: str = ""
    # Holds the converted rows as long as the labelling lasts.
    _folder: Any = field(default=None, repr=False)


def open_prompts(uri: str) -> LabelPrompts:
    """Raises:
    InputError: nothing matches, or something cannot be read.
    """
    source = files_of(InputSpec(uri=uri))
    if not isinstance(source, TextFiles):
        files = source.find()
        return LabelPrompts(source, files, PromptTable.open(files, source))
    rows = TextRows(source, uri)
    pinned = rows.pin()
    files = [InputFile.model_validate(file) for file in pinned["files"]]
    folder = tempfile.TemporaryDirectory(prefix="batchroute-label-")
    # Messages name the rows by the file's own name.
    path = os.path.join(folder.name, os.path.basename(files[0].path) if len(files) == 1 else "rows")
    with rows.rows(pinned) as reader:
        pq.write_table(_with_lists(reader.read_all(), pinned["columns"]), path)
    converted = Files(path)
    table = PromptTable.open(converted.find(), converted)
    return LabelPrompts(source, files, table, columns_in_words(pinned), folder)


def _with_lists(table: pa.Table, kinds: dict[str, str]) -> pa.Table:
    """The rows with lists of texts where JSON holds nothing else: recorded responses are such lists."""
    for number, name in enumerate(table.column_names):
        if kinds[name] != "JSON":
            continue
        values = [None if text is None else json.loads(text) for text in table[name].to_pylist()]
        if all(value is None or _is_texts(value) for value in values):
            table = table.set_column(number, name, pa.array(values, pa.list_(pa.string())))
    return table


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
