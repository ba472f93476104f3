from __future__ import annotations

import math
import sys

import pytest
import torch
from pydantic import ValidationError

from batchroute import quality
from batchroute.errors import InputError
from batchroute.quality.base import Item, MetricSpec
from batchroute.quality.text import contains, exact_match


def measured(name: str, response: str, reference: str) -> float:
    metric = quality.load(MetricSpec(name=name), lambda: torch.device("cpu"))
    (measurement,) = metric.measure([Item("p", response, reference)])
    assert measurement.quality is not None
    return measurement.quality


@pytest.mark.parametrize(
    ("response", "reference", "same"),
    [
        ("Paris", "paris", True),
        ("  The Eiffel Tower. ", "eiffel tower", True),
        ("the cat sat", "the cat", False),
        ("London", "Paris", False),
        ("", "Paris", False),
        ("42", "42.0", True),
        ("So it is $1,000.", "1000", True),
        ("1000.5", "1,000.50", True),
        ("First 3, then 4.", "4", True),
        ("First 3, then 4.", "3", False),
        ("-5", "5", False),
        ("5", "5%", False),
        ("about 5%", "5%", True),
        ("The answer is 42 apples", "42 apples", False),
        ("forty-two", "42", False),
        ("0.5", ".5", True),
        ("Three.", "3", True),
        ("three or 4", "3", False),
        ("3,7,12", "3, 7, 12", True),
        ("apple,pear", "apple, pear", True),
        ("apple pear", "apple, fig", False),
        ("1,000 items", "1000 items", True),
        ('{"b": [1, 2], "a": "x"}', '{"a":"x","b":[1,2.0]}', True),
        ('```json\n{"a": "x"}\n```', '{"a": "x"}', True),
        ('{"a": "X"}', '{"a": "x"}', False),
        ('Here: {"a": "x"}', '{"a": "x"}', False),
        ("[NAME] called", "[name] called.", True),
    ],
)
def test_exact_match_looks_past_form_and_at_numbers(response: str, reference: str, same: bool) -> None:
    assert exact_match(response, reference) == float(same)


@pytest.mark.parametrize(
    ("response", "reference", "holds"),
    [
        ("The plural of mouse is mice.", "mice", True),
        ("It is in the Eiffel Tower!", "eiffel tower", True),
        ("The tower of Eiffel", "eiffel tower", False),
        ("A letter to Parisians", "Paris", False),
        ("Paris", "paris", True),
        ("I have 7 cats and 2 dogs.", "2", True),
        ("I have 7 cats and 2 dogs.", "7", False),
        ('{"a": "x"}', '{"a":"x"}', True),
        ("", "Paris", False),
        ("No.", "...", False),
    ],
)
def test_contains_finds_the_reference_in_a_sentence(response: str, reference: str, holds: bool) -> None:
    assert contains(response, reference) == float(holds)
    assert measured("contains", response, reference) == float(holds)


def test_rouge_is_the_f1_of_the_longest_common_subsequence() -> None:
    # police … the gunman: 3 of 4 words of the response, in order, and 3 of 4 of the reference.
    assert measured("rouge", "police kill the gunman", "police killed the gunman") == 1.0  # stems are equal
    assert measured("rouge", "the gunman police ran", "police shot the gunman") == pytest.approx(0.5)
    assert measured("rouge", "", "police") == 0.0


def test_bleu_is_the_brevity_penalty_times_the_mean_precision() -> None:
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, 0 of 3 fours, which is smoothed to 1/2 · 1/3.
    expected = math.exp(sum(map(math.log, (5 / 6, 3 / 5, 1 / 4, 1 / 6))) / 4)
    assert measured("bleu", "the cat sat on a mat", "the cat sat by a mat") == pytest.approx(
        math.exp(sum(map(math.log, (5 / 6, 3 / 5, 1 / 4, 1 / 6))) / 4), abs=1e-6
    )
    assert expected < 1.0 == pytest.approx(measured("bleu", "the cat sat on a mat", "the cat sat on a mat"))


def test_chrf_is_the_f2_of_character_grams() -> None:
    # "ab" of "abc": 2 of 2 and 2 of 3 letters, 1 of 1 and 1 of 2 pairs; there are no longer grams in "ab".
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    expected = 5 * precision * recall / (4 * precision + recall)
    assert measured("chrf", "ab", "abc") == pytest.approx(expected, abs=1e-6)
    assert measured("chrf", "abc", "abc") == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["rouge", "bleu", "chrf"])
def test_a_missing_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("rouge_score", "rouge_score.rouge_scorer", "sacrebleu.metrics.bleu", "sacrebleu.metrics.chrf"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"needs a package: pip install 'batchroute\[quality\]'"):
        quality.load(MetricSpec(name=name), lambda: torch.device("cpu"))


def test_settings_that_a_metric_does_not_have_are_refused() -> None:
    with pytest.raises(ValidationError, match="the metric rouge has no model: leave it out"):
        MetricSpec(name="rouge", model="m")
    with pytest.raises(ValidationError, match="the metric embedding has no direction"):
        MetricSpec(name="embedding", model="m", direction="both")
    with pytest.raises(ValidationError, match="the metric likelihood needs a model"):
        MetricSpec(name="likelihood")
    with pytest.raises(ValidationError, match="there is no metric 'meteor': name one of bartscore, embedding, judge"):
        MetricSpec(name="meteor")


def test_a_metric_in_words_tells_its_model_and_direction() -> None:
    assert quality.describe(MetricSpec(name="rouge")) == "rouge"
    assert quality.describe(MetricSpec(name="bartscore")) == "bartscore (facebook/bart-large-cnn, direction reference)"
