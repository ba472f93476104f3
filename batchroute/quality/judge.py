"""The judge: a language model behind an OpenAI-compatible endpoint rates each response."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from batchroute.endings import ending_of
from batchroute.endpoint import Endpoint, is_out_of_money, read_json, valid_text
from batchroute.errors import InputError, StoppedError
from batchroute.key import Key
from batchroute.quality.base import Item, Measurement, MetricSpec
from batchroute.quality.metric import MetricRecord
from batchroute.redaction import without_quotes

if TYPE_CHECKING:
    import openai

_INSTRUCTION = (
    "You rate how well a response answers a prompt. 1 is useless or wrong, 10 is correct, complete and clear. Length "
    "and style do not matter in themselves. Answer with one line, 'Rating: ' and a whole number from 1 to 10, and with "
    "nothing else."
)
_COMPARISON = (
    "You compare two answers to one prompt. Take the reference answer for right, and rate the response by it: 10 says "
    "the same or serves as well, 1 is useless or contradicts it. Length and style do not matter in themselves. Answer "
    "with one line, 'Rating: ' and a whole number from 1 to 10, and with nothing else."
)
_BEST = 10.0
_RATING = re.compile(r"(?:rating:\s*)?(10|[1-9])(?:\s*/\s*10)?\.?", re.IGNORECASE)
_TIMEOUT_SECONDS = 120.0
_MOST_TOKENS = 16


class Judge:
    """Ratings from 1 to 10, by one fixed prompt at temperature 0, which contains the reference if the row has one.

    By likeness to the large model's answer, it is asked to compare the two; the same text has a 10 without a request.

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
            Key(spec.api_key_env),
            needs_key=spec.endpoint is None,
            timeout=_TIMEOUT_SECONDS,
            retries=retries,
        )
        self._client = self._endpoint.client()

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        """Raises:
        InputError: every item would fail: the endpoint, the key or the model is wrong.
        StoppedError: the account has no money left.
        """
        with ThreadPoolExecutor(max_workers=self._spec.batch_size) as pool:
            return list(pool.map(self._rate, items))

    def close(self) -> None:
        self._client.close()

    def _rate(self, item: Item) -> Measurement:
        openai, redactor, spec, asked = self._endpoint.openai, self._endpoint.redactor, self._spec, question(item)
        assert spec.model is not None
        if item.likeness and item.reference is not None and item.response.strip() == item.reference.strip():
            return Measurement(_BEST)
        instruction = _COMPARISON if item.likeness else _INSTRUCTION
        try:
            answer = self._client.chat.completions.with_raw_response.create(
                model=spec.model,
                messages=[{"role": "system", "content": instruction}, {"role": "user", "content": asked}],
                temperature=0,
                max_tokens=_MOST_TOKENS,
            )
        except openai.APITimeoutError as error:
            return Measurement(error_type="api_error", error=redactor.line(error))
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, TimeoutError):
                return Measurement(error_type="api_error", error=f"no answer within {_TIMEOUT_SECONDS:g} s")
            raise InputError(
                f"the judge at {self._endpoint.host} cannot be reached: is the endpoint right, and up?"
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            self._stop_if_out_of_money(error.status_code, _code(error), self._words(error, asked))
            raise InputError(f"the judge refuses the key in {self._endpoint.key.source}") from error
        except openai.NotFoundError as error:
            raise InputError(f"the judge's endpoint has no model '{spec.model}'") from error
        except openai.APIStatusError as error:
            words = self._words(error, asked)
            self._stop_if_out_of_money(error.status_code, _code(error), words)
            return Measurement(error_type="api_error", error=f"HTTP {error.status_code}: {words}")
        try:
            body = read_json(answer.content)
        except ValueError:
            return Measurement(error_type="unparsable", error="the judge's answer is not JSON")
        inside = body.get("error") if isinstance(body, Mapping) else None
        if not inside:
            return _read(body)
        reason = inside if isinstance(inside, Mapping) else {"message": inside}
        words = self._words(reason.get("message"), asked)
        self._stop_if_out_of_money(400, str(reason.get("code")), words)
        return Measurement(error_type="api_error", error=f"an error inside an answer: {words}")

    def _words(self, error: Any, asked: str) -> str:
        return without_quotes(self._endpoint.redactor.line(valid_text(str(error))), asked)

    def _stop_if_out_of_money(self, status: int, code: str, words: str) -> None:
        """Raises:
        StoppedError: the account has no money left, so that every further item would fail.
        """
        if is_out_of_money(402 if code == "402" else status, code, words):
            raise StoppedError(
                f"the account of the judge at {self._endpoint.host} has no quota left; raise it and run again: {words}"
            )


def question(item: Item) -> str:
    """The user message of the request for one item."""
    parts = [f"Prompt:\n{item.prompt}"]
    if item.reference:
        parts.append(f"Reference answer:\n{item.reference}")
    return "\n\n".join([*parts, f"Response to rate:\n{item.response}"])


def _code(error: openai.APIStatusError) -> str:
    return str(error.code or error.type or "")


def _read(answer: Any) -> Measurement:
    """The rating in the body of an answer."""
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        return Measurement(error_type="unparsable", error="the judge's answer has no choices")
    if message.get("refusal") or ending_of(choice.get("finish_reason")) == "refused":
        return Measurement(error_type="refused", error="the judge refused to rate the response")
    text = message.get("content")
    rating = _RATING.fullmatch(text.strip()) if isinstance(text, str) else None
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
