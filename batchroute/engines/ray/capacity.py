"""Room: what a worker of a pool needs of a machine, and how many of them a Ray cluster has room for."""

from __future__ import annotations

import math
from typing import Any

from batchroute.engines.ray.pools import PoolSpec
from batchroute.errors import InputError


class Capacity:
    """Of one pool.

    Attributes:
        ray: the module, connected to the cluster.
        needs: of each worker, as Ray's options.
    """

    def __init__(self, ray: Any, pool: str, spec: PoolSpec, gpus: int | None, can_grow: bool) -> None:
        """
        Args:
            gpus: what a model is spread over; None for all of its machine.
            can_grow: the cluster, for all that is known; otherwise a worker must fit one of its machines.

        Raises:
            InputError: no machine is large enough, and none will be.
        """
        self.ray, self.spec = ray, spec
        self._pool = pool
        most = max((machine.get("GPU", 0.0) for machine in self._machines()), default=0.0)
        num_gpus = spec.num_gpus
        if num_gpus is None:
            num_gpus = most if gpus is None else min(float(gpus), most) if most else 0.0
        self.needs: dict[str, Any] = {"num_cpus": spec.num_cpus, "num_gpus": num_gpus}
        if spec.accelerator_type is not None:
            self.needs["accelerator_type"] = spec.accelerator_type
        if not can_grow and not self._places():
            raise InputError(
                f"{self.words()}; lower what ray.{pool} asks for, or name a cluster that has it in ray.address"
            )

    def workers(self) -> int:
        """How many the pool may have at this moment; at least one, for whom a cluster that can grow makes room."""
        return self.spec.max or max(1, self._places())

    def words(self) -> str:
        """What a worker needs, and what there is."""
        total, free = self.ray.cluster_resources(), self.ray.available_resources()
        asks = f"a worker of {self._pool} needs {self._wanted()}"
        here = _words(total.get("CPU", 0), total.get("GPU", 0), _kinds(total))
        if not self._places():
            return f"{asks}, which no machine of the cluster has: it has {here} in all"
        return f"{asks}; the cluster has {here}, of which {_words(free.get('CPU', 0), free.get('GPU', 0))} are free"

    def _wanted(self) -> str:
        return _words(self.needs["num_cpus"], self.needs["num_gpus"], self.needs.get("accelerator_type", ""))

    def _places(self) -> int:
        """Workers that the machines of the cluster, as it is, have room for."""
        wanted = {"CPU": self.needs["num_cpus"], "GPU": self.needs["num_gpus"]}
        if self.spec.accelerator_type is not None:
            wanted[_KIND + self.spec.accelerator_type] = 0.001
        needed = {name: need for name, need in wanted.items() if need}
        machines = self._machines()
        # Of what needs nothing there is room for any number: a worker for each CPU will do.
        needed = needed or {"CPU": 1}
        return sum(
            min(math.floor(machine.get(name, 0) / need) for name, need in needed.items()) for machine in machines
        )

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]


_KIND = "accelerator_type:"


def _kinds(resources: dict[str, float]) -> str:
    return ", ".join(sorted(name.removeprefix(_KIND) for name in resources if name.startswith(_KIND)))


def _words(cpus: float, gpus: float, kind: str = "") -> str:
    """`2 CPUs and 0 GPUs`, `1 CPU and 4 GPUs (H100)`."""
    named = f" ({kind})" if kind else ""
    return f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'} and {gpus:g} {'GPU' if gpus == 1 else 'GPUs'}{named}"
