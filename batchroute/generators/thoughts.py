"""Thoughts: what a reasoning model writes before its answer, and where the answer begins."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from batchroute.generators.base import Response

MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
"""What begins and what ends thoughts, of DeepSeek, Qwen, GLM, EXAONE, Seed, Magistral, Command A, OpenThinker, Kimi,
gpt-oss and others.
"""
# What models write between their thoughts and the answer itself: gpt-oss; Command A; Hunyuan and others.
_BEFORE_ANSWERS = ("<|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>", "<|START_RESPONSE|>")
# The special tokens within a mark such as gpt-oss's.
_SPECIAL = re.compile(r"<\|\w+\|>")
_LOST = "the model thought until it ended, and gave no answer"
_CUT = "the model's thoughts took all of max_new_tokens, so that no answer is left: allow more tokens, or less thought"


@dataclass(frozen=True, slots=True)
class Parted:
    """A text in its two parts.

    Attributes:
        thoughts: without the marks around them; None: the text has none.
        answer: empty while the model still thinks.
        start: where in the text the answer begins.
    """

    thoughts: str | None
    answer: str
    start: int


def begun(prompt: str) -> tuple[str, str] | None:
    """The marks of thoughts that a prompt's last words begin, as some chat templates do; else None."""
    end = prompt.rstrip()
    return next((marks for marks in MARKS if end.endswith(marks[0])), None)


def known_to(template: str) -> bool:
    """Whether a chat template knows marks of thoughts, so that the model is one that thinks."""
    return any(mark in template for marks in MARKS for mark in marks)


def special_among(tokens: Collection[str]) -> bool:
    """Whether marks of thoughts, or parts of them, are special tokens, which decoding leaves out."""
    return any(part in tokens for marks in MARKS for mark in marks for part in (mark, *_SPECIAL.findall(mark)))


def parted(text: str, within: tuple[str, str] | None = None, closing_tells: bool = False) -> Parted:
    """The thoughts and the answer of a text that a model wrote.

    Args:
        within: the marks of the thoughts that the prompt had begun.
        closing_tells: a mark that only ends thoughts tells that the prompt had begun them, as behind endpoints, whose
            prompts are not seen.
    """
    start = len(text) - len(text.lstrip())
    marks = next((marks for marks in MARKS if text.startswith(marks[0], start)), None)
    if marks is not None:
        start += len(marks[0])
    elif within is not None:
        marks = within
    elif closing_tells:
        # Where an answer speaks of the marks, the first one is there too. gpt-oss's last one ends answers as well.
        marks = next((one for one in MARKS[:-1] if text.count(one[1]) == 1 and one[0] not in text), None)
    if marks is None:
        return Parted(None, text, 0)
    end = text.find(marks[1], start)
    if end < 0:
        return Parted(text[start:].strip(), "", len(text))
    at = _after(text, end + len(marks[1]))
    for words in _BEFORE_ANSWERS:
        if text.startswith(words, at):
            at = _after(text, at + len(words))
    return Parted(text[start:end].strip(), text[at:], at)


def without(special: Iterable[str], text: str) -> str:
    """The text without special tokens, which stand in it where decoding left out none."""
    for token in special:
        text = text.replace(token, "")
    return text


def checked(response: Response) -> Response:
    """The response; one that is all thoughts is no answer: its error type is `unfinished`."""
    if response.reasoning is None or response.error_type is not None or response.text or response.tool_calls:
        return response
    why = _CUT if response.finish_reason == "length" else _LOST
    return response._replace(text=None, error_type="unfinished", error=why)


class Dropped:
    """Tells once that a model's thoughts are kept nowhere, if the job file does not say that it wants it so."""

    def __init__(self, model: str, reasoning: str | None) -> None:
        self._model, self._untold = model, reasoning is None

    def note(self, responses: Iterable[Response]) -> list[str]:
        """One sentence for the operator, the first time that a response has thoughts."""
        if not self._untold or all(response.reasoning is None for response in responses):
            return []
        self._untold = False
        return [
            f"the model '{self._model}' thinks before it answers, and its thoughts are left out: reasoning: keep "
            "writes them into a column"
        ]


def _after(text: str, at: int) -> int:
    """The first place from `at` on that is no white space."""
    return at + len(text[at:]) - len(text[at:].lstrip())
