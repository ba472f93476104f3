"""The generator of the `vllm` backend: copies of a decoder model, each in vLLM's engine in a process of its own.

It is written for the documented interface of vLLM 0.33 and tested with a stand-in; it has not run on a GPU yet.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from batchroute import models
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response, read_once
from batchroute.generators.settings import ModelSpec
from batchroute.generators.vllm.process import PATIENCE, Worker
from batchroute.generators.vllm.worker import Load, Message, Row
from batchroute.prompt import Prompt, as_text

_ROWS = 4096
_HARMLESS = Row(-1, "Hello", 0)
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Without these, vLLM reports its usage to its makers, and its processes are forked and inherit the worker's pipe.
_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_NO_USAGE_STATS": "1"}


class VllmGenerator:
    """`data_parallel` copies of a model on vLLM, which forms and schedules its batches itself.

    A worker that dies is started again. Rows that kill it twice are split in halves until the row to blame is alone.
    """

    units_at_once = 1
    notes: tuple[str, ...] = ()

    def __init__(
        self, spec: ModelSpec, gpus: Sequence[int] | None = None, patience: Sequence[float] = PATIENCE
    ) -> None:
        """
        Args:
            gpus: the numbers of the GPUs that all copies together may use; all visible ones unless set.
            patience: seconds for each step of ending a worker.

        Raises:
            InputError: vLLM is not installed or cannot load the model, or there are too few GPUs.
        """
        started = time.perf_counter()
        if importlib.util.find_spec("vllm") is None:
            raise InputError("the backend vllm needs a package: pip install 'batchroute[vllm]'")
        settings = spec.model_dump(include=set(ModelSpec.model_fields), exclude_unset=True)
        adapter = None if spec.adapter is None else _adapter(spec.adapter)
        load = Load(settings, _arguments(spec, adapter), adapter)
        self._copies = [
            _Copy(spec.model, functools.partial(Worker, load, environment, patience))
            for environment in _environments(spec, gpus)
        ]
        self._pool = ThreadPoolExecutor(len(self._copies))
        self.rows_at_a_time = _ROWS * len(self._copies)
        try:
            for started_copy in as_completed([self._pool.submit(copy.start) for copy in self._copies]):
                started_copy.result()
        except BaseException:
            self.close()
            raise
        self.load_seconds = time.perf_counter() - started

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        return self._answer([Row(i, prompt, seed) for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))])

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]) -> list[list[Response]]:
        pairs = [(prompt, seed) for prompt, of_prompt in zip(prompts, seeds, strict=True) for seed in of_prompt]
        # A request for each sample, as vLLM itself makes of `n`: its cache of prefixes reads the prompt once for all.
        responses = iter(self._answer([Row(i, prompt, seed, True) for i, (prompt, seed) in enumerate(pairs)]))
        return [read_once(list(itertools.islice(responses, len(of_prompt)))) for of_prompt in seeds]

    def _answer(self, rows: list[Row]) -> list[Response]:
        # Each copy gets every n-th row by length, so that all copies have about the same work.
        by_length = sorted(rows, key=lambda row: len(as_text(row.prompt)))
        shares = [by_length[number :: len(self._copies)] for number in range(len(self._copies))]
        answering = [self._pool.submit(copy.answer, share) for copy, share in zip(self._copies, shares, strict=True)]
        responses: dict[int, Response] = {}
        for answered in as_completed(answering):
            responses |= answered.result()
        return [responses[index] for index in range(len(rows))]

    def close(self) -> None:
        # In threads of their own: those of the pool may be waiting for the workers.
        closing = [threading.Thread(target=copy.close) for copy in self._copies]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Copy:
    """One copy of the model. If its worker dies, the next call of `answer` starts another."""

    def __init__(self, model: str, start_worker: Callable[[], Worker]) -> None:
        self._model, self._start_worker = model, start_worker
        self._worker: Worker | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._died_of = ""

    def start(self) -> Worker:
        """Start the worker and wait until the model is loaded.

        Raises:
            InputError: vLLM cannot load the model.
            StoppedError: the copy was closed meanwhile.
        """
        with self._lock:
            self._refuse_if_closed()
            worker = self._worker = self._start_worker()
        try:
            message = worker.receive()
        except EOFError:
            message = Message("not loaded")
        if message.what == "loaded":
            return worker
        worker.stop()
        self._refuse_if_closed()
        if message.of_input:
            raise InputError(message.error)
        # vLLM's error for a failure in one of its own processes only points to the root cause in the log.
        error = None if "root cause" in message.error else message.error
        raise InputError(
            f"cannot load the model '{self._model}' with vLLM: {error or worker.last_error() or worker.ending()}"
        )

    def answer(self, rows: list[Row]) -> dict[int, Response]:
        """A response to each of `rows`, by its index.

        Raises:
            StoppedError: vLLM died three times in a row without an answer, or the copy was closed meanwhile.
        """
        answers: dict[int, Response] = {}
        # Groups of rows, each with whether it gets a second try as a whole: its rows may not have killed vLLM.
        groups = deque([(rows, True)])
        deaths = 0
        while groups:
            group, once_more = groups.popleft()
            answered = len(answers)
            if self._ask(group, answers):
                deaths = 0
                continue
            deaths = 1 if len(answers) > answered else deaths + 1
            left = [row for row in group if row.index not in answers]
            if deaths == 2:
                self._ask_something_harmless()
                deaths = 0
            if not left:
                continue
            if once_more or len(left) < len(group):
                groups.appendleft((left, False))
            elif len(left) == 1:
                answers[left[0].index] = Response(error_type="model_error", error=f"vLLM died of it: {self._died_of}")
            else:
                middle = len(left) // 2
                groups += [(left[:middle], False), (left[middle:], False)]
        return answers

    def close(self) -> None:
        with self._lock:
            self._closed = True
        # Read once: the thread in `_ask` may set it to None at this moment.
        worker = self._worker
        if worker is not None:
            worker.stop()

    def _ask(self, rows: list[Row], answers: dict[int, Response]) -> bool:
        """Send `rows` to the worker, and add its answers to `answers`. Returns False if vLLM died."""
        worker = self._worker or self._start_again()
        try:
            worker.send(rows)
            while (message := worker.receive()).what == "answers":
                answers |= message.answers
        except EOFError:
            message = Message("dead")
        self._refuse_if_closed()
        if message.what == "done":
            return True
        worker.stop()
        self._worker = None
        self._died_of = worker.last_error(rows) or worker.ending()
        return False

    def _start_again(self) -> Worker:
        try:
            return self.start()
        except InputError as error:
            raise StoppedError(f"vLLM died, and then: {error}; fix it and run again") from error

    def _ask_something_harmless(self) -> None:
        """Find out whether only some rows kill vLLM, or any.

        Raises:
            StoppedError: any row does.
        """
        if not self._ask([_HARMLESS], {}):
            raise StoppedError(
                f"vLLM died three times in a row on the model '{self._model}', without an answer: {self._died_of}; "
                "fix it and run again"
            )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoppedError(f"the model '{self._model}' was closed")


def _arguments(spec: ModelSpec, adapter: str | None) -> dict[str, Any]:
    """The arguments of vLLM's `LLM`. Those of the setting `engine` replace others."""
    arguments: dict[str, Any] = {
        "model": models.resolve(spec.model),
        "dtype": spec.dtype,
        "tensor_parallel_size": spec.tensor_parallel,
        "trust_remote_code": spec.trust_remote_code,
        # By default vLLM loads pickles too.
        "load_format": "safetensors",
        "enable_prefix_caching": True,
    }
    if spec.logprobs:
        arguments["logprobs_mode"] = "raw_logprobs"
    if spec.quantization is not None:
        arguments["quantization"] = spec.quantization
    if adapter is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": _rank(adapter)}
    return arguments | spec.engine


def _adapter(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_dir():
        # vLLM would load a pickle too.
        if not (path / "adapter_model.safetensors").is_file():
            raise InputError(f"'{name}' is no LoRA adapter: it has no adapter_model.safetensors")
        return str(path.resolve())
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"the adapter directory '{name}' does not exist")
    return name


def _rank(adapter: str) -> int:
    """The `max_lora_rank` for an adapter, one of those that vLLM knows; 16, its default, for an adapter on a hub."""
    try:
        config = json.loads((Path(adapter) / "adapter_config.json").read_text())
        needed = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError):
        needed = 16
    return next((rank for rank in _RANKS if rank >= max(needed, 16)), _RANKS[-1])


def _environments(spec: ModelSpec, own_gpus: Sequence[int] | None) -> list[dict[str, str]]:
    """The environment variables of each copy. If there are several copies or ranks, each copy sees its own GPUs alone.

    Args:
        own_gpus: the numbers of this rank's GPUs; None: all that are visible.

    Raises:
        InputError: there are too few GPUs.
    """
    # Without this rank's variables, by which vLLM would take its own processes for ranks.
    shared = _ENVIRONMENT | {name: value for name, value in os.environ.items() if not _is_of_a_rank(name)}
    if spec.data_parallel == 1 and own_gpus is None:
        return [shared]
    needed = spec.gpus_of_a_copy
    assert needed is not None
    visible = _visible_gpus()
    gpus = visible if own_gpus is None else [visible[number] for number in own_gpus]
    each = needed // spec.data_parallel
    if len(gpus) < needed:
        raise InputError(
            f"data_parallel {spec.data_parallel} with {each} GPUs a copy needs {needed} GPUs, and {len(gpus)} are "
            "visible"
        )
    shares = [gpus[number * each : (number + 1) * each] for number in range(spec.data_parallel)]
    return [shared | {"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _is_of_a_rank(variable: str) -> bool:
    of_a_rank = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return variable in of_a_rank or variable.startswith("TORCHELASTIC_")


def _visible_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
