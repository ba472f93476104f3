from __future__ import annotations

from batchroute.errors import first_line, shortened


def test_a_long_message_ends_after_a_whole_word() -> None:
    text = "the endpoint said nothing useful " * 20
    cut = shortened(text)
    assert len(cut) <= 300
    assert cut.endswith("…")
    assert text.startswith(f"{cut.removesuffix('…')} ")
    assert first_line(ValueError(f"{text}\nmore")) == cut


def test_a_short_one_stays_and_a_single_long_word_is_cut() -> None:
    assert shortened("a b", 3) == "a b"
    assert shortened("x" * 400) == "x" * 299 + "…"
    assert shortened(f"see {'x' * 400}") == f"see {'x' * 295}…"
    assert first_line(ValueError()) == "ValueError"
