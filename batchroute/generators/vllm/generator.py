"""The generator of the `vllm` backend: copies of a decoder model, each in vLLM's engine in a process of its own."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from batchroute.generators.base import Response, read_once
from batchroute.generators.beginnings import beginning, groups
from batchroute.generators.settings import ModelSpec
from batchroute.generators.thoughts import Dropped
from batchroute.generators.vllm.arguments import adapter_of, arguments_of
from batchroute.generators.vllm.copies import Copy
from batchroute.generators.vllm.gpus import environments
from batchroute.generators.vllm.interpreter import interpreter_of
from batchroute.generators.vllm.messages import Load, Row
from batchroute.generators.vllm.process import PATIENCE, Worker
from batchroute.prompt import Prompt, as_text

_ROWS = 4096


class VllmGenerator:
    """`data_parallel` copies of a model on vLLM, which forms and schedules its batches itself.

    A worker that dies is started again. Rows that kill it twice are split in halves until the row to blame is alone.
    """

    units_at_once = 1

    def __init__(
        self, spec: ModelSpec, gpus: Sequence[int] | None = None, patience: Sequence[float] = PATIENCE
    ) -> None:
        """
        Args:
            gpus: the numbers of the GPUs that all copies together may use; all visible ones unless set.
            patience: seconds for each step of ending a worker.

        Raises:
            InputError: vLLM is not installed or cannot load the model, or there are too few GPUs.
            StoppedError: a process of vLLM was killed meanwhile.
        """
        started = time.perf_counter()
        interpreter = interpreter_of(spec.python)
        settings = spec.model_dump(include=set(ModelSpec.model_fields), exclude_unset=True)
        adapter = None if spec.adapter is None else adapter_of(spec.adapter)
        load = Load(settings, arguments_of(spec, adapter), adapter)
        self.notes: list[str] = []
        self._dropped = Dropped(spec.model, spec.reasoning)
        self._copies = [
            Copy(spec.model, functools.partial(Worker, load, interpreter, environment, patience), self.notes.append)
            for environment in environments(spec, gpus)
        ]
        self._pool = ThreadPoolExecutor(len(self._copies))
        self.rows_at_a_time = _ROWS * len(self._copies)
        try:
            for started_copy in as_completed([self._pool.submit(copy.start) for copy in self._copies]):
                started_copy.result()
        except BaseException:
            self.close()
            raise
        self._loading = time.perf_counter() - started
        self.notes.insert(0, f"{self._copies[0].about}, in {interpreter.path}")

    @property
    def load_seconds(self) -> float:
        """What loading took, with all starts after the first, of which each is of one copy among all."""
        return self._loading + sum(copy.loading_again for copy in self._copies) / len(self._copies)

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        return self._answer([Row(i, prompt, seed) for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))])

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]) -> list[list[Response]]:
        pairs = [(prompt, seed) for prompt, of_prompt in zip(prompts, seeds, strict=True) for seed in of_prompt]
        # A request for each sample, as vLLM itself makes of `n`: its cache of prefixes reads the prompt once for all.
        responses = iter(self._answer([Row(i, prompt, seed, True) for i, (prompt, seed) in enumerate(pairs)]))
        return [read_once(list(itertools.islice(responses, len(of_prompt)))) for of_prompt in seeds]

    def _answer(self, rows: list[Row]) -> list[Response]:
        shares = shares_of(rows, len(self._copies))
        answering = [self._pool.submit(copy.answer, share) for copy, share in zip(self._copies, shares, strict=True)]
        responses: dict[int, Response] = {}
        for answered in as_completed(answering):
            responses |= answered.result()
        self.notes += self._dropped.note(responses.values())
        return [responses[index] for index in range(len(rows))]

    def close(self) -> None:
        # In threads of their own: those of the pool may be waiting for the workers.
        closing = [threading.Thread(target=copy.close) for copy in self._copies]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)


def shares_of(rows: Sequence[Row], copies: int) -> list[list[Row]]:
    """The rows of each copy, in the order in which it answers them: short prompts first, and rows that begin alike one
    after another and on one copy, as far as all copies then have about the same work.
    """
    by_length = sorted(rows, key=lambda row: len(as_text(row.prompt)))
    most = -(-len(rows) // copies)
    shares: list[list[Row]] = [[] for _ in range(copies)]
    work = [0] * copies
    for group in groups([beginning(row.prompt) for row in by_length]):
        for start in range(0, len(group), most):
            part = [by_length[number] for number in group[start : start + most]]
            least = work.index(min(work))
            shares[least] += part
            work[least] += sum(1 + len(as_text(row.prompt)) for row in part)
    return shares
