from __future__ import annotations

import pytest

from batchroute.router.drift.languages import UNKNOWN, language, language_name


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What is the first letter of the word button?", "en"),
        ("Wie heißt die Hauptstadt von Frankreich?", "de"),
        ("Quelle est la capitale de la France ?", "fr"),
        ("日本の首都はどこですか", "ja"),
        ("Какой город является столицей Франции и почему?", "ru"),
        ("x", UNKNOWN),
        ("12 + 30 = ?", UNKNOWN),
        ("def f(x):\n    return x + 1\nfor i in range(10): print(f(i))", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_the_language_of_a_prompt_is_detected_but_code_and_numbers_have_none(text: str, code: str) -> None:
    assert language(text) == code


def test_a_long_text_is_known_by_its_start() -> None:
    german = "Bitte fasse den folgenden Bericht über die Entwicklung der Preise zusammen. " * 20
    assert language(german + "and the rest of it is in English, as it happens. " * 2_000) == "de"


def test_names_are_english_and_a_rare_language_keeps_its_code() -> None:
    assert language_name("de") == "German"
    assert language_name("ltg") == "the language 'ltg'"
