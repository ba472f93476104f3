"""Continuous batches against length-sorted static ones on a 1B-shaped Llama, and a DeBERTa-v3-large-shaped router.

    python tests/benchmarks/gpu_generation.py            (one GPU)
    python tests/benchmarks/gpu_generation.py --tiny     (tiny shapes, on CPU: only that it works)

Made for a GPU, and not run on one yet: no figure of it is in any document. Weights are random and in bfloat16, made on
the spot. A Llama with large random weights walks from token to token at random, so that one token in 150 being an end
gives responses a wide spread of lengths; what came out stands in the result. Continuous batches should need flash
attention to pay (pip install flash-attn, or kernels); `notes` tells when they ended in static ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers import TransformersGenerator
from batchroute.router.model import Router
from batchroute.router.scoring import score

LLAMA_1B: dict[str, Any] = {
    "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip
LLAMA_TINY: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
DEBERTA_LARGE: dict[str, Any] = {
    "vocab_size": 128_100, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "position_buckets": 256,
}  # fmt: skip
DEBERTA_TINY: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "position_buckets": 16,
}  # fmt: skip
MEAN_RESPONSE = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="256 rows, once")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on CPU, 24 rows, once")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        sys.exit("there is no GPU here: give --tiny to see that it works")
    rows, repeats, new = arguments.rows, arguments.repeats, arguments.max_new_tokens
    if arguments.quick:
        rows, repeats = 256, 1
    if arguments.tiny:
        rows, repeats, new = 24, 1, 128
    device = torch.device("cpu" if arguments.tiny else "cuda")
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        llama = llama_folder(Path(folder) / "llama", LLAMA_TINY if arguments.tiny else LLAMA_1B)
        deberta = deberta_folder(Path(folder) / "deberta", DEBERTA_TINY if arguments.tiny else DEBERTA_LARGE)
        prompts = texts(rows, median=20 if arguments.tiny else 200, longest=100 if arguments.tiny else 2000)
        result = {
            "device": "cpu" if arguments.tiny else torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "generation": generation(llama, device, prompts, new, repeats),
            "router": routing(deberta, device, prompts, repeats),
        }
    print(json.dumps(result, indent=2))


def generation(folder: Path, device: torch.device, prompts: list[str], new: int, repeats: int) -> dict[str, Any]:
    """Both ways to batch, one after the other, each with the memory to itself."""
    found: dict[str, Any] = {"rows": len(prompts), "max_new_tokens": new}
    for batching in ("static", "continuous"):
        spec = ModelSpec.model_validate(
            {"backend": "transformers", "model": str(folder), "batching": batching, "dtype": "bfloat16"}
            | {"generation": {"max_new_tokens": new}}
        )
        generator = TransformersGenerator(spec, device)
        # Graphs and kernels are made at the first use.
        generator.generate(prompts[:8], [0] * 8)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            responses = generator.generate(prompts, [0] * len(prompts))
            seconds.append(time.perf_counter() - started)
        written = [response.output_tokens for response in responses]
        median = statistics.median(seconds)
        found[batching] = {
            "seconds": seconds,
            "output_tokens_per_second": sum(written) / median,
            "rows_per_second": len(prompts) / median,
            "failed": sum(response.error is not None for response in responses),
            "prompt_tokens": spread([response.input_tokens for response in responses]),
            "output_tokens": spread(written),
            "notes": generator.notes,
        }
        generator.close()
    found["ratio"] = found["continuous"]["output_tokens_per_second"] / found["static"]["output_tokens_per_second"]
    return found


def routing(folder: Path, device: torch.device, prompts: list[str], repeats: int) -> dict[str, Any]:
    """The project's own scoring code: sorted by length, batched by tokens, cut at 512 of them."""
    router = Router.load(str(folder), device, precision="bfloat16", max_length=512)
    score(router, prompts)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        scores = score(router, prompts)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    tokens = np.minimum(scores.tokens, router.max_length)
    found = {
        "seconds": seconds,
        "prompts_per_second": len(prompts) / median,
        "tokens_per_second": float(tokens.sum()) / median,
        "token_budget": router.token_budget,
        "tokens": spread(tokens.tolist()),
        "not_a_number": int(np.isnan(scores.scores).sum()),
    }
    router.close()
    return found


def texts(rows: int, median: int, longest: int) -> list[str]:
    """Prompts of log-normal lengths: most are short, a few very long."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(median), 0.8, rows), 8, longest).astype(int)
    return [" ".join(f"t{token}" for token in random.integers(8, 500, length)) for length in lengths]


def spread(lengths: list[int]) -> dict[str, int]:
    low, median, high = np.percentile(lengths, [10, 50, 90])
    return {"sum": sum(lengths), "p10": int(low), "p50": int(median), "p90": int(high), "max": max(lengths)}


def llama_folder(folder: Path, shape: dict[str, Any]) -> Path:
    words_tokenizer(folder, shape["vocab_size"])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=None, pad_token_id=0, eos_token_id=1))
    torch.set_default_dtype(torch.float32)
    # As initialised it would write one token again and again, and never an end.
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=2 / shape["hidden_size"] ** 0.5)
    ends = np.random.default_rng(1).choice(np.arange(8, shape["vocab_size"]), shape["vocab_size"] // MEAN_RESPONSE)
    model.generation_config.eos_token_id = sorted({1, *ends.tolist()})
    model.save_pretrained(folder)
    return folder


def deberta_folder(folder: Path, shape: dict[str, Any]) -> Path:
    words_tokenizer(folder, shape["vocab_size"])
    torch.manual_seed(0)
    config = DebertaV2Config(
        **shape, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, share_att_key=True,
        norm_rel_ebd="layer_norm", type_vocab_size=0, max_position_embeddings=512, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    DebertaV2ForSequenceClassification(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def words_tokenizer(folder: Path, size: int) -> None:
    """A word is a token: t8 is number 8. So lengths are exact, and tokenising costs next to nothing."""
    words = {"[PAD]": 0, "[EOS]": 1, "[UNK]": 2} | {f"t{number}": number for number in range(3, size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]")
    fast.save_pretrained(folder)


if __name__ == "__main__":
    main()
