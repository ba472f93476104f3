from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from batchroute.errors import InputError
from batchroute.router.model import Router
from batchroute.router.scoring import score
from tests.support.tiny_models import POSITIONS, tiny_router, tiny_tokenizer

CPU = torch.device("cpu")


def test_one_logit_is_a_sigmoid_and_two_are_the_softmax_of_label_1(tmp_path: Path) -> None:
    for labels in (1, 2):
        folder = tiny_router(tmp_path / str(labels), labels=labels)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        inputs = AutoTokenizer.from_pretrained(folder)("Which fruit?", return_tensors="pt")
        logits = model(input_ids=inputs["input_ids"]).logits[0].tolist()
        difference = logits[0] if labels == 1 else logits[1] - logits[0]
        expected = 1 / (1 + 2.718281828459045**-difference)
        assert score(Router.load(str(folder), CPU), ["Which fruit?"]).scores[0] == pytest.approx(expected, abs=1e-6)


def test_loads_in_float32_on_cpu_and_says_how_long_it_took(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path)
    AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    router = Router.load(str(folder), CPU)
    assert router.model.dtype == torch.float32
    assert not router.model.training
    assert 0 < router.load_seconds < 60
    assert Router.load(str(folder), CPU, precision="bfloat16").model.dtype == torch.bfloat16


def test_more_than_two_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 3 labels: it must be a classifier with one or two"):
        Router.load(str(tiny_router(tmp_path, labels=3)), CPU)


@pytest.mark.parametrize("architecture", ["bert", "deberta", "modernbert", "gpt2"])
def test_an_encoder_without_a_trained_head_is_refused(tmp_path: Path, architecture: str) -> None:
    folder = tiny_router(tmp_path, architecture, head=False)
    with pytest.raises(InputError, match=r"is no trained router.*'batchroute train --base") as raised:
        Router.load(str(folder), CPU)
    assert "\n" not in str(raised.value)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tiny_router(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot load the router"):
        Router.load(str(tmp_path), CPU)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    weights = tiny_router(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot load the router"):
        Router.load(str(tmp_path), CPU)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Router.load(str(tmp_path / "none"), CPU)


def test_max_length_is_the_smallest_of_all_limits(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path)
    assert Router.load(str(folder), CPU).max_length == POSITIONS
    assert Router.load(str(folder), CPU, max_length=20).max_length == 20
    assert Router.load(str(folder), CPU, max_length=1000).max_length == POSITIONS
    (folder / "router.json").write_text(json.dumps({"max_length": 30}))
    assert Router.load(str(folder), CPU).max_length == 30
    assert Router.load(str(folder), CPU, max_length=20).max_length == 20
    tokenizer = tiny_tokenizer(folder)
    tokenizer.model_max_length = 25
    tokenizer.save_pretrained(folder)
    assert Router.load(str(folder), CPU).max_length == 25


def test_roberta_reads_fewer_tokens_than_it_has_positions(tmp_path: Path) -> None:
    router = Router.load(str(tiny_router(tmp_path, "roberta")), CPU)
    assert router.max_length == POSITIONS - 2
    # One token more would be an index error in its position embeddings.
    assert score(router, ["a b c d " * POSITIONS]).truncated.all()


def test_a_max_length_without_room_for_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_length 2 leaves the router .* give more than 2"):
        Router.load(str(tiny_router(tmp_path)), CPU, max_length=2)


def test_a_damaged_router_file_is_refused(tmp_path: Path) -> None:
    (tiny_router(tmp_path) / "router.json").write_text('{"max_length": ')
    with pytest.raises(InputError, match=r"router\.json' is damaged"):
        Router.load(str(tmp_path), CPU)


def test_a_decoder_without_padding_token_pads_with_its_end_token(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path, "gpt2", pad_token_id=None)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    router = Router.load(str(folder), CPU)
    assert router.tokenizer.pad_token == "[EOS]"
    assert router.model.config.pad_token_id == router.tokenizer.pad_token_id
    texts = ["a b c", "a"]
    together = score(router, texts, token_budget=1000).scores
    assert together == pytest.approx(score(router, texts, token_budget=1).scores, abs=1e-6)


@pytest.mark.models
def test_the_embedded_encoder_has_no_trained_head() -> None:
    with pytest.raises(InputError, match="its checkpoint has no classifier"):
        Router.load("embedded:all-minilm-l6-v2", CPU)
