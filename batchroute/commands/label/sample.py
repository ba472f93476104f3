"""Sampling: one model answers every prompt to be labelled, several times each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from batchroute.config.job import JobModel
from batchroute.costs.columns import COST
from batchroute.costs.prices import usd
from batchroute.fields import Side
from batchroute.generators.base import Generator, row_seed
from batchroute.pipeline.shards.answers import SIGNALS, counts, priced
from batchroute.pipeline.stages.generate import stop_if_hopeless
from batchroute.progress import Progress
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Span, Stage
from batchroute.tables.chats import BadPrompt
from batchroute.tables.parquet import PromptTable
from batchroute.tables.prompts import Prompts

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("response", pa.large_string()),  # null: the model failed, and the error says why
        pa.field("finish_reason", pa.string()),
        pa.field("input_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("cost", COST),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        *SIGNALS,  # which units of earlier versions lack
    ]
)


@dataclass
class Sampler:
    """Does units of one model: `samples` consecutive rows for each usable prompt.

    The samples of a prompt differ by their seeds alone, so a unit that is repeated gives the same responses.
    """

    side: Side
    model: JobModel
    generator: Generator
    samples: int
    table: PromptTable
    prompts: Prompts
    stage: Stage
    progress: Progress
    units_at_once = 1

    def __post_init__(self) -> None:
        self._reader = self.table.reader(self.prompts.columns)
        self._loading_told = 0.0
        self._noted = 0

    def do(self, stage: str, span: Span) -> Receipt:
        started = time.perf_counter()
        batches = self._reader.read(span.start, span.stop)
        prompts = [prompt for batch in batches for prompt in self.prompts.read(batch)]
        requests = [
            (span.start + offset, prompt, sample)
            for offset, prompt in enumerate(prompts)
            if not isinstance(prompt, BadPrompt)
            for sample in range(self.samples)
        ]
        self.progress.pulse(self.side, span.unit, 0, span.rows)
        seed = self.model.generation.seed
        seeds = [row_seed(seed, position, sample) for position, _, sample in requests]
        loading = self.generator.load_seconds
        responses = self.generator.generate([prompt for _, prompt, _ in requests], seeds)
        for note in self.generator.notes[self._noted :]:
            self.progress.note("model", note)
        self._noted = len(self.generator.notes)
        # A few prompts, each several times, say less of the model than as many rows.
        stop_if_hopeless(self.model.model, responses, lambda: requests[0][1], lambda: True)
        loaded = self.generator.load_seconds
        seconds = time.perf_counter() - started - (loaded - loading)
        answers = priced(self.model.price, responses, seconds)
        costs = [None if cost is None else usd(cost) for _, cost in answers]
        columns: list[Sequence[object]] = [
            [position for position, _, _ in requests],
            [response.text for response in responses],
            [response.finish_reason for response in responses],
            [response.input_tokens for response in responses],
            [response.output_tokens for response in responses],
            costs,
            [response.error_type for response in responses],
            [response.error for response in responses],
            *([getattr(response, name) for response in responses] for name in SIGNALS.names),
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        facts = Facts(
            run_id=self.stage.run_id,
            unit=span.unit,
            rows=len(requests),
            first=span.start,
            last=span.stop - 1,
            seconds=seconds,
            load_seconds=loaded - self._loading_told,
            counts=counts(answers),
        )
        self._loading_told = loaded
        return self.stage.commit(facts, SCHEMA, pa.table(arrays, schema=SCHEMA).to_batches())

    def close(self) -> None:
        self.generator.close()
