"""The Ray engine: workers on a Ray cluster, in one pool for the router and one for each model.

This process, the driver, assigns units to workers and shows progress. It does itself what one process must do:
partition, requests to endpoints, merge, commit. When a worker or a machine dies, another worker does its unit. When the
driver dies, its workers end too, and the next attempt resumes from the receipts.
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

_POLL_SECONDS = 0.5
# Workers write results to the storage; only receipts pass through Ray.
_OBJECT_STORE_BYTES = 100 << 20
_ON_THIS_MACHINE = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
# Ray reads these when it is imported. Without them it tries to reach an absent cluster for a quarter of an hour.
_FOR_A_CLUSTER = {"RAY_NUM_REDIS_GET_RETRIES": "2", "RAY_py_gcs_connect_timeout_s": "5"}
# Keeps a cluster that the driver starts on the loopback interface.
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# No usage statistics to Ray's makers; no messages of Ray about dead workers, which the driver reports itself.
_ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
_SECONDS_TO_ANSWER = 10.0


class RayEngine(LocalEngine):
    """Two threads may use it: one for the current stage, one for the overlapped stage. Connects at the first unit."""

    def __init__(self, progress: Progress, spec: RaySpec, own_process: bool = True) -> None:
        """Raises:
        InputError: Ray is not installed.
        """
        super().__init__(progress, own_process=own_process, one_of_many=True)
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

        ray_workers = RayWorkers(self, capacity, run, make_worker, self._placed.set)
        try:
            yield ray_workers
        finally:
            ray_workers.close()

    @contextmanager
    def overlapped(self, do: Callable[[], object]) -> Iterator[None]:
        """Runs `do` in a thread, which starts once the workers of the current stage have been placed on machines."""
        errors: list[BaseException] = []
        self._placed.clear()
        # This thread connects, because a cluster that the driver starts ends with the thread that started it.
        self._connected()

        def work() -> None:
            try:
                while not self._placed.wait(_POLL_SECONDS):
                    self.check()
                do()
            except BaseException as error:
                errors.append(error)
                # Ends the current stage too.
                self.stopped_by = self.stopped_by or error

        thread = threading.Thread(target=work, name="overlapped")
        thread.start()
        try:
            yield
            self._placed.set()
        except BaseException as error:
            self.stopped_by = error
            raise
        finally:
            while thread.is_alive():
                # Short waits: Python handles a signal only between them.
                thread.join(_POLL_SECONDS)
        if errors:
            raise errors[0]

    def _pool(self, pool: Pool | None) -> PoolSpec | None:
        """None: the driver does the units itself."""
        pools = {"router": self._spec.router, "small": self._spec.small, "large": self._spec.large}
        return None if pool is None else pools.get(pool)

    def _connected(self) -> Any:
        """The module `ray`, connected to the cluster that the job names, or to a new one on this machine.

        Raises:
            InputError: no cluster answers at the address, or none can be started.
        """
        with self._connecting:
            if self._ray is None:
                self._ray = self._connect(self._spec.address or os.environ.get("RAY_ADDRESS"))
        return self._ray

    def _connect(self, address: str | None) -> Any:
        settings = _ALWAYS | (_FOR_A_CLUSTER if address else _own_cluster_settings())
        for name, value in settings.items():
            os.environ.setdefault(name, value)
        ray = importlib.import_module("ray")
        # Ray's warnings are about its settings, not about the job.
        logging.getLogger("ray").setLevel(logging.ERROR)
        options = {} if address else _ON_THIS_MACHINE
        try:
            if address:
                _check_reachable(address)
            with _sigterm_handler_kept():
                # Without an address Ray would join the cluster that was last started on this machine.
                ray.init(
                    address or "local",
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    configure_logging=False,
                    **options,
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise InputError(_unreachable(address, error)) from error
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


def _own_cluster_settings() -> dict[str, str]:
    """Environment of a new cluster: no other machine can reach it, and Ray writes no token to the home directory."""
    return _ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(16)}


def _check_reachable(address: str) -> None:
    """Raises:
    OSError: nothing listens at this address. Ray would find out after half a minute, with many lines on the console.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()


def _unreachable(address: str | None, error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error).strip().splitlines()[0].rstrip(".")
    if address is None:
        return f"no Ray cluster can be started on this machine: {words}"
    return (
        f"no Ray cluster at {address}: {words}; fix ray.address or RAY_ADDRESS, or unset them to start one on this "
        "machine"
    )


@contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Restores the handler of SIGTERM, which Ray replaces when it starts in the main thread."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
