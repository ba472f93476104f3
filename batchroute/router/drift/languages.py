"""Languages: which one a prompt is in, as far as drift needs to know it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN = "unknown"
"""The language of what is too short to tell, of formulas, and of code."""

# The start tells the language, and long documents would cost far more than they tell.
_CHARACTERS = 1_000
_LEAST_LETTERS = 8
# Of languages that have nothing to do with a text the likeliest one gets far less than this.
_LEAST_CONFIDENCE = 0.5
_NO_LANGUAGE = "zxx"

_NAMES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "ca": "Catalan",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "ms": "Malay",
    "nb": "Norwegian",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sr": "Serbian",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}


def language(text: str) -> str:
    """The ISO 639 code of the text's language, or `UNKNOWN`: by py3langid, about 80 µs a text.

    The first call in a process loads its model: half a second and 100 MB.
    """
    start = text[:_CHARACTERS]
    if sum(letter.isalpha() for letter in start) < _LEAST_LETTERS and start.isascii():
        return UNKNOWN
    code, confidence = _classifier()(start)
    return UNKNOWN if code == _NO_LANGUAGE or confidence < _LEAST_CONFIDENCE else code


def language_name(code: str) -> str:
    """English name of a language's code; the code itself where it is a rare one."""
    return _NAMES.get(code, f"the language '{code}'")


@functools.cache
def _classifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    classify: Callable[[str], tuple[str, float]] = identifier.classify
    return classify
