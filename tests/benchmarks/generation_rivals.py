"""Generation with batchroute against other engines, prefill and decoding apart: `generation --against vllm llama.cpp`.

All answer the same chats in turn, greedily, in one process each that waits while another works; with --alone one engine
after the other is in memory, for models of which there is no room for two. Prefill is the time to the first token of
all prompts, measured in a call of its own with one new token; the rest of a full call is decoding. In each call every
prompt begins with another number, so that no cache of an earlier call has it. On a machine that others use,
`OMP_NUM_THREADS=1` and --cpu-seconds show the processor's time instead of the clock's; the JSON has both.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.layers import Product
from tests.benchmarks.generation_engines import Call, LlamaCpp, Vllm, Way

ENGINES = ("vllm", "llama.cpp")
_PROBE_SECONDS = 1.0


class Machine(NamedTuple):
    """What a model asks of the machine, and what the machine can do in its precision.

    Attributes:
        weights: the numbers of all matrices that a token is multiplied by.
        head: those of the output matrix.
        itemsize: the bytes of one.
        peak: operations a second of a product of the model's shape.
        bandwidth: bytes a second.
    """

    weights: int
    head: int
    itemsize: int
    peak: float
    bandwidth: float


class Ours:
    """batchroute's generator, with limits of new tokens that change from call to call."""

    def __init__(self, arguments: argparse.Namespace, dtype: str) -> None:
        sampling = Sampling(max_new_tokens=arguments.max_new_tokens)
        spec = ModelSpec(backend="transformers", model=arguments.model, dtype=dtype, generation=sampling)
        self.generator = TransformersGenerator(spec, torch.device("cpu"))
        self.model: Any = self.generator._model
        self.read = 0
        self.name = f"batchroute {str(self.model.dtype).removeprefix('torch.')}"

    def answer(self, prompts: list[str], new_tokens: int) -> Call:
        batches: Any = self.generator._refilled
        kept = batches._sampling
        batches._sampling = Sampling(max_new_tokens=new_tokens)
        wall, processor = time.perf_counter(), time.process_time()
        try:
            responses = self.generator.generate(prompts, [0] * len(prompts))
        finally:
            batches._sampling = kept
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        self.read = sum(response.input_tokens for response in responses)
        written = sum(response.output_tokens for response in responses)
        return Call(wall, processor, written, [response.text or "" for response in responses])

    def machine(self, clock: Callable[[], float]) -> Machine:
        total, head = (sum(weights.numel() for weights in _weights(part)) for part in (self.model, self.model.lm_head))
        return Machine(total, head, self.model.dtype.itemsize, *probe(self.model, clock))

    def close(self) -> None:
        self.generator.close()
        del self.model, self.generator
        gc.collect()


def compare(arguments: argparse.Namespace, prompts: list[str]) -> int:
    """Print a table of all ways, and beside it what this machine can do at most."""
    make: list[Callable[[], Way]] = [functools.partial(Ours, arguments, dtype) for dtype in arguments.dtypes]
    if "vllm" in arguments.against:
        make += [functools.partial(Vllm, arguments, dtype) for dtype in arguments.vllm_dtypes]
    if "llama.cpp" in arguments.against:
        make += [functools.partial(LlamaCpp, arguments, gguf) for gguf in arguments.gguf]
    calls: dict[str, list[tuple[Call, Call]]] = {}
    machines: dict[str, Machine] = {}
    read = 0
    for together in [[one] for one in make] if arguments.alone else [make]:
        ways = [one() for one in together]
        for way in ways:
            way.answer(prompts[:2], 2)
        for turn in range(arguments.repeats):
            for way in ways:
                first = way.answer([f"({2 * turn}) {prompt}" for prompt in prompts], 1)
                whole = way.answer([f"({2 * turn + 1}) {prompt}" for prompt in prompts], arguments.max_new_tokens)
                calls.setdefault(way.name, []).append((first, whole))
                print(f"{way.name:<24}{_both(first)} to the first tokens {_both(whole)} in all", flush=True)
        for way in ways:
            if isinstance(way, Ours):
                machines[way.name] = way.machine(time.process_time if arguments.cpu_seconds else time.perf_counter)
                read = way.read
            way.close()
        # Otherwise the last engine stays in memory beside the next one.
        del ways, way
    print(f"\n{len(prompts)} prompts, {read:,} tokens read, {torch.get_num_threads()} threads")
    for name, machine in machines.items():
        _peaks(name, machine)
    _table(calls, machines, read, len(prompts), arguments.cpu_seconds)
    return 0


def _both(call: Call) -> str:
    return f"{call.wall:>8.2f} s ({call.processor:.2f} s of the processor)"


def _peaks(name: str, machine: Machine) -> None:
    weights, size = machine.weights, machine.itemsize
    print(f"{name}: {2 * weights / 1e6:,.0f} million operations a token, {weights * size / 1e6:,.0f} MB of weights")
    rows = size * machine.peak / (2 * machine.bandwidth)
    print(
        f"  a step; the machine: {machine.peak / 1e9:,.0f} GFLOP/s, {machine.bandwidth / 1e9:.1f} GB/s, so that "
        f"reading weights takes longest below {rows:.0f} rows a step"
    )


def _table(
    calls: dict[str, list[tuple[Call, Call]]],
    machines: dict[str, Machine],
    read: int,
    prompts: int,
    processor: bool,
) -> None:
    ours = next(iter(calls))
    machine = machines[ours]
    peak = max(machine.peak for machine in machines.values())
    found: dict[str, list[float]] = {}
    for name, turns in calls.items():
        pairs = [tuple(call.processor if processor else call.wall for call in turn) for turn in turns]
        found[name] = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(
        "\nway                    prefill s  tokens/s  of peak  decode s  tokens/s  of peak    all s  ratio  same texts"
    )
    for name, (first, whole) in found.items():
        decode, decoded = whole - first, calls[name][-1][1].tokens - prompts
        # Of the prompts' tokens, only the last ones are multiplied by the output matrix.
        share = 2 * (machine.weights - machine.head) * read / first / peak
        same = sum(map(str.__eq__, calls[ours][-1][1].texts, calls[name][-1][1].texts))
        print(
            f"{name:<23}{first:>9.2f}{read / first:>10.1f}{share:>9.0%}{decode:>10.2f}{decoded / decode:>10.1f}"
            f"{2 * machine.weights * decoded / decode / peak:>9.0%}{whole:>9.2f}"
            f"{whole / found[ours][1]:>7.2f}{same:>12}"
        )
    result = {
        "calls": {name: [[call[:3] for call in turn] for turn in turns] for name, turns in calls.items()},
        "machines": {name: one._asdict() for name, one in machines.items()},
    }
    print(json.dumps(result))


def _weights(model: Any) -> list[torch.Tensor]:
    """The matrices that a token is multiplied by: all but embeddings that are only looked up."""
    packed = [part._weight for part in model.modules() if isinstance(part, Product)]
    return packed + [part.weight for part in model.modules() if isinstance(part, nn.Linear)]


def probe(model: Any, clock: Callable[[], float]) -> tuple[float, float]:
    """What this machine reaches now: operations a second in a product of the model's shape and precision, and bytes a
    second that it reads.
    """
    config = model.config.get_text_config()
    rows, inner, outer = 512, config.hidden_size, config.intermediate_size
    left, right = torch.rand(rows, inner).to(model.dtype), torch.rand(outer, inner).to(model.dtype)
    large = torch.ones(1 << 27)
    product = _rate(clock, lambda: nn.functional.linear(left, right), 2 * rows * inner * outer)
    return product, _rate(clock, large.sum, large.nbytes)


def _rate(clock: Callable[[], float], work: Callable[[], Any], amount: float) -> float:
    best, ends = 0.0, clock() + _PROBE_SECONDS
    while clock() < ends:
        started = clock()
        work()
        best = max(best, amount / (clock() - started))
    return best
