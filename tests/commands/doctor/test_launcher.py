"""Ranks and clusters, by real connections to this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchroute.commands.doctor import launcher
from batchroute.commands.doctor.network import REFUSED, unreached, unreached_url, within
from batchroute.errors import InputError

RANK = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def open_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_port_answers_or_not_in_words(open_port: int, closed_port: int) -> None:
    assert unreached("127.0.0.1", open_port) == ""
    assert unreached("127.0.0.1", closed_port) == REFUSED
    assert unreached("no-such-machine.invalid", 80) != ""
    assert unreached_url(f"http://127.0.0.1:{open_port}/v1") == ""


def test_what_a_proxy_stands_before_is_reached_by_the_proxy(
    open_port: int, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", f"http://user:password@127.0.0.1:{open_port}")
    assert unreached_url("https://no-such-machine.invalid/v1") == ""
    monkeypatch.setenv("https_proxy", f"http://user:password@127.0.0.1:{closed_port}")
    assert unreached_url("https://no-such-machine.invalid/v1") == f"the proxy 127.0.0.1:{closed_port}: {REFUSED}"


def test_nothing_is_waited_for_longer_than_it_may_take() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.05, never.wait)
    never.set()


def test_a_process_that_nobody_launched_is_one() -> None:
    (finding,) = launcher.ranks({})
    assert (finding.mark, finding.text) == ("ok", "none: one process, or as many as --processes asks for")


def test_a_rank_says_which_it_is_and_whether_the_master_answers(open_port: int) -> None:
    here, master = launcher.ranks({**RANK, "MASTER_PORT": str(open_port), "TORCHELASTIC_RUN_ID": "1"})
    assert here.text == "torchrun: rank 1 of 4, 2 on this machine"
    assert (master.mark, master.text) == ("ok", f"127.0.0.1:{open_port} answers")


def test_a_master_that_does_not_listen_yet_is_well_and_one_that_is_nowhere_a_problem(closed_port: int) -> None:
    _, master = launcher.ranks({**RANK, "MASTER_PORT": str(closed_port)})
    assert (master.mark, "nobody listens" in master.text) == ("ok", True)
    _, master = launcher.ranks({**RANK, "MASTER_PORT": "29500", "MASTER_ADDR": "no-such-machine.invalid"})
    assert master.mark == "problem"
    assert "set MASTER_ADDR" in master.remedy


def test_variables_that_are_half_there_are_refused() -> None:
    with pytest.raises(InputError, match="MASTER_PORT"):
        list(launcher.ranks(RANK))


def test_a_pod_of_an_indexed_job_without_ranks_is_told_how_to_start() -> None:
    _, finding = launcher.ranks({"JOB_COMPLETION_INDEX": "3"})
    assert (finding.mark, "pod 3 of an Indexed Job" in finding.text) == ("note", True)
    assert "--nodes N --master HOST:PORT" in finding.remedy


def test_a_ray_cluster_is_found_by_its_address_or_by_the_note_of_this_machine(
    tmp_path: Path, open_port: int, closed_port: int
) -> None:
    assert launcher.ray(f"ray://127.0.0.1:{open_port}", needed=True).mark == "ok"
    assert launcher.ray("auto", needed=True, temporary=tmp_path).text == "this machine is part of no Ray cluster"
    (tmp_path / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port}\n")
    finding = launcher.ray("auto", needed=True, temporary=tmp_path)
    assert (finding.mark, REFUSED in finding.text, "ray start --head" in finding.remedy) == ("problem", True, True)
    assert launcher.ray(f"127.0.0.1:{closed_port}", needed=False).mark == "note"
