"""Rows that share a long beginning: how much of them a cache of prefixes has, by the order in which they are asked.

    python tests/benchmarks/shared_beginnings.py                       at a simulated provider
    python tests/benchmarks/shared_beginnings.py --vllm PYTHON         in vLLM itself, of that environment

The provider is the tests' server, which takes 0.2 s for an answer. A row hits if an answered one shares 4,000
characters with it. What real providers do beyond that (other machines, other times) it cannot show. Rows are shuffled.
vLLM reads embedded:smollm2-135m-instruct; its cache is smaller than all documents, which are of equal length, so that
rows ordered by length do not stand by document. vLLM itself counts the tokens that it takes from its cache.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))

from batchroute.generators import beginnings
from batchroute.generators.openai.generator import OpenAIGenerator
from batchroute.generators.openai.warming import Warming
from batchroute.generators.settings import ModelSpec
from batchroute.generators.vllm.generator import VllmGenerator
from tests.support.openai_server import OpenAIServer

WORDS = (
    "river",
    "stone",
    "old house",
    "hill and sea",
    "where people",
    "wrote letters",
    "of weather",
    "bread",
    "winter",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", metavar="PYTHON", help="of an environment with vLLM for CPUs")
    parser.add_argument("--blocks", type=int, default=24, help="of vLLM's cache, 128 tokens each")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.vllm:
        in_vllm(arguments.vllm, arguments.blocks, arguments.repeats)
    else:
        at_a_provider(arguments.repeats)


def rows_of(seed: int, documents: int, questions: int, length: int) -> list[str]:
    """Shuffled rows: documents of equal length in characters, and questions after them."""
    chance = random.Random(seed)
    texts = [" ".join(chance.choice(WORDS) for _ in range(length))[:length] for _ in range(documents)]
    asked = [
        f"{text}\n\nQuestion: {' '.join(chance.choice(WORDS) for _ in range(chance.randint(3, 40)))}?"
        for text in texts
        for _ in range(questions)
    ]
    chance.shuffle(asked)
    return asked


def as_they_come(texts: Sequence[str], least: int = 0) -> list[list[int]]:
    return [[number] for number in range(len(texts))]


@asynccontextmanager
async def at_once(warming: Warming, of_row: Sequence[bytes]) -> AsyncIterator[None]:
    yield


def at_a_provider(repeats: int) -> None:
    os.environ["OPENAI_API_KEY"] = "sk-test"
    ways: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "as they come": (as_they_come, at_once),
        "together": (beginnings.groups, at_once),
        "together, the first alone": (beginnings.groups, Warming.turn),
    }
    for documents, questions in ((1, 64), (8, 8)):
        for name, (groups, turn) in ways.items():
            hits = [_hits(rows_of(seed, documents, questions, 6_000), groups, turn) for seed in range(repeats)]
            print(f"{documents} documents, {questions} rows each, {name}: {', '.join(f'{one:.0%}' for one in hits)}")


def _hits(rows: list[str], groups: Callable[..., Any], turn: Callable[..., Any]) -> float:
    """The share of rows that arrive when the provider has their beginning."""
    answered: list[str] = []
    hits = 0

    class Arrivals(list[Any]):
        def append(self, one: Any) -> None:
            nonlocal hits
            text = one.body["messages"][0]["content"]
            hits += any(beginnings.shared(text, other) >= beginnings.LEAST_CACHED for other in answered)
            super().append(one)

    def answer(body: dict[str, Any]) -> str:
        answered.append(body["messages"][0]["content"])
        return "yes"

    with OpenAIServer() as server, patch.object(Warming, "turn", turn):
        server.settings.delay, server.settings.answer, server.records.requests = 0.2, answer, Arrivals()
        spec = ModelSpec(backend="openai", model="small", endpoint=server.url)
        with patch("batchroute.generators.openai.generator.groups", groups), closing(OpenAIGenerator(spec)) as asked:
            assert all(one.text == "yes" for one in asked.generate(rows, [0] * len(rows)))
    return hits / len(rows)


def in_vllm(python: str, blocks: int, repeats: int) -> None:
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    engine = {"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 4, "num_gpu_blocks_override": blocks}
    spec = ModelSpec(
        backend="vllm", model="embedded:smollm2-135m-instruct", dtype="float32", python=python, engine=engine,
        generation={"max_new_tokens": 4},
    )  # fmt: skip
    with closing(VllmGenerator(spec)) as generator:
        for seed in range(repeats):
            # Documents of their own for each order: the cache of the other order has none of them.
            for number, (name, groups) in enumerate((("by length", as_they_come), ("together", beginnings.groups))):
                rows = rows_of(2 * seed + number, 16, 4, 2_000)
                with patch("batchroute.generators.vllm.generator.groups", groups):
                    answers = generator.generate(rows, [0] * len(rows))
                read, cached = sum(one.input_tokens for one in answers), sum(one.cached_tokens for one in answers)
                print(f"16 documents, 4 rows each, {name}: {cached:,} of {read:,} tokens from the cache", flush=True)


if __name__ == "__main__":
    main()
