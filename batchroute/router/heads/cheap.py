"""Cheap features of a text: length, lines, digits, code, formulas, scripts, question words, lettered choices."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchroute.router.heads.ngrams import CHARACTERS, Codes, is_digit, is_letter

_CODE, _FORMULA, _SPACES = "{}[]()<>=;_`#\"'", "+-*/^=$\\%|", " \t\r\n"
_SCRIPTS = {
    "latin": (0xC0, 0x250), "greek": (0x370, 0x400), "cyrillic": (0x400, 0x530), "hebrew": (0x590, 0x600),
    "arabic": (0x600, 0x780), "india": (0x900, 0xE00), "asia": (0xE00, 0x1E00), "cjk": (0x2E80, 0xD800),
    "emoji": (0x1F000, 0x20000),
}  # fmt: skip
"""The language as far as its letters show it; languages of one script differ in their n-grams."""

_WORDS = (
    "what", "which", "who", "when", "where", "why", "how", "is", "are", "not", "no", "if", "each", "def", "return",
    "function", "class", "import", "select", "write", "explain", "translate", "summarize", "solve", "find", "answer",
    "true", "false", "following", "many", "much", "prove", "list", "correct", "statement",
)  # fmt: skip
_WORD = re.compile(r"[a-z]+")
_CHOICE = re.compile(r"\n\(?[A-H][.):]")

NAMES = (
    "characters", "words", "lines", "word_length", "sentences", "digits", "digit_share", "code_share", "formula_share",
    "space_share", "questions", "choices", *_SCRIPTS, *(f"word_{word}" for word in _WORDS),
)  # fmt: skip


def cheap(texts: Sequence[str], codes: Codes) -> NDArray[np.float32]:
    """Features of some texts, in the order of `NAMES`: shape [texts, features].

    Args:
        codes: of the same texts.
    """

    def counted(matches: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(codes.text[matches], minlength=codes.texts).astype(np.float64)

    points = codes.codes
    letters, digits = is_letter(points), is_digit(points)
    inside = letters | digits
    word_starts = np.zeros(len(points), np.bool_)
    word_starts[1:] = inside[1:] & ~inside[:-1]
    size = np.maximum(1.0, np.bincount(codes.text, minlength=codes.texts) - 2.0)
    words, lines, digit = counted(word_starts), counted(points == ord("\n")), counted(digits)
    read = [text[:CHARACTERS] for text in texts]
    vocabularies = [set(_WORD.findall(text.lower())) for text in read]
    columns = [
        np.log1p([len(text) for text in texts]),
        np.log1p(words),
        np.log1p(lines),
        counted(inside) / np.maximum(1.0, words),
        np.log1p(counted(np.isin(points, [ord("."), ord("!"), ord(";")]))),
        np.log1p(digit),
        digit / size,
        counted(np.isin(points, [ord(letter) for letter in _CODE])) / size,
        counted(np.isin(points, [ord(letter) for letter in _FORMULA])) / size,
        counted(np.isin(points, [ord(letter) for letter in _SPACES])) / size,
        np.minimum(3.0, counted(points == ord("?"))),
        np.array([min(8, len(_CHOICE.findall(text))) for text in read]),
        *(counted((points >= first) & (points < last)) / size for first, last in _SCRIPTS.values()),
        *(np.array([word in vocabulary for vocabulary in vocabularies]) for word in _WORDS),
    ]
    features: NDArray[np.float32] = np.stack(columns, axis=1).astype(np.float32)
    return features
