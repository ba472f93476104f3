"""Rows whose prompts begin alike, and the order in which they are asked."""

from __future__ import annotations

import random

import pytest

from batchroute.generators.beginnings import LEAST_CACHED, LEAST_SHARED, beginning, cached_beginnings, groups, shared

DOCUMENTS = ["a river " * 100, "the stone " * 100]


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [
        ("", "", 0),
        ("", "a", 0),
        ("ab", "ab", 2),
        ("ab", "abc", 2),
        ("abx", "aby", 2),
        ("xa", "ya", 0),
        ("🙂b", "🙂a", 1),
    ],
)
def test_what_two_texts_share(one: str, other: str, length: int) -> None:
    assert shared(one, other) == shared(other, one) == length


def test_a_beginning_is_of_text_and_of_messages_as_far_as_it_matters() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 400_000}}
    assert beginning("a text") == "a text"
    chat = [{"role": "system", "content": "é"}, {"role": "user", "content": [image]}, {"role": "user", "content": "b"}]
    found = beginning(chat)
    assert found.startswith('{"role": "system", "content": "é"}{"role": "user", "content": [{')
    assert len(found) == 256_000


def test_rows_of_a_document_follow_one_another_and_others_stay_in_place() -> None:
    texts = ["short", DOCUMENTS[1] + "9", DOCUMENTS[0] + "2", "another", DOCUMENTS[1] + "1", DOCUMENTS[0] + "1"]
    assert groups(texts) == [[0], [4, 1], [5, 2], [3]]


def test_what_all_rows_share_makes_no_group() -> None:
    system = "Be brief. " * 500
    assert groups([system + text for text in ("c", "a", "b")]) == [[0], [1], [2]]
    texts = [system + DOCUMENTS[0] + "c", system + "a", system + DOCUMENTS[0] + "b"]
    assert groups(texts) == [[2, 0], [1]]


def test_each_row_is_asked_once() -> None:
    chance = random.Random(0)
    texts = [chance.choice(DOCUMENTS)[: chance.randrange(900)] + str(chance.randrange(5)) for _ in range(200)]
    found = groups(texts)
    assert sorted(row for group in found for row in group) == [*range(200)]
    assert max(map(len, found)) > 1
    assert groups([]) == []
    assert groups(["same"] * 3) == [[0], [1], [2]]


def test_groups_of_less_than_is_asked_for_are_none() -> None:
    texts = [DOCUMENTS[0] + "2", "another", DOCUMENTS[0] + "1"]
    # All of them share a letter.
    assert groups(texts, len(DOCUMENTS[0]) - 1) == [[2, 0], [1]]
    assert groups(texts, len(DOCUMENTS[0])) == [[0], [1], [2]]


def test_only_beginnings_as_long_as_providers_cache_count_and_each_step_by_itself() -> None:
    # In bytes: an accented letter has two.
    long = "é" * LEAST_CACHED
    texts = [long[: LEAST_CACHED // 2] + "a", long + "b", long + "c", "y" * 9_000, long[: LEAST_CACHED // 2 - 1]]
    first, second, third, alone, short = cached_beginnings(texts)
    assert second == third
    assert len(second) == 2
    assert first == second[:1]
    assert alone == short == []
    assert LEAST_SHARED < LEAST_CACHED
    assert cached_beginnings(["\ud800" * LEAST_CACHED] * 2)[0] != []
