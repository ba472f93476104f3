from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from batchroute import generators
from batchroute.errors import InputError
from batchroute.generators.agreement import AgreeingGenerator, rule_of, same_json, same_number, same_text
from batchroute.generators.base import Response
from batchroute.generators.encoder import Encoder
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt
from tests.support.tiny_models import tiny_router

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Paris", " paris.\n", True),
        ("the  end", "The end!", True),
        ("ﬁne", "fine", True),
        ("**B**", "(b)", True),
        ("-5", "5", False),
        ("3.14", "314", False),
        ("Paris", "Paris, France", False),
        ("", " ", True),
    ],
)
def test_the_same_text(one: str, other: str, same: bool) -> None:
    assert same_text(one, other) == same_text(other, one) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("12 + 30 = 42", "The answer is 42.", True),
        ("1,024", "1024.0", True),
        ("1e3", "1000", True),
        ("−5", "-5", True),
        ("5", "-5", False),
        ("42", "no idea", False),
        ("none", "None.", True),
        ("none", "some", False),
        ("0", "0.0", True),
    ],
)
def test_the_same_number(one: str, other: str, same: bool) -> None:
    assert same_number(one, other) == same_number(other, one) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": [2]}', '{"b": [2.0], "a": 1.0}', True),
        ('```json\n{"a": 1}\n```', '{"a":1}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ("[1, 2]", "[2, 1]", False),
        ('{"a": 1}', "a is 1", False),
        ("no json", "No JSON", True),
    ],
)
def test_the_same_json(one: str, other: str, same: bool) -> None:
    assert same_json(one, other) == same_json(other, one) == same


class Scripted:
    """Answers `text` to each prompt, and samples from a script."""

    load_seconds, rows_at_a_time, units_at_once = 1.5, 7, 1
    notes: tuple[str, ...] = ("a note",)

    def __init__(self, responses: Sequence[Response], samples: Sequence[Sequence[Response]]) -> None:
        self._responses, self._samples = list(responses), [list(of_row) for of_row in samples]
        self.asked: list[tuple[Sequence[Prompt], Sequence[Sequence[int]]]] = []
        self.closed = False

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        return list(self._responses)

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]) -> list[list[Response]]:
        self.asked.append((prompts, seeds))
        return self._samples

    def close(self) -> None:
        self.closed = True


def test_the_share_of_samples_that_agree_and_what_they_took() -> None:
    failed = Response(error_type="api_error", error="gone")
    inner = Scripted(
        [Response("4", "stop", 3, 2), Response(error_type="too_long"), Response("x", "length", 3, 9)],
        [[Response("4.", "stop", 3, 2), Response("5", "stop", 0, 4), failed], [failed, failed, failed]],
    )
    generator = AgreeingGenerator(inner, 3, rule_of("text"))
    assert (generator.load_seconds, generator.rows_at_a_time, list(generator.notes)) == (1.5, 7, ["a note"])
    first, second, third = generator.generate(["a", "b", "c"], [0, 0, 0])
    assert (first.agreement, first.sample_input_tokens, first.sample_output_tokens) == (0.5, 3, 6)
    assert (first.text, first.input_tokens, first.output_tokens) == ("4", 3, 2)
    assert second == Response(error_type="too_long")
    assert (third.agreement, third.sample_output_tokens) == (None, 0)
    # Only rows with an answer are sampled; each sample has a seed of its own, whatever seed greedy rows share.
    ((prompts, seeds),) = inner.asked
    assert prompts == ["a", "c"]
    assert [len(of_row) for of_row in seeds] == [3, 3]
    assert len({seed for of_row in seeds for seed in of_row}) == 6
    generator.close()
    assert inner.closed


def test_no_answer_means_no_samples() -> None:
    inner = Scripted([Response(error_type="refused", error="no")], [])
    assert AgreeingGenerator(inner, 3, rule_of("text")).generate(["a"], [0])[0].agreement is None
    assert not inner.asked


def agreements(**confidence: Any) -> list[float | None]:
    spec = ModelSpec.model_validate({"backend": "echo", "confidence": {"samples": 8, **confidence}})
    generator = generators.load(spec, lambda: CPU)
    prompts = [f"prompt {number} of 40 prompts" for number in range(40)]
    found = [response.agreement for response in generator.generate(prompts, [0] * 40)]
    generator.close()
    return found


def test_agreement_of_echo_is_the_same_in_each_run_and_spread() -> None:
    assert agreements() == agreements()
    assert {value for value in agreements() if value is not None} > {0.0, 0.5, 1.0}


def test_an_encoder_compares_by_meaning(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path, head=False)
    encoder = Encoder(str(folder), CPU)
    same, other, empty = encoder.agreement("What is a fruit?", ["What is a fruit?", "The dog sleeps on.", " "])
    assert same == pytest.approx(1.0)
    assert 0 <= other < 1
    assert empty == 0
    assert encoder.agreement(" ", ["", "text"]) == [1.0, 0.0]
    assert encoder.agreement("a", ["a b"] * 40) == encoder.agreement("a", ["a b"]) * 40
    encoder.close()
    by_meaning = [value for value in agreements(agree="embedding", model=str(folder)) if value is not None]
    assert max(by_meaning) == pytest.approx(1.0)
    assert len(set(by_meaning)) > 10


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    spec = {"backend": "echo", "confidence": {"samples": 2, "agree": "embedding", "model": str(tmp_path / "none")}}
    with pytest.raises(InputError, match="none"):
        generators.check(ModelSpec.model_validate(spec))
    with pytest.raises(InputError, match="none"):
        generators.load(ModelSpec.model_validate(spec), lambda: CPU)


def test_an_encoder_without_its_weights_is_refused(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path, head=False)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.1.output.dense.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"the encoder .* of confidence: its checkpoint lacks weights .*layer\.1"):
        Encoder(str(folder), CPU)
