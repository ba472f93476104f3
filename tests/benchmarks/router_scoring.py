"""How fast the router scores prompts, against the text-classification pipeline of transformers.

    python tests/benchmarks/router_scoring.py --prompts FILE.parquet [--rows 512] [--router DIR] [--quick]

All three ways score the same prompts with the same weights in one process, in turns, cut to 512 tokens. `pipeline, 32`
and `pipeline, 1` take the prompts in arrival order, 32 and 1 at a time. Prints a table and one line of JSON, and exits
with 1 when the scores differ by 1e-4 or more; all in float32, since half precision differs by more. Without --router
the embedded MiniLM gets a random head: speed does not depend on what it has learnt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from batchroute import models
from batchroute.router.model import Router, quiet_transformers
from batchroute.router.scoring import score

DEFAULT_PROMPTS = Path(__file__).parents[2] / "sample_data" / "prompts.parquet"
MAX_LENGTH = 512
MAX_DIFFERENCE = 1e-4


def main() -> int:
    args = _arguments()
    texts = pl.read_parquet(args.prompts, columns=["prompt"], n_rows=args.rows)["prompt"].to_list()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        name = args.router or _random_router(Path(folder))
        router = Router.load(name, device, precision="float32", max_length=MAX_LENGTH)
    ways: dict[str, Callable[[], list[float]]] = {
        "batchroute": lambda: score(router, texts).scores.tolist(),
        "pipeline, 32": lambda: _pipeline_scores(router, texts, 32),
        "pipeline, 1": lambda: _pipeline_scores(router, texts, 1),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    scores: dict[str, list[float]] = {}
    score(router, texts[:32])
    for _ in range(1 if args.quick else args.repeats):
        for way, run in ways.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            scores[way] = run()
            seconds[way].append(time.perf_counter() - started)
            cpu[way].append(time.process_time() - cpu_started)
    figures = {
        way: {
            "seconds": round(statistics.median(seconds[way]), 3),
            "prompts_per_second": round(len(texts) / statistics.median(seconds[way]), 1),
            "times_slower": round(statistics.median(seconds[way]) / statistics.median(seconds["batchroute"]), 2),
            # Tells more than the clock where other programs share the cores; with one thread only.
            "cpu_seconds": round(statistics.median(cpu[way]), 3),
            "max_difference": float(np.abs(np.subtract(scores[way], scores["batchroute"])).max()),
        }
        for way in ways
    }
    _show(figures)
    facts = {"rows": len(texts), "tokens": int(score(router, texts).tokens.sum()), "max_length": router.max_length}
    facts |= {"device": device.type, "threads": torch.get_num_threads(), "token_budget": router.token_budget}
    print(json.dumps({**facts, "ways": figures, "all_seconds": seconds}))
    return int(max(row["max_difference"] for row in figures.values()) >= MAX_DIFFERENCE)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Router scoring against the pipeline of transformers.")
    default = DEFAULT_PROMPTS if DEFAULT_PROMPTS.is_file() else None
    parser.add_argument(
        "--prompts", type=Path, default=default, required=default is None, help="parquet, column prompt"
    )
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--router", help="directory, hub id; default: the embedded MiniLM with a random head")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="64 rows, once")
    args = parser.parse_args()
    if args.quick:
        args.rows = min(args.rows, 64)
    return args


def _random_router(folder: Path) -> str:
    path = models.resolve("embedded:all-minilm-l6-v2")
    torch.manual_seed(0)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    # Wider than the default, so that the scores spread and a difference shows.
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return str(folder)


def _pipeline_scores(router: Router, texts: list[str], batch_size: int) -> list[float]:
    classify = pipeline("text-classification", model=router.model, tokenizer=router.tokenizer, device=router.device)
    easy = router.model.config.id2label[router.model.config.num_labels - 1]
    # Sigmoid or softmax as the router has it, whatever the checkpoint's problem_type says.
    function = "sigmoid" if router.model.config.num_labels == 1 else "softmax"
    found = classify(
        texts,
        batch_size=batch_size,
        truncation=True,
        max_length=router.max_length,
        top_k=None,
        function_to_apply=function,
    )
    return [next(row["score"] for row in rows if row["label"] == easy) for rows in found]


def _show(figures: dict[str, dict[str, float]]) -> None:
    print(f"{'way':<14}{'median s':>10}{'prompts/s':>12}{'times slower':>14}{'CPU s':>9}{'max difference':>16}")
    for way, row in figures.items():
        print(
            f"{way:<14}{row['seconds']:>10.2f}{row['prompts_per_second']:>12.1f}{row['times_slower']:>14.2f}"
            f"{row['cpu_seconds']:>9.2f}{row['max_difference']:>16.1e}"
        )


if __name__ == "__main__":
    sys.exit(main())
