"""Thoughts of models in this process: apart from the answer, and without its stop strings, lengths and signals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from batchroute import models
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.loading import load
from batchroute.generators.transformers.rows import Reader, Writer
from tests.generators.transformers.tiny_generators import CHAT_TEMPLATE, tiny_decoder
from tests.support.tiny_models import tiny_tokenizer

CPU = torch.device("cpu")
MUSING = CHAT_TEMPLATE.replace("assistant: ", "assistant: {% if thinks is not defined or thinks %}<think>\n{% endif %}")
# One of the embedded models learns from examples to think first.
EXAMPLES = (
    "<|im_start|>user\nWhat is 2 plus 3?<|im_end|>\n"
    "<|im_start|>assistant\n<think>\nI add two numbers.\n</think>\n5<|im_end|>\n"
    "<|im_start|>user\nWhat is 4 plus 4?<|im_end|>\n"
    "<|im_start|>assistant\n<think>\nI add two numbers.\n</think>\n8<|im_end|>\n"
)
THINKING = (
    "{{ examples }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture(scope="module")
def musing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose chat template begins thoughts, which it never ends."""
    folder = tiny_decoder(tmp_path_factory.mktemp("musing"), chat=True)
    tokenizer = tiny_tokenizer(folder)
    tokenizer.chat_template = MUSING
    tokenizer.save_pretrained(folder)
    return folder


def spec(model: Path | str, **settings: object) -> ModelSpec:
    given = {"backend": "transformers", "model": str(model), "dtype": "float32", **settings}
    return ModelSpec.model_validate(given)


@pytest.mark.parametrize("batching", ["static", "auto"])
def test_all_thought_and_no_answer_is_no_answer(musing: Path, batching: str) -> None:
    generator = TransformersGenerator(spec(musing, generation={"max_new_tokens": 6}, batching=batching), CPU)
    (response,) = generator.generate(["a"], [0])
    generator.close()
    assert (response.text, response.error_type) == (None, "unfinished")
    assert response.output_tokens == response.reasoning_tokens == 6
    assert response.reasoning
    assert [note for note in generator.notes if "reasoning: keep" in note]


def test_arguments_of_the_template_may_switch_them_off(musing: Path) -> None:
    settings = spec(musing, generation={"max_new_tokens": 6}, chat_template_kwargs={"thinks": False})
    generator = TransformersGenerator(settings, CPU)
    (response,) = generator.generate(["a"], [0])
    generator.close()
    assert (response.error_type, response.reasoning, response.reasoning_tokens) == (None, None, 0)


def test_stop_strings_and_signals_are_of_the_answer(musing: Path) -> None:
    settings = spec(musing, generation={"max_new_tokens": 60, "stop": ["\n"]}, confidence={})
    loaded = load(settings, CPU)
    writer, request = Writer(loaded, settings.generation, logprobs=True), Reader(settings, loaded).request(0, "a", 0)
    thought = loaded.tokenizer("one\ntwo\n</think>", add_special_tokens=False)["input_ids"]
    answer = loaded.tokenizer("\n\nthree\n", add_special_tokens=False)["input_ids"]
    # A line that ends within the thoughts, or before the answer begins, stops nothing.
    stopped = [writer.is_stopped(request, (thought + answer)[:number]) for number in range(len(thought + answer) + 1)]
    assert stopped == [False] * (len(thought) + len(answer)) + [True]
    logprobs = [-9.0] * len(thought) + [-1.0] * len(answer)
    response = writer.response(request, thought + answer, len(thought + answer), logprobs)
    assert (response.text, response.finish_reason, response.reasoning) == ("three", "stop", "one\ntwo")
    assert response.logprob == -1.0
    assert len(thought) <= response.reasoning_tokens <= len(thought) + 2


def test_an_embedded_model_that_thinks(tmp_path: Path) -> None:
    for file in Path(models.resolve("embedded:smollm2-135m-instruct")).iterdir():
        (tmp_path / file.name).symlink_to(file)
    template = tmp_path / "chat_template.jinja"
    template.unlink(missing_ok=True)
    template.write_text(THINKING)
    settings = spec(
        tmp_path,
        generation={"max_new_tokens": 24, "stop": ["\n"]},
        chat_template_kwargs={"examples": EXAMPLES},
    )
    generator = TransformersGenerator(settings, CPU)
    responses = generator.generate(["What is 1 plus 6?", "What is 3 plus 3?"], [0, 0])
    generator.close()
    for response in responses:
        assert response.error_type is None
        assert response.text is not None
        assert response.text.isdecimal()
        assert response.reasoning is not None
        assert response.reasoning.startswith("I add")
