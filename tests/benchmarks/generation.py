"""Length-sorted generation against arrival-order batches of the same size.

    python tests/benchmarks/generation.py --prompts sample_data/prompts.parquet --rows 128

One process, one model, the same prompts, the two ways in turn; the median of each, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import polars as pl
import torch

from batchroute import generators
from batchroute.generators.base import Generator, Response
from batchroute.generators.settings import ModelSpec, Sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="sample_data/prompts.parquet", help="parquet with a column prompt")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="16 rows, once")
    arguments = parser.parse_args()
    rows, repeats = (16, 1) if arguments.quick else (arguments.rows, arguments.repeats)

    prompts = pl.read_parquet(arguments.prompts, columns=["prompt"]).sample(rows, seed=0)["prompt"].to_list()
    spec = ModelSpec(
        backend="transformers",
        model=arguments.model,
        batch_size=arguments.batch_size,
        generation=Sampling(max_new_tokens=arguments.max_new_tokens),
    )
    generator = generators.load(spec, lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    ways = {"sorted": rows, "arrival order": arguments.batch_size}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    texts = {}
    for _ in range(repeats):
        for way, at_a_time in ways.items():
            started = time.perf_counter()
            responses = ask(generator, prompts, at_a_time)
            seconds[way].append(time.perf_counter() - started)
            texts[way] = [response.text for response in responses]
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    tokens = sum(response.output_tokens for response in responses)
    for way, median in medians.items():
        print(f"{way:<14} {median:7.2f} s  {rows / median:7.2f} prompts/s  {tokens / median:8.1f} tokens/s")
    same = sum(a == b for a, b in zip(*texts.values(), strict=True))
    result = {
        "rows": rows, "batch_size": arguments.batch_size, "max_new_tokens": arguments.max_new_tokens,
        "seconds": seconds, "ratio": medians["arrival order"] / medians["sorted"], "same_texts": same,
    }  # fmt: skip
    print(f"sorted is {result['ratio']:.2f} times as fast; {same} of {rows} texts are the same")
    print(json.dumps(result))


def ask(generator: Generator, prompts: list[str], at_a_time: int) -> list[Response]:
    """The generator sorts what it is given at a time: all of it, or one batch, which leaves the order as it is."""
    slices = [prompts[start : start + at_a_time] for start in range(0, len(prompts), at_a_time)]
    return [response for piece in slices for response in generator.generate(piece, [0] * len(piece))]


if __name__ == "__main__":
    main()
