from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from batchroute.generators.transformers.layers import PackedLayer, Product, is_packed, pack

SHAPE: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
IDS = torch.tensor([[0, 0, 5, 80, 41, 3], [7, 12, 9, 60, 33, 8]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


def decoder(family: Any = LlamaForCausalLM, config: Any = LlamaConfig, **settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family(config(**SHAPE | settings)).eval()
        for weights in model.parameters():
            torch.nn.init.normal_(weights, std=0.3)
    return model


def logits(model: Any) -> torch.Tensor:
    """Of the prompt and, from its cache, of one more token."""
    with torch.inference_mode():
        prompt = model(IDS, attention_mask=MASK, use_cache=True)
        seen = torch.cat([MASK, torch.ones(2, 1, dtype=MASK.dtype)], dim=1)
        more = model(IDS[:, :1] + 20, attention_mask=seen, past_key_values=prompt.past_key_values)
    found: torch.Tensor = torch.cat([prompt.logits, more.logits], dim=1)[:, 2:].float()
    return found


@pytest.mark.parametrize(
    "model",
    [
        decoder(),
        decoder(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        decoder(MistralForCausalLM, MistralConfig, sliding_window=3),
        decoder(Qwen2ForCausalLM, Qwen2Config),
        decoder(Qwen3ForCausalLM, Qwen3Config, head_dim=16),
    ],
    ids=["llama", "llama with biases", "mistral", "qwen2", "qwen3"],
)
def test_packed_layers_answer_as_the_models_own(model: Any) -> None:
    expected = logits(model)
    assert pack(model) == 3
    assert is_packed(model)
    assert type(model.lm_head) is Product
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_they_are_as_far_from_float32_as_the_models_own() -> None:
    exact = logits(decoder())
    model = decoder().bfloat16()
    own = (logits(model) - exact).abs().mean()
    assert pack(model) == (3 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else 0)
    assert (logits(model) - exact).abs().mean() < 1.5 * own


def test_a_layer_of_another_formula_stays() -> None:
    model = decoder()
    model.model.layers[1].self_attn.scaling *= 1.5
    expected = logits(model)
    assert pack(copy.deepcopy(model)) == 3
    mlp = model.model.layers[1].mlp
    own = mlp.forward
    mlp.forward = lambda hidden: 1.01 * own(hidden)
    model.model.layers[2].mlp.act_fn = torch.nn.GELU()
    changed = logits(model)
    assert not torch.allclose(changed, expected, rtol=1e-3)
    assert pack(model) == 1
    assert [type(layer) is PackedLayer for layer in model.model.layers] == [True, False, False]
    torch.testing.assert_close(logits(model), changed, rtol=1e-4, atol=1e-4)


def test_a_layer_that_has_only_some_of_the_biases_stays() -> None:
    model = decoder(attention_bias=True)
    model.model.layers[1].self_attn.k_proj.bias = None
    expected = logits(model)
    assert pack(model) == 2
    assert not is_packed(model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_other_parts_stays() -> None:
    model = decoder(GPT2LMHeadModel, GPT2Config, n_embd=32, n_layer=2, n_head=4)
    assert pack(model) == 0
    assert type(model.lm_head) is torch.nn.Linear


def test_the_weights_are_in_memory_once() -> None:
    model = decoder()
    kept = [weakref.ref(weights) for layer in model.model.layers for weights in layer.mlp.parameters()]
    pack(model)
    gc.collect()
    assert [weights() for weights in kept] == [None] * 9
