"""The backend `openai` against the bare client of the `openai` package, and against the best that a schedule can do.

    python tests/benchmarks/openai_requests.py

(1) Requests a second at a server that answers at once, by the generator as a job asks it (units of 256 rows, some side
by side) and by the bare client with as many workers; in turn, and the median of each.
(2) Seconds for rows that take 0.05 to 0.2 s each when a share of the calls is answered 429 with Retry-After, and (3)
when the server allows only so many requests a second; beside the oracle, a list schedule of the same calls on as many
slots, which knows the limit, and to which a refusal costs nothing but its Retry-After.
The server is a process of its own. Wanted: (1) at least 0.70 of the bare client, (2) and (3) at most 1.5 times the
oracle.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

sys.path.insert(0, str(Path(__file__).parents[2]))

from batchroute.generators.openai.generator import OpenAIGenerator
from batchroute.generators.settings import ModelSpec
from tests.support.openai_server import ServerProcess

KEY = "sk-test"
# The rows of a unit, unless a job file says otherwise.
UNIT = 256
ANSWER = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "small",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "an answer"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000, help="a repeat, of (1)")
    parser.add_argument("--rows", type=int, default=3000, help="of (2) and (3)")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--share", type=float, default=0.1, help="of the calls that are answered 429")
    parser.add_argument("--retry-after", type=float, default=1.0, help="seconds")
    parser.add_argument("--per-second", type=float, default=150.0, help="requests that the server allows in (3)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few requests, once")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.requests, arguments.rows, arguments.repeats = 200, 100, 1
    os.environ["OPENAI_API_KEY"] = KEY
    result = {
        "requests": arguments.requests, "rows": arguments.rows, "concurrency": arguments.concurrency,
        "share": arguments.share, "retry_after": arguments.retry_after, "per_second": arguments.per_second,
        "throughput": throughput(arguments), "refusals": refusals(arguments), "bucket": bucket(arguments),
    }  # fmt: skip
    print(json.dumps(result))


def throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    """Requests a second of the generator and of the bare client."""
    prompts = [f"prompt {number}" for number in range(arguments.requests)]
    rates: dict[str, list[float]] = {"generator": [], "bare client": []}
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder), strict=False, response=ANSWER) as server:
        for _ in range(arguments.repeats):
            generator = load(server, arguments.concurrency)
            ask(generator, prompts[:64])
            rates["generator"].append(len(prompts) / ask(generator, prompts))
            generator.close()
            rates["bare client"].append(len(prompts) / asyncio.run(bare(server, prompts, arguments.concurrency)))
    medians = {rule: statistics.median(found) for rule, found in rates.items()}
    ratio = medians["generator"] / medians["bare client"]
    for rule, median in medians.items():
        print(f"(1) {rule:<12} {median:7.0f} requests/s")
    print(f"(1) {ratio:.2f} of the bare client")
    return {"rates": rates, "medians": medians, "ratio": ratio}


def refusals(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds when a share of the calls is refused, whatever the load."""
    times = []
    for repeat in range(arguments.repeats):
        chance = random.Random(repeat)
        rows = [Row.drawn(chance, arguments.share) for _ in range(arguments.rows)]
        refused: Any = {"kind": "429", "retry_after_ms": 1000 * arguments.retry_after}
        schedule = {name(n): [*[refused] * row.refusals, slow(row)] for n, row in enumerate(rows)}
        seconds, calls = timed(arguments, schedule)
        best = oracle(rows, arguments.concurrency, arguments.retry_after)
        times.append({"seconds": seconds, "oracle": best, "ratio": seconds / best, "calls": calls})
    return told("(2)", times)


def bucket(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds when the server refuses what is beyond a number a second."""
    times = []
    for repeat in range(arguments.repeats):
        chance = random.Random(repeat)
        rows = [Row.drawn(chance, 0.0) for _ in range(arguments.rows)]
        schedule = {name(n): [slow(row)] for n, row in enumerate(rows)}
        seconds, calls = timed(arguments, schedule, requests_per_second=arguments.per_second)
        best = oracle(rows, arguments.concurrency, 0.0, arguments.per_second)
        times.append({"seconds": seconds, "oracle": best, "ratio": seconds / best, "calls": calls})
    return told("(3)", times)


def told(which: str, times: list[dict[str, Any]]) -> dict[str, Any]:
    for one in times:
        print(f"{which} {one['seconds']:6.2f} s, oracle {one['oracle']:6.2f} s, {one['calls']} calls")
    ratio = statistics.median(one["ratio"] for one in times)
    print(f"{which} {ratio:.2f} times the oracle")
    return {"times": times, "ratio": ratio}


@dataclass
class Row:
    """How often a row is refused, and what its answer takes."""

    refusals: int
    seconds: float

    @classmethod
    def drawn(cls, chance: random.Random, share: float) -> Row:
        refusals = 0
        while chance.random() < share:
            refusals += 1
        return cls(refusals, chance.uniform(0.05, 0.2))


def name(number: int) -> str:
    return f"row {number:06}"


def slow(row: Row) -> dict[str, Any]:
    return {"kind": "slow", "seconds": row.seconds}


def timed(arguments: argparse.Namespace, schedule: dict[str, Any], **settings: Any) -> tuple[float, int]:
    """The seconds that all rows took, and the calls that the server saw."""
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder), **settings) as server:
        server.set_faults(chat=schedule)
        generator = load(server, arguments.concurrency)
        # The server's bucket fills.
        time.sleep(1.0)
        seconds = ask(generator, list(schedule))
        generator.close()
        return seconds, len(server.requests())


def oracle(rows: list[Row], concurrency: int, retry_after: float, per_second: float | None = None) -> float:
    """Seconds of a list schedule: whenever a slot is free, the row that waits for longest, refused ones first."""
    slots = [0.0] * concurrency
    # When a row may be asked, whether for the first time, and which: a heap of those that come, one of those that may.
    waiting = [(0.0, n) for n in range(len(rows))]
    refused: list[tuple[float, int]] = []
    left = [row.refusals for row in rows]
    tokens, filled, end = per_second or 0.0, 0.0, 0.0
    while waiting or refused:
        now = heapq.heappop(slots)
        use = refused if refused and (refused[0][0] <= now or not waiting) else waiting
        ready, number = heapq.heappop(use)
        start = max(now, ready)
        if per_second is not None:
            # The server's own bucket, asked at the first moment that it has a token.
            tokens, filled = min(max(1.0, per_second), tokens + (start - filled) * per_second), start
            if tokens < 1.0:
                start += (1.0 - tokens) / per_second
                tokens, filled = 1.0, start
            tokens -= 1.0
        if left[number]:
            left[number] -= 1
            heapq.heappush(refused, (start + retry_after, number))
            heapq.heappush(slots, start)
        else:
            end = max(end, start + rows[number].seconds)
            heapq.heappush(slots, start + rows[number].seconds)
    return end


def load(server: ServerProcess, concurrency: int) -> OpenAIGenerator:
    given = {"backend": "openai", "model": "small", "endpoint": server.url, "concurrency": concurrency}
    return OpenAIGenerator(ModelSpec.model_validate(given))


def ask(generator: OpenAIGenerator, prompts: list[str]) -> float:
    """Seconds, asked as a job does: some units side by side, each in a thread."""
    units = [prompts[start : start + UNIT] for start in range(0, len(prompts), UNIT)]
    side_by_side = generator.units_at_once

    def answer(stretch: list[list[str]]) -> int:
        responses = [one for unit in stretch for one in generator.generate(unit, [0] * len(unit))]
        return sum(response.error_type is None for response in responses)

    started = time.perf_counter()
    with ThreadPoolExecutor(side_by_side) as threads:
        answered = sum(threads.map(answer, (units[n::side_by_side] for n in range(side_by_side))))
    seconds = time.perf_counter() - started
    assert answered == len(prompts), f"{len(prompts) - answered} rows failed"
    return seconds


async def bare(server: ServerProcess, prompts: list[str], concurrency: int) -> float:
    waiting = iter(prompts)

    async def work(client: openai.AsyncOpenAI) -> None:
        for prompt in waiting:
            await client.chat.completions.create(
                model="small", messages=[{"role": "user", "content": prompt}], max_tokens=256, temperature=0
            )

    async with openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=300) as client:
        waiting = iter(prompts[:64])
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
        waiting = iter(prompts)
        started = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
