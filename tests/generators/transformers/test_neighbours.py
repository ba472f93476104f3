"""Architectures whose rows change each other in a batch, found when they load and answered as they are alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.neighbours import find_sharing
from tests.generators.transformers.tiny_generators import tiny_decoder
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


def llama(folder: Path) -> TransformersGenerator:
    return TransformersGenerator(
        ModelSpec(backend="transformers", model=str(tiny_decoder(folder)), generation={"max_new_tokens": NEW}),
        torch.device("cpu"),
    )


def test_what_refilled_batches_or_a_prefix_change_is_answered_without_them(tmp_path: Path) -> None:
    generator = llama(tmp_path)
    assert (generator.sharing, generator.notes) == ("refilled", [])
    assert generator._refilled is not None

    def shift(when: Callable[[dict[str, Any]], bool]) -> Any:
        def moved(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if when(named):
                named = {**named, "position_ids": named["position_ids"] + 9}
            return given, named

        return generator._model.register_forward_pre_hook(moved, with_kwargs=True)

    def after_a_prefix(named: dict[str, Any]) -> bool:
        return named["input_ids"].shape[1] > 1 and named["past_key_values"].get_seq_length() > 0

    hook = shift(after_a_prefix)
    assert find_sharing(generator._loaded, generator._writer, refill=True) == "without prefixes"
    hook.remove()
    hook = shift(lambda named: "slots" in named and len(named["input_ids"]) > 1)
    assert find_sharing(generator._loaded, generator._writer, refill=True) == "padded"
    hook.remove()


def test_a_worker_shares_batches_as_its_run_began_or_more_carefully(tmp_path: Path) -> None:
    generator = llama(tmp_path)
    asked = [f"The quick brown fox jumps over the lazy dog and {word}" for word in ("sleeps", "eats", "hides", "runs")]
    before = generator.generate(asked, [0] * 4)
    generator.share("without prefixes")
    assert generator._refilled is not None
    assert not generator._refilled.prefixes
    assert "each row reads its whole prompt" in generator.notes[-1]
    generator.share("refilled")
    assert generator.sharing == "without prefixes"
    assert generator.generate(asked, [0] * 4) == before
    generator.share("singly")
    assert generator._refilled is None
    assert generator.notes[-1].endswith("rows are answered one at a time, which is slower")
    assert generator.generate(asked, [0] * 4) == before
