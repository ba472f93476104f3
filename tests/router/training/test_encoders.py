"""Encoders to start from, with the tokenizers that they really have."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceTrainer
from transformers import (
    AutoModel,
    BertConfig,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Tokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from batchroute.router.model import Router
from batchroute.router.scoring import score
from batchroute.router.training.encoders import default_lr, optimizer, untrained_router
from batchroute.router.training.train import train
from tests.router.training.trainings import CPU, EASY, HARD, options, write_table
from tests.support.tiny_models import TEXT, tiny_router

_WORDS = sorted({*EASY.split(), *HARD.split(), "number"})
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
# As microsoft/deberta-v3: no positions in the embeddings, and no token types although its tokenizer makes them.
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "position_biased_input": False,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
}


def save(folder: Path, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)


def minilm(folder: Path) -> None:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *_WORDS, *"0123456789", *(f"##{digit}" for digit in "0123456789")]
    save(
        folder,
        BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=64),
        BertConfig(vocab_size=len(pieces), max_position_embeddings=64, initializer_range=0.2, **_SIZES),
    )


def deberta(folder: Path) -> None:
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    pieces = [(piece, 0.0) for piece in specials] + [(f"▁{word}", -3.0) for word in _WORDS]
    pieces += [(letter, -6.0) for letter in "▁0123456789"] + [("[MASK]", 0.0)]
    save(
        folder,
        DebertaV2Tokenizer(vocab=pieces, unk_id=3),
        DebertaV2Config(vocab_size=len(pieces), initializer_range=0.2, pad_token_id=0, **_SIZES, **_DEBERTA),
    )


def deberta_of_the_hub(folder: Path) -> None:
    """The files of microsoft/deberta-v3-large: `spm.model`, and no `tokenizer.json`."""
    folder.mkdir()
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXT, EASY, HARD] * 5), model_writer=model, vocab_size=110, hard_vocab_limit=False,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
        unk_piece="[UNK]", minloglevel=2,
    )  # fmt: skip
    (folder / "spm.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    config = DebertaV2Config(vocab_size=128, initializer_range=0.2, pad_token_id=0, **_SIZES, **_DEBERTA)
    AutoModel.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("encoder", [minilm, deberta])
def test_an_encoder_with_its_own_tokenizer_learns_and_is_loaded_again(tmp_path: Path, encoder: object) -> None:
    assert callable(encoder)
    encoder(tmp_path / "base")
    result = train(options(tmp_path, write_table(tmp_path), epochs=5))
    best = result.history[result.best_epoch - 1]
    assert best.drop[2] < 0.5 * best.random_drop[2]
    router = Router.load(str(result.output), CPU)
    assert type(router.tokenizer).__name__ == {minilm: "PlainTokenizer", deberta: "DebertaV2Tokenizer"}[encoder]
    easy, hard = (score(router, [f"{word} number 900" for word in words.split()]).scores for words in (EASY, HARD))
    assert easy.min() > hard.max()


def test_a_sentencepiece_file_is_read_and_the_router_no_longer_needs_it(tmp_path: Path) -> None:
    deberta_of_the_hub(tmp_path / "base")
    result = train(options(tmp_path, write_table(tmp_path, rows=60), epochs=1))
    assert (result.output / "tokenizer.json").is_file()
    assert np.ptp(score(Router.load(str(result.output), CPU), [EASY, HARD]).scores) > 0


def test_large_encoders_get_smaller_steps_and_vectors_no_decay(tmp_path: Path) -> None:
    tiny_router(tmp_path / "base", head=False)
    model = untrained_router(str(tmp_path / "base"), 32, CPU).model
    assert default_lr(model) == 1e-4
    with torch.device("meta"):
        assert default_lr(torch.nn.Linear(10_000, 10_000)) == 1e-5
    decayed, others = optimizer(model, 1e-3, 0.1).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {weights.ndim for weights in decayed["params"]} == {2}
    assert {weights.ndim for weights in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
