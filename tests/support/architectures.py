"""Tiny models of any architecture of transformers: its own configuration with small sizes, and random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

POSITIONS, WINDOW = 128, 16
_MOST_WEIGHTS = 8_000_000
_SIZES: dict[int, str] = {
    32: "hidden_size n_embd d_model dim emb_dim embed_dim embedding_size word_embed_proj_dim lru_width out_hidden_size "
    "vision_output_dim projector_input_dim projector_output_dim projection_dim conf_hidden_size text_hidden_size "
    "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size "
    "ffn_config_hidden conv_dim bottleneck_size true_hidden_size intra_bottleneck_size mamba_d_ssm "
    "attention_hidden_size pooler_hidden_size dim_model input_hidden_size cross_attention_hidden_size "
    "encoder_hidden_size d_embed",
    2: "num_hidden_layers num_layers n_layer n_layers depth encoder_layers decoder_layers num_encoder_layers "
    "num_decoder_layers num_key_value_heads n_kv_heads num_kv_heads num_query_groups num_local_experts n_group "
    "conf_num_hidden_layers linear_num_key_heads linear_num_value_heads mamba_n_groups num_swa_key_value_heads "
    "swa_num_key_value_heads",
    4: "num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads "
    "num_encoder_attention_heads num_decoder_attention_heads attention_heads num_experts n_routed_experts "
    "moe_num_experts time_step_rank laurel_rank mamba_dt_rank swa_num_attention_heads",
    8: "head_dim d_kv state_size global_head_dim linear_key_head_dim linear_value_head_dim qk_nope_head_dim v_head_dim "
    "qk_rope_head_dim hidden_size_per_layer_input mamba_d_state mamba_headdim mamba_d_head swa_head_dim "
    "swa_v_head_dim kv_channels d_head index_head_dim rotary_dim",
    16: "q_lora_rank kv_lora_rank",
    64: "intermediate_size n_inner d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim hidden_dim intermediate_size_mlp "
    "dim_ff d_inner ffn_hidden_size inner_dim feed_forward_size dense_intermediate_size intermediate_dim mlp_dim",
    POSITIONS: "max_position_embeddings n_positions n_ctx context_length max_seq_len seq_length max_source_positions "
    "max_target_positions max_encoder_position_embeddings max_decoder_position_embeddings",
    WINDOW: "sliding_window attention_window_size local_attention window_size sliding_window_size",
    1: "num_experts_per_tok num_experts_per_token moe_k topk_group first_k_dense_replace n_shared_experts "
    "num_shared_experts num_global_layers moe_topk num_nextn_predict_layers num_mem_blocks "
    "max_num_tiles index_n_heads num_dense_layers",
    28: "image_size",
}
_SIZE_OF = {name: size for size, names in _SIZES.items() for name in names.split()}
_ALSO: dict[str, Any] = {
    "num_kv_shared_layers": 0,
    "num_hash_layers": 0,
    "pixel_shuffle_ratio": 0.5,
    "supported_aspect_ratios": [[1, 1]],
}
# What the sizes of an architecture must agree on, and settings by which its odd parts are in two layers.
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2,
              "n_mamba_heads": 2, "attention_head_dim": 16, "attention_hidden_size": 64, "num_key_value_heads": 4},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2,
               "hybrid_layer_ids": [1, 3], "n_mamba_heads": 8, "mamba_headdim": 8, "mamba_ngroups": 1,
               "attention_head_dim": 16, "attention_hidden_size": 64, "num_key_value_heads": 4},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "num_hidden_layers": 2},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "mamba_n_heads": 8, "mamba_d_head": 8},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2,
                   "layers_block_type": ["linear_attention", "full_attention"]},
    "led": {"attention_window": 16},
    "longformer": {"attention_window": 16},
    "big_bird": {"block_size": 8, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 8, "num_random_blocks": 1},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    "reformer": {"axial_pos_shape": (8, 16), "axial_pos_embds_dim": (16, 16), "attn_layers": ["local", "lsh"],
                 "attention_head_size": 8, "num_buckets": 4, "is_decoder": True, "local_attn_chunk_length": 16,
                 "lsh_attn_chunk_length": 16},
    "canine": {"num_hash_buckets": 64, "local_transformer_stride": 16},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16,
                   "position_biased_input": False, "share_att_key": True, "norm_rel_ebd": "layer_norm",
                   "type_vocab_size": 0},
    "falcon": {"alibi": True, "num_kv_heads": 4, "new_decoder_architecture": False, "multi_query": False},
    "rwkv": {"attention_hidden_size": 32},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "mobilebert": {"use_bottleneck": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "openai-gpt": {"n_positions": POSITIONS},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4, "moe_topk": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "squeezebert": {"embedding_size": 32},
}  # fmt: skip


def tiny_config(kind: str, vocabulary: int, **more: Any) -> PreTrainedConfig:
    """The configuration of an architecture, as small as it works."""
    config = CONFIG_MAPPING[kind]()
    _shrink(config, vocabulary)
    for name, value in {**_OWN.get(kind, {}), **more}.items():
        setattr(config, name, value)
    return config


def decoder(kind: str, vocabulary: int) -> Any:
    return _built(AutoModelForCausalLM, tiny_config(kind, vocabulary))


def encoder_decoder(kind: str, vocabulary: int) -> Any:
    return _built(
        AutoModelForSeq2SeqLM, tiny_config(kind, vocabulary, decoder_start_token_id=0, forced_eos_token_id=None)
    )


def classifier(kind: str, vocabulary: int) -> Any:
    more: dict[str, Any] = {"is_decoder": False} if kind == "reformer" else {}
    if "is_encoder_decoder" in vars(CONFIG_MAPPING[kind]()):
        # These read the last end token of a text, which the tokenizer writes.
        more |= {"eos_token_id": 3, "decoder_start_token_id": 0}
    return _built(AutoModelForSequenceClassification, tiny_config(kind, vocabulary, num_labels=1, **more))


def _built(family: Any, config: PreTrainedConfig) -> Any:
    with torch.device("meta"):
        size = sum(weights.numel() for weights in family.from_config(config).parameters())
    if size > _MOST_WEIGHTS:
        raise ValueError(f"{size:,} weights at tiny size")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family.from_config(config)
        for name, weights in model.named_parameters():
            if weights.ndim > 1 and weights.is_floating_point():
                torch.nn.init.normal_(weights, std=0.5 if "embed" in name else 0.2)
    return model.eval()


def _shrink(config: PreTrainedConfig, vocabulary: int) -> None:
    own = vars(config)
    for value in list(own.values()):
        if isinstance(value, PreTrainedConfig):
            _shrink(value, vocabulary)
    for name, size in (_SIZE_OF | _ALSO).items():
        name = config.attribute_map.get(name, name)
        if own.get(name) is None or isinstance(own[name], PreTrainedConfig):
            continue
        setattr(config, name, [size] * 2 if isinstance(own[name], list) and not isinstance(size, list) else size)
    if own.get("kv_lora_rank"):
        # Keys and values are made for each head from a smaller vector.
        config.num_key_value_heads = config.num_attention_heads
    kinds = own.get("layer_types")
    if kinds:
        # Two layers: of the kinds that differ.
        config.layer_types = [kinds[0], next((one for one in kinds if one != kinds[0]), kinds[0])]
    for name in ("vocab_size", "vocab_size_per_layer_input", "src_vocab_size", "tgt_vocab_size"):
        if own.get(name):
            setattr(config, name, vocabulary)
    rope = own.get("rope_parameters")
    if isinstance(rope, dict) and "mrope_section" in rope:
        rope["mrope_section"] = [2, 1, 1]
    for name, value in list(own.items()):
        if name.endswith(("token_id", "token_index")) and isinstance(value, int) and value >= vocabulary:
            setattr(config, name, vocabulary - 1)
    for name, token in {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 4}.items():
        if name in own:
            setattr(config, name, token)
