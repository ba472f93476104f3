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
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from batchroute.engines.base import Crew, Pool, Worker
from batchroute.engines.local import LocalEngine
from batchroute.engines.pools import PoolSpec, RaySpec
from batchroute.engines.ray_crew import RayCrew
from batchroute.errors import InputError
from batchroute.progress import Progress

_SECONDS_BETWEEN_LOOKS = 0.5
# Results go to the storage, and only receipts through Ray.
_OBJECT_STORE_BYTES = 100 << 20
_ON_THIS_MACHINE = {
    "include_dashboard": False,
    "object_store_memory": _OBJECT_STORE_BYTES,
    "_node_ip_address": "127.0.0.1",
}


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
        self._connecting = threading.Lock()

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()

    @contextmanager
    def crew(
        self, run: Any, recruit: Callable[[Any], Worker], pool: Pool | None, threads: int = 1, gpus: int | None = 1
    ) -> Iterator[Crew]:
        spec = self._pool(pool)
        if spec is None:
            with super().crew(run, recruit, pool, threads, gpus) as crew:
                yield crew
            return
        ray_crew = RayCrew(self, self._connected, run, recruit, spec, gpus)
        try:
            yield ray_crew
        finally:
            ray_crew.close()

    @contextmanager
    def ahead(self, do: Callable[[], object]) -> Iterator[None]:
        """In a thread; its workers wait for room in the cluster while those of the stage before have it all."""
        errors: list[BaseException] = []

        def work() -> None:
            try:
                do()
            except BaseException as error:
                errors.append(error)
                # The stage in hand ends too.
                self.stopped_by = self.stopped_by or error

        thread = threading.Thread(target=work, name="ahead")
        thread.start()
        try:
            yield
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
        # Before it is imported: it tells its makers of its use, unless told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = importlib.import_module("ray")
        # Its warnings speak of its settings, and not of what a job does.
        logging.getLogger("ray").setLevel(logging.ERROR)
        options = {} if address else _ON_THIS_MACHINE
        try:
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            words = str(error).strip().splitlines()[0]
            raise InputError(
                f"no Ray cluster at {address or 'this machine'}: {words}; mend ray.address or RAY_ADDRESS, or unset "
                "them to start one on this machine"
            ) from error
        machines = sum(node["Alive"] for node in ray.nodes())
        total = ray.cluster_resources()
        self.progress.note(
            "ray",
            f"Ray: {machines:,} {'machine' if machines == 1 else 'machines'} with {total.get('CPU', 0):g} CPUs and "
            f"{total.get('GPU', 0):g} GPUs",
            machines=machines,
        )
        return ray
