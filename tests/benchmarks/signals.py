"""What log-probabilities cost: generation with the signals of each answer, against the same without them.

    python -m tests.benchmarks.signals --rows 64 --repeats 5

Both ways use one loaded model, in turn, and write the same texts. Prints the seconds of this process's processors,
which others on the machine disturb less than the clock; of the seconds with signals, the share that computes
log-probabilities, which needs no comparison of two runs; and the median of the ratios of each turn. Exits with 1 when
the texts differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import polars as pl
import torch

from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers import decoding, running
from batchroute.generators.transformers.decoding import log_probabilities
from batchroute.generators.transformers.generator import TransformersGenerator
from tests.benchmarks.generation import DEFAULT_PROMPTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default=DEFAULT_PROMPTS, help="parquet with a column prompt")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--batching", default="auto", choices=["auto", "static", "continuous"])
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    prompts = pl.read_parquet(arguments.prompts, columns=["prompt"]).sample(arguments.rows, seed=0)["prompt"].to_list()
    generation = {"max_new_tokens": arguments.max_new_tokens, "temperature": arguments.temperature}
    spec = {"backend": "transformers", "model": arguments.model, "batching": arguments.batching}
    generator = TransformersGenerator(
        ModelSpec.model_validate({**spec, "generation": generation, "confidence": {}}), torch.device("cpu")
    )
    writer = generator._static._writer
    computing: list[float] = []

    def timed(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        started = time.process_time()
        found = log_probabilities(scores, tokens)
        computing.append(time.process_time() - started)
        return found

    running.log_probabilities = decoding.log_probabilities = timed
    generator.generate(prompts[:2], [0, 0])
    texts: dict[bool, list[str | None]] = {}
    ratios: dict[str, list[float]] = {"processors": [], "clock": []}
    shares: list[float] = []
    for turn in range(arguments.repeats):
        taken: dict[bool, tuple[float, float]] = {}
        for signals in (True, False) if turn % 2 else (False, True):
            writer.logprobs = signals
            computing.clear()
            started = time.process_time(), time.perf_counter()
            responses = generator.generate(prompts, range(len(prompts)))
            taken[signals] = time.process_time() - started[0], time.perf_counter() - started[1]
            if signals:
                shares.append(sum(computing) / taken[True][0])
            texts[signals] = [response.text for response in responses]
        for number, name in enumerate(ratios):
            ratios[name].append(taken[True][number] / taken[False][number])
        print(
            *(f"{'with' if on else 'without'} {cpu:.2f} s ({clock:.2f} s)" for on, (cpu, clock) in taken.items()),
            flush=True,
        )
    for name, values in ratios.items():
        shown = f"{min(values) - 1:+.1%} to {max(values) - 1:+.1%}"
        print(f"{name}: {statistics.median(values) - 1:+.1%} (of {len(values)} turns: {shown})")
    print(f"within log_probabilities: {statistics.median(shares):.2%} ({min(shares):.2%} to {max(shares):.2%})")
    return int(texts[True] != texts[False])


if __name__ == "__main__":
    sys.exit(main())
