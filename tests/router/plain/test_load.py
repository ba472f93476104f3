"""A router without transformers: its scores are those of transformers, and whatever is unusual goes there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertModel, BertTokenizer

from batchroute.errors import StoppedError
from batchroute.router import plain
from batchroute.router.loading import load
from batchroute.router.model import Router
from batchroute.router.plain.bert import BertClassifier, BertEncoder
from batchroute.router.plain.tokenizer import read
from batchroute.router.scoring import score
from tests.support.tiny_models import TEXT, tiny_router

CPU = torch.device("cpu")
TEXTS = [*TEXT, "a", "Ünïcödé ß 漢字かな 🙂\u200b́e", "[MASK] [CLS] words [SEP]##s", "a\tb\nc \u00a0", TEXT[0] * 9, ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_router(tmp_path_factory.mktemp("router"))


def by_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Router:
    with monkeypatch.context() as patched:
        patched.setattr(plain, "load", lambda *_: None)
        return Router.load(str(folder), CPU, **options)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_those_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: int, precision: Any
) -> None:
    folder = tiny_router(tmp_path, labels=labels)
    router, other = (
        Router.load(str(folder), CPU, precision),
        by_transformers(folder, monkeypatch, precision=precision),
    )
    assert isinstance(router.model, BertClassifier)
    assert not isinstance(other.model, BertClassifier)
    assert (router.inputs, router.max_length, router.known_tokens) == (
        other.inputs,
        other.max_length,
        other.known_tokens,
    )
    for with_embeddings in (False, True):
        found, expected = (score(one, TEXTS, with_embeddings=with_embeddings) for one in (router, other))
        assert np.ptp(found.scores) > 0.01
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        assert np.array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-6)  # type: ignore[arg-type]


def test_states_of_an_encoder_are_those_of_transformers(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path, head=False)
    model, tokenizer, last_layer, note = load("any", str(folder), CPU, "auto", headless=True, allow_pickle=False)
    assert (type(model), last_layer, note) == (BertEncoder, None, None)
    batch = tokenizer.pad(tokenizer(TEXTS[:5]), return_attention_mask=True, return_tensors="pt")
    with torch.inference_mode():
        expected = BertModel.from_pretrained(folder).eval()(**batch).last_hidden_state
        torch.testing.assert_close(model(**batch).last_hidden_state, expected, atol=1e-6, rtol=0)


def berts(folder: Path, **settings: Any) -> BertTokenizer:
    """A tokenizer of BERT's own kind, saved in the folder."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyzABC.?:,漢字",
        *TEXT[0].lower().split(),
    ]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*words, "##s", "##e", "##ö", "##o"]))}
    tokenizer = BertTokenizer(vocabulary, **settings)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False, "padding_side": "left"}])
def test_tokens_are_those_of_bert(tmp_path: Path, settings: dict[str, Any]) -> None:
    berts(tmp_path, model_max_length=40, **settings)
    expected, found = AutoTokenizer.from_pretrained(tmp_path), read(tmp_path)
    assert found is not None
    for name in ("model_input_names", "model_max_length", "padding_side", "truncation_side", "pad_token_id"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.num_special_tokens_to_add() == expected.num_special_tokens_to_add() == 2
    rows = found(TEXTS)
    assert rows == dict(expected(TEXTS, return_attention_mask=False))
    assert len({token for row in rows["input_ids"] for token in row}) > 15
    for one in ({"truncation": True, "max_length": 5}, {"add_special_tokens": False}):
        assert found(TEXTS[0], **one) == dict(expected(TEXTS[0], return_attention_mask=False, **one))  # type: ignore[arg-type]
    padded = expected.pad(expected(TEXTS), return_tensors="pt", pad_to_multiple_of=8)
    for name, tensor in found.pad(rows, pad_to_multiple_of=8).items():
        assert torch.equal(tensor, padded[name]), name


def changed(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        change(values)
        (folder / file).write_text(json.dumps(values))

    return rewrite


UNUSUAL = {
    "activation": changed("config.json", lambda config: config.update(hidden_act="relu")),
    "decoder": changed("config.json", lambda config: config.update(is_decoder=True)),
    "relative positions": changed("config.json", lambda config: config.update(position_embedding_type="relative_key")),
    "labels": changed("config.json", lambda config: config.update(id2label={"0": "a", "1": "b", "2": "c"})),
    "code": changed("config.json", lambda config: config.update(auto_map={"AutoConfig": "any.Any"})),
    "width": changed("config.json", lambda config: config.update(hidden_size=64)),
    "layers": changed("config.json", lambda config: config.update(num_hidden_layers=3)),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "damaged weights": lambda folder: (folder / "model.safetensors").write_bytes(b"none"),
    "tokenizer's class": changed("tokenizer_config.json", lambda config: config.update(tokenizer_class="T5Tokenizer")),
    "one more token": changed("tokenizer_config.json", lambda config: config.update(mask_token="<new>")),
    "end of text": changed("tokenizer_config.json", lambda config: config.update(add_eos_token=True)),
    "no padding": changed("tokenizer_config.json", lambda config: config.pop("pad_token")),
    "added tokens": lambda folder: (folder / "added_tokens.json").write_text("{}"),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_whatever_is_unusual_is_left_to_transformers(tmp_path: Path, folder: Path, what: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert plain.load(tmp_path, False, torch.float32) is not None
    UNUSUAL[what](tmp_path)
    assert plain.load(tmp_path, False, torch.float32) is None


def test_the_end_of_the_run_is_no_damaged_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object) -> None:
        raise StoppedError("rank 1 of 2 died")

    monkeypatch.setattr("batchroute.router.plain.bert.load_file", end)
    with pytest.raises(StoppedError):
        plain.load(folder, False, torch.float32)


def test_an_encoder_is_no_classifier(folder: Path) -> None:
    assert plain.load(folder, True, torch.float32) is None


OTHERS = {
    "normalizer": normalizers.NFC(),
    "pre_tokenizer": pre_tokenizers.Whitespace(),
    "post_processor": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "model": models.WordPiece({"[UNK]": 1, "[PAD]": 0}, unk_token="[UNK]", max_input_chars_per_word=9),
}


@pytest.mark.parametrize("part", OTHERS)
def test_a_file_that_holds_another_tokenizer_than_bert_makes_is_left_to_transformers(tmp_path: Path, part: str) -> None:
    berts(tmp_path)
    assert read(tmp_path) is not None
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    setattr(tokenizer, part, OTHERS[part])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert read(tmp_path) is None
