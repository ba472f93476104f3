"""Quality tables from MixInstruct as it is published: one JSON object a line, with the answers of many models.

A line has `id`, `instruction`, `input`, `output` (the reference) and `candidates`: each with its `model`, its `text`
and its `scores` by metric ("LLM-Blender", arXiv 2306.02561, section 3). "Hybrid LLM" measures on these prompts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.fields import SIDES, Side
from batchroute.storage.table_file import TableFile

_RESPONSES = "responses.parquet"
_KEY = "batchroute.label"


def import_mixinstruct(file: str, output: str, score: str, names: Mapping[Side, str], keep_responses: bool) -> int:
    """Write the quality table of two of the file's models; with `keep_responses` their texts too.

    A line that lacks one of the models, or its score, stays in the table as a failed row.

    Args:
        score: the metric, as `scores` calls it: `bartscore`, `bertscore`, `rougeL`, …
        names: the models, as `candidates` names them.

    Returns:
        The number of rows that have qualities.

    Raises:
        InputError: the file is missing or of another form, the output is there, or no line has both models.
    """
    for side in SIDES:
        if side not in names:
            raise InputError(f"--import mixinstruct needs --{side}-model: one of the file's models")
    table = TableFile(output, _KEY)
    if table.exists():
        raise InputError(f"the output {table.output} is there already: name another, or remove it")
    models: set[str] = set()
    scores: set[str] = set()
    rows = [_row(file, number, line, names, score, models, scores) for number, line in _lines(file)]
    labelled = [row["status"] for row in rows].count("ok")
    if not labelled:
        raise InputError(
            f"no line of '{file}' has the score '{score}' of both models: it has the models {_listed(models)} and the "
            f"scores {_listed(scores)}"
        )
    metadata = {f"{side}_model": names[side] for side in SIDES} | {"metric": score}
    columns = pa.Table.from_pylist(rows, schema=_SCHEMA)
    # Read by nobody but a second import to the same place.
    fingerprint = hashlib.sha256(json.dumps([file, score, dict(names)]).encode()).hexdigest()
    if keep_responses:
        table.put(
            columns.drop_columns([name for name in _SCHEMA.names if name.endswith("_quality")]),
            fingerprint,
            metadata,
            _RESPONSES,
        )
    dropped = ["reference", *(f"{side}_responses" for side in SIDES)]
    table.put(columns.drop_columns(dropped), fingerprint, metadata)
    return labelled


_TEXTS, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.float64())
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("small_responses", _TEXTS),
        ("large_responses", _TEXTS),
        ("small_quality", _NUMBERS),
        ("large_quality", _NUMBERS),
        ("status", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]
)


def _lines(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(f"'{file}' does not exist: name a file of MixInstruct, JSON lines")
    with path.open(encoding="utf-8") as stream:
        try:
            for number, text in enumerate(stream, 1):
                if text.strip():
                    yield number, _object(file, number, text)
        except UnicodeDecodeError as error:
            raise InputError(f"'{file}' is not text in UTF-8: {error.reason}") from error


def _object(file: str, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise InputError(f"line {number:,} of '{file}' is not JSON: {error}") from error
    if (
        not isinstance(line, dict)
        or not isinstance(line.get("instruction"), str)
        or not isinstance(line.get("candidates"), list)
    ):
        raise InputError(f"line {number:,} of '{file}' has no instruction and candidates: is it MixInstruct?")
    return line


def _row(
    file: str,
    number: int,
    line: dict[str, Any],
    names: Mapping[Side, str],
    score: str,
    models: set[str],
    scores: set[str],
) -> dict[str, Any]:
    """One row of `_SCHEMA`; notes the models and scores that the line has."""
    row: dict[str, Any] = {
        "id": str(line.get("id", number)),
        "prompt": "\n\n".join(part for part in (line["instruction"], line.get("input")) if part),
        "reference": line.get("output"),
        "status": "ok",
    }
    for side, name in names.items():
        mine = [one for one in line["candidates"] if isinstance(one, dict) and one.get("model") == name]
        row[f"{side}_responses"] = [str(one.get("text") or "") for one in mine]
        values = [(one.get("scores") or {}).get(score) for one in mine]
        row[f"{side}_quality"] = [float(value) for value in values if _is_number(value)]
        if not row[f"{side}_quality"]:
            row |= {"status": "failed", "error_type": "no_response", "error": f"no {score} of {name}"}
    if row["status"] != "ok":
        row |= {f"{side}_quality": [] for side in SIDES}
    for one in line["candidates"]:
        if isinstance(one, dict):
            models.add(str(one.get("model")))
            scores.update(one.get("scores") or {})
    return row


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
