from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from batchroute import generators
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt


def no_device() -> Any:
    raise AssertionError("the echo backend needs no device")


def answer(prompt: Prompt, **spec: Any) -> Response:
    generator = generators.load(ModelSpec(backend="echo", **spec), no_device)
    (response,) = generator.generate([prompt], [0])
    generator.close()
    return response


def test_the_answer_is_the_prompt() -> None:
    assert answer("say  this \n again") == Response("say  this \n again", "stop", 4 - 1, 3)


def test_a_template_goes_around_it_whatever_braces_the_prompt_holds() -> None:
    found = answer("{x} {prompt}", template="Q: {prompt} {A}")
    assert found.text == "Q: {x} {prompt} {A}"
    assert found.input_tokens == 4


def test_chat_messages_are_one_text() -> None:
    chat = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    assert answer(chat) == Response("a b\n\nc", "stop", 3, 3)


@pytest.mark.parametrize(
    ("limit", "text", "reason"), [(2, "a b", "length"), (3, "a b c", "stop"), (9, "a b c", "stop")]
)
def test_it_is_cut_to_so_many_words(limit: int, text: str, reason: str) -> None:
    found = answer("a b c", generation={"max_new_tokens": limit})
    assert (found.text, found.finish_reason, found.input_tokens) == (text, reason, 3)
    assert found.output_tokens == len(text.split())


def test_the_first_stop_string_ends_it() -> None:
    found = answer("a b END c STOP d", generation={"stop": ["STOP", "END"]})
    assert found == Response("a b ", "stop", 6, 2)


def test_a_stop_string_beyond_the_limit_does_not_end_it() -> None:
    found = answer("a b c END", generation={"stop": "END", "max_new_tokens": 2})
    assert found == Response("a b", "length", 4, 2)


def test_answers_come_in_the_order_of_the_prompts() -> None:
    generator = generators.load(ModelSpec(backend="echo"), no_device)
    assert [response.text for response in generator.generate(["b", "a", "c"], [3, 2, 1])] == ["b", "a", "c"]
    assert generator.generate([], []) == []


def test_it_has_signals_only_where_they_are_asked_for() -> None:
    assert (answer("a b").logprob, answer("a b").agreement) == (None, None)
    found = answer("a b", confidence={"samples": 4})
    assert found.logprob is not None
    assert found.logprob_low is not None
    assert found.agreement is not None
    assert found.logprob_low < found.logprob < 0
    assert found.agreement * 4 in range(5)
    assert (found.sample_input_tokens, found.sample_output_tokens) == (0, 4 * 2)
    assert answer("a b", confidence={}).agreement is None


def test_its_signals_follow_the_prompt_and_the_seed_of_a_sampled_row() -> None:
    spec = ModelSpec.model_validate({"backend": "echo", "confidence": {}})
    sampled = ModelSpec.model_validate({"backend": "echo", "confidence": {}, "generation": {"temperature": 1}})

    def logprobs(spec: ModelSpec) -> list[float | None]:
        generator = generators.load(spec, no_device)
        return [response.logprob for response in generator.generate(["a", "b", "a", "a"], [1, 1, 1, 2])]

    one, other, same, reseeded = logprobs(spec)
    assert one == same == reseeded != other
    one, other, same, reseeded = logprobs(sampled)
    assert one == same
    assert len({one, other, reseeded}) == 3


@pytest.mark.parametrize("settings", [{}, {"confidence": {"logprobs": True}}])
def test_its_columns_say_what_its_rows_say(settings: dict[str, Any]) -> None:
    prompts = ["one", "two words", " \u2003wide\u00a0and\x1codd\x85 \t\nspace ", "", " ", "ünïcode wörds", "a" * 500]
    generator = EchoGenerator(ModelSpec.model_validate({"backend": "echo", **settings}))
    columns = generator.answer_columns(pa.chunked_array([prompts[:2], prompts[2:]]))
    assert columns is not None
    rows = [Response(**row) for row in columns.to_pylist()]
    assert rows == generator.generate(prompts, [0] * len(prompts))


@pytest.mark.parametrize(
    "settings",
    [
        {"template": "Say {prompt}"},
        {"generation": {"max_new_tokens": 1}},
        {"generation": {"stop": ["w"]}},
        {"generation": {"temperature": 1.0}},
    ],
)
def test_it_gives_no_columns_where_an_answer_is_more_or_less_than_its_prompt(settings: dict[str, Any]) -> None:
    generator = EchoGenerator(ModelSpec.model_validate({"backend": "echo", **settings}))
    assert generator.answer_columns(pa.chunked_array([["two words"]])) is None
