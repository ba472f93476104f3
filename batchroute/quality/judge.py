"""The judge: a language model behind an OpenAI-compatible endpoint rates each response."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from batchroute.endpoint import Endpoint
from batchroute.errors import InputError
from batchroute.quality.base import Item, Measurement, MetricSpec
from batchroute.quality.metric import MetricRecord
from batchroute.redaction import without_quotes

_INSTRUCTION = (
    "You rate how well a response answers a prompt. 1 is useless or wrong, 10 is correct, complete and clear. Length "
    "and style do not matter in themselves. Answer with one line, 'Rating: ' and a whole number from 1 to 10, and with "
    "nothing else."
)
_RATING = re.compile(r"(?:rating:\s*)?(10|[1-9])(?:\s*/\s*10)?\.?", re.IGNORECASE)
_TIMEOUT_SECONDS = 120.0
_MOST_TOKENS = 16


class Judge:
    """Ratings from 1 to 10, by one fixed prompt at temperature 0, which contains the reference if the row has one.

    There is no quality if the answer is not exactly a rating (`unparsable`), if the model refuses (`refused`), or if
    the request fails after retries (`api_error`). `batch_size` requests are sent at a time.
    """

    load_seconds = 0.0

    def __init__(self, spec: MetricSpec, retries: int = 5) -> None:
        """Raises:
        InputError: as `Endpoint`. OpenAI's own endpoint needs a key.
        """
        self._spec = spec
        self._endpoint = Endpoint(
            "the metric judge",
            spec.endpoint,
            spec.api_key_env,
            needs_key=spec.endpoint is None,
            timeout=_TIMEOUT_SECONDS,
            retries=retries,
        )
        self._client = self._endpoint.client()

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        """Raises:
        InputError: every item would fail: the endpoint, the key or the model is wrong.
        """
        with ThreadPoolExecutor(max_workers=self._spec.batch_size) as pool:
            return list(pool.map(self._rate, items))

    def close(self) -> None:
        self._client.close()

    def _rate(self, item: Item) -> Measurement:
        openai, redactor, spec, asked = self._endpoint.openai, self._endpoint.redactor, self._spec, question(item)
        assert spec.model is not None
        try:
            answer = self._client.chat.completions.create(
                model=spec.model,
                messages=[{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": asked}],
                temperature=0,
                max_tokens=_MOST_TOKENS,
            )
        except openai.APITimeoutError as error:
            return Measurement(error_type="api_error", error=redactor.line(error))
        except openai.APIConnectionError as error:
            raise InputError(
                f"the judge at {self._endpoint.host} cannot be reached: is the endpoint right, and up?"
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(f"the judge refuses the key in the environment variable {spec.api_key_env}") from error
        except openai.NotFoundError as error:
            raise InputError(f"the judge's endpoint has no model '{spec.model}'") from error
        except openai.APIStatusError as error:
            words = f"HTTP {error.status_code}: {redactor.line(error)}"
            return Measurement(error_type="api_error", error=without_quotes(words, asked))
        return _read(answer)


def question(item: Item) -> str:
    """The user message of the request for one item."""
    parts = [f"Prompt:\n{item.prompt}"]
    if item.reference:
        parts.append(f"Reference answer:\n{item.reference}")
    return "\n\n".join([*parts, f"Response to rate:\n{item.response}"])


def _read(answer: object) -> Measurement:
    choices = getattr(answer, "choices", None)
    if not choices:
        return Measurement(error_type="unparsable", error="the judge's answer has no choices")
    message, reason = choices[0].message, choices[0].finish_reason
    if getattr(message, "refusal", None) or reason == "content_filter":
        return Measurement(error_type="refused", error="the judge refused to rate the response")
    rating = _RATING.fullmatch((message.content or "").strip())
    if rating is None:
        return Measurement(error_type="unparsable", error="the judge's answer is not a rating from 1 to 10")
    return Measurement(float(rating[1]))


METRICS = (
    MetricRecord(
        name="judge",
        load=lambda spec, device: Judge(spec),
        needs_reference=False,
        behind_api=True,
        settings=frozenset({"model", "endpoint"}),
        extra="openai",
    ),
)
