"""The launcher: starts the ranks of a run on this machine, by torch's elastic agent, and says how they ended.

As torchrun, but with the run's own exit code instead of 1, so that a scheduler can tell what a retry may help. Ranks
are started anew only when one died: a wrong job file, or a limit that is reached, would only be met again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from batchroute.engines.ranks.world import DIED, MASTER, NODE_RANK, NODES, OURS, World, cores, share_threads
from batchroute.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_STOPPED, EXIT_TERMINATED, InputError, StoppedError

INDEX = "JOB_COMPLETION_INDEX"
_SECONDS_TO_STOP = 30
_DEFAULT_PORT = "29500"


@dataclass(frozen=True, slots=True)
class Ranks:
    """What ranks a command line asks for.

    Attributes:
        each: on each machine.
        node_rank: which machine this is, from 0.
        master: `host:port` at machine 0; None on a single one.
    """

    each: int
    nodes: int = 1
    node_rank: int = 0
    master: str | None = None

    @property
    def size(self) -> int:
        return self.each * self.nodes


def asked_for(
    processes: str | None, nodes: int, node_rank: int | None, master: str | None, world: World
) -> Ranks | None:
    """The ranks to start; None when this process is the only one, or one of those that were started.

    Args:
        processes: a number, or `auto` for one on each GPU that is visible.

    Raises:
        InputError: the options contradict each other, the machine, or the launcher that started this process.
    """
    if world.launcher == "batchroute":
        return None
    each = _each(processes)
    if world.size > 1:
        if processes not in (None, "auto"):
            world.expect(each * nodes)
        return None
    if nodes == 1:
        for name, value in (("--node-rank", node_rank), ("--master", master)):
            if value is not None:
                raise InputError(f"{name} is for several machines: give --nodes too")
        return Ranks(each) if each > 1 else None
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
    return Ranks(each, nodes, node_rank, f"{host}:{port}")


def launch(ranks: Ranks, words: list[str], max_restarts: int, say: Callable[[str], None]) -> int:
    """Start the ranks of this machine with the words of a command, wait for them, and return their exit code.

    Args:
        max_restarts: how often to start all of them anew when one died.

    Raises:
        StoppedError: a rank died, and the first one has not said it.
    """
    # Only told of what goes wrong, which is said here in a sentence.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ |= share_threads(ranks.each, os.environ)
    if ranks.nodes > 1:
        assert ranks.master is not None
        os.environ |= {NODES: str(ranks.nodes), NODE_RANK: str(ranks.node_rank), MASTER: ranks.master}
    while True:
        os.environ[OURS] = str(max_restarts)
        code, died = _launch(ranks, words)
        if code != DIED:
            return code
        if not max_restarts:
            if died:
                raise StoppedError(f"{died}; run again to go on")
            return EXIT_STOPPED
        max_restarts -= 1
        say(f"{died or 'a rank died'}: starting all ranks of this machine anew ({max_restarts} more times at most)")
        # Those of other machines hear of it in this time.
        time.sleep(1 if ranks.nodes == 1 else 5)


def restarts_left() -> int:
    """How often the launcher that started this rank will start all of them anew, when one dies."""
    left = os.environ.get(OURS, "0")
    return int(left) if left.isdigit() else 0


def _launch(ranks: Ranks, words: list[str]) -> tuple[int, str]:
    """The exit code, `DIED` when a rank died here or elsewhere; and which one, unless another has said so."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # An agent is of one machine, and the ranks of all machines meet at the first of them. Were it the agents that met,
    # one that is started anew could meet one that is about to end, and wait for it until it gives up.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks.each,
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
        return _ended(ranks, {rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException as error:
        return (EXIT_INTERRUPTED if error.sigval == signal.SIGINT else EXIT_TERMINATED), ""
    return EXIT_OK, ""


def _ended(ranks: Ranks, codes: dict[int, int]) -> tuple[int, str]:
    """As `_launch`, by the exit codes of the ranks that failed, in the order in which they ended."""
    # When one has ended, the agent terminates the others.
    first = next((code for code in codes.values() if code != -signal.SIGTERM), -signal.SIGTERM)
    if first > 0 and first != DIED:
        return first, ""
    if first == -signal.SIGTERM:
        return EXIT_TERMINATED, ""
    killed = [rank for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM]
    # The first rank tells of a death that it has heard of.
    if not killed or (ranks.node_rank == 0 and codes.get(0) == DIED):
        return DIED, ""
    rank, number = ranks.node_rank * ranks.each + killed[0], -codes[killed[0]]
    why = " (out of memory?)" if number == signal.SIGKILL else ""
    return DIED, f"rank {rank} of {ranks.size} was killed by {signal.Signals(number).name}{why}"


def _each(processes: str | None) -> int:
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
