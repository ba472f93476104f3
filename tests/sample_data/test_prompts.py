"""The script that makes the sample prompts: its references, its splits, its bytes."""

from __future__ import annotations

import json
import re
import sqlite3
import statistics
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import make_prompts
import near_copies
import pytest

from batchroute.quality.text import exact_match

FOLDER = Path(make_prompts.__file__).parent
LABELLED = ("topic", "sentiment", "intent", "urgency", "yes_no", "part_of_speech", "category", "odd_one_out", "compare")
COPIED = ("extract_amount", "extract_date", "extract_email", "extract_order", "extract_person")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return make_prompts.large_table()


def of(rows: list[dict[str, Any]], *tasks: str) -> list[dict[str, Any]]:
    found = [row for row in rows if row["task"] in tasks]
    assert {row["task"] for row in found} == set(tasks)
    return found


def test_there_are_many_kinds_of_three_levels_in_three_splits(rows: list[dict[str, Any]]) -> None:
    assert len(rows) >= 3200
    assert len({row["id"] for row in rows}) == len(rows)
    counts = Counter((row["task"], row["split"], row["level"]) for row in rows)
    kinds = {row["task"] for row in rows}
    assert len(kinds) >= 30
    assert {
        (task, split, level): count
        for task in kinds
        for split, count in make_prompts.SPLITS.items()
        for level in (1, 2, 3)
    } == counts


def test_prompts_and_answers_are_short(rows: list[dict[str, Any]]) -> None:
    lengths = [len(row["prompt"].split()) for row in rows]
    assert 25 <= statistics.median(lengths) <= 45
    assert max(lengths) <= 120
    assert max(len(row["reference"].split()) for row in rows) <= 10


def test_no_field_of_a_template_is_left_open(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["task"] not in ("template", "python"):
            assert not re.search(r"\{\w*\}|  |\.\.(?!\.)", row["prompt"]), row["prompt"]


def test_each_reference_satisfies_its_check_and_no_other_answer_of_its_kind_does(rows: list[dict[str, Any]]) -> None:
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        assert exact_match(row["reference"], row["reference"]) == 1
        assert exact_match("", row["reference"]) == 0, row
        answers[row["task"]].add(row["reference"])
    for task, references in answers.items():
        pairs = [(one, other) for one in references for other in references if one.lower() != other.lower()]
        # Keys in another order are the same JSON.
        told_apart = [(one, other) for one, other in pairs if sorted(one) != sorted(other) or one[0] != "{"]
        assert not [pair for pair in told_apart if exact_match(*pair)], task


def test_labels_are_offered_and_extracts_are_in_the_text(rows: list[dict[str, Any]]) -> None:
    for row in of(rows, *LABELLED, *COPIED):
        assert re.search(rf"(?<!\w){re.escape(row['reference'])}(?!\w)", row["prompt"], re.IGNORECASE), row


def test_json_answers_have_the_keys_that_are_asked_for(rows: list[dict[str, Any]]) -> None:
    for row in of(rows, "json_one_key", "json_two_keys"):
        answer = json.loads(row["reference"])
        assert list(answer) == re.findall(r'"(\w+)"', row["prompt"]), row
        assert all(str(value) in row["prompt"] for value in answer.values()), row


def test_python_gives_the_references_of_code(rows: list[dict[str, Any]]) -> None:
    for row in of(rows, "python"):
        code = re.split(r"(?:expression\?|expression give\?|Python\.|in Python\?|for this\?) ", row["prompt"])[-1]
        assert str(eval(code)) == row["reference"], row


def test_sqlite_gives_the_references_of_queries(rows: list[dict[str, Any]]) -> None:
    for row in of(rows, "sql"):
        values = re.search(r"holds (\(.*?\))\. ", row["prompt"])
        query = re.search(r"SELECT .*;", row["prompt"])
        assert values, row
        assert query, row
        with sqlite3.connect(":memory:") as database:
            database.execute("CREATE TABLE stock (item TEXT, n INTEGER)")
            database.execute(f"INSERT INTO stock VALUES {values[1]}")
            assert str(database.execute(query[0]).fetchone()[0]) == row["reference"], row


def test_dates_sums_of_units_and_lists_are_right(rows: list[dict[str, Any]]) -> None:
    for row in of(rows, "iso_date"):
        day = date.fromisoformat(row["reference"])
        assert str(day.day) in row["prompt"]
        assert str(day.year)[2:] in row["prompt"]
    for row in of(rows, "deduplicate"):
        items = row["reference"].split(", ")
        assert len(items) == len(set(items)) == row["level"] + 1
        places = [re.search(rf"\b{item}\b", row["prompt"].split("list", 1)[1]).start() for item in items]  # type: ignore[union-attr]
        assert places == sorted(places), row
    for row in of(rows, "duration"):
        start, end = (int(h) * 60 + int(m) for h, m in re.findall(r"(\d+):(\d\d)", row["prompt"]))
        assert str(end - start) == row["reference"], row
    for row in of(rows, "percent"):
        rate = int(re.findall(r"(\d+)%", row["prompt"])[0])
        base = int(next(n for n in re.findall(r"\b(\d+)\b(?!%)", row["prompt"])))
        part = base * rate / 100
        assert float(row["reference"]) == (part if row["level"] < 3 else base - part), row


def test_no_prompt_is_there_twice_and_none_is_a_near_copy_of_an_earlier_split(rows: list[dict[str, Any]]) -> None:
    of_split = {split: [row for row in rows if row["split"] == split] for split in make_prompts.SPLITS}
    assert len({row["prompt"] for row in rows}) == len(rows)
    training = near_copies.Seen(row["prompt"] for row in of_split["train"])
    closest = [training.jaccard(row["prompt"]) for row in of_split["validation"] + of_split["test"]]
    assert max(closest) <= near_copies.MOST_JACCARD["train"] <= 0.4
    assert statistics.median(closest) < 0.2
    validation = near_copies.Seen(row["prompt"] for row in of_split["validation"])
    assert (
        max(validation.jaccard(row["prompt"]) for row in of_split["test"])
        <= near_copies.MOST_JACCARD["validation"]
        <= 0.6
    )


def test_a_near_copy_is_noticed() -> None:
    seen = near_copies.Seen(["Which city is the capital of Peru? Name it.", "Sort these words: a, b, c."])
    assert seen.jaccard("which city is the capital of peru; name it") == 1
    # Eight runs of three words in the one, nine in the other, six of them in both.
    assert seen.jaccard("Which city is the capital of Chile? Name it, please.") < 0.6
    assert seen.jaccard("Something else altogether") == 0


def test_a_prompt_in_the_list_of_those_left_out_is_replaced() -> None:
    before = make_prompts.of_kind("capitals", 1, frozenset())
    unwanted = next(row["prompt"] for row in before if row["split"] == "test")
    after = make_prompts.of_kind("capitals", 1, frozenset({near_copies.mark(str(unwanted))}))
    assert unwanted not in [row["prompt"] for row in after]
    assert len(after) == len(before)


def test_a_kind_whose_lists_are_too_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_prompts, "MOST_DRAWS", 5)
    with pytest.raises(RuntimeError, match="capitals, level 1: 5 of 14 train prompts; lengthen its lists"):
        make_prompts.of_kind("capitals", 1, frozenset())


def test_the_same_seed_gives_the_same_bytes_and_another_other_rows(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_prompts.write(make_prompts.large_table(), tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    others = {row["prompt"] for row in make_prompts.large_table(seed=1, unwanted=frozenset())}
    assert len(others & {row["prompt"] for row in rows}) < len(rows) / 4
