"""The launcher: starts the ranks of a run on this machine with torch's elastic agent, and reports how they ended.

Unlike torchrun it ends with the run's own exit code instead of 1, so that a scheduler knows whether a retry may help.
It starts ranks again only when one died: another attempt would meet a wrong job file or a reached limit again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from batchroute.engines.ranks.world import DIED, LAUNCHED, MASTER, NODE_RANK, NODES, World, cores, thread_limits
from batchroute.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_STOPPED, EXIT_TERMINATED, InputError, StoppedError

INDEX = "JOB_COMPLETION_INDEX"
_SECONDS_TO_STOP = 30
_DEFAULT_PORT = "29500"


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The ranks that a command line asks for.

    Attributes:
        per_machine: ranks on each machine.
        node_rank: number of this machine, from 0.
        master: `host:port` on machine 0; None if there is one machine.
    """

    per_machine: int
    nodes: int = 1
    node_rank: int = 0
    master: str | None = None

    @property
    def size(self) -> int:
        return self.per_machine * self.nodes


def plan_launch(
    processes: str | None, nodes: int, node_rank: int | None, master: str | None, world: World
) -> LaunchPlan | None:
    """The ranks to start; None if this process is the only rank, or a rank that was started.

    Args:
        processes: a number, or `auto` for one rank per visible GPU.

    Raises:
        InputError: the options contradict each other, the machine, or the launcher that started this process.
    """
    if world.launcher == "batchroute":
        return None
    each = _ranks_per_machine(processes)
    if world.size > 1:
        if processes not in (None, "auto"):
            world.expect(each * nodes)
        return None
    if nodes == 1:
        for name, value in (("--node-rank", node_rank), ("--master", master)):
            if value is not None:
                raise InputError(f"{name} is for several machines: give --nodes too")
        return LaunchPlan(each) if each > 1 else None
    if node_rank is None:
        index = os.environ.get(INDEX)
        if index is None or not index.isdigit():
            raise InputError(f"--nodes {nodes} needs --node-rank, from 0 to {nodes - 1}, or {INDEX} in the environment")
        node_rank = int(index)
    if not node_rank < nodes:
        raise InputError(f"--node-rank is {node_rank}, but --nodes {nodes} has the machines 0 to {nodes - 1}")
    if master is None:
        raise InputError(f"--nodes {nodes} needs --master HOST:PORT, an address of machine 0 that all can reach")
    host, colon, port = master.rpartition(":")
    if not colon:
        host, port = master, _DEFAULT_PORT
    if not port.isdigit():
        raise InputError(f"--master {master}: '{port}' is no port; write HOST:PORT")
    return LaunchPlan(each, nodes, node_rank, f"{host}:{port}")


def launch(plan: LaunchPlan, words: list[str], max_restarts: int, log: Callable[[str], None]) -> int:
    """Start the ranks of this machine, each with the command line `words`; wait for them; return their exit code.

    Args:
        max_restarts: how often to start all ranks again when one died.

    Raises:
        StoppedError: a rank died, and rank 0 has not reported it.
    """
    os.environ |= thread_limits(plan.per_machine, os.environ)
    if plan.nodes > 1:
        assert plan.master is not None
        os.environ |= {NODES: str(plan.nodes), NODE_RANK: str(plan.node_rank), MASTER: plan.master}
    while True:
        os.environ[LAUNCHED] = str(max_restarts)
        code, died = _launch(plan, words)
        if code != DIED:
            return code
        if not max_restarts:
            if died:
                raise StoppedError(f"{died}; run again to go on")
            return EXIT_STOPPED
        max_restarts -= 1
        log(f"{died or 'a rank died'}: starting all ranks of this machine again (at most {max_restarts} more times)")
        # Time for ranks on other machines to hear of the death.
        time.sleep(1 if plan.nodes == 1 else 5)


def restarts_left() -> int:
    """How often the launcher that started this rank may start all ranks again."""
    left = os.environ.get(LAUNCHED, "0")
    return int(left) if left.isdigit() else 0


def _launch(plan: LaunchPlan, words: list[str]) -> tuple[int, str]:
    """The exit code, `DIED` if a rank died on any machine; and which rank died, unless rank 0 has reported that."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Signals and deaths are logged there, which this launcher reports in one line. Each logger has a level of its own.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # Each machine's agent starts that machine's ranks only; rank 0 connects the ranks of all machines. If agents had a
    # rendezvous, a restarted agent could join one that is about to end, and would wait for it until a time-out.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=plan.per_machine,
        run_id="batchroute",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=_SECONDS_TO_STOP,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "batchroute", *words)
    except ChildFailedError as error:
        return exit_of(plan, {rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException as error:
        return (EXIT_INTERRUPTED if error.sigval == signal.SIGINT else EXIT_TERMINATED), ""
    return EXIT_OK, ""


def exit_of(plan: LaunchPlan, codes: dict[int, int]) -> tuple[int, str]:
    """As `_launch`, from the exit codes of the ranks that failed, in the order in which they ended."""
    # When one rank has ended, the agent sends SIGTERM to the others.
    first = next((code for code in codes.values() if code != -signal.SIGTERM), -signal.SIGTERM)
    if first > 0 and first != DIED:
        return first, ""
    if first == -signal.SIGTERM:
        return EXIT_TERMINATED, ""
    killed = [rank for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM]
    # Rank 0 reports a death that it hears of.
    if not killed or (plan.node_rank == 0 and codes.get(0) == DIED):
        return DIED, ""
    rank, number = plan.node_rank * plan.per_machine + killed[0], -codes[killed[0]]
    why = " (out of memory?)" if number == signal.SIGKILL else ""
    return DIED, f"rank {rank} of {plan.size} was killed by {signal.Signals(number).name}{why}"


def _ranks_per_machine(processes: str | None) -> int:
    if processes is None:
        return 1
    import torch

    gpus = torch.cuda.device_count()
    if processes == "auto":
        return max(1, gpus)
    if not processes.isdigit() or int(processes) < 1:
        raise InputError(f"--processes is a number from 1, or auto; it is '{processes}'")
    each = int(processes)
    if gpus and each > gpus:
        raise InputError(f"--processes {each}: this machine has {gpus} GPUs, and each rank needs one of its own")
    if not gpus and each > 4 * cores():
        raise InputError(f"--processes {each}: this machine has {cores()} cores and no GPU")
    return each
