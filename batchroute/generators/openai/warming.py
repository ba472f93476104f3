"""Warming: of rows that share a long beginning, the first is answered alone, so that the provider's cache has it for
the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# Providers keep a beginning for 5 to 10 minutes after its last use.
_KEPT_SECONDS = 240.0
_MANY = 4_096


@dataclass
class _Beginning:
    """Attributes:
    answered: set once the first attempt at the row that was asked first has ended.
    used: when a row with it was asked last.
    """

    used: float
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Warming:
    """All methods run in one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[bytes, _Beginning] = {}

    @asynccontextmanager
    async def turn(self, beginnings: Sequence[bytes]) -> AsyncIterator[Callable[[], None]]:
        """A context to ask a row in. It is entered at once by the first row with a beginning, and by the others once
        that row has left it, or has called what the context gives: nobody waits for its retries.

        Args:
            beginnings: of the row, as `cached_beginnings` gives them; rows without any wait for nobody.
        """
        if len(self._known) > _MANY:
            self._known = {digest: one for digest, one in self._known.items() if self._is_warm(one)}
        known = [one for digest in beginnings if (one := self._known.get(digest)) is not None and self._is_warm(one)]
        first = _Beginning(self._clock())
        for digest in beginnings[len(known) :]:
            self._known[digest] = first
        try:
            if known:
                # The longest one: rows that share more of a document wait for each other, and not for all.
                await known[-1].answered.wait()
            for one in known:
                # Whoever asks a longer one uses the shorter ones in it too: they stay known for as long.
                one.used = self._clock()
            yield first.answered.set
        finally:
            first.used = self._clock()
            first.answered.set()

    def _is_warm(self, beginning: _Beginning) -> bool:
        """Whether its first row is under way, or the provider still has it."""
        return not beginning.answered.is_set() or self._clock() - beginning.used < _KEPT_SECONDS
