"""Parameters that an endpoint refuses: its own error tells, once, and later requests go without them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from batchroute.generators.openai.failures import Failure
from batchroute.generators.settings import ModelSpec

_REFUSAL = re.compile(
    r"unsupported|not supported|(does not|doesn't|cannot|can't) (support|accept|allow)|not permitted|not allowed"
    r"|deprecated for this model"
    r"|un(known|recogni[sz]ed|expected) (name|field|parameter|argument|property|keyword|key)|extra (inputs|fields)"
    r"|only the default|cannot find field",
    re.IGNORECASE,
)
_LOGPROBS = re.compile("log[ _-]?prob", re.IGNORECASE)
_LENGTHS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_OPTIONAL = ("temperature", "top_p", "top_k", "stop", "seed", "reasoning_effort")
_SHOWN = {"logprobs": "log-probabilities"}
# What leaving a parameter out does.
_AFTER = {
    "temperature": ": its own temperature is used, so that answers vary",
    "seed": ": answers cannot be repeated",
    "stop": ": its answers are cut at stop strings here",
}
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


class Refusals:
    """What the endpoint of one model does not take.

    Attributes:
        notes: one sentence for the operator about each parameter.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        # Of each refused parameter: the name and, if it is another, the value that is sent instead; None: nothing is.
        self._instead: dict[str, tuple[str, str | None] | None] = {}
        self.notes: list[str] = []

    def applied(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request without refused parameters, or with what the endpoint takes instead of them."""
        body: dict[str, Any] = {}
        for name, value in request.items():
            if name not in self._instead:
                body[name] = value
            elif (instead := self._instead[name]) is not None:
                body[instead[0]] = value if instead[1] is None else instead[1]
        return body

    def adapted(self, failure: Failure, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The request as the endpoint may take it, if the failure names a parameter that it refuses; else None.

        Args:
            failure: without the prompt's words.
        """
        for name in request:
            if name not in self._instead and self._is_named(name, failure):
                self._learn(name, request, failure.words)
        body = self.applied(request)
        return body if body != dict(request) else None

    def tells(self, failure: Failure, request: Mapping[str, Any]) -> bool:
        """Whether the failure names a parameter of the request that later requests go without."""
        self.adapted(failure, request)
        return any(name in self._instead and self._is_named(name, failure) for name in request)

    def _is_named(self, name: str, failure: Failure) -> bool:
        words = failure.words
        if failure.kind not in ("row", "forbidden") or failure.error_type != "bad_request":
            return False
        if name == "logprobs":
            return _LOGPROBS.search(words) is not None
        if name not in _OPTIONAL and (name not in _LENGTHS or self._spec.length_key is not None):
            return False
        return _REFUSAL.search(words) is not None and _names(name, words)

    def _learn(self, name: str, request: Mapping[str, Any], words: str) -> None:
        what, after = f"goes on without {_SHOWN.get(name, name)}, which its endpoint refuses", _AFTER.get(name, "")
        instead: tuple[str, str | None] | None = None
        if name in _LENGTHS:
            if _LENGTHS[name] in self._instead:
                # It takes neither name: the error stands.
                return
            instead = _LENGTHS[name], None
            what = f"is told {_LENGTHS[name]} instead of {name}, which its endpoint refuses"
        elif name == "reasoning_effort" and (effort := _nearest(str(request[name]), words)) is not None:
            instead = name, effort
            what = f"is asked for the {name} {effort}: its endpoint refuses {request[name]}"
        self._instead[name] = instead
        self.notes.append(f"the model '{self._spec.model}' {what}{after}")


def _names(name: str, words: str) -> bool:
    return re.search(rf"(?<!\w){name}(?!\w)", words) is not None


def _nearest(effort: str, words: str) -> str | None:
    """The effort nearest to the one asked for, of those that the error says are taken; None if it lists none."""
    listed = [one for one in _EFFORTS if one != effort and re.search(rf"['\"`]{one}['\"`]", words)]
    if not listed or effort not in _EFFORTS:
        return None
    return min(listed, key=lambda one: abs(_EFFORTS.index(one) - _EFFORTS.index(effort)))
