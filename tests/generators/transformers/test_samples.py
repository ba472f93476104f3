"""Extra samples of a model: they follow their seeds alone, and prompts are read once for all samples of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from batchroute import generators
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from tests.generators.transformers.tiny_generators import tiny_decoder, tiny_encoder_decoder

CPU = torch.device("cpu")
PROMPTS = ["hello", "What is 12 plus 30? Answer with one number only.", "The quick brown fox", "a"]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("decoder"))


def spec(folder: Path, batching: str = "auto", temperature: float = 0.0, samples: int = 5) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "backend": "transformers",
            "model": str(folder),
            "batching": batching,
            "generation": {"max_new_tokens": 6, "temperature": temperature},
            "confidence": {"samples": samples},
        }
    )


@pytest.mark.parametrize("batching", ["auto", "static", "continuous"])
def test_a_sample_is_what_a_sampling_model_writes_by_that_seed(decoder: Path, batching: str) -> None:
    seeds = [[11, 12, 13], [21, 22], [31], []]
    found = TransformersGenerator(spec(decoder, batching), CPU).sample(PROMPTS, seeds)
    sampling = TransformersGenerator(spec(decoder, "static", temperature=0.7, samples=0), CPU)
    for prompt, of_prompt, samples in zip(PROMPTS, seeds, found, strict=True):
        alone = [sampling.generate([prompt], [seed])[0] for seed in of_prompt]
        assert [one.text for one in samples] == [one.text for one in alone]
        assert [one.output_tokens for one in samples] == [one.output_tokens for one in alone]
        # The prompt counts once.
        assert [one.input_tokens for one in samples] == [one.input_tokens for one in alone[:1]] + [0] * len(alone[1:])
        assert {one.logprob for one in samples} <= {None}


def test_the_samples_of_a_prompt_are_prefilled_once(decoder: Path) -> None:
    read: list[int] = []

    def counted(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if named["input_ids"].shape[1] > 1:
            read.append(named["input_ids"].numel())

    generator = TransformersGenerator(spec(decoder), CPU)
    generator._model.register_forward_pre_hook(counted, with_kwargs=True)
    generator.sample(PROMPTS[1:2], [[1]])
    once = sum(read)
    read.clear()
    generator.sample(PROMPTS[1:2], [[1, 2, 3, 4, 5, 6, 7, 8]])
    # Groups are at most a quarter of the slots, so 8 samples are read in up to 4 groups and not 8 times.
    assert 0 < once <= sum(read) <= 4 * once


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_sure_model_agrees_with_itself_and_an_unsure_one_does_not(tmp_path: Path, family: str) -> None:
    folder = tiny_decoder(tmp_path) if family == "llama" else tiny_encoder_decoder(tmp_path)
    generator = generators.load(spec(folder, samples=6), lambda: CPU)
    responses = generator.generate(PROMPTS, [0] * 4)
    again = generator.generate(list(reversed(PROMPTS)), [0] * 4)
    generator.close()
    assert responses == list(reversed(again))
    for response in responses:
        assert response.agreement is not None
        assert response.agreement * 6 == pytest.approx(round(response.agreement * 6))
        assert response.sample_input_tokens == response.input_tokens
        assert response.sample_output_tokens >= 6
        assert response.logprob is not None
