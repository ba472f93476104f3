"""The first of the rows that share a beginning, and those that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from batchroute.generators.openai import warming
from batchroute.generators.openai.warming import Warming

SYSTEM, DOCUMENT, OTHER = b"system", b"document", b"other"


class Rows:
    """Rows that are asked together. Each is answered when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.warming = Warming(lambda: self.now)
        self.asked: list[str] = []
        self._answers: dict[str, asyncio.Event] = {}
        self._tries: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, **rows: Sequence[bytes]) -> None:
        for name, beginnings in rows.items():
            self._answers[name], self._tries[name] = asyncio.Event(), asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._row(name, beginnings))
        await settle()

    async def _row(self, name: str, beginnings: Sequence[bytes]) -> None:
        async with self.warming.turn(beginnings) as tried:
            self.asked.append(name)
            await self._tries[name].wait()
            tried()
            await self._answers[name].wait()

    async def answer(self, *names: str) -> None:
        for name in names:
            self._answers[name].set()
        await self.try_once(*names)

    async def try_once(self, *names: str) -> None:
        for name in names:
            self._tries[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_others_wait_for_the_first_and_rows_that_share_nothing_do_not() -> None:
    async def scenario() -> None:
        rows = Rows()
        await rows.ask(a=[SYSTEM], b=[SYSTEM], c=[], d=[OTHER], e=[SYSTEM])
        assert rows.asked == ["a", "c", "d"]
        await rows.answer("c", "d")
        assert rows.asked == ["a", "c", "d"]
        await rows.answer("a")
        assert rows.asked == ["a", "c", "d", "b", "e"]

    asyncio.run(scenario())


def test_within_a_shared_beginning_each_longer_one_has_a_first_row() -> None:
    async def scenario() -> None:
        rows = Rows()
        await rows.ask(a=[SYSTEM, DOCUMENT], b=[SYSTEM, DOCUMENT], c=[SYSTEM, OTHER], d=[SYSTEM, OTHER], e=[SYSTEM])
        assert rows.asked == ["a"]
        await rows.answer("a")
        assert rows.asked == ["a", "b", "c", "e"]
        await rows.answer("c")
        assert rows.asked[-1] == "d"

    asyncio.run(scenario())


@pytest.mark.parametrize("ends", ["answered", "cancelled"])
def test_a_first_row_that_ends_without_an_answer_holds_nobody(ends: str) -> None:
    async def scenario() -> None:
        rows = Rows()
        await rows.ask(a=[SYSTEM], b=[SYSTEM], c=[SYSTEM])
        await (rows.cancel("b") if ends == "answered" else rows.cancel("a"))
        await rows.answer("a")
        assert rows.asked == (["a", "c"] if ends == "answered" else ["a", "b", "c"])

    asyncio.run(scenario())


def test_nobody_waits_for_the_retries_of_the_first_row() -> None:
    async def scenario() -> None:
        rows = Rows()
        await rows.ask(a=[SYSTEM], b=[SYSTEM])
        await rows.try_once("a")
        assert rows.asked == ["a", "b"]

    asyncio.run(scenario())


def test_a_beginning_stays_known_while_it_is_used_and_is_warmed_again_afterwards() -> None:
    async def scenario() -> None:
        rows = Rows()
        await rows.ask(a=[SYSTEM])
        await rows.answer("a")
        for number in range(3):
            rows.now += warming._KEPT_SECONDS - 1
            await rows.ask(**{f"b{number}": [SYSTEM], f"c{number}": [SYSTEM]})
            assert rows.asked[-2:] == [f"b{number}", f"c{number}"]
            await rows.answer(f"b{number}", f"c{number}")
        rows.now += warming._KEPT_SECONDS
        await rows.ask(d=[SYSTEM], e=[SYSTEM])
        assert rows.asked[-1] == "d"
        await rows.answer("d")
        assert rows.asked[-1] == "e"

    asyncio.run(scenario())


def test_what_is_cold_is_forgotten_when_there_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(warming, "_MANY", 3)
        rows = Rows()
        await rows.ask(**{f"a{number}": [b"%d" % number] for number in range(5)})
        await rows.answer(*(f"a{number}" for number in range(5)))
        rows.now += warming._KEPT_SECONDS
        await rows.ask(b=[SYSTEM])
        assert [*rows.warming._known] == [SYSTEM]

    asyncio.run(scenario())
