"""Pacing: how many requests run at an endpoint at the same time, and how many start in a minute.

Each answer raises the concurrency by one, which doubles it in the time of one request. From three quarters of the last
concurrency that was too much, it grows by one in the time of one request. It halves when the endpoint refuses (429) too
large a share of the requests. It does not halve at every refusal: some endpoints refuse a share at any load, and would
bring the concurrency down to one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_FIRST = 8
# The running mean of refusals covers about this many requests, or as many as run at the same time if that is more.
# Above this share of refusals, the concurrency halves.
_MEMORY, _TOO_OFTEN = 12, 0.35
_KEPT_AFTER_CUT = 0.75
# After this many refusals in a row, the endpoint refuses all requests for now, and none starts.
_CLOSED = 8
# Many endpoints enforce limits over parts of a minute: at most the amount of this many seconds starts at once.
_BURST_SECONDS = 1.0


class Rate:
    """An amount for each minute. An amount taken in advance is paid back by waiting."""

    def __init__(self, per_minute: int) -> None:
        self._seconds_each = 60.0 / per_minute
        self._free_at = 0.0

    def take(self, amount: float, now: float) -> float:
        """Take `amount`; returns the seconds to wait before using it."""
        start = max(self._free_at, now - _BURST_SECONDS)
        self._free_at = start + amount * self._seconds_each
        return max(0.0, start - now)

    def correct(self, amount: float) -> None:
        """Count `amount` more than was taken; less if it is negative."""
        self._free_at += amount * self._seconds_each


class Pacer:
    """Lets requests to one endpoint start. All its methods run in one event loop.

    Attributes:
        limit: the concurrency now; its whole part counts.
    """

    def __init__(self, most: int, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        self.limit = float(min(most, _FIRST))
        self._most = most
        self._requests = None if requests_per_minute is None else Rate(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else Rate(tokens_per_minute)
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._refusals, self._in_a_row = 0.0, 0
        self._seconds = 0.0
        self._steady_from = float(most)
        self._cuts = 0
        self._closed_until = 0.0

    @asynccontextmanager
    async def turn(self, tokens: int, again: bool = False) -> AsyncIterator[Turn]:
        """A context for one request: entered when the request may start, left when it has its answer.

        Args:
            tokens: the most tokens that the request may take of those of a minute.
            again: the request is a retry, and starts before new requests, so that no row is left for the end.
        """
        await self._slot(again)
        turn = Turn(self, self._cuts, tokens)
        try:
            await self._clearance(tokens)
            turn.started = time.monotonic()
            yield turn
        finally:
            if turn.hold > 0:
                asyncio.get_running_loop().call_later(turn.hold, self._release)
            else:
                self._release()

    def answered(self, turn: Turn, tokens: int) -> None:
        seconds = time.monotonic() - turn.started
        self._seconds += (seconds - self._seconds) / _MEMORY if self._seconds else seconds
        if self._tokens is not None:
            self._tokens.correct(tokens - turn.tokens)
        self._refusals, self._in_a_row = self._refusals - self._refusals / self._memory, 0
        step = 1.0 if self.limit < self._steady_from else 1.0 / self.limit
        self.limit = min(float(self._most), self.limit + step)

    def refused(self, turn: Turn, seconds: float | None) -> None:
        """Record a refusal (429).

        Args:
            seconds: how long the endpoint asks to wait; None: it does not say.
        """
        if self._tokens is not None:
            self._tokens.correct(-turn.tokens)
        # Refusals come faster than answers. The slot is held for the time of an answer, so that it does not collect
        # many refusals meanwhile.
        turn.hold = self._seconds - (time.monotonic() - turn.started)
        self._refusals, self._in_a_row = self._refusals + (1.0 - self._refusals) / self._memory, self._in_a_row + 1
        if self._in_a_row >= max(_CLOSED, 2 * self.limit):
            self._closed_until = max(self._closed_until, time.monotonic() + (seconds or 0.0))
        # A request that started before the last cut says nothing about the concurrency since.
        if turn.cuts < self._cuts or self._refusals < _TOO_OFTEN:
            return
        self._cuts += 1
        self._steady_from = max(1.0, _KEPT_AFTER_CUT * self.limit)
        self.limit = max(1.0, self.limit / 2)
        self._refusals /= 2

    def failed(self, turn: Turn) -> None:
        """Record a request without an answer, which says nothing about the load."""
        if self._tokens is not None:
            self._tokens.correct(-turn.tokens)

    @property
    def _memory(self) -> float:
        # At least as many as run at the same time: of requests that start together, refusals come before answers.
        return max(_MEMORY, self.limit)

    async def _slot(self, again: bool) -> None:
        if self._in_flight < int(self.limit) and not self._waiting:
            self._in_flight += 1
            return
        mine = asyncio.get_running_loop().create_future()
        if again:
            self._waiting.appendleft(mine)
        else:
            self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        self._in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._in_flight < int(self.limit):
            waiting = self._waiting.popleft()
            if not waiting.done():
                # The slot is taken for the waiting request here, so that no other takes it first.
                self._in_flight += 1
                waiting.set_result(None)

    async def _clearance(self, tokens: int) -> None:
        now = time.monotonic()
        waits = [rate.take(amount, now) for rate, amount in ((self._requests, 1), (self._tokens, tokens)) if rate]
        if waits and max(waits) > 0:
            await asyncio.sleep(max(waits))
        while (left := self._closed_until - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Turn:
    """The state of one request.

    Attributes:
        cuts: the cuts of the concurrency before it started.
        hold: seconds for which its slot stays taken after it ended.
    """

    __slots__ = ("cuts", "hold", "pacer", "started", "tokens")

    def __init__(self, pacer: Pacer, cuts: int, tokens: int) -> None:
        self.pacer, self.cuts, self.tokens = pacer, cuts, tokens
        self.started = time.monotonic()
        self.hold = 0.0
