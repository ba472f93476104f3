"""Generation with batchroute against another engine, prefill and decoding apart: `generation --against vllm`.

Both answer the same chats in turn, greedily, in one process each that waits while the other works. Prefill is the time
to the first token of all prompts, measured in a call of its own with one new token; the rest of a full call is
decoding. In each call every prompt begins with another number, so that no cache of an earlier call has it.
On a machine that others use, `OMP_NUM_THREADS=1` and --cpu-seconds count the processor's time instead of the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from batchroute import models
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.layers import Product

ENGINES = ("vllm",)
_WORKER = Path(__file__).with_name("generation_in_vllm.py")
_PROBE_SECONDS = 1.0

Clock = Callable[[], float]
Answer = tuple[float, int, list[str]]
"""Seconds, tokens that were written, and texts."""


class Ours:
    """batchroute's generator, with limits of new tokens that change from call to call."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        sampling = Sampling(max_new_tokens=arguments.max_new_tokens)
        spec = ModelSpec(backend="transformers", model=arguments.model, dtype=arguments.dtype, generation=sampling)
        self.generator = TransformersGenerator(spec, torch.device("cpu"))
        self.model: Any = self.generator._model
        self._clock = time.process_time if arguments.cpu_seconds else time.perf_counter
        self.read = 0
        self.name = f"batchroute {str(self.model.dtype).removeprefix('torch.')}"

    def answer(self, prompts: list[str], new_tokens: int) -> Answer:
        batches: Any = self.generator._refilled
        kept = batches._sampling
        batches._sampling = Sampling(max_new_tokens=new_tokens)
        started = self._clock()
        try:
            responses = self.generator.generate(prompts, [0] * len(prompts))
        finally:
            batches._sampling = kept
        seconds = self._clock() - started
        self.read = sum(response.input_tokens for response in responses)
        texts = [response.text or "" for response in responses]
        return seconds, sum(response.output_tokens for response in responses), texts

    def close(self) -> None:
        self.generator.close()


class Vllm:
    """vLLM in its own interpreter."""

    def __init__(self, arguments: argparse.Namespace, dtype: str) -> None:
        self.name = f"vLLM {dtype}" + (" compiled" if arguments.compiled else "")
        command = [arguments.vllm_python, str(_WORKER), models.resolve(arguments.model), dtype]
        # In one process, so that its processor seconds can be counted; with one thread it need not choose a core.
        environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"} | os.environ
        if os.environ.get("OMP_NUM_THREADS") == "1":
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        self._worker = subprocess.Popen(
            command + ["--compiled"] * arguments.compiled + ["--cpu-seconds"] * arguments.cpu_seconds,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            stderr=None if arguments.verbose else subprocess.DEVNULL,
        )  # fmt: skip
        self._line()

    def answer(self, prompts: list[str], new_tokens: int) -> Answer:
        assert self._worker.stdin is not None
        print(json.dumps({"prompts": prompts, "new_tokens": new_tokens}), file=self._worker.stdin, flush=True)
        found = self._line()
        return found["seconds"], found["tokens"], found["texts"]

    def close(self) -> None:
        self._worker.communicate()

    def _line(self) -> dict[str, Any]:
        assert self._worker.stdout is not None
        line = self._worker.stdout.readline()
        if not line:
            raise SystemExit("vLLM did not start: --verbose shows why")
        found: dict[str, Any] = json.loads(line)
        return found


def compare(arguments: argparse.Namespace, prompts: list[str]) -> int:
    """Print a table of both ways, and beside it what this machine can do at most."""
    ours = Ours(arguments)
    rivals = [Vllm(arguments, dtype) for dtype in arguments.vllm_dtypes]
    ways = [ours, *rivals]
    spent: dict[str, list[tuple[float, float, int]]] = {way.name: [] for way in ways}
    texts: dict[str, list[str]] = {}
    for way in ways:
        way.answer(prompts[:2], 2)
    for turn in range(arguments.repeats):
        for way in ways:
            first, _, _ = way.answer([f"({2 * turn}) {prompt}" for prompt in prompts], 1)
            whole, written, texts[way.name] = way.answer(
                [f"({2 * turn + 1}) {prompt}" for prompt in prompts], arguments.max_new_tokens
            )
            spent[way.name].append((first, whole, written))
            print(f"{way.name:<22}{first:>8.2f} s to the first tokens {whole:>8.2f} s in all", flush=True)
    peak, bandwidth = probe(ours.model, time.process_time if arguments.cpu_seconds else time.perf_counter)
    total, head = (sum(weights.numel() for weights in _weights(part)) for part in (ours.model, ours.model.lm_head))
    size = total * ours.model.dtype.itemsize
    medians = {name: [statistics.median(column) for column in zip(*calls)] for name, calls in spent.items()}  # noqa: B905
    print(f"\n{len(prompts)} prompts, {ours.read:,} tokens read, {torch.get_num_threads()} threads")
    print(f"{2 * total / 1e6:,.0f} million operations a token, {size / 1e6:,.0f} MB of weights a step")
    print(f"this machine: {peak / 1e9:,.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s\n")
    print("way                    prefill s  tokens/s  of peak  decode s  tokens/s  of peak    all s  ratio")
    for name, (first, whole, written) in medians.items():
        decode, decoded = whole - first, written - len(prompts)
        # Of the prompts' tokens, only the last ones are multiplied by the output matrix.
        read = 2 * (total - head) * ours.read / first / peak
        print(
            f"{name:<22}{first:>10.2f}{ours.read / first:>10.1f}{read:>9.0%}{decode:>10.2f}{decoded / decode:>10.1f}"
            f"{2 * total * decoded / decode / peak:>9.0%}{whole:>9.2f}{whole / medians[ours.name][1]:>7.2f}"
        )
    same = {rival.name: sum(map(str.__eq__, texts[ours.name], texts[rival.name])) for rival in rivals}
    print(json.dumps({"seconds": spent, "same_texts": same, "peak": peak, "bandwidth": bandwidth, "read": ours.read}))
    for way in ways:
        way.close()
    return 0


def _weights(model: Any) -> list[torch.Tensor]:
    """The matrices that a token is multiplied by: all but embeddings that are only looked up."""
    packed = [part._weight for part in model.modules() if isinstance(part, Product)]
    return packed + [part.weight for part in model.modules() if isinstance(part, nn.Linear)]


def probe(model: Any, clock: Clock) -> tuple[float, float]:
    """What this machine reaches now: operations a second in a product of the model's shape and precision, and bytes a
    second that it reads.
    """
    config = model.config.get_text_config()
    rows, inner, outer = 512, config.hidden_size, config.intermediate_size
    left, right = torch.rand(rows, inner).to(model.dtype), torch.rand(outer, inner).to(model.dtype)
    large = torch.ones(1 << 27)
    product = _rate(clock, lambda: nn.functional.linear(left, right), 2 * rows * inner * outer)
    return product, _rate(clock, large.sum, large.nbytes)


def _rate(clock: Clock, work: Callable[[], Any], amount: float) -> float:
    best, ends = 0.0, clock() + _PROBE_SECONDS
    while clock() < ends:
        started = clock()
        work()
        best = max(best, amount / (clock() - started))
    return best
