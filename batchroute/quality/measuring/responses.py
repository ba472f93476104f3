"""Where the responses to be measured come from: sampled by the two models, or recorded in the input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.fields import Side
from batchroute.generators.base import as_text
from batchroute.quality.measuring.measurer import Answered
from batchroute.storage.units import Span, Stage
from batchroute.tables.parquet import PromptKind, PromptTable
from batchroute.tables.prompts import BadPrompt, read_prompts

RECORDED: dict[Side, str] = {"small": "small_responses", "large": "large_responses"}

Responses = tuple[list[str | None], tuple[str, str] | None]
"""The responses of one model to one prompt, None where it failed; and the first failure's type and words."""


class Source(Protocol):
    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        """By side, an entry a row of the unit; without a side that is not to be measured."""
        ...


class Sampled:
    """Out of the units that the models have finished."""

    def __init__(self, stages: Mapping[Side, Stage]) -> None:
        self._stages = stages

    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        return {side: self._of(stage, span) for side, stage in self._stages.items()}

    @staticmethod
    def _of(stage: Stage, span: Span) -> list[Responses]:
        texts: list[list[str | None]] = [[] for _ in range(span.rows)]
        errors: list[tuple[str, str] | None] = [None] * span.rows
        for row in stage.read(span.unit, ["position", "response", "error_type", "error"]).to_pylist():
            at = row["position"] - span.start
            texts[at].append(row["response"])
            if row["error_type"] is not None and errors[at] is None:
                errors[at] = (row["error_type"], row["error"])
        return list(zip(texts, errors, strict=True))


class Recorded:
    """Out of the input's columns `small_responses` and `large_responses`: lists of text, or one text a row."""

    def __init__(self, table: PromptTable) -> None:
        """Raises:
        InputError: one of the columns is missing or holds something else.
        """
        for column in RECORDED.values():
            table.check_column(column, "recorded responses")
            kind = table.schema.field(column).type
            inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
            if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
                raise InputError(f"column '{column}' is {kind}; recorded responses are lists of text, or text")
        self._reader = table.reader(list(RECORDED.values()))

    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        batches = list(self._reader.read(span.start, span.stop))
        return {
            side: [_texts(value) for batch in batches for value in batch.column(column)]
            for side, column in RECORDED.items()
        }


class Rows:
    """The rows to measure: prompts and references of the input with the responses of a source."""

    def __init__(
        self, table: PromptTable, prompt: str, kind: PromptKind, reference: str | None, source: Source, needed: bool
    ) -> None:
        """Args:
        reference: the column; None when the input has none.
        needed: whether the metric needs a reference.
        """
        self._kind, self._prompt, self._reference = kind, prompt, reference
        self._source, self._needed = source, needed
        self._reader = table.reader([prompt, *([] if reference is None else [reference])])

    def __call__(self, span: Span) -> list[Answered]:
        responses = self._source.responses(span)
        return [
            self._row(prompt, reference, {side: found[row] for side, found in responses.items()})
            for row, (prompt, reference) in enumerate(self._inputs(span))
        ]

    def _inputs(self, span: Span) -> Iterator[tuple[Any, str | None]]:
        for batch in self._reader.read(span.start, span.stop):
            prompts = read_prompts(batch.column(self._prompt), self._kind)
            if self._reference is None:
                yield from ((prompt, None) for prompt in prompts)
            else:
                yield from zip(prompts, map(_text, batch.column(self._reference)), strict=True)

    def _row(self, prompt: Any, reference: str | None, responses: dict[Side, Responses]) -> Answered:
        if isinstance(prompt, BadPrompt):
            return Answered("", None, {}, {}, (prompt.error_type, prompt.error))
        bad = None
        if self._needed and not (reference and reference.strip()):
            bad = ("no_reference", "the metric needs a reference, and the row has none")
        errors = {side: found[1] for side, found in responses.items() if found[1] is not None}
        return Answered(as_text(prompt), reference, {side: found[0] for side, found in responses.items()}, errors, bad)


def _text(value: pa.Scalar) -> str | None:
    """A reference; one that is not valid text is none."""
    try:
        found = value.as_py()
    except UnicodeDecodeError:
        return None
    return None if found is None else str(found)


def _texts(value: pa.Scalar) -> Responses:
    """The recorded responses of one row."""
    try:
        found = value.as_py()
    except UnicodeDecodeError as error:
        return [], ("bad_text", f"a recorded response is not valid UTF-8: {error.reason}")
    if found is None:
        return [], None
    return ([found] if isinstance(found, str) else list(found)), None
