"""A model that gives no numbers for a row fails that row alone, and for 20 rows in a row the run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from batchroute.errors import InputError
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.finite import finite_rows
from batchroute.generators.transformers.generator import TransformersGenerator
from tests.generators.transformers.tiny_generators import tiny_decoder, tiny_encoder_decoder

GOOD = ["hello", "What is 12 plus 30? Answer with one number only.", "a", "The quick brown fox", "b", "over the dog"]
LOST = "☃"
SAMPLED = {"temperature": 1.3, "top_k": 50, "top_p": 0.95}


def load(folder: Path, value: float, batching: str = "auto", **more: Any) -> TransformersGenerator:
    """A generator whose embedding of one byte of `LOST` is no number."""
    generation = {"max_new_tokens": 8, **more.pop("generation", {})}
    spec = {"backend": "transformers", "model": str(folder), "batching": batching, "batch_size": 2, **more}
    generator = TransformersGenerator(ModelSpec.model_validate(spec | {"generation": generation}), torch.device("cpu"))
    lost = generator._static._writer.tokenizer(LOST, add_special_tokens=False)["input_ids"][0]
    reads = generator._model.get_encoder() if generator._model.config.is_encoder_decoder else generator._model
    # A copy: the weights may be tied to those that choose tokens.
    embeddings = copy.deepcopy(reads.get_input_embeddings())
    embeddings.weight.data[lost] = value
    reads.set_input_embeddings(embeddings)
    return generator


@pytest.mark.parametrize(
    ("batching", "generation"),
    [("auto", {}), ("auto", SAMPLED), ("static", {}), ("static", SAMPLED), ("continuous", {})],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_without_numbers_fails_and_changes_no_other(
    tmp_path: Path, batching: str, generation: dict[str, Any], value: float
) -> None:
    generator = load(tiny_decoder(tmp_path), value, batching, generation=generation)
    among = [text for good in GOOD for text in (good, f"{good} {LOST}")]
    responses = generator.generate(among, [number // 2 for number in range(len(among))])
    assert responses[::2] == generator.generate(GOOD, range(len(GOOD)))
    assert {response.error_type for response in responses[::2]} == {None}
    assert {response.error_type for response in responses[1::2]} == {"model_error"}
    assert {response.error for response in responses[1::2]} == {"the model gives no numbers (NaN or infinite logits)"}
    assert all(response.text is None and response.input_tokens for response in responses[1::2])
    assert generator.notes == []


def test_of_an_encoder_decoder_and_of_samples_too(tmp_path: Path) -> None:
    generator = load(tiny_encoder_decoder(tmp_path / "t5"), float("nan"))
    responses = generator.generate([GOOD[0], LOST, GOOD[1]], [0, 0, 0])
    assert [response.error_type for response in responses] == [None, "model_error", None]
    generator = load(tiny_decoder(tmp_path / "llama"), float("nan"), confidence={"samples": 2})
    samples = generator.sample([GOOD[0], LOST], [[0, 1], [0, 1]])
    assert [[one.error_type for one in some] for some in samples] == [[None] * 2, ["model_error"] * 2]


def test_twenty_rows_in_a_row_stop_the_run_for_good(tmp_path: Path) -> None:
    generator = load(tiny_decoder(tmp_path), float("nan"), generation={"max_new_tokens": 2})
    for count in (10, 9):
        generator.generate([LOST] * count, [0] * count)
    generator.generate([GOOD[0], *[LOST] * 19], [0] * 20)
    with pytest.raises(InputError, match=r"no numbers .* for 20 rows in a row, computed in float32: its weights are"):
        generator.generate([LOST], [0])


def test_logits_that_are_ruled_out_are_numbers() -> None:
    rows = torch.tensor([[-torch.inf, 1.0], [torch.nan, 1.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
    assert finite_rows(rows).tolist() == [True, False, False, False]


def test_a_token_without_an_embedding_fails_its_row_alone(tmp_path: Path) -> None:
    generator = load(tiny_decoder(tmp_path), 0.0)
    tokenizer = generator._reader._tokenizer
    tokenizer.add_tokens(["<|new|>"])
    responses = generator.generate(["plain", "it has <|new|>", "more"], [0, 0, 0])
    assert [response.error_type for response in responses] == [None, "model_error", None]
    assert responses[1].error is not None
    assert "embeddings of" in responses[1].error
