"""Generation with batchroute against `model.generate` of transformers in arrival order.

    python -m tests.benchmarks.generation --prompts FILE.parquet --rows 256 [--prefix-tokens 600]
    python -m tests.benchmarks.generation --prompts FILE.parquet --rows 64 --max-new-tokens 48 --against vllm llama.cpp

One process, the same weights, prompts, chat template and limit of new tokens, greedy, with natural ends. The baseline
pads batches on the left, as its documentation says; it runs once at each size, and its best one and --batch-size in
turn with batchroute. With --prefix-tokens every prompt begins with so many tokens that all share, as few-shot examples
do. Prints a table and one line of JSON, and exits with 1 when more than 5 % of the greedy texts differ: they may where
rounding decides between two tokens.

With --against it is compared with other engines instead, see `generation_rivals.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from batchroute import models
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.models import quiet_transformers
from tests.benchmarks.generation_rivals import ENGINES, compare

DEFAULT_PROMPTS = Path(__file__).parents[2] / "sample_data" / "prompts.parquet"
EXAMPLE = "Q: Which word of these is a fruit: stone, apple, river? A: Of these three words, an apple is a fruit.\n"


class Plain:
    """What people write themselves."""

    def __init__(self, name: str, device: torch.device, new_tokens: int) -> None:
        with quiet_transformers():
            self.tokenizer: Any = AutoTokenizer.from_pretrained(models.resolve(name), padding_side="left")
            self.model: Any = AutoModelForCausalLM.from_pretrained(models.resolve(name)).to(device).eval()
        self._new_tokens = new_tokens

    def answer(self, prompts: list[str], batch_size: int) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(prompts), batch_size):
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + batch_size]]
            batch = self.tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            ).to(self.model.device)
            with torch.inference_mode():
                found = self.model.generate(**batch, do_sample=False, max_new_tokens=self._new_tokens)
            new = found[:, batch["input_ids"].shape[1] :]
            texts += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return texts


def main() -> int:
    arguments = _arguments()
    prompts = pl.read_parquet(arguments.prompts, columns=["prompt"]).sample(arguments.rows, seed=0)["prompt"].to_list()
    if arguments.against:
        return compare(arguments, prompts)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = Plain(arguments.model, device, arguments.max_new_tokens)
    if arguments.prefix_tokens:
        examples = plain.tokenizer(EXAMPLE * arguments.prefix_tokens)["input_ids"][: arguments.prefix_tokens]
        prompts = [plain.tokenizer.decode(examples) + prompt for prompt in prompts]
    spec = ModelSpec(
        backend="transformers",
        model=arguments.model,
        generation=Sampling(max_new_tokens=arguments.max_new_tokens),
    )
    generator = TransformersGenerator(spec, device)
    tokens = 0

    def ours() -> list[str]:
        nonlocal tokens
        responses = generator.generate(prompts, [0] * len(prompts))
        tokens = sum(response.output_tokens for response in responses)
        return [response.text or "" for response in responses]

    baselines: dict[str, Callable[[], list[str]]] = {
        f"generate, {size}": lambda size=size: plain.answer(prompts, size)  # type: ignore[misc]
        for size in sorted({arguments.batch_size, *arguments.batch_sizes})
    }
    generator.generate(prompts[:2], [0, 0])
    seconds: dict[str, list[float]] = {}
    texts: dict[str, list[str]] = {}

    def run(rules: dict[str, Callable[[], list[str]]]) -> None:
        for rule, answer in rules.items():
            started = time.perf_counter()
            texts[rule] = answer()
            seconds.setdefault(rule, []).append(time.perf_counter() - started)
            print(f"{rule:<16}{seconds[rule][-1]:>9.2f} s", flush=True)

    run({"batchroute": ours} | baselines)
    best = min(baselines, key=lambda rule: seconds[rule][0])
    usual = f"generate, {arguments.batch_size}"
    for _ in range(arguments.repeats - 1):
        run({"batchroute": ours} | {rule: baselines[rule] for rule in {usual, best}})
    medians = {rule: statistics.median(times) for rule, times in seconds.items()}
    same = {rule: sum(a == b for a, b in zip(texts["batchroute"], texts[rule], strict=True)) for rule in baselines}
    print(f"\n{'way':<16}{'median s':>10}{'tokens/s':>10}{'ratio':>8}{'same texts':>12}")
    for rule, median in medians.items():
        ratio = median / medians["batchroute"]
        print(f"{rule:<16}{median:>10.2f}{tokens / median:>10.1f}{ratio:>8.2f}{same.get(rule, len(prompts)):>12}")
    result = {
        "rows": len(prompts), "max_new_tokens": arguments.max_new_tokens, "prefix_tokens": arguments.prefix_tokens,
        "threads": torch.get_num_threads(), "seconds": seconds, "same_texts": same, "best": best,
        "ratio": medians[usual] / medians["batchroute"], "ratio_to_best": medians[best] / medians["batchroute"],
    }  # fmt: skip
    print(json.dumps(result))
    return int(min(same.values()) < 0.95 * len(prompts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = DEFAULT_PROMPTS if DEFAULT_PROMPTS.is_file() else None
    parser.add_argument("--prompts", default=default, required=default is None, help="parquet with a column prompt")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--prefix-tokens", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16, help="of the baseline")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 4, 8, 32], help="others to find its best")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", nargs="+", choices=ENGINES, help="other engines, in a table of their own")
    parser.add_argument("--dtypes", nargs="+", default=["auto"], help="of batchroute, with --against")
    parser.add_argument("--alone", action="store_true", help="one engine in memory at a time")
    parser.add_argument("--vllm-python", default=".venv-vllm/bin/python", help="made by `jobs/environment.sh vllm`")
    parser.add_argument("--vllm-dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--compiled", action="store_true", help="vLLM compiles its model, which takes minutes")
    parser.add_argument("--llama-server", default="llama-server", help="llama.cpp's program")
    parser.add_argument("--gguf", nargs="+", type=Path, default=[], help="the model as files for llama.cpp")
    parser.add_argument("--cpu-seconds", action="store_true", help="the table counts them, with OMP_NUM_THREADS=1")
    parser.add_argument("--verbose", action="store_true", help="with the messages of the engines")
    parser.add_argument("--quick", action="store_true", help="16 rows, one batch size, once")
    arguments = parser.parse_args()
    if "llama.cpp" in (arguments.against or ()) and not arguments.gguf:
        parser.error("--against llama.cpp needs the model as a file: --gguf")
    if arguments.quick:
        arguments.rows, arguments.repeats, arguments.batch_sizes = 16, 1, []
    return arguments


if __name__ == "__main__":
    sys.exit(main())
