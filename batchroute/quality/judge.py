"""The judge: a language model behind an OpenAI-compatible endpoint rates each response."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from batchroute.errors import InputError
from batchroute.quality.base import Item, Measurement, MetricSpec
from batchroute.redaction import Redactor, host, passwords

_INSTRUCTION = (
    "You rate how well a response answers a prompt. 1 is useless or wrong, 10 is correct, complete and clear. Length "
    "and style do not matter in themselves. Answer with one line, 'Rating: ' and a whole number from 1 to 10, and with "
    "nothing else."
)
_RATING = re.compile(r"(?:rating:\s*)?(10|[1-9])(?:\s*/\s*10)?\.?", re.IGNORECASE)
_TIMEOUT_SECONDS = 120.0
_RETRIES = 5
_MOST_TOKENS = 16


class Judge:
    """Ratings from 1 to 10, by one fixed prompt at temperature 0; with the reference in it where there is one.

    An answer that is not exactly a rating gives none (`unparsable`), and so does a refusal (`refused`) and a request
    that fails after retries (`api_error`). Requests are made `batch_size` at a time.
    """

    needs_reference = False
    load_seconds = 0.0

    def __init__(self, spec: MetricSpec) -> None:
        """Raises:
        InputError: no `openai` package, or no key for an endpoint that is not local.
        """
        try:
            import openai
        except ImportError as error:
            raise InputError("the metric judge needs a package: pip install 'batchroute[openai]'") from error
        key = os.environ.get(spec.api_key_env)
        if not key and spec.endpoint is None:
            raise InputError(f"the metric judge needs a key: set the environment variable {spec.api_key_env}")
        self._spec = spec
        self._openai = openai
        self._host = "its usual endpoint" if spec.endpoint is None else host(spec.endpoint)
        self._redactor = Redactor((key, *passwords(spec.endpoint or "")))
        # A server of one's own asks for no key, but the client does.
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=spec.endpoint, timeout=_TIMEOUT_SECONDS, max_retries=_RETRIES
        )

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        """Raises:
        InputError: what would fail for every item: the endpoint, the key or the model.
        """
        with ThreadPoolExecutor(max_workers=self._spec.batch_size) as pool:
            return list(pool.map(self._rate, items))

    def close(self) -> None:
        self._client.close()

    def _rate(self, item: Item) -> Measurement:
        openai, spec = self._openai, self._spec
        assert spec.model is not None
        try:
            answer = self._client.chat.completions.create(
                model=spec.model,
                messages=[{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": question(item)}],
                temperature=0,
                max_tokens=_MOST_TOKENS,
            )
        except openai.APITimeoutError as error:
            return Measurement(error_type="api_error", error=self._redactor.line(error))
        except openai.APIConnectionError as error:
            raise InputError(f"the judge at {self._host} cannot be reached: is the endpoint right, and up?") from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(f"the judge refuses the key in the environment variable {spec.api_key_env}") from error
        except openai.NotFoundError as error:
            raise InputError(f"the judge's endpoint has no model '{spec.model}'") from error
        except openai.APIStatusError as error:
            return Measurement(error_type="api_error", error=f"HTTP {error.status_code}: {self._redactor.line(error)}")
        return _read(answer)


def question(item: Item) -> str:
    """What the judge is asked about one item."""
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
    found = _RATING.fullmatch((message.content or "").strip())
    if found is None:
        return Measurement(error_type="unparsable", error="the judge's answer is not a rating from 1 to 10")
    return Measurement(float(found[1]))
