"""The language of a prompt, as precisely as drift detection needs it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN = "unknown"
"""Prompts that are too short to tell, formulas, and code."""

# The start shows the language; reading long documents to the end would only cost time.
_CHARACTERS = 1_000
_LEAST_LETTERS = 8
# For a text in no known language, the likeliest language gets far less than this.
_LEAST_CONFIDENCE = 0.5
_NO_LANGUAGE = "zxx"

_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish",
    "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian",
    "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian",
    "ms": "Malay", "nb": "Norwegian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish",
    "sw": "Swahili", "ta": "Tamil", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def language(text: str) -> str:
    """The ISO 639 code of the text's language, or `UNKNOWN`. py3langid takes about 80 µs per text.

    The first call in a process loads the model: half a second and 100 MB.
    """
    start = text[:_CHARACTERS]
    if sum(letter.isalpha() for letter in start) < _LEAST_LETTERS and start.isascii():
        return UNKNOWN
    code, confidence = _classifier()(start)
    return UNKNOWN if code == _NO_LANGUAGE or confidence < _LEAST_CONFIDENCE else code


def language_name(code: str) -> str:
    """English name of a language code; for a rare language, the code itself."""
    return _NAMES.get(code, f"the language '{code}'")


@functools.cache
def _classifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    classify: Callable[[str], tuple[str, float]] = identifier.classify
    return classify
