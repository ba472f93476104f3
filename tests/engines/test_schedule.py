"""The schedule alone, with workers that die at any moment."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchroute.engines.schedule import Schedule
from batchroute.errors import EXIT_STOPPED, StoppedError


@dataclass(frozen=True)
class Task:
    unit: str


def tasks(number: int) -> list[Task]:
    return [Task(f"{i:05d}") for i in range(number)]


@given(number=st.integers(0, 12), chances=st.lists(st.sampled_from(["give", "done", "lost", "idle"]), max_size=120))
def test_each_unit_is_done_once_or_the_run_stops_by_the_unit_that_killed_three(number: int, chances: list[str]) -> None:
    units = tasks(number)
    schedule = Schedule("small", units)
    at: dict[int, Task] = {}
    done: list[Task] = []
    deaths: dict[Task, int] = {}
    for worker, chance in enumerate(chances):
        oldest = next(iter(at), None)
        if chance == "give" and schedule.next() is not None:
            wanted = schedule.next()
            at[worker] = schedule.give(worker)
            assert at[worker] == wanted
        elif chance == "idle":
            assert schedule.lost(worker, "gone") is None
        elif oldest is not None and chance == "done":
            unit = at.pop(oldest)
            assert schedule.done(oldest) == unit
            done.append(unit)
        elif oldest is not None and chance == "lost":
            unit = at.pop(oldest)
            deaths[unit] = deaths.get(unit, 0) + 1
            if deaths[unit] == 3:
                with pytest.raises(StoppedError, match=rf"3 workers died of the unit {unit.unit} of small: gone"):
                    schedule.lost(oldest, "gone")
                return
            assert schedule.lost(oldest, "gone") == unit
            assert schedule.next() == unit
        assert schedule.left == number - len(done)
        assert schedule.waiting == schedule.left - len(at)
    for worker in list(at):
        done.append(schedule.done(worker))
    while schedule.next() is not None:
        schedule.give("last")
        done.append(schedule.done("last"))
    assert sorted(done, key=lambda task: task.unit) == units
    assert schedule.left == 0


def test_units_are_given_in_their_order_and_lost_ones_before_all_others() -> None:
    schedule = Schedule("small", tasks(4))
    assert [schedule.give(worker).unit for worker in "abc"] == ["00000", "00001", "00002"]
    schedule.lost("a", "gone")
    schedule.lost("b", "gone")
    assert [schedule.give(worker).unit for worker in "def"] == ["00001", "00000", "00003"]
    assert schedule.next() is None
    assert schedule.left == 4


def test_the_third_worker_that_dies_of_a_unit_stops_the_run() -> None:
    schedule = Schedule("small", tasks(2))
    for worker in "ab":
        schedule.give(worker)
        schedule.lost(worker, "gone")
    schedule.give("c")
    with pytest.raises(StoppedError, match="give the workers more memory, and run again") as caught:
        schedule.lost("c", "gone")
    assert caught.value.exit_code == EXIT_STOPPED
