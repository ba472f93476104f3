"""The ranks of a run: what they take from a shared counter, where they wait for each other, and how they end together.

They meet at the key-value store that torch's launchers give a process group, and form no group: no rank ever holds
tensors of another, so that there is nothing to pad, to gather, or to tear down at the end.
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

from batchroute.engines.ranks.rendezvous import Ending, Rendezvous
from batchroute.engines.ranks.store import Memory, Shared, Store
from batchroute.engines.ranks.world import DIED, World, share_threads
from batchroute.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_STOPPED,
    EXIT_TERMINATED,
    BatchrouteError,
    DiedError,
    StoppedError,
    Terminated,
    error_of,
)
from batchroute.storage.receipts import Receipt

JOIN_SECONDS = 600.0
_POLL_SECONDS = 0.05
# What a long computation is given to end at a signal; the promise is 15 seconds for the whole run.
_SECONDS_TO_STOP = 10.0


class _Over(BaseException):
    """The first rank has finished the run."""


class Ranks:
    """This rank among the others. Every rank makes the same calls of `barrier` and `broadcast` in the same order.

    Attributes:
        exit_code: of this process, and with the first rank's of all.
        interruptible: whether SIGTERM raises in the main thread; else that looks for itself.
    """

    def __init__(self, world: World, store: Store | None = None) -> None:
        self.world = world
        self.exit_code = EXIT_OK
        self.interruptible = False
        self._store = store or Memory()
        self._rendezvous: Rendezvous | None = None
        self._lock = threading.Lock()
        self._meetings = 0
        self._times: dict[str, int] = {}
        self._heard: dict[str, int] = {}

    @property
    def first(self) -> bool:
        return self.world.first

    @property
    def alone(self) -> bool:
        return self.world.size == 1

    def before(self, stage: str, found: Iterable[str]) -> set[str]:
        """The units of a stage that were done before any rank began it, as the rank that comes here first found them.

        Were each to rely on itself, the slower ones would take for old what the quicker ones have done meanwhile.
        """
        if self.alone:
            return set(found)
        key = f"{stage}/{self._times.get(stage, 0) + 1}/before"
        if self._store.add(f"{key}/asked", 1) == 1:
            self._store.set(key, json.dumps(list(found)))
        self._await(key)
        return set(json.loads(self._store.get(key)))

    def claims(self, stage: str, units: int) -> Iterator[int]:
        """Numbers of units, each given to one rank alone, as long as there are some.

        A rank that is slow takes fewer, and holds up nobody for longer than its last one.
        """
        self._times[stage] = times = self._times.get(stage, 0) + 1
        while (number := self._store.add(f"{stage}/{times}/claimed", 1) - 1) < units:
            yield number

    def announce(self, stage: str, receipt: Receipt) -> None:
        """Tell the other ranks that a unit is done."""
        if not self.alone:
            number = self._store.add(f"{stage}/done", 1)
            self._store.set(f"{stage}/done/{number}", receipt.model_dump_json())

    def announced(self, stage: str) -> list[Receipt]:
        """The receipts that all ranks have announced since this was last asked, this one's own among them."""
        heard = self._heard.get(stage, 0)
        found = []
        for number in range(heard + 1, self._store.add(f"{stage}/done", 0) + 1):
            key = f"{stage}/done/{number}"
            # A number without its receipt is of a rank that is just between the two.
            if not self._store.check([key]):
                break
            found.append(Receipt.model_validate_json(self._store.get(key)))
        self._heard[stage] = heard + len(found)
        return found

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self._meetings += 1
        key = f"meeting/{self._meetings}"
        if self._store.add(key, 1) == self.world.size:
            self._store.set(f"{key}/all", "1")
        self._await(f"{key}/all")

    def broadcast(self, do: Callable[[], Any]) -> Any:
        """What the first rank gets by doing this, for all of them; a value that JSON can hold. All wait for it."""
        self._meetings += 1
        key = f"shared/{self._meetings}"
        if self.first:
            self._store.set(key, json.dumps(do()))
        self._await(key)
        return json.loads(self._store.get(key))

    def pause(self) -> None:
        """Between two looks at what others do. Raises: as `check`."""
        self.check()
        time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raises:
        BatchrouteError, Terminated: another rank has ended the run.
        """
        call = self._rendezvous
        if call is not None and call.ending is not None:
            raise _error(call.ending)
        if call is not None and call.over is not None:
            raise _Over

    def told_to_stop(self) -> BaseException:
        """What SIGTERM means: another rank's ending, or that this one is terminated."""
        call = self._rendezvous
        if call is None:
            return Terminated()
        until = time.monotonic() + 1
        # A launcher that sees a rank die terminates the others, at the moment at which they hear of it themselves.
        while call.ending is None and time.monotonic() < until:
            call.wait(0.1)
        return Terminated() if call.ending is None else _error(call.ending)

    @property
    def speaks(self) -> bool:
        """Whether this rank says what has ended the run: the first one; of a run whose first rank died, any.

        What batchroute's own launcher says of the ranks of its machine none of these repeats.
        """
        call, world = self._rendezvous, self.world
        died = call is not None and call.ending is not None and call.ending.died and call.ending.rank == 0
        elsewhere = world.launcher != "batchroute" or (world.local_rank == 0 and world.rank > 0)
        return self.first or (died and elsewhere)

    def _await(self, key: str) -> None:
        while not self._store.check([key]):
            self.pause()

    def _enter(self, seconds: float) -> None:
        """Come, and wait until all others have.

        Raises:
            StoppedError: not all of them have come in time.
        """
        assert self.world.master is not None
        host, until = self.world.master.rpartition(":")[0], time.monotonic() + seconds
        call = self._rendezvous = Rendezvous(self.world.rank, self.world.size, self._interrupt)
        self._store = Shared(self.world, until, self._is_gone)
        self._store.set(f"host/{self.world.rank}", socket.gethostname())
        if self.first:
            token = secrets.token_hex()
            self._store.set("roll_call", json.dumps({"port": call.open(host, token), "token": token}))
        else:
            while not self._store.check(["roll_call"]):
                _refuse_late(until, seconds, "rank 0 did not come")
                time.sleep(_POLL_SECONDS)
            place = json.loads(self._store.get("roll_call"))
            try:
                call.enter(host, place["port"], place["token"], seconds)
            except OSError as error:
                raise StoppedError(f"rank {self.world.rank} does not reach rank 0 at {host}: {error}") from error
        keys = {rank: f"host/{rank}" for rank in range(self.world.size)}
        while missing := [rank for rank, key in keys.items() if not self._store.check([key])] or call.missing():
            names = f"{'rank' if len(missing) == 1 else 'ranks'} {', '.join(map(str, missing[:10]))}"
            _refuse_late(until, seconds, f"{names} of {self.world.size} did not come")
            self.pause()
        self._settle([self._store.get(key).decode() for key in keys.values()])

    def _settle(self, hosts: list[str]) -> None:
        """Know which GPU of its machine is this rank's, and leave the cores of the others to them."""
        if "LOCAL_RANK" not in os.environ:
            here = [rank for rank, host in enumerate(hosts) if host == hosts[self.world.rank]]
            number = here.index(self.world.rank)
            self.world = dataclasses.replace(self.world, local_rank=number, local_size=len(here))
        mine = share_threads(self.world.local_size, os.environ)
        os.environ.update(mine)
        if mine:
            import torch

            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def _is_gone(self, error: Exception) -> BaseException:
        """What it means that the store, which the first rank or its launcher has, does not answer."""
        call = self._rendezvous
        if call is not None:
            call.wait(1)
            self.check()
        return StoppedError(f"rank {self.world.rank} has lost the other ranks; run again to go on ({error})")

    def _interrupt(self, ending: Ending) -> None:
        """Called from a thread: makes the main one raise, or, when that takes too long, ends this process."""
        if not self.interruptible:
            return
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        guard = threading.Timer(_SECONDS_TO_STOP, self._give_up, [ending])
        guard.daemon = True
        guard.start()

    def _give_up(self, ending: Ending) -> None:
        if not self.interruptible:
            # It has ended its work, and is telling of it.
            return
        print(f"error: {ending.message}; rank {self.world.rank} leaves its unit", file=sys.stderr, flush=True)
        os._exit(exit_code(_error(ending), self.world))

    def stop(self, error: BaseException) -> None:
        """Tell the others that this rank ends the run, unless they know."""
        self.exit_code = exit_code(error, self.world)
        if self._rendezvous is not None and self._rendezvous.ending is None:
            self._rendezvous.end(self.exit_code, _words(self.world, error))

    def _leave(self) -> None:
        """Raises: as `check`, where the first rank ends early while this one waits for it."""
        call = self._rendezvous
        if call is None:
            return
        early = call.ending
        if self.first or early is not None:
            _ignore_termination()
        self.exit_code = call.leave(self.exit_code)
        _ignore_termination()
        if not self.first and early is None and call.ending is not None and call.over is None:
            raise _error(call.ending)


@contextmanager
def joined(world: World, seconds: float = JOIN_SECONDS) -> Iterator[Ranks]:
    """This rank among all of them; at the end of the context all end, and an error of one of them ends all.

    Raises:
        StoppedError: not all of them have come in time.
    """
    ranks = Ranks(world)
    if ranks.alone:
        yield ranks
        return
    try:
        ranks._enter(seconds)
        yield ranks
        ranks._leave()
    except _Over:
        ranks._leave()
    except BaseException as error:
        ranks.stop(error)
        ranks._leave()
        raise


def _refuse_late(until: float, seconds: float, what: str) -> None:
    if time.monotonic() > until:
        raise StoppedError(f"{what} within {seconds:.0f} s; start all of them, and run again")


def _ignore_termination() -> None:
    """A launcher that sees a rank end terminates the others, which must not change what they say and end with."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _error(ending: Ending) -> BaseException:
    if ending.died:
        return DiedError(f"{ending.message}; run again to go on")
    return error_of(ending.exit_code, ending.message)


def exit_code(error: BaseException, world: World) -> int:
    """With which a rank ends; of one that batchroute has launched, `DIED` where it is another one that died."""
    if isinstance(error, DiedError) and world.launcher == "batchroute":
        return DIED
    if isinstance(error, BatchrouteError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_STOPPED


def _words(world: World, error: BaseException) -> str:
    if isinstance(error, BatchrouteError):
        return str(error)
    if isinstance(error, Terminated | KeyboardInterrupt):
        return f"rank {world.rank} of {world.size} was terminated"
    # Not its words: they may be a prompt's.
    return f"rank {world.rank} of {world.size} crashed with {type(error).__name__}; its log has a traceback"
