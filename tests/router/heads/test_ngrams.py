from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from batchroute.router.heads.ngrams import CHARACTERS, Codes, grams


def counted(texts: list[str]) -> list[Counter[int]]:
    found = grams(Codes.of(texts))
    counters: list[Counter[int]] = [Counter() for _ in texts]
    for text, number, count in zip(found.text.tolist(), found.number.tolist(), found.count.tolist(), strict=True):
        counters[text][number] = count
    return counters


def test_grams_are_words_pairs_and_runs_of_characters() -> None:
    (one,) = counted(["ab cd ab"])
    # ab, cd; "ab cd", "cd ab"; of " ab cd ab " 8 runs of three, 7 of four and 6 of five, of which " ab" is there twice.
    assert sum(one.values()) == 3 + 2 + 8 + 7 + 6
    # The word, and its runs with a space before it, behind it and around it.
    assert sorted(one.values())[-5:] == [1, 2, 2, 2, 2]


def test_a_texts_grams_do_not_depend_on_the_other_texts() -> None:
    texts = ["What is 12 plus 30?", "", "été à Zürich", "x" * 200, "a\ud800b", "What is 12 plus 30?"]
    together = counted(texts)
    assert together == [counted([text])[0] for text in texts]
    assert together[0] == together[5]
    assert together[0] != together[2]


def test_case_does_not_count_and_order_does() -> None:
    assert counted(["Dog bites man"]) == counted(["dog BITES man"])
    assert counted(["dog bites man"]) != counted(["man bites dog"])


def test_long_texts_are_read_to_a_limit() -> None:
    text = "word " * CHARACTERS
    assert counted([text]) == counted([text[:CHARACTERS]])


@pytest.mark.parametrize("texts", [[], [""], ["?"]])
def test_texts_without_words(texts: list[str]) -> None:
    found = grams(Codes.of(texts))
    assert found.text.shape == found.number.shape == found.count.shape
    assert (np.diff(found.text) >= 0).all()


def test_numbers_are_the_same_in_every_process() -> None:
    """They are stored with a router: another hash would make every trained router wrong."""
    assert grams(Codes.of(["hi"])).number.tolist() == [4421, 4749, 10942, 219072]
