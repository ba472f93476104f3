"""The router and generation on a GPU, against what people would write themselves; see `gpu.sh`.

Weights are random and in bfloat16, made on the spot. A Llama with large random weights walks from token to token at
random, so that one token in 150 being an end gives responses a wide spread of lengths. A part that fails says so in
its line, and the others go on. `--tiny` is for machines without a GPU: tiny shapes on the CPU, to see that it works.
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
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.router.model import Router
from batchroute.router.scoring import score
from tests.benchmarks.shapes import SHAPES, matrix_peak, random_classifier, random_decoder, synchronize

MEAN_RESPONSE = 150
BATCH = 32
"""Rows of the static batches in arrival order that people write themselves."""


class Size(NamedTuple):
    router: str
    prompts: int
    decoders: dict[str, int]
    new_tokens: int
    longest: int


FULL = Size("deberta-v3-large", 4096, {"llama-1b": 1024, "llama-7b": 256}, 256, 2000)
QUICK = FULL._replace(prompts=1024, decoders={"llama-1b": 256})
TINY = Size("tiny-deberta", 24, {"tiny-llama": 24}, 64, 100)


class Line(NamedTuple):
    """One line of the table: what was done, how fast, and against the line it is compared with."""

    what: str
    rate: float
    unit: str
    ratio: float | None
    share: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, without the 7B shape")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        sys.exit("there is no GPU here: give --tiny to see that it works")
    size = TINY if arguments.tiny else QUICK if arguments.quick else FULL
    device = torch.device("cpu" if arguments.tiny else "cuda")
    transformers_logging.disable_progress_bar()
    name = "CPU" if arguments.tiny else torch.cuda.get_device_name()
    peak = matrix_peak(device, torch.bfloat16)
    print(f"{name}, torch {torch.__version__}, bfloat16 products {peak / 1e12:.1f} TFLOP/s at best", flush=True)
    lines: list[Line] = []
    failures: dict[str, str] = {}
    parts: dict[str, Callable[[], list[Line]]] = {size.router: lambda: routing(size, device, peak)}
    for shape, rows in size.decoders.items():
        parts[shape] = lambda shape=shape, rows=rows: generation(shape, rows, size, device, peak)  # type: ignore[misc]
    for part, measure in parts.items():
        try:
            found = measure()
        except Exception as error:
            failures[part] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"{part}: {failures[part]}")
            continue
        lines += found
        for line in found:
            ratio = "" if line.ratio is None else f"{line.ratio:.2f} times"
            share = "" if line.share is None else f"{line.share:.1%} of peak"
            print(f"{line.what:<60}{line.rate:>12,.0f} {line.unit:<12}{ratio:>12}{share:>16}", flush=True)
    if arguments.json:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        facts = {"device": name, **versions, "peak_tflops": peak / 1e12, "failures": failures}
        arguments.json.write_text(json.dumps(facts | {"lines": [line._asdict() for line in lines]}, indent=2))
    sys.exit(bool(failures))


def routing(size: Size, device: torch.device, peak: float) -> list[Line]:
    """Scoring with batchroute; with transformers' own attention in the same batches; and in arrival order."""
    prompts = texts(size.prompts, median=20 if device.type == "cpu" else 120, longest=size.longest)
    with tempfile.TemporaryDirectory() as folder:
        words_tokenizer(Path(folder), SHAPES[size.router].vocab_size)
        random_classifier(size.router, dtype=torch.bfloat16).save_pretrained(folder)
        ours = Router.load(folder, device, precision="bfloat16", max_length=512)
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
        theirs = Router(model, AutoTokenizer.from_pretrained(folder), device, ours.max_length)
    lengths = np.minimum(score(ours, prompts).tokens, ours.max_length).astype(float)
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    config = model.config
    attention = 4 * config.num_hidden_layers * config.hidden_size
    work = 2 * linear * lengths.sum() + attention * (lengths**2).sum()
    few = prompts[: max(BATCH, size.prompts // 8)]
    arrival = len(few) / seconds_of(lambda: in_arrival_order(theirs, few), device)
    found = [Line(f"{size.router}, arrival order, {BATCH} rows", arrival, "prompts/s", None, None)]
    rules: dict[str, Router] = {"batchroute's batches, transformers' attention": theirs, "batchroute": ours}
    for rule, router in rules.items():
        rate = len(prompts) / seconds_of(lambda router=router: score(router, prompts), device)  # type: ignore[misc]
        share = work * rate / len(prompts) / peak
        found.append(Line(f"{size.router}, {rule}", rate, "prompts/s", rate / arrival, share))
    return found


def in_arrival_order(router: Router, prompts: list[str]) -> None:
    with torch.inference_mode():
        for start in range(0, len(prompts), BATCH):
            batch = router.tokenizer(
                prompts[start : start + BATCH],
                padding=True,
                truncation=True,
                max_length=router.max_length,
                return_tensors="pt",
            )
            router.model(
                input_ids=batch["input_ids"].to(router.device), attention_mask=batch["attention_mask"].to(router.device)
            ).logits.tolist()


def generation(shape: str, rows: int, size: Size, device: torch.device, peak: float) -> list[Line]:
    """Each way to batch one after the other, with the memory to itself."""
    prompts = texts(rows, median=20 if device.type == "cpu" else 200, longest=size.longest)
    found: list[Line] = []
    with tempfile.TemporaryDirectory() as name:
        weights = llama_folder(Path(name), shape, device)
        for batching in ("static", "auto", "continuous"):
            spec = ModelSpec.model_validate(
                {"backend": "transformers", "model": name, "batching": batching, "dtype": "bfloat16"}
                | {"generation": {"max_new_tokens": size.new_tokens}}
            )
            generator = TransformersGenerator(spec, device)
            # Graphs and kernels are made at the first use.
            generator.generate(prompts[:8], [0] * 8)
            started = time.perf_counter()
            responses = generator.generate(prompts, [0] * len(prompts))
            synchronize(device)
            seconds = time.perf_counter() - started
            generator.close()
            failed = next((response.error for response in responses if response.error is not None), None)
            if failed is not None:
                raise RuntimeError(f"{batching}: {failed}")
            read, written = (
                sum(getattr(response, tokens) for response in responses) for tokens in ("input_tokens", "output_tokens")
            )
            rate = written / seconds
            share = 2 * weights * (read + written) / seconds / peak
            ratio = rate / found[0].rate if found else None
            notes = "".join(f" ({note})" for note in generator.notes)
            found.append(Line(f"{shape}, batching {batching}{notes}", rate, "tokens/s", ratio, share))
    return found


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """The median of three after one to warm up."""
    seconds = []
    for _ in range(4):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def texts(rows: int, median: int, longest: int) -> list[str]:
    """Prompts of log-normal lengths: most are short, a few very long."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(median), 0.8, rows), 8, longest).astype(int)
    return [" ".join(f"t{token}" for token in random.integers(8, 500, length)) for length in lengths]


def llama_folder(folder: Path, shape: str, device: torch.device) -> int:
    """A random Llama in `folder`.

    Returns:
        How many weights a token is multiplied with.
    """
    vocabulary = SHAPES[shape].vocab_size
    words_tokenizer(folder, vocabulary)
    model = random_decoder(shape, device, torch.bfloat16)
    # As initialised it would write one token again and again, and never an end.
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=2 / SHAPES[shape].hidden_size ** 0.5)
    ends = np.random.default_rng(1).choice(np.arange(8, vocabulary), max(1, vocabulary // MEAN_RESPONSE))
    model.generation_config.eos_token_id = sorted({1, *ends.tolist()})
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))


def words_tokenizer(folder: Path, size: int) -> None:
    """A word is a token: t8 is number 8. So lengths are exact, and tokenising costs next to nothing."""
    words = {"[PAD]": 0, "[EOS]": 1, "[UNK]": 2} | {f"t{number}": number for number in range(3, size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]")
    fast.save_pretrained(folder)


if __name__ == "__main__":
    main()
