"""OpenAI's chat-completions protocol, which vLLM, SGLang, llama.cpp and `transformers serve` speak too: the request
for a prompt, and what an answer means for its row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from batchroute.endings import ending_of
from batchroute.endpoint import valid_text
from batchroute.generators import thoughts
from batchroute.generators.base import Response
from batchroute.generators.openai.counting import TokenCounter
from batchroute.generators.openai.failures import Failure, ModelEndpoint
from batchroute.generators.openai.logprobs import signals_of
from batchroute.generators.openai.refusals import Refusals
from batchroute.generators.openai.usage import counts_of
from batchroute.generators.prompting import chat
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.prompt import Message, Prompt

_SEEDS = 1 << 31
_LONGEST_WORD = 100
# Where servers put what a reasoning model thinks.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_NO_ANSWER = {"failed for now", "failed", "unknown"}


class ChatApi:
    """Makes requests from prompts and responses from answers, for one model.

    Attributes:
        path: of the endpoint, where requests go.
        endpoint: that they go to.
        notes: one sentence each for the operator.
    """

    path = "/chat/completions"
    _seed = "seed"

    def __init__(self, spec: ModelSpec, endpoint: ModelEndpoint | None = None) -> None:
        self._spec, self.endpoint = spec, endpoint or ModelEndpoint(spec)
        self._refusals = Refusals(spec)
        self.notes = self._refusals.notes
        self._dropped = thoughts.Dropped(spec.model, spec.reasoning)
        self._fixed, self._fixed_of_samples = map(self._fixed_fields, (spec.generation, spec.sampled))
        self._counter = TokenCounter(spec.tokenizer)

    def check(self) -> None:
        """Raises:
        InputError: the named tokenizer is not there.
        """
        self._counter.check()

    def _short(self, seed: int) -> int:
        # Some servers do not accept integers beyond 32 bits.
        return seed % _SEEDS

    def said(self, request: Mapping[str, Any]) -> list[Message]:
        """The messages of a request."""
        return list(request["messages"])

    def request(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        """The body of the request."""
        return self._refusals.applied(self._whole(prompt, seed))

    def _whole(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        """The body as the job file wants it."""
        body = {**self._fixed, "messages": chat(self._spec, prompt)}
        if self._spec.logprobs:
            body["logprobs"] = True
        if not self._spec.generation.greedy:
            body[self._seed] = self._short(seed)
        return self._with_extras(body)

    def request_of_samples(self, prompt: Prompt, seed: int, number: int) -> dict[str, Any]:
        """The body of a request for extra samples of a row.

        Args:
            number: how many; more than one are asked for with `n`.
        """
        body = {**self._fixed_of_samples, "messages": chat(self._spec, prompt), "seed": seed % _SEEDS}
        if number > 1:
            body["n"] = number
        return self._refusals.applied(self._with_extras(body))

    def _fixed_fields(self, sampling: Sampling) -> dict[str, Any]:
        """The fields that are the same in all requests."""
        spec = self._spec
        length = spec.length_key or ("max_completion_tokens" if spec.url is None else "max_tokens")
        body: dict[str, Any] = {
            "model": spec.model,
            length: sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.greedy and "seed" in sampling.model_fields_set:
            body[self._seed] = self._short(sampling.seed)
        if sampling.top_p < 1.0:
            body["top_p"] = sampling.top_p
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop"] = sampling.stop
        if spec.response_format is not None:
            body["response_format"] = spec.response_format
        return body

    def _with_extras(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request with the job file's own fields, of which null leaves one out."""
        extra = self._spec.extra_body
        return {name: value for name, value in {**body, **extra}.items() if value is not None or name not in extra}

    def adapted(self, failure: Failure, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The request as the endpoint takes it, where the failure names a parameter that it refuses; else None.

        Later requests are made so from the start, and `notes` tells it.
        """
        return self._refusals.adapted(failure.without(self.said(request)), request)

    def was_refused(self, failure: Failure, prompt: Prompt) -> bool:
        """Whether a request of an earlier hour failed for a parameter that later ones go without.

        Args:
            failure: without the prompt's words.
        """
        return self._refusals.tells(failure, self._whole(prompt, 0))

    def tokens(self, request: Mapping[str, Any]) -> int:
        """An estimate of the most tokens that the request takes, for limits of tokens per minute."""
        written = self._spec.generation.max_new_tokens * int(request.get("n", 1))
        return self._counter.roughly(self.said(request)) + written

    def responses(self, answer: Any, request: Mapping[str, Any], attempts: int) -> list[Response] | Failure:
        """The responses of all choices in the body of an answer, of which the first has the tokens of all; a failure if
        the body is no chat completion.
        """
        answer = self._completion(answer)
        first = self.response(answer, request, attempts)
        if isinstance(first, Failure):
            return first
        body = answer[0] if isinstance(answer, list) else answer
        others = [self.response({**body, "choices": [one]}, request, attempts) for one in body["choices"][1:]]
        return [first, *(_counted(one) for one in others if isinstance(one, Response))]

    def response(self, answer: Any, request: Mapping[str, Any], attempts: int) -> Response | Failure:
        """The response in the body of an answer; a failure if the body is no chat completion."""
        answer = self._completion(answer)
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if not isinstance(answer, Mapping):
            return Failure("transient", "api_error", "the answer is no JSON object")
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, Mapping):
            return self._without_choices(answer)
        message, reason = choice.get("message"), choice.get("finish_reason")
        ending = ending_of(reason)
        if choice.get("error") and (ending in _NO_ANSWER or not isinstance(message, Mapping)):
            return self.endpoint.error_inside(choice["error"])
        if not isinstance(message, Mapping):
            return Failure("transient", "api_error", "the answer has no message")
        parts, calls = thoughts.parted(valid_text(_text(message.get("content"))), closing_tells=True), _calls(message)
        text, thought = parts.answer, parts.thoughts or _thoughts(message)
        if ending == "failed for now":
            return Failure("transient", "api_error", f"the endpoint broke off the answer: {_word(reason)}")
        if reason in (None, "") and not text and calls is None and not message.get("refusal"):
            return Failure("transient", "api_error", "the answer is empty and does not say why it ended")
        given = {
            "attempts": attempts,
            "reasoning": thought,
            **self._usage(answer.get("usage"), request, "".join(filter(None, (thought, text, calls)))),
        }
        if message.get("refusal") or ending == "refused":
            why = "the model refused to answer" if message.get("refusal") else "a filter held the answer back"
            return Response(error_type="refused", error=why, **given)
        if ending in _NO_ANSWER:
            why = f"the answer ended for a reason that is no success: {_word(reason)}"
            return Response(text or None, error_type="unfinished", error=why, **given)
        if ending == "tool call" or (calls is not None and not text.strip()):
            return self._tool_call(text, calls, given)
        cuts = [at for stop in self._spec.generation.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        if self._spec.logprobs:
            is_part = bool(cuts) or thought is not None
            given["logprob"], given["logprob_low"] = signals_of(choice.get("logprobs"), text, cut=is_part)
        # A server that ignores stop strings goes on to the limit: what is cut at a stop string did not reach it.
        finish: Literal["stop", "length"] = "length" if ending == "cut" and not cuts else "stop"
        response = Response(text, finish, tool_calls=self._wanted(calls), **given)
        self.notes += self._dropped.note([response])
        return thoughts.checked(response)

    def _completion(self, answer: Any) -> Any:
        """An answer in the form of a chat completion; one in this form stays as it is."""
        return answer

    def _without_choices(self, answer: Mapping[str, Any]) -> Failure:
        """The failure that an answer without choices stands for; many gateways put their errors there."""
        if any(answer.get(name) for name in ("error", "message", "detail", "base_resp", "error_msg", "msg")):
            return self.endpoint.error_inside(answer.get("error") or answer)
        return Failure("transient", "api_error", "the answer has no choices")

    def _tool_call(self, text: str, calls: str | None, given: dict[str, Any]) -> Response:
        """An answer that calls tools: what the job wants if it gives some, and no answer if it gives none."""
        if self._wanted(calls) is not None:
            return Response(text, "tool_calls", tool_calls=calls, **given)
        why = (
            "the model called a tool, and extra_body gives none" if calls is not None else "the model's call is missing"
        )
        return Response(text or None, error_type="tool_call", error=why, **given)

    def _wanted(self, calls: str | None) -> str | None:
        return calls if self._spec.gives_tools else None

    def _usage(self, usage: Any, request: Mapping[str, Any], wrote: str) -> dict[str, Any]:
        """The tokens by the server; where its counts make no sense, by our own counting, which `estimated` tells.

        Args:
            wrote: all that the model wrote and showed.
        """
        counts = counts_of(usage)
        read = counts.read or self._counter.messages(self.said(request))
        written = counts.written
        if written is None or (written == 0 and wrote):
            written = self._counter.text(wrote)
        return {
            "input_tokens": read,
            "output_tokens": written,
            "cached_tokens": counts.cached,
            "reasoning_tokens": counts.reasoning,
            "estimated": (read, written) != (counts.read, counts.written),
        }


def _counted(response: Response) -> Response:
    """The response of a further choice: the server counts its tokens with the first one's."""
    written = response.output_tokens if response.estimated else 0
    return response._replace(input_tokens=0, output_tokens=written, cached_tokens=0, reasoning_tokens=0)


def _text(content: Any) -> str:
    """The text of a message, which some servers send in parts; other parts, such as thoughts, are left out."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _thoughts(message: Mapping[str, Any]) -> str | None:
    """What the model thought, if the server shows it beside the answer."""
    content = message.get("content")
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    found = [*(message.get(name) for name in _THOUGHTS), *(part.get("thinking") for part in parts)]
    texts = [one if isinstance(one, str) else _text(one) for one in found]
    return valid_text(next((text for text in texts if text.strip()), "")).strip() or None


def _calls(message: Mapping[str, Any]) -> str | None:
    """The calls of tools in a message, as JSON; None if there are none."""
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else None)
    if not calls:
        return None
    try:
        return valid_text(json.dumps(calls, ensure_ascii=False))
    except RecursionError:
        return None


def _word(reason: Any) -> str:
    """A server's word for the end of an answer, as a row's error shows it."""
    return valid_text(str(reason))[:_LONGEST_WORD]
