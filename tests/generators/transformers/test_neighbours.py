"""Architectures whose rows change each other in a batch, found when they load and answered as they are alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.neighbours import find_sharing
from tests.support.tiny_models import tiny_tokenizer

NEW = 6
PROMPTS = [
    "hello",
    "What is 12 plus 30? Answer with one number only.",
    "The quick brown fox",
    "quick The brown fox",
    "x",
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
# Architecture, its settings, and which rows may share a batch.
KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}, "padded"),
    ("t5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}, "padded"),
    ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "padded"),
    ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 96}, "singly"),
]


def tiny(folder: Path, kind: str, settings: dict[str, Any]) -> Path:
    tokenizer = tiny_tokenizer(folder, special_tokens=False)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 4}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **settings)
    if config.is_encoder_decoder:
        config.decoder_start_token_id = 0
    family: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family.from_config(config)
        for weights in model.parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> TransformersGenerator:
    spec = {
        "backend": "transformers",
        "model": str(folder),
        "batching": "static",
        "generation": {"max_new_tokens": NEW},
    }
    return TransformersGenerator(ModelSpec.model_validate(spec), torch.device("cpu"))


@pytest.mark.parametrize(("kind", "settings", "expected"), KINDS, ids=[kind for kind, _, _ in KINDS])
def test_rows_are_answered_as_they_are_alone(
    tmp_path: Path, kind: str, settings: dict[str, Any], expected: str
) -> None:
    folder = tiny(tmp_path, kind, settings)
    generator = load(folder)
    assert generator.sharing == expected
    assert bool(generator.notes) is (expected != "padded")
    beside = generator.generate(PROMPTS, [0] * len(PROMPTS))
    alone = [generator.generate([prompt], [0])[0] for prompt in PROMPTS]
    assert [response.error for response in alone] == [None] * len(PROMPTS)
    assert beside == alone


def test_what_padding_changes_shares_a_batch_with_rows_of_its_length_alone(tmp_path: Path) -> None:
    generator = load(tiny(tmp_path, *KINDS[0][:2]))

    def without_mask(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return given, {**named, "attention_mask": None, "position_ids": None}

    generator._model.register_forward_pre_hook(without_mask, with_kwargs=True)
    batches = generator._static
    assert find_sharing(batches._loaded, batches._writer, refill=False) == "equal lengths"
    batches.sharing = "equal lengths"
    seeds = [0] * len(PROMPTS)
    assert generator.generate(PROMPTS, seeds) == [generator.generate([prompt], [0])[0] for prompt in PROMPTS]


def test_what_any_neighbour_changes_is_answered_singly(tmp_path: Path) -> None:
    generator = load(tiny(tmp_path, *KINDS[0][:2]))
    generator._model.lm_head.register_forward_hook(lambda module, given, out: out + out.roll(1, dims=0))
    batches = generator._static
    assert find_sharing(batches._loaded, batches._writer, refill=False) == "singly"
