"""The world, from what launchers leave in the environment; and the traps in it."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from batchroute.engines.ranks import engine
from batchroute.engines.ranks.world import World, cores, thread_limits
from batchroute.errors import EXIT_BAD_INPUT, EXIT_STOPPED, InputError
from tests.crash.ranks import Ranks, environment_of, free_port
from tests.support.jobs import JobFolder, table
from tests.support.waiting import wait_for

TWO = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = {**TWO, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        ({"LOCAL_RANK": "3"}, World()),
        (TWO, World(1, 2, 0, 1, "10.0.0.1:29500", "environment")),
        (TORCHRUN, World(1, 2, 1, 2, "10.0.0.1:29500", "torchrun")),
        ({**TORCHRUN, "BATCHROUTE_LAUNCHED": "0"}, World(1, 2, 1, 2, "10.0.0.1:29500", "batchroute")),
        (
            {**TWO, "LOCAL_RANK": "1", "ACCELERATE_MIXED_PRECISION": "no"},
            World(1, 2, 1, 2, "10.0.0.1:29500", "accelerate launch"),
        ),
        # Of several machines: torch's agent counts the ranks of its own alone.
        (
            {**TORCHRUN, "BATCHROUTE_LAUNCHED": "0", "BATCHROUTE_NODES": "3", "BATCHROUTE_NODE_RANK": "2",
             "BATCHROUTE_MASTER": "first:4000"},
            World(5, 6, 1, 2, "first:4000", "batchroute"),
        ),
        ({"RANK": "0", "WORLD_SIZE": "1"}, World(launcher="environment")),
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
         World(launcher="torchrun")),
    ],
)  # fmt: skip
def test_each_launcher_describes_a_world(environment: dict[str, str], world: World) -> None:
    assert World.from_environment(environment) == world


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"RANK": None},
            "the environment says that this is one of several ranks, but RANK is not set; set all of RANK",
        ),
        ({"RANK": ""}, "but RANK is not set"),
        ({"WORLD_SIZE": None}, "but WORLD_SIZE is not set"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "but MASTER_ADDR and MASTER_PORT are not set; set all of "),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE 2 has the ranks 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK is 0, but WORLD_SIZE 0 has"),
        ({"RANK": "-1"}, "RANK is '-1', not a number"),
        ({"RANK": "one"}, "RANK is 'one', not a number"),
        ({"WORLD_SIZE": "2.0"}, r"WORLD_SIZE is '2\.0', not a number"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http', not a number"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', not a number"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_one_sentence(changed: dict[str, str | None], sentence: str) -> None:
    environment = {name: value for name, value in {**TWO, **changed}.items() if value is not None}
    with pytest.raises(InputError, match=sentence):
        World.from_environment(environment)


def test_cores_are_shared_by_the_ranks_of_a_machine() -> None:
    alone, many = thread_limits(1, {}), thread_limits(1000, {})
    assert set(alone.values()) == {str(cores())}
    assert set(many.values()) == {"1"}
    assert "OMP_NUM_THREADS" in alone
    assert "OMP_NUM_THREADS" not in thread_limits(2, {"OMP_NUM_THREADS": "7"})


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    made = Ranks(JobFolder(tmp_path, table(5), units={"score": 2, "generate": 2, "merge": 2}))
    made.new_output()
    return made


def _impatient() -> None:
    """Wait three seconds for the other ranks, not ten minutes."""
    engine.joined.__wrapped__.__defaults__ = (3.0,)  # type: ignore[attr-defined]


def _patient_until(file: Path) -> None:
    """Stop waiting for the other ranks when the file exists."""
    check = engine._check_deadline
    engine._check_deadline = lambda until, *others: check(0.0 if file.exists() else until, *others)


def test_a_trap_ends_the_command_in_one_sentence(ranks: Ranks) -> None:
    rank = ranks.start_rank({**TWO, "RANK": "2"})
    rank.process.join(120)
    assert rank.exit_code == EXIT_BAD_INPUT
    assert rank.said() == "error: RANK is 2, but WORLD_SIZE 2 has the ranks 0 to 1\n"
    assert not ranks.job.output.exists()


@pytest.mark.parametrize(
    ("numbers", "codes", "sentences"),
    [
        ((1, 1), {EXIT_STOPPED}, ["rank 1 cannot reach rank 0 at 127.0.0.1:"]),
        ((0,), {EXIT_STOPPED}, ["rank 1 of 2 did not come within 3 s; start all of them, and run again"]),
    ],
)
def test_ranks_that_never_come_are_named(
    ranks: Ranks, numbers: tuple[int, ...], codes: set[int], sentences: list[str]
) -> None:
    port = str(free_port())
    started = [ranks.start_rank(environment_of(number, 2, port), fault=_impatient) for number in numbers]
    for rank in started:
        rank.process.join(120)
    said = "".join(rank.said() for rank in started)
    assert {rank.exit_code for rank in started} == codes, said
    for sentence in sentences:
        assert sentence in said
    assert "Traceback" not in said
    assert "frame #" not in said
    assert not ranks.job.output.exists()


@pytest.mark.parametrize(
    ("numbers", "sentences"),
    [
        ((0, 0), ["rank 0 cannot listen at 127.0.0.1:", "rank 1 of 2 did not come within"]),
        ((0, 1, 1), ["rank 2 of 3 did not come within"]),
    ],
)
def test_the_second_of_two_ranks_of_one_number_is_turned_away(
    ranks: Ranks, tmp_path: Path, numbers: tuple[int, ...], sentences: list[str]
) -> None:
    """The other ranks wait for the missing one until the second has ended."""
    port, file = str(free_port()), tmp_path / "one has ended"
    environments = [environment_of(number, len(numbers), port) for number in numbers]
    fault = functools.partial(_patient_until, file)
    started = [ranks.start_rank(environment, fault=fault) for environment in environments]
    wait_for(lambda: any(rank.exit_code is not None for rank in started))
    file.touch()
    for rank in started:
        rank.process.join(120)
    said = "".join(rank.said() for rank in started)
    assert all(rank.exit_code == EXIT_STOPPED for rank in started), said
    for sentence in sentences:
        assert sentence in said
    assert "Traceback" not in said
