"""The Ray engine: units by workers on a cluster, in a pool for the router and one for each model.

This process hands the units out and shows progress; what must be one process's (partition, endpoints, merge, commit) it
does itself. A worker or a machine that dies costs the unit in hand, and another worker does it. When this process dies
its workers end with it, and the next attempt goes on by the receipts.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from batchroute.engines.base import Pool, Worker, Workers
from batchroute.engines.local import LocalEngine
from batchroute.engines.ray.capacity import Capacity
from batchroute.engines.ray.pools import PoolSpec, RaySpec
from batchroute.engines.ray.workers import RayWorkers
from batchroute.errors import InputError
from batchroute.progress import Progress

_SECONDS_BETWEEN_LOOKS = 0.5
# Results go to the storage, and only receipts through Ray.
_OBJECT_STORE_BYTES = 100 << 20
_ON_THIS_MACHINE = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
# Ray's own, read as it is imported. It would try for a quarter of an hour to reach a cluster that is not there.
_WITH_A_CLUSTER = {"RAY_NUM_REDIS_GET_RETRIES": "2", "RAY_py_gcs_connect_timeout_s": "5"}
# A cluster of one's own is on the loopback alone, as by default on systems where Ray has no others.
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# It tells its makers of its use, unless told not to, and prints what this engine says of dead workers in its own words.
_ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
_SECONDS_TO_ANSWER = 10.0


class RayEngine(LocalEngine):
    """Used by one thread, and a second one ahead of it. Connects to the cluster when there is something to do."""

    def __init__(self, progress: Progress, spec: RaySpec) -> None:
        """Raises:
        InputError: Ray is not installed.
        """
        super().__init__(progress)
        if importlib.util.find_spec("ray") is None:
            raise InputError("--engine ray needs a package: pip install 'batchroute[ray]'")
        self._spec = spec
        self._ray: Any = None
        self._is_own = False
        self._placed = threading.Event()
        self._connecting = threading.Lock()

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()

    @contextmanager
    def workers(
        self, run: Any, make_worker: Callable[[Any], Worker], pool: Pool | None, threads: int = 1, gpus: int | None = 1
    ) -> Iterator[Workers]:
        spec = self._pool(pool)
        if spec is None:
            self._placed.set()
            with super().workers(run, make_worker, pool, threads, gpus) as workers:
                yield workers
            return

        def capacity() -> Capacity:
            return Capacity(self._connected(), str(pool), spec, gpus, can_grow=not self._is_own)

        ray_crew = RayWorkers(self, capacity, run, make_worker, self._placed.set)
        try:
            yield ray_crew
        finally:
            ray_crew.close()

    @contextmanager
    def overlapped(self, do: Callable[[], object]) -> Iterator[None]:
        """In a thread. Its workers look for room in the cluster when those of the stage before have found theirs."""
        errors: list[BaseException] = []
        self._placed.clear()
        # Here, since a cluster of its own ends with the thread that started it.
        self._connected()

        def work() -> None:
            try:
                while not self._placed.wait(_SECONDS_BETWEEN_LOOKS):
                    self.check()
                do()
            except BaseException as error:
                errors.append(error)
                # The stage in hand ends too.
                self.stopped_by = self.stopped_by or error

        thread = threading.Thread(target=work, name="ahead")
        thread.start()
        try:
            yield
            self._placed.set()
        except BaseException as error:
            self.stopped_by = error
            raise
        finally:
            while thread.is_alive():
                # Not for ever at once, so that a signal is not left waiting.
                thread.join(_SECONDS_BETWEEN_LOOKS)
        if errors:
            raise errors[0]

    def _pool(self, pool: Pool | None) -> PoolSpec | None:
        """None for what this process does itself."""
        pools = {"router": self._spec.router, "small": self._spec.small, "large": self._spec.large}
        return None if pool is None else pools.get(pool)

    def _connected(self) -> Any:
        """The module `ray`, connected to the cluster that the job names, or to a new one on this machine.

        Raises:
            InputError: there is no cluster at this address.
        """
        with self._connecting:
            if self._ray is None:
                self._ray = self._connect(self._spec.address or os.environ.get("RAY_ADDRESS"))
        return self._ray

    def _connect(self, address: str | None) -> Any:
        settings = _ALWAYS | (_WITH_A_CLUSTER if address else _of_its_own())
        for name, value in settings.items():
            os.environ.setdefault(name, value)
        ray = importlib.import_module("ray")
        # Its warnings speak of its settings, and not of what a job does.
        logging.getLogger("ray").setLevel(logging.ERROR)
        options = {} if address else _ON_THIS_MACHINE
        try:
            if address:
                _knock(address)
            with _our_handlers():
                # Without an address it would take whatever cluster was started here last.
                ray.init(
                    address or "local",
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    configure_logging=False,
                    **options,
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise InputError(_not_there(address, error)) from error
        self._is_own = not address
        machines = sum(node["Alive"] for node in ray.nodes())
        total = ray.cluster_resources()
        self.progress.note(
            "ray",
            f"Ray: {machines:,} {'machine' if machines == 1 else 'machines'} with {total.get('CPU', 0):g} CPUs and "
            f"{total.get('GPU', 0):g} GPUs",
            machines=machines,
        )
        return ray


def _of_its_own() -> dict[str, str]:
    """Settings of a new cluster: no other machine reaches it, and nothing is written to the home directory."""
    return _ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(16)}


def _knock(address: str) -> None:
    """Raises:
    OSError: nobody listens at this address. Ray would take half a minute to find out, and write much on the console.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()


def _not_there(address: str | None, error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error).strip().splitlines()[0].rstrip(".")
    if address is None:
        return f"no Ray cluster can be started on this machine: {words}"
    return (
        f"no Ray cluster at {address}: {words}; mend ray.address or RAY_ADDRESS, or unset them to start one on this "
        "machine"
    )


@contextmanager
def _our_handlers() -> Iterator[None]:
    """Ray sets one for SIGTERM as it starts, where that can be set."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
