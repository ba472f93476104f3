"""Metrics that compare the words of response and reference; none needs a model."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation

from batchroute.errors import InputError
from batchroute.quality.base import NO_REFERENCE, Item, Measurement, Metric, MetricName

Compare = Callable[[str, str], float]
"""From response and reference to a quality."""

_NUMBER = re.compile(r"[-−]?\$?\d[\d,]*(?:\.\d+)?%?|[-−]?\$?\.\d+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class TextMetric:
    """A metric that is a function of two texts."""

    needs_reference = True
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


def load_text_metric(name: MetricName) -> Metric:
    """`rouge`, `bleu`, `chrf` or `exact_match`, all in [0, 1].

    Raises:
        InputError: the package of the first three is not installed.
    """
    if name == "exact_match":
        return TextMetric(exact_match)
    try:
        return TextMetric(rouge_l() if name == "rouge" else _sacrebleu(name))
    except ImportError as error:
        raise InputError(f"the metric {name} needs a package: pip install 'batchroute[quality]'") from error


def exact_match(response: str, reference: str) -> float:
    """1 when the response says the reference, else 0.

    It does when both are equal apart from case, punctuation, articles and white space. A reference that is a number is
    also said by a response whose last number equals it: "So it is $1,000." says "1000.0". Signs and percent signs
    count: "5%" is not "5".
    """
    number = _as_number(reference)
    if number is not None:
        said = [_as_number(found) for found in _NUMBER.findall(response)]
        return float(bool(said) and said[-1] == number)
    return float(_normalised(response) == _normalised(reference))


def rouge_l() -> Compare:
    """F1 of the longest common subsequence of words, stemmed: ROUGE-L of the `rouge-score` package."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return lambda response, reference: float(scorer.score(reference, response)["rougeL"].fmeasure)


def _sacrebleu(name: MetricName) -> Compare:
    """Sentence BLEU (with effective order, as sentences are short) or chrF, divided by 100."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    scorer = BLEU(effective_order=True) if name == "bleu" else CHRF()
    return lambda response, reference: scorer.sentence_score(response, [reference]).score / 100


def _as_number(text: str) -> tuple[Decimal, bool] | None:
    """The number that the whole text is, and whether it is a percentage."""
    text = text.strip().rstrip(".")
    if not _NUMBER.fullmatch(text):
        return None
    digits = text.replace(",", "").replace("$", "").replace("−", "-")
    try:
        return Decimal(digits.rstrip("%")), digits.endswith("%")
    except InvalidOperation:
        return None


def _normalised(text: str) -> str:
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(_ARTICLES.sub(" ", text).split())
