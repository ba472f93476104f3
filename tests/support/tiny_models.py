"""Tiny models of real architectures with random weights, and a tokenizer for them: made in milliseconds, on no hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

PAD, UNK, CLS, SEP, EOS = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[EOS]"
TEXT = [
    "Which of these words is a fruit: apple, stone, river or glass?",
    "Translate the sentence into French and explain every step of it.",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "What is 12 plus 30? Answer with one number only.",
]
POSITIONS = 64


def tiny_tokenizer(folder: Path, special_tokens: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 350 tokens, saved in `folder`. It encodes any text.

    Args:
        special_tokens: put [CLS] and [SEP] around a text, as encoders want it; otherwise nothing, as for decoders.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=[PAD, UNK, CLS, SEP, EOS], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT, trainer)
    if special_tokens:
        ids = [(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=ids
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNK, cls_token=CLS, sep_token=SEP, eos_token=EOS
    )
    fast.save_pretrained(folder)
    return fast


def tiny_router(
    folder: Path, architecture: str = "bert", labels: int = 1, head: bool = True, seed: int = 0, **config: Any
) -> Path:
    """A sequence classifier with its tokenizer, saved in `folder`; its scores spread over (0, 1).

    Args:
        architecture: bert, roberta, deberta, modernbert or gpt2.
        head: False saves the bare encoder.
        config: more settings of the architecture.
    """
    tokenizer = tiny_tokenizer(folder, special_tokens=architecture != "gpt2")
    settings = _config(architecture, tokenizer, labels, config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not head:
            AutoModel.from_config(settings).save_pretrained(folder)
            return folder
        model = AutoModelForSequenceClassification.from_config(settings)
        # As initialised, all scores are 0.5 to three digits, and a mix-up of rows would go unseen.
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.5 if "embed" in name else 0.3)
    model.save_pretrained(folder)
    return folder


def _config(
    architecture: str, tokenizer: PreTrainedTokenizerFast, labels: int, more: dict[str, Any]
) -> PreTrainedConfig:
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": tokenizer.pad_token_id,
        "num_labels": labels,
    }
    if architecture == "bert":
        return BertConfig(**shared | more)
    if architecture == "roberta":
        return RobertaConfig(**shared | {"pad_token_id": 1} | more)
    if architecture == "deberta":
        # As DeBERTa-v3: relative positions in both directions, none in the embeddings.
        relative = {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "position_biased_input": False,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "type_vocab_size": 0,
        }
        return DebertaV2Config(**shared | relative | more)
    if architecture == "modernbert":
        # Its special token ids lie beyond a tiny vocabulary by default.
        ids = {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "local_attention": 16}
        return ModernBertConfig(**shared | ids | more)
    assert architecture == "gpt2"
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 4, "eos_token_id": 4}
    return GPT2Config(vocab_size=len(tokenizer), num_labels=labels, **sizes | ids | more)
