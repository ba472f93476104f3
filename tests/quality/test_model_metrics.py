"""The metrics that run a model, against plain loops over logits with tiny models of real architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from batchroute import quality
from batchroute.errors import InputError
from batchroute.quality.base import Item, Measurement, MetricSpec
from tests.generators.transformers.tiny_generators import CONTEXT, tiny_decoder, tiny_encoder_decoder
from tests.support.tiny_models import tiny_router

ITEMS = [
    Item("what is 2 + 2", "4", "four"),
    Item("name a fruit", "the apple is a fruit that many people like to eat", "apple"),
    Item("who", "", "the quick brown fox jumps over the lazy dog"),
    Item("say it", "a river " * 60, "stone " * 50),
]


def measure(items: list[Item], **spec: Any) -> list[Measurement]:
    metric = quality.load(MetricSpec(dtype="float32", **spec), lambda: torch.device("cpu"))
    try:
        return metric.measure(items)
    finally:
        metric.close()


def qualities(items: list[Item], **spec: Any) -> list[float]:
    measurements = measure(items, **spec)
    assert all(one.error_type is None for one in measurements)
    return [one.quality for one in measurements if one.quality is not None]


def seq2seq_by_hand(path: Path, source: str, target: str) -> float:
    """One text at a time, one token at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    given = tokenizer(source, return_tensors="pt")["input_ids"][:, :CONTEXT]
    wanted = tokenizer(target)["input_ids"][:CONTEXT]
    if given.shape[1] == CONTEXT:
        given[0, -1] = tokenizer.sep_token_id
    if len(wanted) == CONTEXT:
        wanted[-1] = tokenizer.sep_token_id
    read = [model.config.decoder_start_token_id]
    total = 0.0
    for token in wanted:
        with torch.no_grad():
            logits = model(input_ids=given, decoder_input_ids=torch.tensor([read])).logits[0, -1]
        total += float(logits.log_softmax(-1)[token])
        read.append(token)
    return total / len(wanted)


def causal_by_hand(path: Path, context: str, target: str) -> float:
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).eval()
    wanted = tokenizer(target, add_special_tokens=False)["input_ids"][: CONTEXT // 2]
    read = tokenizer(context)["input_ids"][:-1][-(CONTEXT - len(wanted)) :]
    total = 0.0
    for token in wanted:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([read])).logits[0, -1]
        total += float(logits.log_softmax(-1)[token])
        read = [*read, token]
    return total / len(wanted)


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_bartscore_is_the_mean_log_probability_of_the_reference(tmp_path: Path, architecture: str) -> None:
    path = tiny_encoder_decoder(tmp_path, architecture)
    items = ITEMS if architecture == "bart" else ITEMS[:3]
    expected = [seq2seq_by_hand(path, item.response, item.reference or "") for item in items]
    assert qualities(items, name="bartscore", model=str(path), batch_size=2) == pytest.approx(expected, abs=1e-5)
    # Its neighbours in a batch make no difference.
    assert qualities(items, name="bartscore", model=str(path), batch_size=1) == pytest.approx(expected, abs=1e-5)


def test_bartscore_in_the_other_directions(tmp_path: Path) -> None:
    path = tiny_encoder_decoder(tmp_path, "bart")
    forth, back = (
        [seq2seq_by_hand(path, *texts) for texts in pairs]
        for pairs in (
            [(item.response, item.reference or "") for item in ITEMS[:2]],
            [(item.reference or "", item.response) for item in ITEMS[:2]],
        )
    )
    settings = {"name": "bartscore", "model": str(path)}
    assert qualities(ITEMS[:2], **settings, direction="response") == pytest.approx(back, abs=1e-5)
    both = [(a + b) / 2 for a, b in zip(forth, back, strict=True)]
    assert qualities(ITEMS[:2], **settings, direction="both") == pytest.approx(both, abs=1e-5)
    assert measure(ITEMS, **settings, direction="both")[2].error_type == "empty_response"


def test_likelihood_is_the_mean_log_probability_after_prompt_and_response(tmp_path: Path) -> None:
    path = tiny_decoder(tmp_path)
    expected = [
        causal_by_hand(path, f"{item.prompt}\n\n{item.response}\n\n", (item.reference or "").strip()) for item in ITEMS
    ]
    assert qualities(ITEMS, name="likelihood", model=str(path), batch_size=3) == pytest.approx(expected, abs=1e-5)
    swapped = causal_by_hand(path, f"{ITEMS[1].prompt}\n\n{ITEMS[1].reference}\n\n", ITEMS[1].response)
    reverse = qualities(ITEMS[1:2], name="likelihood", model=str(path), direction="response")
    assert reverse == pytest.approx([swapped], abs=1e-5)


def test_embedding_is_the_cosine_of_the_mean_token(tmp_path: Path) -> None:
    path = tiny_router(tmp_path, head=False)
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()

    def vector(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)

    items = [ITEMS[0], ITEMS[1], Item("p", "river", "river"), ITEMS[2]]
    expected = [
        float(torch.cosine_similarity(vector(item.response), vector(item.reference or ""), dim=0)) for item in items[:3]
    ]
    assert expected[2] == pytest.approx(1.0)
    measurements = measure(items, name="embedding", model=str(path))
    assert [one.quality for one in measurements[:3]] == pytest.approx(expected, abs=1e-5)
    assert measurements[3].error_type == "empty_response"


def test_a_row_without_reference_does_not_stop_the_others(tmp_path: Path) -> None:
    path = str(tiny_decoder(tmp_path))
    measurements = measure([Item("p", "r"), ITEMS[0], Item("p", "r", " ")], name="likelihood", model=path)
    assert [one.error_type for one in measurements] == ["no_reference", None, "no_reference"]
    assert measurements[1].quality == pytest.approx(qualities(ITEMS[:1], name="likelihood", model=path)[0], abs=1e-5)


def test_running_out_of_memory_makes_smaller_batches(tmp_path: Path) -> None:
    path = str(tiny_encoder_decoder(tmp_path, "bart"))
    expected = qualities(ITEMS, name="bartscore", model=path)
    metric = quality.load(MetricSpec(name="bartscore", model=path, dtype="float32"), lambda: torch.device("cpu"))
    rows: list[int] = []

    def too_large(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        rows.append(len(kwargs["input_ids"]))
        if rows[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    metric._model._model.register_forward_pre_hook(too_large, with_kwargs=True)  # type: ignore[attr-defined]
    assert [one.quality for one in metric.measure(ITEMS)] == pytest.approx(expected, abs=1e-5)
    assert rows == [4, 2, 1, 1, 1, 1]


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="the model directory '/none/such' does not exist"):
        measure(ITEMS, name="embedding", model="/none/such")
