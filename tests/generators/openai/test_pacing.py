"""How many requests are under way and how many start in a minute, by a clock that jumps: no test waits."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from batchroute.generators.openai import pacing
from batchroute.generators.openai.pacing import Pacer, Rate, Turn


class Jumping(selectors.SelectSelector):
    """Waiting takes no time, but it passes."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits for something that nobody does"
        self.now += timeout
        return super().select(0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Awaitable[Any]], Any]:
    def run(what: Awaitable[Any]) -> Any:
        clock = Jumping()
        monkeypatch.setattr(pacing.time, "monotonic", lambda: clock.now)
        loop = asyncio.SelectorEventLoop(clock)
        monkeypatch.setattr(loop, "time", lambda: clock.now)
        try:
            return loop.run_until_complete(asyncio.wait_for(what, 1e6))
        finally:
            loop.close()

    return run


class Server:
    """Answers after some seconds; refuses a share at random, and what is beyond its capacity."""

    def __init__(self, share: float = 0.0, capacity: int = 10_000) -> None:
        self.share, self.capacity, self.chance = share, capacity, random.Random(1)
        self.in_flight, self.most, self.answered, self.refused = 0, 0, 0, 0
        self.starts: list[float] = []

    async def ask(self, pacer: Pacer, seconds: float = 1.0, tokens: int = 0) -> None:
        again = False
        while True:
            async with pacer.turn(tokens, again) as turn:
                self.starts.append(asyncio.get_running_loop().time())
                self.in_flight += 1
                self.most = max(self.most, self.in_flight)
                refused = self.in_flight > self.capacity or self.chance.random() < self.share
                await asyncio.sleep(0.01 if refused else seconds)
                self.in_flight -= 1
                if not refused:
                    self.answered += 1
                    pacer.answered(turn, tokens)
                    return
                self.refused += 1
                pacer.refused(turn, None)
            again = True
            await asyncio.sleep(0.5)

    async def ask_all(self, pacer: Pacer, rows: int, tokens: int = 0) -> float:
        """The seconds that it took."""
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*(self.ask(pacer, tokens=tokens) for _ in range(rows)))
        return asyncio.get_running_loop().time() - begun


@asynccontextmanager
async def turns(pacer: Pacer, number: int) -> AsyncIterator[list[Turn]]:
    """So many at once; all of them have a slot."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(pacer.turn(0)) for _ in range(number)]


async def wait(pacer: Pacer) -> float:
    """The seconds until the next may start."""
    begun = asyncio.get_running_loop().time()
    async with pacer.turn(0):
        return asyncio.get_running_loop().time() - begun


def test_the_first_requests_are_few_and_double_while_all_goes_well(run: Any) -> None:
    server, pacer = Server(), Pacer(64)
    run(server.ask_all(pacer, 200))
    starts = [server.starts.count(1000.0 + second) for second in range(5)]
    assert starts == [8, 16, 32, 64, 64]
    assert server.most == 64


def test_no_more_than_are_allowed_are_under_way(run: Any) -> None:
    server, pacer = Server(), Pacer(3)
    assert run(server.ask_all(pacer, 10)) == pytest.approx(4)
    assert (server.most, pacer.limit) == (3, 3)


async def refuse(pacer: Pacer, number: int, seconds: float | None = None) -> None:
    """So many that are under way at once."""
    async with turns(pacer, number) as found:
        for turn in found:
            pacer.refused(turn, seconds)


def test_one_round_of_refusals_is_one_cut(run: Any) -> None:
    pacer = Pacer(32)
    pacer.limit = 32.0
    run(refuse(pacer, 32))
    assert pacer.limit == 16


def test_rounds_that_are_all_refused_end_at_one_request_at_a_time(run: Any) -> None:
    async def go() -> list[float]:
        limits = []
        for _ in range(12):
            await refuse(pacer, int(pacer.limit))
            limits.append(pacer.limit)
        return limits

    pacer = Pacer(32)
    pacer.limit = 32.0
    limits = run(go())
    assert limits[:3] == [16, 8, 4]
    assert limits[-1] == 1


@pytest.mark.parametrize("most", [32, 64])
def test_a_share_of_refusals_at_any_load_does_not_slow_it_down(run: Any, most: int) -> None:
    server, pacer = Server(share=0.1), Pacer(most)
    seconds = run(server.ask_all(pacer, 3000))
    assert pacer.limit == most
    # A refused request keeps its slot as long as an answer takes.
    assert seconds < 1.2 * (server.answered + server.refused) / most


def test_overload_is_found_and_what_the_endpoint_can_bear_is_used(run: Any) -> None:
    server, pacer = Server(capacity=10), Pacer(64)
    seconds = run(server.ask_all(pacer, 1000))
    assert server.answered == 1000
    assert seconds < 1.6 * 1000 / 10
    assert server.refused < 600
    assert 4 <= pacer.limit < 32


def test_after_a_cut_it_grows_fast_to_three_quarters_and_slowly_from_there(run: Any) -> None:
    async def answer(number: int) -> float:
        async with turns(pacer, 1) as (turn,):
            for _ in range(number):
                pacer.answered(turn, 0)
        return pacer.limit

    async def go() -> list[float]:
        await refuse(pacer, 40)
        return [pacer.limit, await answer(10), await answer(31)]

    pacer = Pacer(100)
    pacer.limit = 40.0
    assert run(go()) == [20, 30, pytest.approx(31, abs=0.05)]


def test_rows_start_in_their_order_and_those_asked_again_before_the_others(run: Any) -> None:
    async def go() -> list[str]:
        pacer, started = Pacer(1), list[str]()

        async def one(name: str, again: bool = False) -> None:
            async with pacer.turn(0, again):
                started.append(name)
                await asyncio.sleep(1)

        await asyncio.gather(one("a"), one("b"), one("c"), one("again", again=True), one("d"))
        return started

    assert run(go()) == ["a", "again", "b", "c", "d"]


def test_who_is_cancelled_gives_the_slot_back(run: Any) -> None:
    async def go() -> Pacer:
        pacer = Pacer(2, requests_per_minute=60)

        async def one() -> None:
            async with pacer.turn(0):
                await asyncio.sleep(1)

        # Some wait for a slot, some for the rate, some for their answer, and some have just been given a slot.
        for moment in (0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 3.0):
            tasks = [asyncio.create_task(one()) for _ in range(6)]
            await asyncio.sleep(moment)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return pacer

    pacer = run(go())
    assert (pacer._in_flight, len(pacer._waiting)) == (0, 0)


def test_a_slot_that_was_just_given_to_who_is_cancelled_goes_to_the_next(run: Any) -> None:
    async def go() -> list[str]:
        pacer, started = Pacer(1), list[str]()

        async def one(name: str) -> None:
            async with pacer.turn(0):
                started.append(name)

        async with pacer.turn(0):
            second, third = asyncio.create_task(one("second")), asyncio.create_task(one("third"))
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, third, return_exceptions=True)
        return started

    assert run(go()) == ["third"]


def test_a_refusal_keeps_its_slot_as_long_as_an_answer_takes(run: Any) -> None:
    async def go() -> float:
        pacer = Pacer(1)
        async with pacer.turn(0) as turn:
            await asyncio.sleep(4)
            pacer.answered(turn, 0)
        async with pacer.turn(0) as turn:
            await asyncio.sleep(1)
            pacer.refused(turn, None)
        return await wait(pacer)

    assert run(go()) == pytest.approx(3)


@pytest.mark.parametrize(("refusals", "expected"), [(7, 0), (8, 30)])
def test_an_endpoint_that_refuses_row_after_row_is_left_alone_as_long_as_it_asks(
    run: Any, refusals: int, expected: float
) -> None:
    async def go() -> float:
        pacer = Pacer(4)
        for _ in range(refusals):
            await refuse(pacer, 1, 30.0)
        return await wait(pacer)

    assert run(go()) == pytest.approx(expected)


def test_a_refusal_among_answers_holds_nobody_else_up(run: Any) -> None:
    async def go() -> float:
        pacer = Pacer(4)
        for _ in range(20):
            await refuse(pacer, 1, 30.0)
            async with turns(pacer, 1) as (turn,):
                pacer.answered(turn, 0)
        return await wait(pacer)

    assert run(go()) == 0


def test_no_more_start_than_a_minute_allows(run: Any) -> None:
    server, pacer = Server(), Pacer(100, requests_per_minute=120)
    run(server.ask_all(pacer, 300))
    first = server.starts[0]
    for end in (1, 10, 60, 100):
        # Those of one second more may start at once.
        assert sum(start <= first + end for start in server.starts) <= 2 * (end + 1) + 1
    assert server.starts[-1] - first == pytest.approx(300 / 2, rel=0.02)


def test_no_more_tokens_start_than_a_minute_allows(run: Any) -> None:
    server, pacer = Server(), Pacer(100, tokens_per_minute=60_000)
    assert run(server.ask_all(pacer, 50, tokens=2000)) == pytest.approx(2 * 50, rel=0.05)


def test_tokens_that_were_not_used_may_be_used_by_others(run: Any) -> None:
    async def go(outcome: Callable[[Pacer, Turn], None]) -> float:
        pacer = Pacer(1, tokens_per_minute=60)
        async with pacer.turn(10) as turn:
            outcome(pacer, turn)
        begun = asyncio.get_running_loop().time()
        async with pacer.turn(10):
            return asyncio.get_running_loop().time() - begun

    assert run(go(lambda pacer, turn: pacer.answered(turn, 10))) == pytest.approx(9)
    assert run(go(lambda pacer, turn: pacer.answered(turn, 4))) == pytest.approx(3)
    assert run(go(lambda pacer, turn: pacer.answered(turn, 20))) == pytest.approx(19)
    assert run(go(lambda pacer, turn: pacer.refused(turn, None))) == 0
    assert run(go(lambda pacer, turn: pacer.failed(turn))) == 0


def test_a_rate_is_held_with_one_second_of_credit() -> None:
    rate = Rate(120)
    assert [rate.take(1, 1000.0) for _ in range(6)] == [0, 0, 0, 0.5, 1.0, 1.5]
    # The credit does not grow while nothing is asked.
    assert [rate.take(1, 2000.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_an_amount_above_the_rate_is_paid_back_by_waiting() -> None:
    rate = Rate(60)
    assert rate.take(100, 1000.0) == 0
    assert rate.take(1, 1000.0) == 99
    rate.correct(-50)
    assert rate.take(1, 1000.0) == 50
    rate.correct(10)
    assert rate.take(1, 1000.0) == 61
