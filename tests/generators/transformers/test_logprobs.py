"""The log-probabilities of answers, against one plain forward pass of the model over prompt and answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.decoding import log_probabilities
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.rows import Request, Writer
from tests.generators.transformers.test_refill import FAMILIES, family
from tests.generators.transformers.tiny_generators import tiny_decoder, tiny_encoder_decoder

CPU = torch.device("cpu")
PROMPTS = [
    "hello",
    "What is 12 plus 30? Answer with one number only.",
    "a",
    "The quick brown fox jumps over the lazy dog",
    "Ünïcode ☃ 你好",
    "hello",
    "Translate the sentence into French",
] * 2
SAMPLED = {"temperature": 1.3, "top_k": 50, "top_p": 0.95}
DECODERS = ["llama", *FAMILIES]
ENCODER_DECODERS = ["t5", "bart"]

Written = tuple[Request, list[int], Response]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: family(tmp_path_factory.mktemp(name), name) for name in FAMILIES}
    made |= {name: tiny_encoder_decoder(tmp_path_factory.mktemp(name), name) for name in ENCODER_DECODERS}
    return made | {"llama": tiny_decoder(tmp_path_factory.mktemp("llama"))}


def answers(
    patch: pytest.MonkeyPatch, folder: Path, batching: str = "auto", confidence: Any = None, **generation: Any
) -> tuple[TransformersGenerator, list[Written]]:
    """The generator, and for each prompt its request, the tokens that were written up to the row's end, and the
    response.
    """
    spec = ModelSpec.model_validate(
        {
            "backend": "transformers",
            "model": str(folder),
            "batching": batching,
            "batch_size": 4,
            "confidence": {} if confidence is None else confidence,
            "generation": {"max_new_tokens": 12, **generation},
        }
    )
    written: dict[int, Written] = {}
    whole = Writer.response

    def response(self: Writer, request: Request, tokens: list[int], *others: Any) -> Response:
        answer = whole(self, request, tokens, *others)
        written[request.index] = request, tokens[: answer.output_tokens], answer
        return answer

    with patch.context() as patched:
        patched.setattr(Writer, "response", response)
        generator = TransformersGenerator(spec, CPU)
        responses = generator.generate(PROMPTS, range(len(PROMPTS)))
    assert [written[index][2] for index in range(len(PROMPTS))] == responses
    return generator, [written[index] for index in range(len(PROMPTS))]


@torch.inference_mode()
def plain(folder: Path, request: Request, tokens: list[int], start: int | None = None) -> list[float]:
    """The log-probability of each of `tokens` after the prompt, by one forward pass without a cache.

    Args:
        start: the decoder's first token, for an encoder-decoder.
    """
    if start is None:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        logits = model(input_ids=torch.tensor([request.tokens + tokens])).logits[0, len(request.tokens) - 1 : -1]
    else:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        read, before = torch.tensor([request.tokens]), torch.tensor([[start, *tokens[:-1]]])
        logits = model(input_ids=read, decoder_input_ids=before).logits[0]
    every = logits.double().log_softmax(dim=-1)
    return [float(every[step, token]) for step, token in enumerate(tokens)]


def check(response: Response, logprobs: list[float]) -> None:
    assert response.logprob == pytest.approx(np.mean(logprobs), abs=1e-4)
    assert response.logprob_low == pytest.approx(np.quantile(logprobs, 0.1), abs=1e-4)


@pytest.mark.parametrize("generation", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("batching", ["auto", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, batching: str, generation: Any
) -> None:
    generator, rows = answers(monkeypatch, folders[name], batching, **generation)
    if batching == "static":
        assert generator._refilled is None
    assert generator._continuous is None
    for request, tokens, response in rows:
        check(response, plain(folders[name], request, tokens))


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_continuous_batches(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    generator, rows = answers(monkeypatch, folders[name], "continuous")
    assert generator._continuous is not None
    assert generator._continuous.died is None
    for request, tokens, response in rows:
        check(response, plain(folders[name], request, tokens))


@pytest.mark.parametrize("generation", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_decoders(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, generation: Any
) -> None:
    generator, rows = answers(monkeypatch, folders[name], **generation)
    start = generator._model.config.decoder_start_token_id
    for request, tokens, response in rows:
        check(response, plain(folders[name], request, tokens, start))


def test_a_first_token_that_the_model_is_made_to_write_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_encoder_decoder(tmp_path, "bart", forced_bos_token_id=7)
    generator, rows = answers(monkeypatch, folder)
    start = generator._model.config.decoder_start_token_id
    for request, tokens, response in rows:
        assert tokens[0] == 7
        check(response, plain(folder, request, tokens, start)[1:])


@pytest.mark.parametrize("batching", ["auto", "static", "continuous"])
def test_the_end_token_counts_and_padding_does_not(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, batching: str
) -> None:
    _, rows = answers(monkeypatch, folders["llama"], batching)
    # The token that most rows write becomes the end token: rows then end at different steps.
    end = rows[1][1][3]
    generation = Writer.__init__

    def ending(self: Writer, *arguments: Any) -> None:
        arguments[0].model.generation_config.eos_token_id = end
        generation(self, *arguments)

    monkeypatch.setattr(Writer, "__init__", ending)
    _, rows = answers(monkeypatch, folders["llama"], batching)
    ended = [response.finish_reason == "stop" for _, _, response in rows]
    assert any(ended)
    assert not all(ended)
    for request, tokens, response in rows:
        assert (tokens[-1] == end) == (response.finish_reason == "stop")
        check(response, plain(folders["llama"], request, tokens))


@pytest.mark.parametrize("batching", ["auto", "static", "continuous"])
def test_tokens_from_a_stop_string_on_do_not_count(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, batching: str
) -> None:
    generator, rows = answers(monkeypatch, folders["llama"], batching)
    decode = generator._static._writer.tokenizer.decode
    # In the middle of what the second row writes.
    before = decode(rows[1][1][:5], skip_special_tokens=True)
    stop = decode(rows[1][1][:7], skip_special_tokens=True)[len(before) :]
    assert stop
    _, rows = answers(monkeypatch, folders["llama"], batching, stop=[stop])
    cut = 0
    for request, tokens, response in rows:
        text = decode(tokens, skip_special_tokens=True)
        assert response.text == text.partition(stop)[0]
        kept = next(n for n in range(len(tokens) + 1) if len(decode(tokens[:n])) >= len(response.text or ""))
        kept = kept if stop in text else len(tokens)
        cut += kept < len(tokens)
        if kept:
            check(response, plain(folders["llama"], request, tokens[:kept]))
        else:
            assert (response.logprob, response.logprob_low) == (None, None)
    assert cut


def test_a_model_that_is_not_asked_has_none_and_writes_the_same(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, asked = answers(monkeypatch, folders["qwen3"])
    spec = ModelSpec.model_validate(
        {"backend": "transformers", "model": str(folders["qwen3"]), "generation": {"max_new_tokens": 12}}
    )
    responses = TransformersGenerator(spec, CPU).generate(PROMPTS, range(len(PROMPTS)))
    assert [response.logprob for response in responses] == [None] * len(PROMPTS)
    assert [response.text for response in responses] == [response.text for _, _, response in asked]


def test_logits_of_any_size_give_log_probabilities() -> None:
    scores = torch.tensor([[1e4, 0.0, -1e4], [-1e30, -1e30, -1e30], [0.0, -torch.inf, 0.0]])
    tokens = torch.tensor([[1, 0], [2, 2], [1, 2]])
    expected = scores.log_softmax(dim=-1).gather(1, tokens)
    assert torch.allclose(log_probabilities(scores, tokens), expected)
    assert torch.equal(log_probabilities(scores, tokens), expected)
