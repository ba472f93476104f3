"""How fast the router scores prompts, against the best batch size of the text-classification pipeline of transformers.

    python tests/benchmarks/router_scoring.py --prompts FILE.parquet --rows 2000
    python tests/benchmarks/router_scoring.py --prompts FILE.parquet --rows 200 --shape deberta-v3-base
    python -m tests.benchmarks.router_scoring --rows 200 --against onnxruntime openvino --python ENV/bin/python

All ways score the same prompts with the same weights in one process, cut to 512 tokens. The pipeline takes them in
arrival order, 1, 8 and 32 at a time, with the model as transformers has it; the quickest of these is repeated in
turn with the precisions of batchroute. Prints a table and one line of JSON, and exits with 1 when float32 scores differ
by 1e-4 or more. Without --router: the embedded MiniLM with a random head, or random weights in the shape of
DeBERTa-v3-base with MiniLM's tokenizer; speed does not depend on what they have learnt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from batchroute import models
from batchroute.hardware.devices import Precision
from batchroute.models import quiet_transformers
from batchroute.router.model import Router
from batchroute.router.scoring import score
from tests.benchmarks.router_in_engines import ENGINES
from tests.benchmarks.router_rivals import by_engines
from tests.benchmarks.shapes import matrix_peak, random_classifier

DEFAULT_PROMPTS = Path(__file__).parents[2] / "sample_data" / "prompts.parquet"
MAX_LENGTH = 512
MAX_DIFFERENCE = 1e-4
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "bfloat16")
Scores = np.typing.NDArray[np.float64]


def main() -> int:
    args = _arguments()
    texts = pl.read_parquet(args.prompts, columns=["prompt"], n_rows=args.rows)["prompt"].to_list()
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        name = args.router or _random_router(Path(folder), args.shape)
        routers = {precision: Router.load(name, device, precision, MAX_LENGTH) for precision in PRECISIONS}
        with quiet_transformers():
            theirs = AutoModelForSequenceClassification.from_pretrained(models.resolve(name)).eval()
            tokenizer = AutoTokenizer.from_pretrained(models.resolve(name))
    ours: dict[str, Callable[[], Scores]] = {
        f"batchroute, {precision}": lambda router=router: score(router, texts).scores.astype(float)  # type: ignore[misc]
        for precision, router in routers.items()
    }
    baselines: dict[str, Callable[[], Scores]] = {
        f"pipeline, {size}": lambda size=size: _pipeline_scores(theirs, tokenizer, routers["float32"], texts, size)  # type: ignore[misc]
        for size in args.batch_sizes
    }
    scores: dict[str, Scores] = {}
    seconds: dict[str, list[float]] = {}

    def run(rules: dict[str, Callable[[], Scores]]) -> None:
        for rule, run_it in rules.items():
            started = time.perf_counter()
            scores[rule] = run_it()
            seconds.setdefault(rule, []).append(time.perf_counter() - started)

    score(routers["float32"], texts[:32])
    run(ours | baselines)
    best = min(baselines, key=lambda rule: seconds[rule][0])
    for _ in range(0 if args.quick else args.repeats - 1):
        run(ours | {best: baselines[best]})
    first = next(iter(ours))
    others = by_engines(theirs, routers["float32"], texts, args)
    for rule, (scored, taken) in others.items():
        scores[rule], seconds[rule] = scored, taken
    figures = {
        rule: {
            "seconds": round(statistics.median(seconds[rule]), 3),
            "prompts_per_second": round(len(texts) / statistics.median(seconds[rule]), 1),
            "ratio_to_best_pipeline": round(statistics.median(seconds[best]) / statistics.median(seconds[rule]), 2),
            "max_difference": float(np.abs(scores[rule] - scores[best]).max()),
            "routes_changed": _changed(scores[best], scores[rule]),
        }
        for rule in [*ours, *baselines, *others]
    }
    _show(figures)
    work = _work(theirs, routers["float32"], texts)
    peak = matrix_peak(device, torch.float32)
    share = work / statistics.median(seconds[first]) / peak
    print(f"float32 products: {peak / 1e9:.0f} GFLOP/s at best on this machine; scoring reaches {share:.0%} of it")
    facts = {"rows": len(texts), "threads": torch.get_num_threads(), "peak_gflops": peak / 1e9, "share_of_peak": share}
    print(json.dumps({**facts, "ways": figures, "all_seconds": seconds}))
    return int(figures[first]["max_difference"] >= MAX_DIFFERENCE)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Router scoring against the pipeline of transformers.")
    default = DEFAULT_PROMPTS if DEFAULT_PROMPTS.is_file() else None
    parser.add_argument(
        "--prompts", type=Path, default=default, required=default is None, help="parquet, column prompt"
    )
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--router", help="directory, hub id; default: see above")
    parser.add_argument("--shape", choices=["minilm", "deberta-v3-base"], default="minilm")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="of the pipeline")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", nargs="+", choices=list(ENGINES), default=[], help="other engines, if installed")
    parser.add_argument("--python", help="the interpreter that has these engines; this one unless set")
    parser.add_argument("--quick", action="store_true", help="32 rows, once")
    args = parser.parse_args()
    if args.quick:
        args.rows = min(args.rows, 32)
    return args


def _random_router(folder: Path, shape: str) -> str:
    path = models.resolve("embedded:all-minilm-l6-v2")
    torch.manual_seed(0)
    with quiet_transformers():
        if shape == "minilm":
            model: Any = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
        else:
            model = random_classifier(shape)
    # Wider than the default, so that the scores spread and a difference shows.
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return str(folder)


def _pipeline_scores(model: Any, tokenizer: Any, router: Router, texts: Sequence[str], batch_size: int) -> Scores:
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=router.device)
    easy = model.config.id2label[model.config.num_labels - 1]
    # Sigmoid or softmax as the router has it, whatever the checkpoint's problem_type says.
    function = "sigmoid" if model.config.num_labels == 1 else "softmax"
    found = classify(
        list(texts),
        batch_size=batch_size,
        truncation=True,
        max_length=router.max_length,
        top_k=None,
        function_to_apply=function,
    )
    return np.array([next(row["score"] for row in rows if row["label"] == easy) for rows in found])


def _changed(expected: Scores, found: Scores) -> float:
    """The share of rows that go another way when half of them go to the small model, by either's own threshold."""
    return float(((expected >= np.median(expected)) != (found >= np.median(found))).mean())


def _work(model: Any, router: Router, texts: Sequence[str]) -> float:
    """Floating point operations of the linear layers and of attention for all prompts, without padding."""
    lengths = np.minimum(score(router, texts).tokens, router.max_length).astype(float)
    layers, hidden = model.config.num_hidden_layers, model.config.hidden_size
    weights = sum(
        module.weight.numel()
        for name, module in model.base_model.named_modules()
        if isinstance(module, torch.nn.Linear) and "pooler" not in name
    )
    return float(2 * weights * lengths.sum() + 4 * layers * hidden * (lengths**2).sum())


def _show(figures: dict[str, dict[str, float]]) -> None:
    print(f"{'way':<24}{'median s':>10}{'prompts/s':>11}{'ratio':>7}{'max difference':>16}{'routes changed':>16}")
    for rule, row in figures.items():
        print(
            f"{rule:<24}{row['seconds']:>10.2f}{row['prompts_per_second']:>11.1f}{row['ratio_to_best_pipeline']:>7.2f}"
            f"{row['max_difference']:>16.1e}{row['routes_changed']:>16.2%}"
        )


if __name__ == "__main__":
    sys.exit(main())
