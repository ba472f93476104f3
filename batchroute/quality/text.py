"""Metrics that compare the words of response and reference, all in [0, 1]; none needs a model."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation

from batchroute.quality.base import NO_REFERENCE, Item, Measurement
from batchroute.quality.extract import Extract
from batchroute.quality.metric import MetricRecord

Compare = Callable[[str, str], float]
"""The quality of a response, given response and reference."""

_NUMBER = re.compile(r"[-−]?\$?\d[\d,]*(?:\.\d+)?%?|[-−]?\$?\.\d+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# A comma within a list. One before three digits may be within a number.
_SEPARATOR = re.compile(r",(?!\d{3}(?!\d))")
_FENCE = re.compile(r"\s*```\w*\s*(.*?)\s*```\s*", re.DOTALL)
_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_NUMBER_WORDS = {word: Decimal(number) for number, word in enumerate(_WORDS.split())}


class TextMetric:
    """A metric that is a function of two texts."""

    load_seconds = 0.0

    def __init__(self, compare: Compare) -> None:
        self._compare = compare

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        return [
            Measurement(self._compare(item.response, item.reference))
            if item.reference and item.reference.strip()
            else NO_REFERENCE
            for item in items
        ]

    def close(self) -> None:
        pass


def exact_match(response: str, reference: str) -> float:
    """1 if the response says the reference, else 0.

    It does if both are equal apart from case, punctuation, articles and white space. If the reference is a number, the
    last number of the response must equal it: "So it is $1,000." says "1000.0", and "Three." says "3". Signs and
    percent signs count: "5%" is not "5". If the reference is a JSON object or list, the response must be JSON of the
    same value, in a code fence or not.
    """
    number = _as_number(reference)
    if number is not None:
        numbers = _NUMBER.findall(response)
        if not numbers:
            return float((_NUMBER_WORDS.get(_normalised(response)), False) == number)
        return float(_as_number(numbers[-1]) == number)
    if reference.lstrip().startswith(("{", "[")):
        wanted = _as_json(reference)
        if wanted is not None:
            fenced = _FENCE.fullmatch(response)
            return float(_as_json(fenced[1] if fenced else response) == wanted)
    return float(_normalised(response) == _normalised(reference))


def extracted_match(rule: Extract) -> Compare:
    """`exact_match` of what the rule finds in both; a response without it does not say the reference.

    A reference in which the rule finds nothing is the bare answer already.
    """

    def compare(response: str, reference: str) -> float:
        said = rule(response)
        return 0.0 if said is None else exact_match(said, rule(reference) or reference)

    return compare


def contains(response: str, reference: str) -> float:
    """1 if the response says the reference or holds its words in a row, else 0: "It is the Eiffel Tower." does.

    For answers in sentences. As in `exact_match`, a number must be the last one. A response that names each of several
    choices holds the right one too, so the responses should be short.
    """
    if exact_match(response, reference) or _as_number(reference) is not None:
        return exact_match(response, reference)
    words = _normalised(reference)
    return float(bool(words) and f" {words} " in f" {_normalised(response)} ")


def rouge_l() -> Compare:
    """F1 of the longest common subsequence of words, stemmed: ROUGE-L of the `rouge-score` package."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return lambda response, reference: float(scorer.score(reference, response)["rougeL"].fmeasure)


def bleu() -> Compare:
    """Sentence BLEU divided by 100, with effective order because sentences are short: `sacrebleu`."""
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(effective_order=True)
    return lambda response, reference: scorer.sentence_score(response, [reference]).score / 100


def chrf() -> Compare:
    """chrF, the F-score of character n-grams, divided by 100: `sacrebleu`."""
    from sacrebleu.metrics.chrf import CHRF

    scorer = CHRF()
    return lambda response, reference: scorer.sentence_score(response, [reference]).score / 100


def _as_number(text: str) -> tuple[Decimal, bool] | None:
    """The number, and whether it is a percentage; None if the text is anything but one number."""
    text = text.strip().rstrip(".")
    if not _NUMBER.fullmatch(text):
        return None
    digits = text.replace(",", "").replace("$", "").replace("−", "-")
    try:
        return Decimal(digits.rstrip("%")), digits.endswith("%")
    except InvalidOperation:
        return None


def _as_json(text: str) -> object:
    """The value; None if the text is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _normalised(text: str) -> str:
    text = _SEPARATOR.sub(", ", text)
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(_ARTICLES.sub(" ", text).split())


METRICS = (
    MetricRecord(
        name="exact_match",
        load=lambda spec, device: TextMetric(extracted_match(Extract(spec.extract)) if spec.extract else exact_match),
        settings=frozenset({"extract"}),
    ),
    MetricRecord(name="contains", load=lambda spec, device: TextMetric(contains)),
    MetricRecord(name="rouge", load=lambda spec, device: TextMetric(rouge_l()), extra="quality"),
    MetricRecord(name="bleu", load=lambda spec, device: TextMetric(bleu()), extra="quality"),
    MetricRecord(name="chrf", load=lambda spec, device: TextMetric(chrf()), extra="quality"),
)
