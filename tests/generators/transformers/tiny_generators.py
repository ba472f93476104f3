"""Tiny generators of real architectures with random weights: made in milliseconds, on no hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.support.tiny_models import tiny_tokenizer

CONTEXT = 96
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}"
    "{% endif %}"
    "[CLS]{{ message['role'] }}: {{ message['content'] }}[SEP]"
    "{% endfor %}"
    "{% if add_generation_prompt %}[CLS]assistant: {% endif %}"
)


def tiny_decoder(folder: Path, chat: bool = False, seed: int = 0, **generation: Any) -> Path:
    """A Llama, saved in `folder`.

    Args:
        chat: with a chat template; otherwise its tokenizer puts [CLS] and [SEP] around a text.
        generation: what its own generation_config.json says.
    """
    tokenizer = tiny_tokenizer(folder)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return _save(LlamaForCausalLM, config, folder, seed, generation)


def tiny_encoder_decoder(folder: Path, architecture: str = "t5", seed: int = 0, **generation: Any) -> Path:
    """A T5 or a BART (`t5`, `bart`), saved in `folder`."""
    tokenizer = tiny_tokenizer(folder)
    shared = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    if architecture == "t5":
        config = T5Config(**shared, d_kv=8, d_ff=64, num_layers=2, num_heads=4, tie_word_embeddings=False)
        return _save(T5ForConditionalGeneration, config, folder, seed, generation)
    assert architecture == "bart"
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "forced_eos_token_id": None}
    config = BartConfig(**shared, **sizes, **heads, bos_token_id=2, max_position_embeddings=CONTEXT)
    return _save(BartForConditionalGeneration, config, folder, seed, generation)


def _save(family: Any, config: Any, folder: Path, seed: int, generation: dict[str, Any]) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = family(config)
        # As initialised, all texts are one token again and again, and a mix-up of rows would go unseen.
        for weights in model.parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.4)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    return folder
