"""Extracting the part of an answer that counts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from batchroute import quality
from batchroute.quality.base import Item, MetricSpec
from batchroute.quality.extract import Extract

LETTER = r"answer is \(?([A-J])\)?"


@pytest.mark.parametrize(
    ("rule", "text", "part"),
    [
        (LETTER, "The answer is (H).", "H"),
        (LETTER, "I thought the answer is A, but the answer is (B).", "B"),
        (LETTER, "No idea.", None),
        (r"\d+", "12 and 13", "13"),
        (r"yes|no", "no, yes", "yes"),
        (r"(?:A:(\w))|(?:B:(\w))", "A:x B:y", "y"),
        ("json:label", 'Sure: {"label": "spam", "why": "x"} Done.', "spam"),
        ("json:label", '{"label": "a"} {"label": "b"} {"other": 1}', "b"),
        ("json:a.b", '{"a": {"b": [1, {"c": 2}]}}', '[1, {"c": 2}]'),
        ("json:n", '{"n": 5}', "5"),
        ("json:n", '{"n": null}', None),
        ("json:n", "{broken [ {", None),
        ("json:n", "[1, 2]", None),
    ],
)
def test_the_last_part_that_fits_counts(rule: str, text: str, part: str | None) -> None:
    assert Extract(rule)(text) == part


def test_both_answers_are_extracted_before_they_are_compared() -> None:
    metric = quality.load(MetricSpec(name="exact_match", extract=LETTER), lambda: None)  # type: ignore[arg-type, return-value]
    pairs = [
        ("So the answer is (C).", "Clearly the answer is C"),
        ("It is C.", "the answer is C"),
        ("the answer is C", "c"),
    ]
    measured = metric.measure([Item("?", response, reference) for response, reference in pairs])
    assert [one.quality for one in measured] == [1.0, 0.0, 1.0]


def test_a_rule_is_part_of_the_metric_s_name() -> None:
    spec = MetricSpec(name="exact_match", extract=LETTER)
    assert quality.describe(spec) == f"exact_match (extract {LETTER})"
    assert quality.named(quality.describe(spec)) == spec
    plain = MetricSpec(name="exact_match")
    assert quality.named(quality.describe(plain)) == plain


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "exact_match", "extract": "("}, "is no regular expression"),
        ({"name": "exact_match", "extract": "json:"}, "names no key: write json:KEY"),
        ({"name": "rouge", "extract": "a"}, "the metric rouge has no extract: leave it out"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence.replace("(", r"\(")):
        MetricSpec.model_validate(settings)
