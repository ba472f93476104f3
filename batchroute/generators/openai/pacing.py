"""Pacing: how many requests are under way at an endpoint, and how many start in a minute.

Concurrency grows while answers come, by one an answer, so that it doubles in the time of one request, up to three
quarters of where it was last too much, and by one a round from there. It halves when the endpoint refuses (429) too
often: not at every single refusal, since some endpoints refuse a share of their requests at any load, and halving at
each of these would end at one request at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_FIRST = 8
# A running mean over about so many answers, or a round of them where that is more; above this share of refusals the
# concurrency is too much.
_MEMORY, _TOO_OFTEN = 12, 0.35
_KEPT_AFTER_CUT = 0.75
# So many refusals one after another: the endpoint is closed for now, to every row and not to one.
_CLOSED = 8
# Limits are often enforced over parts of a minute: no more than this many seconds' worth starts at once.
_BURST_SECONDS = 1.0


class Rate:
    """An amount a minute. What is used up front is paid back by waiting."""

    def __init__(self, per_minute: int) -> None:
        self._seconds_each = 60.0 / per_minute
        self._free_at = 0.0

    def take(self, amount: float, now: float) -> float:
        """Take `amount`; returns the seconds to wait before it may be used."""
        start = max(self._free_at, now - _BURST_SECONDS)
        self._free_at = start + amount * self._seconds_each
        return max(0.0, start - now)

    def correct(self, amount: float) -> None:
        """So much more than was taken has been used; negative: less."""
        self._free_at += amount * self._seconds_each


class Pacer:
    """Lets requests of one endpoint start. All of it runs in one event loop."""

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
        """The time of one request, from when it may start to its answer.

        Args:
            tokens: what it may take of the tokens a minute.
            again: it was asked before, and goes before those that were not: the unluckiest rows must not come last.
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
        """The endpoint asks to slow down, for so many seconds where it says how long."""
        if self._tokens is not None:
            self._tokens.correct(-turn.tokens)
        # Refusals come quicker than answers: without this, one slot would collect many of them while others work.
        turn.hold = self._seconds - (time.monotonic() - turn.started)
        self._refusals, self._in_a_row = self._refusals + (1.0 - self._refusals) / self._memory, self._in_a_row + 1
        if self._in_a_row >= max(_CLOSED, 2 * self.limit):
            self._closed_until = max(self._closed_until, time.monotonic() + (seconds or 0.0))
        # What started before the last cut tells nothing of the concurrency since.
        if turn.cuts < self._cuts or self._refusals < _TOO_OFTEN:
            return
        self._cuts += 1
        self._steady_from = max(1.0, _KEPT_AFTER_CUT * self.limit)
        self.limit = max(1.0, self.limit / 2)
        self._refusals /= 2

    def failed(self, turn: Turn) -> None:
        """There was no answer at all: nothing is learned of the load."""
        if self._tokens is not None:
            self._tokens.correct(-turn.tokens)

    @property
    def _memory(self) -> float:
        # At least a round of them: what starts together is refused first, and answered later.
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
                # The slot is taken on behalf of who waits, so that nobody slips in between.
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
    """One request's turn."""

    __slots__ = ("cuts", "hold", "pacer", "started", "tokens")

    def __init__(self, pacer: Pacer, cuts: int, tokens: int) -> None:
        self.pacer, self.cuts, self.tokens = pacer, cuts, tokens
        self.started = time.monotonic()
        self.hold = 0.0
