"""Capacity: what a worker of a pool needs, and how many such workers a Ray cluster holds."""

from __future__ import annotations

import math
from typing import Any

from batchroute.engines.ray.pools import PoolSpec
from batchroute.errors import InputError


class Capacity:
    """The capacity of a cluster for one pool.

    Attributes:
        ray: the module `ray`, connected to the cluster.
        needs: resources of each worker, as Ray's actor options.
    """

    def __init__(self, ray: Any, pool: str, spec: PoolSpec, gpus: int | None, can_grow: bool) -> None:
        """
        Args:
            gpus: GPUs that a copy of the model is spread over; None: all GPUs of its machine.
            can_grow: whether the cluster may add machines; otherwise a worker must fit on one that exists.

        Raises:
            InputError: no machine is large enough for a worker, and the cluster cannot grow.
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
        if not can_grow and not self._slots():
            raise InputError(
                f"{self.describe()}; lower what ray.{pool} asks for, or name a cluster that has it in ray.address"
            )

    def workers(self) -> int:
        """The most workers that the pool may have now; at least one, since a cluster may grow for it."""
        return self.spec.max or max(1, self._slots())

    def describe(self) -> str:
        """What a worker needs and what the cluster has, as a clause."""
        total, free = self.ray.cluster_resources(), self.ray.available_resources()
        needs = f"a worker of {self._pool} needs {self._describe_needs()}"
        cluster = _describe(total.get("CPU", 0), total.get("GPU", 0), _kinds(total))
        if not self._slots():
            return f"{needs}, which no machine of the cluster has: it has {cluster} in all"
        return (
            f"{needs}; the cluster has {cluster}, of which {_describe(free.get('CPU', 0), free.get('GPU', 0))} are free"
        )

    def _describe_needs(self) -> str:
        return _describe(self.needs["num_cpus"], self.needs["num_gpus"], self.needs.get("accelerator_type", ""))

    def _slots(self) -> int:
        """How many workers fit on the machines that the cluster has now."""
        wanted = {"CPU": self.needs["num_cpus"], "GPU": self.needs["num_gpus"]}
        if self.spec.accelerator_type is not None:
            wanted[_KIND + self.spec.accelerator_type] = 0.001
        needed = {name: need for name, need in wanted.items() if need}
        machines = self._machines()
        # Any number of workers that need nothing would fit: allow one per CPU.
        needed = needed or {"CPU": 1}
        return sum(
            min(math.floor(machine.get(name, 0) / need) for name, need in needed.items()) for machine in machines
        )

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]


_KIND = "accelerator_type:"


def _kinds(resources: dict[str, float]) -> str:
    return ", ".join(sorted(name.removeprefix(_KIND) for name in resources if name.startswith(_KIND)))


def _describe(cpus: float, gpus: float, kind: str = "") -> str:
    """`2 CPUs and 0 GPUs`, `1 CPU and 4 GPUs (H100)`."""
    named = f" ({kind})" if kind else ""
    return f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'} and {gpus:g} {'GPU' if gpus == 1 else 'GPUs'}{named}"
