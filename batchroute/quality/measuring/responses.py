"""The responses to be measured: sampled from the two models, or recorded in the input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.fields import SIDES, Side
from batchroute.prompt import as_text
from batchroute.quality.base import NO_REFERENCE
from batchroute.quality.measuring.measurer import AnsweredRow, Reason
from batchroute.storage.units import Span, Stage
from batchroute.tables.chats import BadPrompt
from batchroute.tables.parquet import PromptTable
from batchroute.tables.prompts import Prompts

_RESPONSES = "_responses"
RECORDED: dict[Side, str] = {side: f"{side}{_RESPONSES}" for side in SIDES}

Responses = tuple[list[str | None], Reason | None]
"""The responses of one model to one prompt, None where it failed; and the reason of the first failure."""


class ResponseSource(Protocol):
    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        """By side, one entry per row of the unit; a side that is not measured is left out."""
        ...


class SampledResponses:
    """The responses in finished units of generation, by side."""

    def __init__(self, stages: Mapping[Side, Stage]) -> None:
        self._stages = stages

    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        return {side: _sampled(stage, span) for side, stage in self._stages.items()}


def _sampled(stage: Stage, span: Span) -> list[Responses]:
    texts: list[list[str | None]] = [[] for _ in range(span.rows)]
    errors: list[Reason | None] = [None] * span.rows
    for row in stage.read(span.unit, ["position", "response", "error_type", "error"]).to_pylist():
        index = row["position"] - span.start
        texts[index].append(row["response"])
        if row["error_type"] is not None and errors[index] is None:
            errors[index] = (row["error_type"], row["error"])
    return list(zip(texts, errors, strict=True))


class RecordedResponses:
    """Responses in the input's columns: a list of texts or one text per row."""

    def __init__(self, table: PromptTable, recorded: Mapping[Side, str]) -> None:
        """Args:
            recorded: by side, the prefix of its column `PREFIX_responses`.

        Raises:
            InputError: a column is missing or holds something else.
        """
        self._columns = {side: prefix + _RESPONSES for side, prefix in recorded.items()}
        for column in self._columns.values():
            table.check_column(column, "recorded responses")
            kind = table.schema.field(column).type
            inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
            if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
                raise InputError(f"column '{column}' is {kind}; recorded responses are lists of text, or text")
        self._reader = table.reader(list(dict.fromkeys(self._columns.values())))

    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        batches = list(self._reader.read(span.start, span.stop))
        return {
            side: [_recorded(value) for batch in batches for value in batch.column(column)]
            for side, column in self._columns.items()
        }


class EitherResponses:
    """Responses of one side from one source, of the other side from another."""

    def __init__(self, *sources: ResponseSource) -> None:
        self._sources = sources

    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        by_side = {side: found for source in self._sources for side, found in source.responses(span).items()}
        return {side: by_side[side] for side in SIDES if side in by_side}


class OneSide:
    """The responses of one model from a source that may have both."""

    def __init__(self, side: Side, source: ResponseSource) -> None:
        self._side, self._source = side, source

    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        return {self._side: self._source.responses(span)[self._side]}


class AnsweredRows:
    """The rows to measure: prompts and references from the input, responses from a source."""

    def __init__(
        self,
        table: PromptTable,
        prompts: Prompts,
        reference: str | None,
        source: ResponseSource,
        needs_reference: bool,
        likeness: bool = False,
        peer: int = 0,
    ) -> None:
        """Args:
        prompts: how they are made of the columns of `table`.
        reference: the column of references; None if the input has none.
        needs_reference: whether a row without a reference is bad.
        likeness: the large model's responses are the references.
        peer: see `AnsweredRow.peer`.
        """
        self._prompts, self._reference, self._likeness, self._peer = prompts, reference, likeness, peer
        self._source, self._needs_reference = source, needs_reference and not likeness and not peer
        self._reader = table.reader([*prompts.columns, *([] if reference is None else [reference])])

    def __call__(self, span: Span) -> list[AnsweredRow]:
        by_side = self._source.responses(span)
        return [
            self._row(prompt, reference, {side: responses[row] for side, responses in by_side.items()})
            for row, (prompt, reference) in enumerate(self._inputs(span))
        ]

    def _inputs(self, span: Span) -> Iterator[tuple[Any, str | None]]:
        for batch in self._reader.read(span.start, span.stop):
            prompts = self._prompts.read(batch)
            if self._reference is None:
                yield from ((prompt, None) for prompt in prompts)
            else:
                yield from zip(prompts, map(reference_text, batch.column(self._reference)), strict=True)

    def _row(self, prompt: Any, reference: str | None, responses: dict[Side, Responses]) -> AnsweredRow:
        if isinstance(prompt, BadPrompt):
            return AnsweredRow("", None, {}, {}, (prompt.error_type, prompt.error))
        bad = None
        if self._needs_reference and not (reference and reference.strip()):
            bad = (NO_REFERENCE.error_type or "", NO_REFERENCE.error or "")
        texts = {side: texts for side, (texts, _) in responses.items()}
        errors = {side: error for side, (_, error) in responses.items() if error is not None}
        return AnsweredRow(as_text(prompt), reference, texts, errors, bad, self._likeness, self._peer)


def reference_text(value: pa.Scalar) -> str | None:
    """Text that is not valid UTF-8 counts as no reference."""
    try:
        reference = value.as_py()
    except UnicodeDecodeError:
        return None
    return None if reference is None else str(reference)


def _recorded(value: pa.Scalar) -> Responses:
    try:
        recorded = value.as_py()
    except UnicodeDecodeError as error:
        return [], ("bad_text", f"a recorded response is not valid UTF-8: {error.reason}")
    if recorded is None:
        return [], None
    return ([recorded] if isinstance(recorded, str) else list(recorded)), None
