"""The generator of the `openai` backend: a request for each row to its endpoint, many at a time."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from batchroute.endpoint import read_json
from batchroute.errors import BatchrouteError, InputError, StoppedError
from batchroute.generators.base import PartlyAnsweredError, Response
from batchroute.generators.beginnings import LEAST_CACHED, beginning, cached_beginnings, groups
from batchroute.generators.openai.breaker import Breaker
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import MOST_RETRY_AFTER, Failure
from batchroute.generators.openai.pacing import Pacer, Turn
from batchroute.generators.openai.preflight import HARMLESS, is_about_the_limit, preflight, smallest
from batchroute.generators.openai.warming import Warming
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt

Result = TypeVar("Result")

_WAITS = 0.5, 60.0
# The client gives the answer as it came: what it has read of other content types than JSON would be text.
_RAW: Any = {"headers": {"X-Stainless-Raw-Response": "true"}}


class OpenAIGenerator:
    """Sends requests with a concurrency that adapts, and retries errors that may pass.

    Rows that begin alike are asked one after another, and of those that share as much as a provider caches the first is
    asked alone. Several units run at the same time, so that the last answers of one do not delay the others. Their
    requests start in the order of the units, so a crash loses little more than one unit.
    """

    load_seconds = 0.0

    def __init__(self, spec: ModelSpec, waits: tuple[float, float] = _WAITS, protocol: ChatApi | None = None) -> None:
        """
        Args:
            waits: the seconds before the first retry of a request, and the most before a later one.
            protocol: what the endpoint speaks; OpenAI's chat completions unless given.

        Raises:
            InputError: the package, the key or the tokenizer is missing.
        """
        self._spec, self._waits = spec, waits
        self._takes_n = True
        self._protocol = protocol or ChatApi(spec)
        self._endpoint = self._protocol.endpoint
        self._protocol.check()
        self.notes = self._protocol.notes
        self.rows_at_a_time, self.units_at_once = max(256, 8 * spec.concurrency), 2 + spec.concurrency // 32
        self._pacer = Pacer(spec.concurrency, spec.requests_per_minute, spec.tokens_per_minute)
        self._breaker, self._probing = Breaker(self._endpoint.host), asyncio.Lock()
        self._client = self._endpoint.async_client()
        self._warming = Warming()
        self._lock, self._closed = threading.Lock(), False
        self._calls: set[asyncio.Task[Any]] = set()
        # Of all calls: the rows that are not answered, and those of them that are under way.
        self._rows: set[asyncio.Task[Any]] = set()
        self._sent: set[asyncio.Task[Any]] = set()
        self._fatal: BatchrouteError | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai", daemon=True)
        self._thread.start()

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        requests = [self._protocol.request(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        texts = [beginning(self._protocol.said(request)) for request in requests]
        order, beginnings = [row for group in groups(texts, LEAST_CACHED) for row in group], cached_beginnings(texts)
        answered, error = self._run(self._all(self._in_turn(requests[row], beginnings[row]) for row in order))
        at = dict(zip(order, answered, strict=True))
        found = [at[row] for row in range(len(requests))]
        if isinstance(error, StoppedError):
            raise PartlyAnsweredError(str(error), [None if one is None else one[0] for one in found]) from error
        if error is not None:
            raise error
        return [one[0] for one in found if one is not None]

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]) -> list[list[Response]]:
        """With one request for each prompt while the endpoint takes `n`, which reads the prompt once; its samples then
        follow the first seed.
        """
        found, error = self._run(self._all(self._samples(*row) for row in zip(prompts, seeds, strict=True)))
        if error is not None:
            raise error
        return [one for one in found if one is not None]

    def preflight(self, longest: Prompt, shortest: Prompt) -> str | None:
        """As `preflight.preflight`."""

        def ask(prompt: Prompt, smallest_output: bool) -> Response | Failure:
            request = self._protocol.request(prompt, 0)
            result = self._run(self._ask_once(smallest(request) if smallest_output else request))
            if isinstance(result, Failure) and self._protocol.adapted(result, request) is not None:
                return ask(prompt, smallest_output)
            return result

        return preflight(self._spec, self._endpoint, ask, longest, shortest)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        # A call that starts while the event loop ends would wait forever.
        with self._lock:
            if self._closed:
                work.close()
                raise StoppedError("the generator is closed")
            answers = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return answers.result()
        except BaseException:
            answers.cancel()
            raise

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        # Other tasks of the loop are the client's, which end with the calls.
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()

    async def _samples(self, prompt: Prompt, seeds: Sequence[int]) -> list[Response]:
        found: list[Response] = []
        if self._takes_n and len(seeds) > 1:
            found = await self._answer(self._protocol.request_of_samples(prompt, seeds[0], len(seeds)), refusable=True)
            if len(found) >= len(seeds) or (found and not found[0].answered):
                return found[: len(seeds)]
            if self._takes_n:
                self.notes.append(
                    f"the model '{self._spec.model}' is asked for each extra sample by itself: its endpoint takes no n"
                )
            self._takes_n = False
        requests = [self._protocol.request_of_samples(prompt, seed, 1) for seed in seeds[len(found) :]]
        return found + [response for request in requests for response in await self._answer(request)]

    async def _all(self, work: Iterable[Coroutine[Any, Any, Result]]) -> tuple[list[Result | None], Exception | None]:
        """The results, and the error that ended the run. Requests that are under way then, and will be billed, are
        waited for.
        """
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        rows = [asyncio.create_task(one) for one in work]
        self._rows.update(rows)
        try:
            ended = await asyncio.gather(*rows, return_exceptions=True)
        finally:
            for row in rows:
                row.cancel()
            self._rows.difference_update(rows)
            self._calls.discard(call)
        errors = [one for one in ended if isinstance(one, BaseException)]
        # A defect is no reason to go on.
        defects = [one for one in errors if isinstance(one, Exception) and not isinstance(one, BatchrouteError)]
        error = next(iter(defects), None) or (self._fatal if errors else None)
        return [None if isinstance(one, BaseException) else one for one in ended], error

    def _end_run(self, error: BatchrouteError) -> BatchrouteError:
        """End all rows that are not under way; returns the first error that did."""
        if self._fatal is None:
            self._fatal = error
            for row in self._rows - self._sent - {asyncio.current_task()}:
                row.cancel()
        return self._fatal

    async def _in_turn(self, request: dict[str, Any], beginnings: Sequence[bytes]) -> list[Response]:
        async with self._warming.turn(beginnings) as tried:
            return await self._answer(request, tried=tried)

    async def _answer(
        self, request: dict[str, Any], refusable: bool = False, tried: Callable[[], object] = lambda: None
    ) -> list[Response]:
        """The responses to one request: one, or as many as `n` asks for.

        Args:
            refusable: an endpoint that refuses the request, perhaps for its `n`, gives none.
            tried: called when the first attempt has ended.
        """
        tokens = self._protocol.tokens(request)
        attempts = failed = 0
        answers = self._breaker.answers
        while True:
            attempts, sent_with = attempts + 1, self._endpoint.key.value
            async with self._pacer.turn(tokens, again=attempts > 1) as turn:
                # Rows that are likely to fail alike wait for the verdict.
                waits = self._probing.locked()
                result = None if waits else await self._send(turn, request, attempts)
            if result is None:
                attempts -= 1
                async with self._probing:
                    continue
            tried()
            if not isinstance(result, Failure):
                self._breaker.answered()
                return result
            if refusable and result.kind == "row" and result.error_type == "bad_request":
                return []
            # A 429 does not count as a failed attempt if other requests succeeded since this row was last sent.
            failed += result.kind != "refused" or self._breaker.answers == answers
            answers = self._breaker.answers
            if (adapted := self._protocol.adapted(result, request)) is not None:
                request = adapted
                continue
            if result.kind == "key" and self._endpoint.key.changes and await self._renewed(sent_with):
                continue
            if not result.may_pass or failed > self._spec.retries or (result.wait or 0) > MOST_RETRY_AFTER:
                return [await self._give_up(result, request, attempts)]
            await asyncio.sleep(_backoff(attempts, *self._waits) if result.wait is None else result.wait)

    async def _renewed(self, refused: str) -> bool:
        """Whether there is another key now than the one that was refused."""
        try:
            return await asyncio.to_thread(self._endpoint.key.renewed, refused)
        except InputError as error:
            raise self._end_run(error) from error

    async def _send(self, turn: Turn, request: dict[str, Any], attempts: int) -> list[Response] | Failure:
        """As `_ask`, and not cancelled by the error of another row."""
        row = asyncio.current_task()
        assert row is not None
        if self._fatal is not None:
            raise self._fatal
        self._sent.add(row)
        try:
            return await self._ask(turn, request, attempts)
        finally:
            self._sent.discard(row)

    async def _ask_once(self, request: dict[str, Any]) -> Response | Failure:
        async with self._pacer.turn(self._protocol.tokens(request)) as turn:
            result = await self._ask(turn, request, 1)
        return result if isinstance(result, Failure) else result[0]

    async def _ask(self, turn: Turn, request: dict[str, Any], attempts: int) -> list[Response] | Failure:
        """The result of one request."""
        result: list[Response] | Failure
        try:
            async with asyncio.timeout(self._spec.timeout):
                answer: Any = await self._client.post(self._protocol.path, cast_to=object, body=request, options=_RAW)
            result = self._protocol.responses(read_json(answer.content), request, attempts)
        except ValueError:
            result = Failure("transient", "api_error", "the answer is not JSON")
        except (self._endpoint.errors, OSError) as error:
            result = self._endpoint.failure(error)
        if not isinstance(result, Failure):
            turn.pacer.answered(turn, sum(one.input_tokens + one.output_tokens for one in result))
        elif result.kind == "refused":
            wait = result.wait
            turn.pacer.refused(turn, None if wait is None or wait > MOST_RETRY_AFTER else wait)
        else:
            turn.pacer.failed(turn)
        return result

    async def _give_up(self, failure: Failure, request: Mapping[str, Any], attempts: int) -> Response:
        """The row's response, or the error that ends the run. The row keeps all words of the server.

        Raises:
            InputError, StoppedError: further requests would fail alike.
        """
        shown = failure.without(self._protocol.said(request))
        fatal = self._endpoint.fatal(shown, self._breaker.answers > 0)
        if fatal is None:
            async with self._probing:
                fatal = self._breaker.failed(failure, shown.words)
                if fatal is not None and failure.error_type == "bad_request" and await self._another_passes():
                    self._breaker.others_pass()
                    fatal = None
        if fatal is not None:
            raise self._end_run(fatal)
        return failure.response(attempts)

    async def _another_passes(self) -> bool:
        """Whether a small and harmless prompt is answered, so that the rows that fail are at fault."""
        request = self._protocol.request(HARMLESS, 0)
        for body in (smallest(request), request):
            result = await self._ask_once(body)
            if not is_about_the_limit(result):
                break
        return isinstance(result, Response) or result.error_type == "refused"


def _backoff(attempts: int, first: float, most: float) -> float:
    """Seconds to wait: twice as long each time up to a limit, with jitter that spreads rows that failed together."""
    # 2.0**1024 overflows; the wait reaches its limit long before.
    return min(most, first * 2.0 ** min(attempts - 1, 32)) * random.uniform(0.5, 1.0)
