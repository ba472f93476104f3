"""Where thoughts end and the answer begins, in the marks of the models that teams run."""

from __future__ import annotations

import pytest

from batchroute.generators.base import Response
from batchroute.generators.thoughts import MARKS, Dropped, Parted, begun, checked, known_to, parted

DEEPSEEK = ("<think>", "</think>")


@pytest.mark.parametrize("marks", MARKS)
def test_thoughts_are_apart_from_the_answer(marks: tuple[str, str]) -> None:
    text = f"\n{marks[0]}\nIs it 3?\nYes.\n{marks[1]}\n\nIt is 3.\n"
    parts = parted(text)
    assert (parts.thoughts, parts.answer) == ("Is it 3?\nYes.", "It is 3.\n")
    assert text[parts.start :] == parts.answer


@pytest.mark.parametrize("marks", MARKS)
def test_a_prompt_may_have_begun_them(marks: tuple[str, str]) -> None:
    within = begun(f"<user>2 + 1?<assistant>{marks[0]}\n")
    assert within == marks
    parts = parted(f"Is it 3?{marks[1]}3", within)
    assert (parts.thoughts, parts.answer) == ("Is it 3?", "3")
    # All of it is thoughts until they end.
    assert parted("Is it 3? Or", within).answer == ""


def test_a_prompt_that_also_ended_them_has_begun_none() -> None:
    assert begun("<assistant><think>\n\n</think>\n\n") is None
    assert parted("3", None).thoughts is None


def test_text_without_thoughts_stays_as_it_is() -> None:
    for text in ("", "  3\n", "The tag <think> begins thoughts, </think> ends them.", "a </think> b"):
        parts = parted(text)
        assert (parts.thoughts, parts.answer, parts.start) == (None, text, 0)


def test_behind_an_endpoint_the_end_alone_tells() -> None:
    parts = parted("Is it 3?\n</think>\n3", closing_tells=True)
    assert (parts.thoughts, parts.answer) == ("Is it 3?", "3")
    text = "The tag <think> begins thoughts, </think> ends them."
    assert parted(text, closing_tells=True).answer == text


def test_words_before_the_answer_are_no_part_of_it() -> None:
    text = "<|channel|>analysis<|message|>Is it 3?<|end|><|start|>assistant<|channel|>final<|message|>3"
    assert parted(text).answer == "3"


def test_empty_thoughts_are_none_of_the_answer() -> None:
    assert parted("<think>\n\n</think>\n\n3") == Parted("", "3", 19)


def test_a_template_that_knows_marks_is_a_thinking_models() -> None:
    assert known_to("{% if enable_thinking %}<think>{% endif %}")
    assert not known_to("{{ messages }}")


def test_thoughts_without_an_answer_are_no_answer() -> None:
    cut = checked(Response("", "length", 1, 9, reasoning="Is it"))
    assert (cut.text, cut.error_type, cut.finish_reason) == (None, "unfinished", "length")
    assert cut.answered
    lost = checked(Response("", "stop", 1, 9, reasoning="Is it"))
    assert lost.error_type == "unfinished"
    for answer in (Response("", "stop"), Response("3", "length", reasoning="Is it"), Response("3", reasoning="")):
        assert checked(answer) is answer


def test_left_out_thoughts_are_told_once_unless_the_job_says_so() -> None:
    thought = [Response("3"), Response("3", reasoning="Is it 3?")]
    dropped = Dropped("m", None)
    assert dropped.note(thought[:1]) == []
    assert "reasoning: keep" in dropped.note(thought)[0]
    assert dropped.note(thought) == []
    assert Dropped("m", "drop").note(thought) == Dropped("m", "keep").note(thought) == []
