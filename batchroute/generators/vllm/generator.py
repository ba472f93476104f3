"""The `vllm` backend: decoder models on vLLM's offline interface, each copy in a process of its own.

Written against the documented interface of vLLM 0.33 and tested with a stand-in for it: it has not run on a GPU yet.
"""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from batchroute import models
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Prompt, Response, as_text
from batchroute.generators.settings import ModelSpec
from batchroute.generators.vllm.process import Worker
from batchroute.generators.vllm.worker import Load, Row, Said

_ROWS = 4096
_HARMLESS = Row(-1, "Hello", 0)
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Unless set: vLLM reports its usage to its makers, and its processes are forked, with the worker's end of the pipe.
_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_NO_USAGE_STATS": "1"}


class VllmGenerator:
    """A model on vLLM, in as many copies as `data_parallel` says; vLLM forms and schedules its batches by itself.

    A worker that dies is started anew. Rows that kill it twice are halved until the one to blame is alone.
    """

    units_at_once = 1
    notes: tuple[str, ...] = ()

    def __init__(self, spec: ModelSpec, gpus: Sequence[int] | None = None) -> None:
        """
        Args:
            gpus: the numbers of those that all copies together may use; all that are visible unless set.

        Raises:
            InputError: vLLM is not installed, cannot load the model, or has too few GPUs for it.
        """
        started = time.perf_counter()
        if importlib.util.find_spec("vllm") is None:
            raise InputError("the backend vllm needs a package: pip install 'batchroute[vllm]'")
        settings = spec.model_dump(include=set(ModelSpec.model_fields), exclude_unset=True)
        adapter = None if spec.adapter is None else _adapter(spec.adapter)
        load = Load(settings, _arguments(spec, adapter), adapter)
        self._copies = [_Copy(spec.model, load, environment) for environment in _environments(spec, gpus)]
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
        rows = [Row(index, prompt, seed) for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))]
        # Dealt out like cards, by length, so that the copies have about the same work.
        by_length = sorted(rows, key=lambda row: len(as_text(row.prompt)))
        shares = [by_length[number :: len(self._copies)] for number in range(len(self._copies))]
        answering = [self._pool.submit(copy.answer, share) for copy, share in zip(self._copies, shares, strict=True)]
        responses: dict[int, Response] = {}
        for answered in as_completed(answering):
            responses |= answered.result()
        return [responses[index] for index in range(len(rows))]

    def close(self) -> None:
        # Side by side, and not by the pool, whose threads may be waiting for the workers.
        closing = [threading.Thread(target=copy.close) for copy in self._copies]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Copy:
    """One copy of the model: its worker, and when that dies the next one, once there is something to ask."""

    def __init__(self, model: str, load: Load, environment: dict[str, str]) -> None:
        self._model = model
        self._load = load
        self._environment = environment
        self._worker: Worker | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._died_of = ""

    def start(self) -> Worker:
        """Start the worker and wait until the model is loaded.

        Raises:
            InputError: vLLM cannot load it.
            StoppedError: closed meanwhile.
        """
        with self._lock:
            self._refuse_if_closed()
            worker = self._worker = Worker(self._load, self._environment)
        try:
            said = worker.hear()
        except EOFError:
            said = Said("not loaded")
        if said.what == "loaded":
            return worker
        worker.stop()
        self._refuse_if_closed()
        if said.of_input:
            raise InputError(said.error)
        # Of what fails in a process of its own, vLLM says no more than to see above for the root cause.
        told = None if "root cause" in said.error else said.error
        raise InputError(
            f"cannot load the model '{self._model}' with vLLM: {told or worker.last_error() or worker.ending()}"
        )

    def answer(self, rows: list[Row]) -> dict[int, Response]:
        """A response to each of `rows`, by its index.

        Raises:
            StoppedError: vLLM died three times in a row without an answer, or this was closed meanwhile.
        """
        answers: dict[int, Response] = {}
        # Each with whether it is asked once more as a whole: what killed vLLM may not have been its rows.
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
                self._ask_something_harmless(rows)
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
        # Read once: the thread that asks may be done with it at this moment.
        worker = self._worker
        if worker is not None:
            worker.stop()

    def _ask(self, rows: list[Row], answers: dict[int, Response]) -> bool:
        """Ask for `rows`, and add what is answered to `answers`; False when vLLM died of it."""
        worker = self._worker or self._start_again()
        try:
            worker.tell(rows)
            while (said := worker.hear()).what == "answers":
                answers |= said.answers
        except EOFError:
            said = Said("dead")
        self._refuse_if_closed()
        if said.what == "done":
            return True
        worker.stop()
        self._worker = None
        self._died_of = worker.last_error(rows) or worker.ending()
        return False

    def _start_again(self) -> Worker:
        try:
            return self.start()
        except InputError as error:
            raise StoppedError(f"vLLM died, and then: {error}; mend it and run again") from error

    def _ask_something_harmless(self, rows: list[Row]) -> None:
        """Tell rows that kill vLLM from a vLLM that nothing can be asked."""
        if not self._ask([_HARMLESS], {}):
            raise StoppedError(
                f"vLLM died three times in a row on the model '{self._model}', without an answer: {self._died_of}; "
                "mend it and run again"
            )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoppedError(f"the model '{self._model}' was closed")


def _arguments(spec: ModelSpec, adapter: str | None) -> dict[str, Any]:
    """Those of vLLM's `LLM`; what `engine` says wins."""
    arguments: dict[str, Any] = {
        "model": models.resolve(spec.model),
        "dtype": spec.dtype,
        "tensor_parallel_size": spec.tensor_parallel,
        "trust_remote_code": spec.trust_remote_code,
        # By itself vLLM also loads pickles.
        "load_format": "safetensors",
        "enable_prefix_caching": True,
    }
    if spec.quantization is not None:
        arguments["quantization"] = spec.quantization
    if adapter is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": _rank(adapter)}
    return arguments | spec.engine


def _adapter(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_dir():
        # vLLM would take a pickle as well.
        if not (path / "adapter_model.safetensors").is_file():
            raise InputError(f"'{name}' is no LoRA adapter: it has no adapter_model.safetensors")
        return str(path.resolve())
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"the adapter directory '{name}' does not exist")
    return name


def _rank(adapter: str) -> int:
    """The rank to make room for: vLLM knows some, and makes room for 16 unless told. A hub's adapter is not read."""
    try:
        config = json.loads((Path(adapter) / "adapter_config.json").read_text())
        needed = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError):
        needed = 16
    return next((rank for rank in _RANKS if rank >= max(needed, 16)), _RANKS[-1])


def _environments(spec: ModelSpec, mine: Sequence[int] | None) -> list[dict[str, str]]:
    """Of each copy: with more than one, here or in other ranks, each sees GPUs of its own.

    Raises:
        InputError: there are too few GPUs.
    """
    # Not what says which rank this process is: vLLM would take its own processes for such ranks.
    shared = _ENVIRONMENT | {name: value for name, value in os.environ.items() if not _is_of_a_rank(name)}
    if spec.data_parallel == 1 and mine is None:
        return [shared]
    needed = spec.gpus_of_a_copy
    assert needed is not None
    visible = _visible_gpus()
    gpus = visible if mine is None else [visible[number] for number in mine]
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
