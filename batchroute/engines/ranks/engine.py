"""The ranks of a run: the unit counter that they share, their barriers, and how they end together.

Ranks share torch's key-value store but form no process group: no rank needs another rank's tensors, so nothing has to
be padded, gathered or destroyed at the end.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from batchroute.engines.ranks.ending import Ending, exit_code, message_of
from batchroute.engines.ranks.rendezvous import Rendezvous
from batchroute.engines.ranks.store import MemoryStore, Store, TorchStore
from batchroute.engines.ranks.world import World, thread_limits
from batchroute.errors import (
    EXIT_OK,
    StoppedError,
    Terminated,
)
from batchroute.storage.receipts import Receipt

JOIN_SECONDS = 600.0
_POLL_SECONDS = 0.05
# A rank that computes longer than this after a signal is killed; all ranks together must end within 15 seconds.
_SECONDS_TO_STOP = 10.0


class _RunFinished(BaseException):
    """Rank 0 has finished the run."""


class Ranks:
    """This rank's view of all ranks. Every rank must call `barrier` and `broadcast` in the same order.

    Attributes:
        exit_code: this rank's; the run ends with rank 0's.
        interruptible: whether SIGTERM raises in the main thread now.
    """

    def __init__(self, world: World, store: Store | None = None) -> None:
        self.world = world
        self.exit_code = EXIT_OK
        self.interruptible = False
        self._store = store or MemoryStore()
        self._rendezvous: Rendezvous | None = None
        self._lock = threading.Lock()
        self._barriers = 0
        self._times: dict[str, int] = {}
        self._read: dict[str, int] = {}

    @property
    def is_rank_zero(self) -> bool:
        return self.world.is_rank_zero

    @property
    def alone(self) -> bool:
        return self.world.size == 1

    def done_at_start(self, stage: str, done: Iterable[str]) -> set[str]:
        """The units of a stage that were done before any rank began it: `done` of the rank that calls this first.

        Each rank lists receipts at another moment; a slow rank would take units of this attempt for earlier ones.
        """
        if self.alone:
            return set(done)
        key = f"{stage}/{self._times.get(stage, 0) + 1}/before"
        if self._store.add(f"{key}/asked", 1) == 1:
            self._store.set(key, json.dumps(list(done)))
        self._await(key)
        return set(json.loads(self._store.get(key)))

    def claims(self, stage: str, units: int) -> Iterator[int]:
        """Claim numbers from 0 to `units` - 1; each number goes to one rank.

        A slow rank claims fewer, so that it delays the stage by its last claim at most.
        """
        self._times[stage] = times = self._times.get(stage, 0) + 1
        while (number := self._store.add(f"{stage}/{times}/claimed", 1) - 1) < units:
            yield number

    def publish(self, stage: str, receipt: Receipt) -> None:
        """Publish a finished unit to the other ranks."""
        if not self.alone:
            number = self._store.add(f"{stage}/done", 1)
            self._store.set(f"{stage}/done/{number}", receipt.model_dump_json())

    def new_receipts(self, stage: str) -> list[Receipt]:
        """The receipts that ranks, this one included, have published since the last call."""
        read = self._read.get(stage, 0)
        receipts = []
        for number in range(read + 1, self._store.add(f"{stage}/done", 0) + 1):
            key = f"{stage}/done/{number}"
            # A rank takes the number first and stores the receipt a moment later.
            if not self._store.check([key]):
                break
            receipts.append(Receipt.model_validate_json(self._store.get(key)))
        self._read[stage] = read + len(receipts)
        return receipts

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        self._barriers += 1
        key = f"meeting/{self._barriers}"
        if self._store.add(key, 1) == self.world.size:
            self._store.set(f"{key}/all", "1")
        self._await(f"{key}/all")

    def broadcast(self, compute: Callable[[], Any]) -> Any:
        """Call `compute` on rank 0 and return its result, which must be JSON-serialisable, on every rank."""
        self._barriers += 1
        key = f"shared/{self._barriers}"
        if self.is_rank_zero:
            self._store.set(key, json.dumps(compute()))
        self._await(key)
        return json.loads(self._store.get(key))

    def pause(self) -> None:
        """Check, then sleep until the next poll. Raises: as `check`."""
        self.check()
        time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raises:
        BatchrouteError, Terminated: another rank has ended the run.
        """
        rendezvous = self._rendezvous
        if rendezvous is not None and rendezvous.ending is not None:
            raise rendezvous.ending.error()
        if rendezvous is not None and rendezvous.final_exit_code is not None:
            raise _RunFinished

    def reason_of_sigterm(self) -> BaseException:
        """Why SIGTERM came: another rank ended the run, or somebody terminated this rank."""
        rendezvous = self._rendezvous
        if rendezvous is None:
            return Terminated()
        until = time.monotonic() + 1
        # A launcher that sees a rank die sends SIGTERM to the others just when they hear of the death themselves.
        while rendezvous.ending is None and time.monotonic() < until:
            rendezvous.wait(0.1)
        return Terminated() if rendezvous.ending is None else rendezvous.ending.error()

    @property
    def reports_end(self) -> bool:
        """Whether this rank reports how the run ended: rank 0, or any other rank if rank 0 died.

        batchroute's own launcher reports deaths on its machine, so that the ranks on that machine do not.
        """
        rendezvous, world = self._rendezvous, self.world
        ending = None if rendezvous is None else rendezvous.ending
        rank_zero_died = ending is not None and ending.died and ending.rank == 0
        not_launched_there = world.launcher != "batchroute" or (world.local_rank == 0 and world.rank > 0)
        return self.is_rank_zero or (rank_zero_died and not_launched_there)

    def _await(self, key: str) -> None:
        while not self._store.check([key]):
            self.pause()

    def _enter(self, seconds: float) -> None:
        """Join, and wait until all other ranks have joined.

        Raises:
            StoppedError: a rank did not join in time.
        """
        assert self.world.master is not None
        host, until = self.world.master.rpartition(":")[0], time.monotonic() + seconds
        rendezvous = self._rendezvous = Rendezvous(self.world.rank, self.world.size, self._interrupt_main)
        self._store = TorchStore(self.world, until, self._lost_store)
        self._store.set(f"host/{self.world.rank}", socket.gethostname())
        if self.is_rank_zero:
            token = secrets.token_hex()
            self._store.set("roll_call", json.dumps({"port": rendezvous.open(host, token), "token": token}))
        else:
            while not self._store.check(["roll_call"]):
                _check_deadline(until, seconds, "rank 0 did not come")
                time.sleep(_POLL_SECONDS)
            place = json.loads(self._store.get("roll_call"))
            try:
                rendezvous.enter(host, place["port"], place["token"], seconds)
            except OSError as error:
                raise StoppedError(f"rank {self.world.rank} does not reach rank 0 at {host}: {error}") from error
        keys = {rank: f"host/{rank}" for rank in range(self.world.size)}
        while missing := [rank for rank, key in keys.items() if not self._store.check([key])] or rendezvous.missing():
            names = f"{'rank' if len(missing) == 1 else 'ranks'} {', '.join(map(str, missing[:10]))}"
            _check_deadline(until, seconds, f"{names} of {self.world.size} did not come")
            self.pause()
        self._place_on_machine([self._store.get(key).decode() for key in keys.values()])

    def _place_on_machine(self, hosts: list[str]) -> None:
        """Choose this rank's GPU among those of its machine, and use this rank's share of the cores only."""
        if "LOCAL_RANK" not in os.environ:
            neighbours = [rank for rank, host in enumerate(hosts) if host == hosts[self.world.rank]]
            local_rank = neighbours.index(self.world.rank)
            self.world = dataclasses.replace(self.world, local_rank=local_rank, local_size=len(neighbours))
        limits = thread_limits(self.world.local_size, os.environ)
        os.environ.update(limits)
        if limits:
            import torch

            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def _lost_store(self, error: Exception) -> BaseException:
        """The error to raise when the store, which rank 0 or its launcher serves, does not answer."""
        rendezvous = self._rendezvous
        if rendezvous is not None:
            rendezvous.wait(1)
            self.check()
        return StoppedError(f"rank {self.world.rank} has lost the other ranks; run again to go on ({error})")

    def _interrupt_main(self, ending: Ending) -> None:
        """Called from a thread: make the main thread raise; end this process if that takes too long."""
        if not self.interruptible:
            return
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        guard = threading.Timer(_SECONDS_TO_STOP, self._leave_unit, [ending])
        guard.daemon = True
        guard.start()

    def _leave_unit(self, ending: Ending) -> None:
        if not self.interruptible:
            # The main thread has stopped and is reporting.
            return
        print(f"error: {ending.message}; rank {self.world.rank} leaves its unit", file=sys.stderr, flush=True)
        os._exit(exit_code(ending.error(), self.world))

    def stop(self, error: BaseException) -> None:
        """Tell the other ranks that this rank ends the run, unless they know of an ending already."""
        self.exit_code = exit_code(error, self.world)
        if self._rendezvous is not None and self._rendezvous.ending is None:
            self._rendezvous.end(self.exit_code, message_of(self.world, error))

    def _leave(self) -> None:
        """Wait for the other ranks and leave. Raises: as `check`, if rank 0 ends the run early meanwhile."""
        rendezvous = self._rendezvous
        if rendezvous is None:
            return
        early = rendezvous.ending
        if self.is_rank_zero or early is not None:
            _ignore_termination()
        self.exit_code = rendezvous.leave(self.exit_code)
        _ignore_termination()
        if (
            not self.is_rank_zero
            and early is None
            and rendezvous.ending is not None
            and rendezvous.final_exit_code is None
        ):
            raise rendezvous.ending.error()


@contextmanager
def joined(world: World, seconds: float = JOIN_SECONDS) -> Iterator[Ranks]:
    """Join the ranks of a run. All ranks leave the context together; an error on one rank ends all of them.

    Raises:
        StoppedError: a rank did not join in time.
    """
    ranks = Ranks(world)
    if ranks.alone:
        yield ranks
        return
    try:
        ranks._enter(seconds)
        yield ranks
        ranks._leave()
    except _RunFinished:
        ranks._leave()
    except BaseException as error:
        ranks.stop(error)
        ranks._leave()
        raise


def _check_deadline(until: float, seconds: float, what: str) -> None:
    """Raises:
    StoppedError: `until` has passed.
    """
    if time.monotonic() > until:
        raise StoppedError(f"{what} within {seconds:.0f} s; start all of them, and run again")


def _ignore_termination() -> None:
    """A launcher that sees a rank end sends SIGTERM to the others, which must not change their message or exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
