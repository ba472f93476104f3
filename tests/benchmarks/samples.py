"""What ten samples of each prompt cost, against one: `batchroute label` draws as many of both models.

    python -m tests.benchmarks.samples --prompts FILE.parquet --rows 12 --repeats 3

Both ways use one loaded model, in turn. Prints the seconds and the tokens of each turn, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

import polars as pl
import torch

from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from tests.benchmarks.generation import DEFAULT_PROMPTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default=DEFAULT_PROMPTS, help="parquet with a column prompt")
    parser.add_argument("--model", default="embedded:qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    prompts = pl.read_parquet(arguments.prompts, columns=["prompt"]).sample(arguments.rows, seed=0)["prompt"].to_list()
    generation = {"max_new_tokens": arguments.max_new_tokens, "temperature": arguments.temperature}
    spec = {"backend": "transformers", "model": arguments.model, "dtype": arguments.dtype, "generation": generation}
    generator = TransformersGenerator(ModelSpec.model_validate(spec), torch.device("cpu"))
    generator.generate(prompts[:1], [0])
    ratios = []
    for _ in range(arguments.repeats):
        seconds = {}
        for samples in (1, arguments.samples):
            asked = [prompt for prompt in prompts for _ in range(samples)]
            started = time.perf_counter()
            written = sum(response.output_tokens for response in generator.generate(asked, range(len(asked))))
            seconds[samples] = time.perf_counter() - started
            print(f"{samples} of each: {seconds[samples]:.1f} s, {written:,} tokens written", flush=True)
        ratios.append(seconds[arguments.samples] / seconds[1])
    read = sum(response.input_tokens for response in generator.generate(prompts, range(len(prompts))))
    shown = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    print(f"{read:,} tokens in {len(prompts)} prompts; ratio {statistics.median(ratios):.2f} (turns: {shown})")


if __name__ == "__main__":
    main()
